"""The secrets that sign URLs of files: a new one may come any time, while earlier URLs stay good.

They lie in the registry, so that all backends have the same. A new secret is known to all of them
before the first URL is signed with it.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from swell.clock import Clock
from swell.db.registry import Registry

#: Under which names the registry keeps the first secret, and all of them once there are more.
_FIRST: Final = "objects"
_NOTE: Final = "signing-secrets"

#: A backend looks for new secrets so often, in seconds; a new one signs after two looks.
REFRESH_S: Final = 5.0

#: A secret that signs no more is kept so long, for tasks that wait and name files by such URLs.
_KEEP: Final = timedelta(days=30)

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SigningSecret(msgspec.Struct, frozen=True, kw_only=True):
    """One secret and its time."""

    #: 32 random bytes.
    secret: bytes
    #: It signs from then on, as long as it is the newest.
    from_at: datetime = _LONG_AGO
    #: No URL that is good for longer was signed with it; None while it is the newest.
    until: datetime | None = None


class SigningSecrets:
    """What signs URLs now, and what may have signed those that come back.

    Args:
        clock: Says which secret is the current one.
        secrets: At least one.
    """

    def __init__(self, clock: Clock, secrets: Sequence[SigningSecret]) -> None:
        self._clock = clock
        self._newest_first = _ordered(secrets)

    def replace(self, secrets: Sequence[SigningSecret]) -> None:
        """Use these from now on."""
        self._newest_first = _ordered(secrets)

    def current(self) -> bytes:
        """Return the secret that signs."""
        if len(self._newest_first) == 1:
            return self._newest_first[0].secret
        now = self._clock.now()
        begun = [each for each in self._newest_first if each.from_at <= now]
        return (begun or self._newest_first)[0].secret

    def candidates(self, expires: int) -> Iterator[bytes]:
        """Yield the secrets that may have signed a URL that is good until then, newest first.

        Args:
            expires: Unix seconds.
        """
        for each in self._newest_first:
            if each.until is None or expires <= each.until.timestamp():
                yield each.secret


async def read_secrets(registry: Registry) -> list[SigningSecret]:
    """Return the secrets that the registry has; the first is made where there is none."""
    return await _read(registry, await registry.note(_NOTE))


async def _read(registry: Registry, note: bytes | None) -> list[SigningSecret]:
    if note is None:
        return [SigningSecret(secret=await registry.secret(_FIRST))]
    return msgspec.json.decode(note, type=list[SigningSecret])


async def rotate_secrets(
    registry: Registry, clock: Clock, secret: bytes, *, lasting_s: float, revoke: bool = False
) -> list[SigningSecret]:
    """Make a secret the one that signs; return all that there are now.

    Of two at the same moment one comes after the other: what one has made void stays void.

    Args:
        registry: Keeps them.
        clock: The time.
        secret: The new one, 32 random bytes.
        lasting_s: URLs are good for at most so long, in seconds.
        revoke: Whether what earlier ones have signed is void at once. Otherwise it stays good until
            it expires, and a new secret signs once all backends know it.
    """
    now = clock.now()
    from_at = now if revoke else now + timedelta(seconds=2 * REFRESH_S)
    new = SigningSecret(secret=secret, from_at=from_at)
    # Rounded up, as the moments of expiry in URLs are.
    until = from_at + timedelta(seconds=lasting_s + 1)
    while True:
        before = await registry.note(_NOTE)
        kept = [
            msgspec.structs.replace(each, until=each.until or until)
            for each in await _read(registry, before)
            if not revoke and (each.until is None or each.until + _KEEP > now)
        ]
        secrets = [new, *kept]
        if await registry.swap_note(_NOTE, before, msgspec.json.encode(secrets)):
            return secrets


def _ordered(secrets: Sequence[SigningSecret]) -> list[SigningSecret]:
    return sorted(secrets, key=lambda each: each.from_at, reverse=True)
