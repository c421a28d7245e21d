"""Files in a folder: the key is the path, so that any viewer can open the pictures.

A file is written to `.incoming`, forced to disk, renamed into its place, and its folder forced to
disk; it exists from the rename on. A media type that does not follow from the name is in a hidden
sidecar file. The sidecar's name has the stamp (time of modification and size) of its file, so that
a replaced file never gets the type of an earlier one.
"""

import asyncio
import contextlib
import errno
import filecmp
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from swell.clock import Clock
from swell.errors import Conflict, InvalidRequest, NotFound, Unavailable
from swell.object_stores.signing import Secret, SignsUrls
from swell.objects import Direct, ObjectInfo, check_key

_CHUNK_BYTES: Final = 256 * 1024

#: File systems allow 255; the hidden file's name is longer than the file's own.
_PART_BYTES: Final = 200

_FALLBACK_TYPE: Final = "application/octet-stream"

#: Media types by file name. A fixed table, since the system's differs between machines.
_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
    "gif": "image/gif",
    "json": "application/json",
    "txt": "text/plain",
    "mp4": "video/mp4",
    "webm": "video/webm",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "bin": _FALLBACK_TYPE,
}

#: Errors of the operating system that an operator can resolve, such as a full disk.
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED: Final = {errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}

#: How often a file is moved to a folder that deletions of its other files keep removing.
_MAX_TRIES: Final = 100

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file goes."""

    key: str
    path: Path
    content_type: str
    #: Whether a file that is there gives way.
    may_replace: bool


class FolderObjects(SignsUrls):
    """Keeps files below one folder, which only Swell writes to.

    Args:
        root: The folder; made when first needed.
        clock: Dates files and ends signed URLs.
        secret: Signs URLs.
    """

    is_here: Final = True

    def __init__(self, root: Path, clock: Clock, secret: Secret) -> None:
        self._root = root
        super().__init__(clock, secret)
        # Looking whether a file is there and moving one there is one step for `put_new`.
        self._moving = threading.Lock()
        #: Whether the disk refused the last file that came.
        self._was_refused = False

    async def put(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file and replace an earlier one.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
            Conflict: A part of the key is a file already, or the whole is a folder.
            Unavailable: The disk is full, or cannot be written.
        """
        return await self._store(data, _Place(key, self._path(key), content_type, may_replace=True))

    async def put_new(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        """Store a file where there is none, and never replace one.

        Raises:
            InvalidRequest: The key is not a relative path of plain parts.
            Conflict: The key holds other bytes; or as for `put`.
            Unavailable: The disk is full, or cannot be written.
        """
        place = _Place(key, self._path(key), content_type, may_replace=False)
        return await self._store(data, place)

    async def _store(self, data: bytes | AsyncIterator[bytes], place: "_Place") -> ObjectInfo:
        try:
            if isinstance(data, bytes):
                info = await _in_thread(self._write, data, place)
            else:
                info = await self._write_stream(data, place)
        except Unavailable:
            self._was_refused = True
            raise
        self._was_refused = False
        return info

    async def _write_stream(self, data: AsyncIterator[bytes], place: "_Place") -> ObjectInfo:
        temporary, file = await _in_thread(self._open_incoming)
        try:
            async for chunk in data:
                await _in_thread(file.write, chunk)
            return await _in_thread(self._keep, temporary, file, place)
        finally:
            await _in_thread(_discard, temporary, file)

    async def head(self, key: str) -> ObjectInfo:
        """Return size, type and times of a file.

        Raises:
            NotFound: No file has this key.
        """
        path = self._path(key)
        return await _in_thread(_info, path, key)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, end) of a file.

        Raises:
            NotFound: No file has this key.
        """
        file = await _in_thread(_open, self._path(key), key, start)
        left = None if end is None else end - start
        try:
            while left is None or left > 0:
                wanted = _CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)
                chunk = await _in_thread(file.read, wanted)
                if not chunk:
                    return
                left = None if left is None else left - len(chunk)
                yield chunk
        finally:
            file.close()

    async def delete(self, keys: list[str]) -> None:
        """Remove files; keys that hold nothing are ignored."""
        paths = [self._path(key) for key in keys]
        await _in_thread(self._delete, paths)

    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        return await _in_thread(self._under, self._path(folder), limit)

    def _under(self, folder: Path, limit: int) -> list[str]:
        found: list[str] = []
        for place, _, names in os.walk(folder):
            here = Path(place).relative_to(self._root)
            # Hidden files are ours.
            found += [(here / name).as_posix() for name in names if not name.startswith(".")]
            if len(found) >= limit:
                break
        return found[:limit]

    async def check_writable(self) -> None:
        """Store something, for a moment, if the last `put` was refused.

        Raises:
            Unavailable: It is refused again; the text says why.
        """
        if self._was_refused:
            await self.prove_writable()

    async def prove_writable(self) -> None:
        """Store something, for a moment.

        Raises:
            Unavailable: It is refused; the text says why.
        """
        try:
            await _in_thread(self._prove_writable)
        except Unavailable:
            self._was_refused = True
            raise
        self._was_refused = False

    def _prove_writable(self) -> None:
        with contextlib.ExitStack() as stack:
            # A new file takes up to four inodes: its own, its type's and two folders.
            for _ in range(4):
                temporary, file = self._open_incoming()
                stack.callback(_discard, temporary, file)
                file.write(bytes(_CHUNK_BYTES))
                file.flush()
                os.fsync(file.fileno())

    async def direct(self, method: str, key: str, expires_s: float) -> Direct | None:
        """See `Objects.direct`. The backend itself keeps the files."""
        return None

    async def clear_incoming(self, *, older_s: float = 0.0) -> None:
        """Remove what a crash left half written.

        Args:
            older_s: Least age of a file since its last write, in seconds: other backends may write
                to the same folder.
        """
        before = self._clock.now().timestamp() - older_s if older_s else float("inf")
        await _in_thread(_clear_incoming, self._root, before)

    def _path(self, key: str) -> Path:
        check_key(key)
        if any(len(part.encode()) > _PART_BYTES for part in key.split("/")):
            raise InvalidRequest(f"a part of {key[:80]!r} is longer than {_PART_BYTES} bytes")
        return self._root / key

    def _write(self, data: bytes, place: "_Place") -> ObjectInfo:
        temporary, file = self._open_incoming()
        try:
            file.write(data)
            return self._keep(temporary, file, place)
        finally:
            _discard(temporary, file)

    def _open_incoming(self) -> tuple[Path, BinaryIO]:
        incoming = self._root / ".incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        temporary = incoming / secrets.token_hex(12)
        return temporary, open(temporary, "xb")

    def _keep(self, temporary: Path, file: BinaryIO, place: "_Place") -> ObjectInfo:
        """Force a written file to disk and move it to its place."""
        file.flush()
        try:
            for _ in range(_MAX_TRIES - 1):
                with contextlib.suppress(FileNotFoundError):
                    return self._keep_once(temporary, file, place)
            return self._keep_once(temporary, file, place)
        except BaseException:
            self._prune(place.path.parent)
            raise

    def _keep_once(self, temporary: Path, file: BinaryIO, place: "_Place") -> ObjectInfo:
        """Move a written file to its place.

        Raises:
            FileNotFoundError: Its folder was deleted with the folder's last file.
        """
        key, path, content_type = place.key, place.path, place.content_type
        self._make_folder(path.parent, key)
        sidecar_type = None if content_type == _type_of_name(path.name) else content_type
        stat = self._stamped(file, path, sidecar_type)
        with contextlib.ExitStack() as undo:
            if sidecar_type is not None:
                undo.callback(_sidecar(path, stat).unlink, missing_ok=True)
            os.fsync(file.fileno())
            if self._move(temporary, place):
                undo.pop_all()
                return _describe(path, key, stat)
        # A process may have died between the rename and this line.
        _sync_folder(path.parent)
        return _known_again(temporary, place)

    def _stamped(self, file: BinaryIO, path: Path, sidecar_type: str | None) -> os.stat_result:
        """Give a written file a unique time of modification, and write its sidecar if given.

        Random low bits tell files of one size apart that are written in the same tick. Where two
        draw the same, the later draws again, or it would take the other's etag and type.
        """
        while True:
            tick_ns = int(self._clock.now().timestamp() * 1_000_000) * 1_000
            stamp_ns = tick_ns + secrets.randbelow(1_000)
            os.utime(file.fileno(), ns=(stamp_ns, stamp_ns))
            stat = os.fstat(file.fileno())
            if _stamp_there(path) == _stamp(stat):
                continue
            if sidecar_type is None:
                return stat
            with contextlib.suppress(FileExistsError):
                _write_durably(_sidecar(path, stat), sidecar_type.encode())
                return stat

    def _move(self, temporary: Path, place: "_Place") -> bool:
        """Move a written file to its place, unless there is one that must stay."""
        path = place.path
        try:
            with self._moving:
                if not place.may_replace and path.is_file():
                    return False
                old = _existing_sidecar(path)
                temporary.replace(path)
        except IsADirectoryError as error:
            raise Conflict(
                f"{place.key!r} is a folder of other files; choose another key"
            ) from error
        _sync_folder(path.parent)
        if old is not None:
            old.unlink(missing_ok=True)
        return True

    def _make_folder(self, folder: Path, key: str) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for each in reversed(missing):
            try:
                each.mkdir(exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise Conflict(f"a part of {key!r} is a file already; choose another") from error
            _sync_folder(each.parent)

    def _delete(self, paths: list[Path]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                old = _existing_sidecar(path)
                path.unlink()
                if old is not None:
                    old.unlink(missing_ok=True)
                _sync_folder(path.parent)
            self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove a folder if it is empty, then its parents, up to the root."""
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                # It holds something.
                return
            folder = folder.parent


