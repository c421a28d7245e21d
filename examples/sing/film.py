"""Sound in, and pictures with sound out: what both models of the app share. Needs PyAV.

PyAV's wheels bring FFmpeg with libvpx and libopus (BSD) for WebM, and with libx264 for MP4, which
is under the GPL: whoever hands these wheels on, in an image of a container for example, hands on
GPL code.
"""

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Final, Literal

import av
import numpy as np
from numpy.typing import NDArray

__all__ = ["FPS", "Format", "Sound", "filmed", "heard"]

Sound = NDArray[np.float32]
Format = Literal["webm", "mp4"]

FPS: Final = 25
#: Of the sound in the video, and what of it goes into one frame of Opus or AAC, at most.
_RATE_HZ: Final = 48_000
_CODECS: Final = {"webm": ("libvpx", "libopus"), "mp4": ("libx264", "aac")}
_OPTIONS: Final = {
    "webm": {"deadline": "realtime", "cpu-used": "8", "crf": "12"},
    "mp4": {"preset": "veryfast", "crf": "20"},
}
_BIT_RATE: Final = 2_000_000


def heard(data: bytes, rate_hz: int, longest_s: float) -> Sound:
    """Return a sound as samples in -1..1 of one channel, no more than so much of it.

    Raises:
        ValueError: It is no sound that can be read.
    """
    try:
        with av.open(io.BytesIO(data)) as file:
            if not file.streams.audio:
                raise ValueError("there is no sound in this file")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
            parts, length = [], 0
            for frame in file.decode(audio=0):
                for each in resampler.resample(frame):
                    parts.append(each.to_ndarray().reshape(-1))
                    length += parts[-1].size
                if length >= longest_s * rate_hz:
                    break
            else:
                parts += [each.to_ndarray().reshape(-1) for each in resampler.resample(None)]
    except av.error.FFmpegError as error:
        raise ValueError("this is no sound that can be read: give WAV, MP3, Ogg or WebM") from error
    samples = np.concatenate([*parts, np.zeros(0, np.float32)])
    return samples[: int(longest_s * rate_hz)].astype(np.float32)


def filmed(
    frames: Iterable[NDArray[np.uint8]], sound: bytes, kind: Format, longest_s: float
) -> bytes:
    """Return a video of frames at `FPS`, with a sound.

    Args:
        frames: Shapes: (H, W, 3) uint8 sRGB, all alike, with even sides.
        sound: A file, as `heard` reads it.
        kind: What file it becomes.
        longest_s: So much of the sound at most, in seconds.
    """
    picture_codec, sound_codec = _CODECS[kind]
    samples = heard(sound, _RATE_HZ, longest_s)
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as video:
        stream = None
        voice = video.add_stream(sound_codec, rate=_RATE_HZ)
        voice.layout = "mono"
        for at, pixels in enumerate(frames):
            if stream is None:
                stream = video.add_stream(picture_codec, rate=FPS, options=_OPTIONS[kind])
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt, stream.bit_rate = "yuv420p", _BIT_RATE
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, FPS)
            video.mux(stream.encode(frame))
            part = samples[at * _RATE_HZ // FPS : (at + 1) * _RATE_HZ // FPS]
            if part.size:
                spoken = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
                spoken.sample_rate, spoken.pts = _RATE_HZ, at * _RATE_HZ // FPS
                spoken.time_base = Fraction(1, _RATE_HZ)
                video.mux(voice.encode(spoken))
        if stream is not None:
            video.mux(stream.encode(None))
        video.mux(voice.encode(None))
    return file.getvalue()
