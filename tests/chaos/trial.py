"""One trial: an engine, some of its faults, clients that ask meanwhile, and the verdict."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from chaos.crash import LOOK_EVERY_S, counts_of, happen, refusals
from chaos.engines import ENGINES, Engine
from chaos.faults import DiskFull, Fault, ObjectsFail, Scene, faults_of
from chaos.plan import (
    ENOUGH_ATTEMPTS,
    FEW_ATTEMPTS,
    Plan,
    Strike,
    judge,
    make_plan,
    make_strikes,
    written_down,
)
from chaos.recorder import Recorder
from chaos.remains import read_api, read_files
from chaos.system import PATIENCE_S, System, running
from conformance.history import (
    History,
    Run,
    Trouble,
    Violation,
    check,
    overlaps,
    recoveries,
)
from swell.core.clock import SystemClock

__all__ = ["EVERYTHING", "Row", "Trial", "run_trial"]

#: The row in which all faults of an engine befall it.
EVERYTHING: Final = "everything at once"

#: Faults that kill nothing: they must not cost a task its attempts.
_REFUSALS: Final = (DiskFull.name, ObjectsFail.name)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried."""

    engine: str
    #: Name of a fault, or `EVERYTHING`.
    fault: str
    seed: int
    tasks: int
    #: How often faults begin, and within how many seconds.
    strikes: int
    span_s: float
    #: For how long the slow ones last, instead of their own time; None for their own.
    at_most_s: float | None = None
    workers: int = 3
    #: After so long nothing more is asked; what has not ended by then is a violation.
    limit_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a trial: a row of the table."""

    trial: Trial
    violations: list[Violation]
    #: Faults that began, by name.
    faults: dict[str, int]
    accepted: int
    ended_once: int
    lost: int
    changed: int
    #: Pairs of runs of one task that went on in two processes at once.
    overlapping: int
    longest_ready_s: float
    #: None if no task waited when a fault was over.
    longest_next_end_s: float | None
    took_s: float
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether every fault came that was planned, and most of what was asked was accepted."""
        return (
            sum(self.faults.values()) == self.trial.strikes
            and self.accepted >= 0.8 * self.trial.tasks
        )

    @property
    def detail(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            "engine": self.trial.engine,
            "fault": self.trial.fault,
            "seed": self.trial.seed,
            "faults": self.faults,
            "accepted": self.accepted,
            "ended_once": self.ended_once,
            "lost": self.lost,
            "changed": self.changed,
            "overlapping": self.overlapping,
            "longest_ready_s": round(self.longest_ready_s, 2),
            "longest_next_end_s": None
            if self.longest_next_end_s is None
            else round(self.longest_next_end_s, 2),
            "took_s": round(self.took_s, 1),
            "ended": self.counts.get("ended"),
            "attempts": self.counts.get("attempts"),
            "restarts": self.counts.get("restarts"),
            "violations": [str(each) for each in self.violations[:20]],
        }


async def run_trial(trial: Trial, folder: Path) -> Row:
    """Try an engine, and judge what is left.

    Args:
        trial: What is tried.
        folder: An empty one for everything that the trial keeps.
    """
    began_s = time.monotonic()
    runs = folder / "runs.jsonl"
    plan = written_down(
        make_plan(
            trial.seed,
            tasks=trial.tasks,
            kills=0,
            span_s=trial.span_s,
            workers=trial.workers,
            poisons=max(1, trial.tasks // 600),
        ),
        str(runs),
        FEW_ATTEMPTS if trial.fault in _REFUSALS else ENOUGH_ATTEMPTS,
    )
    engine = ENGINES[trial.engine](folder)
    async with running(folder, workers=trial.workers, engine=engine, is_tried=True) as system:
        scourge = Scourge(system, _strikes(trial, engine))
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            headers={"authorization": f"Bearer {system.key}"},
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=20),
        ) as session:
            ends_s = time.monotonic() + trial.limit_s
            recorder = Recorder(session, ends_s=ends_s, seed=plan.seed, urls=system.urls)
            await happen(plan, recorder, scourge)
            await scourge.all_ready()
            history = await _history(plan, recorder, system, scourge.troubles, runs)
        violations = check(history, judge) + refusals(history)
        sound = await engine.is_sound(system.data)
        if sound != "ok":
            violations.append(Violation(rule="file", subject=trial.engine, detail=sound))
    counts = counts_of(plan, history, recorder) | {"restarts": dict(scourge.restarts)}
    return _row(trial, history, violations, counts, time.monotonic() - began_s)


