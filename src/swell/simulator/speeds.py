"""Service times: constant, measured, or from published data."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.core.errors import InvalidInput

_Array = NDArray[np.float64]

#: Quantiles of request durations in GenTD26, a Stable Diffusion service, in seconds. Only these
#: quantiles are included: the licence of the data set allows research and study only.
#:
#: Source:
#:     Derived from cluster-trace-v2026-GenAI of alibaba/clusterdata; Lin et al., SoCC 2025.
GENTD26_S: Final[Mapping[float, float]] = {
    0.05: 11.0,
    0.25: 17.0,
    0.5: 23.0,
    0.75: 33.0,
    0.9: 53.0,
    0.95: 70.0,
    0.99: 106.0,
}

#: Number of equally likely values that represent a distribution.
_PARTS: Final = 1000


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Service time of one model on a worker.

    A task takes `fixed_s + per_sample_s · samples`, multiplied by a random one of `ratios`.
    """

    fixed_s: float = 0.0
    per_sample_s: float = 0.0
    #: Equally likely factors with mean 1; empty for constant times.
    ratios: Sequence[float] = ()
    #: Slowdown with 1, 2, 3 … concurrent tasks on a worker; the last applies to more. Empty for
    #: none.
    slower: Sequence[float] = ()

    def mean_s(self, samples: float = 1.0) -> float:
        """Return the mean duration of a task that runs alone, in seconds."""
        return self.fixed_s + self.per_sample_s * samples

    def rate(self, samples: float = 1.0, slots: int = 1) -> float:
        """Return the samples per second of a worker with all slots in use."""
        return slots * samples / (self.mean_s(samples) * self.slowed(slots))

    def slowed(self, at_once: int) -> float:
        """Return the slowdown with this number of concurrent tasks."""
        return self.slower[min(at_once, len(self.slower)) - 1] if self.slower else 1.0

    def drawn(self, samples: _Array, random: np.random.Generator) -> _Array:
        """Draw service times in seconds. Shapes: (tasks,) → (tasks,)."""
        times: _Array = self.fixed_s + self.per_sample_s * samples
        if self.ratios:
            times *= random.choice(np.array(self.ratios), len(times))
        return times


def fixed(seconds: float) -> Speed:
    """Return a constant speed.

    Raises:
        InvalidInput: The time is not positive.
    """
    return measured([seconds])


def measured(times_s: Sequence[float]) -> Speed:
    """Return the speed of a model with these measured times of one-sample tasks.

    Raises:
        InvalidInput: There are no times, or one is not positive.
    """
    times = np.array(times_s, np.float64)
    if not len(times) or not (np.isfinite(times).all() and (times > 0).all()):
        raise InvalidInput("service times must be numbers above 0, in seconds, and at least one")
    mean = float(times.mean())
    ratios = () if float(np.ptp(times)) == 0.0 else tuple((times / mean).tolist())
    return Speed(per_sample_s=mean, ratios=ratios)


def gentd26() -> Speed:
    """Return the speed of Stable Diffusion tasks in GenTD26, for whole tasks.

    Interpolates linearly between the known quantiles, and is constant outside them.
    """
    shares = (np.arange(_PARTS) + 0.5) / _PARTS
    times = np.interp(shares, list(GENTD26_S), list(GENTD26_S.values()))
    mean = float(times.mean())
    return Speed(fixed_s=mean, ratios=tuple((times / mean).tolist()))
