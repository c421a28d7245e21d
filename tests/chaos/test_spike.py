"""The short forms of benchmarks/fleet_spike.py and benchmarks/fleet_faults.py."""

from pathlib import Path

import pytest

from chaos.bad_days import run_day
from chaos.spike import Crowd, run_spike

pytestmark = [pytest.mark.chaos, pytest.mark.alone, pytest.mark.timeout(240)]


async def test_a_crowd_on_real_workers_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    crowd = Crowd(
        before_s=3.0, peak_s=10.0, after_s=1.0, most=4, kill_worker_s=5.0, kill_controller_s=7.0
    )
    outcome = await run_spike(tmp_path, crowd)
    assert outcome.wrong == []
    assert outcome.succeeded == outcome.accepted >= 60
    assert outcome.killed == outcome.counts["lost"] == outcome.ends["lost"] == 1
    assert sum(outcome.ends.values()) == outcome.instances


async def test_a_machine_that_is_taken_back_hands_over_what_it_cannot_end(tmp_path: Path) -> None:
    day = await run_day("taken back", tmp_path)
    assert day.outcome.wrong == []
    assert day.outcome.succeeded == day.outcome.accepted == 6
