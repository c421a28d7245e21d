"""What there is to see in the web app: every page, with its dialogs, menus and states.

A view is opened in a browser by `View.open`, which comes back when what it shows is there: its own
heading, and nothing that is still loading. `pictures.py` takes each as a picture, and
`benchmarks/web_app.py axe` looks whether each is accessible.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from playwright.sync_api import Browser, BrowserContext, Error, Page, Route, expect
from seeded import PERSON, WAITING, Seeded

__all__ = ["SIZES", "THEMES", "VIEWS", "View", "answering", "context_of"]

#: Width and height of what it is looked at on, in px.
SIZES: Final = {"desk": (1280, 860), "phone": (390, 844)}
THEMES: Final = ("light", "dark")

#: How long pictures are waited for: thumbnails are made when they are first asked for.
_PICTURES_S: Final = 20
_ALL_PICTURES: Final = """
[...document.images].every((each) => {
  const { x, y, width, height } = each.getBoundingClientRect();
  const on_top = document.elementFromPoint(x + width / 2, y + height / 2);
  return each.complete || on_top === null || !(on_top === each || on_top === each.parentElement);
})
"""

Act = Callable[[Page], None]


@dataclass(frozen=True)
class View:
    """One thing to look at."""

    name: str
    #: Behind `#`; what stands in braces is one of the server's ids.
    path: str
    #: The first heading, or a part of it, by which one knows that the page is there.
    heading: str
    #: What is done then.
    act: Act | None = None
    #: On which server: with pictures, without anything, or one that refuses or keeps silent.
    server: Literal["full", "empty", "broken", "silent"] = "full"
    who: Literal["operator", "client", "nobody"] = "operator"
    #: Whose pictures it shows.
    person: str = PERSON
    #: On which sizes there is such a thing.
    sizes: Sequence[str] = tuple(SIZES)

    def open(self, page: Page, server: Seeded) -> None:
        """Go there, and wait until it is there."""
        page.goto("about:blank")
        page.goto(f"{server.url}/#{self.path.format(**server.ids)}")
        if self.server == "silent":
            expect(page.get_by_text("Loading", exact=True).first).to_be_attached()
            return
        heading = page.get_by_role("heading", level=1).first
        expect(heading).to_contain_text(self.heading, timeout=30_000)
        expect(page.get_by_text("Loading", exact=True)).to_have_count(0, timeout=30_000)
        if self.act is not None:
            self.act(page)
        _look_at_pictures(page)


def context_of(
    browser: Browser, server: Seeded, view: View, size: str, theme: str, **options: Any
) -> BrowserContext:
    """Return a browser in which somebody is signed in already."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        has_touch=size == "phone",
        reduced_motion="reduce",
        locale="en-GB",
        **options,
    )
    key = {"operator": server.key, "client": server.client_key, "nobody": ""}[view.who]
    kept = {"key": key, "theme": theme, "language": "en", "person": view.person}
    # Scripts of an init also run in pages that have no storage.
    context.add_init_script(
        f"try {{ for (const [name, value] of Object.entries({kept!r})) "
        "localStorage.setItem('swell.' + name, JSON.stringify(value)); } catch {}"
    )
    return context


def _look_at_pictures(page: Page) -> None:
    """Wait for those that can be seen.

    Not by `wait_for_function`, which evaluates its words again and again: the policy of the pages
    forbids that.
    """
    for _ in range(_PICTURES_S * 10):
        if page.evaluate(_ALL_PICTURES):
            return
        page.wait_for_timeout(100)
    raise TimeoutError("a picture did not come")


def _refuse(route: Route) -> None:
    """Answer as a backend does that lost its database; who one is was told before."""
    if route.request.url.endswith("/v1/keys/self"):
        route.continue_()
        return
    problem = {"code": "unavailable", "title": "Not now", "detail": "the store does not answer"}
    route.fulfill(status=503, json=problem, headers={"x-request-id": "req-4711"})


