"""A crowd on real worker processes: a sleeping pool wakes, grows tenfold, loses a worker and its
controller on the way, and sleeps again; and what must be so afterwards.

Workers are processes that outlive whoever launched them, as machines of a cloud do.
"""

import asyncio
import contextlib
import json
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from chaos.engines import Engine
from chaos.system import MODELS, System
from chaos.trial import read_runs

__all__ = [
    "POOL",
    "Asker",
    "Crowd",
    "Outcome",
    "Stage",
    "judge_runs",
    "judge_tasks",
    "run_spike",
    "summary",
]

MODEL: Final = "chaos/turn"
POOL: Final = "crowd"

#: How often things are looked at while they change, in seconds.
_LOOK_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many come, and what befalls the pool meanwhile."""

    #: Tasks per second as usual, and how many times as many come at the peak.
    per_s: float = 1.0
    times: float = 10.0
    before_s: float = 5.0
    peak_s: float = 16.0
    after_s: float = 3.0
    task_ms: int = 500
    most: int = 8
    boot_delay_s: float = 1.5
    #: Into the peak; None for never.
    kill_worker_s: float | None = 6.0
    kill_controller_s: float | None = 9.0
    limit_s: float = 120.0
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    accepted: int = 0
    succeeded: int = 0
    #: Every broken promise, in words.
    wrong: list[str] = field(default_factory=list)
    most_ready: int = 0
    instances: int = 0
    registered: int = 0
    swept: int = 0
    interrupted: int = 0
    #: Workers that were killed on purpose.
    killed: int = 0
    waits_s: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0

    @property
    def wait_p95_s(self) -> float:
        """Within how long 19 of 20 tasks started."""
        ordered = sorted(self.waits_s)
        return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0


class Stage:
    """A system whose workers are launched by its autoscaler.

    Args:
        folder: An empty one.
        engine: What it stands on; None for SQLite, where the backend itself scales.
        pools: Pools by name, over the usual one.
        settings: More settings by their dotted keys.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine | None,
        pools: dict[str, dict[str, Any]],
        settings: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.pools = {name: _pool(each) for name, each in pools.items()}
        self._own = {
            "delivery.lease_s": "6",
            "delivery.heartbeat_s": "1",
            "autoscale.every_s": "0.5",
            "autoscale.wait_s": "5",
            "autoscale.policy": json.dumps({"first_wait_s": 5}),
        } | (settings or {})
        self.system = System(folder, dict(self._own), engine=engine)
        self.is_apart = self.system.engine.backends > 1
        self.runs = folder / "runs"
        self.runs.touch()
        self._autoscaler: Any = None

    async def start(self) -> None:
        """Start backends, make the workers' key, and have pools scaled."""
        system = self.system
        await asyncio.to_thread(system.engine.start)
        for index in range(system.engine.backends):
            await system.start_backend(index)
        told = {"pools": json.dumps(self.pools), "autoscale.token": system.token}
        told["autoscale.url"] = system.url
        if self.is_apart:
            self._scaling = told
            self.start_controller()
            return
        # Only one process has the store: it is started again with pools.
        system.kill_backend()
        system._settings.update(told)
        await system.start_backend()

    def start_controller(self) -> None:
        """Start the autoscaler, where it is a process of its own."""
        own = (
            self._scaling
            | self.system.engine.settings()
            | {"data_dir": str(self.folder / "autoscaler")}
        )
        self._autoscaler = self.system._spawn("autoscaler", "autoscale", own)

    async def kill_controller(self) -> None:
        """SIGKILL whoever scales, and start it again a second later."""
        if self.is_apart:
            self._autoscaler.kill()
            self._autoscaler.wait(20)
            await asyncio.sleep(1.0)
            self.start_controller()
            return
        self.system.kill_backend()
        await asyncio.sleep(1.0)
        await self.system.start_backend()

    @property
    def records(self) -> Path:
        """The folder in which launched processes are written down."""
        home = self.folder / "autoscaler" if self.is_apart else self.system.data
        return home / "logs"

    def instances(self) -> dict[str, dict[str, Any]]:
        """Return what is written down of launched processes, by id."""
        found = {}
        for path in self.records.glob("*/*.json"):
            with contextlib.suppress(OSError, json.JSONDecodeError):
                each = json.loads(path.read_text())
                found[each["id"]] = each | {"has_ended": path.with_suffix(".ended").exists()}
        return found

    def living(self) -> list[psutil.Process]:
        """Return the processes of launched workers that are there."""
        found = []
        for path in self.records.glob("*/*.pid"):
            with contextlib.suppress(OSError, psutil.Error):
                process = psutil.Process(int(path.read_text().split()[0]))
                told = process.environ().get("SWELL_INSTANCE_ID", "")
                if told == path.stem and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    async def get(self, path: str) -> Any:
        """Return the answer to a GET with the operator's key; None where there is none now."""
        try:
            async with self.system.session() as session, session.get(path) as answer:
                return await answer.json() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def pool(self, name: str = POOL) -> dict[str, Any]:
        """Return how a pool stands; empty where nobody tells."""
        told = await self.get("/v1/pools") or {"pools": []}
        for each in told["pools"]:
            if each["pool"] == name:
                return dict(each["scaling"] or {})
        return {}

    async def until(
        self, what: str, is_so: Callable[[dict[str, Any]], bool], limit_s: float, name: str = POOL
    ) -> dict[str, Any]:
        """Wait until a pool is as wanted.

        Raises:
            TimeoutError: It never was.
        """
        ends_s = time.monotonic() + limit_s
        seen: dict[str, Any] = {}
        while time.monotonic() < ends_s:
            seen = await self.pool(name)
            if seen and is_so(seen):
                return seen
            await asyncio.sleep(_LOOK_S)
        log = self.system.log("autoscaler" if self.is_apart else "backend-0")
        raise TimeoutError(f"{what}: {seen}\n{log}")

    def end(self) -> None:
        """Kill everything."""
        if self._autoscaler is not None:
            self._autoscaler.kill()
            self._autoscaler.wait(20)
        self.system.end()
        for process in self.living():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                os.killpg(process.pid, 9)
        self.system.engine.stop()


