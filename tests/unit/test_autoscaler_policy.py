"""The policy: what it decides, over anything that it may see."""

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swell.autoscaler.outlook import Demand, Observation, Plan, PoolPlan, PoolView, State
from swell.autoscaler.policy import PolicySettings, plan

MODEL = "demo/picture"
NAMES = ("demo/a", "demo/b", "demo/c")
AT = 1.7e9

counts = st.floats(0.0, 5_000.0) | st.just(0.0)


@st.composite
def demands(draw: st.DrawFn, name: str) -> Demand:
    """What may be asked of a model."""
    return Demand(
        model=name,
        waiting=draw(counts),
        leased=draw(st.integers(0, 50)),
        oldest_s=draw(st.sampled_from([0.0, 5.0, 21.0, 900.0])),
        minutes=draw(st.lists(counts, min_size=16, max_size=16) | st.just([])),
        tens=draw(st.lists(counts, min_size=3, max_size=3)),
        usual=draw(st.lists(counts, max_size=4)),
        wait_s=draw(st.none() | st.floats(1.0, 300.0)),
    )


@st.composite
def views(draw: st.DrawFn, name: str) -> PoolView:
    """What a pool may be like."""
    ready = draw(st.integers(0, 60))
    p50_s = draw(st.floats(5.0, 900.0))
    able = draw(st.lists(st.sampled_from(NAMES), unique=True))
    is_spot = draw(st.booleans())
    return PoolView(
        pool=name,
        rates={each: draw(st.floats(0.05, 5.0)) for each in able},
        ready=ready,
        busy=draw(st.integers(0, ready)),
        booting=draw(st.lists(st.floats(0.0, 2_000.0), max_size=12)),
        draining=draw(st.integers(0, 3)),
        hour_micros=draw(st.sampled_from([0, 530_000, 805_000, 6_880_000])),
        launch_micros=draw(st.sampled_from([0, 20_000])),
        least_billed_s=draw(st.sampled_from([0.0, 60.0, 3600.0])),
        paid_s=draw(st.lists(st.floats(0.0, 3600.0), max_size=ready)),
        start_p50_s=p50_s,
        start_p95_s=p50_s * draw(st.floats(1.0, 4.0)),
        most=draw(st.sampled_from([0, 5, 40, 1_000_000])),
        least=draw(st.sampled_from([0, 0, 2])),
        is_spot=is_spot,
        location=draw(st.sampled_from(["", "east", "west"])) if is_spot else "",
        losses_per_hour=draw(st.sampled_from([0.0, 0.2])) if is_spot else 0.0,
        closed_s=draw(st.sampled_from([0.0, 0.0, 90.0])),
    )


@st.composite
def observations(draw: st.DrawFn, age_s: float = 0.0) -> Observation:
    """What may be seen."""
    models = draw(st.lists(st.sampled_from(NAMES), unique=True))
    pools = draw(st.integers(0, 4))
    return Observation(
        at=AT,
        age_s=age_s,
        demands=[draw(demands(name)) for name in models],
        pools=[draw(views(f"pool-{n}")) for n in range(pools)],
        spent_micros=draw(st.sampled_from([0, 10_000_000, 40_000_000])),
    )


terms = st.builds(
    PolicySettings,
    wait_s=st.sampled_from([5.0, 20.0, 120.0]),
    late_share=st.sampled_from([0.01, 0.05]),
    hour_budget_micros=st.sampled_from([None, 0, 5_000_000, 50_000_000]),
    day_budget_micros=st.sampled_from([None, 30_000_000]),
    on_demand_share=st.sampled_from([0.0, 0.3]),
    location_share=st.sampled_from([0.35, 1.0]),
    most_at_once=st.sampled_from([1, 50]),
)


def later(seen: Observation, seconds: float) -> Observation:
    return msgspec.structs.replace(seen, at=seen.at + seconds)


def watched(seen: Observation, wanted: PolicySettings, minutes: int = 61) -> State:
    """What is remembered once the same was seen for some time."""
    state = State()
    for minute in range(minutes):
        state = plan(later(seen, 60.0 * (minute - minutes)), wanted, state).state
    return state


def n(view: PoolView) -> int:
    return view.ready + len(view.booting)


