"""Contract of the broker: the order of ready tasks, and who holds a lease.

A broker lives in the store's database: accepting, starting and ending a task changes its order in
the same write. With an external queue service, a `Publisher` also sends the IDs of ready tasks
there (docs/decisions/0087).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from swell.task import NewTask, Task

#: Queue → all queues of its model that the workers which serve it serve, of the models that were
#: staged. Of others: the model's own is served with those of all its versions, and that of a
#: version with the model's own.
ServedWith = Mapping[str, tuple[str, ...]]

#: Where no model was staged.
NOT_STAGED: Final[ServedWith] = MappingProxyType({})


class LeaseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker can take."""

    worker_id: str
    #: Model name → version that this worker has.
    models: dict[str, str]
    #: At most this many tasks; >= 1.
    n: int
    #: How long the leases last, in seconds.
    lease_s: float
    #: Models that are on the worker's device now, the most useful first; empty for all the same.
    residents: Sequence[str] = ()
    #: Model → its queues that this worker serves, where it is not the model's own and that of the
    #: worker's version: while versions share the tasks that name none.
    staged: Mapping[str, tuple[str, ...]] = {}

    def queues_of(self, model: str) -> tuple[str, ...]:
        """Return the queues of one of its models that this worker serves."""
        return self.staged.get(model) or (model, f"{model}:{self.models[model]}")

    @property
    def queues(self) -> list[tuple[str, str, str]]:
        """(queue, model, version) of every queue that this worker serves."""
        return [
            (queue, model, version)
            for model, version in self.models.items()
            for queue in self.queues_of(model)
        ]


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in one queue."""

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
    """What waits of one model, as a task of another with the same workers sees it."""

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


class Broker(Protocol):
    """Hands ready tasks to workers.

    Guarantees:
        At least once: a ready task is leased again until it ends. Never to two holders whose
        leases are both current.
        Order, where the broker can, among the tasks of one model (`fairness.py`): the more urgent
        band first; within a band the keys take turns; of each key the more urgent priority first,
        then its users in turn, then age.
        Of several models in one band, each lease serves the next. A worker that names residents is
        given those first; no model is passed in its turn for that by more than
        `fairness.MOST_PASSED` leases in a row, and none by less urgent tasks.
        A lease that is not extended ends by itself and its attempt counts.
    """

    async def lease(
        self, request: LeaseRequest, *, until: "asyncio.Future[None] | None" = None
    ) -> list[Task]:
        """Start up to `n` ready tasks and return them.

        Without `until` the answer is what is ready now, and may be empty. With it the call waits
        for the first task, and ends empty when that future is done: from that moment on nothing
        is started for it, not even by a call that is under way. It may return while the start is
        still being written: a backend that dies in between has the task queued, or not at all if
        its acceptance was not told yet, and refuses what the holder of that lease says.
        """
        ...

    async def depths(self) -> list[Depth]:
        """Return what lies in every queue that is not empty."""
        ...

    async def oldest_ready(self, queue: str, n: int) -> list[ReadyTask]:
        """Return the n ready tasks of one queue that were accepted first."""
        ...

    async def ranks(
        self, tasks: Sequence[Task], *, served_with: ServedWith = NOT_STAGED
    ) -> list[Rank | None]:
        """Return how many ready tasks come before each; None for one that is not waiting."""
        ...

    async def rank_of_new(self, task: NewTask, *, served_with: ServedWith = NOT_STAGED) -> Rank:
        """Return how many ready tasks would come before one that were offered now."""
        ...

    async def backlogs(
        self, models: Sequence[str], priority: int, *, served_with: ServedWith = NOT_STAGED
    ) -> list[Backlog]:
        """Return what waits of some models, for a task of this priority.

        Args:
            models: Which ones.
            priority: Of the task.
            served_with: Of the models' own queues; all of a model where it is not named.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; waiting calls return empty. Idempotent."""
        ...


class Publisher(Protocol):
    """Sends the IDs of ready tasks to an external queue service.

    Guarantees:
        At least once: every task that stays ready is sent, by `publish` or by `repair`.
    """

    def publish(self, tasks: Iterable[Task]) -> None:
        """Send the ready ones among these tasks soon. Call it after the commit."""
        ...

    def leased(self, tasks: Iterable[Task]) -> None:
        """Do not send these tasks if they are not sent yet: a worker leased them here."""
        ...

    async def repair(self) -> int:
        """Send ready tasks again that have no message; return how many.

        One backend calls this from time to time.

        Raises:
            Unavailable: The service or the database cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Send what waits, for a moment, and close the connection."""
        ...
