"""How long do steps stand still at most because finished samples are decoded?

A whole worker serves a backlog of demo/curve at 512 px, eight pictures at a time with equal steps,
so that eight are finished by the same step; each takes 40 ms to decode, as much as a step. A gap
lasts from a step's end to the next one's begin. What decoding adds to one is the gap less the 99th
percentile of the gaps in which nothing is decoded, and counts in decodings, by the longest of them.

Value: the most that decoding adds to a gap, in decodings.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from machine import folder, quiet, report, say
from worker_rig import SPEED, Backend, Gaps, gaps, in_ms, noting, serve_backlog

ROWS = 8


def one_run(home: Path, count: int, steps: int, decode_s: float) -> tuple[Gaps, float]:
    """Return the gaps of a backlog, and the longest decoding in seconds."""
    wish = {"steps": steps, "size": 512, "speed": SPEED, "decode_s": decode_s}
    with noting(home) as read:
        asyncio.run(serve_backlog(Backend(), "Noted", [wish] * count))
        notes = read().of_tasks()
    decodings = notes.only(~notes.is_step)
    return gaps(notes), float((decodings.ends_s - decodings.begins_s).max())


def told(found: Gaps, longest_s: float) -> dict[str, Any]:
    decoded_s = found.seconds[found.decodings > 0]
    usual_s = float(np.percentile(found.plain_s, 99)) if len(found.plain_s) else 0.0
    return {
        "in_decodings": round(float((decoded_s.max() - usual_s) / longest_s), 4),
        "gaps_without_decoding_ms": in_ms(found.plain_s),
        "gaps_with_decoding_ms": in_ms(decoded_s),
        "beside_decoding_ms": in_ms((found.seconds - found.decoding_s)[found.decodings > 0]),
        "most_decodings_in_a_gap": int(found.decodings.max()),
        "longest_decoding_ms": round(longest_s * 1e3, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--decode-s", type=float, default=0.04)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    runs = []
    with quiet(), folder("engine-decode-gap") as home:
        for _ in range(chosen.runs):
            runs.append(told(*one_run(home, chosen.pictures, chosen.steps, chosen.decode_s)))
            say(f"{runs[-1]}")
        # With so few steps more is finished than one decoding a gap can keep up with.
        few = told(*one_run(home, chosen.pictures, ROWS // 2, chosen.decode_s))
    detail = {
        "runs": runs,
        "with_four_steps": few,
        "pictures": chosen.pictures,
        "steps": chosen.steps,
    }
    value = max(run["in_decodings"] for run in runs)
    report(value, detail, ok=max(run["most_decodings_in_a_gap"] for run in runs) <= 1)


if __name__ == "__main__":
    main()
