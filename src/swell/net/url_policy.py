"""The URL policy against server-side request forgery (SSRF). Pure.

Users name files by URL, and the machine that reads them can reach databases, metadata services and
other people's buckets. So Swell checks a URL twice: its text here, and each address of its host
when it connects (`safe_http.py`).

The policy refuses URLs that two programs may read differently: numeric hosts other than four
decimals, percent signs and backslashes in the host, user names and passwords.

Source:
    IANA's registries of special-purpose addresses, IPv4 and IPv6 (RFC 6890 and later), most of
    which `ipaddress` knows; RFC 6052 (IPv4 inside NAT64), RFC 3056 (6to4), RFC 4380 (Teredo);
    WHATWG's URL standard for hosts that end in a number; metadata services of clouds:
    169.254.169.254 and fd00:ec2::254, and Azure's 168.63.129.16, which looks public.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from swell.core.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Signed URLs of clouds have up to two thousand.
MAX_URL_CHARS: Final = 8192

PORTS: Final = {"http": 80, "https": 443}

#: Names that never mean a public host.
_LOCAL_NAMES: Final = (
    ".localhost",
    ".localdomain",
    ".local",
    ".internal",
    ".intranet",
    ".lan",
    ".home.arpa",
    ".in-addr.arpa",
    ".ip6.arpa",
)

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
#: WHATWG and inet_aton read hosts with such an ending as numbers.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

#: Addresses that `is_global` calls global, in some version of Python: Azure's metadata service,
#: protocol assignments, the anycast addresses of AS112, AMT and 6to4, and multicast; of IPv6
#: Teredo, documentation and 6to4 too.
_CLOSED: Final = tuple(
    map(
        ipaddress.ip_network,
        [
            "168.63.129.16/32",
            "192.0.0.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",
            "192.175.48.0/24",
            "224.0.0.0/3",
            "2001::/23",
            "2001:db8::/32",
            "2002::/16",
            "2620:4f:8000::/48",
            "3fff::/20",
        ],
    )
)
#: The allocated part of IPv6.
_OPEN_6: Final = ipaddress.IPv6Network("2000::/3")
#: Prefix of IPv6 addresses that embed an IPv4 address.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class RefusedUrl(InvalidRequest):
    """The policy does not allow this URL."""

    code, title = "refused_url", "This URL is not read"


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL that the policy allows.

    Args:
        url: The URL in normal form: with its host in ASCII, without the fragment.
        host: A name in lower case, or an address.
        port: The port, named or not.
        address: The host, if it is an address.
    """

    url: str
    host: str
    port: int
    address: Address | None


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Which URLs of users are allowed.

    Args:
        trusted_networks: Private networks that are allowed.
        trusted_hosts: Hosts that are allowed at any address: `HOST` or `HOST:PORT`, where a host
            may also be an address (`[::1]:80`).
        ports: Allowed ports of hosts that are not trusted; None for all.
        trusts_all: Whether everything is allowed. For tests and closed networks.
        group: The group of settings with the policy, for errors.
    """

    trusted_networks: tuple[_Network, ...] = ()
    trusted_hosts: frozenset[str] = frozenset()
    ports: frozenset[int] | None = frozenset(PORTS.values())
    trusts_all: bool = False
    group: str = "worker"

    @classmethod
    def of(cls, trusted: Iterable[str], ports: Iterable[str], group: str = "worker") -> "UrlPolicy":
        """Return the policy of settings.

        Args:
            trusted: Networks, addresses, hosts, `HOST:PORT`, `[ADDRESS]:PORT`, or `any`.
            ports: Numbers, or `any`.
            group: The group of these settings.

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
        return cls(
            tuple(networks), frozenset(hosts), _ports(list(ports), group), "any" in words, group
        )

    def check(self, url: str) -> CheckedUrl:
        """Return a URL in normal form. If its host is a name, `check_address` must follow.

        Raises:
            RefusedUrl: It is not allowed; the text says why.
        """
        parts = _split(url)
        host = _host(parts, url)
        port = PORTS[parts.scheme] if parts.port is None else parts.port
        address = ip_literal(host)
        netloc = _place(host, port)
        if port == PORTS[parts.scheme]:
            netloc = netloc.rpartition(":")[0]
        plain = urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, ""))
        is_trusted = self.trusts_all or self.trusts_name(host, port)
        if not is_trusted and not (address is not None and self._is_trusted(address)):
            self._check_stranger(host, port, address)
        return CheckedUrl(plain, host, port, address)

    def trusts_name(self, host: str, port: int) -> bool:
        """Whether a host is trusted by its name, at any port or at this one."""
        return not self.trusted_hosts.isdisjoint((host, _place(host, port)))

    def check_address(self, address: Address, port: int, host: str) -> None:
        """Check an address of a host that is not trusted by its name.

        Raises:
            RefusedUrl: It is not allowed.
        """
        is_open = self.trusts_all or is_public(address) or self._is_trusted(address)
        if not (is_open or self.trusts_name(str(address), port)):
            raise _private(host, self.group)

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self.trusted_networks)

    def _check_stranger(self, host: str, port: int, address: Address | None) -> None:
        if address is not None:
            self.check_address(address, port, host)
        elif "." not in host or f".{host}".endswith(_LOCAL_NAMES):
            raise _private(host, self.group)
        if self.ports is not None and port not in self.ports:
            allowed = ", ".join(map(str, sorted(self.ports))) or "none"
            raise RefusedUrl(
                f"{host[:100]} is asked for at port {port}, which is not connected to: "
                f"use one of {allowed}, or have it allowed with {self.group}.url_ports"
            )


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.scope_id is not None or address not in _OPEN_6:
            return False
    return address.is_global and not any(address in network for network in _CLOSED)