def steady(
    rate: float = 4.0, ready: int = 12, busy: int = 8, waiting: float = 0.0, **pool: object
) -> Observation:
    """A service to which as much comes as ever."""
    demand = Demand(
        model=MODEL,
        waiting=waiting,
        leased=busy,
        minutes=[60.0 * rate] * 16,
        tens=[10.0 * rate] * 3,
    )
    defaults = {"pool": "a", "rates": {MODEL: 0.5}, "hour_micros": 1_000_000}
    view = PoolView(ready=ready, busy=busy, **(defaults | pool))  # type: ignore[arg-type]
    return Observation(at=AT, demands=[demand], pools=[view])


def texts(found: Plan, about: str) -> str:
    return " ".join(each.text for each in found.reasons if each.about == about)


def codes(found: Plan, about: str) -> set[str]:
    return {each.code for each in found.reasons if each.about == about}


# --- whatever is seen ---


@pytest.mark.slow
@given(observations(), terms, st.booleans())
@settings(max_examples=300)
def test_what_is_decided_can_be_done(
    seen: Observation, wanted: PolicySettings, is_watched: bool
) -> None:
    state = watched(seen, wanted, 3) if is_watched else State()
    found = plan(seen, wanted, state)
    assert set(found.pools) == {view.pool for view in seen.pools}
    for view in seen.pools:
        decided = found.pools[view.pool]
        assert decided.launch >= 0
        assert 0 <= decided.cancel_boots <= len(view.booting)
        assert 0 <= decided.drain <= view.ready
        change = decided.launch - decided.cancel_boots - decided.drain
        assert decided.desired == n(view) + change
        assert not (decided.launch and (decided.cancel_boots or decided.drain))
        assert codes(found, view.pool)


@pytest.mark.slow
@given(observations(), terms)
@settings(max_examples=200)
def test_no_pool_is_made_larger_than_it_may_be_and_a_larger_one_shrinks(
    seen: Observation, wanted: PolicySettings
) -> None:
    found = plan(seen, wanted, State())
    for view in seen.pools:
        assert found.pools[view.pool].desired <= view.most
        if view.closed_s > 0:
            assert not found.pools[view.pool].launch


@pytest.mark.slow
@given(observations(), terms)
@settings(max_examples=200)
def test_what_is_wanted_can_be_paid(seen: Observation, wanted: PolicySettings) -> None:
    found = plan(seen, wanted, State())
    price = sum(found.pools[view.pool].desired * view.hour_micros for view in seen.pools)
    if wanted.hour_budget_micros is not None:
        assert price <= wanted.hour_budget_micros
    if wanted.day_budget_micros is not None:
        assert price <= max(0, wanted.day_budget_micros - seen.spent_micros)


@pytest.mark.slow
@given(observations(), st.booleans())
@settings(max_examples=200)
def test_busy_workers_stay_unless_a_limit_was_lowered(seen: Observation, is_watched: bool) -> None:
    wanted = PolicySettings()
    found = plan(seen, wanted, watched(seen, wanted, 3) if is_watched else State())
    for view in seen.pools:
        assert found.pools[view.pool].desired >= min(view.busy, view.most)
        if n(view) <= view.most:
            assert found.pools[view.pool].drain <= view.ready - view.busy


@pytest.mark.slow
@given(observations(), terms)
@settings(max_examples=200)
def test_the_same_is_decided_again(seen: Observation, wanted: PolicySettings) -> None:
    first = plan(seen, wanted, State())
    assert plan(seen, wanted, State()) == first
    assert plan(seen, wanted, first.state).pools == first.pools


@pytest.mark.slow
@given(observations(), terms, st.randoms())
@settings(max_examples=200)
def test_order_decides_nothing(seen: Observation, wanted: PolicySettings, random: object) -> None:
    pools, models = list(seen.pools), list(seen.demands)
    random.shuffle(pools)  # type: ignore[attr-defined]
    random.shuffle(models)  # type: ignore[attr-defined]
    mixed = msgspec.structs.replace(seen, pools=pools, demands=models)
    first, second = plan(seen, wanted, State()), plan(mixed, wanted, State())
    assert first == second


@pytest.mark.slow
@given(observations(age_s=61.0), terms)
def test_nothing_changes_by_what_is_too_old(seen: Observation, wanted: PolicySettings) -> None:
    state = watched(seen, wanted, 2)
    found = plan(seen, wanted, state)
    for view in seen.pools:
        assert found.pools[view.pool] == PoolPlan(desired=n(view))
        assert codes(found, view.pool) == {"stale"}
    assert found.state == state


