"""The app `dream` of the examples: wallpapers, and users who have paid and who have not."""

import io
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import PIL.Image
import pytest
from app import watched
from playwright.sync_api import Browser, BrowserContext, Page, expect

from example_apps import Example, started
from pages import block

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

PATIENCE_MS = 90_000


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    make = block("examples/dream/README.md", "make example", "sh")
    with started(make, tmp_path_factory.mktemp("dream") / "data") as running:
        yield running


@pytest.fixture
def context(browser: Browser, example: Example) -> Iterator[BrowserContext]:
    """A user whom nobody has seen before, with a phone."""
    phone = {"width": 390, "height": 844}
    opened = browser.new_context(
        base_url=example.url, viewport=phone, screen=phone, device_scale_factor=2
    )
    yield opened
    opened.close()


def operate(example: Example, method: str, path: str, body: Any = None) -> Any:
    """Ask Swell as an operator does."""
    access = json.loads((example.data / "access.json").read_text())
    request = urllib.request.Request(
        example.swell + path,
        json.dumps(body).encode() if body is not None else None,
        {"authorization": f"Bearer {access['local_key']}", "content-type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def submit(page: Page, **asked: Any) -> Any:
    given = {"prompt": "a castle", "width": 240, "height": 480, **asked}
    return page.request.post("/tasks", data={"model": "dream/wallpaper", "input": given})


def settled(example: Example, user: str) -> None:
    """Wait until nothing of a user's credits is held: that is written after a task's end."""
    while any(
        each["held_micros"]
        for each in operate(example, "GET", "/v1/credits")["accounts"]
        if each["user"] == user
    ):
        pass


def account(page: Page) -> Any:
    return page.request.get("/account").json()


def test_words_in_spanish_become_a_wallpaper_of_the_phones_own_size(
    context: BrowserContext,
) -> None:
    with watched(context) as page:
        page.goto("/")
        expect(page.get_by_label("Your account")).to_have_text("10 free pictures left today")
        expect(page.get_by_label("For").locator("option:checked")).to_have_text(
            re.compile("This screen, 780 . 1688")
        )
        page.get_by_label("What do you see?").fill("un zorro rojo en la nieve")
        page.get_by_role("radio", name="Starlight").check(force=True)
        page.evaluate(
            """() => { window.kinds = new Set(); new MutationObserver(() => { for (const each of
                document.querySelectorAll('.frame img')) window.kinds.add(each.className);
            }).observe(document.body, {childList: true, subtree: true}); }"""
        )
        page.get_by_role("button", name="Dream", exact=True).click()
        button = page.get_by_role("button", name="As wallpaper")
        expect(button).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#newest .frame")).to_be_in_viewport(ratio=1)
        button.click()
        saving = page.get_by_role("link", name="Save the wallpaper")
        expect(saving).to_be_visible(timeout=PATIENCE_MS)
        assert set(page.evaluate("[...window.kinds]")) == {"preview", "whole"}
        with page.expect_download() as saved:
            saving.click()
        assert saved.value.suggested_filename.endswith(".webp")
        with PIL.Image.open(saved.value.path()) as wallpaper:
            assert wallpaper.size == (780, 1688)
        tasks = page.request.get("/tasks").json()["tasks"]
        assert {task["seed"] for task in tasks} == {tasks[0]["seed"]}
        said = tasks[0]["stages"][0]["output"]
        assert (said["language"], said["text"]) == ("es", "a red fox in the snow")
        # The wallpaper is the dream that was seen before, and no other.
        drawn = [
            PIL.Image.open(
                io.BytesIO(page.request.get(stage["artifacts"][0]["url"]).body())
            ).tobytes()
            for task in tasks
            for stage in task["stages"]
            if stage["name"] == "paint"
        ]
        assert drawn[0] == drawn[1]
        expect(page.get_by_label("Your account")).to_have_text("8 free pictures left today")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.reload()
        expect(page.get_by_role("img", name="Wallpaper: un zorro rojo en la nieve")).to_be_visible()


def test_an_idea_is_one_tap_and_its_picture_comes_into_view(context: BrowserContext) -> None:
    with watched(context) as page:
        page.goto("/")
        page.get_by_role("button", name="a bear in the snow").click()
        expect(page.get_by_role("img", name="Dream: a bear in the snow")).to_be_visible(
            timeout=PATIENCE_MS
        )
        expect(page.get_by_role("button", name="As wallpaper")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#newest .frame")).to_be_in_viewport(ratio=1)
        expect(page.get_by_role("radio", name="Pastel", exact=True)).to_be_checked()
        page.get_by_label("What do you see?").fill("a castle")
        page.keyboard.press("Enter")
        expect(page.get_by_role("img", name="Dream: a castle")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#newest .frame")).to_be_in_viewport(ratio=1)
        page.get_by_role("img", name="Dream: a bear in the snow").click()
        expect(page.get_by_label("Your dream", exact=True)).to_contain_text("a bear in the snow")


def test_who_has_paid_is_of_the_paid_class_until_it_is_used_up(
    context: BrowserContext, example: Example
) -> None:
    page = context.new_page()
    page.goto("/")
    kept = json.loads((example.data / "app" / "key.json").read_text())
    for _ in range(2):  # who presses twice has paid once
        page.request.post("/buy", data={"payment": "p1"})
    assert account(page) == {"plan": "paid", "credits_micros": 200_000, "free_left_today": 0}
    made = [submit(page).json() for _ in range(16)]
    assert account(page)["credits_micros"] <= 40_000
    counts = [
        each
        for queue in operate(example, "GET", "/v1/queues")["queues"]
        for each in queue["classes"]
    ]
    assert {each["name"] for each in counts if each["ready"]} == {"paid"}
    for task in made:
        page.request.post(f"/tasks/{task['id']}/cancel")
    for task in made:
        page.request.get(f"/tasks/{task['id']}/events", timeout=PATIENCE_MS)
    # More is taken back than there is, whatever cancelled tasks still give back.
    back = {"key_id": kept["id"], "user": made[0]["user"], "micros": -1_000_000}
    operate(example, "POST", "/v1/credits", back)
    assert account(page)["credits_micros"] < 0
    settled(example, made[0]["user"])
    # A fast worker may have finished some before they were cancelled; those count for the day.
    states = [page.request.get(f"/tasks/{task['id']}").json()["state"] for task in made]
    assert submit(page).status == 202
    now = account(page)
    assert (now["plan"], now["free_left_today"]) == ("free", 9 - states.count("succeeded"))


def test_credits_that_are_only_held_are_still_there_when_nothing_comes_of_it(
    context: BrowserContext, example: Example
) -> None:
    page = context.new_page()
    page.goto("/")
    page.request.post("/buy", data={"payment": "p1"})
    made = [submit(page).json() for _ in range(20)]
    another = submit(page)
    for task in made:
        page.request.post(f"/tasks/{task['id']}/cancel")
    assert another.status == 402
    assert "wait for one" in another.json()["detail"]
    settled(example, made[0]["user"])
    states = [page.request.get(f"/tasks/{task['id']}").json()["state"] for task in made]
    assert "canceled" in states
    left = 200_000 - 10_000 * states.count("succeeded")
    assert account(page) == {"plan": "paid", "credits_micros": left, "free_left_today": 0}
    again = submit(page)
    assert again.status == 202
    page.request.post(f"/tasks/{again.json()['id']}/cancel")


def test_who_has_less_left_than_a_picture_draws_for_free(
    context: BrowserContext, example: Example
) -> None:
    page = context.new_page()
    page.goto("/")
    page.request.post("/buy", data={"payment": "p1"})
    task = submit(page).json()
    page.request.post(f"/tasks/{task['id']}/cancel")
    settled(example, task["user"])
    left = account(page)["credits_micros"]
    kept = json.loads((example.data / "app" / "key.json").read_text())
    back = {"key_id": kept["id"], "user": task["user"], "micros": 5_000 - left}
    operate(example, "POST", "/v1/credits", back)
    assert account(page)["credits_micros"] == 5_000
    drawn = submit(page)
    assert drawn.status == 202
    now = account(page)
    assert (now["plan"], now["free_left_today"]) == ("free", 9)
    page.request.post(f"/tasks/{drawn.json()['id']}/cancel")


def test_the_free_pictures_of_a_day_end_and_the_page_says_what_to_do(
    context: BrowserContext,
) -> None:
    page = context.new_page()
    page.goto("/")
    made = [submit(page).json()["id"] for _ in range(10)]
    page.get_by_label("What do you see?").fill("a castle")
    page.get_by_role("button", name="Dream", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Come back tomorrow, or buy some")
    for each in made:
        page.request.post(f"/tasks/{each}/cancel")
    # Another user has his own.
    stranger = context.browser.new_context(base_url=page.url)  # type: ignore[union-attr]
    other = stranger.new_page()
    other.goto("/")
    assert account(other)["free_left_today"] == 10
    stranger.close()


def test_a_prompt_that_is_refused_says_so_and_costs_no_picture(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/")
    page.get_by_role("button", name="Dream", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("Say what you see: a word is enough.")
    page.get_by_label("What do you see?").fill("a naked woman")
    page.get_by_role("button", name="Dream", exact=True).click()
    refused = page.get_by_text("This cannot be dreamt here: ask for something else.")
    expect(refused).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_label("Your account")).to_have_text("10 free pictures left today")
