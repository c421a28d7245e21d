"""A crowd on real worker processes, written down, and the same crowd in simulated time: with the
same arrivals, start times and service times, by the same policy.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from chaos.spike import MODEL, POOL, Asker, Outcome, Stage, judge_tasks
from chaos.trial import read_runs
from swell.autoscaler.policy import plan
from swell.autoscaler.policy_settings import PolicySettings
from swell.simulator import crowds, jobs
from swell.simulator.machines import Workers
from swell.simulator.pools import MODEL as SIMULATED
from swell.simulator.pools import Pool
from swell.simulator.speeds import measured

__all__ = ["Course", "Error", "Life", "Record", "Run", "compare", "moments", "real", "simulated"]


@dataclass(frozen=True, slots=True)
class Course:
    """What is asked of the pool, and how it is scaled."""

    seconds: float = 600.0
    task_s: float = 2.0
    #: (share of the time, tasks in each second of work) pairs.
    steps: tuple[tuple[float, float], ...] = ((0.2, 0.8), (0.4, 5.0), (0.4, 0.8))
    boot_s: float = 30.0
    wait_s: float = 20.0
    least: int = 1
    most: int = 10
    #: What the settings say of starts, and how often it is decided, in seconds.
    told_start_s: float = 30.0
    every_s: float = 1.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """One task, in seconds since the beginning."""

    asked_s: float
    begun_s: float
    ended_s: float
    #: Which process ran it.
    pid: int


@dataclass(frozen=True, slots=True)
class Life:
    """One worker, in seconds since the beginning; what had not come by the end is None."""

    asked_s: float
    ready_s: float | None
    gone_s: float | None


@dataclass(slots=True)
class Record:
    """What real processes did."""

    course: Course
    #: When it began, in seconds since 1970.
    began_at: float
    runs: list[Run] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """Write it into a file."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Return what `keep` wrote."""
        told = json.loads(path.read_text())
        course = told["course"]
        course["steps"] = tuple(tuple(each) for each in course["steps"])
        return cls(
            course=Course(**course),
            began_at=told["began_at"],
            runs=[Run(**each) for each in told["runs"]],
            lives=[Life(**each) for each in told["lives"]],
            wrong=told["wrong"],
            decisions=told["decisions"],
        )

    @property
    def waits_s(self) -> list[float]:
        """How long each task waited for its worker."""
        return [run.begun_s - run.asked_s for run in self.runs]

    @property
    def worker_s(self) -> float:
        """For how long workers were there, boots included."""
        ends_s = self.course.seconds
        return sum(
            max(
                0.0, min(ends_s, ends_s if each.gone_s is None else each.gone_s) - max(0.0, asked_s)
            )
            for each in self.lives
            if (asked_s := each.asked_s) < ends_s
        )

    @property
    def starts_s(self) -> list[float]:
        """How long starts took of those that were asked for meanwhile."""
        return [
            each.ready_s - each.asked_s
            for each in self.lives
            if each.ready_s is not None and 0.0 <= each.asked_s < self.course.seconds
        ]

    def services_s(self) -> list[float]:
        """For how long tasks occupied their worker.

        Where the next had been waiting, until that was begun: what lies between two is part of it.
        """
        of_process: dict[int, list[Run]] = {}
        for run in sorted(self.runs, key=lambda run: run.begun_s):
            of_process.setdefault(run.pid, []).append(run)
        return [
            after.begun_s - run.begun_s
            for runs in of_process.values()
            for run, after in pairwise(runs)
            if after.asked_s < run.ended_s
        ]


def moments(course: Course) -> list[float]:
    """When tasks come, in seconds: those of independent people, more in the middle."""
    rng = random.Random(course.seed)
    found, begin_s = [], 0.0
    for share, per_work in course.steps:
        at_s, end_s = begin_s, begin_s + share * course.seconds
        while (at_s := at_s + rng.expovariate(per_work / course.task_s)) < end_s:
            found.append(at_s)
        begin_s = end_s
    return found


async def real(folder: Path, course: Course) -> Record:
    """Have the crowd come to real processes; return what they did."""
    outcome = Outcome()
    own = {
        "autoscale.every_s": f"{course.every_s:g}",
        "autoscale.wait_s": f"{course.wait_s:g}",
        "autoscale.policy": "{}",
    }
    stage = Stage(folder, None, {POOL: _pool(course)}, own)
    try:
        await stage.start()
        await stage.until("no worker came", lambda pool: pool["ready"] == course.least, 240.0)
        asker = Asker(stage, outcome, round(course.task_s * 1000))
        # Bins of arrivals are of ten seconds, by the clock on the wall.
        began, began_at = time.monotonic(), time.time()
        for moment in moments(course):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            asker.ask()
        await asyncio.sleep(max(0.0, began + course.seconds - time.monotonic()))
        await asker.all_asked()
        tasks = await asker.all_ended(240.0)
        judge_tasks(outcome, asker, tasks)
        record = Record(course, began_at, wrong=outcome.wrong)
        record.runs = _runs(stage, tasks, began_at)
        workers = (await stage.get("/v1/workers?gone=true"))["workers"]
        record.lives = _lives(stage, workers, began_at)
        record.decisions = (await stage.get("/v1/scaling?limit=200") or {}).get("decisions", [])
        return record
    finally:
        await asyncio.to_thread(stage.end)


