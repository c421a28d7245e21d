"""What a worker does whose backend is gone, or takes connections and says nothing."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from worker_harness import PATIENCE_S, until
from worker_site import Site, a_worker, site

from chaos.proxy import Link, Proxy, Rule
from ports import free_port

__all__ = ["site"]

pytestmark = pytest.mark.slow

GONE, SILENT = Rule(cut=True), Rule(stall=True)

#: Says that it has begun, and runs until there is a file.
MODEL = """
import pathlib, time
import swell

@swell.model("test/waits")
def waits() -> str:
    here = pathlib.Path(__file__)
    here.with_name("begun").touch()
    while not here.with_name("gate").exists():
        time.sleep(0.01)
    return "ok"
"""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path / "proxy.log")
    yield proxy
    proxy.end()


@pytest.fixture
def far(site: Site, proxy: Proxy) -> Site:
    """The backend, as workers reach it through the proxy."""
    target, port = urlsplit(site.url).port, free_port()
    assert target is not None
    proxy.start([Link(name="backend", port=port, targets=(target,))])
    return replace(site, url=f"http://127.0.0.1:{port}")


async def begun(folder: Path) -> None:
    await until((folder / "begun").exists)


async def gone(process: asyncio.subprocess.Process, exit_code: int = 0) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert await process.wait() == exit_code


@pytest.mark.parametrize("rule", [GONE, SILENT], ids=["gone", "silent"])
async def test_an_idle_worker_goes_at_the_first_sigterm(
    far: Site, proxy: Proxy, tmp_path: Path, rule: Rule
) -> None:
    async with a_worker(far, tmp_path) as (process, talk):
        proxy.set("backend", rule)
        if rule is GONE:
            await talk.has(b"the backend is away")
        process.send_signal(signal.SIGTERM)
        # Its calls would be made again for ever.
        await talk.has(b"going without a goodbye")
        await gone(process)


@pytest.mark.parametrize("listens", [False, True])
async def test_a_worker_that_never_registered_goes_at_the_first_sigterm(
    site: Site, tmp_path: Path, listens: bool
) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        port = silent.getsockname()[1] if listens else free_port()
        nowhere = replace(site, url=f"http://127.0.0.1:{port}")
        ready = b"model loaded"
        async with a_worker(nowhere, tmp_path, ready=ready) as (process, _):
            process.send_signal(signal.SIGTERM)
            await gone(process)


async def test_a_worker_that_goes_hands_in_a_result_when_the_backend_is_back(
    site: Site, far: Site, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(MODEL)
    async with a_worker(far, tmp_path, "-m", "waits.py") as (process, talk):
        held = await site.submit("test/waits", input={})
        await begun(tmp_path)
        proxy.set("backend", GONE)
        (tmp_path / "gate").touch()
        await talk.has(b"the backend is away")
        process.send_signal(signal.SIGTERM)
        await talk.has(b"draining")
        proxy.set("backend")
        await gone(process)
    task = await site.ended(held)
    assert (task["state"], task["attempt"]) == ("succeeded", 1)


async def test_a_worker_that_goes_keeps_a_result_no_longer_than_it_may_drain(
    site: Site, far: Site, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(MODEL)
    (tmp_path / "swell.toml").write_text("[worker]\ndrain_s = 1\n")
    async with a_worker(far, tmp_path, "-m", "waits.py") as (process, talk):
        held = await site.submit("test/waits", input={})
        await begun(tmp_path)
        proxy.set("backend", GONE)
        (tmp_path / "gate").touch()
        await talk.has(b"the backend is away")
        process.send_signal(signal.SIGTERM)
        await talk.has(b"the drain time has ended")
        await gone(process)
    # Its lease ends by itself, and the next attempt is made.
    assert (await site.call("GET", f"/v1/tasks/{held}"))["state"] == "running"


async def test_a_worker_whose_backend_stays_away_gives_up(
    site: Site, far: Site, proxy: Proxy, tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(MODEL)
    (tmp_path / "swell.toml").write_text("[worker]\ngive_up_s = 1.5\n")
    async with a_worker(far, tmp_path, "-m", "waits.py") as (process, talk):
        await site.submit("test/waits", input={})
        await begun(tmp_path)
        proxy.set("backend", GONE)
        await gone(process, 5)
        await talk.has(b"giving up")
        await talk.has(b"the backend has not answered for 1.5 s (worker.give_up_s)")


async def test_a_worker_that_never_reached_its_backend_gives_up(site: Site, tmp_path: Path) -> None:
    (tmp_path / "swell.toml").write_text("[worker]\ngive_up_s = 1\n")
    nowhere = replace(site, url=f"http://127.0.0.1:{free_port()}")
    async with a_worker(nowhere, tmp_path, ready=b"giving up") as (process, _):
        await gone(process, 5)