class Scourge:
    """Brings faults about and heals them by plan; starts again whatever ended by itself.

    See `chaos.crash.Trouble`.
    """

    def __init__(self, system: System, strikes: Sequence[Strike]) -> None:
        self._system = system
        self._strikes = strikes
        self._scene = Scene(system)
        self._kinds = faults_of(type(system.engine))
        self._clock = SystemClock()
        self.troubles: list[Trouble] = []
        #: Processes that ended by themselves, and were started again as any supervisor would.
        self.restarts: Counter[str] = Counter()

    async def keep(self) -> None:
        """Start again what ended by itself; for ever."""
        system = self._system
        while True:
            for index, process in list(system.workers.items()):
                if process.poll() is not None and not self._scene.lock(f"worker-{index}").locked():
                    self.restarts["worker"] += 1
                    system.start_worker(index)
            for index, process in list(system.backends.items()):
                if process.poll() is not None and not self._scene.lock(f"backend-{index}").locked():
                    self.restarts["backend"] += 1
                    system.backends[index] = system.spawn_backend(index)
            await asyncio.sleep(LOOK_EVERY_S)

    async def work(self, began_s: float) -> None:
        """Strike at the planned times; returns when all is healed."""
        async with asyncio.TaskGroup() as group:
            for strike in self._strikes:
                group.create_task(self._strike(strike, began_s))

    async def _strike(self, strike: Strike, began_s: float) -> None:
        await asyncio.sleep(max(0.0, began_s + strike.at_s - time.monotonic()))
        fault: Fault = self._kinds[strike.fault](self._scene, strike.chance)
        await fault.begin()
        begun_at = self._clock.now()
        await asyncio.sleep(strike.duration_s)
        await fault.heal()
        healed_at = self._clock.now()
        await self.all_ready()
        self.troubles.append(
            Trouble(
                fault=strike.fault,
                begun_at=begun_at,
                healed_at=healed_at,
                ready_at=self._clock.now(),
            )
        )

    async def all_ready(self) -> None:
        """Wait until every backend says that it is ready.

        Raises:
            RuntimeError: One never was.
        """
        for index in self._system.backends:
            ends_s = time.monotonic() + 2 * PATIENCE_S
            while not await self._system.is_ready(index):
                if time.monotonic() > ends_s:
                    log = self._system.log(f"backend-{index}")
                    raise RuntimeError(f"backend {index} is not ready again:\n{log}")
                await asyncio.sleep(0.05)


def _strikes(trial: Trial, engine: Engine) -> tuple[Strike, ...]:
    kinds = faults_of(type(engine))
    names = list(kinds) if trial.fault == EVERYTHING else [trial.fault]
    most_s = trial.at_most_s or float("inf")
    lasts_s = {
        name: (min(kinds[name].lasts_s[0], most_s), min(kinds[name].lasts_s[1], most_s))
        for name in names
    }
    return make_strikes(trial.seed, lasts_s, n=trial.strikes, span_s=trial.span_s)


async def _history(
    plan: Plan, recorder: Recorder, system: System, troubles: list[Trouble], runs: Path
) -> History:
    finals = await system.engine.finals(system.data)
    async with system.session() as session:
        told_finals = await read_api(session)
        files = await read_files(session, finals)
    return History(
        asks=[job.ask for job in plan.jobs],
        accepted=recorder.accepted,
        refused=recorder.refused,
        unanswered=recorder.unanswered,
        seen=recorder.seen,
        cancels=recorder.cancels,
        streams=recorder.streams,
        finals=finals,
        told_finals=told_finals,
        files=files,
        runs=await asyncio.to_thread(read_runs, runs),
        troubles=troubles,
    )


def read_runs(path: Path) -> list[Run]:
    """Return what models wrote down; the last line may be cut off where one was killed."""
    begun: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            begun.setdefault(said["mark"], {}).update(said)
    return [
        Run(
            name=each["name"],
            pid=each["pid"],
            begun_s=each["begun_s"],
            ended_s=each.get("ended_s"),
            mark=mark,
        )
        for mark, each in begun.items()
    ]


def _row(
    trial: Trial,
    history: History,
    violations: list[Violation],
    counts: dict[str, Any],
    took_s: float,
) -> Row:
    broken = Counter(violation.rule for violation in violations)
    accepted = {each.task_id for each in history.accepted}
    doubled = {each.subject for each in violations if each.rule in ("doubled", "unended")}
    ended = {
        final.task_id
        for final in history.finals
        if final.outcome.state.is_terminal and not {final.task_id, final.name} & doubled
    }
    felt = recoveries(history)
    next_ends = [each.next_end_s for each in felt if each.next_end_s is not None]
    return Row(
        trial=trial,
        violations=violations,
        faults=dict(Counter(trouble.fault for trouble in history.troubles)),
        accepted=len(accepted),
        ended_once=len(accepted & ended),
        lost=broken["lost"],
        changed=broken["changed"] + broken["revived"],
        overlapping=len(overlaps(history)),
        longest_ready_s=max((each.ready_s for each in felt), default=0.0),
        longest_next_end_s=max(next_ends, default=None),
        took_s=took_s,
        counts=counts,
    )
