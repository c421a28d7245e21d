"""Is every webhook delivered, in order and by its schedule, whatever its receiver does?

    python benchmarks/webhooks_delivery.py [--tasks 660] [--kills 6] [--seed 1]

Tasks name receivers on this machine that are good, down, slow, silent, moved, gone, busy, broken or
that break the connection, while the backend is killed with SIGKILL and started again. Waits of the
schedule are seconds instead of hours. At the end every request that came is checked against what is
promised in docs/webhooks.md, and what the service says of its deliveries against both. The value is
the number of broken promises.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
import standardwebhooks
from aiohttp import web

import machine
import processes
import swell_system
from machine import say

#: Waits before the attempts after the first, in seconds.
SCHEDULE_S: Final = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.0)
#: An attempt that takes longer has failed, in seconds.
TIMEOUT_S: Final = 1.0
#: What the busy one asks for, in seconds.
RETRY_AFTER_S: Final = 2
#: From the first to the last task, as long as kills go on, in seconds.
SPAN_S: Final = 18.0
#: How long all of it may take after that, in seconds.
PATIENCE_S: Final = 90.0

#: What a receiver does, and how many attempts it lets fail (None: all).
KINDS: Final[Mapping[str, int | None]] = {
    "good": 0,
    "down": 0,
    "slow": 0,
    "silent": 1,
    "moved": 2,
    "busy": 1,
    "reset": 2,
    "order": 0,
    "order-broken": 2,
    "gone": None,
    "never": None,
}


@dataclass
class Heard:
    """One request that came."""

    at_s: float
    kind: str
    message_id: str
    task: str
    event: str
    was_taken: bool


@dataclass
class Receivers:
    """Everybody who is told, on two ports: one of them is closed at first."""

    secret: str = ""
    heard: list[Heard] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    times: Counter[str] = field(default_factory=Counter)
    is_mended: bool = False

    async def take(self, request: web.Request) -> web.StreamResponse:
        kind, body = request.match_info["kind"], await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if kind == "trap":
            self.wrong.append("a redirect was followed")
            return web.Response(status=204)
        message_id = headers.get("webhook-id", "")
        self.times[message_id] += 1
        answer = self._answer(kind, self.times[message_id], request)
        taken = answer is not None and answer.status < 300
        self._note(kind, headers, body, was_taken=taken)
        if kind == "slow":
            await asyncio.sleep(0.3)
        if answer is None:
            await asyncio.sleep(3 * TIMEOUT_S)
            return web.Response(status=204)
        return answer

    def _answer(self, kind: str, n: int, request: web.Request) -> web.Response | None:
        """Return what this receiver answers to the n-th attempt; None for nothing."""
        fails = KINDS[kind]
        if self.is_mended or (fails is not None and n > fails):
            return web.Response(status=204)
        if kind == "silent":
            return None
        if kind == "moved":
            return web.Response(status=307, headers={"location": "/trap"})
        if kind == "busy":
            return web.Response(status=429, headers={"retry-after": str(RETRY_AFTER_S)})
        if kind == "reset" and request.transport is not None:
            request.transport.abort()
        return web.Response(status=410 if kind == "gone" else 500)

    def _note(self, kind: str, headers: Mapping[str, str], body: bytes, *, was_taken: bool) -> None:
        try:
            said = standardwebhooks.Webhook(self.secret).verify(body.decode(), dict(headers))
        except standardwebhooks.WebhookVerificationError as error:
            self.wrong.append(f"{kind}: a signature is not right: {error}")
            said = json.loads(body)
        if len(body) > 20_000:
            self.wrong.append(f"{kind}: a body of {len(body)} bytes")
        event = said["type"].removeprefix("task.")
        self.heard.append(
            Heard(
                time.monotonic(), kind, headers["webhook-id"], said["data"]["id"], event, was_taken
            )
        )


class Backend:
    """`swell serve` on one port and folder, killed and started again."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.port = processes.free_port()
        self.key = ""
        self.kills = 0
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        said, log = self._folder / "ready.json", self._folder / "swell.log"
        command: list[str | Path] = [swell_system.program(), "serve", "--port", str(self.port)]
        command += ["--data", self._folder / "data", "--json"]
        with said.open("wb") as stdout, log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                env={**os.environ, **self._settings},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=output,
                cwd=machine.ROOT,
                start_new_session=True,
            )
        processes.until(lambda: bool(swell_system.ready(said)), 60, "swell serve", log)
        self.key = self.key or str(swell_system.ready(said)["key"])

    def kill(self) -> None:
        assert self._process is not None, "it was started"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.kills += 1

    def end(self) -> None:
        if self._process is not None:
            processes.end(self._process)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Caller:
    """Asks the backend, again and again while it is away."""

    def __init__(self, backend: Backend, session: aiohttp.ClientSession) -> None:
        self._backend = backend
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"authorization": f"Bearer {self._backend.key}"}
        if key:
            headers["idempotency-key"] = key
        for _ in range(600):
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._session.request(
                    method, self._backend.url + path, json=body, headers=headers
                ) as answer:
                    said = await answer.json()
                    if answer.status < 300:
                        return said
                    if answer.status < 500:
                        raise RuntimeError(f"{method} {path}: {answer.status} {said}")
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{method} {path}: no answer")

    async def deliveries(self, **query: str) -> list[Any]:
        found: list[Any] = []
        asked = {"limit": "200", **query}
        while True:
            text = "&".join(f"{name}={value}" for name, value in asked.items())
            page = await self.ask("GET", f"/v1/webhooks/deliveries?{text}")
            found += page["deliveries"]
            if page["cursor"] is None:
                return found
            asked["cursor"] = page["cursor"]


