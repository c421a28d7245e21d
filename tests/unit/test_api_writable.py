"""What happens to accepted tasks while the object store takes no files."""

import asyncio
import base64
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from api_harness import World, a_world, hold, succeeded

from manual_clock import ManualClock
from swell.objects.folder import TemporaryObjects
from swell.server.files import storage_health as api_writable
from swell.server.files.storage_health import Writable

#: What a worker's outcomes bring: as much as travels inside a report.
FILE = os.urandom(200 * 1024)

MIB = 1024 * 1024


class Disk:
    """A small disk of its own, or a folder that takes no bytes where none can be mounted."""

    def __init__(self, folder: Path, fill: Callable[[Path], AbstractContextManager[None]]) -> None:
        self.folder = folder
        self._fill = fill

    def full(self) -> AbstractContextManager[None]:
        """Let it take nothing for a while."""
        return self._fill(self.folder)


@contextlib.contextmanager
def no_byte_left(folder: Path) -> Iterator[None]:
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def no_inode_left(folder: Path, but: int = 0) -> Iterator[None]:
    names = []
    with contextlib.suppress(OSError):
        for number in range(1000):
            (folder / f"filler-{number}").touch(exist_ok=False)
            names.append(folder / f"filler-{number}")
    for name in names[:but]:
        name.unlink()
    yield
    for name in names[but:]:
        name.unlink()


@contextlib.contextmanager
def one_inode_left(folder: Path) -> Iterator[None]:
    with no_inode_left(folder, but=1):
        yield


@contextlib.contextmanager
def no_growth(folder: Path) -> Iterator[None]:
    """Let files be made in the folder, and each write to them fail."""

    def opened(path: Path, mode: str) -> Any:
        if "x" not in mode:
            return open(path, mode)
        path.open(mode).close()
        return open("/dev/full", "wb")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("swell.objects.folder.open", opened, raising=False)
        yield


@pytest.fixture(params=[no_byte_left, no_inode_left, one_inode_left, no_growth])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param is no_growth:
        yield Disk(folder, no_growth)
        return
    options = f"size={16 * MIB},nr_inodes=200"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a disk")
    try:
        yield Disk(folder, request.param)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
async def world(disk: Disk) -> AsyncIterator[World]:
    async with a_world(objects_dir=disk.folder / "objects") as world:
        yield world


async def lease_and_report(world: World, worker: str, ask: int = 0) -> int:
    """Run up to four tasks as a worker does, and return how many there were."""
    tasks = (await world.lease(worker, n=4)).get("tasks", [])
    settlements, files = [], []
    for lease in tasks:
        key = f"outputs/{lease['task_id']}/{lease['attempt']}/0.bin"
        artifact = {"key": key, "content_type": "x/unusual", "bytes": len(FILE)}
        settlements.append(succeeded(lease, {"$artifact": 0}, artifacts=[artifact]))
        files.append({"key": key, "data": base64.b64encode(FILE).decode()})
    answer = await world.report(worker, settlements=settlements, enclosures=files, ask=ask)
    assert answer == {}, "it brings nothing, whatever it asks for"
    return len(tasks)


async def states(world: World, tasks: list[Any]) -> list[tuple[str, int]]:
    seen = [(await world.anna("GET", f"/v1/tasks/{task['id']}")).json for task in tasks]
    return [(each["state"], each["attempt"]) for each in seen]


async def test_tasks_wait_while_the_disk_of_files_is_full_and_then_succeed(
    world: World, disk: Disk
) -> None:
    worker = await world.register()
    tasks = [await world.create(max_attempts=3) for _ in range(12)]
    ran = []
    with disk.full():
        for _ in range(6):
            ran.append(await lease_and_report(world, worker, ask=4))
            # Longer than the pause after any attempt that failed.
            world.clock.advance(100)
            await world.service.store.sweep(limit=100)
        ready = await world.admin("GET", "/health/ready")
        assert (ready.status, "files cannot be stored" in ready.json["detail"]) == (503, True)
    assert ran == [4, 0, 0, 0, 0, 0], "only what showed that the disk is full ran in vain"
    assert sorted(await states(world, tasks)) == [("queued", 0)] * 8 + [("queued", 1)] * 4
    assert (await world.admin("GET", "/health/ready")).status == 200
    while await lease_and_report(world, worker):
        pass
    assert sorted(await states(world, tasks)) == [("succeeded", 1)] * 8 + [("succeeded", 2)] * 4
    for task in tasks:
        seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
        url = seen["artifacts"][0]["url"].removeprefix("http://swell.test")
        assert (await world.stranger("GET", url)).body == FILE


