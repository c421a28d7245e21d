"""A bus of many processes: one of memory in each, and a wire between them.

Listeners are served by the memory of their own process, at once and whatever becomes of the wire.
What happens in one process goes to the others in messages, a moment apart, each of which takes all
that came meanwhile; what nobody elsewhere is likely to wait for starts none. Of attempts that begin
and end between two messages, and that nobody elsewhere follows, the others are told together what
they learn from, and their ends (`Lives`). Messages of a process
are numbered, so a receiver knows when one is missing; it cannot get it back, but it can say so
(`NewsKind.MISSED`), and then the store is read.

Besides, each process says every second that it lives, and which tasks are listened to there: only
of these others send progress and previews. One that falls silent without a farewell may have died
between writing to the store and telling of it, so its silence counts as something missed.
"""

import asyncio
import contextlib
import math
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from swell.bus import News, NewsKind
from swell.buses.memory import MemoryBus, MemorySubscription
from swell.clock import Clock
from swell.errors import Unavailable
from swell.events import TERMINAL_ID, Brief, Event, EventKind, Lives, brief_of, lives_of

_log = structlog.get_logger("swell.buses")

#: What is worth sending only while somebody listens there.
_FADING: Final = frozenset({EventKind.PROGRESS, EventKind.PREVIEW})

#: What happens while an attempt goes on.
_WITHIN: Final = _FADING | {EventKind.ARTIFACT}

#: How often a process says that it lives, and after which silence it is taken for dead, in seconds.
BEAT_S: Final = 1.0
LOST_S: Final = 4.0

#: A process that listens to more tasks than this is told the progress of all.
_MOST_WATCHED: Final = 10_000
_ALL: Final = "*"

#: Messages of a process lie at least so far apart, in seconds: the first goes at once, and what
#: comes while many are told of goes together.
PAUSE_S: Final = 0.01

#: What probably nobody elsewhere waits for goes with the next message, or after so long, in
#: seconds.
LATER_S: Final = 0.1

#: Events that wait to be sent, and news that wait to be read; beyond that all count as missed.
_MOST_WAITING: Final = 20_000
#: A message takes no more events once it has so many bytes; a larger event is not sent.
_MESSAGE_BYTES: Final = 512 * 1024

#: Longest wait at the end for what is still on its way out, in seconds.
_FAREWELL_S: Final = 2.0


