"""Real-ESRGAN animevideov3: four times the pixels, for drawings and icons.

Paper: Wang et al., "Real-ESRGAN" (arXiv 2107.10833). The network, SRVGGNetCompact, is a chain of
3x3 convolutions with PReLU; it adds detail D to the enlarged picture, `large = nearest4(x) + D(x)`.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from swell import ui
from swell.model import Cancelled, Image, Item, Model, Reject
from swell.zoo.embedded import session, weights

__all__ = ["Upscale", "Upscaler"]

FACTOR = 4
#: A tile and the margin around it that its pixels can see: 18 convolutions reach 18 px.
TILE_PX, MARGIN_PX = 192, 18


class Upscaler:
    """The network alone.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._session = session("upscale.onnx", threads)

    def tiles(self, pixels: NDArray[np.uint8]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Yield enlarged tiles, each with its place in the large picture.

        Shapes: pixels (H, W, 3) uint8 sRGB -> (top, left, (4h, 4w, 3) uint8).
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
                tile = (large.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
                yield top * FACTOR, left * FACTOR, tile

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge a whole picture. Shapes: (H, W, 3) uint8 sRGB -> (4H, 4W, 3)."""
        height, width = pixels.shape[:2]
        large = np.empty((height * FACTOR, width * FACTOR, 3), np.uint8)
        for top, left, tile in self.tiles(pixels):
            large[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        return large


class Upscale(Model):
    """Enlarge a picture four times, with crisp edges.

    Made for drawings, icons and animation. On photographs it smooths skin and texture.

    | | |
    |---|---|
    | network | Real-ESRGAN `realesr-animevideov3`, x4, 0.6 M parameters |
    | licence of the weights | BSD-3-Clause, (c) 2021 Xintao Wang |
    | input | up to 1024 px on the longer side; transparency is kept |
    | time | 0.2 s for 128 x 128 on one CPU core; it grows with the area |

    Nothing was trained for Swell: the published weights were converted to ONNX.
    """

    name = "swell/upscale"
    Output = Image
    files = (weights("upscale.onnx"),)

    class Input(BaseModel):
        """What to enlarge."""

        image: Annotated[
            Image, Field(title="Picture", description="Up to 1024 px a side."), ui.image()
        ]

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._upscaler: Upscaler | None = None

    def load(self, device: str) -> None:
        """Read the weights; the network runs on the CPU whatever `device` says."""
        self._upscaler = Upscaler(self._threads)

    def run(self, items: list[Item[Any]]) -> list[Image | Exception]:
        """Enlarge each picture by itself: a batch gains nothing here."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> Image | Exception:
        assert self._upscaler is not None, "load() comes first"
        picture = item.input.image.pil()
        if max(picture.size) > 1024:
            width, height = picture.size
            return Reject(f"The picture is {width} x {height} px: give 1024 px a side at most.")
        has_alpha = picture.has_transparency_data
        pixels = np.asarray(picture.convert("RGBA" if has_alpha else "RGB"))
        large = np.empty((pixels.shape[0] * FACTOR, pixels.shape[1] * FACTOR, 3), np.uint8)
        total = -(-pixels.shape[0] // TILE_PX) * -(-pixels.shape[1] // TILE_PX)
        for done, (top, left, tile) in enumerate(self._upscaler.tiles(pixels[..., :3]), 1):
            large[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
            item.progress(done, total)
            if item.cancelled:
                return Cancelled()
        result = PIL.Image.fromarray(large)
        if has_alpha:
            alpha = PIL.Image.fromarray(pixels[..., 3])
            result.putalpha(alpha.resize(result.size, PIL.Image.Resampling.BICUBIC))
        return Image(result)
