"""The task, and every change of its state.

`transition()` is the only function that changes a state; the functions below it (`start`, `settle`,
`cancel`, …) decide what else changes with it. All are pure.
docs/guarantees.md draws this file as one diagram.
"""

import secrets
import zlib
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from swell.core.errors import Conflict
from swell.core.pipeline_stages import (
    Done,
    Run,
    Sight,
    begin_again,
    holds,
    next_stage,
    output_of,
    reason_of,
    total,
)
from swell.core.results import MOST_WARNINGS, TaskWarning
from swell.core.results import Artifact as Artifact
from swell.core.results import TaskError as TaskError
from swell.core.results import Timings as Timings
from swell.core.retry import RetryPolicy
from swell.core.webhook import Webhook

#: Widths of thumbnails, in px.
THUMBNAIL_WIDTHS: Final = (128, 256, 512, 2048)

#: The widest thumbnail, which share links show.
SHOWN_LARGE_PX: Final = THUMBNAIL_WIDTHS[-1]


class TaskState(StrEnum):
    """State of a task."""

    #: Waits for a worker, or for its next attempt.
    QUEUED = "queued"
    #: A worker holds its lease.
    RUNNING = "running"
    #: Ended with an output.
    SUCCEEDED = "succeeded"
    #: Ended with an error.
    FAILED = "failed"
    #: Ended by a request to cancel it.
    CANCELED = "canceled"
    #: Ended because its deadline passed.
    EXPIRED = "expired"

    # Equal to its value, and quicker than the hash of an enumeration.
    __hash__ = str.__hash__

    #: Whether the task has ended; nothing leaves a terminal state.
    is_terminal: bool

    def __init__(self, value: str) -> None:
        self.is_terminal = value not in ("queued", "running")


#: State → the states that may follow.
TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    **dict.fromkeys(TaskState, frozenset()),
    TaskState.QUEUED: frozenset({TaskState.RUNNING, TaskState.CANCELED, TaskState.EXPIRED}),
    TaskState.RUNNING: frozenset(TaskState) - {TaskState.RUNNING},
}

