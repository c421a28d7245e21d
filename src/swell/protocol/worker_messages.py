"""Messages between worker and backend, and the protocol through which a worker's engine sends them.

`protocol/backend_client.py` implements the protocol over HTTP (`/worker/v1/…`); the backend answers
in `server/workers/worker_registration.py`, `worker_leases.py`, `worker_reports.py` and
`reported_files.py`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec

from swell.core.errors import Unavailable
from swell.core.records import ModelCard
from swell.core.startup_phases import Startup
from swell.core.store_types import Hold
from swell.core.task import Settlement


class BackendUnavailable(Unavailable):
    """The backend answered a worker, but cannot serve the request now."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """Registers a worker. A second registration under the same name is a restart."""

    name: str
    pool: str = "default"
    models: list[ModelCard]
    slots: int = 1
    device: str = "cpu"
    host: str = ""
    pid: int = 0
    #: The provider's name of its machine, container or process; empty for a worker started by hand.
    instance: str = ""
    #: Version of Swell.
    release: str = ""
    #: Time of sending, by the worker's clock.
    sent_at: datetime | None = None
    #: Its cold start, as far as it is known; None if the worker does not report it.
    startup: Startup | None = None


class StartingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a worker that is not ready yet."""

    #: The worker must report again within this time, in seconds, or it counts as dead.
    tell_every_s: float


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `Registration`: times and limits for the worker."""

    worker_id: str
    #: Leases last this long unless extended, in seconds.
    lease_s: float
    #: Report at least this often while anything is held, in seconds.
    heartbeat_s: float
    #: The longest wait that a lease call may ask for, in seconds.
    max_wait_s: float
    #: Files up to this size travel inside the report of their outcome, which saves two requests; 0
    #: if files go to another service.
    enclose_bytes: int = 0
    #: As of `Grant`.
    staged: dict[str, tuple[str, ...]] = {}


class Switches(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often a worker has loaded or changed one of its models, since it started."""

    model: str
    #: Loads from disk, and from host memory. Loads before the worker takes work do not count.
    disk: int = 0
    host: int = 0
    #: Changes of the LoRAs on its weights.
    loras: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for work: `POST /worker/v1/lease`.

    The answer comes as soon as there is work, a cancellation or a drain, or after `wait_s`.
    """

    worker_id: str
    #: At most this many tasks; 0 only listens for cancellations and drain.
    n: int
    wait_s: float = 0.0
    #: Models on the worker's device now, the most useful first; None if all stay there.
    residents: list[str] | None = None
    #: Ids of tasks that the worker polled from an external queue: the backend leases those that may
    #: run here and nothing else, and answers at once.
    offered: list[str] = []
    #: After a lost answer that may have contained tasks: all leases that the worker has. The
    #: backend first returns its other leases to the queue, without counting an attempt.
    known: list[Hold] | None = None


class LeasedTask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task with its lease."""

    task_id: str
    attempt: int
    token: str
    model: str
    version: str
    input: msgspec.Raw
    count: int = 1
    seed: int | None = None
    #: Seconds until the task's deadline; None for no deadline.
    finish_within_s: float | None = None
    #: URLs in `input` of files of the backend itself → URLs to read them during the attempt. Those
    #: in the input may have expired, and may use a host that only the client can reach.
    own_files: dict[str, str] = {}
    #: URL of the checkpoint of an earlier attempt (`Released.checkpoint`); a worker that cannot use
    #: it starts from the beginning.
    checkpoint: str | None = None
    #: Parent of the worker's spans; None if the task is not traced.
    traceparent: str | None = None
    #: In a pipeline: attempts of other stages. Only further attempts are retries of this stage.
    earlier: int = 0
    #: In a pipeline: whether a later stage may run on the same worker; see `Report.onward`.
    may_go_on: bool = False
    #: Whether it is a stage of a pipeline: it reports its files only when it has ended.
    is_stage: bool = False

    @property
    def hold(self) -> Hold:
        """The lease, as the store names it."""
        return Hold(task_id=self.task_id, attempt=self.attempt, token=self.token)


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to `Ask`."""

    tasks: list[LeasedTask] = []
    #: Held tasks to stop: canceled, expired, or leased by another worker.
    cancels: list[str] = []
    #: Finish the held tasks, take no new ones, and exit.
    drain: bool = False
    #: As in `swell.core.broker_types.LeaseRequest`, for workers that poll external queues.
    staged: dict[str, tuple[str, ...]] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event within an attempt. `place` counts up by one within the attempt."""

    task_id: str
    attempt: int
    token: str
    #: 1 to 999,998.
    place: int
    #: `progress`, `preview` or `artifact`. The last is a file that is complete before the result:
    #: an artifact with its `index` in the result, the `seed` of its sample, and a `key` of the
    #: attempt. Artifacts come in the order of `index`, each once.
    kind: str
    data: dict[str, Any] = {}
    #: Number of files of the attempt that were reported before.
    files: int = 0
    #: Whether this is a repetition, for a backend that may not know the file.
    again: bool = False


