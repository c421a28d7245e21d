# ruff: noqa: RUF002 - sounds are written in letters that look like others
"""Text to speech in American English: hibari, a small voice distilled from Kokoro-82M.

The network says, for every 12.5 ms, how loud and in which phase each of 601 frequencies is in a
voiced part, a noise and a free part, and how high the voice is, f0. The sound is

    S = exp(min(lh, 7)) exp(i pi tanh(theta)) E + exp(min(ln, 7)) Z + exp(min(lr, 7)) exp(i phi)

with E the spectrum of pulses at f0, all harmonics below 11 kHz as loud as each other,

    sum of cos(h t), h = 1..H   =   sin((H + 1/2) t) / (2 sin(t / 2)) - 1/2

and Z complex noise; then the inverse short-time Fourier transform with Hann's window.

Source: the model's interface as described with `hibari-tts` 0.2.1.
"""

import io
import wave
from typing import Annotated, Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import session, weights
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.media import Audio
from swell.sdk.model import Model
from swell_models.pronounce import Pronouncer, sentences, spoken

Floats = NDArray[np.float32]

RATE_HZ: Final = 24_000
#: Samples of one step of the network, and of a window.
_STEP, _WINDOW = 300, 1200
_HANN: Final = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)
#: Below this pitch a sound has no voice; harmonics end at the other.
_LOWEST_HZ, _HIGHEST_HZ = 40.0, 11_000.0
#: The network's exponents are cut here.
_LOUDEST = 7.0
#: Characters with numbers and signs in words: 5,000 digits in a row have no more.
_MOST_SPOKEN: Final = 30_000
#: More sounds than these in one call would take much memory.
_MOST_SOUNDS = 400