_NO_TIME: Final = Timings()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task.

    JSON of the user or the model (`input`, `output`, `metadata`) is kept as the bytes received, and
    is not parsed.
    """

    id: str
    #: `owner/name`.
    model: str
    #: `owner/name`, or `owner/name:version` if the caller asked for a version.
    queue: str
    #: The version that runs or ran it; empty until a worker starts it.
    version: str = ""
    state: TaskState = TaskState.QUEUED
    input: msgspec.Raw = msgspec.Raw(b"{}")
    #: How many samples (pictures) to make.
    count: int = 1
    #: From the input or the request; otherwise derived from the ID, so that all attempts use the
    #: same one.
    seed: int
    #: 0 is first.
    priority: int = 1
    #: The API key of the request.
    key_id: str = ""
    #: The user of that key; the users of a key take turns.
    user: str | None = None
    metadata: msgspec.Raw | None = None
    created_at: datetime
    #: It expires unless it starts by then.
    start_by_at: datetime | None = None
    #: It expires unless it ends by then.
    finish_by_at: datetime | None = None
    #: It must not start before then (backoff); None means at once.
    available_at: datetime | None = None
    #: Start tag of fair queueing.
    tag: float = 0.0
    #: How many attempts were started; also the fencing token of its lease.
    attempt: int = 0
    #: How many of these attempts were released unharmed and do not count.
    handed_back: int = 0
    max_attempts: int = 3
    worker_id: str | None = None
    lease_token: str | None = None
    lease_expires_at: datetime | None = None
    cancel_requested: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    output: msgspec.Raw | None = None
    artifacts: tuple[Artifact, ...] = ()
    #: Of the attempt that succeeded; those of a pipeline's stages are in `run`.
    warnings: tuple[TaskWarning, ...] = ()
    error: TaskError | None = None
    timings: Timings | None = None
    #: Failed after its last attempt, and is in the dead-letter queue.
    dead: bool = False
    #: The task that this one repeats.
    retry_of: str | None = None
    #: Key of the checkpoint that a released attempt left in the object store. It stays after the
    #: task has ended and the object is deleted.
    checkpoint: str | None = None
    #: W3C Trace Context of its trace; None without tracing.
    traceparent: str | None = None
    #: Receiver of its events, if any.
    webhook: Webhook | None = None
    #: Whether the input, `metadata` and the detail of the error were removed.
    inputs_removed: bool = False
    #: Whether output and artifacts were removed.
    outputs_removed: bool = False
    #: Progress of a pipeline; None for a model that a worker runs. `queue`, `tag`, `version` and
    #: the attempts that are left are those of the current stage.
    run: Run | None = None

    @property
    def stage_model(self) -> str:
        """The model that runs it now: its own, or that of the current stage."""
        return self.model if self.run is None else self.queue.partition(":")[0]

    @property
    def model_version(self) -> str:
        """The version of `model` that runs or ran it; the version of a pipeline is fixed."""
        return self.version if self.run is None else self.run.version

    @property
    def tries(self) -> int:
        """How many attempts count; of a pipeline, those of the current stage."""
        before = 0 if self.run is None else self.run.spent
        return self.attempt - self.handed_back - before

    @property
    def attempts_left(self) -> int:
        """How many more attempts are allowed."""
        return self.max_attempts - self.tries

    @property
    def is_ready(self) -> bool:
        """Whether a worker could lease it."""
        return self.state is TaskState.QUEUED and self.available_at is None

    @property
    def has_begun(self) -> bool:
        """Whether a stage of a pipeline has ended; `start_by_at` does not matter any more."""
        return self.run is not None and bool(self.run.done)

    def is_held_by(self, attempt: int, token: str) -> bool:
        """Whether (attempt, token) is the current lease."""
        return (
            self.state is TaskState.RUNNING
            and self.attempt == attempt
            and self.lease_token == token
        )


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A request, checked against the model's schema."""

    model: str
    queue: str
    input: msgspec.Raw
    count: int = 1
    seed: int | None = None
    priority: int = 1
    key_id: str = ""
    user: str | None = None
    metadata: msgspec.Raw | None = None
    start_by_s: float | None = None
    finish_by_s: float | None = None
    max_attempts: int = 3
    idempotency_key: str | None = None
    #: Hash of the request: distinguishes a repeated request from another one with the same key.
    fingerprint: bytes = b""
    retry_of: str | None = None
    #: As of `Task`.
    traceparent: str | None = None
    webhook: Webhook | None = None
    #: Keys of files that the input names by URLs of this service, or of stages of a repeated run.
    files: tuple[str, ...] = ()
    #: The ID of the task, from `new_id`, if it is already in use; None for a new one.
    id: str | None = None
    #: As of `Task`.
    run: Run | None = None

    @property
    def stage_model(self) -> str:
        """The model that would run it first."""
        return self.model if self.run is None else self.queue.partition(":")[0]


#: Fields that a task has from its request, and a repeated task from the one that it repeats.
_COPIED: Final = ("model", "input", "count", "priority", "key_id", "user", "metadata", "webhook")
_copied: Final = attrgetter(*_COPIED)


class Succeeded(msgspec.Struct, frozen=True, kw_only=True, tag="succeeded"):
    """The model returned a result."""

    output: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    artifacts: tuple[Artifact, ...] = ()
    warnings: Annotated[tuple[TaskWarning, ...], Meta(max_length=MOST_WARNINGS)] = ()
    timings: Timings = Timings()
    seed: int | None = None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The attempt failed; `retryable` says whether another may help."""

    error: TaskError
    retryable: bool = True
    timings: Timings = Timings()
    #: As in `Released`, if the attempt got further than the one before.
    checkpoint: str | None = None


class Canceled(msgspec.Struct, frozen=True, kw_only=True, tag="canceled"):
    """The worker stopped on request."""

    timings: Timings = Timings()


class Released(msgspec.Struct, frozen=True, kw_only=True, tag="released"):
    """The worker gives the lease back; the attempt does not count."""

    reason: str = "drain"
    #: `checkpoint_key` of this attempt, if it stored a checkpoint.
    checkpoint: str | None = None
    timings: Timings = Timings()


Outcome = Succeeded | Failed | Canceled | Released


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt ended, from the holder of its lease."""

    task_id: str
    attempt: int
    token: str
    outcome: Outcome


