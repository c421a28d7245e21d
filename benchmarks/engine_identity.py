"""Is a picture the same bit for bit, whoever it is drawn with, where, and when they came?

One sample of swell/icons is drawn alone in exact mode. Then it is drawn among random neighbours,
who have other words, steps, styles and guidance, come before and after it, and are cancelled now
and then. Compared are its last latents and its pixels. Value: how many of the compositions gave
other bits.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import numpy as np

from engine_rig import load, requests, some_icons
from machine import report, say
from swell.clock import SystemClock
from swell.model import StepModel
from swell.worker.denoise import Denoiser

WANTED = "wanted"


class Latents:
    """Keeps the latents that each sample ended with, by its seed."""

    def __init__(self, model: StepModel) -> None:
        self.by_seed: dict[int, bytes] = {}
        decode = model.decode

        def keep(latents: Any, item: Any) -> Any:
            self.by_seed[item.input.seed] = np.asarray(latents).tobytes()
            return decode(latents, item)

        model.decode = keep  # type: ignore[method-assign]


class Composition:
    """One sample among others that come and go by chance."""

    def __init__(self, model: StepModel, wanted: dict[str, Any], bucket: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.results: dict[str, Any] = {}
        self.denoiser = Denoiser(SystemClock(), self.results.__setitem__, bucket=bucket)
        self.model, self.wanted = model, wanted
        #: Rows that it had.
        self.rows: set[int] = set()

    def draw(self, neighbours: int) -> Any:
        inputs = [some_icons(self.rng) for _ in range(neighbours)]
        arriving = [(self.rng.randrange(12), one) for one in requests(self.model, inputs)]
        [wanted] = requests(self.model, [self.wanted])
        first = self.rng.randrange(12) if neighbours else 0
        boundary, left = 0, True
        while left or boundary < 12:
            self.denoiser.add(one for when, one in arriving if when == boundary)
            if boundary == first:
                self.denoiser.add([type(wanted)(id=WANTED, model=self.model, item=wanted.item)])
            if neighbours and self.rng.random() < 0.1:
                self.denoiser.cancel(str(self.rng.randrange(neighbours)))
            left = self.denoiser.boundary()
            state = self.denoiser._states.get(WANTED)
            if state is not None and state.row >= 0:
                self.rows.add(state.row)
            boundary += 1
        return np.asarray(self.results[WANTED].pil())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compositions", type=int, default=24)
    parser.add_argument("--bucket", type=int, default=8, help="rows of each step")
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    model = load("swell/icons", chosen.threads or None)
    latents = Latents(model)
    rng = random.Random(chosen.seed)
    different, rows = 0, set()
    for number in range(chosen.compositions):
        wanted = some_icons(rng) | {"guidance": rng.choice((1.0, 3.0))}
        alone = Composition(model, wanted, chosen.bucket, 0).draw(0)
        bits = latents.by_seed.pop(wanted["seed"])
        among = Composition(model, wanted, chosen.bucket, rng.getrandbits(31))
        picture = among.draw(rng.randint(1, 9))
        same = np.array_equal(picture, alone) and latents.by_seed.pop(wanted["seed"]) == bits
        different += not same
        rows |= among.rows
        say(f"{number + 1}: {'same' if same else 'OTHER'} bits, rows {sorted(among.rows)}")
    detail = {
        "compositions": chosen.compositions,
        "identical": chosen.compositions - different,
        "rows_of_a_step": chosen.bucket,
        "rows_it_had": sorted(rows),
        "threads": chosen.threads,
    }
    report(different, detail, ok=different == 0 and len(rows) > 1)


if __name__ == "__main__":
    main()
