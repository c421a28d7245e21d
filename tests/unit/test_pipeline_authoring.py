"""Pipelines as people write them, in Python and in TOML, and what they are told of mistakes."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field

import swell
from swell.core.errors import InvalidModel, NotFound
from swell.core.records import ModelCard
from swell.sdk.model_loader import load_models
from swell.sdk.pipeline import load_pipelines
from swell.sdk.pipeline_cards import Unknown, card_of

PYTHON = '''
import swell
from pydantic import BaseModel, Field

@swell.pipeline("acme/poster")
class Poster:
    """# Poster

    Draws one.
    """

    class Input(BaseModel):
        prompt: str = Field(min_length=1)
        large: bool = False

    translate = swell.Stage("demo/translate", take={"text": "input.prompt"})
    draw = swell.Stage(
        "demo/draw",
        take={"prompt": "stages.translate.output.text"},
        fixed={"steps": 4},
        counts=True,
    )
    enlarge = swell.Stage(
        "demo/enlarge", take={"images": "stages.draw.artifacts"}, when="input.large"
    )
    output = "stages.enlarge.output or stages.draw.output"
    examples = [{"prompt": "a fox"}]
'''

TOML = """
[pipelines."acme/poster"]
description = '''
# Poster

Draws one.
'''
output = "stages.enlarge.output or stages.draw.output"
examples = [{ prompt = "a fox" }]

[pipelines."acme/poster".input]
prompt = { type = "string", minLength = 1 }
large = { type = "boolean", default = false }

[[pipelines."acme/poster".stages]]
name = "translate"
model = "demo/translate"
take = { text = "input.prompt" }

[[pipelines."acme/poster".stages]]
name = "draw"
model = "demo/draw"
take = { prompt = "stages.translate.output.text" }
fixed = { steps = 4 }
counts = true