def new_id(now: datetime) -> str:
    """Return a new task id: 32 hexadecimal digits that sort by time of creation.

    48 bits of Unix milliseconds, then 80 random bits: what UUIDv7 does, without its fixed bits.
    """
    return f"{int(now.timestamp() * 1000):012x}{secrets.randbits(80):020x}"


def id_before(moment: datetime) -> str:
    """Return a lower bound of the IDs of all tasks created from this moment on."""
    return f"{int(moment.timestamp() * 1000):012x}"


def span_of_ids(since: datetime | None, until: datetime | None) -> tuple[str, str]:
    """Return the bounds of the IDs of all tasks created in an interval.

    Args:
        since: From this moment on, to the millisecond; None for any.
        until: Before this one; None for any.
    """
    after = "" if since is None else id_before(since)
    # Ids are made of 0-9 and a-f.
    return after, "~" if until is None else id_before(until)


def new_token() -> str:
    """Return a new lease token: 16 hexadecimal digits."""
    return f"{secrets.randbits(64):016x}"


def is_id(text: str) -> bool:
    """Whether this has the form of a task id."""
    return len(text) == 32 and not text.strip("0123456789abcdef")


def created_at_of(task_id: str) -> datetime:
    """Return the time in a task ID, to the millisecond."""
    # Integers: floats of seconds are off by a microsecond in some centuries.
    return _EPOCH + timedelta(milliseconds=int(task_id[:12], 16))


def checkpoint_key(task_id: str, attempt: int) -> str:
    """Return the only key under which an attempt may store a checkpoint."""
    return f"checkpoints/{task_id}-{attempt}.bin"


def thumbnail_key(key: str, width: int) -> str:
    """Return the key of a thumbnail of an artifact."""
    return f"thumbnails/{key}/{width}.webp"


def objects_of(task: Task) -> list[str]:
    """Return the keys of artifacts that belong to a task, those of its stages included."""
    home = f"outputs/{task.id}/"
    keys = [each.key for each in task.artifacts if each.key.startswith(home)]
    if task.run is None:
        return keys
    left = [each.key for done in task.run.done for each in done.artifacts]
    return list(dict.fromkeys(keys + [key for key in left if key.startswith(home)]))


def remains_of(task: Task) -> list[str]:
    """Return keys of other objects to delete with the outputs of an ended task.

    These are thumbnails, and folders (with a slash at their end) of attempts that did not succeed,
    since their objects are not listed anywhere.
    """
    own = set(objects_of(task))
    attempts = set(range(1, task.attempt + (task.state is not TaskState.SUCCEEDED)))
    files = {each.key: each for each in task.artifacts}
    if task.run is not None:
        # A task that repeats this one may use objects of stages, so these are listed one by one.
        attempts.difference_update(each.attempt for each in task.run.done)
        files |= {each.key: each for done in task.run.done for each in done.artifacts}
    return [f"outputs/{task.id}/{attempt}/" for attempt in sorted(attempts)] + [
        thumbnail_key(each.key, width)
        for each in files.values()
        if each.key in own and each.content_type.startswith("image/")
        for width in THUMBNAIL_WIDTHS
    ]


