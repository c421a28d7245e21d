"""Weights go up as chunks that were not there, and come back through signed URLs."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from weights_harness import write

from buckets import SECRET, s3_bucket
from servers import Server
from swell.core.clock import SystemClock
from swell.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from swell.objects.folder import FolderObjects, TemporaryObjects
from swell.objects.object_store import ObjectInfo
from swell.weights.bake import bake
from swell.weights.cache import DigestMismatch, WeightCache
from swell.weights.chunks import chunk_key, manifest_key, version_key, write_manifest
from swell.weights.fetch import fetch
from swell.weights.listing import Entry, InvalidListing, Listing
from swell.weights.push import Pushed, PushProgress, push
from swell.weights.refusals import RefusedFormat
from swell.weights.sources import StoreSource
from swell.weights.store import WeightStore

CHUNK = 4096
NAME = "unet.safetensors"


def listing_of(*paths: Path, version: str = "v1") -> Listing:
    files = {}
    for path in paths:
        data = path.read_bytes()
        files[path.name] = Entry(hashlib.sha256(data).hexdigest(), len(data))
    return Listing("acme/poster", version, files)


async def up(store: WeightStore, *paths: Path, version: str = "v1", verify: bool = False) -> Pushed:
    listing = listing_of(*paths, version=version)
    places = {path.name: path for path in paths}
    return await push(listing, places, store, chunk_bytes=CHUNK, verify=verify, clock=Impatient())


class Impatient(SystemClock):
    """Does not wait."""

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)


class Noting(TemporaryObjects):
    """Notes what is written, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__(SystemClock(), SECRET)
        self.put_keys: list[str] = []
        #: Numbers of puts that do not come through, counted from 0.
        self.fails: set[int] = set()

    is_here = False  # type: ignore[misc]

    async def put(
        self, key: str, data: bytes | AsyncIterator[bytes], content_type: str
    ) -> ObjectInfo:
        self.put_keys.append(key)
        if len(self.put_keys) - 1 in self.fails:
            raise Unavailable("the line is gone")
        return await super().put(key, data, content_type)


@pytest.fixture
def objects(tmp_path: Path) -> FolderObjects:
    return FolderObjects(tmp_path / "objects", SystemClock(), SECRET)


@pytest.fixture
def store(objects: FolderObjects, tmp_path: Path) -> WeightStore:
    return WeightStore(objects, "weights", tmp_path / "objects")


async def test_what_was_pushed_to_a_folder_comes_back(store: WeightStore, tmp_path: Path) -> None:
    source = write(tmp_path / NAME, size=20_000)
    pushed = await up(store, source)
    manifest = await StoreSource(store).manifest("acme/poster", "v1")
    assert manifest == pushed.manifest
    cache = WeightCache(tmp_path / "cache")
    listing = await fetch(manifest, cache, StoreSource(store), SystemClock())
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()


async def test_only_chunks_that_are_not_there_go_up(store: WeightStore, tmp_path: Path) -> None:
    one, two = write(tmp_path / NAME, 1, 20_000), write(tmp_path / "vae.safetensors", 2, 20_000)
    first = await up(store, one)
    assert (first.sent_chunks, first.there_chunks) == (len(first.manifest.chunks), 0)
    again = await up(store, one)
    assert (again.sent_chunks, again.there_bytes) == (0, first.sent_bytes)
    both = await up(store, one, two, version="v2")
    assert both.there_chunks == first.sent_chunks
    assert both.sent_bytes == two.stat().st_size


