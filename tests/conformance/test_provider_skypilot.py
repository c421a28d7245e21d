"""Workers through SkyPilot, emulated by a program that accepts its arguments."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.provider import OutlivingConformance
from swell.core.clock import SystemClock
from swell.core.errors import InvalidInput, InvalidRequest, Unavailable
from swell.core.provider import InstanceState, LaunchRequest, Provider
from swell.providers.skypilot import SkypilotOptions, SkypilotProvider, task_of

#: Accepts the arguments of `sky` 0.14.1 and keeps clusters in a file.
SKY = """
import argparse, json, pathlib, sys, time

place = pathlib.Path(sys.argv[1])
clusters = json.loads(place.read_text()) if place.exists() else {}
if clusters.pop("fails", None):
    sys.exit("Failed to connect to SkyPilot API server")
parser = argparse.ArgumentParser()
commands = parser.add_subparsers(dest="command", required=True)
launch = commands.add_parser("launch", allow_abbrev=False)
for flag in ("--async", "--yes", "--down", "--detach-run"):
    launch.add_argument(flag, action="store_true", required=True)
launch.add_argument("--cluster", required=True)
launch.add_argument("entrypoint")
down = commands.add_parser("down", allow_abbrev=False)
down.add_argument("--async", action="store_true", required=True)
down.add_argument("--yes", action="store_true", required=True)
down.add_argument("clusters", nargs="+")
status = commands.add_parser("status", allow_abbrev=False)
status.add_argument("--output", choices=["table", "json"], default="table")
for kind in ("managed-jobs", "services", "pools"):
    status.add_argument(f"--no-show-{kind}", action="store_true")
told = parser.parse_args(sys.argv[2:])
if told.command == "launch":
    task = json.loads(pathlib.Path(told.entrypoint).read_text())
    unknown = set(task) - {"resources", "envs", "secrets", "run"}
    if unknown:
        sys.exit(f"Invalid task YAML: {unknown}")
    clusters[told.cluster] = {
        "name": told.cluster,
        "status": "INIT",
        "launched_at": int(time.time()),
        "cloud": "Lambda",
        "region": "us-east-1",
        "resources_str": "1x (gpus=L4:1, ...)",
        "init_status_reason": "provisioning",
        "task": task,
    }
    print("Submitted sky.launch request: 0123")
elif told.command == "down":
    for name in told.clusters:
        clusters[name]["status"] = "AUTOSTOPPING"
else:
    print(json.dumps([{k: v for k, v in c.items() if k != "task"} for c in clusters.values()]))
place.write_text(json.dumps(clusters))
"""


class TestSkypilotProvider(OutlivingConformance):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> SkypilotProvider:
        self.folder = tmp_path
        (tmp_path / "sky.py").write_text(SKY)
        program = tmp_path / "sky"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} {tmp_path}/sky.py {tmp_path}/c "$@"\n'
        )
        program.chmod(0o755)
        return self.made()

    def made(self, deployment: str = "shop", **more: object) -> SkypilotProvider:
        told = {"image": "registry.example/poster:1", "accelerators": "L4:1"} | more
        path = {"PATH": f"{self.folder}:/usr/bin:/bin"}
        options = SkypilotOptions.model_validate(told)
        return SkypilotProvider(options, SystemClock(), deployment, environment=path)

    def clusters(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "c").read_text())
        return found

    def kept(self, clusters: Mapping[str, Any]) -> None:
        (self.folder / "c").write_text(json.dumps(clusters))

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        return self.made(deployment or "shop")

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        self.kept(
            {
                name: each | {"status": "UP", "init_status_reason": None}
                for name, each in self.clusters().items()
                if each["status"] != "AUTOSTOPPING"
            }
        )
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        task = self.clusters()[instance_id]["task"]
        found: dict[str, str] = task["envs"] | task["secrets"]
        return found

    async def test_the_token_is_a_secret_of_skypilots(self, provider: SkypilotProvider) -> None:
        environment = {"SWELL_WORKER__TOKEN": "hidden", "SWELL_WORKER__URL": "u"}
        [instance] = await provider.launch(LaunchRequest(pool="p", environment=environment))
        task = self.clusters()[instance.id]["task"]
        assert task["secrets"] == {"SWELL_WORKER__TOKEN": "hidden"}
        assert task["envs"]["SWELL_WORKER__URL"] == "u"

    async def test_what_skypilot_could_not_get_is_told_as_ended(
        self, provider: SkypilotProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        [waits] = await provider.instances()
        assert (waits.state, waits.why) == (InstanceState.STARTING, "provisioning")
        self.kept({})
        [ended] = await provider.instances()
        assert (ended.id, ended.state) == (instance.id, InstanceState.ENDED)

    async def test_clusters_of_others_are_let_be(self, provider: SkypilotProvider) -> None:
        names = ["mine", "swell.shop.gpu.t1x.1.0", "swell.shop.gpu.t.99999999999999999999.0"]
        self.kept({name: {"name": name, "status": "UP"} for name in names})
        assert await provider.instances() == []
        await provider.terminate(names)
        assert {each["status"] for each in self.clusters().values()} == {"UP"}

    async def test_a_server_that_does_not_answer_is_unavailable(
        self, provider: SkypilotProvider
    ) -> None:
        self.kept({"fails": True})
        with pytest.raises(Unavailable, match="API server"):
            await provider.instances()

    async def test_a_task_that_is_not_taken_is_an_error_of_whoever_set_it_up(
        self, provider: SkypilotProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (self.folder / "sky").write_text("#!/bin/sh\necho Invalid infra: nowhere >&2\nexit 1\n")
        with pytest.raises(InvalidInput, match="Invalid infra"):
            await provider.launch(LaunchRequest(pool="p"))


def test_a_task_runs_the_image_with_docker_or_what_it_is_told() -> None:
    told = {"SWELL_WORKER__URL": "u"}
    options = SkypilotOptions(image="x:1", infra="lambda", accelerators="L4:1", spot=True)
    task = task_of(options, told)
    assert task["resources"] == {
        "infra": "lambda",
        "accelerators": "L4:1",
        "use_spot": True,
        "disk_size": 100,
    }
    assert "docker run" in task["run"]
    assert "--gpus all" in task["run"]
    assert task_of(SkypilotOptions(image="x", run="swell worker"), told)["run"] == "swell worker"


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(InvalidRequest, match="uv tool install skypilot"):
        SkypilotProvider(
            SkypilotOptions(image="x"), SystemClock(), "shop", environment={"PATH": "/nowhere"}
        )
