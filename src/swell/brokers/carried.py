"""A broker whose queues lie elsewhere (Amazon SQS, NATS JetStream) and carry task ids.

The store keeps the truth. A queue elsewhere tells who might be next; what comes out of it is
started through the store, which refuses what is not to be run any more. So ids may come twice, late
or not at all: a task that is ready and was not started for a while is offered again.

The order is that of the store's own broker, up to a window: see `window.py` and
docs/decisions/0026-brokers-that-carry-ids.md.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from msgspec.structs import replace

from swell import task as life
from swell.broker import Backlog, Depth, LeaseRequest, Order, Rank
from swell.brokers.intake import Arrival, Intake
from swell.brokers.lanes import Lane, Letter, Message, Queues, Turns, lane_of, letter_of
from swell.brokers.post import Post
from swell.brokers.window import Place, Window
from swell.clock import Clock
from swell.errors import SwellError
from swell.store import Hold, Start, Store
from swell.task import NewTask, Released, Settlement, Task, TaskState

__all__ = ["CarriedBroker", "CarriedSettings"]

_log = structlog.get_logger("swell.broker")

#: An id that was sent is looked up in the store after so long, in seconds.
_LOOK_S: Final = 1.0

#: The most ids of one lane that are looked up at once.
_LOOK_N: Final = 1000

#: So much of a lease may pass until what was started is given to its worker, per queue that does
#: not answer.
_PART_OF_LEASE: Final = 0.1

#: How long a call that may not wait waits for what is on its way to this process, in seconds.
_PATIENCE_S: Final = 0.25


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
        #: Looks into lanes that take too long for whoever began them.
        self._late: set[asyncio.Task[list[Arrival]]] = set()
        #: Whether the store refused the last start.
        self._is_doubtful = False
        #: Set when ids were started.
        self._moved = asyncio.Event()
        self._is_leader = True
        self._told_buried = 0

    # ---- offering

    async def offer(self, tasks: Sequence[Task]) -> None:
        """See `Broker.offer`. Sends what has room, and leaves the rest to whoever fills."""
        await self._order.offer(tasks)
        ready: dict[Lane, list[Task]] = {}
        for task in tasks:
            self._let_go(task.id)
            if task.state is TaskState.QUEUED and task.available_at is None:
                ready.setdefault(lane_of(task), []).append(task)
        for lane, waiting in ready.items():
            window = self._window(lane)
            if not window.is_behind and len(waiting) <= window.room:
                self._send(lane, sorted(waiting, key=_place))
                continue
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
            if n > sum(len(self._window(lane)) for lane in lanes):
                for lane in lanes:
                    self._window(lane).is_behind = True
                    await self._fill(lane)

    async def _look_after(self, lane: Lane) -> None:
        """Let go of ids that need no worker any more; send those again that nobody has taken."""
        window, now_s = self._window(lane), self._clock.monotonic_s()
        old = window.sent_before(now_s - _LOOK_S)[:_LOOK_N]
        tasks = await self._store.get([task_id for task_id, _ in old]) if old else []
        late: list[Letter] = []
        for (task_id, place), task in zip(old, tasks, strict=True):
            if task is None or not _is_offer(task, place):
                window.remove([task_id])
            elif place.sent_s <= now_s - self._settings.reoffer_s:
                place.sent_s, place.again = now_s, place.again + 1
                late.append(letter_of(task, place.again))
        if late:
            _log.info("tasks were not started for long and are offered again", n=len(late))
            self._post.send(lane, late)
        if not len(window) and not window.is_behind:
            del self._windows[lane]

    async def _fill(self, lane: Lane) -> int:
        """Send more from the store, in fair order; return how many. One filling at a time."""
        filling = self._fillings.get(lane)
        if filling is None:
            filling = self._fillings[lane] = asyncio.create_task(self._fill_now(lane))
            filling.add_done_callback(lambda _: self._fillings.pop(lane, None))
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

    # ---- leasing

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        """See `Broker.lease`."""
        if until is None:
            await self._post.sent()
            return await self._lease(request, None, looks=True)
        looks = True
        while not until.done() and not self._intake.is_closed:
            started = await self._lease(request, until, looks=looks)
            if started:
                return started
            # From now on the long polls bring what there is.
            looks = False
            await self._intake.wait(self._turns.lanes(request), request.n, until)
        return []

    async def _lease(
        self, request: LeaseRequest, until: "asyncio.Future[None] | None", *, looks: bool
    ) -> list[Task]:
        """Start what is there, lane by lane.

        Raises:
            Unavailable: The queues or the store cannot be reached, and nothing was started before.
        """
        started: list[Task] = []
        try:
            await self._visit(request, until, started, looks=looks)
        except SwellError:
            if not started and not self._intake.is_closed:
                raise
        return started

    async def _visit(
        self,
        request: LeaseRequest,
        until: "asyncio.Future[None] | None",
        started: list[Task],
        *,
        looks: bool,
    ) -> None:
        """Go through the lanes of a worker in their order, and add what was started."""
        if self._is_doubtful:
            # What is taken out of a lane in vain has come once more.
            await self._store.check_writable()
            self._is_doubtful = False
        for lane in self._turns.lanes(request):
            if len(started) < request.n:
                wanted = replace(request, n=request.n - len(started))
                await self._drain(lane, wanted, until, started, looks=looks)
            # One that came too late is enough; the others are not asked.
            looks = looks and not self._late
        self._turns.note(request, [task.model for task in started])

    async def _drain(
        self,
        lane: Lane,
        request: LeaseRequest,
        until: "asyncio.Future[None] | None",
        started: list[Task],
        *,
        looks: bool,
    ) -> None:
        """Start up to n tasks of one lane, and add them."""
        enough = len(started) + request.n
        while len(started) < enough:
            window = self._windows.get(lane)
            sent = 0 if window is None else window.sent
            taking = self._take(lane, enough - len(started), looks=looks)
            arrivals = await (self._in_time(taking, request) if started else taking)
            if arrivals is None:
                break
            if until is not None and until.done():
                self._intake.restore(arrivals)
                break
            if arrivals:
                started += await self._start(arrivals, request, until)
            elif not looks or window is None or not await self._more(lane, window, sent):
                break

    async def _take(self, lane: Lane, n: int, *, looks: bool) -> list[Arrival]:
        await self._post.sent()
        patience_s = _PATIENCE_S if looks and lane in self._windows else 0.0
        return await self._intake.take(lane, n, looks=looks, patience_s=patience_s)

    async def _in_time(
        self, taking: Coroutine[Any, Any, list[Arrival]], request: LeaseRequest
    ) -> list[Arrival] | None:
        """Return what is taken, or None if that takes long beside a lease.

        The leases of what was started already run: a queue that does not answer must not keep it
        from its worker. What comes too late is kept for whoever comes next.
        """
        task = asyncio.ensure_future(taking)
        try:
            done, _ = await asyncio.wait({task}, timeout=request.lease_s * _PART_OF_LEASE)
        except BaseException:
            task.cancel()
            raise
        if done:
            return task.result()
        self._late.add(task)
        task.add_done_callback(self._keep_late)
        return None

    def _keep_late(self, task: "asyncio.Task[list[Arrival]]") -> None:
        self._late.discard(task)
        if not task.cancelled() and task.exception() is None:
            self._intake.restore(task.result())

    async def _more(self, lane: Lane, window: Window, sent: int) -> bool:
        """Fill a lane that seems empty; return whether more was sent than so many ids."""
        await self._fill(lane)
        if window.is_behind and window.sent == sent:
            # What lies there is being taken by others, which makes room in a moment.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), _PATIENCE_S)
            await self._fill(lane)
        return window.sent > sent

    async def _start(
        self,
        arrivals: Sequence[Arrival],
        request: LeaseRequest,
        until: "asyncio.Future[None] | None",
    ) -> list[Task]:
        starts = [
            Start(
                task_id=arrival.task_id,
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
                self._window(arrival.message.lane).remove([arrival.task_id])
            else:
                self._let_go(task.id)
                self._held[task.id] = (task.attempt, arrival.message)
                started.append(task)
        self._post.forget(dropped)
        await self.started(started)
        if until is not None and until.done():
            await self._hand_back(started)
            return []
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
        """See `Broker.started`."""
        await self._order.started(tasks)
        for task in tasks:
            lane = lane_of(task)
            window = self._windows.get(lane)
            if window is not None:
                window.remove([task.id])
                if window.is_low:
                    self._fill_soon(lane)
        self._moved.set()
        self._moved = asyncio.Event()

    async def ack(self, tasks: Sequence[Task]) -> None:
        """See `Broker.ack`."""
        await self._order.ack(tasks)
        for task in tasks:
            self._let_go(task.id)
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
        """See `Broker.depths`."""
        return await self._order.depths()

    async def ranks(self, tasks: Sequence[Task]) -> list[Rank | None]:
        """See `Broker.ranks`: exact up to the window."""
        return await self._order.ranks(tasks)

    async def rank_of_new(self, task: NewTask) -> Rank:
        """See `Broker.rank_of_new`."""
        return await self._order.rank_of_new(task)

    async def backlogs(self, models: Sequence[str], priority: int) -> list[Backlog]:
        """See `Broker.backlogs`."""
        return await self._order.backlogs(models, priority)

    async def close(self) -> None:
        """See `Broker.close`."""
        await self._intake.close()
        fillings: list[asyncio.Task[Any]] = [*self._fillings.values(), *self._late]
        for filling in fillings:
            filling.cancel()
        await asyncio.gather(*fillings, return_exceptions=True)
        await self._post.close()
        await self._queues.close()
        await self._order.close()


def _place(task: Task) -> tuple[int, float, str]:
    return task.priority, task.tag, task.id


def _is_offer(task: Task, place: Place) -> bool:
    """Whether a task is still as it was when it was put into a window."""
    is_ready = task.state is TaskState.QUEUED and task.available_at is None
    return is_ready and task.attempt == place.attempt