async def measure(asked: argparse.Namespace, folder: Path) -> int:
    receivers = Receivers()
    settings = {
        "SWELL_WORKER__MODELS": swell_system.MODEL,
        "SWELL_WEBHOOKS__ALLOW_PRIVATE_URLS": "127.0.0.1",
        "SWELL_WEBHOOKS__SCHEDULE_S": ",".join(map(str, SCHEDULE_S)),
        "SWELL_WEBHOOKS__TIMEOUT_S": str(TIMEOUT_S),
    }
    backend = Backend(folder, settings)
    backend.start()
    try:
        async with aiohttp.ClientSession() as session, listening(receivers) as (port, closed_port):
            caller = Caller(backend, session)
            receivers.secret = (await caller.ask("GET", "/v1/webhooks/secrets/default"))["key"]
            made = await caller.ask("POST", "/v1/keys", {"name": "w", "scopes": ["worker"]})
            with working(backend, made["key"], folder):
                await until_served(caller)
                tasks = await submit(caller, backend, asked, port, closed_port)
                said = await finish(caller, receivers, tasks)
    finally:
        backend.end()
    broken = check(tasks, said, receivers)
    counts = Counter(each.kind for each in receivers.heard)
    repeats = sum(n - 1 for n in taken(receivers).values())
    for each in broken[:40]:
        say(f"  BROKEN {each}")
    detail = {
        "tasks": len(tasks),
        "kills": backend.kills,
        "requests": dict(sorted(counts.items())),
        "delivered_twice": repeats,
        "states": dict(Counter(each["state"] for each in said)),
        "seed": asked.seed,
        "schedule_s": SCHEDULE_S,
    }
    is_whole = backend.kills >= asked.kills and len(tasks) >= asked.tasks
    machine.report(len(broken), detail, ok=is_whole and not broken)
    return 0 if is_whole and not broken else 1


async def until_served(caller: Caller) -> None:
    """Wait until a worker has brought the model."""
    while not (await caller.ask("GET", "/v1/models"))["models"]:
        await asyncio.sleep(0.2)


async def submit(
    caller: Caller,
    backend: Backend,
    asked: argparse.Namespace,
    port: int,
    closed_port: asyncio.Future[int],
) -> dict[str, str]:
    """Ask for all tasks while the backend is killed; return task → kind of its receiver."""
    rng = random.Random(asked.seed)
    later = processes.free_port()
    killing = asyncio.create_task(kill_often(backend, asked.kills, rng))
    opening = asyncio.create_task(open_later(later, closed_port))
    tasks: dict[str, str] = {}
    kinds = [list(KINDS)[number % len(KINDS)] for number in range(asked.tasks)]
    step = 10
    for at in range(0, len(kinds), step):
        part = kinds[at : at + step]
        body = {"tasks": [wish(kind, later if kind == "down" else port) for kind in part]}
        made = await caller.ask("POST", "/v1/tasks/batch", body, key=f"batch-{at}")
        tasks |= {task["id"]: kind for task, kind in zip(made["tasks"], part, strict=True)}
        await asyncio.sleep(SPAN_S * step / len(kinds))
    await killing
    await opening
    return tasks


def wish(kind: str, port: int) -> Mapping[str, Any]:
    hook: dict[str, Any] = {"url": f"http://127.0.0.1:{port}/{kind}"}
    if kind.startswith("order"):
        hook["events"] = ["started", "succeeded", "failed", "canceled", "expired"]
    return {**swell_system.task(), "webhook": hook}


async def kill_often(backend: Backend, kills: int, rng: random.Random) -> None:
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.5, 1.5) * SPAN_S / (kills + 1))
        await asyncio.to_thread(backend.kill)
        await asyncio.to_thread(backend.start)


async def open_later(port: int, closed_port: asyncio.Future[int]) -> None:
    """Open the port of the one that is down."""
    await asyncio.sleep(SPAN_S / 3)
    closed_port.set_result(port)


