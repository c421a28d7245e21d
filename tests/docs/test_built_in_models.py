"""Every model that comes with Swell is told of, and only those; the commands about them work."""

import pkgutil
import re
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

import swell.models
import swell_models
from swell.core.errors import InvalidModel
from swell.sdk.model_loader import load_models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models" / "README.md"


def built_in() -> set[str]:
    """Names of the models that come with Swell and are no demonstrations."""
    names = set()
    for module in (
        *pkgutil.iter_modules(swell.models.__path__, "swell.models."),
        *pkgutil.iter_modules(swell_models.__path__, "swell_models."),
    ):
        if module.name.endswith("_torch"):
            continue  # imported by what needs torch
        try:
            found = load_models(module.name)
        except InvalidModel:
            continue  # it has no model of its own
        names |= {each.name for each in found if each.name.startswith("swell/")}
    return names


def test_the_table_has_each_built_in_model_once() -> None:
    told = re.findall(r"^\| `(swell/[a-z-]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(built_in())


@pytest.mark.parametrize("name", sorted(built_in()))
def test_each_can_be_found_by_its_name_and_has_an_example(name: str) -> None:
    (definition,) = load_models(name)
    assert definition.facts.examples
    assert definition.facts.description