def bare_url(url: str) -> str:
    """Return a URL for error texts, without the parts that would give access."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    shown = re.sub(r"//[^/\\]*@", "//", bare)[:200]
    return "".join(each if each.isprintable() else "?" for each in shown)


def ascii_host(word: str) -> str:
    """Return a host name in lower-case ASCII, without a final dot; empty if it is not a name."""
    try:
        host = word if word.isascii() else word.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
    host = host.lower().removesuffix(".")
    is_name = len(host) <= 253 and all(map(_LABEL.fullmatch, host.split(".")))
    return host if is_name else ""


def ip_literal(host: str) -> Address | None:
    """Return the address that a host is; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _split(url: str) -> SplitResult:
    """Return the parts of an http or https URL; reading its port raises nothing."""
    if len(url) > MAX_URL_CHARS:
        raise RefusedUrl(
            f"a URL of {len(url):,} characters is not read: give one of {MAX_URL_CHARS:,} at most"
        )
    # Python drops tabs and line ends when it splits, and other programs do not.
    if not url.isprintable() or " " in url or "\\" in url:
        raise RefusedUrl(
            f"{bare_url(url)} holds spaces, control characters or backslashes: write them "
            "percent-encoded, behind the host"
        )
    try:
        parts = urlsplit(url)
        has_no_port = parts.port == 0 or parts.netloc.endswith(":")
    except ValueError:
        raise RefusedUrl(f"{bare_url(url)} is not a URL: give one such as https://host/file") from (
            None
        )
    if parts.scheme not in PORTS:
        raise RefusedUrl(f"{bare_url(url)} cannot be fetched: give an http or https URL")
    if "@" in parts.netloc:
        raise RefusedUrl(
            f"{bare_url(url)} holds a name or password: give a URL that can be read without one, "
            "such as a signed one"
        )
    if has_no_port:
        raise RefusedUrl("the URL's port is none: leave it out, or write a number behind the colon")
    return parts


def _host(parts: SplitResult, url: str) -> str:
    """Return the host of a URL: a name in lower-case ASCII, or an address."""
    written = parts.hostname or ""
    address = ip_literal(written)
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or address)
    host = "" if "[" in parts.netloc else ascii_host(written)
    if not host:
        raise RefusedUrl(f"{bare_url(url)} names no host: give a URL such as https://host/file")
    is_number = _NUMBER.fullmatch(host.rpartition(".")[2])
    # All parsers agree on four decimals only.
    if is_number and (ip_literal(host) is None or host != written):
        raise RefusedUrl(
            f"{bare_url(url)} writes an address in an unusual way: write it as four decimal "
            "numbers such as 203.0.113.7"
        )
    return host


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
    """Return a word of a setting as `trusts_name` looks it up."""
    if word.startswith("["):
        name, colon, port = word[1:].partition("]:")
        is_host = bool(colon) and isinstance(ip_literal(name), ipaddress.IPv6Address)
    else:
        name, colon, port = word.partition(":")
        is_host = all(map(_LABEL.fullmatch, name.split(".")))
    if not is_host or (colon and not _is_port(port)):
        raise InvalidRequest(
            f"{group}.allow_private_urls: {word[:100]!r} is no network, address or host: use words "
            "such as 10.0.0.0/8, minio.internal, minio.internal:9000, [fd00::1]:9000, or any"
        )
    host = str(ip_literal(name) or name)
    return _place(host, int(port)) if colon else host


def _is_port(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 6 and 0 < int(word) < 65536


def _ports(words: list[str], group: str) -> frozenset[int] | None:
    if "any" in words:
        return None
    for word in words:
        if not _is_port(word):
            raise InvalidRequest(
                f"{group}.url_ports: {word[:20]!r} is no port: use 1 to 65535, any"
            )
    return frozenset(map(int, words))