@pytest.mark.slow
@given(observations(), terms)
@settings(max_examples=200)
def test_whoever_has_just_begun_to_look_lets_nobody_go(
    seen: Observation, wanted: PolicySettings
) -> None:
    free = msgspec.structs.replace(wanted, hour_budget_micros=None, day_budget_micros=None)
    found = plan(seen, free, State())
    for view in seen.pools:
        decided = found.pools[view.pool]
        if n(view) <= view.most:
            assert not decided.cancel_boots
            assert not decided.drain


@pytest.mark.slow
@given(observations(), terms)
@settings(max_examples=100)
def test_state_survives_json(seen: Observation, wanted: PolicySettings) -> None:
    state = plan(seen, wanted, State()).state
    again = msgspec.json.decode(msgspec.json.encode(state), type=State)
    assert plan(later(seen, 10), wanted, again) == plan(later(seen, 10), wanted, state)


@pytest.mark.slow
@given(observations(), terms)
@settings(max_examples=100)
def test_every_number_is_finite(seen: Observation, wanted: PolicySettings) -> None:
    found = plan(seen, wanted, watched(seen, wanted, 3))
    for each in found.relief:
        assert 0.0 <= each.admitted <= 1.0
        assert each.speedup >= 1.0
        assert math.isfinite(each.wait_s)
        assert math.isfinite(each.speedup)
    for numbers in found.state.forecasts.values():
        assert all(math.isfinite(each) for each in numbers.values())


# --- more asks for more ---


@pytest.mark.slow
@given(
    st.floats(0.0, 1e5),
    st.floats(0.0, 1e5),
    st.integers(0, 100),
    st.lists(st.floats(0.0, 300.0), max_size=8),
)
@settings(max_examples=300)
def test_more_waiting_never_means_fewer_workers(
    some: float, more: float, ready: int, booting: Sequence[float]
) -> None:
    some, more = sorted((some, more))
    wanted = PolicySettings(most_at_once=1_000_000)
    few = steady(ready=ready, busy=0, waiting=some, booting=booting)
    many = steady(ready=ready, busy=0, waiting=more, booting=booting)
    state = watched(steady(ready=ready, busy=0, booting=booting), wanted, 20)
    less = plan(few, wanted, state).pools["a"].desired
    assert plan(many, wanted, state).pools["a"].desired >= less


@pytest.mark.slow
@given(st.floats(0.0, 200.0), st.floats(1.0, 4.0), st.integers(0, 300))
@settings(max_examples=150)
def test_more_arrivals_never_mean_fewer_workers(rate: float, factor: float, ready: int) -> None:
    wanted = PolicySettings(most_at_once=1_000_000)
    some, more = (steady(each, ready=ready, busy=0) for each in (rate, rate * factor))
    less = plan(some, wanted, watched(some, wanted, 20)).pools["a"].desired
    assert plan(more, wanted, watched(more, wanted, 20)).pools["a"].desired >= less


@pytest.mark.slow
@given(st.floats(0.0, 1e9))
def test_one_bad_count_moves_it_within_bounds(count: float) -> None:
    wanted = PolicySettings()
    usual = steady(40.0, ready=100, busy=80)
    state = watched(usual, wanted)
    [demand] = usual.demands
    [good, bad] = [
        msgspec.structs.replace(
            later(usual, 10),
            demands=[msgspec.structs.replace(demand, tens=[400.0, 400.0, each])],
        )
        for each in (400.0, count)
    ]
    unmoved = plan(good, wanted, state).pools["a"].desired
    found = plan(bad, wanted, state)
    assert 0.8 * unmoved <= found.pools["a"].desired <= 1.5 * unmoved
    # What it moves does not last.
    after = found.state
    for minute in range(1, 16):
        after = plan(later(usual, 60.0 * minute), wanted, after).state
    again = plan(later(usual, 900), wanted, after).pools["a"].desired
    assert again == pytest.approx(unmoved, rel=0.1)


@given(st.floats(0.0, 1e12))
def test_however_much_is_said_to_wait_not_more_is_asked_for_at_once_than_there_is(
    waiting: float,
) -> None:
    found = plan(steady(40.0, ready=100, busy=80, waiting=waiting), PolicySettings(), State())
    assert found.pools["a"].launch <= 100


