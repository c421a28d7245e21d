"""Weights go up file by file, those that were not there, and come back from the store."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from weights_harness import NAME, listing_of, write

from buckets import SECRET, s3_bucket
from servers import Server
from swell.containers.context import bake
from swell.containers.packing import Packed
from swell.core.clock import SystemClock
from swell.core.errors import Conflict, InvalidRequest, NotFound, Unavailable
from swell.objects.folder import FolderObjects, TemporaryObjects
from swell.objects.object_store import ObjectInfo
from swell.weights.cache import DigestMismatch, PullFailed, WeightCache
from swell.weights.manifest import manifest_digest
from swell.weights.push import Pushed, PushProgress, push
from swell.weights.store import Found, WeightStore, file_key, version_key
from swell.weights.store_download import fetch
from swell.weights.store_reader import StoreSource
from swell.weights.weight_errors import RefusedFormat
from swell.weights.weight_index import InvalidListing, Listing


async def up(store: WeightStore, *paths: Path, version: str = "v1", verify: bool = False) -> Pushed:
    listing = listing_of(*paths, version=version)
    return await push(listing, {path.name: path for path in paths}, store, verify=verify)


async def down(listing: Listing, store: WeightStore, cache: WeightCache) -> Listing:
    return await fetch(listing, cache, StoreSource(store), SystemClock())


class Noting(TemporaryObjects):
    """Notes what is written, and fails as it is told."""

    def __init__(self) -> None:
        super().__init__(SystemClock(), SECRET)
        self.put_keys: list[str] = []
        #: Numbers of puts that do not come through, counted from 0.
        self.fails: set[int] = set()

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
def store(objects: FolderObjects) -> WeightStore:
    return WeightStore(objects, "weights")


async def test_what_was_pushed_to_a_folder_comes_back(store: WeightStore, tmp_path: Path) -> None:
    source = write(tmp_path / NAME, size=20_000)
    pushed = await up(store, source)
    manifest = await StoreSource(store).manifest("acme/poster", "v1")
    assert manifest == pushed.listing
    cache = WeightCache(tmp_path / "cache")
    listing = await down(manifest, store, cache)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()


async def test_only_files_that_are_not_there_go_up(store: WeightStore, tmp_path: Path) -> None:
    one, two = write(tmp_path / NAME, 1, 20_000), write(tmp_path / "vae.safetensors", 2, 20_000)
    first = await up(store, one)
    assert (first.sent_files, first.there_files) == (1, 0)
    again = await up(store, one)
    assert (again.sent_files, again.there_bytes) == (0, first.sent_bytes)
    both = await up(store, one, two, version="v2")
    assert (both.sent_files, both.there_files) == (1, 1)
    assert both.sent_bytes == two.stat().st_size


async def test_a_push_that_was_broken_off_goes_on(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    sources = [write(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]
    whole = await up(store, *sources, version="whole")
    lost, cut = (whole.listing.files[path.name].sha256 for path in sources[:2])
    await objects.delete([f"weights/{file_key(lost)}"])
    await objects.put(f"weights/{file_key(cut)}", b"half", "application/octet-stream")
    again = await up(store, *sources)
    assert (again.sent_files, again.wrong_files, again.there_files) == (2, 1, 1)
    assert (await down(again.listing, store, WeightCache(tmp_path / "cache"))).version == "v1"


async def test_a_version_is_there_only_when_all_its_files_are(tmp_path: Path) -> None:
    class Full(TemporaryObjects):
        async def put(self, key: str, data: object, content_type: str) -> object:  # type: ignore[override]
            raise Unavailable("the disk is full")

    store = WeightStore(Full(SystemClock(), SECRET))
    with pytest.raises(
        Unavailable, match=r"0 of 1 files were uploaded.*run the same command again"
    ):
        await up(store, write(tmp_path / NAME))
    with pytest.raises(NotFound, match="swell models push acme/poster@v1"):
        await store.manifest("acme/poster", "v1")


async def test_a_file_that_was_changed_in_the_store_is_found_and_replaced(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    whole = await up(store, source)
    entry = whole.listing.files[NAME]
    wrong = bytes(entry.size_bytes)
    await objects.put(f"weights/{file_key(entry.sha256)}", wrong, "application/octet-stream")
    # Its size says nothing.
    again = await up(store, source)
    assert (again.sent_files, again.wrong_files) == (0, 0)
    cache = WeightCache(tmp_path / "cache")
    with pytest.raises(DigestMismatch, match="swell models push --verify"):
        await down(whole.listing, store, cache)
    mended = await up(store, source, verify=True)
    assert (mended.sent_files, mended.wrong_files, mended.there_files) == (1, 1, 0)
    listing = await down(whole.listing, store, cache)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    once_more = await up(store, source, verify=True)
    assert (once_more.sent_files, once_more.wrong_files) == (0, 0)


async def test_a_file_that_is_gone_from_the_store_is_told(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    pushed = await up(store, write(tmp_path / NAME))
    digest = pushed.listing.files[NAME].sha256
    await objects.delete([f"weights/{file_key(digest)}"])
    with pytest.raises(PullFailed, match=f"{NAME} of acme/poster: .* no file {digest}.* push it"):
        await down(pushed.listing, store, WeightCache(tmp_path / "cache"))


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
        await push(listing, {NAME: changed, new.name: new}, store)
    assert objects.put_keys == before
    said = refused.value.detail
    assert f"new.safetensors, old.safetensors, {NAME}" in said
    assert 'version = "v1-2"' in said


async def test_who_pushes_another_version_at_the_same_time_is_refused(tmp_path: Path) -> None:
    store = WeightStore(Noting())
    one, two = write(tmp_path / NAME, 1), write(tmp_path / "x" / NAME, 2)
    ended = await asyncio.gather(up(store, one), up(store, two), return_exceptions=True)
    assert sorted(type(each).__name__ for each in ended) == ["Conflict", "Pushed"]


async def test_what_ends_a_push_says_what_has_gone_up_and_it_goes_on_there(
    tmp_path: Path,
) -> None:
    objects = Noting()
    objects.fails = set(range(6, 1000))
    sources = [write(tmp_path / f"{seed}.safetensors", seed) for seed in range(9)]
    with pytest.raises(Unavailable, match="the line is gone") as ended:
        await up(WeightStore(objects), *sources)
    told = re.search(
        r"(\d) of 9 files were uploaded and stay in the store: run the same command again",
        ended.value.detail,
    )
    assert told is not None
    objects.fails = set()
    again = await up(WeightStore(objects), *sources)
    assert again.there_files >= int(told[1]) > 0
    assert again.sent_files == 9 - again.there_files


async def test_progress_is_told_within_a_file_and_a_cancelled_push_reads_no_further(
    store: WeightStore, tmp_path: Path
) -> None:
    (path := tmp_path / "big.json").write_bytes(b'"' + b"x" * (8 << 20) + b'"')
    told: list[PushProgress] = []

    def show(now: PushProgress) -> None:
        told.append(now)
        if now.doing == "sending" and now.done_bytes == 2 << 20:
            pushing.cancel()

    places = {path.name: path}
    pushing = asyncio.create_task(push(listing_of(path), places, store, progress=show))
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert told[-1] == PushProgress("sending", 2 << 20, (8 << 20) + 2)
    with pytest.raises(NotFound):
        await store.manifest("acme/poster", "v1")


async def test_a_file_that_has_changed_is_not_pushed(store: WeightStore, tmp_path: Path) -> None:
    path = write(tmp_path / NAME, 1)
    listing = listing_of(path)
    write(path, 2)
    with pytest.raises(DigestMismatch, match="pull it again, or correct the listing"):
        await push(listing, {NAME: path}, store)
    entry = listing.files[NAME]
    assert await store.look(entry.sha256, entry.size_bytes) is Found.MISSING


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


async def test_a_manifest_that_was_changed_in_the_store_is_refused(
    objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    pushed = await up(store, write(tmp_path / NAME, 1))
    other = await up(store, write(tmp_path / "x" / NAME, 2), version="v2")
    text = b"".join([piece async for piece in objects.read("weights/versions/acme/poster/v2.json")])
    await objects.put("weights/versions/acme/poster/v1.json", text, "application/json")
    with pytest.raises(InvalidListing, match="acme/poster@v2"):
        await store.manifest("acme/poster", "v1")
    digest = manifest_digest(other.listing)
    assert await store.manifest("acme/poster", "v2", digest) == other.listing
    with pytest.raises(InvalidListing, match=f"{digest}, and {manifest_digest(pushed.listing)}"):
        await store.manifest("acme/poster", "v2", manifest_digest(pushed.listing))


@pytest.mark.parametrize("text", [b"", b"half", b"{}", b'{"schemaVersion":2}', b"<html>"])
async def test_a_damaged_manifest_says_what_to_do(
    text: bytes, objects: FolderObjects, store: WeightStore, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    pushed = await up(store, source)
    key = version_key("acme/poster", "v1")
    await objects.put(f"weights/{key}", text, "application/json")
    for asked in (store.manifest("acme/poster", "v1"), up(store, source)):
        with pytest.raises(InvalidListing, match="remove it there and push the model") as refused:
            await asked
        assert f"{key}, the manifest of acme/poster@v1" in refused.value.detail
        assert f"({len(text)} bytes)" in refused.value.detail
    await objects.delete([f"weights/{key}"])
    again = await up(store, source)
    assert again.sent_files == 0
    assert await store.manifest("acme/poster", "v1") == pushed.listing


async def test_what_was_pushed_to_a_bucket_comes_back(moto_server: Server, tmp_path: Path) -> None:
    bucket = s3_bucket(moto_server)
    store = WeightStore(bucket.objects(SystemClock()))
    source = write(tmp_path / NAME, size=20_000)
    config = tmp_path / "config.json"
    config.write_text("{}")
    pushed = await up(store, source, config)
    again = await up(store, source, config)
    assert (again.sent_files, again.there_files) == (0, pushed.sent_files)
    with pytest.raises(Conflict):
        await up(store, write(tmp_path / "x" / NAME, 9))
    cache = WeightCache(tmp_path / "cache")
    listing = await down(pushed.listing, store, cache)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert cache.path(listing.files["config.json"].sha256).read_bytes() == b"{}"


async def test_large_files_go_to_a_bucket_in_parts_and_come_back_in_ranges(
    moto_server: Server, tmp_path: Path
) -> None:
    store = WeightStore(s3_bucket(moto_server).objects(SystemClock()))
    source = write(tmp_path / NAME, size=5_000_000)
    pushed = await up(store, source)
    cache = WeightCache(tmp_path / "cache")
    listing = await down(pushed.listing, store, cache)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    # One that changes while it is read is told as such, and never gets its name there.
    changed = write(tmp_path / "x" / NAME, 2, 5_000_000)
    listing = listing_of(changed, version="v2")
    with changed.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(DigestMismatch, match="pull it again, or correct the listing"):
        await push(listing, {NAME: changed}, store)
    entry = listing.files[NAME]
    assert await store.look(entry.sha256, entry.size_bytes) is Found.MISSING


async def test_a_file_that_was_changed_in_the_bucket_is_refused(
    moto_server: Server, small_ranges: None, tmp_path: Path
) -> None:
    objects = s3_bucket(moto_server).objects(SystemClock())
    store = WeightStore(objects)
    pushed = await up(store, write(tmp_path / NAME, size=20_000))
    entry = pushed.listing.files[NAME]
    cache = WeightCache(tmp_path / "cache")
    for wrong, error in ((bytes(entry.size_bytes), DigestMismatch), (b"short", PullFailed)):
        await objects.put(file_key(entry.sha256), wrong, "application/octet-stream")
        with pytest.raises(error, match=f"{NAME} of acme/poster"):
            await down(pushed.listing, store, cache)
        assert cache.missing(pushed.listing) == [NAME]


async def test_baked_weights_lie_below_a_cache_and_are_never_written_to(
    store: WeightStore, tmp_path: Path
) -> None:
    pushed = await up(store, write(tmp_path / NAME, 1, 20_000))
    here = WeightCache(tmp_path / "here")
    listing = await down(pushed.listing, store, here)
    size = listing.size_bytes
    digest = listing.files[NAME].sha256
    packed = Packed(contents={digest: here.path(digest)}, manifests=[pushed.listing])
    bake(packed, tmp_path / "baked")
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
    with pytest.raises(DigestMismatch, match="check both"):
        bake(Packed(contents={"0" * 64: write(tmp_path / NAME)}), tmp_path / "baked")
    assert WeightCache(tmp_path / "baked").entries() == []
