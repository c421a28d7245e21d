"""What runs in the next step, over any samples."""

from collections.abc import Callable, Hashable, Mapping
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swell.worker.curve import BUCKETS, Curve
from swell.worker.decide import (
    IN_TURN,
    Decision,
    Group,
    Order,
    Policy,
    Sample,
    Turn,
    TurnReason,
    can_divide,
    charged,
    costs_of,
    decide,
    in_partition,
)
from swell.worker.schedule import (
    KNOWN,
    LOOK_EVERY,
    Memory,
    Schedule,
    _group,
    halved,
    ran_out,
    went_well,
)

GAINS = {1: 0.167, 2: 0.183, 3: 0.186, 4: 0.240, 6: 0.36, 8: 0.425, 12: 0.65, 16: 0.87}
FULL = {1: 0.25, 2: 0.5}


def measured(costs: Mapping[int, float]) -> Curve:
    curve = Curve()
    for rows, cost in costs.items():
        for _ in range(6):
            curve = curve.observe(rows, cost)
    return curve


#: Fills up to eight rows.
BATCH = costs_of(measured(GAINS), 16)
#: Takes turns; a step is a quarter of a second.
SINGLE = costs_of(measured(FULL), 16)


def sample(name: str, left: int = 10, **more: Any) -> Sample:
    """Return a sample with so many steps left, of as many unless `steps` says otherwise."""
    fields: dict[str, Any] = {"key": "key", "steps": left, "arrived_s": 0.0, **more}
    return Sample(id=name, remaining=left, **fields)


def group(*waiting: Sample, running: tuple[Sample, ...] = (), **more: Any) -> Group:
    fields: dict[str, Any] = {"key": "key", "costs": BATCH, **more}
    return Group(running=running, waiting=waiting, **fields)


def ids(decision: Decision) -> list[str]:
    return list(decision.ids)


# Where a batch gains


def test_free_slots_are_filled_at_once_up_to_the_best_size() -> None:
    decision = decide(0.0, [group(*(sample(str(n)) for n in range(12)))])
    assert ids(decision) == [str(n) for n in range(8)]
    assert decision.bucket == 8


CROWDED = costs_of(measured({1: 1.0, 2: 1.2, 4: 1.6, 8: 3.0, 16: 5.6}), 16)


def test_the_larger_a_crowd_the_larger_the_batch_up_to_the_cheapest() -> None:
    assert (CROWDED.size, CROWDED.full) == (6, 16)
    for waiting, running in ((5, 5), (7, 6), (10, 8), (15, 12), (16, 16), (40, 16)):
        few = group(*(sample(str(n)) for n in range(waiting)), costs=CROWDED)
        assert len(ids(decide(0.0, [few]))) == running


def test_in_a_full_crowd_all_who_fit_into_a_bucket_share_each_step() -> None:
    costs = costs_of(measured({n: 1.0 + n for n in (1, 2, 4, 8, 16, 32, 64)}), 64)
    assert (costs.size, costs.full) == (6, 64)
    for waiting, running in ((20, 16), (35, 24), (36, 32), (50, 48), (64, 64)):
        crowd = group(*(sample(str(n)) for n in range(waiting)), costs=costs)
        assert len(ids(decide(0.0, [crowd]))) == running


def test_who_runs_in_a_large_batch_goes_on_when_the_crowd_is_gone_and_nobody_joins() -> None:
    running = tuple(sample(f"r{n}") for n in range(14))
    decision = decide(0.0, [group(sample("new"), running=running, costs=CROWDED)])
    assert ids(decision) == [f"r{n}" for n in range(14)]
    assert decision.why_order is Order.SAME


def test_who_is_late_joins_a_large_batch_that_nobody_else_may_join() -> None:
    running = tuple(sample(f"r{n}", arrived_s=990.0) for n in range(13))
    late, new = sample("late", arrived_s=0.0), sample("new", 1, arrived_s=1000.0)
    decision = decide(1000.0, [group(new, late, running=running, costs=CROWDED)])
    assert ids(decision) == [*(f"r{n}" for n in range(13)), "late"]
    assert decision.why_order is Order.OVERDUE


def test_where_a_batch_gains_little_turns_are_taken_again_when_the_crowd_is_gone() -> None:
    costs = costs_of(measured({1: 1.0, 2: 1.9, 3: 2.84, 4: 3.7}), 4)
    running = tuple(sample(f"r{n}", 60) for n in range(3))
    decision = decide(0.0, [group(sample("short", 1), running=running, costs=costs)])
    assert ids(decision) == ["short"]


def test_steps_that_need_no_padding_have_as_many_rows_as_run() -> None:
    curve = measured({1: 1.0, 2: 1.2, 4: 1.6, 8: 2.4})
    costs = costs_of(curve, 8, padded=False)
    for waiting in range(1, 7):
        some = group(*(sample(str(n)) for n in range(waiting)), costs=costs)
        assert decide(0.0, [some]).bucket == waiting
    assert costs.step_s[4] == pytest.approx(1.8)


def test_seldom_numbers_of_rows_between_buckets_that_are_known_are_not_looked_at() -> None:
    schedule = Schedule()
    schedule.know("key", most_rows=8, curve=measured({1: 0.5, 8: 1.0}), padded=False)
    schedule.set_residency("key", loaded=True, load_s=0.0)
    for n in range(7):
        schedule.add(sample(str(n), 200, key="key"))
    for _ in range(20):
        decision = schedule.decide(0.0)
        assert decision.bucket == 7
        schedule.done(decision, 9.9)
    assert schedule.curve("key") == measured({1: 0.5, 8: 1.0})


def test_keys_whose_steps_take_the_same_learn_together() -> None:
    schedule = Schedule()
    schedule.know("one", most_rows=8)
    schedule.know("other", most_rows=8, like="one")
    schedule.know("third", most_rows=8)
    for key in ("one", "other", "third"):
        schedule.set_residency(key, loaded=True, load_s=0.0)
    for n in range(8):
        schedule.add(sample(str(n), key="other"))
    assert schedule.decide(0.0).bucket == 1
    schedule.learn("one", measured({1: 1.0, 2: 1.1, 4: 1.2, 8: 1.3}))
    assert schedule.decide(0.0).bucket == 8
    assert schedule.curve("other") == schedule.curve("one") != schedule.curve("third")
    schedule.done(schedule.decide(0.0), 1.3)
    assert schedule.curve("one").count(8) == 7
    schedule.forget("one")
    assert schedule.curve("other").count(8) == 7