# --- what it is for ---


def test_too_few_workers_are_made_more_and_the_reason_has_its_numbers() -> None:
    found = plan(steady(ready=4, busy=4), PolicySettings(), State())
    assert found.pools["a"].launch >= 4
    assert f"launching {found.pools['a'].launch}" in texts(found, "a")


def test_those_that_start_count() -> None:
    found = plan(steady(ready=4, busy=4, booting=[30.0] * 8), PolicySettings(), State())
    assert found.pools["a"].launch <= 1


def test_too_many_go_the_youngest_starts_first_and_never_those_that_are_busy() -> None:
    seen = steady(ready=30, busy=8, booting=[10.0, 20.0])
    found = plan(seen, PolicySettings(), watched(seen, PolicySettings()))
    assert found.pools["a"].cancel_boots == 2
    assert 15 <= found.pools["a"].drain <= 22
    tight = steady(ready=30, busy=28)
    assert plan(tight, PolicySettings(), watched(tight, PolicySettings())).pools["a"].drain <= 2


def test_nobody_goes_while_tasks_wait_for_too_long() -> None:
    seen = steady(ready=30, busy=8)
    [demand] = seen.demands
    late = msgspec.structs.replace(seen, demands=[msgspec.structs.replace(demand, oldest_s=40.0)])
    found = plan(late, PolicySettings(), watched(seen, PolicySettings()))
    assert found.pools["a"].drain == 0
    assert codes(found, "a") == {"late"}


def test_a_worker_that_is_paid_for_stays_until_it_no_longer_is() -> None:
    seen = steady(ready=30, busy=8, paid_s=[1800.0] * 20 + [30.0, 10.0])
    found = plan(seen, PolicySettings(), watched(seen, PolicySettings()))
    assert found.pools["a"].drain == 2
    assert codes(found, "a") == {"paid"}


def test_a_start_that_is_paid_for_longer_than_it_takes_is_not_canceled() -> None:
    young, old = [10.0] * 5, [170.0] * 5
    hourly = steady(ready=12, booting=young + old, least_billed_s=3600.0)
    by_second = steady(ready=12, booting=young + old)
    assert (
        plan(by_second, PolicySettings(), watched(by_second, PolicySettings()))
        .pools["a"]
        .cancel_boots
    )
    kept = plan(hourly, PolicySettings(), watched(hourly, PolicySettings()))
    assert not kept.pools["a"].cancel_boots


def test_the_last_worker_stays_as_long_as_somebody_may_come_soon() -> None:
    quiet = Demand(model=MODEL, minutes=[0.0] * 16, tens=[0.0] * 3)
    busy = steady(rate=0.05, ready=1, busy=0)
    state = watched(busy, PolicySettings())
    seen = msgspec.structs.replace(busy, demands=[quiet])
    desired = []
    for minute in range(30):
        found = plan(later(seen, 60.0 * minute), PolicySettings(), state)
        desired.append(found.pools["a"].desired)
        state = found.state
    # A start takes 180 s, and the first one's wait is worth 300 s.
    assert desired[:7] == [1] * 7
    assert desired[10:] == [0] * 20


def test_the_first_task_after_a_pause_is_enough_for_a_worker() -> None:
    one = Demand(model=MODEL, waiting=1.0, oldest_s=1.0, minutes=[0.0] * 16, tens=[0.0, 0.0, 1.0])
    seen = msgspec.structs.replace(steady(ready=0, busy=0), demands=[one])
    assert plan(seen, PolicySettings(), State()).pools["a"].launch == 1


def test_as_many_are_kept_warm_as_is_said() -> None:
    quiet = Demand(model=MODEL, minutes=[0.0] * 16, tens=[0.0] * 3)
    seen = msgspec.structs.replace(steady(ready=1, busy=0, least=3), demands=[quiet])
    assert plan(seen, PolicySettings(), State()).pools["a"].launch == 2
    more = msgspec.structs.replace(steady(ready=5, busy=0, least=3), demands=[quiet])
    assert plan(more, PolicySettings(), watched(more, PolicySettings())).pools["a"].desired == 3


