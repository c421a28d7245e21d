"""Tasks that are drawn in steps by a worker of its own, over HTTP, against a real server."""

import asyncio
import io
import json
import signal
from pathlib import Path
from typing import Any

import PIL.Image
import psutil
import pytest
from worker_harness import PATIENCE_S
from worker_site import Site, a_worker, site

from swell.core.errors import NotFound
from swell.core.task import checkpoint_key
from swell.server.app import create_app
from swell.server.background_jobs import discard

__all__ = ["site"]


@pytest.fixture
def models() -> tuple[str, str]:
    return "-m", "demo/curve"


async def events(site: Site, task_id: str) -> list[tuple[str, Any]]:
    """All events of a task, up to its end."""
    heard = []
    async with site.client.get(f"{site.url}/v1/tasks/{task_id}/events") as stream:
        name = ""
        async for line in stream.content:
            word, _, rest = line.decode().strip().partition(": ")
            if word == "event":
                name = rest
            elif word == "data":
                heard.append((name, json.loads(rest)))
    return heard


async def far(site: Site, task_id: str, step: int) -> None:
    """Wait until a task has come so far."""
    async with asyncio.timeout(PATIENCE_S):
        async with site.client.get(f"{site.url}/v1/tasks/{task_id}/events") as stream:
            async for line in stream.content:
                word, _, rest = line.decode().strip().partition(": ")
                if word == "data" and json.loads(rest).get("step", 0) >= step:
                    return


async def test_a_short_task_joins_a_long_one_and_the_long_one_is_cancelled_within_a_step(
    site: Site, tmp_path: Path, models: tuple[str, str]
) -> None:
    (tmp_path / "swell.toml").write_text("[worker]\ncancel_grace_s = 60\n")
    async with a_worker(site, tmp_path, *models):
        long = await site.submit("demo/curve", input={"steps": 1000})
        hearing = asyncio.create_task(events(site, long))
        await far(site, long, 1)
        short = await site.submit("demo/curve", input={"steps": 3})
        task = await site.ended(short)
        assert task["state"] == "succeeded", task
        assert (await site.call("GET", f"/v1/tasks/{long}"))["state"] == "running"
        await site.call("POST", f"/v1/tasks/{long}/cancel")
        assert (await site.ended(long))["state"] == "canceled"
        assert max(data.get("step", 0) for _, data in await hearing) < 1000


async def test_progress_and_previews_of_all_samples_come_as_events(
    site: Site, tmp_path: Path, models: tuple[str, str]
) -> None:
    async with a_worker(site, tmp_path, *models):
        task_id = await site.submit("demo/curve", input={"steps": 100}, count=3)
        told = await events(site, task_id)
    steps = [data["step"] for name, data in told if name == "progress"]
    assert steps == sorted(steps)
    assert len(steps) >= 3
    previews = [data for name, data in told if name == "preview"]
    assert previews
    assert {data["index"] for data in previews} <= {0, 1, 2}
    assert told[-1][0] == "succeeded"
    assert len(told[-1][1]["artifacts"]) == 3


async def test_each_picture_can_be_had_as_soon_as_it_is_told(site: Site, tmp_path: Path) -> None:
    """Also small ones, which travel with the report that tells them."""
    wish = {"steps": 1, "step_s": 0.4, "width": 32, "height": 32}
    async with a_worker(site, tmp_path, "--slots", "1"):
        # Until it is followed, the worker has something else.
        other = await site.submit("demo/crash", input={"how": "sleep", "sleep_s": 60})
        await site.running(other)
        task_id = await site.submit("demo/echo-picture", input=wish, count=3, seed=5)
        early: list[Any] = []
        async with site.client.get(f"{site.url}/v1/tasks/{task_id}/events") as stream:
            await site.call("POST", f"/v1/tasks/{other}/cancel")
            name = ""
            async for line in stream.content:
                word, _, rest = line.decode().strip().partition(": ")
                name = rest if word == "event" else name
                if word == "data" and name == "artifact":
                    told = json.loads(rest)
                    seen = await site.call("GET", f"/v1/tasks/{task_id}")
                    async with site.client.get(told["url"]) as answer:
                        early.append((told["index"], told["seed"], await answer.read()))
                    assert len(seen["artifacts"]) > told["index"]
        task = await site.ended(task_id)
        whole = await files(site, [task])
    assert [each[:2] for each in early] == [(0, 5), (1, 6)]
    assert [data for _, _, data in early] == whole[:2]
    assert len(whole) == 3


