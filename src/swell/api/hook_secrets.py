"""What signs webhooks: secrets of each key, made when first asked for, replaced with an overlap.

Receivers must be able to read a secret again, since that is what they check signatures with, so it
is kept as it is, in the registry.
"""

import re
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell.clock import Clock
from swell.db.registry import Registry
from swell.errors import InvalidRequest, Unavailable
from swell.webhooks.signing import new_secret

#: Of this name each key has one, without asking.
DEFAULT_SECRET: Final = "default"

_TRIES: Final = 20

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
#: Secrets that one key may have.
_MOST_NAMES: Final = 20


class SigningPair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret, and for a while the one before it, which signs too."""

    secret: str
    created_at: datetime
    old: str | None = None
    old_until: datetime | None = None

    def signing(self, now: datetime) -> list[str]:
        """Return the secrets that sign now."""
        is_old_good = self.old is not None and self.old_until is not None and self.old_until > now
        return [self.secret, *([self.old] if is_old_good and self.old else [])]


def rotated(pair: SigningPair, now: datetime, overlap_s: float) -> SigningPair:
    """Return a new secret with the one before, which signs for a while longer."""
    return SigningPair(
        secret=new_secret(),
        created_at=now,
        old=pair.secret,
        old_until=now + timedelta(seconds=overlap_s),
    )


class HookSecrets:
    """The signing secrets of all keys."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock

    async def of(self, key_id: str, name: str = DEFAULT_SECRET) -> SigningPair | None:
        """Return a key's secret of this name; the default one is made if need be."""
        for _ in range(_TRIES):
            kept = await self._registry.note(_note(key_id, name))
            if kept is not None:
                return _decode(kept)
            if name != DEFAULT_SECRET:
                return None
            # Of several who ask first, all are told what one of them has made.
            pair = SigningPair(secret=new_secret(), created_at=self._clock.now())
            if await self._registry.swap_note(_note(key_id, name), None, _encode(pair)):
                return pair
        raise Unavailable("this secret is being changed by others: try again")

    async def check_name(self, key_id: str, name: str) -> None:
        """Check that a key may have a secret of this name.

        Raises:
            InvalidRequest: It is no name, or the key has many others.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"{name[:64]!r} is no name of a secret: use up to 64 letters, digits, `_`, `.`, `-`"
            )
        kept = await self._registry.notes(_note(key_id, ""))
        if len(kept) >= _MOST_NAMES and _note(key_id, name) not in kept:
            raise InvalidRequest(
                f"this key has {_MOST_NAMES} signing secrets: rotate one of them instead"
            )

    async def rotate(self, key_id: str, name: str, overlap_s: float) -> SigningPair:
        """Return a new secret; where there was none, the first.

        Args:
            key_id: Whose.
            name: Which of its secrets.
            overlap_s: For so long the one before signs too, in seconds.
        """
        for _ in range(_TRIES):
            kept = await self._registry.note(_note(key_id, name))
            now = self._clock.now()
            if kept is None:
                pair = SigningPair(secret=new_secret(), created_at=now)
            else:
                pair = rotated(_decode(kept), now, overlap_s)
            if await self._registry.swap_note(_note(key_id, name), kept, _encode(pair)):
                return pair
        raise Unavailable("this secret is being changed by others: try again")


def _note(key_id: str, name: str) -> str:
    return f"webhooks.secret/{key_id}/{name}"


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SigningPair).decode
