"""Lower bound for one pool without late samples, and the smoothest service.

Source:
    Demand levels, and gaps that a worker bridges or not: M. Lin, A. Wierman, L. Andrew,
    E. Thereska: Dynamic right-sizing for power-proportional data centers. IEEE INFOCOM 2011. The
    smoothest service between arrivals and deadlines: the taut string.
"""

import math

import numpy as np
from numpy.typing import NDArray

from swell.simulator.arrivals import TICK_S

_Array = NDArray[np.float64]


def levels_s(work: _Array, start_s: float, launch_s: float = 0.0) -> float:
    """Return the least paid worker time, in seconds, if each tick's work is done in that tick.

    Each level of demand has a worker. In a gap it stays or restarts, whichever is cheaper. Initial
    workers start free of charge.

    Args:
        work: Workers needed in each tick; fractions are allowed. Shape (ticks,).
        start_s: Cold start in seconds.
        launch_s: Price of a launch, in seconds of worker time.
    """
    gap = (start_s + launch_s) / TICK_S
    kept = _bridged(work, math.floor(gap))
    rises = np.maximum(np.diff(kept), 0.0).sum()
    return float(kept.sum() + gap * rises) * TICK_S


def _bridged(work: _Array, gap: int) -> _Array:
    """Fill gaps of at most `gap` ticks: a morphological closing. Shape (ticks,).

    All workers exist before the start; none is needed after the end.
    """
    if gap < 1:
        return work
    top = float(np.max(work, initial=0.0))
    padded = np.concatenate([np.full(gap, top), work, np.zeros(gap)])
    grown = _sliding(padded, gap + 1, np.maximum)
    kept: _Array = _sliding(grown, gap + 1, np.minimum)
    return kept


def _sliding(values: _Array, width: int, of: np.ufunc) -> _Array:
    """Return the maximum or minimum of each window of `width` values.

    Source:
        M. van Herk: A fast algorithm for local minimum and maximum filters on rectangular and
        octagonal kernels. Pattern Recognition Letters 13 (1992), 517-521.
    """
    n = len(values)
    padded = np.concatenate([values, np.full(-n % width, values[-1])]).reshape(-1, width)
    ahead = of.accumulate(padded, axis=1).ravel()
    back = of.accumulate(padded[:, ::-1], axis=1)[:, ::-1].ravel()
    found: _Array = of(back[: n - width + 1], ahead[width - 1 : n])
    return found


def smoothest(came: _Array, wait_ticks: int) -> _Array:
    """Return the most even service per tick with no wait longer than `wait_ticks`.

    Args:
        came: Samples that arrive in each tick. Shape (ticks,).
        wait_ticks: Longest wait in ticks.

    Returns:
        Samples. Shape (ticks + wait_ticks,).
    """
    if not wait_ticks:
        return came
    ends = np.concatenate([[0.0], np.cumsum(came)])
    most = np.concatenate([ends, np.full(wait_ticks, ends[-1])])
    least = np.concatenate([np.zeros(wait_ticks), ends])
    corners = _taut(least.tolist(), most.tolist())
    at = np.arange(len(most))
    return np.diff(np.interp(at, *np.array(corners).T))


_Point = tuple[int, float]


def _taut(least: list[float], most: list[float]) -> list[_Point]:
    """Return the corners of the shortest path between two bounds that meet at both ends."""
    corners: list[_Point] = [(0, most[0])]
    above, below = [corners[0]], [corners[0]]
    for at in range(1, len(most)):
        _bend(above, (at, most[at]), 1.0)
        _bend(below, (at, least[at]), -1.0)
        # Where one bound crosses the other, the path turns at the nearer one.
        _turn(corners, above, below, 1.0)
        _turn(corners, below, above, -1.0)
    return [*corners, *above[1:]] if len(above) > len(below) else [*corners, *below[1:]]


def _bend(chain: list[_Point], point: _Point, sign: float) -> None:
    while len(chain) > 1 and sign * _slope(chain[-2], chain[-1]) >= sign * _slope(chain[-1], point):
        chain.pop()
    chain.append(point)


def _turn(corners: list[_Point], near: list[_Point], far: list[_Point], sign: float) -> None:
    while len(far) == 2 and len(near) > 1:
        if sign * _slope(near[0], near[1]) >= sign * _slope(far[0], far[1]):
            return
        if near[1][0] >= far[1][0]:
            return
        del near[0]
        corners.append(near[0])
        far[0] = near[0]


def _slope(one: _Point, other: _Point) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
