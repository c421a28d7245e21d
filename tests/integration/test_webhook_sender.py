"""One attempt to deliver, against receivers that do what receivers do."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from swell.bootstrap.data_folder import self_signed_cert
from swell.cli.tls import open_cert, open_tls
from swell.core.clock import SystemClock
from swell.net.safe_http import Outbound
from swell.net.url_policy import UrlPolicy
from swell.server.webhooks import webhook_sender
from swell.server.webhooks.webhook_sender import Answer, HookRequest
from swell.server.webhooks.webhook_signing import new_secret
from swell.settings.backend_settings import ServerSettings
from swell.settings.load import Settings

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

TRUSTING = UrlPolicy.of(["127.0.0.1", "localhost"], ["80", "443"], "webhooks")
SECRET = new_secret()


@contextlib.asynccontextmanager
async def serving(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Talk so to whoever connects; yield the port."""

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Return the head and the body of a request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    size = int(head.split("content-length: ")[1].split("\r\n")[0])
    return head, await reader.readexactly(size)


def answering(answer: bytes, heard: list[tuple[str, bytes]] | None = None) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if heard is not None:
            heard.append(request)
        writer.write(answer)
        await writer.drain()

    return talk


async def send(url: str, policy: UrlPolicy = TRUSTING, total_s: float = 10.0) -> Answer:
    outbound = Outbound(policy, total_s, connections=0)
    try:
        letter = HookRequest(url=url, body=b'{"a":1}', signing=[SECRET])
        return await webhook_sender.send(outbound, SystemClock(), letter, "msg_1")
    finally:
        await outbound.close()


async def test_what_is_sent_is_signed_and_the_answer_is_kept() -> None:
    heard: list[tuple[str, bytes]] = []
    answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 7\r\n\r\nthanks\n"
    async with serving(answering(answer, heard)) as port:
        got = await send(f"http://127.0.0.1:{port}/in?x=1")
    assert (got.status, got.text, got.error) == (202, "thanks", "")
    ((head, body),) = heard
    assert head.startswith("post /in?x=1 http/1.1")
    assert body == b'{"a":1}'
    assert "webhook-id: msg_1\r\n" in head
    assert "webhook-signature: v1," in head
    assert "content-type: application/json\r\n" in head
    assert f"user-agent: swell/{version('swell')} (webhooks)\r\n" in head


async def test_a_redirect_is_not_followed() -> None:
    asked: list[tuple[str, bytes]] = []
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", asked)) as other:
        to = f"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:{other}/\r\ncontent-length: 0\r\n\r\n"
        async with serving(answering(to.encode())) as port:
            got = await send(f"http://127.0.0.1:{port}/")
    assert got.status == 307
    assert asked == []


async def test_what_the_receiver_says_of_time_is_kept() -> None:
    answer = b"HTTP/1.1 429 Slow\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(answer)) as port:
        got = await send(f"http://127.0.0.1:{port}/")
    assert (got.status, got.retry_after) == (429, "17")


async def test_a_receiver_that_says_nothing_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port:
        got = await send(f"http://127.0.0.1:{port}/", total_s=0.3)
    assert (got.status, got.error) == (None, "timeout")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"SSH-2.0-OpenSSH_9\r\n\r\n"])
async def test_what_is_no_answer_is_told(answer: bytes) -> None:
    async with serving(answering(answer)) as port:
        got = await send(f"http://127.0.0.1:{port}/")
    assert (got.status, got.error) == (None, "connection")
    assert got.detail


async def test_what_is_no_answer_is_not_quoted() -> None:
    # What is told of an attempt outlives the data of its task, and an answer may quote that.
    for answer in (b"a red fox\r\n\r\n", b"HTTP/1.1 200 OK\r\na red fox\r\n\r\n"):
        async with serving(answering(answer)) as port:
            got = await send(f"http://127.0.0.1:{port}/in?token=fox")
        assert (got.status, got.error) == (None, "connection")
        assert "fox" not in got.detail


async def test_nobody_listens() -> None:
    with socket.socket() as silent:
        # Nobody else can have it meanwhile.
        silent.bind(("127.0.0.1", 0))
        got = await send(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    assert (got.status, got.error) == (None, "connection")


async def test_of_a_long_answer_little_is_read() -> None:
    written = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while written < 200_000_000:
            writer.write(b"x" * 65536)
            written += 65536
            await writer.drain()

    async with serving(endless) as port:
        got = await send(f"http://127.0.0.1:{port}/")
    assert (got.status, got.text) == (200, "x" * 500)
    assert written < 50_000_000


async def test_an_answer_that_drips_is_a_success_all_the_same() -> None:
    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na")
        await writer.drain()
        await reader.read()

    async with serving(dripping) as port:
        got = await send(f"http://127.0.0.1:{port}/", total_s=60.0)
    assert (got.status, got.text) == (200, "a")
    assert got.took_s < 30


async def test_what_is_answered_steers_no_terminal() -> None:
    answer = b"HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\na\x1b[31m\nb\xff"
    async with serving(answering(answer)) as port:
        got = await send(f"http://127.0.0.1:{port}/")
    assert got.text.startswith("a [31m b")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/"]
)
async def test_nothing_is_sent_to_private_networks(url: str) -> None:
    heard: list[tuple[str, bytes]] = []
    async with serving(answering(b"", heard)) as port:
        strict = UrlPolicy.of([], ["any"], "webhooks")
        got = await send(url.format(port=port), strict)
    assert (got.status, got.error) == (None, "refused_url")
    assert "webhooks.allow_private_urls" in got.detail
    assert heard == []


async def test_a_name_that_leads_inside_is_found_out_when_it_is_looked_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[tuple[str, bytes]] = []
    async with serving(answering(b"", heard)) as port:
        loop = asyncio.get_running_loop()

        async def lead_inside(host: str, at: int, **_: object) -> list[object]:
            return [(2, 1, 6, "", ("127.0.0.1", at))]

        monkeypatch.setattr(loop, "getaddrinfo", lead_inside)
        strict = UrlPolicy.of([], ["any"], "webhooks")
        got = await send(f"http://shop.example:{port}/", strict)
    assert got.status is None
    assert got.error in ("refused_url", "connection")
    assert heard == []


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    heard: list[tuple[str, bytes]] = []
    context = await _own_context(tmp_path)
    async with serving(answering(b"", heard), context) as port:
        got = await send(f"https://127.0.0.1:{port}/")
    assert (got.status, got.error) == (None, "connection")
    assert "ertificate" in got.detail
    assert heard == []


async def _own_context(folder: Path) -> ssl.SSLContext:
    settings = Settings(data_dir=folder, server=ServerSettings(tls="self-signed"))
    await open_tls(settings, SystemClock())
    cert = self_signed_cert(settings)
    return open_cert(cert, cert.with_name("key.pem"))
