"""How long tasks take: one time, times that were measured, or what is known of a real service."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.core.errors import InvalidInput

_Array = NDArray[np.float64]

#: Share of requests → within how long they were done, in seconds, in GenTD26, a service for Stable
#: Diffusion. Only these quantiles are here, none of the data set's rows: it may be used for
#: research and study.
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

#: A distribution is kept as so many times of equal weight.
_PARTS: Final = 1000


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """How long one worker takes for tasks of one model.

    A task takes `fixed_s + per_sample_s · samples`, times one of the `ratios` by chance.
    """

    fixed_s: float = 0.0
    per_sample_s: float = 0.0
    #: Each is as likely as the others, and their mean is 1; empty where nothing varies.
    ratios: Sequence[float] = ()
    #: How many times as long a task takes where 1, 2, 3 … run at once on the worker; the last
    #: counts for more. Empty where they do not disturb each other.
    slower: Sequence[float] = ()

    def mean_s(self, samples: float = 1.0) -> float:
        """Return what a task of so many samples takes on average, alone on its worker."""
        return self.fixed_s + self.per_sample_s * samples

    def rate(self, samples: float = 1.0, slots: int = 1) -> float:
        """Return the samples per second of a worker with as many tasks at once as it has slots."""
        return slots * samples / (self.mean_s(samples) * self.slowed(slots))

    def slowed(self, at_once: int) -> float:
        """Return how many times as long a task takes where so many run."""
        return self.slower[min(at_once, len(self.slower)) - 1] if self.slower else 1.0

    def drawn(self, samples: _Array, random: np.random.Generator) -> _Array:
        """Return how long tasks take, in seconds. Shapes: (tasks,) → (tasks,)."""
        times: _Array = self.fixed_s + self.per_sample_s * samples
        if self.ratios:
            times *= random.choice(np.array(self.ratios), len(times))
        return times


def fixed(seconds: float) -> Speed:
    """Return the speed of a model that takes so long for each sample.

    Raises:
        InvalidInput: That is no time.
    """
    return measured([seconds])


def measured(times_s: Sequence[float]) -> Speed:
    """Return the speed of a model whose tasks of one sample took so long, one by one.

    Raises:
        InvalidInput: There are none, or some are not above 0.
    """
    times = np.array(times_s, np.float64)
    if not len(times) or not (np.isfinite(times).all() and (times > 0).all()):
        raise InvalidInput("service times must be numbers above 0, in seconds, and at least one")
    mean = float(times.mean())
    ratios = () if float(np.ptp(times)) == 0.0 else tuple((times / mean).tolist())
    return Speed(per_sample_s=mean, ratios=ratios)


def gentd26() -> Speed:
    """Return the speed of tasks of Stable Diffusion as a service has seen it, for whole tasks.

    Between the quantiles that are known it goes in straight lines, and below the first and above
    the last it stays.
    """
    shares = (np.arange(_PARTS) + 0.5) / _PARTS
    times = np.interp(shares, list(GENTD26_S), list(GENTD26_S.values()))
    mean = float(times.mean())
    return Speed(fixed_s=mean, ratios=tuple((times / mean).tolist()))
