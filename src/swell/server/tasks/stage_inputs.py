"""Pipelines in the backend: the first stage of a request, and the stage that a worker gets."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from swell.core.pipeline_stages import Run, Sight, begin, input_of
from swell.core.results import Artifact
from swell.core.task import NewTask, Settlement, Task, TaskState
from swell.objects.object_store import Objects
from swell.protocol.worker_messages import LeasedTask
from swell.server.files.file_routes import READ_URL_S, name_files
from swell.server.models.model_cards import Target
from swell.server.problem_details import field_error

_replace = msgspec.structs.replace


def at_first_stage(new: NewTask, target: Target, at: str = "") -> NewTask:
    """Return a new task of a pipeline at its first stage.

    Args:
        new: The requested task.
        target: The pipeline.
        at: JSON pointer to the request within a batch.

    Raises:
        InvalidInput: No stage runs for this input, or no stage makes several samples.
    """
    pipeline = target.card.pipeline
    assert pipeline is not None, "the caller checks it"
    if new.count > 1 and not any(stage.counts for stage in pipeline.stages):
        detail = f"no stage of {target.model} makes more than one sample: leave count out"
        raise field_error(at + "/count", detail, "count")
    run = begin(pipeline, target.card.version, new.input)
    if run is None:
        detail = f"no stage of {target.model} has anything to do for this input"
        raise field_error(at + "/input", detail, "nothing_to_do")
    return _replace(new, queue=run.stage.queue, run=run)


def leased_stage(
    objects: Objects, task: Task, run: Run, leased: LeasedTask, models: Mapping[str, str]
) -> LeasedTask:
    """Return the lease of a pipeline's task, with the input of its current stage.

    Args:
        objects: Signs URLs of files of earlier stages.
        task: The running task.
        run: The pipeline and its current stage.
        leased: The lease with the pipeline's input.
        models: Models of the worker, by name.
    """
    stage = run.stage
    asked = _signed(objects, input_of(stage, Sight(run.pipeline, task.input, run.done)))
    raw = msgspec.Raw(msgspec.json.encode(asked))
    return _replace(
        leased,
        input=raw,
        count=task.count if stage.counts else 1,
        own_files=name_files(objects, raw),
        earlier=run.last_attempt,
        is_stage=True,
        may_go_on=any(later.model in models for later in run.pipeline.stages[run.at + 1 :]),
    )


def _signed(objects: Objects, value: Any) -> Any:
    """Return a value with files as URLs that the worker may read."""
    if isinstance(value, Artifact):
        return objects.sign("GET", value.key, READ_URL_S, value.bytes)
    if isinstance(value, list):
        return [_signed(objects, each) for each in value]
    if isinstance(value, dict):
        return {name: _signed(objects, each) for name, each in value.items()}
    return value


def going_on(
    worker_id: str, settlements: Sequence[Settlement], settled: Sequence[Task | None]
) -> list[Task]:
    """Return tasks that start their next stage at once on the same worker."""
    return [
        task
        for each, task in zip(settlements, settled, strict=True)
        if task is not None
        and task.run is not None
        and task.state is TaskState.RUNNING
        and task.attempt == each.attempt + 1
        and task.worker_id == worker_id
    ]
