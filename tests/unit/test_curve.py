"""What a step costs: measured, interpolated, explored and stored."""

import json
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.worker.curve import BUCKETS, Curve, best_size, full_size, next_size

#: Seconds per step on one H200, bfloat16, compiled (sglang, pull request 22183).
GAINS = {1: 0.167, 2: 0.183, 3: 0.186, 4: 0.240, 6: 0.333, 8: 0.425, 12: 0.63, 16: 0.832}
FULL = {1: 0.243, 2: 0.474, 3: 0.711}
#: GLM-Image, 1280 pixels square: a batch takes 2.6 times as long (sglang, pull request 30683).
LOSES = {1: 5.06, 2: 13.3, 3: 20.0, 4: 26.7}

seconds = st.floats(1e-4, 100)
steps = st.lists(st.tuples(st.sampled_from(BUCKETS), seconds), max_size=60)
limits = st.integers(1, 40)


def measured(costs: Mapping[int, float], times: int = 3) -> Curve:
    curve = Curve()
    for rows, cost in costs.items():
        for _ in range(times):
            curve = curve.observe(rows, cost)
    return curve


def observed(wanted: list[tuple[int, float]]) -> Curve:
    curve = Curve()
    for rows, cost in wanted:
        curve = curve.observe(rows, cost)
    return curve


@given(steps, st.floats(0.5, 40), st.floats(0.5, 40))
def test_more_rows_never_take_less_time(
    wanted: list[tuple[int, float]], one: float, other: float
) -> None:
    curve = observed(wanted)
    low, high = sorted((one, other))
    assert 0 < curve.seconds(low) <= curve.seconds(high) * (1 + 1e-12)


@given(st.dictionaries(st.sampled_from(BUCKETS), seconds, min_size=1))
def test_a_curve_that_rises_is_kept_as_it_was_measured(costs: dict[int, float]) -> None:
    rising = dict(zip(sorted(costs), sorted(costs.values()), strict=True))
    curve = measured(rising)
    for rows, cost in rising.items():
        assert curve.seconds(rows) == pytest.approx(cost)


def test_a_bucket_that_never_ran_lies_between_its_neighbours() -> None:
    curve = measured({4: 0.2, 8: 0.4})
    assert curve.seconds(6) == pytest.approx(0.3)


def test_beyond_the_largest_bucket_a_row_is_no_cheaper() -> None:
    curve = measured({1: 0.2, 4: 0.3})
    assert curve.seconds(16) == pytest.approx(4 * 0.3)


def test_measurements_that_fall_share_their_mean() -> None:
    curve = measured({1: 0.2, 2: 0.1, 4: 0.5})
    assert curve.seconds(1) == curve.seconds(2) == pytest.approx(0.15)
    assert curve.seconds(4) == pytest.approx(0.5)


def test_the_first_step_of_a_bucket_may_compile() -> None:
    curve = Curve().observe(1, 60.0).observe(1, 0.2)
    assert curve.seconds(1) == pytest.approx(0.2)


def test_a_first_step_that_compiled_makes_no_other_bucket_dearer() -> None:
    curve = observed([each for each in GAINS.items() if each[0] != 3 for _ in range(6)])
    sizes = best_size(curve, 16), full_size(curve, 16)
    for steps in (1, 2):
        curve = observed([(3, 30.0)] * steps + [(n, s) for n, s in GAINS.items() if n != 3] * 6)
        assert (best_size(curve, 16), full_size(curve, 16)) == sizes
        assert [curve.seconds(n) for n in (2, 4, 16)] == pytest.approx(
            [GAINS[2], GAINS[4], GAINS[16]]
        )
        assert GAINS[2] <= curve.seconds(3) <= GAINS[4] * (1 + 1e-9)


def test_the_second_step_of_a_bucket_may_stall() -> None:
    curve = Curve().observe(1, 0.2).observe(1, 60.0)
    assert curve.seconds(1) == pytest.approx(0.2)


def test_one_stall_moves_the_average_by_a_tenth_at_most() -> None:
    before = measured({1: 0.2}, times=50)
    after = before.observe(1, 1000.0)
    assert before.seconds(1) < after.seconds(1) <= before.seconds(1) * 1.1 * (1 + 1e-12)


@pytest.mark.slow
@given(seconds, seconds)
def test_a_device_that_changes_is_followed(before: float, after: float) -> None:
    curve = measured({4: before}, times=20)
    for _ in range(300):
        curve = curve.observe(4, after)
    assert curve.seconds(4) == pytest.approx(after, rel=0.01)


