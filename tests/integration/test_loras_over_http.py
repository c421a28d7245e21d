"""LoRAs by a worker of its own, over HTTP, against a real server."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from worker_harness import working
from worker_site import Site, a_worker, site

from conformance.dispatch import MemoryDispatch
from lora_painter import layers, lora_file, packed
from swell.core.clock import SystemClock
from swell.core.task import TaskState
from swell.protocol.worker_messages import Incoming
from swell.weights.cache import WeightCache

__all__ = ["site"]

PAINTER = Path(__file__).parents[1] / "lora_painter.py"

INK, CHALK = lora_file(layers(1)), lora_file(layers(2, rank=3), "peft", kind="F16")


async def upload(site: Site, data: bytes, name: str = "ink.safetensors") -> str:
    async with site.client.post(f"{site.url}/v1/uploads?filename={name}", data=data) as answer:
        told = await answer.json()
        assert answer.status == 201, told
        return str(told["url"])


async def drawn(site: Site, task_id: str) -> bytes:
    task = await site.ended(task_id)
    assert task["state"] == "succeeded", task
    async with site.client.get(task["artifacts"][0]["url"]) as answer:
        return PIL.Image.open(io.BytesIO(await answer.read())).tobytes()


async def asked(site: Site, loras: list[Any], **more: Any) -> str:
    wish = {"loras": loras, "steps": 3}
    return await site.submit("test/painter", input=wish, seed=5, **more)


async def test_a_lora_changes_the_picture_always_alike(site: Site, tmp_path: Path) -> None:
    async with a_worker(site, tmp_path, "-m", str(PAINTER)):
        ink, again, chalk = [await upload(site, data) for data in (INK, INK, CHALK)]
        sets: list[list[Any]] = [
            [],
            [ink],
            [{"file": ink, "scale": 0.5}],
            [chalk],
            [again, {"file": chalk, "scale": -1}],
        ]
        pictures = [
            await asyncio.gather(*[drawn(site, each) for each in ids])
            for ids in [[await asked(site, each) for each in sets] for _ in range(2)]
        ]
        assert pictures[0] == pictures[1]
        assert len(set(pictures[0])) == len(sets)
        by_content = [await asked(site, [again])]
        assert await drawn(site, by_content[0]) == pictures[0][1]
    kept = list((tmp_path / ".swell" / "weights" / "files").glob("??/*"))
    assert sorted(path.read_bytes() for path in kept) == sorted([INK, CHALK])


async def test_a_lora_that_cannot_be_used_fails_its_task_alone(site: Site, tmp_path: Path) -> None:
    foreign = packed({"no.lora_A.weight": np.ones((2, 8)), "no.lora_B.weight": np.ones((8, 2))})
    async with a_worker(site, tmp_path, "-m", str(PAINTER)):
        good = await asked(site, [await upload(site, INK)])
        wrong = {
            await asked(site, [await upload(site, b"\x80\x04a pickle")]): "must be a .safetensors",
            await asked(site, [await upload(site, INK, "a.pt")]): "may be a pickle",
            await asked(site, [await upload(site, foreign)]): "is for another model",
            await asked(site, ["acme/ink"]): "not in this worker's weights cache",
            await asked(site, ["http://localhost:1/ink"]): "private network",
            await asked(site, ["https://example.com/ink.ckpt"]): "may be a pickle",
        }
        codes = []
        for task_id, told in wrong.items():
            task = await site.ended(task_id)
            assert task["state"] == "failed", task
            assert told in task["error"]["detail"]
            assert task["attempt"] == 1, "trying again would not help"
            codes.append(task["error"]["code"])
        assert codes == [
            "invalid_input",
            "invalid_input",
            "rejected",
            "input_unavailable",
            "input_unavailable",
            "invalid_input",
        ]
        await drawn(site, good)


class Slow(MemoryDispatch):
    """Holds files back."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.asked, self.may_go = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Incoming]:
        async with super().open(url) as incoming:
            self.asked.set()
            await self.may_go.wait()
            yield incoming


async def test_a_lora_is_fetched_once_while_other_tasks_are_drawn(tmp_path: Path) -> None:
    dispatch, cache = Slow(), WeightCache(tmp_path / "weights")
    url = "https://example.com/ink"
    dispatch.inputs[url] = (INK, "")
    async with working(dispatch, str(PAINTER), weights=cache) as (worker, _):
        first, second = [
            await dispatch.submit("test/painter", {"loras": [{"file": url, "scale": scale}]})
            for scale in (1.0, 0.5)
        ]
        async with asyncio.timeout(20):
            await dispatch.asked.wait()
        plain = await dispatch.submit("test/painter", {"loras": []})
        assert (await dispatch.ended(plain)).state is TaskState.SUCCEEDED
        stopped = await dispatch.submit("test/painter", {"loras": [url]})
        await dispatch.until(lambda: len(worker.tasks.held) == 3)
        await dispatch.cancel(stopped)
        assert (await dispatch.ended(stopped)).state is TaskState.CANCELED
        assert {(await dispatch.task(each)).state for each in (first, second)} == {
            TaskState.RUNNING
        }
        assert worker.models.lora_swaps == {}
        dispatch.may_go.set()
        for task_id in (first, second):
            assert (await dispatch.ended(task_id)).state is TaskState.SUCCEEDED
        assert dispatch.opened == [url]
        assert worker.models.lora_swaps["test/painter"] in (1, 2)
        assert cache.evict(0).in_use == 0
