"""Room for weights: what has come in part counts, and what is needed too makes none."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from weights_harness import CHUNK, NAME, pushed, write

from chunk_server import ChunkServer, chunk_server
from swell.core.clock import SystemClock
from swell.core.errors import SwellError
from swell.weights.cache import CacheFull, CacheUnusable, WeightCache
from swell.weights.chunks import Manifest
from swell.weights.fetch import Wisher, fetch
from swell.weights.gather import Terms
from swell.weights.growing import Growing, GrowingPaths
from swell.worker.provision import Provision, Wish


@pytest.fixture
def server() -> Iterator[ChunkServer]:
    with chunk_server() as made:
        yield made


async def get(
    manifest: Manifest, cache: WeightCache, server: ChunkServer, wisher: Wisher | None = None
) -> None:
    # Requests are counted: nothing is asked for twice.
    terms = Terms(hedge_s=60.0)
    await fetch(manifest, cache, server, SystemClock(), terms=terms, wisher=wisher)


def begin(cache: WeightCache, manifest: Manifest, data: bytes, chunks: int) -> Growing:
    """Have so many chunks of its only file come."""
    growing = Growing(cache, manifest, NAME)
    for number in range(chunks):
        growing.write(number, memoryview(data[number * CHUNK : (number + 1) * CHUNK]))
    return growing


def test_what_came_in_part_counts_and_goes_when_nobody_fetches_it(
    server: ChunkServer, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=100_000)
    manifest = pushed(server, source)
    cache = WeightCache(tmp_path / "cache")
    growing = begin(cache, manifest, source.read_bytes(), 3)
    with cache.locked(growing.key):
        # It will take all that it has.
        assert cache.size_bytes() == cache.begun_bytes(growing.key) == growing.file.bytes
        assert cache.evict(0).in_use == 1
    taken = cache.size_bytes()
    assert 3 * CHUNK <= taken < 10 * CHUNK
    # Somebody uses it.
    assert cache.evict(0).left_bytes == taken
    growing.close()
    os.utime(growing.part, (1_000, 1_000))
    content = cache.add(write(tmp_path / "a.safetensors", 1), "a.safetensors")
    evicted = cache.evict(content.size_bytes)
    assert (evicted.freed_bytes, evicted.left_bytes) == (taken, content.size_bytes)
    assert (evicted.digests, evicted.in_use) == ((), 0)
    assert cache.has(content)
    assert not list((cache.folder / "partial").iterdir())
    assert not (cache.folder / "locks" / growing.key).exists()


@pytest.mark.slow
async def test_a_fetch_that_goes_on_needs_no_more_than_what_is_missing(
    server: ChunkServer, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=100_000)
    manifest = pushed(server, source)
    size = manifest.listing.size_bytes
    cache = WeightCache(tmp_path / "cache", budget_bytes=size)
    begin(cache, manifest, source.read_bytes(), 20).close()
    await get(manifest, cache, server)
    assert cache.size_bytes() == size
    assert sum(server.asked.values()) == len(manifest.files[NAME].chunks) - 20


@pytest.mark.slow
async def test_what_others_left_in_part_makes_room(server: ChunkServer, tmp_path: Path) -> None:
    sources = [write(tmp_path / str(seed) / NAME, seed, 100_000) for seed in range(2)]
    old, new = (pushed(server, path, version=f"v{n}") for n, path in enumerate(sources))
    cache = WeightCache(tmp_path / "cache", budget_bytes=new.listing.size_bytes + 10 * CHUNK)
    begin(cache, old, sources[0].read_bytes(), 60).close()
    await get(new, cache, server)
    assert not cache.missing(new.listing)
    assert not GrowingPaths(cache, old, NAME).part.exists()


async def test_chunks_that_are_in_several_places_count_in_each(
    server: ChunkServer, tmp_path: Path
) -> None:
    one, two = tmp_path / "a.json", tmp_path / "b.json"
    one.write_bytes(b"x" * 10 * CHUNK)
    two.write_bytes(b"x" * 8 * CHUNK)
    manifest = pushed(server, one, two)
    with pytest.raises(CacheFull, match="do not fit the budget"):
        await get(manifest, WeightCache(tmp_path / "small", 18 * CHUNK - 1), server)
    assert not server.asked, "it is told before anything comes"
    came: list[int] = []
    await get(manifest, WeightCache(tmp_path / "cache", 18 * CHUNK), server, Wisher(came.append))
    assert sum(came) == CHUNK, "it came over the network once"


async def test_the_same_content_under_two_names_counts_once(
    server: ChunkServer, tmp_path: Path
) -> None:
    one, two = write(tmp_path / "a.safetensors", size=9_000), tmp_path / "b.safetensors"
    two.write_bytes(one.read_bytes())
    manifest = pushed(server, one, two)
    cache = WeightCache(tmp_path / "cache", manifest.listing.size_bytes)
    await get(manifest, cache, server)
    assert len(cache.entries()) == 1
    assert set(server.asked.values()) == {1}


@pytest.mark.slow
async def test_a_second_model_does_not_take_the_room_of_the_first(
    server: ChunkServer, tmp_path: Path
) -> None:
    sources = [write(tmp_path / str(seed) / NAME, seed, 20_000) for seed in range(3)]
    manifests = [pushed(server, path, model=f"acme/m{n}") for n, path in enumerate(sources)]
    size = manifests[0].listing.size_bytes
    cache = WeightCache(tmp_path / "cache", 2 * size + CHUNK)
    await get(manifests[2], cache, server)
    wishes = [Wish(each.model, "v1", each.digest) for each in manifests]
    await Provision(wishes[:2], cache, server, SystemClock()).bring()
    # What nobody of these needs has gone.
    assert [bool(cache.missing(each.listing)) for each in manifests] == [False, False, True]
    with pytest.raises(CacheFull, match="raise it, or stop workers"):
        await Provision(wishes, cache, server, SystemClock()).bring()
    assert [bool(cache.missing(each.listing)) for each in manifests] == [False, False, True]


async def test_a_disk_that_fills_in_the_middle_is_told_and_the_next_try_goes_on(
    server: ChunkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    cache = WeightCache(tmp_path / "cache")
    room, pwrite = [8], os.pwrite

    def short(fd: int, data: Any, at: int) -> int:
        room[0] -= 1
        if room[0] > 0:
            return pwrite(fd, data, at)
        # A half of it may have been written before.
        pwrite(fd, data[: len(data) // 2], at)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(CacheFull, match="make room"):
        await get(manifest, cache, server)
    monkeypatch.undo()
    growing = GrowingPaths(cache, manifest, NAME)
    there = growing.done()
    assert 0 < there.count(True) < len(there)
    assert not cache.entries()
    data = source.read_bytes()
    part = growing.part.read_bytes()
    for number, is_there in enumerate(there):
        span = slice(number * CHUNK, (number + 1) * CHUNK)
        assert not is_there or part[span] == data[span]
    before = server.asked.copy()
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == data
    # What is there is not asked for again.
    missing = {
        hashlib.sha256(data[number * CHUNK : (number + 1) * CHUNK]).hexdigest()
        for number, is_there in enumerate(there)
        if not is_there
    }
    assert set(server.asked - before) == missing


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_what_the_disk_did_not_take_at_last_is_not_believed_again(
    server: ChunkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    cache = WeightCache(tmp_path / "cache")
    growing = GrowingPaths(cache, manifest, NAME)
    fsync = os.fsync

    def refuse(fd: int) -> None:
        if os.path.exists(growing.part) and os.fstat(fd).st_ino == growing.part.stat().st_ino:
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SwellError):
        await get(manifest, cache, server)
    monkeypatch.undo()
    # Its pages are in memory only, and the system says once that they are.
    assert not growing.part.exists()
    assert not any(growing.done())
    assert not cache.entries()
    await get(manifest, cache, server)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("suffix", [".part", ".done"])
async def test_a_folder_where_a_file_grows_is_told_and_leaves_nothing_open(
    server: ChunkServer, tmp_path: Path, suffix: str
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    cache = WeightCache(tmp_path / "cache")
    path = GrowingPaths(cache, manifest, NAME).part.with_suffix(suffix)
    path.mkdir(parents=True)
    (path / "something").write_text("")
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(CacheUnusable, match="move it away") as told:
            Growing(cache, manifest, NAME)
        assert str(path) in told.value.detail
    assert len(os.listdir("/dev/fd")) == before
    with pytest.raises(CacheUnusable):
        await get(manifest, cache, server)
    assert len(os.listdir("/dev/fd")) == before


def test_room_that_others_have_promised_is_not_given_twice(
    server: ChunkServer, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=100_000)
    manifest = pushed(server, source)
    cache = WeightCache(tmp_path / "cache", budget_bytes=2 * source.stat().st_size)
    with contextlib.closing(begin(cache, manifest, source.read_bytes(), 1)) as growing:
        with cache.locked(growing.key), pytest.raises(CacheFull, match="in use"):
            cache.make_room(source.stat().st_size + 1)
        cache.make_room(source.stat().st_size + 1)


async def test_what_cannot_be_written_to_is_told_with_what_to_do(
    server: ChunkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    cache = WeightCache(tmp_path / "cache")
    mkdir = Path.mkdir

    def refuse(self: Path, *words: Any, **more: Any) -> None:
        if self.is_relative_to(cache.folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        mkdir(self, *words, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    wishes = [Wish("acme/poster", "v1", manifest.digest)]
    for bring in (
        Provision(wishes, cache, server, SystemClock()).bring(),
        get(manifest, cache, server),
    ):
        with pytest.raises(CacheUnusable, match=r"worker\.cache_dir"):
            await bring


async def test_weights_that_are_there_are_used_from_a_cache_that_cannot_be_written_to(
    server: ChunkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    cache = WeightCache(tmp_path / "cache")
    await get(manifest, cache, server)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    wishes = [Wish("acme/poster", "v1", manifest.digest)]
    await Provision(wishes, cache, server, SystemClock()).bring()
    with cache.use(manifest.listing) as held:
        assert held.paths[NAME].exists()
