import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from swell.autoscaler.outlook import Observation, Plan, PoolPlan, State
from swell.simulator import fluid
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.pools import MODEL, Pool
from swell.simulator.traces import named

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rivals.anchors import ANCHORS, REFERENCES, Anchor
from rivals.fleets import Case, Fleets
from rivals.rules import Aws, Foresight, Keda, Knative, Peak, Ray, RunPod, Sky, SkyPool

RATE = 0.5


def numbers(**values: float) -> Mapping[str, np.ndarray]:
    return {name: np.array([float(value)]) for name, value in values.items()}


def fleet(per_s: float = 5.0, ticks: int = 120, **state: float) -> Fleets:
    """One fleet as it would be seen: flat demand, and what is told of its workers."""
    made = Fleets(np.full((ticks, 1), per_s * TICK_S), [Case(0, 300.0)], RATE, 1)
    for name, value in state.items():
        setattr(made, name, np.array([float(value)]))
    return made


def asked(rule: object, fleets: Fleets, ticks: int = 1) -> list[float]:
    """What a rule wants at each of some ticks, if it gets it at once."""
    found = []
    for tick in range(fleets.tick, fleets.tick + ticks):
        fleets.tick = tick
        found.append(float(rule.wanted(fleets)[0]))  # type: ignore[attr-defined]
    fleets.tick += 1
    return found


# --- fleets side by side ---


class Following:
    """A rule, and the same as a policy."""

    only_idle = False

    def wanted(self, fleets: Fleets) -> np.ndarray:
        return np.ceil(fleets.per_s / fleets.rate / 0.85)


def following(seen: Observation, state: State) -> Plan:
    pool = seen.pools[0]
    n = math.ceil(seen.demands[0].minutes[-1] / 60.0 / pool.rates[MODEL] / 0.85)
    have = pool.ready + len(pool.booting)
    canceled = min(len(pool.booting), max(0, have - n))
    decided = PoolPlan(
        desired=n,
        launch=max(0, n - have),
        cancel_boots=canceled,
        drain=max(0, have - canceled - n),
    )
    return Plan(pools={pool.pool: decided}, state=state)


@pytest.mark.slow
def test_fleets_side_by_side_are_what_one_by_one_they_are() -> None:
    trace = named("v3").between(1.6, 2.4)
    came = np.stack([arrivals(trace, seed) for seed in (1, 2)], axis=1)
    cases = [Case(course, start_s) for start_s in (120.0, 600.0) for course in (0, 1)]
    together = Fleets(came, cases, RATE, 1).run(Following())
    for case, found in zip(cases, together, strict=True):
        pool = Pool(rate=RATE, start_s=case.start_s)
        alone = fluid.simulate(came[:, case.arrivals], following, [pool], seed=1)
        assert found.samples == alone.samples
        assert found.worker_s == pytest.approx(alone.worker_s, rel=0.002)
        assert found.boot_s == pytest.approx(alone.boot_s, rel=0.03)
        assert found.launches == pytest.approx(alone.launches, rel=0.02)
        assert found.flaps == pytest.approx(alone.flaps, rel=0.03)
        assert found.waits.late_share(20.0) == pytest.approx(
            alone.waits.late_share(20.0), abs=0.01, rel=0.05
        )
        assert found.waits.mean_s == pytest.approx(alone.waits.mean_s, rel=0.05)


def test_a_launch_of_thousands_takes_as_long_as_single_ones() -> None:
    class Once:
        only_idle = False

        def wanted(self, fleets: Fleets) -> np.ndarray:
            return np.array([10_000.0])

    done = Fleets(np.zeros((100, 1)), [Case(0, 300.0)], RATE, 1).run(Once())[0]
    assert done.boot_s / done.launches == pytest.approx(305.0, abs=2.0)
    assert done.peak == 10_000


def test_only_the_idle_go_where_the_busy_are_protected() -> None:
    class Nobody:
        def __init__(self, only_idle: bool) -> None:
            self.only_idle = only_idle

        def wanted(self, fleets: Fleets) -> np.ndarray:
            return np.zeros(1) if fleets.tick == 1 else fleets.total

    came = np.full((3, 1), 50.0)
    protected = Fleets(came, [Case(0, 300.0)], RATE, 1)
    protected.run(Nobody(True))
    assert protected.ready[0] == 10  # of 13, ten were busy
    other = Fleets(came, [Case(0, 300.0)], RATE, 1)
    other.run(Nobody(False))
    assert other.ready[0] == 0


# --- rules ---


def test_keda_wants_what_its_metric_says_beyond_a_tolerance() -> None:
    by_queue = numbers(per_worker=5, is_rate=0, down_s=300)
    # 80 wait, 20 are held: 20 workers of 5.
    assert asked(Keda(by_queue), fleet(waiting=80, busy=20, ready=20)) == [20]
    assert asked(Keda(by_queue), fleet(waiting=88, busy=20, ready=20)) == [20]
    assert asked(Keda(by_queue), fleet(waiting=130, busy=20, ready=20)) == [30]
    by_rate = numbers(per_worker=0.5, is_rate=1, down_s=300)
    assert asked(Keda(by_rate), fleet(per_s=5.0, ready=15)) == [20]


