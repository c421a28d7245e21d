"""Is a picture the same bit for bit, whoever it is drawn with, where, and when they came?

One sample of swell/icons is drawn alone in exact mode. Then it is drawn among random neighbours,
who have other words, steps, styles and guidance, come before and after it, and are cancelled now
and then. Compared are its last latents and its pixels. Three sets of compositions:

    default     as a worker draws it: steps of as many rows as pay off, if the network's rows have
                the same bits in any company here (`batch_invariant`), else of the model's bucket
    pinned      steps of eight rows always
    dependent   a network whose bits depend on the number of rows, as on most devices; as a worker
                draws it, which is in the model's bucket

The same samples of the third one in fast mode must have other bits, or the comparison sees nothing.

Value: how many of the compositions gave other bits, in all three sets.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine_rig import requests, some_icons
from machine import report, say
from swell.core.clock import SystemClock
from swell.diffusion.step_engine import StepEngine
from swell.models.icons import Icons
from swell.sdk.step_model import StepModel, whole

WANTED = "wanted"
PINNED = 8


class Dependent(Icons):
    """The same pictures, but for the last bits: these tell of how many rows a step had."""

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        return super().denoise(x, t, conditions) * np.float32(1 + len(x) * 2.0**-20)


class Watched:
    """Keeps the latents that each sample ended with, by its seed, and the rows of steps."""

    def __init__(self, model: StepModel) -> None:
        self.by_seed: dict[int, bytes] = {}
        self.steps_of_rows: set[int] = set()
        decode, denoise = model.decode, model.denoise

        def keep(latents: Any, item: Any) -> Any:
            self.by_seed[item.input.seed] = np.asarray(latents).tobytes()
            return decode(latents, item)

        def count(x: Any, t: Any, conditions: Any) -> Any:
            self.steps_of_rows.add(len(x))
            return denoise(x, t, conditions)

        model.decode, model.denoise = keep, count  # type: ignore[method-assign]


class Composition:
    """One sample among others that come and go by chance."""

    def __init__(
        self, model: StepModel, wanted: dict[str, Any], seed: int, options: dict[str, Any]
    ) -> None:
        self.rng = random.Random(seed)
        self.results: dict[str, Any] = {}
        self.denoiser = StepEngine(SystemClock(), self.results.__setitem__, **options)
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
            state = self.denoiser.samples.get(WANTED)
            if state is not None and state.row >= 0:
                self.rows.add(state.row)
            boundary += 1
        return np.asarray(whole(self.results[WANTED]).pil())


@dataclass
class Found:
    """What came of a set of compositions."""

    compositions: int = 0
    different: int = 0
    rows: set[int] = field(default_factory=set)
    steps_of_rows: set[int] = field(default_factory=set)

    def told(self) -> dict[str, Any]:
        return {
            "compositions": self.compositions,
            "identical": self.compositions - self.different,
            "rows_it_had": sorted(self.rows),
            "rows_of_steps": sorted(self.steps_of_rows),
        }


def compare(model: StepModel, name: str, count: int, seed: int, **options: Any) -> Found:
    """Draw samples alone and among others, with the same options of the denoiser."""
    watched, rng, found = Watched(model), random.Random(seed), Found()
    for number in range(count):
        wanted = some_icons(rng) | {"guidance": rng.choice((1.0, 3.0))}
        alone = Composition(model, wanted, 0, options).draw(0)
        bits = watched.by_seed.pop(wanted["seed"])
        among = Composition(model, wanted, rng.getrandbits(31), options)
        picture = among.draw(rng.randint(1, 9))
        same = np.array_equal(picture, alone) and watched.by_seed.pop(wanted["seed"]) == bits
        found.compositions += 1
        found.different += not same
        found.rows |= among.rows
        say(f"{name} {number + 1}: {'same' if same else 'OTHER'} bits, rows {sorted(among.rows)}")
    found.steps_of_rows = watched.steps_of_rows
    return found


def loaded(model: Icons) -> Icons:
    model.load("cpu")
    model.warmup()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compositions", type=int, default=24, help="in each set")
    parser.add_argument("--threads", type=int, default=0, help="0 for all cores")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    count, seed, threads = chosen.compositions, chosen.seed, chosen.threads or None
    plain = loaded(Icons(threads))
    is_invariant = plain.batch_invariant
    sets = {
        "default": compare(plain, "default", count, seed),
        "pinned": compare(loaded(Icons(threads)), "pinned", count, seed, bucket=PINNED),
        "dependent": compare(loaded(Dependent(threads)), "dependent", count, seed),
    }
    fast = compare(loaded(Dependent(threads)), "fast", count, seed, exact=False)
    detail = {
        **{name: found.told() for name, found in sets.items()},
        "dependent_in_fast_mode": fast.told(),
        "batch_invariant": is_invariant,
        "threads": chosen.threads,
    }
    has_moved = all(len(found.rows) > 1 for found in sets.values())
    has_sizes = len(sets["default"].steps_of_rows) > 1 or not is_invariant
    is_one_size = all(len(sets[name].steps_of_rows) == 1 for name in ("pinned", "dependent"))
    different = sum(found.different for found in sets.values())
    ok = different == 0 and has_moved and has_sizes and is_one_size and fast.different > 0
    report(different, detail, ok=ok)


if __name__ == "__main__":
    main()
