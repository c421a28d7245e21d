"""Pictures beside each other on one sheet."""

import PIL.Image
import PIL.ImageChops
import pytest
from pydantic import ValidationError

from swell.sdk.context import Item, Reject
from swell.sdk.media import Image
from swell_models.contact_sheet import ContactSheet, sheet


def plain(colour: str, width: int = 20, height: int = 20) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (width, height), colour)


COLOURS = ("red", "lime", "blue", "black", "white")
PIXELS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)]


def test_pictures_lie_row_by_row_in_cells_of_one_size() -> None:
    made = sheet([plain(each) for each in COLOURS], 3, 64)
    assert made.size == (2 + 3 * 66, 2 + 2 * 66)
    middles = [(2 + column * 66 + 32, 2 + row * 66 + 32) for row in (0, 1) for column in (0, 1, 2)]
    assert [made.getpixel(middle) for middle in middles[:5]] == PIXELS
    assert made.getpixel(middles[5]) == (255, 255, 255), "the last cell is paper"


def test_a_picture_keeps_its_shape_and_what_is_clear_shows_grey() -> None:
    wide = sheet([plain("red", 40, 20)], 1, 64)
    assert wide.getpixel((34, 2 + 8)) == (238, 238, 238)
    assert wide.getpixel((34, 34)) == (255, 0, 0)
    clear = sheet([PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0))], 1, 64)
    assert clear.getpixel((34, 34)) == (238, 238, 238)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["labels", "column_labels", "row_labels"])
def test_words_stand_where_they_belong_and_are_cut_where_they_are_long(where: str) -> None:
    pictures = [plain("red")] * 4
    short = sheet(pictures, 2, 96, **{where: ["fox", "cat"]})
    long = sheet(pictures, 2, 96, **{where: ["fox" * 200, "cat"]})
    bare = sheet(pictures, 2, 96, **{where: [" ", " "]})
    assert short.size == long.size == bare.size
    for made in (short, long):
        box = PIL.ImageChops.difference(made, bare).getbbox()
        assert box is not None
        written = made.crop(box)
        red = sum(colour == (255, 0, 0) for _, colour in written.getcolors(1 << 16) or [])
        if where == "row_labels":
            assert (box[2] <= 96 // 2 + 3, red) == (True, 0)
        elif where == "column_labels":
            assert (box[3] <= 3 + 16, red) == (True, 0)
        else:
            assert box[1] >= 3 + 96


def test_a_model_chooses_columns_and_refuses_what_is_too_large() -> None:
    model = ContactSheet()
    model.load("cpu")
    few = ContactSheet.Input(images=[Image(plain(each)) for each in COLOURS], cell=64)
    many = ContactSheet.Input(images=[Image(plain("red"))] * 100, cell=1024)
    made, refused = model.run([Item(few), Item(many)])
    assert isinstance(made, Image)
    assert made.pil().size == (2 + 3 * 66, 2 + 2 * 66)
    assert isinstance(refused, Reject)
    assert "cell" in str(refused)


@pytest.mark.parametrize("wrong", [{"images": []}, {"cell": 8}, {"columns": 0}, {"rows": 2}])
def test_inputs_that_make_no_sense_are_refused(wrong: dict) -> None:
    asked = {"images": [Image(plain("red"))], **wrong}
    with pytest.raises(ValidationError):
        ContactSheet.Input(**asked)
