"""Messages from a server to a client.

Unknown members are ignored and most members are optional, so client and server may have different
releases.
"""

from datetime import datetime
from typing import Any

import msgspec

#: Final states of a task.
_ENDS = frozenset({"succeeded", "failed", "canceled", "expired"})


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """An output file of a task; its URL is signed and expires."""

    url: str
    #: Such as `image/png`.
    content_type: str = ""
    bytes: int = 0
    #: Size of a picture, in px.
    width: int | None = None
    height: int | None = None
    thumbnail_url: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task failed."""

    #: Stable code, such as `worker_lost`.
    code: str = ""
    title: str = ""
    detail: str = ""


class Eta(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from now: 10 % of tasks end by `low`, 50 % by `median`, 90 % by `high`."""

    low: float = 0.0
    median: float = 0.0
    high: float = 0.0


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A field that the server changed in order to accept a task."""

    #: JSON pointer into the request, such as `/input/steps`.
    field: str
    #: Requested value.
    before: Any = msgspec.field(name="from", default=None)
    #: Value that the server uses instead.
    after: Any = msgspec.field(name="to", default=None)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why an estimate says that the server would refuse a task."""

    #: Stable code, such as `would_expire`.
    code: str = ""
    #: HTTP status that `submit` would get.
    status: int = 0
    title: str = ""
    detail: str = ""
    #: Seconds until a new request may succeed; None if unknown.
    retry_after_s: float | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Expected start, end and cost of a task that is submitted now."""

    #: Whether the server would accept the task.
    is_accepted: bool
    #: The reason if it would not.
    refusal: Refusal | None = None
    #: Model that would run it, after `degrade`.
    model: str = ""
    version: str = ""
    #: Input after `degrade`.
    input: Any = None
    priority: int | None = None
    #: Fields that the server would change.
    degraded: list[Change] = []
    #: Position in the queue; 1 is next.
    position: int | None = None
    #: Time until the task starts and ends; None before the first measurement.
    start_s: Eta | None = None
    finish_s: Eta | None = None
    #: Expected cost in millionths of a dollar; None if unknown.
    cost_micros: int | None = None
    #: Live workers that have the model.
    workers: int | None = None


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a task that runs a pipeline."""

    name: str
    #: `owner/name`.
    model: str = ""
    version: str = ""
    #: `succeeded`, `skipped`, `waiting`, `not_reached`, or the state of the task.
    state: str = ""
    #: Output of the stage, with URLs in place of files.
    output: Any = None
    artifacts: list[Artifact] = []
    #: Number of the task's attempts that this stage has used.
    attempts: int = 0
    #: Id of the worker that ran it.
    worker: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Seconds by phase, as in `Task.timings`; None until the stage ends.
    timings: dict[str, Any] | None = None
    #: In millionths of a dollar; None until the stage ends, and if its pool has no price.
    cost_micros: int | None = None
    seed: int | None = None


class TaskWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A warning of the model about a task that succeeded, such as an unknown word in the prompt."""

    #: Stable code, such as `unknown_subject`.
    code: str = ""
    #: One or two sentences for the user.
    message: str = ""
    #: Prompts that work better; often empty.
    suggestions: list[str] = []


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task, as it was when the server sent it."""

    id: str
    #: `owner/name`.
    model: str
    #: `queued`, `running`, `succeeded`, `failed`, `canceled` or `expired`.
    state: str
    version: str = ""
    input: Any = None
    #: Output by the model's schema, with URLs in place of files.
    output: Any = None
    artifacts: list[Artifact] = []
    #: Warnings of the model; for a pipeline, those of all its stages.
    warnings: list[TaskWarning] = []
    error: Problem | None = None
    attempt: int = 0
    max_attempts: int = 0
    #: Position in the queue; 1 is next. None unless the task is queued.
    position: int | None = None
    eta_s: Eta | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: Seconds by phase: `queue_s`, `load_s`, `run_s`, `encode_s`, `upload_s`.
    timings: dict[str, Any] | None = None
    #: In millionths of a dollar.
    cost_micros: int | None = None
    seed: int | None = None
    user: str | None = None
    metadata: Any = None
    #: Fields that the server changed, within `degrade`, in order to accept the task.
    degraded: list[Change] = []
    #: Stages of a pipeline in order; empty for other tasks.
    stages: list[Stage] = []

    @property
    def has_ended(self) -> bool:
        """Whether the task is in a final state."""
        return self.state in _ENDS

    @property
    def has_succeeded(self) -> bool:
        """Whether the task ended with an output."""
        return self.state == "succeeded"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a task; docs/use-the-api.md lists the kinds and their data."""

    #: Increases within a task; a stream can resume after it.
    id: int
    #: Such as `progress`, `preview`, `artifact` or `succeeded`.
    kind: str
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.kind in _ENDS


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model that the server offers."""

    #: `owner/name`.
    name: str
    version: str
    description: str = ""
    stage: str = ""
    #: JSON Schema (2020-12).
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    examples: list[dict[str, Any]] = []
