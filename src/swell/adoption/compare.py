"""What a comparison is made of, and what it says of time, memory and cost. Pure."""

import json
import random
import statistics
from collections.abc import Sequence
from typing import Any

import msgspec

from swell.comparisons import Cell, Comparison, Model, Row
from swell.task import Task

#: A label is cut to so many characters.
MOST_LABEL = 2_000

#: Input fields that say in words what was asked for, the best first.
_WORDS = ("prompt", "text", "title", "query")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one model took, over all rows.

    Args:
        model: Which one.
        rows: In how many rows there is something of it to see.
        failures: In how many there is not.
        queue_s: How long half of its tasks waited at most; None without any.
        load_s: For how long it was loaded, in all.
        run_s: How long half of its tasks ran at most; None without any.
        images: How many pictures it made.
        cost_micros: What all of them cost, in millionths of a dollar; None where one's is unknown.
        image_micros: The same for one picture; None where that is unknown, or there is none.
    """

    model: Model
    rows: int
    failures: int
    queue_s: float | None
    load_s: float
    run_s: float | None
    images: int
    cost_micros: int | None
    image_micros: float | None


def summaries(comparison: Comparison) -> list[Summary]:
    """Return what each model took, in the order of `Comparison.models`."""
    cells = [cell for row in comparison.rows for cell in row.cells]
    return [
        _summary(model, [cell for cell in cells if cell.model == index])
        for index, model in enumerate(comparison.models)
    ]


def _summary(model: Model, cells: Sequence[Cell]) -> Summary:
    shown = [cell for cell in cells if cell.is_shown]
    costs = [cell.cost_micros for cell in shown]
    known = [each for each in costs if each is not None]
    images = sum(cell.images for cell in shown)
    total = sum(known) if known and len(known) == len(costs) else None
    return Summary(
        model=model,
        rows=len(shown),
        failures=len(cells) - len(shown),
        queue_s=statistics.median(cell.queue_s for cell in shown) if shown else None,
        load_s=sum(cell.load_s for cell in cells),
        run_s=statistics.median(cell.run_s for cell in shown) if shown else None,
        images=images,
        cost_micros=total,
        image_micros=None if total is None or not images else total / images,
    )


def mixed(rows: Sequence[Row], seed: int) -> tuple[Row, ...]:
    """Return rows with their cells in an order of their own, that only the seed tells."""
    rng = random.Random(seed)
    return tuple(
        msgspec.structs.replace(row, cells=tuple(rng.sample(row.cells, len(row.cells))))
        for row in rows
    )


def label_of(task: Task) -> str:
    """Return in words what a task was asked for."""
    fields = msgspec.json.decode(task.input, type=dict[str, Any])
    found = next((fields[name] for name in _WORDS if isinstance(fields.get(name), str)), None)
    text = json.dumps(fields, ensure_ascii=False) if found is None else found
    return text if len(text) <= MOST_LABEL else text[: MOST_LABEL - 1] + "…"
