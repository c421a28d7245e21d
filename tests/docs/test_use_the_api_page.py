"""The models and the pipeline on the page about the API work."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from pages import blocks
from swell.core.clock import SystemClock
from swell.core.records import ModelCard
from swell.runtime.local_run import check_input, load_model, run_together
from swell.sdk.model_loader import load_models
from swell.sdk.pipeline import load_pipelines
from swell.sdk.pipeline_cards import card_of

PYTHON = blocks("docs/use-the-api.md")
[TOML] = blocks("docs/use-the-api.md", "toml")


@pytest.mark.parametrize(
    ("program", "asked", "n"),
    [
        (PYTHON[0], {"colours": ["red", "blue"], "sides": [8, 16]}, 4),
        (PYTHON[1], {"colours": ["red", "blue", "lime"]}, 3),
    ],
    ids=["pack", "list"],
)
def test_models_on_the_page_make_their_pictures(
    tmp_path: Path, program: str, asked: dict[str, Any], n: int
) -> None:
    path = tmp_path / "page.py"
    path.write_text(program)
    [definition] = load_models(str(path))
    clock = SystemClock()
    loaded = load_model(definition, "cpu", clock)
    [made] = run_together(loaded, check_input(definition, asked), [1], clock)
    assert made.output == [{"$artifact": number} for number in range(n)]


def _find(ref: str) -> ModelCard:
    [model] = load_models(ref)
    schemas = {"input_schema": model.input_schema, "output_schema": model.facts.output_schema}
    return ModelCard(name=model.name, version="1", **schemas)


def test_the_pipeline_on_the_page_fits_its_models(tmp_path: Path) -> None:
    path = tmp_path / "choice.toml"
    path.write_text(TOML)
    [declared] = load_pipelines(str(path))
    card = card_of(declared, _find)
    assert set(card.input_schema["properties"]) == {"prompt"}
    assert set(card.output_schema["properties"]) == {"pictures", "sheet"}
