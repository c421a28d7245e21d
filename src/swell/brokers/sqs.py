"""Lanes in Amazon SQS: a standard queue for each, and one for the dead letters of all.

Source:
    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/: batches of ten,
    long polls of 20 s at most, a visibility timeout of 12 h at most, 120,000 messages in flight per
    queue; queues are fair between the values of `MessageGroupId`, by what each has in flight.
"""

import asyncio
import contextlib
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from swell.brokers.lanes import Lane, Letter, Message, Queues
from swell.errors import InvalidRequest, Unavailable

T = TypeVar("T")

#: The most that one call takes or brings.
_BATCH_N: Final = 10

#: The longest poll, in seconds, and the longest time that a message is held.
_POLL_S: Final = 20
_HOLD_S: Final = 12 * 3600

#: How long messages are kept at most, in seconds: 14 days.
_KEEP_S: Final = 14 * 24 * 3600

#: The longest name of a queue, and what a lane's takes of it.
_NAME_N: Final = 80
_LANE_N: Final = 57

#: Calls at the same time, besides long polls.
_THREADS: Final = 16

#: Codes of a queue that is gone.
_GONE: Final = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class SqsQueues(Queues):
    """See `Queues`.

    Args:
        url: `sqs://REGION/PREFIX[?endpoint=URL]`; queues are called `PREFIX-…`.
        hold_s: How long a message that was received is held, in seconds.
        max_receives: A message that came twice as often is moved to the dead letters by SQS itself,
            should nobody here have done it.
    """

    def __init__(self, url: str, *, hold_s: float = 30.0, max_receives: int = 20) -> None:
        parts = urlsplit(url)
        self._region = parts.netloc
        self._prefix = parts.path.strip("/") or "swell"
        self._endpoint = parse_qs(parts.query).get("endpoint", [None])[0]
        if parts.scheme != "sqs" or not self._region:
            raise InvalidRequest(f"{url[:200]!r} is no address in SQS: use sqs://REGION/PREFIX")
        is_plain = self._prefix.replace("-", "").replace("_", "").isalnum()
        if not (is_plain and self._prefix.isascii()) or len(self._prefix) > _NAME_N - _LANE_N - 1:
            raise InvalidRequest(
                f"{self._prefix[:80]!r} cannot begin the names of queues in SQS: use up to "
                f"{_NAME_N - _LANE_N - 1} letters, digits, - and _"
            )
        self._hold_s = _whole(hold_s)
        self._max_receives = max_receives
        self._client: Any = None
        self._making = threading.Lock()
        #: Name of a queue → its URL.
        self._urls: dict[str, str] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="swell-sqs")
        self._is_closed = False

    # ---- threads

    async def _call(self, work: Callable[[], T]) -> T:
        """Run a short call in a thread."""
        if self._is_closed:
            raise Unavailable("the connection to SQS is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _call_long(self, work: Callable[[], T]) -> T:
        """Run a long poll in a thread of its own, which ends with the process."""
        if self._is_closed:
            raise Unavailable("the connection to SQS is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                _tell(loop, done, None, error)
            else:
                _tell(loop, done, result, None)

        threading.Thread(target=run, name="swell-sqs-poll", daemon=True).start()
        return await done

    # ---- queues (in threads)

    def _sqs(self) -> Any:
        with self._making:
            if self._client is None:
                config = Config(
                    connect_timeout=3,
                    read_timeout=_POLL_S + 10,
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    max_pool_connections=256,
                )
                self._client = boto3.session.Session().client(
                    "sqs", region_name=self._region, endpoint_url=self._endpoint, config=config
                )
        return self._client

    def _url(self, lane: Lane) -> str:
        """Return the URL of a lane's queue, which is made if need be."""
        name = f"{self._prefix}-{lane.name}"
        known = self._urls.get(name)
        if known is not None:
            return known
        return self._made(name, {"RedrivePolicy": self._redrive()})

    @property
    def _dead(self) -> str:
        return f"{self._prefix}-dead"

    def _redrive(self) -> str:
        url = self._urls.get(self._dead) or self._made(self._dead, {})
        told = self._sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        policy = {
            "deadLetterTargetArn": told["Attributes"]["QueueArn"],
            "maxReceiveCount": min(1000, 2 * self._max_receives),
        }
        return msgspec.json.encode(policy).decode()

    def _made(self, name: str, more: dict[str, str]) -> str:
        sqs = self._sqs()
        try:
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        except ClientError as error:
            if _code(error) not in _GONE:
                raise
            attributes = {
                "VisibilityTimeout": str(self._hold_s),
                "MessageRetentionPeriod": str(_KEEP_S),
            }
            made = sqs.create_queue(QueueName=name, Attributes=attributes | more)
            url = made["QueueUrl"]
        self._urls[name] = url
        return str(url)

    @contextlib.contextmanager
    def _reached(self, what: str) -> Iterator[None]:
        """Say of whatever goes wrong on the way that SQS is not there now."""
        try:
            yield
        except ClientError as error:
            if _code(error) in _GONE:
                # It is made anew at the next try.
                self._urls.clear()
            raise Unavailable(f"SQS {what}: {error}") from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable(f"SQS {what}: {error}") from error

    # ---- messages

    async def send(self, lane: Lane, letters: Sequence[Letter]) -> None:
        def send(batch: Sequence[Letter]) -> None:
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": letter.body.decode(),
                    "MessageGroupId": hashlib.sha256(letter.group.encode()).hexdigest()[:32],
                }
                for number, letter in enumerate(batch)
            ]
            with self._reached("did not take messages"):
                told = self._sqs().send_message_batch(QueueUrl=self._url(lane), Entries=entries)
            for failed in told.get("Failed", []):
                raise Unavailable(f"SQS did not take a message: {failed.get('Message')}")

        await self._in_batches(send, letters)

    async def receive(self, lane: Lane, n: int, *, wait_s: float) -> list[Message]:
        """See `Queues.receive`. Waits in whole seconds, 20 at most, for ten messages at most."""

        def receive(most: int) -> list[Message]:
            with self._reached("cannot be read"):
                told = self._sqs().receive_message(
                    QueueUrl=self._url(lane),
                    MaxNumberOfMessages=most,
                    WaitTimeSeconds=min(_POLL_S, math.ceil(wait_s)),
                    VisibilityTimeout=self._hold_s,
                    AttributeNames=["ApproximateReceiveCount"],
                )
            return [
                Message(
                    lane=lane,
                    body=found["Body"].encode(),
                    handle=found["ReceiptHandle"],
                    times=int(found["Attributes"]["ApproximateReceiveCount"]),
                )
                for found in told.get("Messages", [])
            ]

        if wait_s > 0:
            return await self._call_long(lambda: receive(min(n, _BATCH_N)))
        found: list[Message] = []
        while len(found) < n:
            wanted = min(n - len(found), _BATCH_N * _THREADS)
            sizes = [min(_BATCH_N, wanted - at) for at in range(0, wanted, _BATCH_N)]
            parts = await asyncio.gather(
                *(self._call(partial(receive, most)) for most in sizes),
                return_exceptions=True,
            )
            errors = [part for part in parts if isinstance(part, BaseException)]
            found += [each for part in parts if isinstance(part, list) for each in part]
            if errors and not found:
                raise errors[0]
            if errors or any(not part for part in parts):
                break
        return found

    async def forget(self, messages: Sequence[Message]) -> None:
        def forget(batch: Sequence[Message]) -> None:
            with self._reached("did not delete messages"):
                self._sqs().delete_message_batch(
                    QueueUrl=self._url(batch[0].lane), Entries=_entries(batch)
                )

        await self._by_lane(forget, messages)

    async def extend(self, messages: Sequence[Message], hold_s: float) -> None:
        await self._hold(messages, _whole(hold_s))

    async def put_back(self, messages: Sequence[Message]) -> None:
        await self._hold(messages, 0)

    async def _hold(self, messages: Sequence[Message], hold_s: int) -> None:
        def hold(batch: Sequence[Message]) -> None:
            entries = [each | {"VisibilityTimeout": hold_s} for each in _entries(batch)]
            with self._reached("did not hold messages"):
                self._sqs().change_message_visibility_batch(
                    QueueUrl=self._url(batch[0].lane), Entries=entries
                )

        await self._by_lane(hold, messages)

    async def bury(self, messages: Sequence[Message]) -> None:
        """See `Queues.bury`: they lie in the queue PREFIX-dead."""

        def bury(batch: Sequence[Message]) -> None:
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": message.body.decode(errors="replace"),
                    "MessageAttributes": {
                        "lane": {"DataType": "String", "StringValue": message.lane.name}
                    },
                }
                for number, message in enumerate(batch)
            ]
            with self._reached("did not take a dead letter"):
                url = self._urls.get(self._dead) or self._made(self._dead, {})
                self._sqs().send_message_batch(QueueUrl=url, Entries=entries)

        await self._by_lane(bury, messages)
        await self.forget(messages)

    async def _by_lane(
        self, work: Callable[[Sequence[Message]], None], messages: Sequence[Message]
    ) -> None:
        lanes: dict[Lane, list[Message]] = {}
        for message in messages:
            lanes.setdefault(message.lane, []).append(message)
        await asyncio.gather(*(self._in_batches(work, batch) for batch in lanes.values()))

    async def _in_batches(
        self, work: Callable[[Sequence[Any]], None], items: Sequence[Any]
    ) -> None:
        batches = [items[at : at + _BATCH_N] for at in range(0, len(items), _BATCH_N)]
        await asyncio.gather(*(self._call(partial(work, batch)) for batch in batches))

    def hold_for(self, hold_s: float) -> None:
        self._hold_s = _whole(hold_s)

    async def close(self) -> None:
        """See `Queues.close`. Long polls under way are left to themselves."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.to_thread(self._threads.shutdown)
            if self._client is not None:
                self._client.close()


def _tell(
    loop: asyncio.AbstractEventLoop,
    done: "asyncio.Future[T]",
    result: T | None,
    error: BaseException | None,
) -> None:
    """Give a thread's result to whoever waits for it, if anybody still does."""

    def tell() -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell)


def _entries(batch: Sequence[Message]) -> list[dict[str, Any]]:
    return [
        {"Id": str(number), "ReceiptHandle": message.handle} for number, message in enumerate(batch)
    ]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _whole(seconds: float) -> int:
    """Return seconds as SQS takes them: whole ones, up to 12 hours."""
    return max(0, min(_HOLD_S, math.ceil(seconds)))
