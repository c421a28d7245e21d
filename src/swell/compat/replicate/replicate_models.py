"""Model cards as models and versions; accounts, hardware, collections and search."""

import re
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from swell.compat.replicate.replicate_facade import (
    HOME,
    ReplicatePage,
    ReplicateQuery,
    full_name,
    page_links,
    replicate,
)
from swell.compat.replicate.replicate_views import ReplicatePrediction, ReplicateUrls
from swell.core.clock import Moment
from swell.core.errors import InvalidInput, NotFound, TooLarge
from swell.core.records import ModelCard
from swell.server.decoding import read_query
from swell.server.models.sample_routes import sample_views
from swell.server.request import Call, Reply
from swell.server.route import Body, Response
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.web.pages import first_line
from swell.server.webhooks.webhook_secrets import HookSecrets

#: Clients read the output schema according to it; from 0.3.9 on it may be an iterator.
_COG_VERSION: Final = "0.16.0"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MAX_QUERY_BYTES: Final = 1000
_WORDS: Final = Body(media_types=("text/plain",))

_WORD: Final = re.compile(r"[\w.-]+")


class ReplicateVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model."""

    id: str
    created_at: Moment
    cog_version: str
    openapi_schema: dict[str, Any]


class ReplicateModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model."""

    url: str
    owner: str
    name: str
    description: str | None
    visibility: Literal["public", "private"] = "public"
    is_official: bool = False
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    run_count: int = 0
    cover_image_url: str | None = None
    default_example: ReplicatePrediction | None = None
    latest_version: ReplicateVersion | None = None


class ReplicateSearch(msgspec.Struct, frozen=True, kw_only=True):
    """Results of a search."""

    query: str
    models: list[dict[str, Any]]
    collections: list[dict[str, Any]]
    pages: list[dict[str, str]]


class ReplicateAccount(msgspec.Struct, frozen=True, kw_only=True):
    """The key, by its name."""

    type: Literal["user", "organization"] = "user"
    username: str
    name: str
    github_url: str | None = None
    avatar_url: str | None = None


class ReplicateCollection(msgspec.Struct, frozen=True, kw_only=True):
    """The models of one owner."""

    name: str
    slug: str
    description: str
    models: list[ReplicateModel] = []


class ReplicateSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What signs the webhooks of this key's predictions."""

    key: str


@replicate("GET /models", ReplicatePage[ReplicateModel], query=ReplicateQuery)
async def list_models(service: Service, call: Call) -> Reply:
    """A page of models."""
    query = read_query(call, ReplicateQuery)
    await service.cards.refresh()
    cards = sorted(service.cards.newest(), key=lambda card: card.name)
    left = [card for card in cards if card.name > (query.cursor or "")]
    shown = left[: query.limit]
    cursor = shown[-1].name if len(left) > len(shown) else None
    links = page_links(service, call, "/models", query, cursor)
    return _model_list(service, call, shown, links)


@replicate("QUERY /models", ReplicatePage[ReplicateModel], (TooLarge,), body=_WORDS)
async def search(service: Service, call: Call) -> Reply:
    """Search models."""
    # replicate-javascript sends a JSON string: its quotes belong to no word.
    text = (await call.body(_MAX_QUERY_BYTES)).decode(errors="replace")
    return _model_list(service, call, await _search(service, text), {})


@replicate("GET /search", ReplicateSearch, (InvalidInput,), query=dict)
async def search_all(service: Service, call: Call) -> Reply:
    """Search models (newer clients)."""
    words = call.query().get("query", "").strip()
    if not words:
        raise InvalidInput("'query' is required: the words to search for")
    metadata = {"tags": [], "score": 1.0}
    cards = await _search(service, words)
    models = [{"model": _model(service, call, card), "metadata": metadata} for card in cards]
    return Reply(200, encode(ReplicateSearch(query=words, models=models, collections=[], pages=[])))


@replicate("GET /models/{owner}/{name}", ReplicateModel, (NotFound,))
async def get(service: Service, call: Call) -> Reply:
    """A model."""
    return Reply(200, encode(_model(service, call, await _card(service, call))))


@replicate("GET /models/{owner}/{name}/versions", ReplicatePage[ReplicateVersion], (NotFound,))
async def list_versions(service: Service, call: Call) -> Reply:
    """A model's versions, newest first."""
    cards = await service.cards.versions(full_name(call))
    versions = [_version(card) for card in cards if card.stage != "retired"]
    return Reply(200, encode(ReplicatePage(results=versions)))


