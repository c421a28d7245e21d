"""Scenes of a few shapes, drawn from data: what stands behind a portrait, and before it.

`scenes.toml` has them. A scene is a list of layers, each with a kind, a colour (`#rrggbb` or
`#rrggbbaa`) and measures that are parts of the picture's sides.
"""

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageDraw
import PIL.ImageFilter

#: Drawn so many times as large and made smaller, so that edges are smooth.
_FINER: Final = 2

Layer = Mapping[str, Any]
Colour = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene of `scenes.toml`."""

    name: str
    title: str
    #: What a model would be told that draws the scene and the person from words.
    prompt: str
    #: One of `swell_models.paint.STYLES`, and how far the painting goes from the picture.
    style: str
    strength: float
    #: Colour of the light on the person as red, green and blue, and how much of it.
    light: Colour
    lit: float
    layers: tuple[Layer, ...]
    #: Whether the painting takes its colours from the scene, and only brightness from the style.
    keep_colours: bool = False

    def draw(self, width_px: int, height_px: int, seed: int = 0) -> PIL.Image.Image:
        """Return what stands behind the person, as RGB."""
        behind = [layer for layer in self.layers if not layer.get("front")]
        return _drawn(behind, width_px, height_px, seed).convert("RGB")

    def front(self, width_px: int, height_px: int, seed: int = 0) -> PIL.Image.Image | None:
        """Return what stands before the person, as RGBA; None where nothing does."""
        before = [layer for layer in self.layers if layer.get("front")]
        return _drawn(before, width_px, height_px, seed + 1) if before else None


def read_scenes(path: Path) -> dict[str, Scene]:
    """Return the scenes of a TOML file by name, in its order."""
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _scene(name, fields) for name, fields in told.items()}


def _scene(name: str, fields: Mapping[str, Any]) -> Scene:
    light = PIL.ImageColor.getrgb(fields["light"])
    layers = tuple(fields["layers"])
    return Scene(name=name, **{**fields, "light": light, "layers": layers})


def _drawn(layers: Sequence[Layer], width_px: int, height_px: int, seed: int) -> PIL.Image.Image:
    size = (width_px * _FINER, height_px * _FINER)
    whole = PIL.Image.new("RGBA", size)
    for number, layer in enumerate(layers):
        sheet = _KINDS[layer["kind"]](layer, size, np.random.default_rng((seed, number)))
        if layer.get("blur"):
            radius = layer["blur"] * size[1]
            sheet = sheet.filter(PIL.ImageFilter.GaussianBlur(radius))
        whole = PIL.Image.alpha_composite(whole, sheet)
    return whole.resize((width_px, height_px), PIL.Image.Resampling.BOX)


# --- kinds of layers: each returns a transparent sheet with its shapes

_Size = tuple[int, int]
_Random = np.random.Generator


def _sheet(size: _Size, colour: str) -> tuple[PIL.Image.Image, PIL.ImageDraw.ImageDraw, Colour]:
    """Return an empty sheet whose edges fade in the layer's own colour, a pen, and the colour."""
    filled = PIL.ImageColor.getcolor(colour, "RGBA")
    assert isinstance(filled, tuple)
    sheet = PIL.Image.new("RGBA", size, (*filled[:3], 0))
    return sheet, PIL.ImageDraw.Draw(sheet), filled


def _gradient(layer: Layer, size: _Size, _: _Random) -> PIL.Image.Image:
    """Colours from the top to `bottom`; below it goes on in the last one."""
    colours = np.array([PIL.ImageColor.getrgb(each)[:3] for each in layer["colours"]], float)
    rows = np.linspace(0, 1 / layer.get("bottom", 1.0), size[1]).clip(0, 1)
    stops = np.linspace(0, 1, len(colours))
    column = np.stack([np.interp(rows, stops, colours[:, c]) for c in range(3)], 1)
    pixels = np.broadcast_to(column[:, None], (size[1], size[0], 3)).round().astype(np.uint8)
    return PIL.Image.fromarray(np.ascontiguousarray(pixels)).convert("RGBA")


def _glow(layer: Layer, size: _Size, _: _Random) -> PIL.Image.Image:
    """Light that fades from (x, y) to `radius`, a part of the height."""
    sheet, _pen, colour = _sheet(size, layer["colour"])
    x = (np.arange(size[0]) - layer["x"] * size[0])[None]
    y = (np.arange(size[1]) - layer["y"] * size[1])[:, None]
    near = (1 - np.hypot(x, y) / (layer["radius"] * size[1])).clip(0, 1) ** 2
    sheet.putalpha(PIL.Image.fromarray((near * colour[3]).round().astype(np.uint8)))
    return sheet


def _disc(layer: Layer, size: _Size, _: _Random) -> PIL.Image.Image:
    sheet, pen, colour = _sheet(size, layer["colour"])
    x, y, radius = layer["x"] * size[0], layer["y"] * size[1], layer["radius"] * size[1]
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return sheet


def _dots(layer: Layer, size: _Size, random: _Random) -> PIL.Image.Image:
    """Discs anywhere between `top` and `bottom`, of about one size."""
    sheet, pen, colour = _sheet(size, layer["colour"])
    for _ in range(layer["count"]):
        x, y = _place(layer, size, random)
        radius = layer["radius"] * size[1] * random.uniform(0.5, 1.5)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
    return sheet


