"""Removes files from the cache that no model needs.

Needed are the files of complete listings, and those that the caller names: the files of added
models. An incomplete listing cannot be used until it is pulled again, so it is removed. Other files
stay while they are in use, linked into a folder, or recently used: they may belong to a pull that
writes its listing at its end.
"""

import fcntl
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from swell.weights.cache import WeightCache
from swell.weights.weight_index import Entry, Listing


class Fate(StrEnum):
    """The result for a file that no model needs."""

    GONE = "gone"
    #: Another folder has a hard link to it, so removing it would free nothing.
    LINKED = "linked"
    IN_USE = "in_use"
    RECENT = "recent"


@dataclass(frozen=True, slots=True)
class Pruned:
    """Files that were removed, or would be.

    Args:
        contents: Removed files, the least recently used first.
        names: Digest to `owner/name/file`, for files of incomplete listings.
        listings: Incomplete listings.
        partials: Number of removed partial files.
        partial_bytes: Their size.
        kept: Number of files that stay although no model needs them, by the reason.
        left_bytes: Size of all files that stay.
    """

    contents: tuple[Entry, ...]
    names: dict[str, str]
    listings: tuple[Listing, ...]
    partials: int
    partial_bytes: int
    kept: dict[Fate, int]
    left_bytes: int

    @property
    def freed_bytes(self) -> int:
        """Size of all removed files."""
        return sum(entry.size_bytes for entry in self.contents) + self.partial_bytes


def prune(
    cache: WeightCache, named: Collection[str], before: datetime, *, is_dry_run: bool = False
) -> Pruned:
    """Remove files that no model needs.

    Args:
        cache: The cache.
        named: Digests of needed files, in addition to those of listings.
        before: Files that were used since then stay.
        is_dry_run: Only return what would be removed.

    Raises:
        NotCached: A listing is damaged, so its files are unknown; nothing was removed.
    """
    listings = cache.listings.all()
    broken = tuple(listing for listing in listings if cache.missing(listing))
    names = {
        file.sha256: f"{each.model}/{name}" for each in broken for name, file in each.files.items()
    }
    whole = {file.sha256 for each in listings if each not in broken for file in each.files.values()}
    gone: list[Entry] = []
    kept: Counter[Fate] = Counter()
    left_bytes = 0
    for entry in cache.entries():
        if entry.sha256 not in whole and entry.sha256 not in named:
            fate = _drop_content(cache, entry.sha256, before, is_dry_run=is_dry_run)
            if fate is Fate.GONE:
                gone.append(entry)
                continue
            kept[fate] += 1
        left_bytes += entry.size_bytes
    if not is_dry_run:
        for each in broken:
            cache.listings.remove(each.model, each.version)
    partials = _drop_partials(cache, before, is_dry_run=is_dry_run)
    return Pruned(tuple(gone), names, broken, len(partials), sum(partials), dict(kept), left_bytes)


def _drop_content(cache: WeightCache, sha256: str, before: datetime, *, is_dry_run: bool) -> Fate:
    path = cache.own_path(sha256)
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Check with the lock held: linking or using the file takes the lock.
            status = os.fstat(file.fileno())
            if status.st_nlink > 1:
                return Fate.LINKED
            if not _is_idle(status, before):
                return Fate.RECENT
            if not is_dry_run:
                path.unlink()
    except BlockingIOError:
        return Fate.IN_USE
    except FileNotFoundError:
        pass
    return Fate.GONE


def _drop_partials(cache: WeightCache, before: datetime, *, is_dry_run: bool) -> list[int]:
    """Remove partial files that no process downloads; return their sizes."""
    sizes = []
    for path in list(cache.partials.paths()):
        status = path.stat()
        if not _is_idle(status, before) or cache.partials.is_locked(path.stem):
            continue
        if is_dry_run or cache.partials.remove_unlocked(path.stem):
            sizes.append(status.st_size)
    return sizes


def _is_idle(status: os.stat_result, before: datetime) -> bool:
    return status.st_mtime < before.timestamp()
