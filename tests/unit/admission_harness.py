"""Models whose tasks can be made cheaper, a pipeline of one, and workers that take some time."""

import asyncio
from typing import Any

from api_harness import World, succeeded

from swell.core.pipeline_stages import Pipeline, Stage
from swell.sdk.pipeline_cards import Declared

__all__ = ["PAINT", "POSTER", "QUICK", "drawn", "measured"]

PAINT: dict[str, Any] = {
    "name": "demo/paint",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "prompt": {"type": "string"},
            "steps": {"type": "integer", "minimum": 1, "maximum": 100, "default": 40},
            "width": {"type": "integer", "multipleOf": 64, "default": 1024},
            "height": {"type": "integer", "multipleOf": 64, "default": 768},
        },
        "additionalProperties": False,
    },
}
QUICK = {**PAINT, "name": "demo/quick"}
POSTER = Declared(
    name="demo/poster",
    description="# Poster",
    pipeline=Pipeline(
        stages=(
            Stage(name="upper", queue="demo/upper", take={"text": "input.prompt"}),
            Stage(name="draw", queue="demo/paint", take={"prompt": "stages.upper.output"}),
            Stage(
                name="again",
                queue="demo/upper",
                take={"text": "input.prompt"},
                when="input.twice",
            ),
        ),
        output="stages.draw.output",
    ),
    input_schema={
        "type": "object",
        "properties": {
            "prompt": {"type": "string"},
            "twice": {"type": "boolean", "default": False},
        },
        "required": ["prompt"],
    },
)


async def measured(world: World, took_s: float, card: dict[str, Any] = PAINT) -> str:
    """Have a worker of a model, one of whose tasks took so long."""
    worker = await world.register(card, slots=1)
    answer = await world.anna("POST", "/v1/tasks", {"model": card["name"], "input": {}})
    assert answer.status == 202
    [lease] = (await world.lease(worker, n=1))["tasks"]
    world.clock.advance(took_s)
    await world.report(worker, settlements=[succeeded(lease, "x")])
    return worker


async def drawn(world: World, worker: str, output: Any, run_s: float, device_s: float) -> None:
    """Have the next task of a worker succeed, once there is one."""
    async with asyncio.timeout(30):
        while not (found := (await world.lease(worker, n=1)).get("tasks")):
            await asyncio.sleep(0)
    world.clock.advance(run_s)
    timings = {"run_s": run_s, "device_s": device_s}
    await world.report(worker, settlements=[succeeded(found[0], output, timings=timings)])
