"""What a server tells a client.

Members that a newer server adds are ignored, and most may be missing, so that client and server
need not have the same release.
"""

from datetime import datetime
from typing import Any

import msgspec

__all__ = ["Artifact", "Eta", "Event", "Model", "Problem", "Task"]

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

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in _ENDS

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended with an output."""
        return self.state == "succeeded"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a task; docs/events.md lists the kinds and their data."""

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
