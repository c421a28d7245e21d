"""What runs in the next step, over any samples."""

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from swell.diffusion.batch_scheduler import Decision, Policy, Sample, Scheduler, Urgency
from swell.diffusion.step_cost import BUCKETS, CROWD, StepCost

GAINS = {1: 0.167, 2: 0.183, 3: 0.186, 4: 0.240, 6: 0.36, 8: 0.425}
FULL = {1: 0.25, 2: 0.5}


def measured(costs: dict[int, float]) -> StepCost:
    found = StepCost()
    for rows, seconds in costs.items():
        for _ in range(6):
            found.record(rows, seconds)
    return found


def sample(name: str, left: int = 10, **more: Any) -> Sample:
    fields: dict[str, Any] = {"key": "key", "steps": left, "arrived_s": 0.0, **more}
    return Sample(id=name, remaining=left, **fields)


def scheduler(costs: dict[int, float], policy: Policy | None = None, **more: Any) -> Scheduler:
    found = Scheduler(policy)
    found.know("key", **{"most_rows": 8, "cost": measured(costs), **more})
    found.set_residency("key", loaded=True, load_s=0.0)
    return found


def with_samples(costs: dict[int, float], *samples: Sample, **more: Any) -> Scheduler:
    found = scheduler(costs, **more)
    for one in samples:
        found.add(one)
    return found


# One batch key


def test_a_batch_is_filled_with_the_least_work_first() -> None:
    waiting = [sample(str(n), 30 - n) for n in range(12)]
    decision = with_samples(GAINS, *waiting).decide(0.0)
    assert set(decision.ids) == {str(n) for n in range(4, 12)}
    assert (decision.bucket, decision.urgency) == (8, Urgency.SHORTEST)


def test_a_single_sample_does_not_wait_for_others() -> None:
    decision = with_samples(GAINS, sample("only")).decide(0.0)
    assert (decision.ids, decision.bucket) == (("only",), 1)


def test_who_runs_in_a_batch_goes_on_and_the_least_work_joins() -> None:
    found = with_samples(GAINS, *(sample(f"r{n}", 30) for n in range(10)))
    first = found.decide(0.0)
    found.done(first, 0.4)
    found.cancel("r0")
    for name, left in (("long", 40), ("short", 4)):
        found.add(sample(name, left))
    assert {*found.decide(0.4).ids} == {*first.ids, "short"} - {"r0"}


def test_where_a_batch_gains_nothing_the_least_work_runs_alone() -> None:
    found = with_samples(FULL, sample("long", 30))
    found.done(found.decide(0.0), 0.25)
    found.add(sample("short", 4))
    decision = found.decide(0.25)
    assert (decision.ids, decision.bucket) == (("short",), 1)


def test_a_pressing_deadline_goes_before_less_work() -> None:
    waiting = [sample("short", 4), sample("soon", 10, deadline_s=4.0)]
    decision = with_samples(FULL, *waiting).decide(0.0)
    assert (decision.ids, decision.urgency) == (("soon",), Urgency.DEADLINE)


@pytest.mark.parametrize("deadline_s", [1000.0, 0.5])
def test_a_deadline_that_is_far_or_cannot_be_met_gives_no_rank(deadline_s: float) -> None:
    waiting = [sample("deadline", 10, deadline_s=deadline_s), sample("short", 4)]
    assert with_samples(FULL, *waiting).decide(0.0).ids == ("short",)


def test_guidance_takes_two_rows_and_comes_first() -> None:
    decision = with_samples(GAINS, sample("plain", 9), sample("guided", rows=2)).decide(0.0)
    assert decision.ids == ("guided", "plain")
    assert (decision.rows, decision.bucket) == (3, 3)


def test_a_sample_that_does_not_fit_as_a_whole_runs_in_passes() -> None:
    found = with_samples(FULL, sample("guided", rows=2), sample("other", 20), pinned=1)
    decision = found.decide(0.0)
    assert (decision.ids, decision.rows, decision.passes) == (("guided",), 2, 2)
    found.done(decision, 0.5)
    assert found.cost("key").seconds(1) == pytest.approx(0.25)


