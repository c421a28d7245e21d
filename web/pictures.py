"""Takes pictures of all of the web app, light and dark, on a desk and a phone: `make web-pictures`.

`python web/pictures.py FOLDER [PART …]` starts servers of its own, one with pictures and failures
and one that is empty, and takes every view of `views.py`, or those whose names hold a PART. In the
folder there is then a picture of each, and sheets on which all are seen at once.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, sync_playwright
from seeded import Seeded, empty, full
from views import SIZES, THEMES, VIEWS, View, answering, context_of

#: Width of one picture on a sheet, in px, and how many stand beside each other.
_WIDE: Final = {"desk": 560, "phone": 220}
_ACROSS: Final = {"desk": 3, "phone": 8}
_MARGIN_PX: Final = 12
_LINE_PX: Final = 16


def main(folder: str, *parts: str) -> None:
    """Take them all."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in VIEWS if not parts or any(part in each.name for part in parts)]
    with _servers() as servers, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        failed = [
            f"{view.name} {size} {theme}: {str(error).splitlines()[0]}"
            for size in SIZES
            for theme in THEMES
            for view in chosen
            if size in view.sizes
            and (error := _take(browser, servers, view, (size, theme), out)) is not None
        ]
        browser.close()
    for size in SIZES:
        for theme in THEMES:
            _sheet(out, [each for each in chosen if size in each.sizes], size, theme)
    print(f"{out}/sheet-*.png")
    if failed:
        sys.exit("\n".join(failed))


@contextlib.contextmanager
def _servers() -> Iterator[Mapping[str, Seeded]]:
    with tempfile.TemporaryDirectory(prefix="swell-pictures-") as name:
        folders = Path(name) / "full", Path(name) / "empty"
        for each in folders:
            each.mkdir()
        with full(folders[0]) as filled, empty(folders[1]) as blank:
            yield {"full": filled, "broken": filled, "silent": filled, "empty": blank}


def _take(
    browser: Browser, servers: Mapping[str, Seeded], view: View, how: tuple[str, str], out: Path
) -> Exception | None:
    """Take one picture; return what went wrong."""
    size, theme = how
    server = servers[view.server]
    context = context_of(browser, server, view, size, theme)
    page = context.new_page()
    wrong = None
    with answering(page, view):
        try:
            view.open(page, server)
            page.wait_for_timeout(300)
        except Exception as error:
            wrong = error
        page.screenshot(path=out / f"{view.name}-{size}-{theme}.png")
    context.close()
    return wrong


def _sheet(out: Path, views: list[View], size: str, theme: str) -> None:
    """Lay pictures of a size and theme out, with their names above."""
    width, across = _WIDE[size], _ACROSS[size]
    height = width * SIZES[size][1] // SIZES[size][0]
    rows = -(-len(views) // across)
    cell = width + _MARGIN_PX, height + _MARGIN_PX + _LINE_PX
    sheet = Image.new("RGB", (across * cell[0], rows * cell[1]), "#777777")
    pen = ImageDraw.Draw(sheet)
    for at, view in enumerate(views):
        x, y = (at % across) * cell[0] + _MARGIN_PX // 2, (at // across) * cell[1]
        pen.text((x, y + 2), view.name, fill="white")
        with Image.open(out / f"{view.name}-{size}-{theme}.png") as picture:
            sheet.paste(picture.convert("RGB").resize((width, height)), (x, y + _LINE_PX))
    sheet.save(out / f"sheet-{size}-{theme}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
