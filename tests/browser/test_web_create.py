"""From words to pictures in the web app, with the built-in models."""

import re
import urllib.request
from pathlib import Path

import pytest
from app import AXE, ROOT, SIZES, App, breaches
from playwright.sync_api import Browser, Locator, Page, expect
from prefix_proxy import under_prefix
from served import Served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

#: A picture takes a few seconds on two cores, and others may use them.
PATIENCE_MS = 60_000


def prompt(page: Page) -> Locator:
    return page.get_by_label("What should it show?")


def results(page: Page) -> Locator:
    return page.get_by_role("region", name="Pictures").get_by_role("article")


def made(page: Page) -> Locator:
    return page.get_by_role("button", name="Show large")


def fresh(browser: Browser, app: App, **options: object) -> Page:
    """Return Create as somebody sees it who has asked for nothing yet."""
    page = browser.new_context(locale="en-GB", **options).new_page()  # type: ignore[arg-type]
    app.open(page)
    expect(prompt(page)).to_be_visible()
    return page


def test_a_spanish_prompt_becomes_a_picture_and_says_what_was_understood(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    expect(
        page.get_by_text("In English, Spanish, French, Portuguese, German, or Italian.")
    ).to_be_visible()
    prompt(page).fill("un zorro rojo en la nieve")
    page.get_by_text("Starlight").click()
    # How long it takes is told before anything is sent.
    expect(page.locator(".send p")).to_have_text(re.compile(r"\d+\sm?i?n?s?|nobody knows"))
    page.get_by_role("button", name="Create", exact=True).click()
    [result] = [results(page).first]
    expect(result.get_by_role("progressbar")).to_be_visible()
    picture = result.get_by_role("img", name="un zorro rojo en la nieve", exact=True)
    expect(picture).to_be_visible(timeout=PATIENCE_MS)
    assert picture.evaluate("image => image.naturalWidth") == 512
    expect(result.get_by_text("understood as “a red fox in the snow”")).to_be_visible()
    expect(result.get_by_role("progressbar")).to_have_count(0)
    page.context.close()


def test_where_no_model_translates_nobody_is_told_so(browser: Browser, served: Served) -> None:
    page = fresh(browser, App(served.url, served.key))
    expect(page.get_by_text(re.compile("In English|language"))).to_have_count(0)
    page.context.close()


def test_pictures_on_their_way_survive_a_reload_and_one_can_be_canceled(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    prompt(page).fill("a blue cat")
    page.locator(".count label").nth(3).click()
    page.keyboard.press("Control+Enter")
    expect(results(page)).to_have_count(4)
    # A preview or a stage is told of the first that is being drawn.
    expect(page.get_by_text(re.compile("Drawing|Translating|Checking")).first).to_be_visible(
        timeout=PATIENCE_MS
    )
    page.reload()
    expect(results(page)).to_have_count(4)
    page.get_by_role("button", name="My jobs").click()
    jobs = page.get_by_role("dialog", name="My jobs")
    jobs.get_by_role("button", name="Cancel", exact=True).first.click()
    expect(jobs.get_by_text("Canceled")).to_be_visible(timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    expect(made(page)).to_have_count(3, timeout=PATIENCE_MS)
    page.context.close()


def test_with_the_keyboard_alone(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    page.keyboard.press("/")
    expect(prompt(page)).to_be_focused()
    page.keyboard.type("a rocket in space")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Control+Enter")
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.keyboard.press("/")
    page.keyboard.press("Control+Enter")
    expect(made(page)).to_have_count(2, timeout=PATIENCE_MS)
    made(page).first.focus()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog", name="a rocket in space")
    expect(viewer).to_be_visible()
    seed = viewer.get_by_text("Seed").inner_text()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_text("Seed")).not_to_have_text(seed)
    page.keyboard.press("Escape")
    expect(viewer).to_have_count(0)
    expect(made(page).first).to_be_focused()
    page.context.close()


def test_a_link_and_a_saved_picture_bring_back_how_it_was_made(
    browser: Browser, app: App, tmp_path: Path
) -> None:
    page = fresh(browser, app, permissions=["clipboard-read", "clipboard-write"])
    prompt(page).fill("castillo al atardecer")
    page.get_by_text("Ink", exact=True).click()
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.get_by_role("button", name="More with this picture").click()
    page.get_by_role("menuitem", name="Copy a link").click()
    expect(page.locator(".toast")).to_contain_text("The link is copied")
    link = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="More with this picture").click()
    with page.expect_download() as told:
        page.get_by_role("menuitem", name="Save").click()
    saved = tmp_path / told.value.suggested_filename
    told.value.save_as(saved)
    renamed = saved.rename(tmp_path / f"holiday{saved.suffix}")
    first = picture_of(page)

    other = fresh(browser, app)
    assert prompt(other).input_value() == ""
    other.goto("about:blank")
    other.goto(link)
    expect(prompt(other)).to_have_value("castillo al atardecer")
    expect(other.get_by_role("radio", name="Ink", exact=True)).to_be_checked()
    other.get_by_role("button", name="Create", exact=True).click()
    expect(made(other)).to_have_count(1, timeout=PATIENCE_MS)
    assert picture_of(other) == first, "the same seed and settings give the same picture"

    # The picture itself tells what was drawn: the words as they were understood.
    third = fresh(browser, app)
    third.get_by_text("More settings").click()
    third.get_by_label("Settings from a picture").set_input_files(renamed)
    expect(prompt(third)).to_have_value("castle at sunset")
    expect(third.get_by_role("radio", name="Ink", exact=True)).to_be_checked()
    for each in (page, other, third):
        each.context.close()


def picture_of(page: Page) -> bytes:
    url = made(page).first.get_by_role("img").get_attribute("src")
    assert url is not None
    with urllib.request.urlopen(url, timeout=30) as answer:
        pixels: bytes = answer.read()
    return pixels


def test_a_picture_is_varied_remixed_and_enlarged(browser: Browser, app: App) -> None:
    page = fresh(browser, app)
    prompt(page).fill("a red apple")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    prompt(page).fill("something else")
    page.get_by_role("button", name="Vary").click()
    expect(made(page)).to_have_count(2, timeout=PATIENCE_MS)
    expect(prompt(page)).to_have_value("something else")
    page.get_by_role("button", name="Remix").first.click()
    expect(prompt(page)).to_have_value("a red apple")
    expect(prompt(page)).to_be_focused()
    page.get_by_role("button", name="More with this picture").first.click()
    with page.expect_response(re.compile(r"/v1/tasks$")) as told:
        page.get_by_role("menuitem", name="Enlarge").click()
    task = told.value.json()
    assert (task["model"], task["input"]["factor"]) == ("swell/upscale", 2)
    # Whether the model can is tested elsewhere, and takes long.
    results(page).first.get_by_role("button", name="Cancel").click()
    expect(results(page).first.get_by_text("Canceled")).to_be_visible(timeout=PATIENCE_MS)
    page.context.close()


def test_what_is_refused_is_told_beside_the_button_and_nothing_is_lost(
    browser: Browser, app: App
) -> None:
    page = fresh(browser, app)
    page.route(
        "**/v1/tasks",
        lambda route: refuse(route) if route.request.method == "POST" else route.continue_(),
    )
    prompt(page).fill("a red fox")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("the queue is full")
    expect(prompt(page)).to_have_value("a red fox")
    page.context.close()


def refuse(route: object) -> None:
    problem = {"code": "would_expire", "title": "Too late", "detail": "the queue is full"}
    route.fulfill(status=409, json=problem)  # type: ignore[attr-defined]


def test_on_a_phone_it_fits_and_the_button_is_at_hand(browser: Browser, app: App) -> None:
    page = fresh(
        browser, app, viewport={"width": 390, "height": 664}, is_mobile=True, has_touch=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    button = page.get_by_role("button", name="Create", exact=True)
    expect(button).to_be_in_viewport(ratio=1)
    prompt(page).fill("a green tree")
    button.tap()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    expect(results(page).first).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.context.close()


@pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")
def test_it_is_accessible_empty_and_with_pictures(browser: Browser, app: App) -> None:
    page = fresh(browser, app, reduced_motion="reduce")
    prompt(page).fill("a yellow star")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(made(page)).to_have_count(1, timeout=PATIENCE_MS)
    page.get_by_text("More settings").click()
    for size in SIZES.values():
        page.set_viewport_size({"width": size[0], "height": size[1]})
        for theme in ("light", "dark"):
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            # Colours change with the next frame.
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            assert breaches(page) == []
    made(page).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert breaches(page) == []
    page.context.close()


def test_under_a_deep_prefix_everything_is_found_below_it(browser: Browser, app: App) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with under_prefix(app.url, "/deep/prefix") as url:
        page.goto(f"{url}/#/key/{app.key}")
        prompt(page).fill("a purple house")
        page.get_by_role("button", name="Create", exact=True).click()
        picture = made(page).first.get_by_role("img")
        expect(picture).to_be_visible(timeout=PATIENCE_MS)
        page.wait_for_function(
            """() => [...document.querySelectorAll('.results img, .styles label:nth-child(2) img')]
                .every(each => each.complete && each.naturalWidth > 0)"""
        )
        elsewhere = [each for each in asked if not each.startswith((f"{url}/", "data:", "blob:"))]
        assert elsewhere == []
        context.close()
