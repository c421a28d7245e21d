"""Normal forms of hosts, origins of pages, and media types in settings.

Pure. A word that is written differently would match nothing, so it is normalized or refused.

Source:
    RFC 6454 (origins), RFC 6838, section 4.2 (names of media types), RFC 5890 (names in ASCII).
"""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from swell.net.url_policy import PORTS, ascii_host, ip_literal

_TYPE: Final = re.compile(r"\*/\*|[a-z0-9][a-z0-9!#$&^_.+-]*/(\*|[a-z0-9][a-z0-9!#$&^_.+-]*)")


def host_as_compared(word: str) -> str:
    """Return the name or address of a host in lower-case ASCII.

    Raises:
        ValueError: It is none; the text says what to write.
    """
    host = _host(word.removeprefix("[").removesuffix("]"))
    if not host:
        raise ValueError(
            f"{word[:100]!r} is no name of a host: write each name in full, without scheme, port "
            "and path, such as swell.example"
        )
    return host


def origin_as_compared(word: str) -> str:
    """Return the origin of a page as browsers send it, or `*`.

    Raises:
        ValueError: It is none; the text says what to write.
    """
    if word == "*":
        return word
    parts = _split(word)
    host = "" if parts is None else _host(parts.hostname or "")
    if parts is None or not host or parts.path not in ("", "/") or parts.query:
        raise ValueError(
            f"{word[:100]!r} is no origin: write scheme and host in full, without a path, such as "
            "https://shop.example or http://localhost:5173; * for all"
        )
    bracketed = f"[{host}]" if ":" in host else host
    is_usual = parts.port in (None, PORTS.get(parts.scheme))
    return f"{parts.scheme}://{bracketed}" + ("" if is_usual else f":{parts.port}")


def media_type_as_compared(word: str) -> str:
    """Return a media type, or a family of them, in lower case.

    Raises:
        ValueError: It is none; the text says what to write.
    """
    found = word.lower()
    if not _TYPE.fullmatch(found):
        raise ValueError(
            f"{word[:100]!r} is no media type: write such as image/png, image/* for a family, or "
            "*/* for anything"
        )
    return found


def service_url(word: str) -> str:
    """Return a URL of the service as it is, if it is one.

    Raises:
        ValueError: It is none; the text says what to write.
    """
    parts = _split(word)
    is_url = parts is not None and parts.scheme in PORTS and _host(parts.hostname or "")
    if parts is None or not is_url or parts.query:
        raise ValueError(
            f"{word.rpartition('@')[2][:100]!r} is no URL of a service: write such as "
            "https://swell.example"
        )
    return word


def _split(word: str) -> SplitResult | None:
    """Return the parts of a URL without user, fragment and white space; None if it is none."""
    if not word.isprintable() or any(each in word for each in " @#\\"):
        return None
    try:
        parts = urlsplit(word)
        # Reading the port checks it.
        return parts if parts.scheme and parts.port != 0 else None
    except ValueError:
        return None


def _host(word: str) -> str:
    """Return an address, or a name in lower-case ASCII; empty if it is neither."""
    return str(ip_literal(word) or ascii_host(word))
