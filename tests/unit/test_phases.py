"""Phases of startups: intervals, their union, and impossible reports."""

import contextvars
import threading
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from swell.core.errors import InvalidInput
from swell.core.kaplan_meier import Observation
from swell.core.startup_phases import (
    MAX_BOOT_S,
    READY,
    Phase,
    PhaseLog,
    Span,
    Startup,
    StartupKind,
    StartupState,
    accepted,
    boot_s,
    covered_s,
    fetching,
    found_compiled,
    is_further,
    logging_to,
    observations,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def span(phase: str, start_s: float, end_s: float | None, model: str = "") -> Span:
    return Span(phase=phase, start_s=start_s, end_s=end_s, model=model)


SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(
        lambda ends: span("load", float(min(ends)), float(max(ends)))
    )
)


@given(SPANS, st.integers(0, 60))
def test_what_intervals_cover_is_counted_once(spans: list[Span], until_s: int) -> None:
    seconds = {
        second
        for each in spans
        for second in range(int(each.start_s), min(int(each.end_s or 0), until_s))
    }
    assert covered_s(spans, float(until_s)) == len(seconds)


@given(
    st.lists(
        st.builds(
            lambda phase, model, ends, is_over: span(
                phase, float(min(ends)), float(max(ends)) if is_over else None, model
            ),
            st.sampled_from(list(Phase)),
            st.sampled_from(["", "a/a", "a/b", "a/c"]),
            st.tuples(st.integers(0, 60), st.integers(0, 60)),
            st.booleans(),
        )
    )
)
def test_each_phase_of_each_model_is_observed(spans: list[Span]) -> None:
    startup = Startup(
        id="s", state=StartupState.DIED, age_s=50.0, models=["a/a", "a/b"], spans=spans
    )
    seen = observations(startup, NOW)
    for model in startup.models:
        for phase in Phase:
            told = [s for s in spans if s.phase == phase and s.model in ("", model)]
            observed = seen.get((model, phase))
            assert (observed is None) == (not told)
            if observed is not None:
                assert observed.seconds == covered_s(told, 50.0)
                assert observed.is_over == all(s.end_s is not None for s in told)
    assert {model for model, _ in seen} == {"a/a", "a/b"}


def test_a_running_phase_counts_until_now() -> None:
    assert covered_s([span("boot", 0.0, 2.0), span("load", 3.0, None)], 10.0) == 9.0


@pytest.mark.parametrize(
    ("asked_s", "took_s"),
    [
        (None, None),
        (-90.0, 90.0),
        (0.0, 0.0),
        # Within a tick of the system's clock.
        (0.01, 0.0),
        # By the clock of another machine, which is ahead.
        (3.0, None),
        # An environment that was used again.
        (-MAX_BOOT_S - 1, None),
    ],
)
def test_a_boot_that_cannot_be_is_no_boot(asked_s: float | None, took_s: float | None) -> None:
    asked_at = None if asked_s is None else NOW + timedelta(seconds=asked_s)
    assert boot_s(asked_at, NOW) == took_s


def test_states_have_an_order_and_a_dead_startup_may_become_ready() -> None:
    starting, died, ready, done = StartupState
    assert is_further(died, starting)
    assert is_further(ready, died)
    assert is_further(done, ready)
    assert not is_further(starting, died)
    assert not is_further(ready, ready)


def a_cold_start(**fields: object) -> Startup:
    values: dict[str, object] = {
        "id": "s",
        "models": ["a/a", "a/b"],
        "age_s": 20.0,
        "begun_at": NOW,
        "spans": [
            span("boot", 0.0, 4.0),
            span("load", 5.0, 8.0, "a/a"),
            span("fetch", 5.0, 6.0, "a/a"),
            span("fetch", 5.5, 7.0, "a/a"),
            span("load", 8.0, None, "a/b"),
        ],
    }
    return Startup(**(values | fields))  # type: ignore[arg-type]


def test_each_model_has_its_own_phases_and_those_of_all() -> None:
    found = observations(a_cold_start(), NOW + timedelta(seconds=30))
    assert found == {
        ("a/a", "boot"): Observation(4.0),
        ("a/a", "load"): Observation(3.0),
        ("a/a", "fetch"): Observation(2.0),
        ("a/a", READY): Observation(30.0, is_over=False),
        ("a/b", "boot"): Observation(4.0),
        ("a/b", "load"): Observation(22.0, is_over=False),
        ("a/b", READY): Observation(30.0, is_over=False),
    }


