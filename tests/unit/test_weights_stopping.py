"""A worker that is told to go while weights come is gone at once, and what came is kept."""

import asyncio
import contextlib
import fcntl
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from weights_harness import CHUNK, NAME, pushed, write

from chunk_server import ChunkServer, chunk_server, keep_still
from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.weights.aside import aside, to_the_end
from swell.weights.cache import WeightCache
from swell.weights.chunks import Manifest
from swell.weights.fetch import fetch
from swell.weights.gather import Place, Terms
from swell.weights.growing import GivenUp, Growing, GrowingPaths

#: Nothing is given up by itself while a test lasts.
PATIENT = Terms(stall_s=60.0, hedge_s=60.0)

#: What "at once" is, in seconds: what would hold it up does so for half a minute or more, and
#: loaded machines of tests are slow.
AT_ONCE_S = 20.0


@pytest.fixture
def server() -> Iterator[ChunkServer]:
    with chunk_server() as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


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


class Still:
    """A source that says nothing about chunks until the test is over."""

    def __init__(self, server: ChunkServer) -> None:
        self._server = server
        self.asked = threading.Event()

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        return await self._server.manifest(model, version, digest)

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        self.asked.set()
        self._server.over.wait(60)
        return self._server.places(manifest, digests)


@pytest.mark.slow
async def test_while_addresses_are_asked_for(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    source = Still(server)
    fetching = asyncio.ensure_future(fetch(manifest, cache, source, SystemClock(), terms=PATIENT))
    async with cancelled_at_once(fetching):
        await asyncio.to_thread(source.asked.wait, 20)
    # Whoever hears of them now has nothing to write to any more.
    server.over.set()
    await asyncio.sleep(0.2)
    assert not any(GrowingPaths(cache, manifest, NAME).done())


@pytest.mark.slow
async def test_while_chunks_keep_still_and_what_came_is_not_fetched_again(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    still = manifest.files[NAME].chunks[-1]
    server.tricks[still] = keep_still(server)
    fetching = asyncio.ensure_future(fetch(manifest, cache, server, SystemClock(), terms=PATIENT))
    growing = GrowingPaths(cache, manifest, NAME)
    others = len(growing.file.chunks) - 1
    async with cancelled_at_once(fetching), asyncio.timeout(20):
        while not server.stuck.is_set() or growing.done().count(True) < others:
            await asyncio.sleep(0.01)
    await fetch(manifest, cache, server, SystemClock(), terms=PATIENT)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert server.asked.pop(still) == 2
    assert set(server.asked.values()) == {1}


@pytest.mark.slow
async def test_while_a_name_is_looked_up(
    server: ChunkServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    asked = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        asked.set()
        server.over.wait(60)
        raise OSError("the test is over")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    fetching = asyncio.ensure_future(fetch(manifest, cache, server, SystemClock(), terms=PATIENT))
    async with cancelled_at_once(fetching):
        await asyncio.to_thread(asked.wait, 20)
    server.over.set()


@pytest.mark.slow
async def test_while_another_worker_fetches_it(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    with cache.locked(manifest.files[NAME].sha256):
        fetching = asyncio.ensure_future(fetch(manifest, cache, server, SystemClock()))
        async with cancelled_at_once(fetching):
            await asyncio.sleep(0.3)


async def test_while_files_are_read_whole(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    stopping = threading.Event()
    growing = Growing(cache, manifest, NAME, stopping)
    data = source.read_bytes()
    for number in range(len(growing.file.chunks)):
        growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))
    stopping.set()
    with pytest.raises(GivenUp):
        growing.keep()
    growing.close()
    assert not cache.entries()
    assert GrowingPaths(cache, manifest, NAME).is_whole()
    await fetch(manifest, cache, server, SystemClock())
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == data
    assert not server.asked


async def test_while_chunks_of_an_earlier_start_of_the_machine_are_compared(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    growing = Growing(cache, manifest, NAME)
    growing.write(0, memoryview(source.read_bytes()[:CHUNK]))
    growing.close()
    notes = growing.notes.read_bytes()
    growing.notes.write_bytes(b"0" * 39 + notes[39:])
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(GivenUp):
        Growing(cache, manifest, NAME, stopping)
    assert growing.notes.read_bytes()[40:] == notes[40:]
    await fetch(manifest, cache, server, SystemClock())
    assert server.asked[manifest.files[NAME].chunks[0]] == 0


@pytest.mark.slow
async def test_files_are_opened_and_compared_beside_the_event_loop(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    growing = Growing(cache, manifest, NAME)
    growing.close()
    # Whoever opens it waits for this lock.
    with growing.part.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        letting_go = threading.Timer(10.0, held.close)
        letting_go.start()
        fetching = asyncio.ensure_future(fetch(manifest, cache, server, SystemClock()))
        begun_s = time.monotonic()
        await asyncio.sleep(0.5)
        assert time.monotonic() - begun_s < 5.0
        assert not fetching.done()
        letting_go.cancel()
    await fetching


#: Asks a backend that keeps still, and gives up.
ASKER = """
import asyncio, sys
from swell.weights.sources import BackendSource

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


@pytest.mark.slow
async def test_who_waits_for_an_address_is_not_taken_for_a_server_that_keeps_still(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    clock = ManualClock()

    class Slow(Still):
        def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
            for _ in range(3):
                clock.advance(60.0)
                # Whoever looks for what keeps still sees it.
                server.over.wait(0.4)
            return server.places(manifest, digests)

    terms = Terms(stall_s=20.0, hedge_s=20.0, tries=1)
    await fetch(manifest, cache, Slow(server), clock, terms=terms)
    assert set(server.asked.values()) == {1}


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
