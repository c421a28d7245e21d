"""Finds secrets in files of an image, which everyone who pulls the image can read. Pure."""

import re
from fnmatch import fnmatchcase
from typing import Final

#: Secrets in a URL: user or password, a field of the query, or a host that cannot be read.
_IN_URL: Final = re.compile(
    r"(?i)://[^\s/?#@]*[^\s/?#@:][^\s/?#@]*@|://\[[^\]\s]*(?:\s|$)"
    r"|://[^\s#]*[?&][^\s=&#]*(?:token|passw|secret|signature|credential"
    r"|(?<=[?&_-])(?:sig|key)(?==))[^\s=&#]*=[^\s&#]"
)

#: No secrets: variables that pip replaces from the process environment, and users of SSH.
_ALLOWED: Final = re.compile(r"\$\{[A-Z0-9_]+\}|(?<=ssh://)[^\s:/@]+(?=@)")

#: Lower-case names of files that hold keys, tokens or passwords. Hidden files such as `.netrc` are
#: never packed.
_NAMES: Final = (
    *("swell.toml", "*.env", "env.local", "kubeconfig", "*.kubeconfig", "htpasswd", "auth.json"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.ppk", "*.jks", "token"),
    *("*.p12", "*.pfx", "*.kdbx", "*.keystore", "netrc", "_netrc", "pypirc"),
    *("credentials", "credentials.json", "client_secret*.json", "service[-_]account*.json"),
    *("secrets.toml", "secrets.json", "secrets.yaml", "secrets.yml"),
)

#: Private keys (also in Google's service accounts), and keys of AWS, Hugging Face, GitHub,
#: OpenAI-like APIs and Swell. The example key of AWS's documentation is allowed.
_KEYS: Final = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----"
    rb"|\b(AKIA|ASIA)(?!IOSFODNN7EXAMPLE)[0-9A-Z]{16}\b"
    rb"|\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_[A-Za-z0-9_]{30,}"
    rb"|\bsk-[A-Za-z0-9_-]{30,}"
    rb"|\bswell_(?=[\w-]*[A-Z])[\w-]{43}(?![\w-])"
)

#: Files of settings, in which a URL with a password is refused too.
_SETTINGS: Final = (".toml", ".ini", ".cfg", ".conf", ".yaml", ".yml", ".json")
_PASSWORD: Final = re.compile(rb"://[^\s/:@\"']+:(?!\$\{)[^\s/@\"']+@")


def looks_secret(name: str, data: bytes) -> bool:
    """Return whether a file probably holds a secret.

    Args:
        name: Name of the file, without its folder.
        data: Its bytes; empty to check only the name.
    """
    lower = name.lower()
    if lower.endswith(".pub"):
        return False
    if lower.endswith(_SETTINGS) and _PASSWORD.search(data):
        return True
    return any(fnmatchcase(lower, each) for each in _NAMES) or _KEYS.search(data) is not None


def line_with_secret(text: str) -> int | None:
    """Return the number of the first line with a secret in a URL; None if there is none.

    A user name without a password counts as a secret because many registries take a token there,
    but not for SSH (`git+ssh://git@…`).

    Args:
        text: A requirements or constraints file of pip, with its comments.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if _IN_URL.search(_ALLOWED.sub("", line)):
            return number
    return None
