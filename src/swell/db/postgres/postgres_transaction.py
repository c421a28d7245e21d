"""One transaction over the tasks in PostgreSQL.

Each task that an action reads is locked until the commit, so no other transaction changes it in
between. A transaction that only inserts tasks is one statement.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from swell.core.fair_queueing import band
from swell.core.task import NewTask, Task, next_wake_at
from swell.db.columns import CHANGED, COLUMNS, NEW, POSTGRES_TYPES, Column, Rows
from swell.db.sql import Row, Statements, to_json
from swell.db.transaction import KnownKeys, LineId, Place, Session, State, place_of

if TYPE_CHECKING:
    from swell.db.postgres.postgres_database import PostgresDatabase

#: As in an update, the ID comes before the other columns.
_NEW: Final = tuple(column for column in NEW if column.name != "id")

STORED_ROWS, NEW_ROWS, CHANGED_ROWS = (Rows(columns, {}) for columns in (COLUMNS, _NEW, CHANGED))


def _arrays(columns: Iterable[Column]) -> str:
    """Return the rows of `columns_of`, with the name `c`."""
    types = {"id": "text", "wake_at": "timestamptz"}
    types |= {column.name: POSTGRES_TYPES.get(column.kind, "text") for column in columns}
    arrays = (f"${n}::{kind}[]" for n, kind in enumerate(types.values(), 1))
    return f"unnest({', '.join(arrays)}) AS c ({', '.join(types)})"


INSERT_TASKS: Final = (
    f"INSERT INTO tasks (id, wake_at, {', '.join(column.name for column in _NEW)})"
    f" SELECT * FROM {_arrays(_NEW)}"
)
UPDATE_TASKS: Final = (
    "UPDATE tasks AS t SET wake_at = c.wake_at, "
    + ", ".join(f"{column.name} = c.{column.name}" for column in CHANGED)
    + f" FROM {_arrays(CHANGED)} WHERE t.id = c.id"
)


def columns_of(rows: Rows, tasks: Iterable[Task]) -> list[tuple[Any, ...]]:
    """Return the parameters of `INSERT_TASKS` or `UPDATE_TASKS`."""
    return list(zip(*(rows.of(task, task.id, next_wake_at(task)) for task in tasks), strict=True))


STATEMENTS: Final = Statements("postgres")
QUERIES: Final = STATEMENTS.all() | {"insert_tasks": INSERT_TASKS, "update_tasks": UPDATE_TASKS}

#: Queues with ready tasks that other backends have changed are counted again this often, in
#: seconds, and at most after this many times the duration of the last count.
RECOUNT_S: Final = 0.1
REFRESH_SHARE: Final = 20.0


async def fetch_rows(connection: Any, query: str, values: Mapping[str, Any]) -> list[Row]:
    """Run a statement of `swell.db.sql` on a connection."""
    sql, parameters = STATEMENTS.find(query, values)
    ordered = [to_json(values[name]) if name == "rows" else values[name] for name in parameters]
    return [dict(row) for row in await connection.fetch(sql, *ordered)]


def lock_names(scope: str, keys: Iterable[str]) -> list[str]:
    """Return the names of advisory locks, in the order that every transaction uses."""
    return [f"{scope} {key}" for key in sorted(set(keys))]


class PostgresState(State):
    """Counts of ready tasks, and the clocks of fair queueing.

    With several backends they may be outdated, and are read again.
    """

    def __init__(self) -> None:
        super().__init__()
        #: When queues with ready tasks may be counted again, by the clock of the event loop.
        self.recount_at_s = 0.0

    def recount(self, queues: Iterable[str], lines: Iterable[Any]) -> None:
        """Replace the counts of some queues by the rows of `ready_lines_of`.

        Keys that were counted before stay in their order, before the others.
        """
        known = [
            (queue, urgency, key_id)
            for queue in queues
            for urgency, keys in self.lines.pop(queue, {}).items()
            for key_id in keys
        ]
        places = {line: place for place, line in enumerate(known)}

        def place(row: Any) -> int:
            queue, priority, key_id, *_ = row
            return places.get((queue, band(priority), key_id), len(places))

        for row in sorted(lines, key=place):
            self.count(*row)


class PostgresSession(Session):
    """The tasks as one transaction sees them.

    Args:
        database: Has the memory between transactions, and the time.
        connection: A connection that nothing else uses.
    """

    state: PostgresState

    def __init__(self, database: "PostgresDatabase", connection: Any) -> None:
        super().__init__(database.state, database.clock.now())
        self._connection = connection
        #: Whether a transaction of several statements is open on the connection.
        self.has_begun = False

    # ---- reading

    async def _begin(self) -> None:
        if not self.has_begun:
            await self._connection.execute("BEGIN")
            self.has_begun = True

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        await self._begin()
        return await fetch_rows(self._connection, query, values)

    async def known_keys(self, tasks: Sequence[NewTask]) -> KnownKeys:
        names = lock_names("idempotency", (f"{new.key_id} {new.idempotency_key}" for new in tasks))
        await self.fetch("advisory_lock", names=names)
        return await super().known_keys(tasks)

    async def load(self, task_ids: Iterable[str]) -> None:
        if missing := sorted(set(task_ids).difference(self.tasks)):
            await self._read("tasks_locked", missing)

    async def due(self, limit: int) -> list[Task]:
        return await self._read("due_tasks", self.now, limit)

    async def _read(self, query: str, *parameters: Any) -> list[Task]:
        await self._begin()
        records = await self._connection.fetch(QUERIES[query], *parameters)
        return [self._note(STORED_ROWS.task(record)) for record in records]

    async def before_lease(self, queues: Sequence[str], *, waits: bool) -> None:
        """Count the ready tasks of queues that other backends may have changed."""
        state = self.state
        if not waits:
            # A notification may be on its way.
            state.unsure.update(queues)
        unsure = [queue for queue in queues if queue in state.unsure]
        clock_s = asyncio.get_running_loop().time
        began_s = clock_s()
        has_counted = any(queue in state.lines for queue in queues)
        # At once if none has tasks.
        if not unsure or (began_s < state.recount_at_s and has_counted):
            return
        await self._recount(unsure)
        took_s = clock_s() - began_s
        state.recount_at_s = began_s + max(RECOUNT_S, REFRESH_SHARE * took_s)

    async def after_empty_lease(self, queues: Sequence[str]) -> None:
        """Count again if the counts were wrong: other backends leased the tasks."""
        if any(queue in self.state.lines for queue in queues):
            await self._recount(queues)

    async def _recount(self, queues: Sequence[str]) -> None:
        self.state.unsure.difference_update(queues)
        rows = await self._connection.fetch(QUERIES["ready_lines_of"], list(queues))
        self.state.recount(queues, rows)
        # The database does not know them yet.
        self.count_changes(1, queues)

    async def read_lines(self, wanted: Sequence[LineId], n: int) -> None:
        """Read and reserve the next ready tasks of some lines."""
        await self._begin()
        reads = self.reads(wanted, n)
        columns = map(list, zip(*reads, strict=True))
        records = await self._connection.fetch(QUERIES["next_ready"], *columns, self.now)
        places: dict[int, list[Place]] = {}
        for record in records:
            task = STORED_ROWS.task(record[1:])
            self._note(task)
            places.setdefault(record["n"], []).append(place_of(task))
        for number, read in enumerate(reads, 1):
            self.note_read(read, places.get(number, []))

    # ---- writing

    async def write(self) -> bool:
        """Write the changes, and make them durable; return whether there was anything to do."""
        if self._file_uses:
            # A transaction that discards unused files waits.
            names = lock_names("files", (row["key"] for row in self._file_uses))
            await self.fetch("advisory_lock_shared", names=names)
        statements = self._take_statements()
        if statements:
            await self._begin()
        has_work = self.has_begun or bool(self._added)
        written = (
            (INSERT_TASKS, NEW_ROWS, self._added),
            (UPDATE_TASKS, CHANGED_ROWS, self._changed),
        )
        for statement, rows, task_ids in written:
            if task_ids:
                columns = columns_of(rows, map(self.tasks.__getitem__, task_ids))
                await self._connection.execute(statement, *columns)
        for query, values in statements:
            await fetch_rows(self._connection, query, values)
        if self.has_begun:
            await self._connection.execute("COMMIT")
            self.has_begun = False
        return has_work

    @property
    def left(self) -> set[str]:
        """Queues of the ready tasks that it made ready, or read and did not take."""
        return {task.queue for task in self.tasks.values() if task.is_ready}
