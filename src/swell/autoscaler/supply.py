"""When workers that were asked for will take tasks, and how many will be left by then. Pure."""

import math
from collections import Counter
from statistics import NormalDist
from typing import Final, NamedTuple

from swell.autoscaler.outlook import PoolView

#: A worker that is started is used for about so long, in seconds.
USED_S: Final = 3600.0

#: A start that takes longer than nearly all others will take so much of its delay again.
_OVERDUE: Final = 0.5

_NORMAL: Final = NormalDist()
_P95: Final = 1.6449
#: Starts spread at least so much, as a logarithm: nothing is known better.
_LEAST_SPREAD: Final = 0.05
#: Nothing starts sooner, in seconds.
_LEAST_START_S: Final = 1.0


class Boots(NamedTuple):
    """Workers that start: in how many seconds they will be ready, how many, how old they are."""

    in_s: float
    n: int
    age_s: float


class Supply(NamedTuple):
    """One pool, as far as deciding needs it.

    Args:
        view: What was seen.
        boots: Those that start, the first to be ready first.
        lead_s: How long it takes until a worker that is asked for now takes tasks, in seconds.
        keep_s: As long as a worker may stand idle before a new start would have been cheaper.
        left: The share of workers that is still there after `lead_s`.
    """

    view: PoolView
    boots: tuple[Boots, ...]
    lead_s: float
    keep_s: float
    left: float

    @property
    def n(self) -> int:
        """Workers that take tasks or will."""
        return self.view.ready + len(self.view.booting)

    @property
    def unused(self) -> int:
        """Workers that take no tasks any more, and are paid for until they have gone."""
        return self.view.draining + self.view.silent

    @property
    def new_price(self) -> float:
        """What an hour of a new worker costs, its start included, in millionths of a dollar.

        It is used for an hour or so; of those that are taken back, each hour another is started.
        """
        view = self.view
        starts = 1.0 + view.losses_per_hour
        return view.hour_micros * (1.0 + starts * self.keep_s / USED_S)

    @property
    def price(self) -> float:
        """What an hour of one that is there costs, in millionths of a dollar."""
        lost = self.view.losses_per_hour * self.keep_s / USED_S
        return self.view.hour_micros * (1.0 + lost)

    def coming(self, seconds: float) -> int:
        """Return how many of those that start will be ready after so many seconds."""
        return sum(boots.n for boots in self.boots if boots.in_s <= seconds)

    @property
    def room(self) -> int:
        """How many there may be at most, as things stand."""
        most = min(self.view.most, self.n)
        return most if self.view.closed_s > 0.0 else max(most, self.view.most - self.unused)


def supply(view: PoolView) -> Supply:
    """Return a pool with what follows from what was seen."""
    lead_s = max(_LEAST_START_S, view.start_p50_s)
    launch_s = view.launch_micros / view.hour_micros * 3600.0 if view.hour_micros > 0 else 0.0
    boots = [
        Boots(time_left_s(age_s, lead_s, view.start_p95_s), n, age_s)
        for age_s, n in Counter(view.booting).items()
    ]
    boots.sort()
    left = math.exp(-view.losses_per_hour * lead_s / 3600.0) if view.losses_per_hour > 0 else 1.0
    return Supply(view, tuple(boots), lead_s, lead_s + launch_s, left)


def time_left_s(age_s: float, p50_s: float, p95_s: float) -> float:
    """Return how long a start that has taken so long will probably take still: the median.

    Starts are log-normal. One that has taken longer than nearly all others is expected to take the
    longer still.

    Args:
        age_s: How long it has taken.
        p50_s: Within how long half of all are over; > 0.
        p95_s: Within how long 95 % of all are over.
    """
    spread = max(_LEAST_SPREAD, math.log(max(1.0, p95_s / p50_s)) / _P95)
    if age_s <= p50_s * math.exp(-3.0 * spread):
        return p50_s - age_s
    over = min(0.9999, _NORMAL.cdf(math.log(age_s / p50_s) / spread))
    expected_s = p50_s * math.exp(spread * _NORMAL.inv_cdf((1.0 + over) / 2.0))
    return max(_LEAST_START_S, expected_s - age_s, _OVERDUE * (age_s - p95_s))
