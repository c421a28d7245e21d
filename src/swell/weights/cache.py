"""Weights on the local disk, kept by the SHA-256 of their content.

    files/9f/9f86…           the content of a file, read-only; its modification time is its last use
    unsynced/9f86…           boot ID, for content that may not be on the disk yet: after a reboot it
                             counts as missing
    partial/9f86….part       an unfinished download
    locks/…                  one for each download
    fetching                 locked by workers while they download what their models need
    listings/owner/name/version.json
    manifests/9f86….json     the files of a version that was pushed
    addresses/…              the content of URLs, under their SHA-256
    folders/owner/name/version/…   links, for libraries that want a folder

Any number of processes share a cache. A file appears under its digest by one rename, after its
content was hashed. A process that uses a file holds a shared lock on it (`flock`), which the
operating system releases when the process ends; locked files are never evicted. Partial files count
towards the budget, and those without a lock are evicted like other files.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import resource
import secrets
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

from swell.core.errors import InvalidRequest, SwellError
from swell.weights.disk import CacheFull, CacheUnusable, disk_errors, sync_folder, write_whole
from swell.weights.formats import check_content
from swell.weights.listings import Listings, NotCached
from swell.weights.partial_files import PART, PartialFile, PartialFiles
from swell.weights.weight_index import Entry, Listing, check_digest

__all__ = [
    "CacheFull",
    "CacheUnusable",
    "DigestMismatch",
    "Evicted",
    "InUse",
    "NotCached",
    "PartialFile",
    "PullFailed",
    "WeightCache",
]

_CHUNK_BYTES: Final = 8 << 20

#: Left free on the disk: a full disk breaks more than a download.
_SPARE_BYTES: Final = 256 << 20


class DigestMismatch(InvalidRequest):
    """The content of a file does not have the expected digest."""

    code, title = "digest_mismatch", "The content is not what was asked for"


class PullFailed(SwellError):
    """Weights could not be downloaded; the text says which, from where, and what to do."""

    code, status, title, retryable = "pull_failed", 502, "The weights could not be fetched", True


@dataclass(frozen=True, slots=True)
class Evicted:
    """Files that were removed to keep a budget.

    Args:
        digests: Digests of removed files, the least recently used first.
        freed_bytes: Their size, and that of removed partial files.
        left_bytes: Size of the cache now.
        in_use: How many files stayed because they are in use or needed.
    """

    digests: tuple[str, ...]
    freed_bytes: int
    left_bytes: int
    in_use: int


class InUse:
    """Files of a model that are not evicted until `close`, or until this process ends.

    Args:
        paths: The path of each file, by its name in the listing.
    """

    def __init__(self, paths: dict[str, Path], locks: Sequence[IO[bytes]]) -> None:
        self.paths = paths
        self._locks = list(locks)

    def close(self) -> None:
        """Release them; memory that a file was mapped into stays valid."""
        while self._locks:
            self._locks.pop().close()

    def __enter__(self) -> "InUse":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class WeightCache:
    """A folder of weights that processes share.

    Args:
        folder: The folder, created on first use. It must be on a local disk: locks of network
            disks are not reliable.
        budget_bytes: Limit of all files together; None for as much as the disk has.
        below: A read-only cache in the machine's image; its files are used from there.

    Attributes:
        listings: The files of each version.
        partials: Unfinished downloads and their locks.

    Guarantees:
        The path of a file in use leads to exactly the content of its digest, unless another program
        writes there; `verify` checks.
    """

    def __init__(
        self, folder: Path, budget_bytes: int | None = None, below: Path | None = None
    ) -> None:
        self.folder = folder
        self.budget_bytes = budget_bytes
        self._below = below
        self.listings = Listings(self.folders)
        self.partials = PartialFiles(folder)

    @property
    def folders(self) -> list[Path]:
        """This cache, and the one below it."""
        return [self.folder] if self._below is None else [self.folder, self._below]

    # --- reading ---------------------------------------------------------------------------------

    def path(self, sha256: str) -> Path:
        """Return the path of a content, which may not exist."""
        place = Path("files", sha256[:2], sha256)
        if self._below is not None and (self._below / place).is_file():
            return self._below / place
        return self.folder / place

    def own_path(self, sha256: str) -> Path:
        """Return the path of a content in this cache, not in the one below it."""
        return self.folder / "files" / sha256[:2] / sha256

    def has(self, entry: Entry) -> bool:
        """Return whether a content is here, by its name and size."""
        return self.entry(entry.sha256) == entry

    def entry(self, sha256: str) -> Entry | None:
        """Return the content of a digest, or None if it is not here."""
        try:
            found = Entry(sha256, self.path(sha256).stat().st_size)
        except FileNotFoundError:
            return None
        return None if self._is_lost(sha256) else found

    def missing(self, listing: Listing) -> list[str]:
        """Return the names of the files that are missing or incomplete."""
        return [name for name, entry in listing.files.items() if not self.has(entry)]

    def use(self, listing: Listing) -> InUse:
        """Return the files of a model, protected from eviction; this counts as their last use.

        Raises:
            NotCached: One is missing.
            CacheUnusable: This process reached its limit of open files.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            # macOS allows fewer than it reports.
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        paths: dict[str, Path] = {}
        with contextlib.ExitStack() as locks:
            held = []
            for name, entry in listing.files.items():
                paths[name], lock = self._lock(entry, f"{name} of {listing.model}")
                held.append(locks.enter_context(lock))
            locks.pop_all()
        return InUse(paths, held)

    def touch(self, listing: Listing) -> None:
        """Set the last use of a model's files to now; only one of them is open at a time.

        Raises:
            NotCached: One is missing.
        """
        for name, entry in listing.files.items():
            self._lock(entry, f"{name} of {listing.model}")[1].close()

    def _lock(self, entry: Entry, label: str) -> tuple[Path, IO[bytes]]:
        path = self.path(entry.sha256)
        try:
            with disk_errors(path):
                file = path.open("rb")
        except FileNotFoundError:
            raise NotCached(f"{label} is not in {self.folder}: pull it again") from None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            found = os.fstat(file.fileno())
            # It may have been evicted between the two lines above.
            is_whole = found.st_size == entry.size_bytes and not self._is_lost(entry.sha256)
            if found.st_nlink == 0 or not is_whole:
                raise NotCached(f"{label} is not whole in {self.folder}: pull it again")
            if path == self.own_path(entry.sha256):
                # A file that cannot be written to cannot be evicted either.
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
        except BaseException:
            file.close()
            raise
        return path, file

    def link(self, listing: Listing) -> Path:
        """Return a folder of links to a model's files, under their own names.

        For libraries that load a model from a folder. Links do not keep files from being evicted:
        call `use` as well.
        """
        target = self.folder / "folders" / listing.model / listing.version
        for name, entry in listing.files.items():
            link = target / name
            link.parent.mkdir(parents=True, exist_ok=True)
            # `..` starts from the folder that the link really is in.
            there, here = self.path(entry.sha256).resolve(), link.parent.resolve()
            content = Path(os.path.relpath(there, here))
            if link.is_symlink() and link.readlink() == content:
                continue
            fresh = link.with_name(f".{link.name}.{secrets.token_hex(8)}")
            fresh.symlink_to(content)
            fresh.replace(link)
        return target

    def verify(self, listing: Listing) -> None:
        """Read every file and compare its digest; remove files that differ.

        Raises:
            NotCached: A file is missing.
            DigestMismatch: A content has changed; it has been removed.
        """
        with self.use(listing) as held:
            for name, path in held.paths.items():
                wanted = listing.files[name].sha256
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != wanted:
                    path.unlink(missing_ok=True)
                    raise DigestMismatch(
                        f"{name} of {listing.model} has changed on the disk (it is {found[:12]}…, "
                        f"not {wanted[:12]}…) and was removed: pull it again, and check the disk"
                    )

    # --- writing ---------------------------------------------------------------------------------

    def keep(
        self, partial: PartialFile, name: str, sha256: str | None, *, is_synced: bool = True
    ) -> Entry:
        """Move a complete file into the cache, and close it.

        Args:
            partial: The file, with its lock held.
            name: Its name, for its format.
            sha256: Its expected digest; None to accept any.
            is_synced: Whether to sync it to the disk first. Otherwise call `sync` afterwards.

        Raises:
            DigestMismatch: It has another digest; it has been removed.
            RefusedFormat, BrokenWeights: Its format does not match its name; it has been removed.
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
        except CacheFull:
            raise
        except SwellError:
            partial.path.unlink(missing_ok=True)
            raise
        finally:
            partial.close()
        with contextlib.suppress(NotCached):
            # Processes may use the file that is here.
            self._lock(entry, name)[1].close()
            with disk_errors(partial.path):
                partial.path.unlink()
            return entry
        target, mark = self.own_path(entry.sha256), self._mark(entry.sha256)
        if not is_synced:
            # First the file of an earlier boot: the new mark would make it valid.
            target.unlink(missing_ok=True)
            write_whole(mark, _boot_id())
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.path.chmod(0o444)
            partial.path.replace(target)
            sync_folder(target.parent)
        if is_synced:
            mark.unlink(missing_ok=True)
        return entry

    def sync(self, sha256: str) -> None:
        """Sync a content to the disk. A content that cannot be synced is removed.

        Raises:
            CacheFull, CacheUnusable, OSError: The disk does not take it.
        """
        path = self.own_path(sha256)
        try:
            with disk_errors(path), path.open("rb") as file:
                os.fsync(file.fileno())
        except (SwellError, OSError):
            # The system reports this error only once.
            path.unlink(missing_ok=True)
            raise
        self._mark(sha256).unlink(missing_ok=True)

    def _is_lost(self, sha256: str) -> bool:
        """Return whether the machine rebooted before a content was synced to the disk."""
        try:
            return self._mark(sha256).read_bytes() != _boot_id()
        except OSError:
            return False

    def _mark(self, sha256: str) -> Path:
        return self.folder / "unsynced" / check_digest(sha256, "digest")

    def add(self, path: Path, name: str, sha256: str | None = None) -> Entry:
        """Copy a local file into the cache.

        Raises:
            DigestMismatch, RefusedFormat, BrokenWeights, CacheFull: As `keep`.
        """
        size = path.stat().st_size
        key = sha256 or hashlib.sha256(str(path.resolve()).encode()).hexdigest()
        with self.partials.lock(key):
            if sha256 is not None and self.has(Entry(sha256, size)):
                return Entry(sha256, size)
            partial = self.partials.open(key)
            try:
                partial.restart()
                self.make_room(size)
                with path.open("rb") as source:
                    while chunk := source.read(_CHUNK_BYTES):
                        partial.write(chunk)
                return self.keep(partial, name, sha256)
            finally:
                partial.close()

    # --- room ------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all contents, the least recently used first."""
        return [Entry(path.name, size) for _, size, path in self._files() if path.suffix != PART]

    def size_bytes(self) -> int:
        """Return the size of all contents and partial files."""
        return sum(size for _, size, _ in self._files())

    def make_room(self, needed_bytes: int, sparing: Collection[str] = ()) -> None:
        """Evict files until `needed_bytes` more fit the budget and the disk.

        Args:
            needed_bytes: Size of new files, without their partial files.
            sparing: Digests and keys of files that must stay.

        Raises:
            CacheFull: It cannot fit.
            CacheUnusable: The cache cannot be written to.
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
        """Remove the least recently used files until the rest fits; files in use stay.

        Args:
            budget_bytes: Limit of the rest.
            sparing: Digests and keys of other files that must stay.
        """
        found = self._files()
        left = sum(size for _, size, _ in found)
        removed: list[str] = []
        freed = in_use = 0
        for _, size, path in found:
            if left <= budget_bytes:
                break
            is_part = path.suffix == PART
            remove = self.partials.remove_unlocked if is_part else self.drop
            if path.stem in sparing or not remove(path.stem):
                in_use += 1
                continue
            if not is_part:
                removed.append(path.name)
            left -= size
            freed += size
        return Evicted(tuple(removed), freed, left, in_use)

    def drop(self, sha256: str) -> bool:
        """Remove a content, unless it is in use; return whether it is gone."""
        path = self.own_path(sha256)
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        except FileNotFoundError:
            return True
        except OSError:
            # In use, or the folder is read-only.
            return False
        return True

    def _files(self) -> list[tuple[int, int, Path]]:
        """Return last use, size and path of all files, the least recently used first."""
        return sorted(self._found())

    def _found(self) -> Iterator[tuple[int, int, Path]]:
        for path in chain((self.folder / "files").glob("??/*"), self.partials.paths()):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield status.st_mtime_ns, status.st_size, path


@functools.cache
def _boot_id() -> bytes:
    """Return the boot ID of the machine, or one of this process if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return secrets.token_hex(16).encode()
