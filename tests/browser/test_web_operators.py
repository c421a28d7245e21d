"""What operators do in the web app: look after workers, tasks, costs and keys."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from app import AXE, ROOT, SIZES, App, breaches, watched
from playwright.sync_api import Browser, Page, expect

from commandline import Swell, ready_line, stop

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")

#: A worker that is silent is soon lost, and what it held soon somebody else's.
_SETTINGS: Final = """
[delivery]
heartbeat_s = 0.5
lease_s = 3

[costs]
api_image_micros = 40000

[pools.crowd]
provider = "process"
models = ["demo/*"]
least = 1
most = 2
hour_micros = 900000
"""

_PATIENCE_MS: Final = 40_000


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A Swell whose workers are launched by a pool."""
    swell = Swell(tmp_path_factory.mktemp("operated"))
    (swell.folder / "swell.toml").write_text(_SETTINGS)
    process = swell.start("up", "--json", "--port", "0")
    try:
        ready = ready_line(process, swell.folder)
        yield App(ready["url"], ready["key"])
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


@pytest.fixture
def desk(browser: Browser, operated: App) -> Iterator[Page]:
    """A page of the app there."""
    context = browser.new_context(base_url=operated.url, locale="en-GB")
    with watched(context) as opened:
        yield opened
    context.close()


def ask(page: Page, app: App, method: str, path: str, data: Any = None) -> Any:
    """Ask as a program does."""
    headers = {"authorization": f"Bearer {app.key}"}
    return page.request.fetch(path, method=method, headers=headers, data=data).json()


def until(what: Callable[[], Any]) -> Any:
    """Wait for something that is true."""
    for _ in range(400):
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it never came")


def versions_of(page: Page, app: App, model: str) -> list[Any]:
    """Versions of a model; none where nobody knows it."""
    told = ask(page, app, "GET", f"/v1/models/{model}/versions")
    return list(told.get("models", []))


def submit(page: Page, app: App, model: str, **request: Any) -> str:
    """Send a task; return its id."""
    until(lambda: any(m["name"] == model for m in ask(page, app, "GET", "/v1/models")["models"]))
    task = ask(page, app, "POST", "/v1/tasks", {"model": model, "input": {}, **request})
    return str(task["id"])


def test_the_fleet_shows_a_worker_that_dies_and_who_takes_over(desk: Page, operated: App) -> None:
    slow = {"prompt": "a long one", "steps": 100, "step_s": 0.1}
    task = submit(desk, operated, "demo/echo-picture", input=slow)
    until(lambda: ask(desk, operated, "GET", f"/v1/tasks/{task}")["state"] == "running")
    operated.open(desk, "/fleet")
    expect(desk.get_by_role("link", name="a long one")).to_be_visible()
    [worker] = [w for w in ask(desk, operated, "GET", "/v1/workers")["workers"] if w["held"]]
    os.kill(worker["pid"], signal.SIGKILL)
    expect(desk.get_by_text("Lost", exact=True).first).to_be_visible(timeout=_PATIENCE_MS)
    expect(desk.get_by_text("Launched").first).to_be_visible()
    until(lambda: ask(desk, operated, "GET", f"/v1/tasks/{task}")["state"] == "succeeded")
    operated.open(desk, f"/tasks/{task}")
    expect(desk.get_by_text("2 / 3")).to_be_visible()
    expect(desk.get_by_alt_text("a long one")).to_be_visible()


def test_a_running_task_is_cancelled_after_a_question(desk: Page, operated: App) -> None:
    slow = {"prompt": "for ever", "steps": 900, "step_s": 0.1}
    task = submit(desk, operated, "demo/echo-picture", input=slow)
    operated.open(desk, f"/tasks/{task}")
    desk.get_by_role("button", name="Cancel", exact=True).click()
    desk.get_by_role("button", name="Cancel task").click()
    expect(desk.get_by_text("Canceled", exact=True)).to_be_visible(timeout=_PATIENCE_MS)


