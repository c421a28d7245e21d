import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.autoscaler.outlook import Observation, Plan, PoolPlan, State
from swell.autoscaler.policy import plan
from swell.autoscaler.policy_settings import PolicySettings
from swell.core.billing.ledger import EntryKind
from swell.core.errors import InvalidInput
from swell.simulator import fluid
from swell.simulator.crowds import Crowd, Mix, crowd_at, crowd_of, read_crowd
from swell.simulator.jobs import Outcome, Policy, Terms, simulate
from swell.simulator.line import Line, Task
from swell.simulator.machines import Workers
from swell.simulator.pools import MODEL, Pool
from swell.simulator.scenarios import scenario
from swell.simulator.speeds import GENTD26_S, Speed, fixed, gentd26, measured
from swell.simulator.traces import STARTS_AT, Trace


def nobody(seen: Observation, state: State) -> Plan:
    """Changes nothing."""
    return Plan(pools={}, state=State(since=seen.at if state.since is None else state.since))


def holding(n: int) -> Policy:
    """Wants so many workers of the first pool."""

    def policy(seen: Observation, state: State) -> Plan:
        pool = seen.pools[0]
        have = pool.ready + len(pool.booting)
        canceled = min(len(pool.booting), max(0, have - n))
        drain = max(0, have - canceled - n)
        decided = PoolPlan(desired=n, launch=max(0, n - have), cancel_boots=canceled, drain=drain)
        since = seen.at if state.since is None else state.since
        return Plan(pools={pool.pool: decided}, state=State(since=since))

    return policy


def swell(wait_s: float = 20.0) -> Policy:
    wanted = PolicySettings(wait_s=wait_s)
    return lambda seen, state: plan(seen, wanted, state)


def crowd(*at_s: float, **fields: list[int]) -> Crowd:
    n = len(at_s)
    columns = {"samples": [1] * n, "users": [0] * n, "keys": [0] * n, "priorities": [1] * n}
    arrays = {name: np.array(each, np.int64) for name, each in (columns | fields).items()}
    return Crowd(at_s=np.array(at_s, np.float64), **arrays)


def workers(n: int = 1, seconds: float = 2.0, **fields: object) -> Workers:
    own = {"ready": n, "speeds": {MODEL: fixed(seconds)}} | fields
    return Workers(**own)  # type: ignore[arg-type]


def paid_micros(done: Outcome, like: Workers) -> float:
    """What the machines' times come to, one by one, without the ledger."""
    pool = like.pool
    return sum(
        max(life.gone_s - life.asked_s, pool.least_billed_s) * pool.hour_micros / 3600
        + pool.launch_micros
        for life in done.lives
    )


# ---- one worker, by hand


def test_tasks_wait_for_each_other_as_on_one_worker() -> None:
    done = simulate(crowd(0.5, 1.0, 5.0, 5.5), nobody, [workers()])
    # Begun at 0.5, 2.5, 5 and 7.
    assert sorted(done.waits_s) == [0.0, 0.0, 1.5, 1.5]
    assert (done.drawn, done.lost, done.left) == (4, 0, 0)
    assert done.cost.seconds[EntryKind.ATTEMPT] == 8.0
    assert done.cost.images == 4


def test_slots_run_at_once_and_share_the_device() -> None:
    like = workers(slots=2, speeds={MODEL: Speed(per_sample_s=2.0, slower=(1.0, 1.5))})
    done = simulate(crowd(1.0, 1.0), nobody, [like])
    # The second runs beside the first and takes 3 s; the device was busy for 3 s in all.
    assert done.mean_wait_s() == 0.0
    assert done.cost.seconds[EntryKind.ATTEMPT] == pytest.approx(3.0)


def test_a_burst_of_one_user_delays_another_by_one_turn() -> None:
    users = [0] * 20 + [1]
    done = simulate(crowd(*[1.0] * 20, 1.5, users=users), nobody, [workers()])
    # The other comes when the first is over, at 3; without turns he would wait for all 20.
    assert 1.5 in done.waits_s.tolist()
    alone = simulate(crowd(*[1.0] * 20, 1.5), nobody, [workers()])
    assert 1.5 not in alone.waits_s.tolist()