def test_steps_that_are_not_looked_at_count_all_the_same() -> None:
    schedule = Schedule()
    schedule.know("key", most_rows=2, curve=measured({1: 1.0, 2: 2.0}))
    schedule.set_residency("key", loaded=True, load_s=0.0)
    schedule.add(sample("one", 30_000))
    for _ in range(20_008):
        schedule.done(schedule.decide(0.0), 1.0)
    # What did not run for so long is forgotten, to be tried again.
    assert schedule.curve("key").measured == (1,)
    left = schedule.sample("one")
    assert left is not None
    assert left.remaining == 9_992


def test_a_batch_that_gains_little_is_run_only_where_many_wait() -> None:
    costs = costs_of(measured({1: 1.0, 2: 1.9, 3: 2.84, 4: 3.7}), 4)
    assert (costs.size, costs.full) == (1, 4)
    for waiting, running in ((2, 1), (4, 1), (5, 4), (9, 4)):
        some = group(*(sample(str(n)) for n in range(waiting)), costs=costs)
        assert len(ids(decide(0.0, [some]))) == running


def test_a_single_sample_does_not_wait_for_others() -> None:
    decision = decide(0.0, [group(sample("only"))])
    assert ids(decision) == ["only"]
    assert decision.bucket == 1


def test_those_who_run_go_on_and_the_least_work_joins_them() -> None:
    running = tuple(sample(f"r{n}", 30) for n in range(7))
    decision = decide(0.0, [group(sample("long", 30), sample("short", 4), running=running)])
    assert ids(decision) == [*(f"r{n}" for n in range(7)), "short"]
    assert decision.why_order is Order.FILLED


def test_a_pressing_deadline_goes_before_less_work_and_the_least_spare_time_first() -> None:
    waiting = (
        sample("short", 4),
        sample("soon", 10, deadline_s=6.0),
        sample("sooner", 10, deadline_s=5.0),
    )
    running = tuple(sample(f"r{n}") for n in range(7))
    decision = decide(0.0, [group(*waiting, running=running)])
    assert ids(decision)[-1] == "sooner"
    assert decision.why_order is Order.DEADLINE


def test_the_least_spare_time_joins_a_batch_and_the_nearest_deadline_takes_its_turn() -> None:
    waiting = (sample("near", 4, deadline_s=3.0), sample("tight", 20, deadline_s=9.0))
    running = tuple(sample(f"r{n}") for n in range(7))
    assert ids(decide(0.0, [group(*waiting, running=running)]))[-1] == "tight"
    waiting = (sample("near", 8, deadline_s=3.0), sample("tight", 30, deadline_s=8.0))
    decision = decide(0.0, [group(*waiting, costs=SINGLE)])
    assert (ids(decision), decision.why_order) == (["near"], Order.DEADLINE)


@pytest.mark.parametrize("deadline_s", [1000.0, 0.5])
def test_a_deadline_that_is_far_or_cannot_be_met_gives_no_rank(deadline_s: float) -> None:
    waiting = (sample("deadline", 10, deadline_s=deadline_s), sample("short", 4))
    running = tuple(sample(f"r{n}") for n in range(7))
    decision = decide(0.0, [group(*waiting, running=running)])
    assert ids(decision)[-1] == "short"


def test_a_sample_with_guidance_takes_two_rows_and_comes_first() -> None:
    running = (sample("plain"),)
    decision = decide(0.0, [group(sample("guided", rows=2), sample("other"), running=running)])
    assert ids(decision) == ["guided", "plain", "other"]
    assert decision.rows == decision.bucket == 4


def test_one_row_that_is_free_is_given_to_who_needs_no_more() -> None:
    running = tuple(sample(f"r{n}") for n in range(7))
    decision = decide(0.0, [group(sample("guided", 4, rows=2), sample("b", 9), running=running)])
    assert ids(decision)[-1] == "b"


def test_one_row_that_is_free_is_kept_for_an_overdue_sample_that_needs_two() -> None:
    running = tuple(sample(f"r{n}", arrived_s=995.0) for n in range(7))
    waiting = (sample("late", 4, rows=2), sample("new", 4, arrived_s=999.0))
    decision = decide(1000.0, [group(*waiting, running=running)])
    assert "new" not in ids(decision)
    decision = decide(1000.0, [group(*waiting, running=running[:6])])
    assert ids(decision)[0] == "late"
    assert decision.why_order is Order.OVERDUE


def test_pictures_of_a_task_count_as_one_by_their_weight() -> None:
    fan = tuple(sample(f"f{n}", 10, weight=1 / 8) for n in range(8))
    decision = decide(0.0, [group(*fan, sample("one", 30), costs=SINGLE)])
    assert ids(decision) == ["one"]


# Where it gains nothing


def test_the_least_work_left_runs_alone() -> None:
    running = (sample("long", 30),)
    decision = decide(0.0, [group(sample("short", 4), running=running, costs=SINGLE)])
    assert ids(decision) == ["short"]
    assert decision.bucket == 1


def test_of_equal_work_whoever_came_first_runs_to_its_end() -> None:
    schedule = single()
    for n in range(3):
        schedule.add(sample(str(n), 5, arrived_s=n / 10))
    ran = [name for _ in range(15) for name in stepped(schedule, 1.0)]
    assert ran == ["0"] * 5 + ["1"] * 5 + ["2"] * 5


def test_where_guidance_doubles_the_rows_samples_take_turns_two_rows_at_a_time() -> None:
    curve = measured({2: 0.5, 4: 1.0})
    guided = (sample("long", 30, rows=2), sample("short", 4, rows=2))
    decision = decide(0.0, [group(*guided, costs=costs_of(curve, 16, widest=2))])
    assert ids(decision) == ["short"]
    assert (decision.bucket, decision.passes) == (2, 1)


