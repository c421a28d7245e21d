"""What the page on pipelines shows works, and what it does not tell is not there."""

import re
from pathlib import Path

import pytest

from commandline import Swell, ready_line, stop
from pages import blocks, commands
from swell.core.records import ModelCard
from swell.sdk.model_loader import load_models
from swell.sdk.pipeline import Stage, load_pipelines
from swell.sdk.pipeline_cards import Declared, card_of
from swell.settings.backend_settings import ServerSettings
from swell.settings.worker_settings import WorkerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
[PYTHON] = blocks("docs/pipelines.md")
[TOML] = blocks("docs/pipelines.md", "toml")


def find(ref: str) -> ModelCard:
    [model] = load_models(ref)
    return ModelCard(
        name=model.name,
        version="1",
        input_schema=model.input_schema,
        output_schema=model.facts.output_schema,
    )


def declared(folder: Path, name: str, text: str) -> Declared:
    path = folder / name
    path.write_text(text)
    [found] = load_pipelines(str(path))
    return found


def test_both_ways_declare_the_same_and_fit_the_models(tmp_path: Path) -> None:
    toml, python = declared(tmp_path, "a.toml", TOML), declared(tmp_path, "a.py", PYTHON)
    assert toml.pipeline == python.pipeline
    cards = [card_of(each, find) for each in (toml, python)]
    assert [set(card.input_schema["properties"]) for card in cards] == [{"prompt", "large"}] * 2
    assert [card.examples for card in cards] == [[{"prompt": "ein roter Fuchs"}]] * 2


def test_the_command_serves_all_models_of_the_pipeline_that_comes_with_swell() -> None:
    [picture] = load_pipelines("swell/picture")
    assert "\nswell up\n" in PAGE
    assert ServerSettings().pipelines == ("swell/picture",)
    stages = {stage.model for stage in picture.pipeline.stages}
    assert {*stages, "swell/portraits"} == set(WorkerSettings().models)


def test_it_says_the_languages_that_its_translator_reads() -> None:
    [picture] = load_pipelines("swell/picture")
    schemas = (card_of(picture, find).input_schema, find("swell/translate").input_schema)
    prompt, text = (schema["properties"] for schema in schemas)
    assert prompt["prompt"]["x-ui"]["languages"] == text["text"]["x-ui"]["languages"]
    assert prompt["prompt"]["maxLength"] == 500


def test_every_word_of_a_stage_is_explained() -> None:
    table = PAGE.partition("| of a stage | |")[2].partition("\n\n")[0]
    told = set(
        re.findall(r"`(\w+)`", "\n".join(row.split("|")[0] for row in table.split("\n|")[2:]))
    )
    assert told == set(Stage.__struct_fields__)


@pytest.mark.timeout(180)
def test_a_picture_is_drawn_and_enlarged_by_the_commands_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("swell_models")
    up, submit = commands("docs/pipelines.md", "tasks submit swell/picture")
    swell = Swell(tmp_path)
    process = swell.start(*up, "--json", "--port", "0")
    try:
        ready_line(process, tmp_path)
        swell.ok(*submit)
        [task] = swell.json("tasks", "ls")
        gave = {stage["name"]: stage.get("output") for stage in task["stages"]}
        assert "red fox" in gave["translate"]["text"]
        assert gave["enlarge"], "it was asked to be large"
        assert len(task["artifacts"]) == 1
    finally:
        assert stop(process) == 0, (tmp_path / "stderr.txt").read_text()
