"""Request and response bodies of workers. OpenAPI's schemas are made from these types."""

from typing import Annotated

import msgspec

from swell.core.clock import Moment
from swell.protocol.autoscaler_messages import Decision, PoolState
from swell.server.common_schemas import doc
from swell.server.estimates.eta import EtaSeconds


class ClassView(msgspec.Struct, frozen=True, kw_only=True):
    """Waiting tasks of a model in one class."""

    name: str
    priority: int
    ready: int
    ready_samples: int


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A queue."""

    queue: str
    ready: int
    delayed: int
    running: int
    ready_samples: int
    oldest_ready_at: Moment | None
    eta_s: Annotated[EtaSeconds | None, doc("seconds until a task sent now would end")]
    start_s: Annotated[EtaSeconds | None, doc("seconds until a task sent now would start")]
    classes: Annotated[
        list[ClassView], doc("waiting tasks of the model by class, over all its queues")
    ]


class QueueList(msgspec.Struct, frozen=True, kw_only=True):
    """Queues that are not empty, by name."""

    queues: list[QueueView]


class WorkersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workers to list."""

    gone: Annotated[bool, doc("include workers that have exited")] = False


class SwitchesView(msgspec.Struct, frozen=True, kw_only=True):
    """How often a worker has loaded or changed a model since it started."""

    disk: Annotated[int, doc("loads from disk")]
    host: Annotated[int, doc("loads from host memory")]
    loras: Annotated[int, doc("changes of LoRAs")]


class SpanView(msgspec.Struct, frozen=True, kw_only=True):
    """A phase as an interval, in seconds since its startup began; phases may overlap."""

    phase: Annotated[str, doc("boot, pull, import, fetch, load, warm or first_task")]
    model: Annotated[str | None, doc("null for work shared by all models")]
    start_s: float
    end_s: Annotated[float | None, doc("null while running, or if the startup died in it")]
    source: Annotated[
        str, doc("the cache that served it: compiled, host, disk, bucket; empty for none")
    ] = msgspec.field(name="from", default="")


class StartupView(msgspec.Struct, frozen=True, kw_only=True):
    """A cold start of a worker, a restart of its model process, or a switch of models."""

    id: str
    kind: Annotated[str, doc("cold, restart or switch")]
    state: Annotated[str, doc("starting, died, ready or done (the first outcome)")]
    pool: str
    models: list[str]
    host: str
    pid: int
    begun_at: Moment | None
    seen_at: Moment | None
    ready_s: Annotated[float | None, doc("seconds until it takes tasks")]
    whole_s: Annotated[float | None, doc("the same plus the first task, without the wait for it")]
    spans: list[SpanView]


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker."""

    id: str
    name: str
    pool: str
    state: Annotated[str, doc("idle, busy, draining, lost or gone")]
    models: dict[str, str]
    slots: int
    held: Annotated[int, doc("tasks under lease, as known to this backend")]
    residents: Annotated[
        list[str] | None, doc("models on its device; null if all always are, or if unknown")
    ]
    switches: Annotated[
        dict[str, SwitchesView],
        doc("model → number of loads and changes, as known to this backend"),
    ]
    device: str
    host: str
    pid: int
    instance: Annotated[
        str | None, doc("the provider's id of its machine; null if no provider launched it")
    ]
    release: Annotated[str, doc("version of Swell")]
    clock_ahead_s: Annotated[float, doc("clock difference at registration, in seconds")]
    registered_at: Moment
    seen_at: Moment
    gone_at: Moment | None
    startup: Annotated[StartupView | None, doc("its cold start by phase; null if unknown")] = None


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """Workers, oldest first."""

    workers: list[WorkerView]
    starting: Annotated[
        list[StartupView], doc("cold starts of workers that are not ready yet")
    ] = []


class PhaseTimesView(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of a phase: quantiles that include unfinished ones (Kaplan-Meier)."""

    kind: Annotated[str, doc("cold, restart or switch")]
    model: str
    phase: Annotated[
        str,
        doc(
            "boot, pull, import, fetch, load, warm, first_task; ready: until it "
            "takes tasks; whole: ready and the first task"
        ),
    ]
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    at_least: Annotated[list[str], doc("quantiles that are lower bounds")]
    observed: Annotated[int, doc("number of finished ones")]
    not_over: Annotated[int, doc("number of running ones, and of those that died in it")]


class PoolScalingView(PoolState, frozen=True, kw_only=True):
    """State of a pool that launches workers on demand."""

    decision: Annotated[Decision | None, doc("latest decision about this pool")]


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of workers."""

    pool: str
    workers: Annotated[dict[str, int], doc("state → number")]
    starting: Annotated[int, doc("workers that are not ready yet")]
    slots: Annotated[int, doc("capacity of its live workers, in tasks")]
    held: Annotated[int, doc("tasks that they hold, as known to this backend")]
    times: Annotated[
        list[PhaseTimesView], doc("from the last 200 startups of each kind and set of models")
    ]
    scaling: Annotated[PoolScalingView | None, doc("null if nothing launches its workers")] = None


class PoolList(msgspec.Struct, frozen=True, kw_only=True):
    """Pools by name."""

    pools: list[PoolView]