def test_loaded_keys_that_gain_nothing_take_turns_as_one_group() -> None:
    first = group(sample("long", 30, key="a"), key="a", costs=SINGLE)
    second = group(sample("short", 4, key="b"), key="b", costs=SINGLE)
    decision = decide(0.0, [first, second], Turn("a"))
    assert ids(decision) == ["short"]
    assert decision.turn.unit == IN_TURN


def test_two_overdue_samples_do_not_alternate() -> None:
    schedule = single(Policy(bound=1.0))
    schedule.add(sample("a", 20))
    schedule.add(sample("b", 20, arrived_s=0.1))
    ran = [name for n in range(40) for name in stepped(schedule, 100 + n / 4)]
    assert ran == ["a"] * 20 + ["b"] * 20


@pytest.mark.parametrize("each_s", [1.0, 1.3])
def test_where_steps_always_take_the_same_a_batch_that_gains_nothing_is_tried_for_six_of_them(
    each_s: float,
) -> None:
    schedule = Schedule()
    schedule.know("key", most_rows=8)
    schedule.set_residency("key", loaded=True, load_s=0.0)
    rows: list[int] = []
    for step in range(1500):
        while len(schedule) < 4:
            schedule.add(sample(f"{step}-{len(schedule)}", 30, arrived_s=float(step)))
        decision = schedule.decide(float(step))
        rows.append(decision.bucket)
        schedule.done(decision, decision.bucket * (1.0 if decision.bucket == 1 else each_s))
    assert (rows.count(2), rows.count(1)) == (6, 1494)


@pytest.mark.parametrize("step_s", [0.2463, 0.0317, 1 / 3])
def test_equal_samples_that_are_overdue_do_not_alternate_by_rounding(step_s: float) -> None:
    schedule = Schedule(Policy(bound=1.0))
    schedule.know("key", most_rows=4, curve=measured({1: step_s, 2: 2 * step_s}))
    schedule.set_residency("key", loaded=True, load_s=0.0)
    for n in range(10):
        schedule.add(sample(str(n), 30))
    ran = [n for step in range(300) for n in stepped(schedule, 1000 + step * step_s, step_s)]
    assert ran == [str(n) for n in range(10) for _ in range(30)]


def long_among_short(bound: float, steps: int = 2000) -> float:
    """Return the slowdown of a long sample where short ones fill the device, or infinity."""
    schedule = single(Policy(bound=bound))
    schedule.add(sample("long", 30))
    for n in range(steps):
        schedule.add(sample(f"s{n}", 1, arrived_s=n / 4))
        stepped(schedule, n / 4)
        if schedule.sample("long") is None:
            return (n + 1) / 30
    return float("inf")


def test_a_long_sample_among_short_ones_is_finished_within_the_bound() -> None:
    assert 19 <= long_among_short(20.0) <= 20 * 1.1
    assert long_among_short(float("inf")) == float("inf")


# Between groups


def two_keys(policy: Policy | None = None, **loads: float) -> Schedule:
    """Return a schedule of two keys that fill batches; those in `loads` are not loaded."""
    schedule = Schedule(policy or Policy())
    for key in ("a", "b"):
        schedule.know(key, most_rows=8, curve=measured(GAINS))
        schedule.set_residency(key, loaded=key not in loads, load_s=loads.get(key, 0.0))
    return schedule


def single(policy: Policy | None = None) -> Schedule:
    schedule = Schedule(policy or Policy())
    schedule.know("key", most_rows=8, curve=measured(FULL))
    schedule.set_residency("key", loaded=True, load_s=0.0)
    return schedule


def stepped(schedule: Schedule, now_s: float, row_s: float = 0.25) -> list[str]:
    decision = schedule.decide(now_s)
    schedule.done(decision, row_s * decision.bucket)
    return ids(decision)


@pytest.mark.parametrize(("demand", "low", "high"), [(1, 0.45, 0.55), (3, 0.65, 0.85)])
def test_groups_share_the_device_by_what_waits(demand: int, low: float, high: float) -> None:
    schedule = two_keys(Policy(bound=1e9))
    for n in range(8):
        schedule.add(sample(f"b{n}", 10_000, key="b"))
    for n in range(8 * demand):
        schedule.add(sample(f"a{n}", 10_000, key="a"))
    turns = []
    for n in range(1000):
        decision = schedule.decide(n / 4)
        schedule.done(decision, 0.25)
        turns.append(decision.key)
    assert low <= turns.count("a") / len(turns) <= high
    changes = sum(one != other for one, other in pairwise(turns))
    assert changes < 400


def test_a_group_keeps_the_device_until_its_share_is_used_up() -> None:
    groups = [group(sample("a", key="a"), key="a"), group(sample("b", key="b"), key="b")]
    assert decide(0.0, groups, Turn("a", 1.0, {"a": 0.1, "b": 9.0})).key == "a"
    spent = decide(0.0, groups, charged(Turn("a", 1.0, {"a": 0.1, "b": 9.0}), "a", 0.2))
    assert (spent.key, spent.why_turn) == ("b", TurnReason.SPENT)


def test_a_model_is_loaded_at_once_if_nothing_else_can_run() -> None:
    decision = decide(0.0, [group(sample("a"), loaded=False, load_s=1000.0)])
    assert ids(decision) == ["a"]
    assert decision.loads


def rivals(mine: int, others: int, load_s: float) -> list[Group]:
    """Return a group of long samples that is loaded, and one of short samples that is not."""
    current = group(*(sample(f"a{n}", 60, key="a") for n in range(mine)), key="a")
    short = (sample(f"b{n}", 2, key="b") for n in range(others))
    return [current, group(*short, key="b", loaded=False, load_s=load_s)]


def test_another_model_is_loaded_if_those_who_wait_for_it_gain_more_than_it_costs() -> None:
    used = Turn("a", 0.0, {"a": -1.0})
    assert decide(0.0, rivals(4, 40, 1.0), used).key == "b"
    assert decide(0.0, rivals(4, 40, 1000.0), used).why_turn is TurnReason.STAYS
    assert decide(0.0, rivals(40, 1, 5.0), used).why_turn is TurnReason.STAYS


