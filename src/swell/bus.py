"""Contract of the event bus: task events for listeners, and messages between backends.

Delivery is best effort. The store has the truth, so a reader that missed events reads the task.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from swell.events import Event


class MessageKind(StrEnum):
    """Why one backend sends a message to the others."""

    #: The bus itself sends it: messages may have been lost, so the receiver reads the store again.
    MISSED = "missed"
    #: Tasks changed their state; see `PeerMessage.events`.
    TASKS = "tasks"
    #: Workers must stop the running tasks in `ids`.
    STOP = "stop"
    #: Workers have registered or must drain.
    WORKERS = "workers"
    #: An API key has changed.
    KEYS = "keys"
    #: A backend gave up its leader leases, so another one can acquire them now.
    LEADERSHIP_RELEASED = "leadership_released"
    #: File events of running tasks may be lost: workers must report these files again.
    FILES = "files"


class PeerMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message from another backend."""

    kind: MessageKind
    ids: tuple[str, ...] = ()
    #: With a `summary`, without the task.
    events: tuple[Event, ...] = ()


class Subscription(Protocol):
    """Events of one task, in order of their ids.

    Guarantees:
        IDs only grow. A reader that is too slow loses the oldest progress and previews first, and
        neither artifacts nor the terminal event.
    """

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event; None after `timeout_s` seconds without one."""
        ...

    def close(self) -> None:
        """Stop listening. Idempotent."""
        ...


class Bus(Protocol):
    """Carries events to listeners in this process and in all others.

    Guarantees:
        Listeners of this process get an event at once, even while the server is down. Other
        connected processes get it in the order of publishing; after a possible loss they receive
        `MessageKind.MISSED`. Other processes get progress and previews only while they have a
        listener for the task. The bus keeps a repeated file event once, ordered by its id, and
        does not deliver it to listeners that are past that id.
    """

    async def publish(self, events: Sequence[Event]) -> None:
        """Send events to all listeners. Never waits for a reader."""
        ...

    def publish_local(self, events: Sequence[Event]) -> None:
        """Send events to the listeners of this process only, such as states read from the store."""
        ...

    def subscribe(self, task_id: str, *, after: int = -1) -> Subscription:
        """Listen to a task, from the first event in the history with an id above `after`."""
        ...

    def history(self, task_id: str, *, after: int = -1) -> Sequence[Event]:
        """Return the recent events of a task with ids above `after`.

        The history has all artifacts, except those from before this process started.
        """
        ...

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks with a listener for progress, here or elsewhere.

        Listeners for the terminal event alone (`after=TERMINAL_ID - 1`) do not count. A bus that
        cannot know returns all of them.
        """
        ...

    def subscribed(self) -> list[str]:
        """Return the tasks with a listener in this process."""
        ...

    async def broadcast(self, messages: Sequence[PeerMessage]) -> None:
        """Send messages to the other processes. Messages that cannot be sent are lost."""
        ...

    async def receive(self) -> list[PeerMessage]:
        """Wait for messages of other processes; empty once the bus has ended. For one caller.

        State changes of tasks arrive here too, so that each process knows all leases.
        """
        ...

    async def ended(self) -> None:
        """Wait until `end` is called."""
        ...

    def end(self) -> None:
        """End all subscriptions, including later ones, and `receive`. Idempotent.

        `publish` still sends events to other processes.
        """
        ...

    async def close(self) -> None:
        """Send queued messages and disconnect. Idempotent."""
        ...
