"""What happens in the web app when something else goes on.

Lines break, servers start anew, there are other tabs, somebody goes back, windows are small.
"""

import itertools
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from app import ROOT, SIZES, App, watched
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from commandline import Swell, ready_line, stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

#: What a worker held when its server went is soon somebody else's.
_SETTINGS: Final = """
[delivery]
heartbeat_s = 0.5
lease_s = 3
"""

_PATIENCE_MS: Final = 60_000

#: Who sits at the browser.
_KEPT: Final = {"person": "somebody"}


class Server:
    """A Swell that can be stopped and started again, at the same place."""

    def __init__(self, folder: Path) -> None:
        self._swell = Swell(folder)
        self._port = "0"
        (folder / "swell.toml").write_text(_SETTINGS)
        self.start()

    def start(self) -> None:
        arguments = ("up", "--json", "--port", self._port, "-m", "demo/echo-picture")
        self._process = self._swell.start(*arguments)
        ready = ready_line(self._process, self._swell.folder)
        self.app = App(ready["url"], ready["key"])
        self._port = ready["url"].rpartition(":")[2]

    def stop(self) -> None:
        assert stop(self._process) == 0, (self._swell.folder / "stderr.txt").read_text()

    def leave(self) -> None:
        """Stop without waiting for what is being drawn: the second signal insists."""
        self._process.send_signal(signal.SIGINT)
        stop(self._process)

    def ask(self, page: Page, method: str, path: str, data: Any = None) -> Any:
        """Ask as a program does."""
        headers = {"authorization": f"Bearer {self.app.key}", "prefer": "wait=30"}
        answer = page.request.fetch(
            self.app.url + path, method=method, headers=headers, data=data, timeout=60_000
        )
        return answer.json()

    def drawn(self, page: Page, prompt: str) -> Any:
        """Have a picture; return its task."""
        wish = {"prompt": prompt, "steps": 2}
        body = {"model": "demo/echo-picture", "input": wish, "user": _KEPT["person"]}
        task = self.ask(page, "POST", "/v1/tasks", body)
        assert task["state"] == "succeeded", task
        return task

    def begun(self, page: Page, prompt: str, steps: int = 600) -> Any:
        """Ask for what takes a while."""
        wish = {"prompt": prompt, "steps": steps, "step_s": 0.1}
        body = {"model": "demo/echo-picture", "input": wish, "user": _KEPT["person"]}
        headers = {"authorization": f"Bearer {self.app.key}"}
        return page.request.post(f"{self.app.url}/v1/tasks", headers=headers, data=body).json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("trouble"))
    yield started
    started.stop()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Server]:
    """One that may be stopped: no other test asks it."""
    started = Server(tmp_path)
    yield started
    started.leave()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(locale="en-GB")
    yield opened
    opened.close()


def named(page: Page, prompt: str) -> Locator:
    return page.get_by_role("region", name="Pictures").get_by_role("article", name=prompt)


# --- lines and servers ---------------------------------------------------------------------------


