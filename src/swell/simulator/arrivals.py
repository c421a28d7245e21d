"""Random arrivals per tick: a trace, correlated noise, and a Poisson process."""

import math
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from swell.simulator.traces import Trace

#: Length of a tick, in seconds.
TICK_S: Final = 10.0

#: Standard deviation of the noise (of its logarithm), and its time constant in seconds.
_SPREAD: Final = 0.10
_MEMORY_S: Final = 600.0


def arrivals(
    trace: Trace, seed: int, *, spread: float = _SPREAD, memory_s: float = _MEMORY_S
) -> NDArray[np.float64]:
    """Return the number of samples that arrive in each tick. Shape (ticks,).

    The demand of the trace is multiplied by exp(e), where e is a first-order autoregressive
    process. Arrivals are Poisson with that mean.

    Args:
        trace: Demand over time.
        seed: Seed of the noise.
        spread: Standard deviation of e; 0 for none.
        memory_s: Time constant of e, in seconds.
    """
    random = np.random.default_rng([seed, zlib.crc32(trace.name.encode())])
    means = trace.ticks(TICK_S) * TICK_S
    kept = math.exp(-TICK_S / memory_s)
    pushes = random.standard_normal(len(means)) * spread
    pushes[1:] *= math.sqrt(1.0 - kept * kept)
    return random.poisson(means * np.exp(_wandering(pushes, kept))).astype(np.float64)


def _wandering(pushes: NDArray[np.float64], kept: float) -> NDArray[np.float64]:
    """Return the autoregressive process with these innovations."""
    values, value = [], 0.0
    for push in pushes.tolist():
        value = kept * value + push
        values.append(value)
    return np.array(values)
