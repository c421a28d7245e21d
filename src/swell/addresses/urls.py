"""The URL policy against server-side request forgery (SSRF). Pure.

Users name files by URL, and the machine that reads them can reach databases, metadata services and
other people's buckets. So a URL is checked twice: its text here, and each address of its host at
the time of connecting (`outbound.py`).

Ambiguous URLs are refused, since two programs may read them differently: numeric hosts other than
four plain decimals, percent signs and backslashes in the host, user names and passwords.

Source:
    IANA's registries of special-purpose addresses, IPv4 and IPv6 (RFC 6890 and later); RFC 6052
    (IPv4 inside NAT64), RFC 3056 (6to4), RFC 4380 (Teredo); WHATWG's URL standard for hosts that
    end in a number; the metadata services of clouds: 169.254.169.254, fd00:ec2::254 (both within
    these), and 168.63.129.16, which is Azure's own and looks public.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from swell.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Signed URLs of clouds have up to two thousand.
MAX_URL_CHARS: Final = 8192

_PORTS: Final = {"http": 80, "https": 443}

#: Names that never mean a public host.
_LOCAL_NAMES: Final = (
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home.arpa",
    "in-addr.arpa",
    "ip6.arpa",
)

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
#: Hosts with such an ending are numbers by WHATWG and inet_aton.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: IPv4 addresses that are not on the public internet, and the anycast addresses of AS112 and AMT.
_CLOSED_4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
)
#: The allocated part of IPv6, and the exceptions in it: Teredo, documentation, 6to4, AS112.
_OPEN_6: Final = ipaddress.IPv6Network("2000::/3")
_CLOSED_6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"),
    )
)
#: Prefix of IPv6 addresses that embed an IPv4 address.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class RefusedUrl(InvalidRequest):
    """A URL that is not read."""

    code, title = "refused_url", "This URL is not read"


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL as it may be connected to.

    Args:
        url: In its one form: its host in ASCII, without the fragment.
        host: A name in lower case, or a plain address.
        port: Also where the URL does not name it.
        address: Where the host is one.
    """

    url: str
    host: str
    port: int
    address: Address | None


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """What users' URLs may name.

    Args:
        trusted_networks: Private networks that are allowed.
        trusted_hosts: Names that are allowed at any address; `HOST` or `HOST:PORT`, where a host
            may also be an address (`[::1]:80`).
        ports: Allowed ports of hosts that are not trusted; None for all.
        trusts_all: Whether everything is read. For tests and closed networks.
        group: Of the settings that say so, for errors.
    """

    trusted_networks: tuple[_Network, ...] = ()
    trusted_hosts: frozenset[str] = frozenset()
    ports: frozenset[int] | None = frozenset(_PORTS.values())
    trusts_all: bool = False
    group: str = "worker"

    @classmethod
    def of(cls, trusted: Iterable[str], ports: Iterable[str], group: str = "worker") -> "UrlPolicy":
        """Return the policy that settings ask for.

        Args:
            trusted: Networks, addresses, hosts, `HOST:PORT`, `[ADDRESS]:PORT`, or `any`.
            ports: Numbers, or `any`.
            group: Of these settings.

        Raises:
            InvalidRequest: A word is none of these.
        """
        networks: list[_Network] = []
        hosts: set[str] = set()
        words = [word.strip().lower() for word in trusted]
        for word in words:
            try:
                networks.append(ipaddress.ip_network(word, strict=False))
            except ValueError:
                hosts.add(_trusted_host(word, group))
        found = _ports(ports, group)
        return cls(tuple(networks), frozenset(hosts), found, "any" in words, group)

    def check(self, url: str) -> CheckedUrl:
        """Return a URL in the form that is safe to connect to.

        A host that is a name has yet to be judged by its addresses (`check_address`).

        Raises:
            RefusedUrl: It is not read; the text says why.
        """
        parts = _split(url)
        host = _host(parts.hostname or "", parts.netloc, url)
        port = _port(parts.netloc, parts.port, parts.scheme)
        address = _literal(host)
        bracketed = f"[{host}]" if address is not None and address.version == 6 else host
        netloc = bracketed if port == _PORTS[parts.scheme] else f"{bracketed}:{port}"
        plain = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
        found = CheckedUrl(plain, host, port, address)
        if not self.trusts(found):
            self._check_stranger(found)
        return found

    def trusts(self, url: CheckedUrl) -> bool:
        """Whether a URL is read wherever its host leads."""
        if self.trusts_all or self.trusts_name(url.host, url.port):
            return True
        return url.address is not None and self._is_trusted(url.address)

    def trusts_name(self, host: str, port: int) -> bool:
        """Whether a host is named among those that are trusted, at any port or at this one."""
        return not self.trusted_hosts.isdisjoint((host, _place(host, port)))

    def check_address(self, address: Address, port: int, host: str) -> None:
        """Check that one of the addresses of a host that is not trusted may be connected to.

        Raises:
            RefusedUrl: It may not.
        """
        is_open = self.trusts_all or is_public(address) or self._is_trusted(address)
        if not (is_open or self.trusts_name(str(address), port)):
            raise _private(host, self.group)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self.trusted_networks)

    def _check_stranger(self, url: CheckedUrl) -> None:
        if url.address is not None:
            self.check_address(url.address, url.port, url.host)
        elif "." not in url.host or f".{url.host}".endswith(
            tuple(f".{name}" for name in _LOCAL_NAMES)
        ):
            raise _private(url.host, self.group)
        if self.ports is not None and url.port not in self.ports:
            told = ", ".join(map(str, sorted(self.ports))) or "none"
            raise RefusedUrl(
                f"{url.host[:100]} is asked for at port {url.port}, which is not connected to: "
                f"use one of {told}, or have it allowed with {self.group}.url_ports"
            )


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in network for network in _CLOSED_4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.scope_id is not None or address not in _OPEN_6:
        return False
    return address.is_global and not any(address in network for network in _CLOSED_6)


