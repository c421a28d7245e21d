"""Files in a folder: the key is the path, so any viewer can open the pictures.

A file is written to `.incoming`, synced to disk, renamed into its place, and its folder is synced;
it exists from the rename on. A media type that does not follow from the name is in a hidden sidecar
file. The sidecar's name has the stamp (time of modification and size) of its file, so a replaced
file never gets the type of an earlier one.
"""

import asyncio
import contextlib
import errno
import filecmp
import os
import secrets
import shutil
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from swell.core.clock import Clock
from swell.core.errors import Conflict, InvalidRequest, Unavailable
from swell.objects.object_store import Data, ObjectInfo, Objects, Secret, check_key, no_file

_CHUNK_BYTES: Final = 256 * 1024

#: The longest part of a key. File systems allow 255, and a sidecar has a longer name.
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

#: The most attempts to move a file to a folder that concurrent deletions remove.
_MAX_TRIES: Final = 100

_T = TypeVar("_T")


class FolderObjects(Objects):
    """Keeps files below one folder, which only Swell writes to.

    Args:
        root: The folder; made when first needed.
        clock: Dates files and ends signed URLs.
        secret: Signs URLs.
    """

    is_here = True

    def __init__(self, root: Path, clock: Clock, secret: Secret) -> None:
        super().__init__(clock, secret)
        self._root = root
        #: Makes `put_new` atomic within this process.
        self._moving = threading.Lock()

    async def _store(
        self, key: str, data: Data, content_type: str, *, may_replace: bool
    ) -> ObjectInfo:
        self._path(key)
        opening = asyncio.create_task(_in_thread(self._open_incoming))
        try:
            temporary, file = await asyncio.shield(opening)
            if isinstance(data, bytes):
                await _in_thread(file.write, data)
            else:
                async for chunk in data:
                    await _in_thread(file.write, chunk)
            return await _in_thread(self._keep, temporary, file, key, content_type, may_replace)
        finally:
            # A thread that opens the file does so even if this is cancelled.
            await asyncio.shield(_discard(opening))

    async def head(self, key: str) -> ObjectInfo:
        return await _in_thread(_info, self._path(key), key)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        file = await _in_thread(_open, self._path(key), key)
        with file:
            file.seek(start)
            while end is None or start < end:
                wanted = _CHUNK_BYTES if end is None else min(end - start, _CHUNK_BYTES)
                chunk = await _in_thread(file.read, wanted)
                if not chunk:
                    return
                start += len(chunk)
                yield chunk

    async def delete(self, keys: list[str]) -> None:
        await _in_thread(self._delete, list(map(self._path, keys)))

    def _delete(self, paths: list[Path]) -> None:
        for path in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                sidecar = _sidecar(path, path.stat())
                path.unlink()
                sidecar.unlink(missing_ok=True)
                _sync_folder(path.parent)
            self._prune(path.parent)

    async def under(self, folder: str, *, limit: int = 1000) -> list[str]:
        return await _in_thread(self._under, self._path(folder), limit)

    def _under(self, folder: Path, limit: int) -> list[str]:
        found: list[str] = []
        for place, _, names in os.walk(folder):
            here = Path(place).relative_to(self._root)
            # Hidden files are sidecars.
            found += [(here / name).as_posix() for name in names if not name.startswith(".")]
            if len(found) >= limit:
                break
        return found[:limit]

    async def clear_incoming(self, *, older_s: float = 0.0) -> None:
        """Remove files that a crash left half written.

        Args:
            older_s: Least age of a file since its last write, in seconds: other backends may write
                to the same folder.
        """
        before = self._clock.now().timestamp() - older_s if older_s else float("inf")
        await _in_thread(_clear_folder, self._root / ".incoming", before)

    def _path(self, key: str) -> Path:
        check_key(key)
        if any(len(part.encode()) > _PART_BYTES for part in key.split("/")):
            raise InvalidRequest(f"a part of {key[:80]!r} is longer than {_PART_BYTES} bytes")
        return self._root / key

    def _open_incoming(self) -> tuple[Path, BinaryIO]:
        incoming = self._root / ".incoming"
        incoming.mkdir(parents=True, exist_ok=True)
        temporary = incoming / secrets.token_hex(12)
        return temporary, open(temporary, "xb")

    def _keep(
        self, temporary: Path, file: BinaryIO, key: str, content_type: str, may_replace: bool
    ) -> ObjectInfo:
        """Sync a written file to disk and move it to its place."""
        path = self._root / key
        file.flush()
        try:
            for _ in range(_MAX_TRIES - 1):
                # A concurrent deletion of the folder's last file removes the folder.
                with contextlib.suppress(FileNotFoundError):
                    return self._move(temporary, file, key, content_type, may_replace)
            return self._move(temporary, file, key, content_type, may_replace)
        finally:
            self._prune(path.parent)

    def _move(
        self, temporary: Path, file: BinaryIO, key: str, content_type: str, may_replace: bool
    ) -> ObjectInfo:
        path = self._root / key
        self._make_folder(path.parent, key)
        # Random low digits distinguish files of one size that are written in the same millisecond.
        tick_ns = int(self._clock.now().timestamp() * 1000) * 1_000_000
        stamp_ns = tick_ns + secrets.randbelow(1_000_000)
        os.utime(file.fileno(), ns=(stamp_ns, stamp_ns))
        stat = os.fstat(file.fileno())
        with contextlib.ExitStack() as undo:
            if content_type != _type_of_name(path.name):
                sidecar = _sidecar(path, stat)
                undo.callback(sidecar.unlink, missing_ok=True)
                with open(sidecar, "xb") as about:
                    about.write(content_type.encode())
                    about.flush()
                    os.fsync(about.fileno())
            os.fsync(file.fileno())
            with self._moving:
                old = _stat(path)
                if may_replace or not path.is_file():
                    try:
                        temporary.replace(path)
                    except IsADirectoryError as error:
                        raise Conflict(
                            f"{key!r} is a folder of other files; choose another key"
                        ) from error
                    undo.pop_all()
        _sync_folder(path.parent)
        if temporary.exists():
            if not filecmp.cmp(temporary, path, shallow=False):
                raise Conflict(f"{key[:120]!r} holds another file, which stays as it is")
            return _info(path, key)
        if old is not None:
            _sidecar(path, old).unlink(missing_ok=True)
        return _describe(path, key, stat)

    def _make_folder(self, folder: Path, key: str) -> None:
        if folder.is_dir():
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise Conflict(f"a part of {key!r} is a file already; choose another") from error
        for each in folder.relative_to(self._root).parents:
            _sync_folder(self._root / each)

    def _prune(self, folder: Path) -> None:
        """Remove a folder if it is empty, then its parents, up to the root."""
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:  # not empty
                return
            folder = folder.parent


