"""Weights that were pushed come whole and right, whatever their server does on the way."""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from weights_harness import CHUNK, NAME, pushed, write

from chunk_server import ChunkServer, Trick, answer, chunk_server, cut_off, keep_still
from swell.core.clock import SystemClock
from swell.core.errors import SwellError
from swell.weights import load
from swell.weights.cache import CacheFull, DigestMismatch, NotCached, PullFailed, WeightCache
from swell.weights.chunks import ChunkedFile, Manifest
from swell.weights.fetch import fetch
from swell.weights.gather import FETCHES, Terms
from swell.weights.growing import Growing, GrowingPaths
from swell.weights.listing import Wanted, WantedFile
from swell.weights.noted import note_manifest
from swell.weights.provided import Provided

QUICK = Terms(stall_s=10.0, hedge_s=60.0, wait_s=0.01, most_wait_s=0.02, tries=4)


@pytest.fixture
def server() -> Iterator[ChunkServer]:
    with chunk_server() as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


async def get(
    manifest: Manifest, cache: WeightCache, server: ChunkServer, terms: Terms = QUICK
) -> None:
    await fetch(manifest, cache, server, SystemClock(), terms=terms)


async def test_what_was_pushed_comes_whole_and_each_chunk_once(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert cache.listing("acme/poster", "v1") == manifest.listing
    assert set(server.asked.values()) == {1}
    assert not list((cache.folder / "partial").iterdir())
    await get(manifest, cache, server)
    assert set(server.asked.values()) == {1}


async def test_equal_chunks_are_fetched_once(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    one, two = tmp_path / "a.json", tmp_path / "b.json"
    one.write_bytes(b"x" * 5 * CHUNK + b"end")
    two.write_bytes(b"x" * 3 * CHUNK)
    (empty := tmp_path / "c.json").write_bytes(b"")
    manifest = pushed(server, one, two, empty)
    await get(manifest, cache, server)
    assert sorted(server.asked.values()) == [1, 1]
    for path in (one, two, empty):
        assert cache.path(manifest.files[path.name].sha256).read_bytes() == path.read_bytes()


def on_first(trick: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Trick:
    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number == 1:
            trick(asked, data)
        return number == 1

    return play


def cut_in_the_middle(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, data[: len(data) // 2], length=len(data))
    cut_off(asked)


def wrong_bytes(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, bytes(len(data)))


def too_short(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, data[:-1])


def too_long(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, data + b"x")


def of_no_length(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    asked.send_response(200)
    asked.send_header("Connection", "close")
    asked.end_headers()
    asked.wfile.write(data + b"more")


def packed(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    asked.send_response(200)
    asked.send_header("Content-Encoding", "gzip")
    asked.send_header("Content-Length", str(len(data)))
    asked.end_headers()
    asked.wfile.write(data)


def status(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    return lambda asked, data: answer(asked, b"no", status=code)


def hung_up(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    cut_off(asked)


PASSING = [
    cut_in_the_middle,
    hung_up,
    wrong_bytes,
    too_short,
    too_long,
    of_no_length,
    packed,
    status(503),
    status(500),
    status(429),
    status(403),
]


@pytest.mark.parametrize("trick", PASSING, ids=range(len(PASSING)))
async def test_what_goes_wrong_once_is_made_good(
    trick: Callable[[BaseHTTPRequestHandler, bytes], None],
    server: ChunkServer,
    cache: WeightCache,
    tmp_path: Path,
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    server.tricks[""] = on_first(trick)
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()
    # Each at an address of its own, since the first may have been the fault.
    assert set(server.asked.values()) == set(server.told.values()) == {2}


@pytest.mark.parametrize("trick", [wrong_bytes, too_short, too_long, of_no_length, packed])
async def test_a_chunk_that_stays_wrong_is_refused_with_the_reason(
    trick: Callable[[BaseHTTPRequestHandler, bytes], None],
    server: ChunkServer,
    cache: WeightCache,
    tmp_path: Path,
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    bad = manifest.files[NAME].chunks[3]

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        trick(asked, data)
        return True

    server.tricks[bad] = play
    with pytest.raises(DigestMismatch, match=rf"{NAME} of acme/poster, chunk 4 of \d+") as refused:
        await get(manifest, cache, server)
    if trick is wrong_bytes:
        assert bad in refused.value.detail
        assert hashlib.sha256(bytes(CHUNK)).hexdigest() in refused.value.detail
    assert server.asked[bad] == 2
    assert cache.missing(manifest.listing) == [NAME]
    # Nor may anybody read it from where it grows.
    assert not GrowingPaths(cache, manifest, NAME).is_whole()
    del server.tricks[bad]
    await get(manifest, cache, server)
    assert not cache.missing(manifest.listing)


@pytest.mark.parametrize(("code", "told"), [(503, "answered 503"), (404, "push it again")])
async def test_a_server_that_never_has_it_ends_the_fetch(
    code: int, told: str, server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        answer(asked, b"no", status=code)
        return True

    server.tricks[""] = play
    with pytest.raises(PullFailed, match=told):
        await get(manifest, cache, server)


async def test_a_server_that_is_gone_ends_the_fetch(cache: WeightCache, tmp_path: Path) -> None:
    with chunk_server() as server:
        manifest = pushed(server, write(tmp_path / NAME))
    with pytest.raises(PullFailed, match="refused"):
        await get(manifest, cache, server)


@pytest.mark.slow
async def test_a_connection_that_keeps_still_is_given_up(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    server.tricks[manifest.files[NAME].chunks[2]] = keep_still(server)
    # No hedge comes before.
    await get(manifest, cache, server, Terms(stall_s=0.4, hedge_s=60.0, wait_s=0.01))
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.mark.slow
async def test_a_drip_is_given_up(server: ChunkServer, cache: WeightCache, tmp_path: Path) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number > 1:
            return False
        asked.send_response(200)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        with contextlib.suppress(OSError):
            for at in range(len(data)):
                asked.wfile.write(data[at : at + 1])
                asked.wfile.flush()
                if server.over.wait(0.05):
                    break
        return True

    server.tricks[manifest.files[NAME].chunks[2]] = play
    await get(manifest, cache, server, Terms(stall_s=0.4, hedge_s=60.0, wait_s=0.01))
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.mark.slow
async def test_a_slow_chunk_is_asked_for_once_more_beside(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    slow = manifest.files[NAME].chunks[2]
    server.tricks[slow] = keep_still(server)
    # It would be heard of for very long.
    await get(manifest, cache, server, Terms(stall_s=60.0, hedge_s=0.1))
    assert server.asked[slow] == 2
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.mark.slow
async def test_chunks_that_came_before_a_break_are_not_fetched_again(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    last = manifest.files[NAME].chunks[-1]
    server.tricks[last] = keep_still(server)
    fetching = asyncio.create_task(get(manifest, cache, server, Terms(stall_s=60, hedge_s=60)))
    growing = GrowingPaths(cache, manifest, NAME)
    others = len(growing.file.chunks) - 1
    async with asyncio.timeout(20):
        while not server.stuck.is_set() or growing.done().count(True) < others:
            await asyncio.sleep(0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await get(manifest, cache, server)
    assert server.asked.pop(last) == 2
    assert set(server.asked.values()) == {1}


FETCHER = """
import asyncio, sys
from pathlib import Path
from swell.core.clock import SystemClock
from swell.weights.cache import WeightCache
from swell.weights.chunks import read_manifest
from swell.weights.fetch import fetch
from swell.weights.gather import Place, Terms

class Source:
    def places(self, manifest, digests):
        return [Place(f"{sys.argv[1]}/{digest}") for digest in digests]

manifest = read_manifest(Path(sys.argv[2]).read_bytes())
asyncio.run(fetch(manifest, WeightCache(Path(sys.argv[3])), Source(), SystemClock(),
                  terms=Terms(hedge_s=60)))
print("whole")
"""


def fetcher(server: ChunkServer, manifest: Manifest, cache: WeightCache) -> "subprocess.Popen[str]":
    note_manifest(cache, manifest)
    path = cache.manifest_paths(manifest.digest)[0]
    words = [server.url, str(path), str(cache.folder)]
    command = [sys.executable, "-c", textwrap.dedent(FETCHER), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
async def test_a_worker_that_was_killed_leaves_what_came_to_the_next(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=50_000)
    manifest = pushed(server, source)
    last = manifest.files[NAME].chunks[-1]
    server.tricks[last] = keep_still(server)
    growing = GrowingPaths(cache, manifest, NAME)
    process = fetcher(server, manifest, cache)
    others = len(growing.file.chunks) - 1
    async with asyncio.timeout(30):
        while not server.stuck.is_set() or growing.done().count(True) < others:
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not growing.is_whole()
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert server.asked.pop(last) == 2
    assert set(server.asked.values()) == {1}


@pytest.mark.slow
async def test_workers_of_one_machine_fetch_once(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(
        server, write(tmp_path / NAME, size=50_000), write(tmp_path / "b.safetensors", 1)
    )
    processes = [fetcher(server, manifest, cache) for _ in range(3)]
    said = await asyncio.gather(*(asyncio.to_thread(each.communicate) for each in processes))
    assert [out for out, _ in said] == ["whole\n"] * 3
    assert set(server.asked.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("asked", [1, 10, 25, 40])
async def test_of_two_workers_one_is_killed_at_any_moment_and_the_other_ends_with_all(
    server: ChunkServer, cache: WeightCache, tmp_path: Path, asked: int
) -> None:
    paths = [write(tmp_path / f"{seed}.safetensors", seed, 15_000) for seed in range(3)]
    manifest = pushed(server, *paths)
    assert len(manifest.chunks) > 40
    reached = threading.Event()

    def play(_: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if server.asked.total() >= asked:
            reached.set()
        # The other one is there, and waits.
        server.over.wait(0.02)
        return False

    server.tricks[""] = play
    one, other = (fetcher(server, manifest, cache) for _ in range(2))
    assert await asyncio.to_thread(reached.wait, 30)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    out, _ = await asyncio.to_thread(other.communicate)
    assert out == "whole\n"
    for path in paths:
        assert cache.path(manifest.files[path.name].sha256).read_bytes() == path.read_bytes()
    assert not list((cache.folder / "partial").iterdir())
    # What was on its way, and no more, came twice.
    assert server.asked.total() - len(manifest.chunks) <= FETCHES


async def test_what_was_written_before_the_machine_went_down_is_compared_again(
    server: ChunkServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    growing = Growing(cache, manifest, NAME)
    data = source.read_bytes()
    for number in range(3):
        growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))
    growing.close()
    # The machine went down before the second chunk had reached its disk.
    os.chmod(growing.part, 0o644)
    with growing.part.open("r+b") as file:
        file.seek(CHUNK)
        file.write(bytes(CHUNK))
    text = growing.notes.read_bytes()
    growing.notes.write_bytes(b"0" * 39 + text[39:])
    assert not any(GrowingPaths(cache, manifest, NAME).done())
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == data
    assert [server.asked[digest] for digest in manifest.files[NAME].chunks[:4]] == [0, 1, 0, 1]


@pytest.mark.parametrize("how", ["killed", "removed by hand"])
async def test_notes_of_a_file_that_is_gone_are_not_believed_of_the_next_one(
    server: ChunkServer, cache: WeightCache, tmp_path: Path, how: str
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    growing = Growing(cache, manifest, NAME)
    data = source.read_bytes()
    chunks = len(growing.file.chunks)
    for number in range(chunks):
        growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))
    notes = growing.notes.read_bytes()
    assert growing.is_whole()
    growing.close()
    growing.part.unlink()
    # Of whoever was killed when the notes should have gone.
    growing.notes.write_bytes(notes)
    if how == "killed":
        # The next file may even be given the number of the one before.
        assert not GrowingPaths(cache, manifest, NAME).is_whole()
    again = Growing(cache, manifest, NAME)
    assert again.has == [False] * chunks
    assert not GrowingPaths(cache, manifest, NAME).is_whole()
    again.close()
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == data
    assert not growing.notes.exists()


async def test_who_keeps_a_file_leaves_no_notes_behind_at_any_moment(
    server: ChunkServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    growing = Growing(cache, manifest, NAME)
    data = source.read_bytes()
    for number in range(len(growing.file.chunks)):
        growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))

    def killed(part: Path, entry: object) -> None:
        assert part.exists()
        assert not growing.notes.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        growing.keep()
    growing.close()


async def test_a_manifest_that_lies_about_a_file_gets_nothing_into_the_cache(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    honest = pushed(server, write(tmp_path / NAME, size=20_000))
    told = honest.files[NAME]
    lie = Manifest(
        "acme/poster", "v1", CHUNK, {NAME: ChunkedFile("0" * 64, told.bytes, told.chunks)}
    )
    with pytest.raises(DigestMismatch, match="the manifest is wrong"):
        await get(lie, cache, server)
    assert not cache.entries()
    assert not list((cache.folder / "partial").glob("*.part"))


async def test_a_pickle_under_another_name_gets_nothing_into_the_cache(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    (path := tmp_path / NAME).write_bytes(b"\x80\x04" + bytes(100))
    with pytest.raises(SwellError, match="pickle"):
        await get(pushed(server, path), cache, server)
    assert not cache.entries()


async def test_a_fetch_makes_room_within_the_budget(server: ChunkServer, tmp_path: Path) -> None:
    old = pushed(server, write(tmp_path / "old" / NAME, 1, 20_000), version="old")
    new = pushed(server, write(tmp_path / "new" / NAME, 2, 20_000), version="new")
    size = new.listing.size_bytes
    cache = WeightCache(tmp_path / "cache", budget_bytes=size + 1000)
    await get(old, cache, server)
    await get(new, cache, server)
    assert [entry.sha256 for entry in cache.entries()] == [new.files[NAME].sha256]
    with pytest.raises(CacheFull):
        await get(old, WeightCache(tmp_path / "small", budget_bytes=size - 1), server)


# --- the model's side ----------------------------------------------------------------------------


def provided(manifest: Manifest, cache: WeightCache, *, pinned: bool = True) -> Provided:
    files = {name: WantedFile("", file.sha256) for name, file in manifest.files.items()}
    wanted = Wanted(manifest.model, manifest.version, files, manifest.digest if pinned else None)
    return Provided(wanted, cache, SystemClock(), patience_s=1.5)


async def test_a_file_is_used_as_soon_as_its_chunks_are_there(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    note_manifest(cache, manifest)
    weights = provided(manifest, cache)
    waiting = asyncio.create_task(asyncio.to_thread(weights.path, NAME))
    data = source.read_bytes()
    # As whoever fetches it does.
    with cache.locked(manifest.files[NAME].sha256), cache.locked(manifest.file_key(NAME)):
        growing = Growing(cache, manifest, NAME)
        for number in range(len(growing.file.chunks)):
            # It looks meanwhile.
            await asyncio.sleep(0.02)
            assert not waiting.done()
            growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))
        path = await waiting
        loaded = load(path)
        # It gets its own name meanwhile, and the memory stays what it was.
        growing.keep()
        growing.close()
    assert np.array_equal(loaded["a"], load(source)["a"])
    assert load(weights.path(NAME)).header == load(source).header
    # Whoever uses it keeps it there.
    assert not cache.drop(manifest.files[NAME].sha256)
    del weights, loaded
    assert cache.drop(manifest.files[NAME].sha256)


@pytest.mark.slow
async def test_without_a_manifest_that_is_known_a_file_must_have_been_read_whole(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    weights = provided(manifest, cache, pinned=False)
    growing = Growing(cache, manifest, NAME)
    data = source.read_bytes()
    for number in range(len(growing.file.chunks)):
        growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))
    assert growing.is_whole()
    with pytest.raises(NotCached, match="nobody fetches it"):
        await asyncio.to_thread(weights.path, NAME)
    growing.keep()
    growing.close()
    assert weights.path(NAME).read_bytes() == data
    assert (weights.folder() / NAME).read_bytes() == data


async def test_what_a_model_uses_is_evicted_last(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    first = pushed(server, write(tmp_path / NAME, 1), version="first")
    second = pushed(server, write(tmp_path / "other" / NAME, 2), version="second")
    await get(first, cache, server)
    await get(second, cache, server)
    for manifest, at in ((first, 1_000), (second, 2_000)):
        os.utime(cache.path(manifest.files[NAME].sha256), (at, at))
    weights = provided(first, cache)
    assert weights.path(NAME).exists()
    del weights
    assert cache.evict(first.listing.size_bytes).digests == (second.files[NAME].sha256,)


async def test_what_a_model_writes_into_its_tensors_is_its_own(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    await get(manifest, cache, server)
    weights = provided(manifest, cache)
    loaded = load(weights.path(NAME))
    loaded["a"][:] = 0
    cache.verify(manifest.listing)
