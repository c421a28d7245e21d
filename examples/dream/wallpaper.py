"""Two models of the app: a square picture becomes as tall as a phone, to the pixel.

They are typed functions, and need nothing but Pillow and NumPy.
"""

from typing import Annotated, Final

import numpy as np
import PIL.Image
import PIL.ImageFilter
from numpy.typing import NDArray
from pydantic import Field

import swell

__all__ = ["canvas", "clouds", "extended", "fit"]

Pixels = NDArray[np.uint8]

#: Of the longer side before it is enlarged, in px: painting more takes long on a CPU.
LONG_PX: Final = 768
#: The picture stands a little above the middle, where no phone has its buttons.
PLACE: Final = 0.45
#: Part of the picture's side over which it fades into what is around it.
FADE: Final = 0.16
#: From one light place to the next around the picture.
CLOUD_PX: Final = 36

Side = Annotated[int, Field(ge=240, le=4096)]


def extended(square: Pixels, length: int) -> Pixels:
    """Return a picture made taller: its upper and lower edge go on, ever smoother.

    Args:
        square: Shapes: (S, S, 3) uint8 sRGB.
        length: Rows of what is returned, S at least.
    """
    side = len(square)
    above = round((length - side) * PLACE)
    below = length - side - above
    padded = np.pad(square, ((above, below), (0, 0), (0, 0)), mode="edge")
    blurred = PIL.Image.fromarray(padded).filter(PIL.ImageFilter.GaussianBlur(side * 0.14))
    around = np.asarray(blurred) + clouds(length, side)[..., None]
    rows = np.arange(length)
    # 0 in the middle of the picture, 1 beyond its edges; smooth in between.
    distance = np.maximum(above + FADE * side - rows, rows - (above + side - FADE * side))
    away = np.clip(distance / (FADE * side), 0, 1)[:, None, None]
    away = away * away * (3 - 2 * away)
    mixed = padded * (1 - away) + around * away
    return mixed.clip(0, 255).round().astype(np.uint8)


def clouds(height: int, width: int) -> NDArray[np.float32]:
    """Return soft lights and darks, the same each time: a style needs something to paint.

    Shapes: (height, width), some 16 of 255 up and down.
    """
    few = np.random.default_rng(0).normal(0, 16, (-(-height // CLOUD_PX), -(-width // CLOUD_PX)))
    soft = PIL.Image.fromarray(few.astype(np.float32)).resize(
        (width, height), PIL.Image.Resampling.BICUBIC
    )
    return np.asarray(soft)


@swell.model("dream/canvas", licence="Apache-2.0", memory_bytes=60_000_000)
def canvas(
    image: Annotated[swell.Image, swell.Within(most_px=2048)],
    width: Side = 1170,
    height: Side = 2532,
) -> swell.Image:
    """Make a square picture as tall or as wide as a screen: its edges go on, ever smoother."""
    is_tall = height >= width
    short, long = sorted((width, height))
    side = round(LONG_PX * short / long)
    square = image.pil().convert("RGB").resize((side, side), PIL.Image.Resampling.LANCZOS)
    pixels = np.asarray(square)
    if is_tall:
        return swell.Image(extended(pixels, LONG_PX))
    turned = extended(np.ascontiguousarray(pixels.swapaxes(0, 1)), LONG_PX)
    return swell.Image(np.ascontiguousarray(turned.swapaxes(0, 1)))


@swell.model("dream/fit", licence="Apache-2.0", memory_bytes=120_000_000)
def fit(
    image: Annotated[swell.Image, swell.Within(most_px=4096)],
    width: Side = 1170,
    height: Side = 2532,
) -> swell.Image:
    """Bring a picture to a screen's size to the pixel; what is too wide or too tall is cut."""
    picture = image.pil().convert("RGB")
    scale = max(width / picture.width, height / picture.height)
    wide, tall = width / scale, height / scale
    left, top = (picture.width - wide) / 2, (picture.height - tall) / 2
    box = (left, top, left + wide, top + tall)
    sized = picture.resize((width, height), PIL.Image.Resampling.LANCZOS, box=box)
    return swell.Image(sized, format="webp")
