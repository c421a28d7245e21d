import pkgutil

import pytest

import swell.zoo
from swell.model import Definition, InvalidModel, NotFound, load_models


def built_in() -> list[Definition]:
    found: dict[str, Definition] = {}
    for module in pkgutil.iter_modules(swell.zoo.__path__, "swell.zoo."):
        try:
            models = load_models(module.name)
        except (InvalidModel, NotFound):
            continue  # a module that models share
        found |= {each.name: each for each in models}
    return list(found.values())


@pytest.mark.parametrize("definition", built_in(), ids=lambda each: each.name)
def test_a_built_in_model_tells_what_it_does_and_its_licence(definition: Definition) -> None:
    card = definition.card()
    assert card.description
    assert card.licence
    if card.name.startswith("swell/"):
        assert card.credits, "all of them stand on somebody's work"


def test_the_first_models_show_what_they_draw() -> None:
    for name in ("swell/icons", "swell/artwork"):
        [definition] = load_models(name)
        assert all(sample.data for sample in definition.card().samples)
        assert definition.card().samples
