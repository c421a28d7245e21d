"""The app `sing` of the examples: a face and a sound in, a video out that a browser plays."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from app import watched
from playwright.sync_api import Browser, Page, expect

from commandline import Swell
from example_apps import EXAMPLES, Example, started
from pages import block
from swell.models.onnx_sessions import weights

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

PATIENCE_MS = 120_000
FACE = weights("portrait.webp")
SPEECH = weights("speech.onnx").parents[1] / "samples" / "speech.wav"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    make = block("examples/sing/README.md", "make example", "sh")
    with started(make, tmp_path_factory.mktemp("sing") / "data") as running:
        yield running


@pytest.fixture
def page(browser: Browser, example: Example) -> Iterator[Page]:
    context = browser.new_context(base_url=example.url, viewport={"width": 390, "height": 844})
    with watched(context) as opened:
        opened.goto("/")
        yield opened
    context.close()


def played(page: Page) -> dict[str, float]:
    """Play the newest video for a moment, and return what a browser found in it."""
    video = page.get_by_label("The video").first
    expect(video).to_be_visible(timeout=PATIENCE_MS)
    found: dict[str, float] = video.evaluate(
        """async (video) => {
            video.muted = true;
            await video.play();
            await new Promise((done) => video.addEventListener("timeupdate", done));
            while (!video.currentTime) await new Promise((done) => requestAnimationFrame(done));
            return {width: video.videoWidth, at: video.currentTime,
                sound: video.webkitAudioDecodedByteCount, frames: video.webkitDecodedFrameCount};
        }"""
    )
    return found


def test_a_face_and_a_sound_become_a_video_that_plays_with_sound(page: Page) -> None:
    page.get_by_role("button", name="Make the video").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a picture of a face first.")
    page.get_by_label("A picture of a face").set_input_files(FACE)
    page.get_by_label("A sound, up to 20 s").set_input_files(SPEECH)
    page.get_by_role("button", name="Make the video").click()
    found = played(page)
    assert found["width"] == 160  # the picture's own: it is not made larger
    assert found["at"] > 0
    assert found["frames"] > 0
    assert found["sound"] > 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    with page.expect_download() as saving:
        page.get_by_role("link", name="Save").click()
    assert saving.value.suggested_filename.endswith(".webm")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_label("The video")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("The video")).to_have_count(0)


def test_a_sample_speaks_its_words_and_its_video_comes_into_view(page: Page) -> None:
    page.get_by_role("button", name="Use a sample").click()
    page.get_by_role("button", name="Make the video").click()
    assert played(page)["sound"] > 0
    expect(page.get_by_label("The video").first).to_be_in_viewport(ratio=1)
    [task] = page.request.get("/tasks").json()["tasks"]
    assert [stage["name"] for stage in task["stages"]] == ["find", "speak", "animate"]


def test_a_picture_without_a_face_and_a_sound_that_is_none_are_told(page: Page) -> None:
    nobody = weights("portrait.webp").read_bytes()
    plain = page.request.post("/uploads", data=nobody, headers={"content-type": "image/webp"})
    image = plain.json()["url"]
    for given, words in (
        ({"image": image}, "Give a sound"),
        ({"image": image, "sound": image}, "no sound"),
    ):
        task = {"model": "sing/clip", "input": given}
        made = page.request.post("/tasks", data=task).json()
        page.request.get(f"/tasks/{made['id']}/events", timeout=PATIENCE_MS)
        ended = page.request.get(f"/tasks/{made['id']}").json()
        assert ended["state"] == "failed"
        assert words in ended["error"]["detail"]


def test_the_model_for_a_gpu_says_which_weights_it_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "sing"
    shutil.copytree(EXAMPLES / "sing", folder, ignore=shutil.ignore_patterns(".swell", "models"))
    done = Swell(folder).run("models", "check", "musetalk.py")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "musetalkV15/unet.pth" in said
    assert "download_weights.sh" in said
    assert "Traceback" not in said


def test_a_mouth_opens_where_it_is_loud_and_nothing_moves_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "sing"))
    from puppet import Puppet, openness  # noqa: PLC0415 - the app's own folder

    loud = np.sin(np.arange(8000) / 5).astype(np.float32)
    mouth = openness(np.concatenate([np.zeros(8000, np.float32), loud]), 16_000, 25)
    assert len(mouth) == 25
    assert mouth[:12].max() == 0
    assert mouth[-1] > 0.9
    pixels = np.random.default_rng(0).integers(0, 255, (120, 100, 3), dtype=np.uint8)
    puppet = Puppet(pixels, ((35, 45), (65, 45)), ((40, 80), (60, 80)))
    assert (puppet.frame(0, 0, 0) == pixels).all()
    opened = puppet.frame(1, 0, 0)
    changed = (opened != pixels).any(-1)
    assert changed[82:100, 42:58].mean() > 0.9
    assert not changed[:75].any()
    sys.modules.pop("puppet")
