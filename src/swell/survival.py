"""Quantiles of durations of which some are not over yet. Pure.

Source:
    E. L. Kaplan, P. Meier: Nonparametric estimation from incomplete observations. Journal of the
    American Statistical Association 53 (1958), 457-481.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Final

import msgspec

#: A prior counts as so many equal parts.
_PARTS: Final = 40

#: Sums of weights differ from what they should be by less.
_ROUNDING: Final = 1e-9


class Observation(msgspec.Struct, frozen=True):
    """How long something took, or has taken so far.

    Args:
        seconds: >= 0.
        is_over: Whether it has ended; if not, it takes at least so long (right-censored).
        weight: As how many it counts; > 0.
    """

    seconds: float
    is_over: bool = True
    weight: float = 1.0


class Prior(msgspec.Struct, frozen=True):
    """What is believed before anything was seen: a log-normal distribution.

    Args:
        p50_s: Its median, in seconds; > 0.
        p90_s: Its 90th percentile, in seconds; >= `p50_s`.
        strength: As how many observations it counts; each that is over takes one away.
    """

    p50_s: float
    p90_s: float
    strength: float = 5.0


class Quantile(msgspec.Struct, frozen=True):
    """A quantile, or where too much is not over yet, a bound below it.

    Args:
        seconds: None where nothing was observed.
        is_bound: Whether it is only known to be at least so long.
    """

    seconds: float | None
    is_bound: bool = False


def quantiles(
    observed: Iterable[Observation], at: Sequence[float], prior: Prior | None = None
) -> list[Quantile]:
    """Return the shortest durations within which these shares of all are over.

    Args:
        observed: In any order.
        at: Shares, each above 0 and at most 1.
        prior: What is believed as long as few are over.
    """
    everything = list(observed)
    if prior is not None:
        everything += _imagined(prior, sum(1 for each in everything if each.is_over))
    if not everything:
        return [Quantile(None) for _ in at]
    steps = _steps(everything)
    longest_s = max(each.seconds for each in everything)
    return [_quantile(steps, share, longest_s) for share in at]


def _quantile(steps: Sequence[tuple[float, float]], share: float, longest_s: float) -> Quantile:
    for seconds, survival in steps:
        if survival <= 1.0 - share + _ROUNDING:
            return Quantile(seconds)
    return Quantile(longest_s, is_bound=True)


def _steps(observed: list[Observation]) -> list[tuple[float, float]]:
    """Return (duration, share that takes longer) wherever something has ended, shortest first."""
    ordered = sorted(observed, key=lambda each: each.seconds)
    at_risk = math.fsum(each.weight for each in ordered)
    survival, found = 1.0, []
    for seconds, group in itertools.groupby(ordered, key=lambda each: each.seconds):
        # What has lasted as long and goes on was at risk of ending now.
        together = list(group)
        ended = math.fsum(each.weight for each in together if each.is_over)
        if ended:
            survival *= max(0.0, 1.0 - ended / max(at_risk, ended))
            found.append((seconds, survival))
        at_risk -= math.fsum(each.weight for each in together)
    return found


def _imagined(prior: Prior, seen: int) -> list[Observation]:
    """Return what stands for the observations that are missing yet."""
    missing = prior.strength - seen
    if missing <= 0:
        return []
    spread = math.log(prior.p90_s / prior.p50_s) / NormalDist().inv_cdf(0.9)
    points = [NormalDist().inv_cdf((part + 0.5) / _PARTS) for part in range(_PARTS)]
    return [
        Observation(prior.p50_s * math.exp(spread * point), weight=missing / _PARTS)
        for point in points
    ]
