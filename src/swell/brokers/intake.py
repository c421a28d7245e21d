"""How a process takes task ids out of lanes, for all its calls that ask for work.

A call that waits has one long poll open in each lane that it serves, which it shares with the other
calls that wait there. What comes for nobody any more goes back.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import structlog

from swell.background import log_failure
from swell.brokers.lanes import Lane, Message, Queues, read
from swell.clock import Clock
from swell.errors import SwellError

_log = structlog.get_logger("swell.broker")

#: What nobody has taken goes back after so long, in seconds.
_KEEP_S: Final = 0.25

#: How long to wait before a lane that failed is polled again, in seconds.
_AGAIN_S: Final = 0.5

#: The most that one long poll brings.
_POLL_N: Final = 64


class Arrival(msgspec.Struct, frozen=True):
    """A task id that came, and the message that it came in."""

    task_id: str
    message: Message


class _Watch:
    """Who waits for what comes through some lanes."""

    __slots__ = ("found", "lanes")

    def __init__(self, lanes: Sequence[Lane], found: Callable[[], None]) -> None:
        self.lanes = lanes
        self.found = found


class Intake:
    """What has come out of lanes and is not yet taken.

    Args:
        queues: Where from.
        clock: Real time, since it waits for others.
        max_receives: A message that has come more often goes to the dead letters of the queues.
        wait_s: How long one long poll waits.
    """

    def __init__(
        self, queues: Queues, clock: Clock, *, max_receives: int = 10, wait_s: float = 20.0
    ) -> None:
        self._queues = queues
        self._clock = clock
        self._max_receives = max_receives
        self._wait_s = wait_s
        self._waiting: dict[Lane, deque[Arrival]] = defaultdict(deque)
        self._polls: dict[Lane, asyncio.Task[None]] = {}
        #: How much the calls that wait would take from each lane.
        self._wanted: Counter[Lane] = Counter()
        #: When something was last wanted of each lane, on a clock that never goes back.
        self._asked_s: dict[Lane, float] = {}
        self._watches: dict[_Watch, None] = {}
        self._chores: set[asyncio.Future[Any]] = set()
        self._looking: asyncio.TimerHandle | None = None
        #: Messages that went to the dead letters.
        self.buried = 0
        self.is_closed = False

    def has_any(self, lanes: Iterable[Lane]) -> bool:
        """Whether something has come through one of these lanes that nobody has taken."""
        return any(self._waiting[lane] for lane in lanes)

    def kept(self, lane: Lane, n: int) -> list[Arrival]:
        """Return up to n ids that have come through a lane, without asking for more."""
        self._asked_s[lane] = self._clock.monotonic_s()
        waiting = self._waiting[lane]
        return [waiting.popleft() for _ in range(min(n, len(waiting)))]

    async def look(self, lane: Lane, n: int) -> list[Arrival]:
        """Return up to n ids that have come through a lane, or lie in it now.

        Raises:
            Unavailable: The lanes cannot be reached, and nothing was kept.
        """
        taken = self.kept(lane, n)
        if len(taken) < n:
            try:
                taken += await self._receive(lane, n - len(taken), 0.0)
            except BaseException as error:
                if taken and isinstance(error, SwellError):
                    return taken
                self.restore(taken)
                raise
        # Meanwhile others may have handed something back.
        return taken or self.kept(lane, n)

    def fetch_soon(self, lane: Lane, n: int) -> None:
        """Have up to n ids of a lane here for whoever asks next, without waiting for them."""
        lacks = min(n, _POLL_N) - len(self._waiting[lane])
        if lacks > 0 and lane not in self._polls and not self.is_closed:
            self._asked_s[lane] = self._clock.monotonic_s()
            self._polls[lane] = asyncio.create_task(self._fetch(lane, lacks))

    async def _fetch(self, lane: Lane, n: int) -> None:
        try:
            self._keep(await self._receive(lane, n, 0.0))
        except SwellError as error:
            _log.warning("a queue cannot be read", lane=lane.name, detail=error.detail)
            # Not over and over while its server is away.
            await self._clock.sleep(_AGAIN_S)
        finally:
            self._polls.pop(lane, None)
            self.wake()

    def drop(self, lane: Lane, task_ids: Collection[str]) -> list[Message]:
        """Keep these ids no longer; return the messages that they came in."""
        waiting = self._waiting[lane]
        dropped = [each.message for each in waiting if each.task_id in task_ids]
        if dropped:
            self._waiting[lane] = deque(each for each in waiting if each.task_id not in task_ids)
        return dropped

    async def wait(self, lanes: Sequence[Lane], n: int, until: "asyncio.Future[Any]") -> None:
        """Wait until something has come through one of the lanes, or `until` is done."""
        if until.done():
            return
        found = asyncio.Event()
        news = asyncio.ensure_future(found.wait())
        try:
            with self.watch(lanes, n, found.set):
                await asyncio.wait({news, until}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()

    @contextlib.contextmanager
    def watch(self, lanes: Sequence[Lane], n: int, found: Callable[[], None]) -> Iterator[None]:
        """Have a long poll open in each lane, and `found` called when something has come.

        It is called at once where something is there already, perhaps several times, and in the end
        where nothing will come any more.

        Args:
            lanes: Those to poll.
            n: How much is wanted of each.
            found: Must not raise.
        """
        watch = _Watch(lanes, found)
        self._wanted.update(dict.fromkeys(lanes, n))
        self._watches[watch] = None
        self._look_for(watch)
        try:
            yield
        finally:
            del self._watches[watch]
            self._wanted.subtract(dict.fromkeys(lanes, n))
            now_s = self._clock.monotonic_s()
            self._asked_s.update(dict.fromkeys(lanes, now_s))

    def _look_for(self, watch: _Watch) -> None:
        if self.is_closed or self.has_any(watch.lanes):
            watch.found()
            return
        for lane in watch.lanes:
            if lane not in self._polls:
                self._polls[lane] = asyncio.create_task(self._poll(lane))

    async def _poll(self, lane: Lane) -> None:
        """Poll a lane until something comes, or nobody wants it any more."""
        try:
            while self._wanted[lane] > 0:
                n = min(_POLL_N, self._wanted[lane])
                try:
                    arrivals = await self._receive(lane, n, self._wait_s)
                except SwellError as error:
                    _log.warning("a queue cannot be read", lane=lane.name, detail=error.detail)
                    await self._clock.sleep(_AGAIN_S)
                    continue
                except Exception:
                    _log.exception("a queue cannot be read", lane=lane.name)
                    await self._clock.sleep(_AGAIN_S)
                    continue
                if arrivals:
                    self._keep(arrivals)
                    return
        finally:
            # Whoever still waits opens another.
            self._polls.pop(lane, None)
            self.wake()

    async def _receive(self, lane: Lane, n: int, wait_s: float) -> list[Arrival]:
        """Receive messages; those that cannot be used go to the dead letters."""
        arrivals: list[Arrival] = []
        dead: list[Message] = []
        for message in await self._queues.receive(lane, n, wait_s=wait_s):
            task_id = read(message)
            if task_id is None or message.times > self._max_receives:
                dead.append(message)
            else:
                arrivals.append(Arrival(task_id, message))
        if dead:
            self._chore(self._bury(dead))
        return arrivals

    async def _bury(self, dead: list[Message]) -> None:
        await self._queues.bury(dead)
        self.buried += len(dead)
        for message in dead:
            _log.warning(
                "a message went to the dead letters of the queues",
                lane=message.lane.name,
                received=message.times,
                body=message.body[:200].decode(errors="replace"),
            )

    def _keep(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            self._waiting[arrival.message.lane].append(arrival)
        self._look_at_kept()

    def restore(self, arrivals: Iterable[Arrival]) -> None:
        """Keep what was not used for whoever comes next; after a moment without, it goes back."""
        back = list(arrivals)
        for arrival in reversed(back):
            self._waiting[arrival.message.lane].appendleft(arrival)
        if back:
            self.wake()
            self._look_at_kept()

    def _look_at_kept(self) -> None:
        if self._looking is None:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(_KEEP_S, self._put_back_unwanted)

    def _put_back_unwanted(self) -> None:
        self._looking = None
        old_s = self._clock.monotonic_s() - _KEEP_S
        for lane, kept in self._waiting.items():
            if not kept:
                continue
            is_wanted = self._wanted[lane] > 0 or self._asked_s.get(lane, old_s) > old_s
            if is_wanted and not self.is_closed:
                self._look_at_kept()
                continue
            messages = [arrival.message for arrival in kept]
            kept.clear()
            self._chore(self._queues.put_back(messages))

    def _chore(self, work: Awaitable[None]) -> None:
        """Do what nobody waits for. What fails is done by time: messages come again."""

        async def do() -> None:
            try:
                await work
            except SwellError as error:
                _log.warning("a message was not given back", detail=error.detail)

        chore = asyncio.ensure_future(do())
        chore.add_done_callback(log_failure)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def wake(self) -> None:
        """Let whoever waits look again."""
        for watch in list(self._watches):
            self._look_for(watch)

    async def close(self) -> None:
        """End all waiting, and put back what was not taken. Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        polls = list(self._polls.values())
        for poll in polls:
            poll.cancel()
        if self._looking is not None:
            self._looking.cancel()
        self._put_back_unwanted()
        self.wake()
        await asyncio.gather(*polls, *self._chores, return_exceptions=True)
