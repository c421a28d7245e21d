"""From stored values to what a client sees: URLs signed, positions told, secrets left out."""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from swell.api.eta import EtaSeconds
from swell.api.messages import (
    ArtifactView,
    ChangeView,
    StageView,
    TaskUrls,
    TaskView,
    WebhookView,
)
from swell.api.stage_views import stage_views
from swell.api.thumbnails import has_thumbnail
from swell.degrade import Change, split_metadata
from swell.objects import Objects
from swell.stages import Done, Run
from swell.task import Artifact, Task, warnings_of
from swell.telemetry import trace_id_of
from swell.webhook import Webhook

View = TypeVar("View", bound=msgspec.Struct)

encode = msgspec.json.Encoder().encode

#: Width of the thumbnails that tasks name, in px.
_SHOWN_WIDTH = 256

_MARK = b'"$artifact"'


def project(view: type[View], record: object, **fields: Any) -> View:
    """Return a view of a record: the given fields, and those that both have."""
    shared = {
        name: getattr(record, name)
        for name in view.__struct_fields__
        if name not in fields and hasattr(record, name)
    }
    return view(**shared, **fields)


class UrlMaker:
    """Makes absolute URLs for one request."""

    __slots__ = ("base", "expires_s", "objects", "shows_trace")

    def __init__(
        self, base: str, objects: Objects, expires_s: float, *, shows_trace: bool = False
    ) -> None:
        #: Scheme and host, without a slash at the end.
        self.base = base
        self.objects = objects
        self.expires_s = expires_s
        #: Whether what is seen of a task tells its trace.
        self.shows_trace = shows_trace

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
        task: How it stands.
        urls: Makes URLs for whoever reads it.
        position: As `TaskView`.
        eta_s: As `TaskView`.
        early: Files that are there of a task that runs.
    """
    home = f"{urls.base}/v1/tasks/{task.id}"
    there = task.artifacts or early
    artifacts = [artifact_view(each, urls) for each in there] if there else []
    output, timings = task.output, task.timings
    cost = None
    if timings is not None and timings.cost_micros is not None:
        cost, timings = (
            timings.cost_micros,
            msgspec.structs.replace(timings, cost_micros=None, paid_micros=0),
        )
    metadata, changes = task.metadata, None
    if metadata is not None:
        metadata, changes = split_metadata(metadata)
    if output is not None and _MARK in bytes(output):
        output = resolve_files(output, [each.url for each in artifacts])
    run = task.run
    return TaskView(
        id=task.id,
        model=task.model,
        version=task.model_version,
        state=task.state,
        input=task.input,
        output=output,
        artifacts=artifacts,
        warnings=list(warnings_of(task)),
        error=task.error,
        attempt=task.attempt,
        max_attempts=task.max_attempts,
        position=position,
        eta_s=eta_s,
        created_at=task.created_at,
        started_at=task.started_at,
        finished_at=task.finished_at,
        timings=timings,
        cost_micros=cost,
        seed=task.seed,
        user=task.user,
        metadata=metadata,
        data_removed=_removed_parts(task),
        urls=TaskUrls(get=home, cancel=home + "/cancel", events=home + "/events"),
        degraded=[_change_view(each) for each in changes] if changes else msgspec.UNSET,
        trace_id=(
            trace_id_of(task.traceparent)
            if urls.shows_trace and task.traceparent is not None
            else msgspec.UNSET
        ),
        stages=msgspec.UNSET if run is None else _stages(task, run, urls),
        webhook=msgspec.UNSET if task.webhook is None else _webhook_view(task.webhook),
    )


def _change_view(change: Change) -> ChangeView:
    return ChangeView(field=change.field, before=change.before, after=change.after)


def _stages(task: Task, run: Run, urls: UrlMaker) -> list[StageView]:
    def show(done: Done) -> tuple[msgspec.Raw, list[ArtifactView]]:
        artifacts = [artifact_view(each, urls) for each in done.artifacts]
        return resolve_files(done.output, [each.url for each in artifacts]), artifacts

    return stage_views(task, run, show)


def _webhook_view(hook: Webhook) -> WebhookView:
    return WebhookView(url=hook.url, events=list(hook.events), format=hook.format)


def _removed_parts(task: Task) -> list[str]:
    if not (task.inputs_removed or task.outputs_removed):
        return []
    parts = (("inputs", task.inputs_removed), ("outputs", task.outputs_removed))
    return [name for name, is_removed in parts if is_removed]


def encode_task(
    task: Task,
    urls: UrlMaker,
    *,
    position: int | None = None,
    eta_s: EtaSeconds | None = None,
    early: Sequence[Artifact] = (),
) -> bytes:
    """Return a task's JSON. Args: as `task_view`."""
    return encode(task_view(task, urls, position=position, eta_s=eta_s, early=early))


def artifact_view(artifact: Artifact, urls: UrlMaker) -> ArtifactView:
    """Return an output file as clients see it."""
    url = urls.file(artifact.key, artifact.bytes)
    is_shown_small = has_thumbnail(artifact.key, artifact.content_type)
    return ArtifactView(
        url=url,
        thumbnail_url=f"{url}&w={_SHOWN_WIDTH}" if is_shown_small else None,
        content_type=artifact.content_type,
        bytes=artifact.bytes,
        width=artifact.width,
        height=artifact.height,
    )


def with_url(data: dict[str, Any], urls: UrlMaker) -> dict[str, Any]:
    """Return what an event tells of an artifact with its URLs in place of its key."""
    key = data.get("key")
    if not isinstance(key, str):
        return data
    told = {name: value for name, value in data.items() if name != "key"}
    size = told.get("bytes")
    told["url"] = url = urls.file(key, size if type(size) is int else None)
    if has_thumbnail(key, str(data.get("content_type", ""))):
        told["thumbnail_url"] = f"{url}&w={_SHOWN_WIDTH}"
    return told


def resolve_files(output: msgspec.Raw, urls: Sequence[str]) -> msgspec.Raw:
    """Return an output with `{"$artifact": i}` replaced by the URL of artifact `i`.

    What does not name an artifact of the task stays as it is.
    """
    try:
        value = msgspec.json.decode(output)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return output
    return msgspec.Raw(encode(_replaced(value, urls)))


def _replaced(value: Any, urls: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_replaced(each, urls) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        index = value.get("$artifact")
        if type(index) is int and 0 <= index < len(urls):
            return urls[index]
    return {name: _replaced(each, urls) for name, each in value.items()}
