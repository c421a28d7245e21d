"""One pool, nobody late: the level at which each worker is needed, and the smoothest service.

Source:
    Levels, and a gap that is bridged or begun anew: M. Lin, A. Wierman, L. Andrew, E. Thereska:
    Dynamic right-sizing for power-proportional data centers. IEEE INFOCOM 2011. The smoothest
    service between what came and what is due: the taut string.
"""

import math

import numpy as np
from numpy.typing import NDArray

from swell.simulator.arrivals import TICK_S

_Array = NDArray[np.float64]


def levels_s(work: _Array, start_s: float, launch_s: float = 0.0) -> float:
    """Return for how long workers are paid at least if each tick's work is done in that tick.

    Each level of demand has a worker. In a gap it goes on, or goes and is started anew, whichever
    is cheaper. Those of the beginning are there, and nobody pays for starting them.

    Args:
        work: Workers that are needed in each tick; need not be whole. Shape (ticks,).
        start_s: How long starts take, in seconds.
        launch_s: What a start costs besides, in seconds of a worker.
    """
    gap = (start_s + launch_s) / TICK_S
    kept = _bridged(work, math.floor(gap))
    rises = np.maximum(np.diff(kept), 0.0).sum()
    return float(kept.sum() + gap * rises) * TICK_S


def _bridged(work: _Array, gap: int) -> _Array:
    """Return work with gaps filled that are no longer: a morphological closing. Shape (ticks,).

    Before the beginning everything was there, after the end nothing need be.
    """
    if gap < 1:
        return work
    top = float(np.max(work, initial=0.0))
    padded = np.concatenate([np.full(gap, top), work, np.zeros(gap)])
    grown = _sliding(padded, gap + 1, np.maximum)
    kept: _Array = _sliding(grown, gap + 1, np.minimum)
    return kept


def _sliding(values: _Array, width: int, of: np.ufunc) -> _Array:
    """Return the most or the least of each `width` values that follow each other.

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
    """Return what is served in each tick if nothing waits longer, as evenly as can be.

    Args:
        came: How many samples come in each tick. Shape (ticks,).
        wait_ticks: How long one may wait.

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
    """Return the corners of the shortest way between two bounds that meet at both ends."""
    corners: list[_Point] = [(0, most[0])]
    above, below = [corners[0]], [corners[0]]
    for at in range(1, len(most)):
        _bend(above, (at, most[at]), 1.0)
        _bend(below, (at, least[at]), -1.0)
        # Where one bound has come past the other, the way turns at the nearer one.
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
