"""One transaction over the tasks in PostgreSQL, with optimistic locking.

All changes are written by one statement. It takes effect only if no other transaction has changed
one of these tasks since it was read: each row has an edition, compared under the row's lock. So a
row in memory can be outdated, and never overwrites the changes of another backend. After a
conflict everything runs again with rows that are locked as they are read (`is_careful`).

While one group is written, the next is prepared and assumes that the first succeeds. Another
backend may have written the edition that the first would have written. So if the first fails, the
next is prepared again, and a group that changes the same tasks waits for the first.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from swell.core.task import NewTask, Task, TaskState, next_wake_at
from swell.db.postgres.task_cache import REFRESH_SHARE, PostgresState
from swell.db.postgres.task_rows import WRITE_TASKS, stored_task, write_parameters
from swell.db.sql import Row, Statements, to_json
from swell.db.transaction import (
    IDEMPOTENCY_TTL,
    KnownKeys,
    LineId,
    Place,
    Session,
    StoredTask,
    place_of,
)

if TYPE_CHECKING:
    from swell.db.postgres.postgres_database import PostgresDatabase

STATEMENTS: Final = Statements("postgres")

#: Queues with ready tasks that other backends have changed are counted again this often, in
#: seconds.
RECOUNT_S: Final = 0.1


def _queries() -> dict[str, str]:
    queries = STATEMENTS.all() | {"write_tasks": WRITE_TASKS}
    # Tasks that another backend is about to lease are passed over.
    locked = queries["next_ready"].replace("/* lock */", "FOR UPDATE SKIP LOCKED")
    return queries | {"next_ready_locked": locked}


QUERIES: Final = _queries()


async def fetch_rows(connection: Any, query: str, values: Mapping[str, Any]) -> list[Row]:
    """Run a statement of `swell.db.sql` on a connection."""
    sql, parameters = STATEMENTS.find(query, values)
    ordered = [to_json(values[name]) if name == "rows" else values[name] for name in parameters]
    return [dict(row) for row in await connection.fetch(sql, *ordered)]


def lock_names(scope: str, keys: Iterable[str]) -> list[str]:
    """Return the names of advisory locks, in the order that every transaction uses."""
    return [f"{scope} {key}" for key in sorted(set(keys))]


class Stale(Exception):
    """Another transaction has changed a task since it was read. Nothing was written."""


class PostgresSession(Session):
    """The tasks as one transaction sees them.

    Args:
        database: Has the memory between transactions, and the time.
        connection: A connection that nothing else uses.
        is_careful: Lock all rows that are read, and use none in memory.
    """

    state: PostgresState

    def __init__(self, database: "PostgresDatabase", connection: Any, is_careful: bool) -> None:
        super().__init__(database.state, database.clock.now())
        self._connection = connection
        self._wait_for_writes = database.wait_for_writes
        self.is_careful = is_careful
        #: Whether other backends may lease from the same queues.
        self.has_peers = database.has_peers
        #: Whether a transaction of several statements is open on the connection.
        self.has_begun = False
        self._is_remembered = False
        self._mistakes = self.state.mistakes
        #: Tasks with rows found in memory.
        self._recalled: set[str] = set()

    # ---- reading

    async def _begin(self) -> None:
        if not self.has_begun:
            await self._wait_for_writes()
            await self._connection.execute("BEGIN")
            self.has_begun = True

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        await self._begin()
        return await fetch_rows(self._connection, query, values)

    async def known_keys(self, tasks: Sequence[NewTask]) -> KnownKeys:
        """Return known idempotency keys; only a careful session looks them up.

        Without care, a known key makes the write fail, and the session runs again with care.
        """
        if not self.is_careful:
            return {}
        rows = [{"key_id": new.key_id, "key": new.idempotency_key} for new in tasks]
        names = lock_names("idempotency", (f"{row['key_id']} {row['key']}" for row in rows))
        await self.fetch("advisory_lock", names=names)
        await self.fetch("forget_idempotent_keys", rows=rows, before=self.now - IDEMPOTENCY_TTL)
        return await super().known_keys(tasks)

    async def load(self, task_ids: Iterable[str]) -> None:
        missing = set()
        for task_id in set(task_ids).difference(self.tasks):
            row = None if self.is_careful else self.state.live.get(task_id)
            if row is None:
                missing.add(task_id)
            else:
                self._recalled.add(task_id)
                self._note(row)
        if not missing:
            return
        await self._wait_for_writes()
        # A task that was being written may be in memory as another row now.
        query = "tasks_by_id"
        if self.is_careful:
            await self._begin()
            query = "tasks_locked"
        for record in await self._connection.fetch(QUERIES[query], sorted(missing)):
            self._note(stored_task(record))

    async def due(self, limit: int) -> list[Task]:
        await self._begin()
        records = await self._connection.fetch(QUERIES["due_tasks"], self.now, limit)
        return [self._note(stored_task(record)) for record in records]

    async def count_again(self, queues: Sequence[str], *, is_wrong: bool = False) -> None:
        """Count the ready tasks of queues that other backends may have changed.

        If the counts were wrong, count all of these queues.
        """
        has_counted = any(queue in self.state.lines for queue in queues)
        if is_wrong:
            if has_counted and self.has_peers:
                await self._recount(queues)
            return
        unsure = [queue for queue in queues if queue in self.state.unsure]
        clock_s = asyncio.get_running_loop().time
        began_s = clock_s()
        # At once if none has tasks.
        if not unsure or (began_s < self.state.recount_at_s and has_counted):
            return
        await self._recount(unsure)
        took_s = clock_s() - began_s
        self.state.recount_at_s = began_s + max(RECOUNT_S, REFRESH_SHARE * took_s)

    async def _recount(self, queues: Sequence[str]) -> None:
        await self._wait_for_writes()
        self.state.unsure.difference_update(queues)
        rows = await self._connection.fetch(QUERIES["ready_lines_of"], list(queues))
        self.state.recount(queues, rows)
        # The database does not know them yet.
        self.count_changes(1, queues)

    async def read_lines(self, wanted: Sequence[LineId], n: int) -> None:
        """Read and reserve the next ready tasks of some lines."""
        await self._wait_for_writes()
        query = "next_ready"
        if self.is_careful or self.has_peers:
            await self._begin()
            query = "next_ready_locked"
        reads = self.reads(wanted, n)
        columns = map(list, zip(*reads, strict=True))
        records = await self._connection.fetch(QUERIES[query], *columns, self.now)
        places: dict[int, list[Place]] = {}
        for record in records:
            self._note(row := stored_task(record[1:]))
            places.setdefault(record["n"], []).append(place_of(row.task))
        for number, read in enumerate(reads, 1):
            self.note_read(read, places.get(number, []))

    # ---- writing

    async def close(self) -> None:
        """Do everything that comes before the write; from now on nothing is read or changed.

        Raises:
            Stale: Run again with care.
        """
        if not self._recalled <= self._changed:
            # A decision that changes nothing must not depend on a row in memory.
            raise Stale
        if self._file_uses:
            # A transaction that discards unused files waits.
            names = lock_names("files", (row["key"] for row in self._file_uses))
            await self.fetch("advisory_lock_shared", names=names)
            self.afterwards("use_files", rows=self._file_uses)
        if self._posts:
            self._close_posts()
        if self._after:
            await self._begin()

    def check(self) -> None:
        """Check that every group that this one assumed to be written was, or may still be.

        Raises:
            Stale: One was not: run again.
        """
        if self.state.mistakes != self._mistakes:
            raise Stale

    @property
    def written(self) -> set[str]:
        """Ids of the tasks that it writes."""
        return self._changed.union(self._added)

    async def write(self) -> None:
        """Write the changes, and make them durable.

        Raises:
            Stale: Another transaction was first; nothing was written.
        """
        if self._changed or self._added:
            keys = [(*scope, *found, self.now) for scope, found in sorted(self.new_keys.items())]
            parameters = write_parameters(map(self._row, self._changed), self._new(), keys)
            if not await self._connection.fetchval(WRITE_TASKS, *parameters):
                raise Stale
        for query, values in self._after:
            await fetch_rows(self._connection, query, values)
        if self.has_begun:
            await self._connection.execute("COMMIT")
            self.has_begun = False

    def _row(self, task_id: str) -> StoredTask:
        before, task = self._before[task_id], self.tasks[task_id]
        return StoredTask(task, before.number, _wake_of(before, task))

    def _new(self) -> list[StoredTask]:
        tasks = [self.tasks[task_id] for task_id in self._added]
        return [StoredTask(task, 0, next_wake_at(task)) for task in tasks]

    # ---- afterwards

    def remember(self) -> None:
        """Keep rows that the next transactions can use, as if they were written."""
        self._is_remembered = True
        for row in self._new():
            self.state.remember(row)
        for row in map(self._row, self._changed):
            self.state.remember(row._replace(number=row.number + 1))

    @property
    def taken(self) -> set[str]:
        """Queues of the ready tasks that it changed."""
        ready = (self._before[each].task for each in self._changed)
        return {task.queue for task in ready if task.is_ready}

    @property
    def left(self) -> set[str]:
        """Queues of the ready tasks that it made ready, or read and did not take."""
        return {task.queue for task in self.tasks.values() if task.is_ready}

    def forget(self) -> None:
        """After a failure: trust nothing that it touched, and undo its changes in memory."""
        self.undo()
        if self._is_remembered:
            self.state.mistakes += 1
        for task_id in self.tasks:
            self.state.live.pop(task_id, None)


def _wake_of(before: StoredTask, task: Task) -> Any:
    """Return when the sweeper next checks a task that is about to be written.

    Extending a lease leaves the time as it is, so that no index changes. The sweeper then finds the
    lease still held, and writes the same task with the right time.
    """
    wake_at = next_wake_at(task)
    if before.wake_at is None or wake_at is None or before.task is task:
        return wake_at
    was = before.task
    if was.state is task.state is TaskState.RUNNING and was.attempt == task.attempt:
        return min(before.wake_at, wake_at)
    return wake_at