async def test_a_push_that_was_broken_off_goes_on(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    whole = await up(store, source, version="whole")
    lost = list(whole.manifest.chunks)[3]
    cut = list(whole.manifest.chunks)[5]
    await objects.delete([f"weights/{chunk_key(lost)}"])
    await objects.put(f"weights/{chunk_key(cut)}", b"half", "application/octet-stream")
    again = await up(store, source)
    assert again.sent_chunks == 2
    listing = await fetch(
        again.manifest, WeightCache(tmp_path / "cache"), StoreSource(store), SystemClock()
    )
    assert listing.version == "v1"


async def test_a_version_is_there_only_when_all_its_chunks_are(tmp_path: Path) -> None:
    class Full(TemporaryObjects):
        async def put(self, key: str, data: object, content_type: str) -> object:  # type: ignore[override]
            raise Unavailable("the disk is full")

    store = WeightStore(Full(SystemClock(), SECRET))
    with pytest.raises(Unavailable):
        await up(store, write(tmp_path / NAME))
    with pytest.raises(NotFound, match="swell models push acme/poster@v1"):
        await store.manifest("acme/poster", "v1")


@pytest.mark.slow
async def test_a_chunk_that_was_changed_where_it_lies_is_found_and_replaced(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    whole = await up(store, source)
    bad = list(whole.manifest.chunks)[3]
    await objects.put(f"weights/{chunk_key(bad)}", bytes(CHUNK), "application/octet-stream")
    # Its size says nothing.
    again = await up(store, source)
    assert (again.sent_chunks, again.wrong_chunks) == (0, 0)
    cache = WeightCache(tmp_path / "cache")
    with pytest.raises(DigestMismatch, match="swell models push --verify"):
        await fetch(whole.manifest, cache, StoreSource(store), SystemClock())
    mended = await up(store, source, verify=True)
    assert (mended.sent_chunks, mended.wrong_chunks) == (1, 1)
    assert mended.there_chunks == whole.sent_chunks - 1
    listing = await fetch(whole.manifest, cache, StoreSource(store), SystemClock())
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    once_more = await up(store, source, verify=True)
    assert (once_more.sent_chunks, once_more.wrong_chunks) == (0, 0)


async def test_a_version_with_other_weights_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    objects = Noting()
    store = WeightStore(objects)
    await up(store, write(tmp_path / NAME, 1), write(tmp_path / "old.safetensors", 3))
    before = list(objects.put_keys)
    changed, new = write(tmp_path / "x" / NAME, 2), write(tmp_path / "new.safetensors", 4)
    listing = listing_of(changed, new)
    # Nor is anything read.
    changed.unlink()
    with pytest.raises(Conflict, match="push these as another version") as refused:
        await push(listing, {NAME: changed, new.name: new}, store, chunk_bytes=CHUNK)
    assert objects.put_keys == before
    said = refused.value.detail
    theirs = (await store.manifest("acme/poster", "v1")).files[NAME].sha256
    ours = listing.files[NAME].sha256
    assert f"{NAME} is {ours[:12]}… here and {theirs[:12]}… there" in said
    assert "new.safetensors is not in it" in said
    assert "old.safetensors is only there" in said
    assert 'version = "v1-2"' in said


async def test_a_manifest_that_is_wrong_about_chunks_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    objects = Noting()
    store = WeightStore(objects)
    source = write(tmp_path / NAME, 1, 20_000)
    right = (await up(store, source)).manifest
    told = right.files[NAME]
    swapped = (told.chunks[1], told.chunks[0], *told.chunks[2:])
    lie = msgspec.structs.replace(
        right, files={NAME: msgspec.structs.replace(told, chunks=swapped)}, version="v2"
    )
    await store.publish(lie)
    before = list(objects.put_keys)
    with pytest.raises(Conflict, match=rf"chunk 1 of {NAME} is .*chunk 2 of {NAME} is"):
        await up(store, source, version="v2")
    assert objects.put_keys == before


async def test_a_version_that_was_pushed_in_chunks_of_another_size_is_the_same(
    store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    first = await up(store, source)
    again = await push(listing_of(source), {NAME: source}, store, chunk_bytes=2 * CHUNK)
    assert again.manifest == first.manifest
    assert again.sent_chunks == 0


async def test_who_pushes_another_version_at_the_same_time_is_refused(tmp_path: Path) -> None:
    store = WeightStore(Noting())
    one, two = write(tmp_path / NAME, 1), write(tmp_path / "x" / NAME, 2)
    ended = await asyncio.gather(up(store, one), up(store, two), return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == ["Conflict", "Pushed"]


async def test_a_line_that_breaks_now_and_then_carries_all(tmp_path: Path) -> None:
    objects = Noting()
    objects.fails = {3, 7, 8, 9, 10, 20}
    source = write(tmp_path / NAME, size=50_000)
    pushed = await up(WeightStore(objects), source)
    assert pushed.sent_bytes == source.stat().st_size
    again = await up(WeightStore(objects), source, verify=True)
    assert (again.sent_chunks, again.wrong_chunks) == (0, 0)


async def test_what_ends_a_push_says_what_has_gone_up_and_it_goes_on_there(
    tmp_path: Path,
) -> None:
    objects = Noting()
    objects.fails = set(range(10, 1000))
    source = write(tmp_path / NAME, size=50_000)
    with pytest.raises(Unavailable, match="the line is gone") as ended:
        await up(WeightStore(objects), source)
    assert "10 of 49 chunks have gone up and stay there: run the same command again" in str(
        ended.value
    )
    objects.fails = set()
    again = await up(WeightStore(objects), source)
    assert (again.there_chunks, again.sent_chunks) == (10, 39)


async def test_progress_is_told_within_a_file_and_a_cancelled_push_reads_no_further(
    store: WeightStore, tmp_path: Path
) -> None:
    (path := tmp_path / "big.json").write_bytes(b'"' + b"x" * (8 << 20) + b'"')
    told: list[PushProgress] = []
    begun, go_on = threading.Event(), threading.Event()

    def show(now: PushProgress) -> None:
        told.append(now)
        if now.done_bytes >= 2 << 20:
            begun.set()
            go_on.wait(20)

    pushing = asyncio.create_task(push(listing_of(path), {path.name: path}, store, progress=show))
    assert await asyncio.to_thread(begun.wait, 20)
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert [each.done_bytes for each in told] == [1 << 20, 2 << 20]
    assert told[-1] == PushProgress("reading big.json", 2 << 20, (8 << 20) + 2)


async def test_a_file_that_has_changed_is_not_pushed(store: WeightStore, tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 1)
    listing = listing_of(path)
    write(path, 2)
    with pytest.raises(DigestMismatch):
        await push(listing, {NAME: path}, store)


async def test_a_file_that_cannot_be_read_is_told(store: WeightStore, tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 1)
    listing = listing_of(path)
    path.unlink()
    with pytest.raises(InvalidRequest, match=r"unet\.safetensors"):
        await push(listing, {NAME: path}, store)


async def test_a_pickle_is_not_pushed(store: WeightStore, tmp_path: Path) -> None:
    (path := tmp_path / NAME).write_bytes(b"\x80\x04" + bytes(100))
    with pytest.raises(RefusedFormat):
        await up(store, path)


async def test_a_manifest_that_was_changed_where_it_lies_is_refused(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    pushed = await up(store, write(tmp_path / NAME, 1))
    other = await up(store, write(tmp_path / "x" / NAME, 2), version="v2")
    told = {"acme/poster/v1": other.manifest.digest, "acme/poster/v3": "0" * 64}
    for key, digest in told.items():
        text = b'{"manifest":"%s"}' % digest.encode()
        await objects.put(f"weights/versions/{key}.json", text, "application/json")
    with pytest.raises(InvalidListing, match="v2"):
        await store.manifest("acme/poster", "v1")
    with pytest.raises(NotFound):
        await store.manifest("acme/poster", "v3")
    # Whoever knows which one it is looks at nothing else.
    assert await store.manifest("acme/poster", "v1", pushed.manifest.digest) == pushed.manifest


@pytest.mark.parametrize("text", [b"", b"half", b"{}"])
async def test_a_damaged_manifest_says_what_to_do_and_is_written_anew_by_a_push(
    text: bytes, objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    pushed = await up(store, source)
    key = manifest_key(pushed.manifest.digest)
    await objects.put(f"weights/{key}", text, "application/json")
    with pytest.raises(InvalidListing, match="push the model again") as refused:
        await store.manifest("acme/poster", "v1")
    assert f"of {key} there are {len(text)} bytes" in refused.value.detail
    with pytest.raises(Conflict, match="cannot be read there any more"):
        await up(store, write(tmp_path / "x" / NAME, 2))
    again = await up(store, source)
    assert again.sent_chunks == 0
    assert await store.manifest("acme/poster", "v1") == pushed.manifest
    await objects.delete([f"weights/{key}"])
    await up(store, source)
    assert await store.manifest("acme/poster", "v1") == pushed.manifest


@pytest.mark.parametrize("text", [b"", b'{"manifest":"60', b"<html>", b'{"manifest":"x"}'])
async def test_what_names_no_manifest_says_what_to_remove(
    text: bytes, objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    pushed = await up(store, source)
    key = version_key("acme/poster", "v1")
    await objects.put(f"weights/{key}", text, "application/json")
    for asked in (store.manifest("acme/poster", "v1"), up(store, source)):
        with pytest.raises(InvalidListing, match=f"written {key} there. Remove that"):
            await asked
    await objects.delete([f"weights/{key}"])
    assert (await up(store, source)).manifest == pushed.manifest


async def test_a_file_of_somebody_else_in_place_of_a_manifest_is_told_as_one(
    objects: FolderObjects, store: WeightStore
) -> None:
    digest = hashlib.sha256(b'{"schemaVersion":2}').hexdigest()
    pointer = b'{"manifest":"%s"}' % digest.encode()
    for key, text in (
        (version_key("acme/poster", "v1"), pointer),
        (manifest_key(digest), b'{"schemaVersion":2}'),
    ):
        await objects.put(f"weights/{key}", text, "application/json")
    with pytest.raises(InvalidListing, match="was not written by this version of Swell"):
        await store.manifest("acme/poster", "v1")


async def test_a_store_that_signs_nothing_cannot_be_asked_itself(tmp_path: Path) -> None:
    store = WeightStore(TemporaryObjects(SystemClock(), SECRET))
    pushed = await up(store, write(tmp_path / NAME))
    with pytest.raises(InvalidRequest, match=r"weights\.url"):
        await fetch(
            pushed.manifest, WeightCache(tmp_path / "cache"), StoreSource(store), SystemClock()
        )


async def test_what_was_pushed_to_a_bucket_comes_back(moto_server: Server, tmp_path: Path) -> None:
    bucket = s3_bucket(moto_server)
    store = WeightStore(bucket.objects(SystemClock()))
    source = write(tmp_path / NAME, size=20_000)
    config = tmp_path / "config.json"
    config.write_text("{}")
    pushed = await up(store, source, config)
    again = await up(store, source, config)
    assert (again.sent_chunks, again.there_chunks) == (0, pushed.sent_chunks)
    with pytest.raises(Conflict):
        await up(store, write(tmp_path / "x" / NAME, 9))
    cache = WeightCache(tmp_path / "cache")
    listing = await fetch(pushed.manifest, cache, StoreSource(store), SystemClock())
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert cache.path(listing.files["config.json"].sha256).read_bytes() == b"{}"


async def test_a_chunk_that_was_changed_in_the_bucket_is_refused(
    moto_server: Server, tmp_path: Path
) -> None:
    objects = s3_bucket(moto_server).objects(SystemClock())
    store = WeightStore(objects)
    pushed = await up(store, write(tmp_path / NAME, size=20_000))
    digest = pushed.manifest.files[NAME].chunks[4]
    await objects.put(chunk_key(digest), bytes(CHUNK), "application/octet-stream")
    cache = WeightCache(tmp_path / "cache")
    with pytest.raises(DigestMismatch, match=f"chunk 5 of .* {digest} was asked for"):
        await fetch(pushed.manifest, cache, StoreSource(store), SystemClock())
    assert cache.missing(pushed.manifest.listing) == [NAME]


async def test_baked_weights_lie_below_a_cache_and_are_never_written_to(
    store: WeightStore, tmp_path: Path
) -> None:
    pushed = await up(store, write(tmp_path / NAME, 1, 20_000))
    here = WeightCache(tmp_path / "here")
    listing = await fetch(pushed.manifest, here, StoreSource(store), SystemClock())
    size = listing.size_bytes
    digest = listing.files[NAME].sha256
    bake({digest: here.path(digest)}, tmp_path / "baked", [pushed.manifest])
    image = WeightCache(tmp_path / "baked")
    before = image.path(listing.files[NAME].sha256).stat()
    cache = WeightCache(tmp_path / "cache", budget_bytes=size, below=tmp_path / "baked")
    assert cache.missing(listing) == []
    with cache.use(listing) as held:
        assert held.paths[NAME].is_relative_to(tmp_path / "baked")
    assert cache.evict(0).digests == ()
    assert cache.drop(listing.files[NAME].sha256)
    assert cache.entries() == []
    after = image.path(listing.files[NAME].sha256).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_what_is_another_file_than_its_name_promises_is_not_baked(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match="is not what it should be"):
        bake({"0" * 64: write(tmp_path / NAME)}, tmp_path / "baked")
    assert WeightCache(tmp_path / "baked").entries() == []


async def test_what_was_pushed_says_nothing_of_where_it_came_from(
    store: WeightStore, tmp_path: Path
) -> None:
    """It may be a path of this machine, or an address with a secret."""
    source = write(tmp_path / NAME, size=20_000)
    files = listing_of(source).files
    pushes = [
        await push(
            Listing("acme/poster", "v1", files, told), {NAME: source}, store, chunk_bytes=CHUNK
        )
        for told in ("https://example.com/w?token=hunter2", str(tmp_path), "")
    ]
    assert len({pushed.manifest.digest for pushed in pushes}) == 1
    assert b"hunter2" not in write_manifest(pushes[0].manifest)
