"""Sheets of what `swell/paint` and `swell/portraits` make of one photograph.

    python look_pictures.py WORK ../docs/models ../packages/swell-models/src/swell_models/samples

The second folder gets the pictures of the models' cards.

The photograph is NASA's of Eileen Collins, from the wheel of scikit-image (see `sample.py`).
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sample import PACKAGE, VERSION
from swell_models.paint import STYLES, Brush, Paint, Painter
from swell_models.portraits import Portraits, Studio
from swell_models.scenes import SCENES
from wheel import fetch

CELL_PX = 160
SAMPLE_PX = 256


def sheet(pictures: dict[str, np.ndarray], across: int) -> Image.Image:
    """Pictures side by side, each with its name."""
    down = -(-len(pictures) // across)
    whole = Image.new("RGB", (across * CELL_PX, down * CELL_PX), "white")
    font = ImageFont.load_default(15)
    for number, (name, pixels) in enumerate(pictures.items()):
        size = (CELL_PX, CELL_PX)
        cell = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        pen = ImageDraw.Draw(cell)
        pen.text((6, 4), name, "white", font, stroke_width=2, stroke_fill="black")
        whole.paste(cell, (number % across * CELL_PX, number // across * CELL_PX))
    return whole


def card(picture: Image.Image | np.ndarray, path: Path) -> None:
    """One small picture for a model's card."""
    pixels = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    small = pixels.resize((SAMPLE_PX, SAMPLE_PX), Image.Resampling.LANCZOS)
    small.save(path, quality=75, method=6)


def main(work: Path, to: Path, samples: Path) -> None:
    with fetch(work, PACKAGE, VERSION) as wheel:
        photo = Image.open(io.BytesIO(wheel.read("skimage/data/astronaut.png"))).convert("RGB")
    pixels = np.asarray(photo)
    brush = Brush()
    painted = {name: Painter(name, brush=brush)(pixels) for name in STYLES}
    sheet({"the photograph": pixels, **painted}, 9).save(to / "paint-styles.webp", quality=62)

    for name in Paint.samples:
        card(painted[name], samples / f"paint-{name}.webp")

    studio = Studio()
    sitter = studio.sitter(pixels)
    if sitter is None:
        raise SystemExit("no face found in the photograph")
    portraits = {}
    for name, scene in SCENES.items():
        picture, likeness = studio.compose(sitter, scene)
        portraits[name] = studio.paint(
            picture, likeness, scene.style, scene.strength, scene.keep_colours
        )
    for name in Portraits.samples:
        card(portraits[name], samples / f"portraits-{name}.webp")
    card(sitter.picture, samples / "cutout.webp")
    sheet(portraits, 6).save(to / "portraits.webp", quality=75)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
