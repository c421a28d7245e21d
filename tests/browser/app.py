"""The web app in a browser: sign in, and what every page is held to."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import BrowserContext, Page, expect

__all__ = ["AXE", "SIZES", "App", "breaches", "watched"]

ROOT: Final = Path(__file__).resolve().parents[2]

#: The checker of accessibility, as npm brings it.
AXE: Final = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"

#: Width and height of what pages are looked at on, in px.
SIZES: Final = {"phone": (390, 844), "desk": (1280, 900)}


@dataclass(frozen=True)
class App:
    """The web app of a running Swell."""

    url: str
    key: str

    def open(self, page: Page, path: str = "/", **kept: Any) -> None:
        """Go to a page of the app, signed in; `kept` is what the browser keeps, such as `theme`."""
        values = {"key": self.key, "language": "en", **kept}
        page.add_init_script(
            "if (!sessionStorage.seeded) { sessionStorage.seeded = 1; const kept = "
            f"{values!r}; for (const name in kept) "
            "localStorage.setItem('swell.' + name, JSON.stringify(kept[name])); }"
        )
        page.goto(f"{self.url}/#{path}")
        expect(page.locator("main")).to_be_visible()
        expect(page.get_by_text("Loading", exact=True)).to_have_count(0)


def breaches(page: Page) -> list[str]:
    """Return what of a page is not accessible, by rules of WCAG 2.2 A and AA and best practices.

    It is not run as a script of the page, whose policy takes none from elsewhere.
    """
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    return [
        f"{each['id']}: {each['help']}: {node['target']} {node['html'][:120]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


@contextlib.contextmanager
def watched(context: BrowserContext) -> Iterator[Page]:
    """A page; whatever it says that went wrong fails the test."""
    opened, wrong = context.new_page(), list[str]()
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    assert wrong == [], wrong
