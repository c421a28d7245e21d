"""What models of portraits are asked, and which part of a picture they see; no torch is needed."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pydantic import BaseModel, ValidationError

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from swell.core.errors import InvalidModel
from swell.diffusion.families.detect_family import FAMILIES, Facts
from swell.sdk.context import Reject
from swell.sdk.media import Image
from swell_models import faces
from swell_models.added_portraits import (
    FILES,
    FaceFinder,
    Scenario,
    head_and_shoulders,
    input_type,
    prompts_of,
    read_scenarios,
    sides,
)
from swell_models.faces import FaceDetector
from swell_models.portraits import Portraits, Studio
from swell_models.scenes import SCENES

KNOWN = read_scenarios()
FACTS = Facts(FAMILIES[1], {}, {}, {}, {}, side_px=1024, steps=30, guidance=5.0)
ASKED = input_type(FACTS, KNOWN)
FACE = Portraits.examples[0]["image"]


def asked(**fields: Any) -> Any:
    return ASKED(**{"image": FACE, **fields})


# What is asked


def test_the_scenarios_that_ship_are_those_of_the_built_in_model() -> None:
    assert list(KNOWN) == list(SCENES)
    assert {name: each.prompt for name, each in KNOWN.items()} == {
        name: each.prompt for name, each in SCENES.items()
    }


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"scenarios": ["beach", "snow"], "size": 512, "seed": 7},
        {"scenarios": list(SCENES), "size": 1024, "style": "etching", "strength": 0.4},
        {"style": "none"},
        {"style": "scene", "strength": None},
    ],
    ids=str,
)
def test_what_the_built_in_model_is_asked_may_be_asked_here(request_: dict[str, Any]) -> None:
    told = {"image": FACE, **request_}
    built_in, here = Portraits.Input(**told), ASKED(**told)
    for name in Portraits.Input.model_fields.keys() - {"image"}:
        assert getattr(here, name) == getattr(built_in, name)


def test_scenarios_are_names_or_words_of_ones_own() -> None:
    own = "portrait of a chef in a kitchen"
    assert asked(scenarios=["beach", own, "beach"]).scenarios == ["beach", own, "beach"]
    for wrong in ([], ["beech"], [""], ["x" * 3000 + " y"], ["beach"] * 25):
        with pytest.raises(ValidationError):
            asked(scenarios=wrong)


def test_the_schema_names_scenarios_with_titles() -> None:
    told = ASKED.model_json_schema()["properties"]["scenarios"]
    assert told["items"]["anyOf"][0]["enum"] == list(KNOWN)
    assert told["x-ui"]["labels"]["city-night"] == "City lights"


@pytest.mark.parametrize(
    ("style", "styled"),
    [
        ("scene", "a hill"),
        ("none", "a hill"),
        ("soft-ink", "a hill, soft ink style"),
        ("as an oil painting", "a hill, as an oil painting"),
    ],
)
def test_a_style_is_added_to_the_prompt(style: str, styled: str) -> None:
    known = {"hill": Scenario("Hill", "a hill")}
    given = input_type(FACTS, known)(image=FACE, style=style)
    assert given.scenarios == ["hill"]
    assert prompts_of(given, "hill", known) == ("a hill", styled)
    assert prompts_of(given, "on the moon", known)[0] == "on the moon"


@pytest.mark.parametrize(
    ("size", "aspect", "expected"),
    [
        (1024, "1:1", (1024, 1024)),
        (1024, "3:4", (768, 1024)),
        (1024, "16:9", (1024, 576)),
        (1000, "2:3", (664, 1000)),
    ],
)
def test_the_longer_side_is_the_size(size: int, aspect: str, expected: tuple[int, int]) -> None:
    assert sides(asked(size=size, aspect=aspect), 8) == expected


# Files of scenarios


def test_scenarios_of_ones_own_are_read_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[office]\nprompt = "in an office"\n[bar]\ntitle = "A bar"\nprompt = "a bar"\n')
    found = read_scenarios(path)
    assert found == {
        "office": Scenario("office", "in an office"),
        "bar": Scenario("A bar", "a bar"),
    }
    assert input_type(FACTS, found)(image=FACE).scenarios == ["office", "bar"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no scenarios"),
        ("a = [", "is no TOML"),
        ('[bar]\ntitle = "A bar"', r"\[bar\] needs a prompt"),
        ('bar = "a bar"', r"\[bar\] needs a prompt"),
        ('["A bar"]\nprompt = "a bar"', "cannot name a scenario"),
        ('[bar]\nprompt = "a bar"\ntitle = 3', "is no text"),
    ],
)
def test_a_file_of_scenarios_that_is_wrong_says_what(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InvalidModel, match=told):
        read_scenarios(path)


def test_a_file_of_scenarios_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="no file of scenarios"):
        read_scenarios(tmp_path / "mine.toml")


@pytest.mark.parametrize("asked_of", [ASKED, Portraits.Input], ids=["added", "built in"])
def test_a_picture_beyond_the_limit_of_the_built_in_model_is_refused_by_its_head(
    asked_of: type[BaseModel],
) -> None:
    # What was decoded would be told to be broken.
    with pytest.raises(ValidationError, match="too large: at most 40 million pixels"):
        asked_of.model_validate({"image": _broken_off(6400, 6400)})
    with pytest.raises(ValidationError, match="too large: at most 40 million pixels"):
        asked_of(image=Image(PIL.Image.new("1", (6400, 6400))))
    with pytest.raises(ValidationError, match="not a picture that can be read"):
        asked_of.model_validate({"image": _broken_off(6000, 6000)})


def _broken_off(width: int, height: int) -> str:
    file = io.BytesIO()
    PIL.Image.new("1", (width, height)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()[:100]).decode()}"


def test_a_picture_has_the_same_form_on_the_wire_as_for_the_built_in_model() -> None:
    here, built_in = (each.model_json_schema()["properties"] for each in (ASKED, Portraits.Input))
    assert here["image"] == built_in["image"]


# The face


@pytest.mark.parametrize(
    ("face", "size", "expected"),
    [
        ((400, 300, 500, 400), (1000, 1000), (320, 233, 580, 493)),
        ((0, 0, 100, 100), (1000, 1000), (0, 0, 260, 260)),
        ((900, 900, 1000, 1000), (1000, 1000), (740, 740, 1000, 1000)),
        ((100, 100, 500, 600), (600, 700), (0, 80, 600, 680)),
        ((10, 20, 50, 70), (64, 400), (0, 16, 64, 80)),
    ],
    ids=["middle", "upper left", "lower right", "large", "narrow"],
)
def test_a_square_around_the_face_stays_in_the_picture(
    face: tuple[float, float, float, float], size: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert head_and_shoulders(face, *size) == expected


def test_the_adapter_sees_the_face_and_not_the_room() -> None:
    given = asked().image
    room = Image(given.pil().convert("RGB").resize((256, 256))).pil()
    wide = Image(_beside(room, 900))
    cut = FaceFinder()(wide)
    assert cut.width == cut.height < 400
    again = FaceFinder()(Image(cut))
    assert again.size == cut.size or again.width >= 0.8 * cut.width


def _beside(picture: Any, width: int) -> Any:
    whole = picture.resize((width, picture.height))
    whole.paste((90, 120, 90), (0, 0, width, picture.height))
    whole.paste(picture, (width - picture.width, 0))
    return whole


def test_a_picture_without_a_face_is_refused_as_by_the_built_in_model() -> None:
    flat = asked().image.pil().convert("RGB").resize((1, 1)).resize((200, 200))
    with pytest.raises(Reject, match=r"No face found\. Use a well-lit picture"):
        FaceFinder()(Image(flat))


def _face(side_px: int = 160) -> PIL.Image.Image:
    return asked().image.pil().convert("RGB").resize((side_px, side_px))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degrees", "side_px"), [(45, 160), (90, 600), (225, 160), (270, 160), (315, 600)]
)
def test_the_adapter_sees_the_face_of_a_turned_picture_upright(degrees: int, side_px: int) -> None:
    turned = _face(side_px).rotate(degrees, PIL.Image.Resampling.BICUBIC, expand=True)
    [face, *_] = FaceDetector(1)(np.asarray(FaceFinder()(Image(turned))))
    left_eye, right_eye, nose, *mouth = face.landmarks
    assert left_eye[0] < right_eye[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(y for _, y in mouth)
    assert abs(face.tilt_deg) < 20


@pytest.mark.parametrize("quarter", ["ROTATE_90", "ROTATE_180", "ROTATE_270"])
def test_a_picture_turned_by_quarters_gives_the_very_pixels_of_the_upright_one(
    quarter: str,
) -> None:
    upright = FaceFinder()(Image(_face(256)))
    turned = _face(256).transpose(PIL.Image.Transpose[quarter])
    np.testing.assert_array_equal(FaceFinder()(Image(turned)), upright)


@pytest.mark.parametrize("degrees", [0, 20, -30])
def test_of_a_picture_that_is_upright_no_pixel_is_changed(degrees: int) -> None:
    picture = Image(_beside(_face(256).rotate(degrees, PIL.Image.Resampling.BICUBIC), 900))
    pixels = np.asarray(picture.pil())
    [face, *_] = FaceDetector()(pixels)
    left, top, right, bottom = head_and_shoulders(face.box, 900, 256)
    np.testing.assert_array_equal(FaceFinder()(picture), pixels[top:bottom, left:right])


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [0, 45])
def test_both_models_of_portraits_find_the_same_face_upright(degrees: int) -> None:
    picture = _face(400).rotate(degrees, PIL.Image.Resampling.BICUBIC, expand=True)
    found = FaceDetector(1).upright(np.asarray(picture))
    assert found is not None
    pixels, face = found
    height, width = pixels.shape[:2]
    left, top, right, bottom = head_and_shoulders(face.box, width, height)
    seen = FaceFinder()(Image(picture))
    np.testing.assert_array_equal(seen, pixels[top:bottom, left:right])
    sitter = Studio(1).sitter(np.asarray(picture))
    assert sitter is not None
    sizes = [(right - left, bottom - top) for left, top, right, bottom in (sitter.face, face.box)]
    assert sizes[0] == pytest.approx(sizes[1], abs=0.01)


def test_how_faces_are_found_is_part_of_the_version_of_both_models() -> None:
    where = Path(faces.__file__)
    assert where in FILES
    assert where in Portraits.files
