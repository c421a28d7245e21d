import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.autoscaler.outlook import Observation, Plan, PoolPlan, State
from swell.core.errors import InvalidInput
from swell.simulator.arrivals import TICK_S
from swell.simulator.fluid import Outcome, Policy, run, simulate
from swell.simulator.pools import MODEL, Pool
from swell.simulator.traces import named
from swell.simulator.waits import waits


def holding(n: int) -> Policy:
    """A policy that wants so many workers, of the first pool."""

    def policy(seen: Observation, state: State) -> Plan:
        return towards(seen, state, n)

    return policy


def towards(seen: Observation, state: State, n: int) -> Plan:
    pool = seen.pools[0]
    have = pool.ready + len(pool.booting)
    canceled = min(len(pool.booting), max(0, have - n))
    decided = PoolPlan(
        desired=n,
        launch=max(0, n - have),
        cancel_boots=canceled,
        drain=max(0, have - canceled - n),
    )
    return Plan(pools={pool.pool: decided}, state=state)


def following(utilisation: float) -> Policy:
    """A policy that wants what the last minute needs."""

    def policy(seen: Observation, state: State) -> Plan:
        rate = seen.pools[0].rates[MODEL]
        need = seen.demands[0].minutes[-1] / 60.0 / rate / utilisation
        return towards(seen, state, math.ceil(need))

    return policy


def flat(per_tick: float, ticks: int) -> np.ndarray:
    return np.full(ticks, per_tick)


def test_what_is_never_late_costs_what_its_workers_cost() -> None:
    # Five samples a second need ten workers of half a sample a second.
    came = flat(50.0, 360)
    done = simulate(came, holding(10), [Pool(hour_micros=2_000_000)], ready=[10])
    assert done.cost_micros == pytest.approx(10 * 2_000_000)
    assert (done.worker_s, done.busy_s, done.boot_s) == (36_000.0, 36_000.0, 0.0)
    assert (done.waits.most_s, done.waits.late_share(0.0), done.left, done.lost) == (0, 0, 0, 0)
    assert (done.launches, done.flaps, done.peak) == (0, 0, 10)


def test_starts_are_paid_for_and_everybody_waits_for_them() -> None:
    came = flat(50.0, 360)
    done = simulate(came, holding(20), [Pool(start_s=300.0, jitter=0.0)], ready=[0])
    assert (done.launches, done.boot_s, done.worker_s) == (20, 6000.0, 20 * 3600.0)
    # Twice as many as are needed take what has waited for 300 s by the 600th second.
    assert done.waits.most_s == pytest.approx(300.0)
    assert done.waits.late_share(150.0) == pytest.approx(300 / 3600, rel=0.02)
    assert done.waits.mean_s == pytest.approx(300 * 600 / 2 / 3600, rel=0.02)
    assert done.waits.quantile(0.5) == 0.0


def test_a_canceled_start_is_paid_until_then() -> None:
    def policy(seen: Observation, state: State) -> Plan:
        return towards(seen, state, 10 if len(seen.pools[0].booting) == 0 else 4)

    done = simulate(flat(0.0, 2), policy, [Pool(jitter=0.0)], ready=[0])
    assert (done.launches, done.canceled, done.flaps) == (10, 6, 6)
    assert done.worker_s == 10 * TICK_S + 4 * TICK_S


def test_who_drains_finishes_what_it_holds_at_our_expense() -> None:
    # All ten are busy; nine finish a sample of 20 s each.
    def policy(seen: Observation, state: State) -> Plan:
        return towards(seen, state, 10 if seen.at % 3600 < 10 else 1)

    done = simulate(flat(5.0, 3), policy, [Pool(rate=0.05)], ready=[10])
    assert (done.drained, done.flaps, done.lost) == (9, 0, 0.0)
    assert done.worker_s == pytest.approx((10 + 1 + 1) * TICK_S + 9 * 20 + done.left / 0.05)


def test_draining_workers_are_seen_until_they_are_gone() -> None:
    seen_draining = []

    def policy(seen: Observation, state: State) -> Plan:
        seen_draining.append(seen.pools[0].draining)
        return towards(seen, state, 10 if len(seen_draining) < 2 else 0)

    simulate(flat(10.0, 6), policy, [Pool(rate=0.05)], ready=[10])
    assert seen_draining == [0, 0, 10, 0, 0, 0]


def test_a_worker_is_paid_for_at_least_as_long_as_the_pool_says() -> None:
    def policy(seen: Observation, state: State) -> Plan:
        return towards(seen, state, 5 if seen.at % 3600 < 60 else 0)

    pool = Pool(start_s=20.0, jitter=0.0, least_billed_s=600.0)
    done = simulate(flat(0.0, 90), policy, [pool], ready=[0])
    assert done.worker_s == pytest.approx(5 * 600.0)


