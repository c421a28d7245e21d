"""Models by the names that clients of other APIs use, such as `gpt-image-1`."""

import contextlib
from typing import Final

from swell.core.errors import FieldError, NotFound
from swell.core.records import ModelCard
from swell.server.models.model_cards import Target
from swell.server.service import Service

#: The alias of every unknown name.
ANY: Final = "*"

#: Most models that an error lists.
_MOST_LISTED: Final = 20


async def resolve(service: Service, *names: str, param: str = "model") -> Target:
    """Return the model that a request names: an alias, else a model, else the alias `*`.

    Args:
        service: The backend.
        names: Names to try, the most specific first; none selects the alias `*`.
        param: Field that held the name, for errors.

    Raises:
        NotFound: No name matches; the text lists the models.
    """
    aliases = service.settings.server.model_aliases
    if alias := next((name for name in names if name in aliases), None):
        return await service.cards.target(aliases[alias])
    for name in names:
        with contextlib.suppress(NotFound):
            return await service.cards.target(name)
    if ANY in aliases:
        return await service.cards.target(aliases[ANY])
    known = ", ".join(list(await available(service))[:_MOST_LISTED])
    what = f"there is no model {names[0][:120]!r} here" if names else f"{param} is left out"
    served = f"there are {known}" if known else "none is served yet"
    detail = f"{what}: {served}. An operator can give them other names: server.model_aliases"
    where = FieldError(pointer=f"/{param}", detail=detail, code="model_not_found")
    raise NotFound(detail, errors=[where])


async def available(service: Service) -> dict[str, ModelCard]:
    """Return models by name and by alias."""
    await service.cards.refresh()
    models = {card.name: card for card in service.cards.newest()}
    found = dict(models)
    for name, model in service.settings.server.model_aliases.items():
        card = models.get(model.partition(":")[0])
        if card is not None and name != ANY:
            found[name] = card
    return found
