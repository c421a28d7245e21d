"""One transaction over the tasks: what both databases have in common.

A session reads every task at most once, and writes all that changed at its end.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from swell.clock import Clock
from swell.db.deliveries import lines, new_rows
from swell.db.posting import Posting
from swell.db.sql import Row
from swell.fairness import VirtualClock
from swell.outbox import OVERTAKEN, Delivery, deliveries_of, says_passing
from swell.store import IDEMPOTENCY_TTL_S
from swell.stores import steps
from swell.stores.lines import Waiting
from swell.stores.ready import LinesCut, ReadyTasks, is_ready
from swell.task import NewTask, Task, discarded

#: Tasks kept in memory between transactions, and the largest input that is kept.
MAX_LIVE_TASKS: Final = 50_000
MAX_LIVE_INPUT_BYTES: Final = 4_096

IDEMPOTENCY_TTL: Final = timedelta(seconds=IDEMPOTENCY_TTL_S)

#: (API key, idempotency key) → (task, fingerprint).
KnownKeys = dict[tuple[str, str], tuple[str, bytes]]


class StoredTask(NamedTuple):
    """A task as its row has it."""

    task: Task
    #: SQLite: the row's `seq`. PostgreSQL: its `edition`, which grows with each write.
    number: int
    wake_at: datetime | None


class State(Waiting):
    """What a backend keeps in memory between its transactions."""

    def __init__(self) -> None:
        super().__init__()
        #: Rows as they were written last.
        self.live: dict[str, StoredTask] = {}
        self.posting = Posting()


class Session:
    """The tasks as one transaction sees them.

    Args:
        state: The memory between transactions.
        clock: Gives the time of the transaction.
    """

    def __init__(self, state: State, clock: Clock) -> None:
        self.state = state
        self._clock = clock
        self._now: datetime | None = None
        self._tasks: dict[str, Task] = {}
        #: The rows of those of `_tasks` that were read.
        self._before: dict[str, StoredTask] = {}
        self._added: dict[str, None] = {}
        self._changed: set[str] = set()
        self.ready = ReadyTasks(state, self._tasks.get)
        #: Statements to run once the tasks are written.
        self._after: list[tuple[str, dict[str, Any]]] = []
        self._file_uses: list[Row] = []
        self._posts: list[Delivery] = []
        #: Deliveries that supersede retries of older ones of their lines, and unsent progress.
        self._overtaking: list[Delivery] = []
        self._ending: list[Delivery] = []
        #: Whether it has written deliveries, which are due at once.
        self.has_posted = False
        #: As in `Waiting`, with the changes of this transaction.
        self.last_model = state.last_model
        self.passed = dict(state.passed)
        #: Idempotency keys that are new in this transaction.
        self.new_keys: KnownKeys = {}
        #: Ended task → the task that repeats it since this transaction.
        self.repeats: dict[str, str] = {}

    @property
    def now(self) -> datetime:
        """The time of the transaction, from its first use on."""
        if self._now is None:
            self._now = self._clock.now()
        return self._now

    # ---- different for each database

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        """Run a statement of `swell.db.sql` in the transaction."""
        raise NotImplementedError

    async def known_keys(self, tasks: Sequence[NewTask]) -> KnownKeys:
        """Return which idempotency keys of these requests are in the database."""
        raise NotImplementedError

    async def load(self, task_ids: Iterable[str]) -> None:
        """Read tasks, so that `get` finds them."""
        raise NotImplementedError

    async def read_ready(self, cut: LinesCut) -> None:
        """Read ready tasks that a plan needs."""
        raise NotImplementedError

    async def count_again(self, queues: Sequence[str], *, is_wrong: bool = False) -> None:
        """Count the ready tasks of queues that other backends may have changed.

        If the counts were wrong, count all of these queues.
        """

    def clock(self, model: str, key_id: str, priority: int) -> VirtualClock:
        """Return the clock between the users of a key."""
        raise NotImplementedError

    def turns(self, model: str, urgency: int) -> VirtualClock:
        """Return the clock between the keys of a model and band."""
        raise NotImplementedError

    def _recall(self, task_id: str) -> StoredTask | None:
        """Return the row of a task if it is kept in memory."""
        raise NotImplementedError

    # ---- tasks

    def get(self, task_id: str) -> Task | None:
        """Return a task that was loaded, or is kept in memory, as this transaction sees it."""
        found = self._tasks.get(task_id)
        if found is None and (row := self._recall(task_id)) is not None:
            found = self._note(row)
        return found

    def _note(self, row: StoredTask) -> Task:
        """Take over a row that was read, and return its task as this transaction sees it."""
        task_id = row.task.id
        if task_id not in self._tasks:
            self._before[task_id] = row
            self._tasks[task_id] = row.task
        return self._tasks[task_id]

    async def due(self, limit: int) -> list[Task]:
        """Return tasks after their time to wake."""
        raise NotImplementedError

    def add(self, task: Task) -> Task:
        """Insert a new task, which is ready, and return it with its tag."""
        tagged = steps.tagged(self, task)
        self._added[task.id] = None
        self._tasks[task.id] = tagged
        self.ready.add(tagged)
        return tagged

    def put(self, task: Task) -> None:
        """Write a task that was read or added and has changed."""
        before = self._tasks[task.id]
        self._tasks[task.id] = task
        if task.id not in self._added:
            self._changed.add(task.id)
        if (before.checkpoint or task.checkpoint) and (unused := discarded(before, task)):
            self.afterwards("discard", keys=unused)
        if task.webhook is not None or self.state.posting.watches:
            self._note_posts(before, task)
        was_ready = is_ready(before)
        if was_ready is not is_ready(task):
            (self.ready.remove if was_ready else self.ready.add)(task)

    def _note_posts(self, before: Task, task: Task) -> None:
        watches = self.state.posting.watches
        posts = deliveries_of(before, task, watches, self.now)
        self._posts += posts
        if task.attempt > 1 or task.state.is_terminal:
            self._overtaking += posts
        if task.state.is_terminal and says_passing(task, watches):
            self._ending += posts

    # ---- other writes

    def use_files(self, task_id: str, keys: Iterable[str]) -> None:
        """Note which files a new task uses."""
        self._file_uses += [{"key": key, "task_id": task_id} for key in keys]

    def afterwards(self, query: str, **values: Any) -> None:
        """Run a statement of `swell.db.sql` after the tasks are written, in this transaction."""
        self._after.append((query, values))

    def _close_posts(self) -> None:
        if self._overtaking:
            rows = lines(self._overtaking)
            self.afterwards("overtake", rows=rows, now=self.now, reason=OVERTAKEN)
        if self._ending:
            self.afterwards("drop_passing", rows=lines(self._ending))
        if self._posts:
            self.afterwards("post_deliveries", rows=new_rows(self._posts))
            self.has_posted = True
        self._posts, self._overtaking, self._ending = [], [], []
