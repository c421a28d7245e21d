"""A pool of containers, from nothing to a task that is done and back to nothing."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container_cases import Image
from container_rig import limits, podman, until

from commandline import Swell, ready_line, stop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

POOL = """
[pools.small]
provider = "container"
models = ["acme/slow"]
most = 2
start_s = 5
rates = {{"acme/slow" = 2}}
hour_micros = 100_000
drain_s = 20

[pools.small.options]
image = "{image}"
engine = "podman"
engine_options = ["--runtime", "runc"]
network = "host"
options = {options}

[autoscale]
every_s = 0.5
deployment = "{deployment}"
token = "{token}"
policy = {{first_wait_s = 1}}
"""


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[str]:
    name = f"test-{abs(hash(tmp_path)):x}"
    yield name
    found = podman("ps", "-aq", f"--filter=label=swell-deployment={name}").stdout.split()
    if found:
        podman("rm", "--force", "--time", "0", *found)


def test_a_pool_of_containers_wakes_for_a_task_and_goes_to_sleep(
    tmp_path: Path, deployment: str, slow: Image
) -> None:
    swell = Swell(tmp_path)
    process = swell.start("serve", "--json", "--port", "0")
    try:
        ready_line(process, tmp_path)
        token = swell.json("keys", "create", "workers", "--scope", "worker")["key"]
    finally:
        stop(process)
    options = json.dumps([*limits(), "--pull=never"])
    (tmp_path / "swell.toml").write_text(
        POOL.format(image=slow.tag, options=options, deployment=deployment, token=token)
    )
    process = swell.start("serve", "--json", "--port", "0")

    def scaling() -> dict[str, Any]:
        [pool] = [each for each in swell.json("pools") if each["pool"] == "small"]
        return dict(pool["scaling"])

    def task(task_id: str) -> dict[str, Any]:
        return dict(swell.json("tasks", "show", task_id))

    def living() -> list[str]:
        own = f"--filter=label=swell-deployment={deployment}"
        return podman("ps", "--quiet", own).stdout.split()

    try:
        ready_line(process, tmp_path)
        # A first worker tells what it can do, and goes. Then a task wakes the pool.
        asked = ("tasks", "submit", "acme/slow", "-i", "text=a", "-i", "wait_s=20")
        sent = until(lambda: _done(swell.run(*asked)), "model", 120)
        until(lambda: task(sent)["state"] == "running", "running task", 120)
        [worker] = {each["instance"] for each in swell.json("workers")}
        assert podman("container", "exists", worker).returncode == 0
        until(lambda: task(sent)["state"] == "succeeded", "end of the task", 120)
        # With nothing to do it is drained, and its container ends by itself.
        until(lambda: scaling()["ready"] == 0 and not living(), "sleep", 240)
        ended = podman("inspect", "--format", "{{.State.ExitCode}}", worker).stdout.strip()
        assert ended == "0"
    finally:
        assert stop(process) == 0, (tmp_path / "stderr.txt").read_text()[-3000:]


def _done(ran: "subprocess.CompletedProcess[str]") -> str:
    return ran.stdout.strip() if ran.returncode == 0 else ""