@pytest.mark.parametrize("left_s", [{}, {"b": 1.0, "c": 1.0}, {"b": 1.0, "c": -1.0}])
def test_who_is_not_worth_a_load_keeps_the_turn_from_nobody_who_needs_none(
    left_s: dict[str, float],
) -> None:
    current = group(*(sample(f"a{n}", 4, key="a") for n in range(8)), key="a")
    short = (sample(f"b{n}", 1, key="b") for n in range(3))
    away = group(*short, key="b", loaded=False, load_s=1.0)
    there = group(sample("c", 60, key="c"), key="c")
    used = Turn("a", 5.0, {"a": -1.0, **left_s})
    assert decide(0.0, [current, away], used).why_turn is TurnReason.STAYS
    decision = decide(0.0, [current, away, there], used)
    assert (decision.key, decision.why_turn) == ("c", TurnReason.SPENT)


def test_bringing_a_model_back_counts_for_everybody_who_waits_for_it() -> None:
    used = Turn("a", 0.0, {"a": -1.0})
    current, other = rivals(4, 2, 1.0)
    current = msgspec.structs.replace(current, load_s=5.0)
    third = (sample(f"c{n}", 300, key="c") for n in range(8))
    crowd = group(*third, key="c", loaded=False, load_s=900.0)
    assert decide(0.0, [current, other], used).key == "b"
    assert decide(0.0, [current, other, crowd], used).why_turn is TurnReason.STAYS


def test_coming_back_costs_a_swap_after_other_loras_and_a_load_after_another_model() -> None:
    used = Turn("a", 0.0, {"a": -1.0})
    current, other = rivals(4, 2, 1.0)
    third = (sample(f"c{n}", 300, key="c") for n in range(8))
    crowd = group(*third, key="c", loaded=False, load_s=900.0)
    current = msgspec.structs.replace(current, load_s=5.0, weights="m", swap_s=0.1)
    for weights, key in (("m", "b"), ("n", "a"), (None, "a")):
        rival = msgspec.structs.replace(other, weights=weights, swap_s=0.1)
        assert decide(0.0, [current, rival, crowd], used).key == key


def test_what_a_group_has_overdrawn_is_taken_off_its_next_share_at_most_half_of_it() -> None:
    groups = [group(sample(key, key=key), key=key) for key in "abc"]
    overdrawn = Turn("a", 0.0, {"a": -0.5, "b": -100.0})
    left_s = decide(0.0, groups, overdrawn, Policy(share_s=2.0)).turn.left_s
    assert left_s == {"a": 1.5, "b": 1.0, "c": 2.0}


def test_after_a_group_is_empty_the_one_that_is_loaded_comes_before_an_equal_one() -> None:
    groups = [
        group(sample("a", key="a"), key="a", loaded=False, load_s=5.0),
        group(sample("b", key="b"), key="b"),
    ]
    decision = decide(0.0, groups, Turn("gone", 0.0, {"a": 5.0, "b": 5.0}))
    assert (decision.key, decision.why_turn) == ("b", TurnReason.EMPTY)


def test_a_model_is_loaded_for_an_overdue_sample_once_the_turn_has_paid_for_it() -> None:
    current = group(*(sample(f"a{n}", 60, key="a", arrived_s=1e6) for n in range(40)), key="a")
    late = group(sample("late", 2, key="b"), key="b", loaded=False, load_s=1.0)
    policy = Policy(pays_back=20.0)
    early = decide(1e6, [current, late], Turn("a", 19.0, {"a": -1.0}), policy)
    assert early.key == "a"
    paid = decide(1e6, [current, late], Turn("a", 20.0, {"a": 9.0}), policy)
    assert (paid.key, paid.loads, paid.why_turn) == ("b", True, TurnReason.BOUND)


def test_an_overdue_sample_of_a_loaded_key_waits_for_no_turn() -> None:
    current = group(sample("a", 60, key="a", arrived_s=1e6), key="a")
    late = group(sample("late", 2, key="b"), key="b")
    decision = decide(1e6, [current, late], Turn("a", 0.0, {"a": 9.0}))
    assert decision.why_turn is TurnReason.BOUND


def test_a_turn_goes_on_when_its_model_has_been_loaded() -> None:
    waiting = (sample("a", key="a"),)
    other = group(sample("b", key="b"), key="b")
    before = group(*waiting, key="a", costs=SINGLE, loaded=False, load_s=9.0)
    first = decide(0.0, [before], Turn())
    after = group(*waiting, key="a", costs=SINGLE)
    second = decide(9.0, [after, other], charged(first.turn, first.turn.unit, -1.0))
    assert (second.key, second.why_turn) == ("a", TurnReason.GOES_ON)
    assert second.turn.served_s == -1.0


@pytest.mark.slow
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.floats(0.5, 20))
@settings(max_examples=40)
def test_every_model_gets_its_turn_however_much_waits_for_another(
    waiting: list[int], load_s: float
) -> None:
    """The first key always has more to do; each of the others is served all the same."""
    schedule = Schedule(Policy(bound=5.0))
    for n, count in enumerate(waiting):
        schedule.know(n, most_rows=8, curve=measured(FULL))
        schedule.set_residency(n, loaded=n == 0, load_s=load_s)
        for m in range(count):
            schedule.add(sample(f"{n}.{m}", 4, key=n))
    now_s, served = 0.0, {0}
    loaded: Hashable = 0
    for n in range(100_000):
        if len(served) == len(waiting):
            break
        schedule.add(sample(f"new{n}", 1, key=0, arrived_s=now_s))
        decision = schedule.decide(now_s)
        if decision.loads:
            schedule.set_residency(loaded, loaded=False, load_s=load_s)
            schedule.set_residency(decision.key, loaded=True, load_s=load_s)
            loaded = decision.key
            now_s += load_s
        served.add(decision.key)  # type: ignore[arg-type]
        schedule.done(decision, 0.25)
        now_s += 0.25
    assert served == set(range(len(waiting)))
    # The bound, and a turn of 20 loads for each of the others.
    assert now_s <= 5 * (1 + load_s) + len(waiting) * 21 * load_s + sum(waiting) + 10


