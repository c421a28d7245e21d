"""Weights on the local disk, kept by the SHA-256 of their content.

    files/9f/9f86…           a file's content, read-only; its time of change tells its last use
    unsynced/9f86…           the boot ID of a content that may not be on the disk; after a reboot
                             the content counts as missing
    partial/9f86….part       what has come of a file so far; taken up again after a break
    listings/owner/name/version.json
    manifests/9f86….json    the files of a version that was pushed
    fetching                locked by workers while they download what their models need
    addresses/…             which content an address led to lately, under the address's SHA-256
    folders/owner/name/version/…   links, for libraries that want a folder
    locks/…

Any number of processes share a cache. A file appears under its digest by one rename, after its
content was hashed, and has reached the disk or is noted below `unsynced`. A process that fetches a
file holds its lock, so that no other one does. A process that uses a file holds a shared lock on it
(`flock`), which the operating system releases when the process ends; what is locked is never
evicted. What has come of a file counts as the rest does; of those that nobody fetches, the longest
unused go with the longest unused contents.
"""

import contextlib
import fcntl
import functools
import hashlib
import mmap
import os
import resource
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from swell.core.errors import InvalidRequest, NotFound, SwellError
from swell.weights.disk import CacheFull, CacheUnusable, disk_errors, sync_folder, write_whole
from swell.weights.formats import check_content
from swell.weights.weight_index import Entry, InvalidListing, Listing, check_digest

__all__ = [
    "CacheFull",
    "CacheUnusable",
    "DigestMismatch",
    "Evicted",
    "InUse",
    "NotCached",
    "Partial",
    "PullFailed",
    "WeightCache",
]

_CHUNK_BYTES: Final = 8 << 20

#: Left free on the disk: a full disk breaks more than a fetch.
_SPARE_BYTES: Final = 256 << 20

#: What has come of a file ends in this, and what tells of it beside it in these.
_PART: Final = ".part"
_BESIDE: Final = (".etag",)

#: Addresses that are remembered; each takes a block of the disk.
_MOST_ADDRESSES: Final = 4096


class DigestMismatch(InvalidRequest):
    """A file's content is not what its digest promises."""

    code, title = "digest_mismatch", "The content is not what was asked for"


class PullFailed(SwellError):
    """Weights could not be fetched; the text says which, from where, and what to do."""

    code, status, title, retryable = "pull_failed", 502, "The weights could not be fetched", True


class NotCached(NotFound):
    """The cache does not have it."""

    code, title = "not_cached", "Not in the cache of weights"


@dataclass(frozen=True, slots=True)
class Evicted:
    """What was removed to keep a budget.

    Args:
        digests: Contents that were removed, the longest unused first.
        freed_bytes: Their size, and that of what had come of others and nobody fetched.
        left_bytes: What the cache holds now.
        in_use: How many files stayed because somebody uses, fetches or needs them.
    """

    digests: tuple[str, ...]
    freed_bytes: int
    left_bytes: int
    in_use: int


@dataclass(frozen=True, slots=True, order=True)
class _Held:
    """A content, or what has come of one.

    Args:
        used_ns: When it was last used, in nanoseconds.
        size_bytes: What it takes.
        path: Where it lies.
    """

    used_ns: int
    size_bytes: int
    path: Path

    @property
    def is_content(self) -> bool:
        """Whether it is whole."""
        return self.path.suffix != _PART


class _Address(msgspec.Struct, frozen=True):
    """What an address led to, and when."""

    entry: Entry
    at: datetime


class InUse:
    """Files of a model that stay until `close`, or until this process ends.

    Args:
        paths: Where each file lies, by its name in the listing.
    """

    def __init__(self, paths: dict[str, Path], locks: Sequence[IO[bytes]]) -> None:
        self.paths = paths
        self._locks = list(locks)

    def close(self) -> None:
        """Let them go; memory that a file was mapped into stays valid."""
        while self._locks:
            self._locks.pop().close()

    def __enter__(self) -> "InUse":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Partial:
    """A file that is being written; of the one process that holds its lock.

    Args:
        path: Where it grows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash = hashlib.sha256()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            self._hash.update(chunk)
        self.size_bytes = self._file.tell()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append.

        Raises:
            CacheFull: The disk is full.
        """
        view = memoryview(data)
        while view:
            with disk_errors(self.path):
                written = self._file.write(view)
            self._hash.update(view[:written])
            self.size_bytes += written
            view = view[written:]

    def restart(self) -> None:
        """Forget what has come so far."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """Digest of what has come so far."""
        return self._hash.hexdigest()

    def sync(self, start: int, end: int) -> None:
        """Sync a part of the file to the disk. `flush` syncs all, which may take minutes.

        Source:
            msync(2): MS_SYNC writes the pages of the range, and waits for them.
        """
        try:
            mapped = mmap.mmap(self._file.fileno(), end - start, mmap.MAP_SHARED, offset=start)
        except (OSError, ValueError):
            return  # The file system maps nothing: `flush` does it all.
        with mapped, disk_errors(self.path):
            mapped.flush()

    def flush(self) -> None:
        """Have what has come reach the disk."""
        with disk_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Keep what has come for the next try."""
        self._file.close()


