"""What providers and stores do to an autoscaler, on real workers; and what must be so then.

refused     the cheap pool refuses from the start: the dear one takes over, the cheap one is asked
            less and less
taken back  a spot machine is taken back with notice: what is short ends, what is long is handed
            over unharmed and ends elsewhere
region gone every spot machine goes at once, without notice, and no more are given
stale       the database says nothing for longer than the autoscaler believes what it saw
"""

import asyncio
import json
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

from chaos.engines import Engine, PostgresEngine
from chaos.spike import Asker, Outcome, Stage, judge_runs, judge_tasks
from chaos.trial import read_runs

__all__ = ["DAYS", "Day", "run_day"]

_LIMIT_S: Final = 90.0

#: Somebody says nothing for so long, and what was seen before is believed for so long, in seconds.
_PAUSE_S: Final = 10.0
_BELIEVED_S: Final = 4.0
_NOBODY: Final[frozenset[int]] = frozenset()


@dataclass(slots=True)
class Day:
    """What came of a bad day."""

    name: str
    outcome: Outcome = field(default_factory=Outcome)
    #: More that is told of it.
    detail: dict[str, Any] = field(default_factory=dict)


async def run_day(name: str, folder: Path) -> Day:
    """Have one bad day."""
    began_s = time.monotonic()
    day = Day(name)
    await DAYS[name](day, folder)
    day.outcome.took_s = time.monotonic() - began_s
    return day


async def refused(day: Day, folder: Path) -> None:
    """The cheap pool refuses."""
    script = folder / "cheap.json"
    _rehearse(script, {"refuse": "no capacity left"})
    pools = {
        "cheap": _pool(hour_micros=100_000, options={"rehearsal": str(script)}),
        "dear": _pool(hour_micros=900_000),
    }
    async with _stage(folder, pools) as stage:
        await stage.until("the dear pool never came", lambda pool: pool["ready"] > 0, 60, "dear")
        asker = Asker(stage, day.outcome, 400)
        await asker.crowd(6.0, 12.0, random.Random(2))
        tasks = await _ends(day, stage, asker)
        dear, cheap = await stage.pool("dear"), await stage.pool("cheap")
        await _judge(day, stage, asker, tasks)
        refusals = cheap["counts"].get("refused", 0)
        day.detail = {"refusals": refusals, "launched_elsewhere": dear["counts"]["launch"]}
        day.outcome.wrong += _unless(
            (refusals > 0, "the cheap pool was never asked"),
            (refusals <= 4, f"the cheap pool was asked {refusals} times within half a minute"),
            (dear["counts"]["launch"] >= 2, "the dear pool did not take over"),
            (cheap["counts"].get("launch", 0) <= 4, "the cheap pool was asked again and again"),
            (not _of(stage, "cheap"), "a machine came of a refusal"),
        )


async def taken_back(day: Day, folder: Path) -> None:
    """A machine is taken back, with notice."""
    script = folder / "spot.json"
    pools = {"spot": _pool(least=1, most=3, spot=True, options={"rehearsal": str(script)})}
    async with _stage(folder, pools) as stage:
        await stage.until("no worker came", lambda pool: pool["ready"] > 0, 60, "spot")
        [victim] = _of(stage, "spot")
        asker = Asker(stage, day.outcome, 600)
        short = [asker.ask()]
        await asker.all_asked()
        # Only attempts count that somebody has lost: one is all that it has.
        long = asker.ask(ms=14_000, max_attempts=1)
        await asker.all_asked()
        await _until_running(stage, long)
        _rehearse(script, {"take_back_in_s": {victim: 13.0}})
        await asyncio.sleep(4.0)
        short += [asker.ask() for _ in range(4)]
        tasks = await _ends(day, stage, asker)
        allowed = {run.pid for run in read_runs(stage.runs) if run.name == long}
        await _judge(day, stage, asker, tasks, allowed)
        told = await _decisions(stage)
        runs = [run for run in read_runs(stage.runs) if run.name == long]
        day.detail = {"runs_of_the_long_one": len(runs), "decided": [each["what"] for each in told]}
        day.outcome.wrong += _unless(
            ("end" in day.detail["decided"], "it was not told to end"),
            ("hurry" in day.detail["decided"], "it was not told to hand over"),
            (len(runs) == 2, f"the long one ran {len(runs)} times"),
            ("lost" not in day.detail["decided"], "a machine that was taken back counts as lost"),
            (len(_of(stage, "spot")) >= 2, "it was not replaced"),
        )


async def region_gone(day: Day, folder: Path) -> None:
    """All spot machines go at once."""
    script = folder / "spot.json"
    pools = {
        "spot": _pool(hour_micros=100_000, spot=True, options={"rehearsal": str(script)}),
        "owned": _pool(hour_micros=400_000),
    }
    async with _stage(folder, pools) as stage:
        await stage.until("no spot worker came", lambda pool: pool["ready"] > 0, 60, "spot")
        asker = Asker(stage, day.outcome, 400)
        rng = random.Random(3)
        await asker.crowd(5.0, 8.0, rng)
        before = await stage.pool("owned")
        gone = {each: 0.0 for each, told in _of(stage, "spot").items() if not told["has_ended"]}
        at_work = {run.pid for run in read_runs(stage.runs) if run.ended_s is None}
        _rehearse(script, {"take_back_in_s": gone, "refuse": "the region is gone"})
        await asker.crowd(5.0, 8.0, rng)
        tasks = await _ends(day, stage, asker)
        lost = {
            run.pid
            for run in read_runs(stage.runs)
            if run.ended_s is None and not psutil.pid_exists(run.pid)
        }
        await _judge(day, stage, asker, tasks, lost)
        owned = await stage.pool("owned")
        launched = owned["counts"].get("launch", 0) - before.get("counts", {}).get("launch", 0)
        day.detail = {"gone": len(gone), "at_work_then": len(at_work), "launched": launched}
        day.outcome.wrong += _unless(
            (len(gone) > 0, "there was no spot machine to be lost"),
            (day.outcome.interrupted <= 2 * len(gone), "more runs ended than machines were lost"),
            (owned["counts"].get("launch", 0) > 0, "nobody took over"),
        )


