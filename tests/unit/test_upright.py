"""Pictures of cameras, scanners and models of depth, as networks and encoders take them."""

import io

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from swell.runtime.ipc_messages import Pixels
from swell.runtime.task_run import _pack
from swell.sdk.image_orientation import in_8_bits, upright
from swell.sdk.media import Image

RAMP = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)


def encoded(picture: PIL.Image.Image, kind: str = "png", **more: object) -> bytes:
    """Return a picture as a file."""
    made = io.BytesIO()
    picture.save(made, kind, **more)
    return made.getvalue()


def on_its_side() -> bytes:
    """Return a picture whose left half is red, held so that this is its upper half."""
    picture = PIL.Image.new("RGB", (8, 4))
    picture.paste((255, 0, 0), (0, 0, 4, 4))
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    return encoded(picture, exif=exif)


def pixels(file: object) -> PIL.Image.Image:
    assert isinstance(file, Pixels)
    return PIL.Image.frombytes(file.mode, (file.width, file.height), file.data)


def test_a_picture_is_turned_as_it_was_held() -> None:
    picture = upright(Image(on_its_side()))
    assert picture.size == (4, 8)
    assert [picture.getpixel((2, y)) for y in (0, 7)] == [(255, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize("most", [65535, 200])
def test_shades_of_16_bits_stay_apart(most: int) -> None:
    values = (RAMP.astype(np.int64) * most // 65535).astype(np.uint16)
    small = in_8_bits(PIL.Image.fromarray(values))
    assert small.mode == "L"
    whole = 65535 if most > 255 else 255
    np.testing.assert_array_equal(np.asarray(small), values.astype(np.int64) * 255 // whole)


@pytest.mark.parametrize("is_file", [True, False])
def test_a_result_of_16_bits_keeps_its_shades(is_file: bool) -> None:
    picture = PIL.Image.fromarray(RAMP)
    image = Image(encoded(picture), format="webp") if is_file else Image(picture)
    got = pixels(_pack(image, 0, {}))
    np.testing.assert_array_equal(np.asarray(got), RAMP.astype(np.int64) * 255 // 65535)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_result_stays_clear_where_it_was(mode: str) -> None:
    picture = PIL.Image.new(mode, (2, 1))
    clear: object = 9
    if mode == "P":
        picture.putpalette([200, 0, 0] * 9 + [0, 200, 0])
    picture.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 9)
    picture.info["transparency"] = (9, 9, 9) if mode == "RGB" else clear
    got = pixels(_pack(Image(picture), 0, {}))
    assert got.mode == "RGBA"
    assert np.asarray(got)[0, :, 3].tolist() == [255, 0]


def test_a_result_that_came_as_a_file_is_as_it_was_held() -> None:
    got = pixels(_pack(Image(on_its_side(), format="webp"), 0, {}))
    assert got.size == (4, 8)
    assert got.getpixel((2, 0)) == (255, 0, 0)
    # What is asked for as it is stays that.
    as_it_is = _pack(Image(on_its_side()), 0, {})
    assert not isinstance(as_it_is, Pixels)
    assert as_it_is.data == on_its_side()