def line_s(rows: int) -> float:
    """Two processors: so much for a step, and so much for each row."""
    return 0.007 + 0.0069 * rows


def about_line(*rows: int) -> Curve:
    return measured({n: line_s(n) for n in rows}, times=20)


def test_what_makes_all_steps_longer_for_a_while_does_not_bend_the_curve() -> None:
    curve = about_line(2, 4, 8, 16)
    for slower in (1.3,) * 20 + (0.9,) * 20:
        curve = curve.observe(4, slower * line_s(4))
        for rows in (2, 8, 16):
            assert curve.seconds(rows) / curve.seconds(4) == pytest.approx(
                line_s(rows) / line_s(4), rel=0.1
            )


def test_what_lasts_is_followed_by_all() -> None:
    curve = about_line(2, 4, 8, 16)
    for _ in range(100):
        curve = curve.observe(8, 1.3 * line_s(8)).observe(4, 1.3 * line_s(4))
    for rows, slower in ((2, 1.2), (4, 1.3), (8, 1.3), (16, 1.2)):
        assert curve.seconds(rows) == pytest.approx(slower * line_s(rows), rel=0.1)


def test_a_larger_bucket_that_is_first_tried_at_a_slow_moment_is_not_dearer() -> None:
    curve = about_line(2, 4, 8)
    for rows in (8,) * 10 + (16,) * 5:
        curve = curve.observe(rows, 1.3 * line_s(rows))
    assert curve.seconds(16) / curve.seconds(8) == pytest.approx(line_s(16) / line_s(8), rel=0.05)
    assert next_size(curve, 64, widest=2) == 24


def test_one_bucket_that_changes_by_itself_is_followed() -> None:
    curve = about_line(2, 4, 8, 16)
    for _ in range(150):
        curve = curve.observe(8, line_s(8)).observe(16, 1.5 * line_s(16))
    assert curve.seconds(16) / curve.seconds(8) == pytest.approx(
        1.5 * line_s(16) / line_s(8), rel=0.03
    )


def test_a_bucket_that_alone_runs_and_is_dearer_than_was_thought_is_found_out() -> None:
    """Else what lasts would be taken for a slow moment, and fewer rows would run for good."""
    curve = measured({n: line_s(n) * (0.8 if n == 8 else 1) for n in (2, 4, 8, 16, 32, 64)}, 40)
    assert full_size(curve, 64) == 8
    for _ in range(200):
        curve = curve.observe(8, line_s(8))
    assert full_size(curve, 64) == 64


def test_after_a_rehearsal_the_moment_is_a_new_one() -> None:
    curve = about_line(2, 4, 8)
    for _ in range(12):
        curve = curve.observe(4, 1.4 * line_s(4))
    curve = curve.rehearse(8, line_s(8))
    for _ in range(3):
        curve = curve.observe(16, line_s(16))
    assert curve.seconds(16) == pytest.approx(line_s(16))


def test_what_is_renewed_keeps_its_place_among_the_others() -> None:
    curve = measured({1: 1.4, 2: 2.0, 4: 4.8, 8: 9.6})
    again = curve.renew({2: 1.0, 4: 2.4, 6: 1.0, 8: 0.0})
    assert again.seconds(2) == pytest.approx(1.0)
    assert again.seconds(4) == pytest.approx(2.4)
    assert again.seconds(1) == pytest.approx(0.7)
    assert again.seconds(8) == pytest.approx(4.8)
    assert again.measured == curve.measured
    assert curve.renew({}) is curve


def test_what_steps_took_may_be_as_far_apart_as_numbers_can_be() -> None:
    curve = Curve.from_json(b'{"version": 1, "age": 10, "points": [[4, 1e308, 5, 10]]}')
    assert curve.observe(4, 1e-20).seconds(4) > 0
    curve = Curve.from_json(
        b'{"version": 1, "age": 10, "points": [[4, 1e-320, 5, 10], [8, 1, 5, 9]]}'
    )
    assert curve.renew({4: 0.1}).seconds(8) == pytest.approx(10.0)


def test_a_moment_is_not_stored() -> None:
    curve = about_line(4)
    slow = curve.observe(4, 1.3 * line_s(4))
    again = Curve.from_json(slow.to_json())
    assert again.observe(8, line_s(8)).seconds(8) == line_s(8)
    assert slow.observe(8, line_s(8)).seconds(8) < 0.99 * line_s(8)