async def test_a_file_that_is_refused_leaves_no_folders(world: World, disk: Disk) -> None:
    worker = await world.register()
    await world.create()
    with disk.full():
        assert await lease_and_report(world, worker) == 1
    assert list((disk.folder / "objects").glob("[!.]*")) == []


async def test_workers_that_wait_get_nothing_until_files_can_be_stored(
    world: World, disk: Disk
) -> None:
    worker = await world.register()
    polls = world.service.fleet.workers.get(worker).polls
    first = asyncio.create_task(world.lease(worker, wait_s=20))
    while not polls:
        await asyncio.sleep(0)
    with disk.full():
        answer = await world.anna("POST", "/v1/uploads", FILE)
        assert answer.status == 503
        # What the backend does every two seconds.
        await world.service.writable.look()
        assert await first == {}, "it asks again, and waits"
        await world.create()
        second = asyncio.create_task(world.lease(worker, wait_s=20))
        while not polls:
            await asyncio.sleep(0)
        assert await world.lease(worker, wait_s=0) == {}
        offered = {"worker_id": worker, "n": 1, "offered": ["0" * 32]}
        refused = await world.worker("POST", "/worker/v1/lease", offered)
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
        assert "no tasks are handed out" in refused.json["detail"]
    await world.service.writable.look()
    assert await second == {}
    assert len((await world.lease(worker))["tasks"]) == 1


async def test_a_file_that_comes_by_itself_shows_at_once_that_the_disk_is_full(
    world: World, disk: Disk
) -> None:
    worker = await world.register()
    await world.create()
    await world.create()
    (lease,) = (await world.lease(worker, n=1))["tasks"]
    key = f"outputs/{lease['task_id']}/1/0.bin"
    body = {"worker_id": worker, "hold": hold(lease), "keys": [key]}
    (place,) = (await world.worker("POST", "/worker/v1/uploads", body)).json["uploads"]
    with disk.full():
        assert (await world.stranger("PUT", place["url"], FILE)).status == 503
        assert await world.lease(worker) == {}
    assert (await world.admin("GET", "/health/ready")).status == 200
    assert (await world.stranger("PUT", place["url"], FILE)).status == 201
    assert len((await world.lease(worker))["tasks"]) == 1


async def test_an_upload_that_failed_counts_only_while_others_succeed(
    world: World, disk: Disk
) -> None:
    worker = await world.register()
    task = await world.create(max_attempts=1)
    error = {"code": "upload_failed", "title": "Not stored", "detail": "HTTP 503"}
    with disk.full():
        (lease,) = (await world.lease(worker))["tasks"]
        outcome = {"type": "failed", "error": error, "retryable": True}
        await world.report(worker, settlements=[{**hold(lease), "outcome": outcome}])
        assert await states(world, [task]) == [("queued", 1)]
        assert await world.lease(worker) == {}
    await world.service.writable.look()
    (lease,) = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[{**hold(lease), "outcome": outcome}])
    assert await states(world, [task]) == [("failed", 2)]


class Silent(TemporaryObjects):
    """A store that does not answer, for as long as it is told so."""

    is_silent = True

    async def prove_writable(self) -> None:
        if self.is_silent:
            await asyncio.get_running_loop().create_future()


async def test_calls_that_come_during_a_check_share_the_next_one() -> None:
    class Counting(TemporaryObjects):
        checks = 0
        gate = asyncio.Event()

        async def check_writable(self) -> None:
            self.checks += 1
            await self.gate.wait()

    objects = Counting(ManualClock(), bytes(32))
    writable = Writable(objects, lambda: None)
    looks = [asyncio.ensure_future(writable.look()) for _ in range(20)]
    while not objects.checks:
        await asyncio.sleep(0)
    looks += [asyncio.ensure_future(writable.look()) for _ in range(20)]
    for _ in range(3):
        await asyncio.sleep(0)
    objects.gate.set()
    await asyncio.gather(*looks)
    assert objects.checks == 2


async def test_a_store_that_does_not_answer_takes_no_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api_writable, "_ANSWER_S", 0.0)
    objects, changes = Silent(ManualClock(), bytes(32)), []
    writable = Writable(objects, lambda: changes.append(writable.refusal))
    # As long as nothing was refused, nothing is stored to find out.
    await writable.look()
    assert (writable.refusal, changes) == ("", [])
    assert await asyncio.gather(*(writable.takes_files() for _ in range(3))) == [False] * 3
    await writable.look()
    assert len(changes) == 1
    assert "has not stored a file" in writable.refusal
    objects.is_silent = False
    await writable.look()
    assert (writable.refusal, changes[1:]) == ("", [""])
