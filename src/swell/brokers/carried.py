"""A broker whose queues lie elsewhere (Amazon SQS, NATS JetStream) and carry task ids.

The store keeps the truth. A queue elsewhere tells who might be next; what comes out of it is
started through the store, which refuses what is not to be run any more. So ids may come twice, late
or not at all: a task that is ready and was not started for a while is offered again.

What comes while a worker waits here is started in the store at once, and its id is never sent. The
order is that of the store's own broker, up to a window for what waits: see `window.py` and
docs/decisions/0026.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from msgspec.structs import replace

from swell import task as life
from swell.background import log_failure
from swell.broker import NOT_STAGED, Backlog, Depth, LeaseRequest, Order, Rank, ServedWith
from swell.brokers.intake import Arrival, Intake
from swell.brokers.lanes import Lane, Letter, Message, Queues, Turns, lane_of, letter_of, read
from swell.brokers.post import Post
from swell.brokers.window import Place, Window
from swell.clock import Clock
from swell.errors import SwellError
from swell.fairness import USUAL_PRIORITY, band
from swell.store import Hold, Start, Store
from swell.task import NewTask, Released, Settlement, Task, TaskState

_log = structlog.get_logger("swell.broker")

#: An id that was sent is looked up in the store after so long, in seconds.
_LOOK_S: Final = 1.0

#: The most ids of one lane that are looked up at once.
_LOOK_N: Final = 1000

#: What workers of this process may take any moment is sent after so long, in seconds.
_HOLD_BACK_S: Final = 0.05

#: A worker that has asked for so long ago is thought to ask again any moment, in seconds.
_CUSTOM_S: Final = 1.0

#: Ids that are of no use any more take up room in their lane for so long at most, in seconds.
_PASSED_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class CarriedSettings:
    """How much lies in queues elsewhere, and for how long."""

    #: The most ids in one lane that this process has put there.
    window: int = 256
    #: The most of these that one user of one key has.
    flow_window: int = 64
    #: A ready task that was not started for so long is offered again, in seconds.
    reoffer_s: float = 30.0
    #: A message that has come more often goes to the dead letters of the queues.
    max_receives: int = 20
    #: How long one long poll waits, in seconds.
    wait_s: float = 20.0


class CarriedBroker:
    """See `Broker`.

    Args:
        store: The truth.
        order: The store's own broker, which knows who is next.
        queues: Where the ids lie.
        clock: Real time, since the queues have no other.
        settings: Sizes and times.
    """

    def __init__(
        self,
        store: Store,
        order: Order,
        queues: Queues,
        clock: Clock,
        settings: CarriedSettings | None = None,
    ) -> None:
        self._store = store
        self._order = order
        self._queues = queues
        self._clock = clock
        self._settings = settings or CarriedSettings()
        self._intake = Intake(
            queues,
            clock,
            max_receives=self._settings.max_receives,
            wait_s=self._settings.wait_s,
        )
        self._post = Post(queues, self._note_unsent)
        self._windows: dict[Lane, Window] = {}
        self._fillings: dict[Lane, asyncio.Task[int]] = {}
        #: Task id → (attempt, the message that told of it), while this process knows of its lease.
        self._held: dict[str, tuple[int, Message]] = {}
        self._turns = Turns()
        #: What is ready and will be sent unless somebody takes it before: id → (when, task).
        self._fresh: dict[Lane, dict[str, tuple[float, Task]]] = {}
        #: Queue → until when workers here are thought to take what comes.
        self._custom: dict[str, float] = {}
        #: Queues in which something was ready when `feed` looked last.
        self._busy: set[str] = set()
        #: Whether the store refused the last start.
        self._is_doubtful = False
        self._is_leader = True
        self._told_buried = 0

    # ---- offering

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`. Sends what has room, and leaves the rest to whoever fills."""
        await self._order.offer(tasks)
        ready: dict[Lane, list[Task]] = {}
        for task in tasks:
            if self._held:
                self._let_go(task.id)
            if task.state is TaskState.QUEUED and task.available_at is None:
                ready.setdefault(lane_of(task), []).append(task)
        now_s = self._clock.monotonic_s()
        for lane, waiting in ready.items():
            if self._custom.get(lane.queue, now_s) > now_s:
                self._hold_back(lane, waiting, now_s)
            else:
                self._send_what_fits(lane, waiting)

    def _hold_back(self, lane: Lane, tasks: Iterable[Task], now_s: float) -> None:
        fresh = self._fresh.get(lane)
        if fresh is None:
            fresh = self._fresh[lane] = {}
            self._call_later(_HOLD_BACK_S, lane)
        due_s = now_s + _HOLD_BACK_S
        fresh.update((task.id, (due_s, task)) for task in tasks)

    def _call_later(self, after_s: float, lane: Lane) -> None:
        asyncio.get_running_loop().call_later(after_s, self._send_held_back, lane)

    def _send_held_back(self, lane: Lane) -> None:
        """Send what nobody here has taken in time."""
        fresh, now_s = self._fresh[lane], self._clock.monotonic_s()
        due: list[Task] = []
        while fresh and not self._intake.is_closed:
            task_id, (due_s, task) = next(iter(fresh.items()))
            if due_s > now_s:
                self._call_later(due_s - now_s, lane)
                break
            del fresh[task_id]
            due.append(task)
        else:
            del self._fresh[lane]
        if due:
            self._send_what_fits(lane, due)

    def _send_what_fits(self, lane: Lane, waiting: list[Task]) -> None:
        window = self._window(lane)
        if not window.is_behind and len(waiting) <= window.room:
            self._send(lane, sorted(waiting, key=_place))
            return
        # Others came before, or not all have room: the store knows who is next.
        window.is_behind = True
        if any(map(window.has_room_for, waiting)):
            self._fill_soon(lane)

    def _send(self, lane: Lane, tasks: Iterable[Task]) -> int:
        added = self._window(lane).add(tasks, self._clock.monotonic_s())
        self._post.send(lane, [letter_of(task) for task in added])
        return len(added)

    def _window(self, lane: Lane) -> Window:
        window = self._windows.get(lane)
        if window is None:
            settings = self._settings
            window = self._windows[lane] = Window(settings.window, settings.flow_window)
        return window

    def _note_unsent(self, lane: Lane, letters: Sequence[Letter]) -> None:
        window = self._window(lane)
        window.remove(letter.task_id for letter in letters)
        window.is_behind = True

    # ---- filling

    async def feed(self, *, is_leader: bool) -> int:
        """See `Broker.feed`.

        The leader fills the windows of all lanes; every process looks after what it has sent.
        """
        self._is_leader = is_leader
        for lane in list(self._windows):
            await self._look_after(lane)
        ready = {depth.queue: depth.ready for depth in await self._order.depths()}
        self._busy = {queue for queue, n in ready.items() if n}
        if is_leader:
            await self._fill_all(ready)
        else:
            for lane, window in self._windows.items():
                # What comes to this process may go on at once as long as nobody waits for room.
                window.is_behind = ready.get(lane.queue, 0) >= self._settings.window
        told, self._told_buried = self._told_buried, self._intake.buried
        return self._told_buried - told

    async def _fill_all(self, ready: Mapping[str, int]) -> None:
        for queue, n in ready.items():
            lanes = [Lane(queue, is_usual) for is_usual in (True, False)]
            known = sum(len(self._window(lane)) + len(self._fresh.get(lane, ())) for lane in lanes)
            if n > known:
                for lane in lanes:
                    self._window(lane).is_behind = True
                    await self._fill(lane)

    async def _look_after(self, lane: Lane) -> None:
        """Let go of ids that need no worker any more; send those again that nobody has taken."""
        window, now_s = self._window(lane), self._clock.monotonic_s()
        window.forget_passed(now_s - _PASSED_S)
        old = window.sent_before(now_s - _LOOK_S)[:_LOOK_N]
        tasks = await self._store.get([task_id for task_id, _ in old]) if old else []
        late: list[Letter] = []
        # What is still on its way there is not late, but its queue is slow.
        may_repeat = not self._post.is_sending(lane)
        for (task_id, place), task in zip(old, tasks, strict=True):
            if task is None or not _is_offer(task, place):
                window.remove([task_id])
            elif may_repeat and place.is_late(now_s, self._settings.reoffer_s):
                place.sent_s, place.again = now_s, place.again + 1
                late.append(letter_of(task, place.again))
        if late:
            _log.info("tasks were not started for long and are offered again", n=len(late))
            self._post.send(lane, late)
        if not (len(window) or window.is_behind or window.holds_passed):
            del self._windows[lane]

    async def _fill(self, lane: Lane) -> int:
        """Send more from the store, in fair order; return how many. One filling at a time."""
        filling = self._fillings.get(lane)
        if filling is None:
            filling = self._fillings[lane] = asyncio.create_task(self._fill_now(lane))
            filling.add_done_callback(lambda _: self._fillings.pop(lane, None))
            filling.add_done_callback(log_failure)
        await asyncio.wait([filling])
        return 0 if filling.cancelled() else filling.result()

    async def _fill_now(self, lane: Lane) -> int:
        window = self._window(lane)
        if not window.is_behind or window.room <= 0 or not self._is_leader:
            return 0
        room = min(window.room, _LOOK_N)
        try:
            tasks = await self._order.next_ready(
                lane.queue, room, is_usual=lane.is_usual, besides=window.offered
            )
        except SwellError as error:
            _log.warning("a queue was not filled", lane=lane.name, detail=error.detail)
            return 0
        # What does not fit sets it again.
        window.is_behind = len(tasks) >= room
        sent = self._send(lane, tasks)
        window.note_filled()
        return sent

    def _fill_soon(self, lane: Lane) -> None:
        if self._is_leader and lane not in self._fillings:
            filling = self._fillings[lane] = asyncio.create_task(self._fill_now(lane))
            filling.add_done_callback(lambda _: self._fillings.pop(lane, None))
            filling.add_done_callback(log_failure)

    # ---- leasing

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        """See `Broker.lease`.

        What came through the lane of one's only model is started first, since it has waited
        longest; then the store is asked. So work goes on while the lanes cannot be reached.
        """
        lanes = self._turns.lanes(request)
        if until is None:
            self._note_custom(request)
            started = await self._lease_now(request, lanes)
            self._fetch_soon(lanes, request.n)
            return started
        while not until.done() and not self._intake.is_closed:
            self._note_custom(request)
            if not self._intake.has_any(lanes):
                started = await self._lease_next(request, lanes, until)
            else:
                started = await self._lease_now(request, lanes)
                if started and until.done():
                    await self._hand_back(started)
                    return []
            if started:
                return started
        return []

    def _note_custom(self, request: LeaseRequest) -> None:
        until_s = self._clock.monotonic_s() + _CUSTOM_S
        for queue, _, _ in request.queues:
            self._custom[queue] = until_s

    def _fetch_soon(self, lanes: Iterable[Lane], n: int) -> None:
        """Have ids here before the next call, of lanes in which some may lie."""
        for lane in lanes:
            window = self._windows.get(lane)
            may_hold = window is not None and (len(window) > 0 or window.holds_passed)
            if may_hold or lane.queue in self._busy:
                self._intake.fetch_soon(lane, n)

    async def _lease_now(self, request: LeaseRequest, lanes: Sequence[Lane]) -> list[Task]:
        """Start what is there.

        Raises:
            Unavailable: The store cannot be reached, and nothing was started before.
        """
        started: list[Task] = []
        try:
            if self._is_doubtful:
                # What is taken out of a lane in vain has come once more.
                await self._store.check_writable()
                self._is_doubtful = False
            if len(request.models) == 1:
                await self._take([lane for lane in lanes if lane.is_usual], request, started)
            # How models take turns, the store knows best, and who is next among what is less urgent
            # or was not sent.
            if len(started) < request.n:
                tasks = await self._order.lease(replace(request, n=request.n - len(started)))
                self._note_passed(tasks)
                started += tasks
            await self._take(lanes, request, started)
        except SwellError:
            if not started:
                raise
        self._turns.note(request, [task.stage_model for task in started], later=_later(started))
        return started

    async def _take(
        self, lanes: Iterable[Lane], request: LeaseRequest, started: list[Task]
    ) -> None:
        """Start what has come through lanes, in their order, and add it."""
        for lane in lanes:
            while len(started) < request.n:
                arrivals = self._intake.kept(lane, request.n - len(started))
                if not arrivals:
                    break
                started += await self._start(arrivals, request)

    async def _lease_next(
        self, request: LeaseRequest, lanes: Sequence[Lane], until: "asyncio.Future[None]"
    ) -> list[Task]:
        """Wait in the store and at the lanes, whichever has something first.

        Empty where something came through a lane, or nothing until then.
        """
        enough = _Either(until)
        try:
            # Not in tasks of their own: each would let the worker wait for more turns of the loop.
            with self._intake.watch(lanes, request.n, enough.end):
                tasks = await self._order.lease(request, until=enough)
        finally:
            enough.end()
        self._note_passed(tasks)
        self._turns.note(request, [task.stage_model for task in tasks], later=_later(tasks))
        return tasks

    def _note_passed(self, tasks: Iterable[Task]) -> None:
        """Note that the store has started tasks without their ids."""
        now_s = self._clock.monotonic_s()
        by_lane: dict[Lane, set[str]] = {}
        for task in tasks:
            by_lane.setdefault(lane_of(task), set()).add(task.id)
        for lane, ids in by_lane.items():
            self._forget_fresh(lane, ids)
            window = self._windows.get(lane)
            useless = self._intake.drop(lane, ids)
            self._post.forget(useless)
            if window is None:
                continue
            window.passed(ids, now_s)
            window.came(map(read, useless))
            if window.is_low:
                self._fill_soon(lane)

    def _forget_fresh(self, lane: Lane, task_ids: Iterable[str]) -> None:
        fresh = self._fresh.get(lane)
        if fresh:
            for task_id in task_ids:
                fresh.pop(task_id, None)

    async def _start(self, arrivals: Sequence[Arrival], request: LeaseRequest) -> list[Task]:
        starts = [
            Start(
                task_id=arrival.task_id,
                queue=arrival.message.lane.queue,
                worker_id=request.worker_id,
                version=request.models[arrival.message.lane.model],
                token=life.new_token(),
                lease_s=request.lease_s,
            )
            for arrival in arrivals
        ]
        try:
            found = await self._store.start(starts)
        except BaseException:
            self._is_doubtful = True
            self._intake.restore(arrivals)
            raise
        started, dropped = [], []
        for arrival, task in zip(arrivals, found, strict=True):
            if task is None:
                dropped.append(arrival.message)
                window = self._window(arrival.message.lane)
                window.remove([arrival.task_id])
                window.came([arrival.task_id])
            else:
                self._let_go(task.id)
                self._held[task.id] = (task.attempt, arrival.message)
                started.append(task)
        self._post.forget(dropped)
        await self.started(started)
        return started

    async def _hand_back(self, tasks: Sequence[Task]) -> None:
        """Undo starts that nobody waits for any more."""
        settled = await self._store.settle(
            [
                Settlement(
                    task_id=task.id,
                    attempt=task.attempt,
                    token=task.lease_token or "",
                    outcome=Released(reason="undelivered"),
                )
                for task in tasks
            ]
        )
        await self.offer([task for task in settled if task is not None])

    # ---- what becomes of tasks

    async def started(self, tasks: Sequence[Task]) -> None:
        await self._order.started(tasks)
        for task in tasks:
            lane = lane_of(task)
            self._forget_fresh(lane, [task.id])
            window = self._windows.get(lane)
            if window is not None:
                window.remove([task.id])
                if window.is_low:
                    self._fill_soon(lane)

    async def ack(self, tasks: Sequence[Task]) -> None:
        await self._order.ack(tasks)
        for task in tasks:
            self._let_go(task.id)
            self._forget_fresh(lane_of(task), [task.id])
            window = self._windows.get(lane_of(task))
            if window is not None:
                window.remove([task.id])

    def _let_go(self, task_id: str) -> None:
        """Forget the message of an attempt that is over."""
        held = self._held.pop(task_id, None)
        if held is not None:
            self._post.forget([held[1]])

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> None:
        """See `Broker.extend`: the messages are held as long as the leases."""
        messages = []
        for hold in holds:
            attempt, message = self._held.get(hold.task_id, (0, None))
            if message is not None and attempt == hold.attempt:
                messages.append(message)
        self._post.extend(messages, lease_s)

    # ---- who waits: the store's side knows

    async def depths(self) -> list[Depth]:
        return await self._order.depths()

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        """See `Broker.ranks`: exact up to the window."""
        return await self._order.ranks(tasks, served_with=served_with)

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        return await self._order.rank_of_new(task, served_with=served_with)

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        return await self._order.backlogs(models, priority, served_with=served_with)

    async def close(self) -> None:
        await self._intake.close()
        fillings = list(self._fillings.values())
        for filling in fillings:
            filling.cancel()
        await asyncio.gather(*fillings, return_exceptions=True)
        await self._post.close()
        await self._queues.close()
        await self._order.close()


class _Either(asyncio.Future[None]):
    """Done once another future is, in the same moment, or once it is ended itself."""

    def __init__(self, other: "asyncio.Future[None]") -> None:
        super().__init__()
        self._other = other
        other.add_done_callback(self.end)

    def done(self) -> bool:
        """Whether either is done."""
        return super().done() or self._other.done()

    def end(self, _: object = None) -> None:
        """Be done."""
        self._other.remove_done_callback(self.end)
        if not super().done():
            self.set_result(None)


def _place(task: Task) -> tuple[int, float, str]:
    return task.priority, task.tag, task.id


def _is_offer(task: Task, place: Place) -> bool:
    """Whether a task is still as it was when it was put into a window."""
    is_ready = task.state is TaskState.QUEUED and task.available_at is None
    return is_ready and task.attempt == place.attempt


def _later(tasks: Iterable[Task]) -> int:
    """Return how many tasks are less urgent than usual."""
    return sum(band(task.priority) != USUAL_PRIORITY for task in tasks)