@pytest.mark.parametrize(
    ("rows", "cost"),
    [(0, 1.0), (-1, 1.0), (5000, 1.0), (1, 0.0), (1, -1.0), (1, float("nan")), (1, float("inf"))],
)
def test_what_is_no_step_is_left_out(rows: int, cost: float) -> None:
    curve = measured({1: 0.2})
    assert curve.observe(rows, cost) == curve


def test_observing_leaves_the_old_curve_as_it_was() -> None:
    curve = measured({1: 0.2})
    other = curve.observe(2, 0.3)
    assert other != curve
    assert curve.measured == (1,)


# How many rows


def test_about_eight_rows_are_best_where_a_batch_gains() -> None:
    assert best_size(measured(GAINS), 16) == 6
    assert full_size(measured(GAINS), 16) == 12


def test_rows_between_others_that_are_known_are_told_from_those_that_ran() -> None:
    curve = measured({4: 0.4, 5: 0.5, 8: 0.6})
    assert [rows for rows in range(1, 12) if curve.is_between(rows)] == [6, 7]
    assert not Curve().is_between(1)


@pytest.mark.parametrize("costs", [FULL, LOSES])
def test_one_row_is_best_where_a_batch_gains_nothing(costs: dict[int, float]) -> None:
    assert best_size(measured(costs), 16) == 1
    assert full_size(measured(costs), 16) == 1


@pytest.mark.slow
@given(steps, limits)
def test_sizes_are_the_smallest_within_some_percent_of_the_cheapest(
    wanted: list[tuple[int, float]], limit: int
) -> None:
    curve = observed(wanted)
    if len(curve.measured) < 4:
        _is_smallest_within(curve, best_size(curve, limit), limit, 1.12)
        if full_size(curve, limit) > 1:
            _is_smallest_within(curve, full_size(curve, limit), limit, 1.01)


@given(steps, limits)
def test_a_line_does_not_say_that_few_are_enough_where_they_cost_a_quarter_more(
    wanted: list[tuple[int, float]], limit: int
) -> None:
    curve = observed(wanted)
    size = best_size(curve, limit)
    per_row = {rows: curve.seconds(rows) / rows for rows in BUCKETS if rows <= limit}
    # Two rows are the least where one alone costs more than 12 % more than the cheapest.
    assert size in per_row
    assert min(per_row[rows] for rows in per_row if rows <= max(2, size)) <= 1.25 * min(
        per_row.values()
    )
    assert size > 1 or per_row[1] <= 1.12 * min(per_row.values())


@pytest.mark.parametrize("step", [0.0, 0.05, 0.13, 0.15, 0.2])
@pytest.mark.parametrize("rows", [(1, 2, 4, 8, 16, 32, 64), (2, 4, 8, 16)])
def test_a_line_never_says_that_one_row_is_best_where_a_batch_gains(
    step: float, rows: tuple[int, ...]
) -> None:
    curve = measured({n: step + n for n in rows})
    gains = curve.seconds(1) > 1.12 * min(curve.seconds(n) / n for n in BUCKETS if n <= 64)
    assert (best_size(curve, 64) > 1) == gains


@pytest.mark.slow
@given(steps, limits)
def test_in_a_crowd_no_row_costs_much_more_than_the_cheapest(
    wanted: list[tuple[int, float]], limit: int
) -> None:
    # Each often enough to be believed: of what is not, a line may say something else.
    curve = observed([each for each in wanted for _ in range(3)])
    full = full_size(curve, limit)
    known = [rows for rows in BUCKETS if rows <= min(limit, max(curve.measured, default=limit))]
    cheapest = min(curve.seconds(rows) / rows for rows in known)
    # A straight line is off at either end, by a tenth where steps agree.
    off = max((curve.tolerance(rows) for rows in curve.measured), default=0.1)
    assert 0.1 <= off <= 0.3
    assert curve.seconds(full) / full <= 1.05 * (1 + off) / (1 - off) * cheapest


def _is_smallest_within(curve: Curve, found: int, limit: int, tolerance: float) -> None:
    fits = [rows for rows in BUCKETS if rows <= limit]
    cheapest = min(curve.seconds(rows) / rows for rows in fits)
    assert found in fits
    assert curve.seconds(found) / found <= tolerance * cheapest
    for rows in fits:
        if rows < found:
            assert curve.seconds(rows) / rows > tolerance * cheapest