def test_a_running_task_is_looked_at_now_and_then(desk: Page, operated: App) -> None:
    slow = {"prompt": "watched", "steps": 900, "step_s": 0.1}
    task = submit(desk, operated, "demo/echo-picture", input=slow)
    asked: list[str] = []
    desk.on("request", lambda each: asked.append(each.url) if task in each.url else None)
    operated.open(desk, f"/tasks/{task}")
    desk.wait_for_timeout(3500)
    assert 2 <= len(asked) <= 4, asked
    ask(desk, operated, "POST", f"/v1/tasks/{task}/cancel")
    expect(desk.get_by_text("Canceled", exact=True)).to_be_visible(timeout=_PATIENCE_MS)
    desk.wait_for_timeout(500)
    asked.clear()
    desk.wait_for_timeout(2500)
    assert asked == []


def test_pools_stand_with_those_of_their_provider(desk: Page, operated: App) -> None:
    operated.open(desk, "/fleet")
    rented = desk.get_by_role("region", name="process")
    expect(rented.get_by_role("heading", name="crowd")).to_be_visible(timeout=_PATIENCE_MS)
    expect(rented).to_contain_text("1 pool")


def test_the_chart_of_the_fleet_goes_on(desk: Page, operated: App) -> None:
    operated.open(desk, "/fleet")
    canvas = desk.locator(".plot canvas")
    expect(canvas).to_be_visible(timeout=_PATIENCE_MS)
    desk.wait_for_timeout(500)
    before = canvas.evaluate("each => each.toDataURL()")
    until(lambda: canvas.evaluate("each => each.toDataURL()") != before)


def test_tasks_are_found_by_their_state_and_user(desk: Page, operated: App) -> None:
    for text in ("one", "two"):
        submit(desk, operated, "demo/upper", input={"text": text}, user="olga")
    operated.open(desk, "/tasks")
    # Letter by letter: what is sought meanwhile takes no focus.
    desk.get_by_label("User").press_sequentially("olga", delay=180)
    expect(desk.get_by_label("User")).to_be_focused()
    expect(desk.get_by_label("User")).to_have_value("olga")
    expect(desk.get_by_role("row")).to_have_count(3)
    desk.get_by_label("State").select_option("failed")
    expect(desk.get_by_text("No task matches these filters.")).to_be_visible()
    desk.reload()
    expect(desk.get_by_label("User")).to_have_value("olga")


def test_a_dead_letter_is_replayed(desk: Page, operated: App) -> None:
    task = submit(desk, operated, "demo/crash", max_attempts=1)
    until(lambda: ask(desk, operated, "GET", f"/v1/tasks/{task}")["state"] == "failed")
    operated.open(desk, "/tasks?show=dead")
    desk.get_by_role("button", name="Replay", exact=True).first.click()
    desk.get_by_role("button", name="View task").click()
    expect(desk.get_by_role("heading", level=1)).to_have_text("Task")
    assert task not in desk.url


def test_a_key_is_made_shown_once_and_revoked(desk: Page, operated: App) -> None:
    operated.open(desk, "/keys")
    desk.get_by_role("button", name="New key").click()
    desk.get_by_label("Name").fill("phone app")
    desk.get_by_role("button", name="Create key").click()
    secret = desk.get_by_role("region", name="Your new key").inner_text().strip()
    told = desk.request.get("/v1/keys/self", headers={"authorization": f"Bearer {secret}"}).json()
    assert (told["name"], told["scopes"]) == ("phone app", ["client"])
    desk.get_by_role("button", name="I saved it").click()
    expect(desk.get_by_text(secret)).to_have_count(0)
    desk.get_by_role("button", name="Actions for phone app").click()
    desk.get_by_role("menuitem", name="Revoke").click()
    desk.get_by_role("button", name="Revoke", exact=True).click()
    expect(desk.get_by_text("phone app")).to_have_count(0)
    until(
        lambda: (
            desk.request.get("/v1/keys/self", headers={"authorization": f"Bearer {secret}"}).status
            == 401
        )
    )


