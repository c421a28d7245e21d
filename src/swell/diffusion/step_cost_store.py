"""Step costs on disk, so that a new process does not measure them again.

One JSON file per model, version and device holds the costs by batch key, most recently used last,
at most `MOST_KEPT`. A broken file is ignored with a warning.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from swell.core.errors import SwellError
from swell.core.records import ModelCard
from swell.diffusion.step_cost import StepCost
from swell.weights.disk import write_whole

#: Batch keys per file, the most recently used ones.
MOST_KEPT: Final = 256


def step_costs_path(folder: Path, card: ModelCard, device: str) -> Path:
    """Return the file of one model version on one device."""
    name = f"{card.name}-{card.version}-{device}"
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.json"


def read_step_costs(path: Path) -> dict[str, StepCost]:
    """Return costs by batch key; none if the file is missing or broken."""
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _warn(f"the step costs in {path.name} cannot be read and are measured again: {error}")
        return {}
    latest = list(stored.items())[-MOST_KEPT:]
    return {key: StepCost.from_json(bytes(raw)) for key, raw in latest}


def write_step_costs(path: Path, costs: Mapping[str, StepCost]) -> None:
    """Replace the file atomically.

    Args:
        path: The file.
        costs: By batch key, most recently used last.
    """
    latest = list(costs.items())[-MOST_KEPT:]
    body = msgspec.json.encode({key: msgspec.Raw(cost.to_json()) for key, cost in latest})
    try:
        write_whole(path, body)
    except SwellError as error:
        _warn(f"the step costs cannot be written to {path}: {error}")


def _warn(text: str) -> None:
    # The model process has no log: the worker reads its stderr.
    sys.stderr.write(f"warning: {text}\n")
