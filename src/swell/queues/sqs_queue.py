"""Amazon SQS: a standard queue for each queue and priority class.

SQS fair queues (`MessageGroupId`) keep one tenant's backlog from delaying the others.

Source:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/: batches of ten,
    long polls of at most 20 s, at most 120,000 messages in flight per queue.
"""

import asyncio
import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from swell.core.broker_types import ReadyTask
from swell.core.errors import InvalidRequest, Unavailable
from swell.queues.external_queue import RETENTION_S, VISIBILITY_S, ExternalQueues, Message, QueueId

T = TypeVar("T")

#: Messages per call.
_BATCH_N: Final = 10

#: The longest poll, in seconds.
_POLL_S: Final = 20

#: Short calls at the same time.
_CALLS: Final = 16

#: The longest prefix: names have at most 80 characters, and `QueueId.name` up to 57.
_PREFIX_N: Final = 22

_GONE: Final = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class SqsQueues(ExternalQueues):
    """See `ExternalQueues`.

    Args:
        url: `sqs://REGION/PREFIX[?endpoint=URL]`; queues are named `PREFIX-…`.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._prefix = parts.path.strip("/") or "swell"
        if parts.scheme != "sqs" or not parts.netloc:
            raise InvalidRequest(f"{url[:200]!r} is no address in SQS: use sqs://REGION/PREFIX")
        plain = self._prefix.replace("-", "").replace("_", "")
        if not (plain.isalnum() and plain.isascii()) or len(self._prefix) > _PREFIX_N:
            raise InvalidRequest(
                f"{self._prefix[:80]!r} cannot begin the names of queues in SQS: use up to "
                f"{_PREFIX_N} letters, digits, - and _"
            )
        self._sqs: Any = boto3.session.Session().client(
            "sqs",
            region_name=parts.netloc,
            endpoint_url=parse_qs(parts.query).get("endpoint", [None])[0],
            config=Config(
                connect_timeout=3,
                read_timeout=_POLL_S + 10,
                retries={"total_max_attempts": 2, "mode": "standard"},
                max_pool_connections=256,
            ),
        )
        self._urls: dict[QueueId, str] = {}
        self._calls = asyncio.Semaphore(_CALLS)
        self._is_closed = False

    async def _call(self, what: str, work: Callable[[], T]) -> T:
        """Run a call in a daemon thread, so that a long poll does not delay the process's exit.

        Raises:
            Unavailable: SQS cannot be reached or refuses the call.
        """
        if self._is_closed:
            raise Unavailable("the connection to SQS is closed")
        done: Future[T] = Future()

        def run() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except BaseException as error:
                    done.set_exception(error)

        threading.Thread(target=run, name="swell-sqs", daemon=True).start()
        try:
            return await asyncio.wrap_future(done)
        except (ClientError, BotoCoreError, OSError) as error:
            if isinstance(error, ClientError) and _code(error) in _GONE:
                # The next call creates the queue again.
                self._urls.clear()
            raise Unavailable(f"SQS {what}: {error}") from error

    # ---- in threads

    def _url(self, queue: QueueId) -> str:
        """Return a queue's URL; create the queue if necessary."""
        if queue in self._urls:
            return self._urls[queue]
        name = f"{self._prefix}-{queue.name}"
        try:
            url = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        except ClientError as error:
            if _code(error) not in _GONE:
                raise
            attributes = {
                "VisibilityTimeout": str(VISIBILITY_S),
                "MessageRetentionPeriod": str(RETENTION_S),
            }
            url = self._sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        self._urls[queue] = url
        return str(url)

    # ---- messages

    async def send(self, queue: QueueId, tasks: Sequence[ReadyTask]) -> None:
        def send(batch: Sequence[ReadyTask]) -> None:
            entries = [
                {"Id": str(at), "MessageBody": task.id, "MessageGroupId": _group(task)}
                for at, task in enumerate(batch)
            ]
            answer = self._sqs.send_message_batch(QueueUrl=self._url(queue), Entries=entries)
            for failed in answer.get("Failed", []):
                raise Unavailable(f"SQS did not take a message: {failed.get('Message')}")

        await self._all("did not take messages", send, _batches(tasks))

    async def receive(self, queue: QueueId, n: int, *, wait_s: float) -> list[Message]:
        """See `ExternalQueues.receive`. Returns at most ten messages."""

        def receive() -> list[Message]:
            answer = self._sqs.receive_message(
                QueueUrl=self._url(queue),
                MaxNumberOfMessages=min(n, _BATCH_N),
                WaitTimeSeconds=min(_POLL_S, math.ceil(wait_s)),
                VisibilityTimeout=VISIBILITY_S,
            )
            return [
                Message(queue, found["Body"], found["ReceiptHandle"])
                for found in answer.get("Messages", [])
            ]

        return await self._call("cannot be read", receive)

    async def delete(self, messages: Sequence[Message]) -> None:
        await self._change(messages, "delete_message_batch", {})

    async def release(self, messages: Sequence[Message]) -> None:
        await self._change(messages, "change_message_visibility_batch", {"VisibilityTimeout": 0})

    async def _change(
        self, messages: Sequence[Message], method: str, fields: dict[str, int]
    ) -> None:
        def change(batch: Sequence[Message]) -> None:
            entries = [
                {"Id": str(at), "ReceiptHandle": message.handle} | fields
                for at, message in enumerate(batch)
            ]
            getattr(self._sqs, method)(QueueUrl=self._url(batch[0].queue), Entries=entries)

        for queue in {message.queue for message in messages}:
            own = [message for message in messages if message.queue == queue]
            await self._all("did not change messages", change, _batches(own))

    async def pending(self, queue: QueueId) -> int:
        def count() -> int:
            name = "ApproximateNumberOfMessages"
            answer = self._sqs.get_queue_attributes(
                QueueUrl=self._url(queue), AttributeNames=[name]
            )
            return int(answer["Attributes"][name])

        return await self._call("cannot be read", count)

    async def _all(self, what: str, work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
        """Run a call for each item, several at a time."""

        async def one(item: Any) -> T:
            async with self._calls:
                return await self._call(what, partial(work, item))

        return await asyncio.gather(*map(one, items))

    async def close(self) -> None:
        """See `ExternalQueues.close`. Open long polls end by themselves."""
        self._is_closed = True
        self._sqs.close()


def _batches(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[at : at + _BATCH_N] for at in range(0, len(items), _BATCH_N)]


def _group(task: ReadyTask) -> str:
    return hashlib.sha256(f"{task.key_id}/{task.user or ''}".encode()).hexdigest()[:32]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
