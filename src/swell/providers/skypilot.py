"""Provider for the clouds that SkyPilot supports, through its command `sky`.

For clouds without an adapter here, and for at most some dozens of machines: SkyPilot creates a
one-machine cluster for each worker over SSH, and its server creates only some at a time. The
provider runs the command instead of importing the library, so that SkyPilot's dozens of
dependencies stay in their own environment (`uv tool install "skypilot[lambda,runpod]"`).

No real machine has been launched yet. SkyPilot 0.14.1 accepted the task, the name and the command
lines in a manual test, and the JSON fields were compared with its source. The tests use a fake
`sky` that accepts only these commands.

Differences from other adapters: a launch without capacity is not refused but listed as ended some
minutes later. `terminate` ignores its grace period, because it tears the cluster down, so drain
workers first. There are no notices.

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

#: Time until a new cluster must be listed, in seconds. SkyPilot's server lists it once it starts to
#: create it, and may create others first.
_LATE_S: Final = 900.0

#: Omit the other parts of the status.
_STATUS: Final = (
    *("status", "--output", "json"),
    *("--no-show-managed-jobs", "--no-show-services", "--no-show-pools"),
)

#: Timeout of a command, in seconds.
_ANSWER_S: Final = 120.0

_STATES: Final = {
    "INIT": InstanceState.STARTING,
    "PENDING": InstanceState.STARTING,
    "UP": InstanceState.RUNNING,
    "AUTOSTOPPING": InstanceState.STOPPING,
    "STOPPED": InstanceState.ENDED,
}

#: `swell.DEPLOYMENT.POOL.TOKEN.SECONDS.NUMBER`. SkyPilot stores only the name of a cluster.
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
        options: Options of the pool.
        told: Environment of the worker. Variables with a token become SkyPilot secrets.
    """
    resources: dict[str, Any] = {"disk_size": options.disk_gib, "use_spot": options.spot}
    resources |= {"infra": options.infra} if options.infra else {}
    resources |= {"accelerators": options.accelerators} if options.accelerators else {}
    gpus = "--gpus all " if options.accelerators else ""
    # `sudo` replaces the environment, so docker reads the variables from a file.
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
    """Provider for SkyPilot. See `swell.core.provider`, and the module for its limits.

    Args:
        options: Options of the pool.
        clock: The clock.
        deployment: Name of the deployment that owns the machines.
        environment: Environment of the command; None for the process environment.

    Raises:
        InvalidRequest: The command is not installed.
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
        """Create clusters of one machine each. One without capacity is later listed as ended.

        Raises:
            InvalidInput: SkyPilot rejects the task.
            Unavailable: SkyPilot's server does not answer.
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
            with _written(json.dumps(task)) as path:  # JSON is valid YAML
                words = ("--async", "--yes", "--down", "--detach-run", "--cluster", name)
                await self._call("launch", *words, str(path))
            given += self._seen.launched(
                [msgspec.structs.replace(marks.starting(name), is_spot=self._options.spot)]
            )
        return given

    async def instances(self, pool: str | None = None) -> list[Instance]:
        found = await self._listed()
        return self._seen.listed([e for e in found if pool is None or e.pool == pool], pool)

    async def notices(self) -> list[Notice]:
        """Return nothing: SkyPilot reports a machine only after its end."""
        return []

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Tear clusters down without draining their workers. Unknown ids are ignored."""
        there = {each.id for each in await self._listed()} | self._seen.unlisted()
        own = [each for each in dict.fromkeys(instance_ids) if each in there]
        if own:
            await self._call("down", "--async", "--yes", *own)
            self._seen.told_to_go(own)

    async def close(self) -> None:
        """Do nothing: the machines keep running."""

    async def _listed(self) -> list[Instance]:
        told = json.loads(await self._call(*_STATUS))
        found = [self._instance(each) for each in told]
        return [each for each in found if each is not None]

    def _instance(self, told: Any) -> Instance | None:
        """Return a cluster as an instance; None if it belongs to another deployment."""
        parts = _NAME.fullmatch(told["name"])
        if parts is None or parts[1] != self._deployment:
            return None
        try:
            token = "" if parts[3].startswith("r") else _unpacked(parts[3])
            at = datetime.fromtimestamp(int(parts[4]), UTC)
        except (ValueError, OverflowError, OSError):
            return None  # not a name of ours
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
        if ran.code == 2 or "Invalid" in text:  # exit code of a usage error
            raise InvalidInput(f"SkyPilot does not take what the pool's options say: {text}")
        raise Unavailable(f"sky {words[0]}: {text}")


def _same(instance: Instance, marks: Marks) -> bool:
    return (instance.pool, instance.token) == (marks.pool, marks.token)


def _packed(token: str) -> str:
    """Encode a token in letters and digits."""
    return "t" + base64.b32hexencode(token.encode()).decode().rstrip("=").lower()


def _unpacked(text: str) -> str:
    packed = text[1:].upper()
    return base64.b32hexdecode(packed + "=" * (-len(packed) % 8)).decode()


@contextlib.contextmanager
def _written(text: str) -> Iterator[Path]:
    """Write a task to a private temporary file, because it contains the worker's token."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        yield Path(file.name)
