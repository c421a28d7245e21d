"""Step costs on disk."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from swell.core.records import ModelCard
from swell.diffusion import step_cost_store
from swell.diffusion.step_cost import StepCost
from swell.diffusion.step_cost_store import (
    MOST_KEPT,
    read_step_costs,
    step_costs_path,
    write_step_costs,
)


def measured(seconds: float) -> StepCost:
    cost = StepCost()
    cost.record(4, seconds)
    return cost


def stored(costs: Mapping[str, StepCost]) -> dict[str, bytes]:
    return {key: cost.to_json() for key, cost in costs.items()}


COSTS = {"test/a 2x3 flow_euler 4 ()": measured(0.5), "b": StepCost()}


def test_costs_are_read_as_written_and_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "costs.json"
    assert read_step_costs(path) == {}
    write_step_costs(path, COSTS)
    assert stored(read_step_costs(path)) == stored(COSTS)
    write_step_costs(path, {"b": measured(0.25)})
    assert stored(read_step_costs(path)) == {"b": b'{"4":0.25}'}
    assert list(path.parent.iterdir()) == [path]


def test_only_the_latest_costs_are_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "costs.json"
    costs = {str(number): StepCost() for number in range(MOST_KEPT + 3)}
    write_step_costs(path, costs)
    assert list(read_step_costs(path)) == list(costs)[3:]
    # Another release may have written more.
    monkeypatch.setattr(step_cost_store, "MOST_KEPT", 5)
    assert list(read_step_costs(path)) == list(costs)[-5:]


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"a": {"4"', b"[" * 100_000])
def test_a_broken_file_is_ignored_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(body)
    assert read_step_costs(path) == {}
    assert "costs.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [b'{"version":0}', b'{"4":-1.0}', b'{"5":0.5}', b"7"])
def test_broken_costs_are_measured_again_and_the_others_are_kept(
    tmp_path: Path, broken: bytes
) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(b'{"good": %s, "bad": %s}' % (measured(0.5).to_json(), broken))
    found = read_step_costs(path)
    assert stored(found) == {"good": b'{"4":0.5}', "bad": b"{}"}


def test_a_folder_that_cannot_be_written_is_only_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    write_step_costs(tmp_path / "file" / "costs.json", COSTS)
    assert "cannot be written" in capsys.readouterr().err


def test_every_version_and_device_has_its_own_file(tmp_path: Path) -> None:
    card = ModelCard(name="test/a.b", version="123")
    assert step_costs_path(tmp_path, card, "cuda:1").name == "test-a.b-123-cuda-1.json"
