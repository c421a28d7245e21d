"""The built-in picture and speech models, by the command that people use, on files of their own."""

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from commandline import Swell

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

import swell_models


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    """A folder with a scene that is drawn here, and a portrait."""
    scene = Image.new("RGB", (240, 160), (60, 120, 200))
    pen = ImageDraw.Draw(scene)
    pen.rectangle((0, 110, 240, 160), (70, 140, 60))
    pen.ellipse((80, 40, 160, 130), (220, 60, 40))
    scene.save(tmp_path / "scene.png")
    with Image.open(swell_models.path("portrait.webp")) as portrait:
        portrait.save(tmp_path / "portrait.png")
    return Swell(tmp_path)


def run(swell: Swell, model: str, *inputs: str) -> str:
    return swell.ok("run", model, *(part for each in inputs for part in ("-i", each))).strip()


def picture(swell: Swell, path: str) -> np.ndarray:
    with Image.open(swell.folder / path) as opened:
        return np.asarray(opened).astype(int)


def test_a_picture_is_painted_cut_out_and_enlarged(swell: Swell) -> None:
    before = picture(swell, "scene.png")
    painted = run(swell, "swell/paint", "image=@scene.png", "style=starlight", "size=240")
    assert picture(swell, painted).shape == before.shape
    assert np.abs(picture(swell, painted) - before).mean() > 15
    cut = picture(swell, run(swell, "swell/cutout", "image=@scene.png"))
    assert cut[85, 120, 3] > 200 > 60 > cut[5, 5, 3]
    large = picture(swell, run(swell, "swell/upscale", "image=@scene.png", "factor=2"))
    assert large.shape == (320, 480, 3)


def test_a_face_is_found_and_the_picture_is_safe(swell: Swell) -> None:
    told = json.loads(run(swell, "swell/faces", "image=@portrait.png"))
    [face] = told["faces"]
    assert face["score"] > 0.8
    assert json.loads(run(swell, "swell/faces", "image=@scene.png"))["faces"] == []
    assert json.loads(run(swell, "swell/safety", "image=@portrait.png"))["verdict"] == "safe"


def test_a_face_becomes_a_pack_of_portraits_and_no_face_says_so(swell: Swell) -> None:
    made = run(
        swell, "swell/portraits", "image=@portrait.png", 'scenarios=["snow","space"]', "size=512"
    )
    paths = made.splitlines()
    assert [picture(swell, path).shape for path in paths] == [(512, 512, 3)] * 2
    refused = swell.run("run", "swell/portraits", "-i", "image=@scene.png", "-i", "size=512")
    assert refused.returncode != 0
    assert "No face found" in refused.stderr


def test_a_text_is_read_aloud(swell: Swell) -> None:
    path = run(swell, "swell/speech", "text=Your picture is ready.")
    with wave.open(str(swell.folder / path)) as sound:
        assert 1 < sound.getnframes() / sound.getframerate() < 4
