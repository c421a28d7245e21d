"""`swell.db.sql` over the SQLite writer."""

import functools
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from swell.clock import Clock
from swell.db.sql import Row, Statements, Transaction, to_json
from swell.stores.sqlite.rows import moment
from swell.task import Task, TaskState

if TYPE_CHECKING:
    from swell.stores.sqlite.file import SqliteDatabase
    from swell.stores.sqlite.session import Session

R = TypeVar("R")

_STATEMENTS = Statements("sqlite")

sqlite3.register_adapter(list, to_json)


class SqliteSql:
    """Statements over one SQLite file. Writes share the group commits of the task store."""

    def __init__(self, database: "SqliteDatabase") -> None:
        self._database = database

    @property
    def clock(self) -> Clock:
        return self._database.clock

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return _fetch(self._database.reader, query, values)

    async def scan(self, query: str, **values: Any) -> list[Row]:
        return await self._database.read_in_thread(
            lambda connection: _fetch(connection, query, values)
        )

    async def execute(self, query: str, **values: Any) -> list[Row]:
        return await self.transaction(lambda tx: tx.fetch(query, **values))

    async def transaction(self, action: Callable[[Transaction], Awaitable[R]]) -> R:
        return await self._database.write(lambda session: _run(action(_Transaction(session))))


class _Transaction:
    def __init__(self, session: "Session") -> None:
        self._session = session
        session.flush()  # changed tasks must be in the file before SQL reads them

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        return _fetch(self._session.state.connection, query, values)

    async def lock(self, scope: str, keys: Iterable[str]) -> None:
        """Do nothing: there is one writer."""

    async def running_tasks(self, task_ids: Iterable[str]) -> dict[str, Task]:
        tasks = map(self._session.get, task_ids)
        return {task.id: task for task in tasks if task and task.state is TaskState.RUNNING}


def _run(action: Awaitable[R]) -> R:
    """Run a coroutine that never suspends, so that one `async def` serves both databases."""
    assert isinstance(action, Coroutine)
    try:
        action.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    action.close()
    raise RuntimeError("a transaction awaited something other than its statements")


def _fetch(connection: sqlite3.Connection, query: str, values: dict[str, Any]) -> list[Row]:
    sql, _ = _STATEMENTS.find(query, values)
    if "rows" not in values:
        return _decoded(connection.execute(sql, values))
    cursors = (connection.execute(sql, {**row, **values}) for row in values.pop("rows"))
    return [found for cursor in cursors for found in _decoded(cursor)]


def _decoded(cursor: sqlite3.Cursor) -> list[Row]:
    rows = cursor.fetchall()
    if not rows:
        return []
    columns = [(name, _decoder(name)) for name, *_ in cursor.description]
    return [
        {
            name: decode(value) if decode else value
            for (name, decode), value in zip(columns, row, strict=True)
        }
        for row in rows
    ]


@functools.cache
def _decoder(name: str) -> Callable[[Any], Any] | None:
    if name == "at" or name.endswith(("_at", "_until")):
        return moment
    return bool if name.startswith(("is_", "has_")) else None
