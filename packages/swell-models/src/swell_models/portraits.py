"""One picture of a face becomes a pack of portraits in scenes: a collage that is painted.

    find the face → cut out head and shoulders → set them into a scene → paint → enlarge

No network here imagines anything: each step is one of the built-in models, and the scenes are drawn
from `scenes.toml`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageDraw
import PIL.ImageFilter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import weights
from swell.models.pictures import LIMITS, Pixels, opened, resized, sample
from swell.models.upscale import Upscaler
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.media import Image
from swell.sdk.model import Model
from swell_models.cutout import Mask
from swell_models.faces import NO_FACE, Face, FaceDetector
from swell_models.paint import STYLES, Brush, Painter
from swell_models.scenes import SCENES, Scene

#: Height of the face in the portrait, and where its middle is, as parts of the portrait's side.
_FACE_HEIGHT: Final = 0.3
_FACE_X: Final = 0.5
_FACE_Y: Final = 0.43
#: Head and shoulders around a face, in heights of the face from its middle.
_ABOVE, _BELOW, _BESIDE = 1.3, 2.6, 1.9
#: Height of the tallest face that is cut out as large as it is.
_FACE_PX: Final = 400
#: A composition is drawn and painted at so many pixels a side.
_SIDE_PX: Final = 512
#: Part of a picture's edge that a person covers at least where the edge cuts through them.
_LEAST_CUT: Final = 0.06
#: A person is made so many times larger at most to bring such edges out of sight with the face in
#: its place; then the face leaves its place.
_MOST_LARGER: Final = 1.5
#: The face is painted with so much of the strength, so that it stays who it is.
_FACE_STRENGTH: Final = 0.55


@dataclass(frozen=True, slots=True)
class Sitter:
    """A person without a background: head and shoulders, and where the face is in them."""

    #: RGBA.
    picture: PIL.Image.Image
    #: Left, top, right, bottom of the face, in px of `picture`.
    face: tuple[float, float, float, float]


class Studio:
    """The networks, and what is done with them.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._detector = FaceDetector(threads)
        self._mask = Mask(threads)
        self._brush = Brush(threads)
        self._upscaler = Upscaler(threads)

    def sitter(self, pixels: Pixels) -> Sitter | None:
        """Find the largest face and cut its head and shoulders out; None where no face is.

        Shapes: (H, W, 3) uint8 sRGB.
        """
        found = self._detector.upright(pixels)
        return self._cut(*found) if found else None

    def _cut(self, pixels: Pixels, face: Face) -> Sitter:
        left, top, right, bottom = face.box
        tall, x, y = bottom - top, (left + right) / 2, (top + bottom) / 2
        height, width = pixels.shape[:2]
        x0, x1 = max(0, round(x - _BESIDE * tall)), min(width, round(x + _BESIDE * tall))
        y0, y1 = max(0, round(y - _ABOVE * tall)), min(height, round(y + _BELOW * tall))
        crop = pixels[y0:y1, x0:x1]
        # More than a portrait can show would only take time.
        scale = min(1.0, _FACE_PX / tall)
        if scale < 1:
            crop = resized(crop, round((x1 - x0) * scale), round((y1 - y0) * scale))
        left, top, right, bottom = (
            scale * side for side in (left - x0, top - y0, right - x0, bottom - y0)
        )
        place = (left, top, right, bottom)
        picture = PIL.Image.fromarray(np.ascontiguousarray(crop))
        picture.putalpha(_person(PIL.Image.fromarray(self._mask(crop)), place))
        return Sitter(picture, place)

    def compose(self, sitter: Sitter, scene: Scene, seed: int = 0) -> tuple[Pixels, Pixels]:
        """Return the sitter in the scene, not painted yet, and how much of each place is face.

        Shapes: (512, 512, 3) uint8 sRGB, (512, 512) uint8.
        """
        side = _SIDE_PX
        behind = scene.draw(side, side, seed).convert("RGBA")
        person, left, top, scale = _placed(sitter)
        person = _lit(person, scene)
        layer = PIL.Image.new("RGBA", behind.size)
        layer.paste(person, (left, top))
        whole = PIL.Image.alpha_composite(_shadowed(behind, layer), layer)
        box = [
            offset + scale * edge for edge, offset in zip(sitter.face, (left, top) * 2, strict=True)
        ]
        likeness = PIL.Image.new("L", behind.size)
        PIL.ImageDraw.Draw(likeness).ellipse(box, 255)
        likeness = likeness.filter(PIL.ImageFilter.GaussianBlur((box[3] - box[1]) * 0.12))
        front = scene.front(side, side, seed)
        if front is not None:
            # Snow falls before the coat, not before the eyes.
            clear = PIL.ImageChops.multiply(front.getchannel("A"), PIL.ImageChops.invert(likeness))
            front.putalpha(clear)
            whole = PIL.Image.alpha_composite(whole, front)
        return np.asarray(whole.convert("RGB")), np.asarray(likeness)

    def paint(
        self,
        picture: Pixels,
        likeness: Pixels,
        style: str,
        strength: float,
        keep_colours: bool = False,
    ) -> Pixels:
        """Paint a composition, the face with a lighter hand. Shapes: as `compose` returns them."""
        painter = Painter(style, keep_colours=keep_colours, brush=self._brush)
        painted = painter(picture).astype(np.float32)
        less = 1 - (1 - _FACE_STRENGTH) * likeness[..., None].astype(np.float32) / 255
        mixed = picture + strength * less * (painted - picture)
        return mixed.clip(0, 255).round().astype(np.uint8)

    def enlarge(self, picture: Pixels, side_px: int) -> Pixels:
        """Return it at `side_px` a side, which is its own or twice that."""
        return picture if side_px == len(picture) else self._upscaler(picture, 2)


