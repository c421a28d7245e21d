"""What a server tells a client.

Members that a newer server adds are ignored, and most may be missing, so that client and server
need not have the same release.
"""

from datetime import datetime
from typing import Any

import msgspec

#: How a task may have ended.
_ENDS = frozenset({"succeeded", "failed", "canceled", "expired"})


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a task brought forth; its URL is signed and expires."""

    url: str
    #: Such as `image/png`.
    content_type: str = ""
    bytes: int = 0
    #: Of a picture, in px.
    width: int | None = None
    height: int | None = None
    thumbnail_url: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task failed."""

    #: Stable word to compare, such as `worker_lost`.
    code: str = ""
    title: str = ""
    detail: str = ""


class Eta(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from now: nine in ten end after `low`, half by `median`, nine in ten by `high`."""

    low: float = 0.0
    median: float = 0.0
    high: float = 0.0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a request that was changed so that the task could be accepted."""

    #: JSON pointer into the request, such as `/input/steps`.
    field: str
    #: What was asked for.
    before: Any = msgspec.field(name="from", default=None)
    #: What is done instead.
    after: Any = msgspec.field(name="to", default=None)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task would not be accepted; `Refused` is raised where one is not."""

    #: Stable word to compare, such as `would_expire`.
    code: str = ""
    #: Status of HTTP that `submit` would get.
    status: int = 0
    title: str = ""
    detail: str = ""
    #: After how many seconds it is worth asking again; None where nobody can say.
    retry_after_s: float | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a task that was sent now."""

    #: Whether it would be accepted.
    is_accepted: bool
    #: Why not; None if it would be.
    refusal: Refusal | None = None
    #: Which would run it, after `degrade`.
    model: str = ""
    version: str = ""
    #: As it would run, after `degrade`.
    input: Any = None
    priority: int | None = None
    #: What would be changed.
    degraded: list[Change] = []
    #: 1 is next.
    position: int | None = None
    #: Until it starts and ends; None before any measurement.
    start_s: Eta | None = None
    finish_s: Eta | None = None
    #: Most probably, in millionths of a dollar; None where that is not known.
    cost_micros: int | None = None
    #: Live ones that have the model.
    workers: int | None = None


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a pipeline, as far as a task has come."""

    name: str
    #: `owner/name`.
    model: str = ""
    version: str = ""
    #: `succeeded`, `skipped`, `waiting`, `not_reached`, or that of the task.
    state: str = ""
    #: What it gave; files in it stand as URLs.
    output: Any = None
    artifacts: list[Artifact] = []
    #: How many it took so far, of the task's own.
    attempts: int = 0
    #: Id of the worker that ran it.
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Seconds by what they went into, as of a task; None before its end.
    timings: dict[str, Any] | None = None
    #: In millionths of a dollar; None before its end, and where its pool has no price.
    cost_micros: int | None = None
    seed: int | None = None


class TaskWarning(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says about a task that succeeded, such as a word that it does not know."""

    #: Stable word to compare, such as `unknown_subject`.
    code: str = ""
    #: One or two sentences for the user.
    message: str = ""
    #: Prompts that work better; often empty.
    suggestions: list[str] = []


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task, as it was when the server told of it."""

    id: str
    #: `owner/name`.
    model: str
    #: `queued`, `running`, `succeeded`, `failed`, `canceled` or `expired`.
    state: str
    version: str = ""
    input: Any = None
    #: As the model's schema says; files in it stand as URLs.
    output: Any = None
    artifacts: list[Artifact] = []
    #: What the model says about the result; of a pipeline, all its stages.
    warnings: list[TaskWarning] = []
    error: Problem | None = None
    attempt: int = 0
    max_attempts: int = 0
    #: 1 is next; None unless it waits.
    position: int | None = None
    eta_s: Eta | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Seconds by what they went into: `queue_s`, `load_s`, `run_s`, `encode_s`, `upload_s`.
    timings: dict[str, Any] | None = None
    #: In millionths of a dollar.
    cost_micros: int | None = None
    seed: int | None = None
    user: str | None = None
    metadata: Any = None
    #: What was changed, as its `degrade` allows, so that it could be accepted.
    degraded: list[Change] = []
    #: Of a pipeline: its stages in order.
    stages: list[Stage] = []

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in _ENDS

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended with an output."""
        return self.state == "succeeded"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a task; docs/use-the-api.md lists the kinds and their data."""

    #: Grows; a stream may be taken up after it.
    id: int
    #: Such as `progress`, `preview`, `artifact` or `succeeded`.
    kind: str
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.kind in _ENDS


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of one version of a model."""

    #: `owner/name`.
    name: str
    version: str
    description: str = ""
    stage: str = ""
    #: JSON Schema (2020-12).
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    examples: list[dict[str, Any]] = []
