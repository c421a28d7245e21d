"""The documentation's site: built strictly, without a dead link, and nobody else is asked."""

import functools
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import build  # noqa: E402 - it lies among the pages

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; it cannot be built where something in it is doubtful."""
    return build.build(site=tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, build.Seen]:
    return build.seen(site)


# ---- what is built


def test_every_page_has_one_place_in_the_navigation() -> None:
    places = [entry.path for entry in build.navigation()]
    assert len(places) == len(set(places))
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    shown = {place for place in places if not place.startswith("house/")}
    assert {each for each in written - shown if not each.startswith("decisions/")} == set()
    assert shown <= written


def test_no_link_is_dead_and_a_dead_one_would_be_found(
    pages: dict[Path, build.Seen], site: Path
) -> None:
    assert build.dead_links(pages) == []
    broken = '<a href="errors.html#nothing">a</a> <a href="nobody.html">b</a> <a href="#x">c</a>'
    found = build.dead_links(pages | {site / "a.html": build.Seen(broken)})
    assert found == ["a.html: #x", "a.html: errors.html#nothing", "a.html: nobody.html"]


def test_addresses_of_others_are_addresses(pages: dict[Path, build.Seen]) -> None:
    told = {link for seen in pages.values() for link in seen.links if urlsplit(link).scheme}
    assert told
    wrong = [
        link
        for link in told
        if not re.fullmatch(
            r"(?:https://[\w-]+(?:\.[\w-]+)+(?::\d+)?(?:/\S*)?|mailto:\S+@\S+)", link
        )
    ]
    assert wrong == []


def test_nothing_comes_from_anybody_else(pages: dict[Path, build.Seen], site: Path) -> None:
    loaded = {link for seen in pages.values() for link in seen.loaded}
    assert [link for link in loaded if urlsplit(link).scheme] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\s]*", styles) == []


def test_the_list_for_language_models_names_every_page_as_markdown(site: Path) -> None:
    lines = (site / "llms.txt").read_text().splitlines()
    assert lines[0] == "# Swell"
    assert lines[2].startswith("> ")
    entries = [re.fullmatch(r"- \[(.+?)\]\((.+?)\)(?:: (.+))?", each) for each in lines[4:]]
    told = [found[2] for found in entries if found]
    assert told == [entry.path for entry in build.navigation()]
    for path in told:
        assert (site / path).read_text().startswith("#"), path
    heads = [line for line in lines[1:] if line.startswith("#")]
    assert heads == [f"## {section}" for section in dict.fromkeys(sections())]


def sections() -> list[str]:
    return [entry.section for entry in build.navigation()]


# ---- how it is built


def test_decisions_are_on_the_site_and_outside_of_its_search(site: Path) -> None:
    searched = (site / "search.json").read_text()
    assert "comparison.html" in searched
    assert "decisions/" not in searched
    decision = next((site / "decisions").glob("0001-*.md"))
    assert decision.with_suffix(".html").exists()
    assert decision.read_text().startswith("# 1. ")


def test_links_out_of_the_pages_lead_to_copies() -> None:
    text = "[a](b.md#c) [d](../SECURITY.md) ![e](images/f.webp) [g](https://h.example) `[i](j)`\n"
    moved, wanted = build.relinked(text, "docs/a.md")
    assert moved == (
        "[a](b.md#c) [d](house/SECURITY.md) ![e](images/f.webp) [g](https://h.example) `[i](j)`\n"
    )
    assert wanted == ["docs/b.md", "SECURITY.md", "docs/images/f.webp"]


def test_links_of_copies_lead_back() -> None:
    moved, wanted = build.relinked("[a](docs/b.md) [c](d.sh)", "README.md")
    assert moved == "[a](../b.md) [c](d.sh)"
    assert wanted == ["docs/b.md", "d.sh"]


def test_what_is_linked_to_is_brought_along_and_nothing_twice() -> None:
    files = {
        "docs/a.md": b"[b](b.md) [c](../c.md)",
        "docs/b.md": b"[a](a.md)",
        "c.md": b"[d](d.sh)",
        "d.sh": b"true",
    }
    asked = []

    def read(path: str) -> bytes:
        asked.append(path)
        return files[path]

    found = build.gathered(["docs/a.md"], read)
    assert sorted(found) == ["a.md", "b.md", "house/c.md", "house/d.sh"]
    assert sorted(asked) == sorted(files)


def test_notes_of_tests_behind_a_language_are_left_out() -> None:
    moved, _ = build.relinked("```json task\n{}\n```\n```sh\nls\n```\n", "docs/a.md")
    assert moved == "```json\n{}\n```\n```sh\nls\n```\n"


# ---- how it looks


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and writes no log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


def watched(page: Page, address: str) -> list[str]:
    """Return what will have gone wrong on a page."""
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda sent: None if sent.url.startswith((address, "blob:")) else wrong.append(sent.url),
    )
    return wrong


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_ask_nobody_else(
    browser: Browser, address: str, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 844}
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    wrong = watched(page, address)
    for name in ("index", "architecture", "reference/settings", "models/index", "house/CHANGELOG"):
        page.goto(f"{address}/{name}.html")
        page.locator("h1").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(each) for each in re.findall(r"\d+", paper)[:3]) / 3
        assert (brightness > 128) == (scheme == "light"), (name, paper)
    context.close()
    assert wrong == []


@pytest.mark.browser
def test_a_page_is_found_by_a_word_of_it(browser: Browser, address: str) -> None:
    page = browser.new_page()
    wrong = watched(page, address)
    page.goto(f"{address}/index.html")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("combobox", name="Search").fill("fencing")
    page.get_by_text(re.compile(r"^\d+ results?$")).wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/guarantees\.html"))
    page.close()
    assert wrong == []


@pytest.mark.browser
def test_every_page_of_the_navigation_can_be_gone_to(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    shown = page.locator("nav[aria-label=Navigation] a").all_text_contents()
    page.close()
    titles = {each.strip() for each in shown}
    assert {entry.title for entry in build.navigation()} - titles == set()