def explored(costs: Mapping[int, float], limit: int, widest: int = 1) -> list[int]:
    """Return which buckets run if there is always enough to run, in order of their first step."""
    curve, ran = Curve(), []
    for _ in range(200):
        rows = next_size(curve, limit, widest) or best_size(curve, limit)
        rows = max(rows, widest)
        if rows not in ran:
            ran.append(rows)
        curve = curve.observe(rows, costs[rows])
    return ran


def test_larger_buckets_are_tried_one_after_the_other_while_they_gain() -> None:
    assert explored(GAINS, 16) == [1, 2, 3, 4, 6, 8, 12, 16]


@pytest.mark.parametrize("costs", [FULL, LOSES])
def test_trying_ends_with_the_first_doubling_that_gains_nothing(costs: dict[int, float]) -> None:
    assert explored(costs, 16) == [1, 2]


#: Milliseconds per row of swell/icons on two cores that others wanted as well: a row of 16 seems to
#: cost less than one of 24 or 32, which had other neighbours.
DISTURBED = {2: 11.38, 4: 9.46, 6: 8.29, 8: 8.11, 12: 7.74, 16: 7.29, 24: 7.50, 32: 7.37}


def test_a_crowd_shares_what_the_line_through_all_says_not_what_one_moment_did() -> None:
    curve = measured({rows: rows * ms for rows, ms in DISTURBED.items()})
    assert full_size(curve, 64) == 32
    assert next_size(curve, 64, widest=2) == 48
    for rows, ms in ((48, 7.4), (64, 7.3)):
        curve = measured({**{r: r * m for r, m in DISTURBED.items()}, rows: rows * ms})
        assert full_size(curve, 64) == rows


#: A step over its rows, and errors of single buckets.
lines = st.floats(0.5, 4)
errors = st.lists(st.floats(-0.03, 0.03), min_size=9, max_size=9)


def about_a_line(step: float, errors: list[float]) -> Curve:
    rows = (2, 4, 8, 12, 16, 24, 32, 48, 64)
    return measured({n: (step + n) * (1 + error) for n, error in zip(rows, errors, strict=True)})


@pytest.mark.slow
@given(lines, errors)
def test_small_errors_of_single_buckets_do_not_make_a_crowd_pay(
    step: float, errors: list[float]
) -> None:
    full = full_size(about_a_line(step, errors), 64)
    assert (step + full) / full <= 1.03 * (step + 64) / 64


@given(lines, errors)
def test_small_errors_of_single_buckets_do_not_move_how_many_run_together(
    step: float, errors: list[float]
) -> None:
    size = best_size(about_a_line(step, errors), 64)
    over = {n: (step + n) / n / ((step + 64) / 64) for n in BUCKETS}
    assert over[size] <= 1.08 * 1.15
    assert all(over[n] > 1.15 / 1.04 for n in BUCKETS if n < size)


def by_chance(jumps: float) -> Curve:
    """Buckets on a line, each step so much longer or shorter; the last had bad luck three times."""
    curve, rng = Curve(), random.Random(3)
    for _ in range(40):
        for rows in (2, 4, 8, 12, 16):
            curve = curve.observe(rows, line_s(rows) * (1 + rng.uniform(-jumps, jumps)))
    for _ in range(3):
        curve = curve.observe(24, 1.25 * line_s(24))
    return curve


def test_where_steps_disagree_few_of_them_are_no_bend() -> None:
    assert full_size(by_chance(0.2), 64) == 24
    assert full_size(by_chance(0.01), 64) == 16


def test_where_steps_agree_few_of_them_are_a_bend() -> None:
    costs = {rows: line_s(rows) for rows in (2, 4, 8, 12, 16)}
    assert full_size(measured({**costs, 24: 1.3 * line_s(24)}), 64) == 16


def test_a_bend_is_no_straight_line() -> None:
    costs = {rows: rows * ms for rows, ms in DISTURBED.items() if rows <= 16}
    curve = measured({**costs, 24: 24 * 9.6}, times=6)
    assert full_size(curve, 64) == 16
    assert next_size(curve, 64, widest=2) is None


def test_a_bucket_that_does_not_fit_is_not_tried() -> None:
    assert explored(GAINS, 5) == [1, 2, 3, 4]


def test_where_each_sample_takes_two_rows_only_buckets_that_can_fill_are_tried() -> None:
    assert explored(GAINS, 16, widest=2) == [2, 4, 6, 8, 12, 16]


def test_a_bucket_that_was_dropped_is_forgotten_and_tried_again_much_later() -> None:
    curve = measured(FULL, times=6)
    assert next_size(curve, 16) is None
    for _ in range(20_001):
        curve = curve.observe(1, FULL[1])
    assert curve.measured == (1,)
    assert next_size(curve, 16) == 2


