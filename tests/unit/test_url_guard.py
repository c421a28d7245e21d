"""Which URLs of users are read, and what is connected to."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostile_urls import ODD, PRIVATE
from swell.core.errors import InvalidRequest
from swell.net.safe_http import Outbound
from swell.net.url_policy import RefusedUrl, UrlPolicy, bare_url, is_public

OPEN = UrlPolicy()


@pytest.mark.parametrize("url", PRIVATE)
def test_no_private_address_is_read_however_it_is_written(url: str) -> None:
    with pytest.raises(RefusedUrl, match="private network"):
        OPEN.check(url)


@pytest.mark.parametrize("url", ODD)
def test_what_two_programs_may_read_differently_is_refused(url: str) -> None:
    with pytest.raises(RefusedUrl):
        OPEN.check(url)


@pytest.mark.parametrize(
    ("url", "plain", "port"),
    [
        ("http://example.com", "http://example.com/", 80),
        ("HTTPS://Example.COM:443/A?b=C#d", "https://example.com/A?b=C", 443),
        ("https://example.com./a", "https://example.com/a", 443),
        ("http://8.8.8.8/", "http://8.8.8.8/", 80),
        ("http://[2606:4700::1111]:80/x", "http://[2606:4700::1111]/x", 80),
        ("http://[64:ff9b::808:808]/", "http://[64:ff9b::808:808]/", 80),
        ("http://[::ffff:8.8.8.8]/", "http://8.8.8.8/", 80),
        ("https://bücher.example/a%20b", "https://xn--bcher-kva.example/a%20b", 443),
        ("https://my_bucket.s3.amazonaws.com/k?X-Amz-Signature=1", None, 443),
    ],
)
def test_what_everybody_can_read_is_read_in_one_form(url: str, plain: str, port: int) -> None:
    checked = OPEN.check(url)
    assert (checked.url, checked.port) == (plain or url, port)
    assert OPEN.check(checked.url) == checked


def test_ports_are_those_of_the_setting() -> None:
    with pytest.raises(RefusedUrl, match=r"port 6379.*80, 443"):
        OPEN.check("http://example.com:6379/")
    assert UrlPolicy.of([], ["8443"]).check("https://example.com:8443/").port == 8443
    assert UrlPolicy.of([], ["any"]).check("https://example.com:22/").port == 22


def test_what_is_trusted_is_read_at_any_port_and_nothing_beside_it() -> None:
    policy = UrlPolicy.of(["10.1.0.0/16", "fd00::/64", "minio.internal:9000", "nas"], ["443"])
    for url in ("http://10.1.2.3:9000/", "http://[fd00::5]/", "http://minio.internal:9000/a"):
        assert policy.check(url)
    assert policy.check("http://nas:1234/")
    assert policy.check("http://[::ffff:10.1.2.3]:1/").host == "10.1.2.3"
    for url in (
        "http://10.2.0.1/",
        "http://minio.internal:9001/",
        "http://127.0.0.1/",
        "http://nas.internal/",
    ):
        with pytest.raises(RefusedUrl):
            policy.check(url)
    assert UrlPolicy.of(["any"], ["443"]).check("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("trusted", "ports"),
    [
        *((["10.0.0.0/99"], []), (["a/b"], []), ([], ["0"]), ([], ["x"]), ([], ["99999"])),
        *((["a:99999"], []), (["a:0"], []), (["a:"], []), (["10.0.0.0/8:9000"], [])),
        *((["[fd00::1]"], []), (["[fd00::1]:0"], []), (["[a]:80"], []), (["*.internal"], [])),
    ],
)
def test_words_of_a_setting_that_mean_nothing_are_refused(
    trusted: list[str], ports: list[str]
) -> None:
    with pytest.raises(InvalidRequest, match=r"worker\."):
        UrlPolicy.of(trusted, ports)


async def test_an_address_may_be_trusted_at_one_port() -> None:
    async with a_canary() as (port, came):
        policy = UrlPolicy.of([f"127.0.0.1:{port}"], ["443"])
        assert await _read(policy, f"http://127.0.0.1:{port}/") == b"secret"
        with pytest.raises(RefusedUrl, match="private network"):
            await _read(policy, f"http://127.0.0.1:{port - 1}/")
        assert len(came) == 1
    policy = UrlPolicy.of(["[FD00:0::1]:9000"], ["443"])
    assert policy.check("http://[fd00::1]:9000/")
    for url in ("http://[fd00::1]:9001/", "http://[fd00::2]:9000/"):
        with pytest.raises(RefusedUrl, match="private network"):
            policy.check(url)


def test_a_trusted_network_is_for_its_addresses_and_names_have_the_usual_ports() -> None:
    policy = UrlPolicy.of(["10.0.0.0/8"], ["443"])
    assert policy.check("http://10.1.2.3:9000/")
    assert policy.check("https://s3.corp.example/").address is None
    with pytest.raises(RefusedUrl, match="port 9000"):
        policy.check("http://s3.corp.example:9000/")
    with pytest.raises(RefusedUrl, match="private network"):
        policy.check("https://minio.internal/")


@given(st.text(max_size=60), st.sampled_from(["http://", "https://", "http://127.0.0.1", "//", ""]))
def test_whatever_is_written_is_refused_or_comes_out_in_a_form_that_stays(
    text: str, before: str
) -> None:
    try:
        checked = OPEN.check(before + text)
    except RefusedUrl:
        return
    assert checked.url.isprintable()
    assert checked.host.isascii()
    assert checked.address is None or is_public(checked.address)
    assert OPEN.check(checked.url) == checked


@given(st.ip_addresses())
def test_no_form_of_an_address_is_read_unless_the_address_is_public(address: Any) -> None:
    told = f"[{address}]" if address.version == 6 else str(address)
    is_read = True
    try:
        OPEN.check(f"http://{told}/")
    except RefusedUrl:
        is_read = False
    assert is_read == is_public(address)
    if address.version == 4:
        for other in (f"::ffff:{address}", f"64:ff9b::{address}"):
            if not is_public(address):
                with pytest.raises(RefusedUrl):
                    OPEN.check(f"http://[{other}]/")


def test_an_error_shows_nothing_that_opens_a_url() -> None:
    assert bare_url("https://me:word@h/a?signature=x#y") == "https://h/a"
    assert bare_url("https://h/\r\nset-cookie: a\u202e") == "https://h/??set-cookie: a?"


@asynccontextmanager
async def a_canary(
    answer: bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret",
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on this machine that counts who came."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], came
    finally:
        server.close()
        await server.wait_closed()


async def _read(policy: UrlPolicy, url: str) -> bytes:
    outbound = Outbound(policy, total_s=5)
    try:
        async with outbound.get(url) as answer:
            return await answer.read()
    finally:
        await outbound.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "①②⑦.⓪.⓪.①", "127。0。0。1", "2130706433", "127.1", "[::1]"],
)
async def test_nothing_on_this_machine_is_reached(host: str) -> None:
    anyport = UrlPolicy.of([], ["any"])
    async with a_canary() as (port, came):
        with pytest.raises(RefusedUrl):
            await _read(anyport, f"http://{host}:{port}/")
        assert came == []
        # The canary can tell: whoever is trusted does reach it.
        assert await _read(UrlPolicy.of(["any"], []), f"http://127.0.0.1:{port}/") == b"secret"
        assert len(came) == 1


def _answers(*rounds: list[str]) -> Any:
    """A look-up that answers differently each time, as a rebinding server does."""
    left = list(rounds)

    async def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        now = left.pop(0) if len(left) > 1 else left[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in now
        ]

    return getaddrinfo


async def test_a_name_with_one_private_address_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    async with a_canary() as (port, came):
        monkeypatch.setattr(loop, "getaddrinfo", _answers(["8.8.8.8", "127.0.0.1"]))
        with pytest.raises(RefusedUrl, match="private network"):
            await _read(UrlPolicy.of([], ["any"]), f"http://rebind.example:{port}/")
        assert came == []


async def test_a_name_is_looked_up_once_and_connected_to_as_it_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    asked: list[Any] = []

    async def connect(sock: socket.socket, address: Any) -> None:
        asked.append(address)
        raise ConnectionRefusedError

    async with a_canary() as (port, came):
        # The second answer would be the canary's.
        monkeypatch.setattr(loop, "getaddrinfo", _answers(["8.8.8.8"], ["127.0.0.1"]))
        monkeypatch.setattr(loop, "sock_connect", connect)
        with pytest.raises(OSError, match="Cannot connect"):
            await _read(UrlPolicy.of([], ["any"]), f"http://rebind.example:{port}/")
        assert asked == [("8.8.8.8", port)]
        assert came == []


async def test_a_host_that_is_trusted_by_name_is_read_where_it_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    async with a_canary() as (port, came):
        monkeypatch.setattr(loop, "getaddrinfo", _answers(["127.0.0.1"]))
        policy = UrlPolicy.of([f"minio.internal:{port}"], ["443"])
        assert await _read(policy, f"http://minio.internal:{port}/a?b=c") == b"secret"
        assert came[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
        assert b"accept-encoding: identity" in came[0].lower()


@pytest.mark.parametrize(
    "more",
    ["content-encoding: gzip", "content-type: text/event-stream", "content-type: multipart/mixed"],
)
async def test_what_may_unpack_or_never_end_is_no_file(more: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\n{more}\r\ncontent-length: 6\r\n\r\nsecret".encode()
    async with a_canary(answer) as (port, _):
        with pytest.raises(InvalidRequest, match=r"compressed|no file"):
            await _read(UrlPolicy.of(["any"], []), f"http://127.0.0.1:{port}/")
