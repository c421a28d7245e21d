"""Comparisons of models and votes, over PostgreSQL."""

from datetime import datetime
from typing import Any

import msgspec

from swell.comparisons import MOST_KEPT, MOST_VOTES, Comparison, Outline, Vote
from swell.stores.postgres.database import PostgresDatabase

#: Greater than every id.
_LAST_ID = "~"


class PostgresComparisons:
    """The registry's part about comparisons and votes."""

    _database: PostgresDatabase

    async def put_comparison(self, comparison: Comparison, most: int = MOST_KEPT) -> bool:
        body = msgspec.json.encode(comparison).decode()
        async with self._database.transaction() as run:
            # What comes at the same time is counted too.
            await run("lock_comparisons", comparison.key_id)
            [(count,)] = await run("count_comparisons", comparison.key_id)
            if count >= most:
                return False
            await run("put_comparison", comparison.id, comparison.closed_at, body)
        return True

    async def count_comparisons(self, key_id: str) -> int:
        rows = await self._database.read("count_comparisons", key_id)
        return int(rows[0][0])

    async def comparison(self, comparison_id: str) -> Comparison | None:
        rows = await self._database.read("comparison", comparison_id)
        return _comparison(rows[0]) if rows else None

    async def outlines(
        self, *, limit: int = 50, before: str | None = None, key_id: str | None = None
    ) -> list[Outline]:
        rows = await self._database.read("outlines", before or _LAST_ID, key_id, limit)
        return [_outline(row) for row in rows]

    async def closed_comparisons(self) -> list[tuple[str, datetime]]:
        return [(row[0], row[1]) for row in await self._database.read("closed_comparisons")]

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        async with self._database.transaction() as run:
            await run("close_comparison", comparison_id, at)
            rows = await run("comparison", comparison_id)
        return _comparison(rows[0]) if rows else None

    async def drop_comparison(self, comparison_id: str) -> bool:
        async with self._database.transaction() as run:
            # First, so that no vote is written meanwhile.
            dropped = await run("drop_comparison", comparison_id)
            await run("drop_votes", comparison_id)
        return bool(dropped)

    async def vote(self, vote: Vote, most: int = MOST_VOTES) -> bool:
        row = (vote.comparison_id, vote.row, vote.key_id, vote.voter, vote.winner, vote.at)
        async with self._database.transaction() as run:
            if not await run("open_comparison", vote.comparison_id):
                return False
            [(count,)] = await run("counted_votes", vote.comparison_id)
            if await run("change_vote", *row):
                return True
            if count >= most:
                return False
            await run("put_vote", *row)
        return True

    async def votes(self, comparison_id: str) -> list[Vote]:
        return [_vote(row) for row in await self._database.read("votes", comparison_id)]


def _comparison(row: Any) -> Comparison:
    kept = msgspec.json.decode(row[1], type=Comparison)
    return msgspec.structs.replace(kept, closed_at=row[0])


def _outline(row: Any) -> Outline:
    comparison_id, name, created_at, key_id, is_shared, models, lines, votes, closed_at = row
    return Outline(
        id=comparison_id,
        name=name,
        created_at=created_at,
        key_id=key_id,
        is_shared=is_shared,
        models=models,
        rows=lines,
        votes=votes,
        closed_at=closed_at,
    )


def _vote(row: Any) -> Vote:
    comparison_id, line, key_id, voter, winner, at = row
    return Vote(
        comparison_id=comparison_id, row=line, key_id=key_id, voter=voter, winner=winner, at=at
    )
