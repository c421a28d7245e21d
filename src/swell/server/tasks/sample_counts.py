"""The number of samples (pictures) of a task, before it runs and after.

A task makes `count` samples, and with a pack (`ui.pack()`) as many for each element. Fair queueing
and workers treat a pack as one task (docs/decisions/0022); quotas and credits count samples.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from swell.core.pipeline_stages import Done, Run, Sight, Stage, decoded, input_of, may_run
from swell.core.quality_fallback import drawn, time_share
from swell.core.results import Artifact
from swell.core.task import NewTask, Task
from swell.server.models.model_cards import Cards


class Demand(msgspec.Struct, frozen=True):
    """What a task, or a stage of a pipeline, asks for."""

    queue: str
    count: int
    #: Samples for each of `count`.
    pack: int = 1
    #: Time for each of `count`, relative to the default input of the model.
    size: float = 1.0


def demand_of(
    cards: Cards, task: Task | NewTask, stage: Stage | None = None, done: Sequence[Done] = ()
) -> Demand:
    """Return the demand of a task, or of a stage after some others.

    A list that an earlier stage has yet to make counts as one.
    """
    if stage is None:
        queue, count = task.queue, task.count
    else:
        queue, count = stage.queue, task.count if stage.counts else 1
    card, model = cards.of_queue(queue), queue.partition(":")[0]
    if card is None or (model not in cards.packed and model not in cards.drawing):
        return Demand(queue, count)
    value = _input_of(task, stage, done)
    pack = cards.pack_size(card, value)
    work = drawn(value, card.input_schema)
    size = time_share(work / drawn({}, card.input_schema)) * pack / cards.pack_size(card, {})
    return Demand(queue, count, pack, size)


def _input_of(task: Task | NewTask, stage: Stage | None, done: Sequence[Done]) -> dict[str, Any]:
    """Return the input of a task or stage; empty if it cannot be read."""
    if stage is not None and task.run is not None:
        return input_of(stage, Sight(task.run.pipeline, task.input, done))
    value = decoded(task.input)
    return value if isinstance(value, dict) else {}


def samples_of(cards: Cards, task: Task | NewTask) -> int:
    """Return the number of samples that a task will make; of a pipeline, its largest stage."""
    stages: list[Stage | None] = [None]
    if task.run is not None:
        sight = Sight(task.run.pipeline, task.input)
        stages = [stage for stage in task.run.pipeline.stages if may_run(stage, sight)]
    demands = (demand_of(cards, task, stage) for stage in stages)
    return max((each.count * each.pack for each in demands), default=1)


def made_by(task: Task) -> int | None:
    """Return the number of pictures of a finished task; of a pipeline, of its largest stage."""
    if task.run is None:
        return pictures_in(task.artifacts) or None
    return max((pictures_in(done.artifacts) for done in task.run.done), default=0) or None


def images_of_stage(run: Run, done: Done, count: int) -> int:
    """Return the number of pictures, or other samples, that a stage has made."""
    return pictures_in(done.artifacts) or run.samples_of(done.name, count)


def pictures_in(artifacts: Sequence[Artifact]) -> int:
    """Return the number of pictures among files."""
    return sum(each.content_type.startswith("image/") for each in artifacts)