class Voice:
    """The network, and what makes sound of what it says.

    Args:
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._session = session("speech.onnx", threads)
        self.pronounce = Pronouncer()

    def __call__(self, text: str, speed: float = 1.0, seed: int = 0) -> Floats:
        """Return a text as sound: samples in -1..1 at `RATE_HZ`; none if nothing can be said."""
        random = np.random.default_rng(seed)
        parts = [self.say(self.pronounce(each), speed, random) for each in sentences(spoken(text))]
        return np.concatenate([*parts, np.zeros(0, np.float32)])

    def say(self, sounds: str, speed: float, random: np.random.Generator) -> Floats:
        """Return one sentence of sounds, in misaki's alphabet.

        Args:
            sounds: Such as `həlˈO ðˈɛɹ.`; what is not in the alphabet is left out.
            speed: 1 for the voice's own, 2 for twice as fast.
            random: Of the breath in it.
        """
        numbers = self.pronounce.numbers
        ids = [numbers[sound] for sound in sounds if sound in numbers][:_MOST_SOUNDS]
        if not ids:
            return np.zeros(0, np.float32)
        heard = {
            "ids": np.array([[0, *ids, 0]], np.int64),
            "speed": np.array([speed], np.float32),
        }
        lh, theta, ln, lr, phi, f0 = (said[0] for said in self._session.run(None, heard))
        noise = random.standard_normal((len(ln), 2 * ln.shape[1]), np.float32).view(np.complex64)
        spectrum = _loud(lh) * np.exp(1j * np.pi * np.tanh(theta)) * _spectrum(_pulses(f0))
        spectrum += _loud(ln) * noise + _loud(lr) * np.exp(1j * phi)
        return _sound(spectrum)


def _loud(exponent: Floats) -> Floats:
    loud: Floats = np.exp(np.minimum(exponent, _LOUDEST))
    return loud


def _pulses(f0: Floats) -> Floats:
    """Return the voice before mouth and nose. Shapes: f0 (F,) in Hz -> (300 F,)."""
    steps = (np.arange(len(f0) * _STEP) + 0.5) / _STEP - 0.5
    pitch = np.interp(steps, np.arange(len(f0)), f0)
    is_voiced = pitch > _LOWEST_HZ
    pitch = np.maximum(pitch, _LOWEST_HZ)
    angle = 2 * np.pi * (np.cumsum(pitch / RATE_HZ) % 1)
    highest = np.floor(_HIGHEST_HZ / pitch) + 0.5
    below = 2 * np.sin(angle / 2)
    # At a pulse's very top both sides of the fraction go to zero; its limit is the number above.
    is_top = np.abs(below) <= 2e-3
    summed = np.where(is_top, highest, np.sin(highest * angle) / np.where(is_top, 1, below))
    return np.where(is_voiced, summed - 0.5, 0).astype(np.float32)


def _spectrum(samples: Floats) -> NDArray[np.complex64]:
    """Return the spectrum around every step. Shapes: (300 F,) -> (601, F)."""
    padded = np.pad(samples, _WINDOW // 2, mode="reflect")
    frames = sliding_window_view(padded, _WINDOW)[::_STEP][: len(samples) // _STEP]
    return np.fft.rfft(frames * (_HANN / (_WINDOW / 4)), axis=1).T.astype(np.complex64)


def _sound(spectrum: NDArray[np.complex64]) -> Floats:
    """Return the samples of a spectrum, windows overlapping. Shapes: (601, F) -> (300 F,)."""
    frames = np.fft.irfft(spectrum.T, _WINDOW, axis=1) * _HANN
    count, overlap = len(frames), _WINDOW // _STEP
    samples = np.zeros((count + overlap - 1, _STEP))
    weight = np.zeros_like(samples)
    for part in range(overlap):
        cut = slice(part * _STEP, (part + 1) * _STEP)
        samples[part : part + count] += frames[:, cut]
        weight[part : part + count] += _HANN[cut] ** 2
    whole = (samples / np.maximum(weight, 1e-11)).reshape(-1)
    return whole[_WINDOW // 2 :][: count * _STEP].astype(np.float32)


class Speech(Model):
    """Read English text aloud, as a WAV file.

    It has one synthetic voice: a woman's, American English. It reads numbers (beyond trillions
    digit by digit), years, money, times and common abbreviations. It does not tell verbs from
    nouns, so "read" and "wind" always sound the same. Other languages come out as nonsense.

    | | |
    |---|---|
    | network | hibari 0.2.1, 6.2 M parameters, distilled from Kokoro-82M's voice `af_heart` |
    | licence of the weights | Apache-2.0, Maureese Williams; Kokoro and misaki by hexgrad as well |
    | pronunciation | misaki's list of 180,000 words, and a small network for others |
    | weights on disk | 10 MB, int8 |
    | sound | 24 kHz, 16 bit, mono |
    | input | up to 5,000 characters, 30,000 after numbers and symbols are spelled out |
    | time | 0.08 s for 6 s of speech on one CPU core; 0.4 s to load |
    | the longest | of prose: 6 s for 5.5 minutes, 16 MB; of digits: 25 s for 20 minutes, 57 MB |
    | memory | 170 MB; 350 MB for the longest input |

    Tell listeners that the voice is synthetic. Nothing was trained for Swell.
    """

    name = "swell/speech"
    licence = "Apache-2.0"
    credits = """
    hibari by Maureese Williams, from `hibari-tts`; distilled from Kokoro-82M by hexgrad, with the
    words of misaki by hexgrad.
    """
    memory_bytes = 170_000_000
    speed = (Speed("one core of an AMD EPYC", "5.8 s of speech", 0.08, "2026-11-25"),)
    samples = {"Your picture is ready.": "samples/speech.wav"}
    Output = Audio
    files = tuple(
        weights(f"speech{each}")
        for each in (".onnx", "-reader.onnx", "-words.tsv.gz", "-alphabet.json")
    )
    examples = ({"text": "Your picture is ready."},)

    class Input(BaseModel):
        """What to say, and how."""

        model_config = ConfigDict(extra="forbid")
        text: Annotated[
            str,
            Field(
                min_length=1,
                max_length=5000,
                title="Text",
                description="English, up to 5,000 characters.",
                examples=["Your picture is ready."],
            ),
            ui.textarea(),
        ]
        speed: Annotated[
            float,
            Field(ge=0.5, le=2, title="Speed", description="1 for the voice's own."),
            ui.slider(step=0.05),
        ] = 1.0
        seed: Annotated[
            int | None,
            Field(ge=0, lt=2**63, title="Seed", description="The same seed gives the same sound."),
            ui.seed(),
        ] = None

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads

    def load(self, device: str) -> None:
        """Read the weights and the words; the network runs on the CPU whatever `device` says."""
        self._voice = Voice(self._threads)

    def run(self, items: list[Item[Any]]) -> list[Audio | Exception]:
        """Read each text by itself."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> Audio | Exception:
        asked = item.input
        random = np.random.default_rng(item.seed if asked.seed is None else asked.seed + item.index)
        text = spoken(asked.text)
        if len(text) > _MOST_SPOKEN:
            return Reject(
                f"With its numbers and signs in words this text has {len(text):,} characters: "
                f"{_MOST_SPOKEN:,} at most, so give fewer of them at once."
            )
        pieces = sentences(text)
        file = io.BytesIO()
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(RATE_HZ)
            for done, piece in enumerate(pieces, 1):
                if item.cancelled:
                    return Cancelled()
                said = self._voice.say(self._voice.pronounce(piece), asked.speed, random)
                sound.writeframes((said.clip(-1, 1) * 32767).astype("<i2").tobytes())
                item.progress(done, len(pieces))
            is_silent = not sound.getnframes()
        if is_silent:
            return Reject("Nothing in this text can be spoken: send English words.")
        return Audio(file.getvalue(), name="speech.wav")
