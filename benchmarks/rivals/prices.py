"""Lower bound for one pool with some late samples, certified by prices.

Assign each block a price of service such that no worker can earn more than its cost, for any start
and stop. Then the cost of a fleet is at least the revenue of the work, if each sample pays the
lowest price within its target wait, or a later price plus a surcharge; the surcharge is refunded
for the share that may be late. This holds for any such prices. The dual linear program provides
good ones.
"""

import numpy as np
from numpy.typing import NDArray

from rivals.interior import prices as interior_prices
from swell.core.errors import InvalidInput
from swell.simulator.arrivals import TICK_S

_Array = NDArray[np.float64]


def least_s(
    came: _Array,
    *,
    rate: float,
    start_s: float,
    wait_s: float = 20.0,
    late: float = 0.05,
    launch_s: float = 0.0,
) -> float:
    """Return the least paid worker time, in seconds, if nearly all samples are timely.

    Time is divided into blocks as long as the target wait. A sample is timely if it is served in
    the block of its arrival or in the next one. This allows a longer wait than the target, so the
    result is a lower bound.

    Args:
        came: Samples that arrive in each tick. Shape (ticks,).
        rate: Samples per second of one worker.
        start_s: Cold start in seconds.
        wait_s: Target wait in seconds: a multiple of a tick.
        late: Share of samples that may be served later, at any time.
        launch_s: Price of a launch, in seconds of worker time.

    Raises:
        InvalidInput: `wait_s` is not a multiple of a tick, or `late` is not a share.
    """
    width = round(wait_s / TICK_S)
    if width < 1 or width * TICK_S != wait_s or not 0.0 <= late < 1.0:
        raise InvalidInput(
            f"the bound needs a wait that is a multiple of {TICK_S:g} s, and a share from 0 to 1 "
            f"that may be late, not {wait_s:g} s and {late:g}"
        )
    padded = np.concatenate([came, np.zeros(-len(came) % width)])
    work = np.sum(padded.reshape(-1, width), axis=1) / (rate * wait_s)
    if not work.any():
        return 0.0
    gap = (start_s + launch_s) / wait_s
    each, extra = interior_prices(work, gap, late)
    return certified(work, gap, late, each, extra) * wait_s


def certified(work: _Array, gap: float, late: float, prices: _Array, extra: float) -> float:
    """Return the lower bound that these prices certify, in worker-blocks.

    Args:
        work: Work that arrives in each block, in worker-blocks. Shape (blocks,).
        gap: Cost of a start, in worker-blocks.
        late: Share of work that may be served later than in the next block.
        prices: Prices of a worker-block; reduced where a worker could profit. Shape (blocks,).
        extra: Surcharge of lateness, >= 0.
    """
    fair = fair_prices(prices, gap)
    # After the end, service costs one worker-block.
    fair = np.append(fair, 1.0)
    later = np.minimum.accumulate(fair[::-1])[::-1][:-1]
    paid = np.minimum(np.minimum(fair[:-1], fair[1:]), later + max(0.0, extra))
    return float(np.sum(work * paid)) - max(0.0, extra) * late * float(np.sum(work))


def fair_prices(prices: _Array, gap: float) -> _Array:
    """Reduce prices so that no worker can profit.

    An initial worker may earn nothing, and any other worker at most the cost of a start, for any
    start and stop. Shape (blocks,), >= 0.
    """
    fair: list[float] = []
    of_first = of_best = 0.0
    for price in prices.tolist():
        allowed = min(1.0 - of_first, 1.0 + gap - max(of_best, 0.0))
        taken = max(0.0, min(price, allowed))
        of_first += taken - 1.0
        of_best = max(of_best, 0.0) + taken - 1.0
        fair.append(taken)
    return np.array(fair)
