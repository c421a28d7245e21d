"""Backend processes on one port and one PostgreSQL, with workers, streams and rolling restarts."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import psutil
import pytest

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from servers import PostgresServer

pytestmark = pytest.mark.timeout(240)

#: Sleeps, tells its steps, and looks at cancellations.
MODEL = "demo/crash"


class Served:
    """`swell serve` with several processes, and workers."""

    def __init__(self, swell: Swell, store_url: str) -> None:
        self.swell = swell
        self.settings = f'[store]\nurl = "{store_url}"\n'
        self._write()
        self.processes: list[Any] = []
        self.url = self.key = ""

    def _write(self) -> None:
        (self.swell.folder / "swell.toml").write_text(self.settings)

    def hold_shortly(self) -> None:
        """Let leases that a killed process granted in its last moment run out soon."""
        self.settings += "[delivery]\nlease_s = 6\nheartbeat_s = 2\n"
        self._write()

    def serve(self, workers: int) -> None:
        process = self.swell.start("serve", "--json", "--port", "0", "--workers", str(workers))
        self.processes.append(process)
        ready = ready_line(process, self.swell.folder)
        self.url, self.key = ready["url"], ready["key"]

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.processes[0].pid)

    def members(self) -> list[int]:
        """Return the backend processes that serve or are starting."""
        return living(self.supervisor)

    def work(self, n: int) -> None:
        made = self.swell.json("keys", "create", "w", "--scope", "worker")
        for number in range(n):
            with (self.swell.folder / f"worker-{number}.txt").open("w") as log:
                arguments = ("worker", "--url", self.url, "--token", made["key"], "-m", MODEL)
                self.processes.append(self.swell.spawn(arguments, log))

    def session(self, **more: Any) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self.key}"}
        return aiohttp.ClientSession(self.url, headers=headers, **more)

    def end(self) -> None:
        """End workers without waiting for what they hold, then the backends in order."""
        for process in self.processes[1:]:
            stop(process, signal.SIGKILL)
        code = stop(self.processes[0]) if self.processes else 0
        assert code in (0, -signal.SIGKILL), self.logs()

    def logs(self) -> str:
        return "\n".join(
            path.read_text(errors="replace")[-4000:] for path in self.swell.folder.glob("*.txt")
        )


def living(supervisor: psutil.Process) -> list[int]:
    """Return the processes that a supervisor has started and that have not ended."""
    found = []
    for each in supervisor.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # It went while it was looked at.
            if each.status() != "zombie":
                found.append(each.pid)
    return found


@pytest.fixture
async def store_url(postgres_server: PostgresServer) -> str:
    name = f"many_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres_server.url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres_server.url_of(name)


@pytest.fixture
def served(tmp_path: Path, store_url: str) -> Iterator[Served]:
    served = Served(Swell(tmp_path), store_url)
    try:
        yield served
    finally:
        served.end()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.05)


async def until_served(session: aiohttp.ClientSession, n: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get("/v1/workers") as answer:
                workers = (await answer.json())["workers"]
            if sum(each["state"] in ("idle", "busy") for each in workers) >= n:
                return
            await asyncio.sleep(0.1)


def asked(sleep_s: float, text: str, priority: int = 1) -> dict[str, Any]:
    inputs = {"how": "sleep", "sleep_s": sleep_s, "text": text}
    return {"model": MODEL, "input": inputs, "priority": priority}


async def submit_all(
    session: aiohttp.ClientSession, sleep_s: float, texts: list[str], priority: int = 1
) -> list[dict[str, Any]]:
    body = {"tasks": [asked(sleep_s, text, priority) for text in texts]}
    async with session.post("/v1/tasks/batch", json=body) as answer:
        assert answer.status == 202, await answer.text()
        tasks: list[dict[str, Any]] = (await answer.json())["tasks"]
        return tasks


async def submit(
    session: aiohttp.ClientSession, sleep_s: float, text: str, **headers: str
) -> dict[str, Any]:
    body = asked(sleep_s, text)
    async with session.post("/v1/tasks", json=body, headers=headers) as answer:
        assert answer.status in (201, 202), await answer.text()
        task: dict[str, Any] = await answer.json()
        return task


class Follower:
    """Reads one task's events as a browser does: it comes back, and says what it saw."""

    def __init__(self, session: aiohttp.ClientSession, task_id: str) -> None:
        self._session = session
        self._path = f"/v1/tasks/{task_id}/events"
        self.events: list[tuple[int, str, Any]] = []
        self.connections = 0
        self.refused = 0
        self._retry_s = 2.0

    async def read(self) -> None:
        while not self.events or self.events[-1][1] not in ("succeeded", "failed", "canceled"):
            headers = {"Last-Event-ID": str(self.events[-1][0])} if self.events else {}
            self.connections += 1
            try:
                async with self._session.get(self._path, headers=headers) as answer:
                    assert answer.status == 200, await answer.text()
                    await self._take(answer.content)
            except aiohttp.ClientConnectorError:
                self.refused += 1
            except aiohttp.ClientError:
                pass  # It ended in the middle.
            await asyncio.sleep(self._retry_s)

    async def _take(self, content: aiohttp.StreamReader) -> None:
        fields: dict[str, str] = {}
        async for raw in content:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            if "retry" in fields:
                self._retry_s = int(fields.pop("retry")) / 1000
            if line:
                continue
            if "event" in fields and "id" in fields:
                found = (int(fields["id"]), fields["event"], json.loads(fields["data"]))
                self.events.append(found)
                if found[1] in ("succeeded", "failed", "canceled"):
                    return
            fields = {}