def test_keda_doubles_at_most_and_goes_down_by_the_highest_of_five_minutes() -> None:
    rule = Keda(numbers(per_worker=1, is_rate=0, down_s=300))
    fleets = fleet(waiting=1000, ready=20)
    assert asked(rule, fleets) == [40]
    fleets.ready, fleets.waiting = np.array([40.0]), np.array([0.0])
    went = asked(rule, fleets, 40)
    assert went[:29] == [40] * 29
    assert went[-1] == 1


def test_knative_wants_concurrency_over_its_target_and_panics() -> None:
    rule = Knative(numbers(per_worker=0.5, is_rate=0, window_s=60, panic=2, down_s=0))
    calm = fleet(busy=10, ready=15)
    assert asked(rule, calm, 6)[-1] == 20
    # Twice what is ready and more: panic, which never goes down for a minute.
    calm.waiting = np.array([100.0])
    assert asked(rule, calm) == [220]
    calm.waiting = np.array([0.0])
    assert asked(rule, calm, 6) == [220] * 6
    assert asked(rule, calm, 8)[-1] == 20


def test_ray_holds_what_it_wants_for_a_while() -> None:
    rule = Ray(numbers(per_worker=2, look_back_s=10, up_s=30, down_s=60))
    fleets = fleet(waiting=60, busy=20, ready=20)
    assert asked(rule, fleets, 5) == [20, 20, 20, 40, 40]
    fleets.waiting = np.array([0.0])
    assert asked(rule, fleets, 7) == [40] * 6 + [10]


def test_sky_serve_wants_the_rate_of_a_minute_after_a_delay() -> None:
    rule = Sky(numbers(load=0.5, up_s=60, down_s=120))
    fleets = fleet(per_s=5.0, ready=15)
    # Every 20 s it is decided; three times up.
    assert asked(rule, fleets, 6) == [15, 15, 15, 15, 20, 20]


def test_a_pool_of_sky_pilot_goes_by_one() -> None:
    rule = SkyPool(numbers(load=1, up_s=20, down_s=40))
    fleets = fleet(waiting=500, ready=10)
    assert asked(rule, fleets, 6) == [11, 11, 12, 12, 13, 13]
    fleets.waiting = np.array([0.0])
    assert asked(rule, fleets, 4) == [13, 13, 1, 1]


@pytest.mark.parametrize(
    ("metric", "state", "wanted"),
    [(0, {"waiting": 60}, 30), (1, {"busy": 10}, 50), (2, {}, 50)],
)
def test_target_tracking_acts_after_three_minutes_of_its_metric(
    metric: float, state: Mapping[str, float], wanted: float
) -> None:
    target = 2.0 if metric == 0 else 0.2
    rule = Aws(numbers(target=target, metric=metric, up=3, down=15))
    ready = 10.0 if metric == 0 else 20.0
    fleets = fleet(per_s=5.0, ready=ready, **state)
    went = asked(rule, fleets, 18)
    assert went[:17] == [ready] * 17
    assert went[17] == wanted


def test_run_pod_keeps_who_has_been_idle_for_less() -> None:
    rule = RunPod(numbers(per_worker=4, idle_s=30))
    fleets = fleet(waiting=60, busy=20)
    assert asked(rule, fleets) == [20]
    fleets.waiting = np.array([0.0])
    assert asked(rule, fleets, 4) == [20, 20, 5, 5]


def test_the_peak_is_that_of_the_busiest_minute() -> None:
    came = np.full((60, 1), 50.0)
    came[20:26] = 500.0
    made = Fleets(came, [Case(0, 300.0)], RATE, 1)
    assert asked(Peak(numbers(load=1)), made, 3) == [100] * 3


def test_who_has_foresight_begins_one_and_a_half_starts_before() -> None:
    came = np.full((200, 1), 50.0)
    came[100:106] = 500.0
    made = Fleets(came, [Case(0, 300.0)], RATE, 1)
    went = asked(Foresight(numbers(load=1)), made, 200)
    assert went[49] == 10  # nothing of the busy minute comes within 45 ticks and a minute
    assert went[50] == 25
    assert went[55] == 100
    # And keeps them for as long as a start takes.
    assert went[100:128] == [100] * 28
    assert went[140] == 10


@pytest.mark.parametrize("anchor", [*ANCHORS, *REFERENCES], ids=lambda anchor: anchor.name)
def test_an_anchor_has_a_default_and_a_sweep_and_loses_nothing(anchor: Anchor) -> None:
    assert sum(each.is_default for each in anchor.settings) == 1
    assert len({(each.curve, each.knob) for each in anchor.settings}) == len(anchor.settings)
    assert len(anchor.settings) >= (6 if anchor in ANCHORS else 3)
    came = arrivals(named("v3").between(1.75, 1.85), 1)[:, None]
    cases = [Case(0, 120.0)] * len(anchor.settings)
    names = anchor.settings[0].numbers
    by_name = {name: np.array([float(s.numbers[name]) for s in anchor.settings]) for name in names}
    for done in Fleets(came, cases, RATE, 1).run(anchor.rule(by_name)):
        assert done.samples == came.sum()
        assert 0.0 <= done.left <= done.samples
        assert done.worker_s >= done.boot_s
        # Whoever draws all of it pays at least for the work.
        assert done.worker_s >= (done.samples - done.left) / RATE * 0.99
