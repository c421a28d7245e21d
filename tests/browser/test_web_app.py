"""The web app's frame: signing in, menus, languages, looks, keyboard, weight."""

import gzip
import re
from pathlib import Path

import pytest
from app import AXE, ROOT, SIZES, App, breaches
from playwright.sync_api import Browser, Page, expect

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")


def test_a_wrong_key_is_refused_in_words_and_the_right_one_is_remembered(
    browser: Browser, app: App
) -> None:
    # Not a watched page: a browser tells of each answer that is an error.
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(f"{app.url}/")
    field = page.get_by_label("Key")
    field.fill("swell_nonsense")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("That key")).to_be_visible()
    field.fill(app.key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Create")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Create")
    page.locator(".tools .opener").last.click()
    page.get_by_role("menuitem", name="Sign out").click()
    page.reload()
    expect(page.get_by_label("Key")).to_be_visible()
    context.close()


def test_a_link_signs_in_and_its_key_leaves_the_address(app_page: Page, app: App) -> None:
    app_page.goto(f"{app.url}/#/key/{app.key}")
    expect(app_page.get_by_role("heading", level=1)).to_have_text("Create")
    assert app.key not in app_page.url


def test_a_link_pasted_into_the_tab_that_asks_for_a_key_signs_in(
    browser: Browser, app: App
) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(f"{app.url}/")
    expect(page.get_by_label("Access key")).to_be_focused()
    # As the address bar does where only what follows `#` changes: the page stays.
    page.evaluate("link => { location.href = link }", f"{app.url}/#/key/{app.key}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Create")
    assert app.key not in page.url
    context.close()


def test_a_link_in_the_field_of_the_key_signs_in(browser: Browser, app: App) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto(f"{app.url}/")
    page.get_by_label("Access key").fill(f"{app.url}/#/key/{app.key}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Create")
    context.close()


def test_the_pages_of_operators_are_behind_one_entry(app_page: Page, app: App) -> None:
    app.open(app_page, "/library")
    expect(app_page.get_by_role("link", name="Keys", exact=True)).to_have_count(0)
    app_page.get_by_role("link", name="Operations").click()
    pages = app_page.get_by_role("main").get_by_label("Operations")
    for name in ("Fleet", "Tasks", "Costs", "Keys"):
        pages.get_by_role("link", name=name, exact=True).click()
        expect(app_page.get_by_role("heading", level=1)).to_have_text(name)
        expect(app_page.get_by_role("link", name="Operations")).to_have_attribute(
            "aria-current", "true"
        )


def test_the_app_can_be_put_on_a_home_screen(app_page: Page, app: App) -> None:
    app.open(app_page)
    link = app_page.locator("link[rel=manifest]").evaluate("each => each.href")
    told = app_page.request.get(link)
    assert told.headers["content-type"] == "application/manifest+json"
    manifest = told.json()
    assert manifest["display"] == "standalone"
    assert app_page.evaluate("([a, b]) => new URL(a, b).href", [manifest["start_url"], link]) == (
        f"{app.url}/"
    )
    for icon in manifest["icons"]:
        where = app_page.evaluate("([a, b]) => new URL(a, b).href", [icon["src"], link])
        found = app_page.request.get(where)
        assert found.headers["content-type"] == icon["type"]
        # Width and height stand in the first bytes of a PNG.
        side = int(icon["sizes"].partition("x")[0])
        assert found.body()[16:24] == side.to_bytes(4) * 2


def test_a_link_takes_nobodys_key_away_and_signs_nobody_over_unasked(
    browser: Browser, app: App
) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    app.open(page)
    page.goto(f"{app.url}/#/key/swell_nonsense")
    expect(page.get_by_text("This link signs in with another key.").first).to_be_visible()
    assert "nonsense" not in page.url
    page.get_by_role("button", name="Switch").click()
    expect(page.get_by_text("That key")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Create")
    context.close()


def test_the_language_of_the_browser_is_spoken_and_another_can_be_chosen(
    browser: Browser, app: App
) -> None:
    context = browser.new_context(locale="es-MX")
    page = context.new_page()
    page.goto(f"{app.url}/#/key/{app.key}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Crear")
    page.get_by_role("button", name="Idioma").click()
    page.get_by_role("menuitemradio", name="Français").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Créer")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Créer")
    assert page.evaluate("document.documentElement.lang") == "fr"
    context.close()


def test_the_look_is_that_of_the_system_until_another_is_chosen(browser: Browser, app: App) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    app.open(page)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Appearance").click()
    page.get_by_role("menuitemradio", name="Light").click()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    expect(page.locator("main")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    context.close()


def test_the_keyboard_shows_its_keys_and_escape_goes_back(app_page: Page, app: App) -> None:
    app.open(app_page)
    # Who has a keyboard types at once: keys are letters of the prompt until it is left.
    prompt = app_page.get_by_label("What should it show?")
    expect(prompt).to_be_focused()
    app_page.keyboard.press("?")
    expect(prompt).to_have_value("?")
    expect(app_page.get_by_role("dialog")).to_have_count(0)
    app.open(app_page, "/library")
    app_page.reload()
    expect(app_page.get_by_role("heading", level=1)).to_have_text("Library")
    app_page.keyboard.press("Tab")
    expect(app_page.get_by_text("Skip to content")).to_be_focused()
    app_page.keyboard.press("?")
    sheet = app_page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(sheet).to_be_visible()
    app_page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    app_page.keyboard.press("g")
    expect(app_page.get_by_role("dialog", name="My jobs")).to_be_visible()


def test_single_keys_can_be_switched_off_and_stay_off(app_page: Page, app: App) -> None:
    app.open(app_page)
    prompt = app_page.get_by_label("What should it show?")
    expect(prompt).to_be_focused()
    app_page.keyboard.press("Tab")
    app_page.keyboard.press("?")
    sheet = app_page.get_by_role("dialog", name="Keyboard shortcuts")
    sheet.get_by_role("switch", name="Single-key shortcuts").click()
    app_page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)
    app_page.reload()
    expect(prompt).to_be_focused()
    app_page.keyboard.press("Tab")
    expect(prompt).not_to_be_focused()
    app_page.keyboard.press("g")
    app_page.keyboard.press("?")
    expect(prompt).to_have_value("")
    # What takes Ctrl is left on: without words the example is asked for.
    with app_page.expect_request(lambda each: each.url.endswith("/v1/tasks")) as sent:
        app_page.keyboard.press("Control+Enter")
    assert sent.value.method == "POST"
    expect(prompt).to_have_value(prompt.get_attribute("placeholder") or "an example")
    expect(app_page.get_by_role("dialog")).to_have_count(0)
    app_page.locator(".tools .opener").last.click()
    app_page.get_by_role("menuitem", name="Keyboard shortcuts").click()
    sheet.get_by_role("switch", name="Single-key shortcuts").click()
    app_page.keyboard.press("Escape")
    app_page.keyboard.press("g")
    expect(app_page.get_by_role("dialog", name="My jobs")).to_be_visible()


