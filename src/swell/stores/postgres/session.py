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
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from swell.clock import Clock
from swell.db.deliveries import lines, new_rows
from swell.fairness import VirtualClock, band
from swell.outbox import OVERTAKEN, Delivery
from swell.stores import steps
from swell.stores.lines import Line
from swell.stores.postgres.clocks import Draft
from swell.stores.postgres.others import OVERLOOKED_S
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
from swell.stores.postgres.view import View, is_ready, place_of
from swell.task import Task, discarded, id_before

_LOCK_MARK: Final = "/* lock */"

#: Some statements also lock what they read. By id they wait for whoever else has the rows, and
#: nobody waits in a circle, since all lock in order of ids; in the queues they pass over what
#: another backend is about to hand out.
_LOCKS: Final = {"tasks_by_id": "FOR UPDATE", "heads": "FOR UPDATE SKIP LOCKED"}
_LOCKS["line"] = _LOCKS["heads"]


def _queries() -> dict[str, str]:
    queries = STATEMENTS.all()
    for name, lock in _LOCKS.items():
        queries[f"{name}_locked"] = queries[name].replace(_LOCK_MARK, lock)
    return queries


QUERIES: Final = _queries()

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL: Final = "~"

#: By as much the clocks of two backends may differ unnoticed: so much longer may what one has
#: accepted be passed over by the other.
_AHEAD: Final = timedelta(seconds=OVERLOOKED_S)

