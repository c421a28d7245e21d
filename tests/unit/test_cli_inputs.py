import enum
import itertools
import shlex
from pathlib import Path
from typing import Any, Literal

import msgspec
import pydantic
import pytest

import swell
from manual_clock import ManualClock
from swell.cli.inputs import InputFile, as_data_uri, parse_inputs
from swell.cli.local import check_input, load_model, run_local
from swell.cli.pictures import free_path, save, slug
from swell.cli.up import served, trial
from swell.core.errors import InvalidRequest
from swell.core.pipeline_stages import Pipeline, Stage
from swell.core.records import ModelCard
from swell.sdk.define import define


@swell.model("me/seed")
def of_seed(seed: int | None = None) -> int:
    """Return its seed."""
    return seed or 0


def test_seeds_are_chosen_as_a_worker_chooses_them() -> None:
    loaded = load_model(define(of_seed), "cpu", ManualClock())

    def run(values: dict[str, int], seed: int | None = None) -> int:
        checked = check_input(loaded.definition, values)
        result = run_local(loaded, checked, ManualClock(), seed=seed)
        assert result.output == (values.get("seed") or result.seed)
        return result.seed

    chosen = {run({}) for _ in range(100)}
    assert len(chosen) > 90
    assert all(0 <= seed < 2**31 for seed in chosen), "every framework takes them"
    assert run({"seed": 7}) == 7
    assert run({}, seed=2**40) == 2**40


SCHEMA = {
    "properties": {
        "prompt": {"type": "string"},
        "steps": {"type": "integer"},
        "tags": {"type": "array"},
        "style": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "picture": {"type": "string", "format": "uri", "x-file": "image"},
        "lora": {"anyOf": [{"type": "string"}, {"type": "object"}], "x-file": "lora"},
    }
}


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("prompt=42", "42"),
        ("prompt=a=b", "a=b"),
        ("prompt=", ""),
        ("steps=42", 42),
        ("steps=many", "many"),
        ('tags=["a", 1]', ["a", 1]),
        ("style=null", None),
        ("style=flat", "flat"),
        ("lora=https://example.com/a", "https://example.com/a"),
        ('lora={"file": "acme/ink", "scale": 0.5}', {"file": "acme/ink", "scale": 0.5}),
        ("lora={", "{"),
        ("unknown=true", True),
    ],
)
def test_values_are_read_as_the_schema_says(pair: str, value: object) -> None:
    [(_, read)] = parse_inputs([pair], SCHEMA).items()
    assert read == value


class Size(enum.IntEnum):
    SMALL = 128
    LARGE = 256


class Grade(enum.Enum):
    ONE = "1"
    NONE = "null"


class Chosen(pydantic.BaseModel):
    size: Literal[128, 256] = 128
    only: Literal[128] = 128
    maybe_size: Literal[128, 256] | None = None
    named_size: Size | None = None
    digit: Literal["1", "2"] = "1"
    grade: Grade = Grade.ONE
    mixed: Literal[1, "2", True] = 1
    count: Literal["all"] | int = 1


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("size=128", 128),
        ("size=100", 100),
        ("size=large", "large"),
        ("only=128", 128),
        ("maybe_size=256", 256),
        ("maybe_size=null", None),
        ("named_size=256", 256),
        ("digit=2", "2"),
        ("grade=1", "1"),
        ("grade=null", "null"),
        ("mixed=1", 1),
        ("mixed=2", "2"),
        ("mixed=true", True),
        ("count=all", "all"),
        ("count=3", 3),
    ],
)
def test_choices_are_read_as_the_kind_that_lists_them(pair: str, value: object) -> None:
    [(_, read)] = parse_inputs([pair], Chosen.model_json_schema()).items()
    assert (read, type(read)) == (value, type(value))


def test_a_pair_without_equals_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="-i needs name=value"):
        parse_inputs(["prompt"], SCHEMA)


def test_a_file_gives_its_text_where_no_file_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red fox")
    assert parse_inputs([f"prompt=@{tmp_path}/p.txt"], SCHEMA) == {"prompt": "a red fox"}


