"""How a task looks as a prediction. Pure.

    queued, whether a worker still starts or not    starting
    running                                         processing
    succeeded, failed, canceled                     the same
    expired                                         canceled: clients know no word for it

Whoever made a prediction and waited for it in vain is told `starting` even if it runs by then:
clients take anything else for the end and return an output that is not there.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from swell.adoption.traffic import asked_version
from swell.api.facades.links import direct_url
from swell.api.facades.replicate.messages import HOME, ReplicatePrediction, ReplicateUrls, Status
from swell.api.views import UrlMaker, resolve_files
from swell.task import Task, TaskState, seed_of

_STATUSES: Final[Mapping[TaskState, Status]] = {
    TaskState.QUEUED: "starting",
    TaskState.RUNNING: "processing",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.CANCELED: "canceled",
    TaskState.EXPIRED: "canceled",
}

#: Stands for a version that is not known any more.
HIDDEN_VERSION: Final = "hidden"

#: Signs of a full bar.
_BAR: Final = 10


def status_of(task: Task) -> Status:
    """Return the one of five words that says how a task stands."""
    return _STATUSES[task.state]


def error_of(task: Task) -> str | None:
    """Return why a task went wrong, in words; None if it did not."""
    return None if task.error is None else task.error.detail or task.error.title


def progress_line(told: Mapping[str, Any]) -> str | None:
    """Return what a worker tells of its progress as a line that clients read a bar from.

    Source:
        The pattern of `Prediction.Progress` in replicate-python and of `parseProgressFromLogs` in
        replicate-javascript, which is how tqdm writes.
    """
    step, steps, fraction = told.get("step"), told.get("steps"), told.get("fraction")
    if type(step) is not int or type(steps) is not int or steps < 1:
        if not isinstance(fraction, int | float):
            return None
        step, steps = round(100 * fraction), 100
    step = min(max(step, 0), steps)
    full = _BAR * step // steps
    return f"{100 * step // steps:3d}%|{'#' * full}{' ' * (_BAR - full)}| {step}/{steps}"


def logs_of(task: Task, heard: Sequence[Mapping[str, Any]]) -> str:
    """Return a task's progress as a log.

    Args:
        task: How it stands.
        heard: What its worker told, oldest first; what was not heard here is not in it.
    """
    lines = [line for each in heard if (line := progress_line(each)) is not None]
    if task.state is TaskState.SUCCEEDED:
        last = progress_line({"step": task.count, "steps": task.count})
        if last is not None and not (lines and lines[-1].startswith("100%")):
            lines.append(last)
    return "".join(f"{line}\n" for line in lines)


def input_of(task: Task) -> Any:
    """Return what was asked, with what the façade took out of the input.

    A seed that was drawn is told with the result.
    """
    asked = msgspec.json.decode(task.input)
    if not isinstance(asked, dict):
        return asked
    if task.state is TaskState.SUCCEEDED or task.seed != seed_of(task.id):
        asked.setdefault("seed", task.seed)
    if task.count > 1:
        asked.setdefault("num_outputs", task.count)
    return asked


def output_of(task: Task, files: Sequence[str]) -> Any:
    """Return what came of a task; of one that runs, the files that are there; None for nothing.

    Args:
        task: How it stands.
        files: What stands for each of its files.
    """
    if task.output is None:
        return list(files) or None
    return msgspec.json.decode(resolve_files(task.output, files))


def deployment_of(task: Task) -> str | None:
    """Return the deployment that a prediction was asked of; None for none."""
    if task.metadata is None:
        return None
    noted = msgspec.json.decode(task.metadata)
    name = noted.get("replicate_deployment") if isinstance(noted, dict) else None
    return name if isinstance(name, str) else None


def moment(at: datetime | None) -> str | None:
    """Return a moment as clients read it."""
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def prediction(
    task: Task,
    urls: UrlMaker,
    *,
    version: str = HIDDEN_VERSION,
    logs: str = "",
    files: Sequence[str] | None = None,
) -> ReplicatePrediction:
    """Return a task as a prediction.

    Args:
        task: How it stands.
        urls: Makes URLs for whoever reads it.
        version: What will run it, as long as nothing does.
        logs: As `logs_of`.
        files: What stands for each of its files; None for their URLs.
    """
    if files is None:
        files = [direct_url(urls, each.key, each.bytes) for each in task.artifacts]
    home = f"{urls.base}{HOME}/predictions/{task.id}"
    created_at = moment(task.created_at)
    assert created_at is not None, "every task was created"
    return ReplicatePrediction(
        id=task.id,
        model=task.model,
        version=task.model_version or asked_version(task.queue) or version,
        status=status_of(task),
        input=input_of(task),
        output=output_of(task, files),
        logs=logs,
        error=error_of(task),
        metrics=_metrics(task),
        data_removed=task.inputs_removed or task.outputs_removed,
        source="api",
        created_at=created_at,
        started_at=moment(task.started_at),
        completed_at=moment(task.finished_at),
        deadline=moment(task.finish_by_at),
        deployment=deployment_of(task),
        urls=ReplicateUrls(
            get=home,
            cancel=f"{home}/cancel",
            stream=_stream_url(task, urls),
            web=f"{urls.base}/#/tasks/{task.id}",
        ),
    )


def stream_key(task_id: str) -> str:
    """Return what stands for a prediction's stream where URLs are signed; no file has this key."""
    return f"streams/{task_id}"


def _stream_url(task: Task, urls: UrlMaker) -> str:
    # Signed, since replicate-javascript sends no key along.
    query = urls.objects.sign("GET", stream_key(task.id), urls.expires_s).partition("?")[2]
    return f"{urls.base}{HOME}/predictions/{task.id}/stream?{query}"


def _metrics(task: Task) -> dict[str, float]:
    found = {}
    if task.finished_at is not None:
        if task.started_at is not None:
            found["predict_time"] = (task.finished_at - task.started_at).total_seconds()
        found["total_time"] = (task.finished_at - task.created_at).total_seconds()
    return found
