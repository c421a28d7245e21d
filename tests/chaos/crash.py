"""One run: clients ask, processes die, and what is left is judged."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from chaos.plan import Kill, Plan, Submission, Victim, judge
from chaos.recorder import LATER, Recorder, TooLong
from chaos.remains import is_sound, read_api, read_store
from chaos.system import System, running
from conformance.history import History, Violation, check

__all__ = ["LOOK_EVERY_S", "Trouble", "Verdict", "counts_of", "happen", "refusals", "run_crash"]

#: Clients that submit at the same time.
CLIENTS: Final = 24

#: Pause between two looks of one watcher, in seconds.
LOOK_EVERY_S: Final = 0.15


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a run."""

    seed: int
    violations: list[Violation]
    #: SIGKILLs by victim.
    kills: dict[str, int]
    #: Numbers of what was asked, told and left.
    counts: dict[str, Any]
    took_s: float

    @property
    def detail(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return {
            "seed": self.seed,
            "kills": sum(self.kills.values()),
            "kills_by_victim": self.kills,
            **self.counts,
            "violations": [str(each) for each in self.violations[:20]],
            "took_s": round(self.took_s, 1),
        }


async def run_crash(plan: Plan, folder: Path, *, workers: int, limit_s: float) -> Verdict:
    """Run a plan and judge it.

    Args:
        plan: What happens.
        folder: An empty folder for everything that the run keeps.
        workers: How many; the plan's victims are among them.
        limit_s: After so long nothing more is asked; what has not ended by then is a violation.
    """
    began_s = time.monotonic()
    async with running(folder, workers=workers) as system:
        connector = aiohttp.TCPConnector(limit=0)
        async with system.session(connector=connector) as session:
            recorder = Recorder(session, ends_s=began_s + limit_s, seed=plan.seed)
            assassin = Assassin(system, plan.kills)
            await happen(plan, recorder, assassin)
            history = await _history(plan, recorder, system)
        violations = check(history, judge) + refusals(history)
        sound = await asyncio.to_thread(is_sound, system.database)
        if sound != "ok":
            violations.append(Violation(rule="file", subject="swell.db", detail=sound))
    return Verdict(
        seed=plan.seed,
        violations=violations,
        kills=dict(assassin.kills),
        counts={
            "workers_that_gave_up": dict(Counter(assassin.gave_up)),
            **counts_of(plan, history, recorder),
        },
        took_s=time.monotonic() - began_s,
    )


class Trouble(Protocol):
    """What befalls a system while clients ask."""

    async def keep(self) -> None:
        """Start workers again that ended by themselves, as any supervisor would; for ever."""
        ...

    async def work(self, began_s: float) -> None:
        """Do what is planned; returns when all is as it was."""
        ...


class Assassin:
    """Kills by plan, and starts again at once what it killed."""

    def __init__(self, system: System, plan: tuple[Kill, ...]) -> None:
        self._system = system
        self._plan = plan
        self._locks = {index: asyncio.Lock() for index in system.workers}
        self._backend = asyncio.Lock()
        self.kills: Counter[str] = Counter()
        #: Workers that ended by themselves, such as one whose models died while they were
        #: loaded, by what each said last.
        self.gave_up: list[str] = []

    async def keep(self) -> None:
        """See `Trouble.keep`."""
        while True:
            for index, lock in self._locks.items():
                if self._system.workers[index].poll() is not None and not lock.locked():
                    self._start_again(index)
            await asyncio.sleep(LOOK_EVERY_S)

    async def work(self, began_s: float) -> None:
        """Kill at the planned times; returns when the last victim is back."""
        deeds = []
        for kill in self._plan:
            await asyncio.sleep(max(0.0, began_s + kill.at_s - time.monotonic()))
            # Not one after the other: a worker may die while the backend is dead.
            deeds.append(asyncio.create_task(self._kill(kill)))
        await asyncio.gather(*deeds)

    async def _kill(self, kill: Kill) -> None:
        system = self._system
        match kill.victim:
            case Victim.BACKEND:
                async with self._backend:
                    system.kill_backend()
                    await system.start_backend()
            case Victim.WORKER:
                async with self._locks[kill.index]:
                    system.kill_worker(kill.index)
                    system.start_worker(kill.index)
            case Victim.MODEL:
                async with self._locks[kill.index]:
                    await self._kill_model(kill.index)
        self.kills[kill.victim.value] += 1

    async def _kill_model(self, index: int) -> None:
        """Kill a worker's model process as soon as it has one; its worker starts another."""
        for _ in range(600):
            if self._system.kill_model(index):
                return
            if self._system.workers[index].poll() is not None:
                self._start_again(index)
            await asyncio.sleep(0.02)
        raise RuntimeError(f"no model process:\n{self._system.log(f'worker-{index}')}")

    def _start_again(self, index: int) -> None:
        self.gave_up.append(self._system.log(f"worker-{index}").strip().rpartition("\n")[2].strip())
        self._system.start_worker(index)


async def happen(plan: Plan, recorder: Recorder, trouble: Trouble) -> None:
    """Ask as planned while there is trouble; returns when all has ended, or time is up."""
    began_s = time.monotonic()
    clients = asyncio.Semaphore(CLIENTS)
    watchers = [
        asyncio.create_task(trouble.keep()),
        asyncio.create_task(_watch_list(recorder)),
        asyncio.create_task(_watch_tasks(recorder, plan.seed)),
    ]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(trouble.work(began_s))
            for submission in plan.submissions:
                client = _client(recorder, submission, began_s, clients)
                group.create_task(_while_there_is_time(client))
        await _while_there_is_time(_until_quiet(recorder))
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def _client(
    recorder: Recorder, submission: Submission, began_s: float, clients: asyncio.Semaphore
) -> None:
    """Submit, and then cancel, follow or repeat as planned."""
    await asyncio.sleep(max(0.0, began_s + submission.at_s - time.monotonic()))
    async with clients:
        told = await recorder.submit(submission)
    if not told:
        return
    async with asyncio.TaskGroup() as group:
        for job, task in zip(submission.jobs, told, strict=True):
            if job.cancel_after_s is not None:
                group.create_task(_later(job.cancel_after_s, recorder.cancel(task.id)))
            if job.is_streamed:
                group.create_task(recorder.follow(task.id))
        if submission.again_after_s is not None:
            group.create_task(_later(submission.again_after_s, recorder.submit(submission)))


async def _later(delay_s: float, deed: Coroutine[Any, Any, Any]) -> None:
    try:
        await asyncio.sleep(delay_s)
    except BaseException:
        deed.close()
        raise
    await deed


async def _while_there_is_time(deed: Coroutine[Any, Any, None]) -> None:
    # What was not done in time shows in the history: as a task that has not ended.
    with contextlib.suppress(TooLong):
        try:
            await deed
        except* TooLong:
            raise TooLong from None


async def _watch_list(recorder: Recorder) -> None:
    """Look at the newest tasks, and at every user's, again and again."""
    turn = 0
    while True:
        turn += 1
        query: dict[str, Any] = {"limit": 200}
        if turn % 3:
            query |= {"user": f"user-{turn % 7}", "limit": 100}
        await recorder.page(**query)
        await asyncio.sleep(LOOK_EVERY_S)


async def _watch_tasks(recorder: Recorder, seed: int) -> None:
    """Look at single tasks, old and new, ended or not."""
    rng = random.Random(seed)
    while True:
        ids = list(recorder.ids)
        if ids:
            await recorder.get(rng.choice(ids))
        await asyncio.sleep(LOOK_EVERY_S / 5)


async def _until_quiet(recorder: Recorder) -> None:
    """Wait until every task has ended."""
    while True:
        recorder.check_time()
        pages = [await recorder.page(state=state, limit=1) for state in ("queued", "running")]
        # Between these two looks a task may have gone from one state to the other, unseen by both;
        # but what has ended stays so, so that one look at all tasks is enough.
        is_quiet = all(page is not None and not page.tasks for page in pages)
        if is_quiet and await _have_all_ended(recorder):
            return
        await asyncio.sleep(0.1)


async def _have_all_ended(recorder: Recorder) -> bool:
    query: dict[str, Any] = {"limit": 200}
    while True:
        page = await recorder.page(**query)
        if page is None or any(not task.state.is_terminal for task in page.tasks):
            return False
        if page.cursor is None:
            return True
        query["cursor"] = page.cursor


async def _history(plan: Plan, recorder: Recorder, system: System) -> History:
    async with system.session() as session:
        told_finals = await read_api(session)
    finals = await asyncio.to_thread(read_store, system.database)
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
    )


