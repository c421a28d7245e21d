"""One transaction over the tasks, and what a backend remembers between transactions.

A session reads every task at most once, and writes all that changed at its end. Counts of ready
tasks and the clocks of fair queueing change at once; `Session.undo` restores them if the
transaction fails.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from swell.core import task as life
from swell.core.fair_queueing import Passed, VirtualClock, band, least_priority
from swell.core.outbox import OVERTAKEN, Delivery, Watch, deliveries_of, says_passing
from swell.core.pipeline_stages import Sight, may_run
from swell.core.store_types import IDEMPOTENCY_TTL_S
from swell.core.task import NewTask, Task, TaskState
from swell.db.sql import Row
from swell.db.webhook_deliveries import lines, new_rows

#: Clocks between the users of a key. Beyond these, clocks of keys without ready tasks are dropped.
MAX_CLOCKS: Final = 10_000

_QUEUED: Final = TaskState.QUEUED

IDEMPOTENCY_TTL: Final = timedelta(seconds=IDEMPOTENCY_TTL_S)

#: (API key, idempotency key) → (task, fingerprint in hexadecimal digits).
KnownKeys = dict[tuple[str, str], tuple[str, str]]

#: (queue, band, key): the ready tasks of one key in one queue and band, ordered by `place_of`.
LineId = tuple[str, int, str]

#: (priority, tag, id)
Place = tuple[int, float, str]

#: (model, key, priority)
ClockId = tuple[str, str, int]

#: (queue, key, highest priority, *place to read after, limit): parameters of one read.
Read = tuple[str, str, int, int, float, str, int]


def place_of(task: Task) -> Place:
    """Return the place of a task in its line."""
    return task.priority, task.tag, task.id


class Line(msgspec.Struct):
    """Counts ready tasks and their samples, such as those of one key in one queue and band."""

    n: int = 0
    samples: int = 0

    def add(self, n: int, samples: int) -> None:
        """Add to both counts; negative numbers subtract."""
        self.n += n
        self.samples += samples


class State:
    """What a backend keeps in memory between its transactions."""

    def __init__(self) -> None:
        #: Queue → band → key → its ready tasks, in order of arrival; none is empty.
        self.lines: dict[str, dict[int, dict[str, Line]]] = {}
        #: Queues that other backends may have changed since their tasks were counted.
        self.unsure: set[str] = set()
        #: (model, band) → clock between keys. A task gets this tag when it is leased.
        self.turns: dict[tuple[str, int], VirtualClock] = defaultdict(VirtualClock)
        #: Clocks between users. A task gets this tag when it is ready.
        self.clocks = _Clocks(self.lines)
        #: The model of the last lease.
        self.last_model: str | None = None
        self.passed: Passed = {}
        #: The standing endpoints for which this process writes webhook deliveries.
        self.watches: tuple[Watch, ...] = ()
        #: Wakes the dispatcher: deliveries were written.
        self.wake_dispatcher: Callable[[], None] = lambda: None

    def queues_of(self, model: str) -> list[str]:
        """Return the queues of a model and its versions that have ready tasks."""
        versions = f"{model}:"
        return [queue for queue in self.lines if queue == model or queue.startswith(versions)]

    def count(self, queue: str, priority: int, key_id: str, n: int, samples: int) -> LineId:
        """Add ready tasks and their samples to a line; negative numbers subtract."""
        urgency = band(priority)
        bands = self.lines.setdefault(queue, {})
        keys = bands.setdefault(urgency, {})
        line = keys.get(key_id)
        if line is None:
            line = keys[key_id] = Line()
        line.n += n
        line.samples += samples
        if line.n <= 0:
            del keys[key_id]
            if not keys:
                del bands[urgency]
            if not bands:
                del self.lines[queue]
        return queue, urgency, key_id

    def restore(self, lines: Iterable[Any], shares: Iterable[Any]) -> None:
        """Replace the counts by rows of `ready_lines`; advance the clocks by `open_shares`."""
        self.lines.clear()
        for row in lines:
            self.count(*row)
        found: dict[ClockId, tuple[list[Any], list[Any]]] = {}
        for model, key_id, priority, flow, was_served, tag, end in shares:
            both = found.setdefault((model, key_id, priority), ([], []))
            both[was_served].append((flow, tag, end - tag))
        for key, (waiting, served) in found.items():
            self.clocks[key].restore(waiting, served)


class _Clocks(dict[ClockId, VirtualClock]):
    """Clocks between the users of each key, created on their first use."""

    def __init__(self, lines: dict[str, dict[int, dict[str, Line]]]) -> None:
        super().__init__()
        self._lines = lines
        self._most = MAX_CLOCKS

    def __missing__(self, key: ClockId) -> VirtualClock:
        if len(self) >= self._most:
            bands = [keys for of_queue in self._lines.values() for keys in of_queue.values()]
            waiting = {key_id for keys in bands for key_id in keys}
            for idle in [each for each in self if each[1] not in waiting]:
                del self[idle]
            # As in `VirtualClock`, so that a use is cheap on average.
            self._most = max(MAX_CLOCKS, 2 * len(self))
        clock = self[key] = VirtualClock()
        return clock


class _Head(msgspec.Struct):
    """The first tasks of a line, as far as read."""

    task_ids: list[str]
    last: Place
    is_whole: bool


class Session:
    """The tasks as one transaction sees them.

    Args:
        state: The memory between transactions.
        now: The time of the transaction.
    """

    def __init__(self, state: State, now: datetime) -> None:
        self.state = state
        self.now = now
        #: Tasks that were loaded or added, as this transaction sees them.
        self.tasks: dict[str, Task] = {}
        #: Those that were loaded, as their rows have them.
        self._before: dict[str, Task] = {}
        self._added: dict[str, None] = {}
        self._changed: set[str] = set()
        #: The lines that were read.
        self.heads: dict[LineId, _Head] = {}
        #: Tasks that became ready in this transaction.
        self._fresh: dict[LineId, dict[str, None]] = {}
        #: (clock, flow, cost) of each tag that this transaction took.
        self._charged: list[tuple[VirtualClock, str, int]] = []
        #: Statements to run once the tasks are written.
        self._after: list[tuple[str, dict[str, Any]]] = []
        self._file_uses: list[Row] = []
        #: Delivery, whether it supersedes retries of older ones of its line, and unsent progress.
        self._posts: list[tuple[Delivery, bool, bool]] = []
        #: Whether it has written deliveries, which are due at once.
        self.has_posted = False
        #: Idempotency keys that are new in this transaction.
        self.new_keys: KnownKeys = {}
        #: Ended task → the task that repeats it since this transaction.
        self.repeats: dict[str, str] = {}

    # ---- different for each database

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        """Run a statement of `swell.db.sql` in the transaction."""
        raise NotImplementedError

    async def known_keys(self, tasks: Sequence[NewTask]) -> KnownKeys:
        """Return which idempotency keys of these requests are in the database."""
        rows = [{"key_id": new.key_id, "key": new.idempotency_key} for new in tasks]
        return {
            (row["key_id"], row["key"]): (row["task_id"], row["fingerprint"])
            for row in await self.fetch("idempotent", rows=rows)
            if row["created_at"] > self.now - IDEMPOTENCY_TTL
        }

    async def load(self, task_ids: Iterable[str]) -> None:
        """Add tasks to `tasks`, from memory or the database."""
        raise NotImplementedError

    async def before_lease(self, queues: Sequence[str], *, waits: bool) -> None:
        """Prepare for an action that leases from these queues, perhaps of a waiting worker."""

    async def after_empty_lease(self, queues: Sequence[str]) -> None:
        """Note that an action found nothing in these queues."""

    async def due(self, limit: int) -> list[Task]:
        """Return tasks after their time to wake."""
        raise NotImplementedError

    async def read_lines(self, wanted: Sequence[LineId], n: int) -> None:
        """Read the next ready tasks of some lines; n of all of them together."""
        raise NotImplementedError

    # ---- tasks

    def _note(self, task: Task) -> Task:
        """Take over a task that was read, and return it as this transaction sees it."""
        if task.id not in self.tasks:
            self._before.setdefault(task.id, task)
            self.tasks[task.id] = task
        return self.tasks[task.id]

    def add(self, task: Task) -> Task:
        """Insert a new task, which is ready, and return it with its tag.

        A pipeline gets a tag for each of its stages at once. So it does not wait there behind tasks
        that arrive later, and the turns of its user count in all of these queues.
        """
        run = task.run
        if run is None:
            task = msgspec.structs.replace(task, tag=self._tag(task, task.model))
        else:
            asked = Sight(run.pipeline, task.input)
            tags = tuple(
                self._tag(task, stage.model) if at >= run.at and may_run(stage, asked) else 0.0
                for at, stage in enumerate(run.pipeline.stages)
            )
            run = msgspec.structs.replace(run, tags=tags)
            task = msgspec.structs.replace(task, tag=tags[run.at], run=run)
        self._added[task.id] = None
        self.tasks[task.id] = task
        line = self.state.count(task.queue, task.priority, task.key_id, 1, task.count)
        self._fresh.setdefault(line, {})[task.id] = None
        return task

    def _tag(self, task: Task, model: str) -> float:
        clock, flow = self.state.clocks[model, task.key_id, task.priority], task.user or ""
        self._charged.append((clock, flow, task.count))
        return clock.tag(flow, task.count)

    def start(
        self, task: Task, *, worker_id: str, version: str, lease_s: float, token: str = ""
    ) -> Task:
        """Return a ready task as started, for `put`; its key and its user had their turns."""
        model, _, _ = task.queue.partition(":")
        self.state.clocks[model, task.key_id, task.priority].serve(task.tag)
        turns = self.state.turns[model, band(task.priority)]
        turns.tag(task.key_id, task.count, is_served=True)
        self._charged.append((turns, task.key_id, task.count))
        return life.start(
            task,
            worker_id=worker_id,
            version=version,
            token=token,
            now=self.now,
            lease_s=lease_s,
        )

    def put(self, task: Task) -> None:
        """Write a task that was loaded or added and has changed."""
        before = self.tasks[task.id]
        self.tasks[task.id] = task
        if task.id not in self._added:
            self._changed.add(task.id)
        was_ready = before.state is _QUEUED and before.available_at is None
        is_ready = task.state is _QUEUED and task.available_at is None
        if was_ready is not is_ready:
            n = 1 if is_ready else -1
            line = self.state.count(task.queue, task.priority, task.key_id, n, n * task.count)
            if is_ready:
                self._fresh.setdefault(line, {})[task.id] = None
        if (before.checkpoint or task.checkpoint) and (unused := life.discarded(before, task)):
            self.afterwards("discard", keys=unused)
        if task.webhook is not None or self.state.watches:
            self._note_posts(before, task)

    def undo(self) -> None:
        """After a failure: restore the counts and the clocks of the state."""
        self.count_changes(-1)
        for clock, flow, cost in self._charged:
            clock.give_back(flow, cost)

    def count_changes(self, sign: int, queues: Sequence[str] | None = None) -> None:
        """Add this transaction's changes to the counts of all or some queues; -1 subtracts them."""
        before = [(task, -sign) for task in self._before.values()]
        for task, n in [*before, *((task, sign) for task in self.tasks.values())]:
            if task.is_ready and (queues is None or task.queue in queues):
                self.state.count(task.queue, task.priority, task.key_id, n, n * task.count)

    # ---- lines

    def line_tasks(self, line: LineId) -> tuple[list[Task], bool]:
        """Return the ready tasks of a line in order as far as read, and whether these are all."""
        head, ids = self.heads.get(line), self._fresh.get(line, {})
        if head is not None:
            ids = dict.fromkeys(head.task_ids) | ids
        found = [
            task
            for task in map(self.tasks.get, ids)
            if task is not None and task.state is _QUEUED and task.available_at is None
        ]
        if len(found) > 1:
            found.sort(key=place_of)
        if head is None:
            queue, urgency, key_id = line
            counted = self.state.lines.get(queue, {}).get(urgency, {}).get(key_id)
            # A line is read only if it is counted to have more tasks than became ready here.
            has_more = counted is not None and counted.n > len(found)
            return ([], False) if has_more else (found, True)
        if head.is_whole:
            return found, True
        return [task for task in found if place_of(task) <= head.last], False

    def is_unread(self, line: LineId) -> bool:
        """Whether tasks of a line are counted, and none were read."""
        return line not in self.heads and not self.line_tasks(line)[1]

    def reads(self, wanted: Sequence[LineId], n: int) -> list[Read]:
        """Return the parameters of reads of some lines, each after the tasks read before."""
        share, found = -(-n // len(wanted)), []
        for queue, urgency, key_id in wanted:
            head = self.heads.get((queue, urgency, key_id))
            last = (least_priority(urgency), -1.0, "") if head is None else head.last
            # Twice as many each time, so that tasks that cannot be leased are soon passed.
            limit = share if head is None else max(share, len(head.task_ids))
            found.append((queue, key_id, urgency, *last, limit))
        return found

    def note_read(self, read: Read, places: Sequence[Place]) -> None:
        """Add the result of a read to the tasks read before."""
        queue, key_id, urgency, *_, limit = read
        head = self.heads.setdefault((queue, urgency, key_id), _Head([], (0, -1.0, ""), False))
        head.task_ids += [task_id for _, _, task_id in places]
        head.last = places[-1] if places else head.last
        head.is_whole = len(places) < limit

    # ---- other writes

    def use_files(self, task_id: str, keys: Iterable[str]) -> None:
        """Note which files a new task uses."""
        self._file_uses += [{"key": key, "task_id": task_id} for key in keys]

    def afterwards(self, query: str, **values: Any) -> None:
        """Run a statement of `swell.db.sql` after the tasks are written, in this transaction."""
        self._after.append((query, values))

    def _note_posts(self, before: Task, task: Task) -> None:
        watches, has_ended = self.state.watches, task.state.is_terminal
        overtakes, ends = task.attempt > 1 or has_ended, has_ended and says_passing(task, watches)
        posts = deliveries_of(before, task, watches, self.now)
        self._posts += [(each, overtakes, ends) for each in posts]

    def _take_statements(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the statements to run once the tasks are written, each one once."""
        if self.new_keys:
            rows = [
                {"key_id": key_id, "key": key, "task_id": task_id, "fingerprint": fingerprint}
                for (key_id, key), (task_id, fingerprint) in self.new_keys.items()
            ]
            self.afterwards("keep_idempotent", rows=rows, now=self.now)
        if self._file_uses:
            self.afterwards("use_files", rows=self._file_uses)
        if self._posts:
            self._close_posts()
        statements = self._after
        self.new_keys, self._file_uses, self._after = {}, [], []
        return statements

    def _close_posts(self) -> None:
        overtaking = lines(each for each, overtakes, _ in self._posts if overtakes)
        if overtaking:
            self.afterwards("overtake", rows=overtaking, now=self.now, reason=OVERTAKEN)
        ending = lines(each for each, _, ends in self._posts if ends)
        if ending:
            self.afterwards("drop_passing", rows=ending)
        self.afterwards("post_deliveries", rows=new_rows(each for each, _, _ in self._posts))
        self.has_posted, self._posts = True, []
