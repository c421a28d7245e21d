"""The short form of benchmarks/fleet_sim_error.py: two workers that cannot be more, and a crowd."""

from pathlib import Path

import pytest

from chaos.replayed import Course, Record, compare, real

pytestmark = [pytest.mark.chaos, pytest.mark.alone, pytest.mark.timeout(240)]


async def test_real_workers_make_people_wait_as_the_simulator_says(tmp_path: Path) -> None:
    course = Course(
        seconds=15.0, task_s=0.5, steps=((1.0, 3.0),), boot_s=0.0, least=2, most=2, told_start_s=4.0
    )
    record = await real(tmp_path, course)
    assert record.wrong == []
    assert len(record.runs) > 60
    record.keep(tmp_path / "record.json")
    kept = Record.load(tmp_path / "record.json")
    error = compare(kept, (1, 2))
    assert kept == record
    assert error.detail["real"]["mean_wait_s"] > 2.0
    assert error.value <= 0.1, error.detail