def grown(per_minute: float, minutes: int, rate: float = 40.0) -> Observation:
    """Demand that has grown by so much each minute, for so many minutes."""
    rates = [rate * per_minute ** max(0, minute - 16 + minutes) for minute in range(1, 17)]
    demand = Demand(
        model=MODEL,
        leased=80,
        minutes=[60.0 * each for each in rates],
        tens=[10.0 * rates[-1]] * 3,
    )
    view = PoolView(
        pool="a", rates={MODEL: 0.5}, ready=100, busy=80, start_p50_s=600.0, start_p95_s=700.0
    )
    return Observation(at=AT, demands=[demand], pools=[view])


def test_growth_is_believed_before_it_has_come() -> None:
    wanted = PolicySettings(most_at_once=1000)
    now = 40.0 * 1.26**4
    assert plan(grown(1.26, 4), wanted, State()).pools["a"].desired > 1.5 * now / 0.5


def at_first(waiting: float, oldest_s: float, tens: list[float], **more: object) -> Observation:
    """Hardly anything was counted yet, one worker is busy, and starts take five minutes."""
    demand = Demand(model="m", waiting=waiting, leased=1.0, oldest_s=oldest_s, tens=tens, **more)
    pool = PoolView(pool="a", rates={"m": 0.5}, ready=1, busy=1, most=1000, start_p50_s=300.0)
    return Observation(at=1e9, demands=[demand], pools=[pool])


@pytest.mark.parametrize("tens", [[], [0.0, 0.0, 0.0]])
def test_a_crowd_at_a_fresh_start_is_met_before_it_was_counted(tens: list[float]) -> None:
    for oldest_s in (1.0, 5.0, 9.0):
        met = plan(at_first(50.0, oldest_s, tens), PolicySettings(), State())
        assert met.pools["a"].launch >= 8, "five a second come, and one worker draws half of one"


def test_a_queue_that_was_there_before_is_no_crowd() -> None:
    found = plan(at_first(50.0, 3600.0, [0.0, 0.0, 0.0]), PolicySettings(), State())
    assert found.pools["a"].launch == 0, "it is drawn before another could help"


def test_once_a_minute_was_counted_what_waits_is_no_arrival() -> None:
    counted = {"minutes": [6.0] * 6}
    told = plan(at_first(50.0, 5.0, [1.0, 1.0, 1.0], **counted), PolicySettings(), State())
    assert told.pools["a"].launch < 3


def test_noise_is_no_growth() -> None:
    wanted = PolicySettings(most_at_once=1000)
    assert plan(grown(1.1, 1), wanted, State()).pools["a"].desired < 130


def usual_is(usual: list[float], n: float = 40.0) -> tuple[int, int]:
    """Workers that are wanted where n samples/s come: without knowing what is usual, and with."""
    plain = steady(n, ready=100, busy=80)
    [demand] = plain.demands
    told = msgspec.structs.replace(demand, usual=usual)
    seen = msgspec.structs.replace(plain, demands=[told])
    state = watched(plain, PolicySettings())
    before = plan(plain, PolicySettings(), state).pools["a"].desired
    return before, plan(seen, PolicySettings(), state).pools["a"].desired


def test_what_is_usual_at_this_time_is_prepared_for() -> None:
    # In 180 s, 1.6 times as much is usual as now.
    before, after = usual_is([40.0, 80.0, 120.0])
    assert after > 1.3 * before


def test_of_what_is_usual_less_is_prepared_where_less_comes_than_usual() -> None:
    _, usually = usual_is([40.0, 200.0, 360.0])
    before, after = usual_is([80.0, 400.0, 720.0])
    assert before < after < 0.75 * 2 * usually


def test_what_comes_beyond_the_usual_is_not_multiplied_by_how_the_usual_grows() -> None:
    """Usual times are known to ten minutes: right after a step they would say anything."""
    before, after = usual_is([4.0, 40.0, 40.0])
    assert after == before


# --- several pools ---


def two(
    rate: float = 40.0, waiting: float = 0.0, first: PoolView | None = None, *others: PoolView
) -> Observation:
    demand = Demand(
        model=MODEL,
        waiting=waiting,
        leased=40,
        minutes=[60.0 * rate] * 16,
        tens=[10.0 * rate] * 3,
    )
    pools = [each for each in (first, *others) if each is not None]
    return Observation(at=AT, demands=[demand], pools=pools)


def pool(name: str, **given: object) -> PoolView:
    defaults = {"pool": name, "rates": {MODEL: 0.5}, "hour_micros": 1_000_000}
    return PoolView(**(defaults | given))  # type: ignore[arg-type]