@replicate("GET /models/{owner}/{name}/versions/{version}", ReplicateVersion, (NotFound,))
async def get_version(service: Service, call: Call) -> Reply:
    """A version, with its schemas as OpenAPI."""
    target = await service.cards.target(f"{full_name(call)}:{call.params['version']}")
    return Reply(200, encode(_version(target.card)))


@replicate(
    "GET /models/{owner}/{name}/readme",
    {200: Response("Markdown", media_type="text/markdown")},
    (NotFound,),
)
async def readme(service: Service, call: Call) -> Reply:
    """A model's description."""
    card = await _card(service, call)
    return Reply(200, card.description.encode(), b"text/markdown; charset=utf-8")


@replicate("GET /models/{owner}/{name}/examples", ReplicatePage[ReplicatePrediction], (NotFound,))
async def list_examples(service: Service, call: Call) -> Reply:
    """Example inputs, as predictions."""
    card = await _card(service, call)
    examples = [_example(service, call, card, number) for number in range(len(card.examples))]
    return Reply(200, encode(ReplicatePage(results=examples)))


@replicate("GET /account", ReplicateAccount)
async def get_account(service: Service, call: Call) -> Reply:
    """The key's account."""
    name = call.caller.name
    return Reply(200, encode(ReplicateAccount(username=name, name=name)))


@replicate("GET /hardware", dict)
async def list_hardware(service: Service, call: Call) -> Reply:
    """The pools of workers."""
    devices: dict[str, set[str]] = {}
    for info, state, _ in await service.fleet.all():
        if state not in ("gone", "lost"):
            devices.setdefault(info.pool, set()).add(info.device)
    status = service.scaling.status
    for each in () if status is None else status.pools:
        devices.setdefault(each.pool, set())
    pools = []
    for pool, found in sorted(devices.items()):
        name = f"{pool} ({', '.join(sorted(found))})" if found else pool
        pools.append({"name": name, "sku": pool})
    return Reply(200, encode(pools))


@replicate("GET /collections", ReplicatePage[ReplicateCollection])
async def list_collections(service: Service, call: Call) -> Reply:
    """The owners of models, as collections."""
    await service.cards.refresh()
    owners = sorted({card.name.partition("/")[0] for card in service.cards.newest()})
    found = [_collection(owner, _cards_of(service, owner)) for owner in owners]
    return Reply(200, encode(ReplicatePage(results=found)))


@replicate("GET /collections/{slug}", ReplicateCollection, (NotFound,))
async def get_collection(service: Service, call: Call) -> Reply:
    """The models of one owner."""
    await service.cards.refresh()
    owner = call.params["slug"]
    cards = _cards_of(service, owner)
    if not cards:
        raise NotFound(f"{owner[:60]!r} has no models: GET {HOME}/collections lists all owners")
    models = [_model(service, call, card) for card in cards]
    return Reply(200, encode(_collection(owner, cards, models=models)))


@replicate("GET /webhooks/default/secret", ReplicateSecret)
async def webhook_secret(service: Service, call: Call) -> Reply:
    """The secret that signs the key's webhooks."""
    pair = await HookSecrets(service.registry, service.clock).of(call.caller.id)
    assert pair is not None, "the default secret is made on demand"
    return Reply(200, encode(ReplicateSecret(key=pair.secret)))


async def _search(service: Service, text: str) -> list[ModelCard]:
    """Return the models with all words in name or description, matches in names first."""
    await service.cards.refresh()
    words = _WORD.findall(text.lower())

    def matches(text: str) -> bool:
        return all(word in text.lower() for word in words)

    found = [card for card in service.cards.newest() if matches(f"{card.name}\n{card.description}")]
    return sorted(found, key=lambda card: (not matches(card.name), card.name))


async def _card(service: Service, call: Call) -> ModelCard:
    return (await service.cards.target(full_name(call))).card


def _cards_of(service: Service, owner: str) -> list[ModelCard]:
    return [card for card in service.cards.newest() if card.name.startswith(f"{owner}/")]


def _collection(owner: str, cards: list[ModelCard], **more: Any) -> ReplicateCollection:
    about = f"{len(cards)} models of {owner}"
    return ReplicateCollection(name=owner, slug=owner, description=about, **more)


