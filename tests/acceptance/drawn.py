"""Pictures that a Swell draws, as they come over HTTP."""

import io
import urllib.request
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from commandline import Swell

__all__ = ["done", "drawn", "fetched"]


def done(swell: Swell, model: str, **asked: Any) -> Any:
    """Return a task once it has succeeded."""
    given = [part for name, value in asked.items() for part in ("-i", f"{name}={value}")]
    task = swell.ok("tasks", "submit", model, *given).strip()
    swell.ok("tasks", "watch", task)
    shown = swell.json("tasks", "show", task)
    assert shown["state"] == "succeeded", shown["error"]
    return shown


def drawn(swell: Swell, model: str, **asked: Any) -> NDArray[np.int64]:
    """Return the one picture of a task. Shapes: (H, W, 3), of 0 to 255."""
    [artifact] = done(swell, model, **asked)["artifacts"]
    return fetched(artifact["url"])


def fetched(url: str) -> NDArray[np.int64]:
    """Return the picture at an address. Shapes: as `drawn`."""
    with urllib.request.urlopen(url) as answer:
        return np.asarray(PIL.Image.open(io.BytesIO(answer.read())).convert("RGB")).astype(int)