def without(task: Task, *, inputs: bool = False, outputs: bool = False) -> Task:
    """Return an ended task without its inputs, or without its outputs.

    Raises:
        Conflict: It has not ended.
    """
    if not task.state.is_terminal:
        raise Conflict(
            f"task {task.id} is {task.state}; only of an ended task data can be removed: "
            f"POST /v1/tasks/{task.id}/cancel first"
        )
    changes: dict[str, Any] = {}
    if inputs:
        # The detail of an error may quote the input.
        error = task.error and msgspec.structs.replace(task.error, detail="")
        gone = msgspec.Raw(b"{}")
        changes |= {"inputs_removed": True, "input": gone, "metadata": None, "error": error}
    if outputs:
        changes |= {"outputs_removed": True, "output": None, "artifacts": ()}
    if inputs or outputs:
        # They may quote either.
        changes["warnings"] = ()
    if task.run is not None and (inputs or outputs):
        changes["run"] = _bare(task.run, outputs=outputs)
    return msgspec.structs.replace(task, **changes)


def _bare(run: Run, *, outputs: bool) -> Run:
    """Return a run without the outputs of its stages, which may quote the input."""
    gone: dict[str, Any] = {"output": msgspec.Raw(b"null"), "warnings": ()}
    if outputs:
        gone["artifacts"] = ()
    done = tuple(msgspec.structs.replace(each, **gone) for each in run.done)
    return msgspec.structs.replace(run, done=done)


def warnings_of(task: Task) -> tuple[TaskWarning, ...]:
    """Return the warnings of a task, or of those stages that may show their output."""
    run = task.run
    if run is None:
        return task.warnings
    has_succeeded = task.state is TaskState.SUCCEEDED
    shown = (each for each in run.done if has_succeeded or not run.is_withheld(each))
    return tuple(dict.fromkeys(warning for each in shown for warning in each.warnings))


def transition(task: Task, to: TaskState, **changes: Any) -> Task:
    """Return the task in another state.

    Raises:
        Conflict: There is no such transition.
    """
    if to not in TRANSITIONS[task.state]:
        raise Conflict(f"task {task.id} is {task.state} and cannot become {to}")
    return msgspec.structs.replace(task, state=to, **changes)


def seed_of(task_id: str) -> int:
    """Return the seed of a request without one: 0 to 2^31 - 1, as all frameworks allow."""
    return zlib.crc32(task_id.encode()) >> 1


def accept(new: NewTask, *, task_id: str, now: datetime) -> Task:
    """Return the queued task of a request."""
    start_by_s, finish_by_s = new.start_by_s, new.finish_by_s
    return Task(
        id=task_id,
        seed=seed_of(task_id) if new.seed is None else new.seed,
        created_at=now,
        start_by_at=None if start_by_s is None else now + timedelta(seconds=start_by_s),
        finish_by_at=None if finish_by_s is None else now + timedelta(seconds=finish_by_s),
        retry_of=new.retry_of,
        traceparent=new.traceparent,
        run=None if new.run is None else msgspec.structs.replace(new.run, queued_at=now),
        queue=new.queue,
        max_attempts=new.max_attempts,
        **dict(zip(_COPIED, _copied(new), strict=True)),
    )


def start(
    task: Task, *, worker_id: str, version: str, now: datetime, lease_s: float, token: str = ""
) -> Task:
    """Give a queued task to a worker for `lease_s` seconds, with a new token if none is given."""
    return transition(
        task,
        TaskState.RUNNING,
        version=version,
        attempt=task.attempt + 1,
        worker_id=worker_id,
        lease_token=token or f"{secrets.randbits(64):016x}",
        lease_expires_at=now + timedelta(seconds=lease_s),
        available_at=None,
        started_at=now,
        cancel_requested=False,
    )