def _pool(told: dict[str, Any]) -> dict[str, Any]:
    options = {"outlives": True} | told.pop("options", {})
    usual = {
        "provider": "process",
        "models": [str(MODELS)],
        "slots": 2,
        "rates": {MODEL: 2.0},
        "start_s": 4,
        "hour_micros": 500_000,
    }
    return {**usual, **told, "options": options}


class Asker:
    """Asks for tasks, again and again until each is accepted, and follows them to their ends."""

    def __init__(self, stage: Stage, outcome: Outcome, task_ms: int) -> None:
        self._stage = stage
        self._outcome = outcome
        self._task_ms = task_ms
        #: Name → id of its task.
        self.accepted: dict[str, str] = {}
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, **fields: Any) -> str:
        """Ask for one task, beside all else; return its name."""
        name = secrets.token_hex(6)
        task = asyncio.create_task(self._ask(name, fields))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return name

    async def crowd(self, per_s: float, lasts_s: float, rng: random.Random) -> None:
        """Ask for so many per second, as independent people do."""
        ends_s = time.monotonic() + lasts_s
        while time.monotonic() < ends_s:
            self.ask()
            await asyncio.sleep(rng.expovariate(per_s))

    async def _ask(self, name: str, fields: dict[str, Any]) -> None:
        own = {"ms": self._task_ms} | fields
        given = {"text": name, "ms": own.pop("ms"), "runs": str(self._stage.runs)}
        body = {"model": MODEL, "input": given} | own
        headers = {"Idempotency-Key": name}
        while True:
            try:
                async with (
                    self._stage.system.session() as session,
                    session.post("/v1/tasks", json=body, headers=headers) as answer,
                ):
                    told = await answer.json()
                    if answer.status in (201, 202):
                        self.accepted[name] = told["id"]
                        return
                    if answer.status != 503 or told.get("code") == "no_worker":
                        self._outcome.wrong.append(f"a task was refused: {told['detail']}")
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass  # the backend is down: whether it was accepted is not known
            await asyncio.sleep(0.2)

    async def all_asked(self) -> None:
        """Wait until everything is accepted."""
        await asyncio.gather(*self._asking)

    async def all_ended(self, limit_s: float) -> dict[str, dict[str, Any]]:
        """Return all tasks by name once they have ended; what has not by then is wrong."""
        ends_s, found = time.monotonic() + limit_s, {}
        left = dict(self.accepted)
        while left and time.monotonic() < ends_s:
            for name, task_id in list(left.items()):
                task = await self._stage.get(f"/v1/tasks/{task_id}")
                if task is None or task["finished_at"] is None:
                    break
                found[name] = task
                del left[name]
            await asyncio.sleep(_LOOK_S)
        self._outcome.wrong += [f"{name} has not ended" for name in left]
        return found


