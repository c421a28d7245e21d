"""Styles that people choose by a picture: files of operators, and how they are served."""

from pathlib import Path

import PIL.Image
import pytest
from api_harness import a_world

from swell.core.errors import InvalidModel, NotFound
from swell.models.icons import Icons
from swell.sdk.pipeline import load_pipelines
from swell.sdk.style_presets import BUILT_IN, load_styles
from swell_models.paint import STYLES

WOODCUT = """
models = ["demo/draw"]

[styles.woodcut]
label = "Woodcut"
labels = { es = "Xilografía" }
prompt = "a woodcut of {prompt}"
input = { guidance = 6.0 }
picture = "woodcut.webp"

[styles.plain]
label = "Plain"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    PIL.Image.new("RGB", (16, 16), "red").save(tmp_path / "woodcut.webp")
    path = tmp_path / "styles.toml"
    path.write_text(WOODCUT)
    return path


def test_a_file_is_read_in_its_order(file: Path) -> None:
    woodcut, plain = load_styles(str(file))
    assert (woodcut.name, woodcut.label, woodcut.models) == ("woodcut", "Woodcut", ("demo/draw",))
    assert woodcut.prompt.replace("{prompt}", "a fox") == "a woodcut of a fox"
    assert woodcut.input == {"guidance": 6.0}
    assert woodcut.picture is not None
    assert plain.picture is None


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('label = "Woodcut"', "", "label"),
        ("a woodcut of {prompt}", "a woodcut", "has no {prompt}"),
        ("[styles.woodcut]", '[styles."Wood cut"]', "other letters"),
        ("woodcut.webp", "none.webp", "none.webp cannot be read"),
        ("woodcut.webp", "styles.toml", "styles.toml"),
        ("guidance = 6.0", "guidance =", "not as styles are written"),
        ('labels = { es = "Xilografía" }', "colour = 1", "colour"),
    ],
)
def test_what_is_wrong_in_it_is_told(file: Path, before: str, after: str, told: str) -> None:
    file.write_text(WOODCUT.replace(before, after))
    with pytest.raises(InvalidModel, match=told):
        load_styles(str(file))


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(NotFound, match=r"nowhere\.toml"):
        load_styles("nowhere.toml")


def test_those_that_come_with_swell_fit_the_pipeline_that_does() -> None:
    styles = load_styles(BUILT_IN)
    assert len(styles) > 20
    [picture] = load_pipelines("swell/picture")
    hands = Icons.Input.model_json_schema()["properties"]["style"]["enum"]
    for style in styles:
        assert list(style.models) == [picture.name]
        for field, value in style.input.items():
            assert value in {"style": hands, "art": ["varied", "none", *STYLES]}[field]
        assert style.picture is not None
        assert set(style.labels) == {"es", "fr", "pt"}
    # What is chosen where a person has not chosen is what the pipeline does by itself.
    assert styles[0].input == {"art": picture.input_schema["properties"]["art"]["default"]}


async def test_they_are_listed_and_their_pictures_shown_to_everybody(file: Path) -> None:
    async with a_world(styles=tuple(load_styles(str(file)))) as world:
        woodcut, plain = (await world.anna("GET", "/v1/styles")).json["styles"]
        assert woodcut["input"] == {"guidance": 6.0}
        assert plain["picture"] is None
        path = woodcut["picture"].partition("swell.test")[2]
        shown = await world.stranger("GET", path)
        assert shown.body == (file.parent / "woodcut.webp").read_bytes()
        assert shown.headers["content-type"] == "image/webp"
        assert "immutable" in shown.headers["cache-control"]
        again = await world.stranger("GET", path, headers={"if-none-match": shown.headers["etag"]})
        assert again.status == 304
        assert (await world.stranger("GET", "/v1/styles/none")).status == 404
        assert (await world.stranger("GET", "/v1/styles")).status == 401
