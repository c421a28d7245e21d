"""Rotates pictures by EXIF and converts them to 8 bits a channel, for networks and encoders."""

from typing import Final

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from swell.sdk.media import Image

#: Number of 16-bit pixels that are converted at once.
_BAND_PIXELS: Final = 1_000_000


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
    width, height = picture.size
    rows = max(1, _BAND_PIXELS // width)
    bands = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    brightest = max(int(np.max(np.asarray(picture.crop(band)))) for band in bands)
    most = 65535 if brightest > 255 else 255
    small = PIL.Image.new("L", picture.size)
    for band in bands:
        values = np.asarray(picture.crop(band)).astype(np.int64)
        grey = (values.clip(0, most) * 255 // most).astype(np.uint8)
        small.paste(PIL.Image.fromarray(grey), band)
    return small
