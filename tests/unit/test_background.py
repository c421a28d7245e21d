"""Background tasks go on after an exception, and the exception is logged."""

import asyncio

import pytest
from api_harness import a_world
from structlog.testing import capture_logs

from manual_clock import ManualClock
from swell.core.background_tasks import PAUSE_S, keep_running, log_failure
from swell.server.service import Service


async def _turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_loop_that_fails_is_logged_and_starts_again_after_a_pause() -> None:
    clock, runs, failures = ManualClock(), 0, 0

    async def loop() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError(f"mistake {runs}")

    def count() -> None:
        nonlocal failures
        failures += 1

    with capture_logs() as logs:
        running = asyncio.create_task(keep_running(loop, clock, name="look", on_failure=count))
        await _turns()
        assert runs == 1
        for _ in range(2):
            clock.advance(PAUSE_S)
            await _turns()
        await running
    assert (runs, failures) == (3, 2)
    assert [(each["task"], each["exc_info"]) for each in logs] == [("look", True)] * 2


async def test_a_loop_ends_when_it_is_cancelled() -> None:
    running = asyncio.create_task(keep_running(asyncio.Event().wait, ManualClock(), name="wait"))  # type: ignore[arg-type]
    await _turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_ends_a_task_is_logged() -> None:
    async def fail() -> None:
        raise ValueError("a mistake")

    with capture_logs() as logs:
        for work in (fail(), asyncio.sleep(0), asyncio.sleep(60)):
            task = asyncio.create_task(work, name="errand")
            task.add_done_callback(log_failure)
            await _turns()
            task.cancel()
            await asyncio.wait([task])
            await _turns()
    (entry,) = logs
    assert entry["task"] == "errand"
    assert str(entry["exc_info"]) == "a mistake"


async def test_a_duty_goes_on_after_an_unexpected_exception(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[Service] = []

    async def look(service: Service) -> None:
        looks.append(service)
        if len(looks) == 1:
            raise ValueError("a mistake")

    monkeypatch.setattr("swell.server.background_jobs.check_streams", look)
    with capture_logs() as logs:
        async with a_world() as world:
            await _turns()
            for _ in range(2):
                world.service.keys.changed.set()
                await _turns()
                world.clock.advance(PAUSE_S)
                await _turns()
            assert len(looks) == 2
            metrics = (await world.anna("GET", "/metrics")).body.decode()
    (entry,) = [each for each in logs if each["log_level"] == "error"]
    assert (entry["task"], entry["exc_info"]) == ("watch_keys", True)
    assert 'duty="watch_keys"' in metrics