def test_a_mistake_in_a_new_key_is_told_where_it_is(browser: Browser, operated: App) -> None:
    # Not a watched page: a browser tells of each answer that is an error.
    context = browser.new_context(base_url=operated.url, locale="en-GB")
    page = context.new_page()
    operated.open(page, "/keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name").fill("wrong")
    page.get_by_text("Limits", exact=True).last.click()
    page.get_by_label("Requests a second").fill("-1")
    page.get_by_role("button", name="Create key").click()
    expect(page.get_by_role("alert").first).to_be_visible()
    context.close()


def test_what_is_no_number_is_refused_beside_its_field_and_a_comma_is_a_point(
    desk: Page, operated: App
) -> None:
    operated.open(desk, "/keys")
    desk.get_by_role("button", name="New key").click()
    desk.get_by_label("Name").fill("numbers")
    desk.get_by_text("Limits", exact=True).last.click()
    desk.get_by_label("Requests a second").fill("5/s")
    desk.get_by_label("Tasks at a time").fill("1.000")
    desk.get_by_role("button", name="Create key").click()
    expect(desk.get_by_label("Requests a second")).to_have_accessible_description(
        "Enter a number, such as 0.5."
    )
    expect(desk.get_by_label("Tasks at a time")).to_have_accessible_description(
        "Enter a whole number, such as 1000."
    )
    desk.get_by_label("Requests a second").fill("0,5")
    desk.get_by_label("Tasks at a time").fill("")
    desk.get_by_label("Tasks a day").fill("10 000")
    desk.get_by_role("button", name="Create key").click()
    desk.get_by_role("button", name="I saved it").click()
    made = ask(desk, operated, "GET", "/v1/keys")["keys"]
    limits = [each["limits"] for each in made if each["name"] == "numbers"]
    assert [each["rate_per_s"] for each in limits] == [0.5]
    assert [each["tasks_in_flight"] for each in limits] == [None]
    assert [each["tasks_per_day"] for each in limits] == [10_000]


def test_a_quota_that_is_set_again_keeps_what_its_form_does_not_show(
    desk: Page, operated: App
) -> None:
    made = ask(desk, operated, "POST", "/v1/keys", {"name": "bounded", "scopes": ["client"]})
    bounds = {"tasks_per_day": 50, "tasks_per_month": 900, "micros_per_month": 1_234_000}
    ask(desk, operated, "PUT", "/v1/quotas", {"key_id": made["id"], "user": "*", **bounds})
    operated.open(desk, "/keys")
    desk.get_by_role("tab", name="Quotas").click()
    desk.get_by_role("button", name="Set quota").click()
    form = desk.get_by_role("dialog")
    form.get_by_label("Key").select_option("bounded")
    expect(form.get_by_label("Tasks a day")).to_have_value("")
    form.get_by_label("User").fill("*")
    expect(form.get_by_label("Tasks a day")).to_have_value("50")
    form.get_by_label("Dollars a month").fill("1.000")
    form.get_by_role("button", name="Set quota").click()
    expect(form.get_by_label("Dollars a month")).to_have_accessible_description(
        "Is that thousands? Write 1000 or 1.00."
    )
    form.get_by_label("User").fill("")
    form.get_by_label("User").fill("*")
    # What is told in thousandths of a dollar is not taken for thousands when it comes back.
    form.get_by_label("Tasks a day").fill("60")
    form.get_by_role("button", name="Set quota").click()
    expect(form).to_have_count(0)
    told = ask(desk, operated, "GET", "/v1/quotas")["quotas"]
    quota = next(each for each in told if each["key_id"] == made["id"])
    assert {name: quota[name] for name in bounds} == {**bounds, "tasks_per_day": 60}


def test_a_new_secret_stays_until_it_is_kept_and_other_dialogs_until_their_veil_is_pressed(
    desk: Page, operated: App
) -> None:
    operated.open(desk, "/keys")
    desk.get_by_role("button", name="New key").click()
    dialog = desk.get_by_role("dialog")
    name = dialog.get_by_label("Name")
    name.fill("marked by mouse")
    # Words are marked by a mouse that leaves the dialog before it is let go.
    box = name.bounding_box()
    assert box is not None
    desk.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    desk.mouse.down()
    desk.mouse.move(5, 5)
    desk.mouse.up()
    expect(name).to_have_value("marked by mouse")
    desk.get_by_role("button", name="Create key").click()
    secret = desk.get_by_role("region", name="Your new key")
    expect(secret).to_be_visible()
    desk.mouse.click(5, 5)
    # A browser lets nobody be held by the first one alone.
    desk.keyboard.press("Escape")
    desk.keyboard.press("Escape")
    expect(secret).to_be_visible()
    desk.get_by_role("button", name="I saved it").click()
    expect(dialog).to_have_count(0)
    desk.get_by_role("button", name="New key").click()
    expect(dialog).to_be_visible()
    desk.mouse.click(5, 5)
    expect(dialog).to_have_count(0)