async def run_spike(folder: Path, crowd: Crowd, engine: Engine | None = None) -> Outcome:
    """Have a crowd come and go, and return what came of it."""
    began_s = time.monotonic()
    outcome, rng = Outcome(), random.Random(crowd.seed)
    pool = {"most": crowd.most, "options": {"boot_delay_s": crowd.boot_delay_s}}
    stage = Stage(folder, engine, {POOL: pool})
    try:
        await stage.start()
        # The first worker tells what it can do; then nobody needs it.
        await stage.until("it never slept", _sleeps, crowd.limit_s)
        asker = Asker(stage, outcome, crowd.task_ms)
        watching = asyncio.create_task(_watch(stage, outcome))
        killed = await _come_and_go(stage, outcome, asker, crowd, rng)
        await asker.all_asked()
        tasks = await asker.all_ended(crowd.limit_s)
        last = await stage.until("it does not sleep again", _sleeps, crowd.limit_s)
        outcome.counts, outcome.ends = dict(last["counts"]), dict(last["ends"])
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        judge_tasks(outcome, asker, tasks)
        judge_runs(outcome, stage, tasks, killed)
        await _judge_instances(outcome, stage, crowd)
    finally:
        await asyncio.to_thread(stage.end)
    outcome.took_s = time.monotonic() - began_s
    return outcome


def _sleeps(pool: dict[str, Any]) -> bool:
    states = ("ready", "booting", "draining", "desired")
    return bool(pool["counts"].get("launch")) and not any(pool[each] for each in states)


async def _watch(stage: Stage, outcome: Outcome) -> None:
    while True:
        pool = await stage.pool()
        outcome.most_ready = max(outcome.most_ready, pool.get("ready", 0))
        await asyncio.sleep(_LOOK_S)


async def _come_and_go(
    stage: Stage, outcome: Outcome, asker: Asker, crowd: Crowd, rng: random.Random
) -> set[int]:
    """Return the model processes that were killed with their worker."""
    killed: set[int] = set()
    await asker.crowd(crowd.per_s, crowd.before_s, rng)
    befalling = asyncio.create_task(_befall(stage, outcome, crowd, killed))
    await asker.crowd(crowd.per_s * crowd.times, crowd.peak_s, rng)
    await befalling
    await asker.crowd(crowd.per_s, crowd.after_s, rng)
    return killed


async def _befall(stage: Stage, outcome: Outcome, crowd: Crowd, killed: set[int]) -> None:
    began_s = time.monotonic()
    if crowd.kill_worker_s is not None:
        await asyncio.sleep(crowd.kill_worker_s)
        killed |= await _kill_a_worker(stage, outcome)
    if crowd.kill_controller_s is not None:
        await asyncio.sleep(max(0.0, began_s + crowd.kill_controller_s - time.monotonic()))
        await stage.kill_controller()


async def _kill_a_worker(stage: Stage, outcome: Outcome) -> set[int]:
    """SIGKILL a worker that is at work; return the model processes that went with it."""
    for _ in range(25):
        victim = await _busy_worker(stage)
        if victim is not None:
            before = _at_work(stage)
            break
        await asyncio.sleep(_LOOK_S)
    else:
        outcome.wrong.append("no worker was at work that could be killed")
        return set()
    os.killpg(victim.pid, 9)
    outcome.killed += 1
    for _ in range(300):
        await asyncio.sleep(0.1)
        if gone := {pid for pid in before if not psutil.pid_exists(pid)}:
            return gone
    return set()


