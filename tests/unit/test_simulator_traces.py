from pathlib import Path

import numpy as np
import pytest

from swell.core.errors import InvalidInput
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.traces import (
    HELD_OUT,
    HELD_OUT_SEEDS,
    TRACES,
    TUNING,
    TUNING_SEEDS,
    Trace,
    named,
    read,
)

#: Where the traces lie that people were given, on some machines.
GIVEN = Path(__file__).parents[3] / "shared" / "traces"


@pytest.mark.parametrize("name", sorted(TRACES))
def test_a_named_trace_has_its_name_and_demand_that_is_finite(name: str) -> None:
    trace = named(name)
    assert trace.name == name
    assert len(trace.per_s) >= 2 * 1440
    assert np.isfinite(trace.per_s).all()
    assert (trace.per_s >= 0).all()


def test_the_top_of_v1_is_a_million_people_at_once() -> None:
    trace = named("v1")
    assert len(trace.per_s) == 20_160
    assert trace.per_s.max() * 120 == pytest.approx(996_528, abs=1)
    assert int(trace.per_s.argmax()) == 6 * 1440 + 20 * 60


def test_v3_grows_tenfold_in_ten_minutes() -> None:
    trace = named("v3")
    before, after = trace.per_s[1440 + 19 * 60], trace.per_s[1440 + 19 * 60 + 10]
    assert after / before == pytest.approx(10, rel=0.02)


@pytest.mark.skipif(not GIVEN.is_dir(), reason="the given traces are not here")
@pytest.mark.parametrize("name", ["v1", "v2", "v3"])
def test_a_trace_is_the_one_that_was_given(name: str) -> None:
    given = read(GIVEN / f"viral_{name}.csv")
    assert np.abs(given.per_s - named(name).per_s).max() <= 0.0051


def test_what_is_held_out_is_not_used_for_tuning() -> None:
    assert not set(TUNING) & set(HELD_OUT)
    assert not set(TUNING_SEEDS) & set(HELD_OUT_SEEDS)


def test_an_unknown_trace_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="v1, v2, v3"):
        named("v4")


def test_a_trace_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("minute,concurrent_users,images_per_s\n0,120,1.0\n1,240,2.0\n")
    trace = read(path)
    assert (trace.name, trace.per_s.tolist(), trace.seconds) == ("mine", [1.0, 2.0], 120.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "minute,users\n0,1\n",
        "minute,images_per_s\n",
        "minute,images_per_s\n0,x\n",
        "minute,images_per_s\n1,1\n",
        "minute,images_per_s\n0,-1\n",
        "minute,images_per_s\n0,nan\n",
        "minute,images_per_s\n0\n",
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="is no trace"):
        read(path)


@pytest.mark.slow
def test_a_year_is_the_longest_trace(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    lines = "\n".join(f"{minute},1" for minute in range(366 * 1440 + 1))
    path.write_text(f"minute,images_per_s\n{lines}\n")
    with pytest.raises(InvalidInput, match="cut it"):
        read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is no trace"):
        read(tmp_path / "none.csv")


def test_ticks_lie_between_minutes() -> None:
    ticks = Trace("t", np.array([0.0, 6.0])).ticks(TICK_S)
    assert ticks.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, *[6.0] * 6]


def test_days_and_scale_of_a_trace_are_chosen() -> None:
    part = named("v2").between(1, 2).scaled(0.5)
    assert part.per_s.tolist() == (named("v2").per_s[1440:2880] * 0.5).tolist()


def test_arrivals_are_whole_and_repeat_with_their_seed() -> None:
    trace = named("v2").between(0, 0.5)
    one, same, other = arrivals(trace, 1), arrivals(trace, 1), arrivals(trace, 2)
    assert one.tolist() == same.tolist() != other.tolist()
    assert (one == np.floor(one)).all()


def test_arrivals_wander_as_they_should() -> None:
    trace = Trace("flat", np.full(1440 * 20, 1000.0))
    logs = np.log(arrivals(trace, 3) / (1000.0 * TICK_S))
    assert logs.std() == pytest.approx(0.10, rel=0.1)
    lagged = np.corrcoef(logs[:-60], logs[60:])[0, 1]
    assert lagged == pytest.approx(np.exp(-1.0), abs=0.08)


def test_without_noise_arrivals_are_poisson() -> None:
    came = arrivals(Trace("flat", np.full(1440, 50.0)), 1, spread=0.0)
    assert came.mean() == pytest.approx(500, rel=0.01)
    assert came.var() == pytest.approx(500, rel=0.1)