def settle(task: Task, outcome: Outcome, *, now: datetime, retry_delay_s: float) -> Task:
    """Return the task after its running attempt has ended.

    A retryable failure sends the task back to the queue while attempts are left; a release always
    does. A requested cancellation wins over both, but not over a success. When a stage of a
    pipeline succeeds, the task moves to the queue of the next stage.
    """
    match outcome:
        case Succeeded() if task.run is not None:
            return _pass_stage(task, task.run, outcome, now)
        case Succeeded():
            return _end(
                task,
                TaskState.SUCCEEDED,
                now,
                timings=outcome.timings,
                output=outcome.output,
                artifacts=outcome.artifacts,
                warnings=outcome.warnings,
                seed=task.seed if outcome.seed is None else outcome.seed,
            )
        case Canceled():
            return _end(task, TaskState.CANCELED, now, timings=outcome.timings)
        case _ if task.cancel_requested:
            left = _left_by(task, outcome) or task.checkpoint
            return _end(task, TaskState.CANCELED, now, checkpoint=left)
        case Released():
            return transition(
                task,
                TaskState.QUEUED,
                handed_back=task.handed_back + 1,
                lease_expires_at=None,
                available_at=None,
                checkpoint=_left_by(task, outcome) or task.checkpoint,
            )
        case Failed():
            return _failed(task, outcome, now, retry_delay_s)


def _pass_stage(task: Task, run: Run, outcome: Succeeded, now: datetime) -> Task:
    """Return a pipeline after a stage succeeded: in the next stage, or ended."""
    stage = run.stage
    done = Done(
        name=stage.name,
        model=stage.model,
        version=task.version,
        worker_id=task.worker_id,
        attempt=task.attempt,
        token=task.lease_token or "",
        tries=task.tries,
        output=outcome.output,
        artifacts=outcome.artifacts,
        warnings=outcome.warnings,
        seed=outcome.seed,
        timings=_with_queue_time(task, outcome.timings),
        started_at=task.started_at,
        finished_at=now,
    )
    passed = msgspec.structs.replace(run, done=(*run.done, done))
    sight = Sight(run.pipeline, task.input, passed.done)
    if stage.reject and holds(stage.reject, sight):
        error = TaskError(
            code="rejected",
            title=f"The stage {stage.name} rejected its input",
            detail=reason_of(stage, sight),
        )
        return _end(task, TaskState.FAILED, now, error=error, run=passed)
    place = next_stage(run.pipeline, run.at + 1, sight)
    if place is None:
        output, artifacts = output_of(passed, sight)
        return _end(task, TaskState.SUCCEEDED, now, run=passed, output=output, artifacts=artifacts)
    if task.cancel_requested:
        return _end(task, TaskState.CANCELED, now, run=passed)
    return transition(
        task,
        TaskState.QUEUED,
        queue=run.pipeline.stages[place].queue,
        version="",
        tag=run.tags[place] if place < len(run.tags) else task.tag,
        lease_expires_at=None,
        available_at=None,
        error=None,
        checkpoint=None,
        run=msgspec.structs.replace(
            passed, at=place, spent=task.attempt - task.handed_back, queued_at=now
        ),
    )


def size_bytes(task: Task) -> int:
    """Return the size of a task that has not ended: its input, and the outputs of its stages."""
    size = memoryview(task.input).nbytes
    if task.run is None:
        return size
    return size + sum(memoryview(done.output).nbytes for done in task.run.done)


def has_gone_on(task: Task) -> bool:
    """Whether the last change of a task was that a stage ended and the next one began."""
    run = task.run
    if run is None or not run.last_attempt or task.state.is_terminal:
        return False
    started = task.state is TaskState.RUNNING
    return run.last_attempt == task.attempt - started


def lose(task: Task, *, now: datetime, retry_delay_s: float) -> Task:
    """Return a running task after its lease has expired.

    The attempt counts, so that a task that kills its workers ends in the dead-letter queue.
    """
    lost = Failed(
        error=TaskError(
            code="worker_lost",
            title="The worker was lost",
            detail=f"attempt {task.attempt}: the lease expired without a heartbeat",
        )
    )
    taken_back = settle(task, lost, now=now, retry_delay_s=retry_delay_s)
    # Without the token the lost worker cannot claim to have settled it. The checkpoint of an
    # earlier attempt is kept, since it did not cause the loss.
    return msgspec.structs.replace(taken_back, lease_token=None, checkpoint=task.checkpoint)


