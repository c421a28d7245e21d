"""Room for weights: partial files count, and files that are needed too are not evicted."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from weights_harness import NAME, RANGE, pushed, write

from swell.core.clock import SystemClock
from swell.core.errors import SwellError
from swell.weights.cache import CacheFull, CacheUnusable, PartialFile, WeightCache
from swell.weights.manifest import manifest_digest
from swell.weights.store_download import fetch
from swell.weights.weight_index import Listing
from swell.worker.weight_prefetch import Provision, Wish
from weight_server import WeightServer

pytestmark = pytest.mark.usefixtures("small_ranges")


async def get(listing: Listing, cache: WeightCache, server: WeightServer) -> None:
    await fetch(listing, cache, server, SystemClock())


def begin(cache: WeightCache, listing: Listing, data: bytes) -> str:
    """Leave the beginning of its only file; return its digest."""
    digest = listing.files[NAME].sha256
    partial = cache.partials.open(digest)
    partial.write(data)
    partial.close()
    return digest


def test_what_came_in_part_counts_and_goes_when_nobody_fetches_it(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=100_000)
    digest = begin(cache, pushed(server, source), source.read_bytes()[:10_000])
    assert cache.size_bytes() == cache.partials.size_bytes(digest) == 10_000
    with cache.partials.lock(digest):
        assert cache.evict(0).in_use == 1
    os.utime(cache.partials.path(digest), (1_000, 1_000))
    content = cache.add(write(tmp_path / "a.safetensors", 1), "a.safetensors")
    evicted = cache.evict(content.size_bytes)
    assert (evicted.freed_bytes, evicted.left_bytes) == (10_000, content.size_bytes)
    assert (evicted.digests, evicted.in_use) == ((), 0)
    assert cache.has(content)
    assert not list((cache.folder / "partial").iterdir())
    assert not (cache.folder / "locks" / digest).exists()


async def test_a_fetch_that_goes_on_needs_no_more_than_what_is_missing(
    server: WeightServer, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=100_000)
    listing = pushed(server, source)
    cache = WeightCache(tmp_path / "cache", budget_bytes=listing.size_bytes)
    begin(cache, listing, source.read_bytes()[: 20 * RANGE])
    await get(listing, cache, server)
    assert cache.size_bytes() == listing.size_bytes
    assert min(start for _, start in server.asked) == 20 * RANGE


async def test_what_others_left_in_part_makes_room(server: WeightServer, tmp_path: Path) -> None:
    sources = [write(tmp_path / str(seed) / NAME, seed, 50_000) for seed in range(2)]
    old, new = (pushed(server, path, version=f"v{n}") for n, path in enumerate(sources))
    cache = WeightCache(tmp_path / "cache", budget_bytes=new.size_bytes + 10 * RANGE)
    digest = begin(cache, old, sources[0].read_bytes()[:-RANGE])
    await get(new, cache, server)
    assert not cache.missing(new)
    assert not cache.partials.path(digest).exists()


async def test_that_there_is_no_room_is_told_before_anything_comes(
    server: WeightServer, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=9_000), write(tmp_path / "b.safetensors"))
    with pytest.raises(CacheFull, match="do not fit the budget"):
        await get(listing, WeightCache(tmp_path / "small", listing.size_bytes - 1), server)
    assert not server.asked


async def test_the_same_content_under_two_names_counts_once(
    server: WeightServer, tmp_path: Path
) -> None:
    one, two = write(tmp_path / "a.safetensors", size=9_000), tmp_path / "b.safetensors"
    two.write_bytes(one.read_bytes())
    listing = pushed(server, one, two)
    cache = WeightCache(tmp_path / "cache", listing.size_bytes)
    await get(listing, cache, server)
    assert len(cache.entries()) == 1
    assert set(server.asked.values()) == {1}


async def test_a_second_model_does_not_take_the_room_of_the_first(
    server: WeightServer, tmp_path: Path
) -> None:
    sources = [write(tmp_path / str(seed) / NAME, seed, 20_000) for seed in range(3)]
    manifests = [pushed(server, path, model=f"acme/m{n}") for n, path in enumerate(sources)]
    cache = WeightCache(tmp_path / "cache", 2 * manifests[0].size_bytes + RANGE)
    await get(manifests[2], cache, server)
    wishes = [Wish(each.model, "v1", manifest_digest(each)) for each in manifests]
    await Provision(wishes[:2], cache, server, SystemClock()).bring()
    # What nobody of these needs has gone.
    assert [bool(cache.missing(each)) for each in manifests] == [False, False, True]
    with pytest.raises(CacheFull, match="raise it, or stop workers"):
        await Provision(wishes, cache, server, SystemClock()).bring()
    assert [bool(cache.missing(each)) for each in manifests] == [False, False, True]


async def test_a_disk_that_fills_in_the_middle_is_told_and_the_next_try_goes_on(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    write_all, room = PartialFile.write, [8]

    def short(self: PartialFile, data: bytes) -> None:
        room[0] -= 1
        if room[0] > 0:
            write_all(self, data)
            return
        # A half of it may have been written before.
        write_all(self, data[: len(data) // 2])
        raise CacheFull("make room")

    monkeypatch.setattr(PartialFile, "write", short)
    with pytest.raises(CacheFull, match="make room"):
        await get(listing, cache, server)
    monkeypatch.undo()
    assert not cache.entries()
    begun = cache.partials.size_bytes(listing.files[NAME].sha256)
    assert begun == 7 * RANGE + RANGE // 2
    server.asked.clear()
    await get(listing, cache, server)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert min(start for _, start in server.asked) == begun


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_what_the_disk_did_not_take_at_last_is_not_believed_again(
    server: WeightServer,
    cache: WeightCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    content = cache.path(listing.files[NAME].sha256)
    fsync = os.fsync

    def refuse(fd: int) -> None:
        if content.exists() and os.fstat(fd).st_ino == content.stat().st_ino:
            raise OSError(number, os.strerror(number))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SwellError):
        await get(listing, cache, server)
    monkeypatch.undo()
    # Its pages are in memory only, and the system says once that they are.
    assert not cache.entries()
    assert not list((cache.folder / "partial").iterdir())
    await get(listing, cache, server)
    assert content.read_bytes() == source.read_bytes()


async def test_a_folder_where_a_file_grows_is_told_and_leaves_nothing_open(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    path = cache.partials.path(listing.files[NAME].sha256)
    path.mkdir(parents=True)
    (path / "something").write_text("")
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(CacheUnusable, match="move it away") as told:
            await get(listing, cache, server)
        assert str(path) in told.value.detail
    assert len(os.listdir("/dev/fd")) == before


async def test_what_cannot_be_written_to_is_told_with_what_to_do(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    mkdir = Path.mkdir

    def refuse(self: Path, *words: Any, **more: Any) -> None:
        if self.is_relative_to(cache.folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        mkdir(self, *words, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    wishes = [Wish("acme/poster", "v1", manifest_digest(listing))]
    for bring in (
        Provision(wishes, cache, server, SystemClock()).bring(),
        get(listing, cache, server),
    ):
        with pytest.raises(CacheUnusable, match=r"worker\.cache_dir"):
            await bring


async def test_weights_that_are_there_are_used_from_a_cache_that_cannot_be_written_to(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    wishes = [Wish("acme/poster", "v1", manifest_digest(listing))]
    await Provision(wishes, cache, server, SystemClock()).bring()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "utime", refuse)
    await Provision(wishes, cache, server, SystemClock()).bring()
    with cache.use(listing) as held:
        assert held.paths[NAME].exists()
