"""One transaction over the tasks.

A session is an identity map with deferred writes: every task is read at most once, and all that
changed is written at the end by one statement. That statement takes effect only if no task that it
changes was changed by anybody else since it was read, now or in an earlier transaction: each row
has a edition, compared under the row's lock. So what a backend remembers can be stale, and is
never written over what another has done.

Where somebody was there before, all is undone and done once more with rows that are locked as they
are read (`is_careful`).

While one is being written the next is prepared, and takes what the first writes for written. An
edition only counts, so in place of the one that the first would have written there may be another's
with the same number. So whatever was prepared while a group was on its way that was not written is
prepared anew, and what changes the same tasks is not sent before the first is written.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any, Final

from swell.clock import Clock
from swell.db.deliveries import lines, new_rows
from swell.fairness import VirtualClock
from swell.outbox import OVERTAKEN, Delivery
from swell.stores import steps
from swell.stores.draft_clocks import Draft
from swell.stores.postgres.rows import (
    Row,
    changed_columns,
    new_columns,
    row_of,
    run_columns,
    wake_of,
    warnings_columns,
)
from swell.stores.postgres.sql import STATEMENTS, postgres_values
from swell.stores.postgres.state import State
from swell.stores.ready import LinesCut, ReadyTasks, is_ready
from swell.task import Task, discarded

_LOCK_MARK: Final = "/* lock */"

#: Some statements also lock what they read. By id they wait for whoever else has the rows, and
#: nobody waits in a circle, since all lock in order of ids; in the queues they pass over what
#: another backend is about to hand out.
_LOCKS: Final = {"tasks_by_id": "FOR UPDATE", "next_ready": "FOR UPDATE SKIP LOCKED"}


def _queries() -> dict[str, str]:
    queries = STATEMENTS.all()
    for name, lock in _LOCKS.items():
        queries[f"{name}_locked"] = queries[name].replace(_LOCK_MARK, lock)
    return queries


QUERIES: Final = _queries()

#: (key, idempotency key) → (task, fingerprint).
Kept = dict[tuple[str, str], tuple[str, bytes]]


def lock_of(*names: str) -> int:
    """Return the number of the advisory lock that these names stand for."""
    digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Stale(Exception):
    """Somebody else has changed a task since it was read. Nothing was written."""


class Session:
    """The tasks as one transaction sees them.

    Args:
        connection: On which nothing else runs.
        is_careful: Lock what is read, and use nothing that is remembered.
        has_company: Whether other backends may lease from the same queues.
        land: Waits until nothing of this process is being written.
    """

    def __init__(
        self,
        state: State,
        clock: Clock,
        connection: Any,
        *,
        is_careful: bool,
        has_company: bool,
        land: Callable[[], Awaitable[None]],
    ) -> None:
        self.state = state
        self._land = land
        self.is_careful = is_careful
        self.has_company = has_company
        self._clock = clock
        self._connection = connection
        self._now: datetime | None = None
        self._has_begun = False
        self._is_remembered = False
        self._mistakes = state.mistakes
        self._before: dict[str, Row] = {}
        self._tasks: dict[str, Task] = {}
        #: Read from memory, not from the table: to be verified.
        self._remembered: set[str] = set()
        self._added: dict[str, Task] = {}
        self._changed: set[str] = set()
        #: Those of both that are pipelines.
        self._runs: set[str] = set()
        #: Those whose warnings changed.
        self._warned: set[str] = set()
        self.ready = ReadyTasks(state, self._tasks.get)
        self._drafts: dict[tuple[Any, ...], Draft] = {}
        self._after: list[tuple[str, tuple[Any, ...]]] = []
        self._discarded: dict[str, None] = {}
        #: (file, task) of those that name files.
        self._uses: list[tuple[str, str]] = []
        self._posts: list[Delivery] = []
        #: What older deliveries of their lines need not be sent: what was tried, what passed by.
        self._overtaking: list[Delivery] = []
        self._ending: list[Delivery] = []
        #: What is new of who takes turns among models, as in `State`.
        self.last_model = state.last_model
        self.passed = dict(state.passed)
        self.kept: Kept = {}
        #: Ended task → the one that repeats it.
        self.repeats: dict[str, str] = {}

    @property
    def now(self) -> datetime:
        """The time of this transaction, from its first use on."""
        if self._now is None:
            self._now = self._clock.now()
        return self._now

    # ---- reading

    async def begin(self) -> None:
        """Make everything from here on one transaction of several statements. Idempotent."""
        if not self._has_begun:
            await self._land()
            await self._connection.execute("BEGIN")
            self._has_begun = True

    async def fetch(self, query: str, *values: Any) -> list[Any]:
        """Run a named query inside of the transaction."""
        await self.begin()
        rows: list[Any] = await self._connection.fetch(QUERIES[query], *values)
        return rows

    def get(self, task_id: str) -> Task | None:
        """Return a task that was loaded, or is remembered, as this transaction sees it."""
        found = self._tasks.get(task_id)
        if found is None and not self.is_careful:
            row = self.state.live.get(task_id)
            if row is not None:
                self._remembered.add(task_id)
                self._before[task_id] = row
                found = self._tasks[task_id] = row.task
        return found

    async def load(self, task_ids: Iterable[str]) -> None:
        """Read tasks, so that `get` finds them."""
        missing = {task_id for task_id in task_ids if self.get(task_id) is None}
        if not missing:
            return
        await self._land()
        # One that was being written may be remembered as something else now.
        statement = QUERIES["tasks_by_id"]
        if self.is_careful:
            await self.begin()
            statement = QUERIES["tasks_by_id_locked"]
        self.note(await self._connection.fetch(statement, sorted(missing)))

    def note(self, records: Iterable[Any]) -> list[Task]:
        """Take over tasks that were read, and return them as this transaction sees them."""
        found = []
        for record in records:
            task_id = record[0]
            if task_id not in self._tasks:
                self._before[task_id] = row = row_of(record)
                self._tasks[task_id] = row.task
            found.append(self._tasks[task_id])
        return found

    def may_wait(self, queue: str) -> bool:
        """Whether a task may be ready in a queue, as this transaction sees it."""
        return self.ready.count(queue) > 0 or queue in self.state.unsure

    async def count_ready(self, queues: Iterable[str]) -> None:
        """Count the ready tasks of some queues, in the place of what is remembered."""
        await self._land()
        self.state.unsure.difference_update(queues)
        rows = await self._connection.fetch(QUERIES["ready_lines_of"], list(queues))
        self.state.recount(queues, rows)

    async def read_ready(self, cut: LinesCut) -> None:
        """Read tasks of the lines that a plan needs; other backends cannot lease them meanwhile."""
        await self._land()
        statement = QUERIES["next_ready"]
        if self.is_careful or self.has_company:
            await self.begin()
            statement = QUERIES["next_ready_locked"]
        reads = self.ready.reads(cut)
        records = await self._connection.fetch(statement, *zip(*reads, strict=True), self.now)
        self.note(records)
        places: dict[int, list[tuple[int, float, str]]] = {}
        for record in records:
            places.setdefault(record[-1], []).append((record[9], record[17], record[0]))
        for n, (queue, key_id, urgency, *_, limit) in enumerate(reads, 1):
            self.ready.note((queue, urgency, key_id), places.get(n, []), limit)

    # ---- clocks

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        """Return the clock of a key's users, as it will stand."""
        key = (model, key_id, priority)
        draft = self._drafts.get(key)
        if draft is None:
            draft = self._drafts[key] = Draft(self.state.clock(*key))
        return draft

    def turns(self, model: str, urgency: int) -> VirtualClock:
        """Return the clock between keys, as it will stand."""
        draft = self._drafts.get((model, urgency))
        if draft is None:
            draft = self._drafts[model, urgency] = Draft(self.state.turns[model, urgency])
        return draft

    # ---- writing

    def add(self, task: Task) -> Task:
        """Insert a new task, which is ready, and return it with its tag."""
        tagged = steps.tagged(self, task)
        self._added[task.id] = tagged
        if task.run is not None:
            self._runs.add(task.id)
        self._tasks[task.id] = tagged
        self.ready.add(tagged)
        return tagged

    def put(self, task: Task) -> None:
        """Write a task that `get`, `note` or `add` returned and that has changed."""
        task_id = task.id
        before = self._tasks[task_id]
        self._tasks[task_id] = task
        if task_id in self._added:
            self._added[task_id] = task
        else:
            self._changed.add(task_id)
        if task.run is not None:
            self._runs.add(task_id)
        if before.warnings != task.warnings:
            self._warned.add(task_id)
        if before.checkpoint is not None or task.checkpoint is not None:
            self._discarded |= dict.fromkeys(discarded(before, task))
        if task.webhook is not None or self.state.posting.watches:
            self._note_posts(before, task)
        was_ready = is_ready(before)
        if was_ready is not is_ready(task):
            (self.ready.remove if was_ready else self.ready.add)(task)

    def _note_posts(self, before: Task, task: Task) -> None:
        """Note what is to be delivered because a task has changed."""
        posting = self.state.posting
        posts = posting.deliveries(before, task, self.now)
        self._posts += posts
        if posting.overtakes(task):
            self._overtaking += posts
            if posting.drops_passing(task):
                self._ending += posts

    def keep_key(self, key_id: str, key: str, task_id: str, fingerprint: bytes) -> None:
        """Keep an idempotency key; one that is there already makes the transaction fail."""
        self.kept[key_id, key] = (task_id, fingerprint)

    def use_files(self, task_id: str, keys: Iterable[str]) -> None:
        """Note which files a new task uses."""
        self._uses += [(key, task_id) for key in keys]

    def afterwards(self, query: str, *values: Any) -> None:
        """Run a named statement in the same transaction, after the tasks are written."""
        self._after.append((query, values))

    async def close(self) -> None:
        """Do all that comes before writing; from here on nothing is read or changed.

        Raises:
            Stale: What was decided must be decided anew, with care.
        """
        if not self._remembered <= self._changed:
            # What was decided by looking at a task alone must not come from memory.
            raise Stale
        if self._runs:
            self.afterwards("save_runs", *run_columns(self._tasks[each] for each in self._runs))
        if self._warned:
            warned = (self._tasks[each] for each in self._warned)
            self.afterwards("save_warnings", *warnings_columns(warned))
        if self._discarded:
            self.afterwards("discard", list(self._discarded))
        if self._uses:
            keys, task_ids = zip(*self._uses, strict=True)
            await self.fetch("lock_uses", sorted(map(lock_of, set(keys))))
            self.afterwards("use_files", keys, task_ids)
        self._close_posts()
        if self._after:
            await self.begin()

    def _close_posts(self) -> None:
        for query, posts, values in (
            ("overtake", self._overtaking, {"now": self.now, "reason": OVERTAKEN}),
            ("drop_passing", self._ending, {}),
        ):
            if posts:
                self.afterwards(query, *postgres_values(query, rows=lines(posts), **values))
        if self._posts:
            rows = new_rows(self._posts)
            self.afterwards("post_deliveries", *postgres_values("post_deliveries", rows=rows))

    def check(self) -> None:
        """See that all that was taken for written was, or may still be.

        Raises:
            Stale: Some of it was not, so all of this must be decided anew.
        """
        if self.state.mistakes != self._mistakes:
            raise Stale

    @property
    def written(self) -> set[str]:
        """Ids of the tasks that it writes."""
        return self._changed.union(self._added)

    async def write(self) -> None:
        """Write what has changed, and make it durable.

        Raises:
            Stale: Somebody else was there before; nothing was written.
        """
        await self._write_tasks()
        for query, values in self._after:
            await self._connection.execute(QUERIES[query], *values)
        if self._has_begun:
            await self._connection.execute("COMMIT")
            self._has_begun = False

    async def _write_tasks(self) -> None:
        new = new_columns(Row(task, 0, wake_of(None, task)) for task in self._added.values())
        kept: list[Any] = [[] for _ in range(5)]
        for (key_id, key), (task_id, fingerprint) in sorted(self.kept.items()):
            for column, value in zip(
                kept, (key_id, key, task_id, fingerprint, self.now), strict=True
            ):
                column.append(value)
        if self._changed:
            changed = changed_columns(self._written(task_id) for task_id in self._changed)
            is_current = await self._connection.fetchval(
                QUERIES["write_tasks"], *changed, *new, *kept
            )
            if not is_current:
                raise Stale
        elif self._added:
            await self._connection.execute(QUERIES["insert_tasks"], *new, *kept)

    def _written(self, task_id: str) -> Row:
        before = self._before[task_id]
        task = self._tasks[task_id]
        return Row(task, before.edition, wake_of(before, task))

    @property
    def has_begun(self) -> bool:
        """Whether a transaction of several statements is open on the connection."""
        return self._has_begun

    # ---- afterwards

    def remember(self) -> None:
        """Keep what the next transactions can use, as if it was written."""
        self._is_remembered = True
        state = self.state
        for draft in self._drafts.values():
            draft.keep()
        state.last_model, state.passed = self.last_model, self.passed
        self.ready.keep()
        for task_id, task in self._added.items():
            state.remember(task_id, Row(task, 0, wake_of(None, task)))
        for task_id in self._changed:
            row = self._written(task_id)
            state.remember(task_id, row._replace(edition=row.edition + 1))

    @property
    def has_posted(self) -> bool:
        """Whether it wrote deliveries, which are due at once."""
        return bool(self._posts)

    @property
    def taken(self) -> set[str]:
        """Queues of the ready tasks that it changed."""
        ready = (self._before[each].task for each in self._changed)
        return {task.queue for task in ready if is_ready(task)}

    def forget(self) -> None:
        """After a failure: trust nothing that it touched, and undo what was remembered."""
        if self._is_remembered:
            self._is_remembered = False
            self.state.mistakes += 1
            for draft in self._drafts.values():
                draft.take_back()
            self.ready.keep(-1)
        for task_id in self._tasks:
            self.state.live.pop(task_id, None)
