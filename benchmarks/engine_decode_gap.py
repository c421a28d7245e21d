"""How long do steps stand still at most because finished samples are decoded?

A whole worker serves a backlog of demo/curve at 512 px, eight pictures at a time with equal steps,
so that eight are finished by the same step. Once decoding takes 40 ms, as much as a step, and once
it takes no time; these two take turns. A gap lasts from a step's end to the next one's begin, and
the gaps looked at are those in which something is decoded. The usual gap is the longest of these
in a run where decoding takes no time, the median of runs; it may be a tenth of a decoding at most,
so that what is taken off cannot hide one.

Value: what the longest gap of a run has beyond the usual one where decoding takes time, over the
longest decoding; the median of runs. And no gap may have two decodings. With steps so few that more
pictures are finished than there are gaps, more are decoded in one: `with_four_steps` tells.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from pathlib import Path
from typing import Any

from engine_rig import summary
from machine import folder, quiet, report, say
from worker_rig import SPEED, Gaps, Notes, gaps, in_ms, noting, serve_backlog

ROWS = 8
#: With fewer steps than samples of a step, more is finished than one decoding a gap keeps up with.
FEW_STEPS = 4
#: What the usual gap may be, in decodings.
MOST_USUAL = 0.1


def one_run(home: Path, count: int, steps: int, decode_s: float) -> Notes:
    wish = {"steps": steps, "size": 512, "speed": SPEED, "decode_s": decode_s}
    with noting(home) as read:
        asyncio.run(serve_backlog("Noted", [wish] * count))
        return read().of_tasks()


def decoding_s(notes: Notes) -> float:
    """The longest."""
    decodings = notes.only(~notes.is_step)
    return float((decodings.ends_s - decodings.begins_s).max())


def added(timed: Notes, usual_s: float) -> float:
    """What decoding adds to a gap at most, in decodings."""
    return (float(gaps(timed).decoding_gaps_s.max()) - usual_s) / decoding_s(timed)


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
    count, steps = chosen.pictures, chosen.steps
    timed, untimed = [], []
    with quiet(), folder("engine-decode-gap") as home:
        for number in range(chosen.pairs):
            timed.append(one_run(home, count, steps, chosen.decode_s))
            untimed.append(one_run(home, count, steps, 0.0))
            found_ms = [in_ms(gaps(run[-1]).decoding_gaps_s)["longest"] for run in (timed, untimed)]
            say(f"pair {number + 1}: {found_ms[0]:.2f} and {found_ms[1]:.2f} ms")
        few = one_run(home, count, FEW_STEPS, chosen.decode_s)
    longest_s = [float(gaps(notes).decoding_gaps_s.max()) for notes in untimed]
    usual_s = statistics.median(longest_s)
    found = summary([added(notes, usual_s) for notes in timed])
    most = max(int(gaps(notes).decodings.max()) for notes in timed)
    detail: dict[str, Any] = {
        "in_decodings": found,
        "usual_gap_ms": round(usual_s * 1e3, 3),
        "longest_gap_ms_where_decoding_takes_no_time": [round(s * 1e3, 3) for s in longest_s],
        "longest_decoding_ms": round(max(map(decoding_s, timed)) * 1e3, 3),
        "most_decodings_in_a_gap": most,
        "gaps_ms": [told(gaps(notes)) for notes in timed],
        "gaps_ms_where_decoding_takes_no_time": [told(gaps(notes)) for notes in untimed],
        "with_four_steps": {
            "in_decodings": round(added(few, usual_s), 4),
            "most_decodings_in_a_gap": int(gaps(few).decodings.max()),
        },
        "pictures": count,
        "steps": steps,
    }
    report(found["median"], detail, ok=most <= 1 and usual_s <= MOST_USUAL * chosen.decode_s)


if __name__ == "__main__":
    main()
