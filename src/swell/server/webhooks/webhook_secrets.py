"""Signing secrets of webhooks. A key's default secret is made on first use.

Receivers read their secret to check signatures, so the registry holds it unhashed.
"""

import re
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest
from swell.db.registry import Registry
from swell.server.webhooks.webhook_signing import new_secret

#: Every key has a secret of this name.
DEFAULT_SECRET: Final = "default"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Most secrets of one key.
_MAX_NAMES: Final = 20


class SigningPair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret, and during the overlap its predecessor, which signs too."""

    secret: str
    created_at: datetime
    old: str | None = None
    old_until: datetime | None = None

    def signing(self, now: datetime) -> list[str]:
        """Return the secrets that sign now, newest first."""
        if self.old is not None and self.overlap_until(now) is not None:
            return [self.secret, self.old]
        return [self.secret]

    def overlap_until(self, now: datetime) -> datetime | None:
        """Return the end of the overlap; None if it has ended."""
        return self.old_until if self.old_until is not None and self.old_until > now else None


def next_pair(before: SigningPair | None, now: datetime, overlap_s: float = 0.0) -> SigningPair:
    """Return a new secret. Its predecessor signs during the overlap."""
    pair = SigningPair(secret=new_secret(), created_at=now)
    if before is None:
        return pair
    old_until = now + timedelta(seconds=overlap_s)
    return msgspec.structs.replace(pair, old=before.secret, old_until=old_until)


class HookSecrets:
    """The signing secrets of all keys."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock

    async def of(self, key_id: str, name: str = DEFAULT_SECRET) -> SigningPair | None:
        """Return a key's secret of this name, and make the default one if it is missing."""
        kept = await self._registry.note(_note(key_id, name))
        if kept is None and name == DEFAULT_SECRET:
            first = _encode(next_pair(None, self._clock.now()))
            # Of concurrent calls, one makes the secret and the others read it.
            kept = await self._registry.change_note(
                _note(key_id, name), lambda before: before or first
            )
        return None if kept is None else _decode(kept)

    async def rotate(self, key_id: str, name: str, overlap_s: float) -> SigningPair:
        """Replace a secret, or make the first one; return it.

        Args:
            key_id: Id of the key.
            name: Name of the secret.
            overlap_s: Seconds during which the predecessor signs too.

        Raises:
            InvalidRequest: The name is not valid, or the key has too many secrets.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name[:64]!r} is no name of a secret: use up to 64 letters, digits, `_`, `.`, `-`"
            )
        kept = await self._registry.notes(_note(key_id, ""))
        if len(kept) >= _MAX_NAMES and _note(key_id, name) not in kept:
            raise InvalidRequest(
                f"this key has {_MAX_NAMES} signing secrets: rotate one of them instead"
            )

        def change(kept: bytes | None) -> bytes:
            before = None if kept is None else _decode(kept)
            return _encode(next_pair(before, self._clock.now(), overlap_s))

        return _decode(await self._registry.change_note(_note(key_id, name), change))


def _note(key_id: str, name: str) -> str:
    return f"webhooks.secret/{key_id}/{name}"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SigningPair).decode
