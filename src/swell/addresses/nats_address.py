"""URLs of NATS servers: hosts, stream, credentials and TLS.

Source:
    https://docs.nats.io/using-nats/developer/connecting: users, tokens, credentials files, TLS.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from swell.errors import InvalidRequest

#: Options behind the question mark: names of files, and the replicas of a stream.
_FILES: Final = ("ca", "cert", "key", "creds")
_OPTIONS: Final = (*_FILES, "replicas")

_REPLICAS: Final = ("1", "2", "3", "4", "5")


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """A server or a cluster, a stream, and credentials."""

    servers: tuple[str, ...]
    stream: str
    user: str | None
    password: str | None
    is_encrypted: bool
    #: Files: `ca` (trusted in addition to the system's), `cert` with `key`, `creds`.
    files: dict[str, str]
    #: How many servers of a cluster keep a stream that Swell creates.
    replicas: int = 1

    @classmethod
    def read(cls, url: str) -> "NatsAddress":
        """Read `nats://[USER:PASSWORD@|TOKEN@]HOST:PORT[,HOST:PORT…][/NAME][?ca=…&creds=…]`.

        `tls://` requires TLS, and so do the options of TLS.

        Raises:
            InvalidRequest: It cannot be read. The text has no secret.
        """
        parts = _split(url)
        user_info, _, hosts = parts.netloc.rpartition("@")
        stream = parts.path.strip("/") or "swell"
        if not (stream.isascii() and stream.replace("-", "").replace("_", "").isalnum()):
            raise InvalidRequest(
                f"{stream[:80]!r} cannot be a stream's name: use letters, digits, - and _"
            )
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(set(options).difference(_OPTIONS)):
            raise InvalidRequest(
                f"{unknown[0][:40]!r} is no option of an address of NATS: use {', '.join(_OPTIONS)}"
            )
        if ("cert" in options) is not ("key" in options):
            raise InvalidRequest("an address of NATS with `cert` needs `key`, and the other way")
        replicas = options.pop("replicas", "1")
        if replicas not in _REPLICAS:
            raise InvalidRequest(
                f"`replicas` of an address of NATS is {replicas[:20]!r}: use 1 to {_REPLICAS[-1]}"
            )
        user, colon, password = user_info.partition(":")
        return cls(
            servers=tuple(f"{parts.scheme}://{host}" for host in hosts.split(",")),
            stream=stream,
            user=unquote(user) or None,
            password=unquote(password) if colon else None,
            is_encrypted=parts.scheme == "tls" or "ca" in options or "cert" in options,
            files=options,
            replicas=int(replicas),
        )

    @property
    def place(self) -> str:
        """The hosts, without secrets."""
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


def _split(url: str) -> SplitResult:
    """Split an address; errors never quote it, since its password may be in any part."""
    try:
        parts = urlsplit(url)
        places = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        is_readable = all(place.hostname and place.port != 0 for place in places)
    except ValueError:
        is_readable = False
    if is_readable and parts.scheme in ("nats", "tls"):
        # A password with such a character ends the host part too early.
        behind = parts.path + (parts.query if "=" not in parts.query else "")
        if not parts.fragment and "@" not in behind:
            return parts
    raise InvalidRequest(
        "this is no address of NATS: use nats://HOST:PORT/NAME or tls://…, and write # / ? [ ] @ "
        "and % of a password as %23 %2F %3F %5B %5D %40 and %25"
    )
