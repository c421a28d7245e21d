"""One pool, some late: a lower bound that prices certify.

Let each moment have a price of service such that no worker could earn more than it is paid for,
whenever it is started and stopped. Then a fleet costs at least what the work pays if each sample is
served when it is cheapest for it: within its wait, or some time later, which costs extra and is
refunded for as many as may be late. This holds for any such prices; good ones come from the linear
program whose dual this is.
"""

import numpy as np
from numpy.typing import NDArray

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
    """Return for how long workers are paid at least if nearly all samples are taken in time.

    Time is divided into blocks as long as the wait: a sample is in time if it is served in the
    block in which it came, or in the next. That is more than the wait allows, and so a bound.

    Args:
        came: How many samples come in each tick. Shape (ticks,).
        rate: Samples per second of one worker.
        start_s: How long starts take, in seconds.
        wait_s: Within how long a sample is to be taken, in seconds: a multiple of a tick.
        late: The share that may be taken later, at any time.
        launch_s: What a start costs besides, in seconds of a worker.

    Raises:
        InvalidInput: `wait_s` is not a multiple of a tick, `late` is no share, or scipy is not
            installed.
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
    each, extra = _prices(work, gap, late)
    return certified(work, gap, late, each, extra) * wait_s


def _prices(work: _Array, gap: float, late: float) -> tuple[_Array, float]:
    try:
        # An extra brings scipy.
        from swell.simulator.oracle.interior import prices  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"the bound needs {error.name}, which is not installed: pip install 'swell[simulate]'"
        ) from error
    return prices(work, gap, late)


def certified(work: _Array, gap: float, late: float, prices: _Array, extra: float) -> float:
    """Return what these prices prove, in blocks of one worker.

    Args:
        work: What comes in each block, in blocks of one worker. Shape (blocks,).
        gap: What a start costs, in blocks of one worker.
        late: The share of work that may be served later than in the next block.
        prices: Of a block of one worker; made smaller where workers could earn with them. Shape
            (blocks,).
        extra: What being late costs besides, >= 0.
    """
    fair = fair_prices(prices, gap)
    # After the end, work costs what it takes.
    fair = np.append(fair, 1.0)
    later = np.minimum.accumulate(fair[::-1])[::-1][:-1]
    paid = np.minimum(np.minimum(fair[:-1], fair[1:]), later + max(0.0, extra))
    return float(np.sum(work * paid)) - max(0.0, extra) * late * float(np.sum(work))


def fair_prices(prices: _Array, gap: float) -> _Array:
    """Return prices made smaller where a worker could earn with them.

    One that is there from the beginning may earn nothing, each other one no more than a start
    costs, whenever it comes and goes. Shape (blocks,), >= 0.
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
