"""Lanes in NATS JetStream: one work-queue stream, a subject and a durable reader for each lane.

The few requests that are needed are written here as they go over the wire, so that what travels
can be read in one place.

Source:
    The JetStream wire API: `$JS.API.…` of the NATS documentation, and ADR-13 on pulling. A stream
    with `workqueue` retention keeps a message until the one reader of its subject has acknowledged
    it; `ack_wait` is how long that reader may take, and `+WPI` starts that time anew.
"""

import asyncio
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from swell.addresses.nats_address import NatsAddress
from swell.brokers.lanes import Lane, Letter, Message, Queues
from swell.errors import Unavailable

_log = structlog.get_logger("swell.broker")

#: How long the server may take to answer, in seconds.
_ANSWER_S: Final = 3.0

#: One pull waits no longer, in seconds.
_PULL_S: Final = 10.0

#: Messages that are sent before an answer is waited for.
_SEND_N: Final = 256

#: Two messages with the same mark within this time, in seconds, are one.
_SAME_S: Final = 120.0

#: The dead letters of the queues: how many are kept, and for how long in seconds.
_DEAD_N: Final = 100_000
_DEAD_S: Final = 14 * 24 * 3600.0

_NO_MESSAGES: Final = ("404", "408")


#: The server's number for: a stream of this name is there, with other settings.
_OTHER_SETTINGS: Final = 10058