# Stored


@pytest.mark.slow
@given(steps)
def test_a_stored_curve_comes_back_as_it_was(wanted: list[tuple[int, float]]) -> None:
    curve = observed(wanted)
    again = Curve.from_json(curve.to_json())
    assert again == curve
    assert [again.seconds(rows) for rows in BUCKETS] == [curve.seconds(rows) for rows in BUCKETS]


@pytest.mark.slow
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
def test_what_is_no_curve_gives_an_empty_one(raw: bytes | str) -> None:
    assert Curve.from_json(raw) == Curve()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["version", "age", "points", "x"]), inner, max_size=4)
    ),
    max_leaves=30,
)


@pytest.mark.slow
@given(values)
def test_foreign_json_gives_a_curve_that_can_be_used(value: object) -> None:
    curve = Curve.from_json(json.dumps(value))
    assert best_size(curve.observe(1, 0.1), 16) in BUCKETS


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"points": [[1, 0.1, 3, 1], [1, 0.2, 3, 2]]},
        {"points": [[4, 0.1, 3, 1], [2, 0.2, 3, 2]]},
        {"points": [[0, 0.1, 3, 1]]},
        {"points": [[1, -0.1, 3, 1]]},
        {"points": [[1, 1e999, 3, 1]]},
        {"points": [[1, 0.1, 0, 1]]},
        {"points": [[1, 0.1, 3, 99]]},
        {"points": [[1, 0.1, 3]]},
        {"age": -1},
        {"more": 1},
    ],
)
def test_a_curve_that_makes_no_sense_is_measured_anew(change: dict[str, object]) -> None:
    stored = json.loads(measured({1: 0.2, 2: 0.3}).to_json())
    assert Curve.from_json(json.dumps(stored)) != Curve()
    assert Curve.from_json(json.dumps({**stored, **change})) == Curve()


def test_json_that_is_nested_without_end_gives_an_empty_curve() -> None:
    assert Curve.from_json("[" * 100_000) == Curve()
    assert Curve.from_json('{"x":' * 100_000) == Curve()


def test_a_curve_shows_its_seconds() -> None:
    assert repr(measured({1: 0.2, 2: 0.25})) == "Curve({1: 0.2, 2: 0.25})"


def test_a_bucket_that_was_tried_at_a_bad_moment_is_looked_at_again() -> None:
    costs = {1: 1.0, 2: 1.2, 4: 1.6, 6: 2.2, 8: 2.8}
    curve = measured({1: 1.0, 2: 1.2, 4: 1.6, 6: 6.0}, times=6)
    assert next_size(curve, 8) is None
    tried = []
    for _ in range(2000):
        rows = next_size(curve, 8) or 4
        tried += [rows] * (rows > 4)
        curve = curve.observe(rows, costs[rows])
    # Once more was enough to see that it gains, and to go on from there.
    assert tried[:4] == [6, 8, 8, 8]


def test_one_stall_does_not_end_the_search() -> None:
    curve = measured({2: 0.021})
    for seconds in (0.041, 0.058, 0.04, 0.036):
        assert next_size(curve, 64, widest=2) == 4
        curve = curve.observe(4, seconds)
    assert next_size(curve, 64, widest=2) == 6


def test_a_bucket_that_gains_nothing_is_looked_at_ever_less_often() -> None:
    curve, tried = measured({1: 1.0, 2: 1.2, 4: 2.4, 8: 4.8}, times=6), 0
    for _ in range(2000):
        rows = next_size(curve, 8) or 2
        tried += rows > 2
        curve = curve.observe(rows, 0.6 * rows)
    assert 4 <= tried <= 8


@pytest.mark.slow
def test_a_larger_bucket_that_ran_once_does_not_have_the_one_before_it_looked_at_for_ever() -> None:
    curve, tried = measured({1: 1.0, 2: 2.0}, times=6).observe(3, 3.0), 0
    for _ in range(15_000):
        rows = next_size(curve, 8) or 1
        tried += rows > 1
        curve = curve.observe(rows, float(rows))
    assert tried <= 3


def test_where_one_row_fills_the_device_it_is_hardly_ever_looked_at_again() -> None:
    curve, tried = measured({1: 1.0, 2: 2.0}, times=6), 0
    for _ in range(10_000):
        rows = next_size(curve, 8) or 1
        tried += rows > 1
        curve = curve.observe(rows, float(rows))
    assert tried == 1
