"""Signatures of webhooks in fal's format, and the keys that receivers check them with.

The key is derived from a secret of the registry, so that all backends have the same key.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from swell.api.call import Call, Reply
from swell.api.facades.fal.api import fal
from swell.api.route import Response
from swell.api.service import Service
from swell.api.views import encode
from swell.db.registry import Registry
from swell.errors import NotFound
from swell.outbox import Delivery
from swell.task import Task

if TYPE_CHECKING:
    from swell.webhooks.fal_signing import FalKey

#: Name of the secret in the registry.
_SECRET: Final = "fal-webhooks"

#: How long receivers may cache the keys, in seconds; fal's documentation says a day at most.
_CACHED_S: Final = 3600


class FalJwk(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as a JSON Web Key."""

    x: Annotated[str, Meta(description="The public key, in base64url")]
    kid: str
    kty: str = "OKP"
    crv: str = "Ed25519"
    use: str = "sig"
    alg: str = "EdDSA"


class FalKeySet(msgspec.Struct, frozen=True, kw_only=True):
    """Public keys; one of them has signed."""

    keys: list[FalJwk]


async def _key(registry: Registry) -> "FalKey | None":
    """Return the signing key; None if the library is not installed."""
    try:
        from swell.webhooks.fal_signing import FalKey  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return FalKey(await registry.secret(_SECRET))


async def hook_headers(
    registry: Registry, delivery: Delivery, task: Task, body: bytes, now: datetime
) -> Mapping[str, str]:
    """Return the headers with fal's signature; none without the library."""
    key = await _key(registry)
    if key is None:
        return {}
    return key.headers(task.id, delivery.key_id, int(now.timestamp()), body)


@fal.route(
    "GET /.well-known/jwks.json",
    {200: Response("Public keys, as receivers of fal's webhooks read them", FalKeySet)},
    (NotFound,),
    scope=None,
    operation_id="fal_webhooks_keys",
)
async def keys(service: Service, call: Call) -> Reply:
    """Read the keys that sign webhooks.

    What `rest.fal.ai/.well-known/jwks.json` is at fal: receivers check `X-Fal-Webhook-Signature`
    with it.
    """
    key = await _key(service.registry)
    if key is None:
        raise NotFound("webhooks are not signed as fal signs them here: install `swell[fal]`")
    known = FalKeySet(keys=[FalJwk(x=key.x, kid=key.id)])
    cached = (b"cache-control", f"public, max-age={_CACHED_S}".encode())
    return Reply(200, encode(known), headers=[cached])
