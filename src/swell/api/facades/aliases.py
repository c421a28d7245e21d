"""Which model a client means that knows the names of others.

Clients name models that their vendor has: `gpt-image-1`, `fal-ai/flux/dev`. The operator says what
is meant by them (`server.model_aliases`), and by any other name that nobody here has (`*`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from swell.api.cards import Target
from swell.api.service import Service
from swell.errors import FieldError, NotFound
from swell.registry import ModelCard

#: The alias of every name that nobody has.
ANY: Final = "*"

#: How many names an error lists.
_MANY: Final = 20


def meant(aliases: Mapping[str, str], names: Sequence[str]) -> str | None:
    """Return the model that the first of some names stands for; None where none is an alias."""
    return next((aliases[name] for name in names if name in aliases), None)


async def resolve(service: Service, *names: str, param: str = "model") -> Target:
    """Return what the first of some names means: an alias, else a model, else what `*` is.

    Args:
        service: Whose models.
        names: What the client calls it, the closest first; none for whatever `*` is.
        param: What the client says it by, for errors.

    Raises:
        NotFound: Nothing; the text names what there is.
    """
    aliases = service.settings.server.model_aliases
    told = meant(aliases, names)
    if told is not None:
        return await service.cards.target(told)
    for name in names:
        try:
            return await service.cards.target(name)
        except NotFound:
            continue
    if ANY in aliases:
        return await service.cards.target(aliases[ANY])
    raise await _unknown(service, names, param)


async def available(service: Service) -> dict[str, ModelCard]:
    """Return everything that a client may call a model, with the model that it means."""
    await service.cards.refresh()
    models = {card.name: card for card in service.cards.newest()}
    found = dict(models)
    for name, model in service.settings.server.model_aliases.items():
        card = models.get(model.partition(":")[0])
        if card is not None and name != ANY:
            found[name] = card
    return found


async def _unknown(service: Service, names: Sequence[str], param: str) -> NotFound:
    known = list(await available(service))
    there = f"there are {', '.join(known[:_MANY])}" if known else "none is served yet"
    what = f"there is no model {names[0][:120]!r} here" if names else f"{param} is left out"
    detail = f"{what}: {there}. An operator can give them other names: server.model_aliases"
    where = FieldError(pointer=f"/{param}", detail=detail, code="model_not_found")
    return NotFound(detail, errors=[where])
