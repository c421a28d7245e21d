"""What models of portraits are asked, and which part of a picture they see; no torch is needed."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from swell.families.portraits import (
    FaceFinder,
    Scenario,
    head_and_shoulders,
    input_type,
    prompts_of,
    read_scenarios,
    sides,
)
from swell.families.recognise import FAMILIES, Facts
from swell.media import Image
from swell.model import InvalidModel, Reject
from swell.zoo.portraits import Portraits
from swell.zoo.scenes import SCENES

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
    with pytest.raises(Reject, match="No face was found: give a picture"):
        FaceFinder()(Image(flat))
