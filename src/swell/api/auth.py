"""Who may ask: API keys as bearer tokens, kept as SHA-256 only."""

import hashlib
import secrets

import msgspec

from swell.clock import Clock
from swell.errors import Forbidden, Unauthenticated
from swell.registry import ApiKey, Registry, Scope
from swell.task import new_id

__all__ = [
    "KEY_PREFIX",
    "Keys",
    "NewKey",
    "bearer_digest",
    "create_key",
    "new_key",
]

#: Secrets start so, for people and for scanners of leaked secrets.
KEY_PREFIX = "swell_"

#: How many keys are remembered.
_MAX_CACHED = 4096


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with its secret, which is not kept anywhere else."""

    key: ApiKey
    secret: str


def new_key(name: str, scopes: frozenset[Scope], clock: Clock) -> NewKey:
    """Make a key; the caller keeps it with `Registry.put_key`."""
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    now = clock.now()
    key = ApiKey(
        id=new_id(now),
        name=name,
        digest=hashlib.sha256(secret.encode()).digest(),
        scopes=scopes,
        created_at=now,
    )
    return NewKey(key=key, secret=secret)


async def create_key(
    registry: Registry, clock: Clock, name: str, scopes: frozenset[Scope]
) -> NewKey:
    """Make a key and keep it; the secret is in the answer and nowhere else."""
    made = new_key(name, scopes, clock)
    await registry.put_key(made.key)
    return made


def bearer_digest(authorization: bytes | None) -> bytes:
    """Return the SHA-256 of the token in an `Authorization` header.

    Raises:
        Unauthenticated: There is no bearer token.
    """
    if authorization is None:
        raise _unauthenticated("this path needs a key")
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token:
        raise _unauthenticated("the Authorization header holds no bearer token")
    return hashlib.sha256(token).digest()


class Keys:
    """Looks keys up, remembering them for some seconds."""

    def __init__(self, registry: Registry, clock: Clock, cache_s: float) -> None:
        self._registry = registry
        self._clock = clock
        self._cache_s = cache_s
        self._cache: dict[bytes, tuple[float, ApiKey]] = {}

    async def require(self, authorization: bytes | None, scope: Scope) -> ApiKey:
        """Return the key that an `Authorization` header names, if it may do this.

        Raises:
            Unauthenticated: No key, an unknown one, or a revoked one.
            Forbidden: The key lacks the scope.
        """
        # Remembered by the whole header, whatever its form, and like the key itself as a hash only.
        mark = hashlib.sha256(authorization or b"").digest()
        found = self._cache.get(mark)
        if found is not None and found[0] > self._clock.monotonic_s():
            key = found[1]
        else:
            key = await self._look_up(mark, bearer_digest(authorization))
        if scope not in key.scopes and Scope.ADMIN not in key.scopes:
            raise Forbidden(
                f"key {key.name!r} has no {scope.value!r} scope: use a key that has it, or make "
                f"one with `swell keys create --scope {scope.value}`"
            )
        return key

    def forget(self) -> None:
        """Ask the registry again for every key, since one has changed."""
        self._cache.clear()

    async def _look_up(self, mark: bytes, digest: bytes) -> ApiKey:
        key = await self._registry.key_by_digest(digest)
        if key is None:
            raise _unauthenticated("this key is not known")
        if key.revoked_at is not None:
            raise _unauthenticated(f"key {key.name!r} was revoked")
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[mark] = (self._clock.monotonic_s() + self._cache_s, key)
        return key


def _unauthenticated(what: str) -> Unauthenticated:
    return Unauthenticated(
        f"{what}: send `Authorization: Bearer {KEY_PREFIX}…` with a key that `swell up` printed or "
        "`swell keys create` made",
        headers={"WWW-Authenticate": "Bearer"},
    )
