"""The library in the web app: find, show, favour and erase what was made."""

import re
from typing import Any

import pytest
from app import AXE, ROOT, SIZES, App, breaches, watched
from playwright.sync_api import Browser, Page, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")

PROMPTS = ("a red fox", "a green bicycle", "a lighthouse at night")


def draw(page: Page, app: App, user: str, *prompts: str) -> None:
    """Have pictures that a browser has asked for; the last one is the newest."""
    for prompt in prompts:
        asked = {"model": "swell/icons", "input": {"prompt": prompt, "steps": 2}, "user": user}
        headers = {"authorization": f"Bearer {app.key}", "prefer": "wait=60"}
        task: Any = page.request.post(f"{app.url}/v1/tasks", headers=headers, data=asked).json()
        assert task["state"] == "succeeded", task


@pytest.fixture
def shelf(app_page: Page, app: App) -> Page:
    """The library with three pictures."""
    draw(app_page, app, "reader", *PROMPTS)
    app.open(app_page, "/library", person="reader")
    return app_page


def test_pictures_are_found_shown_and_favoured(shelf: Page) -> None:
    cells = shelf.locator("main li")
    expect(cells).to_have_count(3)
    shelf.get_by_label("Search your pictures").fill("BICYCLE")
    expect(cells).to_have_count(1)
    shelf.get_by_label("Search your pictures").fill("no such thing")
    expect(shelf.get_by_text("No matches")).to_be_visible()
    shelf.get_by_label("Search your pictures").fill("")
    cells.first.get_by_role("button").click()
    dialog = shelf.get_by_role("dialog")
    expect(dialog).to_contain_text(PROMPTS[2])
    # As the browser's country writes it, which is another than the one of its language.
    expect(dialog).to_contain_text(re.compile(r"\d \w{3,4} \d{4}, \d\d:\d\d"))
    shelf.keyboard.press("ArrowRight")
    expect(dialog).to_contain_text(PROMPTS[1])
    shelf.keyboard.press("f")
    shelf.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    shelf.get_by_text("Favourites").click()
    expect(cells).to_have_count(1)
    shelf.evaluate("localStorage.removeItem('swell.favourites')")
    shelf.reload()
    shelf.get_by_text("Favourites").click()
    expect(cells).to_have_count(1)
    cells.first.get_by_role("button").click()
    with shelf.expect_response(lambda told: told.request.method == "DELETE" and told.ok):
        shelf.keyboard.press("f")
    expect(cells).to_have_count(0)


def test_favourites_that_a_browser_kept_are_taken_over_once(app_page: Page, app: App) -> None:
    draw(app_page, app, "mover", "an apple", "a pear")
    headers = {"authorization": f"Bearer {app.key}"}
    listed = app_page.request.get(f"{app.url}/v1/tasks?user=mover", headers=headers).json()
    apple = listed["tasks"][1]["id"]
    app.open(app_page, "/library", person="mover", favourites=[f"{apple}-0"])
    app_page.get_by_text("Favourites").click()
    cells = app_page.locator("main li")
    expect(cells).to_have_count(1)
    expect(cells.first.get_by_role("button")).to_have_accessible_name("Show large: an apple")
    app_page.wait_for_function("localStorage.getItem('swell.favourites') === null")
    asked = f"{app.url}/v1/tasks?viewer=mover&favourite=true"
    told = app_page.request.get(asked, headers=headers).json()["tasks"]
    assert [(each["id"], each["favourites"]) for each in told] == [(apple, [0])]


def test_the_server_finds_what_was_not_loaded(app_page: Page, app: App) -> None:
    draw(app_page, app, "seeker", "a submarine made of brass")
    app.open(app_page, "/library", person="seeker")
    cells = app_page.locator("main li")
    expect(cells).to_have_count(1)
    # Drawn elsewhere since: the page does not know of it.
    draw(app_page, app, "seeker", "Un éléphant under an umbrella")
    app_page.get_by_label("Search your pictures").fill("elephant umbr")
    expect(cells).to_have_count(1)
    expect(cells.first.get_by_role("button")).to_have_accessible_name(
        "Show large: Un éléphant under an umbrella"
    )
    app_page.get_by_label("Search your pictures").fill("")
    expect(cells).to_have_count(2)


