"""What the engines of containers are told; real ones are in tests/containers."""

import json
from pathlib import Path

import pytest

from swell.clock import SystemClock
from swell.errors import InvalidRequest
from swell.provider import InstanceState, LaunchRequest, looking_only
from swell.providers.container import ContainerOptions, ContainerProvider


def test_an_engine_that_is_not_there_is_told() -> None:
    with pytest.raises(InvalidRequest, match="docker or podman"):
        ContainerProvider(
            ContainerOptions(image="x"), SystemClock(), "test", environment={"PATH": "/nowhere"}
        )


@pytest.mark.parametrize(
    ("engine", "gpus", "word"),
    [
        ("docker", "all", "--gpus=all"),
        ("docker", "device=1", "--gpus=device=1"),
        ("podman", "all", "--device=nvidia.com/gpu=all"),
        ("podman", "nvidia.com/gpu=1", "--device=nvidia.com/gpu=1"),
    ],
)
async def test_gpus_are_given_in_the_words_of_each_engine(
    tmp_path: Path, engine: str, gpus: str, word: str
) -> None:
    log = tmp_path / "log"
    program = tmp_path / engine
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    program.chmod(0o755)
    chosen = ContainerOptions(image="x", engine=engine, gpus=gpus)
    provider = ContainerProvider(
        chosen, SystemClock(), "test", environment={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )
    await provider.launch(LaunchRequest(pool="p"))
    ran = next(line for line in log.read_text().splitlines() if line.startswith("run "))
    assert word in ran.split()
    assert "--restart no" in ran


async def test_who_only_looks_removes_no_containers(tmp_path: Path) -> None:
    log, told = tmp_path / "log", tmp_path / "told.json"
    labels = {"swell-deployment": "test", "swell-pool": "p"}
    stillborn = {
        "Name": "/one",
        "Created": "2026-01-01T00:00:00Z",
        "Config": {"Labels": labels},
        "State": {"Status": "created", "ExitCode": 0},
    }
    told.write_text(json.dumps([stillborn]))
    program = tmp_path / "docker"
    program.write_text(
        f'#!/bin/sh\necho "$1" >> {log}\ncase $1 in ps) echo one ;; inspect) cat {told} ;; esac\n'
    )
    program.chmod(0o755)
    provider = ContainerProvider(
        ContainerOptions(image="x", engine="docker"),
        SystemClock(),
        "test",
        environment={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    with looking_only([provider]):
        assert [i.state for i in await provider.instances()] == [InstanceState.STARTING]
    assert "rm" not in log.read_text().split()
    await provider.instances()
    assert "rm" in log.read_text().split()
