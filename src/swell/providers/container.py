"""Provider for containers on this machine, through the command line of docker or podman.

Both accept the same commands, so there is no client library. Secrets reach the engine through its
environment, because every user of the machine can read command lines.

Source:
    docker-run(1), podman-run(1): `--env NAME` without a value takes it from the environment.
    `docker inspect` and `podman inspect` describe a container's state in the same format.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from pydantic import Field

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, InvalidRequest, Unavailable
from swell.core.provider import (
    ASKED_AT,
    INSTANCE_ID,
    Instance,
    InstanceState,
    LaunchRequest,
    Notice,
    Refused,
)
from swell.core.redact import hide_secrets
from swell.providers.command import Ran, environment_or_ours, run
from swell.providers.marks import DEPLOYMENT, LAUNCH, POOL, Marks, moment
from swell.providers.options import Options

#: Container states; any other state counts as RUNNING.
_STATES: Final = {
    "created": InstanceState.STARTING,
    "configured": InstanceState.STARTING,
    "initialized": InstanceState.STARTING,
    "stopping": InstanceState.STOPPING,
    "removing": InstanceState.STOPPING,
    "stopped": InstanceState.ENDED,
    "exited": InstanceState.ENDED,
    "dead": InstanceState.ENDED,
}

#: Limit of listed ended containers; the provider removes older ones.
_REMEMBERED: Final = 100

#: A container that was created but never ran is removed after this time, in seconds.
_STILLBORN_S: Final = 600.0

#: Engine error: the name exists, so the container exists.
_TAKEN: Final = re.compile(r"already in use|is in use by", re.IGNORECASE)

#: Engine error, once per container: it does not exist.
_GONE: Final = re.compile(r"no such (?:container|object)|no container with", re.IGNORECASE)

#: Timeout of the engine's list commands, in seconds.
_ANSWER_S: Final = 60.0

#: Engine errors: the request is valid, but the machine has no resources left.
_FULL: Final = re.compile(
    r"no space left|disk quota|cannot allocate memory|out of memory|resource temporarily|too many",
    re.IGNORECASE,
)

#: Engine errors: the image does not exist under this name.
_NO_IMAGE: Final = re.compile(
    r"no such image|image not known|pull access denied|manifest unknown|repository does not exist|"
    r"invalid reference|short-name",
    re.IGNORECASE,
)


class ContainerOptions(Options):
    """Options of a pool of containers on this machine."""

    image: str = Field(min_length=1, description="The worker's container image.")
    engine: str = Field(
        default="",
        pattern="^(docker|podman|)$",
        description="`docker` or `podman`; empty for the one that is there, docker first.",
    )
    engine_options: tuple[str, ...] = Field(
        default=(), description="Given to the engine before its command, as they are."
    )
    command: tuple[str, ...] = Field(
        default=(), description="Options of `swell worker`, given after the image's name."
    )
    gpus: str = Field(
        default="",
        description="Which GPUs it gets: `all`, or as the engine calls them, such as `device=0` "
        "for docker and `nvidia.com/gpu=0` for podman; empty for none.",
    )
    network: str = Field(
        default="", description="The engine's network, such as `host`; empty for its usual one."
    )
    volumes: tuple[str, ...] = Field(
        default=(), description="Mounts as the engine takes them, such as for a cache of weights."
    )
    options: tuple[str, ...] = Field(
        default=(), description="More arguments for the engine's `run`, passed on unchanged."
    )


class ContainerProvider:
    """Starts containers with `run --detach`, and finds them by their labels.

    Args:
        options: Options of the pool.
        clock: The clock.
        deployment: Name of the deployment that owns the containers.
        environment: Environment of the engine's command; None for the process environment.

    Raises:
        InvalidRequest: The engine is not installed.
    """

    def __init__(
        self,
        options: ContainerOptions,
        clock: Clock,
        deployment: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._deployment = deployment
        self._environment = environment_or_ours(environment)
        self._engine = _find(options.engine, self._environment.get("PATH"))
        #: Instance id to the end of its grace period, in monotonic seconds.
        self._ends_s: dict[str, float] = {}
        self.tidies = True

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Start containers.

        Raises:
            InvalidInput: The image does not exist, or the engine rejects an option.
            Refused: The machine has no resources left.
            Unavailable: The engine fails.
        """
        marks = Marks.of(self._deployment, request, self._clock.now())
        before = await self._found(marks) if request.token else []
        if before:
            marks = msgspec.structs.replace(marks, asked_at=before[0].launched_at)
        names = (
            [f"{marks.name()}-{number}" for number in range(request.n)]
            if request.token
            else [marks.name() for _ in range(request.n)]
        )
        # Start only the missing containers of a repeated request.
        missing = [each for each in names if each not in {known.id for known in before}]
        for each in missing:
            try:
                await self._run(each, marks, request)
            except Refused:
                if each == names[0]:
                    raise
                break
        given = set(names)
        return [each for each in await self._found(marks) if each.id in given]

    async def instances(self, pool: str | None = None) -> list[Instance]:
        listed = await self._listed([f"{DEPLOYMENT}={self._deployment}"])
        found = [self._instance(each) for each in listed]
        if self.tidies:
            await self._forget_old(found)
        return [each for each in found if pool is None or each.pool == pool]

    async def notices(self) -> list[Notice]:
        """Return nothing: containers are never reclaimed."""
        return []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Stop containers with SIGTERM, and with SIGKILL after `grace_s` seconds.

        A repeated call has an effect only with an earlier deadline, or once the deadline has
        passed.
        """
        wanted, now_s = set(instance_ids), self._clock.monotonic_s()
        for each in await self.instances():
            if each.id not in wanted or each.state is InstanceState.ENDED:
                continue
            known_s = self._ends_s.get(each.id)
            if known_s is not None and now_s < known_s <= now_s + grace_s:
                continue
            self._ends_s[each.id] = now_s + grace_s
            await self._stop(each.id, grace_s)

    async def close(self) -> None:
        """Do nothing: the containers keep running, and the engine enforces the grace periods."""

    async def _run(self, name: str, marks: Marks, request: LaunchRequest) -> None:
        own = {INSTANCE_ID: name, ASKED_AT: marks.asked_at.isoformat()}
        told = dict(request.environment) | own
        # A slow image pull continues after the call is cancelled.
        words = self._run_words(name, marks, told)
        ran = await self._call(*words, environment=told, goes_on=True)
        if ran.code == 0 or _TAKEN.search(ran.said):
            return
        # Remove the container that could not be started: it would be listed as a worker. Without
        # `--force`, because that would kill a container that runs after all.
        await self._call("rm", name)
        said = hide_secrets(ran.said.strip())[-500:]
        if _FULL.search(ran.said):
            raise Refused(f"{self._engine} has no room: {said}")
        if _NO_IMAGE.search(ran.said):
            raise InvalidInput(
                f"{self._engine} cannot have the image {self._options.image}: {said}; pull or "
                "build it on this machine, or correct its name"
            )
        raise Unavailable(f"{self._engine} run: {said}")

    def _run_words(self, name: str, marks: Marks, told: Mapping[str, str]) -> list[str]:
        chosen = self._options
        words = ["run", "--detach", "--restart", "no", "--name", name]
        words += [f"--label={key}={value}" for key, value in marks.texts.items()]
        words += [f"--env={each}" for each in told]
        words += [f"--volume={each}" for each in chosen.volumes]
        words += [f"--network={chosen.network}"] if chosen.network else []
        words += self._gpu_words()
        return [*words, *chosen.options, chosen.image, *chosen.command]

    def _gpu_words(self) -> list[str]:
        gpus = self._options.gpus
        if not gpus:
            return []
        if self._engine.endswith("podman"):
            return [f"--device={'nvidia.com/gpu=all' if gpus == 'all' else gpus}"]
        return [f"--gpus={gpus}"]

    async def _stop(self, name: str, grace_s: float) -> None:
        """Stop a container with a command that can outlive this process."""
        seconds = str(math.ceil(max(grace_s, 0.0)))
        words = [self._engine, *self._options.engine_options, "stop", "--time", seconds, name]
        shell = ("/bin/sh", "-c", '"$@" > /dev/null 2>&1 &', "sh")
        await run(*shell, *words, environment=self._environment)

    async def _found(self, marks: Marks) -> list[Instance]:
        wanted = {DEPLOYMENT: marks.deployment, POOL: marks.pool, LAUNCH: marks.token}
        listed = await self._listed([f"{key}={value}" for key, value in wanted.items() if value])
        return [each for each in map(self._instance, listed) if each.token == marks.token]

    async def _listed(self, labels: Iterable[str]) -> list[dict[str, Any]]:
        filters = [f"--filter=label={each}" for each in labels]
        words = ("ps", "--all", "--quiet", "--no-trunc", *filters)
        ran = await self._call(*words, patience_s=_ANSWER_S)
        if ran.code != 0:
            raise Unavailable(f"{self._engine} ps: {ran.said.strip()[-500:]}")
        ids = ran.out.split()
        if not ids:
            return []
        looked = await self._call("inspect", "--type=container", *ids, patience_s=_ANSWER_S)
        try:
            found: list[dict[str, Any]] = json.loads(looked.out or "[]")
        except ValueError:
            found = []
        # `inspect` fails if one container was removed, but describes the others and reports each
        # missing one.
        gone = len(_GONE.findall(looked.said))
        if len(found) + gone < len(ids):
            raise Unavailable(f"{self._engine} inspect: {looked.said.strip()[-500:]}")
        return found

    def _instance(self, told: Mapping[str, Any]) -> Instance:
        labels = told["Config"]["Labels"]
        marks = Marks.read(labels, asked_at=moment(told["Created"]))
        name, state = told["Name"].removeprefix("/"), told["State"]
        stands = _STATES.get(state["Status"], InstanceState.RUNNING)
        if stands is not InstanceState.ENDED and name in self._ends_s:
            stands = InstanceState.STOPPING
        has_ended = stands is InstanceState.ENDED
        return msgspec.structs.replace(
            marks.starting(name),
            state=stands,
            ended_at=_finished(state, marks.asked_at) if has_ended else None,
            exit_code=state["ExitCode"] if has_ended else None,
            why=_why(state) if has_ended else "",
        )

    async def _forget_old(self, found: Sequence[Instance]) -> None:
        ended = [each for each in found if each.state is InstanceState.ENDED]
        ended.sort(key=lambda each: each.ended_at or each.launched_at)
        still = self._clock.now() - timedelta(seconds=_STILLBORN_S)
        old = [each.id for each in ended[:-_REMEMBERED]] + [
            each.id
            for each in found
            if each.state is InstanceState.STARTING and each.launched_at < still
        ]
        for each in old:
            self._ends_s.pop(each, None)
        if old:
            await self._call("rm", "--force", "--volumes", *old)

    async def _call(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        patience_s: float | None = None,
        goes_on: bool = False,
    ) -> Ran:
        return await run(
            self._engine,
            *self._options.engine_options,
            *words,
            environment=self._environment | dict(environment or {}),
            patience_s=patience_s,
            goes_on=goes_on,
        )


def _find(asked: str, path: str | None) -> str:
    for name in [asked] if asked else ["docker", "podman"]:
        if program := shutil.which(name, path=path):
            return program
    raise InvalidRequest(
        f"there is no {asked or 'docker or podman'} on this machine: install it, or choose "
        "another provider for the pool"
    )


def _finished(state: Mapping[str, Any], asked_at: datetime) -> datetime:
    """Return the end of a container. One that never ran reports year 1: use its launch."""
    return max(moment(state["FinishedAt"]), asked_at)


def _why(state: Mapping[str, Any]) -> str:
    if state.get("OOMKilled"):
        return "the kernel ended it: out of memory"
    return str(state.get("Error") or "")
