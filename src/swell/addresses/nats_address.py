"""Where a NATS server is, and how one is let in there, as a URL says it.

Source:
    https://docs.nats.io/using-nats/developer/connecting: users, tokens, credentials files, TLS.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from swell.errors import InvalidRequest

#: What may stand behind the question mark: names of files, and how many servers keep a stream.
_FILES: Final = ("ca", "cert", "key", "creds")
_OPTIONS: Final = (*_FILES, "replicas")

#: The most servers of a cluster that keep one stream.
_MOST_REPLICAS: Final = 5


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """A server or a cluster, a stream, and what opens them."""

    servers: tuple[str, ...]
    stream: str
    user: str | None
    password: str | None
    is_encrypted: bool
    #: Files: `ca` (trusted in addition to the system's), `cert` with `key`, `creds`.
    files: dict[str, str]
    #: How many servers of a cluster keep a stream that is made here.
    replicas: int = 1

    @classmethod
    def read(cls, url: str) -> "NatsAddress":
        """Read `nats://[USER:PASSWORD@|TOKEN@]HOST:PORT[,HOST:PORT…][/NAME][?ca=…&creds=…]`.

        `tls://` insists on TLS, and so does an option of it.

        Raises:
            InvalidRequest: It is none. Nothing secret is in the text.
        """
        parts = _parts(url)
        user_info, _, hosts = parts.netloc.rpartition("@")
        if parts.scheme not in ("nats", "tls") or not all(map(_is_host, hosts.split(","))):
            raise InvalidRequest(
                "this is no address of NATS: use nats://HOST:PORT/NAME or tls://…, and write # / ? "
                "[ ] and % of a password as %23 %2F %3F %5B %5D and %25"
            )
        stream = parts.path.strip("/") or "swell"
        if not (stream.isascii() and stream.replace("-", "").replace("_", "").isalnum()):
            raise InvalidRequest(
                f"{stream[:80]!r} cannot be a stream's name: use letters, digits, - and _"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if strange := sorted(set(options).difference(_OPTIONS)):
            raise InvalidRequest(
                f"{strange[0][:40]!r} is no option of an address of NATS: use {', '.join(_OPTIONS)}"
            )
        if ("cert" in options) is not ("key" in options):
            raise InvalidRequest("an address of NATS with `cert` needs `key`, and the other way")
        files: dict[str, str] = {name: options[name] for name in _FILES if name in options}
        user, colon, password = user_info.partition(":")
        return cls(
            servers=tuple(f"{parts.scheme}://{host}" for host in hosts.split(",")),
            stream=stream,
            user=unquote(user) or None,
            password=unquote(password) if colon else None,
            is_encrypted=parts.scheme == "tls" or "ca" in files or "cert" in files,
            files=files,
            replicas=_replicas(options.get("replicas", "1")),
        )

    @property
    def place(self) -> str:
        """Where it is, without anything secret."""
        return ",".join(server.partition("://")[2] for server in self.servers)

    def options(self) -> dict[str, Any]:
        """Return the client library's options, without the servers.

        Raises:
            InvalidRequest: A file cannot be used.
        """
        found: dict[str, Any] = {}
        if self.user is not None and self.password is None:
            found["token"] = self.user
        elif self.user is not None:
            found |= {"user": self.user, "password": self.password}
        if self.is_encrypted:
            found["tls"] = self._tls()
        if "creds" in self.files:
            if not Path(self.files["creds"]).is_file():
                raise InvalidRequest(f"{self.files['creds']!r} is no file with credentials of NATS")
            found["user_credentials"] = self.files["creds"]
        return found

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        try:
            if "ca" in self.files:
                context.load_verify_locations(self.files["ca"])
            if "cert" in self.files:
                context.load_cert_chain(self.files["cert"], self.files["key"])
        except OSError as error:
            raise InvalidRequest(f"a certificate for NATS cannot be used: {error}") from error
        return context


def _parts(url: str) -> SplitResult:
    """Split an address; errors never quote it, since its password may be in any part.

    Raises:
        InvalidRequest: It cannot be split.
    """
    refusal = InvalidRequest(
        "an address of NATS cannot be read: write # / ? [ ] @ and % of a password as %23 %2F %3F "
        "%5B %5D %40 and %25"
    )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise refusal from None
    behind = parts.query if "=" not in parts.query else ""
    if parts.fragment or "@" in parts.path or "@" in behind:
        raise refusal
    return parts


def _is_host(host: str) -> bool:
    try:
        parts = urlsplit(f"nats://{host}")
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _replicas(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_REPLICAS):
        raise InvalidRequest(
            f"`replicas` of an address of NATS is {text[:20]!r}: use 1 to {_MOST_REPLICAS}"
        )
    return int(text)
