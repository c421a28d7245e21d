"""Messages between backends and the autoscaler, stored as notes in the registry.

A backend writes what the registry does not have: the load and the speed of each worker. The
autoscaler writes its status, for `GET /v1/pools`, metrics and estimates, and its decisions with
reasons, for `GET /v1/scaling`.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from swell.core.clock import Moment

#: Names of the notes.
WORKLOAD: Final = "autoscaler.workload"
STATUS: Final = "autoscaler.status"
DECISIONS: Final = "autoscaler.decisions"

#: Actions on workers of a pool, and events of workers.
CHANGES: Final = ("launch", "cancel", "drain", "end", "hurry", "refused", "failed", "lost")

#: How machines of a pool end, each once: the worker drained; it was ended before its worker had
#: registered; the provider reclaimed it; the worker had not finished in its drain time; no worker
#: registered; or it disappeared, or its worker fell silent, without a goodbye.
DRAINED: Final = "drained"
CANCELLED: Final = "cancelled"
TAKEN_BACK: Final = "taken_back"
CUT_SHORT: Final = "cut_short"
FAILED: Final = "failed"
LOST: Final = "lost"
ENDS: Final = (DRAINED, CANCELLED, TAKEN_BACK, CUT_SHORT, FAILED, LOST)

#: Number of stored decisions.
DECISIONS_KEPT: Final = 200

#: If the status is older, no autoscaler runs, in seconds.
FRESH_S: Final = 60.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Load and speed of workers, as a backend sees them."""

    at: datetime
    #: Worker → number of held tasks; workers without tasks are left out.
    held: Mapping[str, int] = {}
    #: Pool → model → samples per second of one busy worker.
    rates: Mapping[str, Mapping[str, float]] = {}
    #: Model → average number of samples of a task.
    counts: Mapping[str, float] = {}


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a pool that launches workers on demand."""

    provider: str
    models: Sequence[str]
    desired: Annotated[int, Meta(description="workers wanted")]
    ready: Annotated[int, Meta(description="workers that take tasks")]
    busy: Annotated[int, Meta(description="ready workers that hold tasks")]
    booting: Annotated[int, Meta(description="launched, and not ready yet")]
    draining: Annotated[int, Meta(description="workers that finish their tasks and exit")]
    least: int
    most: int
    hour_micros: Annotated[
        int | None, Meta(description="price of a worker-hour, in millionths of a dollar")
    ]
    price_source: Annotated[
        str | None,
        Meta(description="source: a setting, the cloud, or a row of Swell's price list"),
    ]
    price_read_on: Annotated[
        date | None, Meta(description="day on which the price was read; null for a setting")
    ]
    price_told_at: Annotated[
        datetime | None, Meta(description="when the cloud reported it; null for other sources")
    ]
    price_note: Annotated[
        str | None, Meta(description="why it is not the cloud's current price, if it should be")
    ]
    is_spot: Annotated[bool, Meta(description="whether the provider may reclaim the machines")] = (
        msgspec.field(name="spot")
    )
    location: str | None
    closed_s: Annotated[float, Meta(description="seconds until the provider is asked again")]
    why_closed: str | None
    start_p50_s: Annotated[float, Meta(description="seconds from launch until it takes tasks")]
    start_p95_s: float
    counts: Annotated[
        Mapping[str, int], Meta(description="action → number of workers, as in decisions")
    ]
    ends: Annotated[Mapping[str, int], Meta(description="how machines ended → number")]
    reasons: Annotated[Sequence[str], Meta(description="reasons for the wanted number")]


class PoolScaling(PoolState, frozen=True, kw_only=True):
    """Status of one pool, with what the backend charges for its workers."""

    pool: str
    #: Price of each launch in addition, and shortest billed time of a machine, in seconds.
    launch_micros: int = 0
    least_billed_s: float = 0.0


class ModelOutlook(msgspec.Struct, frozen=True, kw_only=True):
    """Outlook for new tasks of a model."""

    model: str
    ready_in_s: Annotated[
        float | None,
        Meta(
            description="seconds until a worker takes the first task: 0 if one is ready, null if "
            "none is launched"
        ),
    ]
    admitted: Annotated[float, Meta(description="share of new tasks that can start in time")]
    wait_s: Annotated[float, Meta(description="wait of a new task if not all can")]
    speedup: Annotated[
        float, Meta(description="factor by which tasks would have to shrink so that all can")
    ]


class ModelScaling(ModelOutlook, frozen=True, kw_only=True):
    """The outlook, with what estimates need."""

    #: The 95th percentile of `ready_in_s`.
    ready_by_s: float = 0.0
    #: Pairs of a time in seconds and the number of additional workers expected by then, in order.
    coming: Sequence[tuple[float, int]] = ()


class ScalingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Status of all pools."""

    at: datetime
    #: The process that leads.
    leader: str
    #: Age of its data, in seconds.
    age_s: float = 0.0
    pools: Sequence[PoolScaling] = ()
    models: Sequence[ModelScaling] = ()
    #: Spending of today (UTC), in millionths of a dollar.
    spent_micros: int = 0


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A scaling decision, or an event of a pool."""

    at: Moment
    about: Annotated[str, Meta(description="a pool, or a model for relief")]
    what: Annotated[
        str,
        Meta(
            description="launch, cancel (a boot), drain, end (a machine), hurry (the provider "
            "reclaims it), refused or failed (launches or boots), lost (it ended by "
            "itself) or relief (demand exceeds supply)"
        ),
    ]
    n: Annotated[int, Meta(description="number of workers")]
    why: Annotated[Sequence[str], Meta(description="reasons, one sentence each")]


T = TypeVar("T")


def read(note: bytes | None, kind: type[T]) -> T | None:
    """Return the content of a note; None if there is none, or it cannot be read."""
    if note is None:
        return None
    try:
        return msgspec.json.decode(note, type=kind)
    except msgspec.MsgspecError:
        return None