class Wire(Protocol):
    """Carries short messages from each process to all others.

    Guarantees:
        Messages of one sender arrive in their order, or not at all.
    """

    @property
    def limit_bytes(self) -> int:
        """The largest message."""
        ...

    async def open(self, take: Callable[[bytes], None], linked: Callable[[], None]) -> None:
        """Connect, and stay so: a lost server is sought until it is there again.

        Args:
            take: Called with each message of other processes; its own may come too.
            linked: Called after each time that the connection was lost and made again.

        Raises:
            Unavailable: There is no server.
        """
        ...

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send messages of UTF-8 in this order.

        Raises:
            Unavailable: There is no connection now. Some may have been sent.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        ...


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """An event on the wire."""

    task_id: str
    id: int
    kind: EventKind
    data: dict[str, Any]
    brief: Brief | None = None

    def event(self) -> Event:
        return Event(
            task_id=self.task_id, id=self.id, kind=self.kind, data=self.data, brief=self.brief
        )


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one process tells the others at once."""

    events: list[_Told] = []
    #: Told after these.
    lives: list[Lives] = []
    news: list[News] = []
    #: Tasks that are listened to from now on, and no longer.
    watch: list[str] = []
    unwatch: list[str] = []
    #: `watch` is all that is listened to.
    is_whole: bool = False
    #: Everybody is to tell the whole of theirs: the sender is new, or has missed something.
    asks: bool = False
    #: The sender ends.
    is_last: bool = False


#: About as many bytes are told of a life, or of an event without data.
_LIFE_BYTES: Final = 60
_EVENT_BYTES: Final = 100

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message).decode


class _Peer:
    """Another process, as its messages show it."""

    __slots__ = ("heard_s", "number", "parts", "watches")

    def __init__(self) -> None:
        self.heard_s = 0.0
        #: Of its last message; None before the first.
        self.number: int | None = None
        #: What has come of a message in parts.
        self.parts: list[bytes] = []
        self.watches: set[str] = set()


class WiredBus:
    """Local listeners and a wire. `open` it before use.

    Args:
        wire: To the other processes.
        clock: For the beat.
    """

    def __init__(self, wire: Wire, clock: Clock) -> None:
        self._wire = wire
        self._clock = clock
        self._here = MemoryBus(clock)
        self._name = secrets.token_hex(6)
        self._number = 0
        self._peers: dict[str, _Peer] = {}
        # Waits to be sent: starts after which nothing came yet, with when they are to be told, in
        # the loop's time; what is told one by one; and ends whose starts were not told.
        self._starts: dict[str, tuple[float, Event]] = {}
        self._events: deque[Event] = deque()
        self._ends: deque[Event] = deque()
        self._outgoing: list[News] = []
        #: What the others believe to be listened to here, and what they are to be told of it.
        self._told: set[str] = set()
        self._fresh: list[str] = []
        self._stale: list[str] = []
        self._is_whole_due = self._asks = False
        #: Whether something happened while nobody else was known.
        self._is_untold = False
        #: Whether something is to be sent now, and when what can wait is.
        self._is_due = False
        self._later: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        # Waits to be read here.
        self._incoming: list[News] = []
        self._arrived = asyncio.Event()
        self._is_ended = self._is_closed = False

    async def open(self) -> None:
        """Connect to the others.

        Raises:
            Unavailable: The server does not answer.
        """
        await self._wire.open(self._take, self._linked)
        self._beat = asyncio.create_task(self._keep_beat(), name="bus-beat")
        self._ask()

    # the contract

    async def publish(self, events: Sequence[Event]) -> None:
        """Tell everybody who listens, here and elsewhere. Never waits."""
        is_urgent = self._queue(events) if self._peers else self._keep_to_itself()
        self._here.correct(events)
        if is_urgent:
            self._send_soon()
        elif self._starts or self._has_events:
            self._send_later()

    def subscribe(self, task_id: str, *, after: int = -1) -> MemorySubscription:
        """Listen to a task, from the first event remembered whose id is larger than `after`."""
        subscription = self._here.subscribe(task_id, after=after)
        if after < TERMINAL_ID - 1 and task_id and task_id not in self._told:
            self._told.add(task_id)
            if self._peers:
                self._fresh.append(task_id)
                self._send_soon()
        return subscription

    def remembered(self, task_id: str, *, after: int = -1) -> Sequence[Event]:
        """Return what of a task's events whose id is larger than `after` is remembered here."""
        return self._here.remembered(task_id, after=after)

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks whose progress somebody listens to, here or elsewhere."""
        asked = list(task_ids)
        if any(_ALL in peer.watches for peer in self._peers.values()):
            return asked
        here = set(self._here.watched(asked))
        return [each for each in asked if each in here or self._is_watched_elsewhere(each)]

    def listened(self) -> list[str]:
        """Return the tasks that somebody listens to here."""
        return self._here.listened()

    def correct(self, events: Sequence[Event]) -> None:
        """Tell listeners here alone."""
        self._here.correct(events)

    async def tell(self, news: Sequence[News]) -> None:
        """Tell the other processes. Never waits."""
        if self._peers:
            self._outgoing += news
            self._send_soon()
        else:
            self._keep_to_itself()

    async def news(self) -> list[News]:
        """Wait for what others tell; empty once closed."""
        await self._arrived.wait()
        if self._is_ended:
            return []
        self._arrived.clear()
        news, self._incoming = self._incoming, []
        return news

    def end(self) -> None:
        """End all subscriptions here. Idempotent."""
        self._is_ended = True
        self._arrived.set()
        self._here.end()

    async def close(self) -> None:
        """End all subscriptions, send what is left, and say farewell. Idempotent."""
        if self._is_closed:
            return
        self.end()
        self._is_closed = True
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.gather(self._beat, return_exceptions=True)
            if self._later is not None:
                self._later.cancel()
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(_FAREWELL_S):
                    if self._sender is not None:
                        await self._sender
                    self._tell_due(math.inf)
                    while self._has_events:
                        await self._send(self._collect())
                    await self._send(_Message(is_last=True))
        if self._sender is not None:
            self._sender.cancel()
        await self._wire.close()

    # to the others

    def _is_watched_elsewhere(self, task_id: str) -> bool:
        return _is_in(task_id, [peer.watches for peer in self._peers.values()])

    @property
    def _has_events(self) -> bool:
        return bool(self._events or self._ends)

    def _queue(self, events: Iterable[Event]) -> bool:
        """Have events told, an end with its start where nothing was told of that attempt yet.

        Returns:
            Whether somebody elsewhere may wait for one: for what is watched there, and for an end
            that nobody waits for here, since who waits for an end alone tells nobody.
        """
        starts, due_s = self._starts, asyncio.get_running_loop().time() + LATER_S
        watches = [peer.watches for peer in self._peers.values() if peer.watches]
        is_urgent = False
        for event in events:
            task_id, kind = event.task_id, event.kind
            is_watched = bool(watches) and _is_in(task_id, watches)
            if kind in _FADING and not is_watched:
                continue
            is_end = event.is_terminal
            if is_watched or (is_end and not self._here.is_listened(task_id)):
                is_urgent = True
            start = starts.pop(task_id, None)
            if start is not None:
                if is_end and not is_watched and _is_one_life(start[1], event):
                    self._ends.append(event)
                    continue
                self._events.append(start[1])
            if kind is EventKind.STARTED and not is_watched and _is_alone(event):
                starts[task_id] = due_s, event
            else:
                self._events.append(event)
        if len(starts) + len(self._events) + len(self._ends) > _MOST_WAITING:
            self._give_up()
        return is_urgent

    def _keep_to_itself(self) -> bool:
        """Tell nobody, since nobody is there, and nothing of before; return that none waits."""
        self._is_untold = True
        if self._starts or self._has_events:
            self._drop()
        return False

    def _drop(self) -> None:
        self._starts.clear()
        self._ends.clear()
        self._events.clear()

    def _give_up(self) -> None:
        """Drop what waits, since it does not get away: the others see that a number is missing."""
        self._drop()
        self._number += 1

    def _ask(self) -> None:
        self._asks = self._is_whole_due = True
        self._send_soon()

    def _tell_due(self, now_s: float) -> None:
        """Have starts told that have waited long enough."""
        self._tell_starts([each for each, (due_s, _) in self._starts.items() if due_s <= now_s])

    def _tell_watched(self, watch: Sequence[str]) -> None:
        """Have starts told of tasks that somebody elsewhere follows from now on."""
        self._tell_starts(list(self._starts) if _ALL in watch else watch)

    def _tell_starts(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            start = self._starts.pop(task_id, None)
            if start is not None:
                self._events.append(start[1])

    def _forget_starts(self, events: Iterable[Event]) -> None:
        """Tell nothing of starts of attempts whose end another process has told by now."""
        for event in events:
            start = self._starts.get(event.task_id)
            if start is not None and event.id > start[1].id and event.kind not in _WITHIN:
                del self._starts[event.task_id]

    def _send_later(self) -> None:
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(LATER_S, self._send_events)

    def _send_events(self) -> None:
        self._later = None
        self._tell_due(asyncio.get_running_loop().time())
        if self._starts:
            self._send_later()
        if self._has_events:
            self._send_soon()

    def _send_soon(self) -> None:
        self._is_due = True
        if self._sender is None and not self._is_closed:
            self._sender = asyncio.create_task(self._send_all(), name="bus-sender")

    async def _send_all(self) -> None:
        """Send until nothing is due; what comes meanwhile goes with the next message."""
        try:
            while self._is_due:
                message = self._collect()
                # What was too much for one message.
                self._is_due = self._has_events
                await self._send(message)
                await asyncio.sleep(PAUSE_S)
        except Exception as error:
            # Others will miss these numbers, and read the store.
            if isinstance(error, Unavailable):
                _log.debug("a message to other backends was lost", detail=error.detail)
            else:
                _log.exception("a message to other backends was lost")
            self._give_up()
            self._outgoing.clear()
            self._is_whole_due = True
        finally:
            self._sender = None

    def _collect(self) -> _Message:
        events: list[_Told] = []
        size = 0
        while self._events and size < _MESSAGE_BYTES:
            event = self._events.popleft()
            brief = event.brief if event.task is None else brief_of(event.task)
            told = _Told(event.task_id, event.id, event.kind, event.data, brief)
            bytes_ = len(_encode(told)) if event.data else _EVENT_BYTES
            if bytes_ <= _MESSAGE_BYTES:
                events.append(told)
                size += bytes_
        n = max(0, (_MESSAGE_BYTES - size) // _LIFE_BYTES)
        ends = [self._ends.popleft() for _ in range(min(n, len(self._ends)))]
        news, self._outgoing = self._outgoing, []
        fresh, self._fresh = self._fresh, []
        stale, self._stale = self._stale, []
        is_whole, self._is_whole_due = self._is_whole_due, False
        asks, self._asks = self._asks, False
        return _Message(
            events=events,
            lives=lives_of(ends) if ends else [],
            news=news,
            watch=self._whole() if is_whole else fresh,
            unwatch=[] if is_whole else stale,
            is_whole=is_whole,
            asks=asks,
        )

    async def _send(self, message: _Message) -> None:
        self._number += 1
        await self._wire.send(
            _cut(_encode(message), self._name, self._number, self._wire.limit_bytes)
        )

    def _whole(self) -> list[str]:
        """Return what is listened to here, as it is told."""
        listened = self._here.watched(each for each in self._here.listened() if each)
        self._told = set(listened)
        return listened if len(listened) <= _MOST_WATCHED else [_ALL]

    async def _keep_beat(self) -> None:
        while True:
            await self._clock.sleep(BEAT_S)
            try:
                self._forget_silent()
                self._note_unwatched()
                self._send_soon()
            except Exception:
                _log.exception("the bus missed a beat")

    def _note_unwatched(self) -> None:
        """Have the others told what is listened to no longer."""
        before = self._told
        self._told = set(self._here.watched(before))
        if max(len(before), len(self._told)) > _MOST_WATCHED:
            self._is_whole_due = True
            return
        over = before - self._told
        # Of some they have not heard yet that it was.
        untold = over.intersection(self._fresh)
        self._fresh = [each for each in self._fresh if each not in untold]
        self._stale += over - untold

    # from the others

    def _linked(self) -> None:
        """Take up again after the connection was lost."""
        self._miss()
        self._ask()

    def _take(self, data: bytes) -> None:
        """Take a part of a message of another process."""
        if self._is_ended:
            return
        head, _, chunk = data.partition(b"\n")
        try:
            name, number, part, parts = (int(x) if n else x for n, x in enumerate(head.split(b" ")))
        except ValueError:
            _log.warning("what came over the bus is no message of a backend", head=head[:40])
            return
        sender = bytes(name).decode(errors="replace") if isinstance(name, bytes) else ""
        if sender == self._name:
            return
        peer = self._peers.get(sender)
        if peer is None:
            if self._is_untold:
                # It may have been there before, and have missed what was told to nobody.
                self._number += 1
                self._is_untold = False
            peer = self._peers[sender] = _Peer()
            # What is listened to here was told to nobody while nobody was known.
            self._is_whole_due = True
            self._send_soon()
        peer.heard_s = self._clock.monotonic_s()
        peer.parts = [chunk] if part == 0 else [*peer.parts, chunk]
        if len(peer.parts) != int(part) + 1:
            # The beginning is missing; so will be this message's number.
            peer.parts = []
        elif int(part) + 1 == int(parts):
            whole, peer.parts = b"".join(peer.parts), []
            self._read(sender, peer, int(number), whole)

    def _read(self, sender: str, peer: _Peer, number: int, data: bytes) -> None:
        try:
            message = _decode(data)
        except msgspec.MsgspecError:
            # Of a backend of another version.
            _log.warning("a message of another backend cannot be read", sender=sender)
            self._miss()
            return
        expected = peer.number is not None and number == peer.number + 1
        peer.number = number
        if not expected:
            # A new process, or one of which something is missing. What it sent before it knew of
            # this one is missing too.
            self._miss()
        if message.is_last:
            del self._peers[sender]
        elif not expected and not message.is_whole:
            self._ask()
        if message.asks and not message.is_last:
            self._is_whole_due = True
            self._send_soon()
        self._learn_of(peer, message)
        events = [each.event() for each in message.events]
        if self._starts:
            self._forget_starts(events)
        self._tell_here(events, message.lives, message.news)

    def _learn_of(self, peer: _Peer, message: _Message) -> None:
        """Learn what is listened to at another process."""
        if message.is_whole:
            peer.watches = set(message.watch)
        else:
            peer.watches.difference_update(message.unwatch)
            peer.watches.update(message.watch)
        if message.watch:
            if self._starts:
                self._tell_watched(message.watch)
            if self._has_events:
                # Some of it may be what is waited for there.
                self._send_soon()

    def _tell_here(self, events: list[Event], lives: Sequence[Lives], news: Sequence[News]) -> None:
        self._here.correct(events)
        for each in lives:
            self._here.tell_ends(each)
        changes = tuple(each for each in events if each.brief is not None)
        if changes or lives:
            self._incoming.append(News(kind=NewsKind.TASKS, events=changes, lives=tuple(lives)))
        self._incoming += news
        if len(self._incoming) > _MOST_WAITING:
            self._incoming.clear()
            self._miss()
        if self._incoming:
            self._arrived.set()

    def _miss(self) -> None:
        if not any(each.kind is NewsKind.MISSED for each in self._incoming):
            self._incoming.append(News(kind=NewsKind.MISSED))
            self._arrived.set()

    def _forget_silent(self) -> None:
        if self._is_ended:
            # Nobody is heard any more, and all are still told what happens.
            return
        oldest_s = self._clock.monotonic_s() - LOST_S
        for name in [name for name, peer in self._peers.items() if peer.heard_s < oldest_s]:
            del self._peers[name]
            self._miss()


def _is_in(task_id: str, watches: Iterable[set[str]]) -> bool:
    return any(task_id in each or _ALL in each for each in watches)


def _is_alone(start: Event) -> bool:
    """Whether a task begins that is no stage of a pipeline, which goes on."""
    return start.task is not None and start.task.run is None


def _is_one_life(start: Event, end: Event) -> bool:
    """Whether an end is that of the attempt which a start began."""
    began, ended = start.task, end.task
    return began is not None and ended is not None and began.attempt == ended.attempt


def _cut(data: bytes, name: str, number: int, limit_bytes: int) -> list[bytes]:
    """Return a message in parts within the limit, none of which ends within a character."""
    room = limit_bytes - 64
    ends: list[int] = []
    at = 0
    while at < len(data):
        end = min(len(data), at + room)
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        ends.append(end)
        at = end
    starts = [0, *ends[:-1]]
    return [
        b"%s %d %d %d\n" % (name.encode(), number, part, len(ends)) + data[start:end]
        for part, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