def test_keys_take_turns_whatever_each_sends() -> None:
    line = Line()
    for number in range(10):
        line.add(Task(number, MODEL, 0.0, ("a", f"u{number}"), 1, 1, 1.0))
    for number in range(10, 13):
        line.add(Task(number, MODEL, 0.0, ("b", "u"), 1, 1, 1.0))
    order = [line.pop().key for _ in range(13)]
    assert order[:6].count("b") == 3
    assert len(line) == line.samples == 0


def test_the_oldest_is_known_also_where_somebody_comes_again() -> None:
    line = Line()
    tasks = [Task(n, MODEL, float(n), ("a", f"u{n}"), 1, 1, 1.0) for n in range(3)]
    for task in tasks:
        line.add(task)
    first, second = line.pop(), line.pop()
    assert line.oldest_at_s == 2.0
    line.add(first, again=True)
    assert line.oldest_at_s == 0.0
    assert line.pop() is first
    assert line.pop() is tasks[2]
    line.add(second, again=True)
    assert line.oldest_at_s == 1.0


def test_what_is_less_urgent_than_usual_waits_for_the_usual() -> None:
    line = Line()
    line.add(Task(0, MODEL, 0.0, ("a", "u"), 5, 1, 1.0))
    line.add(Task(1, MODEL, 0.0, ("b", "u"), 1, 1, 1.0))
    assert [line.pop().number, line.pop().number] == [1, 0]


def test_models_that_share_workers_take_turns() -> None:
    other = crowd(*[1.0] * 4)
    rival = Crowd(
        model="demo/other",
        at_s=other.at_s,
        samples=other.samples,
        users=other.users,
        keys=other.keys,
        priorities=other.priorities,
    )
    like = workers(speeds={MODEL: fixed(1.0), "demo/other": fixed(1.0)})
    done = simulate(crowd(*[1.0] * 4), nobody, [like], rivals=[rival])
    assert (done.drawn, sorted(done.waits_s)) == (8, [float(n) for n in range(8)])


# ---- workers


def test_a_worker_that_boots_is_paid_from_when_it_was_asked_for() -> None:
    like = workers(0, pool=Pool(start_s=60.0, jitter=0.0, hour_micros=3_600_000))
    done = simulate(crowd(1.0), holding(1), [like], terms=Terms(until_s=120.0))
    assert done.waits_s.tolist() == [pytest.approx(59.0)]
    assert done.cost.seconds[EntryKind.COLD_START] == pytest.approx(60.0)
    assert done.cost.seconds[EntryKind.IDLE] == pytest.approx(58.0)
    assert done.cost.whole_micros == pytest.approx(120_000_000 / 1000, abs=1)


def test_who_drains_finishes_what_it_holds() -> None:
    done = simulate(crowd(1.0, 1.0), holding(0), [workers(2, 30.0)])
    assert (done.drawn, done.again, done.drained) == (2, 0, 2)
    assert [life.gone_s for life in done.lives] == [31.0, 31.0]


def test_tasks_of_a_worker_that_is_lost_run_again_and_none_is_lost() -> None:
    pool = Pool(start_s=30.0, losses_per_hour=60.0, is_spot=True)
    at_s = np.sort(np.random.default_rng(1).random(300) * 1800.0)
    done = simulate(crowd_at(at_s, 1), holding(4), [workers(4, 10.0, pool=pool)])
    assert done.losses > 10
    assert done.again > 0
    assert (done.drawn, done.lost, done.left) == (300, 0, 0)
    assert done.cost.seconds[EntryKind.FAILED] > 0


def test_a_quota_that_nobody_knows_is_a_refusal_and_the_pool_is_closed_for_a_while() -> None:
    pool = Pool(start_s=30.0, available=[(0.0, 1.0)])
    done = simulate(
        crowd(*range(1, 200)), holding(5), [workers(0, 1.0, pool=pool)], terms=Terms(every_s=1.0)
    )
    assert done.peaks == {"pool": 1}
    # 15 s, 30 s, 60 s and 120 s: not at each look.
    assert 4 <= done.refusals <= 4 * 8


def test_least_billed_time_is_wasted_where_nobody_used_it() -> None:
    like = workers(1, 1.0, pool=Pool(least_billed_s=600.0))
    done = simulate(crowd(1.0), holding(0), [like])
    assert done.worker_s == 600.0
    assert done.cost.seconds[EntryKind.WASTED] > 590.0