# Reasons

LATE = 1e6
SCENES: dict[TurnReason | Order, Callable[[], Decision]] = {
    TurnReason.IDLE: lambda: decide(0.0, []),
    TurnReason.GOES_ON: lambda: decide(0.0, [group(sample("a"))], Turn("key")),
    TurnReason.STAYS: lambda: decide(0.0, rivals(40, 1, 99.0), Turn("a")),
    TurnReason.EMPTY: lambda: decide(0.0, [group(sample("a"))], Turn("gone")),
    TurnReason.SPENT: lambda: decide(0.0, rivals(4, 40, 1.0), Turn("a")),
    TurnReason.BOUND: lambda: decide(
        LATE,
        [
            group(sample("a", key="a", arrived_s=LATE), key="a"),
            group(sample("b", key="b"), key="b"),
        ],
        Turn("a", 0.0, {"a": 1.0}),
    ),
    Order.NONE: lambda: decide(0.0, [group()]),
    Order.SAME: lambda: decide(0.0, [group(running=(sample("a"),))]),
    Order.FILLED: lambda: decide(0.0, [group(sample("a"))]),
    Order.SHORTEST: lambda: decide(0.0, [group(sample("a"), costs=SINGLE)]),
    Order.DEADLINE: lambda: decide(0.0, [group(sample("a", deadline_s=5.0), costs=SINGLE)]),
    Order.OVERDUE: lambda: decide(LATE, [group(sample("a"), costs=SINGLE)]),
    Order.TRIAL: lambda: decide(
        0.0, [group(sample("a"), sample("b"), costs=costs_of(measured({1: 0.2}), 8))]
    ),
    Order.SHRUNK: lambda: decide(
        0.0,
        [
            group(
                running=tuple(sample(str(n)) for n in range(8)),
                costs=costs_of(measured(GAINS), 4),
            )
        ],
    ),
}


@pytest.mark.parametrize("reason", [*TurnReason, *Order])
def test_every_reason_is_given(reason: TurnReason | Order) -> None:
    decision = SCENES[reason]()
    why = decision.why_turn if isinstance(reason, TurnReason) else decision.why_order
    assert why is reason
    assert reason.value in decision.reason


def test_a_batch_that_shrinks_keeps_the_least_work() -> None:
    running = tuple(sample(str(n), 10 - n) for n in range(8))
    decision = decide(0.0, [group(running=running, costs=costs_of(measured(GAINS), 4))])
    assert ids(decision) == ["4", "5", "6", "7"]


# Costs and buckets


def test_an_exact_key_runs_in_one_bucket_whoever_is_there() -> None:
    pinned = costs_of(measured(GAINS), 16, pinned=6)
    for count in range(1, 12):
        decision = decide(0.0, [group(*(sample(str(n)) for n in range(count)), costs=pinned)])
        assert decision.bucket == 6
        assert len(decision.run) == min(count, 6)


def test_a_pinned_bucket_gives_way_only_where_it_does_not_fit() -> None:
    assert costs_of(measured(GAINS), 4, pinned=8).buckets == (4,)


def test_a_sample_that_does_not_fit_as_a_whole_runs_in_passes() -> None:
    pinned = costs_of(measured(FULL), 16, pinned=1)
    decision = decide(0.0, [group(sample("guided", rows=2), sample("other", 20), costs=pinned)])
    assert ids(decision) == ["guided"]
    assert (decision.rows, decision.bucket, decision.passes) == (2, 1, 2)


def test_a_step_in_passes_measures_one_pass() -> None:
    schedule = Schedule()
    schedule.know("key", most_rows=8, curve=measured(FULL), pinned=1)
    schedule.set_residency("key", loaded=True, load_s=0.0)
    schedule.add(sample("guided", 2, rows=2))
    schedule.done(schedule.decide(0.0), 2 * FULL[1])
    assert schedule.curve("key").seconds(1) == pytest.approx(FULL[1])


@given(
    st.dictionaries(st.sampled_from(BUCKETS), st.floats(0.01, 10), max_size=6),
    st.integers(1, 20),
    st.sampled_from([None, 1, 3, 8]),
    st.sampled_from([1, 2]),
)
def test_costs_stay_within_what_fits(
    costs: dict[int, float], largest: int, pinned: int | None, widest: int
) -> None:
    found = costs_of(measured(costs), largest, pinned=pinned, widest=widest)
    assert 1 <= found.size <= found.trial <= found.buckets[-1] <= largest
    assert len(found.step_s) == found.buckets[-1]
    assert all(one <= other * (1 + 1e-12) for one, other in pairwise(found.step_s))


# Memory


