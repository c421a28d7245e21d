"""What the engines of containers are told; real ones are in tests/containers."""

from pathlib import Path

import pytest

from swell.clock import SystemClock
from swell.errors import InvalidRequest
from swell.provider import LaunchRequest
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
