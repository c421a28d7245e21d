"""Portraits in the web app: one picture of a face, in many scenes, with the built-in model."""

import re
import shutil

import pytest
from app import AXE, ROOT, SIZES, App, breaches, watched
from playwright.sync_api import Browser, Locator, Page, expect

from swell.models.onnx_sessions import weights

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not (ROOT / "web" / "dist" / "index.html").is_file(), reason="run `make web` first"
    ),
]

#: A pack takes a second or two where nothing else runs.
PATIENCE_MS = 60_000

FACE = weights("portrait.webp")


def packs(page: Page) -> Locator:
    return page.get_by_role("region", name="Your portraits").get_by_role("article")


def choose(page: Page, *scenes: str) -> None:
    """Choose a face and nothing but these scenarios."""
    page.get_by_label("Photo of a face").locator("input[type=file]").set_input_files(FACE)
    expect(page.get_by_alt_text("Selected picture")).to_be_visible()
    for box in page.get_by_role("group", name="Scenes").get_by_role("checkbox").all():
        box.set_checked(False, force=True)
    for scene in scenes:
        page.get_by_role("checkbox", name=scene, exact=True).check(force=True)


def small(page: Page) -> None:
    """Ask for portraits that are not enlarged, which would take seconds each."""
    page.get_by_text("More settings").click()
    page.get_by_label("Size").select_option("512")


