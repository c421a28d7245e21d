"""What a policy costs at the same service as others: over the least that it could have cost. Pure.

Equal service: no more than 5 % of samples wait longer than wanted, so that the 95th percentile of
waits is what is wanted. Where a sweep of a knob has one setting that is good enough and a cheaper
one beside it that is not, the cost in between is interpolated.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

#: Between two neighbours of a sweep so many steps are looked at.
_STEPS = 20


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What one setting cost, and how it served.

    Args:
        curve: What it has in common with those that differ in the knob only.
        knob: The number that differs.
        times: What was paid, over the least.
        late: The share of samples that waited longer than wanted.
        p95_s: 95th percentile of waits, in seconds.
        is_default: Whether what was tried comes so.
    """

    curve: str
    knob: float
    times: float
    late: float
    p95_s: float = 0.0
    is_default: bool = False


def at_equal_service(served: Iterable[Served], late: float = 0.05) -> float | None:
    """Return the lowest cost at which no larger share is late, over the least.

    Returns:
        None where no setting is good enough.
    """
    curves: dict[str, list[Served]] = {}
    for each in served:
        curves.setdefault(each.curve, []).append(each)
    found = [cost for curve in curves.values() for cost in _reached(curve, late)]
    return min(found, default=None)


def _reached(curve: Sequence[Served], late: float) -> Iterable[float]:
    """Yield what is good enough on a curve, and what lies between two that are neighbours."""
    ordered = sorted(curve, key=lambda each: each.knob)
    yield from (each.times for each in ordered if each.late <= late)
    for one, other in pairwise(ordered):
        good, bad = (one, other) if one.late <= other.late else (other, one)
        if good.late <= late < bad.late and bad.times < good.times:
            share = (late - good.late) / (bad.late - good.late)
            yield good.times + share * (bad.times - good.times)


def for_all(served: Sequence[Sequence[Served]], late: float = 0.05) -> list[float] | None:
    """Return what one setting costs on several traces, at which no larger share is late on any.

    Of all settings, and of what lies between two neighbours of a sweep, that one with the lowest
    geometric mean.

    Args:
        served: For each trace, every setting.
        late: The share that may be late.

    Returns:
        The cost on each trace, over the least; None where no setting is good enough.
    """
    curves: dict[str, dict[float, list[Served]]] = {}
    for each in (one for trace in served for one in trace):
        curves.setdefault(each.curve, {}).setdefault(each.knob, []).append(each)
    found: list[list[float]] = []
    for curve in curves.values():
        settings = [curve[knob] for knob in sorted(curve)]
        for one, other in pairwise([*settings, settings[-1]]):
            for step in range(_STEPS + 1):
                mixed = [_mixed(a, b, step / _STEPS) for a, b in zip(one, other, strict=True)]
                if all(share <= late for _, share in mixed):
                    found.append([times for times, _ in mixed])
    return min(found, key=geometric_mean, default=None)


def _mixed(one: Served, other: Served, share: float) -> tuple[float, float]:
    """Return cost and lateness between two settings."""
    return (
        one.times + share * (other.times - one.times),
        one.late + share * (other.late - one.late),
    )


def pooled(runs: Sequence[Served], work: Sequence[float]) -> Served:
    """Return what several runs of one setting are together.

    Args:
        runs: With different seeds.
        work: How much each counts, such as its samples.
    """
    total = math.fsum(work)

    def mean(values: Iterable[float]) -> float:
        weighed = (value * weight for value, weight in zip(values, work, strict=True))
        return math.fsum(weighed) / total

    return msgspec.structs.replace(
        runs[0],
        times=mean(each.times for each in runs),
        late=mean(each.late for each in runs),
        p95_s=mean(each.p95_s for each in runs),
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))