@given(st.integers(-5, 10_000))
def test_half_of_a_limit_is_never_nothing(limit: int) -> None:
    assert halved(limit) == max(1, limit // 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 16)), max_size=200), st.integers(1, 16))
def test_a_limit_stays_between_one_row_and_what_may_ever_fit(
    events: list[tuple[bool, int]], most: int
) -> None:
    memory = Memory(most, most, patience=2)
    for is_fine, wanted in events:
        rows = min(wanted, memory.rows)
        memory = went_well(memory, rows) if is_fine else ran_out(memory, rows)
        assert 1 <= memory.rows <= most
        if not is_fine:
            assert memory.rows <= halved(rows)


def steps_to_recover(memory: Memory) -> int:
    for n in range(100_000):
        if memory.rows == memory.most:
            return n
        largest = max(bucket for bucket in BUCKETS if bucket <= memory.rows)
        memory = went_well(memory, largest)
    raise AssertionError("it never recovers")


def test_a_limit_is_raised_by_a_bucket_at_a_time_and_later_after_each_failure() -> None:
    once = ran_out(Memory(16, 16), 16)
    assert once.rows == 8
    assert steps_to_recover(once) == 2 * 512
    again = ran_out(Memory(16, 16, patience=once.patience), 16)
    assert steps_to_recover(again) == 2 * steps_to_recover(once)


def test_steps_below_the_limit_say_nothing_about_it() -> None:
    memory = ran_out(Memory(16, 16), 16)
    for _ in range(5000):
        memory = went_well(memory, 4)
    assert memory.rows == 8


def test_a_limit_that_is_no_bucket_is_reached_as_well() -> None:
    assert steps_to_recover(ran_out(Memory(5, 5), 4)) > 0


# From step to step


def test_a_step_that_found_no_memory_is_tried_with_half_the_rows() -> None:
    schedule = two_keys()
    for n in range(8):
        schedule.add(sample(str(n), key="a"))
    before = schedule.decide(0.0)
    assert schedule.failed(before)
    after = schedule.decide(0.0)
    assert after.bucket == schedule.memory("a").rows == halved(before.bucket)
    assert set(after.ids) < set(before.ids)
    assert all(schedule.sample(str(n)) == sample(str(n), key="a") for n in range(8))


def test_when_one_row_does_not_fit_the_caller_is_told() -> None:
    schedule = two_keys()
    schedule.add(sample("a", key="a"))
    assert not schedule.failed(schedule.decide(0.0))


def test_a_sample_that_is_canceled_during_a_step_is_not_finished_by_it() -> None:
    schedule = two_keys()
    schedule.add(sample("a", 1, key="a"))
    schedule.add(sample("b", 1, key="a"))
    decision = schedule.decide(0.0)
    canceled = schedule.cancel("a")
    assert canceled is not None
    assert [one.id for one in schedule.done(decision, 0.2)] == ["b"]
    assert schedule.cancel("a") is None
    assert len(schedule) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": "other"},
        {"id": "here"},
        {"remaining": 0},
        {"remaining": 11},
        {"rows": 3},
        {"weight": 0.0},
    ],
)
def test_a_sample_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    schedule = single()
    schedule.add(sample("here"))
    fields = {"id": "new", "key": "key", "remaining": 10, "steps": 10, "arrived_s": 0.0, **wrong}
    with pytest.raises(ValueError, match=r"key|sample"):
        schedule.add(Sample(**fields))
    assert len(schedule) == 1


def test_a_key_is_forgotten_when_it_has_no_samples() -> None:
    schedule = single()
    schedule.add(sample("a"))
    with pytest.raises(ValueError, match="has samples"):
        schedule.forget("key")
    schedule.cancel("a")
    schedule.forget("key")
    with pytest.raises(ValueError, match="not known"):
        schedule.add(sample("b"))


def test_of_a_key_that_is_forgotten_no_share_is_left() -> None:
    schedule = Schedule()
    for number in range(5):
        key = f"key {number}"
        schedule.know(key, most_rows=4, pinned=4)
        schedule.set_residency(key, loaded=True, load_s=0.0)
        schedule.add(sample("a", 1, key=key))
        schedule.done(schedule.decide(0.0), 1.0)
        schedule.forget(key)
    assert schedule.decide(0.0).turn.left_s == {}


events = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.sampled_from("abc"),
            st.integers(1, 30),  # steps
            st.sampled_from([1, 2]),  # rows
            st.sampled_from([None, 3.0, 30.0]),  # deadline, from its arrival
            st.sampled_from([0.125, 1.0, 4.0]),  # weight
        ),
        st.tuples(st.just("cancel"), st.integers(0, 200)),
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("wait"), st.floats(0, 100)),
        st.tuples(st.just("unload"), st.sampled_from("abc")),
    ),
    max_size=60,
)


def what(decision: Decision) -> tuple[Any, ...]:
    return decision.key, decision.ids, decision.bucket, decision.loads, decision.why_order


