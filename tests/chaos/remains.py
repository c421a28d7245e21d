"""What is there at the end: the store's own file, and what the API tells of it."""

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from chaos.recorder import Told, outcome_of
from swell.task import TaskError, TaskState
from swell.testing.history import Final, Outcome

__all__ = ["is_sound", "read_api", "read_store"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_QUERY = """
SELECT id, state, output, error, metadata, attempt, handed_back, max_attempts, dead,
       created_at, started_at, finished_at, start_by_at, finish_by_at
FROM tasks ORDER BY id
"""


class _Page(msgspec.Struct, frozen=True):
    tasks: list[Told]
    cursor: str | None = None


_page = msgspec.json.Decoder(_Page).decode
_error = msgspec.json.Decoder(TaskError).decode


def read_store(database: Path) -> list[Final]:
    """Return every task of the file, by a connection that cannot write."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [_final(row) for row in connection.execute(_QUERY)]


def is_sound(database: Path) -> str:
    """Return what SQLite says of its own file: `ok` if nothing is broken."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


async def read_api(session: aiohttp.ClientSession) -> dict[str, Outcome]:
    """Return the outcome of every task as the listing tells it, page by page."""
    found: dict[str, Outcome] = {}
    query: dict[str, Any] = {"limit": 200}
    while True:
        async with session.get("/v1/tasks", params=query) as answer:
            answer.raise_for_status()
            page = _page(await answer.read())
        for task in page.tasks:
            found[task.id] = outcome_of(task.state, task.output, task.error)
        if page.cursor is None:
            return found
        query["cursor"] = page.cursor


def _final(row: tuple[Any, ...]) -> Final:
    task_id, state, output, error, metadata, attempt, handed_back, max_attempts, dead, *times = row
    created_at, started_at, finished_at, start_by_at, finish_by_at = map(_moment, times)
    assert created_at is not None
    asked = msgspec.json.decode(metadata) if metadata else {}
    return Final(
        task_id=task_id,
        name=asked.get("ask", ""),
        outcome=outcome_of(
            TaskState(state),
            None if output is None else output.encode(),
            None if error is None else _error(error),
        ),
        attempt=attempt,
        handed_back=handed_back,
        max_attempts=max_attempts,
        is_dead=bool(dead),
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        start_by_at=start_by_at,
        finish_by_at=finish_by_at,
    )


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)