def test_costs_are_beside_those_of_an_api(desk: Page, operated: App) -> None:
    task = submit(desk, operated, "demo/echo-picture", input={"prompt": "cheap", "steps": 2})
    until(lambda: ask(desk, operated, "GET", f"/v1/tasks/{task}")["state"] == "succeeded")
    operated.open(desk, "/costs")
    expect(desk.get_by_text("Per picture").first).to_be_visible()
    expect(desk.get_by_text("Cold starts").first).to_be_visible()
    desk.get_by_label("Group by", exact=True).select_option("pool")
    expect(desk.get_by_role("row", name="crowd")).to_be_visible()


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_operators_pages_are_accessible(
    browser: Browser, operated: App, theme: str, size: str
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=operated.url,
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        locale="en-GB",
    )
    with watched(context) as page:
        found = []
        operated.open(page, "/fleet", theme=theme)
        expect(page.get_by_text("Workers ready")).to_be_visible()
        task = submit(page, operated, "demo/upper", input={"text": "looked at"})
        pages = {
            "/fleet": "Fleet",
            "/tasks": "Tasks",
            f"/tasks/{task}": "",
            "/tasks?show=dead": "Tasks",
            "/costs": "Costs",
            "/keys": "Keys",
        }
        for path, heading in pages.items():
            page.goto(f"{operated.url}/#{path}")
            if heading:
                expect(page.get_by_role("heading", level=1)).to_have_text(heading)
            else:
                expect(page.get_by_text(task, exact=True)).to_be_visible()
            expect(page.get_by_text("Loading", exact=True)).to_have_count(0)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            found += [f"{path} {each}" for each in breaches(page)]
            found += [f"{path} is {wide} px too wide"] if wide > 0 else []
        page.goto(f"{operated.url}/#/keys")
        page.get_by_role("button", name="New key").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        found += breaches(page)
    context.close()
    assert found == []


_POSTER: Final = """
import swell

@swell.model("test/poster")
def poster(text: str) -> str:
    return text + {word!r}
"""


def test_a_version_is_made_the_canary_and_promoted(
    desk: Page, operated: App, tmp_path: Path
) -> None:
    key = ask(desk, operated, "POST", "/v1/keys", {"name": "posters", "scopes": ["worker"]})["key"]
    swell = Swell(tmp_path)
    workers = []
    try:
        for word in ("one", "two"):
            file = tmp_path / f"{word}.py"
            file.write_text(_POSTER.format(word=word))
            server = ("--url", operated.url, "--token", key)
            workers.append(swell.start("worker", *server, "-m", str(file)))
            until(lambda: len(versions_of(desk, operated, "test/poster")) == len(workers))
        newest = ask(desk, operated, "GET", "/v1/models/test/poster")["version"]
        operated.open(desk, "/models/test/poster")
        desk.get_by_role("tab", name="Versions").click()
        desk.get_by_role("button", name=f"Actions for {newest}").click(timeout=_PATIENCE_MS)
        desk.get_by_role("menuitem", name="Start canary").click()
        desk.get_by_role("dialog").get_by_role("button", name="Start canary").click()
        expect(desk.get_by_text("Too early to tell")).to_be_visible()
        assert breaches(desk) == []
        desk.get_by_role("button", name="Promote").click()
        desk.get_by_role("dialog").get_by_role("button", name="Promote").click()
        expect(desk.get_by_text("Promoted")).to_be_visible()
        expect(desk.get_by_role("row", name=newest)).to_contain_text("Live")
    finally:
        for worker in workers:
            stop(worker)
