"""Compares other autoscalers with the lower bound on a trace. Needs the extra `simulate`."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.simulator.anchors import ANCHORS, REFERENCES, Anchor
from swell.simulator.fleets import Case, Fleets
from swell.simulator.oracle import least_s
from swell.simulator.score import Served, at_equal_service


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """Worker time of another autoscaler, divided by the lower bound."""

    name: str
    #: Ratio at equal service, with the best settings of its sweep in hindsight; None if no setting
    #: serves well enough.
    best: float | None
    #: Ratio with the default settings, and the share of late samples; None without defaults.
    usual: float | None = None
    usual_late: float | None = None


def rivals(
    came: NDArray[np.float64], *, rate: float, start_s: float, wait_s: float, seed: int, late: float
) -> tuple[float, list[Rival]]:
    """Return the lower bound on paid worker time, in seconds, and the ratios of other autoscalers.

    Args:
        came: Samples that arrive in each tick. Shape (ticks,).
        rate: Samples per second of one worker.
        start_s: Mean cold start, in seconds.
        wait_s: Target wait, in seconds.
        seed: Seed of the cold starts.
        late: Share of samples that may wait longer.
    """
    least = least_s(came, rate=rate, start_s=start_s, wait_s=wait_s)
    found = []
    for anchor in (*ANCHORS, *REFERENCES):
        served = _served(anchor, came, rate, start_s, wait_s, seed, least)
        usual = next((each for each in served if each.is_default), None)
        found.append(
            Rival(
                name=anchor.name,
                best=at_equal_service(served, late),
                usual=None if usual is None else usual.times,
                usual_late=None if usual is None else usual.late,
            )
        )
    return least, found


def _served(
    anchor: Anchor,
    came: NDArray[np.float64],
    rate: float,
    start_s: float,
    wait_s: float,
    seed: int,
    least: float,
) -> list[Served]:
    names = anchor.settings[0].numbers
    numbers = {
        name: np.array([float(each.numbers[name]) for each in anchor.settings]) for name in names
    }
    cases = [Case(0, start_s) for _ in anchor.settings]
    results = Fleets(came[:, None], cases, rate, seed).run(anchor.rule(numbers))
    return [
        Served(
            curve=setting.curve,
            knob=setting.knob,
            times=result.worker_s / least,
            late=result.waits.late_share(wait_s),
            is_default=setting.is_default,
        )
        for setting, result in zip(anchor.settings, results, strict=True)
    ]
