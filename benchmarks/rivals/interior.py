"""Solves the linear program of one pool with an interior point method. Needs scipy.

Each block depends only on the previous one, so each step solves a banded system, and a trace of two
weeks takes seconds. An inaccurate result does no harm: `prices` certifies the bound.

Source:
    S. Mehrotra: On the implementation of a primal-dual interior point method. SIAM Journal on
    Optimization 2 (1992), 575-601.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.sparse import csr_matrix

_Array = NDArray[np.float64]

#: Variables of a block: timely work in the queue, late work in the queue, total late work so far,
#: ready workers, and workers started for this block.
_VARIABLES: Final = 5
_WAITING, _LATE, _EVER_LATE, _WORKERS, _STARTED = range(_VARIABLES)

#: Limit of iterations, and accepted relative gap between bound and cost.
_ROUNDS: Final = 80
_CLOSE: Final = 1e-4

#: Slack added to every bound, so that the program has an interior.
_ROOM: Final = 1e-7


class _Program(NamedTuple):
    """Minimise `costs` · x with `rows` x <= `bounds`, from a starting point."""

    costs: _Array
    rows: csr_matrix
    bounds: _Array
    begin: _Array
    begin_prices: _Array
    #: Rows with the prices of service as multipliers, and the row for lateness.
    service: slice
    lateness: int


def prices(work: _Array, gap: float, late: float) -> tuple[_Array, float]:
    """Return the price of service in each block, and the extra price of lateness.

    Args:
        work: Work that arrives in each block, in worker-blocks. Shape (blocks,).
        gap: Cost of a start, in worker-blocks.
        late: Share of work that may be served later than in the next block.

    Returns:
        Shape (blocks,), and a number.
    """
    unit = float(np.mean(work))
    program = _program(work / unit, gap, late)
    multipliers = _solved(program)
    return multipliers[program.service], float(multipliers[program.lateness])


class _Rows:
    """Rows of a sparse matrix."""

    def __init__(self) -> None:
        self.count = 0
        self._at: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.int64]] = []
        self._values: list[_Array] = []
        self._bounds: list[_Array] = []

    def add(self, bounds: _Array, *terms: tuple[int, int, float]) -> None:
        """Add a row for each block.

        Args:
            bounds: Bound of each row. Shape (blocks,).
            terms: (variable, 0 for this block or 1 for the previous one, factor) triples.
        """
        blocks = np.arange(len(bounds))
        for variable, before, factor in terms:
            there = blocks[before:]
            self._at.append(self.count + there)
            self._columns.append((there - before) * _VARIABLES + variable)
            self._values.append(np.full(len(there), factor))
        self._bounds.append(bounds)
        self.count += len(bounds)

    def add_last(self, bound: float, column: int) -> None:
        """Add a row for one variable."""
        self._at.append(np.array([self.count]))
        self._columns.append(np.array([column]))
        self._values.append(np.ones(1))
        self._bounds.append(np.array([bound]))
        self.count += 1

    def matrix(self, columns: int) -> csr_matrix:
        """Return the sparse matrix."""
        where = (np.concatenate(self._at), np.concatenate(self._columns))
        found = csr_matrix((np.concatenate(self._values), where), shape=(self.count, columns))
        found.sort_indices()
        return found

    @property
    def bounds(self) -> _Array:
        """Upper bounds of the rows."""
        return np.concatenate(self._bounds)


def _program(work: _Array, gap: float, late: float) -> _Program:
    n, none = len(work), np.zeros(len(work))
    rows = _Rows()
    # New work waits, is served, or is late; work that waited before is served.
    rows.add(none, (_WAITING, 0, -1.0))
    rows.add(work, (_WAITING, 0, 1.0), (_EVER_LATE, 0, 1.0), (_EVER_LATE, 1, -1.0))
    rows.add(none, (_EVER_LATE, 0, -1.0), (_EVER_LATE, 1, 1.0))
    rows.add(none, (_LATE, 0, -1.0))
    rows.add(none, (_LATE, 0, 1.0), (_LATE, 1, -1.0), (_EVER_LATE, 0, -1.0), (_EVER_LATE, 1, 1.0))
    # Served work needs workers; additional workers need starts.
    service = slice(rows.count, rows.count + n)
    rows.add(
        -work,
        *((_WAITING, 1, 1.0), (_LATE, 1, 1.0), (_WAITING, 0, -1.0), (_LATE, 0, -1.0)),
        (_WORKERS, 0, -1.0),
    )
    first = np.zeros(n)
    first[0] = np.sum(work) + 1.0  # free workers at the start
    rows.add(first, (_WORKERS, 0, 1.0), (_WORKERS, 1, -1.0), (_STARTED, 0, -1.0))
    rows.add(none, (_STARTED, 0, -1.0))
    rows.add_last(late * float(np.sum(work)), (n - 1) * _VARIABLES + _EVER_LATE)
    costs = np.zeros((n, _VARIABLES))
    costs[:, _WORKERS], costs[:, _STARTED] = 1.0, gap
    costs[-1, [_WAITING, _LATE]] = 1.0
    # The price of a worker equals its cost; the price of a start is split between its two rows.
    begun = np.full(rows.count, 0.2)
    begun[service] = 1.0
    begun[service.stop : service.stop + 2 * n] = max(gap / 2.0, 0.1)
    return _Program(
        costs.ravel(),
        rows.matrix(n * _VARIABLES),
        rows.bounds + _ROOM,
        _begin(work, late),
        begun,
        service,
        rows.count - 1,
    )


def _begin(work: _Array, late: float) -> _Array:
    """Return a starting point in the interior."""
    point = np.zeros((len(work), _VARIABLES))
    lost = work * late / 2.0
    point[:, _EVER_LATE] = np.cumsum(lost)
    point[:, _WAITING] = (work - lost) / 2.0
    point[:, _LATE] = lost / 2.0
    stand = point[:, _WAITING] + point[:, _LATE]
    workers = work - np.diff(stand, prepend=0.0) + 0.5
    point[:, _WORKERS] = workers
    point[:, _STARTED] = np.maximum(np.diff(workers, prepend=workers[0]), 0.0) + 0.5
    return point.ravel()


class _Normal:
    """Banded matrix of the program's normal equations."""

    def __init__(self, rows: csr_matrix) -> None:
        self.rows, self.columns = rows, rows.T.tocsr()
        self._width = rows.shape[1]
        of, at, factors = [], [], []
        counts = np.diff(rows.indptr)
        for count in np.unique(counts):
            these = np.flatnonzero(counts == count)
            starts = rows.indptr[these]
            for one in range(count):
                for other in range(one, count):
                    low, high = rows.indices[starts + one], rows.indices[starts + other]
                    of.append(these)
                    at.append((high - low) * self._width + low)
                    factors.append(rows.data[starts + one] * rows.data[starts + other])
        self._of, self._at = np.concatenate(of), np.concatenate(at).astype(np.int64)
        self._factors = np.concatenate(factors)
        self._bands = int(np.max(self._at)) // self._width + 1

    def weigh(self, weights: _Array) -> None:
        """Factorise the matrix with these row weights."""
        self._weights = weights
        size = self._bands * self._width
        sums = np.bincount(self._at, self._factors * weights[self._of], minlength=size)
        band = sums.reshape(self._bands, self._width)
        band[0] += 1e-12 * band[0] + 1e-12
        self._factor = cholesky_banded(band, overwrite_ab=True, lower=True, check_finite=False)

    def solve(self, right: _Array) -> _Array:
        """Solve for `right`, with one step of refinement."""
        found = self._once(right)
        made = self.columns @ (self._weights * (self.rows @ found))
        return found + self._once(right - made)

    def _once(self, right: _Array) -> _Array:
        found: _Array = cho_solve_banded((self._factor, True), right, check_finite=False)
        return found