def test_a_line_that_is_cut_is_told_and_the_picture_comes_when_it_is_back(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    # Of two each is heard in its turn: a stream that is open is not cut by what comes next.
    server.begun(page, "a picture in another tunnel", steps=150)
    server.begun(page, "a picture in a tunnel", steps=150)
    server.app.open(page, **_KEPT)
    picture = named(page, "a picture in a tunnel")
    expect(picture.get_by_role("progressbar")).to_be_visible()
    context.set_offline(True)
    expect(picture).to_contain_text("Reconnecting…", timeout=_PATIENCE_MS)
    context.set_offline(False)
    expect(picture.get_by_role("button", name="Show large")).to_be_visible(timeout=_PATIENCE_MS)


def test_a_server_that_starts_anew_while_it_draws_loses_no_picture(
    context: BrowserContext, mortal: Server
) -> None:
    server = mortal
    page = context.new_page()
    server.begun(page, "a picture through a restart", steps=200)
    server.app.open(page, **_KEPT)
    picture = named(page, "a picture through a restart")
    expect(picture.get_by_role("progressbar")).to_be_visible()
    server.leave()
    expect(picture).to_contain_text("Reconnecting…", timeout=_PATIENCE_MS)
    # What is asked for meanwhile is refused in words, and what was typed stays.
    page.get_by_label("What should it show?").fill("a second one")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("reach the server")
    server.start()
    expect(picture.get_by_role("button", name="Show large")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_label("What should it show?")).to_have_value("a second one")
    page.get_by_role("button", name="Create", exact=True).click()
    second = named(page, "a second one")
    expect(second.get_by_role("button", name="Show large")).to_be_visible(timeout=_PATIENCE_MS)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_is_under_way_is_found_where_the_first_look_has_failed(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    task = server.begun(page, "a picture at the second look")
    page.route("**/v1/tasks?*state=running*", lambda route: route.abort(), times=1)
    server.app.open(page, **_KEPT)
    picture = named(page, "a picture at the second look")
    expect(picture.get_by_role("progressbar")).to_be_visible(timeout=_PATIENCE_MS)
    server.ask(page, "POST", f"/v1/tasks/{task['id']}/cancel")


def test_what_went_wrong_while_nobody_looked_is_told(
    context: BrowserContext, mortal: Server
) -> None:
    # It has drawn nothing yet: how long this takes is not known before.
    server, page = mortal, context.new_page()
    wish = {"prompt": "a picture that came too late", "steps": 600, "step_s": 0.1}
    asked = {"model": "demo/echo-picture", "input": wish, "user": _KEPT["person"]}
    task = server.ask(page, "POST", "/v1/tasks", {**asked, "finish_by_s": 1})
    assert task["state"] == "expired", task
    server.app.open(page, **_KEPT)
    card = named(page, "a picture that came too late")
    expect(card).to_contain_text(task["error"]["detail"] or task["error"]["title"])
    expect(card.get_by_role("button", name="Try again")).to_be_visible()


def test_an_answer_of_somebody_else_is_no_mistake_of_the_server(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    answers = itertools.cycle([(502, "<h1>Bad gateway</h1>"), (200, "<p>Agree to Wi-Fi")])

    def answer(route: Route) -> None:
        status, body = next(answers)
        route.fulfill(status=status, body=body)

    page.route("**/v1/models", answer)
    server.app.open(page, "/models", **_KEPT)
    for _ in range(2):
        with page.expect_response("**/v1/models"):
            expect(page.get_by_role("alert")).to_contain_text("reach the server")
    page.unroute("**/v1/models")
    # It tries again by itself.
    link = page.get_by_role("link", name="demo/echo-picture")
    expect(link).to_be_visible(timeout=_PATIENCE_MS)


def test_without_a_network_what_is_loaded_stays_and_the_rest_comes_with_it(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    server.app.open(page, "/models", **_KEPT)
    link = page.get_by_role("link", name="demo/echo-picture")
    expect(link).to_be_visible()
    context.set_offline(True)
    banner = page.get_by_role("status").get_by_text("reach the server")
    expect(banner).to_be_visible()
    expect(link).to_be_visible()
    # A page that was never opened before has neither code nor data.
    page.get_by_role("link", name="Library").first.click()
    expect(page.get_by_text("This page")).to_be_visible()
    context.set_offline(False)
    expect(page.get_by_role("heading", level=1)).to_have_text("Library", timeout=_PATIENCE_MS)
    expect(banner).to_have_count(0)


def test_a_server_that_was_away_is_found_again_without_a_touch(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    page.route("**/v1/**", lambda route: route.abort())
    server.app.open(page, "/models", **_KEPT)
    expect(page.get_by_role("alert")).to_contain_text("reach the server")
    page.unroute("**/v1/**")
    link = page.get_by_role("link", name="demo/echo-picture")
    expect(link).to_be_visible(timeout=_PATIENCE_MS)


def test_pictures_of_a_page_that_was_left_open_are_seen_and_saved_when_their_addresses_have_ended(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    task = server.drawn(page, "a picture of yesterday")

    def yesterday(route: Route) -> None:
        told = route.fetch().text()
        route.fulfill(body=re.sub(r"expires=\d+", "expires=1700000000", told))

    page.route(re.compile(r"/v1/tasks\?"), yesterday)
    server.app.open(page, "/library", **_KEPT)
    opener = page.get_by_role("button", name="Show large: a picture of yesterday")
    wide = "image => image.naturalWidth"
    expect(opener.locator(".picture.in")).to_be_visible(timeout=_PATIENCE_MS)
    assert opener.get_by_role("img").evaluate(wide) == 128
    opener.click()
    shown = page.get_by_role("dialog")
    expect(shown.locator(".picture.in")).to_be_visible(timeout=_PATIENCE_MS)
    with page.expect_download() as saved:
        shown.get_by_role("button", name="Save").click()
    assert saved.value.suggested_filename == f"swell-{task['id']}.png"
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")


def test_what_waits_is_canceled_one_after_the_other_and_a_failure_is_told(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    tasks = [server.begun(page, f"a picture too many {number}")["id"] for number in range(6)]
    server.app.open(page, **_KEPT)
    page.get_by_role("button", name="My jobs").click()
    jobs = page.get_by_role("dialog", name="My jobs")
    asked: list[str] = []

    def cut(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    page.route("**/cancel", cut)
    jobs.get_by_role("button", name=re.compile(r"Cancel \d+ waiting")).click()
    expect(page.locator(".toast")).to_contain_text("reach the server")
    assert len(asked) == 1
    page.unroute("**/cancel")
    jobs.get_by_role("button", name=re.compile(r"Cancel \d+ waiting")).click()
    expect(jobs.get_by_text("Waiting")).to_have_count(0)
    expect(jobs.get_by_role("progressbar").first).to_be_visible()
    for task in tasks:
        server.ask(page, "POST", f"/v1/tasks/{task}/cancel")


def test_a_language_whose_words_do_not_come_is_told(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    server.app.open(page, **_KEPT)
    page.route(re.compile(r"/es-[^/]*\.js$"), lambda route: route.abort())
    page.locator(".tools .opener").first.click()
    page.get_by_role("menuitemradio", name="Español").click()
    expect(page.locator(".toast")).to_contain_text("reach the server")
    expect(page.get_by_role("button", name="Create", exact=True)).to_be_visible()


# --- other tabs ----------------------------------------------------------------------------------


def test_what_one_tab_asks_for_is_seen_in_the_others(
    context: BrowserContext, server: Server
) -> None:
    one, other = context.new_page(), context.new_page()
    server.app.open(one, **_KEPT)
    server.app.open(other, "/library", **_KEPT)
    one.get_by_label("What should it show?").fill("rings for two tabs")
    one.get_by_role("button", name="Create", exact=True).click()
    expect(other.get_by_label("rings for two tabs")).to_be_visible(timeout=_PATIENCE_MS)
    other.get_by_role("button", name="My jobs").click()
    jobs = other.get_by_role("dialog", name="My jobs")
    expect(jobs.get_by_text("rings for two tabs")).to_be_visible()


def test_who_signs_out_does_so_in_all_tabs(context: BrowserContext, server: Server) -> None:
    one, other = context.new_page(), context.new_page()
    server.app.open(one, **_KEPT)
    server.app.open(other, "/keys", **_KEPT)
    one.locator(".tools .opener").nth(2).click()
    one.get_by_role("menuitem", name="Sign out").click()
    for page in (one, other):
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_key_that_ends_meanwhile_is_told_and_leaves_nothing_to_the_next(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    made = server.ask(page, "POST", "/v1/keys", {"name": "for an hour", "scopes": ["client"]})
    App(server.app.url, made["key"]).open(page)
    page.get_by_label("What should it show?").fill("rings that nobody pays for")

    # Whatever else the page asks would be refused first: it ends as the button is pressed.
    def end(route: Route) -> None:
        server.ask(page, "DELETE", f"/v1/keys/{made['id']}")
        route.continue_()

    page.route("**/v1/tasks", end, times=1)
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(
        "was revoked or has expired", timeout=_PATIENCE_MS
    )
    another = server.ask(page, "POST", "/v1/keys", {"name": "another", "scopes": ["client"]})
    page.get_by_label("Key").fill(another["key"])
    page.keyboard.press("Enter")
    # It is of another key: nothing of the one before is shown.
    expect(page.get_by_label("What should it show?")).to_have_value("")


# --- what somebody does --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/library"])
def test_back_leaves_a_picture_that_is_shown_large_and_not_the_page(
    context: BrowserContext, server: Server, path: str
) -> None:
    page = context.new_page()
    server.drawn(page, "rings to go back from")
    server.app.open(page, "/models", **_KEPT)
    page.goto(f"{server.app.url}/#{path}")
    shown = page.get_by_role("dialog")
    opener = page.get_by_role("button", name="Show large: rings to go back from").first
    opener.click()
    expect(shown).to_be_visible()
    page.go_back()
    expect(shown).to_have_count(0)
    expect(opener).to_be_focused()
    assert page.url.endswith(f"#{path}")
    # Closed otherwise it leaves nothing in the history, however quickly that goes.
    for _ in range(3):
        opener.click()
        expect(shown).to_be_visible()
        page.keyboard.press("Escape")
        expect(shown).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("heading", name="Models", level=1)).to_be_visible()


def test_what_is_typed_outlives_a_reload_and_is_told_where_it_is_too_long(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    server.app.open(page, **_KEPT)
    prompt = page.get_by_label("What should it show?")
    words = "ثعلب أحمر في الثلج 🦊"
    prompt.fill(words)
    page.reload()
    expect(prompt).to_have_value(words)
    assert prompt.evaluate("field => getComputedStyle(field).direction") == "rtl"
    prompt.fill("")
    prompt.focus()
    prompt.evaluate("(field, text) => document.execCommand('insertText', false, text)", "x" * 3000)
    expect(page.get_by_text("The limit is 500 characters.")).to_be_visible()
    assert len(prompt.input_value()) == 500


def test_a_key_that_is_refused_stays_to_be_looked_at(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    page.goto(server.app.url)
    key = page.get_by_label("Key")
    key.fill("swell_nonsense")
    key.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("That key")
    expect(key).to_have_value("swell_nonsense")
    expect(key).to_be_focused()


def test_an_address_behind_which_is_nothing_says_so(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    for path in ("/tasks/nobody", "/models/no/body", "/comparisons/nobody"):
        server.app.open(page, path, **_KEPT)
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        expect(page.get_by_text("GET /v1")).to_have_count(0)


# --- how it looks --------------------------------------------------------------------------------


def test_a_page_below_another_is_marked_in_the_menu(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    server.app.open(page, "/models/demo/echo-picture", **_KEPT)
    link = page.get_by_label("Pages").first.get_by_role("link", name="Models")
    expect(link).to_have_attribute("aria-current", "true")


def test_charts_have_their_colours_where_less_motion_is_wanted(
    browser: Browser, server: Server
) -> None:
    context = browser.new_context(locale="en-GB", reduced_motion="reduce")
    with watched(context) as page:
        server.app.open(page, "/fleet", **_KEPT)
        expect(page.locator(".plot canvas")).to_be_visible(timeout=_PATIENCE_MS)
        strongest = """canvas => {
            const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            let found = 0;
            for (let at = 0; at < all.data.length; at += 4) {
                const [red, green, blue, alpha] = all.data.slice(at, at + 4);
                const range = Math.max(red, green, blue) - Math.min(red, green, blue);
                if (alpha === 255) found = Math.max(found, range);
            }
            return found;
        }"""
        assert page.locator(".plot canvas").evaluate(strongest) > 60
    context.close()


def test_a_menu_at_the_end_of_a_line_lies_within_the_window(
    context: BrowserContext, server: Server
) -> None:
    page = context.new_page()
    server.app.open(page, "/keys", **_KEPT)
    page.get_by_role("button", name="Actions for").first.click()
    menu = page.get_by_role("menu")
    expect(menu).to_be_visible()
    end = menu.evaluate("menu => menu.getBoundingClientRect().right")
    assert end <= page.evaluate("document.documentElement.clientWidth")


def test_no_column_of_tasks_is_cut_off_on_a_desk(browser: Browser, server: Server) -> None:
    width, height = SIZES["desk"]
    context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
    with watched(context) as page:
        words = "a purple house with a garden, a bench and a very long path that leads to the sea"
        server.drawn(page, words)
        server.app.open(page, "/tasks", **_KEPT)
        table = page.get_by_role("region", name="Tasks")
        expect(table.get_by_text(words)).to_be_visible()
        assert table.evaluate("each => each.scrollWidth - each.clientWidth") <= 0
    context.close()


def test_on_a_phone_pictures_begin_above_the_middle_and_controls_stand_on_one_line(
    browser: Browser, server: Server
) -> None:
    width, height = SIZES["phone"]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=True,
        locale="en-GB",
        reduced_motion="reduce",
    )
    with watched(context) as page:
        server.drawn(page, "a picture with rather many words, which do not fit on one line")
        server.app.open(page, "/library", **_KEPT)
        first = page.locator("main li").first
        expect(first).to_be_visible()
        box = first.bounding_box()
        assert box is not None
        assert box["y"] < height / 2
        favourites = page.get_by_role("button", name="Favourites")
        favourites.tap()
        expect(favourites).to_have_attribute("aria-pressed", "true")
        page.goto(f"{server.app.url}/#/")
        page.get_by_role("button", name="Show large").first.click()
        acts = page.get_by_role("dialog").get_by_role("button")
        places = [each.bounding_box() for each in acts.all() if each.is_visible()]
        assert all(place is not None and place["width"] >= 44 for place in places), places
        assert all(place["x"] + place["width"] <= width for place in places if place), places
        labelled = page.get_by_role("dialog").locator(".acts button")
        rows = {round(box["y"]) for each in labelled.all() if (box := each.bounding_box())}
        assert len(rows) <= 2, rows
        page.goto(f"{server.app.url}/#/models/demo/echo-picture")
        tabs = page.get_by_role("tablist")
        expect(tabs).to_be_visible()
        assert tabs.evaluate("each => each.scrollWidth - each.clientWidth") <= 0
    context.close()
