"""Cost of a policy at equal service, divided by the lower bound. Pure.

Equal service means that at most 5 % of samples wait longer than the target: the target is the 95th
percentile. If one setting of a curve is good enough and its cheaper neighbour is not, the cost
between them is interpolated.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

#: Interpolation steps between two neighbours on a curve.
_STEPS = 20


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Cost and service of one setting.

    Args:
        curve: Name of the curve.
        knob: The number that differs along the curve.
        times: Cost divided by the lower bound.
        late: Share of samples that waited longer than the target.
        p95_s: 95th percentile of waits, in seconds.
        is_default: Whether these are default settings.
    """

    curve: str
    knob: float
    times: float
    late: float
    p95_s: float = 0.0
    is_default: bool = False


def at_equal_service(served: Iterable[Served], late: float = 0.05) -> float | None:
    """Return the lowest cost with at most this share late, divided by the lower bound.

    Returns:
        None if no setting is good enough.
    """
    curves: dict[str, list[Served]] = {}
    for each in served:
        curves.setdefault(each.curve, []).append(each)
    found = [cost for curve in curves.values() for cost in _reached(curve, late)]
    return min(found, default=None)


def _reached(curve: Sequence[Served], late: float) -> Iterable[float]:
    """Yield the costs of good settings on a curve, and the interpolated ones."""
    ordered = sorted(curve, key=lambda each: each.knob)
    yield from (each.times for each in ordered if each.late <= late)
    for one, other in pairwise(ordered):
        good, bad = (one, other) if one.late <= other.late else (other, one)
        if good.late <= late < bad.late and bad.times < good.times:
            share = (late - good.late) / (bad.late - good.late)
            yield good.times + share * (bad.times - good.times)


def for_all(served: Sequence[Sequence[Served]], late: float = 0.05) -> list[float] | None:
    """Return the cost of one setting on several traces, with at most this share late on each.

    Chooses the setting, or interpolated setting, with the lowest geometric mean.

    Args:
        served: All settings, for each trace.
        late: Share of samples that may be late.

    Returns:
        The cost on each trace, divided by the lower bound; None if no setting is good enough.
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
    """Interpolate cost and late share between two settings."""
    return (
        one.times + share * (other.times - one.times),
        one.late + share * (other.late - one.late),
    )


def pooled(runs: Sequence[Served], work: Sequence[float]) -> Served:
    """Return the weighted mean of several runs of one setting.

    Args:
        runs: Runs with different seeds.
        work: Weight of each run, such as its samples.
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
