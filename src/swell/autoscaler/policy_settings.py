"""What is wanted of the policy."""

from typing import Annotated

import msgspec

_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
_Micros = Annotated[int, msgspec.Meta(ge=0)]


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wanted of the policy. The first two decide between waiting and paying."""

    #: Within how long a task should start, in seconds.
    wait_s: Annotated[float, msgspec.Meta(gt=0.0)] = 20.0
    #: What share of all tasks may wait for longer. Most of it is kept for crowds that nobody can
    #: foresee: see `need.CALM_SHARE`.
    late_share: Annotated[float, msgspec.Meta(gt=0.0, le=0.5)] = 0.05
    #: What is older lets nobody go and asks for nobody, in seconds.
    stale_s: _Seconds = 60.0
    #: For so many seconds a worker may stand idle so that the first who comes after a pause need
    #: not wait for a start, besides as long as a new start would cost.
    first_wait_s: _Seconds = 300.0
    #: What all pools may cost an hour and a day, in millionths of a dollar; None for no limit.
    hour_budget_micros: _Micros | None = None
    day_budget_micros: _Micros | None = None
    #: At least this share of what is needed is had from workers that are not taken back.
    on_demand_share: _Share = 0.0
    #: At most this share of what is needed is had from spot workers of one location, as long as
    #: others can be had.
    location_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.35
    #: At most so many are asked for at once, or as many as there are, whichever is more.
    most_at_once: Annotated[int, msgspec.Meta(ge=1)] = 50
