"""How functions and classes become models."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import numpy as np
import PIL.Image
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import swell
from lora_painter import layers, lora_file
from swell import ui
from swell.core.errors import InvalidModel
from swell.sdk.define import define
from swell.sdk.media import LoRA, flatten
from swell.sdk.model import Model, can_offload
from swell.sdk.model_loader import load_models
from swell.sdk.schema_examples import example_of
from swell.sdk.step_model import HostArrays, Plan, Sampler, StepModel


class Size(BaseModel):
    width: int
    height: int = 4


@swell.model("test/poster")
def poster(
    prompt: Annotated[str, Field(min_length=1, examples=["a red fox"]), ui.textarea()],
    aspect: Annotated[Literal["1:1", "9:16"], ui.aspect(("1:1", "9:16"))] = "1:1",
    size: Size | None = None,
    seed: Annotated[int | None, ui.seed()] = None,
    ctx: swell.Context | None = None,
) -> swell.Image:
    """A poster.

    The rest of the card.
    """
    assert ctx is None or ctx.seed is not None
    return swell.Image(PIL.Image.new("RGB", (4, 4), (seed or 0, 0, 0)), metadata={"aspect": aspect})


class Boxes(swell.Model):
    """Counts boxes."""

    name = "test/boxes"
    batch = swell.Batch(max=8, by=("width", "height"))
    Output = list[int]

    class Input(BaseModel):
        width: int = 1
        height: int = 1

    def run(self, items: list[swell.Item[Input]]) -> list[list[int] | Exception]:
        return [[item.input.width, item.index] for item in items]


# --- functions -----------------------------------------------------------------------------------


def test_a_decorated_function_is_still_a_function() -> None:
    assert poster("fox", seed=9).pil().getpixel((0, 0)) == (9, 0, 0)
    assert poster("fox", "9:16").metadata == {"aspect": "9:16"}


def test_the_signature_becomes_the_schema() -> None:
    schema = define(poster).input_schema
    assert list(schema["properties"]) == ["prompt", "aspect", "size", "seed"]
    assert schema["required"] == ["prompt"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["prompt"]["minLength"] == 1
    assert schema["properties"]["aspect"]["enum"] == ["1:1", "9:16"]


def test_hints_travel_as_x_ui_also_beside_a_reference() -> None:
    class Wish(BaseModel):
        size: Annotated[Size, ui.hint(group="shape", advanced=True)]
        both: Annotated[int, ui.slider(step=2), ui.hint(order=3)] = 1

    properties = Wish.model_json_schema()["properties"]
    assert properties["size"]["x-ui"] == {"group": "shape", "advanced": True}
    assert properties["both"]["x-ui"] == {"widget": "slider", "step": 2, "order": 3}
    assert define(poster).input_schema["properties"]["prompt"]["x-ui"]["widget"] == "textarea"


def test_an_input_says_that_seeds_change_nothing() -> None:
    class Plain(Model):
        name = "test/plain"

        class Input(BaseModel):
            model_config = ConfigDict(json_schema_extra={"x-ui": {"variety": False}})
            prompt: str = "a"

        class Output(BaseModel):
            text: str

        def run(self, items: list[Any]) -> list[Any]:
            return [self.Output(text=item.input.prompt) for item in items]

    assert define(Plain).input_schema["x-ui"] == {"variety": False}


def test_the_docstring_is_the_card() -> None:
    assert define(poster).facts.description == "A poster.\n\nThe rest of the card."
    assert define(Boxes).facts.description == "Counts boxes."


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        define(poster).input_type(prompt="fox", promt="fox")  # type: ignore[call-arg]


def test_a_seed_that_is_left_out_is_the_samples_seed() -> None:
    definition = define(poster)
    item = swell.Item(definition.input_type(prompt="fox"), seed=77)  # type: ignore[call-arg]
    [image] = definition.make().run([item])
    assert image.pil().getpixel((0, 0))[0] == 77


def test_a_seed_that_is_given_is_kept() -> None:
    definition = define(poster)
    item = swell.Item(definition.input_type(prompt="a", seed=5), seed=77)  # type: ignore[call-arg]
    [image] = definition.make().run([item])
    assert image.pil().getpixel((0, 0))[0] == 5


def test_each_item_of_a_function_has_a_result_or_an_exception_of_its_own() -> None:
    @swell.model("test/half")
    def half(number: int) -> float:
        return 1 / number

    definition = define(half)
    items = [swell.Item(definition.input_type(number=n)) for n in (0, 2)]  # type: ignore[call-arg]
    bad, good = definition.make().run(items)
    assert isinstance(bad, ZeroDivisionError)
    assert good == 0.5


def test_a_parameter_may_be_called_like_a_method_of_pydantic() -> None:
    @swell.model("test/copy")
    def duplicate(copy: str, model_size: int = 1, json: str = "") -> str:
        return copy * model_size + json

    definition = define(duplicate)
    item = swell.Item(definition.input_type.model_validate({"copy": "a", "model_size": 3}))
    assert definition.make().run([item]) == ["aaa"]


def no_type(text) -> str:  # type: ignore[no-untyped-def]
    return str(text)


def starred(*texts: str) -> str:
    return "".join(texts)


def double_starred(**texts: str) -> str:
    return "".join(texts)


def positional(text: str, /) -> str:
    return text


def unknown_type(thing: object, odd: "complex | memoryview") -> str:
    return str(thing) + str(odd)


def field_as_default(text: str = Field("a")) -> str:
    return text


def unresolved(text: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(text)


async def waits(text: str) -> str:
    return text


def yields(text: str) -> Any:
    yield text


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (no_type, "give parameter 'text' a type"),
        (starred, r"name each parameter instead of \* texts"),
        (double_starred, r"name each parameter instead of \*\* texts"),
        (positional, "remove the '/'"),
        (unknown_type, "parameter 'odd' cannot become a JSON Schema"),
        (field_as_default, "move Field"),
        (unresolved, "'Nowhere' in the signature is not known"),
        (waits, "async"),
        (yields, "generator"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused_with_what_to_change(
    function: Any, told: str
) -> None:
    with pytest.raises(InvalidModel, match=told):
        swell.model("test/odd")(function)


@pytest.mark.parametrize("name", ["upper", "Demo/Upper", "a/b/c", "/b", "a b/c", ""])
def test_a_name_must_be_owner_slash_name(name: str) -> None:
    with pytest.raises(InvalidModel, match="owner/name"):
        swell.model(name)(lambda: None)


# --- classes -------------------------------------------------------------------------------------


def test_a_class_becomes_the_same_kind_of_definition() -> None:
    card = define(Boxes).card()
    assert card.name == "test/boxes"
    assert (card.max_batch, card.batch_by) == (8, ("width", "height"))
    assert card.output_schema == {"type": "array", "items": {"type": "integer"}}
    assert card.input_schema["additionalProperties"] is False


def test_a_class_that_is_not_complete_is_refused() -> None:
    class NoInput(swell.Model):
        name = "test/x"

        def run(self, items: list[Any]) -> list[Any]:
            return items

    class NoRun(swell.Model):
        name = "test/x"
        Input = Size

    class NoName(swell.Model):
        Input = Size

    class WrongKey(swell.Model):
        name = "test/x"
        Input = Size
        batch = swell.Batch(by=("depth",))

        def run(self, items: list[Any]) -> list[Any]:
            return items

    for broken, told in (
        (NoInput, "class Input"),
        (NoRun, "def run"),
        (NoName, "name = 'owner/name'"),
        (WrongKey, "names 'depth'; Input has width, height"),
    ):
        with pytest.raises(InvalidModel, match=told):
            define(broken)


class Still(StepModel):
    """Draws nothing in steps."""

    name = "test/still"
    Input = Size

    def prepare(self, item: swell.Item[Size]) -> Plan:
        return Plan(sampler=Sampler("flow_euler", 2), shape=(item.input.width, 1))

    def denoise(self, x: Any, t: Any, conditions: Any) -> Any:
        return x * 0

    def decode(self, latents: Any, item: swell.Item[Size]) -> list[int]:
        return list(latents.shape)


def test_a_model_that_draws_in_steps_can_be_run_as_any_other() -> None:
    definition = define(Still)
    assert (definition.facts.max_batch, definition.facts.batch_by) == (1, ())
    model = definition.make()
    items = [swell.Item(Size(width=width), seed=width) for width in (1, 2, 1)]
    assert model.run(items) == [[1, 1], [2, 1], [1, 1]]


def test_a_step_model_that_is_not_complete_is_refused() -> None:
    class NoPrepare(Still):
        prepare = StepModel.prepare

    class NoDenoise(Still):
        denoise = StepModel.denoise

    class NoDecode(Still):
        decode = StepModel.decode

    class OwnRun(Still):
        def run(self, items: list[Any]) -> list[Any]:
            return items

    for broken, told in (
        (NoPrepare, "def prepare"),
        (NoDenoise, "def denoise"),
        (NoDecode, "def decode"),
        (OwnRun, "must not define `run`"),
    ):
        with pytest.raises(InvalidModel, match=told):
            define(broken)


def test_a_sampler_is_a_value() -> None:
    one = Sampler("euler", 20, offset=1, karras=True)
    assert one == Sampler("euler", 20, karras=True, offset=1)
    assert hash(one) == hash(Sampler("euler", 20, karras=True, offset=1))
    assert one != Sampler("euler", 21, offset=1, karras=True)
    assert repr(one) == "Sampler('euler', 20, offset=1, karras=True)"


def test_arrays_of_numpy_go_in_and_out_as_they_are() -> None:
    arrays, values = HostArrays(), np.arange(6, dtype=np.int64).reshape(2, 3)
    assert np.array_equal(arrays.get(arrays.put(values)), values)
    rows = arrays.rows(values, 4)
    assert (rows.shape, rows.dtype) == ((4, 2, 3), np.int64)
    assert not rows.any()


def test_a_demonstration_model_with_a_file_of_its_own_is_found_by_name() -> None:
    assert [found.name for found in load_models("demo/curve")] == ["demo/curve"]
    assert "demo/curve" not in {found.name for found in load_models("demo/*")}


def test_something_else_is_not_a_model() -> None:
    with pytest.raises(InvalidModel, match=r"@swell\.model"):
        define(Size)


def test_a_batch_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(InvalidModel, match="1 or more"):
        swell.Batch(max=0)
    with pytest.raises(InvalidModel, match="tuple"):
        swell.Batch(by="width")  # type: ignore[arg-type]


# --- examples ------------------------------------------------------------------------------------


def test_an_example_is_made_from_the_schema() -> None:
    assert define(poster).facts.examples == [{"prompt": "a red fox"}]
    schema = {
        "required": ["a", "b", "c", "d"],
        "properties": {
            "a": {"type": "string"},
            "b": {"enum": ["x", "y"]},
            "c": {"$ref": "#/$defs/Inner"},
            "d": {"anyOf": [{"type": "integer", "minimum": 4}, {"type": "null"}]},
            "e": {"type": "string"},
        },
        "$defs": {
            "Inner": {"properties": {"n": {"type": "number"}}, "required": ["n"], "type": "object"}
        },
    }
    assert example_of(schema) == {"a": "example", "b": "x", "c": {"n": 1.0}, "d": 4}


def test_a_given_example_that_does_not_work_is_refused() -> None:
    def shout(text: Annotated[str, Field(max_length=3)]) -> str:
        return text

    with pytest.raises(InvalidModel, match="its example breaks at text"):
        swell.model("test/shout", examples=[{"text": "too long"}])(shout)


# --- context, files, results ---------------------------------------------------------------------


def test_a_context_made_by_hand_listens_to_nobody() -> None:
    context = swell.Context(seed=1)
    context.progress(1, 2)
    context.preview(lambda: pytest.fail("nobody wants it"))
    context.check()
    assert not context.cancelled


def test_results_are_flattened_to_json_and_files() -> None:
    class Report(BaseModel):
        score: float
        picture: swell.Image

    picture = PIL.Image.new("RGB", (1, 1))
    files: list[Any] = []
    value = {
        "all": [Report(score=0.5, picture=swell.Image(picture)), picture],
        "sound": swell.Audio(b"RIFF"),
        "plain": (1, "two", None, True),
    }
    assert flatten(value, files) == {
        "all": [{"score": 0.5, "picture": {"$artifact": 0}}, {"$artifact": 1}],
        "sound": {"$artifact": 2},
        "plain": [1, "two", None, True],
    }
    assert files[2].content_type == "audio/wav"


def test_a_result_that_is_neither_json_nor_a_file_is_named() -> None:
    with pytest.raises(TypeError, match=r"a model returned object.*swell\.Image"):
        flatten(object(), [])


def test_a_file_is_a_string_in_the_schema() -> None:
    @swell.model("test/blur")
    def blur(image: swell.Image, sound: swell.Audio | None = None) -> swell.Image:
        return image

    definition = define(blur)
    assert definition.input_schema["properties"]["image"]["x-file"] == "image"
    assert definition.facts.output_schema == {"type": "string", "format": "uri", "x-file": "image"}
    with pytest.raises(ValidationError, match="could not be fetched"):
        definition.input_type.model_validate({"image": "https://example.com/a.png"})
    with pytest.raises(ValidationError, match="give a URL"):
        definition.input_type.model_validate({"image": 3})
    with pytest.raises(ValidationError, match="base64"):
        definition.input_type.model_validate({"image": "data:image/png;base64,%%%"})


def test_a_model_that_leaves_its_device_must_be_able_to_come_back() -> None:
    class OneWay(Model):
        name = "test/one-way"

        class Input(BaseModel):
            n: int = 1

        def run(self, items: list[Any]) -> list[Any]:
            return [item.input.n for item in items]

        def offload(self) -> int:
            return 0

    with pytest.raises(InvalidModel, match="both `offload` and `onload`"):
        define(OneWay)
    OneWay.onload = lambda self: None  # type: ignore[method-assign]
    assert can_offload(define(OneWay).make())
    assert not can_offload(load_models("demo/curve")[0].make())


# --- LoRAs ---------------------------------------------------------------------------------------

INK = lora_file(layers(1))


@swell.model("test/styled")
def styled(
    prompt: str = "",
    style: Annotated[swell.LoRA | None, swell.ui.lora(label="Style")] = None,
    more: list[swell.LoRA] = [],  # noqa: B006 - a model's default
) -> list[Any]:
    return [style, *more]


def test_a_lora_is_a_name_or_a_name_with_a_scale_in_the_schema() -> None:
    schema = define(styled).input_schema["properties"]
    [lora, nothing] = schema["style"]["anyOf"]
    assert nothing == {"type": "null"}
    assert lora["x-file"] == "lora"
    assert schema["style"]["x-ui"] == {"widget": "lora", "accept": ".safetensors", "label": "Style"}
    assert schema["more"]["items"] == lora
    check = jsonschema_rs.validator_for(lora).is_valid
    assert check("https://example.com/a.safetensors")
    assert check({"file": "acme/ink", "scale": -0.5})
    assert not check({"scale": 1})
    assert not check({"file": "a", "strength": 1})
    assert not check({"file": "a", "scale": 101})
    assert not check(3)


def test_a_lora_in_a_model_is_a_file_of_the_worker(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(INK)
    uri = "data:application/octet-stream;base64," + base64.b64encode(INK).decode()
    url = "https://example.com/ink.safetensors?key=opens"
    given = {"style": {"file": url, "scale": 0.5}, "more": [url, uri, LoRA(path)]}
    digest = hashlib.sha256(INK).hexdigest()
    context = {"loras": {url: (str(path), digest)}}
    checked: Any = define(styled).input_type.model_validate(given, context=context)
    assert (checked.style.source, checked.style.scale) == (path, 0.5)
    assert checked.style.name == "https://example.com/ink.safetensors"
    assert [each.scale for each in checked.more] == [1.0] * 3
    assert {each.digest for each in (checked.style, *checked.more)} == {digest}
    assert repr(checked.style) == f"LoRA({digest[:12]}, 0.5)"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("https://example.com/a", "could not be fetched"),
        (3, "give the URL of a .safetensors file"),
        ({"scale": 1}, "give the URL of a .safetensors file"),
        ({"file": "a", "strength": 1}, "give the URL of a .safetensors file"),
        ({"file": "a", "scale": "1"}, "the scale must be a number"),
        ({"file": "a", "scale": True}, "the scale must be a number"),
        ({"file": "a", "scale": 1e999}, "between -100 and 100"),
        ({"file": "a", "scale": -101}, "between -100 and 100"),
        ("data:a;base64,%%%", "not valid base64"),
        ("data:a/b;base64,gAQ=", "must be a .safetensors file"),
    ],
)
def test_a_lora_that_cannot_be_used_is_refused_with_what_to_do(given: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        define(styled).input_type.model_validate({"style": given})
