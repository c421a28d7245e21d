"""How much of the time is the device busy, while encoding and uploading a picture take long?

A worker with all its parts serves a backlog from a backend in the same process. The
model is demo/curve, whose steps sleep as long as one of a large network takes, with pictures of
1024 x 1024. Each becomes a PNG, and where that takes less than 155 ms the encoding thread sleeps
for the rest; the backend needs 100 ms to store one. Two threads encode, as by default on three
cores: one could not keep up with 6.3 pictures per second.

Value: seconds in steps and decodings, of those from the first step's begin to the last one's end.
Steps of eight rows take as long when some of these are padding, so pictures must also come at 0.95
or more of what the device can do at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import Any

from encoders import grain
from engine_rig import summary
from machine import folder, quiet, report, say
from swell.worker.encode_outputs import Encoded, encode
from swell.worker.encoder_pool import Encoders, default_threads
from worker_rig import SPEED, Backend, curve, noting, serve_backlog

ENCODE_S = 0.155
UPLOAD_S = 0.1
SIDE = 1024
TOGETHER = 8
STEPS = 30
LEAST_OF_FULL_RATE = 0.95


def encode_slowly(*asked: Any) -> Encoded:
    """Encode, in `ENCODE_S` or longer."""
    begun_s = time.monotonic()
    encoded = encode(*asked)
    time.sleep(max(0, begun_s + ENCODE_S - time.monotonic()))
    return encoded


async def serve(count: int, threads: int) -> list[float]:
    """Serves a backlog; returns seconds from each result to its encoded file."""
    backend = Backend(UPLOAD_S)
    wish = {"steps": STEPS, "size": 512, "speed": SPEED}
    encoders = Encoders(threads, encode=encode_slowly)
    await serve_backlog("Noted", [wish] * count, backend, encoders=encoders)
    if len(backend.objects) != count:
        raise RuntimeError(f"{len(backend.objects)} files of {count} were stored")
    return [outcome.timings.encode_s for outcome in backend.outcomes.values()]


def one_run(home: Path, count: int, threads: int) -> dict[str, float]:
    with noting(home) as read:
        encode_s = asyncio.run(serve(count, threads))
        notes = read().of_tasks()
    window_s = notes.ends_s[-1] - notes.begins_s[0]
    gaps_s = notes.begins_s[1:] - notes.ends_s[:-1]
    best = TOGETHER / (STEPS * curve(512)(TOGETHER))
    found = {
        "busy": float((notes.ends_s - notes.begins_s).sum() / window_s),
        "of_full_rate": float(count / window_s / best),
        "longest_gap_ms": float(gaps_s.max() * 1e3),
        "encode_ms": statistics.median(encode_s) * 1e3,
    }
    say(", ".join(f"{name} {value:.4f}" for name, value in found.items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="that encode")
    chosen = parser.parse_args()
    with quiet(), folder("engine-busy") as home:
        os.environ["WORKER_PICTURE"] = str(home / "picture.png")
        grain(SIDE).save(os.environ["WORKER_PICTURE"])
        runs = [one_run(home, chosen.pictures, chosen.threads) for _ in range(chosen.runs)]
    detail: dict[str, Any] = {name: summary([run[name] for run in runs]) for name in runs[0]}
    detail |= {
        "picture_px": SIDE,
        "png_ms": ENCODE_S * 1e3,
        "upload_ms": UPLOAD_S * 1e3,
        "pictures": chosen.pictures,
        "threads": chosen.threads,
        "threads_by_default_here": default_threads(),
        "runs": len(runs),
    }
    is_full = detail["of_full_rate"]["median"] >= LEAST_OF_FULL_RATE
    report(detail["busy"]["median"], detail, ok=is_full)


if __name__ == "__main__":
    main()
