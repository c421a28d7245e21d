"""LoRAs by a worker of its own, over HTTP, against a real server."""

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from test_worker_http import Site, a_worker, site

from lora_painter import layers, lora_file, packed

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


async def test_a_lora_is_fetched_while_others_are_drawn(site: Site, tmp_path: Path) -> None:
    async with a_worker(site, tmp_path, "-m", str(PAINTER)):
        long = await site.submit("test/painter", input={"steps": 1000})
        await site.running(long)
        ink = await upload(site, INK)
        await drawn(site, await asked(site, [ink]))
        state = await site.call("GET", f"/v1/tasks/{long}")
        assert state["state"] in ("running", "succeeded")
        await site.call("POST", f"/v1/tasks/{long}/cancel")


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