async def knock(served: Served, is_over: asyncio.Event) -> list[str]:
    """Ask over and over, each time on a new connection; return what went wrong."""
    wrong = []
    connector = aiohttp.TCPConnector(force_close=True)
    async with served.session(connector=connector) as session:
        while not is_over.is_set():
            try:
                async with session.get("/health/live") as answer:
                    if answer.status != 200:
                        wrong.append(str(answer.status))
            except aiohttp.ClientError as error:
                wrong.append(repr(error))
            await asyncio.sleep(0.002)
    return wrong


async def test_a_rolling_restart_loses_no_task_and_no_stream_and_refuses_nobody(
    served: Served,
) -> None:
    served.serve(3)
    served.work(2)
    first = set(served.members())
    assert len(first) == 3
    connector = aiohttp.TCPConnector(limit=0)
    async with served.session(connector=connector) as session:
        await until_served(session, 2)
        tasks = await submit_all(session, 0.03, [f"t{n}" for n in range(240)])
        # These wait behind all others, and so are followed through the whole restart.
        last = await submit_all(session, 3600, ["last"] * 20, priority=5)
        followers = [Follower(session, task["id"]) for task in [*tasks, *last]]
        reading = [asyncio.create_task(each.read()) for each in followers]
        is_over = asyncio.Event()
        knocking = asyncio.create_task(knock(served, is_over))
        await until(lambda: any(each.events for each in followers))
        served.supervisor.send_signal(signal.SIGHUP)
        await until(lambda: len(served.members()) == 3 and not first & set(served.members()))
        for task in last:
            async with session.post(f"/v1/tasks/{task['id']}/cancel") as answer:
                assert answer.status == 200
        # Those that came through the restart, and new ones, all end.
        late = [await submit(session, 0.01, f"late{n}", Prefer="wait=60") for n in range(5)]
        assert [task["output"] for task in late] == [f"late{n}" for n in range(5)]
        await asyncio.wait_for(asyncio.gather(*reading), PATIENCE_S)
        is_over.set()
        assert await knocking == [], "nobody who connected was turned away"
    for number, each in enumerate(followers):
        ids = [event[0] for event in each.events]
        assert ids == sorted(set(ids)), "nothing twice, and in order"
        assert each.refused == 0
        if number >= len(tasks):
            assert each.events[-1][1] == "canceled"
            assert each.connections > 1, "its backend was replaced"
            continue
        assert each.events[-1][1] == "succeeded"
        assert each.events[-1][2]["output"] == f"t{number}"
        assert each.events[-1][2]["attempt"] == 1, "no attempt was lost"


async def test_a_killed_process_is_started_again_and_its_streams_go_on(served: Served) -> None:
    served.hold_shortly()
    served.serve(2)
    served.work(1)
    async with served.session(connector=aiohttp.TCPConnector(limit=0)) as session:
        await until_served(session, 1)
        tasks = await submit_all(session, 0.3, [f"t{n}" for n in range(24)])
        followers = [Follower(session, task["id"]) for task in tasks]
        reading = [asyncio.create_task(each.read()) for each in followers]
        await until(lambda: all(each.events for each in followers))
        victim = served.members()[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(served.members()) == 2 and victim not in served.members())
        await asyncio.wait_for(asyncio.gather(*reading), PATIENCE_S)
    assert [each.events[-1][2]["output"] for each in followers] == [f"t{n}" for n in range(24)]


