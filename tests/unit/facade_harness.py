"""A world with models of pictures, and a worker that draws what a test says."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import PIL.Image
from api_harness import Answer, Client, World, a_world, hold

__all__ = [
    "EDITOR",
    "PAINTER",
    "WRITER",
    "Asking",
    "Leaving",
    "Painter",
    "a_studio",
    "form",
    "picture",
]

PAINTER = {
    "name": "demo/painter",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "prompt": {"type": "string", "minLength": 1, "maxLength": 100},
            "width": {"type": "integer", "minimum": 16, "maximum": 1024, "default": 64},
            "height": {"type": "integer", "minimum": 16, "maximum": 1024, "default": 64},
            "steps": {"type": "integer", "minimum": 1, "maximum": 50, "default": 10},
            "guidance": {"type": "number", "default": 3.0},
            "output_format": {"enum": ["png", "webp", "jpeg"], "default": "png"},
        },
        "required": ["prompt"],
        "additionalProperties": False,
    },
    "output_schema": {"type": "string", "x-file": "image"},
}
EDITOR = {
    "name": "demo/editor",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "prompt": {"type": "string"},
            "image": {"type": "string", "format": "uri", "x-file": "image"},
            "mask": {"type": "string", "format": "uri", "x-file": "image"},
        },
        "required": ["image"],
        "additionalProperties": False,
    },
    "output_schema": {"type": "string", "x-file": "image"},
}
WRITER = {
    "name": "demo/writer",
    "version": "1",
    "input_schema": {"type": "object", "properties": {"prompt": {"type": "string"}}},
    "output_schema": {"type": "string"},
}


def picture(kind: str = "PNG", side: int = 8, colour: str = "red") -> bytes:
    """Return a small picture as a file."""
    made = io.BytesIO()
    PIL.Image.new("RGB", (side, side), colour).save(made, kind)
    return made.getvalue()


def form(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a form of (name, file name, value), and the header that says so."""
    body = b""
    for name, filename, value in parts:
        told = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        kind = "\r\nContent-Type: image/png" if filename else ""
        body += f"--edge\r\nContent-Disposition: {told}{kind}\r\n\r\n".encode() + value + b"\r\n"
    return body + b"--edge--\r\n", {"content-type": "multipart/form-data; boundary=edge"}


class Painter:
    """A worker that waits for tasks and ends them as told."""

    def __init__(self, world: World, worker_id: str) -> None:
        self.world = world
        self.worker_id = worker_id
        self._place = 0

    async def lease(self) -> dict[str, Any]:
        """Return the next task that is leased."""
        for _ in range(4000):
            found = (await self.world.lease(self.worker_id, n=1)).get("tasks")
            if found:
                return dict(found[0])
            await asyncio.sleep(0.005)  # A thread writes the task to the database.
        raise AssertionError("no task has come")

    async def tell(self, lease: dict[str, Any], kind: str, **data: Any) -> None:
        """Report progress or a preview."""
        self._place += 1
        told = {**hold(lease), "place": self._place, "kind": kind, "data": data}
        await self.world.report(self.worker_id, progress=[told])

    async def succeed(
        self, lease: dict[str, Any], *files: bytes, output: Any = None, seed: int = 7
    ) -> None:
        """End a task with pictures."""
        artifacts = []
        for number, data in enumerate(files):
            with PIL.Image.open(io.BytesIO(data)) as made:
                kind, size = PIL.Image.MIME[made.format or ""], made.size
            key = f"outputs/{lease['task_id']}/{lease['attempt']}/{number}.png"
            await self.world.service.objects.put(key, data, kind)
            artifacts.append(
                {
                    "key": key,
                    "content_type": kind,
                    "bytes": len(data),
                    "width": size[0],
                    "height": size[1],
                }
            )
        told = [{"$artifact": number} for number in range(len(files))]
        outcome = {
            "type": "succeeded",
            "output": output if output is not None else told[0] if len(told) == 1 else told,
            "artifacts": artifacts,
            "seed": seed,
            "timings": {"run_s": 1.5},
        }
        await self._settle(lease, outcome)

    async def fail(self, lease: dict[str, Any], code: str, *, retryable: bool) -> None:
        """End an attempt without a result."""
        error = {"code": code, "title": "It broke", "detail": "no such fox"}
        await self._settle(lease, {"type": "failed", "error": error, "retryable": retryable})

    async def _settle(self, lease: dict[str, Any], outcome: dict[str, Any]) -> None:
        await self.world.report(self.worker_id, settlements=[{**hold(lease), "outcome": outcome}])


class Asking:
    """A request that waits for its answer while the test goes on."""

    def __init__(self, client: Client, method: str, path: str, body: Any, **more: Any) -> None:
        self._task = asyncio.create_task(client(method, path, body, **more))

    async def answer(self) -> Answer:
        """Return the answer."""
        return await asyncio.wait_for(self._task, 10)


class Leaving:
    """A request whose client hangs up when the test says so."""

    def __init__(
        self, world: World, key: str, path: str, body: Any, headers: dict[str, str] | None = None
    ) -> None:
        client = Client(world.app, key)
        self.sent: list[Any] = []
        self._gone = False
        self._first = [json.dumps(body).encode()]
        scope = client._scope("POST", path, body, headers)
        self._task = asyncio.create_task(world.app(scope, self._receive, self._send))

    def leave(self) -> None:
        """Hang up."""
        self._gone = True

    async def end(self) -> None:
        """Wait until the service has noticed."""
        await asyncio.wait_for(self._task, 10)

    async def _receive(self) -> Any:
        if self._first:
            return {"type": "http.request", "body": self._first.pop(), "more_body": False}
        if self._gone:
            return {"type": "http.disconnect"}
        return await asyncio.get_running_loop().create_future()

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


@asynccontextmanager
async def a_studio(
    cards: Sequence[dict[str, Any]] = (PAINTER, EDITOR, WRITER), **settings: Any
) -> AsyncIterator[tuple[World, Painter]]:
    """A service with a worker for these models."""
    async with a_world(**settings) as world:
        yield world, Painter(world, await world.register(*cards))