def test_equal_samples_that_are_overdue_run_one_after_the_other() -> None:
    found = with_samples(FULL, *(sample(str(n), 30) for n in range(5)), policy=Policy(bound=1.0))
    ran = []
    for step in range(150):
        decision = found.decide(1000 + step / 4)
        ran += decision.ids
        found.done(decision, 0.25)
    assert ran == [str(n) for n in range(5) for _ in range(30)]


def test_a_long_sample_among_short_ones_is_finished_within_the_bound() -> None:
    found = with_samples(FULL, sample("long", 30), policy=Policy(bound=20.0))
    for n in range(3000):
        found.add(sample(f"s{n}", 1, arrived_s=n / 4))
        found.done(found.decide(n / 4), 0.25)
        if found.sample("long") is None:
            break
    assert 19 * 30 <= n <= 22 * 30


# Costs


def test_larger_buckets_are_tried_while_they_gain_and_enough_wait() -> None:
    found = scheduler({}, most_rows=16)
    rows = []
    for step in range(60):
        while len(found) < 10:
            found.add(sample(f"{step}.{len(found)}", 30, arrived_s=float(step)))
        decision = found.decide(float(step))
        rows.append(decision.bucket)
        found.done(decision, 1.0 + 0.1 * decision.bucket)
    assert rows[:3] == [1, 1, 1]
    assert rows[-1] == 8 <= 10 / CROWD


def test_a_batch_that_gains_nothing_is_tried_and_left() -> None:
    found = scheduler({})
    rows = []
    for step in range(200):
        while len(found) < 4:
            found.add(sample(f"{step}.{len(found)}", 30, arrived_s=float(step)))
        decision = found.decide(float(step))
        rows.append(decision.bucket)
        found.done(decision, 1.0 * decision.bucket)
    assert (rows.count(1), rows.count(2)) == (197, 3)


def test_a_stall_or_a_compilation_does_not_stand_for_a_bucket() -> None:
    found = StepCost()
    for seconds in (60.0, 1.0, 1.1, 1.0):
        found.record(4, seconds)
    assert found.seconds(4) == pytest.approx(1.0, rel=0.02)
    found.record(4, 1000.0)
    assert found.seconds(4) < 1.1


@given(st.dictionaries(st.sampled_from(BUCKETS), st.floats(0.01, 10)), st.integers(1, 99),
       st.integers(1, 70), st.sampled_from([1, 2]))  # fmt: skip
def test_rows_stay_within_what_fits(
    costs: dict[int, float], wanted: int, most_rows: int, per_sample: int
) -> None:
    rows = measured(costs).rows_to_fill(wanted, most_rows, per_sample)
    assert 1 <= rows <= most_rows


# Models that are not loaded together


def two_models(load_s: float) -> Scheduler:
    found = scheduler(FULL)
    found.know("away", most_rows=8, cost=measured(FULL))
    found.set_residency("away", loaded=False, load_s=load_s)
    return found


def test_another_model_is_loaded_at_once_if_nothing_else_can_run() -> None:
    found = two_models(1000.0)
    found.add(sample("a", key="away"))
    decision = found.decide(0.0)
    assert (decision.ids, decision.loads) == (("a",), True)


def test_a_model_is_loaded_for_an_overdue_sample_once_the_turn_has_paid_for_it() -> None:
    found = two_models(1.0)
    found.add(sample("a", 10_000, arrived_s=1e6))
    found.add(sample("late", key="away"))
    for step in range(80):
        decision = found.decide(1e6)
        assert decision.key == "key", step
        found.done(decision, 0.25)
    decision = found.decide(1e6)
    assert (decision.key, decision.loads, decision.urgency) == ("away", True, Urgency.OVERDUE)


