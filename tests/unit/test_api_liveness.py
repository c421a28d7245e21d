"""What a backend does with workers that died while it was not there."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api_harness import UPPER, World, a_world

from swell.core.records import WorkerInfo
from swell.server.app import create_app
from swell.server.workers.liveness import is_dead


def _info(**fields: Any) -> WorkerInfo:
    now = datetime.now(UTC)
    known = {"host": socket.gethostname(), "pid": os.getpid(), "registered_at": now, "seen_at": now}
    return WorkerInfo(id="w", name="w", pool="p", models={"demo/upper": "1"}, **(known | fields))


@pytest.fixture
def dead_pid() -> Iterator[int]:
    """The pid of a process that has ended and is kept by its parent until the test ends."""
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.stdout.close()
    process.wait()


def test_a_worker_whose_process_runs_is_alive() -> None:
    assert not is_dead(_info())


def test_a_worker_whose_process_has_ended_is_dead(dead_pid: int) -> None:
    assert is_dead(_info(pid=dead_pid))


def test_a_worker_whose_pid_another_process_has_by_now_is_dead() -> None:
    assert is_dead(_info(registered_at=datetime.now(UTC) - timedelta(days=365)))


def test_of_a_worker_elsewhere_nothing_is_known(dead_pid: int) -> None:
    assert not is_dead(_info(pid=dead_pid, host="elsewhere.example"))
    assert not is_dead(_info(pid=0))


async def _restart(world: World) -> World:
    again = World(world.clock, create_app(world.app.backend), world.keys)
    await again.app.start()
    return again


async def _register(world: World, pid: int, host: str) -> str:
    body = {"name": "w", "models": [UPPER], "slots": 4, "host": host, "pid": pid}
    answer = await world.worker("POST", "/worker/v1/register", body)
    assert answer.status == 200, answer.body
    return str(answer.json["worker_id"])


async def test_nothing_is_accepted_for_workers_that_died_with_their_backend(dead_pid: int) -> None:
    async with a_world() as world:
        await _register(world, dead_pid, socket.gethostname())
        again = await _restart(world)
        body = {"model": "demo/upper", "input": {"text": "a"}}
        answer = await again.anna("POST", "/v1/tasks", body)
        assert (answer.status, answer.json["code"]) == (503, "no_worker")
        assert (await again.admin("GET", "/v1/workers")).json["workers"] == []
        await again.app.stop()


async def test_workers_from_elsewhere_outlive_a_backend_that_was_killed(dead_pid: int) -> None:
    async with a_world() as world:
        worker_id = await _register(world, dead_pid, "elsewhere.example")
        again = await _restart(world)
        task = await again.create()
        [lease] = (await again.lease(worker_id))["tasks"]
        assert lease["task_id"] == task["id"]
        await again.app.stop()


async def test_a_worker_that_has_called_is_left_to_its_silence(dead_pid: int) -> None:
    async with a_world() as world:
        worker_id = await _register(world, dead_pid, socket.gethostname())
        await world.service.fleet.refresh()
        assert world.service.fleet.workers.get(worker_id) is not None
