"""Estimates from measured service times."""

from hypothesis import given
from hypothesis import strategies as st

from swell.api.eta import ServiceTimes, estimate, retry_after_s, summarize

TIMES = st.lists(st.floats(0.001, 1000), min_size=1, max_size=60)


@given(TIMES, st.integers(0, 1000), st.integers(1, 50), st.integers(0, 50))
def test_low_median_and_high_are_in_order(
    times: list[float], ahead: int, slots: int, free: int
) -> None:
    found = estimate(summarize(times), ahead=ahead, slots=slots, free=free)
    assert found is not None
    for eta in (found.start, found.finish):
        assert 0 <= eta.low <= eta.median <= eta.high
    assert found.start.median <= found.finish.median


@given(TIMES, st.integers(0, 1000), st.integers(1, 50))
def test_a_longer_queue_never_ends_sooner(times: list[float], ahead: int, slots: int) -> None:
    stats = summarize(times)
    near = estimate(stats, ahead=ahead, slots=slots)
    far = estimate(stats, ahead=ahead + 1, slots=slots)
    assert near is not None
    assert far is not None
    assert near.finish.median <= far.finish.median
    assert near.finish.high <= far.finish.high


@given(TIMES, st.integers(0, 1000), st.integers(1, 50))
def test_more_slots_never_end_later(times: list[float], ahead: int, slots: int) -> None:
    stats = summarize(times)
    few = estimate(stats, ahead=ahead, slots=slots)
    many = estimate(stats, ahead=ahead, slots=slots + 1)
    assert few is not None
    assert many is not None
    assert many.finish.median <= few.finish.median


def test_a_free_slot_means_no_wait() -> None:
    found = estimate(summarize([4.0]), ahead=0, slots=2, free=1)
    assert found is not None
    assert (found.start.median, found.finish.median) == (0.0, 4.0)


def test_the_wait_is_shared_by_the_slots() -> None:
    found = estimate(summarize([10.0]), ahead=3, slots=2)
    assert found is not None
    assert found.start.median == 20.0


def test_without_a_measurement_there_is_no_estimate() -> None:
    times = ServiceTimes()
    assert times.stats("demo/upper") is None
    assert estimate(None, ahead=0, slots=1) is None
    times.observe("demo/upper", 1.0)
    assert estimate(times.stats("demo/upper"), ahead=0, slots=0) is None


def test_old_measurements_are_forgotten() -> None:
    times = ServiceTimes(window=3)
    for took_s in (100.0, 1.0, 1.0, 1.0):
        times.observe("demo/upper", took_s)
    stats = times.stats("demo/upper")
    assert stats is not None
    assert (stats.n, stats.mean_s) == (3, 1.0)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_retry_after_is_whole_seconds_within_an_hour(expected_s: float, allowed_s: float) -> None:
    assert 1 <= retry_after_s(expected_s, allowed_s) <= 3600
