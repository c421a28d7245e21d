"""Contract of dispatch: how a worker gets work and tells what became of it.

These are the messages of `/worker/v1/…`, and the protocol that a worker's engine sees. Over HTTP it
is implemented by `brokers/remote.py`; the backend answers it in `api/workers.py`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec

from swell.errors import Unavailable
from swell.phases import Startup
from swell.registry import ModelCard
from swell.store import Hold
from swell.task import Settlement


class BackendUnavailable(Unavailable):
    """The backend answered a worker, and cannot do what was asked now."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A worker introduces itself. Registering again under the same `worker_id` is a restart."""

    name: str
    pool: str = "default"
    models: list[ModelCard]
    slots: int = 1
    device: str = "cpu"
    host: str = ""
    pid: int = 0
    #: What its machine, container or process is called by whoever launched it; empty where nobody
    #: of ours did.
    instance: str = ""
    #: Version of Swell.
    release: str = ""
    #: What the worker's clock said when it sent this.
    sent_at: datetime | None = None
    #: Its cold start, ready now or further; None of a worker that does not tell it.
    startup: Startup | None = None


class StartingAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a worker that is not ready yet."""

    #: Tell again at least this often, in seconds, or be taken for dead.
    tell_every_s: float


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker must keep to."""

    worker_id: str
    #: Leases last this long unless extended, in seconds.
    lease_s: float
    #: Report at least this often while anything is held, in seconds.
    heartbeat_s: float
    #: The longest wait that a lease call may ask for, in seconds.
    max_wait_s: float
    #: Files up to this size travel inside the report of their outcome, which spares two requests;
    #: 0 where files go elsewhere than to the backend itself.
    enclose_bytes: int = 0
    #: As of `Grant`.
    staged: dict[str, tuple[str, ...]] = {}


