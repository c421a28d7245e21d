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

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(60)]


class Site:
    """A server that writes down what it hears, behind the proxy."""

    def __init__(self, proxy: Proxy, url: str) -> None:
        self.proxy = proxy
        self.url = url
        self.heard: list[str] = []

    async def until_heard(self, n: int) -> None:
        async with asyncio.timeout(10):
            while len(self.heard) < n:
                await asyncio.sleep(0.01)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.heard.append(f"{request.method} {body}")
        return web.Response(text=body[::-1])

    async def say(self, body: str, method: str = "POST", wait_s: float = 10.0) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=wait_s)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, self.url, data=body) as answer,
        ):
            return answer.status, await answer.text()


@contextlib.asynccontextmanager
async def a_site(folder: Path) -> AsyncIterator[Site]:
    here, there, nowhere = free_port(), free_port(), free_port()
    proxy = Proxy(folder / "proxy.log")
    site = Site(proxy, f"http://127.0.0.1:{here}/")
    app = web.Application()
    app.router.add_route("*", "/", site.answer)
    async with listening(app, port=there):
        try:
            # One of the targets is dead, as a killed backend is.
            proxy.start([Link(name="site", port=here, targets=(nowhere, there))])
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
        saying = asyncio.create_task(site.say("abc"))
        done, _ = await asyncio.wait({saying}, timeout=0.3)
        assert not done
        assert site.heard == []
        site.proxy.set("site")
        assert await saying == (200, "cba")


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
        saying = asyncio.create_task(site.say("abc", wait_s=60.0))
        await site.until_heard(len(heard))
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await asyncio.wait_for(saying, 0.5)
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
        assert 0.05 < max(took_s) < 5.0


async def test_only_the_methods_of_a_rule_are_refused(tmp_path: Path) -> None:
    async with a_site(tmp_path) as site:
        site.proxy.set("site", Rule(refuse=("PUT",)))
        assert (await site.say("abc", "PUT"))[0] == 503
        assert await site.say("abc", "POST") == (200, "cba")
        assert site.heard == ["POST abc"]


async def test_whoever_goes_away_is_missed_at_once(tmp_path: Path) -> None:
    """Else a backend would give tasks to a worker that was killed while it waited."""
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
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
        await asyncio.wait({asyncio.create_task(gone.wait())}, timeout=0.2)
        assert not gone.is_set()
        writer.close()
        async with asyncio.timeout(10):
            await gone.wait()
    finally:
        proxy.end()
        server.close()
