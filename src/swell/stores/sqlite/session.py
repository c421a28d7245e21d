"""One transaction over the tasks of a SQLite file.

Tasks that have not ended stay in memory between transactions, since this process is the only one
that writes. A task is then never read on its way through the queue.
"""

import functools
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from swell.clock import Clock
from swell.db.columns import CHANGED, COLUMNS, NEW, Rows
from swell.db.sql import Row, Statements, to_json
from swell.fairness import VirtualClock
from swell.stores.ready import LinesCut
from swell.stores.session import (
    IDEMPOTENCY_TTL,
    MAX_LIVE_INPUT_BYTES,
    MAX_LIVE_TASKS,
    KnownKeys,
    Session,
    State,
    StoredTask,
)
from swell.task import NewTask, Task, next_wake_at, size_bytes

R = TypeVar("R")

STATEMENTS: Final = Statements("sqlite")
QUERIES: Final = STATEMENTS.all()

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(at: datetime) -> int:
    """Return a time as it is stored: microseconds since 1970 UTC."""
    return (at - _EPOCH) // _MICROSECOND


def moment(value: int | None) -> datetime | None:
    """Return the time that `micros` wrote."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


sqlite3.register_adapter(datetime, micros)
sqlite3.register_adapter(list, to_json)

#: `int`, since the sqlite3 module is slow to adapt a bool.
NATIVE: Final[Mapping[Any, Any]] = {datetime: (micros, moment), bool: (int, bool)}
_STORED, _NEW, _CHANGED = (Rows(columns, NATIVE) for columns in (COLUMNS, NEW, CHANGED))

_INSERT: Final = (
    f"INSERT INTO tasks (seq, wake_at, {', '.join(column.name for column in NEW)})"
    f" VALUES (?, ?{', ?' * len(NEW)})"
)
_UPDATE: Final = (
    "UPDATE tasks SET wake_at = ?2, "
    + ", ".join(f"{column.name} = ?{n}" for n, column in enumerate(CHANGED, 3))
    + " WHERE seq = ?1"
)


def stored_task(row: Sequence[Any]) -> StoredTask:
    """Return what a row of `{task}` has."""
    return StoredTask(_STORED.task(row[2:]), row[0], None)


class SqliteState(State):
    """What the writer keeps between its transactions: every task that has not ended, if small."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self.connection = connection
        [last] = fetch_rows(connection, "last_seq", {})
        self.seqs = itertools.count(last["seq"] + 1)
        lines, shares = (
            connection.execute(QUERIES[name]) for name in ("ready_lines", "open_shares")
        )
        self.restore(lines, shares)


class SqliteSession(Session):
    """The tasks as one transaction sees them; its coroutines never suspend."""

    state: SqliteState

    def __init__(self, state: SqliteState, clock: Clock) -> None:
        super().__init__(state, clock)
        self._seqs: dict[str, int] = {}

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        return self.state.clock(model, key_id, priority)

    def turns(self, model: str, urgency: int) -> VirtualClock:
        return self.state.turns[model, urgency]

    def _recall(self, task_id: str) -> StoredTask | None:
        return self.state.live.get(task_id)

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        self.flush()
        return fetch_rows(self.state.connection, query, values)

    async def known_keys(self, tasks: Sequence[NewTask]) -> KnownKeys:
        rows = [{"key_id": new.key_id, "key": new.idempotency_key} for new in tasks]
        oldest = self.now - IDEMPOTENCY_TTL
        return {
            (row["key_id"], row["key"]): (row["task_id"], row["fingerprint"])
            for row in await self.fetch("idempotent", rows=rows)
            if row["created_at"] > oldest
        }

    async def load(self, task_ids: Iterable[str]) -> None:
        missing = [task_id for task_id in task_ids if self.get(task_id) is None]
        if missing:
            for row in self._execute("tasks_by_id", {"ids": missing}):
                self._note(stored_task(row))

    async def due(self, limit: int) -> list[Task]:
        self.flush()
        rows = self._execute("due_tasks", {"now": self.now, "limit": limit})
        return [self._note(stored_task(row)) for row in rows]

    async def read_ready(self, cut: LinesCut) -> None:
        for read in self.ready.reads(cut):
            queue, key_id, urgency, *_, limit = read
            places = self._execute("ready_head", (*read[:-1], micros(self.now), limit))
            self.ready.note((queue, urgency, key_id), places, limit)
            await self.load([task_id for _, _, task_id in places])

    def _execute(self, query: str, parameters: Any) -> list[Any]:
        return self.state.connection.execute(QUERIES[query], parameters).fetchall()

    def forget(self, tasks: Iterable[Task]) -> None:
        """Read these tasks again, here and in later transactions: their rows will change."""
        for task in tasks:
            self._tasks.pop(task.id, None)
            self.state.live.pop(task.id, None)

    def flush(self) -> None:
        """Send changes to the database, for statements that must see them."""
        tasks, seqs = self._tasks, self._seqs
        if self._added:
            for task_id in self._added:
                seqs[task_id] = next(self.state.seqs)
            rows = [_NEW.of(tasks[each], seqs[each], _wake(tasks[each])) for each in self._added]
            self.state.connection.executemany(_INSERT, rows)
        if self._changed:
            rows = [
                _CHANGED.of(tasks[each], self._seq(each), _wake(tasks[each]))
                for each in self._changed
            ]
            self.state.connection.executemany(_UPDATE, rows)
        self._added, self._changed = {}, set()
        for (key_id, key), (task_id, fingerprint) in self.new_keys.items():
            values = {"key_id": key_id, "key": key, "task_id": task_id, "fingerprint": fingerprint}
            self.afterwards("keep_idempotent", **values, created_at=self.now)
        self.new_keys = {}
        if self._file_uses:
            self.afterwards("use_files", rows=self._file_uses)
            self._file_uses = []
        self._close_posts()
        after, self._after = self._after, []
        for query, parameters in after:
            fetch_rows(self.state.connection, query, parameters)

    def _seq(self, task_id: str) -> int:
        seq = self._seqs.get(task_id)
        return self._before[task_id].number if seq is None else seq

    def remember(self) -> None:
        """After the commit: keep the tasks that have not ended for the next transactions."""
        state, live = self.state, self.state.live
        if self.has_posted:
            state.posting.wake()
        self.ready.keep()
        state.last_model, state.passed = self.last_model, self.passed
        for task_id, task in self._tasks.items():
            is_small = size_bytes(task) <= MAX_LIVE_INPUT_BYTES
            if task.state.is_terminal or not is_small:
                live.pop(task_id, None)
            elif task_id in live or len(live) < MAX_LIVE_TASKS:
                live[task_id] = StoredTask(task, self._seq(task_id), None)


def _wake(task: Task) -> int | None:
    wake_at = next_wake_at(task)
    return None if wake_at is None else micros(wake_at)


def run_to_end(action: Awaitable[R]) -> R:
    """Run a coroutine that never suspends, so that one `async def` serves both databases."""
    assert isinstance(action, Coroutine)
    try:
        action.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    action.close()
    raise RuntimeError("a transaction awaited something other than its statements")


def fetch_rows(connection: sqlite3.Connection, query: str, values: Mapping[str, Any]) -> list[Row]:
    """Run a statement, once for each of its `rows` if it has any, and return its results."""
    sql, _ = STATEMENTS.find(query, values)
    if "rows" not in values:
        return _decoded(connection.execute(sql, values))
    others = {name: value for name, value in values.items() if name != "rows"}
    cursors = (connection.execute(sql, {**row, **others}) for row in values["rows"])
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
