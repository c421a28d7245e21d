"""Comparisons of models and votes, in dictionaries."""

from datetime import datetime

import msgspec

from swell.comparisons import MOST_KEPT, MOST_VOTES, Comparison, Outline, Vote


class MemoryComparisons:
    """The registry's part about comparisons and votes."""

    def __init__(self) -> None:
        super().__init__()
        self._comparisons: dict[str, Comparison] = {}
        #: (comparison, row, key, voter) → vote.
        self._votes: dict[tuple[str, int, str, str], Vote] = {}

    async def put_comparison(self, comparison: Comparison, most: int = MOST_KEPT) -> bool:
        if await self.count_comparisons(comparison.key_id) >= most:
            return False
        self._comparisons[comparison.id] = comparison
        return True

    async def count_comparisons(self, key_id: str) -> int:
        return sum(each.key_id == key_id for each in self._comparisons.values())

    async def comparison(self, comparison_id: str) -> Comparison | None:
        return self._comparisons.get(comparison_id)

    async def outlines(
        self, *, limit: int = 50, before: str | None = None, key_id: str | None = None
    ) -> list[Outline]:
        found = [
            each
            for _, each in sorted(self._comparisons.items(), reverse=True)
            if (before is None or each.id < before)
            and (each.is_shared or key_id in (None, each.key_id))
        ]
        return [self._outline(each) for each in found[:limit]]

    async def closed_comparisons(self) -> list[tuple[str, datetime]]:
        found = [(each.id, each.closed_at) for each in self._comparisons.values()]
        ended = [(comparison_id, at) for comparison_id, at in found if at is not None]
        return sorted(ended, key=lambda each: (each[1], each[0]))

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        known = self._comparisons.get(comparison_id)
        if known is not None and known.closed_at is None:
            known = self._comparisons[comparison_id] = msgspec.structs.replace(known, closed_at=at)
        return known

    async def drop_comparison(self, comparison_id: str) -> bool:
        for place in [each for each in self._votes if each[0] == comparison_id]:
            del self._votes[place]
        return self._comparisons.pop(comparison_id, None) is not None

    async def vote(self, vote: Vote, most: int = MOST_VOTES) -> bool:
        known = self._comparisons.get(vote.comparison_id)
        if known is None or known.closed_at is not None:
            return False
        place = (vote.comparison_id, vote.row, vote.key_id, vote.voter)
        if place not in self._votes and self._count_votes(known.id) >= most:
            return False
        self._votes[place] = vote
        return True

    async def votes(self, comparison_id: str) -> list[Vote]:
        found = [each for each in self._votes.values() if each.comparison_id == comparison_id]
        return sorted(found, key=lambda each: (each.at, each.row, each.key_id, each.voter))

    def _count_votes(self, comparison_id: str) -> int:
        return sum(place[0] == comparison_id for place in self._votes)

    def _outline(self, comparison: Comparison) -> Outline:
        return Outline(
            id=comparison.id,
            name=comparison.name,
            created_at=comparison.created_at,
            key_id=comparison.key_id,
            is_shared=comparison.is_shared,
            models=len(comparison.models),
            rows=len(comparison.rows),
            votes=self._count_votes(comparison.id),
            closed_at=comparison.closed_at,
        )