def test_what_a_start_costs_besides_is_paid_for_each() -> None:
    pool = Pool(launch_micros=7, hour_micros=0)
    assert simulate(flat(0.0, 2), holding(3), [pool], ready=[0]).cost_micros == 21


def test_the_policy_sees_what_a_controller_would_see() -> None:
    seen: list[Observation] = []

    def policy(observation: Observation, state: State) -> Plan:
        seen.append(observation)
        return towards(observation, state, 2)

    came = 2.0 * np.arange(1.0, 101.0)
    simulate(came, policy, [Pool(start_s=95.0, jitter=0.0, rate=1.0)], ready=[1])
    at = seen[20]
    demand, pool = at.demands[0], at.pools[0]
    assert at.at - seen[0].at == 200.0
    assert len(demand.minutes) == 16
    assert demand.minutes[-2:] == [2 * sum(range(9, 15)), 2 * sum(range(15, 21))]
    assert demand.tens == [36.0, 38.0, 40.0]
    # Of what comes in a tick one worker draws ten, and from the tenth tick on two draw twenty.
    assert demand.waiting == sum(2 * n - 10 for n in range(6, 11)) + sum(range(2, 22, 2))
    assert (pool.ready, pool.busy, list(pool.booting), demand.leased) == (2, 2, [], 2.0)
    assert list(seen[5].pools[0].booting) == [50.0]


def test_the_oldest_that_waits_is_told_by_its_age() -> None:
    ages = []

    def policy(observation: Observation, state: State) -> Plan:
        ages.append(observation.demands[0].oldest_s)
        return Plan(pools={}, state=state)

    # Nobody works: the first came right at the beginning.
    simulate(flat(10.0, 5), policy, [Pool()], ready=[0])
    assert ages == [0.0, 10.0, 20.0, 30.0, 40.0]


def test_starts_that_are_seen_are_measured() -> None:
    seen: list[Observation] = []

    def policy(observation: Observation, state: State) -> Plan:
        seen.append(observation)
        return towards(observation, state, 100)

    pool = Pool(start_s=300.0, jitter=0.2, start_factors=[(-1.0, 1.0), (0.0, 2.0)], starts_seen=30)
    simulate(flat(0.0, 120), policy, [pool], ready=[0])
    # Thirty were seen before that were as slow.
    assert seen[0].pools[0].start_p50_s == pytest.approx(600, rel=0.15)
    assert seen[-1].pools[0].start_p95_s == pytest.approx(600 * 1.18, rel=0.1)


def test_a_pool_that_refuses_is_closed_for_longer_each_time() -> None:
    closed = []

    def policy(observation: Observation, state: State) -> Plan:
        closed.append(observation.pools[0].closed_s)
        if closed[-1]:
            return Plan(pools={}, state=state)
        return towards(observation, state, 3)

    pool = Pool(refuses=[(0.0, 200.0)], start_s=20.0, jitter=0.0)
    done = simulate(flat(0.0, 60), policy, [pool], ready=[0])
    assert max(closed[:7]) == 60 - TICK_S
    assert max(closed[7:19]) == 120 - TICK_S
    assert max(closed[19:]) == 240 - TICK_S
    assert (done.refused, done.launches) == (9, 3)


def test_more_than_there_is_to_be_had_is_taken_back_and_refused() -> None:
    pool = Pool(available=[(100.0, 2)])
    done = simulate(flat(50.0, 30), holding(10), [pool], ready=[10])
    assert done.losses == 8
    assert done.refused > 0
    # What they held is drawn again, and nothing is lost.
    assert done.lost == 0.0


def test_spot_workers_are_lost_as_often_as_is_said() -> None:
    pool = Pool(is_spot=True, losses_per_hour=0.1, start_s=10.0, jitter=0.0)
    done = simulate(flat(0.0, 3600), holding(100), [pool], ready=[100])
    assert done.losses == pytest.approx(100, rel=0.35)
    assert done.on_demand_share == 0.0


def test_a_stale_observation_keeps_its_demand_and_tells_its_age() -> None:
    seen: list[Observation] = []

    def policy(observation: Observation, state: State) -> Plan:
        seen.append(observation)
        return towards(observation, state, 5)

    simulate(np.arange(20.0), policy, [Pool()], ready=[5], stale=[(50.0, 120.0)])
    assert [each.age_s for each in seen[4:13]] == [0, 0, 10, 20, 30, 40, 50, 60, 0]
    assert all(each.demands == seen[5].demands for each in seen[5:12])
    assert seen[12].demands != seen[5].demands


def test_workers_may_be_slower_than_is_told() -> None:
    pool = Pool(rate=1.0, told_rate=2.0, rate_factors=[(100.0, 0.5)])
    done = simulate(flat(10.0, 20), holding(1), [pool], ready=[1])
    assert done.left == pytest.approx(50.0)


