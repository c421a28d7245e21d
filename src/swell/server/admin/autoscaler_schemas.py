"""Request and response bodies of scaling. OpenAPI's schemas are made from these types."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.protocol.autoscaler_messages import Decision, ModelOutlook, PoolState
from swell.server.common_schemas import Moment


class PoolScalingView(PoolState, frozen=True, kw_only=True):
    """State of a pool that launches workers on demand."""

    decision: Annotated[Decision | None, Meta(description="latest decision about this pool")]


class ScalingQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many decisions to list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler's state and decisions."""

    at: Annotated[Moment | None, Meta(description="null if no autoscaler runs")]
    leader: Annotated[str | None, Meta(description="the process that decides")]
    age_s: Annotated[float | None, Meta(description="age of its data, in seconds")]
    spent_micros: Annotated[
        int | None, Meta(description="spent by all pools today (UTC), in millionths of a dollar")
    ]
    models: list[ModelOutlook]
    decisions: Annotated[list[Decision], Meta(description="newest first")]
