"""Comparisons of models and votes, over SQLite. It shares the writer's commits."""

from datetime import datetime
from typing import Any

import msgspec

from swell.comparisons import MOST_KEPT, MOST_VOTES, Comparison, Outline, Vote
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.rows import micros, moment
from swell.stores.sqlite.session import Session

#: Greater than every id.
_LAST_ID = "~"


class SqliteComparisons:
    """The registry's part about comparisons and votes."""

    _database: SqliteDatabase

    async def put_comparison(self, comparison: Comparison, most: int = MOST_KEPT) -> bool:
        closed_at = None if comparison.closed_at is None else micros(comparison.closed_at)
        outline = {
            "id": comparison.id,
            "key_id": comparison.key_id,
            "is_shared": int(comparison.is_shared),
            "name": comparison.name,
            "created_at": micros(comparison.created_at),
            "closed_at": closed_at,
            "models": len(comparison.models),
            "lines": len(comparison.rows),
            "most": most,
        }
        row = (comparison.id, msgspec.json.encode(comparison).decode())

        def action(session: Session) -> bool:
            if not session.run("put_outline", outline):
                return False
            session.run("put_comparison", row)
            return True

        return await self._database.write(action)

    async def count_comparisons(self, key_id: str) -> int:
        count: int = self._database.read("count_comparisons", (key_id,))[0][0]
        return count

    async def comparison(self, comparison_id: str) -> Comparison | None:
        rows = self._database.read("comparison", (comparison_id,))
        return _comparison(rows[0]) if rows else None

    async def outlines(
        self, *, limit: int = 50, before: str | None = None, key_id: str | None = None
    ) -> list[Outline]:
        asked = {"before": before or _LAST_ID, "key_id": key_id, "limit": limit}
        return [_outline(row) for row in self._database.read("outlines", asked)]

    async def closed_comparisons(self) -> list[tuple[str, datetime]]:
        return [(row[0], _moment(row[1])) for row in self._database.read("closed_comparisons", ())]

    async def close_comparison(self, comparison_id: str, at: datetime) -> Comparison | None:
        def action(session: Session) -> Comparison | None:
            session.run("close_comparison", (micros(at), comparison_id))
            rows = session.rows("comparison", (comparison_id,))
            return _comparison(rows[0]) if rows else None

        return await self._database.write(action)

    async def drop_comparison(self, comparison_id: str) -> bool:
        def action(session: Session) -> bool:
            session.run("drop_votes", (comparison_id,))
            session.run("drop_comparison", (comparison_id,))
            return session.run("drop_outline", (comparison_id,)) > 0

        return await self._database.write(action)

    async def vote(self, vote: Vote, most: int = MOST_VOTES) -> bool:
        row = {
            "comparison_id": vote.comparison_id,
            "line": vote.row,
            "key_id": vote.key_id,
            "voter": vote.voter,
            "winner": vote.winner,
            "at": micros(vote.at),
        }

        def action(session: Session) -> bool:
            if not session.rows("open_comparison", (vote.comparison_id,)):
                return False
            if session.run("change_vote", row):
                return True
            if not session.run("count_vote", (vote.comparison_id, most)):
                return False
            session.run("put_vote", row)
            return True

        return await self._database.write(action)

    async def votes(self, comparison_id: str) -> list[Vote]:
        return [_vote(row) for row in self._database.read("votes", (comparison_id,))]


def _comparison(row: tuple[int | None, str]) -> Comparison:
    kept = msgspec.json.decode(row[1], type=Comparison)
    return msgspec.structs.replace(kept, closed_at=moment(row[0]))


def _outline(row: tuple[Any, ...]) -> Outline:
    comparison_id, name, created_at, key_id, is_shared, models, lines, votes, closed_at = row
    return Outline(
        id=comparison_id,
        name=name,
        created_at=_moment(created_at),
        key_id=key_id,
        is_shared=bool(is_shared),
        models=models,
        rows=lines,
        votes=votes,
        closed_at=moment(closed_at),
    )


def _vote(row: tuple[Any, ...]) -> Vote:
    comparison_id, line, key_id, voter, winner, at = row
    return Vote(
        comparison_id=comparison_id,
        row=line,
        key_id=key_id,
        voter=voter,
        winner=winner,
        at=_moment(at),
    )


def _moment(value: int) -> datetime:
    found = moment(value)
    assert found is not None, "the column is never null"
    return found
