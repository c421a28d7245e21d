"""swell/icons without Swell's engine: a plain loop around the same networks, for a whole batch.

This is what somebody would write who serves the model with a server that hands over batches. All
who are in the batch take the same step of the loop; whoever has taken all of theirs leaves it, so
that nobody is drawn for nothing. Words are remembered, as Swell does.

`python painter.py` draws one picture after another, and says how many per second that makes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from swell.models.icons import LATENTS, STYLES, Icons
from swell.sdk.context import Item
from swell.worker.encode_outputs import PNG_LEVEL

Floats = NDArray[np.float32]

#: Texts that are remembered.
MOST_TEXTS = 256
#: Pixels a side of what is not enlarged.
SMALL = 128


class Painting:
    """A picture that is being drawn."""

    def __init__(self, asked: Mapping[str, Any], words: Mapping[str, Floats]) -> None:
        self.item = Item(Icons.Input(**asked))
        self.words = words
        wish = self.item.input
        self.style = STYLES.index(wish.style) if wish.style in STYLES else -1
        self.guidance = wish.guidance
        #: From noise, 1, to 0.
        self.times = np.append(np.linspace(1, 1 / wish.steps, wish.steps), 0).astype(np.float32)
        self.step = 0
        noise = np.random.Generator(np.random.PCG64(wish.seed))
        self.x = noise.standard_normal(LATENTS, np.float32)

    @property
    def is_done(self) -> bool:
        return self.step == len(self.times) - 1


class Painter:
    """The model, loaded.

    Args:
        workers: How many processes share the machine's cores, each with as many threads as it has
            of them.
    """

    def __init__(self, workers: int = 1) -> None:
        self._icons = Icons(max(1, (os.cpu_count() or 1) // workers))
        self._icons.load("cpu")
        self._texts: dict[str, Mapping[str, Floats]] = {}
        self.draw([{"prompt": "cat", "steps": 1, "seed": 0, "size": 512}])

    def begin(self, asked: Mapping[str, Any]) -> Painting:
        prompt = asked["prompt"]
        if prompt not in self._texts:
            if len(self._texts) == MOST_TEXTS:
                del self._texts[next(iter(self._texts))]
            self._texts[prompt] = self._icons.encode([prompt])[0]
        return Painting(asked, self._texts[prompt])

    def step(self, live: Sequence[Painting]) -> None:
        """Moves all by a step, those with guidance by two rows each."""
        guided = [n for n, one in enumerate(live) if one.guidance != 1]
        rows = [*range(len(live)), *guided]
        said = self._icons.denoise(
            np.stack([live[n].x for n in rows]),
            np.array([live[n].times[live[n].step] for n in rows], np.float32),
            {
                "states": self._told(live, guided, "states"),
                "sentence": self._told(live, guided, "sentence"),
                "style": np.array([live[n].style for n in rows], np.int64),
            },
        )
        for row, n in enumerate(guided, len(live)):
            said[n] = said[row] + np.float32(live[n].guidance) * (said[n] - said[row])
        for one, velocity in zip(live, said, strict=False):
            one.x = one.x + (one.times[one.step + 1] - one.times[one.step]) * velocity
            one.step += 1

    @staticmethod
    def _told(live: Sequence[Painting], guided: Sequence[int], name: str) -> Floats:
        told = [one.words[name] for one in live]
        return np.stack([*told, *(np.zeros_like(told[0]) for _ in guided)])

    def finish(self, one: Painting) -> PIL.Image.Image:
        if one.item.input.size == SMALL:
            # At once, by all threads: here nothing else is done meanwhile.
            return self._icons.preview(one.x)
        return self._icons.decode(one.x, one.item).pil()

    def draw(self, asked: Sequence[Mapping[str, Any]]) -> list[PIL.Image.Image]:
        """Draws a batch: it is over when the picture of most steps is."""
        paintings = [self.begin(one) for one in asked]
        while live := [one for one in paintings if not one.is_done]:
            self.step(live)
        return [self.finish(one) for one in paintings]


def png(picture: PIL.Image.Image) -> bytes:
    """A picture's file, as small and as quickly made as Swell's."""
    target = io.BytesIO()
    picture.save(target, "PNG", compress_level=PNG_LEVEL)
    return target.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("inputs", help="JSON: a list of them")
    painter, inputs = Painter(), json.loads(parser.parse_args().inputs)
    begun = time.perf_counter()
    for asked in inputs:
        png(painter.draw([asked])[0])
    print(json.dumps(len(inputs) / (time.perf_counter() - begun)))


if __name__ == "__main__":
    main()
