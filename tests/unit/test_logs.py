"""Lines of the log: whom they are about, and what must not stand in them."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from api_harness import World, a_world, failed
from structlog.testing import capture_logs

from swell.core.task import TaskState
from swell.server import background_jobs
from swell.settings.backend_settings import LogSettings
from swell.settings.load import Settings


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(log=LogSettings(requests="info")) as world:
        yield world


@pytest.mark.parametrize("name", ["a", "req-1", "Root=1-67a/b:c@d+e.f_", "x" * 128])
async def test_a_request_keeps_the_id_that_it_came_with(world: World, name: str) -> None:
    answer = await world.anna("GET", "/v1/tasks", headers={"x-request-id": name})
    assert answer.headers["x-request-id"] == name
    lost = await world.anna("GET", "/nowhere", headers={"x-request-id": name})
    assert (lost.status, lost.json["request_id"]) == (404, name)


@pytest.mark.parametrize("name", ["", "x" * 129, "two words", "line\tbreak", "ä", '"', "{}", "<b>"])
async def test_an_id_that_could_break_a_line_is_replaced(world: World, name: str) -> None:
    answer = await world.anna("GET", "/v1/tasks", headers={"x-request-id": name})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_each_request_has_one_line_without_what_opens_something(world: World) -> None:
    await world.register()
    with capture_logs() as lines:
        task = await world.create(input={"text": "canary-input"})
        await world.anna("GET", f"/v1/tasks/{task['id']}?x=canary-query")
        await world.anna("GET", "/v1/artifacts/outputs/a?signature=canary-signature")
        await world.stranger("GET", "/v1/tasks", headers={"authorization": "Bearer canary-key"})
        await world.anna("PATCH", "/v1/tasks")
        await world.anna("GET", "/nowhere\nat\x1ball")
    told = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in told] == [202, 200, 403, 401, 405, 404]
    assert [line.get("task_id") for line in told[:2]] == [task["id"]] * 2
    assert told[0]["route"] == "/v1/tasks"
    assert told[1]["route"] == "/v1/tasks/{id}"
    assert told[0]["key_id"] == await task_key(world)
    assert told[0]["address"] == "127.0.0.1"
    assert "canary" not in str(lines)
    assert not any("\n" in str(value) or "\x1b" in str(value) for value in told[-1].values())


async def task_key(world: World) -> str:
    [key] = [key for key in await world.service.registry.keys() if key.name == "anna"]
    return str(key.id)


async def test_without_a_wish_no_request_is_logged() -> None:
    async with a_world() as world:
        with capture_logs() as lines:
            await world.anna("GET", "/v1/tasks")
        assert lines == []


async def test_a_lost_lease_is_told_with_its_task_and_worker(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    with capture_logs() as lines:
        world.clock.advance(31)
        await background_jobs.sweep(world.service)
    [line] = [line for line in lines if line["event"] == "a lease ran out"]
    assert line["task_id"] == task["id"]
    assert (line["attempt"], line["worker_id"]) == (lease["attempt"], worker)
    assert line["state"] == TaskState.QUEUED
    assert world.service.metrics.values["swell_tasks_swept_total"] == {"lost": 1}
    # Its backoff ends.
    with capture_logs() as lines:
        world.clock.advance(61)
        await background_jobs.sweep(world.service)
    assert world.service.metrics.values["swell_tasks_swept_total"] == {"lost": 1, "ready": 1}
    assert [line for line in lines if line["event"] == "a lease ran out"] == []


async def test_what_the_sweeper_does_is_counted_by_its_kind(world: World) -> None:
    worker = await world.register()
    await world.create(finish_by_s=5)
    world.clock.advance(6)
    await background_jobs.sweep(world.service)
    assert world.service.metrics.values["swell_tasks_swept_total"] == {"expired": 1}
    await world.create(max_attempts=1)
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[failed(lease, retryable=True)])
    assert world.service.metrics.values["swell_tasks_dead_total"] == {"demo/upper": 1}


async def test_calls_and_their_own_failures_are_counted(world: World) -> None:
    await world.register()
    await world.create()
    await world.anna("GET", f"/v1/tasks/{'0' * 32}")
    metrics = world.service.metrics
    assert sum(metrics.histograms["swell_call_seconds"]["store", "accept"].counts) == 1
    errors = metrics.values["swell_call_errors_total"]
    assert errors == {}

    async def broken(*arguments: object, **named: object) -> None:
        raise OSError("the disk is gone")

    world.app.backend.store.get = broken  # type: ignore[method-assign]
    with capture_logs():
        assert (await world.anna("GET", f"/v1/tasks/{'0' * 32}")).status == 500
    assert errors == {("store", "get", "internal"): 1}


#: Two requests at once and a worker's line, as they are rendered.
RENDERS = """
import asyncio, sys
import structlog
from swell.settings.backend_settings import LogSettings
from swell.core.telemetry import request_id
from swell.bootstrap.logging import configure_logging

configure_logging(LogSettings(json_lines=True), worker=sys.argv[1] or None)
log = structlog.get_logger("swell.api")

async def answer(name, first, second):
    request_id.set(name)
    first.set()
    await second.wait()
    log.info("told", of=name)

async def main():
    log.info("outside")
    a, b = asyncio.Event(), asyncio.Event()
    await asyncio.gather(answer("one", a, b), answer("two", b, a))

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["", "gpu-7"])
def test_every_line_names_its_request_and_its_worker(worker: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", RENDERS, worker], capture_output=True, text=True, check=True
    ).stderr
    outside, *lines = [json.loads(line) for line in told.splitlines()]
    assert "request_id" not in outside
    assert {line["request_id"] for line in lines} == {"one", "two"}
    assert all(line["request_id"] == line["of"] for line in lines)
    assert {line.get("worker", "") for line in [outside, *lines]} == {worker}


@pytest.mark.parametrize(
    ("level", "requests", "told"),
    [
        ("info", "debug", "off"),
        ("debug", "debug", "debug"),
        ("info", "info", "info"),
        ("warning", "info", "off"),
        ("debug", "off", "off"),
    ],
)
def test_lines_that_would_not_be_shown_are_not_made(level: str, requests: str, told: str) -> None:
    settings = Settings(log=LogSettings(level=level, requests=requests))  # type: ignore[arg-type]
    assert settings.log.level_of_requests == told
