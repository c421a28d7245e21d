"""What `swell models check` measures of an added model is on its card; needs torch."""

import contextlib
import io
from pathlib import Path

import pytest

from commandline import Swell

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines as tiny
from swell.sdk.model_loader import load_models

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


def test_a_check_of_an_added_model_by_its_name_fills_its_card(swell: Swell, tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        weights = tiny.stable_diffusion(tmp_path / "dreams")
    added = swell.run("models", "add", str(weights), "--name", "test/dreams", "--steps", "2")
    assert added.returncode == 0, added.stderr
    checked = swell.run("models", "check", "test/dreams", "--probe-s", "0")
    assert checked.returncode == 0, checked.stderr
    assert "measurements are on the card of test/dreams" in checked.stderr
    [path] = swell.folder.rglob("test--dreams.toml")
    card = load_models(str(path))[0].card()
    assert card.memory_bytes > 0
    [speed] = card.speed
    assert speed.took_s > 0
    assert "2 steps" in speed.what
    [sample] = card.samples
    assert sample.content_type == "image/webp"


def test_what_libraries_would_tell_authors_is_not_told(swell: Swell, tmp_path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        weights = tiny.stable_diffusion(tmp_path / "dreams")
    said = [
        swell.run("models", "add", str(weights), "--name", "test/dreams", "--steps", "2").stderr,
        swell.run("models", "check", "test/dreams", "--probe-s", "0").stderr,
        swell.run("run", "test/dreams", "-i", "prompt=a fox").stderr,
    ]
    for noise in ("deprecated", "it/s", "torchvision", "should be kept in float32"):
        assert noise not in "\n".join(said)
    loud = swell.run("run", "test/dreams", "-i", "prompt=a fox", HF_HUB_DISABLE_PROGRESS_BARS="0")
    assert "it/s" in loud.stderr, "whoever wants it"
