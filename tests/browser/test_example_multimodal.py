"""The app `multimodal` of the examples: words, a voice or a picture in, and all of them out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from app import watched
from playwright.sync_api import Browser, Page, expect

from example_apps import Example, started
from pages import block
from swell.models.onnx_sessions import weights

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

PATIENCE_MS = 120_000
SPEECH = weights("speech.onnx").parents[1] / "samples" / "speech.wav"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    make = block("examples/multimodal/README.md", "make example", "sh")
    with started(make, tmp_path_factory.mktemp("multimodal") / "data") as running:
        yield running


@pytest.fixture
def page(browser: Browser, example: Example) -> Iterator[Page]:
    context = browser.new_context(base_url=example.url, viewport={"width": 390, "height": 844})
    with watched(context) as opened:
        opened.goto("/")
        expect(opened.get_by_label("Words, in English")).to_be_visible()
        yield opened
    context.close()


def make(page: Page) -> None:
    page.get_by_role("button", name="Make the postcard").click()


def test_written_words_become_a_picture_a_voice_and_a_page(page: Page, tmp_path: Path) -> None:
    make(page)
    expect(page.get_by_role("alert")).to_have_text("Write some words, or record them.")
    page.get_by_label("Words, in English").fill("a red fox <in> the snow")
    page.get_by_label("Style").select_option("mosaic")
    make(page)
    card = page.get_by_role("listitem")
    expect(card.get_by_text("a red fox <in> the snow")).to_be_visible(timeout=PATIENCE_MS)
    expect(card.get_by_role("img", name="picture")).to_have_js_property("naturalWidth", 512)
    voice = card.get_by_label("voice")
    assert (
        voice.evaluate(
            "(each) => new Promise((done) => { each.onloadedmetadata = () => done(each.duration); "
            "each.load(); })"
        )
        > 1
    )
    [task] = page.request.get("/tasks").json()["tasks"]
    kinds = [file["content_type"] for file in task["artifacts"]]
    assert sorted(kinds) == ["audio/wav", "image/webp", "text/html"]
    assert set(task["output"]) == {"text", "picture", "voice", "page"}
    with page.expect_download() as saving:
        card.get_by_role("link", name="Save the page").click()
    saved = tmp_path / "postcard.html"
    saving.value.save_as(saved)
    alone = page.context.new_page()
    alone.goto(saved.as_uri())
    expect(alone.get_by_role("img", name="a red fox <in> the snow")).to_have_js_property(
        "naturalWidth", 512
    )
    alone.close()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_spoken_words_are_heard_and_a_picture_is_taken_instead_of_drawn(page: Page) -> None:
    page.get_by_label("Or say them").set_input_files(SPEECH)
    page.get_by_label("A picture; one is drawn without").set_input_files(weights("portrait.webp"))
    make(page)
    card = page.get_by_role("listitem")
    expect(card.get_by_text("your picture is ready")).to_be_visible(timeout=PATIENCE_MS)
    expect(card.get_by_text("The transcript may be wrong.")).to_be_visible()
    [task] = page.request.get("/tasks").json()["tasks"]
    drawn = [stage["state"] for stage in task["stages"] if stage["name"] == "draw"]
    assert drawn != ["succeeded"]


def test_a_sample_becomes_a_postcard_in_view(page: Page) -> None:
    page.get_by_role("button", name="Use a sample").click()
    picture = page.get_by_role("listitem").first.get_by_role("img", name="picture")
    expect(picture).to_be_visible(timeout=PATIENCE_MS)
    expect(picture).to_be_in_viewport(ratio=1)


def test_silence_and_what_is_no_sound_are_told(page: Page) -> None:
    page.get_by_label("Or say them").set_input_files(weights("portrait.webp"))
    make(page)
    expect(page.get_by_role("alert")).to_have_text("Your browser cannot read this file as sound.")
    silence = b"RIFF$}\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80>\0\0\0}\0\0\2\0\x10\0data\0}\0\0"
    page.get_by_label("Or say them").set_input_files(
        {"name": "silence.wav", "mimeType": "audio/wav", "buffer": silence + bytes(32_000)}
    )
    make(page)
    expect(page.get_by_text("Nothing was understood")).to_be_visible(timeout=PATIENCE_MS)
