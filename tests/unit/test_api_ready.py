"""Readiness, on a disk that takes nothing for a while."""

import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from api_harness import Answer, Client

from conformance.factories import a_new_task
from manual_clock import ManualClock
from swell.bootstrap.backend import build_backend, close_backend
from swell.core.errors import Unavailable
from swell.core.records import Scope
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.objects.folder import FolderObjects
from swell.server.app import create_app
from swell.server.auth import create_key
from swell.settings.load import load


@contextlib.contextmanager
def a_full_disk() -> Iterator[None]:
    """Let no file of this process grow, as far as the kernel is concerned."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        # pytest keeps what is logged in a file.
        with structlog.testing.capture_logs():
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a service over SQLite and a folder."""
    clock = ManualClock()
    backend = await build_backend(load({"data_dir": tmp_path}, environment={}).settings, clock)
    made = await create_key(backend.registry, clock, "admin", frozenset({Scope.ADMIN}))
    app = create_app(backend)
    await app.start()
    yield Client(app, made.secret)
    await app.stop()
    await close_backend(backend)


async def make_key(admin: Client) -> Answer:
    return await admin("POST", "/v1/keys", {"name": "k", "scopes": ["client"]})


async def upload(admin: Client) -> Answer:
    return await admin("POST", "/v1/uploads", b"x" * 10, headers={"content-type": "text/plain"})


async def test_it_is_not_ready_while_the_database_cannot_write(admin: Client) -> None:
    assert (await make_key(admin)).status == 201
    assert (await admin("GET", "/health/ready")).json["checks"] == {"store": "ok", "objects": "ok"}
    with a_full_disk():
        assert (await make_key(admin)).status == 503
        for _ in range(2):
            ready = await admin("GET", "/health/ready")
            assert (ready.status, ready.json["code"]) == (503, "unavailable")
            assert "the database refused to write" in ready.json["detail"]
        assert (await admin("GET", "/health/live")).status == 200
    # Nobody has written anything since; the look itself finds out.
    assert (await admin("GET", "/health/ready")).status == 200
    assert (await make_key(admin)).status == 201


async def test_a_write_that_works_again_makes_it_ready(admin: Client) -> None:
    with a_full_disk():
        assert (await make_key(admin)).status == 503
    assert (await make_key(admin)).status == 201
    with a_full_disk():
        # Nothing was refused since, so nothing is tried.
        assert (await admin("GET", "/health/ready")).status == 200


async def test_a_row_that_is_refused_for_itself_says_nothing_of_the_disk(tmp_path: Path) -> None:
    database = SqliteDatabase.open(tmp_path / "swell.db", ManualClock())
    store = Store(database)
    with pytest.raises(OverflowError):
        await store.accept([a_new_task(seed=2**70)])
    with a_full_disk():
        await store.check_writable()
    await store.close()


async def test_it_is_not_ready_while_files_cannot_be_stored(admin: Client, tmp_path: Path) -> None:
    assert (await upload(admin)).status == 201
    with a_full_disk():
        with pytest.raises(Unavailable):
            await admin.app.service.objects.put("a.png", b"1", "image/png")
        ready = await admin("GET", "/health/ready")
        assert ready.status == 503
        assert (
            "files cannot be stored: the disk of the object store is full" in (ready.json["detail"])
        )
    assert (await admin("GET", "/health/ready")).status == 200
    assert (await upload(admin)).status == 201
    assert list((tmp_path / "objects" / ".incoming").iterdir()) == []


@pytest.mark.parametrize("is_stream", [False, True])
async def test_files_can_be_stored_again_once_there_is_room(
    tmp_path: Path, is_stream: bool
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"1"

    objects = FolderObjects(tmp_path, ManualClock(), bytes(32))
    with a_full_disk():
        with pytest.raises(Unavailable, match="full"):
            await objects.put("a", stream() if is_stream else b"1", "text/plain")
        with pytest.raises(Unavailable, match="full"):
            await objects.check_writable()
    await objects.put("a", b"1", "text/plain")
    with a_full_disk():
        await objects.check_writable()
