"""LitServe with swell/icons: batches of requests, or its continuous loop; one process or two.

`batch` is as its manual has it: `predict` gets a list of `max_batch_size` requests at most, which
have waited `batch_timeout` at most. `loop` runs one denoising step for all who are there and takes
new requests between two steps. That loop was made for tokens: it wants each step to stream
something, so a picture in the making streams nothing of no length.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import litserve
from litserve.loops.continuous_batching_loop import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus
from painter import Painter, Painting, png
from starlette.responses import Response


class Batches(litserve.LitAPI):
    """As many requests as are there, one batch after another."""

    workers = 1

    def setup(self, device: str) -> None:
        self.painter = Painter(self.workers)

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return self.painter.draw([inputs])[0]
        return self.painter.draw(inputs)

    def encode_response(self, output: Any) -> Response:
        return Response(png(output), media_type="image/png")


class Steps(litserve.LitAPI):
    """All who are there take one step, then the next ones may come in."""

    workers = 1

    def setup(self, device: str) -> None:
        self.painter = Painter(self.workers)
        self.live: dict[str, Painting] = {}

    def add_request(self, uid: str, request: dict[str, Any]) -> None:
        self.live[uid] = self.painter.begin(request)

    def has_capacity(self) -> bool:
        return len(self.live) < self.max_batch_size

    def has_active_requests(self) -> bool:
        return bool(self.live)

    def predict(self, inputs: Any) -> Any:
        """Not used: `step` is."""

    def step(self, previous: list[Output] | None) -> list[Output]:
        paintings = dict(self.live)
        self.painter.step(list(paintings.values()))
        said = []
        for uid, one in paintings.items():
            if one.is_done:
                del self.live[uid]
                file = png(self.painter.finish(one))
                said.append(Output(uid, file, LitAPIStatus.OK))
                said.append(Output(uid, b"", LitAPIStatus.FINISH_STREAMING))
        return said or [Output(next(iter(paintings)), b"", LitAPIStatus.OK)]

    def encode_response(self, output: bytes) -> bytes:
        return output


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--wait-ms", type=float, default=0)
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    if asked.steps:
        loop = ContinuousBatchingLoop(no_pending_requests=False)
        api: litserve.LitAPI = Steps(
            max_batch_size=asked.batch, api_path="/draw", stream=True, loop=loop
        )
    else:
        wait_s = asked.wait_ms / 1000
        api = Batches(max_batch_size=asked.batch, batch_timeout=wait_s, api_path="/draw")
    api.workers = asked.workers
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=asked.workers,
        timeout=300,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=asked.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