@contextlib.contextmanager
def answering(page: Page, view: View) -> Iterator[None]:
    """Have the page answered as the view wants it: by the server, by refusals, or not at all."""
    kept: list[Route] = []

    def keep_silent(route: Route) -> None:
        if route.request.url.endswith("/v1/keys/self"):
            route.continue_()
        else:
            kept.append(route)

    if view.server in ("broken", "silent"):
        page.route("**/v1/**", _refuse if view.server == "broken" else keep_silent)
    try:
        yield
    finally:
        # What is never answered would be waited for; what the page gave up cannot be ended.
        while kept:
            with contextlib.suppress(Error):
                kept.pop().abort()
        page.unroute_all(behavior="ignoreErrors")


# --- what is done on pages -----------------------------------------------------------------------


def _press(*names: str) -> Act:
    """Press buttons by their names, one after the other."""

    def act(page: Page) -> None:
        for name in names:
            page.get_by_role("button", name=name).first.click()

    return act


def _dialog(*names: str) -> Act:
    """The same, until a dialog is there."""

    def act(page: Page) -> None:
        _press(*names)(page)
        expect(page.get_by_role("dialog")).to_be_visible()

    return act


def _menu(name: str) -> Act:
    def act(page: Page) -> None:
        page.get_by_role("button", name=name).first.click()
        expect(page.get_by_role("menuitem").first).to_be_visible()

    return act


def _tool(at: int) -> Act:
    """A menu at the foot of the rail."""

    def act(page: Page) -> None:
        page.locator(".tools .opener").nth(at).click()
        expect(page.get_by_role("menu")).to_be_visible()

    return act


def _keys(page: Page) -> None:
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


def _filter(page: Page) -> None:
    page.get_by_text("Filters").click()


def _dates(page: Page) -> None:
    page.get_by_label("Date").select_option("Choose dates…")
    expect(page.get_by_label("From", exact=True)).to_be_visible()


def _offline(page: Page) -> None:
    page.context.set_offline(True)
    expect(page.get_by_text("reach the server").first).to_be_visible()


def _unfold(page: Page) -> None:
    page.get_by_text("More settings").first.click()


def _tab(name: str) -> Act:
    def act(page: Page) -> None:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_text("Loading", exact=True)).to_have_count(0)

    return act


def _first_picture(page: Page) -> None:
    page.locator("main li").first.get_by_role("button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()


def _choosing(page: Page) -> None:
    page.get_by_role("button", name="Select").click()
    for at in range(3):
        page.locator("main li").nth(at).get_by_role("button").first.click()


def _erasing(page: Page) -> None:
    _choosing(page)
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def _nothing_fits(page: Page) -> None:
    page.get_by_label("Search your pictures").fill("no such thing")
    expect(page.get_by_text("No matches")).to_be_visible()


def _two(page: Page) -> None:
    for model in ("swell/icons", "swell/picture"):
        page.get_by_role("button", name=model).click()
    expect(page.get_by_label("Prompt")).to_be_visible()


def _no_face(page: Page) -> None:
    page.get_by_role("button", name="portrait").last.click()
    expect(page.get_by_text("Choose a photo of a face first.")).to_be_visible()


def _empty_wish(page: Page) -> None:
    page.get_by_label("Prompt").fill("")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("alert").first).to_be_visible()


def _wrong_key(page: Page) -> None:
    page.get_by_label("Key").fill("swell_nonsense")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("That key")).to_be_visible()


def _chart(page: Page) -> None:
    expect(page.locator(".plot canvas")).to_be_visible(timeout=30_000)


_DESK: Final = ("desk",)
_PHONE: Final = ("phone",)