class Switches(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often a worker has brought or changed one of its models, since it started."""

    model: str
    #: Loaded anew, and brought back from the host's memory. What is loaded before the worker takes
    #: work does not count.
    disk: int = 0
    host: int = 0
    #: Other LoRAs put on its weights.
    loras: int = 0


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ask for work: `POST /worker/v1/lease`.

    The answer comes as soon as there is work, a cancellation or a drain, or after `wait_s`.
    """

    worker_id: str
    #: At most this many tasks; 0 only listens for cancellations and drain.
    n: int
    wait_s: float = 0.0
    #: Models that are on the worker's device now, the most useful first; None where all always are.
    residents: list[str] | None = None
    #: Ids that the worker took from the queues itself: these are started as far as they may run
    #: here, nothing else is leased, and the answer comes at once.
    offered: list[str] = []
    #: After an answer that may have brought tasks got lost: all that the worker has. What it was
    #: granted besides is taken back unharmed, before anything is granted.
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
    #: Seconds until the task is worthless; None for no deadline.
    finish_within_s: float | None = None
    #: URLs in `input` that name files of the backend itself → where to read them, for as long as an
    #: attempt takes. Those in the input may have expired, and may name a host that only the client
    #: can reach.
    own_files: dict[str, str] = {}
    #: Where to read what an attempt that was handed back had drawn (`Released.checkpoint`), for as
    #: long; a worker that cannot use it starts anew.
    checkpoint: str | None = None
    #: Where the task's trace goes on in the worker; None where it is not traced.
    traceparent: str | None = None
    #: Of a pipeline: how many attempts other stages have had. Only what comes after them is a sign
    #: that the task was tried before.
    earlier: int = 0
    #: Of a pipeline: whether a later stage may run on the same worker, which says with
    #: `Report.onward` whether it goes on.
    may_go_on: bool = False
    #: Whether it is a stage of a pipeline: its files are told when it is over, and not before.
    is_stage: bool = False

    @property
    def hold(self) -> Hold:
        """The lease, as the store names it."""
        return Hold(task_id=self.task_id, attempt=self.attempt, token=self.token)


class Grant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to `Ask`."""

    tasks: list[LeasedTask] = []
    #: Held tasks that are to be stopped: canceled, expired, or no longer this worker's.
    cancels: list[str] = []
    #: Finish what you hold, take nothing new, go.
    drain: bool = False
    #: As of `swell.broker.LeaseRequest`: for whoever takes ids from the queues itself.
    staged: dict[str, tuple[str, ...]] = {}


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened within an attempt. `place` grows by one within the attempt."""

    task_id: str
    attempt: int
    token: str
    #: 1 to 999,998.
    place: int
    #: `progress`, `preview` or `artifact`. The last tells of a file of the result that is there
    #: before the result is: an artifact with `index`, its place among them, and the `seed` of its
    #: sample. Its `key` is one of the attempt's. They come in the order of `index`, each once.
    kind: str
    data: dict[str, Any] = {}
    #: How many files of the attempt were told before.
    files: int = 0
    #: Whether it was told before: a file, to a backend that may have forgotten it or never heard.
    again: bool = False


class Enclosure(msgspec.Struct, frozen=True, kw_only=True):
    """A small file inside the report that tells of it."""

    #: That of an artifact of an outcome in the same report, or of one that progress in it tells of;
    #: then the report of the outcome has it again, in case that it could not be stored.
    key: str
    #: In JSON as base64.
    data: bytes


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything a worker has to tell at once: `POST /worker/v1/report`.

    Every report is a heartbeat: the leases in `holds` are extended. `ask`, if given, leases more in
    the same commit, so that a busy worker needs one call per batch; it never waits.
    """

    worker_id: str
    progress: list[Progress] = []
    settlements: list[Settlement] = []
    #: Stored before the outcomes that name them are written, and before they are told of.
    enclosures: list[Enclosure] = []
    holds: list[Hold] = []
    ask: int = 0
    #: So many of the pipelines whose stages are settled here may go on here at once, in the places
    #: that they leave.
    onward: int = 0
    #: As in `Ask`.
    residents: list[str] | None = None
    known: list[Hold] | None = None
    #: Of models that were brought at least once, where they take turns on the device.
    switches: list[Switches] = []
    #: Its cold start once it is done, restarts and switches; each is told until it is answered.
    startups: list[Startup] = []
    #: This is the last report of a worker that goes.
    goodbye: bool = False


class ReportAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to `Report`, written before it is sent."""

    #: Ids of settled tasks whose outcome was not taken, since the lease was no longer held.
    stale: list[str] = []
    #: Held tasks that are to be stopped: canceled, expired, or no longer this worker's.
    cancels: list[str] = []
    drain: bool = False
    #: What `ask` brought.
    tasks: list[LeasedTask] = []
    #: Of the tasks whose progress was told, those that somebody follows: previews are worth making.
    watched: list[str] = []
    #: A backend may have missed files of running tasks: tell once more which are there.
    tell_files: bool = False


class Upload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where to put one file: `PUT` the bytes to `url`, then name `key` in the outcome."""

    key: str
    url: str
    #: Headers that must go along.
    headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Incoming:
    """An input file that is being read."""

    #: Its size, as far as the other side tells.
    size_bytes: int | None
    parts: AsyncIterator[bytes]


class Dispatch(Protocol):
    """What a worker's engine knows of the rest of the world.

    Guarantees:
        `report` returns only when the settlements are durable. A call that failed on the way may be
        repeated. Raises `Unavailable` while the backend cannot be reached, `Unauthenticated` or
        `NotFound` when the worker must register again.
    """

    async def starting(self, startup: Startup) -> StartingAnswer:
        """Tell how far a cold start is, before the worker can register; or that it died.

        Raises:
            NotFound: The backend is older than this message.
        """
        ...

    async def register(self, registration: Registration) -> Welcome:
        """Introduce the worker."""
        ...

    async def lease(self, ask: Ask) -> Grant:
        """Ask for work, and wait for it."""
        ...

    async def report(self, report: Report) -> ReportAnswer:
        """Tell what happened."""
        ...

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        """Return where to put files of an attempt.

        The keys of its outputs are `outputs/TASK/ATTEMPT/NAME`, that of what it leaves to the next
        attempt is `checkpoint_key(TASK, ATTEMPT)`.

        Raises:
            Conflict: The lease of this attempt is not held (any more).
        """
        ...

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        """Store one file. The same bytes may be stored again.

        Raises:
            Conflict: Other bytes lie there already.
        """
        ...

    async def fetch(self, url: str) -> tuple[bytes, str]:
        """Return the bytes and the media type of an input file, or of what an attempt has left.

        A relative URL is one of the backend's.
        """
        ...

    def open(self, url: str) -> AbstractAsyncContextManager[Incoming]:
        """Read an input file part by part, whatever its size: for one that goes to the disk.

        The same URLs are read as by `fetch`, with the same errors.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