async def test_a_cancellation_through_any_process_reaches_the_worker_before_its_next_heartbeat(
    served: Served,
) -> None:
    served.settings += "[delivery]\nlease_s = 3600\nheartbeat_s = 1800\nworker_wait_s = 600\n"
    served._write()
    served.serve(3)
    served.work(1)
    connector = aiohttp.TCPConnector(force_close=True)
    async with served.session(connector=connector) as session:
        await until_served(session, 1)
        for _ in range(6):
            task = await submit(session, 3600, "long")
            path = f"/v1/tasks/{task['id']}"
            await wait_for_state(session, path, "running")
            async with session.post(f"{path}/cancel") as answer:
                assert answer.status == 200
            await wait_for_state(session, path, "canceled")


async def test_metrics_count_what_all_processes_did_whichever_is_asked(served: Served) -> None:
    served.serve(3)
    served.work(1)
    connector = aiohttp.TCPConnector(force_close=True)
    async with served.session(connector=connector) as session:
        await until_served(session, 1)
        for n in range(30):
            await submit(session, 0.001, f"t{n}")
        agreed = 0
        async with asyncio.timeout(PATIENCE_S):
            while agreed < 12:
                async with session.get("/metrics") as answer:
                    text = await answer.text()
                told = f'swell_tasks_accepted_total{{model="{MODEL}"}} 30.0' in text
                agreed = agreed + 1 if told else 0
                await asyncio.sleep(0.05)


async def wait_for_state(session: aiohttp.ClientSession, path: str, state: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with session.get(path) as answer:
                if (await answer.json())["state"] == state:
                    return
            await asyncio.sleep(0.02)


def test_processes_end_with_what_looks_after_them_and_their_folder_is_theirs(
    served: Served,
) -> None:
    served.serve(2)
    second = served.swell.run("serve", "--port", "0")
    assert second.returncode != 0
    assert "already running in this folder" in second.stderr
    members = [psutil.Process(pid) for pid in served.members()]
    served.supervisor.kill()
    _, alive = psutil.wait_procs(members, timeout=PATIENCE_S)
    assert alive == []


async def hold(served: Served, pid: int) -> socket.socket:
    """Keep a process busy with an upload that does not end."""
    where = urlsplit(served.url)
    head = (
        f"POST /v1/uploads HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Authorization: Bearer {served.key}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: 1000\r\n\r\n{'a' * 600}"
    )
    async with asyncio.timeout(PATIENCE_S):
        while True:
            held = socket.create_connection((where.hostname, where.port))
            held.sendall(head.encode())
            mine = held.getsockname()[1]
            for _ in range(40):
                taken = {
                    each: [
                        end.raddr.port
                        for end in psutil.Process(each).net_connections("tcp")
                        if end.raddr
                    ]
                    for each in served.members()
                }
                if mine in taken[pid]:
                    return held
                if any(mine in ports for ports in taken.values()):
                    break
                await asyncio.sleep(0.02)
            held.close()


async def test_who_stops_all_waits_for_those_that_were_replaced_and_still_work(
    served: Served,
) -> None:
    served.serve(2)
    first, second = served.members()
    held = await hold(served, first)
    served.supervisor.send_signal(signal.SIGHUP)
    await until(lambda: len(served.members()) == 3)
    # The first is asked to go once its successor is ready, and takes no connection then.
    await until(
        lambda: (
            not psutil.Process(first).net_connections("tcp")
            or not any(
                each.status == psutil.CONN_LISTEN
                for each in psutil.Process(first).net_connections("tcp")
            )
        )
    )
    stopping = asyncio.create_task(asyncio.to_thread(stop, served.processes[0]))
    await until(lambda: not psutil.pid_exists(second))
    assert psutil.pid_exists(first)
    assert not stopping.done()
    held.sendall(b"a" * 400)
    assert held.recv(12) == b"HTTP/1.1 201"
    held.close()
    assert await stopping == 0
    assert not psutil.pid_exists(first)


async def test_who_asks_twice_ends_all_however_close_together(served: Served) -> None:
    served.settings += "[server]\ndrain_s = 50\n"
    served._write()
    served.serve(2)
    held = [await hold(served, pid) for pid in served.members()]
    began_s = time.monotonic()
    served.supervisor.send_signal(signal.SIGTERM)
    served.supervisor.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(served.processes[0].wait, PATIENCE_S) == 0
    assert time.monotonic() - began_s < 30
    for each in held:
        each.close()


async def test_a_process_that_cannot_be_started_is_tried_again_and_others_go_on(
    tmp_path: Path, store_url: str
) -> None:
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.path.realpath(sys.executable))
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", tmp_path / "env" / "pyvenv.cfg")
    (tmp_path / "env" / "lib").symlink_to(Path(sys.prefix) / "lib")
    (tmp_path / "swell.toml").write_text(f'[store]\nurl = "{store_url}"\n')
    words = [str(python), "-m", "swell", "serve", "--json", "--port", "0", "--workers", "2"]
    with (tmp_path / "stderr.txt").open("w") as log:
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        ready_line(process, tmp_path)
        supervisor = psutil.Process(process.pid)
        killed, other = supervisor.children()
        python.rename(python.with_name("away"))
        killed.kill()
        told = tmp_path / "stderr.txt"
        await until(lambda: "cannot be started" in told.read_text())
        assert process.poll() is None
        assert other.is_running()
        python.with_name("away").rename(python)
        await until(lambda: len(living(supervisor)) == 2)
    finally:
        assert stop(process) == 0, (tmp_path / "stderr.txt").read_text()


