"""An event bus of several processes: the in-process bus of each, connected by a wire.

Listeners get events of the same process at once, even while the wire is down. A process sends its
events to the others in one message per `PAUSE_S`. Messages are numbered and never sent again: a
receiver that finds a gap reports `MessageKind.MISSED`, and the backend reads the store.

Each process also sends a heartbeat, and one for each new listener, with the tasks that its
listeners follow, so that the others send progress and previews of these tasks only. A process that
dies may have written to the store without a message, so a missing heartbeat counts as a gap.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, Self, TypeVar

import msgspec
import structlog

from swell.core.clock import Clock
from swell.core.errors import Unavailable
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import TERMINAL_ID, Event, for_peers
from swell.pubsub.local_bus import TRANSIENT, MemoryBus, MemorySubscription

_log = structlog.get_logger("swell.buses")

#: Time between heartbeats, and the silence after which a process counts as dead, in seconds.
HEARTBEAT_S: Final = 1.0
LOST_S: Final = 4.0

#: The pause after each message, in seconds: later events wait and share the next message.
PAUSE_S: Final = 0.02

#: A process with more watched tasks than this gets the progress of all tasks.
_MOST_WATCHED: Final = 1000
_ALL: Final = "*"

#: A message gets no more events after this size; a larger event is sent alone.
_MESSAGE_BYTES: Final = 512 * 1024

#: `close` waits this long for queued messages, in seconds.
_CLOSE_S: Final = 2.0


class Wire(Protocol):
    """Carries messages from each process to all others.

    Guarantees:
        Messages of one sender arrive in their order, or not at all.
    """

    async def open(self, receive: Callable[[bytes], None], reconnected: Callable[[], None]) -> None:
        """Connect; after a lost connection, connect again and again.

        Args:
            receive: Called with each message of other processes, and maybe with own ones.
            reconnected: Called after each new connection except the first.

        Raises:
            Unavailable: The server does not answer.
        """

    async def send(self, data: bytes) -> None:
        """Send a message in UTF-8.

        Raises:
            Unavailable: There is no connection now, or the message is too large.
        """

    async def close(self) -> None:
        """Disconnect. Idempotent."""


#: Decoded or encoded.
EventT = TypeVar("EventT", Event, msgspec.Raw)


class _Message(msgspec.Struct, Generic[EventT], frozen=True, kw_only=True, omit_defaults=True):
    """What one process sends to the others at once."""

    sender: str
    #: Grows by one with each message of a sender.
    number: int
    events: list[EventT] = []
    peer_messages: list[PeerMessage] = []
    #: All tasks with listeners for progress: a heartbeat.
    watched: list[str] | None = None
    #: The sender ends.
    is_last: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Message[Event]).decode


class _Peer:
    """Another process, known by its messages."""

    def __init__(self) -> None:
        #: When its last message arrived, and the number of that message.
        self.heard_s = 0.0
        self.number: int | None = None
        self.watched: set[str] = set()


class WiredBus(MemoryBus):
    """An event bus of several processes. Call `open` before use.

    Args:
        wire: Connects the processes.
        clock: Times heartbeats.
    """

    def __init__(self, wire: Wire, clock: Clock) -> None:
        super().__init__(clock)
        self._wire = wire
        self._name = secrets.token_hex(6)
        self._number = 0
        self._peers: dict[str, _Peer] = {}
        # Waits to be sent.
        self._events: list[bytes] = []
        self._outgoing: list[PeerMessage] = []
        self._is_heartbeat_due = False
        self._is_due = asyncio.Event()
        self._is_closing = False
        self._loops: list[asyncio.Task[None]] = []
        # Waits to be read.
        self._incoming: list[PeerMessage] = []
        self._has_arrived = asyncio.Event()

    async def open(self) -> Self:
        """Connect to the other processes, and return the bus.

        Raises:
            Unavailable: The server does not answer.
        """
        await self._wire.open(self._on_message, self._on_reconnect)
        self._loops = [
            asyncio.create_task(self._send_loop(), name="bus-sender"),
            asyncio.create_task(self._heartbeat_loop(), name="bus-heartbeat"),
        ]
        self._send_heartbeat()
        return self

    # ---- the contract

    def publish(self, events: Sequence[Event]) -> None:
        """Send events to all listeners, here and elsewhere. Never waits."""
        if self._peers:
            for event in events:
                if event.kind not in TRANSIENT or self._is_watched_elsewhere(event.task_id):
                    self._events.append(_encode(for_peers(event)))
            if self._events:
                self._is_due.set()
        else:
            # A process that was silent and comes back finds the gap.
            self._number += 1
        self.publish_local(events)

    async def broadcast(self, messages: Sequence[PeerMessage]) -> None:
        """Send messages to the other processes. Never waits."""
        if self._peers:
            self._outgoing += messages
            self._is_due.set()
        else:
            self._number += 1

    def subscribe(self, task_id: str, *, after: int = -1) -> MemorySubscription:
        """Listen to a task, from the first event in the history with an id above `after`."""
        if after < TERMINAL_ID - 1 and self._peers:
            self._send_heartbeat()
        return super().subscribe(task_id, after=after)

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks with a listener for progress, here or elsewhere."""
        asked = list(task_ids)
        here = set(super().watched(asked))
        return [each for each in asked if each in here or self._is_watched_elsewhere(each)]

    async def receive(self) -> list[PeerMessage]:
        """Wait for messages of other processes; empty once the bus has ended."""
        await self._has_arrived.wait()
        if self._ended.is_set():
            return []
        self._has_arrived.clear()
        messages, self._incoming = self._incoming, []
        return messages

    def end(self) -> None:
        """End all subscriptions of this process. Idempotent."""
        super().end()
        self._has_arrived.set()

    async def close(self) -> None:
        """Send queued messages and disconnect. Idempotent."""
        self.end()
        if self._is_closing:
            return
        self._is_closing = True
        self._is_due.set()
        if self._loops:
            sender, heartbeat = self._loops
            heartbeat.cancel()
            await asyncio.wait([sender], timeout=_CLOSE_S)
            sender.cancel()
            await asyncio.gather(sender, heartbeat, return_exceptions=True)
        await self._wire.close()

    # ---- to other processes

    def _is_watched_elsewhere(self, task_id: str) -> bool:
        return any(task_id in peer.watched or _ALL in peer.watched for peer in self._peers.values())

    def _send_heartbeat(self) -> None:
        self._is_heartbeat_due = True
        self._is_due.set()

    async def _heartbeat_loop(self) -> None:
        while True:
            await self._clock.sleep(HEARTBEAT_S)
            self._forget_silent()
            self._send_heartbeat()

    async def _send_loop(self) -> None:
        while not self._is_closing or self._events or self._outgoing:
            await self._is_due.wait()
            self._is_due.clear()
            await self._send(self._next_message())
            await asyncio.sleep(0 if self._is_closing else PAUSE_S)
        self._number += 1
        await self._send(_Message(sender=self._name, number=self._number, is_last=True))

    async def _send(self, message: _Message[msgspec.Raw]) -> None:
        # If this fails, the other processes find a gap and read the store.
        try:
            await self._wire.send(_encode(message))
        except Unavailable as error:
            _log.debug("event bus: a message was lost", detail=error.detail)
        except Exception:
            _log.exception("event bus: a message was lost")

    def _next_message(self) -> _Message[msgspec.Raw]:
        events: list[msgspec.Raw] = []
        size = 0
        for event in self._events:
            size += len(event)
            if events and size > _MESSAGE_BYTES:
                self._is_due.set()
                break
            events.append(msgspec.Raw(event))
        del self._events[: len(events)]
        messages, self._outgoing = self._outgoing, []
        watched = None
        if self._is_heartbeat_due:
            self._is_heartbeat_due = False
            watched = super().watched(self.subscribed())
            if len(watched) > _MOST_WATCHED:
                watched = [_ALL]
        self._number += 1
        return _Message(
            sender=self._name,
            number=self._number,
            events=events,
            peer_messages=messages,
            watched=watched,
        )

    # ---- from other processes

    def _on_reconnect(self) -> None:
        self._miss()
        self._send_heartbeat()

    def _on_message(self, data: bytes) -> None:
        try:
            message = _decode(data)
        except msgspec.MsgspecError as error:
            _log.warning("event bus: a message cannot be read", error=str(error))
            self._miss()
            return
        if message.sender == self._name:
            return
        peer = self._peers.get(message.sender)
        if peer is None:
            peer = self._peers[message.sender] = _Peer()
            self._send_heartbeat()
        peer.heard_s = self._clock.monotonic_s()
        if peer.number is None or message.number != peer.number + 1:
            # A new process also missed what this one published before it knew it.
            self._miss()
        peer.number = message.number
        if message.watched is not None:
            peer.watched = set(message.watched)
        if message.is_last:
            del self._peers[message.sender]
        self._deliver(message.events, message.peer_messages)

    def _deliver(self, events: list[Event], messages: list[PeerMessage]) -> None:
        if self._ended.is_set():
            return
        self.publish_local(events)
        changes = tuple(event for event in events if event.summary is not None)
        if changes:
            self._incoming.append(PeerMessage(kind=MessageKind.TASKS, events=changes))
        self._incoming += messages
        if self._incoming:
            self._has_arrived.set()

    def _miss(self) -> None:
        if not any(each.kind is MessageKind.MISSED for each in self._incoming):
            self._incoming.append(PeerMessage(kind=MessageKind.MISSED))
            self._has_arrived.set()

    def _forget_silent(self) -> None:
        oldest_s = self._clock.monotonic_s() - LOST_S
        for name in [name for name, peer in self._peers.items() if peer.heard_s < oldest_s]:
            del self._peers[name]
            self._miss()
