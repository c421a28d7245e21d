"""Estimates the cold start of a new worker from observations. Pure.

Three kinds of observations form one distribution: finished cold starts, cold starts in progress
that workers report, and launched machines without a worker yet. The last two are censored: they
take at least as long as so far.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from swell.core.kaplan_meier import Observation, Prior, Quantile, quantiles
from swell.core.startup_phases import READY, Startup, StartupKind, observations

#: Prior for a pool without observations: typical of a cloud machine that pulls an image and loads a
#: model.
UNKNOWN: Final = Prior(p50_s=180.0, p90_s=600.0)


class StartTimes(msgspec.Struct, frozen=True):
    """Distribution of the time from a launch until the worker takes tasks.

    Args:
        at: The requested quantiles, in their order.
        ready: Number of finished cold starts.
        not_over: Number of cold starts that are in progress or failed.
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
    """Return the distribution of one pool's cold starts.

    Args:
        startups: Startups of the pool; only cold starts count.
        now: The time.
        model: Model of the workers; None for any. A worker with unknown models counts for all.
        asked: Launch times of the machines without a worker.
        prior: Prior distribution, for few observations; None for none.
        at: Requested quantiles, each above 0 and at most 1.
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
    # A worker with unknown models counts for every model.
    whole = msgspec.structs.replace(startup, models=startup.models[:1] or [""])
    return observations(whole, now)[whole.models[0], READY]
