"""Contract of an external queue service (Amazon SQS, NATS JetStream).

A message is a task ID. The database keeps the task, its state and its lease, so messages may arrive
twice, late or never: `Store.start` decides whether a received ID may run.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from swell.core.broker_types import ReadyTask
from swell.core.fair_queueing import USUAL_PRIORITY, band

#: A received message stays hidden from other consumers for this time, in seconds.
VISIBILITY_S: Final = 600

#: The queue service drops messages after this time, in seconds; the repair job sends them again.
RETENTION_S: Final = 3600

_NAME_CHARS: Final = 40


class QueueId(NamedTuple):
    """One queue of the service. Each queue of Swell has two: one per priority class."""

    #: `owner/name` or `owner/name:version`.
    queue: str
    #: The default priority class (interactive and normal); otherwise the lower one.
    is_default: bool

    @property
    def name(self) -> str:
        """Letters, digits, `-` and `_`; unique; at most 57 characters."""
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", self.queue)[:_NAME_CHARS]
        digest = hashlib.sha256(self.queue.encode()).hexdigest()[:10]
        return f"{plain}-{digest}-{'usual' if self.is_default else 'later'}"


class Message(NamedTuple):
    """A received message. It is delivered again unless it is deleted."""

    queue: QueueId
    #: Not validated: anybody with access to the service can send anything.
    task_id: str
    #: The service's name for this delivery.
    handle: str


class ExternalQueues(Protocol):
    """Queues of a service; each is created when it is first used.

    Guarantees:
        At least once: `receive` returns a sent message until it is deleted or expires. No order.
        Every method raises `Unavailable` while the service cannot be reached, and works again by
        itself afterwards.
    """

    async def send(self, queue: QueueId, tasks: Sequence[ReadyTask]) -> None:
        """Send one message per task. If this raises, some may have been sent."""

    async def receive(self, queue: QueueId, n: int, *, wait_s: float) -> list[Message]:
        """Return up to n messages, hidden from other consumers for `VISIBILITY_S`.

        Waits up to `wait_s` for the first one.
        """

    async def delete(self, messages: Sequence[Message]) -> None:
        """Acknowledge messages. Ignores unknown ones."""

    async def release(self, messages: Sequence[Message]) -> None:
        """Make messages visible to other consumers at once. Ignores unknown ones."""

    async def pending(self, queue: QueueId) -> int:
        """Return about how many messages wait to be received."""

    async def close(self) -> None:
        """Close the connection; calls that wait end. Idempotent."""


def queue_of(task: ReadyTask) -> QueueId:
    """Return the queue that a task's ID is sent to."""
    return QueueId(task.queue, band(task.priority) == USUAL_PRIORITY)
