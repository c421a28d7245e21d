"""The short form of benchmarks/service_crash.py."""

from pathlib import Path

import pytest

from chaos.crash import run_crash
from chaos.plan import make_plan
from swell.core.task import TaskState

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

WORKERS = 2


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_accepted_task_ends_once_while_everything_is_killed(
    seed: int, tmp_path: Path
) -> None:
    plan = make_plan(seed, tasks=300, kills=8, span_s=8.0, workers=WORKERS, poisons=1)
    verdict = await run_crash(plan, tmp_path, workers=WORKERS, limit_s=90.0)
    assert [str(each) for each in verdict.violations] == []
    assert sum(verdict.kills.values()) == 8
    # A run in which hardly anything was accepted would prove nothing.
    assert verdict.counts["accepted"] >= 250
    assert verdict.counts["ended"][TaskState.SUCCEEDED.value] >= 200
