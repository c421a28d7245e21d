"""Is every page of the web app accessible, in both themes, on a desk and on a phone?

    python benchmarks/web_axe.py [PART …]

axe-core looks at every view of `web/views.py`, or those whose names hold a PART: all pages, with
pictures and without, with dialogs and menus open, refused, waiting, and for who is no operator.
All rules of WCAG 2.2 A and AA and best practices. It also looks whether anything sticks out of the
window. The last line is one JSON object whose value is what was found, views that did not open
among it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

import machine

sys.path.insert(0, str(machine.ROOT / "web"))
sys.path.insert(0, str(machine.ROOT / "tests" / "browser"))

from app import AXE, breaches
from seeded import Seeded, empty, full
from views import SIZES, THEMES, VIEWS, View, answering, context_of

#: A theme is painted with the next frame, and colours that change slowly are waited for.
_SHOW = """
async (theme) => {
  document.documentElement.dataset.theme = theme;
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  await painted();
  const changing = document.getAnimations().filter((each) => each instanceof CSSTransition);
  await Promise.all(changing.map((each) => each.finished.catch(() => 0)));
  await painted();
}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*")
    parts = parser.parse_args().parts
    if not AXE.is_file() or not (machine.ROOT / "web" / "dist" / "index.html").is_file():
        sys.exit("the web app is not built: make web")
    chosen = [each for each in VIEWS if not parts or any(part in each.name for part in parts)]
    found: list[str] = []
    looked = 0
    with machine.folder("web-axe") as folder, sync_playwright() as playwright:
        places = folder / "full", folder / "empty"
        for each in places:
            each.mkdir()
        with full(places[0]) as filled, empty(places[1]) as blank:
            machine.say("pictures are there")
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-background-networking"],
            )
            for size in SIZES:
                for view in (each for each in chosen if size in each.sizes):
                    server = blank if view.server == "empty" else filled
                    told = look(browser, server, view, size)
                    looked += len(THEMES)
                    found += told
                    machine.say(f"{view.name} {size}: {len(told)}")
            browser.close()
    detail: dict[str, Any] = {
        "views": len(chosen),
        "looked_at": looked,
        "found": found[:40],
        "axe": _version(),
    }
    machine.report(float(len(found)), detail, ok=not found)
    return 0


def look(browser: Browser, server: Seeded, view: View, size: str) -> list[str]:
    """Return what of a view is wrong, in both themes."""
    context = context_of(browser, server, view, size, THEMES[0])
    page = context.new_page()
    where = f"{view.name} {size}"
    try:
        with answering(page, view):
            view.open(page, server)
            found = []
            for theme in THEMES:
                page.evaluate(_SHOW, theme)
                found += [f"{where} {theme}: {each}" for each in breaches(page)]
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            return found + ([f"{where}: {wide} px too wide"] if wide > 0 else [])
    except Exception as error:
        return [f"{where} did not open: {str(error).splitlines()[0]}"]
    finally:
        context.close()


def _version() -> str:
    text = Path(AXE).read_text(encoding="utf-8")[:200]
    return next((word.strip("v") for word in text.split() if word[:1] == "v"), "?")


if __name__ == "__main__":
    sys.exit(main())
