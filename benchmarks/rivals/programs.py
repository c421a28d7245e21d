"""Lower bound for several pools: a linear program, solved by HiGHS. Needs scipy.

Pools have prices, rates, cold starts, quotas over time (such as spot capacity), a minimum billed
time, and a price per launch. Steps may be longer than ticks, which loosens deadlines and lowers the
bound.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_matrix

from swell.core.errors import InvalidInput

_Array = NDArray[np.float64]


class Offer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A pool."""

    #: Samples per second of one worker, its hourly price, and the price of a launch.
    rate: float
    hour_micros: float
    launch_micros: float = 0.0
    start_s: float = 300.0
    least_billed_s: float = 0.0
    #: Quota in each step; shape (steps,), None for no limit.
    most: _Array | None = None


def least_micros(
    came: _Array, step_s: float, offers: Sequence[Offer], *, wait_s: float, late: float = 0.0
) -> float:
    """Return the least cost of all samples, in millionths of a dollar.

    Initial workers need no start.

    Args:
        came: Samples that arrive in each step, evenly spread. Shape (steps,).
        step_s: Length of a step in seconds.
        offers: The pools.
        wait_s: Target wait in seconds.
        late: Share of samples that may be served later, at any time.

    Raises:
        InvalidInput: The quotas are too small to serve all samples.
    """
    if not np.any(came):
        return 0.0
    unit = float(np.mean(came))
    program = _Program(len(came), step_s)
    # The remaining work at the end is charged at the lowest price.
    rest = min(offer.hour_micros / 3600.0 / offer.rate for offer in offers)
    served = program.add_service(np.asarray(came, np.float64) / unit, wait_s, late, rest)
    workers = [program.add_pool(offer, unit) for offer in offers]
    program.add_workers(served, workers)
    return program.least() * unit


#: (variable, number of steps before, factor) triples.
_Term = tuple[int, int, float]


