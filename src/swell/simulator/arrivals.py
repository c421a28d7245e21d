"""What arrives in each tick: a trace, a noise that wanders, and chance."""

import math
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from swell.simulator.traces import Trace

#: Time goes by in ticks of so many seconds.
TICK_S: Final = 10.0

#: The noise, as a logarithm: its standard deviation, and how long it remembers, in seconds.
_SPREAD: Final = 0.10
_MEMORY_S: Final = 600.0


def arrivals(
    trace: Trace, seed: int, *, spread: float = _SPREAD, memory_s: float = _MEMORY_S
) -> NDArray[np.float64]:
    """Return how many samples arrive in each tick: whole numbers. Shape (ticks,).

    The demand of a trace is multiplied by exp(e), where e is an autoregressive process of first
    order, and what arrives is Poisson about it.

    Args:
        trace: The course of demand.
        seed: The same gives the same.
        spread: Standard deviation of e; 0 for none.
        memory_s: Its time constant, in seconds.
    """
    random = np.random.default_rng([seed, zlib.crc32(trace.name.encode())])
    means = trace.ticks(TICK_S) * TICK_S
    kept = math.exp(-TICK_S / memory_s)
    pushes = random.standard_normal(len(means)) * spread
    pushes[1:] *= math.sqrt(1.0 - kept * kept)
    return random.poisson(means * np.exp(_wandering(pushes, kept))).astype(np.float64)


def _wandering(pushes: NDArray[np.float64], kept: float) -> NDArray[np.float64]:
    """Return what is kept of the last value, plus a push, at each tick."""
    values, value = [], 0.0
    for push in pushes.tolist():
        value = kept * value + push
        values.append(value)
    return np.array(values)
