"""Removing from the cache what nothing names any more.

Named is what a listing names whose files are all here, so what was pulled for itself, and what the
caller says: the files of added models. A listing of which a file has gone can be used by nobody
until it is pulled again, and names nothing. Of the rest all goes but what somebody uses, has linked
into a folder, or used not long ago: it may belong to a pull that goes on, which notes its listing
at its end.

What tells of nothing any more goes too: manifests whose files are not all here and that nobody is
about to fetch by, locks that nobody holds, notes about files that came in part, and drafts of
whoever was killed while he wrote.
"""

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

from swell.weights.cache import NotCached, WeightCache
from swell.weights.manifest import noted_manifest
from swell.weights.weight_errors import RefusedFormat
from swell.weights.weight_index import Entry, InvalidListing, Listing

#: Where files get their names when they are whole. Writing one takes no longer than this.
_DRAFTS: Final = ("addresses", "listings", "manifests", "unsynced")
_DRAFT_TIME: Final = timedelta(minutes=1)

_KEY: Final = re.compile(r"[0-9a-f]{64}")


class Fate(StrEnum):
    """What became of a content that was to go."""

    GONE = "gone"
    #: Another folder has the same file, so that nothing would be won.
    LINKED = "linked"
    #: Somebody uses it.
    IN_USE = "in_use"
    #: Somebody used it not long ago.
    RECENT = "recent"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, or would be.

    Args:
        contents: Those that went, the longest unused first.
        names: Digest to `owner/name/file`, of those of which that is still known.
        listings: Those of which a file had gone.
        partials: How many files that had come in part.
        partial_bytes: What these took.
        kept: Why how many contents that nothing names stayed.
        left_bytes: What all contents take that are left.
        traces: How many manifests, locks, notes and drafts told of nothing any more.
    """

    contents: tuple[Entry, ...]
    names: dict[str, str]
    listings: tuple[Listing, ...]
    partials: int
    partial_bytes: int
    kept: dict[Fate, int]
    left_bytes: int
    traces: int

    @property
    def freed_bytes(self) -> int:
        """What was won."""
        return sum(entry.size_bytes for entry in self.contents) + self.partial_bytes


def prune(
    cache: WeightCache, named: Collection[str], before: datetime, *, is_dry_run: bool = False
) -> Pruned:
    """Remove what nothing names.

    Args:
        cache: From where.
        named: Digests of what else is named, besides what listings name.
        before: What was used since this stays.
        is_dry_run: Only tell what would go.

    Raises:
        NotCached: A listing is damaged, so that nobody knows what it names; nothing was removed.
    """
    listings = cache.listings()
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
            cache.forget(each.model, each.version)
    # Before what takes them again.
    small = [*(cache.folder / "locks").glob("*"), *_settled(cache)]
    traces = sum(_drop_trace(path, before, is_dry_run=is_dry_run) for path in sorted(small))
    partials, partial_bytes, notes = _drop_partials(cache, before, is_dry_run=is_dry_run)
    traces += notes
    traces += _drop_manifests(
        cache, before, {entry.sha256 for entry in gone}, is_dry_run=is_dry_run
    )
    for path in _drafts(cache.folder):
        traces += _drop_trace(path, before - _DRAFT_TIME, is_dry_run=is_dry_run)
    return Pruned(
        tuple(gone), names, broken, partials, partial_bytes, dict(kept), left_bytes, traces
    )


def _drop_content(cache: WeightCache, sha256: str, before: datetime, *, is_dry_run: bool) -> Fate:
    """Remove a content that nobody uses, has linked, or has used since a moment."""
    path = cache.own_path(sha256)
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Judged with the lock held: whoever links or uses it holds it meanwhile.
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


def _drop_partials(
    cache: WeightCache, before: datetime, *, is_dry_run: bool
) -> tuple[int, int, int]:
    """Remove what has come of files that nobody fetches, and has not since a moment.

    Returns:
        How many files these are, their bytes, and how many notes were left of others.
    """
    found: dict[str, list[Path]] = {}
    for path in (cache.folder / "partial").glob("*.*"):
        if _KEY.fullmatch(path.stem):
            found.setdefault(path.stem, []).append(path)
    files = freed = notes = 0
    for key, paths in sorted(found.items()):
        with (
            contextlib.suppress(BlockingIOError, FileNotFoundError),
            contextlib.ExitStack() as held,
        ):
            if is_dry_run and cache.is_locked(key):
                continue
            if not is_dry_run:
                held.enter_context(cache.locked(key, wait=False))
            part = cache.part_path(key)
            if not all(_is_idle(path.stat(), before) for path in paths):
                continue
            size = cache.begun_bytes(key)
            is_part = part.exists()
            if not is_dry_run:
                cache.remove_part(key)
            files, freed = files + is_part, freed + size
            notes += 0 if is_part else len(paths)
    return files, freed, notes


def _drop_manifests(
    cache: WeightCache, before: datetime, gone: Collection[str], *, is_dry_run: bool
) -> int:
    """Remove manifests that nothing here is used by."""
    dropped = 0
    for digest in cache.manifests():
        path = cache.manifest_paths(digest)[0]
        with contextlib.suppress(FileNotFoundError):
            if not _is_idle(path.stat(), before) or _is_needed(cache, digest, gone):
                continue
            if not is_dry_run:
                path.unlink()
            dropped += 1
    return dropped


def _is_needed(cache: WeightCache, digest: str, gone: Collection[str]) -> bool:
    try:
        manifest = noted_manifest(cache, digest)
    except (NotCached, InvalidListing, RefusedFormat):
        return False
    entries = manifest.files.values()
    is_whole = all(cache.has(entry) and entry.sha256 not in gone for entry in entries)
    return is_whole or cache.is_fetching()


def _settled(cache: WeightCache) -> Iterator[Path]:
    """Yield notes of contents that did not reach the disk, where the content is gone."""
    for path in (cache.folder / "unsynced").glob("*"):
        if _KEY.fullmatch(path.name) and not cache.own_path(path.name).exists():
            yield path


def _drafts(folder: Path) -> Iterator[Path]:
    for name in _DRAFTS:
        yield from (path for path in (folder / name).rglob(".*") if path.is_file())


def _drop_trace(path: Path, before: datetime, *, is_dry_run: bool) -> bool:
    """Remove a small file that nobody holds, and return whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_idle(os.fstat(file.fileno()), before):
                return False
            if not is_dry_run:
                path.unlink()
    except OSError:
        return False
    return True


def _is_idle(status: os.stat_result, before: datetime) -> bool:
    return status.st_mtime < before.timestamp()
