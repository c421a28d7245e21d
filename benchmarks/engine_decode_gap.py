"""How long do steps stand still at most because finished samples are decoded?

A whole worker serves a backlog of demo/curve at 512 px, eight pictures at a time with equal steps,
so that eight are finished by the same step. Once decoding takes 40 ms, as much as a step, and once
it takes no time; these two take turns. A gap lasts from a step's end to the next one's begin, and
the gaps looked at are those in which something is decoded.

Value: how much longer the longest one is where decoding takes time, over the longest decoding; the
median of pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from pathlib import Path
from typing import Any

from machine import folder, quiet, report, say
from worker_rig import SPEED, Backend, Gaps, Notes, gaps, in_ms, noting, serve_backlog

ROWS = 8
#: With fewer steps than samples of a step, more is finished than one decoding a gap keeps up with.
FEW_STEPS = 4


def one_run(home: Path, count: int, steps: int, decode_s: float) -> Notes:
    wish = {"steps": steps, "size": 512, "speed": SPEED, "decode_s": decode_s}
    with noting(home) as read:
        asyncio.run(serve_backlog(Backend(), "Noted", [wish] * count))
        return read().of_tasks()


def one_pair(home: Path, count: int, steps: int, decode_s: float) -> dict[str, Any]:
    timed, untimed = (one_run(home, count, steps, each_s) for each_s in (decode_s, 0.0))
    decodings = timed.only(~timed.is_step)
    longest_s = float((decodings.ends_s - decodings.begins_s).max())
    found, plain = gaps(timed), gaps(untimed)
    added_s = float(found.decoding_gaps_s.max() - plain.decoding_gaps_s.max())
    say(f"{steps} steps: {added_s * 1e3:.2f} ms, decoding {longest_s * 1e3:.2f} ms")
    return {
        "in_decodings": round(added_s / longest_s, 4),
        "longest_decoding_ms": round(longest_s * 1e3, 3),
        "most_decodings_in_a_gap": int(found.decodings.max()),
        "gaps_ms": told(found),
        "gaps_ms_where_decoding_takes_no_time": told(plain),
    }


def told(found: Gaps) -> dict[str, dict[str, float]]:
    beside_s = found.seconds - found.decoding_s
    return {
        "without_decoding": in_ms(found.plain_s),
        "with_decoding": in_ms(found.decoding_gaps_s),
        "beside_decoding": in_ms(beside_s[found.decodings > 0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--decode-s", type=float, default=0.04)
    parser.add_argument("--pairs", type=int, default=5)
    chosen = parser.parse_args()
    with quiet(), folder("engine-decode-gap") as home:
        pairs = [
            one_pair(home, chosen.pictures, chosen.steps, chosen.decode_s)
            for _ in range(chosen.pairs)
        ]
        few = one_pair(home, chosen.pictures, FEW_STEPS, chosen.decode_s)
    most = max(pair["most_decodings_in_a_gap"] for pair in pairs)
    detail = {
        "pairs": pairs,
        "with_four_steps": few,
        "pictures": chosen.pictures,
        "steps": chosen.steps,
    }
    report(statistics.median(pair["in_decodings"] for pair in pairs), detail, ok=most <= 1)


if __name__ == "__main__":
    main()