def test_the_cheapest_sample_is_had_first() -> None:
    wanted = PolicySettings(most_at_once=1000)
    small = pool("small", hour_micros=800_000)
    large = pool("large", hour_micros=2_000_000, rates={MODEL: 2.0})
    found = plan(two(40.0, 0.0, small, large), wanted, State())
    assert found.pools["small"].launch == 0
    assert found.pools["large"].launch >= 20


def test_what_is_full_or_closed_is_made_up_for_elsewhere() -> None:
    wanted = PolicySettings(most_at_once=1000)
    dear = pool("dear", hour_micros=3_000_000)
    for limit in ({"most": 30}, {"closed_s": 60.0}):
        found = plan(two(40.0, 0.0, pool("cheap", **limit), dear), wanted, State())
        assert found.pools["cheap"].launch == limit.get("most", 0)
        assert found.pools["dear"].launch >= 50


def test_what_is_closed_is_not_asked_even_for_its_least() -> None:
    shut = asleep(closed_s=60.0, least=2, waiting=0.0)
    assert plan(shut, PolicySettings(), State()).pools["a"].launch == 0
    open_again = asleep(least=2, waiting=0.0)
    assert plan(open_again, PolicySettings(), State()).pools["a"].launch == 2


def test_no_spot_location_has_more_than_its_share() -> None:
    wanted = PolicySettings(most_at_once=1000, location_share=0.35)
    spots = [
        pool(name, hour_micros=price, is_spot=True, location=name)
        for name, price in (("east", 400_000), ("west", 500_000), ("north", 600_000))
    ]
    found = plan(two(40.0, 0.0, *spots, pool("firm", hour_micros=1_500_000)), wanted, State())
    launched = {name: each.launch for name, each in found.pools.items()}
    total = sum(launched.values())
    assert launched["east"] <= 0.36 * total
    assert launched["west"] <= 0.36 * total
    assert launched["firm"] == 0
    alone = plan(two(40.0, 0.0, spots[0]), wanted, State())
    assert alone.pools["east"].launch >= 80


def test_a_share_is_had_from_workers_that_are_not_taken_back() -> None:
    wanted = PolicySettings(most_at_once=1000, on_demand_share=0.3, location_share=1.0)
    spot = pool("spot", hour_micros=300_000, is_spot=True, location="east")
    found = plan(two(40.0, 0.0, spot, pool("firm")), wanted, State())
    launched = found.pools["firm"].launch / (
        found.pools["firm"].launch + found.pools["spot"].launch
    )
    assert 0.25 <= launched <= 0.4


def test_what_is_taken_back_is_replaced_before_it_is() -> None:
    wanted = PolicySettings(most_at_once=1000)
    calm = pool("a", is_spot=True, start_p50_s=600.0)
    rough = pool("a", is_spot=True, start_p50_s=600.0, losses_per_hour=0.6)
    few = plan(two(40.0, 0.0, calm), wanted, State()).pools["a"].launch
    assert plan(two(40.0, 0.0, rough), wanted, State()).pools["a"].launch >= 1.08 * few


def test_a_quick_pool_bridges_what_would_be_late_until_the_cheap_one_has_started() -> None:
    wanted = PolicySettings(most_at_once=1000)
    slow = pool("slow", start_p50_s=900.0, start_p95_s=1000.0)
    quick = pool("quick", hour_micros=3_000_000, start_p50_s=60.0, start_p95_s=80.0)
    found = plan(two(40.0, 0.0, slow, quick), wanted, State())
    assert found.pools["slow"].launch >= 80
    assert found.pools["quick"].launch >= 70
    # Those that bridge stay until the others are nearly there, and then go.
    under_way = pool("slow", booting=[60.0] * 95, start_p50_s=900.0, start_p95_s=1000.0)
    bridging = pool("quick", ready=95, hour_micros=3_000_000, start_p50_s=60.0, start_p95_s=80.0)
    seen = two(40.0, 0.0, under_way, bridging)
    kept = plan(seen, wanted, watched(seen, wanted)).pools["quick"]
    assert kept.drain <= 15
    there = two(40.0, 0.0, pool("slow", ready=95), bridging)
    assert plan(there, wanted, watched(there, wanted)).pools["quick"].drain >= 90


