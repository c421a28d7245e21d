"""Secrets in files that would stay in an image, where everyone who pulls it can read them. Pure."""

import re
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import parse_qsl, urlsplit

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")

#: What pip fills in from the process environment; nothing of it stands in the file.
_VARIABLE: Final = re.compile(r"\$\{[A-Z0-9_]+\}")

#: Words in the names of a query's fields, and of a fragment's, that give access.
_ACCESS: Final = re.compile(r"token|passw|secret|signature|credential|(^|[-_])(sig|key)$", re.I)

#: Names of files that hold keys, tokens or passwords, in small letters. Packed folders have no
#: hidden files, such as `.netrc`.
_NAMES: Final = (
    *("swell.toml", "*.env", "env.local", "kubeconfig", "*.kubeconfig", "htpasswd", "auth.json"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.ppk", "*.jks", "token"),
    *("*.p12", "*.pfx", "*.kdbx", "*.keystore", "netrc", "_netrc", "pypirc"),
    *("credentials", "credentials.json", "client_secret*.json", "service[-_]account*.json"),
    *("secrets.toml", "secrets.json", "secrets.yaml", "secrets.yml"),
)

#: Private keys (a service account of Google's has one), and keys of AWS, Hugging Face, GitHub,
#: OpenAI-like APIs and Swell. AWS's documentation shows a key of its own.
_KEYS: Final = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----"
    rb"|\b(AKIA|ASIA)(?!IOSFODNN7EXAMPLE)[0-9A-Z]{16}\b"
    rb"|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"
    rb"|\bsk-[A-Za-z0-9_-]{30,}"
    rb"|\bswell_(?=[\w-]*[A-Z])[\w-]{43}(?![\w-])"
)


def looks_secret(name: str, data: bytes) -> bool:
    """Return whether a file looks as if it held a secret.

    Args:
        name: Of the file, without its folder.
        data: Its bytes; empty where only the name counts.
    """
    lower = name.lower()
    if lower.endswith(".pub"):
        return False
    return any(fnmatchcase(lower, each) for each in _NAMES) or _KEYS.search(data) is not None


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
