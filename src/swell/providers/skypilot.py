"""Workers on any of the clouds that SkyPilot knows, through its command `sky`.

For clouds that have no adapter here, and no more than some dozens of machines: SkyPilot brings up
one cluster of one machine for each worker, over SSH, and its server does some of that at a time. It
is a command, not a library, so that its dozens of dependencies stay in an environment of their own
(`uv tool install "skypilot[lambda,runpod]"`).

What was never tried: to bring a machine up. SkyPilot 0.14.1 itself has read the task, the name and
the command lines that are made here, once, by hand; fields of its JSON were compared with its
source. Tests run this against a program that takes those words alone.

It does less than other adapters. What SkyPilot could not get is not refused at once, but told as
ended some minutes later. The grace of `terminate` is not kept to: a cluster that is torn down takes
its worker with it, so workers are to be drained before. There are no notices.

Source:
    https://docs.skypilot.co/en/latest/reference/cli.html and …/reference/yaml-spec.html.
"""

import base64
import contextlib
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
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
)
from swell.core.redact import hide_secrets
from swell.providers.command import environment_or_ours, run
from swell.providers.marks import Marks
from swell.providers.options import Options
from swell.providers.sightings import Sightings

#: SkyPilot lists a cluster once its server has begun with it, which may have others before.
_LATE_S: Final = 900.0

#: What its status tells besides is not asked for.
_STATUS: Final = (
    *("status", "--output", "json"),
    *("--no-show-managed-jobs", "--no-show-services", "--no-show-pools"),
)

#: A command that takes longer hangs, in seconds.
_ANSWER_S: Final = 120.0

_STATES: Final = {
    "INIT": InstanceState.STARTING,
    "PENDING": InstanceState.STARTING,
    "UP": InstanceState.RUNNING,
    "AUTOSTOPPING": InstanceState.STOPPING,
    "STOPPED": InstanceState.ENDED,
}

#: `swell.DEPLOYMENT.POOL.TOKEN.SECONDS.NUMBER`: SkyPilot gives back nothing but a cluster's name.
_NAME: Final = re.compile(
    r"swell\.([a-z0-9-]+)\.([A-Za-z0-9_-]+)\.(t[a-z0-9]*|r[a-z0-9]+)\.(\d+)\.(\d+)"
)


class SkypilotOptions(Options):
    """Options of a pool of machines that SkyPilot brings up."""

    image: str = Field(min_length=1, description="The worker's container image.")
    infra: str = Field(
        default="",
        description="Cloud, region and zone as SkyPilot writes them, such as `lambda/us-east-1`; "
        "empty for the cheapest of those that are set up.",
    )
    accelerators: str = Field(default="", description="Such as `L4:1`; empty for none.")
    spot: bool = Field(
        default=False, description="Whether to use spot capacity, which the cloud may reclaim."
    )
    disk_gib: int = Field(default=100, ge=10, description="The size of its disk, in GiB.")
    resources: Mapping[str, Any] = Field(
        default={}, description="More of SkyPilot's `resources`, as they are."
    )
    run: str = Field(
        default="",
        description="Shell command that starts the worker, with its settings in the "
        "environment; empty for docker. Needed on clouds whose machines are "
        "containers.",
    )
    program: str = Field(default="sky", description="SkyPilot's command, or its path.")


def task_of(options: SkypilotOptions, told: Mapping[str, str]) -> dict[str, Any]:
    """Return SkyPilot's task for one worker. Pure.

    Args:
        options: Of its pool.
        told: The worker's environment; its token becomes a secret of SkyPilot's.
    """
    resources: dict[str, Any] = {"disk_size": options.disk_gib, "use_spot": options.spot}
    resources |= {"infra": options.infra} if options.infra else {}
    resources |= {"accelerators": options.accelerators} if options.accelerators else {}
    gpus = "--gpus all " if options.accelerators else ""
    # Root's environment is its own, so docker reads ours from a file.
    docker = (
        "umask 077 && env | grep '^SWELL_' > ~/swell.env && sudo docker run --rm "
        f"--env-file ~/swell.env {gpus}--stop-timeout 90 {shlex.quote(options.image)}"
    )
    is_secret = {name: "TOKEN" in name for name in told}
    return {
        "resources": resources | dict(options.resources),
        "envs": {name: text for name, text in told.items() if not is_secret[name]},
        "secrets": {name: text for name, text in told.items() if is_secret[name]},
        "run": options.run or docker,
    }


