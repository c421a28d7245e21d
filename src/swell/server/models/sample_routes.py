"""Samples on model cards: taken from workers, stored as files, served without a key."""

import hashlib
from typing import Annotated

import msgspec

from swell.core.errors import InvalidInput, InvalidRequest, NotFound
from swell.core.records import ModelCard, Sample
from swell.sdk.card_samples import MOST_SAMPLES, TEXT, checked_text
from swell.server.common_schemas import doc
from swell.server.request import Call, Reply
from swell.server.route import Response, model_route
from swell.server.serializers import project
from swell.server.service import Service


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, sound or text on a model's card; its URL needs no key and never changes."""

    url: str
    caption: str
    content_type: str
    width: Annotated[int, doc("in px, for a picture; else 0")]
    height: Annotated[int, doc("in px, for a picture; else 0")]
    text: Annotated[str, doc("the text, for a text; else empty")]


async def keep_samples(service: Service, card: ModelCard) -> ModelCard:
    """Store the samples of a card; return the card without their content.

    Raises:
        InvalidInput: There are too many, or one is too large or not of a kind that browsers show.
    """
    if len(card.samples) > MOST_SAMPLES:
        raise InvalidInput(f"{card.name} has {len(card.samples)} samples: send {MOST_SAMPLES}")
    samples = [await _store(service, card.name, sample) for sample in card.samples]
    return msgspec.structs.replace(card, samples=samples) if samples else card


async def _store(service: Service, model: str, sample: Sample) -> Sample:
    try:
        text = checked_text(sample)
    except InvalidRequest as error:
        raise InvalidInput(f"{model}: {error.detail}") from None
    # The worker's own digest is not trusted.
    digest = hashlib.sha256(sample.data).hexdigest()
    await service.objects.put_new(_key(digest), sample.data, sample.content_type)
    return msgspec.structs.replace(sample, digest=digest, text=text, data=b"")


@model_route(
    "GET /v1/models/{owner}/{name}/samples/{digest}",
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
    charset = "; charset=utf-8" if found.content_type == TEXT else ""
    reply = constant_reply(call, digest, f"{found.content_type}{charset}")
    if reply.status == 200:
        reply.length = (await service.objects.head(_key(digest))).bytes
        reply.stream = service.objects.read(_key(digest))
    return reply


def constant_reply(call: Call, digest: str, content_type: str, data: bytes = b"") -> Reply:
    """Return content with its digest in its URL, so that it never changes; 304 if it is cached."""
    etag = f'"{digest}"'.encode()
    headers = [
        (b"cache-control", b"public, max-age=31536000, immutable"),
        (b"etag", etag),
        (b"content-security-policy", b"default-src 'none'; sandbox; frame-ancestors 'none'"),
        (b"access-control-allow-origin", b"*"),
        (b"cross-origin-resource-policy", b"cross-origin"),
    ]
    if call.headers.get(b"if-none-match") == etag:
        return Reply(304, headers=headers)
    return Reply(200, data, content_type.encode(), headers)


def sample_views(card: ModelCard, base: str) -> list[SampleView]:
    """Return the samples of a card as clients see them."""
    home = f"{base}/v1/models/{card.name}/samples"
    return [project(SampleView, each, url=f"{home}/{each.digest}") for each in card.samples]


def _key(digest: str) -> str:
    return f"samples/{digest}"