class WeightCache:
    """A folder of weights that processes share.

    Args:
        folder: Where; made on first use. On a local disk: locks of network disks are not relied on.
        budget_bytes: What all contents together may take; None for as much as the disk has.
        below: A cache that came with the machine's image: what it has is used from there, and never
            written to, evicted or counted.

    Guarantees:
        A path that was handed out while in use leads to exactly the content of its digest, unless
        somebody else than Swell writes there; `verify` tells.
    """

    def __init__(
        self, folder: Path, budget_bytes: int | None = None, below: Path | None = None
    ) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self._below = below

    # --- reading ---------------------------------------------------------------------------------

    def path(self, sha256: str) -> Path:
        """Return where the content of a digest lies, or would lie."""
        place = Path("files", sha256[:2], sha256)
        if self._below is not None and (self._below / place).is_file():
            return self._below / place
        return self.folder / place

    def has(self, entry: Entry) -> bool:
        """Return whether a content is there, by its name and size."""
        return self.entry(entry.sha256) == entry

    def manifest_paths(self, digest: str) -> list[Path]:
        """Return where the manifest of a digest may lie; it would be written to the first."""
        return [root / "manifests" / f"{digest}.json" for root in self._roots()]

    def listing(self, model: str, version: str) -> Listing:
        """Return which files a version has.

        Raises:
            NotCached: It was never pulled here.
        """
        path = self._listing_path(model, version)
        if self._below is not None and not path.exists():
            path = self._below / path.relative_to(self.folder)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Listing).check()
        except FileNotFoundError:
            raise NotCached(
                f"{model} at {version} is not in {self.folder}: run swell models pull"
            ) from None
        except msgspec.DecodeError as error:
            raise NotCached(f"{path} is damaged ({error}): pull {model} again") from None

    def listings(self) -> list[Listing]:
        """Return all that was pulled, in order of model and version."""
        found = {each.relative_to(root) for root in self._roots() for each in _listings(root)}
        return [self.listing(f"{p.parts[-3]}/{p.parts[-2]}", p.stem) for p in sorted(found)]

    def _roots(self) -> list[Path]:
        return [self.folder] if self._below is None else [self.folder, self._below]

    def versions(self, model: str) -> list[str]:
        """Return the versions of a model that were pulled, in order."""
        return sorted(
            {
                path.stem
                for root in self._roots()
                for path in (root / "listings" / model).glob("*.json")
            }
        )

    def entry(self, sha256: str) -> Entry | None:
        """Return the content of a digest, or None if it is not here."""
        try:
            found = Entry(sha256, self.path(sha256).stat().st_size)
        except FileNotFoundError:
            return None
        return None if self._is_doubtful(sha256) else found

    def missing(self, listing: Listing) -> list[str]:
        """Return the names whose content is not here, or not whole."""
        return [name for name, entry in listing.files.items() if not self.has(entry)]

    def use(self, listing: Listing) -> InUse:
        """Return the files of a model, held so that nothing evicts them; note that they were used.

        Raises:
            NotCached: One is missing.
            CacheUnusable: This process may not open so many files.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            # macOS allows fewer than it reports.
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        paths: dict[str, Path] = {}
        locks: list[IO[bytes]] = []
        try:
            for name, entry in listing.files.items():
                path, lock = self._hold(entry, f"{name} of {listing.model}")
                paths[name] = path
                locks.append(lock)
        except BaseException:
            for lock in locks:
                lock.close()
            raise
        return InUse(paths, locks)

    def touch(self, listing: Listing) -> None:
        """Note that the files of a model were used, with one of them open at a time.

        Raises:
            NotCached: One is missing.
        """
        for name, entry in listing.files.items():
            self._hold(entry, f"{name} of {listing.model}")[1].close()

    def _hold(self, entry: Entry, told: str) -> tuple[Path, IO[bytes]]:
        path = self.path(entry.sha256)
        try:
            with disk_errors(path):
                file = path.open("rb")
        except FileNotFoundError:
            raise NotCached(f"{told} is not in {self.folder}: pull it again") from None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            held = os.fstat(file.fileno())
            # It may have been evicted between the two lines above.
            is_whole = held.st_size == entry.size_bytes and not self._is_doubtful(entry.sha256)
            if held.st_nlink == 0 or not is_whole:
                raise NotCached(f"{told} is not whole in {self.folder}: pull it again")
            if self._below is None or not path.is_relative_to(self._below):
                # What cannot be written to cannot be evicted either.
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
        except BaseException:
            file.close()
            raise
        return path, file

    def link(self, listing: Listing) -> Path:
        """Return a folder in which a model's files have their own names, as links.

        For libraries that load a model from a folder. Links do not keep files from being evicted:
        call `use` as well.
        """
        target = self.folder / "folders" / listing.model / listing.version
        for name, entry in listing.files.items():
            link = target / name
            link.parent.mkdir(parents=True, exist_ok=True)
            # Of a link, `..` leads out of the folder that it really lies in.
            there, here = self.path(entry.sha256).resolve(), link.parent.resolve()
            content = Path(os.path.relpath(there, here))
            if link.is_symlink() and link.readlink() == content:
                continue
            fresh = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
            fresh.symlink_to(content)
            fresh.replace(link)
        return target

    def verify(self, listing: Listing) -> None:
        """Read every file and compare its digest; remove what is wrong.

        Raises:
            NotCached: A file is missing.
            DigestMismatch: A content has changed; it has been removed.
        """
        with self.use(listing) as held:
            for name, path in held.paths.items():
                wanted = listing.files[name].sha256
                found = _digest(path)
                if found != wanted:
                    path.unlink(missing_ok=True)
                    raise DigestMismatch(
                        f"{name} of {listing.model} has changed on the disk (it is {found[:12]}…, "
                        f"not {wanted[:12]}…) and was removed: pull it again, and check the disk"
                    )

    # --- writing ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, key: str, *, wait: bool = True) -> Iterator[None]:
        """Hold the lock of a file that is to be fetched.

        Args:
            key: Its digest, or that of its address where its digest is not known yet.
            wait: Whether to wait while somebody else has it.

        Raises:
            BlockingIOError: Somebody else has it, and `wait` is False.
            CacheFull, CacheUnusable: There can be no lock.
        """
        with _locked(self._lock_path(key), wait):
            yield

    def is_locked(self, key: str) -> bool:
        """Return whether a process holds the lock of a file."""
        return _is_locked(self._lock_path(key), fcntl.LOCK_SH)

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Announce downloads to models that wait for files, until this block or the process ends.

        The lock of a file is held only during its own download, and it may be the last of many.

        Raises:
            CacheUnusable: The folder cannot be written to.
        """
        path = self.folder / "fetching"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def is_fetching(self) -> bool:
        """Return whether a worker has announced downloads."""
        return _is_locked(self.folder / "fetching", fcntl.LOCK_EX)

    def _lock_path(self, key: str) -> Path:
        return self.folder / "locks" / check_digest(key, "key")

    def partial(self, key: str) -> Partial:
        """Return what has come of a file so far; call with its lock held."""
        return Partial(self.part_path(key))

    def part_path(self, key: str) -> Path:
        """Return where a file grows."""
        return self.folder / "partial" / f"{check_digest(key, 'key')}{_PART}"

    def keep(
        self, partial: Partial, name: str, sha256: str | None, *, is_synced: bool = True
    ) -> Entry:
        """Take a file that has come whole.

        Args:
            partial: What `partial` returned; closed afterwards, unless it is not synced.
            name: Its name, for its format.
            sha256: What its digest must be.
            is_synced: Whether to sync it to the disk first. Otherwise call `doubt` before its
                first byte, and `settle` once it is synced.

        Raises:
            DigestMismatch: It is something else; it has been removed.
            RefusedFormat, BrokenWeights: It is not what its name says; it has been removed.
            CacheFull: The disk is full.
        """
        entry = Entry(partial.sha256, partial.size_bytes)
        try:
            if sha256 is not None and entry.sha256 != sha256:
                raise DigestMismatch(
                    f"{name}: its content has the SHA-256 {entry.sha256}, and {sha256} was asked "
                    "for. Either it was changed where it comes from, or the digest is of another "
                    "file: check both, do not just copy the new digest"
                )
            if is_synced:
                partial.flush()
            check_content(name, partial.path)
        except SwellError as error:
            partial.close()
            if not isinstance(error, CacheFull):
                partial.path.unlink(missing_ok=True)
            raise
        if is_synced:
            partial.close()
        self.take(partial.path, entry)
        if is_synced:
            self.settle(entry.sha256)
        return entry

    def doubt(self, sha256: str) -> None:
        """Note that a content enters the cache before it is synced to the disk.

        Raises:
            CacheFull, CacheUnusable: It cannot be noted.
        """
        if self._is_doubtful(sha256):
            self.own_path(sha256).unlink(missing_ok=True)
        write_whole(self._doubt_path(sha256), _boot_id())

    def settle(self, sha256: str) -> None:
        """Note that a content is synced to the disk."""
        self._doubt_path(sha256).unlink(missing_ok=True)

    def _is_doubtful(self, sha256: str) -> bool:
        """Whether the machine rebooted before a content was synced to the disk."""
        try:
            return self._doubt_path(sha256).read_bytes() != _boot_id()
        except OSError:
            return False

    def _doubt_path(self, sha256: str) -> Path:
        return self.folder / "unsynced" / check_digest(sha256, "digest")

    def take(self, path: Path, entry: Entry) -> None:
        """Move a file here whose content was compared with its digest, and is on the disk.

        Where that content is here already, what came is removed: who uses it holds what is here.
        """
        with contextlib.suppress(NotCached):
            self._hold(entry, path.name)[1].close()
            with disk_errors(path):
                path.unlink()
            return
        target = self.own_path(entry.sha256)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o444)
            path.replace(target)
            sync_folder(target.parent)

    def add(self, path: Path, name: str, sha256: str | None = None) -> Entry:
        """Copy a local file into the cache.

        Raises:
            DigestMismatch, RefusedFormat, BrokenWeights, CacheFull: As `keep`.
        """
        size = path.stat().st_size
        key = sha256 or hashlib.sha256(str(path.resolve()).encode()).hexdigest()
        with self.locked(key):
            if sha256 is not None and self.has(Entry(sha256, size)):
                return Entry(sha256, size)
            partial = self.partial(key)
            try:
                partial.restart()
                self.make_room(size)
                with path.open("rb") as source:
                    while chunk := source.read(_CHUNK_BYTES):
                        partial.write(chunk)
                return self.keep(partial, name, sha256)
            finally:
                partial.close()

    def note(self, listing: Listing) -> None:
        """Write down which files a version has.

        Raises:
            InvalidListing, RefusedFormat: It cannot be one.
        """
        path = self._listing_path(listing.check().model, listing.version)
        write_whole(path, msgspec.json.format(msgspec.json.encode(listing)))

    # --- addresses -------------------------------------------------------------------------------

    def remember(self, key: str, entry: Entry, at: datetime) -> None:
        """Note which content an address led to; of many addresses the oldest are forgotten.

        Args:
            key: The SHA-256 of the address.
            entry: What was found there.
            at: When.
        """
        path = self.folder / "addresses" / check_digest(key, "key")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with disk_errors(fresh):
            fresh.write_bytes(msgspec.json.encode(_Address(entry, at)))
        fresh.replace(path)
        known = list(path.parent.iterdir())
        if len(known) > _MOST_ADDRESSES:
            known.sort(key=_changed_ns)
            for oldest in known[: _MOST_ADDRESSES // 2]:
                oldest.unlink(missing_ok=True)

    def recall(self, key: str) -> tuple[Entry, datetime] | None:
        """Return what an address led to, and when; None where that is not known or is gone."""
        try:
            raw = (self.folder / "addresses" / check_digest(key, "key")).read_bytes()
            found = msgspec.json.decode(raw, type=_Address)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return (found.entry, found.at) if self.has(found.entry) else None

    def _listing_path(self, model: str, version: str) -> Path:
        return self.folder / "listings" / model / f"{version}.json"

    # --- room ------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Return what all contents take, and what has come of others."""
        return sum(each.size_bytes for each in self._all())

    def begun_bytes(self, key: str) -> int:
        """Return how much of `size_bytes` the file is that grows under a key."""
        held = self._part(self.part_path(key))
        return 0 if held is None else held.size_bytes

    def make_room(self, needed_bytes: int, sparing: Collection[str] = ()) -> None:
        """Evict until so much more fits the budget and the disk.

        Args:
            needed_bytes: What is to come, besides what has begun to.
            sparing: Digests and keys of files that are needed too.

        Raises:
            CacheFull: It cannot fit.
            CacheUnusable: Nothing can be written there.
        """
        if self.budget_bytes is not None:
            left = self.evict(max(self.budget_bytes - needed_bytes, 0), sparing).left_bytes
            if left + needed_bytes > self.budget_bytes:
                raise CacheFull(
                    f"{needed_bytes:,} bytes do not fit the budget of {self.budget_bytes:,} bytes "
                    f"for {self.folder}, of which {left:,} are in use: raise it, or stop workers "
                    "whose models are not needed"
                )
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        lacking = self._lacking_bytes(needed_bytes)
        if lacking > 0:
            self.evict(max(self.size_bytes() - lacking, 0), sparing)
            lacking = self._lacking_bytes(needed_bytes)
        if lacking > 0:
            raise CacheFull(
                f"the disk of {self.folder} lacks {lacking:,} bytes for what is to come, "
                f"{needed_bytes:,} bytes: make room, take a larger disk, or stop workers whose "
                "models are not needed"
            )

    def _lacking_bytes(self, needed_bytes: int) -> int:
        return needed_bytes + _SPARE_BYTES - shutil.disk_usage(self.folder).free

    def evict(self, budget_bytes: int, sparing: Collection[str] = ()) -> Evicted:
        """Remove the longest unused files until the rest fits; never what is in use.

        Args:
            budget_bytes: What may be left.
            sparing: Digests and keys of files that stay too.
        """
        found = sorted(self._all())
        left = sum(each.size_bytes for each in found)
        removed: list[str] = []
        freed = in_use = 0
        for each in found:
            if left <= budget_bytes:
                break
            if each.path.stem in sparing or not self._remove(each):
                in_use += 1
                continue
            if each.is_content:
                removed.append(each.path.name)
            left -= each.size_bytes
            freed += each.size_bytes
        return Evicted(tuple(removed), freed, left, in_use)

    def _remove(self, held: _Held) -> bool:
        if held.is_content:
            return _remove_unused(held.path)
        # Where it cannot be removed, it stays as if somebody used it.
        with contextlib.suppress(OSError, CacheUnusable):
            with self.locked(held.path.stem, wait=False):
                self.remove_part(held.path.stem)
            return True
        return False

    def remove_part(self, key: str) -> None:
        """Remove what has come of a file, and its lock; call with that held.

        Raises:
            BlockingIOError: Somebody uses it.
        """
        part = self.part_path(key)
        with contextlib.ExitStack() as opened:
            with contextlib.suppress(FileNotFoundError):
                file = opened.enter_context(part.open("rb"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What tells of it goes first: it would be believed of the next one.
            for suffix in (*_BESIDE, _PART):
                part.with_suffix(suffix).unlink(missing_ok=True)
        self._lock_path(key).unlink(missing_ok=True)

    def drop(self, sha256: str) -> bool:
        """Remove a content now; return whether it is gone. What is in use stays."""
        return _remove_unused(self.own_path(sha256))

    def own_path(self, sha256: str) -> Path:
        """Return where a content lies, or would lie, that may be removed."""
        return self.folder / "files" / sha256[:2] / sha256

    def forget(self, model: str, version: str) -> None:
        """Take a version for one that was never pulled, its folder of links included."""
        self._listing_path(model, version).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "folders" / model / version, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """Return all contents, the longest unused first."""
        return [Entry(each.path.name, each.size_bytes) for each in sorted(self._contents())]

    def manifests(self) -> list[str]:
        """Return the digests of all manifests that lie here."""
        paths = (self.folder / "manifests").glob("*.json")
        return sorted(path.stem for path in paths if not path.name.startswith("."))

    def _all(self) -> list[_Held]:
        return [*self._contents(), *self._parts()]

    def _contents(self) -> Iterator[_Held]:
        for path in (self.folder / "files").glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield _Held(status.st_mtime_ns, status.st_size, path)

    def _parts(self) -> Iterator[_Held]:
        for path in (self.folder / "partial").glob(f"*{_PART}"):
            # Another name is nobody's file here.
            with contextlib.suppress(InvalidListing):
                held = self._part(self.part_path(path.stem))
                if held is not None:
                    yield held

    def _part(self, path: Path) -> _Held | None:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return _Held(status.st_mtime_ns, status.st_size, path)


@functools.cache
def _boot_id() -> bytes:
    """Return the boot ID of the machine; where it has none, one of this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return secrets.token_hex(16).encode()


def _listings(root: Path) -> Iterator[Path]:
    return (root / "listings").glob("*/*/*.json")


@contextlib.contextmanager
def _locked(path: Path, wait: bool) -> Iterator[None]:
    while True:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # Whoever had it before may have removed it: the next one would lock another file.
            if os.fstat(file.fileno()).st_nlink:
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
                yield
                return


def _is_locked(path: Path, how: int) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _remove_unused(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        # Somebody uses it, or it cannot be removed.
        return False
    return True


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
