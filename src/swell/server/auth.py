"""API keys as bearer tokens, stored as SHA-256 only.

The scheme before a key may also be `Token` (older Replicate clients) or `Key` (fal's clients).
"""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from swell.core.clock import Clock
from swell.core.errors import Conflict, Forbidden, Unauthenticated
from swell.core.records import ApiKey, Scope
from swell.core.task import new_id
from swell.db.registry import Registry
from swell.server.request import Call
from swell.server.single_flight import SingleFlight

#: Prefix of secrets, for people and for scanners of leaked secrets.
KEY_PREFIX = "swell_"

#: Schemes of the `Authorization` header, in lower case.
_SCHEMES: Final = frozenset({b"bearer", b"token", b"key"})

#: Most cached keys.
_MAX_CACHED = 4096

#: The last use of a key is written again after this time.
_USE_EVERY: Final = timedelta(seconds=60)


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its secret, which is stored nowhere else."""

    key: ApiKey
    secret: str


def new_key(name: str, scopes: frozenset[Scope], clock: Clock, **fields: Any) -> NewKey:
    """Make a key; the caller stores it with `Registry.put_key`.

    Args:
        name: For people.
        scopes: Its permissions.
        clock: The time.
        fields: Others of `ApiKey`, such as `expires_at`.
    """
    secret, digest = _new_secret()
    now = clock.now()
    key = ApiKey(id=new_id(now), name=name, digest=digest, scopes=scopes, created_at=now, **fields)
    return NewKey(key=key, secret=secret)


async def create_key(
    registry: Registry, clock: Clock, name: str, scopes: frozenset[Scope], **fields: Any
) -> NewKey:
    """Make and store a key; the secret is in the answer and nowhere else."""
    made = new_key(name, scopes, clock, **fields)
    await registry.put_key(made.key)
    return made


async def rotate_key(registry: Registry, clock: Clock, key: ApiKey, overlap_s: float) -> NewKey:
    """Give a key a new secret; the present one works for `overlap_s` seconds more.

    At most two secrets work: another rotation ends the overlap of the secret before.

    Raises:
        Conflict: The key no longer works, or got another secret at the same moment.
    """
    now = clock.now()
    reason = why_not(key, key.digest, now)
    if reason is not None:
        raise Conflict(f"{reason}: make another one with POST /v1/keys or `swell keys create`")
    secret, digest = _new_secret()
    rotated = msgspec.structs.replace(
        key,
        digest=digest,
        old_digest=key.digest if overlap_s > 0 else None,
        old_until=now + timedelta(seconds=overlap_s) if overlap_s > 0 else None,
    )
    if not await registry.put_key(rotated, instead_of=key.digest):
        raise Conflict(
            f"key {key.name!r} was given another new secret at the same moment: use that one, or "
            "rotate again"
        )
    return NewKey(key=rotated, secret=secret)


def _new_secret() -> tuple[str, bytes]:
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    return secret, hashlib.sha256(secret.encode()).digest()


def why_not(key: ApiKey, digest: bytes, now: datetime) -> str | None:
    """Return why a secret of a key does not work; None if it works. Pure.

    Args:
        key: The key.
        digest: SHA-256 of its secret, or of the secret before.
        now: The time.
    """
    if key.revoked_at is not None:
        return f"key {key.name!r} was revoked"
    if key.expires_at is not None and now >= key.expires_at:
        return f"key {key.name!r} has expired"
    if digest != key.digest and (key.old_until is None or now >= key.old_until):
        return f"key {key.name!r} was given a new secret, and this is the one before"
    return None


def check_scope(key: ApiKey, scope: Scope) -> None:
    """Check that a key may do this.

    Raises:
        Forbidden: It lacks the scope.
    """
    if scope not in key.scopes and Scope.ADMIN not in key.scopes:
        raise Forbidden(
            f"key {key.name!r} has no {scope.value!r} scope: use a key that has it, or make one "
            f"with `swell keys create --scope {scope.value}`"
        )


def may_see(call: Call, key_id: str) -> bool:
    """Whether the caller may see what belongs to a key: its own, or anything for an admin."""
    if key_id == call.caller.id:
        return True
    call.of_others = Scope.ADMIN in call.caller.scopes
    return call.of_others


def only_own(call: Call) -> str | None:
    """Return the key to which a listing is limited; None for all keys."""
    return None if Scope.ADMIN in call.caller.scopes else call.caller.id


def check_worker(key: ApiKey, pool: str, models: Sequence[str]) -> None:
    """Check that a key may register a worker of this pool with these models.

    Raises:
        Forbidden: It is for other workers.
    """
    if key.pools and pool not in key.pools:
        raise Forbidden(
            f"key {key.name!r} is for workers of {', '.join(key.pools)}, not of {pool[:60]!r}: set "
            "worker.pool, or take another key"
        )
    for model in models:
        owner = model.partition("/")[0]
        if key.models and model not in key.models and f"{owner}/*" not in key.models:
            raise Forbidden(
                f"key {key.name!r} is for workers with {', '.join(key.models)}, not with "
                f"{model[:120]!r}: leave that out of worker.models, or take another key"
            )


def bearer_digest(authorization: bytes | None) -> bytes:
    """Return the SHA-256 of the key in an `Authorization` header.

    Raises:
        Unauthenticated: There is no bearer token.
    """
    if authorization is None:
        raise _unauthenticated("this path needs a key")
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    if scheme.lower() not in _SCHEMES or not token:
        raise _unauthenticated("the Authorization header holds no bearer token")
    return hashlib.sha256(token).digest()


class Keys:
    """Looks up keys, and caches them for some seconds."""

    def __init__(self, registry: Registry, clock: Clock, cache_s: float) -> None:
        self._registry = registry
        self._clock = clock
        self._cache_s = cache_s
        #: Hash of an `Authorization` header → end of its caching, and its key.
        self._cache: dict[bytes, tuple[float, ApiKey]] = {}
        #: Number of cache flushes: an answer read before a flush is not cached after it.
        self._forgotten = 0
        self._flights: SingleFlight[bytes, ApiKey] = SingleFlight()
        #: Set whenever a key has changed.
        self.changed = asyncio.Event()
        #: Id → last use that is not written yet.
        self._used: dict[str, datetime] = {}

    async def find(self, authorization: bytes | None) -> ApiKey:
        """Return the key that an `Authorization` header names.

        Raises:
            Unauthenticated: There is no key, or it is unknown, revoked or expired.
        """
        # The cache key is a hash of the whole header, like the stored key.
        mark = hashlib.sha256(authorization or b"").digest()
        found = self._cache.get(mark)
        if found is not None and found[0] > self._clock.monotonic_s():
            return found[1]
        digest = bearer_digest(authorization)
        return await self._flights.run(mark, lambda: self._look_up(mark, digest))

    def forget(self) -> None:
        """Drop all cached keys, since one has changed."""
        self._cache.clear()
        self._flights.forget()
        self._forgotten += 1
        self.changed.set()

    async def keep_uses(self) -> None:
        """Write the last uses of keys since the last call."""
        used, self._used = self._used, {}
        if used:
            await self._registry.touch_keys(used)

    async def _look_up(self, mark: bytes, digest: bytes) -> ApiKey:
        forgotten = self._forgotten
        key = await self._registry.key_by_digest(digest)
        if key is None:
            raise _unauthenticated("this key is not known")
        now = self._clock.now()
        reason = why_not(key, digest, now)
        if reason is not None:
            raise _unauthenticated(reason)
        if key.used_at is None or now - key.used_at >= _USE_EVERY:
            self._used[key.id] = now
        if self._forgotten != forgotten:
            return key
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        good_s = min(self._cache_s, _left_s(key, digest, now))
        self._cache[mark] = (self._clock.monotonic_s() + good_s, key)
        return key


def _left_s(key: ApiKey, digest: bytes, now: datetime) -> float:
    """Return for how long a secret works at least, in seconds."""
    ends = [key.expires_at, key.old_until if digest != key.digest else None]
    return min(((end - now).total_seconds() for end in ends if end is not None), default=1e9)


def _unauthenticated(what: str) -> Unauthenticated:
    return Unauthenticated(
        f"{what}: send `Authorization: Bearer {KEY_PREFIX}…` with a key: `swell keys create NAME` "
        "makes one on the server's machine",
        headers={"WWW-Authenticate": "Bearer"},
    )
