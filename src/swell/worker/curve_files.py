"""Cost curves on disk: what the steps of a model took on this device, for the next process.

One JSON file for each model, version and device: batch key → curve, those used last at the end, and
no more than `MOST_CURVES`. What a step costs is soon measured again, so nothing here ever stops a
model: a broken file is left out with a warning.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from swell.core.records import ModelCard
from swell.worker.curve import MOST_CURVES, Curve


def curves_path(folder: Path, card: ModelCard, device: str) -> Path:
    """Return where the curves of one version on one device are kept."""
    name = f"{card.name}-{card.version}-{device}"
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}.json"


def read_curves(path: Path) -> dict[str, Curve]:
    """Return curves by batch key; none if there is no such file, or a broken one."""
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        _warn(f"the cost curves in {path.name} cannot be read and are measured again: {error}")
        return {}
    latest = list(stored.items())[-MOST_CURVES:]
    return {key: Curve.from_json(bytes(raw)) for key, raw in latest}


def write_curves(path: Path, curves: Mapping[str, Curve]) -> None:
    """Replace the file as a whole: whoever reads it meanwhile sees the old one or the new one.

    Args:
        path: Of the file.
        curves: By batch key, those used last at the end.
    """
    latest = list(curves.items())[-MOST_CURVES:]
    body = msgspec.json.encode({key: msgspec.Raw(curve.to_json()) for key, curve in latest})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(body)
            Path(draft).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(draft).unlink()
            raise
    except OSError as error:
        _warn(f"the cost curves cannot be kept in {path}: {error}")


def _warn(text: str) -> None:
    # The model process has no log of its own: what it says goes to the worker's stderr.
    sys.stderr.write(f"warning: {text}\n")
