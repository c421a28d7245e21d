"""Comparisons of models, and votes on them."""

from datetime import datetime

import msgspec

from swell.core.comparison import MOST_KEPT, MOST_VOTES, Comparison, Outline, Vote
from swell.db.sql import LAST_ID, Database, Row, Transaction, bodies, to_json


class ComparisonRepository:
    """Comparisons and votes. Once closed, the votes of a comparison never change."""

    _db: Database

    async def put_comparison(self, comparison: Comparison, most: int = MOST_KEPT) -> bool:
        """Add a comparison; return False if its key already has `most` of them."""
        values = {
            "id": comparison.id,
            "key_id": comparison.key_id,
            "is_shared": comparison.is_shared,
            "name": comparison.name,
            "created_at": comparison.created_at,
            "closed_at": comparison.closed_at,
            "models": len(comparison.models),
            "lines": len(comparison.rows),
            "body": to_json(comparison),
        }

        async def action(tx: Transaction) -> bool:
            await tx.lock("comparisons", [comparison.key_id])
            [row] = await tx.fetch("count_comparisons", key_id=comparison.key_id)
            if row["n"] >= most:
                return False
            await tx.fetch("put_comparison", **values)
            return True

        return await self._db.transaction(action)

    async def comparison(self, comparison_id: str) -> Comparison | None:
        """Return a comparison, or None."""
        return _first(await self._db.fetch("comparison", id=comparison_id))

    async def outlines(
        self, *, limit: int = 50, before: str | None = None, key_id: str | None = None
    ) -> list[Outline]:
        """Return outlines of comparisons, newest (largest id) first.

        Args:
            limit: At most this many.
            before: Only those with a smaller id.
            key_id: Only those of this key, and those that are shared.
        """
        before = before or LAST_ID
        rows = await self._db.fetch("outlines", before=before, key_id=key_id, limit=limit)
        return [Outline(**row) for row in rows]

    async def closed_comparisons(self) -> list[tuple[str, datetime]]:
        """Return (id, time of closing) of closed comparisons, in order of closing."""
        rows = await self._db.fetch("closed_comparisons")
        return [(row["id"], row["closed_at"]) for row in rows]

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        """End the voting and return the comparison. A closed one keeps its time of closing."""

        async def action(tx: Transaction) -> Comparison | None:
            await tx.fetch("close_comparison", id=comparison_id, at=at)
            return _first(await tx.fetch("comparison", id=comparison_id))

        return await self._db.transaction(action)

    async def drop_comparison(self, comparison_id: str) -> bool:
        """Delete a comparison and its votes; return whether there was one."""

        async def action(tx: Transaction) -> bool:
            # First, so that no other transaction adds a vote.
            dropped = await tx.fetch("drop_comparison", id=comparison_id)
            await tx.fetch("drop_votes", id=comparison_id)
            return bool(dropped)

        return await self._db.transaction(action)

    async def vote(self, vote: Vote, most: int = MOST_VOTES) -> bool:
        """Add a vote, or replace the one of the same row, key and voter.

        Return False if there is no such open comparison, or if it already has `most` votes and this
        one replaces none.
        """
        values = msgspec.structs.asdict(vote)

        async def action(tx: Transaction) -> bool:
            rows = await tx.fetch("open_comparison", id=vote.comparison_id)
            if not rows:
                return False
            if await tx.fetch("change_vote", **values):
                return True
            if rows[0]["votes"] >= most:
                return False
            await tx.fetch("put_vote", **values)
            await tx.fetch("count_vote", id=vote.comparison_id)
            return True

        return await self._db.transaction(action)

    async def votes(self, comparison_id: str) -> list[Vote]:
        """Return the votes of a comparison, oldest first, then by row, key and voter."""
        return [Vote(**row) for row in await self._db.fetch("votes", id=comparison_id)]


def _first(rows: list[Row]) -> Comparison | None:
    return next(iter(bodies(rows, Comparison, "closed_at")), None)