def _person(mask: PIL.Image.Image, face: tuple[float, float, float, float]) -> PIL.Image.Image:
    """Keep of a mask what hangs together with the face, and the face itself in any case."""
    left, top, right, bottom = face
    grown = (left, top - 0.12 * (bottom - top), right, bottom)
    head = PIL.Image.new("L", mask.size)
    PIL.ImageDraw.Draw(head).ellipse(grown, 255)
    solid = PIL.ImageChops.lighter(mask, head).point(lambda value: 255 if value > 96 else 0)
    middle = (int((left + right) / 2), int((top + bottom) / 2))
    PIL.ImageDraw.floodfill(solid, middle, 128)
    near = solid.point(lambda value: 255 if value == 128 else 0)
    near = near.filter(PIL.ImageFilter.MaxFilter(9))
    soft = head.filter(PIL.ImageFilter.GaussianBlur(0.04 * (bottom - top)))
    kept = PIL.ImageChops.lighter(PIL.ImageChops.darker(mask, near), soft)
    # What is nearly background is background: the network leaves a haze there.
    return kept.point(lambda value: max(0, min(255, (value - 48) * 255 // 160)))


def _placed(sitter: Sitter) -> tuple[PIL.Image.Image, int, int, float]:
    """Return the sitter in the portrait's size, its left and top there, and the scale.

    Where the frame of the picture cuts through the person, that side of it goes to the same side
    of the portrait, or beyond: nobody has a straight edge in the middle of a scene. The sitter is
    made larger if that is not possible otherwise.
    """
    left, top, right, bottom = sitter.face
    size = np.array(sitter.picture.size)
    middle = np.array([left + right, top + bottom]) / 2
    wanted = np.array([_FACE_X, _FACE_Y]) * _SIDE_PX
    cut = _cut_sides(np.asarray(sitter.picture.getchannel("A")))
    scale = _FACE_HEIGHT * _SIDE_PX / (bottom - top)
    scale = max(scale, min(_scale_to_edges(size, middle, wanted, cut), _MOST_LARGER * scale))
    for span, sides in zip(size.tolist(), cut, strict=True):
        if all(sides):
            scale = max(scale, _SIDE_PX / span)
    start = wanted - middle * scale
    space = _SIDE_PX - size * scale
    for axis, (is_first_cut, is_last_cut) in enumerate(cut):
        if is_last_cut:
            start[axis] = max(start[axis], space[axis])
        if is_first_cut:
            start[axis] = min(start[axis], 0)
    width, height = (size * scale).round().astype(int).tolist()
    person = sitter.picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
    return person, round(float(start[0])), round(float(start[1])), scale


_Sides = tuple[tuple[bool, bool], tuple[bool, bool]]


def _scale_to_edges(
    size: NDArray[np.int_], middle: NDArray[np.float64], wanted: NDArray[np.float64], cut: _Sides
) -> float:
    """Return the scale at which all cut sides are outside with the face where it is wanted."""
    needed = [0.0]
    for axis, (is_first_cut, is_last_cut) in enumerate(cut):
        if is_first_cut:
            needed.append(wanted[axis] / max(middle[axis], 1))
        if is_last_cut:
            needed.append((_SIDE_PX - wanted[axis]) / max(size[axis] - middle[axis], 1))
    return float(max(needed))


def _cut_sides(alpha: Pixels) -> _Sides:
    """Tell whether the picture's edges cut through the person: left and right, top and bottom.

    Shapes: alpha (H, W).
    """
    solid = alpha > 128
    edges = (solid[:, 0], solid[:, -1], solid[0])
    left, right, top = (bool(np.mean(edge) > _LEAST_CUT) for edge in edges)
    return (left, right), (top, True)


def _lit(person: PIL.Image.Image, scene: Scene) -> PIL.Image.Image:
    """Return the person in the scene's light: as if through a glass of its colour."""
    light = PIL.Image.new("RGB", person.size, scene.light)
    colours = person.convert("RGB")
    lit = PIL.Image.blend(colours, PIL.ImageChops.multiply(colours, light), min(1, scene.lit * 2.5))
    lit = PIL.Image.blend(lit, light, scene.lit * 0.25)
    lit.putalpha(person.getchannel("A"))
    return lit


def _shadowed(behind: PIL.Image.Image, layer: PIL.Image.Image) -> PIL.Image.Image:
    """Darken the scene a little around the person, so that both belong together."""
    soft = layer.getchannel("A").filter(PIL.ImageFilter.GaussianBlur(14))
    shadow = PIL.Image.new("RGBA", behind.size, (10, 10, 24, 255))
    shadow.putalpha(soft.point(lambda value: value * 2 // 5))
    return PIL.Image.alpha_composite(behind, shadow)


class Portraits(Model):
    """Make a set of portraits in different scenes from one picture of a face.

    **What it does.** It finds the largest face, cuts out head and shoulders, places them in a
    scene of simple shapes, and paints the result in an art style, more lightly on the face. It
    needs no GPU and no download.

    **What it does not do.** It is not a diffusion model: pose, clothes, expression and light stay
    as they are in the picture. Use a frontal picture with shoulders and a plain background. Hair is
    cut out roughly.

    | | |
    |---|---|
    | networks | those of `swell/faces`, `swell/cutout`, `swell/paint` and `swell/upscale` |
    | licences of the weights | MIT, Apache-2.0, Apache-2.0, BSD-3-Clause |
    | scenes | 12, as data in `swell_models/scenes.toml`: shapes, a light, a style |
    | weights on disk | 5.9 MB |
    | input | up to 40 megapixels with at least one face; the largest is used |
    | rotated pictures | rotated upright by the face |
    | time | 0.5 s plus 0.3 s per portrait on one CPU core; 5 s to enlarge one |
    | memory | 700 MB; 1 GB for the largest picture |

    Use only pictures of people who agreed to it.
    """

    name = "swell/portraits"
    licence = "MIT AND Apache-2.0 AND BSD-3-Clause"
    credits = "The credits of `swell/faces`, `swell/cutout`, `swell/paint` and `swell/upscale`."
    memory_bytes = 700_000_000
    speed = (
        Speed("one core of an AMD EPYC", "four portraits, 512 px", 1.7, "2026-11-25"),
        Speed("one core of an AMD EPYC", "four portraits, 1,024 px", 22.2, "2026-11-25"),
    )
    samples = {
        "beach": "samples/portraits-beach.webp",
        "city-night": "samples/portraits-city-night.webp",
        "space": "samples/portraits-space.webp",
        "forest": "samples/portraits-forest.webp",
        "mountains": "samples/portraits-mountains.webp",
        "studio": "samples/portraits-studio.webp",
    }
    Output = list[Image]
    files = (
        *(weights(f"{name}.onnx") for name in ("faces", "cutout", "paint-styles", "upscale")),
        *(Path(__file__).with_name(name) for name in ("faces.py", "scenes.toml")),
    )
    examples = ({"image": sample(), "scenarios": ["beach"], "size": 512},)

    class Input(BaseModel):
        """Who, where and how."""

        model_config = ConfigDict(extra="forbid")
        image: Annotated[
            Image,
            LIMITS,
            Field(title="Picture", description="A face, best with shoulders."),
            ui.image(),
        ]
        scenarios: Annotated[
            list[Literal[tuple(SCENES)]],  # type: ignore[valid-type]
            Field(
                min_length=1,
                max_length=len(SCENES),
                title="Scenarios",
                description="One portrait each, in this order.",
            ),
            ui.pack(whole=True),
        ] = ["beach", "city", "space", "forest"]
        style: Annotated[
            Literal["scene", "none", *STYLES],  # type: ignore[valid-type]
            Field(
                title="Style",
                description="`scene` uses the style of each scene; `none` does not paint.",
            ),
            ui.styles(),
        ] = "scene"
        strength: Annotated[
            float | None,
            Field(ge=0, le=1, title="Strength", description="Strength of the painting."),
            ui.slider(step=0.05, advanced=True),
        ] = None
        size: Annotated[
            Literal[512, 1024],
            Field(title="Size", description="Pixels per side; 1024 is 512 enlarged."),
        ] = 1024
        seed: Annotated[
            int | None,
            Field(ge=0, lt=2**63, title="Seed", description="Moves clouds, stars and trees."),
            ui.seed(),
        ] = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read the weights; the networks run on the CPU whatever `device` says."""
        self._studio = Studio(self._threads)

    def run(self, items: list[Item[Any]]) -> list[list[Image] | Exception]:
        """Make the pack of each item, one after another."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> list[Image] | Exception:
        sitter = self._studio.sitter(opened(item.input.image)[0])
        if sitter is None:
            return Reject(NO_FACE)
        pack: list[Image] = []
        wanted = item.input.scenarios
        for portrait in self._portraits(item, sitter):
            pack.append(Image(portrait, metadata={"scenario": wanted[len(pack)]}))
            item.ready(pack[-1])
            item.progress(len(pack), len(wanted))
            item.preview(functools.partial(resized, portrait, 256, 256))
            if item.cancelled:
                return Cancelled()
        return pack

    def _portraits(self, item: Item[Any], sitter: Sitter) -> Iterator[Pixels]:
        asked = item.input
        seed = item.seed if asked.seed is None else asked.seed + item.index
        for name in asked.scenarios:
            scene = SCENES[name]
            composed, likeness = self._studio.compose(sitter, scene, seed)
            if asked.style != "none":
                own = asked.style == "scene"
                composed = self._studio.paint(
                    composed,
                    likeness,
                    scene.style if own else asked.style,
                    scene.strength if asked.strength is None else asked.strength,
                    scene.keep_colours and own,
                )
            yield self._studio.enlarge(composed, asked.size)
