"""What published code gives for the pictures that tests use, written down for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "unit" / "data"


def pictures(weights: Path) -> dict[str, PIL.Image.Image]:
    """The portrait that ships, and a smooth picture of random colours; both 160 x 160 px."""
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    return {
        "portrait": PIL.Image.open(weights / "portrait.webp").convert("RGB"),
        "colours": coarse.resize((160, 160), PIL.Image.Resampling.BICUBIC),
    }


def small(picture: PIL.Image.Image) -> list[Any]:
    """A picture's means over 8 x 8 fields, rounded: enough to tell whether another is alike."""
    side = (8, 8)
    return np.asarray(picture.resize(side, PIL.Image.Resampling.BOX)).astype(int).tolist()


def write_down(name: str, what: Any) -> None:
    """Write a fixture of tests."""
    path = FIXTURES / f"published-{name}.json"
    path.write_text(json.dumps(what, indent=None, separators=(",", ":")) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes")
