"""Comparisons of models and votes, over SQLite. It shares the writer's commits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from swell.comparisons import Comparison, Vote
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.rows import micros, moment
from swell.stores.sqlite.session import Session

__all__ = ["SqliteComparisons"]

#: Greater than every id.
_LAST_ID = "~"


class SqliteComparisons:
    """The registry's part about comparisons and votes."""

    _database: SqliteDatabase

    async def put_comparison(self, comparison: Comparison) -> None:
        """See `Registry.put_comparison`."""
        closed_at = None if comparison.closed_at is None else micros(comparison.closed_at)
        row = (comparison.id, closed_at, msgspec.json.encode(comparison).decode())
        await self._database.write(lambda session: session.run("put_comparison", row))

    async def comparison(self, comparison_id: str) -> Comparison | None:
        """See `Registry.comparison`."""
        rows = self._database.read("comparison", (comparison_id,))
        return _comparison(rows[0]) if rows else None

    async def comparisons(self, *, limit: int = 50, before: str | None = None) -> list[Comparison]:
        """See `Registry.comparisons`."""
        rows = self._database.read("comparisons", (before or _LAST_ID, limit))
        return [_comparison(row) for row in rows]

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        """See `Registry.close_comparison`."""

        def action(session: Session) -> Comparison | None:
            session.run("close_comparison", (micros(at), comparison_id))
            rows = session.rows("comparison", (comparison_id,))
            return _comparison(rows[0]) if rows else None

        return await self._database.write(action)

    async def drop_comparison(self, comparison_id: str) -> bool:
        """See `Registry.drop_comparison`."""

        def action(session: Session) -> bool:
            session.run("drop_votes", (comparison_id,))
            return session.run("drop_comparison", (comparison_id,)) > 0

        return await self._database.write(action)

    async def vote(self, vote: Vote) -> bool:
        """See `Registry.vote`."""
        row = {
            "comparison_id": vote.comparison_id,
            "line": vote.row,
            "key_id": vote.key_id,
            "voter": vote.voter,
            "winner": vote.winner,
            "at": micros(vote.at),
        }
        return await self._database.write(lambda session: session.run("put_vote", row) > 0)

    async def votes(self, comparison_id: str) -> list[Vote]:
        """See `Registry.votes`."""
        return [_vote(row) for row in self._database.read("votes", (comparison_id,))]

    async def count_votes(self, comparison_ids: Sequence[str]) -> list[int]:
        """See `Registry.count_votes`."""
        return [self._database.read("count_votes", (each,))[0][0] for each in comparison_ids]


def _comparison(row: tuple[int | None, str]) -> Comparison:
    kept = msgspec.json.decode(row[1], type=Comparison)
    return msgspec.structs.replace(kept, closed_at=moment(row[0]))


def _vote(row: tuple[Any, ...]) -> Vote:
    comparison_id, line, key_id, voter, winner, at = row
    told_at = moment(at)
    assert told_at is not None, "the column is never null"
    return Vote(
        comparison_id=comparison_id,
        row=line,
        key_id=key_id,
        voter=voter,
        winner=winner,
        at=told_at,
    )
