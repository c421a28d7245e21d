"""Settings of the policy."""

from typing import Annotated

import msgspec

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
_Micros = Annotated[int, msgspec.Meta(ge=0)]


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the policy. The first two choose between waiting and paying."""

    #: Target wait of a task, in seconds.
    wait_s: Annotated[float, msgspec.Meta(gt=0.0)] = 20.0
    #: Share of tasks that may wait for longer. Most of it is reserved for sudden crowds
    #: (`need.CALM_SHARE`).
    late_share: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05
    #: Data older than this change nothing, in seconds.
    stale_s: _Seconds = 60.0
    #: Extra idle time of the last worker, in seconds, beyond the cost of a start, so that the first
    #: task after a pause does not wait for a start.
    first_wait_s: _Seconds = 300.0
    #: Budget of all pools per hour and day, in millionths of a dollar; None for no limit.
    hour_budget_micros: _Micros | None = None
    day_budget_micros: _Micros | None = None
    #: Least share of the need on workers that the provider cannot reclaim.
    on_demand_share: _Share = 0.0
    #: Largest share of the need on spot workers of one location, if other locations have room.
    location_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.35
    #: Most launches at once, or the present number of workers if that is larger.
    most_at_once: Annotated[int, msgspec.Meta(ge=1)] = 50
