"""Secrets in a file that would stay in an image, whoever pulls it: passwords in addresses. Pure."""

import re
from typing import Final
from urllib.parse import parse_qsl, urlsplit

__all__ = ["line_with_secret"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")

#: What pip fills in from the process environment; nothing of it stands in the file.
_VARIABLE: Final = re.compile(r"\$\{[A-Z0-9_]+\}")

#: Words in the names of a query's fields, and of a fragment's, that give access.
_ACCESS: Final = re.compile(r"token|passw|secret|signature|credential|(^|[-_])(sig|key)$", re.I)


def line_with_secret(text: str) -> int | None:
    """Return the number of the first line that has a secret in an address; None where none has.

    A user's name alone is none where a key or certificate stands for him (`git+ssh://git@…`);
    elsewhere many registries take a token in its place.

    Args:
        text: As pip reads it, comments too: they stay in the file as well.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if any(map(_has_secret, _URL.findall(line))):
            return number
    return None


def _has_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return True  # nobody can say what is in it
    who, at, _ = parts.netloc.rpartition("@")
    name, _, password = who.partition(":")
    is_by_key = parts.scheme.lower().endswith("ssh")
    told = [password] if is_by_key else [name, password]
    if at and any(_VARIABLE.sub("", each) for each in told):
        return True
    return any(
        _ACCESS.search(field) and _VARIABLE.sub("", value)
        for field, value in parse_qsl(parts.query, keep_blank_values=False)
    )
