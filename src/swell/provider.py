"""Contract of a provider: whoever can start and stop workers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

import msgspec

__all__ = ["ASKED_AT", "Instance", "InstanceState", "LaunchRequest", "Provider"]

#: The variable by which a worker is told when it was asked for: `Instance.launched_at` in ISO 8601.
ASKED_AT: Final = "SWELL_WORKER__ASKED_AT"


class InstanceState(StrEnum):
    """Where an instance is in its life."""

    #: Asked for, not yet running.
    STARTING = "starting"
    RUNNING = "running"
    #: Told to end, not yet gone.
    STOPPING = "stopping"
    #: Gone; kept in the list for a while so that its end can be seen.
    ENDED = "ended"


class LaunchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start `n` workers for a pool."""

    pool: str
    n: int = 1
    #: Command line of the worker, for providers that run commands.
    command: tuple[str, ...] = ()
    #: What the worker must know (URL, token), as environment variables.
    environment: Mapping[str, str] = {}


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, container or process that runs a worker."""

    id: str
    pool: str
    state: InstanceState
    launched_at: datetime
    ended_at: datetime | None = None
    #: Exit code of a process that ended; negative for a signal.
    exit_code: int | None = None


class Provider(Protocol):
    """Starts and stops workers.

    Guarantees:
        `launch` returns the instances that it has asked for, each listed from then on until some
        time after it has ended, and tells each worker in `ASKED_AT` when that was. `terminate` is
        idempotent and asks the worker to drain first.
        Instances survive the controller: `instances` finds them by their pool's tag where the
        provider outlives the process.
    """

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Ask for instances.

        Raises:
            Unavailable: The provider has none to give now.
        """
        ...

    async def instances(self, pool: str | None = None) -> list[Instance]:
        """Return the instances of a pool, or of all."""
        ...

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Let workers drain for up to `grace_s` seconds, then end them. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """End what would not outlive this process, and let go of everything."""
        ...