def refusals(history: History) -> list[Violation]:
    """Every ask of a plan is a good one: it may be refused for now, never for good."""
    return [
        Violation(rule="refused", subject=each.name, detail=f"{each.status} {each.code}")
        for each in history.refused
        if each.status not in LATER
    ]


def counts_of(plan: Plan, history: History, recorder: Recorder) -> dict[str, Any]:
    """Return the numbers of a run."""
    ids = {each.task_id for each in history.accepted}
    finals = history.finals
    attempts = Counter(final.attempt for final in finals)
    innocent = {
        job.ask.name for job in plan.jobs if job.body["input"].get("mode") in (None, "work")
    }
    return {
        "asked": len(history.asks),
        "accepted": len(ids),
        "accepted_again": len(history.accepted) - len(ids),
        "kept": len(finals),
        "kept_though_never_told": len({final.task_id for final in finals} - ids),
        "answers_cut_off": recorder.cut_off,
        "calls_that_nobody_took": recorder.unreachable,
        "refused": dict(Counter(f"{each.status} {each.code}" for each in history.refused)),
        "observations": len(history.seen),
        "streams": len(history.streams),
        "cancels": len(history.cancels),
        "ended": dict(Counter(final.outcome.state.value for final in finals)),
        "dead": sum(final.is_dead for final in finals),
        # Attempts that the deaths cost tasks which cannot fail by themselves.
        "attempts_lost": sum(
            max(0, final.attempt - final.handed_back - 1)
            for final in finals
            if final.name in innocent
        ),
        "attempts_handed_back": sum(final.handed_back for final in finals),
        "attempts": {str(n): attempts[n] for n in sorted(attempts)},
    }
