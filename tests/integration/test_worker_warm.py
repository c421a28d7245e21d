"""Model processes that are forked from a server which the workers of a machine share."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_harness import over, restarted

from conformance.dispatch import MemoryDispatch
from swell.core.clock import SystemClock
from swell.core.task import TaskState
from swell.settings.environment import process_environment
from swell.settings.worker_settings import WorkerSettings
from swell.worker import warm
from swell.worker.engine import Worker
from swell.worker.forkserver import is_possible
from swell.worker.run import Origin
from swell.worker.warm import Forks, ForksSettings

pytestmark = pytest.mark.skipif(not is_possible(), reason="forking needs Linux")

MODEL = """
import os
import PIL.ImageDraw
import swell

@swell.model("test/facts")
def facts(name: str) -> dict[str, str]:
    variable = os.environ.get(name, "")
    return {"variable": variable, "folder": os.getcwd(), "parent": str(os.getppid())}
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "facts.py"
    path.write_text(MODEL)
    return str(path)


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """Where the servers of a test meet; none of them outlives it."""
    yield tmp_path / "warm"
    for each in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "swell.worker.forkserver" in each.cmdline():
                each.kill()


class Site:
    """One backend, and a folder for what its workers share."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self.model = model
        self.dispatch = MemoryDispatch(SystemClock())

    def forks(self, **settings: Any) -> Forks:
        environment = process_environment() | {"A_FACT": "a value", "SWELL_A": "another"}
        return Forks(
            ForksSettings(self.folder, **settings), [self.model], environment, SystemClock()
        )

    @asynccontextmanager
    async def worker(self, **settings: Any) -> AsyncIterator[tuple[Worker, Forks]]:
        """A worker that is up."""
        forks = self.forks(**settings)
        worker = Worker(
            WorkerSettings(name="tester"),
            self.dispatch,
            [self.model],
            SystemClock(),
            origin=Origin(forks),
        )
        running = asyncio.create_task(worker.run(handle_signals=False))
        try:
            async with asyncio.timeout(60):
                await worker.is_up.wait()
            yield worker, forks
        finally:
            worker.release()
            await asyncio.wait_for(running, 20)

    async def facts(self, name: str = "A_FACT") -> dict[str, str]:
        task_id = await self.dispatch.submit("test/facts", {"name": name})
        task = await self.dispatch.ended(task_id)
        assert task.state is TaskState.SUCCEEDED, task.error
        told: dict[str, str] = json.loads(bytes(task.output or b""))
        return told


@pytest.fixture
async def site(folder: Path, model: str) -> Site:
    return Site(folder, model)


# --- where it comes from -------------------------------------------------------------------------


async def test_what_one_worker_imported_is_imported_once_for_the_next(site: Site) -> None:
    async with site.worker() as (_, first):
        assert first.server_pid == 0
    async with site.worker() as (_, second):
        assert second.server_pid > 0
        assert (await site.facts())["parent"] == str(second.server_pid)
        kept = next(site.folder.glob("*.json"))
        assert "PIL.ImageDraw" in json.loads(kept.read_text())["modules"]
    await over(second.server_pid)


async def test_a_fork_has_its_worker_s_environment_and_folder(site: Site) -> None:
    async with site.worker(preload=("PIL.Image",)) as (_, forks):
        assert forks.server_pid > 0
        facts = await site.facts()
        assert (facts["variable"], facts["folder"]) == ("a value", os.getcwd())
        assert (await site.facts("SWELL_A"))["variable"] == "another"
        assert (await site.facts("PYTORCH_NVML_BASED_CUDA_CHECK"))["variable"] == ""


async def test_a_model_process_that_died_is_replaced_by_a_fork(site: Site) -> None:
    async with site.worker(preload=("PIL.Image",)) as (worker, forks):
        server = forks.server_pid
        await restarted(worker)
        assert (await site.facts())["parent"] == str(server)


async def test_a_first_worker_starts_a_server_for_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm, "SETTLE_S", 0.0)
    async with site.worker() as (worker, forks):
        async with asyncio.timeout(30):
            while not forks.server_pid:
                await asyncio.sleep(0.01)
        await restarted(worker)
        assert (await site.facts())["parent"] == str(forks.server_pid)


async def test_nothing_is_forked_where_none_is_asked_for(site: Site) -> None:
    for _ in range(2):
        async with site.worker(preload=("none",)) as (_, forks):
            assert (await site.facts())["parent"] == str(os.getpid())
            assert forks.server_pid == 0
    assert not site.folder.exists()


# --- who ends when -------------------------------------------------------------------------------


async def test_workers_that_start_at_once_share_one_server(site: Site) -> None:
    choice = {"preload": ("PIL.Image",)}
    async with contextlib.AsyncExitStack() as stack:
        pairs = await asyncio.gather(
            *(stack.enter_async_context(site.worker(**choice)) for _ in range(3))
        )
        [server] = {forks.server_pid for _, forks in pairs}
        assert server > 0
        assert len({worker.model_pid for worker, _ in pairs}) == 3
    await over(server)
    assert list(site.folder.iterdir()) == []


async def test_a_server_serves_on_when_the_worker_that_started_it_goes(site: Site) -> None:
    choice = {"preload": ("PIL.Image",)}
    async with site.worker(**choice) as (first, forks):
        server, gone_pid = forks.server_pid, first.model_pid
        later = site.worker(**choice)
        worker, _ = await later.__aenter__()
    await over(gone_pid)
    await restarted(worker)
    assert (await site.facts())["parent"] == str(server)
    await later.__aexit__(None, None, None)
    await over(server)


async def test_a_server_waits_for_the_next_worker_as_long_as_it_was_told(site: Site) -> None:
    choice = {"preload": ("PIL.Image",), "warm_s": 60.0}
    async with site.worker(**choice) as (_, forks):
        server = forks.server_pid
    async with site.worker(**choice) as (_, forks):
        assert forks.server_pid == server
    os.kill(server, signal.SIGTERM)
    await over(server)
    short = {"preload": ("PIL.Image",), "warm_s": 0.1}
    async with site.worker(**short) as (_, forks):
        assert forks.server_pid not in (0, server)
        server = forks.server_pid
    await over(server)


SCRIPT = """
import asyncio, socket, structlog, sys
from pathlib import Path
from swell.core.clock import SystemClock
from swell.settings.environment import process_environment
from swell.worker.slate import new_slate
from swell.worker.warm import Forks, ForksSettings

