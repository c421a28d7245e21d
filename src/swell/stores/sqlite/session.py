"""One transaction over the tasks.

A session is an identity map with deferred writes: every task is read at most once, and what
changed is written at the end in one go. Tasks that have not ended stay in memory between
transactions, since this process is the only one that writes; a task then costs no read on its way
through the queue.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from swell.clock import Clock
from swell.db.deliveries import lines, new_rows
from swell.db.posting import Posting
from swell.fairness import VirtualClock
from swell.outbox import OVERTAKEN, Delivery
from swell.stores import steps
from swell.stores.lines import Waiting
from swell.stores.ready import LinesCut, ReadyTasks, is_ready
from swell.stores.sqlite.rows import insert_row, micros, run_row, save_row, task_of, warnings_row
from swell.task import Task, discarded, size_bytes

#: Tasks kept in memory between transactions, and the largest input that is worth it.
MAX_LIVE_TASKS = 50_000
MAX_LIVE_INPUT_BYTES = 4_096


class SessionState(Waiting):
    """What one writer keeps between its transactions."""

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, str]) -> None:
        super().__init__()
        self.connection = connection
        self.queries = queries
        #: Tasks that have not ended, as they are in the file.
        self.live: dict[str, tuple[int, Task]] = {}
        self.posting = Posting()
        (last,) = connection.execute(queries["last_seq"]).fetchone()
        self.seqs = itertools.count(last + 1)
        self.restore(
            connection.execute(queries["ready_lines"]), connection.execute(queries["open_shares"])
        )


class Session:
    """The tasks as one transaction sees them."""

    def __init__(self, state: SessionState, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._now: datetime | None = None
        self._seen: dict[str, tuple[int, Task]] = {}
        self._added: dict[str, int] = {}
        self._changed: set[str] = set()
        #: Those of both that are pipelines.
        self._runs: set[str] = set()
        #: Those whose warnings changed.
        self._warned: set[str] = set()
        self.ready = ReadyTasks(state, self.get)
        #: As in `Waiting`.
        self.last_model, self.passed = state.last_model, state.passed
        self._posts: list[Delivery] = []
        #: Whether deliveries were written that are due at once.
        self.posted = False

    @property
    def now(self) -> datetime:
        """The time of this transaction, from its first use on."""
        if self._now is None:
            self._now = self._clock.now()
        return self._now

    @property
    def state(self) -> SessionState:
        """What the writer keeps between transactions."""
        return self._state

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        """Return the clock of a key's users."""
        return self._state.clock(model, key_id, priority)

    def turns(self, model: str, urgency: int) -> VirtualClock:
        """Return the clock between the keys of a model and band."""
        return self._state.turns[model, urgency]

    def rows(self, query: str, parameters: Any = ()) -> list[Any]:
        """Run a named query over what was flushed so far."""
        return self._state.connection.execute(self._state.queries[query], parameters).fetchall()

    def run(self, query: str, parameters: Any = ()) -> int:
        """Run a named statement at once and return the number of rows changed."""
        return self._state.connection.execute(self._state.queries[query], parameters).rowcount

    def get(self, task_id: str) -> Task | None:
        """Return a task as this transaction sees it."""
        found = self._seen.get(task_id) or self._state.live.get(task_id)
        if found is None:
            rows = self.rows("task_by_id", (task_id,))
            if not rows:
                return None
            found = task_of(rows[0])
        self._seen[task_id] = found
        return found[1]

    def load(self, task_ids: Iterable[str]) -> None:
        """Read many tasks at once, so that `get` finds them."""
        missing = [
            task_id
            for task_id in task_ids
            if task_id not in self._seen and task_id not in self._state.live
        ]
        if len(missing) > 1:
            for row in self.rows("tasks_by_id", (msgspec.json.encode(missing).decode(),)):
                found = task_of(row)
                self._seen[found[1].id] = found

    def add(self, task: Task) -> Task:
        """Insert a new task, which is ready, and return it with its tag."""
        tagged = steps.tagged(self, task)
        seq = next(self._state.seqs)
        self._added[task.id] = seq
        if task.run is not None:
            self._runs.add(task.id)
        self._seen[task.id] = (seq, tagged)
        self.ready.add(tagged)
        return tagged

    def put(self, task: Task) -> None:
        """Write a task that `get` or `add` returned and that has changed."""
        task_id = task.id
        seq, before = self._seen[task_id]
        self._seen[task_id] = (seq, task)
        if task_id not in self._added:
            self._changed.add(task_id)
        if task.run is not None:
            self._runs.add(task_id)
        if before.warnings != task.warnings:
            self._warned.add(task_id)
        if before.checkpoint is not None or task.checkpoint is not None:
            for key in discarded(before, task):
                self.run("discard", (key,))
        if task.webhook is not None or self._state.posting.watches:
            self._tell(before, task)
        was_ready = is_ready(before)
        if was_ready is not is_ready(task):
            (self.ready.remove if was_ready else self.ready.add)(task)

    def _tell(self, before: Task, task: Task) -> None:
        """Write what is to be delivered because a task has changed."""
        posting = self._state.posting
        posts = posting.deliveries(before, task, self.now)
        if posts and posting.overtakes(task):
            if self._posts:
                self.flush()
            for line in lines(posts):
                self.run("overtake", {**line, "now": self.now, "reason": OVERTAKEN})
                if posting.drops_passing(task):
                    self.run("drop_passing", line)
        self._posts += posts

    def read_ready(self, cut: LinesCut) -> None:
        """Read tasks of the lines that a plan needs."""
        for read in self.ready.reads(cut):
            queue, key_id, urgency, *_, limit = read
            places = self.rows("ready_head", (*read[:-1], micros(self.now), limit))
            self.ready.note((queue, urgency, key_id), places, limit)
            self.load([task_id for _, _, task_id in places])

    def flush(self) -> None:
        """Send what is waiting to the database, for queries that must see it."""
        execute_many = self._state.connection.executemany
        if self._added:
            rows = [insert_row(seq, self._seen[task_id][1]) for task_id, seq in self._added.items()]
            execute_many(self._state.queries["insert_task"], rows)
        if self._changed:
            rows = [save_row(*self._seen[task_id]) for task_id in self._changed]
            execute_many(self._state.queries["save_task"], rows)
        if self._runs:
            rows = [run_row(*self._seen[task_id]) for task_id in self._runs]
            execute_many(self._state.queries["save_run"], rows)
        if self._warned:
            rows = [warnings_row(*self._seen[task_id]) for task_id in self._warned]
            execute_many(self._state.queries["save_warnings"], rows)
        self._added, self._changed, self._runs, self._warned = {}, set(), set(), set()
        if self._posts:
            execute_many(self._state.queries["post_deliveries"], new_rows(self._posts))
            self._posts, self.posted = [], True

    def remember(self) -> None:
        """After the commit: keep the tasks that have not ended for the next transactions."""
        if self.posted:
            self._state.posting.wake()
        self.ready.keep()
        self._state.last_model, self._state.passed = self.last_model, self.passed
        live = self._state.live
        for task_id, (seq, task) in self._seen.items():
            if task.state.is_terminal:
                live.pop(task_id, None)
            elif task.run is not None and size_bytes(task) > MAX_LIVE_INPUT_BYTES:
                # What its stages gave has grown.
                live.pop(task_id, None)
            elif task_id in live or (
                len(live) < MAX_LIVE_TASKS and len(memoryview(task.input)) <= MAX_LIVE_INPUT_BYTES
            ):
                live[task_id] = (seq, task)