def test_what_the_day_has_cost_is_told_and_begins_anew_at_midnight() -> None:
    told: dict[float, int] = {}

    def watching(seen: Observation, state: State) -> Plan:
        told[round(seen.at - STARTS_AT, 3)] = seen.spent_micros
        return nobody(seen, state)

    # Two workers at 1,000 micros a second each, from 60 s before midnight on.
    like = workers(2, pool=Pool(hour_micros=3_600_000))
    terms = Terms(every_s=20.0, starts_at=STARTS_AT - 60.0, until_s=100.0)
    simulate(crowd(1.0), watching, [like], terms=terms)
    expected = {-60: 0, -40: 40_000, -20: 80_000, 0: 0, 20: 40_000}
    assert told == {float(at): micros for at, micros in expected.items()}


# ---- promises at the door


def test_whoever_would_wait_too_long_is_refused_and_nobody_starts_late() -> None:
    base = crowd(*np.arange(400) * 0.5 + 1.0)
    hurried = Crowd(
        at_s=base.at_s,
        samples=base.samples,
        users=base.users,
        keys=base.keys,
        priorities=base.priorities,
        start_by_s=10.0,
    )
    done = simulate(hurried, nobody, [workers()])
    assert done.refused > 100
    assert done.waits_s.max() <= 10.0
    assert done.drawn + done.refused + done.expired == 400
    # The estimate is good: hardly anybody is let in for nothing.
    assert done.expired <= 10


# ---- the whole


@pytest.mark.slow
@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    most=st.integers(1, 6),
    losses=st.sampled_from([0.0, 2.0, 20.0]),
    least_s=st.sampled_from([0.0, 60.0, 600.0]),
    slots=st.integers(1, 3),
)
def test_nothing_is_lost_and_the_ledger_adds_up_to_the_bill(
    seed: int, most: int, losses: float, least_s: float, slots: int
) -> None:
    pool = Pool(
        start_s=40.0,
        most=most,
        losses_per_hour=losses,
        least_billed_s=least_s,
        hour_micros=805_123,
        launch_micros=777,
    )
    like = workers(1, 3.0, pool=pool, slots=slots, speeds={MODEL: measured([1.0, 3.0, 5.0])})
    at_s = np.sort(np.random.default_rng(seed).random(150) * 600.0)
    mix = Mix(users=20, keys=3, samples={1: 0.7, 4: 0.3}, priorities={0: 0.1, 1: 0.8, 3: 0.1})
    done = simulate(crowd_at(at_s, seed, mix), swell(), [like], seed=seed)
    assert done.lost == 0
    assert done.drawn + done.left == 150
    assert sum(done.cost.seconds.values()) == pytest.approx(done.worker_s, abs=0.01)
    # Each machine's bill is rounded by itself.
    whole = done.cost.whole_micros
    assert whole == pytest.approx(paid_micros(done, like), abs=len(done.lives) + 1)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    trace = Trace("steady", np.full(30, 2.0))
    like = workers(5, pool=Pool(losses_per_hour=1.0), speeds={MODEL: gentd26()})
    one, same, other = (
        simulate(crowd_of(trace, 1), swell(), [like], seed=seed) for seed in (1, 1, 2)
    )
    assert one.waits_s.tolist() == same.waits_s.tolist()
    assert one.waits_s.tolist() != other.waits_s.tolist()
    assert one.cost == same.cost


def test_it_agrees_with_the_fluid_where_a_queue_stands() -> None:
    # Ten workers of one sample in two seconds, against eight samples a second for five minutes.
    came = np.concatenate([np.full(30, 80.0), np.full(60, 10.0)])
    at_s = np.repeat(np.arange(90) * 10.0, came.astype(int))
    at_s = np.sort(at_s + np.random.default_rng(1).random(len(at_s)) * 10.0)
    # Nobody asks twice: those who do let others before.
    single = simulate(crowd_at(at_s, 1, Mix(users=10**9)), nobody, [workers(10)])
    flows = fluid.simulate(came, still, [Pool(rate=0.5)], ready=[10])
    assert single.mean_wait_s() == pytest.approx(flows.waits.mean_s, rel=0.02)
    assert single.wait_s(0.95) == pytest.approx(flows.waits.quantile(0.95), rel=0.03)


