"""The number of samples (pictures) of a task, before it runs and after.

A task makes `count` samples, and with a pack (`ui.pack()`) as many for each element. Fair queueing
and workers treat a pack as one task (docs/decisions/0022); quotas and credits count samples.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from swell.api.cards import Cards
from swell.degrade import Drawn, drawn
from swell.results import Artifact
from swell.stages import Done, Run, Sight, Stage, input_of, may_run
from swell.task import NewTask, Task

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def samples_of(cards: Cards, task: Task | NewTask) -> int:
    """Return the number of samples that a task will make; of a pipeline, its largest stage.

    A list that an earlier stage has yet to make counts as one.
    """
    run = task.run
    if run is None:
        return task.count * pack_of(cards, task)
    sight = Sight(run.pipeline, task.input)
    numbers = (
        (task.count if stage.counts else 1) * pack_of_stage(cards, stage, sight)
        for stage in run.pipeline.stages
        if may_run(stage, sight)
    )
    return max(numbers, default=1)


def pack_of(cards: Cards, task: Task | NewTask) -> int:
    """Return the number of samples that a model makes of an input for each of `count`."""
    if task.model not in cards.packed:
        return 1
    try:
        value = msgspec.json.decode(task.input)
    except _UNREADABLE:
        return 1
    return cards.pack_size(task.queue, value) if isinstance(value, dict) else 1


def pack_of_stage(cards: Cards, stage: Stage, sight: Sight) -> int:
    """Return `pack_of` for a stage of a pipeline."""
    if stage.model not in cards.packed:
        return 1
    value: dict[str, Any] = input_of(stage, sight)
    return cards.pack_size(stage.queue, value)


def drawn_of(cards: Cards, task: Task | NewTask) -> float:
    """Return steps times area of each sample; 1 if the model has no such fields."""
    card = cards.of_queue(task.queue) if task.model in cards.drawing else None
    if card is None:
        return 1.0
    try:
        return drawn(msgspec.json.decode(task.input, type=Drawn), card.input_schema)
    except _UNREADABLE:
        return 1.0


def drawn_of_stage(cards: Cards, stage: Stage, sight: Sight) -> float:
    """Return `drawn_of` for a stage of a pipeline."""
    card = cards.of_queue(stage.queue) if stage.model in cards.drawing else None
    if card is None:
        return 1.0
    value: dict[str, Any] = input_of(stage, sight)
    return drawn(msgspec.convert(value, type=Drawn), card.input_schema)


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
