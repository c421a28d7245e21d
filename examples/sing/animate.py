# /// script
# requires-python = ">=3.11"
# dependencies = ["av>=15,<20"]
# ///
"""The embedded model of the app `sing`: a face is animated simply, by how loud the sound is."""

import functools
from typing import Annotated, Final

import numpy as np
import PIL.Image
from film import FPS, Format, filmed, heard
from puppet import Puppet, blinks, openness
from pydantic import BaseModel, ConfigDict, Field

import swell
from swell import ui

__all__ = ["Face", "animate"]

#: Of the longer side of the video, in px, and its length in seconds: more takes long on a CPU.
MOST_PX: Final = 480
LONGEST_S: Final = 20.0
#: Of the sound that is listened to.
RATE_HZ: Final = 16_000


class Face(BaseModel):
    """A face as `swell/faces` finds it, in px from the upper left corner."""

    model_config = ConfigDict(extra="ignore")
    box: list[float]
    landmarks: dict[str, list[float]]


@swell.model(
    "sing/animate",
    licence="Apache-2.0; PyAV BSD-3-Clause; in its wheels FFmpeg, LGPL, and x264, GPL",
    memory_bytes=250_000_000,
)
def animate(
    image: Annotated[swell.Image, swell.Within(40_000_000), ui.image()],
    faces: Annotated[list[Face], Field(max_length=1000)],
    sound: swell.Audio | None = None,
    format: Format = "webm",  # noqa: A002 - the field's name
    ctx: swell.Context | None = None,
) -> swell.Video:
    """Animate a face by the loudness of a sound: the mouth opens, eyes blink, the head nods.

    **What it is not.** A model of talking faces: pixels are moved, and the mouth opens by how loud
    it is, whatever is said. It is there so that the app runs on any CPU. For lips that follow the
    words there is `sing/musetalk`, which needs a GPU.

    | | |
    |---|---|
    | input | a picture with a face, which `swell/faces` has found; WAV, MP3, Ogg or WebM |
    | output | up to 20 s at 25 frames a second, 480 px: WebM (VP8, Opus) or MP4 (H.264, AAC) |

    Use it with pictures of people who agreed to it, and say that a machine made the video.
    """
    if sound is None:
        raise swell.Reject("Give a sound, or words to be spoken.")
    if not faces:
        raise swell.Reject("No face was found: give a picture of one face from the front.")
    try:
        samples = heard(sound.read(), RATE_HZ, LONGEST_S)
    except ValueError as error:
        raise swell.Reject(f"The sound cannot be used: {error}.") from None
    puppet = posed(image.pil().convert("RGB"), faces[0])
    mouth = openness(samples, RATE_HZ, FPS)
    if not mouth.size:
        raise swell.Reject("There is nothing in this sound.")
    shut = blinks(len(mouth), FPS)
    nod = np.convolve(mouth - mouth.mean(), np.ones(9) / 9, mode="same")

    def frames():
        for at in range(len(mouth)):
            pixels = puppet.frame(float(mouth[at]), float(shut[at]), float(nod[at]))
            if ctx:
                ctx.check()
                ctx.progress(at + 1, len(mouth))
                ctx.preview(functools.partial(PIL.Image.fromarray, pixels))
            yield pixels

    kind = "video/webm" if format == "webm" else "video/mp4"
    data = filmed(frames(), sound.read(), format, LONGEST_S)
    return swell.Video(data, content_type=kind, name=f"clip.{format}")


def posed(picture: PIL.Image.Image, face: Face) -> Puppet:
    """Return a picture as a puppet, no larger than a video is, with even sides."""
    scale = min(1.0, MOST_PX / max(picture.size))
    width, height = (max(2, round(side * scale) // 2 * 2) for side in picture.size)
    small = picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
    by_x, by_y = width / picture.width, height / picture.height
    spots = {name: (x * by_x, y * by_y) for name, (x, y) in face.landmarks.items()}
    return Puppet(
        np.asarray(small),
        (spots["left_eye"], spots["right_eye"]),
        (spots["mouth_left"], spots["mouth_right"]),
    )
