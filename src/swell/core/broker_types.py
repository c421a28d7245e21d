"""What brokers take and return.

The broker (`swell.queues.table_broker`) lives in the store's database: accepting, starting and
ending a task changes the order of ready tasks in the same write. With an external queue service, a
`QueuePublisher` also sends the IDs of ready tasks there (docs/decisions/0087).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

import msgspec

#: Queue → all queues of its model that the workers which serve it serve, of the models that were
#: staged. Of others: the model's own is served with those of all its versions, and that of a
#: version with the model's own.
ServedWith = Mapping[str, tuple[str, ...]]

#: Where no model was staged.
NOT_STAGED: Final[ServedWith] = MappingProxyType({})


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker can take."""

    worker_id: str
    #: Queue that it serves → version of the model that it runs for that.
    queues: dict[str, str]
    #: At most this many tasks; >= 1.
    n: int
    #: How long the leases last, in seconds.
    lease_s: float
    #: Models that are on the worker's device now, the most useful first; empty for all the same.
    residents: Sequence[str] = ()


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """Depth of one queue."""

    queue: str
    #: Could run now.
    ready: int = 0
    #: Waits for its backoff to end.
    delayed: int = 0
    running: int = 0
    #: Samples (pictures) in the ready tasks.
    ready_samples: int = 0
    oldest_ready_at: datetime | None = None


class Rank(msgspec.Struct, frozen=True, kw_only=True):
    """How many ready tasks of its model come before one, for the workers that serve its queue.

    Exact in short queues as long as nothing else arrives; else an estimate.
    """

    ahead: int
    #: Samples (pictures) in these tasks.
    samples: int


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """Ready tasks of one model, seen from a task of another model with the same workers."""

    #: Ready tasks in more urgent bands, and their samples.
    urgent: int = 0
    urgent_samples: int = 0
    #: Ready tasks in the same band, with which it takes turns, and their samples.
    equal: int = 0
    equal_samples: int = 0


class ReadyTask(msgspec.Struct, frozen=True, kw_only=True):
    """A ready task, as far as an external queue service needs it."""

    id: str
    queue: str
    key_id: str
    user: str | None
    priority: int
