"""Tasks as predictions. Pure.

queued                         starting
running                        processing
succeeded, failed, canceled    the same
expired                        canceled: clients know no word for it
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from swell.compat.replicate.replicate_facade import HOME
from swell.compat.result_files import file_url
from swell.core.clock import Moment
from swell.core.outbox import Delivery
from swell.core.rollouts.rollout_state import asked_version
from swell.core.task import Task, TaskState, seed_of
from swell.server.serializers import UrlMaker, project, resolve_files

#: The only words that clients know.
Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]

STATUSES: Final[Mapping[TaskState, Status]] = {
    TaskState.QUEUED: "starting",
    TaskState.RUNNING: "processing",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.CANCELED: "canceled",
    TaskState.EXPIRED: "canceled",
}

#: The name of the format of its webhooks.
FORMAT: Final = "replicate"

#: Replaces a version that is unknown by now.
HIDDEN_VERSION: Final = "hidden"

#: Characters of a full progress bar.
_BAR: Final = 10


class ReplicateUrls(msgspec.Struct, frozen=True, kw_only=True):
    """URLs of a prediction."""

    get: str
    cancel: str
    stream: str
    web: str


class ReplicatePrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a prediction."""

    id: str
    model: str
    version: str
    status: Status
    input: Any
    output: Any
    logs: str
    error: str | None
    metrics: dict[str, float]
    data_removed: bool
    source: str
    created_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    deadline: Moment | None
    deployment: str | None
    urls: ReplicateUrls


def error_of(task: Task) -> str | None:
    """Return the error of a prediction in words; None without one."""
    return None if task.error is None else task.error.detail or task.error.title


def progress_line(progress: Mapping[str, Any]) -> str | None:
    """Return progress as a line of a log. Clients read a progress bar from it.

    Source:
        The pattern of `Prediction.Progress` in replicate-python and of `parseProgressFromLogs` in
        replicate-javascript: what tqdm writes.
    """
    step, steps, fraction = (progress.get(name) for name in ("step", "steps", "fraction"))
    if type(step) is not int or type(steps) is not int or steps < 1:
        if not isinstance(fraction, int | float):
            return None
        step, steps = round(100 * fraction), 100
    step = min(max(step, 0), steps)
    full = _BAR * step // steps
    return f"{100 * step // steps:3d}%|{'#' * full}{' ' * (_BAR - full)}| {step}/{steps}"


def logs_of(task: Task, progress: Sequence[Mapping[str, Any]]) -> str:
    """Return the progress of a task as a log. Args: as `prediction`."""
    lines = [line for each in progress if (line := progress_line(each)) is not None]
    if task.state is TaskState.SUCCEEDED and not (lines and lines[-1].startswith("100%")):
        lines.append(f"100%|{'#' * _BAR}| {task.count}/{task.count}")
    return "".join(f"{line}\n" for line in lines)


def output_of(task: Task, files: Sequence[str]) -> Any:
    """Return the output of a prediction; while it runs, the files that exist; None for nothing.

    Args:
        task: The task.
        files: URL of each of its files.
    """
    if task.output is None:
        return list(files) or None
    return msgspec.json.decode(resolve_files(task.output, files))


def prediction(
    task: Task,
    urls: UrlMaker,
    *,
    version: str = HIDDEN_VERSION,
    progress: Sequence[Mapping[str, Any]] = (),
    files: Sequence[str] | None = None,
) -> ReplicatePrediction:
    """Return a task as a prediction.

    Args:
        task: The task.
        urls: Makes URLs for the reader.
        version: The version that would run it now.
        progress: Reports of its worker that reached this process, oldest first.
        files: URL of each of its files; None to make them.
    """
    if files is None:
        files = [file_url(urls, each.key, each.bytes) for each in task.artifacts]
    home = f"{urls.base}{HOME}/predictions/{task.id}"
    # Signed, since replicate-javascript sends no key along.
    _, _, signature = urls.objects.sign("GET", stream_key(task.id), urls.expires_s).partition("?")
    return project(
        ReplicatePrediction,
        task,
        version=task.model_version or asked_version(task.queue) or version,
        status=STATUSES[task.state],
        input=_input(task),
        output=output_of(task, files),
        logs=logs_of(task, progress),
        error=error_of(task),
        metrics=_metrics(task),
        data_removed=task.inputs_removed or task.outputs_removed,
        source="api",
        completed_at=task.finished_at,
        deadline=task.finish_by_at,
        deployment=_deployment(task),
        urls=ReplicateUrls(
            get=home,
            cancel=f"{home}/cancel",
            stream=f"{home}/stream?{signature}",
            web=f"{urls.base}/#/tasks/{task.id}",
        ),
    )


def hook_body(delivery: Delivery, task: Task, urls: UrlMaker) -> ReplicatePrediction:
    """Return the body of a delivery: the prediction as it was then."""
    progress = []
    if delivery.event == "progress" and delivery.data is not None:
        progress = [msgspec.json.decode(delivery.data)]
    return prediction(task, urls, progress=progress)


def stream_key(task_id: str) -> str:
    """Return the key that the URL of a prediction's stream is signed for; no file has it."""
    return f"streams/{task_id}"


def _input(task: Task) -> Any:
    """Return the input with the seed and count that were taken out of it, or a drawn seed."""
    given = msgspec.json.decode(task.input)
    if not isinstance(given, dict):
        return given
    if task.state is TaskState.SUCCEEDED or task.seed != seed_of(task.id):
        given.setdefault("seed", task.seed)
    if task.count > 1:
        given.setdefault("num_outputs", task.count)
    return given


def _deployment(task: Task) -> str | None:
    metadata = msgspec.json.decode(task.metadata or b"null")
    name = metadata.get("replicate_deployment") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else None


def _metrics(task: Task) -> dict[str, float]:
    if task.finished_at is None:
        return {}
    found = {"total_time": (task.finished_at - task.created_at).total_seconds()}
    if task.started_at is not None:
        found["predict_time"] = (task.finished_at - task.started_at).total_seconds()
    return found