def test_a_face_becomes_a_pack_of_portraits_that_come_one_by_one(app_page: Page, app: App) -> None:
    app.open(app_page, "/portraits")
    expect(app_page.get_by_role("heading", name="Your portraits appear here")).to_be_visible()
    choose(app_page, "Snow", "Beach", "City lights")
    small(app_page)
    expect(app_page.locator(".send p")).to_have_text(re.compile(r"\d|estimating"))
    app_page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => window.seen.add(
            document.querySelectorAll('article li a').length)
        ).observe(document.body, {childList: true, subtree: true}); }"""
    )
    with app_page.expect_request(lambda each: each.url.endswith("/v1/tasks")) as sent:
        app_page.get_by_role("button", name="Make 3 portraits").click()
    # What nobody chose is left to the model, whose scenes know how far each is painted.
    asked = sent.value.post_data_json
    assert asked is not None
    assert "strength" not in asked["input"]
    [pack] = [packs(app_page).first]
    # In the order of the cards, however they were clicked; each has its place at once.
    expect(pack.get_by_role("listitem")).to_have_text(["Beach", "City lights", "Snow"])
    for scene in ("Beach", "City lights", "Snow"):
        picture = pack.get_by_role("img", name=f"Portrait: {scene}")
        expect(picture).to_have_js_property("naturalWidth", 512, timeout=PATIENCE_MS)
    expect(pack.get_by_role("progressbar")).to_have_count(0, timeout=PATIENCE_MS)
    seen = set(app_page.evaluate("[...window.seen]"))
    assert 3 in seen, seen
    assert seen & {1, 2}, "they came all at once"
    with app_page.expect_download() as saved:
        pack.get_by_role("button", name="Save: Snow").click()
    assert saved.value.suggested_filename.startswith("swell-")
    # What was made, and what was chosen, is there again.
    app_page.reload()
    expect(packs(app_page)).to_have_count(1)
    expect(packs(app_page).get_by_role("img")).to_have_count(3)
    expect(app_page.get_by_role("checkbox", name="Snow")).to_be_checked()
    expect(app_page.get_by_role("checkbox", name="Forest")).not_to_be_checked()
    # In the library each has its name, and nothing is offered that only a prompt would make of it.
    app_page.get_by_role("link", name="Library").first.click()
    app_page.get_by_role("button", name="Show large: Portrait: Snow").click()
    shown = app_page.get_by_role("dialog", name="Portrait: Snow")
    expect(shown.get_by_role("button", name="Save")).to_be_visible()
    expect(shown.get_by_role("button", name="Remix")).to_have_count(0)


def test_packs_beyond_the_one_stream_show_their_pictures_as_they_come(
    app_page: Page, app: App
) -> None:
    app.open(app_page, "/portraits")
    choose(app_page, "Snow", "Beach", "Forest", "Space", "Desert", "City", "Sunset", "Meadow")
    small(app_page)
    app_page.evaluate(
        """() => { window.seen = {}; new MutationObserver(() => {
            document.querySelectorAll('article').forEach((each, at) => {
                (window.seen[at] ??= new Set()).add(each.querySelectorAll('li a').length); });
        }).observe(document.body, {childList: true, subtree: true}); }"""
    )
    for count in (1, 2, 3):
        app_page.get_by_role("button", name="Make 8 portraits").click()
        expect(packs(app_page)).to_have_count(count)
    app_page.evaluate("window.seen = {}")  # each has its place from now on
    for pack in packs(app_page).all():
        expect(pack.get_by_role("img")).to_have_count(8, timeout=2 * PATIENCE_MS)
    for at in range(3):
        seen = set(app_page.evaluate(f"[...window.seen[{at}]]"))
        assert seen & set(range(1, 8)), (at, seen)


def test_what_is_missing_is_told_beside_it_and_nothing_is_sent(app_page: Page, app: App) -> None:
    app.open(app_page, "/portraits")
    app_page.get_by_role("button", name=re.compile("Make")).click()
    expect(app_page.get_by_role("alert")).to_have_text("Choose a photo of a face first.")
    choose(app_page)
    app_page.get_by_role("button", name="Make 0 portraits").click()
    expect(app_page.get_by_role("alert")).to_have_text("Choose at least one scene.")
    expect(packs(app_page)).to_have_count(0)


def test_what_is_chosen_outlives_a_look_at_another_page(app_page: Page, app: App) -> None:
    app.open(app_page, "/portraits")
    choose(app_page, "Snow", "Beach")
    small(app_page)
    app_page.get_by_role("link", name="Library").click()
    expect(app_page.get_by_role("heading", name="Library", level=1)).to_be_visible()
    app_page.get_by_role("link", name="Portraits").click()
    expect(app_page.get_by_alt_text("Selected picture")).to_be_visible()
    expect(app_page.get_by_role("button", name="Make 2 portraits")).to_be_visible()
    expect(app_page.get_by_role("checkbox", name="Beach", exact=True)).to_be_checked()
    app_page.get_by_text("More settings").click()
    expect(app_page.get_by_label("Size")).to_have_value("512")


def test_a_pack_is_found_again_by_a_reload_in_the_middle_and_can_be_canceled(
    app_page: Page, app: App
) -> None:
    app.open(app_page, "/portraits")
    choose(app_page, "Snow", "Beach", "Space", "Forest")
    # Enlarged ones take long enough to be met in the middle.
    app_page.get_by_role("button", name="Make 4 portraits").click()
    first = packs(app_page).get_by_role("img", name="Portrait: Beach")
    expect(first).to_be_visible(timeout=PATIENCE_MS)
    app_page.reload()
    expect(packs(app_page)).to_have_count(1)
    expect(packs(app_page).get_by_role("img", name="Portrait: Beach")).to_be_visible()
    packs(app_page).get_by_role("button", name="Cancel").click()
    expect(packs(app_page).get_by_text("Canceled")).to_be_visible(timeout=PATIENCE_MS)


def test_the_camera_is_asked_for_when_wanted_and_a_picture_without_a_face_is_told(
    browser: Browser, app: App
) -> None:
    # A browser with a camera, which films no face.
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    filming = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=[*arguments, "--use-fake-ui-for-media-stream"],
    )
    context = filming.new_context(base_url=app.url, locale="en-GB")
    with watched(context) as page:
        page.add_init_script(
            "const media = navigator.mediaDevices, ask = media.getUserMedia.bind(media); "
            "window.asked = 0; media.getUserMedia = (what) => (window.asked++, ask(what));"
        )
        app.open(page, "/portraits")
        small(page)
        assert page.evaluate("window.asked") == 0
        page.get_by_role("button", name="Camera").click()
        page.get_by_role("button", name="Take photo").click()
        expect(page.get_by_alt_text("Selected picture")).to_be_visible()
        assert page.evaluate("window.asked") == 1
        page.get_by_role("button", name=re.compile("Make")).click()
        expect(packs(page).get_by_text("no face")).to_be_visible(timeout=PATIENCE_MS)
        expect(packs(page).get_by_role("img")).to_have_count(0)
    filming.close()


def test_without_a_camera_a_file_is_asked_for(app_page: Page, app: App) -> None:
    app.open(app_page, "/portraits")
    app_page.get_by_role("button", name="Camera").click()
    expect(app_page.get_by_role("dialog")).to_contain_text("choose a file")
    app_page.keyboard.press("Escape")
    expect(app_page.get_by_role("button", name="Choose file")).to_be_visible()


@pytest.mark.skipif(not AXE.is_file(), reason="run `npm ci` in web/ first")
@pytest.mark.parametrize("size", SIZES)
def test_portraits_are_accessible_in_both_looks(app_page: Page, app: App, size: str) -> None:
    width, height = SIZES[size]
    app_page.set_viewport_size({"width": width, "height": height})
    app_page.emulate_media(reduced_motion="reduce", color_scheme="light")
    app.open(app_page, "/portraits")
    choose(app_page, "Beach", "Snow")
    small(app_page)
    app_page.get_by_role("button", name="Make 2 portraits").click()
    saving = packs(app_page).first.get_by_role("button", name="Save: Snow")
    expect(saving).to_be_visible(timeout=PATIENCE_MS)
    found = []
    for look in ("light", "dark"):
        app_page.emulate_media(color_scheme=look)
        app_page.wait_for_timeout(150)  # until all of it is painted anew
        found += [f"{look} {each}" for each in breaches(app_page)]
    assert found == []
    assert app_page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
