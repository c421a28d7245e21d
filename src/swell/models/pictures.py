"""Pictures as networks take them: upright, sRGB, with their transparency apart."""

import base64
from typing import Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from swell.models.onnx_sessions import weights
from swell.sdk.image_orientation import upright
from swell.sdk.media import Image, Within

Pixels = NDArray[np.uint8]

#: Of the pictures that the built-in models take: more than cameras of telephones make, as a rule,
#: and decoded no more than 160 MB.
LIMITS: Final = Within(most_pixels=40_000_000)


def parted(image: Image) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
    """Return a picture's colours and, where it has any, its transparency; upright.

    Both may be changed: none is the picture that was given.
    """
    picture = upright(image)
    if not picture.has_transparency_data:
        is_given = picture is image.source
        colours = picture.convert("RGB") if is_given or picture.mode != "RGB" else picture
        return colours, None
    whole = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    return whole.convert("RGB"), whole.getchannel("A")


def opened(image: Image) -> tuple[Pixels, Pixels | None]:
    """Return a picture's colours and, where it has any, its transparency; upright.

    Shapes: (H, W, 3) uint8 sRGB, and (H, W) uint8, 255 for opaque, or None.
    """
    colours, clear = parted(image)
    return np.asarray(colours), None if clear is None else np.asarray(clear)


def closed(colours: Pixels, alpha: Pixels | None = None) -> PIL.Image.Image:
    """Return a picture; transparency of another size is resized to that of the colours.

    Shapes: colours (H, W, 3) uint8 sRGB, alpha (h, w) uint8.
    """
    picture = PIL.Image.fromarray(np.ascontiguousarray(colours))
    if alpha is not None:
        clear = PIL.Image.fromarray(alpha)
        picture.putalpha(clear.resize(picture.size, PIL.Image.Resampling.BICUBIC))
    return picture


def resized(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
    """Return the picture at another size, by Lanczos. Shapes: (H, W, 3) or (H, W) uint8."""
    if pixels.shape[:2] == (height_px, width_px):
        return pixels
    picture = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((width_px, height_px), PIL.Image.Resampling.LANCZOS))


def sample() -> str:
    """Return a small portrait as a data URI, for examples of models that take a picture."""
    data = base64.b64encode(weights("portrait.webp").read_bytes()).decode()
    return f"data:image/webp;base64,{data}"