def cancel(task: Task, *, now: datetime) -> Task:
    """Cancel a queued task, or mark a running one; an ended task stays as it is."""
    if task.state is TaskState.QUEUED:
        return _end(task, TaskState.CANCELED, now)
    if task.state is TaskState.RUNNING:
        return msgspec.structs.replace(task, cancel_requested=True)
    return task


def expire(task: Task, *, now: datetime) -> Task:
    """End a task after its deadline."""
    deadline = "finish_by" if _is_past(task.finish_by_at, now) else "start_by"
    error = TaskError(
        code="expired",
        title="The deadline passed",
        detail=f"the task was {task.state} when its {deadline} deadline passed",
    )
    return _end(task, TaskState.EXPIRED, now, error=error, lease_token=None)


def was_settled_by(task: Task, attempt: int, token: str) -> bool:
    """Whether this attempt was settled before; the answer may have been lost."""
    if task.run is not None:
        done = task.run.done_by(attempt)
        if done is not None and done.token == token:
            return True
    return (
        task.state is not TaskState.RUNNING
        and task.attempt == attempt
        and task.lease_token == token
    )


def discarded(before: Task, after: Task) -> list[str]:
    """Return the keys of objects that are not needed after a change of a task."""
    if before.state.is_terminal:
        return []
    keys = {before.checkpoint, after.checkpoint}
    kept = None if after.state.is_terminal else after.checkpoint
    return sorted(key for key in keys if key is not None and key != kept)


def check_repeat(task: Task, *, only_dead: bool, was_repeated: bool) -> None:
    """Check that a task may be repeated.

    Raises:
        Conflict: It has not ended, or its input was removed; or `only_dead`, and it is no dead
            letter. A dead letter that was repeated before may be repeated again.
    """
    if not task.state.is_terminal:
        raise Conflict(f"task {task.id} is {task.state}; only an ended task can be repeated")
    if task.inputs_removed:
        raise Conflict(f"the input of task {task.id} was removed, so it cannot be repeated")
    if only_dead and not (task.dead or (was_repeated and task.state is TaskState.FAILED)):
        raise Conflict(
            f"task {task.id} is {task.state} and not in the dead-letter queue, so "
            "there is nothing to replay; to run it again, POST "
            f"/v1/tasks/{task.id}/retry"
        )


def again(task: Task) -> NewTask:
    """Return the request that repeats a task, without its deadlines, which have passed.

    A pipeline continues at the stage where it ended. It starts from the beginning if it succeeded
    or its outputs were removed.
    """
    run, queue = task.run, task.queue
    if run is not None:
        is_whole = task.state is TaskState.SUCCEEDED or task.outputs_removed
        run = begin_again(run, task.input, is_whole=is_whole)
        queue = run.stage.queue
    return NewTask(
        queue=queue,
        run=run,
        files=files_of(run),
        seed=task.seed,
        max_attempts=task.max_attempts,
        retry_of=task.id,
        **dict(zip(_COPIED, _copied(task), strict=True)),
    )


def files_of(run: Run | None) -> tuple[str, ...]:
    """Return the keys of the artifacts of a run's stages."""
    if run is None:
        return ()
    return tuple(dict.fromkeys(each.key for done in run.done for each in done.artifacts))


def is_expired(task: Task, now: datetime) -> bool:
    """Whether a deadline of a task that has not ended has passed."""
    if task.finish_by_at is not None and task.finish_by_at <= now:
        return not task.state.is_terminal
    return (
        task.start_by_at is not None
        and task.start_by_at <= now
        and task.state is TaskState.QUEUED
        and not task.has_begun
    )


def next_wake_at(task: Task) -> datetime | None:
    """Return when the sweeper must check this task, or None for never."""
    if task.state is TaskState.RUNNING:
        if task.finish_by_at is None:
            return task.lease_expires_at
        return _earliest(task.lease_expires_at, task.finish_by_at)
    if task.state is TaskState.QUEUED:
        start_by_at = None if task.has_begun else task.start_by_at
        return _earliest(task.available_at, start_by_at, task.finish_by_at)
    return None


