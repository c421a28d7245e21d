"""Request and response bodies of scaling. OpenAPI's schemas are made from these types."""

from datetime import date, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from swell.api.schemas import Moment


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
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
    why: Annotated[list[str], Meta(description="reasons, one sentence each")]


class PoolScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """State of a pool that launches workers on demand."""

    provider: str
    models: list[str]
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
    spot: Annotated[bool, Meta(description="whether the provider may reclaim the machines")]
    location: str | None
    closed_s: Annotated[float, Meta(description="seconds until the provider is asked again")]
    why_closed: str | None
    start_p50_s: Annotated[float, Meta(description="seconds from launch until it takes tasks")]
    start_p95_s: float
    counts: Annotated[
        dict[str, int], Meta(description="action → number of workers, as in decisions")
    ]
    ends: Annotated[dict[str, int], Meta(description="how machines ended → number")]
    reasons: Annotated[list[str], Meta(description="reasons for the wanted number")]
    decision: Annotated[DecisionView | None, Meta(description="latest decision about this pool")]


class ScalingQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many decisions to list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ModelScalingView(msgspec.Struct, frozen=True, kw_only=True):
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


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler's state and decisions."""

    at: Annotated[Moment | None, Meta(description="null if no autoscaler runs")]
    leader: Annotated[str | None, Meta(description="the process that decides")]
    age_s: Annotated[float | None, Meta(description="age of its data, in seconds")]
    spent_micros: Annotated[
        int | None, Meta(description="spent by all pools today (UTC), in millionths of a dollar")
    ]
    models: list[ModelScalingView]
    decisions: Annotated[list[DecisionView], Meta(description="newest first")]
