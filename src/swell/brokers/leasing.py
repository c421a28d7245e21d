"""The order of leases.

A plan is made from counts and from the lines that were read. If it needs more, it raises `LinesCut`
with the lines that are next; the broker reads these and plans again.
"""

import heapq
import itertools
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter

from swell import task as life
from swell.broker import LeaseRequest
from swell.fairness import (
    USUAL_PRIORITY,
    VirtualClock,
    band,
    lift,
    note_lifted,
    note_passed,
    prefer,
    rotate,
    take_bands,
    take_turns,
)
from swell.stores.draft_clocks import Draft
from swell.stores.ready import LineId, LinesCut, place_of
from swell.stores.session import Session
from swell.task import Task


class Plan:
    """The tasks of a lease. Nothing changes until `start`."""

    def __init__(self, session: Session, request: LeaseRequest) -> None:
        self._session = session
        self._request = request
        self._turns: dict[tuple[str, int], Draft] = {}
        self._passed = dict(session.passed)
        self.taken: list[Task] = []
        waiting = [
            (queue, model) for queue, model, _ in request.queues if session.ready.count(queue) > 0
        ]
        #: Model → band of its next task, where models take turns.
        self._heads: dict[str, int] = {}
        self._turn = order = list({model for _, model in waiting})
        due: set[str] = set()
        if len(order) > 1:
            for queue, model in waiting:
                urgency = min(session.ready.keys(queue), default=USUAL_PRIORITY)
                self._heads[model] = min(urgency, self._heads.get(model, urgency))
            lifted, due = lift(self._heads, session.passed)
            self._turn = order = rotate(lifted, session.last_model)
            if request.residents:
                order = prefer(order, lifted, request.residents, session.passed)
        for model in order:
            wanted = request.n - len(self.taken)
            if wanted <= 0:
                break
            queues = [queue for queue, of_model in waiting if of_model == model]
            wanted = 1 if model in due else wanted
            self.taken += itertools.islice(self._in_order(model, queues, wanted), wanted)

    def _in_order(self, model: str, queues: Sequence[str], n: int) -> Iterator[Task]:
        """Yield the ready tasks of a model in the order of service; about n are wanted."""
        bands, *more = [self._session.ready.keys(queue) for queue in queues]
        for each in more:
            for urgency, keys in each.items():
                bands[urgency] = bands.get(urgency, {}) | keys

        def of_band(urgency: int) -> Iterator[Task]:
            turns = self._turns[model, urgency] = Draft(self._session.turns(model, urgency))
            return _Lines(self._session, queues, urgency, bands[urgency], turns, n).in_order()

        return take_bands(model, bands, of_band, self._passed)

    def start(self) -> list[Task]:
        """Start the tasks of the plan."""
        session, request = self._session, self._request
        started = []
        for task in self.taken:
            running = life.start(
                task,
                worker_id=request.worker_id,
                version=request.models[task.stage_model],
                token=life.new_token(),
                now=session.now,
                lease_s=request.lease_s,
            )
            session.put(running)
            session.clock(task.stage_model, task.key_id, task.priority).serve(task.tag)
            started.append(running)
        for turns in self._turns.values():
            turns.keep()
        session.passed = self._passed
        if started:
            session.last_model = started[-1].stage_model
        if started and len(self._turn) > 1:
            note_passed(self._turn, {task.stage_model for task in started}, session.passed)
            if len(set(self._heads.values())) > 1:
                served = [(task.stage_model, band(task.priority)) for task in started]
                note_lifted(self._heads, served, session.passed)
        return started


class _Lines:
    """The lines of a model and band, over the queues that a worker serves.

    Args:
        keys: Keys with ready tasks.
        turns: The clock between the keys.
        n: How many tasks are wanted.
    """

    def __init__(
        self,
        session: Session,
        queues: Sequence[str],
        urgency: int,
        keys: Collection[str],
        turns: VirtualClock,
        n: int,
    ) -> None:
        self._session = session
        self._queues = queues
        self._urgency = urgency
        self._turns = turns
        self._n = n
        # The next n tasks are of the n keys that are next, not counting keys without a task to
        # lease; twice, so that these are soon passed.
        most = n + 2 * session.ready.n_read
        if len(keys) > most:
            nexts = heapq.nsmallest(most, turns.starts(keys))
            keys = [key_id for _, _, key_id in sorted(nexts, key=itemgetter(1))]
        self._keys = keys

    def in_order(self) -> Iterator[Task]:
        """Yield tasks in the order of service, at least n if there are as many."""
        return take_turns(self._turns, self._keys, self.of)

    def of(self, key_id: str) -> Iterator[tuple[float, Task]]:
        """Yield (cost, task) of one key in order, without those past a deadline.

        Raises:
            LinesCut: More must be read to know which is next.
        """
        now = self._session.now
        found: list[Task] = []
        last_of: dict[str, LineId] = {}
        for line in self._lines(key_id):
            tasks, is_whole = self._session.ready.tasks(line)
            if not is_whole:
                if not tasks:
                    raise self._cut(line)
                last_of[tasks[-1].id] = line
            found += tasks
        if len(self._queues) > 1:
            found.sort(key=place_of)
        for task in found:
            # The sweeper ends and announces expired tasks.
            if not life.is_expired(task, now):
                self._n -= 1
                yield task.count, task
            if task.id in last_of:
                raise self._cut(last_of[task.id])

    def _lines(self, key_id: str) -> list[LineId]:
        return [(queue, self._urgency, key_id) for queue in self._queues]

    def _cut(self, line: LineId) -> LinesCut:
        """Ask for a line; with one that was not read, for all that were not."""
        ready, n = self._session.ready, max(1, self._n)
        if not ready.is_unread(line):
            return LinesCut([line], n)
        nexts = [each for key_id in self._keys for each in self._lines(key_id)]
        return LinesCut(list(filter(ready.is_unread, nexts)), n)
