"""Signed URLs of files, and the secrets that sign them.

A signature is an HMAC-SHA256 over method, key, expiry and size of the file: a URL is good for one
method on one file until it expires, and the backend remembers nothing.

The registry stores the secrets for all backends. All backends know a new secret before the first
URL is signed with it, and earlier URLs stay valid.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

from swell.core.clock import Clock
from swell.core.errors import Forbidden
from swell.db.registry import Registry

#: Names in the registry of the first secret, and of all secrets after a rotation.
_FIRST: Final = "objects"
_NOTE: Final = "signing-secrets"

#: Interval at which backends read the secrets, in seconds; a new one signs after two reads.
REFRESH_S: Final = 5.0

#: How long an old secret is kept, for queued tasks that contain URLs signed with it.
_KEEP: Final = timedelta(days=30)

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

#: The path of files.
_HOME: Final = "/v1/artifacts/"

#: Digits of an expiry in Unix seconds.
_MAX_DIGITS: Final = 12

_ASK_AGAIN: Final = (
    "ask for the task (GET) or the upload (POST /v1/uploads) again to get a fresh URL"
)


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
        self.replace(secrets)

    def replace(self, secrets: Sequence[SigningSecret]) -> None:
        """Use these from now on."""
        self._newest_first = sorted(secrets, key=lambda each: each.from_at, reverse=True)

    def signed_path(
        self, method: str, key: str, expires_s: float, size_bytes: int | None = None
    ) -> str:
        """Return `/v1/artifacts/KEY?method=…&expires=…&bytes=…&signature=…`.

        `expires` is in whole Unix seconds, rounded up; `bytes` is missing without a size.
        """
        now = self._clock.now()
        begun = [each for each in self._newest_first if each.from_at <= now]
        secret = (begun or self._newest_first)[0].secret
        expires_at = now + timedelta(seconds=expires_s)
        query = {"method": method.upper(), "expires": str(-int(-expires_at.timestamp() // 1))}
        if size_bytes is not None:
            query["bytes"] = str(size_bytes)
        query["signature"] = _signature(secret, key, query)
        return f"{_HOME}{quote(key)}?{urlencode(query)}"

    def check(self, method: str, key: str, query: Mapping[str, str]) -> None:
        """Check the query of a signed URL. A URL for `GET` is also good for `HEAD`.

        Raises:
            Forbidden: The signature is missing, wrong or expired; the text says which.
        """
        if not query.get("signature") or not query.get("expires"):
            raise Forbidden(f"this URL carries no signature: {_ASK_AGAIN}")
        wanted = "GET" if method.upper() == "HEAD" else method.upper()
        if query.get("method", wanted) != wanted:
            raise Forbidden(f"this URL was signed for {query['method'][:8]!r}, not for {wanted}")
        if not self._is_signed(key, {**query, "method": wanted}):
            raise Forbidden(f"the signature of this URL is wrong: {_ASK_AGAIN}")
        # The signature is right, so Swell wrote `expires`.
        if self._clock.now() >= _LONG_AGO + timedelta(seconds=int(query["expires"])):
            raise Forbidden(f"this URL has expired: {_ASK_AGAIN}")

    def renewed_path(self, url: str, expires_s: float) -> str | None:
        """Return a fresh path for the file of a signed URL for `GET`; None for any other URL.

        The URL may have any scheme, host and path before Swell's own, and may have expired: only
        the signature counts.
        """
        if _HOME not in url:
            return None
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query))
            key = unquote(parts.path.partition(_HOME)[2], errors="strict")
            if query.get("method") != "GET" or not self._is_signed(key, query):
                return None
        except ValueError:  # not a URL, or not text
            return None
        size = query.get("bytes")
        return self.signed_path("GET", key, expires_s, int(size) if size else None)

    def _is_signed(self, key: str, query: Mapping[str, str]) -> bool:
        expires, given = query.get("expires", ""), query.get("signature", "").encode()
        if not (expires.isascii() and expires.isdigit() and len(expires) <= _MAX_DIGITS):
            return False
        return any(
            hmac.compare_digest(_signature(each.secret, key, query).encode(), given)
            for each in self._newest_first
            if each.until is None or int(expires) <= each.until.timestamp()
        )


def _signature(secret: bytes, key: str, query: Mapping[str, str]) -> str:
    fields = ("swell-object-1", query["method"], key, query["expires"], query.get("bytes", ""))
    digest = hmac.digest(secret, "\n".join(fields).encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def read_secrets(registry: Registry) -> list[SigningSecret]:
    """Return the secrets in the registry; make the first if there is none."""
    note = await registry.note(_NOTE)
    if note is None:
        return [SigningSecret(secret=await registry.secret(_FIRST))]
    return _decode(note)


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
    first = SigningSecret(secret=await registry.secret(_FIRST))

    def change(note: bytes | None) -> bytes:
        kept = [
            msgspec.structs.replace(each, until=each.until or until)
            for each in ([first] if note is None else _decode(note))
            if not revoke and (each.until is None or each.until + _KEEP > now)
        ]
        return msgspec.json.encode([new, *kept])

    return _decode(await registry.change_note(_NOTE, change))


_decode = msgspec.json.Decoder(list[SigningSecret]).decode
