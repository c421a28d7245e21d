"""LitServe, the model server without a queue: one CPU worker process, `fast_queue` (ZeroMQ).

Nothing is durable here: it shows what the same POST costs with no store behind it.
"""

from __future__ import annotations

import argparse

import litserve


class Noop(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: dict[str, str]) -> str:
        return request["text"]

    def predict(self, text: str) -> str:
        return text

    def encode_response(self, output: str) -> dict[str, str]:
        return {"output": output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["front"])
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(
        Noop(api_path="/"), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=parser.parse_args().port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
