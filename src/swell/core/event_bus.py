"""The event bus: task events for listeners, and messages between backends.

Delivery is best effort. The store has the truth, so a reader that missed events reads the task.
`swell.pubsub.local_bus` serves one process; `swell.pubsub.cluster_bus` connects several.

Guarantees:
    Listeners of this process get an event at once, even while the server is down. Other connected
    processes get it in the order of publishing; after a possible loss they receive
    `MessageKind.MISSED`. Other processes get progress and previews only while they have a listener
    for the task. The bus keeps a repeated file event once, ordered by its id, and does not deliver
    it to listeners that are past that id.
    A listener gets events of one task in order of their ids. If it is too slow, it loses the oldest
    progress and previews first, and neither artifacts nor the terminal event.
"""

from enum import StrEnum

import msgspec

from swell.core.events import Event


class MessageKind(StrEnum):
    """Why one backend sends a message to the others."""

    #: The bus itself sends it: messages may have been lost, so the receiver reads the store again.
    MISSED = "missed"
    #: Tasks changed their state; see `PeerMessage.events`.
    TASKS = "tasks"
    #: The queues in `ids` have ready tasks.
    READY = "ready"
    #: Workers must stop the running tasks in `ids`.
    STOP = "stop"
    #: Workers have registered or must drain.
    WORKERS = "workers"
    #: An API key has changed.
    KEYS = "keys"
    #: File events of running tasks may be lost: workers must report these files again.
    FILES = "files"


class PeerMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message from another backend."""

    kind: MessageKind
    ids: tuple[str, ...] = ()
    #: With a `summary`, without the task.
    events: tuple[Event, ...] = ()
