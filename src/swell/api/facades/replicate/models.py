"""Model cards as Replicate's models and versions, and what stands around them."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.facades.links import page_url
from swell.api.facades.replicate.messages import (
    HOME,
    ReplicateAccount,
    ReplicateCollection,
    ReplicateCollectionList,
    ReplicateHardware,
    ReplicateModel,
    ReplicateModelList,
    ReplicatePrediction,
    ReplicatePredictionList,
    ReplicateQuery,
    ReplicateSearch,
    ReplicateSecret,
    ReplicateUrls,
    ReplicateVersion,
    ReplicateVersionList,
)
from swell.api.facades.replicate.schemas import openapi_of
from swell.api.facades.replicate.views import moment
from swell.api.gallery import sample_views
from swell.api.hook_secrets import HookSecrets
from swell.api.pages import first_line
from swell.api.reading import read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import InvalidInput, NotFound
from swell.registry import ModelCard

#: Clients read from it how an output is described; from 0.3.9 on it says what is an iterator.
_COG_VERSION: Final = "0.16.0"

_EPOCH: Final = "1970-01-01T00:00:00.000Z"

#: Longest search.
_MAX_QUERY_BYTES: Final = 1000

_WORD: Final = re.compile(r"[\w.-]+")


async def list_models(service: Service, call: Call) -> Reply:
    """`GET /models`."""
    query = read_query(call, ReplicateQuery)
    await service.cards.refresh()
    cards = sorted(service.cards.newest(), key=lambda card: card.name)
    if query.cursor is not None:
        cards = [card for card in cards if card.name > query.cursor]
    shown, rest = cards[: query.limit], cards[query.limit :]
    home, limit = f"{HOME}/models", str(query.limit)
    page = ReplicateModelList(
        previous=None if query.cursor is None else page_url(service, call, home, limit=limit),
        next=page_url(service, call, home, cursor=shown[-1].name, limit=limit) if rest else None,
        results=[_model(service, call, card) for card in shown],
    )
    return Reply(200, encode(page))


async def search(service: Service, call: Call) -> Reply:
    """`QUERY /models`: the words of the search are the body."""
    found = await _search(service, _plain_query(await call.body(_MAX_QUERY_BYTES)))
    page = ReplicateModelList(results=[_model(service, call, card) for card in found])
    return Reply(200, encode(page))


async def search_all(service: Service, call: Call) -> Reply:
    """`GET /search`."""
    query = call.query()
    words = query.get("query", "").strip()
    if not words:
        raise InvalidInput("'query' is required: the words to search for")
    models = [
        {"model": _model(service, call, card), "metadata": {"tags": [], "score": 1.0}}
        for card in await _search(service, words)
    ]
    return Reply(200, encode(ReplicateSearch(query=words, models=models, collections=[], pages=[])))


async def get(service: Service, call: Call) -> Reply:
    """`GET /models/{owner}/{name}`."""
    return Reply(200, encode(_model(service, call, await _card(service, call))))


async def list_versions(service: Service, call: Call) -> Reply:
    """`GET /models/{owner}/{name}/versions`."""
    cards = await service.cards.versions(_name(call))
    versions = [version_of(card) for card in cards if card.stage != "retired"]
    return Reply(200, encode(ReplicateVersionList(results=versions)))


async def get_version(service: Service, call: Call) -> Reply:
    """`GET /models/{owner}/{name}/versions/{version}`."""
    target = await service.cards.target(f"{_name(call)}:{call.params['version']}")
    return Reply(200, encode(version_of(target.card)))


async def readme(service: Service, call: Call) -> Reply:
    """`GET /models/{owner}/{name}/readme`."""
    card = await _card(service, call)
    return Reply(200, card.description.encode(), b"text/markdown; charset=utf-8")


async def list_examples(service: Service, call: Call) -> Reply:
    """`GET /models/{owner}/{name}/examples`."""
    card = await _card(service, call)
    found = [_example(service, call, card, number) for number in range(len(card.examples))]
    return Reply(200, encode(ReplicatePredictionList(results=found)))


async def get_account(service: Service, call: Call) -> Reply:
    """`GET /account`."""
    return Reply(200, encode(account_of(call)))


async def list_hardware(service: Service, call: Call) -> Reply:
    """`GET /hardware`: the pools."""
    return Reply(200, encode(await pools(service)))


async def list_collections(service: Service, call: Call) -> Reply:
    """`GET /collections`: one for each owner of models."""
    await service.cards.refresh()
    owners = sorted({card.name.partition("/")[0] for card in service.cards.newest()})
    found = [_collection(service, call, owner, is_whole=False) for owner in owners]
    return Reply(200, encode(ReplicateCollectionList(results=found)))


async def get_collection(service: Service, call: Call) -> Reply:
    """`GET /collections/{slug}`."""
    await service.cards.refresh()
    found = _collection(service, call, call.params["slug"], is_whole=True)
    if not found.models:
        raise NotFound(
            f"there is no collection {found.slug[:60]!r}: GET {HOME}/collections lists them, one "
            "for each owner of models"
        )
    return Reply(200, encode(found))


async def webhook_secret(service: Service, call: Call) -> Reply:
    """`GET /webhooks/default/secret`."""
    pair = await HookSecrets(service.registry, service.clock).of(call.caller.id)
    assert pair is not None, "the default secret is made where there is none"
    return Reply(200, encode(ReplicateSecret(key=pair.secret)))


async def pools(service: Service) -> list[ReplicateHardware]:
    """Return the pools that have workers or may start some, each with its devices."""
    devices: dict[str, set[str]] = {}
    for info, state, _ in await service.fleet.all():
        if state not in ("gone", "lost"):
            devices.setdefault(info.pool, set()).add(info.device)
    status = service.scaling.status
    for pool in () if status is None else status.pools:
        devices.setdefault(pool.pool, set())
    return [
        ReplicateHardware(
            name=f"{pool} ({', '.join(sorted(found))})" if found else pool,
            sku=pool,
        )
        for pool, found in sorted(devices.items())
    ]


def account_of(call: Call) -> ReplicateAccount:
    """Return the caller's key as an account."""
    return ReplicateAccount(username=call.caller.name, name=call.caller.name)


