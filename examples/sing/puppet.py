"""A face that opens its mouth when it is loud, blinks, and nods: pixels that are moved, no network.

It needs NumPy and Pillow. All places are in px; a face's landmarks say where eyes and mouth are.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Puppet", "Spot", "blinks", "openness"]

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Spot = tuple[float, float]

#: Below this a voice is taken for silence, and from the other on the mouth is wide open, in dB.
_QUIET_DB, _LOUD_DB = -45.0, -14.0
#: How quickly a mouth opens and closes: parts of the way in a frame.
_OPENS, _CLOSES = 0.6, 0.35
#: A wide open mouth, in distances between the eyes.
_WIDE: Final = 0.34
#: From one blink to the next, and how long one lasts, in seconds.
_BLINK_EVERY_S, _BLINK_S = 3.1, 0.2
_MOUTH_RGB: Final = np.array([58, 22, 26], np.float32)


def openness(samples: Floats, rate_hz: int, fps: int) -> Floats:
    """Return how far the mouth is open in each frame, 0 to 1, by loudness.

    Shapes: (N,) samples in -1..1 -> (frames,).
    """
    size = rate_hz // fps
    count = -(-samples.size // size)
    padded = np.pad(samples, (0, count * size - samples.size)).reshape(count, size)
    loud = 20 * np.log10(np.sqrt((padded.astype(np.float64) ** 2).mean(1)) + 1e-9)
    wanted = np.clip((loud - _QUIET_DB) / (_LOUD_DB - _QUIET_DB), 0, 1)
    found, now = [], 0.0
    for each in wanted:
        now += (each - now) * (_OPENS if each > now else _CLOSES)
        found.append(now)
    return np.array(found, np.float32)


def blinks(frames: int, fps: int) -> Floats:
    """Return how far the eyes are closed in each frame, 0 to 1. Shapes: (frames,)."""
    since = (np.arange(frames) / fps + 1.0) % _BLINK_EVERY_S
    shut = np.where(since < _BLINK_S, np.sin(np.pi * since / _BLINK_S), 0)
    return shut.astype(np.float32)


class Puppet:
    """A picture with a face that can be moved.

    Args:
        pixels: Shapes: (H, W, 3) uint8 sRGB.
        eyes: Left and right.
        mouth: Its left and right corner.
    """

    def __init__(self, pixels: Pixels, eyes: tuple[Spot, Spot], mouth: tuple[Spot, Spot]) -> None:
        left, right = (np.array(each, np.float32) for each in eyes)
        self._unit = unit = np.float32(max(np.hypot(*(right - left)), 4.0))
        across = (right - left) / unit
        self._down = down = np.array([-across[1], across[0]], np.float32)
        middle = np.mean(np.array(mouth, np.float32), axis=0)
        self._pixels = pixels
        self._place = place = _around(middle - down * unit * 0.8, unit * 3, pixels.shape)
        y, x = (grid.astype(np.float32) for grid in np.mgrid[place])
        self._y, self._x = y, x
        # In the face's own directions, so that a head aslant opens its mouth aslant.
        u = (x - middle[0]) * across[0] + (y - middle[1]) * across[1]
        self._v = v = (x - middle[0]) * down[0] + (y - middle[1]) * down[1]
        half = max(np.hypot(*np.subtract(*mouth)) / 2, 0.3 * unit) * np.float32(1.05)
        self._gap = _WIDE * unit * np.sqrt(np.clip(1 - (u / half) ** 2, 0, 1))
        self._head = 0.02 * unit * np.exp(-(u * u + (v + unit) ** 2) / (1.1 * unit) ** 2)
        self._lids = sum((_lid(x, y, eye, unit) for eye in eyes), np.zeros_like(u))

    def frame(self, mouth: float, blink: float, nod: float) -> Pixels:
        """Return the picture with the mouth so far open, the eyes so far shut, the head nodding.

        Args:
            mouth: 0 to 1.
            blink: 0 to 1.
            nod: -1 to 1, up and down.
        """
        gap, v = np.float32(mouth) * self._gap, self._v
        # Below the lips all moves down by the gap, ever less towards the chin.
        chin = np.clip(1 - (v - gap) / (1.1 * self._unit), 0, 1)
        moved = np.where(v > gap, gap * chin * chin * (3 - 2 * chin), 0)
        moved += np.float32(nod) * self._head + np.float32(blink) * self._lids
        x, y = self._x - moved * self._down[0], self._y - moved * self._down[1]
        bent = _sampled(self._pixels, x, y)
        inside = (np.clip(np.minimum(v + 1, gap - v), 0, 1.5) / 1.5 * (gap > 1))[..., None]
        whole = self._pixels.copy()
        whole[self._place] = np.rint(bent + (_MOUTH_RGB - bent) * inside)
        return whole


def _around(middle: Floats, reach: np.float32, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return rows and columns of a picture that are so near to a place."""
    x, y = (int(each) for each in middle)
    far = int(reach)
    rows = slice(max(0, y - far), min(shape[0], y + far))
    return rows, slice(max(0, x - far), min(shape[1], x + far))


def _lid(x: Floats, y: Floats, eye: Spot, unit: np.float32) -> Floats:
    """Return how far skin above an eye comes down over it when it shuts."""
    near = np.exp(-(((x - eye[0]) / (0.26 * unit)) ** 2) - ((y - eye[1]) / (0.13 * unit)) ** 2)
    lid: Floats = 0.2 * unit * near
    return lid


def _sampled(pixels: Pixels, x: Floats, y: Floats) -> Floats:
    """Return a picture at places between its pixels. Shapes: (H, W, 3), (H, W), (H, W)."""
    height, width = pixels.shape[:2]
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    across, along = (x - left)[..., None], (y - top)[..., None]
    flat, at = pixels.reshape(-1, 3).astype(np.float32), top * width + left
    upper = flat[at] + (flat[at + 1] - flat[at]) * across
    lower = flat[at + width] + (flat[at + width + 1] - flat[at + width]) * across
    mixed: Floats = upper + (lower - upper) * along
    return mixed