[[pipelines."acme/poster".stages]]
name = "enlarge"
model = "demo/enlarge"
take = { images = "stages.draw.artifacts" }
when = "input.large"
"""


def a_card(name: str, required: str, kind: str = "string", **fields: Any) -> ModelCard:
    return ModelCard(
        name=name,
        version="1",
        input_schema={
            "type": "object",
            "properties": {required: {"type": kind}, "steps": {"type": "integer"}},
            "required": [required],
            "additionalProperties": False,
        },
        **fields,
    )


TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
CARDS = {
    "demo/translate": a_card("demo/translate", "text", output_schema=TEXT),
    "demo/draw": a_card("demo/draw", "prompt", output_schema={"type": "string"}),
    "demo/enlarge": a_card("demo/enlarge", "images", "array"),
}


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_python_and_toml_declare_the_same(tmp_path: Path) -> None:
    [one] = load_pipelines(written(tmp_path, "chains.py", PYTHON))
    [other] = load_pipelines(written(tmp_path, "chains.toml", TOML))
    assert one.pipeline == other.pipeline
    assert one.description.strip() == other.description.strip()
    cards = [card_of(each, CARDS.get) for each in (one, other)]
    assert cards[0].name == "acme/poster"
    assert cards[0].examples == cards[1].examples == [{"prompt": "a fox"}]
    assert cards[0].pipeline == cards[1].pipeline
    assert cards[0].pipeline is not None
    assert cards[0].pipeline.defaults == {"large": False}


def test_the_version_is_the_content(tmp_path: Path) -> None:
    [declared] = load_pipelines(written(tmp_path, "chains.toml", TOML))
    version = card_of(declared, CARDS.get).version
    assert card_of(declared, CARDS.get).version == version
    other = TOML.replace("steps = 4", "steps = 5")
    [changed] = load_pipelines(written(tmp_path, "other.toml", other))
    assert card_of(changed, CARDS.get).version != version
    pinned = TOML.replace('model = "demo/draw"', 'model = "demo/draw:1"')
    [changed] = load_pipelines(written(tmp_path, "pinned.toml", pinned))
    assert card_of(changed, lambda ref: CARDS.get(ref.partition(":")[0])).version != version


def test_a_model_without_a_card_is_waited_for(tmp_path: Path) -> None:
    [declared] = load_pipelines(written(tmp_path, "chains.toml", TOML))
    with pytest.raises(Unknown, match=r"waits for demo/draw.*'draw'"):
        card_of(declared, lambda ref: CARDS.get(ref) if ref != "demo/draw" else None)


def test_a_field_may_be_like_one_of_a_stage(tmp_path: Path) -> None:
    like = TOML.replace(
        'prompt = { type = "string", minLength = 1 }',
        'prompt = { like = "draw.prompt", title = "What" }',
    )
    [declared] = load_pipelines(written(tmp_path, "chains.toml", like))
    schema = card_of(declared, CARDS.get).input_schema
    assert schema["properties"]["prompt"] == {"type": "string", "title": "What"}
    unlike = like.replace("draw.prompt", "draw.colour")
    [declared] = load_pipelines(written(tmp_path, "unlike.toml", unlike))
    with pytest.raises(InvalidModel, match="a field that the stage's model takes"):
        card_of(declared, CARDS.get)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"input.prompt"', '"prompt"', "no reference"),
        ('"input.prompt"', '"input.words"', "the input has no field 'words'"),
        ('"input.prompt"', '"stages.draw.output"', "no earlier stage is called 'draw'"),
        ('when = "input.large"', 'when = "input.large >"', "no condition"),
        ('when = "input.large"', 'wenn = "input.large"', "wenn"),
        ('name = "enlarge"', 'name = "draw"', "two stages are called 'draw'"),
        ('model = "demo/enlarge"', 'model = "acme/poster"', "the pipeline itself"),
        ('model = "demo/enlarge"', 'model = "enlarge"', "names no model"),
        ("fixed = { steps = 4 }", 'fixed = { prompt = "x" }', "both takes and fixes"),
        ('"acme/poster"', '"Poster"', "cannot name a pipeline"),
        (
            "stages.enlarge.output or",
            "stages.large.output or",
            "no earlier stage is called 'large'",
        ),
        ('name = "translate"', "name =", "not as pipelines are written"),
    ],
)
def test_a_mistake_is_told_when_it_is_declared(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in TOML
    with pytest.raises(InvalidModel, match=told):
        load_pipelines(written(tmp_path, "chains.toml", TOML.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("take = { text =", "take = { words =", "demo/translate takes no 'words'"),
        ("take = { text =", "fixed = { steps = 1 }\n# {", "demo/translate needs 'text'"),
        ("output.text", "output.words", "gives no 'words'; it gives text"),
        (
            '{ prompt = "stages.translate.output.text" }',
            '{ prompt = "input.large" }',
            "type boolean",
        ),
        ('name = "translate"', 'name = "translate"\nwhen = "input.large"', "may not be there"),
    ],
)
def test_what_does_not_fit_the_models_is_told_with_their_cards(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in TOML
    [declared] = load_pipelines(written(tmp_path, "chains.toml", TOML.replace(old, new, 1)))
    with pytest.raises(InvalidModel, match=told):
        card_of(declared, CARDS.get)


def test_a_field_that_may_be_left_out_has_no_default_of_the_one_that_it_is_like(
    tmp_path: Path,
) -> None:
    like = TOML.replace(
        'large = { type = "boolean", default = false }',
        'large = { like = "draw.steps", optional = true }',
    )
    card = a_card("demo/draw", "prompt")
    card.input_schema["properties"]["steps"]["default"] = 8
    [declared] = load_pipelines(written(tmp_path, "chains.toml", like))
    made = card_of(declared, (CARDS | {"demo/draw": card}).get)
    assert made.input_schema["properties"]["large"] == {"type": "integer"}
    assert made.input_schema["required"] == ["prompt"]
    assert made.pipeline is not None
    assert made.pipeline.defaults == {}


def test_the_pipelines_that_come_with_swell_fit_its_models() -> None:
    [declared] = load_pipelines("swell/picture")

    def find(ref: str) -> ModelCard:
        [model] = load_models(ref)
        return ModelCard(
            name=model.name,
            version="1",
            input_schema=model.input_schema,
            output_schema=model.facts.output_schema,
        )

    card = card_of(declared, find)
    assert set(card.input_schema["properties"]) == {"prompt", "style", "art", "large"}
    assert card.output_schema["x-file"] == "image"
    for example in card.examples:
        assert set(example) <= set(card.input_schema["properties"])


def test_pipelines_are_not_stages_of_others(tmp_path: Path) -> None:
    [declared] = load_pipelines(written(tmp_path, "chains.toml", TOML))
    inner = card_of(declared, CARDS.get)
    with pytest.raises(InvalidModel, match="is a pipeline itself"):
        card_of(declared, lambda ref: inner if ref == "demo/draw" else CARDS.get(ref))


def test_a_class_needs_an_input_and_a_stage() -> None:
    with pytest.raises(InvalidModel, match="class Input"):

        @swell.pipeline("acme/a")
        class NoInput:
            draw = swell.Stage("demo/draw")

    with pytest.raises(InvalidModel, match="no stage"):

        @swell.pipeline("acme/b")
        class NoStage:
            class Input(BaseModel):
                prompt: str


def test_the_input_of_a_class_is_its_schema() -> None:
    @swell.pipeline("acme/c")
    class Chain:
        class Input(BaseModel):
            prompt: str = Field(min_length=2)
            style: Literal["oil", "ink"] = "oil"

        draw = swell.Stage("demo/draw", take={"prompt": "input.prompt"})

    declared = vars(Chain)["__swell_pipeline__"]
    card = card_of(declared, CARDS.get)
    assert card.input_schema["additionalProperties"] is False
    assert card.input_schema["properties"]["prompt"]["minLength"] == 2
    assert card.output_schema == {"type": "string"}
    assert card.pipeline is not None
    assert card.pipeline.defaults == {"style": "oil"}
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("chains.txt", "", NotFound),
        ("none.py", "x = 1", InvalidModel),
        ("none.toml", "[pipelines]", InvalidModel),
        ("broken.toml", "[pipelines", InvalidModel),
        ("broken.py", "1 +", InvalidModel),
    ],
)
def test_a_file_without_pipelines_is_told(
    tmp_path: Path, name: str, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        load_pipelines(written(tmp_path, name, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_pipelines(str(tmp_path / "none.toml"))