def _clear_incoming(root: Path, before: float) -> None:
    incoming = root / ".incoming"
    if incoming.is_dir():
        for path in incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime <= before:
                    path.unlink()


def _known_again(written: Path, place: _Place) -> ObjectInfo:
    """Return the metadata of the existing file, which must equal the file written again."""
    if not filecmp.cmp(written, place.path, shallow=False):
        raise Conflict(f"{place.key[:120]!r} holds another file, which stays as it is")
    return _info(place.path, place.key)


async def _in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    """Run blocking file work in a thread, and name what the operating system may refuse."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable("the disk of the object store is full: free some space") from error
        if error.errno in _REFUSED:
            raise Unavailable(f"the disk of the object store refuses: {error.strerror}") from error
        raise


def _open(path: Path, key: str, start: int) -> BinaryIO:
    try:
        file = open(path, "rb")  # noqa: SIM115 - the caller closes it
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _not_found(key) from error
    file.seek(start)
    return file


def _info(path: Path, key: str) -> ObjectInfo:
    with _open(path, key, 0) as file:
        return _describe(path, key, os.fstat(file.fileno()))


def _describe(path: Path, key: str, stat: os.stat_result) -> ObjectInfo:
    try:
        content_type = _sidecar(path, stat).read_text()
    except FileNotFoundError:
        content_type = _type_of_name(path.name)
    return ObjectInfo(
        key=key,
        bytes=stat.st_size,
        content_type=content_type,
        etag=_stamp(stat),
        modified_at=datetime.fromtimestamp(stat.st_mtime, UTC),
    )


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _stamp_there(path: Path) -> str | None:
    """Return the stamp of the file that is at a path now; None where there is none."""
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _sidecar(path: Path, stat: os.stat_result) -> Path:
    # Keys have no hidden parts, so no key can name it.
    return path.parent / f".{path.name}.{_stamp(stat)}"


def _existing_sidecar(path: Path) -> Path | None:
    """Return the sidecar of the file that is there now, so that it can go with it."""
    try:
        sidecar = _sidecar(path, path.stat())
    except OSError:
        return None
    return sidecar if sidecar.exists() else None


def _type_of_name(name: str) -> str:
    return _TYPES.get(name.rpartition(".")[2].lower(), _FALLBACK_TYPE)


def _write_durably(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        # Another process deleted its last file.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(temporary: Path, file: BinaryIO) -> None:
    # What a full disk did not take is refused once more here; the file must go all the same.
    with contextlib.suppress(OSError):
        file.close()
    temporary.unlink(missing_ok=True)


def _not_found(key: str) -> NotFound:
    return NotFound(f"there is no file {key[:120]!r}: it may have been deleted")