def bare_url(url: str) -> str:
    """Return a URL for error texts, without the parts that would give access."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    shown = re.sub(r"//[^/\\]*@", "//", bare)[:200]
    return "".join(each if each.isprintable() else "?" for each in shown)


class _Parts:
    """A URL that could be split, with http or https before it."""

    def __init__(self, url: str) -> None:
        found = urlsplit(url)
        self.scheme = found.scheme
        self.netloc = found.netloc
        self.path = found.path
        self.query = found.query
        self.hostname = found.hostname
        self.port = found.port
        self.has_user = found.username is not None or "@" in found.netloc


def _split(url: str) -> _Parts:
    if len(url) > MAX_URL_CHARS:
        raise RefusedUrl(
            f"a URL of {len(url):,} characters is not read: give one of {MAX_URL_CHARS:,} at most"
        )
    # Python's own splitting drops tabs and line ends, and others do not.
    if not url.isprintable() or " " in url or "\\" in url:
        raise RefusedUrl(
            f"{bare_url(url)} holds spaces, control characters or backslashes: write them "
            "percent-encoded, behind the host"
        )
    try:
        parts = _Parts(url)
    except ValueError:
        raise RefusedUrl(f"{bare_url(url)} is not a URL: give one such as https://host/file") from (
            None
        )
    if parts.scheme not in _PORTS:
        raise RefusedUrl(f"{bare_url(url)} cannot be fetched: give an http or https URL")
    if parts.has_user:
        raise RefusedUrl(
            f"{bare_url(url)} holds a name or password: give a URL that can be read without one, "
            "such as a signed one"
        )
    return parts


def _port(netloc: str, port: int | None, scheme: str) -> int:
    if port == 0 or netloc.endswith(":"):
        raise RefusedUrl("the URL's port is none: leave it out, or write a number behind the colon")
    return _PORTS[scheme] if port is None else port


def _host(told: str, netloc: str, url: str) -> str:
    """Return a host in lower-case ASCII, as a name or as a plain address."""
    address = _literal(told)
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or address)
    host = "" if "[" in netloc else _ascii(told).removesuffix(".")
    labels = host.split(".")
    if host and _NUMBER.fullmatch(labels[-1]):
        address = _literal(host)
        # The canonical form has the same four decimals, so that all parsers agree.
        if address is None or host != told:
            raise RefusedUrl(
                f"{bare_url(url)} writes an address in an unusual way: write it as four decimal "
                "numbers such as 203.0.113.7"
            )
    elif not host or len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise RefusedUrl(f"{bare_url(url)} names no host: give a URL such as https://host/file")
    return host


def _ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return ""


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _private(host: str, group: str) -> RefusedUrl:
    if group != "worker":
        return RefusedUrl(
            f"{host[:100]} is on a private network, so the server sends nothing "
            "there: use a public host, or allow this one with "
            f"{group}.allow_private_urls"
        )
    return RefusedUrl(
        f"{host[:100]} is on a private network, so the worker does not fetch it:"
        " upload the file, or use a public URL"
    )


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _trusted_host(word: str, group: str) -> str:
    """Return a word in the form of the tables of hosts and ports."""
    if word.startswith("["):
        name, colon, port = word[1:].partition("]:")
        is_host = isinstance(_literal(name), ipaddress.IPv6Address)
    else:
        name, colon, port = word.partition(":")
        is_host = all(map(_LABEL.fullmatch, name.split(".")))
    if not is_host or (colon and not _is_port(port)) or (word[0] == "[" and not colon):
        raise InvalidRequest(
            f"{group}.allow_private_urls: {word[:100]!r} is no network, address or host: use words "
            "such as 10.0.0.0/8, minio.internal, minio.internal:9000, [fd00::1]:9000, or any"
        )
    address = _literal(name)
    host = name if address is None else str(address)
    return _place(host, int(port)) if colon else host


def _is_port(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 6 and 0 < int(word) < 65536


def _ports(words: Iterable[str], group: str) -> frozenset[int] | None:
    found = list(words)
    if "any" in found:
        return None
    for word in found:
        if not _is_port(word):
            raise InvalidRequest(
                f"{group}.url_ports: {word[:20]!r} is no port: use 1 to 65535, any"
            )
    return frozenset(map(int, found))