async def store_paused(day: Day, folder: Path) -> None:
    """The database says nothing for a while, just when the crowd has gone."""

    def family(stage: Stage) -> list[int]:
        server = stage.system.engine.server
        assert server is not None
        assert server.process is not None
        children = psutil.Process(server.process.pid).children(recursive=True)
        return [server.process.pid, *(each.pid for each in children)]

    await _old_news(day, folder, family)


async def backends_paused(day: Day, folder: Path) -> None:
    """The backends tell nothing for a while, and hear of nobody, just when the crowd has gone."""
    await _old_news(day, folder, lambda stage: [p.pid for p in stage.system.backends.values()])


async def _old_news(day: Day, folder: Path, family: Callable[[Stage], list[int]]) -> None:
    pools = {"crowd": _pool(most=3)}
    settings = {"autoscale.stale_s": "3", "delivery.lease_s": "30"}
    async with _stage(folder, pools, PostgresEngine(folder), settings) as stage:
        await stage.until("no worker came", lambda pool: pool["ready"] > 0, 60, "crowd")
        asker = Asker(stage, day.outcome, 1500)
        await asker.crowd(1.5, 10.0, random.Random(4))
        await asker.all_asked()
        frozen_at = datetime.now(UTC)
        frozen = family(stage)
        _signal(frozen, signal.SIGSTOP)
        try:
            await asyncio.sleep(_PAUSE_S)
        finally:
            _signal(frozen, signal.SIGCONT)
        healed_at = datetime.now(UTC)
        tasks = await _ends(day, stage, asker)
        await _judge(day, stage, asker, tasks)
        meanwhile = [
            each
            for each in await _decisions(stage)
            # What was told last may be so old by then, and a look takes a moment.
            if (datetime.fromisoformat(each["at"]) - frozen_at).total_seconds() > _BELIEVED_S
            and datetime.fromisoformat(each["at"]) < healed_at
        ]
        day.detail = {"decided_meanwhile": [each["what"] for each in meanwhile]}
        day.outcome.wrong += [f"decided on old news: {each}" for each in meanwhile]
        # Once all is over and news are fresh again, nobody stays.
        await stage.until("it does not sleep again", lambda pool: not pool["ready"], 60, "crowd")


#: Name → what is done.
DAYS: Final[dict[str, Callable[[Day, Path], Awaitable[None]]]] = {
    "refused": refused,
    "taken back": taken_back,
    "region gone": region_gone,
    "store paused": store_paused,
    "backends paused": backends_paused,
}


class _stage:  # noqa: N801 - read as a function
    """A stage that is started and ended."""

    def __init__(
        self,
        folder: Path,
        pools: dict[str, dict[str, Any]],
        engine: Engine | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._stage = Stage(folder, engine, pools, settings)

    async def __aenter__(self) -> Stage:
        try:
            await self._stage.start()
        except BaseException:
            await asyncio.to_thread(self._stage.end)
            raise
        return self._stage

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._stage.end)


def _rehearse(script: Path, what: dict[str, Any]) -> None:
    """Tell the provider what happens next; it reads all of it or nothing."""
    beside = script.with_suffix(".new")
    beside.write_text(json.dumps(what))
    beside.replace(script)


def _pool(**told: Any) -> dict[str, Any]:
    told.setdefault("most", 4)
    told["options"] = {"boot_delay_s": 0.5} | told.get("options", {})
    return told


def _of(stage: Stage, pool: str) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in stage.instances().items() if each["pool"] == pool}


async def _until_running(stage: Stage, name: str) -> None:
    async with asyncio.timeout(20):
        while not any(run.name == name for run in read_runs(stage.runs)):
            await asyncio.sleep(0.05)


async def _ends(day: Day, stage: Stage, asker: Asker) -> dict[str, dict[str, Any]]:
    await asker.all_asked()
    return await asker.all_ended(_LIMIT_S)


async def _decisions(stage: Stage) -> list[dict[str, Any]]:
    told = await stage.get("/v1/scaling?limit=200") or {"decisions": []}
    return list(told["decisions"])


async def _judge(
    day: Day,
    stage: Stage,
    asker: Asker,
    tasks: dict[str, dict[str, Any]],
    lost: Sequence[int] | set[int] | frozenset[int] = _NOBODY,
) -> None:
    judge_tasks(day.outcome, asker, tasks)
    judge_runs(day.outcome, stage, tasks, set(lost))
    day.outcome.instances = len(stage.instances())


def _unless(*promises: tuple[bool, str]) -> list[str]:
    return [what for is_so, what in promises if not is_so]


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        psutil.Process(pid).send_signal(number)
