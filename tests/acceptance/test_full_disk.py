"""A data folder on a disk of its own that is full: what is there can be read and erased."""

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from commandline import PATIENCE_S, Swell, ready_line, stop

pytestmark = pytest.mark.slow

FULL = "database or disk is full"


class Disk:
    """A small file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._filling = folder / "filling"

    def fill(self) -> None:
        """Leave no byte."""
        with self._filling.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        self._filling.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Client:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def asks(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self.session.request(method, path, json=body) as answer:
            return answer.status, await answer.json()

    async def read(self, url: str) -> tuple[int, bytes]:
        parts = urlsplit(url)
        async with self.session.get(f"{parts.path}?{parts.query}") as answer:
            return answer.status, await answer.read()

    async def draw(self) -> Any:
        """Have a picture made, and return its task."""
        body = {"model": "demo/curve", "input": {"steps": 1, "speed": 1000}}
        _, task = await self.asks("POST", "/v1/tasks", body)

        async def is_over() -> bool:
            nonlocal task
            _, task = await self.asks("GET", f"/v1/tasks/{task['id']}")
            return bool(task["finished_at"])

        await until(is_over)
        assert task["state"] == "succeeded"
        return task

    async def is_ready(self) -> bool:
        return (await self.asks("GET", "/health/ready"))[0] == 200

    async def refused(self) -> str:
        """Send tasks until one is refused, and return why."""
        body = {"model": "demo/curve", "input": {"steps": 1}, "metadata": {"text": "x" * 6000}}
        for _ in range(500):
            status, answer = await self.asks("POST", "/v1/tasks", body)
            if status == 503:
                return str(answer["detail"])
        raise AssertionError("nothing was refused")


@asynccontextmanager
async def client(url: str, key: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        yield Client(session)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.05)


def up(swell: Swell, disk: Disk, command: str = "up") -> "subprocess.Popen[str]":
    models = ("-m", "demo/curve") if command == "up" else ()
    return swell.start(command, "--json", "--port", "0", "--data", str(disk.data), *models)


@pytest.mark.parametrize(
    ("command", "ending"),
    [("up", signal.SIGKILL), ("up", signal.SIGTERM), ("serve", signal.SIGKILL)],
)
async def test_a_start_on_a_full_disk_reads_and_erases_until_there_is_room(
    swell: Swell, disk: Disk, command: str, ending: signal.Signals
) -> None:
    process = up(swell, disk)
    try:
        ready = ready_line(process, swell.folder)
        async with client(ready["url"], ready["key"]) as first:
            tasks = [await first.draw() for _ in range(2)]
            _, picture = await first.read(tasks[0]["artifacts"][0]["url"])
        stop(process, ending)
        disk.fill()
        process = up(swell, disk, command)
        said = swell.folder / "stderr.txt"

        async def is_told() -> bool:
            assert process.poll() is None, said.read_text()
            return FULL in said.read_text()

        await until(is_told)
        url = json.loads((disk.data / "access.json").read_text())["url"]
        async with client(url, ready["key"]) as second:
            paths = [f"/v1/tasks/{task['id']}" for task in tasks]
            _, found = await second.asks("GET", paths[0])
            assert await second.read(found["artifacts"][0]["url"]) == (200, picture)
            assert (await second.read("/"))[0] == 200
            if command == "up":
                assert FULL in await second.refused()
            async with second.session.post("/v1/uploads", data=b"a") as answer:
                assert answer.status == 503
            status, why = await second.asks("GET", "/health/ready")
            assert status == 503
            assert FULL in why["detail"]
            assert (await second.asks("DELETE", paths[1]))[1]["artifacts"] == []
            assert (await second.read(tasks[1]["artifacts"][0]["url"]))[0] == 410
            disk.make_room()
            await until(second.is_ready)
            ready_line(process, swell.folder)
            if command == "up":
                await second.draw()
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


async def test_a_task_is_erased_while_the_disk_is_full(swell: Swell, disk: Disk) -> None:
    process = up(swell, disk)
    try:
        ready = ready_line(process, swell.folder)
        async with client(ready["url"], ready["key"]) as user:
            task = await user.draw()
            disk.fill()
            assert FULL in await user.refused()
            path = f"/v1/tasks/{task['id']}"
            assert (await user.asks("DELETE", path))[1]["artifacts"] == []
            assert (await user.read(task["artifacts"][0]["url"]))[0] == 410
            disk.make_room()
            await until(user.is_ready)
            await user.draw()
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


async def test_a_start_without_any_room_says_what_to_do(swell: Swell, disk: Disk) -> None:
    disk.data.mkdir()
    disk.fill()
    process = up(swell, disk)
    assert await asyncio.to_thread(process.wait, PATIENCE_S) == 2
    stop(process)
    said = (swell.folder / "stderr.txt").read_text()
    assert "cannot be used (No space left on device): choose one that can be written" in said
    assert "Traceback" not in said
