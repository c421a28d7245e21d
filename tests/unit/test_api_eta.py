"""Estimates from measured service times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.api.eta import (
    ServiceTimes,
    after_first,
    estimate,
    first_pace,
    load_of,
    retry_after_s,
    summarize,
)
from swell.api.pace import Pace, Window

TIMES = st.lists(st.tuples(st.floats(0.001, 1000), st.integers(1, 100)), min_size=1, max_size=60)
AHEAD = st.integers(0, 1000)


@pytest.mark.slow
@given(TIMES, AHEAD, st.integers(1, 50), st.floats(1, 50), st.integers(1, 100))
def test_low_median_and_high_are_in_order(
    times: list[tuple[float, int]], ahead: int, workers: int, at_once: float, count: int
) -> None:
    stats = summarize(times)
    load = load_of(stats, ahead)
    found = estimate(stats, load, workers=workers, at_once=at_once, count=count)
    for eta in (found.start, found.finish):
        assert 0 <= eta.low <= eta.median <= eta.high
    assert found.start.median <= found.finish.median


@given(TIMES, AHEAD, st.integers(1, 50))
def test_a_longer_queue_never_ends_sooner(
    times: list[tuple[float, int]], ahead: int, workers: int
) -> None:
    stats = summarize(times)
    near = estimate(stats, load_of(stats, ahead), workers=workers)
    far = estimate(stats, load_of(stats, ahead + 1), workers=workers)
    # Milliseconds are rounded.
    assert near.finish.median <= far.finish.median + 0.001
    assert near.finish.high <= far.finish.high + 0.001


@given(TIMES, AHEAD, st.integers(1, 50))
def test_more_workers_never_end_later(
    times: list[tuple[float, int]], ahead: int, workers: int
) -> None:
    stats = summarize(times)
    load = load_of(stats, ahead)
    few = estimate(stats, load, workers=workers, at_once=workers)
    many = estimate(stats, load, workers=workers + 1, at_once=workers + 1)
    assert many.finish.median <= few.finish.median


@given(TIMES, AHEAD, st.floats(0.01, 100))
def test_a_quicker_pace_never_ends_later(
    times: list[tuple[float, int]], ahead: int, task_s: float
) -> None:
    stats = summarize(times)
    quick, slow = (
        load_of(stats, ahead, pace=Pace(task_s=each_s, run_s=1, count=stats.mean_count))
        for each_s in (task_s, 2 * task_s)
    )
    assert slow.seconds == pytest.approx(2 * quick.seconds)
    assert quick.seconds == pytest.approx(ahead * task_s)
    assert estimate(stats, quick).finish.median <= estimate(stats, slow).finish.median


@given(TIMES, AHEAD)
def test_before_anything_was_measured_tasks_run_one_at_a_time(
    times: list[tuple[float, int]], ahead: int
) -> None:
    stats = summarize(times)
    pace = first_pace(stats)
    assert pace.at_once == 1
    assert load_of(stats, ahead, pace=pace).seconds == pytest.approx(ahead * stats.mean_s)


@given(TIMES, AHEAD, st.integers(1, 99))
def test_more_samples_never_end_sooner(
    times: list[tuple[float, int]], ahead: int, count: int
) -> None:
    stats = summarize(times)
    load = load_of(stats, ahead)
    few = estimate(stats, load, workers=2, count=count)
    many = estimate(stats, load, workers=2, count=count + 1)
    assert few.finish.median <= many.finish.median
    assert load_of(stats, 10, 10).seconds <= load_of(stats, 10, 20).seconds


@given(TIMES)
def test_the_line_goes_through_the_mean_and_is_never_negative(
    times: list[tuple[float, int]],
) -> None:
    stats = summarize(times)
    assert stats.fixed_s >= 0
    assert stats.per_sample_s >= 0
    assert stats.service_s(stats.mean_count) == pytest.approx(stats.mean_s)
    assert load_of(stats, stats.n).seconds == pytest.approx(sum(took for took, _ in times))


@given(st.floats(0, 10), st.floats(0.01, 10), st.sets(st.integers(1, 100), min_size=2))
def test_what_a_sample_costs_is_found(fixed: float, each: float, counts: set[int]) -> None:
    stats = summarize([(fixed + each * count, count) for count in sorted(counts)])
    assert stats.fixed_s == pytest.approx(fixed, abs=1e-6)
    assert stats.per_sample_s == pytest.approx(each)


def test_as_long_as_all_asked_for_the_same_samples_cost_everything() -> None:
    stats = summarize([(2.0, 1), (4.0, 1)])
    assert stats.service_s(10) == 30.0


def test_samples_that_cost_nothing_lengthen_nothing() -> None:
    stats = summarize([(2.0, 1), (2.0, 8)])
    assert stats.service_s(100) == 2.0


def test_room_for_one_more_means_no_wait() -> None:
    stats = summarize([(4.0, 1)])
    found = estimate(stats, load_of(stats, 1), workers=2, at_once=2)
    assert (found.start.median, found.finish.median) == (0.0, 4.0)


def test_the_wait_is_shared_by_the_workers() -> None:
    stats = summarize([(10.0, 1)])
    assert estimate(stats, load_of(stats, 5), workers=2, at_once=2).start.median == 20.0


def test_workers_on_their_way_share_what_is_left_when_they_come() -> None:
    stats = summarize([(2.0, 1)] * 4)
    # 20 turns of 2 s are 40 s of work: 10 s of one worker, and 30 s of three.
    load = load_of(stats, 20)
    assert estimate(stats, load, coming=[(10.0, 2)]).start.median == 20.0
    assert estimate(stats, load, coming=[(10.0, 1), (20.0, 3)]).start.median == 22.0
    assert estimate(stats, load, coming=[(50.0, 9)]).start.median == 40.0


def test_who_comes_after_the_first_is_told_from_when_that_one_is_there() -> None:
    assert after_first([]) == []
    assert after_first([(30.0, 1), (40.0, 2)]) == [(10.0, 2)]
    assert after_first([(30.0, 3), (40.0, 2)]) == [(0.0, 2), (10.0, 2)]


@pytest.mark.slow
@given(TIMES, AHEAD, st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), max_size=5))
def test_workers_on_their_way_never_make_it_later(
    times: list[tuple[float, int]], ahead: int, coming: list[tuple[float, int]]
) -> None:
    stats = summarize(times)
    load = load_of(stats, ahead)
    alone = estimate(stats, load)
    helped = estimate(stats, load, coming=sorted(coming))
    assert helped.start.median <= alone.start.median + 0.001
    assert helped.start.low <= helped.start.median <= helped.start.high


def test_tasks_of_other_models_take_their_own_time() -> None:
    quick, slow = summarize([(1.0, 1)]), summarize([(100.0, 1)])
    load = load_of(quick, 1) + load_of(slow, 2)
    assert estimate(quick, load).start.median == 201.0


def test_a_worker_that_holds_a_long_task_is_waited_for() -> None:
    quick, slow = summarize([(1.0, 1)]), summarize([(100.0, 1)])
    assert estimate(quick, load_of(slow, 1)).start.median == 100.0


def test_before_the_first_task_has_ended_there_are_no_statistics() -> None:
    times = ServiceTimes()
    assert times.stats("demo/upper") is None
    times.observe("demo/upper", 1.0)
    assert times.stats("demo/upper") is not None


def test_old_measurements_are_forgotten() -> None:
    times = ServiceTimes(window=3)
    for took_s in (100.0, 1.0, 1.0, 1.0):
        times.observe("demo/upper", took_s)
    stats = times.stats("demo/upper")
    assert stats is not None
    assert (stats.n, stats.mean_s) == (3, 1.0)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=600), st.integers(1, 40))
def test_statistics_are_never_far_behind_the_times(times_s: list[float], every: int) -> None:
    times = ServiceTimes()
    for number, took_s in enumerate(times_s):
        times.observe("demo/upper", took_s)
        if number % every == 0:
            times.stats("demo/upper")
    stats = times.stats("demo/upper")
    assert stats is not None
    late = len(times_s) // 16
    seen = [times_s[: len(times_s) - n][-256:] for n in range(min(late, 16) + 1)]
    assert any(stats == summarize([(took_s, 1) for took_s in window]) for window in seen)


def median_s(times: ServiceTimes, version: str | None) -> float:
    stats = times.stats("demo/upper", version)
    assert stats is not None
    return stats.median_s


def test_versions_of_a_staged_model_are_told_apart() -> None:
    lives: dict[str, str] = {}
    times = ServiceTimes(lives=lives)
    for _ in range(20):
        times.observe("demo/upper", 1.0, version="1")
    lives["demo/upper"] = "1"
    for n in range(20):
        # Of what has not run much yet the live version is the best guess.
        assert median_s(times, "2") == (1.0 if n < 8 else 50.0)
        times.observe("demo/upper", 50.0, version="2")
    assert [median_s(times, each) for each in (None, "1", "2")] == [1.0, 1.0, 50.0]
    lives["demo/upper"] = "2"
    assert median_s(times, None) == 50.0
    again = ServiceTimes(lives=lives)
    again.load(times.dump())
    assert median_s(again, None) == 50.0


def test_only_so_many_versions_are_remembered() -> None:
    times = ServiceTimes(lives={"demo/upper": "1"})
    for number in range(40):
        times.observe("demo/upper", 1.0, version=str(number))
    kept = [name for name in times.mean_counts() if ":" in name]
    assert (len(kept), kept[-1]) == (16, "demo/upper:39")


def test_what_was_kept_is_older_than_what_was_measured_since() -> None:
    before = ServiceTimes()
    for _ in range(300):
        before.observe("demo/upper", 5.0, 2)
    kept = before.dump()
    assert not before.has_news
    after = ServiceTimes(window=65)
    after.observe("demo/upper", 70.0, 1)
    after.load(kept)
    stats = after.stats("demo/upper")
    assert stats is not None
    assert stats.n == 65
    after.observe("demo/upper", 70.0, 1)
    assert after.has_news


def test_how_much_tasks_draw_is_known_again() -> None:
    before, after = ServiceTimes(), ServiceTimes()
    before.observe("demo/upper", 1.0)
    assert before.drawn("demo/upper") is None
    before.observe_drawn("demo/upper", 100.0)
    after.load(before.dump())
    assert after.drawn("demo/upper") == 100.0
    after.observe_drawn("demo/upper", 200.0)
    assert 100.0 < (after.drawn("demo/upper") or 0.0) < 200.0


def test_a_pace_that_was_kept_is_known_again() -> None:
    before, window = ServiceTimes(), Window()
    window.n, window.count, window.run_s, window.busy_s, window.held_s = 8, 8, 8.0, 1.0, 8.0
    before.observe("demo/upper", 1.0)
    before.observe_pace("demo/upper", window, 8)
    after = ServiceTimes()
    after.load(before.dump())
    pace = after.pace("demo/upper")
    assert pace is not None
    assert (pace.task_s, pace.at_once) == (0.125, 8.0)


def test_times_that_were_kept_with_the_wait_inside_the_worker_are_ignored() -> None:
    times = ServiceTimes()
    times.load(b'{"demo/upper": [[1.6, 1], [1.6, 1]]}')
    assert times.stats("demo/upper") is None


@pytest.mark.parametrize("kept", [b"", b"[]", b"{", b'{"a/b": [1]}', b"\xff"])
def test_what_was_kept_by_another_version_is_no_obstacle(kept: bytes) -> None:
    times = ServiceTimes()
    times.load(kept)
    assert times.stats("a/b") is None


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_retry_after_is_whole_seconds_within_an_hour(expected_s: float, allowed_s: float) -> None:
    assert 1 <= retry_after_s(expected_s, allowed_s) <= 3600
