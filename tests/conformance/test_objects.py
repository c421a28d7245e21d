import asyncio
import gc
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from buckets import SECRET, Bucket, azure_container, gcs_bucket, s3_bucket
from conformance.objects import (
    DirectUrlConformance,
    ObjectsConformance,
    SignedUrlConformance,
)
from manual_clock import ManualClock
from servers import Server
from swell.core.errors import Conflict, InvalidRequest, NotFound, TooLarge, Unavailable
from swell.objects.folder import FolderObjects, TemporaryObjects
from swell.objects.object_store import ObjectInfo, Objects


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_temporary_files_go_with_their_store(clock: ManualClock) -> None:
    objects = TemporaryObjects(clock, SECRET)
    root = objects._root
    assert root.is_dir()
    del objects
    gc.collect()
    assert not root.exists()


class TestFolderObjects(ObjectsConformance, SignedUrlConformance):
    @pytest.fixture
    def objects(self, clock: ManualClock, tmp_path: Path) -> Objects:
        return FolderObjects(tmp_path / "objects", clock, SECRET)

    async def test_nothing_temporary_is_left(self, objects: FolderObjects, tmp_path: Path) -> None:
        await objects.put("a/b.png", b"1", "image/png")
        await objects.put("a/c.png", b"1", "x/y")
        await objects.put("a/c.png", b"1", "image/png")
        await objects.put_new("a/c.png", b"1", "x/y")
        with pytest.raises(Conflict):
            await objects.put_new("a/b.png", b"2", "x/y")
        with pytest.raises(Conflict):
            await objects.put("a", b"2", "x/y")
        files = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
        assert sorted(files) == ["objects/a/b.png", "objects/a/c.png"]

    async def test_the_folders_of_deleted_files_go_with_the_last_one(
        self, objects: FolderObjects, tmp_path: Path
    ) -> None:
        keys = ["outputs/t/1/a.png", "outputs/t/1/b.png", "outputs/t/2/c.png", "outputs/u/1/d.png"]
        for key in keys:
            await objects.put(key, b"1", "x/y")
        await objects.delete([keys[0], keys[2], "outputs/missing/1/e.png"])
        left = ["outputs", "outputs/t", "outputs/t/1", "outputs/u", "outputs/u/1"]
        assert _folders(tmp_path / "objects") == left
        await objects.delete([keys[1], keys[3]])
        assert _folders(tmp_path / "objects") == []
        await objects.put("outputs", b"1", "text/plain")

    @pytest.mark.parametrize("content_type", ["image/png", "x/y"])
    @pytest.mark.parametrize("is_new", [False, True])
    async def test_a_file_is_stored_though_its_folder_goes_before_it_is_moved_there(
        self, tmp_path: Path, content_type: str, *, is_new: bool
    ) -> None:
        clock = _DeletingClock()
        writer = FolderObjects(tmp_path / "objects", clock, SECRET)
        other = FolderObjects(tmp_path / "objects", ManualClock(), SECRET)
        await writer.put("outputs/t/1/a.png", b"1", "image/png")
        # The file's timestamp falls between reading its folder and the move.
        clock.at_next_now = lambda: asyncio.run(other.delete(["outputs/t/1/a.png"]))
        put = writer.put_new if is_new else writer.put
        info = await put("outputs/t/1/b.png", b"22", content_type)
        assert clock.at_next_now is None
        assert await writer.under("outputs") == ["outputs/t/1/b.png"]
        assert await writer.head("outputs/t/1/b.png") == info
        assert (info.bytes, info.content_type) == (2, content_type)

    async def test_what_a_crash_left_half_written_is_cleared(
        self, objects: FolderObjects, tmp_path: Path
    ) -> None:
        half = tmp_path / "objects" / ".incoming" / "0123"
        half.parent.mkdir(parents=True)
        half.write_bytes(b"half")
        now = ManualClock().now().timestamp()
        os.utime(half, (now, now - 5))
        await objects.clear_incoming(older_s=60)
        assert half.exists(), "another backend may be writing it"
        await objects.clear_incoming()
        assert not half.exists()

    async def test_a_put_that_is_cancelled_as_its_file_opens_leaves_none(
        self, objects: FolderObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, may_open = threading.Event(), threading.Event()
        open_incoming = objects._open_incoming

        def open_late() -> tuple[Path, BinaryIO]:
            began.set()
            assert may_open.wait(10)
            return open_incoming()

        monkeypatch.setattr(objects, "_open_incoming", open_late)
        putting = asyncio.create_task(objects.put("a.png", b"1", "image/png"))
        assert await asyncio.to_thread(began.wait, 10)
        putting.cancel()
        await asyncio.sleep(0)
        may_open.set()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == []

    async def test_a_put_that_is_cancelled_at_its_end_closes_its_file(
        self, objects: FolderObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files: list[BinaryIO] = []
        may_close = threading.Event()
        pool = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(pool)
        keep = objects._keep

        def keep_and_hold_up(temporary: Path, file: BinaryIO, *rest: Any) -> ObjectInfo:
            files.append(file)
            pool.submit(may_close.wait, 10)
            return keep(temporary, file, *rest)

        monkeypatch.setattr(objects, "_keep", keep_and_hold_up)
        putting = asyncio.create_task(objects.put("a.png", b"1", "image/png"))
        while not files or not pool._work_queue.qsize():
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        putting.cancel()
        await asyncio.wait({putting})
        may_close.set()
        await asyncio.to_thread(lambda: None)
        assert files[0].closed
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.png"]

    async def test_files_and_folders_cannot_share_a_name(self, objects: FolderObjects) -> None:
        await objects.put("a", b"1", "text/plain")
        with pytest.raises(Conflict):
            await objects.put("a/b", b"1", "text/plain")
        await objects.put("c/d", b"1", "text/plain")
        with pytest.raises(Conflict):
            await objects.put("c", b"1", "text/plain")
        with pytest.raises(Conflict):
            await objects.put_new("c", b"1", "text/plain")

    async def test_a_name_too_long_for_the_file_system_is_refused(
        self, objects: FolderObjects
    ) -> None:
        with pytest.raises(InvalidRequest):
            await objects.put("x" * 201, b"1", "text/plain")


class _DeletingClock(ManualClock):
    """Runs an action once, at the next call of `now`."""

    at_next_now: Callable[[], None] | None = None

    def now(self) -> datetime:
        act, self.at_next_now = self.at_next_now, None
        if act is not None:
            act()
        return super().now()


def _folders(root: Path) -> list[str]:
    """Return the folders below a root, except hidden ones."""
    found = [str(each.relative_to(root)) for each in root.rglob("*") if each.is_dir()]
    return sorted(each for each in found if not each.startswith("."))


class BucketConformance(ObjectsConformance, SignedUrlConformance, DirectUrlConformance):
    """Tests for every cloud, on a `bucket` fixture."""

    @pytest.fixture
    def objects(self, bucket: Bucket, clock: ManualClock) -> Objects:
        return bucket.objects(clock)

    async def test_a_long_stream_goes_in_parts_and_a_broken_one_leaves_nothing(
        self, objects: Objects, bucket: Bucket
    ) -> None:
        part = secrets.token_bytes(3_000_000)

        async def stream(n: int, *, breaks: bool = False) -> AsyncIterator[bytes]:
            for _ in range(n):
                yield part
            if breaks:
                raise ConnectionError("the sender went away")

        info = await objects.put("long.bin", stream(7), "x/y")
        assert (info.bytes, info.content_type) == (7 * len(part), "x/y")
        pieces = [piece async for piece in objects.read("long.bin")]
        assert max(map(len, pieces)) <= 4 * 1024 * 1024
        assert b"".join(pieces) == 7 * part
        with pytest.raises(ConnectionError):
            await objects.put("broken.bin", stream(7, breaks=True), "x/y")
        assert bucket.names() == ["long.bin"]

    async def test_a_new_file_larger_than_one_request_is_refused(self, objects: Objects) -> None:
        async def stream() -> AsyncIterator[bytes]:
            for _ in range(65):
                yield bytes(1024 * 1024)

        with pytest.raises(TooLarge):
            await objects.put_new("large.bin", stream(), "x/y")

    async def test_deleted_files_are_gone_from_the_cloud_itself(
        self, objects: Objects, bucket: Bucket
    ) -> None:
        keys = [f"outputs/t/1/{n}.png" for n in range(40)]
        for key in keys:
            await objects.put(key, b"1", "image/png")
        assert bucket.names() == sorted(keys)
        await objects.delete([*keys, "outputs/t/1/missing.png"])
        assert bucket.names() == []

    async def test_a_key_that_needs_escapes_in_a_url_goes_through_the_backend(
        self, objects: Objects
    ) -> None:
        for key in ("with space.png", "ü.png", "a&b.png", "a?b.png", "a#b.png"):
            assert await objects.direct("PUT", key, 60) is None

    async def test_a_bucket_that_is_not_there_is_unavailable(
        self, bucket: Bucket, clock: ManualClock
    ) -> None:
        whole, _, prefix = bucket.url.rpartition("/some/")
        nowhere = Bucket(f"{whole}-gone/some/{prefix}", bucket.access).objects(clock)
        with pytest.raises(Unavailable):
            await nowhere.prove_writable()
        with pytest.raises(Unavailable):
            await nowhere.check_writable()

    async def test_several_backends_can_prove_at_once_that_it_takes_files(
        self, bucket: Bucket, clock: ManualClock
    ) -> None:
        backends = [bucket.objects(clock) for _ in range(6)]
        for _ in range(3):
            await asyncio.gather(*(backend.prove_writable() for backend in backends))
        with pytest.raises(NotFound):
            await backends[0].head("writable.txt")


class TestS3Objects(BucketConformance):
    @pytest.fixture
    def bucket(self, moto_server: Server) -> Bucket:
        return s3_bucket(moto_server)


class TestGoogleObjects(BucketConformance):
    @pytest.fixture
    def bucket(self, gcs_server: Server) -> Bucket:
        return gcs_bucket(gcs_server)


class TestAzureObjects(BucketConformance):
    @pytest.fixture
    def bucket(self, azurite_server: Server) -> Bucket:
        return azure_container(azurite_server)
