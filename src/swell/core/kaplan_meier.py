"""Kaplan-Meier quantiles of durations, including unfinished ones. Pure.

Source:
    E. L. Kaplan, P. Meier: Nonparametric estimation from incomplete observations. Journal of the
    American Statistical Association 53 (1958), 457-481.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import Final

import msgspec

#: A prior is represented by this number of equal parts.
_PARTS: Final = 40

#: Tolerance for sums of weights.
_ROUNDING: Final = 1e-9


class Observation(msgspec.Struct, frozen=True):
    """A duration, or a lower bound of one (right-censored).

    Args:
        seconds: >= 0.
        is_over: Whether it has ended; if not, it lasts at least that long.
        weight: Number of observations that it represents; > 0.
    """

    seconds: float
    is_over: bool = True
    weight: float = 1.0


class Prior(msgspec.Struct, frozen=True):
    """The belief before any observation: a log-normal distribution.

    Args:
        p50_s: Its median, in seconds; > 0.
        p90_s: Its 90th percentile, in seconds; >= `p50_s`.
        strength: Number of observations that it represents, less one for each ended one.
    """

    p50_s: float
    p90_s: float
    strength: float = 5.0


class Quantile(msgspec.Struct, frozen=True):
    """A quantile, or a lower bound of it if too many durations have not ended.

    Args:
        seconds: None without observations.
        is_bound: Whether it is a lower bound.
    """

    seconds: float | None
    is_bound: bool = False


def quantiles(
    observed: Iterable[Observation], at: Sequence[float], prior: Prior | None = None
) -> list[Quantile]:
    """Return the quantiles of durations.

    Args:
        observed: In any order.
        at: Shares, each above 0 and at most 1.
        prior: The belief while few have ended.
    """
    everything = list(observed)
    if prior is not None:
        everything += _imagined(prior, sum(each.is_over for each in everything))
    if not everything:
        return [Quantile(None) for _ in at]
    everything.sort(key=lambda each: each.seconds)
    steps, bound = list(_steps(everything)), Quantile(everything[-1].seconds, is_bound=True)
    limits = [1.0 - share + _ROUNDING for share in at]
    return [
        next((Quantile(seconds) for seconds, survival in steps if survival <= limit), bound)
        for limit in limits
    ]


def _steps(ordered: Sequence[Observation]) -> Iterator[tuple[float, float]]:
    """Yield (duration, share that lasts longer) for each duration at which something ended."""
    at_risk, survival = math.fsum(each.weight for each in ordered), 1.0
    for seconds, group in itertools.groupby(ordered, key=lambda each: each.seconds):
        # A duration that has lasted this long without ending was at risk, too.
        together = list(group)
        ended = math.fsum(each.weight for each in together if each.is_over)
        if ended:
            survival *= max(0.0, 1.0 - ended / max(at_risk, ended))
            yield seconds, survival
        at_risk -= math.fsum(each.weight for each in together)


def _imagined(prior: Prior, ended: int) -> Iterator[Observation]:
    """Yield observations for the part of a prior that real ones have not replaced."""
    weight = (prior.strength - ended) / _PARTS
    if weight > 0:
        spread = math.log(prior.p90_s / prior.p50_s) / NormalDist().inv_cdf(0.9)
        for part in range(_PARTS):
            point = NormalDist().inv_cdf((part + 0.5) / _PARTS)
            yield Observation(prior.p50_s * math.exp(spread * point), weight=weight)
