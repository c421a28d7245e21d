"""The app `portraits` of the examples: a face in, a pack out, and all of it gone when asked."""

import shutil
from collections.abc import Iterator

import pytest
from app import watched
from playwright.sync_api import Browser, Page, expect

from example_apps import Example, started
from pages import block
from swell.models.onnx_sessions import weights

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PATIENCE_MS = 60_000
FACE = weights("portrait.webp")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    make = block("examples/portraits/README.md", "make example", "sh")
    assert make == block("examples/README.md", "make example", "sh")
    with started(make, tmp_path_factory.mktemp("portraits") / "data") as running:
        yield running


@pytest.fixture
def page(browser: Browser, example: Example) -> Iterator[Page]:
    context = browser.new_context(base_url=example.url)
    with watched(context) as opened:
        opened.goto("/")
        yield opened
    context.close()


def choose(page: Page, *scenes: str) -> None:
    page.get_by_label("A picture of a face").set_input_files(FACE)
    expect(page.get_by_alt_text("The chosen picture")).to_be_visible()
    for box in page.get_by_role("group", name="Scenarios").get_by_role("checkbox").all():
        box.set_checked(False)
    for scene in scenes:
        page.get_by_role("checkbox", name=scene).check()


def test_portraits_come_one_by_one_and_go_with_the_face_when_asked(
    page: Page, browser: Browser, example: Example
) -> None:
    choose(page, "On the beach", "In space", "In the forest")
    page.evaluate(
        """() => { window.seen = new Set(); new MutationObserver(() => window.seen.add(
            document.querySelectorAll('article img').length)
        ).observe(document.body, {childList: true, subtree: true}); }"""
    )
    with page.expect_response(lambda each: each.url.endswith("/uploads")) as uploaded:
        page.get_by_role("button", name="Make portraits").click()
    face = uploaded.value.json()["url"]
    assert page.request.get(face).ok
    pack = page.get_by_role("article")
    expect(pack.get_by_role("status")).to_have_text(
        "Ready. The app keeps them for a day.", timeout=PATIENCE_MS
    )
    for scene in ("On the beach", "In space", "In the forest"):
        picture = pack.get_by_role("img", name=f"Portrait: {scene}")
        expect(picture).to_have_js_property("naturalWidth", 512)
    seen = set(page.evaluate("[...window.seen]"))
    assert seen & {1, 2}, f"they came all at once: {seen}"
    with page.expect_download() as saving:
        pack.get_by_role("link", name="Save").first.click()
    assert saving.value.suggested_filename.endswith("-1.png")
    # After a reload they are there for whoever made them, and for nobody else.
    page.set_viewport_size({"width": 390, "height": 844})
    page.reload()
    expect(page.get_by_role("article").get_by_role("img")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    other = browser.new_context(base_url=example.url)
    stranger = other.new_page()
    stranger.goto("/")
    assert stranger.request.get("/tasks").json()["tasks"] == []
    task = page.request.get("/tasks").json()["tasks"][0]
    for method in ("GET", "DELETE"):
        assert stranger.request.fetch(f"/tasks/{task['id']}", method=method).status == 404
    other.close()
    page.get_by_role("button", name="Delete the face and the portraits").click()
    expect(page.get_by_text("Deleted: the face, the portraits")).to_be_visible()
    for url in (face, task["artifacts"][0]["url"]):
        assert page.request.get(url).status in (404, 410)
    page.reload()
    expect(page.get_by_role("article")).to_have_count(0)


def test_a_sample_face_becomes_portraits_in_view_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("button", name="Use a sample").click()
    expect(page.get_by_alt_text("The chosen picture")).to_be_visible()
    page.get_by_role("button", name="Make portraits").click()
    portrait = page.get_by_role("article").get_by_role("img").first
    expect(portrait).to_be_visible(timeout=PATIENCE_MS)
    expect(portrait).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_no_key_ever_reaches_the_browser(page: Page, example: Example) -> None:
    said: list[str] = []
    page.on("response", lambda answer: said.append(f"{answer.url} {answer.all_headers()}"))
    page.reload()
    choose(page, "In space")
    page.get_by_role("button", name="Make portraits").click()
    expect(page.get_by_role("article").get_by_role("img")).to_have_count(1, timeout=PATIENCE_MS)
    cookies = page.context.cookies()
    assert [cookie["httpOnly"] for cookie in cookies] == [True]
    secret = example.key.removeprefix("swell_")
    everything = [*said, page.content(), str(cookies), page.request.get("/tasks").text()]
    assert said
    assert not any(secret in each for each in everything)


def test_what_is_missing_is_told_and_a_picture_without_a_face_too(
    browser: Browser, example: Example
) -> None:
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    filming = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=[*arguments, "--use-fake-ui-for-media-stream"],
    )
    context = filming.new_context(base_url=example.url)
    with watched(context) as page:
        page.goto("/")
        page.get_by_role("button", name="Make portraits").click()
        expect(page.get_by_role("alert")).to_have_text("Choose a picture of a face first.")
        page.get_by_role("button", name="Camera").click()
        page.get_by_role("button", name="Take the picture").click()
        expect(page.get_by_alt_text("The chosen picture")).to_be_visible()
        page.get_by_role("button", name="Make portraits").click()
        expect(page.get_by_role("article").get_by_text("No face found")).to_be_visible(
            timeout=PATIENCE_MS
        )
    filming.close()


def test_a_page_cannot_ask_for_what_is_not_the_apps(page: Page) -> None:
    for task, status in (
        ({"model": "swell/icons", "input": {}}, 403),
        ({"model": "swell/portraits", "input": {"scenarios": ["moon"]}}, 422),
        ([], 400),
    ):
        assert page.request.post("/tasks", data=task).status == status
    forged = {"cookie": f"user=anna.{'0' * 64}"}
    assert "set-cookie" in page.request.get("/tasks", headers=forged).headers
