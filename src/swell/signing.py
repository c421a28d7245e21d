"""The secrets that sign URLs of files, and their rotation, which keeps earlier URLs valid.

The registry stores them for all backends. All backends know a new secret before the first URL is
signed with it.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from swell.clock import Clock
from swell.db.registry import Registry

#: Names in the registry of the first secret, and of all secrets after a rotation.
_FIRST: Final = "objects"
_NOTE: Final = "signing-secrets"

#: Interval at which backends read the secrets, in seconds; a new one signs after two reads.
REFRESH_S: Final = 5.0

#: How long an old secret is kept, for queued tasks that contain URLs signed with it.
_KEEP: Final = timedelta(days=30)

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SigningSecret(msgspec.Struct, frozen=True, kw_only=True):
    """One secret and its validity."""

    #: 32 random bytes.
    secret: bytes
    #: It signs from this time, while it is the newest.
    from_at: datetime = _LONG_AGO
    #: The latest expiry of URLs that it has signed; None while it is the newest.
    until: datetime | None = None


class SigningSecrets:
    """The secret that signs URLs now, and those that may have signed earlier URLs.

    Args:
        clock: Selects the current secret.
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
        """Yield the secrets that may have signed a URL with this expiry, newest first.

        Args:
            expires: Unix seconds.
        """
        for each in self._newest_first:
            if each.until is None or expires <= each.until.timestamp():
                yield each.secret


async def read_secrets(registry: Registry) -> list[SigningSecret]:
    """Return the secrets in the registry; make the first if there is none."""
    return await _read(registry, await registry.note(_NOTE))


async def _read(registry: Registry, note: bytes | None) -> list[SigningSecret]:
    if note is None:
        return [SigningSecret(secret=await registry.secret(_FIRST))]
    return msgspec.json.decode(note, type=list[SigningSecret])


async def rotate_secrets(
    registry: Registry, clock: Clock, secret: bytes, *, lasting_s: float, revoke: bool = False
) -> list[SigningSecret]:
    """Add a new signing secret; return all secrets.

    Concurrent rotations are serialized: secrets that one of them revokes stay revoked.

    Args:
        registry: Stores them.
        clock: The time.
        secret: The new one, 32 random bytes.
        lasting_s: Longest validity of a URL, in seconds.
        revoke: Whether URLs of earlier secrets become invalid at once. Otherwise they stay valid
            until they expire, and the new secret signs once all backends know it.
    """
    now = clock.now()
    from_at = now if revoke else now + timedelta(seconds=2 * REFRESH_S)
    new = SigningSecret(secret=secret, from_at=from_at)
    # Rounded up, as the expiry in URLs is.
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
