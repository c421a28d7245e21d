"""A task that kills its model process, among others that share its batches."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp

from chaos.plan import FEW_ATTEMPTS
from chaos.system import running

__all__ = ["Harm", "run_poison"]

#: Every so many tasks is poison.
EVERY: Final = 20

POLL_S: Final = 0.05


@dataclass(slots=True)
class Harm:
    """What a run of poison did."""

    neighbours: int = 0
    neighbours_succeeded: int = 0
    #: Attempts that neighbours needed beyond their first.
    neighbours_attempts_lost: int = 0
    poisons: int = 0
    #: What was not as it should be.
    wrong: list[str] = field(default_factory=list)
    took_s: float = 0.0

    @property
    def fraction(self) -> float:
        """Part of the neighbours that succeeded."""
        return self.neighbours_succeeded / self.neighbours if self.neighbours else 0.0


async def run_poison(folder: Path, *, tasks: int, limit_s: float) -> Harm:
    """Submit `tasks` tasks, some of them poison, and look at what became of all of them."""
    began_s = time.monotonic()
    harm = Harm()
    antidote = folder / "antidote"
    async with running(folder, workers=2) as system, system.session() as session:
        pids = [process.pid for process in system.workers.values()]
        poisons, neighbours = await _submit(session, tasks, str(antidote))
        ended = await _all_ended(session, poisons + neighbours, began_s + limit_s)
        _judge_neighbours(harm, [ended.get(task_id) for task_id in neighbours])
        await _judge_poisons(harm, session, {each: ended.get(each) for each in poisons})
        antidote.touch()
        await _judge_replays(harm, session, poisons, began_s + limit_s)
        if [p.pid for p in system.workers.values() if p.poll() is None] != pids:
            harm.wrong.append("a worker died with its model process")
    harm.took_s = time.monotonic() - began_s
    return harm


async def _submit(
    session: aiohttp.ClientSession, tasks: int, antidote: str
) -> tuple[list[str], list[str]]:
    """Submit in one batch and one order, so that poison and neighbours are leased together."""
    inputs = []
    for number in range(tasks):
        task_input: dict[str, Any] = {"text": f"task-{number}", "ms": 10}
        if number % EVERY == EVERY // 2:
            task_input |= {"mode": "poison", "antidote": antidote}
        inputs.append(task_input)
    bodies = [
        {"model": "chaos/work", "input": each, "max_attempts": FEW_ATTEMPTS} for each in inputs
    ]
    said = await _ask(session, "POST", "/v1/tasks/batch", {"tasks": bodies})
    ids = [task["id"] for task in said["tasks"]]
    is_poison = ["mode" in each for each in inputs]
    poisons = [task_id for task_id, bad in zip(ids, is_poison, strict=True) if bad]
    return poisons, [task_id for task_id in ids if task_id not in poisons]


def _judge_neighbours(harm: Harm, neighbours: list[dict[str, Any] | None]) -> None:
    harm.neighbours = len(neighbours)
    for task in neighbours:
        if task is not None and task["state"] == "succeeded":
            harm.neighbours_succeeded += 1
            harm.neighbours_attempts_lost += task["attempt"] - 1
        else:
            harm.wrong.append(f"neighbour: {_told(task)}")


async def _judge_poisons(
    harm: Harm, session: aiohttp.ClientSession, poisons: dict[str, dict[str, Any] | None]
) -> None:
    harm.poisons = len(poisons)
    for task in poisons.values():
        if (
            task is None
            or task["state"] != "failed"
            or task["attempt"] != FEW_ATTEMPTS
            or task["error"]["code"] != "model_process_died"
        ):
            harm.wrong.append(f"poison: {_told(task)}")
    dead = {task["id"] for task in (await _ask(session, "GET", "/v1/dead?limit=200"))["tasks"]}
    if dead != set(poisons):
        harm.wrong.append(f"dead letters {sorted(dead)}, poisons {sorted(poisons)}")


async def _judge_replays(
    harm: Harm, session: aiohttp.ClientSession, poisons: list[str], ends_s: float
) -> None:
    """Replay one by its id and the rest in one call; with the antidote there, all succeed."""
    first = await _ask(session, "POST", f"/v1/dead/{poisons[0]}/replay")
    new_ids = [first["id"]]
    if poisons[1:]:
        rest = await _ask(session, "POST", "/v1/dead/replay", {"ids": poisons[1:]})
        new_ids += [each["new_id"] for each in rest["replayed"]]
    ended = await _all_ended(session, new_ids, ends_s)
    for new_id in new_ids:
        if ended.get(new_id, {}).get("state") != "succeeded":
            harm.wrong.append(f"replay: {_told(ended.get(new_id))}")
    if left := (await _ask(session, "GET", "/v1/dead"))["tasks"]:
        harm.wrong.append(f"{len(left)} dead letters after the replay")
    for task_id in poisons:
        task = await _ask(session, "GET", f"/v1/tasks/{task_id}")
        if task["state"] != "failed":
            harm.wrong.append(f"replayed poison: {_told(task)}")


async def _all_ended(
    session: aiohttp.ClientSession, ids: list[str], ends_s: float
) -> dict[str, dict[str, Any]]:
    """Return the tasks that have ended by then, by id."""
    ended: dict[str, dict[str, Any]] = {}
    while len(ended) < len(ids) and time.monotonic() < ends_s:
        for task_id in ids:
            if task_id not in ended:
                task = await _ask(session, "GET", f"/v1/tasks/{task_id}")
                if task["finished_at"] is None:
                    await asyncio.sleep(POLL_S)
                    break
                ended[task_id] = task
    return ended


async def _ask(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    async with session.request(method, path, json=body) as answer:
        said: dict[str, Any] = await answer.json()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {said}")
        return said


def _told(task: dict[str, Any] | None) -> str:
    if task is None:
        return "did not end"
    code = (task["error"] or {}).get("code")
    return f"{task['id']} {task['state']} at attempt {task['attempt']} ({code})"
