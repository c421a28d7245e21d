"""Ray Serve with swell/icons: a replica or two, `@serve.batch` around a call, behind its proxy.

As its manual has it: `max_batch_size` and `batch_wait_timeout_s`, and `max_ongoing_requests` so
large that a batch can fill. The model runs in a thread, so that the replica takes requests in
meanwhile, and the decorator runs one batch at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ray
from painter import Painter, png
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


def application(batch: int, wait_s: float, workers: int) -> serve.Application:
    @serve.deployment(
        num_replicas=workers, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1 / workers}
    )
    class Draw:
        def __init__(self) -> None:
            self.painter = Painter(workers)

        @serve.batch(max_batch_size=batch, batch_wait_timeout_s=wait_s)
        async def draw(self, asked: list[Mapping[str, Any]]) -> list[bytes]:
            return await asyncio.to_thread(self.files, asked)

        def files(self, asked: list[Mapping[str, Any]]) -> list[bytes]:
            return [png(picture) for picture in self.painter.draw(asked)]

        async def __call__(self, request: Request) -> Response:
            return Response(await self.draw(await request.json()), media_type="image/png")

    return Draw.bind()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--wait-ms", type=float, default=0)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    ray.init(include_dashboard=False, logging_level="warning", num_cpus=2)
    serve.start(http_options={"host": "127.0.0.1", "port": asked.port})
    drawn_by = application(asked.batch, asked.wait_ms / 1000, asked.workers)
    serve.run(drawn_by, route_prefix="/draw")
    over = threading.Event()
    # Ray has handlers of its own from its start on.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    ray.shutdown()


if __name__ == "__main__":
    main()