def test_cold_starts_may_become_longer() -> None:
    pool = Pool(start_s=20.0, jitter=0.0, start_factors=[(50.0, 3.0)])

    def policy(observation: Observation, state: State) -> Plan:
        return towards(observation, state, 1 if observation.at % 3600 < 50 else 2)

    done = simulate(flat(0.0, 30), policy, [pool], ready=[0])
    assert done.boot_s == 20.0 + 60.0


@pytest.mark.parametrize("decided", [{"drain": 3}, {"cancel_boots": 1}, {"drain": -1}])
def test_what_cannot_be_done_is_an_error(decided: dict[str, int]) -> None:
    def policy(observation: Observation, state: State) -> Plan:
        return Plan(pools={"pool": PoolPlan(desired=0, **decided)}, state=state)

    with pytest.raises(InvalidInput, match="drains or cancels more"):
        simulate(flat(0.0, 3), policy, [Pool()], ready=[2])


def test_a_trace_is_run_alike_each_time() -> None:
    def once() -> Outcome:
        return run(named("v3").between(1.7, 2.0), following(0.8), seed=7, keep=True)

    one, two = once(), once()
    assert one.cost_micros == two.cost_micros
    assert one.waits.quantile(0.95) == two.waits.quantile(0.95)
    assert one.history is not None
    assert one.history.ready.max() <= one.peak


@settings(max_examples=60, deadline=None)
@given(
    came=st.lists(st.integers(0, 60), min_size=2, max_size=60),
    wanted=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    start_s=st.sampled_from([10.0, 45.0, 120.0]),
    losses=st.sampled_from([0.0, 20.0]),
)
def test_nothing_is_lost_and_everything_is_paid(
    came: list[int], wanted: list[int], start_s: float, losses: float
) -> None:
    turns = iter(range(10_000))

    def policy(observation: Observation, state: State) -> Plan:
        pool = observation.pools[0]
        assert 0 <= pool.busy <= pool.ready
        return towards(observation, state, wanted[next(turns) // 3 % len(wanted)])

    pool = Pool(start_s=start_s, losses_per_hour=losses, rate=0.5)
    done = simulate(np.array(came, float), policy, [pool], keep=True)
    assert done.lost == 0.0
    assert done.history is not None
    alive = float((done.history.ready + done.history.booting).sum()) * TICK_S
    assert done.worker_s >= alive - 1e-6
    # Work is done by workers alone.
    assert (done.samples - done.left) / pool.rate <= done.busy_s + len(came) * TICK_S + 1e-6


def brute(came: list[float], drawn: list[float]) -> list[float]:
    """Wait of each of many parts of samples, first come, first served."""
    waited = []
    ends = np.concatenate([[0.0], np.cumsum(drawn)])
    came_ends = np.concatenate([[0.0], np.cumsum(came)])
    for number in (np.arange(1000) + 0.5) / 1000 * came_ends[-1]:
        at = int(np.searchsorted(came_ends, number)) - 1
        came_at = at + (number - came_ends[at]) / came[at]
        to = int(np.searchsorted(ends, number)) - 1
        taken_at = to + (number - ends[to]) / drawn[to]
        waited.append(max(0.0, taken_at - came_at) * TICK_S)
    return waited


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0.0, 5.0, 15.0, 25.0])),
        min_size=3,
        max_size=25,
    )
)
def test_waits_are_those_of_first_come_first_served(steps: list[tuple[int, float]]) -> None:
    came, rooms = [float(n) for n, _ in steps], [room for _, room in steps]
    came, rooms = [*came, *[0.0] * 40], [*rooms, *[25.0] * 40]
    if not sum(came):
        return
    drawn, queued, queue = [], [], 0.0
    for n, room in zip(came, rooms, strict=True):
        taken = min(queue + n, room)
        queue += n - taken
        drawn.append(taken)
        queued.append(queue)
    found = waits(np.array(came), np.array(queued), 2.5)
    expected = np.array(brute(came, drawn))
    assert found.mean_s == pytest.approx(expected.mean(), abs=0.1)
    assert found.most_s == pytest.approx(expected.max(), abs=1.0)
    for than_s in (0.0, 3.31, 12.77, 40.13):
        slack = np.mean(np.abs(expected - than_s) < 0.1) + 0.006
        assert found.late_share(than_s) == pytest.approx(np.mean(expected > than_s), abs=slack)
    for share in (0.5, 0.95):
        within_s = found.quantile(share)
        assert np.mean(expected <= within_s + TICK_S) >= share - 0.004
        assert np.mean(expected < within_s - TICK_S) <= share + 0.004


def test_what_is_left_waits_until_somebody_would_have_taken_it() -> None:
    found = waits(np.array([10.0, 0.0]), np.array([10.0, 10.0]), 1.0)
    assert found.most_s == pytest.approx(20.0)
    assert found.quantile(0.01) >= 10.0
