"""How processes end when they are asked to, and what clients see when they end unasked."""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from chaos.system import System, ask_to_stop, running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

PATIENCE_S = 60.0

#: No lease runs out where a process loses its turn for some seconds.
LONG_LEASES = {"delivery.lease_s": "20"}


async def test_a_worker_that_is_asked_to_stop_finishes_what_it_holds_and_exits_with_0(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with (
        running(tmp_path, workers=1, settings=LONG_LEASES) as system,
        system.session() as session,
    ):
        ids = await submit(session, 6, ms=10, until=str(gate))
        await until_state(session, ids[0], "running")
        worker = system.workers[0]
        held = set(await ids_in(session, "running"))
        ask_to_stop(worker)
        await until_said(system, "draining")
        gate.touch()
        assert await exit_code(worker) == 0
        # What it held has ended at its first attempt; nothing else was touched.
        for task_id in held:
            task = await get(session, task_id)
            assert (task["state"], task["attempt"]) == ("succeeded", 1)
        system.start_worker(0)
        for task_id in ids:
            task = await until_state(session, task_id, "succeeded")
            assert task["attempt"] == 1


async def test_what_was_handed_back_runs_elsewhere_at_no_cost(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with (
        running(tmp_path, workers=1, settings=LONG_LEASES) as system,
        system.session() as session,
    ):
        ids = await submit(session, 3, ms=10, max_attempts=1, until=str(gate))
        await until_state(session, ids[0], "running")
        ask_to_stop(system.workers[0])
        await until_said(system, "draining")
        ask_to_stop(system.workers[0])
        await exit_code(system.workers[0])
        gate.touch()
        system.start_worker(1)
        for task_id in ids:
            # With one attempt allowed, one that counted would have been the last.
            assert (await until_state(session, task_id, "succeeded"))["max_attempts"] == 1


async def test_a_client_whose_backend_dies_while_it_waits_finds_its_task_again(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with running(tmp_path, workers=1) as system, system.session() as session:
        body = {"model": "chaos/work", "input": {"text": "abc", "until": str(gate)}}
        headers = {"idempotency-key": "the only one", "prefer": "wait=20"}
        waiting = asyncio.create_task(answer_of(session, body, headers))
        await until_some(session, "running")
        system.kill_backend()
        with pytest.raises(aiohttp.ClientError):
            await waiting
        gate.touch()
        await system.start_backend()
        found = await answer_of(session, body, headers)
        assert found["state"] == "succeeded"
        assert found["output"]["text"] == "cba"
        listed = await ask(session, "GET", "/v1/tasks")
        assert [task["id"] for task in listed["tasks"]] == [found["id"]]


async def test_a_second_backend_on_the_same_folder_is_refused_and_says_why(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, workers=0) as system, system.session() as session:
        with second_backend(system) as second:
            code = await exit_code(second)
        assert code not in (0, None)
        assert "already running in this folder" in system.log("backend-0")
        assert "Traceback" not in system.log("backend-0")
        # The first goes on.
        assert (await ask(session, "GET", "/health/ready"))["status"]


async def test_a_worker_whose_model_process_is_killed_goes_on_with_another(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    async with (
        running(tmp_path, workers=1, settings=LONG_LEASES) as system,
        system.session() as session,
    ):
        task_id = (await submit(session, 1, ms=10, until=str(gate)))[0]
        await until_state(session, task_id, "running")
        before = system.model_process(0)
        assert before is not None
        assert system.kill_model(0)
        gate.touch()
        task = await until_state(session, task_id, "succeeded")
        assert task["attempt"] == 2
        after = system.model_process(0)
        assert after is not None
        assert after.pid != before.pid
        assert system.workers[0].poll() is None


# --- what the tests say to the system ------------------------------------------------------------


async def submit(
    session: aiohttp.ClientSession, n: int, *, ms: int, max_attempts: int = 3, **asked: str
) -> list[str]:
    body = {
        "model": "chaos/work",
        "input": {"text": "abc", "ms": ms, **asked},
        "max_attempts": max_attempts,
    }
    said = await ask(session, "POST", "/v1/tasks/batch", {"tasks": [body] * n})
    return [task["id"] for task in said["tasks"]]


async def answer_of(
    session: aiohttp.ClientSession, body: dict[str, Any], headers: dict[str, str]
) -> dict[str, Any]:
    async with session.post("/v1/tasks", json=body, headers=headers) as answer:
        said: dict[str, Any] = await answer.json()
        assert answer.status < 300, said
        return said


async def get(session: aiohttp.ClientSession, task_id: str) -> dict[str, Any]:
    return await ask(session, "GET", f"/v1/tasks/{task_id}")


async def ids_in(session: aiohttp.ClientSession, state: str) -> list[str]:
    listed = await ask(session, "GET", f"/v1/tasks?state={state}&limit=200")
    return [task["id"] for task in listed["tasks"]]


async def until_state(session: aiohttp.ClientSession, task_id: str, state: str) -> dict[str, Any]:
    async for _ in patiently():
        task = await get(session, task_id)
        if task["state"] == state:
            return task
    raise AssertionError(f"{task_id} is {task['state']} and not {state}: {task['error']}")


async def until_some(session: aiohttp.ClientSession, state: str) -> None:
    async for _ in patiently():
        if await ids_in(session, state):
            return
    raise AssertionError(f"no task was {state}")


async def until_said(system: System, word: str) -> None:
    async for _ in patiently():
        if word in system.log("worker-0"):
            return
    raise AssertionError(f"the worker did not say {word!r}: {system.log('worker-0')}")


async def patiently() -> AsyncIterator[None]:
    ends_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_s:
        yield
        await asyncio.sleep(0.02)


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    async with session.request(method, path, json=body) as answer:
        said: dict[str, Any] = await answer.json()
        assert answer.status < 300, said
        return said


async def exit_code(process: "subprocess.Popen[bytes]") -> int:
    return await asyncio.to_thread(process.wait, PATIENCE_S)


@contextlib.contextmanager
def second_backend(system: System) -> Any:
    process = system.spawn_backend()
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
