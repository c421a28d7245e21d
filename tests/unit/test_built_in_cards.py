import json
import pkgutil
from datetime import date

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

import swell.models
import swell_models
from swell.core.errors import InvalidModel, NotFound
from swell.runtime.model_lint import hints_of_card
from swell.sdk.define import Definition
from swell.sdk.model_loader import load_models


def built_in() -> list[Definition]:
    found: dict[str, Definition] = {}
    modules = [
        *pkgutil.iter_modules(swell.models.__path__, "swell.models."),
        *pkgutil.iter_modules(swell_models.__path__, "swell_models."),
    ]
    for module in modules:
        if module.name.endswith("_torch"):
            continue  # imported by what needs torch
        try:
            models = load_models(module.name)
        except (InvalidModel, NotFound):
            continue  # a module that models share
        found |= {each.name: each for each in models}
    return list(found.values())


BUILT_IN = built_in()
each_built_in = pytest.mark.parametrize("definition", BUILT_IN, ids=lambda each: each.name)


def test_all_built_in_models_are_looked_at() -> None:
    names = {each.name for each in BUILT_IN}
    assert names >= {"swell/icons", "swell/artwork", "swell/speech", "demo/upper", "demo/curve"}


@each_built_in
def test_a_built_in_model_tells_what_it_does_and_its_licence(definition: Definition) -> None:
    card = definition.card()
    assert card.description
    assert card.licence
    if card.name.startswith("swell/"):
        assert card.credits, "all of them stand on somebody's work"


@each_built_in
def test_a_built_in_model_tells_memory_and_speed_by_device(definition: Definition) -> None:
    card = definition.card()
    assert card.memory_bytes > 0
    assert card.speed
    for speed in card.speed:
        assert speed.device
        assert speed.what
        assert speed.took_s > 0
        assert date.fromisoformat(speed.measured_on)


@each_built_in
def test_a_built_in_model_shows_samples(definition: Definition) -> None:
    samples = definition.card().samples
    assert samples
    for sample in samples:
        assert sample.caption
        assert sample.text or sample.width * sample.height > 0 or "audio/" in sample.content_type


@each_built_in
def test_what_makes_pictures_shows_pictures(definition: Definition) -> None:
    card = definition.card()
    if '"x-file": "image"' in json.dumps(card.output_schema):
        assert {sample.content_type for sample in card.samples} == {"image/webp"}


@each_built_in
def test_a_built_in_model_gives_inputs_that_work(definition: Definition) -> None:
    examples = definition.card().examples
    assert examples
    for example in examples:
        definition.input_type.model_validate(example)


@each_built_in
def test_a_built_in_card_lacks_nothing(definition: Definition) -> None:
    assert hints_of_card(definition.card()) == []
