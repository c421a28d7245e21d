"""The proxy does to requests what its rules say; else the fault table would prove nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from chaos.proxy import Link, Proxy, Rule
from loopback import listening
from ports import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


class Site:
    """A server that writes down what it hears, behind the proxy."""

    def __init__(self, proxy: Proxy, port: int, beside: int) -> None:
        self.proxy = proxy
        self._port = port
        #: Of a way to the same server that no rule is for.
        self._beside = beside
        self.heard: list[str] = []

    async def until_heard(self, n: int) -> None:
        async with asyncio.timeout(60):
            while len(self.heard) < n:
                await asyncio.sleep(0.01)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        if request.url.port != self._beside:
            self.heard.append(f"{request.method} {body}")
        return web.Response(text=body[::-1])

    async def say(self, body: str, method: str = "POST", port: int = 0) -> tuple[int, str]:
        url = f"http://127.0.0.1:{port or self._port}/"
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
            session.request(method, url, data=body) as answer,
        ):
            return answer.status, await answer.text()

    @contextlib.asynccontextmanager
    async def said(self, body: str) -> AsyncIterator[asyncio.StreamReader]:
        """Say something, and yield where the answer comes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST / HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        yield reader
        writer.close()

    async def until_passed(self) -> None:
        """Wait until all that was said, and that no rule holds, has passed and is answered."""
        for _ in range(3):
            assert await self.say("beside", port=self._beside) == (200, "ediseb")


@contextlib.asynccontextmanager
async def a_site(folder: Path) -> AsyncIterator[Site]:
    here, beside, there, nowhere = (free_port() for _ in range(4))
    proxy = Proxy(folder / "proxy.log")
    site = Site(proxy, here, beside)
    app = web.Application()
    app.router.add_route("*", "/", site.answer)
    async with listening(app, port=there):
        try:
            # One of the targets is dead, as a killed backend is.
            targets = (nowhere, there)
            links = [("site", here), ("beside", beside)]
            proxy.start([Link(name=name, port=port, targets=targets) for name, port in links])
            yield site
        finally:
            proxy.end()


async def test_what_is_said_passes_and_large_bodies_with_it(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        for body in ("", "abc", "ab" * 500_000):
            assert await site.say(body) == (200, body[::-1])


async def test_a_cut_resets_whoever_connects_until_it_is_over(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", Rule(cut=True))
        with pytest.raises(aiohttp.ClientError):
            await site.say("abc")
        assert site.heard == []
        site.proxy.set("site")
        assert await site.say("abc") == (200, "cba")


async def test_what_is_stalled_comes_late(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", Rule(stall=True))
        async with site.said("abc") as reader:
            await site.until_passed()
            assert site.heard == []
            site.proxy.set("site")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            assert site.heard == ["POST abc"]


@pytest.mark.parametrize(
    ("rule", "heard"),
    [
        (Rule(lose_requests=True), []),
        (Rule(lose_answers=True), ["POST abc"]),
        (Rule(drop_answer=1.0), ["POST abc"]),
    ],
)
async def test_what_is_lost_is_answered_by_nobody(
    rule: Rule, heard: list[str], tmp_path: Path
) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", rule)
        async with site.said("abc") as reader:
            await site.until_heard(len(heard))
            await site.until_passed()
            site.proxy.set("site")
            with pytest.raises(ConnectionError):
                await reader.read(1)
        assert site.heard == heard


async def test_what_is_said_twice_is_heard_twice_and_answered_once(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", Rule(twice=1.0, late_s=0.2))
        assert await site.say("abc") == (200, "cba")
        await site.until_heard(2)
        assert site.heard == ["POST abc", "POST abc"]


async def test_what_is_delayed_takes_as_long_as_the_rule_allows(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", Rule(delay_s=0.5))
        took_s = []
        for _ in range(4):
            began_s = time.monotonic()
            assert await site.say("abc") == (200, "cba")
            took_s.append(time.monotonic() - began_s)
        # Two waits of up to half a second each; by chance all eight would be short never.
        assert 0.05 < max(took_s) < 30.0


async def test_only_the_methods_of_a_rule_are_refused(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", Rule(refuse=("PUT",)))
        assert (await site.say("abc", "PUT"))[0] == 503
        assert await site.say("abc", "POST") == (200, "cba")
        assert site.heard == ["POST abc"]


async def test_whoever_goes_away_is_missed_at_once(tmp_path: Path) -> None:
    """Else a backend would give tasks to a worker that was killed while it waited."""
    came, gone = asyncio.Event(), asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.set()
        await reader.read()  # to the end, which is the proxy's hanging up
        gone.set()
        writer.close()

    here, there = free_port(), free_port()
    server = await asyncio.start_server(wait, "127.0.0.1", there)
    proxy = Proxy(tmp_path / "proxy.log")
    try:
        proxy.start([Link(name="site", port=here, targets=(there,))])
        _, writer = await asyncio.open_connection("127.0.0.1", here)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        async with asyncio.timeout(60):
            await came.wait()
            await asyncio.wait({asyncio.create_task(gone.wait())}, timeout=0.1)
            assert not gone.is_set()
            writer.close()
            await gone.wait()
    finally:
        proxy.end()
        server.close()