def test_several_processes_on_sqlite_are_refused_with_what_to_do(tmp_path: Path) -> None:
    done = Swell(tmp_path).run("serve", "--port", "0", "--workers", "2")
    assert done.returncode != 0
    assert "set store.url to postgresql://" in done.stderr
    assert "--workers 1" in done.stderr


async def test_two_hosts_work_on_one_store(tmp_path: Path, store_url: str) -> None:
    async for here, there in _two(tmp_path, store_url):
        here.work(1)
        async with here.session() as session:
            await until_served(session, 1)
        there.key = here.key
        async with there.session() as session:
            task = await submit(session, 0.05, "through the other", Prefer="wait=30")
            assert task["output"] == "through the other"


async def _two(tmp_path: Path, store_url: str) -> AsyncIterator[tuple[Served, Served]]:
    both = []
    try:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            each = Served(Swell(tmp_path / name), store_url)
            both.append(each)
            process = each.swell.start("serve", "--json", "--port", "0")
            each.processes.append(process)
            ready = ready_line(process, each.swell.folder)
            each.url, each.key = ready["url"], ready["key"]
        yield both[0], both[1]
    finally:
        for each in both:
            each.end()


async def test_connections_are_balanced(served: Served) -> None:
    """Also after one process was replaced: it has none, and so accepts first."""
    served.serve(workers=2)
    first = served.members()
    async with contextlib.AsyncExitStack() as clients:

        async def connect(n: int) -> None:
            for _ in range(n):
                clients.callback((await kept_connection(served.url)).close)

        async def balanced(one: int, other: int) -> bool:
            """Connect more, up to a limit, until neither process has over 60 %."""
            for _ in range(30):
                await connect(10)
                counts = connections_of(one), connections_of(other)
                if max(counts) <= 0.6 * sum(counts):
                    return True
                await asyncio.sleep(0.1)
            return False

        await connect(30)
        # Left to the kernel, one would have most of them.
        assert await balanced(*first)
        os.kill(first[0], signal.SIGKILL)
        await until(lambda: first[0] not in served.members() and len(served.members()) == 2)
        [fresh] = set(served.members()) - set(first)
        probe: asyncio.StreamWriter | None = None
        async with asyncio.timeout(PATIENCE_S):
            while not connections_of(fresh):
                if probe is not None:
                    probe.close()
                probe = await kept_connection(served.url)
                await asyncio.sleep(0.1)
        assert probe is not None
        clients.callback(probe.close)
        assert await balanced(fresh, first[1])


async def kept_connection(url: str) -> asyncio.StreamWriter:
    """Open a connection, ask something, and keep it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: swell\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).split()[1] == b"200"
    return writer


def connections_of(pid: int) -> int:
    """Return how many a process has that others have made to its port."""
    made = psutil.Process(pid).net_connections("tcp")
    ports = {each.laddr.port for each in made if each.status == psutil.CONN_LISTEN}
    return sum(each.status == psutil.CONN_ESTABLISHED and each.laddr.port in ports for each in made)
