"""The examples of the authoring guide are run, and every public name is in it."""

import inspect
import re
from pathlib import Path

import pytest

import swell
from pages import blocks
from swell import ui
from swell.runtime import model_check_probe as probe
from swell.runtime import model_lint as lacks
from swell.sdk.model_loader import load_models

GUIDE = Path(__file__).parents[2] / "docs" / "models" / "authoring.md"
BLOCKS = blocks("docs/models/authoring.md")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_of_the_guide_is_a_model(number: int, tmp_path: Path) -> None:
    path = tmp_path / f"example_{number}.py"
    path.write_text(f"import swell\n{BLOCKS[number]}")
    [definition] = load_models(str(path))
    assert definition.input_schema["properties"]


def test_every_public_name_is_explained() -> None:
    text = GUIDE.read_text()
    # These are on a page of their own.
    for name in set(swell.__all__) - {"AsyncClient", "Client"}:
        assert f"swell.{name}" in text or f"import {name}" in text, name
    functions = dict(inspect.getmembers(ui, inspect.isfunction))
    hints = [name for name, each in functions.items() if each.__module__ == ui.__name__]
    assert "textarea" in hints
    for name in hints:
        assert f"ui.{name}(" in text, name


def test_every_hint_of_the_check_is_explained() -> None:
    table = GUIDE.read_text().partition("| hint | the model |")[2]
    cells = [line[1:].partition("|")[0] for line in table.splitlines()]
    told = {code for cell in cells for code in re.findall(r"`(\w+)`", cell)}
    sources = [Path(module.__file__ or "").read_text() for module in (lacks, probe)]
    given = {code for text in sources for code in re.findall(r'Hint\(\s*"(\w+)"', text)}
    assert given
    assert told == given
