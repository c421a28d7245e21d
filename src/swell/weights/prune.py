"""Removing from the cache what nothing names any more.

Named is what a listing names whose files are all here, so what was pulled for itself, and what the
caller says: the files of added models. A listing of which a file has gone can be used by nobody
until it is pulled again, and names nothing. Of the rest all goes but what somebody uses, has linked
into a folder, or used not long ago: it may belong to a pull that goes on, which notes its listing
at its end.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from swell.weights.cache import Fate, WeightCache
from swell.weights.listing import Entry, Listing

__all__ = ["Pruned", "prune"]


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
            fate = cache.drop_idle(entry.sha256, before, is_dry_run=is_dry_run)
            if fate is Fate.GONE:
                gone.append(entry)
                continue
            kept[fate] += 1
        left_bytes += entry.size_bytes
    if not is_dry_run:
        for each in broken:
            cache.forget(each.model, each.version)
    partials, partial_bytes = cache.drop_partials(before, is_dry_run=is_dry_run)
    return Pruned(tuple(gone), names, broken, partials, partial_bytes, dict(kept), left_bytes)
