"""What is there at the end: the store's own file, and what the API tells of it."""

import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from chaos.recorder import Told, outcome_of
from conformance.history import FileRead, Final, Outcome
from swell.core.store_types import TaskFilter
from swell.core.task import Artifact, TaskError, TaskState
from swell.db.task_store import Store

__all__ = ["is_sound", "read_api", "read_files", "read_pages", "read_store"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_QUERY = """
SELECT id, state, output, error, metadata, attempt, handed_back, max_attempts, dead,
       artifacts, created_at, started_at, finished_at, start_by_at, finish_by_at
FROM tasks ORDER BY id
"""


class _Page(msgspec.Struct, frozen=True):
    tasks: list[Told]
    cursor: str | None = None


_page = msgspec.json.Decoder(_Page).decode
_error = msgspec.json.Decoder(TaskError).decode
_artifacts = msgspec.json.Decoder(tuple[Artifact, ...]).decode


class _File(msgspec.Struct, frozen=True):
    url: str
    bytes: int


class _WithFiles(msgspec.Struct, frozen=True):
    artifacts: list[_File]


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


async def read_pages(store: Store) -> list[Final]:
    """Return every task of a store, as the store itself pages through them."""
    found: list[Final] = []
    cursor = None
    while True:
        page = await store.page(TaskFilter(), limit=500, cursor=cursor)
        for task in page.tasks:
            output = _stored(task.output and bytes(task.output), task.artifacts)
            found.append(
                Final(
                    task_id=task.id,
                    name=_name(task.metadata),
                    outcome=outcome_of(task.state, output, task.error),
                    mark=_mark(output),
                    has_files=bool(task.artifacts),
                    attempt=task.attempt,
                    handed_back=task.handed_back,
                    max_attempts=task.max_attempts,
                    is_dead=task.dead,
                    created_at=task.created_at,
                    started_at=task.started_at,
                    finished_at=task.finished_at,
                    start_by_at=task.start_by_at,
                    finish_by_at=task.finish_by_at,
                )
            )
        if page.cursor is None:
            return found
        cursor = page.cursor


async def read_files(session: aiohttp.ClientSession, finals: list[Final]) -> list[FileRead]:
    """Read the artifacts of every task that succeeded, as a user would."""
    found = []
    for final in finals:
        if not final.has_files or final.outcome.state is not TaskState.SUCCEEDED:
            continue
        async with session.get(f"/v1/tasks/{final.task_id}") as answer:
            files = msgspec.json.decode(await answer.read(), type=_WithFiles).artifacts
        wrong = "it has none" if not files else ""
        for file in files:
            async with session.get(file.url) as answer:
                data, status = await answer.read(), answer.status
            mark = final.mark.encode()
            made = (mark * (file.bytes // max(1, len(mark)) + 1))[: file.bytes]
            if status != 200 or data != made:
                wrong = f"{status}, {len(data)} of {file.bytes} bytes: {data[:40]!r}"
        found.append(FileRead(task_id=final.task_id, wrong=wrong))
    return found


def _final(row: tuple[Any, ...]) -> Final:
    task_id, state, output, error, metadata, attempt, handed_back, max_attempts, dead, *rest = row
    created_at, started_at, finished_at, start_by_at, finish_by_at = map(_moment, rest[1:])
    artifacts = () if rest[0] is None else _artifacts(rest[0])
    assert created_at is not None
    output = _stored(None if output is None else output.encode(), artifacts)
    return Final(
        task_id=task_id,
        name=_name(metadata),
        outcome=outcome_of(TaskState(state), output, None if error is None else _error(error)),
        mark=_mark(output),
        has_files=bool(artifacts),
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


def _stored(output: bytes | None, artifacts: tuple[Artifact, ...]) -> bytes | None:
    """Return an output that names its artifacts as `outcome_of` leaves them in an answer."""
    for index, artifact in enumerate(artifacts):
        if output is not None:
            output = output.replace(b'{"$artifact":%d}' % index, b'"%s"' % artifact.key.encode())
    return output


def _name(metadata: Any) -> str:
    return str(msgspec.json.decode(metadata).get("ask", "")) if metadata else ""


def _mark(output: bytes | None) -> str:
    value = msgspec.json.decode(output) if output else None
    return str(value.get("nonce", "")) if isinstance(value, dict) else ""


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)