#: A lease of n tasks goes through so many times n in memory rather than ask the server.
MOST_RECALLED: Final = 4

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
        self._has_company = has_company
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
        #: From memory too, as what might be next: to be verified if it is looked at for more.
        self._peeked: set[str] = set()
        self._added: dict[str, Task] = {}
        self._changed: set[str] = set()
        #: Those of both that are pipelines.
        self._runs: set[str] = set()
        #: Those whose warnings changed.
        self._warned: set[str] = set()
        self._lines: dict[tuple[str, int, str], Line] = {}
        self._drafts: dict[tuple[Any, ...], Draft] = {}
        self._after: list[tuple[str, tuple[Any, ...]]] = []
        self._discarded: dict[str, None] = {}
        #: (file, task) of those that name files.
        self._uses: list[tuple[str, str]] = []
        self._posts: list[Delivery] = []
        #: What older deliveries of their lines need not be sent: what was tried, what passed by.
        self._overtaking: list[Delivery] = []
        self._ending: list[Delivery] = []
        #: Queues in which others' work has waited, or more than is recalled of one's own, and those
        #: that were read as they are.
        self._to_read: set[str] = set()
        self._read: set[str] = set()
        #: Those of which a task was taken that others may have made ready since the counts were
        #: read: what is counted there may be less than there is.
        self._uncounted: set[str] = set()
        self._empty: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        #: What is new of who takes turns among models, as in `State`.
        self.last_model = state.last_model
        self.passed = dict(state.passed)
        #: Queues in which others hold what is ready, for a moment.
        self.held_elsewhere: list[str] = []
        #: Whether others' work may have been passed over, since there was own work.
        self.passes_over = False
        self.view = View(self._tasks.__getitem__)
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
        if task_id in self._peeked:
            self._remembered.add(task_id)
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
        for task in self.note(await self._connection.fetch(statement, sorted(missing))):
            if task.id not in self.state.live:
                # It may have been remembered before, until somebody said otherwise.
                self.state.leave(task)

    def note(self, records: Iterable[Any]) -> list[Task]:
        """Take over tasks that were read, and return them as this transaction sees them."""
        found = []
        for record in records:
            task_id = record[0]
            if task_id not in self._tasks:
                row = self.state.live.get(task_id)
                if row is None or row.edition != record[1]:
                    row = row_of(record)
                self._before[task_id] = row
                self._tasks[task_id] = row.task
            found.append(self._tasks[task_id])
        return found

    def may_wait(self, queue: str) -> bool:
        """Whether something may be ready in a queue, as this transaction sees it."""
        if self.view.is_known(queue):
            return self.view.may_have_ready(queue)
        return self.state.may_wait(queue) or self.view.has_fresh(queue)

    def lines(self, queue: str) -> dict[int, Iterable[str]]:
        """Return band → keys of which something is ready, as far as is remembered.

        Who came first stands first.
        """
        found: dict[int, dict[str, None]] = {
            urgency: dict.fromkeys(lines)
            for urgency, lines in self.state.lines.get(queue, {}).items()
        }
        for (of_queue, urgency, key_id), line in self._lines.items():
            if of_queue == queue and line.n > 0:
                found.setdefault(urgency, {}).setdefault(key_id)
        return dict(found)

    async def look(self, queues: Sequence[str], n: int, *, is_only_read: bool = False) -> None:
        """Read what is next in some queues, as far as something may wait there: about n tasks.

        Args:
            queues: Those that were looked at before are left out.
            n: How many, of all queues together.
            is_only_read: None of it will be changed.
        """
        wanted = [queue for queue in queues if not self.view.is_known(queue)]
        self.view.know(wanted)
        waiting = [queue for queue in wanted if self.state.may_wait(queue)]
        locks = self._locks_what_it_reads and not is_only_read
        if locks and not self.is_careful:
            waiting = [queue for queue in waiting if not await self._recall_own(queue, n)]
            waiting = [queue for queue in waiting if self._may_be_left(queue)]
        told = {queue: self.state.told.get(queue, 0) for queue in waiting}
        if locks and not self.is_careful:
            waiting = [queue for queue in waiting if await self._is_left(queue)]
        elif not locks:
            waiting = [queue for queue in waiting if not self._recall(queue, n)]
        found = await self._look(waiting, n, locks) if waiting else set()
        if locks:
            left = [queue for queue in waiting if queue not in found]
            self.held_elsewhere += await self._some_ready(left)
        elif not self._has_company:
            self._seen |= {queue: told[queue] for queue in waiting}
        known = found.union(self.held_elsewhere, self.view.queues)
        self._empty |= {queue: times for queue, times in told.items() if queue not in known}

    async def _recall_own(self, queue: str, n: int) -> bool:
        """Take what is next of what this backend remembers, unless others' work has waited."""
        state, now_s = self.state, self._clock.monotonic_s()
        if not self.view.has_fresh(queue) and not state.has_known(queue):
            return False
        if state.others.are_due(queue, now_s):
            if await self._some_ready([queue], OVERLOOKED_S):
                self._to_read.add(queue)
                return False
            state.others.looked(queue, now_s)
        rows = state.known_ready(queue, MOST_RECALLED * n, self.now)
        if rows is None:
            self._to_read.add(queue)
            return False
        if not (rows or self.view.has_fresh(queue)):
            return False
        self.passes_over |= queue in state.told or queue in state.unremembered
        self._take_over(queue, rows)
        return True

    def _may_be_left(self, queue: str) -> bool:
        """Whether something may be ready in a queue that nobody is about to hand out.

        What workers of this backend do not take others tell of, and this one notes.
        """
        state = self.state
        return queue in self._to_read or queue in state.told or queue in state.unremembered

    async def _is_left(self, queue: str) -> bool:
        """Return whether to read a queue: others may have handed out what they told of."""
        if queue in self._to_read:
            return True
        if queue in self.state.ready and not self._can_wait(queue):
            return True
        # Most often there is nothing, and to see that needs no transaction.
        return bool(await self._some_ready([queue]))

    def _can_wait(self, queue: str) -> bool:
        return self.state.others.can_wait(queue, self._clock.monotonic_s())

    def _recall(self, queue: str, n: int) -> bool:
        """Take what is next in a queue from memory, if all that is ready there is remembered."""
        rows = self.state.all_ready(queue, MOST_RECALLED * n)
        if not rows:
            return False
        self._take_over(queue, rows)
        return True

    def _take_over(self, queue: str, rows: Iterable[Row]) -> None:
        """Put remembered tasks of a queue into the view, as all that there are."""
        lines: dict[str, list[Task]] = {}
        for row in rows:
            task = row.task
            if task.id not in self._tasks:
                self._peeked.add(task.id)
                self._before[task.id] = row
                self._tasks[task.id] = task
            lines.setdefault(task.key_id, []).append(task)
        for key_id, tasks in lines.items():
            tasks.sort(key=place_of)
            self.view.note(queue, key_id, tasks, len(tasks) + 1)

    async def _some_ready(self, queues: list[str], age_s: float = 0.0) -> list[str]:
        """Return those of some queues in which something is ready, whoever holds it now.

        Args:
            queues: Of these.
            age_s: What was accepted later than so long ago does not count, unless it seems to come
                from later than now: by then a clock that is ahead may be anywhere, and nobody can
                tell how long its tasks have waited.
        """
        if not queues:
            return []
        await self._land()
        until = ahead = _AFTER_ALL
        if age_s:
            until = id_before(self.now - timedelta(seconds=age_s))
            ahead = id_before(self.now + _AHEAD)
        rows = await self._connection.fetch(QUERIES["some_ready"], queues, until, ahead)
        return [queue for (queue,) in rows]

    async def _look(self, queues: list[str], n: int, locks: bool) -> set[str]:
        """Read what is next, about n tasks of all queues; return those in which was anything."""
        self._read.update(queues)
        statement = QUERIES["heads_locked" if locks else "heads"]
        records = await self._read_ready(statement, queues, n)
        lines: dict[tuple[str, str], list[Task]] = {}
        for task, record in zip(self.note(records), records, strict=True):
            # In the queue that was read: what this transaction has changed is looked at later.
            lines.setdefault((record[3], record[10]), []).append(task)
        for (queue, key_id), tasks in lines.items():
            self.view.note(queue, key_id, tasks, records[0][-1])
        return {queue for queue, _ in lines}

    def handed_out(self, queues: Iterable[str]) -> None:
        """Note in which queues something had its turn."""
        others, now_s = self.state.others, self._clock.monotonic_s()
        for queue in set(queues):
            others.handed_out(queue, now_s)
            if queue in self._read:
                others.looked(queue, now_s)

    async def look_further(self, queue: str, key_id: str, *, is_only_read: bool = False) -> None:
        """Read more of one line."""
        place, n = self.view.further(queue, key_id)
        locks = self._locks_what_it_reads and not is_only_read
        statement = QUERIES["line_locked" if locks else "line"]
        records = await self._read_ready(statement, queue, key_id, *place, n)
        self.view.note(queue, key_id, self.note(records), n)

    @property
    def _locks_what_it_reads(self) -> bool:
        return self.is_careful or self._has_company

    async def _read_ready(self, statement: str, *values: Any) -> list[Any]:
        await self._land()
        if self._locks_what_it_reads:
            await self.begin()
        records: list[Any] = await self._connection.fetch(statement, *values)
        return records

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
        self._count(task, 1)
        self.view.became_ready(tagged)
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
        was_ready, ready = is_ready(before), is_ready(task)
        if ready is not was_ready:
            self._count(task, 1 if ready else -1)
            if ready:
                self.view.became_ready(task)
            elif task_id in self._changed and task_id not in self.state.live:
                self._uncounted.add(task.queue)

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

    def _count(self, task: Task, by: int) -> None:
        key = (task.queue, band(task.priority), task.key_id)
        line = self._lines.setdefault(key, Line())
        line.add(by, by * task.count)

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
        for queue, told in self._empty.items():
            state.found_empty(queue, told)
        for queue, told in self._seen.items():
            state.found_some(queue, told)
        if self._has_company:
            state.tell(self._uncounted)
        self._count_lines(1)
        for task_id, task in self._added.items():
            state.remember(task_id, Row(task, 0, wake_of(None, task)))
        for task_id in self._changed:
            row = self._written(task_id)
            state.remember(task_id, row._replace(edition=row.edition + 1))

    def _count_lines(self, sign: int) -> None:
        for (queue, urgency, key_id), line in self._lines.items():
            if line.n or line.samples:
                self.state.count(queue, urgency, key_id, sign * line.n, sign * line.samples)

    @property
    def has_posted(self) -> bool:
        """Whether it wrote deliveries, which are due at once."""
        return bool(self._posts)

    @property
    def left(self) -> list[str]:
        """Queues in which it made something ready that is ready still."""
        return sorted({queue for (queue, _, _), line in self._lines.items() if line.n > 0})

    @property
    def taken(self) -> list[str]:
        """Queues in which it changed what was ready, and is again if that is not written."""
        ready = (self._before[each].task for each in self._changed)
        return sorted({task.queue for task in ready if is_ready(task)})

    def forget(self) -> None:
        """After a failure: trust nothing that it touched, and undo what was remembered."""
        if self._is_remembered:
            self._is_remembered = False
            self.state.mistakes += 1
            for draft in self._drafts.values():
                draft.take_back()
            self._count_lines(-1)
        self.state.forget(self._tasks)
        for row in self._before.values():
            # It is as it was before, most probably, whatever was remembered of it since.
            self.state.leave(row.task)