async def main():
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = ForksSettings(Path(sys.argv[1]), ("PIL.Image",))
    forks = Forks(settings, ["demo/noop"], process_environment(), SystemClock())
    forks.begin()
    ours, theirs = socket.socketpair()
    slate = new_slate()
    fds = [theirs.fileno(), slate.fileno()]
    process = await forks.spawn("swell.worker.child:main", fds, asyncio.Event())
    print(process.pid, forks.server_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_nothing_outlives_a_worker_that_is_killed(folder: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        model_pid, server_pid = map(int, process.stdout.readline().split())
        assert psutil.Process(model_pid).ppid() == server_pid
        process.kill()
        await over(model_pid)
        await over(server_pid)
        # Whoever waits for the end of what it says has it.
        assert process.stdout.read() == ""


# --- what goes wrong -----------------------------------------------------------------------------


async def test_a_worker_goes_on_when_its_server_is_killed(site: Site) -> None:
    async with site.worker(preload=("PIL.Image",)) as (worker, forks):
        server, pid = forks.server_pid, worker.model_pid
        os.kill(server, signal.SIGKILL)
        await over(pid)
        facts = await site.facts()
        assert facts["parent"] == str(forks.server_pid)
        assert forks.server_pid != server


@pytest.mark.parametrize(
    "module",
    [
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
        "raise ValueError('on purpose')\n",
        "import os\nos._exit(3)\n",
    ],
)
async def test_a_module_that_cannot_be_forked_costs_no_task(
    site: Site, tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "unfit.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with site.worker(preload=("unfit",)) as (worker, forks):
        assert (await site.facts())["parent"] == str(os.getpid())
        await restarted(worker)
        assert (await site.facts())["parent"] == str(os.getpid())
        assert forks.server_pid == 0


async def test_a_folder_that_cannot_be_used_costs_no_task(model: str) -> None:
    site = Site(Path("/dev/null/warm"), model)
    async with site.worker(preload=("PIL.Image",)):
        assert (await site.facts())["parent"] == str(os.getpid())


async def test_the_socket_of_a_server_that_was_killed_is_replaced(site: Site) -> None:
    choice = {"preload": ("PIL.Image",), "warm_s": 60.0}
    async with site.worker(**choice) as (_, forks):
        server = forks.server_pid
    os.kill(server, signal.SIGKILL)
    await over(server)
    async with site.worker(**choice) as (_, forks):
        assert forks.server_pid not in (0, server)


async def test_what_was_remembered_and_is_not_there_any_more_is_left_out(
    site: Site,
) -> None:
    async with site.worker():
        pass
    kept = next(site.folder.glob("*.json"))
    known = json.loads(kept.read_text())
    kept.write_text(json.dumps(known | {"modules": ["no_such_module", *known["modules"]]}))
    async with site.worker() as (_, forks):
        assert (await site.facts())["parent"] == str(forks.server_pid)


async def test_what_other_versions_of_the_models_imported_is_forgotten(
    site: Site, model: str
) -> None:
    async with site.worker():
        pass
    Path(model).write_text(MODEL.replace("import PIL.ImageDraw", "import PIL.ImageChops"))
    # The first notices, and the second writes down what it needs.
    for _ in range(2):
        async with site.worker():
            pass
    kept = json.loads(next(site.folder.glob("*.json")).read_text())
    assert "PIL.ImageChops" in kept["modules"]
    assert "PIL.ImageDraw" not in kept["modules"]


async def test_nobody_else_can_look_into_the_folder(site: Site) -> None:
    site.folder.mkdir()
    site.folder.chmod(0o755)
    async with site.worker(preload=("PIL.Image",)) as (_, forks):
        assert forks.server_pid > 0
        assert site.folder.stat().st_mode & 0o077 == 0