async def test_the_seed_and_the_settings_are_in_each_file(
    site: Site, tmp_path: Path, models: tuple[str, str]
) -> None:
    async with a_worker(site, tmp_path, *models):
        wish = {"steps": 2}
        task = await site.ended(await site.submit("demo/curve", input=wish, seed=8, count=2))
    told = []
    for artifact in task["artifacts"]:
        async with site.client.get(artifact["url"]) as answer:
            picture = PIL.Image.open(io.BytesIO(await answer.read()))
        told.append(json.loads(picture.text["swell"]))  # type: ignore[attr-defined]
    assert [each["seed"] for each in told] == [8, 9]
    assert told[0]["input"] == wish
    assert told[0]["settings"]["size"] == 512


async def test_who_is_being_drawn_when_the_model_process_dies_loses_no_attempt(
    site: Site, tmp_path: Path, models: tuple[str, str]
) -> None:
    async with a_worker(site, tmp_path, *models) as (process, _):
        ids = [await site.submit("demo/curve", input={"steps": 60}) for _ in range(3)]
        for task_id in ids:
            await far(site, task_id, 1)
        children = psutil.Process(process.pid).children(recursive=True)
        child = next(
            each for each in children if "swell.runtime.model_process_main" in each.cmdline()
        )
        child.kill()
        tasks = [await site.ended(task_id) for task_id in ids]
    assert [(task["state"], task["attempt"]) for task in tasks] == [("succeeded", 1)] * 3


async def test_what_a_worker_draws_goes_on_in_another_after_the_second_signal(
    site: Site, tmp_path: Path, models: tuple[str, str]
) -> None:
    wish = {"steps": 150}
    (tmp_path / "swell.toml").write_text("[worker]\nhandover_s = 600\n")
    async with a_worker(site, tmp_path, *models) as (process, talk):
        ids = [await site.submit("demo/curve", input=wish, count=n) for n in (1, 2)]
        hearing = asyncio.create_task(events(site, ids[0]))
        for task_id in ids:
            await far(site, task_id, 10)
        process.send_signal(signal.SIGTERM)
        await talk.has(b"draining")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    held = [task for task in await site.backend.store.get(ids) if task is not None]
    assert [task.checkpoint for task in held] == [checkpoint_key(each, 1) for each in ids]
    async with a_worker(site, tmp_path, *models):
        tasks = [await site.ended(task_id) for task_id in ids]
        assert [(task["state"], task["attempt"]) for task in tasks] == [("succeeded", 2)] * 2
        steps = [data["step"] for name, data in await hearing if name == "progress"]
        assert steps == sorted(steps), "it began anew"
        again = [
            await site.submit("demo/curve", input=wish, count=len(t["artifacts"]), seed=t["seed"])
            for t in tasks
        ]
        through = [await site.ended(task_id) for task_id in again]
    assert await files(site, tasks) == await files(site, through)
    await discard(create_app(site.backend).service)
    for task in held:
        with pytest.raises(NotFound):
            await site.backend.objects.head(task.checkpoint or "")


async def files(site: Site, tasks: list[Any]) -> list[bytes]:
    found = []
    for artifact in (each for task in tasks for each in task["artifacts"]):
        async with site.client.get(artifact["url"]) as answer:
            found.append(await answer.read())
    return found