class TemporaryObjects(FolderObjects):
    """Keeps files in a temporary folder, which is removed when the process ends."""

    def __init__(self, clock: Clock, secret: Secret) -> None:
        root = Path(tempfile.mkdtemp(prefix="swell-objects-"))
        super().__init__(root, clock, secret)
        weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)


def _clear_folder(folder: Path, before: float) -> None:
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime <= before:
                path.unlink()


async def _in_thread(work: Callable[..., _T], *arguments: object) -> _T:
    """Run blocking file work in a thread, and explain errors that an operator can resolve."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable("the disk of the object store is full: free some space") from error
        if error.errno in _REFUSED:
            raise Unavailable(f"the disk of the object store refuses: {error.strerror}") from error
        raise


def _open(path: Path, key: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise no_file(key) from error


def _info(path: Path, key: str) -> ObjectInfo:
    with _open(path, key) as file:
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


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _stamp(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns:x}-{stat.st_size:x}"


def _sidecar(path: Path, stat: os.stat_result) -> Path:
    # No key has a hidden part, so no key names a sidecar.
    return path.parent / f".{path.name}.{_stamp(stat)}"


def _type_of_name(name: str) -> str:
    return _TYPES.get(name.rpartition(".")[2].lower(), _FALLBACK_TYPE)


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # another process deleted its last file
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _discard(opening: asyncio.Task[tuple[Path, BinaryIO]]) -> None:
    await _in_thread(_close_and_remove, *(await opening))


def _close_and_remove(temporary: Path, file: BinaryIO) -> None:
    # On a full disk, closing fails too; the file must be removed anyway.
    with contextlib.suppress(OSError):
        file.close()
    temporary.unlink(missing_ok=True)