def _model_list(
    service: Service, call: Call, cards: list[ModelCard], links: dict[str, str | None]
) -> Reply:
    models = [_model(service, call, card) for card in cards]
    return Reply(200, encode(ReplicatePage(results=models, **links)))


def _model(service: Service, call: Call, card: ModelCard) -> ReplicateModel:
    owner, _, name = card.name.partition("/")
    base = service.base_url(call)
    samples = [each for each in sample_views(card, base) if each.content_type.startswith("image/")]
    accepted = service.metrics.values["swell_tasks_accepted_total"]
    return ReplicateModel(
        url=f"{base}/#/models/{card.name}",
        owner=owner,
        name=name,
        description=first_line(card.description) or None,
        run_count=int(accepted.get(card.name, 0)),
        cover_image_url=samples[0].url if samples else None,
        default_example=_example(service, call, card, 0) if card.examples else None,
        latest_version=_version(card),
    )


def _version(card: ModelCard) -> ReplicateVersion:
    return ReplicateVersion(
        id=card.version,
        created_at=card.registered_at or _EPOCH,
        cog_version=_COG_VERSION,
        openapi_schema=openapi_of(card),
    )


def _example(service: Service, call: Call, card: ModelCard, number: int) -> ReplicatePrediction:
    """Return an example input as a prediction without output."""
    base = service.base_url(call)
    home = f"{base}{HOME}/models/{card.name}/examples"
    created_at = card.registered_at or _EPOCH
    return ReplicatePrediction(
        id=f"example-{number}",
        model=card.name,
        version=card.version,
        status="succeeded",
        input=card.examples[number],
        output=None,
        logs="",
        error=None,
        metrics={},
        data_removed=True,
        source="web",
        created_at=created_at,
        started_at=created_at,
        completed_at=created_at,
        deadline=None,
        deployment=None,
        urls=ReplicateUrls(get=home, cancel=home, stream=home, web=f"{base}/#/models/{card.name}"),
    )


# --- the OpenAPI document of a version; pure

_COMPONENTS: Final = "#/components/schemas/"

#: Inputs of every prediction.
_OF_TASKS: Final[dict[str, dict[str, Any]]] = {
    "seed": {
        "type": "integer",
        "title": "Seed",
        "nullable": True,
        "description": "The same seed draws the same picture; leave it out for any.",
    },
    "num_outputs": {
        "type": "integer",
        "title": "Num Outputs",
        "default": 1,
        "minimum": 1,
        "maximum": 100,
        "description": "How many samples (pictures) to make; the output of several is a list.",
    },
}


def openapi_of(card: ModelCard) -> dict[str, Any]:
    """Return a document with `Input` and `Output` among its schemas.

    An array as output keeps its `x-cog-array-type`: with `iterator` clients read it while it grows.
    """
    schemas: dict[str, Any] = {}
    asked = _moved(card.input_schema, schemas)
    properties = {
        name: {"x-order": number, **schema} if isinstance(schema, dict) else schema
        for number, (name, schema) in enumerate(asked.get("properties", {}).items())
    }
    for name, schema in _OF_TASKS.items():
        properties.setdefault(name, {"x-order": len(properties), **schema})
    schemas["Input"] = {"type": "object", "title": "Input", **asked, "properties": properties}
    schemas["Output"] = {"title": "Output", **_moved(card.output_schema, schemas)}
    request = {"type": "object", "properties": {"input": {"$ref": f"{_COMPONENTS}Input"}}}
    schemas["PredictionRequest"] = {"title": "PredictionRequest", **request}
    body = {"schema": {"$ref": f"{_COMPONENTS}PredictionRequest"}}
    predict = {
        "operationId": "predict",
        "requestBody": {"content": {"application/json": body}},
        "responses": {"200": {"description": "The prediction"}},
    }
    return {
        "openapi": "3.0.2",
        "info": {"title": card.name, "version": card.version},
        "paths": {"/predictions": {"post": predict}},
        "components": {"schemas": schemas},
    }


def _moved(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return a schema after its definitions have moved to the document's schemas."""
    text = msgspec.json.encode(schema).replace(b'"#/$defs/', f'"{_COMPONENTS}'.encode())
    moved: dict[str, Any] = msgspec.json.decode(text)
    schemas.update(moved.pop("$defs", {}))
    return moved
