"""URLs of NATS servers: hosts, stream, credentials and TLS.

Source:
    https://docs.nats.io/using-nats/developer/connecting: users, tokens, credentials files, TLS.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from swell.core.errors import InvalidRequest

#: Options behind the question mark: names of files, and the replicas of a stream.
_OPTIONS: Final = ("ca", "cert", "key", "creds", "replicas")

_REPLICAS: Final = ("1", "2", "3", "4", "5")


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """A server or a cluster, and a stream."""

    servers: tuple[str, ...]
    stream: str
    #: Credentials and TLS, as the client library takes them.
    options: dict[str, Any] = field(repr=False)
    #: How many servers of a cluster keep a stream that Swell creates.
    replicas: int = 1

    @classmethod
    def read(cls, url: str) -> "NatsAddress":
        """Read `nats://[USER:PASSWORD@|TOKEN@]HOST:PORT[,HOST:PORT…][/NAME][?ca=…&creds=…]`.

        `tls://` requires TLS, and so do the options of TLS.

        Raises:
            InvalidRequest: It or one of its files cannot be read. The text has no secret.
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
        return cls(
            servers=tuple(f"{parts.scheme}://{host}" for host in hosts.split(",")),
            stream=stream,
            options=_client_options(parts.scheme, user_info, options),
            replicas=int(replicas),
        )

    @property
    def place(self) -> str:
        """The hosts, without secrets."""
        return ",".join(server.partition("://")[2] for server in self.servers)


def _client_options(scheme: str, user_info: str, options: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    user, colon, password = user_info.partition(":")
    if user and colon:
        found = {"user": unquote(user), "password": unquote(password)}
    elif user:
        found = {"token": unquote(user)}
    if scheme == "tls" or "ca" in options or "cert" in options:
        found["tls"] = _tls(options)
    if "creds" in options:
        if not Path(options["creds"]).is_file():
            raise InvalidRequest(f"{options['creds']!r} is no file with credentials of NATS")
        found["user_credentials"] = options["creds"]
    return found


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if "ca" in options:
            context.load_verify_locations(options["ca"])
        if "cert" in options:
            context.load_cert_chain(options["cert"], options["key"])
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