class Watched:
    """A schedule whose every decision is checked. Batches gain for a, not for b; c is exact."""

    COSTS = {"a": GAINS, "b": FULL, "c": GAINS}

    def __init__(self) -> None:
        self.now_s = 0.0
        self.schedule = Schedule(Policy(bound=3.0))
        self.left: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.number = 0
        for key, costs in self.COSTS.items():
            pinned = 4 if key == "c" else None
            self.schedule.know(key, most_rows=8, curve=measured(costs), pinned=pinned)
            self.schedule.set_residency(key, loaded=key != "c", load_s=5.0)

    def decide(self) -> Decision:
        decision = self.schedule.decide(self.now_s)
        assert decision == self.schedule.decide(self.now_s)
        assert what(decision) == what(self.decided_afresh())
        assert bool(decision.run) == bool(self.left)
        if not decision.run:
            return decision
        assert set(decision.ids) <= set(self.left)
        assert len(set(decision.ids)) == len(decision.ids)
        assert {one.key for one in decision.run} == {decision.key}
        rows = [self.rows[i] for i in decision.ids]
        assert rows == sorted(rows, reverse=True)
        assert decision.bucket <= self.schedule.memory(decision.key).rows
        assert decision.rows <= decision.bucket or len(decision.run) == 1
        if decision.key == "c" and self.schedule.memory("c").rows >= 4:
            assert decision.bucket == 4
        return decision

    def decided_afresh(self) -> Decision:
        """What would be decided without anything that was decided before."""
        keys, turn = self.schedule._keys, self.schedule._turn
        groups = [_group(key, state) for key, state in keys.items() if state.samples]
        groups = [
            msgspec.structs.replace(
                each, running=self.as_they_are(each.running), waiting=self.as_they_are(each.waiting)
            )
            for each in groups
        ]
        return decide(self.now_s, groups, turn, self.schedule._policy)

    def as_they_are(self, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        # The schedule notes steps that it has decided again only when somebody asks.
        return tuple(msgspec.structs.replace(s, remaining=self.left[s.id]) for s in samples)

    def check(self) -> None:
        for name, left in self.left.items():
            one = self.schedule.sample(name)
            assert one is not None
            assert one.remaining == left

    def do(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("add", key, steps, rows, within_s, weight):
                name = str(self.number)
                deadline_s = None if within_s is None else self.now_s + within_s
                more = {"deadline_s": deadline_s, "weight": weight, "arrived_s": self.now_s}
                self.schedule.add(sample(name, steps, key=key, rows=rows, **more))
                self.left[name], self.rows[name] = steps, rows
                self.number += 1
            case ("cancel", number):
                was_here = self.left.pop(str(number), None)
                assert (self.schedule.cancel(str(number)) is None) == (was_here is None)
            case ("step", count):
                for _ in range(count):
                    self.step()
                if count % 3 == 0:
                    self.check()
            case ("fail",):
                decision = self.decide()
                if decision.run:
                    self.schedule.failed(decision)
            case ("wait", seconds):
                self.now_s += seconds
            case ("unload", key):
                self.schedule.set_residency(key, loaded=False, load_s=5.0)

    def step(self) -> None:
        decision = self.decide()
        if not decision.run:
            return
        if decision.loads:
            self.schedule.set_residency(decision.key, loaded=True, load_s=5.0)
            self.now_s += 5.0
        finished = {one.id for one in self.schedule.done(decision, 0.2)}
        self.now_s += 0.2
        for name in decision.ids:
            self.left[name] -= 1
        assert finished == {name for name, steps in self.left.items() if steps == 0}
        for name in finished:
            del self.left[name]


@pytest.mark.slow
@given(events)
@example(
    [
        ("add", "a", 4, 1, None, 0.125),
        ("fail",),
        ("add", "a", 1, 1, None, 0.125),
        ("add", "a", 4, 2, None, 1.0),
    ]
)
@settings(max_examples=150)
def test_some_samples_always_run_within_slots_and_memory_until_all_are_finished(
    wanted: list[tuple[Any, ...]],
) -> None:
    watched = Watched()
    for event in wanted:
        watched.do(event)
    watched.check()
    for _ in range(sum(watched.left.values())):
        watched.step()
    assert not watched.left
    assert len(watched.schedule) == 0


of_one_key = st.lists(
    st.one_of(
        st.tuples(
            st.just("add"),
            st.integers(1, 40),
            st.sampled_from([1, 2]),
            st.sampled_from([None, None, None, 3.0]),
            st.sampled_from([0.125, 1.0]),
        ),
        st.tuples(st.just("cancel"), st.integers(0, 40)),
        st.tuples(st.just("step"), st.integers(1, 20)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("wait"), st.floats(0, 20)),
    ),
    max_size=30,
)


@pytest.mark.slow
@given(st.sampled_from("abc"), of_one_key)
@settings(max_examples=200)
def test_what_is_decided_again_without_a_look_is_what_a_look_would_say(
    key: str, wanted: list[tuple[Any, ...]]
) -> None:
    watched = Watched()
    watched.schedule.set_residency(key, loaded=True, load_s=5.0)
    for name, *values in wanted:
        watched.do((name, key, *values) if name == "add" else (name, *values))
    for _ in range(sum(watched.left.values())):
        watched.step()
    assert not watched.left


waiting = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.floats(0, 2000), st.sampled_from([1, 2])),
    min_size=1,
    max_size=30,
)


@given(waiting, st.integers(0, 5), st.booleans())
def test_nobody_starts_before_a_sample_that_has_waited_beyond_the_bound(
    wanted: list[tuple[int, int, float, int]], running: int, is_single: bool
) -> None:
    costs, now_s = SINGLE if is_single else BATCH, 2000.0
    everybody = [
        sample(str(n), min(left, steps), steps=steps, arrived_s=arrived_s, rows=rows)
        for n, (left, steps, arrived_s, rows) in enumerate(wanted)
    ]
    before = tuple(one for one in everybody[:running] if one.rows == 1)
    rest = [one for one in everybody if one not in before]
    decision = decide(now_s, [group(*rest, running=before, costs=costs)])

    def is_late(one: Sample) -> bool:
        return now_s + one.remaining * costs.step_s[one.rows - 1] >= latest(one)

    def latest(one: Sample) -> float:
        return one.arrived_s + 20.0 * one.steps * costs.step_s[one.rows - 1]

    started = [one for one in decision.run if is_single or one not in before]
    passed = [one for one in (everybody if is_single else rest) if one not in decision.run]
    for late in filter(is_late, passed):
        assert all(is_late(one) and latest(one) <= latest(late) for one in started)


def test_several_hundred_samples_are_finished_with_the_least_work_first() -> None:
    schedule = single()
    for n in range(500):
        schedule.add(sample(str(n), 1 + n * 7 % 30))
    finished: list[int] = []
    while len(schedule):
        finished += [one.steps for one in schedule.done(schedule.decide(1.0), 0.25)]
    assert finished == sorted(1 + n * 7 % 30 for n in range(500))


def test_a_step_whose_cost_is_well_known_is_looked_at_less_often() -> None:
    schedule = Schedule()
    schedule.know("key", most_rows=1)
    schedule.add(sample("one", 400))
    costs = []
    for _ in range(400):
        decision = schedule.decide(0.0)
        schedule.done(decision, 1.0 if len(costs) < 200 else 2.0)
        costs.append(schedule.curve("key").seconds(1))
    assert schedule.curve("key").count(1) == KNOWN + (400 - KNOWN) // LOOK_EVERY
    assert costs[199] == pytest.approx(1.0)
    assert costs[-1] == pytest.approx(2.0, rel=0.1)


def test_it_says_before_a_step_whether_its_curve_hears_of_it() -> None:
    schedule, heard = Schedule(), 0
    schedule.know("key", most_rows=1)
    schedule.add(sample("a", 200))
    for _ in range(150):
        decision, before = schedule.decide(0.0), schedule.curve("key")
        is_asked_for = schedule.looks(decision)
        schedule.done(decision, 1.0)
        assert is_asked_for == (schedule.curve("key") is not before)
        heard += is_asked_for
    assert heard == KNOWN + (150 - KNOWN) // LOOK_EVERY


def test_the_turn_is_charged_with_all_steps_that_were_decided_again() -> None:
    schedule = Schedule(Policy(share_s=100.0))
    for key in ("key", "other"):
        schedule.know(key, most_rows=1, curve=measured({1: 1.0}))
        schedule.set_residency(key, loaded=True, load_s=0.0, weights=key)
    schedule.add(sample("a", 50))
    for _ in range(20):
        schedule.done(schedule.decide(0.0), 2.0)
    schedule.add(sample("b", 50, key="other"))
    [left_s] = schedule.decide(40.0).turn.left_s.values()
    assert left_s == pytest.approx(-20 * 2.0)


