"""Estimates from measured service times."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.server.estimates.eta import (
    MOST_HISTORIES,
    Forecast,
    ServiceStats,
    ServiceTimes,
    Situation,
    Window,
    Workers,
    forecast,
    summarize,
)

TIMES = st.lists(st.tuples(st.floats(0.001, 1000), st.integers(1, 100)), min_size=1, max_size=60)
AHEAD = st.integers(0, 1000)


def behind(stats: ServiceStats, ahead: float, count: float = 1, **workers: Any) -> Forecast:
    """Return the forecast of a task behind others of its model."""
    return forecast(stats, ahead, ahead * stats.mean_s, Workers(**workers), count)


@pytest.mark.slow
@given(TIMES, AHEAD, st.integers(1, 50), st.floats(1, 50), st.integers(1, 100))
def test_low_median_and_high_are_in_order(
    times: list[tuple[float, int]], ahead: int, workers: int, at_once: float, count: int
) -> None:
    stats = summarize(times)
    found = behind(stats, ahead, count, live=workers, at_once=at_once)
    eta = found.finish
    assert 0 <= eta.low <= eta.median <= eta.high
    assert 0 <= found.start_s <= eta.median


@given(TIMES, AHEAD, st.integers(1, 50))
def test_a_longer_queue_never_ends_sooner(
    times: list[tuple[float, int]], ahead: int, workers: int
) -> None:
    stats = summarize(times)
    near = behind(stats, ahead, live=workers)
    far = behind(stats, ahead + 1, live=workers)
    assert near.finish.median <= far.finish.median + 0.001


@given(TIMES, AHEAD, st.integers(1, 50))
def test_more_workers_never_end_later(
    times: list[tuple[float, int]], ahead: int, workers: int
) -> None:
    stats = summarize(times)
    few = behind(stats, ahead, live=workers, at_once=workers)
    many = behind(stats, ahead, live=workers + 1, at_once=workers + 1)
    assert many.finish.median <= few.finish.median + 0.001


@given(TIMES, AHEAD, st.floats(0.01, 100))
def test_more_work_never_ends_sooner(
    times: list[tuple[float, int]], ahead: int, work_s: float
) -> None:
    stats = summarize(times)
    found = [forecast(stats, ahead, each_s, Workers()) for each_s in (work_s, 2 * work_s)]
    assert found[0].finish.median <= found[1].finish.median


def test_before_anything_was_measured_tasks_run_one_at_a_time() -> None:
    times = ServiceTimes()
    times.observe("demo/upper", 6.0, 3)
    stats = times.stats("demo/upper")
    assert stats is not None
    pace = times.usual_pace("demo/upper", None, stats)
    assert (pace.at_once, pace.sample_s) == (1, 2.0)


@given(TIMES, AHEAD, st.integers(1, 99))
def test_more_samples_never_end_sooner(
    times: list[tuple[float, int]], ahead: int, count: int
) -> None:
    stats = summarize(times)
    few = behind(stats, ahead, count, live=2)
    many = behind(stats, ahead, count + 1, live=2)
    assert few.finish.median <= many.finish.median


@given(TIMES)
def test_the_time_is_proportional_to_the_samples(times: list[tuple[float, int]]) -> None:
    stats = summarize(times)
    assert stats.service_s(stats.mean_count) == pytest.approx(stats.mean_s)
    assert stats.service_s(10) == pytest.approx(10 * stats.service_s(1))
    assert stats.ratios[0] <= stats.ratios[1] <= stats.ratios[2]


def test_room_for_one_more_means_no_wait() -> None:
    stats = summarize([(4.0, 1)])
    found = behind(stats, 1, live=2, at_once=2)
    assert (found.situation, found.start_s, found.finish.median) == (Situation.IDLE, 0.0, 4.0)


def test_the_wait_is_shared_by_the_workers() -> None:
    found = behind(summarize([(10.0, 1)]), 5, live=2, at_once=2)
    assert (found.situation, found.start_s) == (Situation.QUEUE, 20.0)


def test_workers_that_are_starting_share_the_rest_of_the_work() -> None:
    stats = summarize([(2.0, 1)] * 4)
    # 20 turns of 2 s are 40 s of work: 10 s of one worker, and 30 s of three.
    assert behind(stats, 20, coming=[(10.0, 2)]).start_s == 20.0
    assert behind(stats, 20, coming=[(10.0, 1), (20.0, 3)]).start_s == 22.0
    assert behind(stats, 20, coming=[(50.0, 9)]).start_s == 40.0


def test_without_a_live_worker_the_first_one_is_waited_for() -> None:
    stats = summarize([(2.0, 1)] * 4)
    first = behind(stats, 0, live=0, coming=[(30.0, 1)], first_by_s=90.0)
    assert (first.situation, first.start_s, first.finish.median) == (Situation.COLD, 30.0, 32.0)
    assert first.finish.high == 92.0
    assert behind(stats, 5, live=0, coming=[(30.0, 1)]).start_s == 40.0
    assert behind(stats, 5, live=0, coming=[(30.0, 1), (34.0, 2)]).start_s == 36.0
    assert behind(stats, 5, live=0).start_s == 10.0


def test_the_bounds_of_a_wait_are_wide() -> None:
    found = behind(summarize([(2.0, 1)] * 4), 4)
    assert (found.finish.low, found.finish.median, found.finish.high) == (6.0, 10.0, 20.0)


@pytest.mark.slow
@given(TIMES, AHEAD, st.lists(st.tuples(st.floats(0, 100), st.integers(1, 9)), max_size=5))
def test_workers_that_are_starting_never_make_it_later(
    times: list[tuple[float, int]], ahead: int, coming: list[tuple[float, int]]
) -> None:
    stats = summarize(times)
    assert (
        behind(stats, ahead, coming=sorted(coming)).start_s <= behind(stats, ahead).start_s + 1e-6
    )


def test_tasks_of_other_models_take_their_own_time() -> None:
    quick = summarize([(1.0, 1)])
    assert forecast(quick, 3, 201.0, Workers()).start_s == 201.0
    assert forecast(quick, 1, 100.0, Workers()).start_s == 100.0


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


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300), st.integers(1, 40))
def test_statistics_are_those_of_the_last_tasks(times_s: list[float], every: int) -> None:
    times = ServiceTimes()
    for number, took_s in enumerate(times_s):
        times.observe("demo/upper", took_s)
        if number % every == 0:
            times.stats("demo/upper")
    wanted = summarize([(took_s, 1) for took_s in times_s[-128:]])
    assert times.stats("demo/upper") == wanted


def median_s(times: ServiceTimes, version: str | None) -> float:
    stats = times.stats("demo/upper", version)
    assert stats is not None
    return stats.median_s


def test_versions_of_a_staged_model_are_told_apart() -> None:
    lives: dict[str, str] = {}
    times = ServiceTimes(live_versions=lives)
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
    again = ServiceTimes(live_versions=lives)
    again.load(times.dump())
    assert median_s(again, None) == 50.0


def test_the_models_that_were_used_last_are_remembered() -> None:
    times = ServiceTimes()
    times.observe("demo/used", 1.0)
    for number in range(2 * MOST_HISTORIES):
        times.observe(f"demo/{number}", 1.0)
        times.observe("demo/used", 1.0)
    known = times.mean_counts()
    assert len(known) == MOST_HISTORIES
    assert "demo/used" in known
    assert "demo/0" not in known


def test_what_was_kept_is_older_than_what_was_measured_since() -> None:
    before = ServiceTimes()
    for _ in range(300):
        before.observe("demo/upper", 5.0, 2)
    kept = before.dump()
    assert not before.has_changed
    after = ServiceTimes(window=65)
    after.observe("demo/upper", 70.0, 1)
    after.load(kept)
    stats = after.stats("demo/upper")
    assert stats is not None
    assert stats.n == 65
    after.observe("demo/upper", 70.0, 1)
    assert after.has_changed


def test_the_usual_size_is_known_again() -> None:
    before, after = ServiceTimes(), ServiceTimes()
    before.observe("demo/upper", 1.0)
    assert before.usual_size("demo/upper") == 1.0
    before.observe_size("demo/upper", 3.0)
    after.load(before.dump())
    assert after.usual_size("demo/upper") == 3.0
    after.observe_size("demo/upper", 6.0)
    assert 3.0 < after.usual_size("demo/upper") < 6.0


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


@pytest.mark.parametrize("kept", [b"", b"[]", b"{", b'{"a/b": [1]}', b"\xff"])
def test_what_was_kept_by_another_version_is_no_obstacle(kept: bytes) -> None:
    times = ServiceTimes()
    times.load(kept)
    assert times.stats("a/b") is None
