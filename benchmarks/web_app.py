"""Is the web app small to load, and quick with 10,000 pictures?

    python benchmarks/web_app.py weight
    python benchmarks/web_app.py speed [--pictures 10000]

A real server and a real Chromium. `weight` is what the first load of the page for making pictures
fetches, as it comes over the wire where the server compresses it, and what Lighthouse looks at,
measured on a phone whose processor is four times slower. `speed` is how long the slowest of some
ninety interactions with a library takes until the next paint (the browser's own event timing), and
the 98th percentile that is called INP. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

import machine

sys.path.insert(0, str(machine.ROOT / "tests"))

from commandline import Swell, ready_line, stop

USER = "library"
#: Tasks of one request, and pictures of one task.
BATCH = 500
COUNT = 4

#: Notes how long interactions take, from the event until what comes of it is painted.
_NOTE = """
window.noted = [];
new PerformanceObserver((list) => {
  for (const each of list.getEntries())
    if (each.interactionId) window.noted.push([each.name, each.duration]);
}).observe({ type: "event", durationThreshold: 16, buffered: true });
"""

_VITALS = """
() => new Promise((tell) => {
  const told = { cls: 0, tbt_ms: 0 };
  new PerformanceObserver((list) => list.getEntries().forEach((e) => (told.lcp_ms = e.startTime)))
    .observe({ type: "largest-contentful-paint", buffered: true });
  new PerformanceObserver((list) => list.getEntries().forEach((e) => (told.cls += e.value)))
    .observe({ type: "layout-shift", buffered: true });
  new PerformanceObserver((list) =>
    list.getEntries().forEach((e) => (told.tbt_ms += Math.max(0, e.duration - 50))))
    .observe({ type: "longtask", buffered: true });
  const painted = performance.getEntriesByName("first-contentful-paint")[0];
  told.fcp_ms = painted ? painted.startTime : null;
  setTimeout(() => tell(told), 1500);
})
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["weight", "speed"])
    parser.add_argument("--pictures", type=int, default=10_000)
    asked = parser.parse_args()
    if not (machine.ROOT / "web" / "dist" / "index.html").is_file():
        sys.exit("the web app is not built: make web")
    with machine.folder("web-app") as folder, sync_playwright() as playwright:
        swell = Swell(Path(folder))
        process = swell.start("up", "--json", "--port", "0", "-m", "demo/*")
        try:
            ready = ready_line(process, swell.folder)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            if asked.what == "weight":
                value, detail = weight(browser, ready)
            else:
                value, detail = speed(browser, ready, asked.pictures)
            browser.close()
        finally:
            stop(process)
    machine.report(value, detail)
    return 0