# Partitions


LINE = measured({n: 1.0 + n for n in (1, 2, 4, 8, 16, 32, 64)})


def divided(*samples: Sample, partitions: int = 2, **more: Any) -> Schedule:
    schedule = Schedule()
    schedule.know("key", **{"most_rows": 64, "curve": LINE, "padded": False, **more})
    schedule.set_residency("key", loaded=True, load_s=0.0, partitions=partitions)
    for each in samples:
        schedule.add(each)
    return schedule


def begun(schedule: Schedule, partition: int) -> Decision:
    decision = schedule.decide(0.0, partition)
    schedule.begun(decision)
    return decision


def guided(names: str, left: int = 10) -> list[Sample]:
    return [sample(name, left, rows=2) for name in names]


def test_a_partition_takes_as_long_for_its_rows_as_all_for_those_of_all_partitions() -> None:
    costs = costs_of(LINE, 64, padded=False, widest=2)
    each = in_partition(costs, 2, 2)
    assert each.step_s == costs.step_s[1::2]
    assert each.buckets == tuple(range(1, 33))
    assert (costs.size, each.size) == (6, 4)  # no half samples
    assert each.full == costs.full // 2


def test_partitions_of_padded_steps_have_buckets_of_which_all_together_are_some() -> None:
    costs = costs_of(LINE, 64)
    assert not any(can_divide(costs, partitions, 1) for partitions in (5, 7, 65))
    assert can_divide(costs, 64, 1)
    assert not can_divide(costs, 64, 2)
    for partitions in (2, 3, 4, 6):
        assert can_divide(costs, partitions, 2)
        each = in_partition(costs, partitions, 1)
        assert {rows * partitions for rows in each.buckets} <= set(costs.buckets)
        assert len(each.step_s) == each.buckets[-1]


@pytest.mark.parametrize(
    ("names", "partitions", "found"), [("a", 2, 1), ("ab", 2, 2), ("ab", 3, 1), ("abc", 3, 3)]
)
def test_there_are_partitions_where_each_has_a_sample(
    names: str, partitions: int, found: int
) -> None:
    assert divided(*guided(names), partitions=partitions).partitions == found


def test_there_are_no_partitions_for_several_keys_in_exact_mode_or_where_turns_are_taken() -> None:
    schedule = divided(*guided("abcd"))
    assert schedule.partitions == 2
    schedule.know("other", most_rows=4)
    schedule.set_residency("other", loaded=True, load_s=0.0)
    schedule.add(sample("other", key="other"))
    assert schedule.partitions == 1
    schedule.cancel("other")
    assert schedule.partitions == 2
    schedule.set_residency("key", loaded=False, load_s=1.0, partitions=2)
    assert schedule.partitions == 1
    assert divided(*guided("abcd"), pinned=4).partitions == 1
    turns = Schedule()
    turns.know("key", most_rows=16, curve=measured(FULL))
    turns.set_residency("key", loaded=True, load_s=0.0, partitions=2)
    for each in guided("abcd"):
        turns.add(each)
    assert turns.partitions == 1


def test_nobody_is_in_two_partitions_and_each_has_its_share() -> None:
    schedule = divided(*guided("abcdefg"))
    first, second = begun(schedule, 0), begun(schedule, 1)
    assert not {*first.ids} & {*second.ids}
    assert (first.partition, second.partition, first.partitions) == (0, 1, 2)
    assert (first.rows, second.rows) == (6, 6)
    # The first has landed: it goes on with its own, and those of the other one are away.
    schedule.landed(first)
    assert schedule.started(first) == []
    schedule.took(first, 1.0)
    assert begun(schedule, 0).ids == first.ids


def test_an_idle_partition_gets_half_of_those_who_were_in_the_other() -> None:
    schedule = divided(*guided("abc"))
    first, second = begun(schedule, 0), begun(schedule, 1)
    assert (len(first.ids), len(second.ids)) == (2, 1)
    schedule.cancel(second.ids[0])
    schedule.landed(second)
    assert schedule.decide(0.0, 1).ids == ()
    schedule.landed(first)
    schedule.started(first)
    again, other = begun(schedule, 0), begun(schedule, 1)
    assert (len(again.ids), len(other.ids)) == (1, 1)
    assert {*again.ids, *other.ids} == {*first.ids}


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2)), min_size=1, max_size=20),
    st.integers(2, 7),
    st.booleans(),
    st.sampled_from([3, 4, 9, 64]),
    st.randoms(use_true_random=False),
)
def test_in_partitions_everybody_is_finished(
    wishes: list[tuple[int, int]], partitions: int, padded: bool, most_rows: int, rng: Any
) -> None:
    schedule = divided(
        *(sample(str(n), left, rows=rows) for n, (left, rows) in enumerate(wishes)),
        partitions=partitions,
        padded=padded,
        most_rows=most_rows,
    )
    away: dict[int, Decision] = {}
    taken = 0
    for _ in range(1000):
        if not len(schedule):
            break
        if away and (schedule.partitions == 1 or len(away) == partitions or rng.random() < 0.5):
            landed = away.pop(rng.choice(sorted(away)))
            schedule.landed(landed)
            taken += len(landed.ids)
            schedule.started(landed)
            schedule.took(landed, 0.1 * landed.bucket)
        elif schedule.partitions == 1:
            decision = schedule.decide(0.0)
            taken += len(decision.ids)
            schedule.done(decision, 0.1 * decision.bucket)
        else:
            partition = next(partition for partition in range(partitions) if partition not in away)
            decision = schedule.decide(0.0, partition)
            if decision.run:
                assert decision.rows <= decision.bucket <= most_rows // partitions
                schedule.begun(decision)
                away[partition] = decision
            elif away:
                landed = away.pop(min(away))
                schedule.landed(landed)
                taken += len(landed.ids)
                schedule.started(landed)
                schedule.took(landed, 0.1)
    assert not len(schedule)
    assert taken == sum(left for left, _ in wishes)
