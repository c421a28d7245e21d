"""What the task store (`swell.db.task_store`) takes and returns."""

from datetime import datetime
from enum import StrEnum

import msgspec

from swell.core.like import Viewer
from swell.core.task import Task, TaskState

#: Seconds for which an idempotency key finds the same task.
IDEMPOTENCY_TTL_S = 24 * 3600.0


class Accepted(msgspec.Struct, frozen=True):
    """A task that is durable. `is_new` is false where an idempotency key found an earlier one."""

    task: Task
    is_new: bool


class Ended(list[Task | None]):
    """Results of calls that end tasks; None if the caller may not end that task."""

    #: The places of tasks that had ended before in the same way, and have not changed now.
    again: frozenset[int] = frozenset()


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A request to start a queued task by its ID, from an external queue service."""

    task_id: str
    #: The queue that the ID was published to: a late message must not start another stage.
    queue: str
    worker_id: str
    version: str
    token: str
    lease_s: float


class Onward(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that settles stages of pipelines and can run the next ones."""

    worker_id: str
    #: Queue → version of the model, for all queues that it serves.
    versions: dict[str, str]
    #: How many it has room for.
    n: int
    lease_s: float


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as its holder names it."""

    task_id: str
    attempt: int
    token: str


class HoldState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a lease is still held, and whether its holder should stop."""

    is_held: bool
    cancel_requested: bool = False


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list; None means any."""

    state: TaskState | None = None
    model: str | None = None
    user: str | None = None
    key_id: str | None = None
    dead: bool | None = None
    #: Only tasks with a file that this viewer likes.
    liked_by: Viewer | None = None
    #: Only tasks with, for each of these, a word in the input that begins with it (a single letter
    #: must be the whole word), from `swell.core.search_words.words_of`. `Store.keep_words` must
    #: have indexed the task.
    words: tuple[str, ...] = ()
    #: Created at this moment or later, and before that one; to the millisecond.
    since: datetime | None = None
    until: datetime | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` asks for the next page and is None at the end."""

    tasks: tuple[Task, ...]
    cursor: str | None


class Part(StrEnum):
    """A part of an ended task that can be removed."""

    #: Input, metadata, and files that only this task used.
    INPUTS = "inputs"
    #: Output, artifacts and their files.
    OUTPUTS = "outputs"
    #: The whole row.
    TASK = "task"


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """Which ended tasks lose a part."""

    part: Part
    #: Those that ended at this moment or before.
    before: datetime
    #: Of these models only; None for any.
    models: tuple[str, ...] | None = None
    #: But not of these.
    except_models: tuple[str, ...] = ()