def test_new_keys_of_a_loaded_model_delay_no_load() -> None:
    """A new size or option makes a new batch key; that is no load, so the turn goes on."""
    found = Scheduler()
    found.know("away", most_rows=8, cost=measured(FULL))
    found.set_residency("away", loaded=False, load_s=5.0)
    found.add(sample("other", 10, key="away"))
    now_s = 0.0
    for number in range(400):
        key = f"here-{number}"
        found.know(key, most_rows=8, cost=measured(FULL))
        found.set_residency(key, loaded=True, load_s=5.0)
        found.add(sample(str(number), 12, key=key, arrived_s=now_s))
        while found.sample(str(number)) and (decision := found.decide(now_s)).key != "away":
            found.done(decision, 0.25)
            now_s += 0.25
        if found.sample(str(number)):
            break
    assert decision.key == "away"
    assert now_s < 400


@pytest.mark.parametrize("plain", [1, 5])
def test_a_few_plain_samples_among_guided_ones_stop_no_trial(plain: int) -> None:
    found = scheduler({}, most_rows=16, cost=StepCost())
    for number in range(100):
        # The plain ones are the least urgent, so they are there to the end.
        is_plain = number < plain
        arrived_s = 500.0 if is_plain else 0.0
        found.add(sample(str(number), 30, rows=2 - is_plain, arrived_s=arrived_s))
    now_s, steps = 1000.0, 0
    while len(found):
        decision = found.decide(now_s)
        seconds = 0.04 + 0.002 * decision.bucket
        found.done(decision, seconds)
        now_s, steps = now_s + seconds, steps + 1
    # Sixteen rows are nearly as cheap as two: 3,000 sample steps of two rows take 375 such steps.
    assert steps < 500


def test_no_quick_load_goes_before_that_of_a_sample_that_is_more_overdue() -> None:
    found = two_models(10.0)
    found.know("quick", most_rows=8, cost=measured(FULL))
    found.set_residency("quick", loaded=False, load_s=1.0)
    found.add(sample("a", 10_000, arrived_s=1e6))
    found.add(sample("late", key="away"))
    found.add(sample("less late", key="quick", arrived_s=1000.0))
    for step in range(800):
        decision = found.decide(1e6)
        assert decision.key == "key", step
        found.done(decision, 0.25)
    assert found.decide(1e6).key == "away"


@pytest.mark.slow
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.floats(0.5, 20))
@settings(max_examples=40, deadline=None)
def test_every_model_gets_its_turn_however_much_waits_for_another(
    waiting: list[int], load_s: float
) -> None:
    found = Scheduler(Policy(bound=5.0))
    for n, count in enumerate(waiting):
        found.know(n, most_rows=8, cost=measured(FULL))
        found.set_residency(n, loaded=n == 0, load_s=load_s)
        for m in range(count):
            found.add(sample(f"{n}.{m}", 4, key=n))
    now_s, served, loaded = 0.0, {0}, 0
    for n in range(100_000):
        if len(served) == len(waiting):
            break
        found.add(sample(f"new{n}", 1, key=0, arrived_s=now_s))
        decision = found.decide(now_s)
        if decision.loads:
            found.set_residency(loaded, loaded=False, load_s=load_s)
            found.set_residency(decision.key, loaded=True, load_s=load_s)
            loaded = decision.key  # type: ignore[assignment]
            now_s += load_s
        served.add(decision.key)  # type: ignore[arg-type]
        found.done(decision, 0.25)
        now_s += 0.25
    assert served == set(range(len(waiting)))
    assert now_s <= 5 * (1 + load_s) + len(waiting) * 21 * load_s + sum(waiting) + 10


# Any events


events = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abc"), st.integers(1, 30),
                  st.sampled_from([1, 2]), st.sampled_from([None, 3.0, 30.0]),
                  st.sampled_from([0.125, 1.0, 4.0])),
        st.tuples(st.just("cancel"), st.integers(0, 200)),
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("fail")),
        st.tuples(st.just("wait"), st.floats(0, 100)),
        st.tuples(st.just("unload"), st.sampled_from("abc")),
    ),
    max_size=60,
)  # fmt: skip