class _Trouble(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Config(msgspec.Struct):
    subjects: list[str] = []
    retention: str = ""


class _Answer(msgspec.Struct):
    error: _Trouble | None = None
    config: _Config | None = None


def _ns(seconds: float) -> int:
    return math.ceil(seconds * 1e9)


class NatsQueues(Queues):
    """See `Queues`.

    Args:
        url: See `NatsAddress.read`; NAME is that of the stream.
        hold_s: How long a message that was received is held, in seconds.
    """

    def __init__(self, url: str, *, hold_s: float = 30.0) -> None:
        self._address = NatsAddress.read(url)
        self._options = self._address.options()
        self._stream = self._address.stream
        self._hold_s = hold_s
        self._opening: asyncio.Task[Client] | None = None
        #: Lanes whose stream and reader are there.
        self._known: set[Lane] = set()
        self._has_streams = False
        #: Done once the connection is lost: who waits for the server waits no longer.
        self._lost: asyncio.Future[None] | None = None
        self._is_closed = False
        #: What the client told last of why it cannot connect.
        self._trouble: Exception | None = None

    # ---- connection

    async def _connected(self) -> Client:
        """Return the connection.

        Raises:
            Unavailable: There is none; the client looks for the server by itself.
        """
        if self._is_closed:
            raise Unavailable("the connection to NATS is closed")
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        opening = self._opening
        try:
            # Whoever gives up waiting leaves it to the others.
            client = await asyncio.shield(opening)
        except Unavailable:
            if self._opening is opening:
                self._opening = None
            raise
        if not client.is_connected:
            why = "" if self._trouble is None else f": {_why(self._trouble)}"
            raise Unavailable(f"NATS cannot be reached at {self._address.place}{why}")
        return client

    async def _connect(self) -> Client:
        client = Client()
        options: dict[str, Any] = {
            "name": "swell",
            # For ever, once it was there; what is published meanwhile is refused at once.
            "max_reconnect_attempts": -1,
            # Takes fractions, whatever its type says.
            "reconnect_time_wait": 0.25,
            "pending_size": 0,
            "connect_timeout": 2,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_lost,
            "reconnected_cb": self._on_again,
            **self._options,
        }
        try:
            with _unavailable("NATS cannot be reached"):
                await asyncio.wait_for(
                    client.connect(list(self._address.servers), **options), _ANSWER_S
                )
        except Unavailable as error:
            await client.close()
            if self._trouble is None:
                raise
            # It tries again and again, whatever the server has against it.
            raise Unavailable(f"NATS cannot be reached: {_why(self._trouble)}") from error
        except BaseException:
            await client.close()
            raise
        self._trouble = None
        self._lost = asyncio.get_running_loop().create_future()
        return client

    async def _on_error(self, error: Exception) -> None:
        # What the server said tells more than that it hung up after it.
        if self._trouble is None or isinstance(error, NatsError):
            self._trouble = error

    async def _on_lost(self) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        if not self._is_closed:
            _log.warning("the connection to NATS was lost")

    async def _on_again(self) -> None:
        self._lost = asyncio.get_running_loop().create_future()
        self._trouble = None
        # The server may have lost what it knew.
        self._known.clear()
        self._has_streams = False
        _log.info("NATS can be reached again")

    async def _ask(self, what: str, **asked: Any) -> None:
        """Ask the server for something that may be there already.

        Raises:
            Unavailable: It does not answer, or refuses.
        """
        _check(what, await self._answer(what, asked))

    async def _answer(self, what: str, asked: Mapping[str, Any]) -> _Answer:
        client = await self._connected()
        body = msgspec.json.encode(asked)
        with _unavailable(f"NATS does not answer {what}"):
            answer = await client.request(f"$JS.API.{what}", body, timeout=_ANSWER_S)
        return msgspec.json.decode(answer.data, type=_Answer)

    async def _make_streams(self) -> None:
        if self._has_streams:
            return
        await self._make_stream(
            self._stream,
            [f"{self._stream}.tasks.*"],
            "workqueue",
            discard="new",
            duplicate_window=_ns(_SAME_S),
            max_msgs=-1,
        )
        await self._make_stream(
            self._dead,
            [f"{self._stream}.dead.*"],
            "limits",
            discard="old",
            max_msgs=_DEAD_N,
            max_age=_ns(_DEAD_S),
        )
        self._has_streams = True

    async def _make_stream(
        self, name: str, subjects: list[str], retention: str, **more: Any
    ) -> None:
        """Have a stream; one that is there stays as operators have set it.

        Raises:
            Unavailable: It cannot be made, or the one that is there is for something else.
        """
        what = f"STREAM.CREATE.{name}"
        wanted = {
            "name": name,
            "subjects": subjects,
            "retention": retention,
            "storage": "file",
            "max_consumers": -1,
            "max_bytes": -1,
            "num_replicas": self._address.replicas,
        }
        answer = await self._answer(what, wanted | more)
        if answer.error is not None and answer.error.err_code == _OTHER_SETTINGS:
            what = f"STREAM.INFO.{name}"
            answer = await self._answer(what, {})
            found = answer.config
            if found is not None and (found.subjects, found.retention) != (subjects, retention):
                raise Unavailable(
                    f"the stream {name} of NATS is not for Swell's queues: it has other subjects "
                    "or another retention. Name another one behind the address"
                )
        _check(what, answer)

    @property
    def _dead(self) -> str:
        return f"{self._stream}-dead"

    def _subject(self, lane: Lane) -> str:
        return f"{self._stream}.tasks.{lane.name}"

    async def _make_reader(self, lane: Lane) -> None:
        """Have the server keep a place for whoever reads this lane."""
        if lane in self._known:
            return
        await self._make_streams()
        subject = self._subject(lane)
        await self._ask(
            f"CONSUMER.CREATE.{self._stream}.{lane.name}.{subject}",
            stream_name=self._stream,
            config={
                "name": lane.name,
                "durable_name": lane.name,
                "filter_subject": subject,
                "deliver_policy": "all",
                "ack_policy": "explicit",
                "ack_wait": _ns(self._hold_s),
                "max_deliver": -1,
                "max_ack_pending": -1,
                "replay_policy": "instant",
            },
        )
        self._known.add(lane)

    # ---- sending

    async def send(self, lane: Lane, letters: Sequence[Letter]) -> None:
        """See `Queues.send`. The same mark is taken once within two minutes.

        The server takes what comes over one connection in its order, so its answer to the last
        letter of a batch says that it has the others.
        """
        await self._make_streams()
        subject = self._subject(lane)
        for at in range(0, len(letters), _SEND_N):
            *others, last = letters[at : at + _SEND_N]
            client = await self._connected()
            with _unavailable(f"NATS did not take a message for {subject}"):
                for letter in others:
                    await client.publish(subject, letter.body, headers=_marked(letter.mark))
            await self._publish(subject, last.body, last.mark)

    async def _publish(self, subject: str, body: bytes, mark: str) -> None:
        """Send one message, and wait until the server has it."""
        client = await self._connected()
        headers = _marked(mark)
        try:
            with _unavailable(f"NATS did not take a message for {subject}"):
                answer = await client.request(subject, body, timeout=_ANSWER_S, headers=headers)
        except Unavailable:
            # Nobody answers where the stream is gone.
            self._has_streams = False
            raise
        trouble = msgspec.json.decode(answer.data, type=_Answer).error
        if trouble is not None:
            raise Unavailable(f"NATS did not take a message: {trouble.description}")

    # ---- receiving

    async def receive(self, lane: Lane, n: int, *, wait_s: float) -> list[Message]:
        """See `Queues.receive`. Waits ten seconds at most."""
        await self._make_reader(lane)
        client = await self._connected()
        if wait_s <= 0:
            asked: dict[str, Any] = {"batch": n, "no_wait": True}
        else:
            # What is there at once; else the first that come.
            asked = {"batch": n, "no_wait": True, "expires": _ns(min(wait_s, _PULL_S))}
        pull = _Pull(n)
        with _unavailable("NATS cannot be read"):
            inbox = await client.subscribe(client.new_inbox(), cb=pull.take)
        try:
            with _unavailable("NATS cannot be read"):
                await client.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{lane.name}",
                    msgspec.json.encode(asked),
                    reply=inbox.subject,
                )
            await self._ended(pull, min(wait_s, _PULL_S) + _ANSWER_S)
        finally:
            with contextlib.suppress(NatsError, OSError):
                await inbox.unsubscribe()
        if pull.status not in _NO_MESSAGES and not pull.found:
            # The reader or its stream is gone, or moves.
            self._known.discard(lane)
            self._has_streams = False
            raise Unavailable(f"NATS cannot give messages now ({pull.status})")
        return _messages(lane, pull.found)

    async def _ended(self, pull: "_Pull", timeout_s: float) -> None:
        """Wait until the server has given what was asked of it.

        Raises:
            Unavailable: The connection was lost, or the server says nothing; and nothing came.
        """
        lost = self._lost
        assert lost is not None, "there is a connection"
        waits: set[asyncio.Future[None]] = {pull.ended, lost}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if lost.done() and not pull.found:
            raise Unavailable("the connection to NATS was lost")

    # ---- what becomes of messages

    async def forget(self, messages: Sequence[Message]) -> None:
        await self._tell(messages, b"+ACK")

    async def extend(self, messages: Sequence[Message], hold_s: float) -> None:
        """See `Queues.extend`; the time is the one that messages are held anyway."""
        await self._tell(messages, b"+WPI")

    async def put_back(self, messages: Sequence[Message]) -> None:
        await self._tell(messages, b"-NAK")

    async def _tell(self, messages: Sequence[Message], what: bytes) -> None:
        client = await self._connected()
        with _unavailable("NATS: cannot publish"):
            for message in messages:
                await client.publish(message.handle, what)

    async def bury(self, messages: Sequence[Message]) -> None:
        """See `Queues.bury`: they lie in the stream NAME-dead."""
        await self._make_streams()
        for message in messages:
            subject = f"{self._stream}.dead.{message.lane.name}"
            # The handle is unique to this time that it came.
            await self._publish(subject, message.body, message.handle)
        await self._tell(messages, b"+TERM")

    def hold_for(self, hold_s: float) -> None:
        if hold_s != self._hold_s:
            self._hold_s = hold_s
            self._known.clear()

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._opening is None:
            return
        (client,) = await asyncio.gather(self._opening, return_exceptions=True)
        if isinstance(client, BaseException):
            return
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            # What was said last, such as that a message is forgotten, is on its way.
            if client.is_connected:
                await client.flush(1)
        await client.close()