def test_pictures_of_a_time_are_found(app_page: Page, app: App) -> None:
    draw(app_page, app, "dater", "a clock")
    app.open(app_page, "/library", person="dater")
    cells = app_page.locator("main li")
    expect(cells).to_have_count(1)
    app_page.get_by_label("Date").select_option("Today")
    expect(cells).to_have_count(1)
    app_page.get_by_label("Date").select_option("Choose dates…")
    app_page.get_by_label("To", exact=True).fill("2020-01-31")
    expect(app_page.get_by_text("No matches")).to_be_visible()
    app_page.get_by_label("To", exact=True).fill("")
    app_page.get_by_label("From", exact=True).fill("2020-01-31")
    expect(cells).to_have_count(1)


def test_pictures_stand_below_the_day_of_their_making(app_page: Page, app: App) -> None:
    draw(app_page, app, "diarist", "a cup", "a plate")
    app.open(app_page, "/library", person="diarist")
    today = app_page.get_by_role("region", name="Today")
    expect(today.get_by_role("heading", name="Today")).to_be_visible()
    expect(today.get_by_role("listitem")).to_have_count(2)


def test_a_mouse_makes_a_favourite_without_opening_the_picture(app_page: Page, app: App) -> None:
    draw(app_page, app, "mouse", "a cheese")
    app.open(app_page, "/library", person="mouse")
    cell = app_page.locator("main li").first
    cell.hover()
    cell.get_by_title("Add to favourites").click()
    app_page.get_by_role("button", name="Favourites").click()
    expect(cell.get_by_title("Remove from favourites")).to_be_visible()
    expect(app_page.get_by_role("dialog")).to_have_count(0)


def test_styles_are_chosen_by_their_names_and_the_server_is_asked_for_a_model(
    app_page: Page, app: App
) -> None:
    draw(app_page, app, "stylist", "a plain kettle")
    headers = {"authorization": f"Bearer {app.key}", "prefer": "wait=60"}
    create = {"prompt": "a kettle in oil", "style": "primary-oil", "model": "swell/icons"}
    asked = {
        "model": "swell/icons",
        "input": {"prompt": "a kettle in oil", "steps": 2},
        "user": "stylist",
        "metadata": {"create": create},
    }
    told = app_page.request.post(f"{app.url}/v1/tasks", headers=headers, data=asked).json()
    assert told["state"] == "succeeded", told
    app.open(app_page, "/library", person="stylist")
    cells = app_page.locator("main li")
    expect(cells).to_have_count(2)
    app_page.get_by_label("Style").select_option("Primary oil")
    expect(cells).to_have_count(1)
    expect(cells.first.get_by_role("button")).to_have_accessible_name("Show large: a kettle in oil")
    app_page.get_by_label("Style").select_option("Any style")
    # Nothing was made by it here: whether there is something is known to the server alone.
    with app_page.expect_request(lambda each: "model=swell%2Fpicture" in each.url):
        app_page.get_by_label("Model").select_option("swell/picture")
    expect(app_page.get_by_text("No matches")).to_be_visible()
    app_page.get_by_label("Model").select_option("swell/icons")
    expect(cells).to_have_count(2)


def test_several_are_chosen_by_keyboard_and_erased_after_a_question(
    app_page: Page, app: App
) -> None:
    draw(app_page, app, "cleaner", "one", "two", "three")
    app.open(app_page, "/library", person="cleaner")
    cells = app_page.locator("main li")
    expect(cells).to_have_count(3)
    app_page.get_by_role("button", name="Select").press("Enter")
    cells.nth(0).get_by_role("button").press("Enter")
    cells.nth(1).get_by_role("button").click(modifiers=["Shift"])
    app_page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    expect(app_page.get_by_role("dialog")).to_contain_text("Delete 2 pictures?")
    app_page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(cells).to_have_count(1)
    app_page.reload()
    expect(cells).to_have_count(1)