def sweep(task: Task, *, now: datetime, retry_delay_s: float) -> Task:
    """Return a task after its `next_wake_at`: expired, lost, ready, or as it was."""
    if is_expired(task, now):
        return expire(task, now=now)
    if task.state is TaskState.RUNNING and _is_past(task.lease_expires_at, now):
        return lose(task, now=now, retry_delay_s=retry_delay_s)
    if task.state is TaskState.QUEUED and _is_past(task.available_at, now):
        # Its backoff has ended.
        return msgspec.structs.replace(task, available_at=None)
    return task


def cap_wait(task: Task, *, now: datetime, lease_s: float, backoff_s: float) -> Task:
    """Shorten a lease or backoff that ends later than one that begins now.

    That happens only if a clock was set back. Up to twice the length is allowed, since the clocks
    of backends differ a little.
    """
    if task.state is TaskState.RUNNING and _is_too_late(task.lease_expires_at, now, lease_s):
        return msgspec.structs.replace(task, lease_expires_at=now + timedelta(seconds=lease_s))
    if task.state is TaskState.QUEUED and _is_too_late(task.available_at, now, backoff_s):
        return msgspec.structs.replace(task, available_at=now + timedelta(seconds=backoff_s))
    return task


def _is_too_late(moment: datetime | None, now: datetime, longest_s: float) -> bool:
    return moment is not None and moment > now + timedelta(seconds=2 * longest_s)


def _failed(task: Task, outcome: Failed, now: datetime, retry_delay_s: float) -> Task:
    left = _left_by(task, outcome)
    if outcome.retryable and task.attempts_left > 0:
        return transition(
            task,
            TaskState.QUEUED,
            lease_expires_at=None,
            available_at=now + timedelta(seconds=retry_delay_s),
            error=outcome.error,
            # Its earlier checkpoint is not used again: it may have caused the failure.
            checkpoint=left,
        )
    return _end(
        task,
        TaskState.FAILED,
        now,
        timings=outcome.timings,
        error=outcome.error,
        dead=outcome.retryable,
        checkpoint=left or task.checkpoint,
    )


def _end(
    task: Task, state: TaskState, now: datetime, *, timings: Timings = _NO_TIME, **changes: Any
) -> Task:
    run = changes.get("run", task.run)
    # An error of an earlier attempt is not the result.
    ending: dict[str, Any] = {"error": None} | changes
    return transition(
        task,
        state,
        finished_at=now,
        lease_expires_at=None,
        available_at=None,
        timings=_with_queue_time(task, timings) if run is None else _in_all(task, timings, run),
        **ending,
    )


def _left_by(task: Task, outcome: Outcome) -> str | None:
    """Return the key of the checkpoint of this attempt, if it names its own key."""
    own = checkpoint_key(task.id, task.attempt)
    is_own = isinstance(outcome, Released | Failed) and outcome.checkpoint == own
    return own if is_own else None


def _with_queue_time(task: Task, timings: Timings) -> Timings:
    if task.started_at is None:
        return timings
    since = task.created_at
    if task.run is not None and task.run.queued_at is not None:
        since = task.run.queued_at
    waited_s = (task.started_at - since).total_seconds()
    return msgspec.structs.replace(timings, queue_s=max(0.0, waited_s))


def _in_all(task: Task, timings: Timings, run: Run) -> Timings:
    """Return the times of a pipeline that ends: those of all stages."""
    # Stages of a repeated task are counted there.
    parts = [done.timings for done in run.done if done.attempt]
    if run.done_by(task.attempt) is None:
        parts.append(_with_queue_time(task, timings))
    return total(parts)


def _is_past(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment <= now


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((moment for moment in moments if moment is not None), default=None)


def retry_delay_s(task: Task, policy: RetryPolicy, rng: Any) -> float:
    """Return the backoff after the current attempt, in seconds."""
    return policy.delay_s(max(1, task.tries), rng)
