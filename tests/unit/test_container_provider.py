"""What the engines of containers are told; real ones are in tests/containers."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest, Unavailable
from swell.core.provider import InstanceState, LaunchRequest, looking_only
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


#: An engine of files: a container is one, made by `run` and told by `inspect`, whose text it has.
ENGINE = """#!/bin/sh
cd {folder}
echo "$@" >> log
[ -e hangs ] && {{ echo $$ > pid; exec sleep 600; }}
[ -e refuses-$1 ] && {{ cat refuses-$1 >&2; exit 125; }}
case $1 in
    run)
        while [ "$1" != --name ]; do shift; done
        printf '{{"Name": "/%s", "Created": "2026-01-01T00:00:00Z", ' "$2" > c-$2
        printf '"Config": {{"Labels": {{"swell-launch": "t", "swell-pool": "p"}}}}, ' >> c-$2
        printf '"State": {{"Status": "running"}}}}' >> c-$2 ;;
    ps) for each in c-*; do [ -e $each ] && echo $each; done; exit 0 ;;
    inspect)
        shift 2
        echo [; sep=
        for each; do
            [ -e "$each" ] && {{ echo "$sep"; cat $each; sep=,; }}
            [ -e "$each" ] || {{ echo "Error: No such container: $each" >&2; failed=1; }}
        done
        echo ]; exit $failed ;;
    rm) while [ $# -gt 1 ]; do shift; done; rm c-$1 ;;
esac
"""


def imitated(folder: Path) -> ContainerProvider:
    program = folder / "docker"
    program.write_text(ENGINE.format(folder=folder))
    program.chmod(0o755)
    path = {"PATH": f"{folder}:/usr/bin:/bin"}
    chosen = ContainerOptions(image="x", engine="docker")
    return ContainerProvider(chosen, SystemClock(), "test", environment=path)


async def test_a_launch_that_is_repeated_lets_those_be_that_run(tmp_path: Path) -> None:
    provider = imitated(tmp_path)
    request = LaunchRequest(pool="p", n=2, token="t")
    launched = await provider.launch(request)
    assert len(launched) == 2
    # The image has gone meanwhile, which engines find out before that the name is taken.
    (tmp_path / "refuses-run").write_text("Error: no such image: x")
    assert await provider.launch(request) == launched
    assert "rm" not in (tmp_path / "log").read_text()


async def test_an_engine_that_stops_answering_in_between_has_lost_nothing(tmp_path: Path) -> None:
    provider = imitated(tmp_path)
    one, other = await provider.launch(LaunchRequest(pool="p", n=2, token="t"))
    (tmp_path / "refuses-inspect").write_text("Cannot connect to the Docker daemon")
    with pytest.raises(Unavailable, match="Cannot connect"):
        await provider.instances()
    (tmp_path / "refuses-inspect").unlink()
    assert {each.id for each in await provider.instances()} == {one.id, other.id}


async def test_a_container_that_was_removed_in_between_leaves_the_others(tmp_path: Path) -> None:
    provider = imitated(tmp_path)
    one, other = await provider.launch(LaunchRequest(pool="p", n=2, token="t"))
    engine = (tmp_path / "docker").read_text()
    late = engine.replace("    inspect)", f"    inspect)\n        rm -f c-{one.id}")
    (tmp_path / "docker").write_text(late)
    assert [each.id for each in await provider.instances()] == [other.id]


async def test_an_engine_that_hangs_is_not_left_behind_with_each_look(tmp_path: Path) -> None:
    provider = imitated(tmp_path)
    (tmp_path / "hangs").touch()
    looking = asyncio.create_task(provider.instances())
    async with asyncio.timeout(30):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    async with asyncio.timeout(30):
        while lives(pid):
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
