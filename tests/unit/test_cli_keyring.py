"""The key that a starting backend leaves in its folder lasts as long as somebody can have it."""

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from manual_clock import ManualClock
from sqlite_rig import SqliteRig, turns
from swell.bootstrap.backend import build_backend, close_backend
from swell.cli.keyring import LOCAL, OUTLIVES_S, keep_local_key, open_keyring
from swell.core.records import ApiKey
from swell.server.auth import why_not
from swell.server.dependencies import Backend
from swell.settings.load import load

WEEK_S = 7 * 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Backend]:
    """What backends stand on that are started one after another, each in a folder of its own."""
    flags = {"data_dir": tmp_path, "objects.url": "memory:"}
    backend = await build_backend(load(flags, environment={}, folder=tmp_path).settings, clock)
    yield dataclasses.replace(backend, registry=SqliteRig(clock).registry, is_shared=True)
    await close_backend(backend)


async def started(backend: Backend, folder: Path) -> str:
    """Start in a folder and end; return the local key."""
    async with open_keyring(backend, folder, "http://here", "http://here") as keyring:
        return keyring.access.key


async def good(backend: Backend) -> list[ApiKey]:
    now = backend.clock.now()
    keys = [key for key in await backend.registry.keys() if key.name == LOCAL]
    return [key for key in keys if why_not(key, key.digest, now) is None]


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


async def test_pods_that_come_and_go_leave_no_key_behind(
    store: Backend, clock: ManualClock, tmp_path: Path
) -> None:
    """Their folders go with them, so that nobody has what opens for these keys."""
    for pod in ("a", "b", "c"):
        secret = await started(store, tmp_path / pod)
        assert [key.digest for key in await good(store)] == [digest(secret)]
        clock.advance(OUTLIVES_S)
    assert await good(store) == []


async def test_in_a_folder_that_stays_the_key_does_too(
    store: Backend, clock: ManualClock, tmp_path: Path
) -> None:
    secret = await started(store, tmp_path / "a")
    clock.advance(WEEK_S)
    assert await started(store, tmp_path / "a") == secret
    [key] = await good(store)
    await store.registry.put_key(msgspec.structs.replace(key, revoked_at=clock.now()))
    assert await started(store, tmp_path / "a") != secret


async def test_while_a_backend_runs_its_key_is_good(
    store: Backend, clock: ManualClock, tmp_path: Path
) -> None:
    secret = await started(store, tmp_path / "a")
    keeping = asyncio.create_task(keep_local_key(store, tmp_path / "a"))
    for _ in range(100):
        await turns(5)
        clock.advance(OUTLIVES_S / 10)
    [key] = await good(store)
    assert key.digest == digest(secret)
    keeping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await keeping


async def test_where_nobody_else_has_the_store_the_key_has_no_end(
    store: Backend, clock: ManualClock, tmp_path: Path
) -> None:
    await started(dataclasses.replace(store, is_shared=False), tmp_path / "a")
    clock.advance(100 * WEEK_S)
    [key] = await good(store)
    assert key.expires_at is None
