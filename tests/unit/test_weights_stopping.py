"""A worker that is told to stop while weights come is gone at once, and what came is kept."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from weights_harness import NAME, RANGE, pushed, write

from swell.core.clock import SystemClock
from swell.weights.cache import WeightCache
from swell.weights.detached_threads import aside, to_the_end
from swell.weights.store_download import fetch
from swell.weights.store_reader import BackendSource, Place
from swell.weights.weight_index import Listing
from weight_server import WeightServer, hold

pytestmark = pytest.mark.usefixtures("small_ranges")

#: What "at once" is, in seconds: what would hold it up does so for half a minute or more, and
#: loaded machines of tests are slow.
AT_ONCE_S = 20.0


@contextlib.asynccontextmanager
async def cancelled_at_once(fetching: "asyncio.Task[object]") -> AsyncIterator[None]:
    """Cancel it at the end, and see it gone before anything lets it go on."""
    begun_s = time.monotonic()
    yield
    assert not fetching.done()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert time.monotonic() - begun_s < AT_ONCE_S


async def test_while_addresses_are_asked_for(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    asked = asyncio.Event()

    class Still(BackendSource):
        async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
            asked.set()
            await asyncio.sleep(60)
            raise AssertionError

    source = Still(server.url, "key")
    fetching = asyncio.ensure_future(fetch(listing, cache, source, SystemClock()))
    async with cancelled_at_once(fetching):
        await asked.wait()


async def test_while_a_server_keeps_still_and_what_came_is_not_fetched_again(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    digest = listing.files[NAME].sha256
    server.tricks[15 * RANGE] = hold(server)
    fetching = asyncio.ensure_future(fetch(listing, cache, server, SystemClock()))
    async with cancelled_at_once(fetching), asyncio.timeout(20):
        while not server.stuck.is_set() or cache.partials.size_bytes(digest) < 15 * RANGE:
            await asyncio.sleep(0.01)
    server.asked.clear()
    server.tricks.clear()
    await fetch(listing, cache, server, SystemClock())
    assert cache.path(digest).read_bytes() == source.read_bytes()
    assert min(start for _, start in server.asked) == 15 * RANGE


async def test_while_a_name_is_looked_up(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    asked = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        asked.set()
        server.over.wait(60)
        raise OSError("the test is over")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    fetching = asyncio.ensure_future(fetch(listing, cache, server, SystemClock()))
    async with cancelled_at_once(fetching):
        await asyncio.to_thread(asked.wait, 20)
    server.over.set()


async def test_while_another_worker_fetches_it(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    with cache.partials.lock(listing.files[NAME].sha256):
        fetching = asyncio.ensure_future(fetch(listing, cache, server, SystemClock()))
        async with cancelled_at_once(fetching):
            await asyncio.sleep(0.3)


async def test_while_a_file_reaches_the_disk_and_it_is_used_meanwhile(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    begun, go_on = threading.Event(), threading.Event()

    def slow(self: WeightCache, sha256: str) -> None:
        begun.set()
        go_on.wait(20)

    monkeypatch.setattr(WeightCache, "sync", slow)
    fetching = asyncio.ensure_future(fetch(listing, cache, server, SystemClock()))
    assert await asyncio.to_thread(begun.wait, 20)
    with cache.use(listing) as held:
        assert held.paths[NAME].read_bytes() == source.read_bytes()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    go_on.set()
    assert not cache.missing(listing)


#: Asks a backend that keeps still, and gives up.
ASKER = """
import asyncio, sys
from swell.weights.store_reader import BackendSource

async def ask():
    try:
        async with asyncio.timeout(0.2):
            await BackendSource(sys.argv[1], "key").manifest("acme/poster", "v1")
    except TimeoutError:
        print("gone", flush=True)

asyncio.run(ask())
"""


@pytest.mark.slow
def test_a_process_ends_while_a_backend_keeps_still() -> None:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        url = f"http://127.0.0.1:{backend.getsockname()[1]}"
        with subprocess.Popen(
            [sys.executable, "-c", ASKER, url], stdout=subprocess.PIPE, text=True
        ) as asker:
            assert asker.stdout is not None
            assert asker.stdout.readline() == "gone\n"
            try:
                assert asker.wait(AT_ONCE_S) == 0
            finally:
                asker.kill()


async def test_work_aside_gives_its_result_or_its_error_and_is_let_go_of() -> None:
    assert await aside(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0)
    over, has_ended = threading.Event(), threading.Event()

    def wait() -> None:
        over.wait(60)
        has_ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await aside(wait)
    assert not has_ended.is_set()
    waiting = asyncio.ensure_future(to_the_end(lambda: over.wait(60), lambda: None))
    await asyncio.sleep(0.05)
    for _ in range(3):
        # However often.
        waiting.cancel()
        await asyncio.sleep(0.02)
        assert not waiting.done()
    over.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