def _solved(program: _Program) -> _Array:
    """Return nearly optimal multipliers of the rows, >= 0."""
    rows, normal = program.rows, _Normal(program.rows)
    at = _Point(
        program.begin,
        np.maximum(program.bounds - rows @ program.begin, 0.1),
        program.begin_prices,
    )
    for _ in range(_ROUNDS):
        off = _Off(
            program.costs + normal.columns @ at.prices, rows @ at.x + at.slack - program.bounds
        )
        cost, bound = float(program.costs @ at.x), -float(program.bounds @ at.prices)
        is_close = abs(cost - bound) < _CLOSE * max(1.0, abs(cost))
        if is_close and np.max(np.abs(off.prices)) < _CLOSE:
            break
        at = _moved(normal, at, off)
    return at.prices


class _Point(NamedTuple):
    """A point of the method, or a step."""

    x: _Array
    slack: _Array
    prices: _Array


class _Off(NamedTuple):
    """Residuals of the dual and of the primal constraints."""

    prices: _Array
    slack: _Array


def _moved(normal: _Normal, at: _Point, off: _Off) -> _Point:
    """Return the next point, with Mehrotra's predictor and corrector steps."""
    normal.weigh(at.prices / at.slack)
    products = at.slack * at.prices
    mean = float(np.mean(products))
    tried = _step(normal, at, off, products)
    reached = _gone(at, tried, 1.0)
    share = (float(np.mean(reached.slack * reached.prices)) / mean) ** 3
    aim = products + tried.slack * tried.prices - share * mean
    return _gone(at, _step(normal, at, off, aim), 0.995)


def _step(normal: _Normal, at: _Point, off: _Off, products: _Array) -> _Point:
    """Return the step that reduces the products of slacks and prices by `products`."""
    pulled = (at.prices * off.slack - products) / at.slack
    x = normal.solve(-off.prices - normal.columns @ pulled)
    slack = -off.slack - normal.rows @ x
    return _Point(x, slack, -(products + at.prices * slack) / at.slack)


def _gone(at: _Point, step: _Point, share: float) -> _Point:
    """Take the largest step that keeps slacks and prices positive, times `share`."""
    far = share * _room(at.slack, step.slack)
    far_prices = share * _room(at.prices, step.prices)
    return _Point(
        at.x + far * step.x, at.slack + far * step.slack, at.prices + far_prices * step.prices
    )


def _room(values: _Array, step: _Array) -> float:
    falling = step < 0.0
    if not falling.any():
        return 1.0
    return min(1.0, float(np.min(-values[falling] / step[falling])))
