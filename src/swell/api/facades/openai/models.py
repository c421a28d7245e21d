"""Models and aliases, as OpenAI lists models."""

import msgspec

from swell.api.call import Call, Reply
from swell.api.facades.model_names import available, resolve
from swell.api.facades.openai.api import openai
from swell.api.route import Response
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import NotFound
from swell.registry import ModelCard


class OpenAiModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model, or an alias."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


class OpenAiModels(msgspec.Struct, frozen=True, kw_only=True):
    """All values that `model` may have."""

    data: list[OpenAiModel]
    object: str = "list"


@openai.route("GET /models", {200: Response("Models and aliases", OpenAiModels)})
async def models(service: Service, call: Call) -> Reply:
    """List models."""
    found = await available(service)
    data = [_view(name, card) for name, card in found.items()]
    return Reply(200, encode(OpenAiModels(data=data)))


@openai.route("GET /models/{model:path}", {200: Response("The model", OpenAiModel)}, (NotFound,))
async def model(service: Service, call: Call) -> Reply:
    """Get a model."""
    name = call.params["model"]
    return Reply(200, encode(_view(name, (await resolve(service, name)).card)))


def _view(name: str, card: ModelCard) -> OpenAiModel:
    at = card.registered_at
    return OpenAiModel(
        id=name,
        created=0 if at is None else int(at.timestamp()),
        owned_by=card.name.partition("/")[0],
    )
