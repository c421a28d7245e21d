"""Manifests that were noted are whole, or as if they were not there."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from weights_harness import NAME, pushed, write

from chunk_server import ChunkServer, chunk_server
from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.weights.cache import CacheUnusable, NotCached, WeightCache
from swell.weights.chunks import write_manifest
from swell.weights.listing import InvalidListing, Wanted
from swell.weights.noted import note_manifest, noted_manifest
from swell.weights.provided import Provided
from swell.worker.provision import Provision, Wish


@pytest.fixture
def server() -> Iterator[ChunkServer]:
    with chunk_server() as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


@pytest.mark.parametrize("text", [b"", b"{", b"\0" * 300], ids=["empty", "cut off", "zeros"])
async def test_one_that_a_crash_has_cut_off_is_fetched_again(
    server: ChunkServer, cache: WeightCache, tmp_path: Path, text: bytes
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    [path] = cache.manifest_paths(manifest.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(NotCached):
        noted_manifest(cache, manifest.digest)
    wish = Wish("acme/poster", "v1", manifest.digest)
    assert not wish.is_in(cache)
    weights = Provided(Wanted("acme/poster", "v1", {}, manifest.digest), cache, ManualClock())
    waiting = asyncio.create_task(asyncio.to_thread(weights.path, NAME))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await Provision([wish], cache, server, SystemClock()).bring()
    assert (await waiting).exists()
    assert noted_manifest(cache, manifest.digest) == manifest
    assert path.read_bytes() == write_manifest(manifest)
    assert wish.is_in(cache)


async def test_one_that_was_damaged_in_an_image_is_noted_beside_it(
    server: ChunkServer, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    below = WeightCache(tmp_path / "baked")
    note_manifest(below, manifest)
    cache = WeightCache(tmp_path / "cache", below=below.folder)
    own, baked = cache.manifest_paths(manifest.digest)
    note_manifest(cache, manifest)
    assert not own.exists(), "it is there already"
    baked.write_bytes(b"{")
    with pytest.raises(NotCached):
        noted_manifest(cache, manifest.digest)
    note_manifest(cache, manifest)
    assert noted_manifest(cache, manifest.digest) == manifest
    assert baked.read_bytes() == b"{"


def test_one_that_this_version_cannot_use_says_so_and_is_not_fetched_again_and_again(
    cache: WeightCache,
) -> None:
    text = b'{"format":2}'
    digest = hashlib.sha256(text).hexdigest()
    [path] = cache.manifest_paths(digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(InvalidListing):
        noted_manifest(cache, digest)


async def test_a_folder_in_its_place_is_told(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    [path] = cache.manifest_paths(manifest.digest)
    path.mkdir(parents=True)
    (path / "something").write_text("")
    with pytest.raises(CacheUnusable, match="move it away") as told:
        note_manifest(cache, manifest)
    assert str(path) in told.value.detail
    assert list(path.parent.iterdir()) == [path], "no draft is left"
