"""The short form of benchmarks/service_poison.py."""

from pathlib import Path

import pytest

from chaos.poison import run_poison

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


async def test_poison_ends_among_the_dead_letters_and_its_neighbours_succeed(
    tmp_path: Path,
) -> None:
    harm = await run_poison(tmp_path, tasks=40, limit_s=90.0)
    assert harm.wrong == []
    assert (harm.poisons, harm.neighbours, harm.fraction) == (2, 38, 1.0)