class Enclosure(msgspec.Struct, frozen=True, kw_only=True):
    """A small file inside a report."""

    #: Key of an artifact in an outcome or in progress of the same report. After progress, the
    #: report of the outcome contains it again, in case that it could not be stored.
    key: str
    #: In JSON as base64.
    data: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Progress, outcomes and heartbeat of a worker: `POST /worker/v1/report`.

    Every report extends the leases in `holds`. `ask` leases more tasks in the same commit, so that
    a busy worker needs one call per batch; it never waits.
    """

    worker_id: str
    progress: list[Progress] = []
    settlements: list[Settlement] = []
    #: Stored before the outcomes that name them are written, and before clients learn of them.
    enclosures: list[Enclosure] = []
    holds: list[Hold] = []
    ask: int = 0
    #: Number of pipelines, of those with a stage settled here, that may start their next stage on
    #: this worker at once, in the slots that become free.
    onward: int = 0
    #: As in `Ask`.
    residents: list[str] | None = None
    known: list[Hold] | None = None
    #: For models that were loaded at least once, if models take turns on the device.
    switches: list[Switches] = []
    #: Finished cold starts, restarts and switches; each is repeated until it is acknowledged.
    startups: list[Startup] = []
    #: Whether this is the last report of a worker that exits.
    goodbye: bool = False


class ReportAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to `Report`, sent once the outcomes are durable."""

    #: Ids of settled tasks with a refused outcome, because the lease was no longer held.
    stale: list[str] = []
    #: Held tasks to stop: canceled, expired, or leased by another worker.
    cancels: list[str] = []
    drain: bool = False
    #: Tasks leased by `ask`.
    tasks: list[LeasedTask] = []
    #: Tasks in `progress` that clients follow, so that previews are useful.
    watched: list[str] = []
    #: Whether to report the files of running tasks again: the backend may have missed them.
    tell_files: bool = False


class Upload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Permission to store one file: `PUT` the bytes to `url`, then name `key` in the outcome."""

    key: str
    url: str
    #: Headers to send.
    headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Incoming:
    """An input file while it is read."""

    #: Its size; None if the server does not say it.
    size_bytes: int | None
    parts: AsyncIterator[bytes]


class Dispatch(Protocol):
    """A worker's connection to the backend.

    Guarantees:
        `report` returns only when the settlements are durable. A call that failed in transit may be
        repeated. Raises `Unavailable` while the backend cannot be reached, `Unauthenticated` or
        `NotFound` when the worker must register again.
    """

    async def starting(self, startup: Startup) -> StartingAnswer:
        """Report the progress or the failure of a cold start, before the worker registers.

        Raises:
            NotFound: The backend is older than this message.
        """

    async def register(self, registration: Registration) -> Welcome:
        """Register the worker."""

    async def lease(self, ask: Ask) -> Grant:
        """Lease tasks; wait until there are some."""

    async def report(self, report: Report) -> ReportAnswer:
        """Report progress and outcomes, and extend leases."""

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        """Return permissions to store files of an attempt.

        The keys of its outputs are `outputs/TASK/ATTEMPT/NAME`, the key of its checkpoint is
        `checkpoint_key(TASK, ATTEMPT)`.

        Raises:
            Conflict: The worker does not hold the lease of this attempt.
        """

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        """Store one file. The same bytes may be stored again.

        Raises:
            Conflict: The key already has other bytes.
        """

    async def fetch(self, url: str) -> tuple[bytes, str]:
        """Return the bytes and the media type of an input file, or of a checkpoint.

        A relative URL is one of the backend.
        """

    def open(self, url: str) -> AbstractAsyncContextManager[Incoming]:
        """Read an input file of any size part by part, such as to the disk.

        Takes the same URLs as `fetch`, with the same errors.
        """

    async def close(self) -> None:
        """Close the connections."""