def test_what_lies_behind_a_question_hears_no_keys(app_page: Page, app: App) -> None:
    draw(app_page, app, "asker", "first", "second")
    app.open(app_page, "/library", person="asker")
    app_page.locator("main li").first.get_by_role("button").click()
    shown = app_page.get_by_role("dialog", name="second")
    app_page.keyboard.press("Delete")
    question = app_page.get_by_role("dialog", name="Delete 1 picture?")
    expect(question).to_be_visible()
    for key in ("ArrowRight", "f", "Delete", "g"):
        app_page.keyboard.press(key)
    expect(app_page.get_by_role("dialog", name="My jobs")).to_have_count(0)
    expect(question).to_have_count(1)
    expect(shown).to_have_count(1)
    app_page.keyboard.press("Escape")
    expect(question).to_have_count(0)
    favourite = shown.get_by_role("button", name="Favourite")
    expect(favourite).to_have_attribute("aria-pressed", "false")
    app_page.keyboard.press("ArrowRight")
    expect(app_page.get_by_role("dialog", name="first")).to_be_visible()


def test_what_is_made_meanwhile_comes_to_the_library_by_itself(app_page: Page, app: App) -> None:
    draw(app_page, app, "waiter", "old")
    app.open(app_page, "/", person="waiter")
    app_page.get_by_label("What should it show?").fill("a new picture")
    app_page.keyboard.press("Control+Enter")
    expect(app_page.get_by_role("region", name="Pictures").get_by_role("article")).to_have_count(2)
    app_page.get_by_role("link", name="Library").first.click()
    expect(app_page.get_by_role("button", name="Show large: old")).to_be_visible()
    new = app_page.get_by_role("button", name="Show large: a new picture")
    expect(new).to_be_visible(timeout=60_000)
    expect(app_page.locator("main li")).to_have_count(2)


def test_arrows_go_through_the_grid_and_each_picture_tells_its_place(
    app_page: Page, app: App
) -> None:
    app_page.set_viewport_size({"width": 390, "height": 664})
    draw(app_page, app, "walker", *(f"picture {number}" for number in range(9)))
    app.open(app_page, "/library", person="walker")
    cells = app_page.locator("main li")
    expect(cells).to_have_count(9)
    expect(cells.first).to_have_attribute("aria-posinset", "1")
    expect(cells.last).to_have_attribute("aria-setsize", "9")
    expect(app_page.locator("main li button[tabindex='0']")).to_have_count(1)
    cells.first.get_by_role("button").focus()
    for key, place in (("ArrowRight", 2), ("ArrowDown", 4), ("ArrowLeft", 3), ("ArrowDown", 5)):
        app_page.keyboard.press(key)
        expect(cells.nth(place - 1).get_by_role("button")).to_be_focused()
    app_page.keyboard.press("End")
    expect(cells.last.get_by_role("button")).to_be_focused()
    expect(cells.last).to_be_in_viewport(ratio=1)
    app_page.keyboard.press("ArrowDown")
    expect(cells.last.get_by_role("button")).to_be_focused()
    app_page.keyboard.press("Home")
    expect(cells.first.get_by_role("button")).to_be_focused()
    expect(cells.first).to_be_in_viewport(ratio=1)


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_library_is_accessible(browser: Browser, app: App, theme: str, size: str) -> None:
    width, height = SIZES[size]
    context = browser.new_context(
        base_url=app.url,
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
        locale="en-GB",
    )
    with watched(context) as page:
        draw(page, app, f"axe-{theme}-{size}", "a cup of tea")
        app.open(page, "/library", theme=theme, person=f"axe-{theme}-{size}")
        cell = page.locator("main li").first
        expect(cell).to_be_visible()
        found = breaches(page)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        found += [f"{wide} px too wide"] if wide > 0 else []
        cell.get_by_role("button").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        found += breaches(page)
    context.close()
    assert found == [], "\n".join(found)
