"""Security headers of answers, CORS, and the check of the `Host` header.

Source:
    Fetch (WHATWG), section 3.2 (CORS); RFC 9110, section 7.2 (Host); CSP level 3 (W3C).
"""

from collections.abc import Collection, Sequence
from typing import Final
from urllib.parse import urlsplit

from swell.core.errors import InvalidRequest
from swell.net.url_policy import ip_literal

Headers = list[tuple[bytes, bytes]]

POLICY: Final = b"content-security-policy"

#: On every answer: no sniffing of types, no frames on other sites, no referrer, no devices.
GUARDS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"permissions-policy",
        b"camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    ),
)

#: Of answers that are no pages and say nothing else: nothing in them may run.
NO_POLICY: Final = (POLICY, b"default-src 'none'; frame-ancestors 'none'")

#: Headers that a page of another origin may read, in addition to the safelisted ones.
_READABLE: Final = (
    b"content-location, location, preference-applied, ratelimit, ratelimit-policy, retry-after, "
    b"swell-artifacts, swell-task, swell-task-state, x-request-id"
)

#: Headers that such a page may send.
_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"
_SENDABLE: Final = (
    b"accept, authorization, content-type, idempotency-key, last-event-id, prefer, range, "
    b"traceparent, x-request-id"
)

#: A browser need not ask again for so long, in seconds.
_MAX_AGE: Final = b"600"


class Hosts:
    """Which names a request may call this service by.

    IP addresses and `localhost` are always allowed: DNS rebinding cannot produce them, and probes
    of load balancers use them.

    Args:
        names: Such as `swell.example`, without ports.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = {"localhost"} | {name.lower().rstrip(".") for name in names}

    def check(self, host: bytes | None) -> None:
        """Raise unless a `Host` header may be answered.

        Raises:
            InvalidRequest: It is missing, or names another service.
        """
        text = (host or b"").decode("latin-1")
        name = host_name(text)
        if name is None or not (name in self._names or ip_literal(name)):
            raise InvalidRequest(
                f"this service is not called {text[:100]!r}: use the address that you were given, "
                "or add the name to the setting server.hosts"
            )


class Origins:
    """Which pages elsewhere may use this service from a browser.

    Args:
        origins: Such as `https://shop.example`; `*` for all. No credentials of a browser are
            taken from anywhere, a key must be sent.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._is_any = "*" in origins
        self._origins = frozenset(each.rstrip("/").lower().encode() for each in origins)

    def headers(self, origin: bytes) -> Headers:
        """Return the headers that let a page of this origin read an answer; empty for others."""
        allowed = self._allowed(origin)
        found = [] if self._is_any else [(b"vary", b"Origin")]
        if allowed:
            found.append((b"access-control-allow-origin", allowed))
            found.append((b"access-control-expose-headers", _READABLE))
        return found

    def preflight(self, origin: bytes) -> Headers:
        """Return the answer to a browser that asks before it sends; nothing for others."""
        allowed = self._allowed(origin)
        if not allowed:
            return []
        return [
            (b"access-control-allow-origin", allowed),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _SENDABLE),
            (b"access-control-max-age", _MAX_AGE),
            (b"vary", b"Origin"),
        ]

    def _allowed(self, origin: bytes) -> bytes:
        if self._is_any:
            return b"*"
        return origin if origin.lower() in self._origins else b""


def host_name(host: str) -> str | None:
    """Return the name or address in a `Host` header, in lower case; None if it is neither."""
    try:
        parts = urlsplit(f"//{host}")
        # Reading the port checks it.
        name, _ = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment or "?" in host:
        return None
    return name.rstrip(".") if name else None
