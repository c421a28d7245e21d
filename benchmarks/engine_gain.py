"""How much of what a batch can gain does a whole worker gain, with a backlog?

A worker with all its parts and processes, whose model has eight rows a step, serves a backlog from
a backend in the same process. Against it stands what one row a step gives, in turns with it: a bare
loop around the network, which has no overhead that would flatter the gain. The model is demo/curve
at 512 px, where eight rows cost 2.5 times what one costs. `worker_with_one_row` tells the same of a
whole worker whose model has one row. The worker's rate is taken between the ramps at both ends.

Value: (images per second with eight rows / with one) / what the curve says of the same, 3.14.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from engine_raw_loop import Bare
from engine_rig import paired, summary
from machine import quiet, report
from worker_rig import SPEED, curve, serve_backlog, steady_rate

ROWS = 8
STEPS = 30


def rate(model: str, together: int, count: int) -> float:
    """Images per second."""
    wish = {"steps": STEPS, "size": 512, "speed": SPEED}
    ended_s = asyncio.run(serve_backlog(model, [wish] * count))
    return steady_rate(ended_s, together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="of eight pictures, 4 are ramps")
    parser.add_argument("--alone", type=int, default=16, help="pictures one by one")
    parser.add_argument("--pairs", type=int, default=3)
    chosen = parser.parse_args()
    count = ROWS * chosen.rounds
    with quiet():
        found = paired(
            chosen.pairs,
            lambda: rate("Noted", ROWS, count),
            Bare("one row", chosen.alone).rate,
        )
        one_row = rate("Alone", 1, chosen.alone)
    promised = ROWS * curve(512)(1) / curve(512)(ROWS)
    gains = summary([eight / one for eight, one in found])
    rates = {
        "worker_with_eight_rows": summary([eight for eight, _ in found]),
        "bare_loop_with_one": summary([one for _, one in found]),
        "worker_with_one_row": round(one_row, 4),
    }
    ideal = {"eight": ROWS / (STEPS * curve(512)(ROWS)), "one": 1 / (STEPS * curve(512)(1))}
    detail: dict[str, Any] = {
        "gain": gains,
        "gain_of_the_curve": round(promised, 4),
        "images_per_s": rates,
        "images_per_s_of_the_curve": {name: round(value, 4) for name, value in ideal.items()},
        "pictures": {"eight": count, "one": chosen.alone},
        "steps": STEPS,
    }
    report(gains["median"] / promised, detail)


if __name__ == "__main__":
    main()