def _pool(course: Course) -> dict[str, Any]:
    return {
        "most": course.most,
        "least": course.least,
        "slots": 1,
        "rates": {MODEL: 1.0 / course.task_s},
        "start_s": course.told_start_s,
        "options": {"boot_delay_s": course.boot_s},
    }


def _runs(stage: Stage, tasks: dict[str, dict[str, Any]], began_at: float) -> list[Run]:
    process = {run.name: run.pid for run in read_runs(stage.runs)}
    return [
        Run(
            asked_s=_moment(task["created_at"]) - began_at,
            begun_s=_moment(task["started_at"]) - began_at,
            ended_s=_moment(task["finished_at"]) - began_at,
            pid=process[name],
        )
        for name, task in tasks.items()
        if task["started_at"] is not None and name in process
    ]


def _lives(stage: Stage, workers: list[dict[str, Any]], began_at: float) -> list[Life]:
    ready = {each["instance"]: _moment(each["registered_at"]) for each in workers}
    lives = []
    for name, each in stage.instances().items():
        gone = (stage.records / POOL / name).with_suffix(".ended")
        gone_at = _moment(json.loads(gone.read_text())["at"]) if gone.exists() else None
        lives.append(
            Life(
                asked_s=_moment(each["asked_at"]) - began_at,
                ready_s=ready[name] - began_at if name in ready else None,
                gone_s=None if gone_at is None else gone_at - began_at,
            )
        )
    return lives


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def simulated(record: Record, seed: int) -> jobs.Outcome:
    """Return what the simulator says of the same crowd.

    Whoever scales was there before the crowd came, since the first worker was asked for.
    """
    course = record.course
    lead_s = max(0.0, -min(each.asked_s for each in record.lives))
    asked_s = np.sort(np.array([run.asked_s for run in record.runs])) + lead_s
    workers = Workers(
        pool=Pool(name=POOL, most=course.most, least=course.least, hour_micros=500_000),
        speeds={SIMULATED: measured(record.services_s())},
        starts_s=record.starts_s,
        ready=course.least,
        told_start_s=course.told_start_s,
    )
    wanted = PolicySettings(wait_s=course.wait_s)
    return jobs.simulate(
        crowds.crowd_at(asked_s, seed),
        lambda seen, state: plan(seen, wanted, state),
        [workers],
        seed=seed,
        terms=jobs.Terms(
            every_s=course.every_s,
            starts_at=record.began_at - lead_s,
            until_s=lead_s + course.seconds,
        ),
    )


@dataclass(frozen=True, slots=True)
class Error:
    """How far the simulator is off, as shares, and what both say."""

    value: float
    detail: dict[str, Any]


def compare(record: Record, seeds: Sequence[int]) -> Error:
    """Compare what was with what the simulator says, the mean over seeds."""
    course = record.course
    lead_s = max(0.0, -min(each.asked_s for each in record.lives))
    ran = [simulated(record, seed) for seed in seeds]
    waits = [done.mean_wait_s() for done in ran]
    paid = [_paid_s(done.lives, lead_s, lead_s + course.seconds) for done in ran]
    real_wait_s, real_paid_s = fmean(record.waits_s), record.worker_s
    off = {
        "mean_wait": fmean(waits) / real_wait_s - 1.0,
        "worker_s": fmean(paid) / real_paid_s - 1.0,
    }
    detail = {
        "off": {name: round(share, 4) for name, share in off.items()},
        "real": {
            "tasks": len(record.runs),
            "mean_wait_s": round(real_wait_s, 2),
            "p95_wait_s": round(float(np.quantile(record.waits_s, 0.95)), 2),
            "worker_s": round(real_paid_s),
            "workers_asked_for": len(record.lives) - 1,
            "starts_s": [round(each, 1) for each in record.starts_s],
            "service_s": round(fmean(record.services_s()), 4),
        },
        "simulated": {
            "mean_wait_s": [round(each, 2) for each in waits],
            "p95_wait_s": [round(done.wait_s(0.95), 2) for done in ran],
            "worker_s": [round(each) for each in paid],
            "workers_asked_for": [done.launches for done in ran],
        },
        "wrong": record.wrong,
    }
    return Error(max(abs(share) for share in off.values()), detail)


def _paid_s(lives: Sequence[jobs.Life], from_s: float, until_s: float) -> float:
    return sum(max(0.0, min(each.gone_s, until_s) - max(each.asked_s, from_s)) for each in lives)
