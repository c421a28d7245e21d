"""Rotates pictures by EXIF and converts them to 8 bits a channel, for networks and encoders."""

from typing import cast

import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from swell.sdk.media import Image


def upright(image: Image) -> PIL.Image.Image:
    """Return a picture with 8 bits a channel, rotated by its EXIF orientation.

    Do not change the result: it may be the given picture itself.
    """
    picture = image.pil()
    picture.load()  # Some formats store the orientation at the end.
    turned = picture.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1
    # `exif_transpose` always copies.
    return in_8_bits(PIL.ImageOps.exif_transpose(picture) if turned else picture)


def in_8_bits(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Return a grey picture of 16 bits in 8 bits, and other pictures unchanged.

    Pillow's own conversion clips instead of scaling, so that nearly everything is white.
    """
    if not picture.mode.startswith("I"):
        return picture
    wide = picture.convert("I")
    _, brightest = cast("tuple[int, int]", wide.getextrema())
    if brightest > 255:
        # The offset is for multiples of 257, which may lie just below a whole number.
        wide = wide.point(lambda value: value / 257 + 0.001)
    return wide.convert("L")
