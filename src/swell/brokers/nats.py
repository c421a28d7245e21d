"""NATS JetStream: one work-queue stream; a subject and a durable consumer for each queue.

Source:
    https://docs.nats.io/nats-concepts/jetstream and ADR-13 on pull requests. A stream with
    `workqueue` retention keeps a message until its consumer acknowledges it.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from swell.addresses.nats_address import NatsAddress
from swell.broker import ReadyTask
from swell.brokers.external import RETENTION_S, VISIBILITY_S, ExternalQueues, Message, QueueId
from swell.errors import Unavailable

_log = structlog.get_logger("swell.broker")

#: The server must answer within this time, in seconds.
_ANSWER_S: Final = 3.0

#: The longest pull, in seconds.
_PULL_S: Final = 10.0

#: Messages per acknowledged publish.
_SEND_N: Final = 256

#: If nobody reads a queue, it keeps this many messages, the newest.
_KEEP_N: Final = 100_000

#: Statuses that end a pull without a message: nothing there, or timed out.
_EMPTY: Final = ("404", "408")


class NatsQueues(ExternalQueues):
    """See `ExternalQueues`.

    Args:
        url: See `NatsAddress.read`; NAME is the stream.
    """

    def __init__(self, url: str) -> None:
        self._address = NatsAddress.read(url)
        self._options = self._address.options()
        self._stream = self._address.stream
        self._opening: asyncio.Task[Client] | None = None
        #: Queues whose stream and consumer exist.
        self._known: set[QueueId] = set()
        self._pulls: set[_Pull] = set()
        #: The last error of the connection.
        self._error: Exception | None = None
        self._is_closed = False

    # ---- connection

    async def _connected(self) -> Client:
        """Return the connection. The client reconnects by itself.

        Raises:
            Unavailable: There is no connection now.
        """
        if self._is_closed:
            raise Unavailable("the connection to NATS is closed")
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        opening = self._opening
        try:
            client = await asyncio.shield(opening)
        except Unavailable:
            if self._opening is opening:
                self._opening = None
            raise
        if not client.is_connected:
            why = "" if self._error is None else f": {_why(self._error)}"
            raise Unavailable(f"NATS cannot be reached at {self._address.place}{why}")
        return client

    async def _connect(self) -> Client:
        client = Client()
        options: dict[str, Any] = {
            "name": "swell",
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.25,
            # While disconnected, publishing fails at once.
            "pending_size": 0,
            "connect_timeout": 2,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "reconnected_cb": self._on_reconnect,
            **self._options,
        }
        try:
            async with asyncio.timeout(_ANSWER_S):
                await client.connect(list(self._address.servers), **options)
        except (NatsError, OSError, TimeoutError) as error:
            await client.close()
            # The server's own words, such as a refused password, say more than a timeout.
            why = _why(self._error or error)
            raise Unavailable(f"NATS cannot be reached: {why}") from error
        except BaseException:
            await client.close()
            raise
        self._error = None
        return client

    async def _on_error(self, error: Exception) -> None:
        if self._error is None or isinstance(error, NatsError):
            self._error = error

    async def _on_disconnect(self) -> None:
        for pull in self._pulls:
            pull.end("disconnected")
        if not self._is_closed:
            _log.warning("NATS: connection lost, reconnecting")

    async def _on_reconnect(self) -> None:
        self._error = None
        # The server may have lost its streams.
        self._known.clear()
        _log.info("NATS: reconnected")

    # ---- streams and consumers

    async def _js(self, queue: QueueId) -> JetStreamContext:
        """Return the API of JetStream; create the queue's stream and consumer if necessary."""
        js = (await self._connected()).jetstream(timeout=_ANSWER_S)
        if queue in self._known:
            return js
        with _translated("JetStream cannot be set up"):
            config = await self._stream_config(js)
            if (config.subjects, config.retention) != (self._subjects, RetentionPolicy.WORK_QUEUE):
                raise Unavailable(
                    f"the stream {self._stream} of NATS is not for Swell's queues: it has other "
                    "subjects or another retention. Name another one behind the address"
                )
            await js.add_consumer(
                self._stream,
                ConsumerConfig(
                    durable_name=queue.name,
                    filter_subject=self._subject(queue),
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=VISIBILITY_S,
                    max_deliver=-1,
                    max_ack_pending=-1,
                ),
            )
        self._known.add(queue)
        return js

    async def _stream_config(self, js: JetStreamContext) -> StreamConfig:
        """Return the stream's settings. An existing stream keeps those of its operators."""
        try:
            return (await js.stream_info(self._stream)).config
        except NotFoundError:
            config = StreamConfig(
                name=self._stream,
                subjects=self._subjects,
                retention=RetentionPolicy.WORK_QUEUE,
                max_msgs_per_subject=_KEEP_N,
                max_age=RETENTION_S,
                num_replicas=self._address.replicas,
            )
            return (await js.add_stream(config)).config

    @property
    def _subjects(self) -> list[str]:
        return [f"{self._stream}.tasks.*"]

    def _subject(self, queue: QueueId) -> str:
        return f"{self._stream}.tasks.{queue.name}"

    # ---- messages

    async def send(self, queue: QueueId, tasks: Sequence[ReadyTask]) -> None:
        """See `ExternalQueues.send`. The server's answer to the last message covers the batch."""
        js, subject = await self._js(queue), self._subject(queue)
        client = await self._connected()
        try:
            with _translated("NATS did not take messages"):
                for at in range(0, len(tasks), _SEND_N):
                    *others, last = tasks[at : at + _SEND_N]
                    for task in others:
                        await client.publish(subject, task.id.encode())
                    await js.publish(subject, last.id.encode(), timeout=_ANSWER_S)
        except Unavailable:
            self._known.discard(queue)
            raise

    async def receive(self, queue: QueueId, n: int, *, wait_s: float) -> list[Message]:
        """See `ExternalQueues.receive`. Waits at most ten seconds."""
        await self._js(queue)
        client = await self._connected()
        # Returns the messages that are there; otherwise the next ones.
        wait_s = min(wait_s, _PULL_S)
        asked: dict[str, Any] = {"batch": n, "no_wait": True}
        if wait_s > 0:
            asked["expires"] = math.ceil(wait_s * 1e9)
        pull = _Pull(n)
        self._pulls.add(pull)
        with _translated("NATS cannot be read"):
            inbox = await client.subscribe(client.new_inbox(), cb=pull.take)
        try:
            with _translated("NATS cannot be read"):
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{queue.name}"
                await client.publish(subject, json.dumps(asked).encode(), reply=inbox.subject)
            await asyncio.wait([pull.ended], timeout=wait_s + _ANSWER_S)
        finally:
            self._pulls.discard(pull)
            with contextlib.suppress(NatsError, OSError):
                await inbox.unsubscribe()
        if pull.status not in _EMPTY and not pull.found:
            self._known.discard(queue)
            raise Unavailable(f"NATS cannot be read ({pull.status})")
        return [Message(queue, _text(each.data), each.reply) for each in pull.found]

    async def delete(self, messages: Sequence[Message]) -> None:
        await self._reply(messages, b"+ACK")

    async def release(self, messages: Sequence[Message]) -> None:
        await self._reply(messages, b"-NAK")

    async def _reply(self, messages: Sequence[Message], word: bytes) -> None:
        client = await self._connected()
        with _translated("NATS cannot be reached"):
            for message in messages:
                await client.publish(message.handle, word)

    async def pending(self, queue: QueueId) -> int:
        js = await self._js(queue)
        with _translated("NATS cannot be read"):
            try:
                return (await js.consumer_info(self._stream, queue.name)).num_pending or 0
            except NotFoundError:
                self._known.discard(queue)
                return 0

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for pull in self._pulls:
            pull.end(_EMPTY[0])
        if self._opening is None:
            return
        (client,) = await asyncio.gather(self._opening, return_exceptions=True)
        if isinstance(client, BaseException):
            return
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            if client.is_connected:
                await client.flush(1)
        await client.close()


class _Pull:
    """The answers to one pull request for n messages."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.found: list[Msg] = []
        self.status = _EMPTY[0]
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def take(self, message: Msg) -> None:
        """Take a message, or the status that ends the pull."""
        if message.reply:
            self.found.append(message)
            if len(self.found) >= self._n:
                self.end(self.status)
        else:
            self.end((message.headers or {}).get("Status", self.status))

    def end(self, status: str) -> None:
        """End the pull."""
        if not self.ended.done():
            self.status = status
            self.ended.set_result(None)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise the client's errors as `Unavailable`."""
    try:
        yield
    except (NatsError, OSError, TimeoutError) as error:
        raise Unavailable(f"{what}: {_why(error)}") from error


def _why(error: BaseException) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__
