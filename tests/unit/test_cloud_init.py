"""What a machine of a cloud does when it starts."""

from pathlib import Path

import pytest

from booted import booted
from swell.errors import InvalidInput
from swell.providers.cloud_init import Cloud, render
from swell.providers.options import MachineOptions

WORKER = {"SWELL_WORKER__URL": "https://swell.example", "SWELL_WORKER__TOKEN": "swell_a$b'c\"d \\e"}

ASKED_AT = "2026-11-26T09:30:00Z"

ANSWERS: dict[Cloud, dict[str, str]] = {
    "aws": {
        "/latest/api/token": "session",
        "/latest/meta-data/instance-id": "i-0123456789abcdef0",
        "/latest/dynamic/instance-identity/document": f'{{\n  "pendingTime" : "{ASKED_AT}",\n}}',
    },
    "gcp": {"/computeMetadata/v1/instance/name": "i-0123456789abcdef0"},
    "azure": {"/metadata/instance/compute/name?api-version=": "i-0123456789abcdef0"},
}


def options(tmp_path: Path, **told: object) -> MachineOptions:
    given = {"image": "registry.example/poster:1", "weights_dir": tmp_path / "weights"} | told
    return MachineOptions.model_validate(given)


@pytest.mark.parametrize("cloud", list(ANSWERS))
def test_a_worker_runs_with_what_it_must_know_and_the_machine_goes_when_it_ends(
    cloud: Cloud, tmp_path: Path
) -> None:
    script = render(cloud, options(tmp_path), WORKER)
    with booted(script, ANSWERS[cloud], tmp_path / "machine") as machine:
        told = machine.environment()
        assert {name: told[name] for name in WORKER} == WORKER
        assert told["SWELL_INSTANCE_ID"] == "i-0123456789abcdef0"
        assert told.get("SWELL_WORKER__ASKED_AT") == (ASKED_AT if cloud == "aws" else None)
        assert int(told["SWELL_WORKER__PULL_S"]) >= 0
        [run] = [call for call in machine.calls() if call[0] == "run"]
        assert run[-1] == "registry.example/poster:1"
        assert " ".join(run).count("--gpus all") == 1
        assert not (machine.notes / "shutdown").exists()
        machine.worker_ends()
        machine.until("shutdown")
    # Nothing is left on the machine's disk of what only the worker needs.
    assert not (tmp_path / "machine" / "run" / "env").exists()


def test_a_machine_that_is_shut_down_lets_its_worker_drain(tmp_path: Path) -> None:
    script = render("gcp", options(tmp_path, drain_s=45), WORKER)
    with booted(script, ANSWERS["gcp"], tmp_path / "machine") as machine:
        # It knows until when, so that it hands over in time.
        assert machine.environment()["SWELL_WORKER__KILLED_AFTER_S"] == "45"
        machine.until("waits")
        machine.shut_down()
        machine.until("shutdown")
        assert ["stop", "--time", "45", "swell-worker"] in machine.calls()


def test_a_machine_whose_worker_does_not_run_in_time_shuts_itself_down(tmp_path: Path) -> None:
    script = render("gcp", options(tmp_path), WORKER)
    assert "1800" in script
    hasty = script.replace("-lt 1800", "-lt 1")
    with booted(hasty, ANSWERS["gcp"], tmp_path / "machine", no_image="") as machine:
        machine.until("shutdown")
        assert [call[0] for call in machine.calls() if call[0] == "run"] == []


def test_a_machine_that_does_not_learn_who_it_is_shuts_itself_down(tmp_path: Path) -> None:
    script = render("azure", options(tmp_path), WORKER)
    with booted(script, {}, tmp_path / "machine") as machine:
        machine.until("shutdown")
        assert machine.calls() == []


def test_without_gpus_none_are_asked_for_and_podman_is_told_in_its_own_words(
    tmp_path: Path,
) -> None:
    assert "--gpus" not in render("aws", options(tmp_path, gpus=False), WORKER)
    script = render("aws", options(tmp_path, engine="podman"), WORKER)
    assert "podman run" in script
    assert "--device nvidia.com/gpu=all" in script


def test_the_same_is_written_for_the_same_whatever_its_order(tmp_path: Path) -> None:
    other = dict(reversed(list(WORKER.items())))
    assert render("aws", options(tmp_path), WORKER) == render("aws", options(tmp_path), other)


@pytest.mark.parametrize(
    "environment", [{"A": "one\ntwo"}, {"A": "one\rtwo"}, {"A B": "one"}, {"A=B": "one"}, {"": "x"}]
)
def test_what_no_file_of_variables_can_hold_is_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput):
        render("aws", options(tmp_path), environment)


@pytest.mark.parametrize("image", ["x; rm -rf /", "x\ny", "$(id)", "-v", "`id`"])
def test_an_image_whose_name_the_shell_would_read_otherwise_is_refused(
    image: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput):
        render("aws", options(tmp_path, image=image), WORKER)


def test_the_example_is_what_comes_out() -> None:
    path = Path(__file__).resolve().parents[2] / "deploy" / "cloud-init" / "worker.sh"
    chosen = MachineOptions(image="registry.example/poster:1")
    environment = {
        "SWELL_WORKER__POOL": "gpu",
        "SWELL_WORKER__TOKEN": "swell_the-key-of-a-worker",
        "SWELL_WORKER__URL": "https://swell.example",
    }
    assert path.read_text() == render("aws", chosen, environment)
