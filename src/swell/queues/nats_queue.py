"""NATS JetStream: one work-queue stream; a subject and a durable consumer for each queue.

Source:
    https://docs.nats.io/nats-concepts/jetstream and ADR-13 on pull requests. A stream with
    `workqueue` retention keeps a message until its consumer acknowledges it.
"""

import asyncio
import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from swell.core.broker_types import ReadyTask
from swell.core.errors import Unavailable
from swell.net.nats_connection import NatsConnection, nats_errors
from swell.queues.external_queue import RETENTION_S, VISIBILITY_S, ExternalQueues, Message, QueueId

#: The server must answer within this time, in seconds.
_ANSWER_S: Final = 3.0

#: The longest pull, in seconds.
_PULL_S: Final = 10.0

#: Messages per acknowledged publish.
_SEND_N: Final = 256

#: A queue without consumers keeps this many messages, the newest.
_KEEP_N: Final = 100_000

#: Statuses that end a pull without a message: nothing there, or timed out.
_EMPTY: Final = ("404", "408")


class NatsQueues(ExternalQueues):
    """See `ExternalQueues`.

    Args:
        url: See `NatsAddress.read`; NAME is the stream.
    """

    def __init__(self, url: str) -> None:
        #: Queues with an existing stream and consumer.
        self._known: set[QueueId] = set()
        # After a reconnect, the server may have lost its streams.
        self._connection = NatsConnection(url, on_reconnect=self._known.clear)
        self._stream = self._connection.address.stream
        self._subjects = [f"{self._stream}.tasks.*"]

    async def _js(self, queue: QueueId) -> JetStreamContext:
        """Return the API of JetStream; create the queue's stream and consumer if necessary."""
        js = (await self._connection.client()).jetstream(timeout=_ANSWER_S)
        if queue in self._known:
            return js
        with nats_errors("JetStream cannot be set up"):
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
                num_replicas=self._connection.address.replicas,
            )
            return (await js.add_stream(config)).config

    def _subject(self, queue: QueueId) -> str:
        return f"{self._stream}.tasks.{queue.name}"

    async def send(self, queue: QueueId, tasks: Sequence[ReadyTask]) -> None:
        """See `ExternalQueues.send`. The server's answer to the last message covers the batch."""
        js, subject = await self._js(queue), self._subject(queue)
        client = await self._connection.client()
        try:
            with nats_errors("NATS did not take messages"):
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
        client = await self._connection.client()
        wait_s = min(wait_s, _PULL_S)
        # The server sends the messages that it has; with `expires` it waits for the first one.
        request: dict[str, Any] = {"batch": n, "no_wait": True}
        if wait_s > 0:
            request["expires"] = math.ceil(wait_s * 1e9)
        found: list[Msg] = []
        status = _EMPTY[0]
        with nats_errors("NATS cannot be read"):
            inbox = await client.subscribe(client.new_inbox())
            try:
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{queue.name}"
                await client.publish(subject, json.dumps(request).encode(), reply=inbox.subject)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s + _ANSWER_S):
                        while len(found) < n:
                            message = await inbox.next_msg(timeout=None)
                            if not message.reply:
                                status = (message.headers or {}).get("Status", status)
                                break
                            found.append(message)
            finally:
                with contextlib.suppress(NatsError, OSError):
                    await inbox.unsubscribe()
        if status not in _EMPTY and not found:
            self._known.discard(queue)
            raise Unavailable(f"NATS cannot be read ({status})")
        return [Message(queue, each.data.decode(errors="replace"), each.reply) for each in found]

    async def delete(self, messages: Sequence[Message]) -> None:
        await self._reply(messages, b"+ACK")

    async def release(self, messages: Sequence[Message]) -> None:
        await self._reply(messages, b"-NAK")

    async def _reply(self, messages: Sequence[Message], word: bytes) -> None:
        client = await self._connection.client()
        with nats_errors("NATS cannot be reached"):
            for message in messages:
                await client.publish(message.handle, word)

    async def pending(self, queue: QueueId) -> int:
        js = await self._js(queue)
        with nats_errors("NATS cannot be read"):
            try:
                return (await js.consumer_info(self._stream, queue.name)).num_pending or 0
            except NotFoundError:
                self._known.discard(queue)
                return 0

    async def close(self) -> None:
        await self._connection.close()
