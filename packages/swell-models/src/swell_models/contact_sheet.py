"""Pictures beside each other on one sheet, with words beside them: to compare and to choose."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Final

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.pictures import LIMITS, sample
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.image_orientation import upright
from swell.sdk.media import Image
from swell.sdk.model import Model

#: Pixels of a sheet at most.
_MOST_PIXELS: Final = 64_000_000

_PAPER: Final = "white"
_INK: Final = "#333333"
_BEHIND: Final = "#eeeeee"

#: Longest word beside a picture or a row, in characters.
_Words = Annotated[str, Field(max_length=80)]


class ContactSheet(Model):
    """Arrange pictures on one sheet, row by row, with captions and headings.

    For sets, variations and grids over two parameters. Use the pictures of another stage
    (`stages.draw.artifacts`) or send your own. Each is scaled to its cell and keeps its shape.

    | | |
    |---|---|
    | network | none |
    | input | 1 to 100 pictures of up to 40 million pixels; a sheet has 64 million at most |
    | text | Latin letters, in Pillow's own font; long texts are cut |
    | time | 0.04 s for six pictures of 512 px, cells of 256 px, on one CPU core |
    | memory | 400 MB for the largest |
    """

    name = "swell/contact-sheet"
    licence = "Apache-2.0"
    credits = "Pillow, with its font Aileron by Sora Sagano (CC0)."
    memory_bytes = 400_000_000
    speed = (Speed("one core of an AMD EPYC", "six pictures of 512 px", 0.04, "2026-11-26"),)
    samples = {"six portraits with their scenes": "samples/contact-sheet.webp"}
    Output = Image
    examples = ({"images": [sample(), sample()], "labels": ["one", "another"]},)

    class Input(BaseModel):
        """What to lay out."""

        model_config = ConfigDict(extra="forbid")
        images: Annotated[
            list[Annotated[Image, LIMITS]],
            Field(min_length=1, max_length=100, title="Pictures", description="Row by row."),
            ui.image(),
        ]
        columns: Annotated[
            int | None,
            Field(ge=1, le=100, title="Columns", description="Leave empty for a square sheet."),
        ] = None
        cell: Annotated[
            int, Field(ge=32, le=1024, title="Side of a cell in px"), ui.slider(step=16)
        ] = 256
        labels: Annotated[list[_Words], Field(max_length=100, title="Captions, in order")] = []
        column_labels: Annotated[
            list[_Words], Field(max_length=100, title="Words above columns")
        ] = []
        row_labels: Annotated[list[_Words], Field(max_length=100, title="Words beside rows")] = []

    def run(self, items: list[Item[Any]]) -> list[Image | Exception]:
        """Lay out each sheet by itself."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> Image | Exception:
        if item.cancelled:
            return Cancelled()
        asked = item.input
        n = len(asked.images)
        columns = min(asked.columns or math.ceil(math.sqrt(n)), n)
        rows = math.ceil(n / columns)
        if columns * rows * asked.cell**2 > _MOST_PIXELS:
            return Reject(
                f"A sheet of {columns} by {rows} cells of {asked.cell} px is too large: make "
                "`cell` smaller, or send fewer pictures."
            )
        pictures = [upright(each) for each in asked.images]
        words = asked.labels, asked.column_labels, asked.row_labels
        return Image(sheet(pictures, columns, asked.cell, *words))


def sheet(
    pictures: Sequence[PIL.Image.Image],
    columns: int,
    cell_px: int,
    labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
) -> PIL.Image.Image:
    """Return pictures on one sheet.

    Args:
        pictures: Row by row.
        columns: How many are beside each other.
        cell_px: Side of the square that each is in.
        labels: Words under them.
        column_labels: Words above columns.
        row_labels: Words beside rows.
    """
    text_px = max(10, cell_px // 16)
    font = PIL.ImageFont.load_default(text_px)
    line, gap = round(1.6 * text_px), max(2, cell_px // 32)
    left = gap + (cell_px // 2 if row_labels else 0)
    top = gap + (line if column_labels else 0)
    wide, high = cell_px + gap, cell_px + gap + (line if labels else 0)
    rows = math.ceil(len(pictures) / columns)
    made = PIL.Image.new("RGB", (left + columns * wide, top + rows * high), _PAPER)
    draw = PIL.ImageDraw.Draw(made)

    def write(text: str, x: float, y: float, room_px: float, anchor: str) -> None:
        draw.text((x, y), _fitting(text, font, room_px), fill=_INK, font=font, anchor=anchor)

    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        x, y = left + column * wide, top + row * high
        _place(made, picture, x, y, cell_px)
        if number < len(labels):
            write(labels[number], x + cell_px / 2, y + cell_px + line / 2, cell_px, "mm")
    for column, text in enumerate(column_labels[:columns]):
        write(text, left + column * wide + cell_px / 2, top - line / 2, cell_px, "mm")
    for row, text in enumerate(row_labels[:rows]):
        write(text, left - gap, top + row * high + cell_px / 2, left - 2 * gap, "rm")
    return made


def _place(made: PIL.Image.Image, picture: PIL.Image.Image, x: int, y: int, cell_px: int) -> None:
    """Put a picture into its cell, as large as fits, over grey where it is clear."""
    made.paste(_BEHIND, (x, y, x + cell_px, y + cell_px))
    scale = cell_px / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # Large ones are made smaller by whole numbers first, in little memory.
    small = picture.convert("RGBA").resize(size, PIL.Image.Resampling.LANCZOS, reducing_gap=3)
    made.paste(small, (x + (cell_px - size[0]) // 2, y + (cell_px - size[1]) // 2), small)


def _fitting(text: str, font: Any, room_px: float) -> str:
    """Return as much of a line as has room, with three dots where it is cut."""
    plain = " ".join(text.split())
    if font.getlength(plain) <= room_px:
        return plain
    while plain and font.getlength(f"{plain}...") > room_px:
        plain = plain[:-1]
    return f"{plain}..."