def test_a_dearer_pool_is_left_only_for_one_that_is_cheaper_by_more_than_its_start() -> None:
    wanted = PolicySettings(most_at_once=1000)
    there = pool("there", ready=95, busy=0, hour_micros=1_000_000)
    for price, moves in ((970_000, False), (500_000, True)):
        seen = two(40.0, 0.0, there, pool("new", hour_micros=price))
        found = plan(seen, wanted, watched(seen, wanted))
        assert (found.pools["new"].launch > 0) == moves
        assert found.pools["there"].drain <= 15


def test_models_that_share_a_pool_need_less_than_each_alone() -> None:
    wanted = PolicySettings(most_at_once=1000)
    models = [Demand(model=name, minutes=[600.0] * 16, tens=[100.0] * 3) for name in ("a/a", "b/b")]
    rates = {"a/a": 0.5, "b/b": 0.5}
    shared = Observation(at=AT, demands=models, pools=[pool("both", rates=rates)])
    apart = Observation(
        at=AT,
        demands=models,
        pools=[pool("a", rates={"a/a": 0.5}), pool("b", rates={"b/b": 0.5})],
    )
    together = plan(shared, wanted, State()).pools["both"].launch
    alone = plan(apart, wanted, State()).pools
    assert 40 < together < alone["a"].launch + alone["b"].launch


# --- when it cannot be done ---


def test_what_cannot_be_met_is_told_with_how_long_it_takes_and_what_would_help() -> None:
    seen = steady(40.0, ready=20, busy=20, waiting=4_000.0, most=20)
    found = plan(seen, PolicySettings(), State())
    [relief] = found.relief
    # 20 workers draw 10 samples/s of the 40 that come.
    assert relief.admitted == pytest.approx(0.2, abs=0.06)
    assert relief.wait_s == pytest.approx(400.0, rel=0.1)
    assert relief.speedup == pytest.approx(5.0, rel=0.3)
    assert "cap" in codes(found, "a")


def test_a_pool_that_is_full_of_workers_on_their_way_out_says_so() -> None:
    seen = steady(ready=0, busy=0, waiting=400.0, draining=3, silent=1, most=4)
    found = plan(seen, PolicySettings(), State())
    assert found.pools["a"] == PoolPlan(desired=0)
    assert codes(found, "a") == {"cap"}
    assert texts(found, "a") == (
        "0 workers (0 starting): 4 allowed, and 3 draining and 1 silent count until they end."
    )
    nobody = plan(msgspec.structs.replace(seen, demands=[]), PolicySettings(), State())
    assert codes(nobody, "a") == {"enough"}


def asleep(waiting: float = 1.0, **pool: object) -> Observation:
    """A pool without workers, and the first tasks."""
    return steady(0.0, ready=0, busy=0, waiting=waiting, **pool)


def test_what_wakes_a_sleeping_pool_is_counted_before_it_is_asked_for() -> None:
    seen = asleep(start_p50_s=180.0, start_p95_s=300.0)
    found = plan(seen, PolicySettings(), State())
    assert found.pools["a"].launch == 1
    [relief] = found.relief
    assert relief.admitted == 1.0
    assert relief.wait_s == pytest.approx(302.0)  # a start that is late, and the task itself
    assert relief.speedup == 1.0


def test_where_nothing_can_wake_a_sleeping_pool_nothing_is_admitted() -> None:
    for closed in (asleep(closed_s=30.0), asleep(most=0)):
        [relief] = plan(closed, PolicySettings(), State()).relief
        assert (relief.admitted, relief.wait_s, relief.speedup) == (0.0, 86_400.0, 100.0)
    [relief] = plan(asleep(), PolicySettings(day_budget_micros=0), State()).relief
    assert relief.admitted == 0.0


def test_what_is_asked_for_in_two_pools_draws_together_once_the_second_has_started() -> None:
    seen = asleep(waiting=1_000.0, most=1, start_p50_s=100.0, start_p95_s=200.0)
    quick = PoolView(
        pool="b",
        rates={MODEL: 1.0},
        hour_micros=2_000_000,
        most=1,
        start_p50_s=60.0,
        start_p95_s=100.0,
    )
    seen = msgspec.structs.replace(seen, pools=[*seen.pools, quick])
    found = plan(seen, PolicySettings(), State())
    assert (found.pools["a"].launch, found.pools["b"].launch) == (1, 1)
    [relief] = found.relief
    # 100 are drawn until 200 s, and 1.5 a second from then on.
    assert relief.wait_s == pytest.approx(200.0 + 900.0 / 1.5)


