"""What becomes of a crowd when the policy is told what is wrong, or does not get what it asks for?

Simulated time: v2, a day and a half about its spike of ten times as many within two hours, cold
starts of 300 s, three seeds that nobody chose numbers by. In each case something is wrong in the
middle of the rise; the policy knows nothing of it but what a controller would see.

    python benchmarks/fleet_mistakes.py            # value: broken promises
    python benchmarks/fleet_mistakes.py --write    # and its table in results/

Promises: no sample is lost; nothing is decided that cannot be done; nobody goes while what is seen
is older than the policy believes; after a restart without memory nobody goes for as long as a start
takes; and the queue is gone two hours after the mistake and the spike are over, where they are.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fleet_table
from machine import quiet, report, say
from swell.autoscaler.outlook import Observation, Plan, State
from swell.autoscaler.policy import plan
from swell.autoscaler.policy_settings import PolicySettings
from swell.core.errors import SwellError
from swell.simulator import fluid
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.pools import Pool
from swell.simulator.traces import HELD_OUT_SEEDS, named

HOUR_S = 3600.0
#: The trace begins at midnight of its second day: the spike rises from 15:00 to 17:00.
RISE_S, TOP_S = 15 * HOUR_S, 17 * HOUR_S
MIDDLE_S = 16 * HOUR_S
START_S = 300.0
SEEDS = HELD_OUT_SEEDS[:3]

SETTINGS = PolicySettings(wait_s=20.0)


@dataclass(frozen=True)
class Mistake:
    """Something that is wrong.

    Args:
        what: In words.
        pools: What is to be had.
        stale: From when until when demand is seen as it was.
        forgets_every_s: How often the controller is restarted without its memory.
        over_s: When it is over.
    """

    what: str
    pools: Sequence[Pool] = field(default_factory=lambda: [pool()])
    stale: Sequence[tuple[float, float]] = ()
    forgets_every_s: float = 0.0
    over_s: float = TOP_S


def pool(**different: Any) -> Pool:
    return Pool(**{"start_s": START_S, "rate": 0.5, **different})


def spot_and_firm(**different: Any) -> list[Pool]:
    spot = {"name": "spot", "is_spot": True, "location": "east", "hour_micros": 400_000}
    return [pool(name="firm"), pool(**spot, losses_per_hour=0.02, **different)]


MISTAKES = {
    "none": Mistake("nothing is wrong"),
    "stale-5": Mistake(
        "nothing new is seen for 5 min in the rise", stale=[(MIDDLE_S, MIDDLE_S + 300)]
    ),
    "stale-20": Mistake(
        "nothing new is seen for 20 min in the rise", stale=[(MIDDLE_S, MIDDLE_S + 1200)]
    ),
    "half": Mistake(
        "workers are half as fast as is told, all the time", [pool(told_rate=1.0)], over_s=np.inf
    ),
    "double": Mistake(
        "workers are twice as fast as is told, all the time", [pool(told_rate=0.25)], over_s=np.inf
    ),
    "slower": Mistake(
        "workers become half as fast in the rise, and nobody tells for an hour",
        [pool(rate_factors=[(MIDDLE_S, 0.5), (MIDDLE_S + HOUR_S, 1.0)])],
    ),
    "starts": Mistake(
        "cold starts take twice as long from the middle of the rise on",
        [pool(start_factors=[(MIDDLE_S, 2.0)])],
    ),
    "refuses": Mistake(
        "the provider refuses all for 15 min in the rise",
        [pool(refuses=[(MIDDLE_S, MIDDLE_S + 900)])],
    ),
    "short": Mistake(
        "there are 600 workers at most until an hour after the top",
        [pool(available=[(RISE_S, 600), (TOP_S + HOUR_S, 1e6)])],
        over_s=TOP_S + HOUR_S,
    ),
    "spot": Mistake("spot workers, and workers on demand", spot_and_firm()),
    "vanishes": Mistake(
        "of these, all spot workers are taken at the top, and there are none for two hours",
        spot_and_firm(available=[(TOP_S, 0), (TOP_S + 2 * HOUR_S, 1e6)]),
        over_s=TOP_S + 2 * HOUR_S,
    ),
    "forgets": Mistake("the controller forgets everything every ten minutes", forgets_every_s=600),
}


class Watched:
    """The policy, with an eye on its promises."""

    def __init__(self, mistake: Mistake) -> None:
        self._mistake = mistake
        self._memory = State()
        self._forgot_at = 0.0
        self.broken: list[str] = []

    def __call__(self, seen: Observation, state: State) -> Plan:
        every_s = self._mistake.forgets_every_s
        if every_s and seen.at - self._forgot_at >= every_s:
            self._forgot_at, state = seen.at, State()
        decided = plan(seen, SETTINGS, state)
        goes = sum(each.drain + each.cancel_boots for each in decided.pools.values())
        if goes and seen.age_s > SETTINGS.stale_s:
            self.broken.append(f"{goes} go though what is seen is {seen.age_s:g} s old")
        if goes and every_s and seen.at - self._forgot_at < min(p.start_p50_s for p in seen.pools):
            self.broken.append(f"{goes} go {seen.at - self._forgot_at:g} s after a restart")
        return decided


def run(name: str, seed: int) -> dict[str, Any]:
    """One case with one seed."""
    mistake = MISTAKES[name]
    came = arrivals(named("v2").between(1, 2.5), seed)
    watched = Watched(mistake)
    try:
        done = fluid.simulate(
            came, watched, mistake.pools, seed=seed, stale=mistake.stale, keep=True
        )
    except SwellError as error:
        return {"broken": [f"cannot be done: {error}"]}
    broken = [*watched.broken]
    if done.lost:
        broken.append(f"{done.lost:g} samples are lost")
    assert done.history is not None
    if np.isfinite(mistake.over_s):
        broken += still_waiting(came, done.history.queued, mistake.over_s + 2 * HOUR_S)
    return {
        "cost": done.cost_micros / 1e6,
        "late": done.waits.late_share(SETTINGS.wait_s),
        "p95_s": done.waits.quantile(0.95),
        "most_s": done.waits.most_s,
        "peak": done.peak,
        "refused": done.refused,
        "losses": done.losses,
        "broken": broken,
    }


def still_waiting(came: np.ndarray, queued: np.ndarray, since_s: float) -> list[str]:
    """What is wrong if more stands in the queue than comes within the wait that is wanted."""
    since = round(since_s / TICK_S)
    standing = float(np.median(queued[since:]))
    if standing <= float(np.mean(came[since:])) * SETTINGS.wait_s / TICK_S:
        return []
    return [f"{standing:.0f} samples stand in the queue long after it is over"]


def together(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    broken = [each for one in runs for each in one["broken"]]
    found: dict[str, Any] = {"broken": broken}
    for key in ("cost", "late", "p95_s"):
        found[key] = float(np.mean([one.get(key, np.nan) for one in runs]))
    for key in ("most_s", "peak", "refused", "losses"):
        found[key] = max(one.get(key, 0) for one in runs)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| what is wrong | cost over that where nothing is | late | p95 | longest wait | peak |",
        "|---|---|---|---|---|---|",
    ]
    usual = found["none"]["cost"]
    for name, each in found.items():
        lines.append(
            f"| {MISTAKES[name].what} | {each['cost'] / usual:.2f} | {each['late']:.1%} | "
            f"{each['p95_s']:.0f} s | {each['most_s']:.0f} s | {each['peak']:,} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(MISTAKES))
    parser.add_argument("--write", action="store_true", help="write the table of the docs")
    chosen = parser.parse_args()
    names = [chosen.only] if chosen.only else list(MISTAKES)
    asked = [(name, seed) for name in names for seed in SEEDS]
    context = multiprocessing.get_context("spawn")
    with quiet(), ProcessPoolExecutor(os.cpu_count(), mp_context=context) as processes:
        runs = list(processes.map(run, *zip(*asked, strict=True)))
    found = {}
    for name in names:
        mine = [done for (other, _), done in zip(asked, runs, strict=True) if other == name]
        found[name] = together(mine)
        say(f"{name}: {found[name]}")
    if chosen.write:
        fleet_table.put(table(found), "mistakes", "benchmarks/fleet_mistakes.py")
    broken = sum(len(each["broken"]) for each in found.values())
    report(broken, {MISTAKES[name].what: each for name, each in found.items()}, ok=not broken)


if __name__ == "__main__":
    main()
