"""Signed URLs for files that the backend serves itself.

The signature is an HMAC-SHA256 over method, key, the moment of expiry and the size of the file, so
that a URL is good for one method on one file until then, and nothing else needs to be remembered.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from swell.clock import Clock
from swell.errors import Forbidden
from swell.objects import check_key
from swell.signing import SigningSecrets

#: The signing secret: 32 random bytes, or several: the newest signs, all are accepted.
Secret = bytes | SigningSecrets

_HOME: Final = "/v1/artifacts/"

#: Of a moment in Unix seconds.
_MAX_DIGITS: Final = 12

_ASK_AGAIN = "ask for the task (GET) or the upload (POST /v1/uploads) again to get a fresh URL"


def signed_path(
    secret: Secret, method: str, key: str, expires_at: datetime, size_bytes: int | None = None
) -> str:
    """Return `/v1/artifacts/KEY?method=…&expires=…&bytes=…&signature=…`.

    `expires` is in whole Unix seconds, rounded up; `bytes` is left out where no size is given.
    """
    expires = str(-int(-expires_at.timestamp() // 1))
    size = "" if size_bytes is None else str(size_bytes)
    signer = secret if isinstance(secret, bytes) else secret.current()
    query = {"method": method.upper(), "expires": expires}
    if size:
        query["bytes"] = size
    query["signature"] = _signature(signer, method.upper(), key, expires, size)
    return f"{_HOME}{quote(key)}?{urlencode(query)}"


def check_signature(
    secret: Secret, method: str, key: str, query: Mapping[str, str], now: datetime
) -> None:
    """Check what `signed_path` put into a URL. A URL for `GET` is also good for `HEAD`.

    Raises:
        Forbidden: The signature is missing, wrong or expired; the text says which.
    """
    signature, expires = query.get("signature", ""), query.get("expires", "")
    if not signature or not expires:
        raise Forbidden(f"this URL carries no signature: {_ASK_AGAIN}")
    wanted = "GET" if method.upper() == "HEAD" else method.upper()
    if query.get("method", wanted) != wanted:
        raise Forbidden(f"this URL was signed for {query['method'][:8]!r}, not for {wanted}")
    if not _is_right(secret, (wanted, key, expires, query.get("bytes", "")), signature):
        raise Forbidden(f"the signature of this URL is wrong: {_ASK_AGAIN}")
    # Only a right signature gets here, so `expires` is a number that we wrote.
    if now >= datetime.fromtimestamp(0, now.tzinfo) + timedelta(seconds=int(expires)):
        raise Forbidden(f"this URL has expired: {_ASK_AGAIN}")


def signed_file(secret: Secret, method: str, url: str) -> tuple[str, int | None] | None:
    """Return key and size of a URL that `signed_path` made for `method`; None for any other URL.

    Scheme, host and a path before ours may be any, since a backend has several names, and the URL
    may have expired: the signature alone proves that it is ours.
    """
    if _HOME not in url:
        return None
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        key = unquote(parts.path.partition(_HOME)[2], errors="strict")
        if query.get("method") != method:
            return None
        size = query.get("bytes", "")
        signed = (method, key, query.get("expires", ""), size)
        is_right = _is_right(secret, signed, query.get("signature", ""))
    except ValueError:
        # Not a URL, or not text: we have not made it.
        return None
    return (key, int(size) if size else None) if is_right else None


def _is_right(secret: Secret, signed: tuple[str, str, str, str], signature: str) -> bool:
    """Whether a signature of (method, key, expires, bytes) is by one of our secrets."""
    expires = signed[2]
    if not (expires.isascii() and expires.isdigit() and len(expires) <= _MAX_DIGITS):
        return False
    signers: Iterable[bytes] = (
        (secret,) if isinstance(secret, bytes) else secret.candidates(int(expires))
    )
    given = signature.encode()
    return any(hmac.compare_digest(_signature(each, *signed).encode(), given) for each in signers)


def _signature(secret: bytes, method: str, key: str, expires: str, size: str) -> str:
    message = "\n".join(("swell-object-1", method, key, expires, size)).encode()
    digest = hmac.new(secret, message, hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class SignsUrls:
    """The part of `Objects` that is the same wherever files lie: URLs that the backend serves."""

    def __init__(self, clock: Clock, secret: Secret) -> None:
        self._clock = clock
        self._secret = secret

    def sign(self, method: str, key: str, expires_s: float, size_bytes: int | None = None) -> str:
        """Return a relative URL for `method` on this key, good for `expires_s` seconds."""
        expires_at = self._clock.now() + timedelta(seconds=expires_s)
        return signed_path(self._secret, method, check_key(key), expires_at, size_bytes)

    def renew(self, url: str, expires_s: float) -> str | None:
        """Return a fresh relative URL for the file that an earlier one names; None for others."""
        found = signed_file(self._secret, "GET", url)
        return None if found is None else self.sign("GET", found[0], expires_s, found[1])

    def verify(self, method: str, key: str, query: dict[str, str]) -> None:
        """Check the signature that a URL of `sign` carries.

        Raises:
            Forbidden: The signature is missing, wrong or expired; the text says which.
        """
        check_signature(self._secret, method, key, query, self._clock.now())
