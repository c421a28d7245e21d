import asyncio
import os
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from manual_clock import ManualClock
from swell.cli import app
from swell.core.clock import SystemClock
from swell.worker.liveness_file import BEAT_S, STALE_S, Pulse, keep_pulse, read_pulse


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_file_is_written_again_and_again_and_goes_with_the_worker(tmp_path: Path) -> None:
    clock, path, state = ManualClock(), tmp_path / "made" / "health", "starting"
    beating = asyncio.create_task(keep_pulse(path, clock, lambda: state))
    await settle()
    first = read_pulse(path)
    assert first == Pulse(os.getpid(), "starting", clock.monotonic_s())
    state = "working"
    clock.advance(BEAT_S)
    await settle()
    assert read_pulse(path) == Pulse(os.getpid(), "working", first.at_s + BEAT_S)
    assert [each.name for each in path.parent.iterdir()] == ["health"]
    beating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beating
    assert read_pulse(path) is None


async def test_it_is_written_where_it_is_so_that_a_full_disk_is_no_hindrance(
    tmp_path: Path,
) -> None:
    clock, path = ManualClock(), tmp_path / "health"
    path.write_text("what a worker left that was killed, longer than all that is said" * 9)
    before = path.stat()
    beating = asyncio.create_task(keep_pulse(path, clock, lambda: "starting"))
    await settle()
    size_bytes = path.stat().st_size
    (tmp_path / "same").hardlink_to(path)
    clock.advance(BEAT_S)
    await settle()
    assert path.stat().st_ino == before.st_ino
    assert read_pulse(tmp_path / "same") == Pulse(os.getpid(), "starting", clock.monotonic_s())
    assert path.stat().st_size == size_bytes
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_a_file_that_cannot_be_written_stops_no_worker(tmp_path: Path) -> None:
    clock = ManualClock()
    (tmp_path / "file").write_text("")
    beating = asyncio.create_task(keep_pulse(tmp_path / "file" / "health", clock, lambda: "up"))
    await settle()
    clock.advance(3 * BEAT_S)
    await settle()
    assert not beating.done()
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


def health(path: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["health", "--file", str(path)])
    return done.exit_code, done.output


def test_health_is_of_a_worker_that_was_heard_of_lately(tmp_path: Path) -> None:
    path, now_s = tmp_path / "health", SystemClock().monotonic_s()
    code, said = health(path)
    assert code == 1
    assert "it has ended or not started" in said
    for age_s, wanted in ((0.0, 0), (STALE_S - 5, 0), (STALE_S + 5, 1), (-3600.0, 1)):
        path.write_bytes(msgspec.json.encode(Pulse(7, "working", now_s - age_s)))
        assert health(path)[0] == wanted, age_s
    path.write_text("{")
    assert health(path)[0] == 1


def test_health_needs_to_know_which_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SWELL_WORKER__HEALTH_FILE", raising=False)
    done = CliRunner().invoke(app, ["health"])
    assert done.exit_code == 2
    assert "worker.health_file" in done.output