class Watched:
    """A scheduler whose every decision is checked. Batches gain for a, not for b; c is exact."""

    def __init__(self) -> None:
        self.now_s, self.number = 0.0, 0
        self.found = Scheduler(Policy(bound=3.0))
        self.left: dict[str, int] = {}
        for key, costs in {"a": GAINS, "b": FULL, "c": GAINS}.items():
            pinned = 4 if key == "c" else None
            self.found.know(key, most_rows=8, cost=measured(costs), pinned=pinned)
            self.found.set_residency(key, loaded=key != "c", load_s=5.0)

    def decide(self) -> Decision:
        decision = self.found.decide(self.now_s)
        assert decision == self.found.decide(self.now_s)
        assert bool(decision.run) == bool(self.left)
        if not decision.run:
            return decision
        assert set(decision.ids) <= set(self.left)
        assert len(set(decision.ids)) == len(decision.ids)
        assert {one.key for one in decision.run} == {decision.key}
        rows = [one.rows for one in decision.run]
        assert rows == sorted(rows, reverse=True)
        assert decision.bucket <= self.found._keys[decision.key].limit.rows
        assert decision.rows <= decision.bucket or len(decision.run) == 1
        if decision.key == "c" and self.found._keys["c"].limit.rows >= 4:
            assert decision.bucket == 4
        self.nobody_passes_an_overdue_sample(decision)
        return decision

    def nobody_passes_an_overdue_sample(self, decision: Decision) -> None:
        known = self.found._keys[decision.key]
        ranks = {s.id: self.found._rank(s, known, self.now_s, keeps=False)
                 for s in known.samples.values()}  # fmt: skip
        late = [
            r for name, r in ranks.items() if r[0] is Urgency.OVERDUE and name not in decision.ids
        ]
        if late and not any(s.rows == 2 for s in known.samples.values()):
            assert all(ranks[name][:3] <= min(late)[:3] for name in decision.ids)

    def do(self, event: tuple[Any, ...]) -> None:
        match event:
            case ("add", key, steps, rows, within_s, weight):
                name = str(self.number)
                deadline_s = None if within_s is None else self.now_s + within_s
                more = {"deadline_s": deadline_s, "weight": weight, "arrived_s": self.now_s}
                self.found.add(sample(name, steps, key=key, rows=rows, **more))
                self.left[name] = steps
                self.number += 1
            case ("cancel", number):
                was_here = self.left.pop(str(number), None)
                assert (self.found.cancel(str(number)) is None) == (was_here is None)
            case ("step", count):
                for _ in range(count):
                    self.step()
            case ("fail",):
                decision = self.decide()
                if decision.run:
                    self.found.failed(decision)
            case ("wait", seconds):
                self.now_s += seconds
            case ("unload", key):
                self.found.set_residency(key, loaded=False, load_s=5.0)

    def step(self) -> None:
        decision = self.decide()
        if not decision.run:
            return
        if decision.loads:
            self.found.set_residency(decision.key, loaded=True, load_s=5.0)
            self.now_s += 5.0
        finished = {one.id for one in self.found.done(decision, 0.2)}
        self.now_s += 0.2
        for name in decision.ids:
            self.left[name] -= 1
        assert finished == {name for name, steps in self.left.items() if steps == 0}
        for name in finished:
            del self.left[name]


@pytest.mark.slow
@given(events)
@example([("add", "a", 4, 1, None, 0.125), ("fail",), ("add", "a", 1, 1, None, 0.125),
          ("add", "a", 4, 2, None, 1.0)])  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_some_samples_always_run_until_all_are_finished(wanted: list[tuple[Any, ...]]) -> None:
    watched = Watched()
    for event in wanted:
        watched.do(event)
    for _ in range(sum(watched.left.values())):
        watched.step()
    assert not watched.left
    assert len(watched.found) == 0