def test_what_one_died_in_is_not_over_and_as_long_as_it_came() -> None:
    died = a_cold_start(state=StartupState.DIED)
    found = observations(died, NOW + timedelta(days=1))
    assert found["a/b", "load"] == Observation(12.0, is_over=False)
    assert found["a/a", "load"] == Observation(3.0)
    assert found["a/a", READY] == Observation(20.0, is_over=False)


def test_a_switch_is_no_cold_start() -> None:
    switch = a_cold_start(kind=StartupKind.SWITCH, state=StartupState.DONE)
    assert not any(phase == READY for _, phase in observations(switch, NOW))


@pytest.mark.slow
@given(
    st.lists(
        st.builds(
            Span,
            phase=st.sampled_from([*Phase, "odd"]),
            start_s=st.floats(-1e9, 1e9),
            end_s=st.none() | st.floats(-1e9, 1e9),
        )
    ),
    st.floats(0, 1e6),
)
def test_impossible_phases_are_dropped(spans: list[Span], age_s: float) -> None:
    kept = accepted(Startup(id="x", age_s=age_s, spans=spans), NOW)
    assert kept.begun_at == NOW - timedelta(seconds=age_s)
    for each in kept.spans:
        end_s = age_s if each.end_s is None else each.end_s
        assert each.phase in tuple(Phase)
        assert 0 <= each.start_s <= end_s <= age_s + 1
    for seen in observations(kept, NOW).values():
        assert seen.seconds >= 0


def test_an_unready_one_is_ready_at_no_time() -> None:
    told = Startup(id="x", age_s=9.0, ready_s=1.0, whole_s=2.0, state=StartupState.DIED)
    kept = accepted(told, NOW)
    assert (kept.ready_s, kept.whole_s) == (None, None)
    kept = accepted(msgspec.structs.replace(told, state=StartupState.DONE, ready_s=99.0), NOW)
    assert (kept.ready_s, kept.whole_s) == (None, 2.0)


@pytest.mark.parametrize("age_s", [-1.0, 1e12, float("nan"), float("inf")])
def test_an_age_that_cannot_be_is_refused(age_s: float) -> None:
    with pytest.raises(InvalidInput):
        accepted(Startup(id="x", age_s=age_s), NOW)


class Log:
    """A log on a clock that is moved by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.seen: list[int] = []
        self.log = PhaseLog(self.clock.monotonic_s, lambda: self.seen.append(len(self.log.spans)))


def test_a_log_reports_the_beginning_and_the_end_of_phases() -> None:
    made = Log()
    with made.log.phase(Phase.LOAD, "a/a", "disk"):
        assert made.seen == [1]
        assert made.log.spans[0].end_s is None
        made.clock.advance(2)
    assert made.seen == [1, 1]
    assert made.log.spans == [
        Span(phase="load", model="a/a", start_s=0.0, end_s=2.0, source="disk")
    ]
    made.log.clear()
    assert made.log.spans == []


def test_a_phase_that_fails_stays_open_unless_its_model_is_left_out() -> None:
    made = Log()

    def fail() -> None:
        with made.log.phase(Phase.LOAD, "a/a"):
            made.clock.advance(2)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert [each.end_s for each in made.log.spans] == [None]
    made.log.drop("a/a")
    assert made.log.spans == []


def test_a_download_within_a_load_belongs_to_its_model() -> None:
    made = Log()

    def load() -> None:
        logging_to(made.log)
        with made.log.phase(Phase.LOAD, "a/a"):
            with fetching("bucket"):
                made.clock.advance(3)
            threads = contextvars.copy_context()
            thread = threading.Thread(target=lambda: threads.run(fetch_more))
            thread.start()
            thread.join()
            found_compiled()
        with made.log.phase(Phase.WARM, "a/a"):
            made.clock.advance(1)
        with made.log.phase(Phase.WARM, "a/b"):
            pass

    def fetch_more() -> None:
        with fetching():
            made.clock.advance(1)

    contextvars.copy_context().run(load)
    told = [(s.phase, s.model, s.start_s, s.end_s, s.source) for s in made.log.spans]
    assert told == [
        ("load", "a/a", 0.0, 4.0, ""),
        ("fetch", "a/a", 0.0, 3.0, "bucket"),
        ("fetch", "a/a", 3.0, 4.0, ""),
        ("warm", "a/a", 4.0, 5.0, "compiled"),
        ("warm", "a/b", 5.0, 5.0, ""),
    ]


def test_without_a_log_nothing_is_noted() -> None:
    with fetching("bucket"):
        found_compiled()
