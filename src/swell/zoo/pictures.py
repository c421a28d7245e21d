"""Pictures as networks take them: upright, sRGB, with their transparency apart."""

import base64

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from swell.model import Image
from swell.zoo.embedded import weights

__all__ = ["Pixels", "closed", "opened", "resized", "sample"]

Pixels = NDArray[np.uint8]


def opened(image: Image) -> tuple[Pixels, Pixels | None]:
    """Return a picture's colours and, where it has any, its transparency.

    Cameras write how they were held beside the picture: it is turned upright.

    Shapes: (H, W, 3) uint8 sRGB, and (H, W) uint8, 255 for what is solid, or None.
    """
    picture = PIL.ImageOps.exif_transpose(image.pil())
    if picture.mode.startswith("I"):
        picture = _in_8_bits(picture)
    if not picture.has_transparency_data:
        return np.asarray(picture.convert("RGB")), None
    pixels = np.asarray(picture.convert("RGBA"))
    return pixels[..., :3], pixels[..., 3]


def _in_8_bits(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a grey picture of 16 bits in 8; Pillow itself would make nearly all of it white."""
    values = np.asarray(picture).astype(np.int64)
    most = 65535 if np.any(values > 255) else 255
    return PIL.Image.fromarray((values.clip(0, most) * 255 // most).astype(np.uint8))


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
