# /// script
# requires-python = ">=3.11"
# dependencies = ["pocketsphinx==5.1.1"]
# ///
"""Speech to text on a CPU, with a small model that comes in a package of PyPI: PocketSphinx."""

import io
import wave
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

import swell
from swell import ui

__all__ = ["Listen", "samples_of"]

RATE_HZ: Final = 16_000
LONGEST_S: Final = 20
#: Of 32,768: who is this quiet says nothing.
_QUIET: Final = 300
NOTHING: Final = "Nothing was understood: speak clearly, and in English."
#: A file of so much sound at the highest rate, in bytes.
_MOST_BYTES: Final = 20_000_000


def samples_of(data: bytes) -> np.ndarray:
    """Return a WAV file as 16 bit samples of one channel at `RATE_HZ`.

    Raises:
        ValueError: It is no such file, or too long.
    """
    try:
        with wave.open(io.BytesIO(data[:_MOST_BYTES])) as file:
            if file.getsampwidth() != 2:
                raise ValueError("give a WAV file of 16 bits")
            rate_hz, channels = file.getframerate(), file.getnchannels()
            if file.getnframes() > LONGEST_S * rate_hz:
                raise ValueError(f"give {LONGEST_S} s of speech at most")
            raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError) as error:
        raise ValueError("give a WAV file") from error
    mono = raw[: raw.size // channels * channels].reshape(-1, channels).mean(axis=1)
    count = int(mono.size * RATE_HZ / rate_hz)
    places = np.arange(count) * rate_hz / RATE_HZ
    return np.interp(places, np.arange(mono.size), mono).astype("<i2") if mono.size else raw


class Listen(swell.Model):
    """Write down what somebody says in English; what is written already stays as it is.

    PocketSphinx is a recogniser of the time before neural networks. It hears clear, short phrases
    of everyday words, and takes many others for something else: it is here because its model comes
    in a package of 30 MB and runs on any CPU. For speech of all kinds serve Whisper in its place.

    | | |
    |---|---|
    | engine | PocketSphinx 5.1.1, BSD-2-Clause, (c) Carnegie Mellon University |
    | English model | BSD-2-Clause, (c) 2015 Alpha Cephei Inc.; it lies in the package |
    | input | WAV of 16 bits, up to 20 s |
    """

    name = "multimodal/listen"
    licence = "BSD-2-Clause"
    credits = (
        "PocketSphinx, (c) Carnegie Mellon University; English model, (c) 2015 Alpha Cephei Inc."
    )
    memory_bytes = 250_000_000
    examples = ({"text": "a red fox in the snow"},)

    class Input(BaseModel):
        """A sound, or words."""

        model_config = ConfigDict(extra="forbid")
        sound: Annotated[swell.Audio | None, Field(title="Speech")] = None
        text: Annotated[str | None, Field(max_length=500, title="Text"), ui.textarea()] = None

    class Output(BaseModel):
        """What was said, and whether it was heard or written."""

        text: str
        by: str

    def load(self, device: str) -> None:
        """Read the model, which lies in the package."""
        from pocketsphinx import Decoder  # noqa: PLC0415 - of this model's own environment

        self._decoder = Decoder(samprate=RATE_HZ, loglevel="ERROR")

    def run(self, items: list[swell.Item[Any]]) -> list["Listen.Output | Exception"]:
        """Listen to each by itself."""
        return [self._one(item.input) for item in items]

    def _one(self, asked: Any) -> "Listen.Output | Exception":
        if asked.text and asked.text.strip():
            return self.Output(text=asked.text.strip(), by="written")
        if asked.sound is None:
            return swell.Reject("Say something, or write it.")
        try:
            samples = samples_of(asked.sound.read())
        except ValueError as error:
            return swell.Reject(f"The sound cannot be used: {error}.")
        if not samples.size or np.abs(samples.astype(np.int32)).max() < _QUIET:
            return swell.Reject(NOTHING)  # the recogniser hears words in silence too
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        if found is None or not found.hypstr.strip():
            return swell.Reject(NOTHING)
        return self.Output(text=found.hypstr.strip(), by="heard")