def test_a_page_that_is_not_there_leads_back(app_page: Page, app: App) -> None:
    app.open(app_page, "/nowhere")
    expect(app_page.get_by_text("Page not found")).to_be_visible()
    app_page.get_by_role("button", name="Create").click()
    expect(app_page.get_by_role("heading", level=1)).to_have_text("Create")


def test_operators_pages_are_in_the_menu_of_operators_alone(app_page: Page, app: App) -> None:
    app.open(app_page)
    expect(app_page.get_by_role("link", name="Operations")).to_be_visible()
    headers = {"authorization": f"Bearer {app.key}"}
    asked = {"name": "a phone", "scopes": ["client"]}
    made = app_page.request.post("/v1/keys", headers=headers, data=asked).json()
    app_page.evaluate("localStorage.clear()")
    app_page.goto(f"{app.url}/health/live")
    app_page.goto(f"{app.url}/#/key/{made['key']}")
    heading = app_page.get_by_role("heading", level=1)
    expect(heading).to_have_text("Create")
    expect(app_page.get_by_role("link", name="Models").first).to_be_visible()
    expect(app_page.get_by_role("link", name="Operations")).to_have_count(0)
    for path, word in {
        "fleet": "Fleet",
        "keys": "Keys",
        "costs": "Costs",
        "tasks": "Tasks",
    }.items():
        expect(app_page.get_by_role("link", name=word, exact=True)).to_have_count(0)
        app_page.goto(f"{app.url}/#/{path}")
        expect(app_page.get_by_text("For operators only")).to_be_visible()
        expect(heading).not_to_have_text(word)


@needs_axe
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_frame_is_accessible(app_page: Page, app: App, theme: str, size: str) -> None:
    app_page.set_viewport_size(dict(zip(("width", "height"), SIZES[size], strict=True)))
    app_page.emulate_media(reduced_motion="reduce")
    app.open(app_page, "/nowhere", theme=theme)
    assert breaches(app_page) == []
    app_page.keyboard.press("?")
    expect(app_page.get_by_role("dialog")).to_be_visible()
    assert breaches(app_page) == []


@needs_axe
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_signing_in_is_accessible(app_page: Page, app: App, theme: str) -> None:
    app.open(app_page, key="", theme=theme)
    expect(app_page.get_by_label("Key")).to_be_visible()
    assert breaches(app_page) == []


def test_each_link_for_those_without_a_key_leads_somewhere(app_page: Page, app: App) -> None:
    app.open(app_page, key="")
    expect(app_page.get_by_label("Key")).to_be_visible()
    links = app_page.locator("a[href]").evaluate_all("all => all.map(each => each.href)")
    assert links
    for link in links:
        assert app_page.request.get(link).ok, link


def test_what_a_finger_hits_is_large_enough_and_nothing_sticks_out_of_a_phone(
    app_page: Page, app: App
) -> None:
    app_page.set_viewport_size({"width": 390, "height": 664})
    app.open(app_page)
    small = app_page.evaluate(
        """() => [...document.querySelectorAll('.tabs .entry, main button')]
            .filter(each => each.checkVisibility())
            .map(each => [each.textContent, each.getBoundingClientRect()])
            .filter(([, box]) => box.height < 44 || box.width < 44).map(([text]) => text)"""
    )
    assert small == []
    assert app_page.evaluate("document.documentElement.scrollWidth") == 390


def test_on_a_phone_the_tab_for_the_rest_is_marked_where_one_is_on_a_page_behind_it(
    app_page: Page, app: App
) -> None:
    app_page.set_viewport_size({"width": 390, "height": 664})
    app.open(app_page, "/models")
    more = app_page.get_by_role("button", name="More", exact=True)
    expect(more).to_have_attribute("aria-current", "true")
    app_page.get_by_role("link", name="Library").click()
    expect(app_page.get_by_role("heading", level=1)).to_have_text("Library")
    expect(more).not_to_have_attribute("aria-current", "true")


def test_the_first_load_asks_nobody_else_and_is_small(browser: Browser, app: App) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    app.open(page)
    page.wait_for_load_state("networkidle")
    assert [url for url in asked if not url.startswith((f"{app.url}/", "data:", "blob:"))] == []
    code = {url for url in asked if re.search(r"/assets/.*\.(js|css)$", url)}
    dist = ROOT / "web" / "dist"
    files = [dist / "index.html", *(dist / "assets" / Path(url).name for url in code)]
    weight = sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)
    assert weight <= 150_000, weight
    context.close()