class _Pull:
    """What comes of one request for messages.

    Args:
        n: How many were asked for.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self.found: list[Msg] = []
        #: What the server said at the end, where it gave fewer; silence counts as nothing there.
        self.status = _NO_MESSAGES[0]
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(self, message: Msg) -> None:
        """Take what the server sends."""
        status = None if message.headers is None else message.headers.get("Status")
        if status is None or message.reply:
            self.found.append(message)
        else:
            self.status = status
        if not self.ended.done() and (len(self.found) >= self._n or not message.reply):
            self.ended.set_result(None)


def _marked(mark: str) -> dict[str, str]:
    return {"Nats-Msg-Id": mark}


def _messages(lane: Lane, found: Sequence[Msg]) -> list[Message]:
    return [
        Message(
            lane=lane,
            body=message.data,
            handle=message.reply,
            times=message.metadata.num_delivered,
        )
        for message in found
    ]


@contextlib.contextmanager
def _unavailable(what: str) -> Iterator[None]:
    """Say of whatever goes wrong on the way that NATS is not there now."""
    try:
        yield
    except (NatsError, OSError, TimeoutError) as error:
        raise Unavailable(f"{what}: {_why(error)}") from error


def _why(error: BaseException) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__


def _check(what: str, answer: _Answer) -> None:
    if answer.error is not None:
        trouble = answer.error
        raise Unavailable(f"NATS refuses {what}: {trouble.description} ({trouble.code})")