def _clouds(layer: Layer, size: _Size, random: _Random) -> PIL.Image.Image:
    """Heaps of flat discs with soft edges."""
    sheet, pen, colour = _sheet(size, layer["colour"])
    for _ in range(layer["count"]):
        x, y = _place(layer, size, random)
        for _ in range(6):
            radius = layer["radius"] * size[1] * random.uniform(0.4, 1)
            at = x + random.uniform(-2, 2) * layer["radius"] * size[1]
            pen.ellipse(
                (at - radius * 1.4, y - radius * 0.5, at + radius * 1.4, y + radius * 0.4), colour
            )
    return sheet.filter(PIL.ImageFilter.GaussianBlur(0.008 * size[1]))


def _ground(layer: Layer, size: _Size, _: _Random) -> PIL.Image.Image:
    """All that lies below a line at `top` that swings by `wave`."""
    sheet, pen, colour = _sheet(size, layer["colour"])
    width, height = size
    line = [
        (x, (layer["top"] - layer["wave"] * math.sin(2 * math.pi * x / width)) * height)
        for x in range(0, width + 8, 8)
    ]
    pen.polygon([*line, (width, height), (0, height)], colour)
    return sheet


def _strokes(layer: Layer, size: _Size, random: _Random) -> PIL.Image.Image:
    """Lines that each go on by (dx, dy) from where they begin."""
    sheet, pen, colour = _sheet(size, layer["colour"])
    width_px = max(1, round(layer["width"] * size[1]))
    for _ in range(layer["count"]):
        x, y = _place(layer, size, random)
        end = (x + layer["dx"] * size[0], y + layer["dy"] * size[1])
        pen.line([(x, y), end], colour, width_px)
    return sheet


def _blocks(layer: Layer, size: _Size, random: _Random) -> PIL.Image.Image:
    """Houses side by side, as high as `low` to `high` from the top, perhaps with windows."""
    sheet, pen, _ = _sheet(size, layer["colours"][0])
    width, height = size[0] / layer["count"], size[1]
    for number in range(layer["count"]):
        left = number * width - 0.1 * width
        top = random.uniform(layer["low"], layer["high"]) * height
        colour = layer["colours"][number % len(layer["colours"])]
        pen.rectangle((left, top, left + 1.15 * width, height), colour)
        if "windows" in layer:
            _light_windows(pen, (left, top, 1.15 * width, height), layer["windows"], random)
    return sheet


def _light_windows(
    pen: PIL.ImageDraw.ImageDraw,
    block: tuple[float, float, float, float],
    colour: str,
    random: _Random,
) -> None:
    left, top, width, bottom = block
    step = width / 5
    for row in np.arange(top + step * 0.6, bottom, step * 0.9):
        for column in range(4):
            if random.random() < 0.55:
                x = left + step * (column + 0.7)
                pen.rectangle((x, row, x + step * 0.5, row + step * 0.45), colour)


def _pines(layer: Layer, size: _Size, random: _Random) -> PIL.Image.Image:
    """Firs that stand between `top` and `bottom`, of about one height; the nearer, the lower."""
    sheet, pen, colour = _sheet(size, layer["colour"])
    for number in range(layer["count"]):
        high = layer["height"] * size[1] * random.uniform(0.75, 1.15)
        x = (number + random.uniform(0.2, 0.8)) / layer["count"] * size[0]
        foot = max(layer["bottom"] * size[1], layer["top"] * size[1] + high)
        for tier in range(4):
            tip = foot - high * (1 - tier * 0.2)
            half = high * (0.1 + 0.055 * tier)
            low = tip + high * 0.36
            pen.polygon([(x, tip), (x - half, low), (x + half, low)], colour)
        pen.rectangle((x - high * 0.02, foot - high * 0.1, x + high * 0.02, foot), colour)
    return sheet


def _peaks(layer: Layer, size: _Size, random: _Random) -> PIL.Image.Image:
    """Mountains whose tips lie between `low` and `high`, with snow on them."""
    sheet, pen, colour = _sheet(size, layer["colour"])
    width, foot = size[0] / layer["count"], layer["bottom"] * size[1]
    for number in range(layer["count"]):
        x = (number + random.uniform(0.3, 0.7)) * width
        tip = random.uniform(layer["low"], layer["high"]) * size[1]
        half = width * random.uniform(0.9, 1.3)
        pen.polygon([(x, tip), (x - half, foot), (x + half, foot)], colour)
        part = 0.32
        snow, side = tip + (foot - tip) * part, half * part
        edge = [(x + side, snow), (x + side * 0.4, snow - side * 0.5), (x, snow + side * 0.3)]
        edge += [(x - side * 0.45, snow - side * 0.45), (x - side, snow)]
        pen.polygon([(x, tip), *edge], layer["snow"])
    return sheet


def _place(layer: Layer, size: _Size, random: _Random) -> tuple[float, float]:
    high, low = layer.get("top", 0.0), layer.get("bottom", 1.0)
    return random.uniform(0, size[0]), random.uniform(high, low) * size[1]


_KINDS: Final[Mapping[str, Callable[[Layer, _Size, _Random], PIL.Image.Image]]] = {
    "gradient": _gradient,
    "glow": _glow,
    "disc": _disc,
    "dots": _dots,
    "clouds": _clouds,
    "ground": _ground,
    "strokes": _strokes,
    "blocks": _blocks,
    "pines": _pines,
    "peaks": _peaks,
}

#: Those that come with Swell, by name.
SCENES: Final = read_scenes(Path(__file__).with_name("scenes.toml"))
