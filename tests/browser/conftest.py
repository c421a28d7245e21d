import shutil
from collections.abc import Iterator

import pytest
from app import App, watched
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from served import Served

from commandline import Swell, ready_line, stop

#: The one that the system has: none is downloaded.
CHROMIUM = shutil.which("chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacks = pytest.mark.skip(reason="there is no chromium: apt-get install chromium")
    for item in items:
        if CHROMIUM is None and item.get_closest_marker("browser"):
            item.add_marker(lacks)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    swell = Swell(tmp_path_factory.mktemp("browser"))
    process = swell.start(
        "up",
        "--json",
        "--port",
        "0",
        "-m",
        "swell/icons",
        "-m",
        "swell/contact-sheet",
        "-m",
        "demo/upper",
    )
    try:
        ready = ready_line(process, swell.folder)
        yield Served(ready["url"], ready["key"])
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The web app over what `swell up` serves by itself; one server for all its tests."""
    swell = Swell(tmp_path_factory.mktemp("app"))
    process = swell.start("up", "--json", "--port", "0", SWELL_LIMITS__GUEST_TASKS="3")
    try:
        ready = ready_line(process, swell.folder)
        yield App(ready["url"], ready["key"])
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium; gone with its module, since Playwright keeps an event loop in this thread."""
    arguments = ["--no-sandbox", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def context(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    opened = browser.new_context(base_url=served.url)
    yield opened
    opened.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page; whatever it says that went wrong fails the test."""
    with watched(context) as opened:
        yield opened


@pytest.fixture
def app_page(browser: Browser, app: App) -> Iterator[Page]:
    """The same, where the web app is."""
    context = browser.new_context(base_url=app.url, locale="en-GB")
    with watched(context) as opened:
        yield opened
    context.close()
