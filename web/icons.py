"""Draws the icons of home screens from `src/icon.svg`: `python web/icons.py`.

They go into `public/assets`, where the manifest (`src/app.webmanifest`) names them. Browsers keep
files of that folder for a year: give a changed icon a new name.
"""

import io
import shutil
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import sync_playwright

_WEB: Final = Path(__file__).resolve().parent
_FOLDER: Final = _WEB / "public" / "assets"

#: Name → side in px, and whether the icon fills its square: systems cut those to their own shape.
_ICONS: Final = {
    "icon-192.png": (192, False),
    "icon-512.png": (512, False),
    "icon-full-512.png": (512, True),
    "icon-touch-180.png": (180, True),
}


def main() -> None:
    """Write one PNG for each."""
    drawing = (_WEB / "src" / "icon.svg").read_text("utf-8")
    # The mark stays within the middle 80 %, which every system shows.
    full = drawing.replace('rx="9" ', "").replace(
        'stroke-linecap="round">',
        'stroke-linecap="round" transform="translate(3.2 3.2) scale(.8)">',
    )
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-background-networking"],
        )
        for name, (side, is_full) in _ICONS.items():
            page = browser.new_page(viewport={"width": side, "height": side})
            page.set_content(
                f"<style>body{{margin:0}}svg{{display:block;width:{side}px}}</style>"
                + (full if is_full else drawing)
            )
            png = page.screenshot(omit_background=True)
            drawn = Image.open(io.BytesIO(png)).quantize(128, Image.Quantize.FASTOCTREE)
            drawn.save(_FOLDER / name, optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