async def finish(caller: Caller, receivers: Receivers, tasks: Mapping[str, str]) -> list[Any]:
    """Wait until nothing waits, mend those that failed for good, and have them told again."""
    await until_over(caller, tasks)
    failed = await caller.deliveries(state="failed")
    never = [each for each in failed if tasks.get(each["task"]) == "never"]
    receivers.wrong += [
        f"never: {each['id']} has had {len(each['attempts'])} attempts, not ten"
        for each in never
        if len(each["attempts"]) != len(SCHEDULE_S) + 1
    ]
    receivers.is_mended = True
    for each in never:
        await caller.ask("POST", f"/v1/webhooks/deliveries/{each['id']}/replay", {})
    await until_over(caller, tasks)
    return await caller.deliveries()


async def until_over(caller: Caller, tasks: Mapping[str, str]) -> None:
    ends_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_s:
        said = await caller.deliveries(state="waiting")
        live = await caller.ask("GET", "/v1/tasks?state=queued&limit=1")
        live = (
            live["tasks"] or (await caller.ask("GET", "/v1/tasks?state=running&limit=1"))["tasks"]
        )
        if not said and not live:
            return
        await asyncio.sleep(0.5)


def taken(receivers: Receivers) -> Counter[tuple[str, str]]:
    """Return how often each event was answered with 2xx, by task and event."""
    return Counter((each.task, each.event) for each in receivers.heard if each.was_taken)


def check(tasks: Mapping[str, str], said: Sequence[Any], receivers: Receivers) -> list[str]:
    """Return every promise that was broken."""
    broken = list(receivers.wrong)
    got = taken(receivers)
    by_task: dict[str, list[Any]] = defaultdict(list)
    for each in said:
        by_task[each["task"]].append(each)
    for task, kind in tasks.items():
        told = {each["event"]: each for each in by_task[task]}
        if "succeeded" not in told:
            broken.append(f"{kind}: task {task} ended and nothing was written to be told")
            continue
        wanted = "failed" if kind == "gone" else "delivered"
        if told["succeeded"]["state"] != wanted:
            broken.append(f"{kind}: {task} is {told['succeeded']['state']}, not {wanted}")
        if (got[task, "succeeded"] > 0) is not (wanted == "delivered"):
            broken.append(f"{kind}: {task} came {got[task, 'succeeded']} times")
        for each in told.values():
            broken += [f"{kind}: {task}: {why}" for why in off_schedule(each, kind)]
    return broken + disordered(receivers)


def off_schedule(delivery: Any, kind: str) -> list[str]:
    """Return which attempts came too early, or were made in vain."""
    tries = delivery["attempts"]
    found = []
    if kind == "gone" and len(tries) != 1:
        found.append(f"{len(tries)} attempts though it answered 410")
    for number, (before, after) in enumerate(itertools.pairwise(tries)):
        if number >= len(SCHEDULE_S):
            break  # Replayed.
        gap_s = moment_s(after["at"]) - moment_s(before["at"]) - before["took_s"]
        least_s = 0.9 * SCHEDULE_S[number]
        if before["status"] == 429:
            least_s = max(least_s, RETRY_AFTER_S)
        if gap_s < least_s - 0.02:
            found.append(f"attempt {number + 2} came after {gap_s:.2f} s, not {least_s:.2f} s")
    return found


def disordered(receivers: Receivers) -> list[str]:
    """Return the events of a task that came out of order, or under another id."""
    found = []
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    ended: set[str] = set()
    for each in receivers.heard:
        ids[each.task, each.event].add(each.message_id)
        if each.event != "started":
            ended.add(each.task)
        elif each.task in ended:
            found.append(f"{each.kind}: {each.task} was told of its start after its end")
    # A task whose worker was lost starts twice, and each start is an event of its own.
    found += [
        f"{task} {event} came under {len(known)} ids"
        for (task, event), known in ids.items()
        if event != "started" and len(known) > 1
    ]
    return found


def moment_s(text: str) -> float:
    return datetime.fromisoformat(text).astimezone(UTC).timestamp()


@contextlib.asynccontextmanager
async def listening(
    receivers: Receivers,
) -> AsyncIterator[tuple[int, asyncio.Future[int]]]:
    """Serve the receivers; give their port, and what opens another one."""
    app = web.Application()
    app.router.add_post("/{kind}", receivers.take)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    later: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def open_then() -> None:
        await web.TCPSite(runner, "127.0.0.1", await later).start()

    opening = asyncio.create_task(open_then())
    try:
        yield port, later
    finally:
        opening.cancel()
        await runner.cleanup()


@contextlib.contextmanager
def working(backend: Backend, key: str, folder: Path) -> Any:
    """One `swell worker` for the backend."""
    command: list[str | Path] = [swell_system.program(), "worker", "--url", backend.url]
    command += ["--models", swell_system.MODEL]
    settings = {"SWELL_WORKER__TOKEN": key}
    with processes.running(command, folder / "worker.log", settings, cwd=machine.ROOT):
        yield


def main() -> int:
    asked = _arguments()
    with machine.folder("webhooks") as folder:
        return asyncio.run(measure(asked, folder))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=660)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
