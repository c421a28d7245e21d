"""The store alone, under a writer that is killed in the middle of whatever it does."""

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.remains import is_sound, read_store
from conformance.history import Accepted, Ask, History, Outcome, Seen, Unanswered, check
from swell.core.task import TaskState

pytestmark = pytest.mark.chaos

ROUNDS = 6
TESTS = Path(__file__).resolve().parent.parent


async def test_a_store_keeps_what_it_said_before_its_process_was_killed(tmp_path: Path) -> None:
    rng = random.Random(4)
    database = tmp_path / "swell.db"
    lines: list[list[Any]] = []
    for round_ in range(ROUNDS):
        lines += await hammer(database, round_, kill_after_s=rng.uniform(0.1, 0.6))
    assert is_sound(database) == "ok"
    lines += await hammer(database, -1, kill_after_s=None)
    history = history_of(lines, database)
    assert [str(each) for each in check(history, lambda ask, output: None)] == []
    assert len(history.finals) > 200
    assert all(final.outcome.state is TaskState.SUCCEEDED for final in history.finals)


async def hammer(database: Path, round_: int, *, kill_after_s: float | None) -> list[list[Any]]:
    """Run one process until it is killed, or to its end; return what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "chaos.hammer",
        str(database),
        str(round_),
        cwd=TESTS,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdout is not None
    lines: list[list[Any]] = []
    kill_at_s = float("inf")
    try:
        async with asyncio.timeout(40):
            async for line in process.stdout:
                lines.append([time.monotonic(), *msgspec.json.decode(line)])
                if len(lines) == 1 and kill_after_s is not None:
                    kill_at_s = time.monotonic() + kill_after_s
                if time.monotonic() >= kill_at_s and process.returncode is None:
                    kill_at_s = float("inf")
                    process.kill()
    except BaseException:
        process.kill()
        raise
    code = await process.wait()
    assert code == (-9 if kill_after_s is not None else 0)
    return lines


def history_of(lines: list[list[Any]], database: Path) -> History:
    asked = {line[2]: line[0] for line in lines if line[1] == "asking"}
    return History(
        asks=[
            Ask(name=name, may_end=frozenset({TaskState.SUCCEEDED}), max_attempts=1_000)
            for name in asked
        ],
        accepted=[
            Accepted(name=line[2], task_id=line[3], at_s=line[0])
            for line in lines
            if line[1] == "accepted"
        ],
        unanswered=[Unanswered(name=name, at_s=at_s) for name, at_s in asked.items()],
        seen=[seen_of(*line) for line in lines if line[1] == "seen"],
        finals=read_store(database),
    )


def seen_of(
    at_s: float, _: str, task_id: str, attempt: int, state: str, output: str | None
) -> Seen:
    # One process said all this in order, and each line was true when it was said.
    is_end = TaskState(state).is_terminal
    return Seen(
        task_id=task_id,
        attempt=attempt,
        outcome=Outcome(
            state=TaskState(state),
            output=output.encode() if output is not None and is_end else None,
        ),
        source="said",
        asked_s=at_s,
        told_s=at_s,
    )
