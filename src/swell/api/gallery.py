"""Samples on model cards: taken from workers, stored as files, served without a key."""

import hashlib

import msgspec

from swell.api.call import Call, Reply
from swell.api.models_schemas import SampleView
from swell.api.route import Response, route
from swell.api.service import Service
from swell.api.views import project
from swell.errors import InvalidInput, InvalidRequest, NotFound
from swell.registry import ModelCard, Sample
from swell.samples import MOST_SAMPLES, TEXT, check_sample, text_of

#: The URL contains the digest, so its content never changes.
_CACHE_CONTROL = b"public, max-age=31536000, immutable"


async def keep_samples(service: Service, card: ModelCard) -> ModelCard:
    """Store the samples of a card; return the card without their content.

    Raises:
        InvalidInput: There are too many, or one is too large or not of a kind that browsers show.
    """
    if len(card.samples) > MOST_SAMPLES:
        raise InvalidInput(f"{card.name} has {len(card.samples)} samples: send {MOST_SAMPLES}")
    if not card.samples:
        return card
    samples = [await _store(service, card.name, sample) for sample in card.samples]
    return msgspec.structs.replace(card, samples=samples)


async def _store(service: Service, model: str, sample: Sample) -> Sample:
    try:
        check_sample(sample)
    except InvalidRequest as error:
        raise InvalidInput(f"{model}: {error.detail}") from None
    # The worker's own digest is not trusted.
    digest = hashlib.sha256(sample.data).hexdigest()
    await service.objects.put_new(_key(digest), sample.data, sample.content_type)
    return msgspec.structs.replace(sample, digest=digest, text=text_of(sample), data=b"")


@route(
    "GET /v1/models/{owner}/{name}/samples/{digest}",
    "Models",
    {
        200: Response("The picture, sound or text", media_type="image/webp"),
        304: Response("It has not changed", media_type=""),
    },
    scope=None,
    errors=(NotFound,),
)
async def show_sample(service: Service, call: Call) -> Reply:
    """Get a sample of a model's card.

    The URL comes with the model, needs no key, and its content never changes.
    """
    model = f"{call.params['owner']}/{call.params['name']}"
    digest = call.params["digest"]
    samples = [each for card in await service.cards.versions(model) for each in card.samples]
    found = next((each for each in samples if each.digest == digest), None)
    if found is None:
        raise NotFound(f"{model} has no sample {digest[:70]!r}: GET /v1/models/{model} lists them")
    etag = f'"{digest}"'.encode()
    headers = [
        (b"cache-control", _CACHE_CONTROL),
        (b"etag", etag),
        (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
        (b"access-control-allow-origin", b"*"),
        (b"cross-origin-resource-policy", b"cross-origin"),
    ]
    if call.headers.get(b"if-none-match") == etag:
        return Reply(304, headers=headers)
    info = await service.objects.head(_key(digest))
    charset = "; charset=utf-8" if found.content_type == TEXT else ""
    return Reply(
        200,
        content_type=f"{found.content_type}{charset}".encode(),
        headers=headers,
        stream=service.objects.read(_key(digest)),
        length=info.bytes,
    )


def sample_views(card: ModelCard, base: str) -> list[SampleView]:
    """Return the samples of a card as clients see them."""
    home = f"{base}/v1/models/{card.name}/samples"
    return [project(SampleView, each, url=f"{home}/{each.digest}") for each in card.samples]


def _key(digest: str) -> str:
    return f"samples/{digest}"
