"""The short form of benchmarks/faults.py: every fault of every engine, and all of them at once."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.engines import ENGINES, SqliteEngine
from chaos.faults import FAULTS, DiskFull
from chaos.trial import EVERYTHING, Row, Trial, run_trial
from swell.core.task import TaskState

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

#: Instead of the half minute of the figure.
AT_MOST_S = 4.5
LIMIT_S = 400.0


def is_sound(row: Row) -> None:
    """The promises held, and the run was one that could have broken them."""
    assert [str(each) for each in row.violations] == []
    assert row.is_whole, row.detail
    assert (row.lost, row.changed, row.ended_once) == (0, 0, row.accepted)
    assert row.counts["ended"][TaskState.SUCCEEDED.value] >= 0.6 * row.accepted


@pytest.mark.parametrize("fault", [each.name for each in FAULTS if each.is_of(SqliteEngine)])
async def test_every_task_ends_once_under_one_kind_of_fault(fault: str, tmp_path: Path) -> None:
    if fault == DiskFull.name and os.geteuid() != 0:
        pytest.skip("only root can mount a disk of its own")
    trial = Trial("sqlite", fault, 1, tasks=120, strikes=3, span_s=5.0, at_most_s=AT_MOST_S)
    is_sound(await run_trial(replace(trial, limit_s=LIMIT_S), tmp_path))


@pytest.mark.parametrize("engine", list(ENGINES))
async def test_every_task_ends_once_under_everything_at_once(engine: str, tmp_path: Path) -> None:
    if engine == SqliteEngine.name and os.geteuid() != 0:
        pytest.skip("only root can mount a disk of its own")
    trial = Trial(engine, EVERYTHING, 2, tasks=300, strikes=16, span_s=12.0, at_most_s=AT_MOST_S)
    is_sound(await run_trial(replace(trial, limit_s=LIMIT_S), tmp_path))
