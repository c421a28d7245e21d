import io
from typing import Annotated, Any, Literal

import PIL.Image
import pytest
from pydantic import BaseModel, Field

from swell import Image
from swell.compat.image_fields import (
    picture_fields,
    placed_files,
    renamed,
    size_of,
    sized,
    stepped,
)
from swell.compat.result_files import recoded
from swell.core.errors import InvalidInput, InvalidRequest


class Sides(BaseModel):
    prompt: str
    width: Annotated[int, Field(ge=64, le=1024, multiple_of=64)] = 512
    height: Annotated[int | None, Field(ge=64, le=1024, multiple_of=64)] = None
    num_inference_steps: Annotated[int, Field(ge=4, le=30)] = 20
    guidance_scale: float = 3.0


class Choice(BaseModel):
    text: str
    size: Literal[128, 512] = 512
    steps: int = 8


class Shapes(BaseModel):
    prompt: str
    aspect_ratio: Literal["1:1", "16:9", "9:16"] = "1:1"


class Edit(BaseModel):
    prompt: str
    mask: Image | None = None
    input_image: Image

    model_config = {"arbitrary_types_allowed": True}


class Blend(BaseModel):
    images: list[Image]


def schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def test_a_field_goes_to_the_property_that_means_the_same() -> None:
    asked = {"prompt": "a", "steps": 3, "guidance": 2.0, "colour": "red"}
    assert renamed(asked, schema(Sides)) == {
        "prompt": "a",
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "colour": "red",
    }
    assert renamed({"prompt": "a"}, schema(Choice)) == {"text": "a"}


def test_a_field_under_its_own_name_comes_first() -> None:
    assert renamed({"num_steps": 3, "steps": 9}, schema(Choice)) == {"steps": 9}


@pytest.mark.parametrize("text", ["", "big", "0x5", "5", "10x", "-1x4", "1024x1024x3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no size") as caught:
        size_of(text)
    assert caught.value.errors[0]["pointer"] == "/size"


def test_sizes_are_read() -> None:
    assert size_of("auto") is None
    assert size_of("1024x768") == (1024, 768)
    assert size_of("512X512") == (512, 512)


def test_a_model_with_sides_gets_them_rounded() -> None:
    assert sized(schema(Sides), (1000, 500)) == {"width": 1024, "height": 512}


def test_a_size_outside_of_what_is_drawn_says_what_is() -> None:
    with pytest.raises(InvalidInput, match="height 1792 is not drawn here: give 64 to 1024 px"):
        sized(schema(Sides), (1024, 1792))


def test_a_model_with_a_choice_gets_the_closest() -> None:
    assert sized(schema(Choice), (1024, 1024)) == {"size": 512}
    assert sized(schema(Choice), (100, 100)) == {"size": 128}
    assert sized(schema(Shapes), (1792, 1024)) == {"aspect_ratio": "16:9"}
    assert sized(schema(Shapes), (1000, 1100)) == {"aspect_ratio": "1:1"}


def test_a_model_without_sizes_draws_its_own() -> None:
    assert sized({"properties": {"prompt": {}}}, (10, 10)) == {}


def test_steps_follow_the_usual_number_within_what_is_allowed() -> None:
    assert stepped(schema(Sides), 0.5) == {"num_inference_steps": 10}
    assert stepped(schema(Sides), 3) == {"num_inference_steps": 30}
    assert stepped(schema(Sides), 0.1) == {"num_inference_steps": 4}
    assert stepped(schema(Sides), 1) == {}
    assert stepped(schema(Shapes), 2) == {}


def test_pictures_are_told_by_the_schema() -> None:
    assert picture_fields(schema(Edit)) == {"mask": False, "input_image": False}
    assert picture_fields(schema(Blend)) == {"images": True}


def test_files_come_to_their_places() -> None:
    assert placed_files(schema(Edit), "a/b", ["u"], "m") == {"input_image": "u", "mask": "m"}
    assert placed_files(schema(Blend), "a/b", ["u"], None) == {"images": ["u"]}
    assert placed_files(schema(Blend), "a/b", ["u", "v"], None) == {"images": ["u", "v"]}


@pytest.mark.parametrize(
    ("model", "images", "mask", "why"),
    [
        (Edit, ["u", "v"], None, "takes one picture, and here are 2"),
        (Blend, ["u"], "m", "takes no mask"),
        (Choice, ["u"], None, "takes no pictures"),
    ],
)
def test_files_without_a_place_are_refused(
    model: type[BaseModel], images: list[str], mask: str | None, why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        placed_files(schema(model), "a/b", images, mask)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_any_picture_is_turned_into_any_format(kind: str, mode: str) -> None:
    made = io.BytesIO()
    PIL.Image.new(mode, (5, 3)).save(made, "PNG")
    with PIL.Image.open(io.BytesIO(recoded(made.getvalue(), kind, 60))) as found:
        assert (found.format, found.size) == (kind.upper(), (5, 3))


def test_what_cannot_be_read_is_not_turned_into_anything() -> None:
    with pytest.raises(InvalidRequest, match="leave the format out"):
        recoded(b"no picture", "png")
