"""Comparisons of models and votes, over PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from swell.comparisons import Comparison, Vote
from swell.stores.postgres.database import PostgresDatabase

__all__ = ["PostgresComparisons"]

#: Greater than every id.
_LAST_ID = "~"


class PostgresComparisons:
    """The registry's part about comparisons and votes."""

    _database: PostgresDatabase

    async def put_comparison(self, comparison: Comparison) -> None:
        """See `Registry.put_comparison`."""
        body = msgspec.json.encode(comparison).decode()
        row = (comparison.id, comparison.closed_at, body)
        await self._database.read("put_comparison", *row)

    async def comparison(self, comparison_id: str) -> Comparison | None:
        """See `Registry.comparison`."""
        rows = await self._database.read("comparison", comparison_id)
        return _comparison(rows[0]) if rows else None

    async def comparisons(self, *, limit: int = 50, before: str | None = None) -> list[Comparison]:
        """See `Registry.comparisons`."""
        rows = await self._database.read("comparisons", before or _LAST_ID, limit)
        return [_comparison(row) for row in rows]

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        """See `Registry.close_comparison`."""
        async with self._database.transaction() as run:
            await run("close_comparison", comparison_id, at)
            rows = await run("comparison", comparison_id)
        return _comparison(rows[0]) if rows else None

    async def drop_comparison(self, comparison_id: str) -> bool:
        """See `Registry.drop_comparison`."""
        async with self._database.transaction() as run:
            # First, so that no vote is written meanwhile.
            dropped = await run("drop_comparison", comparison_id)
            await run("drop_votes", comparison_id)
        return bool(dropped)

    async def vote(self, vote: Vote) -> bool:
        """See `Registry.vote`."""
        row = (vote.comparison_id, vote.row, vote.key_id, vote.voter, vote.winner, vote.at)
        async with self._database.transaction() as run:
            if not await run("open_comparison", vote.comparison_id):
                return False
            await run("put_vote", *row)
        return True

    async def votes(self, comparison_id: str) -> list[Vote]:
        """See `Registry.votes`."""
        return [_vote(row) for row in await self._database.read("votes", comparison_id)]

    async def count_votes(self, comparison_ids: Sequence[str]) -> list[int]:
        """See `Registry.count_votes`."""
        rows = await self._database.read("count_votes", list(comparison_ids))
        found = {row[0]: int(row[1]) for row in rows}
        return [found.get(each, 0) for each in comparison_ids]


def _comparison(row: Any) -> Comparison:
    kept = msgspec.json.decode(row[1], type=Comparison)
    return msgspec.structs.replace(kept, closed_at=row[0])


def _vote(row: Any) -> Vote:
    comparison_id, line, key_id, voter, winner, at = row
    return Vote(
        comparison_id=comparison_id, row=line, key_id=key_id, voter=voter, winner=winner, at=at
    )
