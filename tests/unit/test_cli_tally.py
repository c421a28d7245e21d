"""Numbers of several processes, added up."""

import asyncio
import os
from pathlib import Path

import pytest

from manual_clock import ManualClock
from swell.cli.tally import Tally, added_up
from swell.core.clock import SystemClock
from swell.server.metrics import Metrics


def _text(accepted: int, streams: int, run_s: float, waiting: float = 0) -> str:
    metrics = Metrics()
    metrics.count("swell_tasks_accepted_total", "demo/upper", accepted)
    metrics.observe("demo/upper", swell_task_run_seconds=run_s)
    text = metrics.text(
        {
            "swell_queue_oldest_age_seconds": {"demo/upper": waiting},
            "swell_event_streams": {(): streams},
        }
    ).decode()
    return "\n".join(line for line in text.splitlines() if "process_" not in line) + "\n"


def _value(text: str, sample: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(sample + " ")]
    return float(line.rpartition(" ")[2])


def test_counters_histograms_and_streams_are_added_and_other_gauges_are_not() -> None:
    text = added_up(_text(3, 2, 0.2, 7), [_text(10, 90, 2.0, 5)], [_text(100, 4, 0.2, 6)])
    assert _value(text, 'swell_tasks_accepted_total{model="demo/upper"}') == 113
    assert _value(text, "swell_event_streams") == 6, "a process that has ended has none"
    assert _value(text, 'swell_queue_oldest_age_seconds{queue="demo/upper"}') == 7
    assert _value(text, 'swell_task_run_seconds_count{model="demo/upper"}') == 3
    assert _value(text, 'swell_task_run_seconds_bucket{le="0.25",model="demo/upper"}') == 2
    assert _value(text, 'swell_task_run_seconds_bucket{le="+Inf",model="demo/upper"}') == 3


def test_files_and_starts_are_the_same_whoever_is_asked() -> None:
    def process(started: float, files: float) -> str:
        metrics = Metrics().text({}).decode()
        lines = [line for line in metrics.splitlines() if not line.startswith("process_")]
        own = [f"process_start_time_seconds {started}", f"process_open_fds {files}"]
        named = [f"# TYPE {each.split()[0]} gauge\n{each}" for each in own]
        kept = [line for line in lines if "process_start_time" not in line and "_fds" not in line]
        return "\n".join((*kept, *named)) + "\n"

    first, second, ended = process(100.0, 10.0), process(170.5, 19_000.0), process(90.0, 20_000.0)
    for own, other in ((first, second), (second, first)):
        text = added_up(own, [ended], [other])
        assert _value(text, "process_open_fds") == 19_000
        assert _value(text, "process_start_time_seconds") == 90
        assert _value(text, "swell_process_starts_total") == 3


def test_numbers_alone_stay_as_they_are() -> None:
    own = _text(3, 2, 0.2)
    assert added_up(own, [], []) == own


def test_what_only_another_has_counted_is_there_too() -> None:
    own, other = Metrics(), Metrics()
    other.count("swell_tasks_accepted_total", "demo/other")
    text = added_up(own.text({}).decode(), [], [other.text({}).decode()])
    assert _value(text, 'swell_tasks_accepted_total{model="demo/other"}') == 1


def test_a_process_that_has_ended_still_counts(tmp_path: Path) -> None:
    tally = Tally(tmp_path, SystemClock())
    tally.clear()
    gone = 2**22 + 1  # above the largest id of a process
    (tmp_path / f"{gone}.prom").write_text(_text(10, 5, 0.2))
    (tmp_path / f"{gone + 1}.prom").write_text(_text(20, 5, 0.2))
    tally.fold()
    tally.write(_text(1, 1, 0.2).encode())
    assert sorted(each.name for each in tmp_path.glob("*.prom")) == [
        "0.prom",
        f"{os.getpid()}.prom",
    ]
    text = tally.together(_text(2, 1, 0.2).encode()).decode()
    assert _value(text, 'swell_tasks_accepted_total{model="demo/upper"}') == 32, "its own is newer"
    tally.clear()
    assert not list(tmp_path.glob("*.prom"))


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.001, 2.0), (0.05, 5.0), (3.0, 5.0)])
async def test_what_takes_long_is_written_less_often(
    tmp_path: Path, took_s: float, pause_s: float
) -> None:
    clock = ManualClock()
    tally = Tally(tmp_path, clock)
    tally.clear()
    tally.together(b"")
    assert await _pauses(tally, clock, took_s, pause_s)


@pytest.mark.slow
async def test_what_nobody_asks_for_is_written_rarely(tmp_path: Path) -> None:
    clock = ManualClock()
    tally = Tally(tmp_path, clock)
    tally.clear()
    assert await _pauses(tally, clock, 0.001, 5.0)
    tally.together(b"")
    clock.advance(60.0)
    assert await _pauses(tally, clock, 0.001, 2.0)
    clock.advance(70.0)
    assert await _pauses(tally, clock, 0.001, 5.0)
    tally.together(b"")
    tally.clear()
    assert await _pauses(tally, clock, 0.001, 5.0)


async def _pauses(tally: Tally, clock: ManualClock, took_s: float, pause_s: float) -> bool:
    """Whether numbers that take so long to write are written with such pauses."""
    began_s = clock.monotonic_s()
    written: list[float] = []

    def text() -> bytes:
        written.append(clock.monotonic_s())
        clock.advance(took_s)
        return _text(1, 1, 0.2).encode()

    keeping = asyncio.create_task(tally.keep(text))
    for _ in range(2):
        await asyncio.sleep(0.01)
        clock.advance(pause_s - 0.01)
        await asyncio.sleep(0.01)
        clock.advance(0.01)
    await asyncio.sleep(0.01)
    keeping.cancel()
    due = [began_s + n * (took_s + pause_s) for n in range(3)]
    return written == pytest.approx(due)