def weight(browser: Any, ready: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """What the first load fetches, in kB (1,000 bytes), and how it feels on a slow phone."""
    loads = [_load(browser, ready) for _ in range(3)]
    first = loads[0]
    vitals = {
        name: round(statistics.median(load["vitals"][name] or 0 for load in loads), 3)
        for name in ("fcp_ms", "lcp_ms", "cls", "tbt_ms")
    }
    detail = {
        "files": first["files"],
        "requests": len(first["files"]),
        "elsewhere": first["elsewhere"],
        "phone_4x_slower": vitals,
    }
    return sum(first["files"].values()) / 1000, detail


def _load(browser: Any, ready: dict[str, Any]) -> dict[str, Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    _sign_in(page, ready["key"])
    client = context.new_cdp_session(page)
    client.send("Network.enable")
    client.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    names: dict[str, str] = {}
    files: dict[str, int] = {}
    elsewhere: list[str] = []

    def began(event: dict[str, Any]) -> None:
        url = event["request"]["url"]
        names[event["requestId"]] = url
        if not url.startswith((ready["url"], "data:", "blob:")):
            elsewhere.append(url)

    def ended(event: dict[str, Any]) -> None:
        url = names.get(event["requestId"], "")
        # What the API answers is not the app.
        if url.startswith(ready["url"]) and "/v1/" not in url:
            name = url.removeprefix(ready["url"])
            files[name] = files.get(name, 0) + int(event["encodedDataLength"])

    client.on("Network.requestWillBeSent", began)
    client.on("Network.loadingFinished", ended)
    page.goto(ready["url"] + "/")
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_timeout(1000)
    vitals = page.evaluate(_VITALS)
    context.close()
    return {"files": files, "elsewhere": elsewhere, "vitals": vitals}


def speed(browser: Any, ready: dict[str, Any], pictures: int) -> tuple[float, dict[str, Any]]:
    """The slowest of some ninety interactions, in ms, with so many pictures in the library."""
    _draw(ready, pictures)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    _sign_in(page, ready["key"])
    page.add_init_script(_NOTE)
    page.goto(ready["url"] + "/#/library")
    cells = page.locator("main li")
    cells.first.wait_for()
    loaded = _scroll_to_the_end(page)
    page.evaluate("window.noted = []")
    for at in range(8):
        page.evaluate(f"scrollTo(0, {at} * document.body.scrollHeight / 8)")
        page.wait_for_timeout(150)
        # Cells before and after the window are there too: one is taken that is seen.
        cells.nth(cells.count() // 2).get_by_role("button").click()
        page.get_by_role("dialog").wait_for()
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "f"):
            page.keyboard.press(key)
            page.wait_for_timeout(60)
        page.keyboard.press("Escape")
        page.wait_for_timeout(60)
    page.evaluate("scrollTo(0, 0)")
    search = page.get_by_label("Search your pictures")
    search.press_sequentially("picture 77", delay=60)
    page.wait_for_timeout(300)
    matches = cells.count()
    search.press_sequentially("7", delay=60)
    for _ in range(11):
        search.press("Backspace")
        page.wait_for_timeout(60)
    page.get_by_text("Favourites").click()
    page.wait_for_timeout(200)
    page.get_by_text("Favourites").click()
    page.get_by_role("button", name="Select").click()
    for at in range(6):
        cells.nth(at).get_by_role("button").click()
    cells.nth(20).get_by_role("button").click(modifiers=["Shift"])
    page.wait_for_timeout(300)
    noted = [(str(name), float(ms)) for name, ms in page.evaluate("window.noted")]
    context.close()
    times = sorted(ms for _, ms in noted) or [0.0]
    slowest = max(noted, key=lambda each: each[1], default=("", 0.0))
    return times[-1], {
        "pictures": loaded,
        "interactions_over_16_ms": len(times),
        "p98_ms": times[min(len(times) - 1, int(0.98 * len(times)))],
        "median_ms": statistics.median(times),
        "slowest": slowest[0],
        "found": matches,
    }


def _scroll_to_the_end(page: Page) -> str:
    for _ in range(400):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait_for_timeout(40)
        told = page.locator(".page-head [role=status]").inner_text()
        if not told.endswith("+"):
            return told
    raise SystemExit(f"the library never came to its end: {told}")


def _draw(ready: dict[str, Any], pictures: int) -> None:
    tasks = [
        {
            "model": "demo/echo-picture",
            "input": {"prompt": f"picture {at}", "steps": 1, "width": 64, "height": 64},
            "count": COUNT,
            "user": USER,
        }
        for at in range(pictures // COUNT)
    ]
    last = ""
    for start in range(0, len(tasks), BATCH):
        made = _ask(ready, "POST", "/v1/tasks/batch", {"tasks": tasks[start : start + BATCH]})
        for task in made["tasks"]:
            last = task["id"]
        for task in made["tasks"]:
            _until_ended(ready, task["id"])
        machine.say(f"{start + len(made['tasks'])} of {len(tasks)} tasks drawn")
    assert last


def _until_ended(ready: dict[str, Any], task: str) -> None:
    for _ in range(600):
        told = _ask(ready, "GET", f"/v1/tasks/{task}", None)
        if told["state"] == "succeeded":
            return
        if told["state"] not in {"queued", "running"}:
            raise SystemExit(f"a picture failed: {told['error']}")
        time.sleep(0.2)
    raise SystemExit("a picture never came")


def _ask(ready: dict[str, Any], method: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        ready["url"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "authorization": f"Bearer {ready['key']}",
            "content-type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _sign_in(page: Page, key: str) -> None:
    kept = {"key": key, "language": "en", "person": USER}
    page.add_init_script(
        f"for (const [name, value] of Object.entries({json.dumps(kept)})) "
        "localStorage.setItem('swell.' + name, JSON.stringify(value))"
    )


if __name__ == "__main__":
    sys.exit(main())
