"""Takes pictures of every page of the web app, light and dark, on a desk and on a phone.

`python web/screenshots.py URL KEY FOLDER [PATH …]`, with a Swell that runs at URL. Without paths
all pages of `src/lib/router.svelte.ts` are taken that need nothing in their address.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

_SIZES: Final = {"desk": (1280, 860), "phone": (390, 844)}
_ROUTES: Final = Path(__file__).parent / "src" / "lib" / "router.svelte.ts"


def main(url: str, key: str, folder: str, *paths: str) -> None:
    """Take them all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    wanted = paths or re.findall(r'path: "(/[^":]*)"', _ROUTES.read_text(encoding="utf-8"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for path in wanted:
            for size in _SIZES:
                for theme in ("light", "dark"):
                    _take(browser, f"{url}/#{path}", key, Path(folder), (size, theme))
        browser.close()


def _take(browser: Browser, url: str, key: str, folder: Path, how: tuple[str, str]) -> None:
    size, theme = how
    width, height = _SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=2 if size == "phone" else 1,
        has_touch=size == "phone",
        reduced_motion="reduce",
    )
    kept = {"key": key, "theme": theme, "language": "en"}
    page = context.new_page()
    page.add_init_script(
        f"for (const [name, value] of Object.entries({json.dumps(kept)})) "
        "localStorage.setItem('swell.' + name, JSON.stringify(value))"
    )
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(400)
    name = url.rpartition("#/")[2].split("?")[0].replace("/", "-") or "create"
    page.screenshot(path=folder / f"{name}-{size}-{theme}.png")
    context.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
