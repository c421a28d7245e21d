"""Real-ESRGAN animevideov3: twice or four times the pixels a side, for drawings and icons.

Paper: Wang et al., "Real-ESRGAN" (arXiv 2107.10833). The network, SRVGGNetCompact, is a chain of
3x3 convolutions with PReLU; it adds detail D to the enlarged picture, `large = nearest4(x) + D(x)`.

The published 2x network has the very weights of the 4x one, and halves its result; so does this.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.models.pictures import Pixels, closed, opened, sample
from swell.sdk.context import Cancelled, Item
from swell.sdk.media import Image, Within
from swell.sdk.model import Model

Factor = Literal[2, 4]
#: The network's own factor.
FACTOR: Final = 4
#: Of the picture's longer side: more would take minutes.
LARGEST_PX: Final = 1024
#: A tile and the margin around it that its pixels can see: 18 convolutions reach 18 px.
TILE_PX, MARGIN_PX = 192, 18


class Upscaler:
    """The network alone.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._session = session("upscale.onnx", threads)

    def tiles(self, pixels: Pixels, factor: Factor = FACTOR) -> Iterator[tuple[int, int, Pixels]]:
        """Yield enlarged tiles, each with its place in the large picture.

        Shapes: pixels (H, W, 3) uint8 sRGB -> (top, left, (factor h, factor w, 3) uint8).
        """
        height, width = pixels.shape[:2]
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
                y, x = max(top - MARGIN_PX, 0), max(left - MARGIN_PX, 0)
                seen = pixels[y : bottom + MARGIN_PX, x : right + MARGIN_PX]
                batch = seen.transpose(2, 0, 1)[None].astype(np.float32) / 255
                large = self._session.run(None, {"picture": batch})[0][0]
                large = large[
                    :,
                    (top - y) * FACTOR : (bottom - y) * FACTOR,
                    (left - x) * FACTOR : (right - x) * FACTOR,
                ]
                large = _halved(large.clip(0, 1)) if factor == 2 else large.clip(0, 1)
                tile = (large * 255).round().astype(np.uint8).transpose(1, 2, 0)
                yield top * factor, left * factor, tile

    def __call__(self, pixels: Pixels, factor: Factor = FACTOR) -> Pixels:
        """Enlarge a whole picture. Shapes: (H, W, 3) uint8 sRGB -> (factor H, factor W, 3)."""
        height, width = pixels.shape[:2]
        large = np.empty((height * factor, width * factor, 3), np.uint8)
        for top, left, tile in self.tiles(pixels, factor):
            large[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return large


def _halved(large: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of 2 x 2 pixels. Shapes: (C, 2H, 2W) -> (C, H, W)."""
    channels, height, width = large.shape
    fields = large.reshape(channels, height // 2, 2, width // 2, 2)
    means: NDArray[np.float32] = fields.mean((2, 4))
    return means


class Upscale(Model):
    """Enlarge a picture two or four times per side, with crisp edges.

    Made for drawings, icons and animation. On photographs it smooths skin and texture.

    | | |
    |---|---|
    | network | Real-ESRGAN `realesr-animevideov3`, x4, 0.6 M parameters; x2 is its result halved |
    | licence of the weights | BSD-3-Clause, (c) 2021 Xintao Wang |
    | input | up to 1024 px on the longer side; transparency is kept |
    | time | 0.24 s for 128 x 128, 1.2 s for 256 x 256 on one CPU core |
    | memory | 150 MB |

    Nothing was trained for Swell: the published weights were converted to ONNX.
    """

    name = "swell/upscale"
    licence = "BSD-3-Clause"
    credits = "Real-ESRGAN `realesr-animevideov3`, (c) 2021 Xintao Wang."
    memory_bytes = 150_000_000
    speed = (
        Speed("one core of an AMD EPYC", "128 x 128", 0.25, "2026-11-25"),
        Speed("one core of an AMD EPYC", "256 x 256", 1.27, "2026-11-25"),
    )
    samples = {
        "a drawing of 64 px": "samples/upscale-fox-before.webp",
        "the drawing, enlarged four times": "samples/upscale-fox.webp",
        "a photograph of 64 px": "samples/upscale-photograph-before.webp",
        "the photograph, enlarged four times": "samples/upscale-photograph.webp",
    }
    Output = Image
    files = (weights("upscale.onnx"),)
    examples = ({"image": sample(), "factor": 2},)

    class Input(BaseModel):
        """What to enlarge."""

        image: Annotated[
            Image,
            Within(most_px=LARGEST_PX),
            Field(title="Picture", description="Up to 1024 px a side."),
            ui.image(),
        ]
        factor: Annotated[
            Factor, Field(title="Factor", description="Factor for width and height.")
        ] = FACTOR

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._upscaler: Upscaler | None = None

    def load(self, device: str) -> None:
        """Read the weights. The network runs on the CPU; `device` is ignored."""
        self._upscaler = Upscaler(self._threads)

    def run(self, items: list[Item[Any]]) -> list[Image | Exception]:
        """Enlarge each picture by itself: a batch gains nothing here."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> Image | Exception:
        assert self._upscaler is not None, "load() comes first"
        pixels, alpha = opened(item.input.image)
        height, width = pixels.shape[:2]
        factor = item.input.factor
        large = np.empty((height * factor, width * factor, 3), np.uint8)
        total = -(-height // TILE_PX) * -(-width // TILE_PX)
        for done, (top, left, tile) in enumerate(self._upscaler.tiles(pixels, factor), 1):
            large[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            item.progress(done, total)
            if item.cancelled:
                return Cancelled()
        return Image(closed(large, alpha))
