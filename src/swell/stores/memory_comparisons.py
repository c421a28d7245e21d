"""Comparisons of models and votes, in dictionaries."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from swell.comparisons import Comparison, Vote

__all__ = ["MemoryComparisons"]


class MemoryComparisons:
    """The registry's part about comparisons and votes."""

    def __init__(self) -> None:
        super().__init__()
        self._comparisons: dict[str, Comparison] = {}
        #: (comparison, row, key, voter) → vote.
        self._votes: dict[tuple[str, int, str, str], Vote] = {}

    async def put_comparison(self, comparison: Comparison) -> None:
        """See `Registry.put_comparison`."""
        self._comparisons[comparison.id] = comparison

    async def comparison(self, comparison_id: str) -> Comparison | None:
        """See `Registry.comparison`."""
        return self._comparisons.get(comparison_id)

    async def comparisons(self, *, limit: int = 50, before: str | None = None) -> list[Comparison]:
        """See `Registry.comparisons`."""
        ids = (each for each in sorted(self._comparisons, reverse=True))
        return [self._comparisons[each] for each in ids if before is None or each < before][:limit]

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        """See `Registry.close_comparison`."""
        known = self._comparisons.get(comparison_id)
        if known is not None and known.closed_at is None:
            known = self._comparisons[comparison_id] = msgspec.structs.replace(known, closed_at=at)
        return known

    async def drop_comparison(self, comparison_id: str) -> bool:
        """See `Registry.drop_comparison`."""
        for place in [each for each in self._votes if each[0] == comparison_id]:
            del self._votes[place]
        return self._comparisons.pop(comparison_id, None) is not None

    async def vote(self, vote: Vote) -> bool:
        """See `Registry.vote`."""
        known = self._comparisons.get(vote.comparison_id)
        if known is None or known.closed_at is not None:
            return False
        self._votes[vote.comparison_id, vote.row, vote.key_id, vote.voter] = vote
        return True

    async def votes(self, comparison_id: str) -> list[Vote]:
        """See `Registry.votes`."""
        found = [each for each in self._votes.values() if each.comparison_id == comparison_id]
        return sorted(found, key=lambda each: (each.at, each.row, each.key_id, each.voter))

    async def count_votes(self, comparison_ids: Sequence[str]) -> list[int]:
        """See `Registry.count_votes`."""
        there = [each.comparison_id for each in self._votes.values()]
        return [there.count(each) for each in comparison_ids]