def test_models_of_a_pool_that_wakes_share_what_is_asked_for() -> None:
    models = [Demand(model=name, waiting=100.0) for name in ("a/a", "b/b")]
    view = PoolView(pool="a", rates={"a/a": 1.0, "b/b": 1.0}, most=1, start_p95_s=600.0)
    found = plan(Observation(at=AT, demands=models, pools=[view]), PolicySettings(), State())
    assert found.pools["a"].launch == 1
    assert [each.model for each in found.relief] == ["a/a", "b/b"]
    for each in found.relief:
        assert each.wait_s == pytest.approx(600.0 + 100.0 / 0.5)


def test_nothing_is_told_where_all_is_met() -> None:
    assert plan(steady(40.0, ready=100, busy=80), PolicySettings(), State()).relief == []


def test_a_budget_that_runs_out_lets_the_dearest_go_first_and_says_so() -> None:
    wanted = PolicySettings(hour_budget_micros=60_000_000)
    cheap = pool("cheap", ready=40, busy=40)
    dear = pool("dear", ready=40, busy=40, hour_micros=2_000_000)
    found = plan(two(40.0, 500.0, cheap, dear), wanted, State())
    assert found.pools["cheap"].desired == 40
    assert found.pools["dear"].desired == 10
    assert codes(found, "dear") == {"budget"}


def test_what_is_left_of_a_day_lasts_for_an_hour_at_least() -> None:
    wanted = PolicySettings(day_budget_micros=100_000_000)
    seen = msgspec.structs.replace(steady(40.0, ready=0, busy=0), spent_micros=70_000_000)
    assert plan(seen, wanted, State()).pools["a"].desired == 30


@given(st.floats(0.2, 5.0))
def test_settings_that_mean_nothing_are_refused(share: float) -> None:
    assume(share > 0.5)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"late_share": share}, PolicySettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"latte_share": 0.1}, PolicySettings)


# --- what was told is wrong ---


def worked(real: float, told: float, minutes: int = 90) -> list[int]:
    """How many workers there are each minute if they are faster or slower than was told."""
    wanted, state, ready, waiting = PolicySettings(), State(), 80, 0.0
    boots: list[float] = []
    course = []
    for tick in range(6 * minutes):
        ready += sum(age >= 180.0 for age in boots)
        boots = [age + 10.0 for age in boots if age < 180.0]
        waiting = max(0.0, waiting + 400.0 - ready * real * 10.0)
        busy = min(ready, math.ceil(40.0 / real + waiting))
        seen = steady(40.0, ready, busy, waiting, rates={MODEL: told}, booting=boots)
        demand = msgspec.structs.replace(seen.demands[0], oldest_s=waiting / 40.0)
        found = plan(
            msgspec.structs.replace(later(seen, 10.0 * tick), demands=[demand]), wanted, state
        )
        state, decided = found.state, found.pools["a"]
        boots = sorted(boots, reverse=True)[: len(boots) - decided.cancel_boots]
        boots += [0.0] * decided.launch
        ready -= decided.drain
        course.append(ready)
    return course[::6]


@pytest.mark.parametrize("told", [0.5, 1.0, 0.25])
def test_how_fast_workers_really_are_is_learnt(told: float) -> None:
    course = worked(0.5, told)
    assert 80 <= course[-1] <= 95
    assert len(set(course[-15:])) <= 5


def test_one_worker_that_is_busy_by_chance_does_not_count_as_slow() -> None:
    wanted, state = PolicySettings(), State()
    for tick in range(600):
        is_busy = tick % 12 == 0
        demand = Demand(
            model=MODEL,
            waiting=1.0 if is_busy else 0.0,
            leased=1.0 if is_busy else 0.0,
            minutes=[1.0] * 16,
            tens=[0.0, 0.0, 1.0] if is_busy else [0.0, 1.0, 0.0],
        )
        seen = steady(ready=1, busy=int(is_busy))
        seen = msgspec.structs.replace(later(seen, 10.0 * tick), demands=[demand])
        state = plan(seen, wanted, state).state
    assert abs(state.forecasts[MODEL]["speed"]) < 0.2
