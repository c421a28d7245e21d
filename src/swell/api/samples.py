"""How many samples (pictures) a task makes: as far as it can be told before, and what it has made.

A task makes `count` samples, and of a pack (`ui.pack()`) as many of each element. In fair queueing
and for workers a pack stays one task (docs/decisions/0022); quotas and credits count samples.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from swell.api.cards import Cards
from swell.degrade import Drawn, drawn
from swell.results import Artifact
from swell.stages import Done, Run, Sight, Stage, input_of, may_run
from swell.task import NewTask, Task


def samples_of(cards: Cards, task: Task | NewTask) -> int:
    """Return how many samples a task makes.

    Of a pipeline it is the number of that stage which makes most; a list that an earlier stage has
    yet to give counts as one.
    """
    run = task.run
    if run is None:
        return task.count * pack_of(cards, task)
    sight = Sight(run.pipeline, task.input)
    made = (
        (task.count if stage.counts else 1) * pack_of_stage(cards, stage, sight)
        for stage in run.pipeline.stages
        if may_run(stage, sight)
    )
    return max(made, default=1)


def pack_of(cards: Cards, task: Task | NewTask) -> int:
    """Return how many samples a model makes of an input for each that `count` asks for."""
    if task.model not in cards.packed:
        return 1
    try:
        value = msgspec.json.decode(task.input)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # It was accepted before, and only its idempotency key counts.
        return 1
    return cards.pack_size(task.queue, value) if isinstance(value, dict) else 1


def pack_of_stage(cards: Cards, stage: Stage, sight: Sight) -> int:
    """Return the same for a stage of a pipeline."""
    if stage.model not in cards.packed:
        return 1
    value: dict[str, Any] = input_of(stage, sight)
    return cards.pack_size(stage.queue, value)


def drawn_of(cards: Cards, task: Task | NewTask) -> float:
    """Return how much a task asks a model to draw of each sample: steps times area; else 1."""
    if task.model not in cards.drawing:
        return 1.0
    card = cards.of_queue(task.queue)
    try:
        asked = msgspec.json.decode(task.input, type=Drawn)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 1.0
    return 1.0 if card is None else drawn(asked, card.input_schema)


def drawn_of_stage(cards: Cards, stage: Stage, sight: Sight) -> float:
    """Return the same for a stage of a pipeline."""
    card = cards.of_queue(stage.queue) if stage.model in cards.drawing else None
    if card is None:
        return 1.0
    value: dict[str, Any] = input_of(stage, sight)
    return drawn(msgspec.convert(value, type=Drawn), card.input_schema)


def made_by(task: Task) -> int | None:
    """Return how many pictures a task that succeeded has made; None where it made none.

    Of a pipeline it is the number of that stage which made most.
    """
    if task.run is None:
        return pictures_in(task.artifacts) or None
    return max((pictures_in(done.artifacts) for done in task.run.done), default=0) or None


def images_of_stage(run: Run, done: Done, count: int) -> int:
    """Return how many pictures, or other samples, a stage has brought forth."""
    return pictures_in(done.artifacts) or run.samples_of(done.name, count)


def pictures_in(artifacts: Sequence[Artifact]) -> int:
    """Return how many of some files are pictures."""
    return sum(each.content_type.startswith("image/") for each in artifacts)