class SkypilotProvider:
    """See `swell.core.provider`, and above what of it is not kept.

    Args:
        options: Which machines.
        clock: The time.
        deployment: Whose machines these are.
        environment: What the command gets; None for the process environment.

    Raises:
        InvalidRequest: There is no such command.
    """

    def __init__(
        self,
        options: SkypilotOptions,
        clock: Clock,
        deployment: str,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._deployment = deployment
        self._environment = environment_or_ours(environment)
        program = shutil.which(options.program, path=self._environment.get("PATH"))
        if program is None:
            raise InvalidRequest(
                f"{options.program} is not on this machine: install SkyPilot in a "
                "separate environment (uv tool install skypilot), or set its path in "
                "the option program"
            )
        self._program = program
        self._seen = Sightings(clock, late_s=_LATE_S, sure_s=0.0)

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Ask for clusters of one machine each; what cannot be had is told as ended later.

        Raises:
            InvalidInput: SkyPilot does not take the task.
            Unavailable: Its server does not answer.
        """
        if before := self._seen.of_launch(request.pool, request.token):
            return before
        now = self._clock.now().replace(microsecond=0)
        marks = Marks.of(self._deployment, request, now)
        if request.token:
            there = [each for each in await self._listed() if _same(each, marks)]
            if there:
                return self._seen.launched(there)
        token = _packed(request.token) if request.token else f"r{marks.name().rpartition('-')[2]}"
        seconds = int(now.timestamp())
        begin = f"swell.{self._deployment}.{request.pool}.{token}.{seconds}"
        given: list[Instance] = []
        for number in range(request.n):
            name = f"{begin}.{number}"
            own = {INSTANCE_ID: name, ASKED_AT: now.isoformat()}
            task = task_of(self._options, dict(request.environment) | own)
            with _written(json.dumps(task)) as path:  # JSON is YAML
                words = ("--async", "--yes", "--down", "--detach-run", "--cluster", name)
                await self._call("launch", *words, str(path))
            given += self._seen.launched(
                [msgspec.structs.replace(marks.starting(name), is_spot=self._options.spot)]
            )
        return given

    async def instances(self, pool: str | None = None) -> list[Instance]:
        """Return the instances of a pool, or of all."""
        found = await self._listed()
        return self._seen.listed([e for e in found if pool is None or e.pool == pool], pool)

    async def notices(self) -> list[Notice]:
        """Return nothing: SkyPilot tells when a machine is gone."""
        return []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Tear clusters down, which takes their workers with them. Unknown ids are ignored."""
        there = {each.id for each in await self._listed()} | self._seen.unlisted()
        own = [each for each in dict.fromkeys(instance_ids) if each in there]
        if own:
            await self._call("down", "--async", "--yes", *own)
            self._seen.told_to_go(own)

    async def close(self) -> None:
        """Do nothing: machines live on."""

    async def _listed(self) -> list[Instance]:
        told = json.loads(await self._call(*_STATUS))
        found = [self._instance(each) for each in told]
        return [each for each in found if each is not None]

    def _instance(self, told: Any) -> Instance | None:
        """Return what a cluster is here; None where it is not of this deployment."""
        parts = _NAME.fullmatch(told["name"])
        if parts is None or parts[1] != self._deployment:
            return None
        try:
            token = "" if parts[3].startswith("r") else _unpacked(parts[3])
            at = datetime.fromtimestamp(int(parts[4]), UTC)
        except (ValueError, OverflowError, OSError):
            return None  # somebody else has made up such a name
        marks = Marks(deployment=parts[1], pool=parts[2], token=token, asked_at=at)
        return msgspec.structs.replace(
            marks.starting(told["name"]),
            state=_STATES.get(told["status"], InstanceState.STARTING),
            location="/".join(filter(None, (told.get("cloud"), told.get("region")))),
            kind=told.get("resources_str") or "",
            is_spot=self._options.spot,
            why=told.get("init_status_reason") or "",
        )

    async def _call(self, *words: str) -> str:
        ran = await run(self._program, *words, environment=self._environment, patience_s=_ANSWER_S)
        if ran.code == 0:
            return ran.out
        text = hide_secrets((ran.said or ran.out).strip())[-500:]
        if ran.code == 2 or "Invalid" in text:  # as its command line ends on wrong words
            raise InvalidInput(f"SkyPilot does not take what the pool's options say: {text}")
        raise Unavailable(f"sky {words[0]}: {text}")


def _same(instance: Instance, marks: Marks) -> bool:
    return (instance.pool, instance.token) == (marks.pool, marks.token)


def _packed(token: str) -> str:
    """Return a token in letters and digits."""
    return "t" + base64.b32hexencode(token.encode()).decode().rstrip("=").lower()


def _unpacked(text: str) -> str:
    packed = text[1:].upper()
    return base64.b32hexdecode(packed + "=" * (-len(packed) % 8)).decode()


@contextlib.contextmanager
def _written(text: str) -> Iterator[Path]:
    """Have a task in a file that nobody else reads: it has the worker's token."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)
