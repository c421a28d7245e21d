"""Contract of providers, which start and stop workers."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from swell.core.billing.price_book import LivePrice
from swell.core.errors import Unavailable

#: The variable with the time of a worker's launch request: `Instance.launched_at` in ISO 8601.
ASKED_AT: Final = "SWELL_WORKER__ASKED_AT"

#: The variable with the id of a worker's instance: `Instance.id`.
INSTANCE_ID: Final = "SWELL_INSTANCE_ID"

#: The variable with the time from SIGTERM until the platform kills the worker, in seconds.
KILLED_AFTER_S: Final = "SWELL_WORKER__KILLED_AFTER_S"


class InstanceState(StrEnum):
    """The state of an instance."""

    #: Requested, not yet running.
    STARTING = "starting"
    RUNNING = "running"
    #: Asked to end, not yet ended.
    STOPPING = "stopping"
    #: Ended; listed for some time so that the controller sees the end.
    ENDED = "ended"


class LaunchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Start `n` workers for a pool."""

    pool: str
    n: int = 1
    #: Idempotency token, at most 100 characters: a repeated request returns the same instances.
    #: Empty for a request that is never repeated. After a refusal use another token: some providers
    #: repeat the answer.
    token: str = ""
    #: Command line of the worker, for providers that run commands.
    command: tuple[str, ...] = ()
    #: Environment variables of the worker, such as URL and token.
    environment: Mapping[str, str] = {}

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return fields for the log: of the environment only names, because it contains a key."""
        fields = msgspec.structs.asdict(self) | {"environment": sorted(self.environment)}
        return list(fields.items())

    def __repr__(self) -> str:
        """Return the same in one line."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, container or process that runs a worker."""

    id: str
    pool: str
    state: InstanceState
    launched_at: datetime
    ended_at: datetime | None = None
    #: Exit code of a process that ended; negative for a signal.
    exit_code: int | None = None
    #: Token of the launch request.
    token: str = ""
    #: Its location, such as `us-east-1a`; empty if the provider has none.
    location: str = ""
    #: Its machine type, such as `g6.xlarge`; empty if the provider has none.
    kind: str = ""
    #: Whether the provider may reclaim it.
    is_spot: bool = False
    #: Why it has ended or will end, in the provider's words.
    why: str = ""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """The provider is about to reclaim an instance."""

    instance_id: str
    #: Time of the reclaim; None for a warning without a time.
    at: datetime | None = None


class Refused(Unavailable):
    """The provider refused a request: no capacity or no quota.

    Args:
        detail: The provider's words.
        is_quota: Whether a quota is exhausted, so that a retry fails until the quota is raised.
        retry_after_s: Earliest time for a retry, in seconds; None if the caller may choose.
    """

    def __init__(
        self, detail: str, *, is_quota: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.is_quota = is_quota
        self.retry_after_s = retry_after_s


class Provider(Protocol):
    """Starts and stops workers.

    Guarantees:
        `launch` returns the requested instances, perhaps fewer than `n`. `instances` lists each of
        them until some time after its end. Each worker gets the launch time in `ASKED_AT`.
        `terminate` is idempotent and asks the worker to drain first.
        Each worker gets its instance's id, and registers with it as `instance`.
        Instances outlive the controller if the provider outlives the process: `instances` finds
        them by their tags (deployment, pool, token). `instances` and `terminate` never touch
        instances of another deployment. A lost instance is listed as ended.
    """

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Request instances.

        Raises:
            Unavailable: The provider cannot be reached; `Refused` if it refused the request.
            InvalidInput: The settings of the pool are not sufficient.
        """
        ...

    async def notices(self) -> list[Notice]:
        """Return the instances that the provider is about to reclaim, until they end."""
        ...

    async def instances(self, pool: str | None = None) -> list[Instance]:
        """Return the instances of a pool, or of all."""
        ...

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Let workers drain for up to `grace_s` seconds, then end them. Unknown ids are ignored."""
        ...

    async def close(self) -> None:
        """End instances that cannot outlive this process, and close all connections."""
        ...


@runtime_checkable
class Tidying(Protocol):
    """A provider that cleans up while it lists instances.

    It deletes stopped machines that still cost money, or takes notices out of a queue.
    """

    #: Whether it cleans up; if false it only lists, and may see less.
    tidies: bool


@runtime_checkable
class TellsPrices(Protocol):
    """A provider of a cloud that publishes current prices."""

    async def prices(self) -> list[LivePrice]:
        """Return the prices of its machine types in its locations, as far as the cloud has them.

        Raises:
            Unavailable: The cloud cannot be reached.
            InvalidInput: The cloud refuses the request.
        """
        ...


@contextlib.contextmanager
def looking_only(providers: Iterable[Provider]) -> Iterator[None]:
    """Turn off the cleaning of providers while the block runs."""
    tidying = [each for each in providers if isinstance(each, Tidying)]
    for each in tidying:
        each.tidies = False
    try:
        yield
    finally:
        for each in tidying:
            each.tidies = True
