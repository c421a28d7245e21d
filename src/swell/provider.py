"""Contract of a provider: whoever can start and stop workers."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

import msgspec

from swell.errors import Unavailable
from swell.money.pricing import LivePrice

#: The variable by which a worker is told when it was asked for: `Instance.launched_at` in ISO 8601.
ASKED_AT: Final = "SWELL_WORKER__ASKED_AT"

#: The variable by which a worker is told which instance it is: `Instance.id`.
INSTANCE_ID: Final = "SWELL_INSTANCE_ID"

#: The variable by which a worker is told how long after a signal it is killed, in seconds.
KILLED_AFTER_S: Final = "SWELL_WORKER__KILLED_AFTER_S"


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
    #: Repeated with the same token, a request gives the instances that it gave before. Empty for
    #: one that is never repeated. At most 100 characters. One that was refused is asked for again
    #: with another: some providers give the same answer to the same token.
    token: str = ""
    #: Command line of the worker, for providers that run commands.
    command: tuple[str, ...] = ()
    #: What the worker must know (URL, token), as environment variables.
    environment: Mapping[str, str] = {}

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Tell what may stand in a log: of the environment names only, since it has a key."""
        return [
            ("pool", self.pool),
            ("n", self.n),
            ("token", self.token),
            ("command", self.command),
            ("environment", sorted(self.environment)),
        ]

    def __repr__(self) -> str:
        """Return the same in one line."""
        told = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({told})"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, container or process that runs a worker."""

    id: str
    pool: str
    state: InstanceState
    launched_at: datetime
    ended_at: datetime | None = None
    #: Exit code of a process that ended; negative for a signal.
    exit_code: int | None = None
    #: Of the request that it was launched by.
    token: str = ""
    #: Where it stands, such as `us-east-1a`; empty where that means nothing.
    location: str = ""
    #: Its kind of machine, such as `g6.xlarge`; empty where that means nothing.
    kind: str = ""
    #: Whether the provider may take it back.
    is_spot: bool = False
    #: Why it has ended, or is about to, in the provider's own words.
    why: str = ""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """The provider is about to take an instance back."""

    instance_id: str
    #: When it is taken; None where only a risk is told.
    at: datetime | None = None


class Refused(Unavailable):
    """The provider has none to give now, as it said.

    Args:
        detail: In its own words.
        is_quota: Whether no more are allowed, rather than none to be had: asking again does not
            help before somebody raises the limit.
        retry_after_s: Not to be asked again before, in seconds; None for whatever the caller does.
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
        `launch` returns the instances that it has asked for, each listed from then on until some
        time after it has ended, and tells each worker in `ASKED_AT` when that was. They may be
        fewer than were wanted. `terminate` is idempotent and asks the worker to drain first.
        Each worker knows its instance's id: it registers with it as `instance`.
        Instances survive the controller: `instances` finds them by their tags (deployment, pool,
        token) where the provider outlives the process, and finds nobody else's. `terminate` ends
        nobody else's either. One that was lost is told as ended.
    """

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Ask for instances.

        Raises:
            Unavailable: The provider has none to give now; `Refused` where it said so itself.
            InvalidInput: The pool is not set up so that it can be launched.
        """
        ...

    async def notices(self) -> list[Notice]:
        """Return which instances are about to be taken back, as long as they are there."""
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


@runtime_checkable
class Tidying(Protocol):
    """A provider that tidies up while it looks.

    It deletes what has stopped and costs on, or takes what it was told out of a queue.
    """

    #: Whether it does so; false while it only looks, and may then see less.
    tidies: bool


@runtime_checkable
class TellsPrices(Protocol):
    """A provider whose cloud tells what machines cost now."""

    async def prices(self) -> list[LivePrice]:
        """Return what the kinds of machines of its options cost where they may stand.

        What the cloud does not tell is left out.

        Raises:
            Unavailable: It cannot be asked now.
            InvalidInput: It does not let us ask.
        """
        ...


@contextlib.contextmanager
def looking_only(providers: Iterable[Provider]) -> Iterator[None]:
    """Have providers change nothing while the block runs, as long as only looks are asked for."""
    tidying = [each for each in providers if isinstance(each, Tidying)]
    before = [each.tidies for each in tidying]
    for each in tidying:
        each.tidies = False
    try:
        yield
    finally:
        for each, tidied in zip(tidying, before, strict=True):
            each.tidies = tidied
