"""How long a new worker will take, as the policy is told."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.autoscaler.cold_starts import UNKNOWN, start_times
from swell.core.kaplan_meier import Quantile
from swell.core.startup_phases import Startup, StartupKind, StartupState

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def ready(seconds: float, *models: str) -> Startup:
    return Startup(
        id=f"r{seconds}",
        state=StartupState.READY,
        models=list(models or ["a/a"]),
        age_s=seconds,
        ready_s=seconds,
        begun_at=NOW - timedelta(hours=1),
    )


def under_way(seconds: float, *models: str) -> Startup:
    begun_at = NOW - timedelta(seconds=seconds)
    return Startup(id=f"u{seconds}", models=list(models), age_s=1.0, begun_at=begun_at)


def died(seconds: float) -> Startup:
    return Startup(
        id=f"d{seconds}", state=StartupState.DIED, models=["a/a"], age_s=seconds, begun_at=NOW
    )


TIMES = st.integers(1, 3600).map(float)


def test_of_a_new_pool_minutes_are_expected() -> None:
    found = start_times([], NOW)
    assert (found.ready, found.not_over) == (0, 0)
    p50, p95 = (each.seconds or 0 for each in found.at)
    assert 150 < p50 < 210
    assert p95 > UNKNOWN.p90_s


def test_enough_cold_starts_speak_for_themselves() -> None:
    found = start_times([ready(float(n)) for n in range(10, 30)], NOW)
    assert found.at == (Quantile(19.0), Quantile(28.0))
    assert (found.ready, found.not_over) == (20, 0)


def test_those_that_hang_or_died_make_it_longer() -> None:
    seen = [ready(20.0)] * 8
    late = start_times([*seen, under_way(400.0, "a/a"), died(90.0)], NOW)
    assert (late.ready, late.not_over) == (8, 2)
    assert late.at == (Quantile(20.0), Quantile(400.0, is_bound=True))
    # A death after a second says next to nothing: never that it takes a second.
    assert start_times([*seen, *[died(1.0)] * 50], NOW).at == (Quantile(20.0), Quantile(20.0))


def test_machines_of_which_nobody_has_heard_count_as_well() -> None:
    asked = [NOW - timedelta(seconds=300)] * 3 + [NOW + timedelta(seconds=5)]
    found = start_times([ready(20.0)] * 5, NOW, asked=asked)
    assert found.not_over == 4
    assert found.at[1] == Quantile(300.0, is_bound=True)


def test_models_are_told_apart_and_what_is_not_known_yet_counts_for_all() -> None:
    seen = [ready(10.0, "a/a")] * 5 + [ready(90.0, "a/b", "a/c")] * 5 + [under_way(40.0)]
    assert start_times(seen, NOW, model="a/c").at[0] == Quantile(90.0)
    quick = start_times(seen, NOW, model="a/a")
    assert quick.at[0] == Quantile(10.0)
    assert quick.at[1] == Quantile(40.0, is_bound=True)
    assert start_times(seen, NOW).ready == 10


def test_switches_and_restarts_are_no_cold_starts() -> None:
    later = [
        Startup(id="s", kind=kind, state=StartupState.DONE, models=["a/a"], age_s=1.0)
        for kind in (StartupKind.SWITCH, StartupKind.RESTART)
    ]
    assert start_times(later, NOW) == start_times([], NOW)


@pytest.mark.slow
@given(st.lists(TIMES), st.lists(TIMES), st.lists(TIMES), TIMES)
def test_waiting_longer_never_makes_it_expected_sooner(
    over: list[float], waits: list[float], asked: list[float], more_s: float
) -> None:
    startups = [ready(s) for s in over] + [under_way(s, "a/a") for s in waits]
    moments = [NOW - timedelta(seconds=s) for s in asked]
    now = start_times(startups, NOW, asked=moments)
    later = start_times(startups, NOW + timedelta(seconds=more_s), asked=moments)
    for before, after in zip(now.at, later.at, strict=True):
        assert (after.seconds or 0) >= (before.seconds or 0) - 1e-9