def still(seen: Observation, state: State) -> Plan:
    return Plan(pools={}, state=state)


@pytest.mark.slow
def test_poisson_arrivals_at_one_worker_wait_as_theory_says() -> None:
    # M/D/1: load 0.7, so that the mean wait is 0.7 / (2 · 0.3) service times.
    random = np.random.default_rng(7)
    at_s = np.cumsum(random.exponential(1.0 / 0.7, 40_000))
    done = simulate(crowd_at(at_s, 1), still, [workers(1, 1.0)], terms=Terms(every_s=600.0))
    assert done.mean_wait_s() == pytest.approx(0.7 / 0.6, rel=0.05)


# ---- what is asked, and how fast workers are


def test_a_model_that_nobody_serves_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no pool serves demo/picture"):
        simulate(crowd(1.0), nobody, [workers(speeds={"demo/other": fixed(1.0)})])


@pytest.mark.parametrize("times", [[], [0.0], [1.0, math.nan], [-1.0]])
def test_times_that_are_none_are_refused(times: list[float]) -> None:
    with pytest.raises(InvalidInput, match="service times must be numbers above 0"):
        measured(times)


def test_times_of_gentd26_have_the_quantiles_that_are_published() -> None:
    drawn = gentd26().drawn(np.ones(200_000), np.random.default_rng(1))
    for share, seconds in GENTD26_S.items():
        assert np.quantile(drawn, share) == pytest.approx(seconds, rel=0.05)


def test_a_trace_becomes_as_many_samples_as_it_says() -> None:
    mix = Mix(samples={1: 0.5, 4: 0.5}, keys=3)
    found = crowd_of(Trace("steady", np.full(600, 5.0)), 1, mix, spread=0.0)
    assert found.samples.sum() == pytest.approx(600 * 60 * 5.0, rel=0.02)
    assert set(found.keys.tolist()) == {0, 1, 2}
    assert (np.diff(found.at_s) >= 0).all()


def test_a_crowd_of_a_minute_begins_with_what_the_minute_needs() -> None:
    at_s = np.arange(180) / 3.0
    assert crowd_at(at_s, 1).first_per_s == pytest.approx(3.0, rel=0.01)
    assert crowd_at(at_s * 100, 1).first_per_s == pytest.approx(0.03, rel=0.2)
    assert crowd_at(np.array([]), 1).first_per_s == 0.0


def written(folder: Path, text: str) -> Path:
    path = folder / "tasks.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_tasks_of_a_file_come_in_order_with_whoever_asks(tmp_path: Path) -> None:
    text = "at_s,samples,user,priority\n7,2,ann,0\n3,,bob,\n9,1,ann,1\n"
    found = read_crowd(written(tmp_path, text))
    assert found.at_s.tolist() == [3.0, 7.0, 9.0]
    assert found.samples.tolist() == [1, 2, 1]
    assert found.users.tolist() == [0, 1, 1]
    assert found.priorities.tolist() == [1, 0, 1]


def test_a_file_of_a_spreadsheet_may_tell_moments_since_1970(tmp_path: Path) -> None:
    text = "\ufeffat_s,user\r\n1722222300.5,ann\r\n1722222222.5,bob\r\n"
    found = scenario(str(written(tmp_path, text)))
    assert isinstance(found, Crowd)
    assert found.at_s.tolist() == [0.0, 78.0]


def test_a_list_of_tasks_that_goes_on_for_ever_is_refused(tmp_path: Path) -> None:
    for last_s in ("4e7", "1e300"):
        with pytest.raises(InvalidInput, match="takes at most 366"):
            read_crowd(written(tmp_path, f"at_s\n0\n{last_s}\n"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "at_s\n",
        "time\n1\n",
        "at_s\n-1\n",
        "at_s,samples\n1,0\n",
        f"at_s,samples\n1,1{'0' * 30}\n",
    ],
)
def test_a_file_that_is_no_list_of_tasks_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match="is no list of tasks"):
        read_crowd(written(tmp_path, text))


def test_what_stood_is_kept_for_each_decision() -> None:
    done = simulate(crowd(*range(1, 50)), swell(), [workers(1, 0.5)], terms=Terms(known_s=960.0))
    assert done.course.at_s[1] - done.course.at_s[0] == 3.0
    assert done.course.ready.tolist() == [1.0] * len(done.course.at_s)
