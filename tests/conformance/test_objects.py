import secrets
from pathlib import Path

import pytest

from swell.clock import ManualClock
from swell.errors import Conflict, InvalidRequest
from swell.object_stores.folder import FolderObjects
from swell.object_stores.memory import MemoryObjects
from swell.objects import Objects
from swell.testing.objects import ObjectsConformance, SignedUrlConformance

SECRET = bytes(range(32))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class TestMemoryObjects(ObjectsConformance, SignedUrlConformance):
    @pytest.fixture
    def objects(self, clock: ManualClock) -> Objects:
        return MemoryObjects(clock, SECRET)


class TestFolderObjects(ObjectsConformance, SignedUrlConformance):
    @pytest.fixture
    def objects(self, clock: ManualClock, tmp_path: Path) -> Objects:
        return FolderObjects(tmp_path / "objects", clock, SECRET)

    async def test_a_file_that_draws_the_stamp_of_another_takes_nothing_from_it(
        self, objects: FolderObjects, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draws = iter([5, 5, 6, 6, 5, 7, 7, 8])
        monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
        info = await objects.put_new("a.png", b"12345", "x/y")
        assert await objects.put_new("a.png", b"12345", "x/z") == info
        with pytest.raises(Conflict):
            await objects.put_new("a.png", b"54321", "x/z")
        assert await objects.head("a.png") == info
        new = await objects.put("a.png", b"54321", "image/png")
        assert (new.content_type, new.etag != info.etag) == ("image/png", True)
        newer = await objects.put("a.png", b"54321", "x/y")
        assert (newer.content_type, newer.etag != new.etag) == ("x/y", True)
        assert next(draws, None) is None

    async def test_nothing_temporary_is_left(self, objects: FolderObjects, tmp_path: Path) -> None:
        await objects.put("a/b.png", b"1", "image/png")
        await objects.put("a/c.png", b"1", "x/y")
        await objects.put("a/c.png", b"1", "image/png")
        await objects.put_new("a/c.png", b"1", "x/y")
        with pytest.raises(Conflict):
            await objects.put_new("a/b.png", b"2", "x/y")
        files = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()]
        assert sorted(files) == ["objects/a/b.png", "objects/a/c.png"]

    async def test_what_a_crash_left_half_written_is_cleared(
        self, objects: FolderObjects, tmp_path: Path
    ) -> None:
        half = tmp_path / "objects" / ".incoming" / "0123"
        half.parent.mkdir(parents=True)
        half.write_bytes(b"half")
        await objects.clear_incoming()
        assert not half.exists()

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