def test_a_bare_prompt_and_an_input_of_its_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="given twice"):
        parse_inputs(["prompt=a dog"], SCHEMA, prompt="a fox")


def test_a_file_stays_a_file_where_one_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(b"123")
    values = parse_inputs([f"picture=@{path}"], SCHEMA)
    assert values == {"picture": InputFile(path, "image/png")}
    assert as_data_uri(values["picture"]) == "data:image/png;base64,MTIz"


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file"):
        parse_inputs([f"prompt=@{tmp_path}/missing"], SCHEMA)


@pytest.mark.parametrize(
    ("text", "name"),
    [("A red fox, in the SNOW!", "a-red-fox-in-the-snow"), ("../../x", "x"), ("…", "result")],
)
def test_pictures_are_named_after_their_prompt(text: str, name: str) -> None:
    assert slug(text) == name


def test_a_picture_never_replaces_another(tmp_path: Path) -> None:
    paths = [save(free_path("fox", "image/png", tmp_path), b"1").name for _ in range(3)]
    assert paths == ["fox.png", "fox-2.png", "fox-3.png"]


def card(name: str, *examples: dict[str, Any], **properties: Any) -> ModelCard:
    schema = {"type": "object", "properties": properties}
    return ModelCard(name=name, version="1", input_schema=schema, examples=list(examples))


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}


def test_the_command_to_try_is_the_first_models_example_and_gives_that_input() -> None:
    example = {"prompt": "a cat's \u00e9t\u00e9", "steps": 4, "names": ["a b", "c"]}
    first = card("acme/dreams", example, prompt=TEXT, steps=NUMBER, names={"type": "array"})
    command = trial([first, card("acme/other")], " --data '/a b'")
    words = shlex.split(command)
    assert words[:4] == ["swell", "tasks", "submit", "acme/dreams"]
    assert words[-3:] == ["--watch", "--data", "/a b"]
    pairs = [value for flag, value in itertools.pairwise(words) if flag == "-i"]
    assert parse_inputs(pairs, first.input_schema) == example


def test_pipelines_are_tried_first_where_workers_have_all_their_models() -> None:
    plan = Pipeline(stages=(Stage(name="a", queue="acme/a"), Stage(name="b", queue="acme/b:1")))
    chain = msgspec.structs.replace(card("acme/z", {"text": "all"}, text=TEXT), pipeline=plan)
    cards = [card("acme/b", {"text": "b"}, text=TEXT), card("acme/a"), chain]
    assert served(cards, {"acme/a", "acme/b"}, ["acme/a", "acme/b"]) == [chain, *cards[1::-1]]
    assert served(cards, {"acme/b"}, ["acme/a", "acme/b"]) == cards[:1]


def test_the_command_to_try_needs_no_file_that_nobody_has() -> None:
    picture = card("acme/sees", {"image": "data:image/png;base64,AA=="}, image={"x-file": "image"})
    at = card("acme/says", {"text": "@somebody"}, text=TEXT)
    plain = card("acme/plain", {"text": "b"}, text=TEXT)
    assert trial([picture, at, plain]) == "swell tasks submit acme/plain -i text=b --watch"
    assert "MODEL" in trial([picture])


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"properties": {"style": {"type": "string"}, "prompt": {"type": "string"}}}, "prompt"),
        (
            {"properties": {"text": {"type": "string"}, "n": {"type": "integer"}}}
            | {"required": ["text", "n"]},
            "text",
        ),
    ],
)
def test_a_bare_prompt_goes_to_the_prompt_or_the_only_required_text(
    schema: dict[str, Any], name: str
) -> None:
    assert parse_inputs([], schema, "@a=fox") == {name: "@a=fox"}


def test_a_bare_prompt_that_no_input_takes_names_the_inputs() -> None:
    schema = {"properties": {"image": {"x-file": "image"}, "size": {"type": "integer"}}}
    with pytest.raises(InvalidRequest, match=r"inputs: image, size"):
        parse_inputs([], schema, "a fox")
