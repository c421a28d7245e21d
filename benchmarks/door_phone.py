"""Is each new picture in view, on a phone and on a desktop, without a touch?

    python benchmarks/door_phone.py

A real `swell up` with the built-in models and a real Chromium, at 390x844, 360x640 and 1440x900.
The browser opens the sign-in link of this machine, so no key is typed: the one that `swell up`
prints, or one made from the key in the data folder's `access.json`. Then eleven prompts are typed,
each sent with Enter: the first from a cold load, ten in a row after it. The script neither scrolls
nor touches. A picture counts as in view if, 300 ms after the page shows that its task has ended,
all of it is within the window and nothing covers its corners or its middle. The last line is one
JSON object, whose value is the number of pictures that were not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from commandline import Swell, ready_line, stop

#: Width and height, and whether it is a phone.
SIZES = {"phone": (390, 844, True), "small phone": (360, 640, True), "desktop": (1440, 900, False)}
PROMPTS = (
    "a red fox in the snow",
    "a green frog",
    "a blue whale",
    "a yellow sunflower",
    "an owl at night",
    "a rocket",
    "a castle at sunset",
    "a penguin",
    "a slice of pizza",
    "a butterfly",
    "a sailing boat",
)
PICTURE_S = 90

#: Judges each picture 300 ms after the page shows that its task has ended.
_JUDGE = """
window.judged = {};
const seen = new Set();
function judge(article) {
  const image = article.querySelector("img.made");
  const { top, left, bottom, right } = (image ?? article).getBoundingClientRect();
  const inside = top >= 0 && left >= 0 && bottom <= innerHeight && right <= innerWidth;
  const points = [[left + 24, top + 24], [right - 24, top + 24], [left + 24, bottom - 24],
    [right - 24, bottom - 24], [(left + right) / 2, (top + bottom) / 2]];
  const bare = points.every(([x, y]) => article.contains(document.elementFromPoint(x, y)));
  window.judged[article.dataset.job] = {
    inView: Boolean(image) && inside && bare,
    box: [left, top, right, bottom].map(Math.round),
    window: [innerWidth, innerHeight],
  };
}
new MutationObserver(() => {
  for (const each of document.querySelectorAll("article[data-job][aria-busy=true]"))
    seen.add(each.dataset.job);
  for (const each of document.querySelectorAll("article[data-job][aria-busy=false]")) {
    if (!seen.delete(each.dataset.job)) continue;
    setTimeout(() => judge(each), 300);
  }
}).observe(document, { subtree: true, childList: true, attributes: true });
"""


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if not (machine.ROOT / "web" / "dist" / "index.html").is_file():
        sys.exit("the web app is not built: make web")
    with machine.folder("door-phone") as folder, sync_playwright() as playwright:
        swell = Swell(Path(folder))
        process = swell.start("up", "--json", "--port", "0")
        try:
            link = sign_in_link(ready_line(process, swell.folder), swell.folder / ".swell")
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-background-networking"],
            )
            detail = {name: created(browser, link, *size) for name, size in SIZES.items()}
            browser.close()
        finally:
            stop(process)
    value = sum(each["not_in_view"] for each in detail.values())
    machine.report(float(value), detail, ok=value == 0)
    return 0


def sign_in_link(ready: dict[str, Any], data: Path) -> str:
    """What `swell up` prints, or the same made from the key that it keeps for this machine."""
    printed = [each for each in ready.values() if isinstance(each, str) and "/#/key/" in each]
    if printed:
        return printed[0]
    access = json.loads((data / "access.json").read_text(encoding="utf-8"))
    return f"{ready['url']}/#/key/{access['local_key']}"


def created(browser: Browser, link: str, width: int, height: int, is_phone: bool) -> dict[str, Any]:
    """Type prompts one after another; return how many pictures were not in view."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        is_mobile=is_phone,
        has_touch=is_phone,
        locale="en-GB",
    )
    context.add_init_script(_JUDGE)
    page = context.new_page()
    begun = time.monotonic()
    page.goto(link)
    expect(page.locator("textarea[name=prompt]")).to_be_visible(timeout=60_000)
    usable_s = time.monotonic() - begun
    # A page on a desktop has the focus in its prompt; on a phone a keyboard would cover the page.
    if is_phone:
        page.keyboard.press("/")
    judged: list[dict[str, Any]] = []
    first_s = 0.0
    for prompt in PROMPTS:
        page.keyboard.type(prompt)
        page.keyboard.press("Enter")
        judged.append({"prompt": prompt} | _judged(page, len(judged) + 1))
        first_s = first_s or time.monotonic() - begun
        machine.say(f"{width}x{height}: {judged[-1]}")
    context.close()
    missed = [each for each in judged if not each["inView"]]
    return {
        "not_in_view": len(missed),
        "pictures": len(judged),
        "usable_s": round(usable_s, 2),
        "first_picture_s": round(first_s, 2),
        "missed": missed,
    }


def _judged(page: Page, count: int) -> dict[str, Any]:
    """Wait for a picture's end; one that never comes is not in view."""
    for _ in range(PICTURE_S * 10):
        found: list[dict[str, Any]] = page.evaluate("Object.values(window.judged)")
        if len(found) >= count:
            return found[-1]
        page.wait_for_timeout(100)
    return {"inView": False, "never": True}


if __name__ == "__main__":
    sys.exit(main())