class _Program:
    """Variables, rows and costs. The unit of work is the mean arrival per step."""

    def __init__(self, steps: int, step_s: float) -> None:
        self._steps, self._step_s = steps, step_s
        self._costs: list[_Array] = []
        self._tops: list[_Array] = []
        self._columns = 0
        self._at: list[NDArray[np.int64]] = []
        self._of: list[NDArray[np.int64]] = []
        self._values: list[_Array] = []
        self._bounds: list[_Array] = []
        self._count = 0

    def least(self) -> float:
        """Solve the program, and return the cost."""
        where = (np.concatenate(self._at), np.concatenate(self._of))
        found = linprog(
            np.concatenate(self._costs),
            csr_matrix((np.concatenate(self._values), where), shape=(self._count, self._columns)),
            np.concatenate(self._bounds),
            bounds=np.stack([np.zeros(self._columns), np.concatenate(self._tops)], axis=1),
            method="highs",
        )
        if found.status != 0:
            raise InvalidInput(
                f"these pools cannot draw everything in time: {found.message} Allow more workers, "
                "a longer wait or more that is late."
            )
        return float(found.fun)

    # --- service ---

    def add_service(
        self, came: _Array, wait_s: float, late: float, rest_cost: float
    ) -> list[_Term]:
        """Add variables for timely and late service, cumulative since the start.

        Args:
            came: Work that arrives in each step. Shape (steps,).
            wait_s: Target wait in seconds.
            late: Share of work that may be served later.
            rest_cost: Cost of the remaining work at the end.

        Returns:
            The terms of the service in one step.
        """
        n, none = self._steps, np.zeros(self._steps)
        ends = np.concatenate([[0.0], np.cumsum(came)])
        due = np.interp(np.arange(1, n + 1) - wait_s / self._step_s, np.arange(n + 1), ends)
        timely, later = self._variables(n), self._variables(n)
        ever_late = self._variables(n, top=late * float(ends[-1]))
        # Late work that arrived by the end of this step may all be due by then.
        self._rows(-due, (timely, 0, -1.0), (ever_late, 0, -1.0))
        self._rows(ends[1:], (timely, 0, 1.0), (ever_late, 0, 1.0))
        self._rows(none, (later, 0, 1.0), (ever_late, 0, -1.0))
        for one in (timely, ever_late, later):
            self._rows(none, (one, 0, -1.0), (one, 1, 1.0))
        self._rows(came, (ever_late, 0, 1.0), (ever_late, 1, -1.0))
        rest = self._variables(1, cost=rest_cost)
        last = n - 1
        self._row(-float(ends[-1]), (timely + last, -1.0), (later + last, -1.0), (rest, -1.0))
        return [(timely, 0, 1.0), (timely, 1, -1.0), (later, 0, 1.0), (later, 1, -1.0)]

    def add_workers(self, served: Sequence[_Term], workers: Sequence[_Term]) -> None:
        """Require enough workers of all pools for the service."""
        self._rows(np.zeros(self._steps), *served, *workers)

    # --- pools ---

    def add_pool(self, offer: Offer, unit: float) -> _Term:
        """Add a pool; return the term of its capacity in one step."""
        n, none = self._steps, np.zeros(self._steps)
        # Round a start down to whole steps, but charge it in full.
        boots = int(offer.start_s // self._step_s)
        paid = offer.hour_micros * self._step_s / 3600.0
        start = offer.launch_micros + offer.start_s * offer.hour_micros / 3600.0
        warm = self._variables(n, cost=paid)
        launched = self._variables(n, cost=start)
        stopped = self._variables(n)
        # A worker is ready if it was ready before and did not stop, or if it was launched one cold
        # start ago. Initial workers need no launch.
        for sign in (1.0, -1.0):
            terms = ((warm, 0, sign), (warm, 1, -sign), (stopped, 0, sign))
            self._rows(none, *terms, (launched, boots, -sign), since=1)
        if offer.most is not None:
            starting = [(launched, before, 1.0) for before in range(boots)]
            self._rows(np.asarray(offer.most, np.float64) / unit, (warm, 0, 1.0), *starting)
        least = int(offer.least_billed_s // self._step_s)
        if least > boots:
            self._keep(warm, stopped, launched, least)
        return warm, 0, -offer.rate * self._step_s

    def _keep(self, warm: int, stopped: int, launched: int, least: int) -> None:
        """Require that a stopped worker is an initial one or ran for at least `least` steps."""
        n = self._steps
        stops, launches, first = self._variables(n), self._variables(n), self._variables(n)
        none = np.zeros(n)
        for sign in (1.0, -1.0):
            self._rows(none, (stops, 0, sign), (stops, 1, -sign), (stopped, 0, -sign), since=1)
            self._rows(none, (launches, 0, sign), (launches, 1, -sign), (launched, 0, -sign))
            self._rows(none, (first, 0, sign), (first, 1, -sign), since=1)
            self._row(0.0, (first, sign), (warm, -sign))
        self._rows(none, (stops, 0, 1.0), (launches, least, -1.0), (first, 0, -1.0), since=1)

    # --- rows ---

    def _variables(self, n: int, *, cost: float = 0.0, top: float = np.inf) -> int:
        begin = self._columns
        self._columns += n
        self._costs.append(np.full(n, cost))
        self._tops.append(np.full(n, top))
        return begin

    def _rows(self, bounds: _Array, *terms: _Term, since: int = 0) -> None:
        """Add one row per step from `since` on: the sum of the terms is at most the bound."""
        steps = np.arange(since, self._steps)
        for variable, before, factor in terms:
            there = steps[steps >= before]
            self._put(self._count + there - since, variable + there - before, factor)
        self._bounds.append(bounds[since:])
        self._count += len(steps)

    def _row(self, bound: float, *terms: tuple[int, float]) -> None:
        """Add one row of (column, factor) pairs."""
        for column, factor in terms:
            self._put(np.array([self._count]), np.array([column]), factor)
        self._bounds.append(np.array([bound]))
        self._count += 1

    def _put(self, at: NDArray[np.int64], of: NDArray[np.int64], factor: float) -> None:
        self._at.append(at)
        self._of.append(of)
        self._values.append(np.full(len(at), factor))
