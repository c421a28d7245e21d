"""Stored records as clients see them: signed URLs for files, and no secrets."""

import functools
import inspect
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec

from swell.core.pipeline_stages import Done, Run, Stage, decoded, with_files
from swell.core.quality_fallback import split_metadata
from swell.core.task import Artifact, Task, TaskState, warnings_of
from swell.core.telemetry import trace_id_of
from swell.objects.object_store import Objects
from swell.server.estimates.eta import EtaSeconds
from swell.server.files.thumbnails import has_thumbnail
from swell.server.tasks.task_schemas import (
    ArtifactView,
    ChangeView,
    StageView,
    TaskUrls,
    TaskView,
    WebhookView,
)

View = TypeVar("View", bound=msgspec.Struct)

encode = msgspec.json.Encoder().encode

#: Width of the thumbnails that tasks name, in px.
_THUMBNAIL_WIDTH: Final = 256

_ARTIFACT_MARK: Final = b'"$artifact"'


def project(view: type[View], record: object, **fields: Any) -> View:
    """Return a view of a record: the given fields, and those that both have."""
    names, read = _shared(view, type(record))  # type: ignore[arg-type]
    return view(**(dict(zip(names, read(record), strict=False)) | fields))


@functools.cache
def _shared(view: type[Any], kind: type[Any]) -> tuple[list[str], Callable[[Any], tuple[Any]]]:
    fields = inspect.get_annotations(kind)
    names = [each for each in view.__struct_fields__ if each in fields or hasattr(kind, each)]
    # With one more name, it returns a tuple for one field as well.
    return names, attrgetter(*names, "__class__")


def rounded(number: float | None) -> float | None:
    """Round a number to three digits, if there is one."""
    return None if number is None else round(number, 3)


class UrlMaker(msgspec.Struct, frozen=True):
    """Makes absolute URLs for one request."""

    #: Scheme and host, without a slash at the end.
    base: str
    objects: Objects
    expires_s: float
    #: Whether views of tasks contain the trace id.
    shows_trace: bool = False

    def file(self, key: str, size_bytes: int | None = None) -> str:
        """Return a signed URL of a file. With a size, a file of another size is refused."""
        url = self.objects.sign("GET", key, self.expires_s, size_bytes)
        return self.base + url if url.startswith("/") else url


def task_view(
    task: Task,
    urls: UrlMaker,
    *,
    position: int | None = None,
    eta_s: EtaSeconds | None = None,
    early: Sequence[Artifact] = (),
) -> TaskView:
    """Return a task as clients see it.

    Args:
        task: The stored task.
        urls: Makes the URLs.
        position: As in `TaskView`.
        eta_s: As in `TaskView`.
        early: Files of a running task that are ready.
    """
    home = f"{urls.base}/v1/tasks/{task.id}"
    artifacts = [artifact_view(each, urls) for each in task.artifacts or early]
    output, metadata = task.output, task.metadata
    if output is not None and _ARTIFACT_MARK in bytes(output):
        output = resolve_files(output, [each.url for each in artifacts])
    optional: dict[str, Any] = {}
    if metadata is not None:
        metadata, changes = split_metadata(metadata)
        if changes:
            optional["degraded"] = [project(ChangeView, each) for each in changes]
    if urls.shows_trace and task.traceparent is not None:
        optional["trace_id"] = trace_id_of(task.traceparent)
    if task.run is not None:
        optional["stages"] = _stage_views(task, task.run, urls)
    hook, timings = task.webhook, task.timings
    cost_micros = None if timings is None else timings.cost_micros
    if timings is not None and cost_micros is not None:
        timings = msgspec.structs.replace(timings, cost_micros=None, paid_micros=0)
    removed = {"inputs": task.inputs_removed, "outputs": task.outputs_removed}
    return project(
        TaskView,
        task,
        version=task.version if task.run is None else task.run.version,
        output=output,
        artifacts=artifacts,
        warnings=task.warnings if task.run is None else warnings_of(task),
        position=position,
        eta_s=eta_s,
        timings=timings,
        cost_micros=cost_micros,
        metadata=metadata,
        data_removed=[name for name, is_removed in removed.items() if is_removed],
        urls=TaskUrls(get=home, cancel=home + "/cancel", events=home + "/events"),
        webhook=msgspec.UNSET if hook is None else project(WebhookView, hook),
        **optional,
    )


def artifact_view(artifact: Artifact, urls: UrlMaker) -> ArtifactView:
    """Return an output file as clients see it."""
    url = urls.file(artifact.key, artifact.bytes)
    is_picture = has_thumbnail(artifact.key, artifact.content_type)
    thumbnail_url = f"{url}&w={_THUMBNAIL_WIDTH}" if is_picture else None
    return project(ArtifactView, artifact, url=url, thumbnail_url=thumbnail_url)


def with_url(data: dict[str, Any], urls: UrlMaker) -> dict[str, Any]:
    """Return the data of an event with the URLs of its file instead of the storage key."""
    key = data.get("key")
    if not isinstance(key, str):
        return data
    shown = {name: value for name, value in data.items() if name != "key"}
    size = shown.get("bytes")
    shown["url"] = url = urls.file(key, size if type(size) is int else None)
    if has_thumbnail(key, str(data.get("content_type", ""))):
        shown["thumbnail_url"] = f"{url}&w={_THUMBNAIL_WIDTH}"
    return shown


def resolve_files(output: msgspec.Raw, urls: Sequence[str]) -> msgspec.Raw:
    """Return an output with `{"$artifact": i}` replaced by the URL of artifact `i`."""
    value = decoded(output)
    return output if value is None else msgspec.Raw(encode(with_files(value, urls)))


def _stage_views(task: Task, run: Run, urls: UrlMaker) -> list[StageView]:
    done = {each.name: each for each in run.done}
    return [
        _finished_stage(task, run, done[stage.name], urls)
        if stage.name in done
        else _unfinished_stage(task, run, index, stage)
        for index, stage in enumerate(run.pipeline.stages)
    ]


def _finished_stage(task: Task, run: Run, done: Done, urls: UrlMaker) -> StageView:
    output, artifacts = None, []
    # A later stage may still refuse the result. Until then the client must not get it.
    if task.state is TaskState.SUCCEEDED or not run.is_withheld(done):
        artifacts = [artifact_view(each, urls) for each in done.artifacts]
        output = resolve_files(done.output, [each.url for each in artifacts])
    return project(
        StageView,
        done,
        state="succeeded",
        output=output,
        artifacts=artifacts,
        attempts=done.tries,
        worker=done.worker_id,
        timings=msgspec.structs.replace(done.timings, cost_micros=None, paid_micros=0),
        cost_micros=done.timings.cost_micros,
    )


def _unfinished_stage(task: Task, run: Run, index: int, stage: Stage) -> StageView:
    is_current = index == run.at
    if is_current:
        state = task.state.value
    elif index < run.at or task.state is TaskState.SUCCEEDED:
        state = "skipped"
    else:
        state = "not_reached" if task.state.is_terminal else "waiting"
    return StageView(
        name=stage.name,
        model=stage.model,
        version=task.version if is_current else "",
        state=state,
        output=None,
        artifacts=[],
        attempts=task.tries if is_current else 0,
        worker=task.worker_id if is_current and task.state is TaskState.RUNNING else None,
        started_at=task.started_at if is_current and task.tries else None,
        finished_at=None,
        timings=None,
        cost_micros=None,
        seed=None,
    )
