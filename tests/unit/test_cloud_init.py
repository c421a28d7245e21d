"""What a machine of a cloud does when it starts."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from booted import booted
from swell.core.errors import InvalidInput
from swell.providers.cloud_init import Cloud, render
from swell.providers.options import MachineOptions

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "cloud-init"

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_machine_that_is_shut_down_lets_its_worker_drain(tmp_path: Path) -> None:
    script = render("gcp", options(tmp_path, drain_s=45), WORKER)
    with booted(script, ANSWERS["gcp"], tmp_path / "machine") as machine:
        # It knows until when, so that it hands over in time.
        assert machine.environment()["SWELL_WORKER__KILLED_AFTER_S"] == "45"
        machine.until("waits")
        machine.shut_down()
        machine.until("shutdown")
        assert ["stop", "--time", "45", "swell-worker"] in machine.calls()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cloud", "path", "before", "notice"),
    [
        (
            *("aws", "/latest/meta-data/spot/instance-action", None),
            '{"action": "terminate", "time": "2026-11-26T09:32:00Z"}',
        ),
        (
            *("azure", "/metadata/scheduledevents?", '{"DocumentIncarnation": 1, "Events": []}'),
            '{"DocumentIncarnation": 2, "Events": [{"EventType": "Preempt"}]}',
        ),
    ],
)
def test_a_spot_machine_that_is_taken_back_has_its_worker_hand_over(
    cloud: Cloud, path: str, before: str | None, notice: str, tmp_path: Path
) -> None:
    script = render(cloud, options(tmp_path, spot=True), WORKER)
    assert "sleep 5\n" in script
    answers = ANSWERS[cloud] | ({path: before} if before else {})
    hasty = script.replace("sleep 5\n", "sleep 0.05\n")
    with booted(hasty, answers, tmp_path / "machine") as machine:
        machine.until("waits")
        # While nothing is said it goes on.
        assert [call for call in machine.calls() if call[0] == "stop"] == []
        answers[path] = notice
        machine.until("shutdown")
        left_s = machine.environment()["SWELL_WORKER__KILLED_AFTER_S"]
        assert ["stop", "--time", left_s, "swell-worker"] in machine.calls()


@pytest.mark.parametrize(("cloud", "most_s"), [("aws", 110), ("gcp", 25), ("azure", 25)])
def test_a_spot_machine_takes_no_longer_than_its_cloud_leaves_it(
    cloud: Cloud, most_s: int, tmp_path: Path
) -> None:
    for drain_s in (10, 300):
        spot = render(cloud, options(tmp_path, spot=True, drain_s=drain_s), WORKER)
        assert f"SWELL_WORKER__KILLED_AFTER_S={min(drain_s, most_s)}\n" in spot
        usual = render(cloud, options(tmp_path, drain_s=drain_s), WORKER)
        assert f"SWELL_WORKER__KILLED_AFTER_S={drain_s}\n" in usual
        assert "noticed" not in usual


@pytest.mark.slow
def test_a_machine_whose_worker_does_not_run_in_time_shuts_itself_down(tmp_path: Path) -> None:
    script = render("gcp", options(tmp_path), WORKER)
    assert "1800" in script
    hasty = script.replace("-lt 1800", "-lt 1")
    with booted(hasty, ANSWERS["gcp"], tmp_path / "machine", no_image="") as machine:
        machine.until("shutdown")
        assert [call[0] for call in machine.calls() if call[0] == "run"] == []


@pytest.mark.slow
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


@pytest.mark.parametrize("cloud", list(ANSWERS))
def test_the_examples_are_what_comes_out(cloud: Cloud) -> None:
    chosen = MachineOptions(image="registry.example/poster:1", spot=True)
    environment = {
        "SWELL_WORKER__POOL": "gpu",
        "SWELL_WORKER__TOKEN": "swell_the-key-of-a-worker",
        "SWELL_WORKER__URL": "https://swell.example",
    }
    assert (EXAMPLES / f"{cloud}.sh").read_text() == render(cloud, chosen, environment)


@pytest.mark.slow
def test_the_machine_image_is_made_of_what_cloud_init_takes(tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        why = "cloud-init is missing: apt-get install cloud-init"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    text = (EXAMPLES / "gpu-image.yaml").read_text()
    assert verdict(text, tmp_path) == 0
    # The check sees what is wrong.
    assert verdict(text.replace("runcmd:", "runcmnd:"), tmp_path) != 0
    assert verdict(text.replace("mode: poweroff", "mode: sleep"), tmp_path) != 0
    for script in re.findall(r"  - \|\n((?:    .*\n)+)", text):
        assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


#: What the steps of a machine's image run, but for what each Linux has.
TOOLS = ("ubuntu-drivers", "curl", "gpg", "apt-get", "nvidia-ctk", "cloud-init")


@pytest.mark.parametrize("failing", [None, *(name for name in TOOLS if name != "curl")])
def test_a_machine_image_of_which_a_step_failed_is_not_called_ready(
    failing: str | None, tmp_path: Path
) -> None:
    """The machine stays on then: that it is off is how one knows that its disk may be kept.

    What curl does not get is missed by whoever reads it.
    """
    text = (EXAMPLES / "gpu-image.yaml").read_text()
    state = yaml.safe_load(text)["power_state"]
    assert state["mode"] == "poweroff"
    assert state["condition"][:2] == ["test", "-e"]
    ready = state["condition"][2]
    # Machines that start from the image do not find it.
    assert ready.startswith("/run/")
    for folder in ("/run", "/usr/share/keyrings", "/etc/apt/sources.list.d"):
        assert f" {folder}/" in text or f"={folder}/" in text
        (tmp_path / folder[1:]).mkdir(parents=True)
        text = text.replace(folder, f"{tmp_path}{folder}")
    (tmp_path / "bin").mkdir()
    for name in TOOLS:
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\nexit {int(name == failing)}\n")
        tool.chmod(0o755)
    # As cloud-init does: all steps in one script, which goes on after a failure unless it is told.
    script = shellified(yaml.safe_load(text)["runcmd"])
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh"], input=script, text=True, env={"PATH": path}, check=False)
    assert (tmp_path / ready[1:]).exists() == (failing is None)


def shellified(steps: list[str | list[str]]) -> str:
    """Join steps as cloud-init does. Source: cloudinit.util.shellify."""
    return "".join(
        f"{each if isinstance(each, str) else ' '.join(map(shlex.quote, each))}\n" for each in steps
    )


def verdict(text: str, folder: Path) -> int:
    path = folder / "user-data.yaml"
    path.write_text(text)
    command = ["cloud-init", "schema", "--config-file", str(path), "--schema-type", "cloud-config"]
    return subprocess.run(command, capture_output=True, check=False).returncode