def version_of(card: ModelCard) -> ReplicateVersion:
    """Return a card as a version."""
    return ReplicateVersion(
        id=card.version,
        created_at=moment(card.registered_at) or _EPOCH,
        cog_version=_COG_VERSION,
        openapi_schema=openapi_of(card),
    )


def _plain_query(body: bytes) -> str:
    """Return the words of a search; replicate-javascript sends them as a JSON string."""
    text = body.decode(errors="replace").strip()
    if text.startswith('"') and text.endswith('"'):
        try:
            text = msgspec.json.decode(text, type=str)
        except msgspec.MsgspecError:
            return text
    return text


async def _search(service: Service, words: str) -> Sequence[ModelCard]:
    """Return the models in whose names or descriptions all words occur, names first."""
    await service.cards.refresh()
    wanted = _WORD.findall(words.lower())
    found = [
        card
        for card in service.cards.newest()
        if all(word in f"{card.name}\n{card.description}".lower() for word in wanted)
    ]
    return sorted(
        found, key=lambda card: (not all(word in card.name.lower() for word in wanted), card.name)
    )


def _name(call: Call) -> str:
    return f"{call.params['owner']}/{call.params['name']}"


async def _card(service: Service, call: Call) -> ModelCard:
    return (await service.cards.target(_name(call))).card


def _model(service: Service, call: Call, card: ModelCard) -> ReplicateModel:
    owner, _, name = card.name.partition("/")
    base = service.base_url(call)
    samples = [each for each in sample_views(card, base) if each.content_type.startswith("image/")]
    return ReplicateModel(
        url=f"{base}/#/models/{card.name}",
        owner=owner,
        name=name,
        description=first_line(card.description) or None,
        run_count=service.metrics.accepted.get(card.name, 0),
        cover_image_url=samples[0].url if samples else None,
        default_example=_example(service, call, card, 0) if card.examples else None,
        latest_version=version_of(card),
    )


def _example(service: Service, call: Call, card: ModelCard, number: int) -> ReplicatePrediction:
    """Return an input that works as a prediction; what comes of it nobody has kept."""
    base = service.base_url(call)
    home = f"{base}{HOME}/models/{card.name}/examples"
    created_at = moment(card.registered_at) or _EPOCH
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


def _collection(service: Service, call: Call, owner: str, *, is_whole: bool) -> ReplicateCollection:
    cards = [card for card in service.cards.newest() if card.name.startswith(f"{owner}/")]
    return ReplicateCollection(
        name=owner,
        slug=owner,
        description=f"{len(cards)} models of {owner}",
        models=[_model(service, call, card) for card in cards] if is_whole else [],
    )
