"""mosec with swell/icons: a stage that draws batches, and one in a process of its own that encodes.

As its manual has it: `max_batch_size` and `max_wait_time` for the stage with the model, more
processes for what is CPU work beside it. Its own front is in Rust.
"""

from __future__ import annotations

import os
from typing import Any

import PIL.Image
from mosec import Server, Worker
from painter import Painter, png

#: mosec parses the command line itself, so these come by the environment.
BATCH = int(os.environ.get("MOSEC_BATCH", "1"))
WAIT_MS = int(os.environ.get("MOSEC_WAIT_MS", "1"))
WORKERS = int(os.environ.get("MOSEC_WORKERS", "1"))


class Draw(Worker):
    def __init__(self) -> None:
        self.painter = Painter(WORKERS)

    def forward(self, data: Any) -> Any:
        """A batch of one comes without a list."""
        if isinstance(data, list):
            return self.painter.draw(data)
        return self.painter.draw([data])[0]


class Encode(Worker):
    resp_mime_type = "image/png"

    def forward(self, data: PIL.Image.Image) -> bytes:
        return png(data)

    def serialize(self, data: bytes) -> bytes:
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Draw, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS, timeout=300
    )
    server.append_worker(Encode, timeout=300)
    server.run()
