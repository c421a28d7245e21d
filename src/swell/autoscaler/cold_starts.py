"""How long a new worker will take, from what was seen: what the policy asks of cold starts. Pure.

Three kinds of knowledge become one distribution: cold starts that are ready; those under way, whose
workers tell how far they are; and machines that were asked for and of which no worker has been
heard yet. The last two take at least as long as they have taken.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from swell.core.kaplan_meier import Observation, Prior, Quantile, quantiles
from swell.core.startup_phases import READY, Startup, StartupKind, observations

#: What is believed of a pool of which nothing is known: minutes, as of machines of a cloud that
#: pull an image and load a model.
UNKNOWN: Final = Prior(p50_s=180.0, p90_s=600.0)


class StartTimes(msgspec.Struct, frozen=True):
    """How long it takes from asking for a worker until it takes tasks.

    Args:
        at: The quantiles that were asked for, in their order.
        ready: How many cold starts they rest on.
        not_over: How many count that are under way, or died before they were ready.
    """

    at: tuple[Quantile, ...]
    ready: int
    not_over: int


def start_times(
    startups: Iterable[Startup],
    now: datetime,
    *,
    model: str | None = None,
    asked: Sequence[datetime] = (),
    prior: Prior | None = UNKNOWN,
    at: Sequence[float] = (0.5, 0.95),
) -> StartTimes:
    """Return how long cold starts of one pool take.

    Args:
        startups: Of the pool; others than cold starts do not count.
        now: The time.
        model: Whose workers; None for any. What does not know its models yet counts for all.
        asked: When each machine was asked for of which no worker has been heard yet.
        prior: What is believed as long as few are ready; None for nothing.
        at: Shares of all, each above 0 and at most 1.
    """
    seen = [_until_ready(each, now) for each in startups if _counts(each, model)]
    seen += [Observation(max(0.0, (now - each).total_seconds()), is_over=False) for each in asked]
    ready = sum(each.is_over for each in seen)
    return StartTimes(tuple(quantiles(seen, at, prior)), ready, len(seen) - ready)


def _counts(startup: Startup, model: str | None) -> bool:
    if startup.kind is not StartupKind.COLD:
        return False
    return model is None or not startup.models or model in startup.models


def _until_ready(startup: Startup, now: datetime) -> Observation:
    # Whose models are not known yet counts as a worker of some model.
    whole = msgspec.structs.replace(startup, models=startup.models[:1] or [""])
    return observations(whole, now)[whole.models[0], READY]