#: Everything, page by page.
VIEWS: Final = (
    View("sign-in", "/", "", who="nobody"),
    View("sign-in-refused", "/", "", _wrong_key, who="nobody"),
    View("create", "/", "Create"),
    View("create-first", "/", "Create", person="newcomer"),
    View("create-styles", "/", "Create", _dialog("All 3")),
    View("create-serve", "/", "Create", _dialog("Serve SDXL")),
    View("create-more", "/", "Create", _unfold),
    View("create-menu", "/", "Create", _menu("More with this picture")),
    View("create-viewer", "/", "Create", _dialog("Show large")),
    View("create-jobs", "/", "Create", _dialog("My jobs")),
    View("create-running", "/", "Create", person=WAITING),
    View("create-running-jobs", "/", "Create", _dialog("My jobs"), person=WAITING),
    View("create-client", "/", "Create", who="client"),
    View("create-none", "/", "Create", server="empty"),
    View("create-broken", "/", "Create", server="broken"),
    View("create-silent", "/", "", server="silent"),
    View("languages", "/models", "Models", _tool(0), sizes=_DESK),
    View("themes", "/models", "Models", _tool(1), sizes=_DESK),
    View("account", "/models", "Models", _tool(2), sizes=_DESK),
    View("more", "/", "Create", _dialog("More"), sizes=_PHONE),
    View("key-map", "/models", "Models", _keys),
    View("portraits", "/portraits", "Portraits"),
    View("portraits-lacks", "/portraits", "Portraits", _no_face),
    View("portraits-none", "/portraits", "Portraits", server="empty"),
    View("portraits-broken", "/portraits", "Portraits", server="broken"),
    View("library", "/library", "Library"),
    View("library-show", "/library", "Library", _first_picture),
    View("library-dates", "/library", "Library", _dates),
    View("library-choose", "/library", "Library", _choosing),
    View("library-erase", "/library", "Library", _erasing),
    View("library-nothing-fits", "/library", "Library", _nothing_fits),
    View("library-none", "/library", "Library", server="empty"),
    View("library-broken", "/library", "Library", server="broken"),
    View("library-silent", "/library", "Library", server="silent"),
    View("models", "/models", "Models"),
    View("models-broken", "/models", "Models", server="broken"),
    View("models-none", "/models", "Models", server="empty"),
    View("model", "/models/swell/picture", "swell/picture"),
    View("model-refused", "/models/swell/icons", "swell/icons", _empty_wish),
    View("model-code", "/models/swell/picture", "swell/picture", _tab("Use from code")),
    View("model-about", "/models/swell/icons", "swell/icons", _tab("About")),
    View("model-versions", "/models/swell/icons", "swell/icons", _tab("Versions")),
    View("compare", "/compare", "Compare"),
    View("compare-two", "/compare", "Compare", _two),
    View("compare-broken", "/compare", "Compare", server="broken"),
    View("compare-none", "/compare", "Compare", server="empty"),
    View("comparison", "/comparisons/{voting}", "a yellow star"),
    View("comparison-close", "/comparisons/{voting}", "a yellow star", _dialog("End voting")),
    View("comparison-voted", "/comparisons/{voted}", "a sailing boat"),
    View("fleet", "/fleet", "Fleet", _chart),
    View("fleet-none", "/fleet", "Fleet", server="empty"),
    View("fleet-broken", "/fleet", "Fleet", server="broken"),
    View("shared", "/s/{shared}", "a purple house"),
    View("shared-gone", "/s/nothing", ""),
    View("tasks", "/tasks", "Tasks"),
    View("tasks-filters", "/tasks", "Tasks", _filter, sizes=_PHONE),
    View("tasks-broken", "/tasks", "Tasks", server="broken"),
    View("tasks-none", "/tasks", "Tasks", server="empty"),
    View("tasks-dead", "/tasks?show=dead", "Tasks"),
    View("tasks-dead-none", "/tasks?show=dead", "Tasks", server="empty"),
    View("tasks-hooks", "/tasks?show=hooks", "Tasks"),
    View("task", "/tasks/{task}", "a purple house"),
    View("task-failed", "/tasks/{failed}", "a naked woman"),
    View("task-retried", "/tasks/{retried}", "a picture whose worker"),
    View("task-running", "/tasks/{running}", "one that waits"),
    View("task-cancel", "/tasks/{running}", "one that waits", _dialog("Cancel")),
    View("task-unknown", "/tasks/nobody", "", sizes=_DESK),
    View("costs", "/costs", "Costs"),
    View("costs-broken", "/costs", "Costs", server="broken"),
    View("costs-none", "/costs", "Costs", server="empty"),
    View("keys", "/keys", "Keys"),
    View("keys-broken", "/keys", "Keys", server="broken"),
    View("keys-new", "/keys", "Keys", _dialog("New key")),
    View("keys-menu", "/keys", "Keys", _menu("Actions for phone app")),
    View("offline", "/models", "Models", _offline),
    View("nowhere", "/nowhere", ""),
    View("operators-alone", "/fleet", "", who="client"),
)