async def _busy_worker(stage: Stage) -> psutil.Process | None:
    workers = await stage.get("/v1/workers") or {"workers": []}
    busy = {each["instance"] for each in workers["workers"] if each["state"] == "busy"}
    for process in stage.living():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SWELL_INSTANCE_ID") in busy:
                return process
    return None


def _at_work(stage: Stage) -> set[int]:
    """Return the model processes of runs that have begun and not ended."""
    return {run.pid for run in read_runs(stage.runs) if run.ended_s is None}


def judge_tasks(outcome: Outcome, asker: Asker, tasks: dict[str, dict[str, Any]]) -> None:
    """Check that each task that was accepted has one end, and the right one."""
    outcome.accepted = len(asker.accepted)
    twice = [each for each, n in Counter(asker.accepted.values()).items() if n > 1]
    outcome.wrong += [f"{each} is the task of two requests" for each in twice]
    for name, task in tasks.items():
        if task["state"] != "succeeded" or task["output"]["text"] != name[::-1]:
            outcome.wrong.append(f"{name} ended as {task['state']}: {task['error']}")
            continue
        outcome.succeeded += 1
        outcome.waits_s.append((task["timings"] or {}).get("queue_s", 0.0))


def judge_runs(
    outcome: Outcome, stage: Stage, tasks: dict[str, dict[str, Any]], killed: set[int]
) -> None:
    """Check that nobody's work was ended by scaling, and nobody's work counted twice."""
    runs = read_runs(stage.runs)
    marks = {run.mark: run for run in runs}
    for name, task in tasks.items():
        nonce = (task["output"] or {}).get("nonce")
        if nonce is not None and (nonce not in marks or marks[nonce].name != name):
            outcome.wrong.append(f"{name} has the outcome of no run of its own")
    interrupted = [run for run in runs if run.ended_s is None]
    outcome.interrupted = len(interrupted)
    outcome.wrong += [
        f"a run of {run.name} was ended, and not by us"
        for run in interrupted
        if run.pid not in killed
    ]
    lost = {run.name for run in interrupted}
    for name, n in Counter(run.name for run in runs).items():
        if n > 1 and name not in lost and tasks[name]["attempt"] == 1:
            outcome.wrong.append(f"{name} ran {n} times in one attempt")


async def _judge_instances(outcome: Outcome, stage: Stage, crowd: Crowd) -> None:
    """Check that everything that was launched registered or was swept, and that nothing is left."""
    instances = stage.instances()
    listed = (await stage.get("/v1/workers?gone=true") or {"workers": []})["workers"]
    registered = {each["instance"] for each in listed if each["instance"]}
    outcome.instances = len(instances)
    outcome.registered = len(registered & set(instances))
    outcome.swept = len(set(instances) - registered)
    for name, each in instances.items():
        if not each["has_ended"]:
            outcome.wrong.append(f"{name} has not ended")
    outcome.wrong += [f"{each} was launched by nobody" for each in registered - set(instances)]
    outcome.wrong += [f"process {each.pid} is left" for each in stage.living()]
    outcome.wrong += [
        f"{each['id']} is {each['state']}" for each in listed if each["state"] != "gone"
    ]
    ends = sum(outcome.ends.values())
    if ends != len(instances):
        outcome.wrong.append(f"the ends of {ends} machines were told: {outcome.ends}")
    if outcome.ends.get("lost", 0) != outcome.killed:
        outcome.wrong.append(f"{outcome.killed} were killed, and told as ended: {outcome.ends}")
    asked = outcome.counts.get("launch", 0)
    if len(instances) != asked:
        outcome.wrong.append(f"{len(instances)} machines came of {asked} that were asked for")
    if outcome.most_ready < min(crowd.most, 3):
        outcome.wrong.append(f"no more than {outcome.most_ready} workers came for the crowd")


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as it is told in a figure."""
    return {
        "accepted": outcome.accepted,
        "succeeded": outcome.succeeded,
        "most_ready": outcome.most_ready,
        "instances": outcome.instances,
        "registered": outcome.registered,
        "swept": outcome.swept,
        "runs_lost_with_the_killed_worker": outcome.interrupted,
        "wait_p95_s": round(outcome.wait_p95_s, 1),
        "counts": outcome.counts,
        "ends": outcome.ends,
        "took_s": round(outcome.took_s, 1),
    }
