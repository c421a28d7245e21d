"""The stages of a pipeline as clients see them."""

from collections.abc import Callable

import msgspec

from swell.api.messages import ArtifactView, StageView
from swell.stages import Done, Run, Stage
from swell.task import Task, TaskState


def stage_views(
    task: Task, run: Run, show: Callable[[Done], tuple[msgspec.Raw, list[ArtifactView]]]
) -> list[StageView]:
    """Return a pipeline's stages as clients see them.

    Files, and what a check takes, are shown once no stage can refuse them any more: else whoever
    asks in time, cancels, or looks at a task that was refused, has what he was not to get.

    Args:
        task: Whose they are.
        run: Where it is.
        show: Returns a stage's output and files with URLs.
    """
    done = {each.name: each for each in run.done}
    has_succeeded = task.state is TaskState.SUCCEEDED

    def shown(each: Done) -> tuple[msgspec.Raw | None, list[ArtifactView]]:
        return show(each) if has_succeeded or not run.is_withheld(each) else (None, [])

    return [
        _waiting(task, run, place, stage)
        if stage.name not in done
        else _passed(stage, done[stage.name], *shown(done[stage.name]))
        for place, stage in enumerate(run.pipeline.stages)
    ]


def _passed(
    stage: Stage, done: Done, output: msgspec.Raw | None, artifacts: list[ArtifactView]
) -> StageView:
    timings = done.timings
    return StageView(
        name=stage.name,
        model=done.model,
        version=done.version,
        state="succeeded",
        output=output,
        artifacts=artifacts,
        attempts=done.tries,
        worker=done.worker_id,
        started_at=done.started_at,
        finished_at=done.finished_at,
        timings=msgspec.structs.replace(timings, cost_micros=None, paid_micros=0),
        cost_micros=timings.cost_micros,
        seed=done.seed,
    )


def _waiting(task: Task, run: Run, place: int, stage: Stage) -> StageView:
    is_at = place == run.at
    state = "skipped" if place < run.at else task.state.value if is_at else "waiting"
    if place > run.at and task.state.is_terminal:
        state = "skipped" if task.state is TaskState.SUCCEEDED else "not_reached"
    return StageView(
        name=stage.name,
        model=stage.model,
        version=task.version if is_at else "",
        state=state,
        output=None,
        artifacts=[],
        attempts=task.tries if is_at else 0,
        worker=task.worker_id if is_at and task.state is TaskState.RUNNING else None,
        started_at=task.started_at if is_at and task.tries else None,
        finished_at=None,
        timings=None,
        cost_micros=None,
        seed=None,
    )
