"""Turn the voice of `hibari-tts` into what `swell/speech` reads.

    python convert_hibari.py WORK ../packages/swell-models/src/swell_models/weights

The acoustic network (Apache-2.0, Maureese Williams) was distilled from Kokoro-82M (Apache-2.0,
hexgrad). The list of words is that of misaki (Apache-2.0, hexgrad); a second small network reads
words that are not in it, and learnt that from what espeak-ng said, of which nothing is included.
Parts of speech are left out of the list: `swell/speech` does not tell them apart.
"""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx

from halve import halved, run, tidied
from published import write_down
from register import register
from wheel import unpacked

PACKAGE, VERSION = "hibari-tts", "0.2.1"
LICENCE, SOURCE = "Apache-2.0", f"PyPI {PACKAGE} {VERSION}, training/convert_hibari.py"

#: Where the list's first choice is the rarer one: who says "live" means the verb.
PREFERRED = {"live": "VERB", "lives": "VERB"}

#: Written for this comparison.
SENTENCES = (
    "Hello there, this is a small voice that lives on your own machine.",
    "Your picture is ready.",
    "A red fox sleeps in the snow under an old oak tree.",
    "She was painting boats when the rain started, and the children laughed.",
    "On the 3rd of March 2024, 1,250 people paid $9.99 each.",
    "It took 45 seconds and used 3.5 percent of the memory.",
    "Do you want to hear it again? Of course!",
    "The queue has twelve tasks, and yours is the fourth.",
    "I am not sure that the apple is better than the orange.",
    "Dr. Smith's houses were sold in 1999 for 20% less.",
    "NASA and the BBC wrote about GPUs.",
    "We'll watch the stars, won't we?",
    "Swell serves models; it doesn't lose what people asked for.",
    "The quick brown fox jumps over the lazy dog.",
    "He noticed that birches were swaying in the autumn winds.",
    "At 9:30 the train to Lisbon leaves from platform 7.",
)


def words(assets: Path) -> list[str]:
    """Lines of word, sound, and, where it has one, the sound before a pause."""
    found: dict[str, list[str]] = {}
    for name in ("silver", "gold"):
        with gzip.open(assets / f"lexicon_us_{name}.json.gz", "rt", encoding="utf-8") as file:
            for word, sound in json.load(file).items():
                forms = sound if isinstance(sound, dict) else {"DEFAULT": sound}
                plain, pause = forms[PREFERRED.get(word, "DEFAULT")], forms.get("None")
                found[word] = [plain, pause] if pause else [plain]
    return ["\t".join([word, *sounds]) for word, sounds in sorted(found.items())]


def main(work: Path, to: Path) -> None:
    folder = unpacked(work, PACKAGE, VERSION)
    assets = folder / "hibari" / "assets"
    shutil.copy(assets / "hibari.onnx", to / "speech.onnx")
    reader = onnx.load(assets / "oov.onnx")
    small = halved(tidied(onnx.load(assets / "oov.onnx")))
    onnx.save(small, to / "speech-reader.onnx")
    with gzip.GzipFile(to / "speech-words.tsv.gz", "wb", mtime=0) as file:
        file.write(("\n".join(words(assets)) + "\n").encode())
    meta = json.loads((assets / "oov.json").read_text())
    alphabet = {
        "sounds": json.loads((assets / "vocab.json").read_text()),
        "reader_letters": meta["in"],
        "reader_sounds": meta["out"],
        "reader_longest": meta["maxlen"],
    }
    text = json.dumps(alphabet, ensure_ascii=False, separators=(",", ":"))
    (to / "speech-alphabet.json").write_text(text + "\n", encoding="utf-8")
    for name in ("speech.onnx", "speech-reader.onnx", "speech-words.tsv.gz"):
        register(to / name, LICENCE, SOURCE)
    register(to / "speech-alphabet.json", LICENCE, SOURCE)

    letters = {"chars": np.array([[30, 35, 40, 31, 28]], np.int64)}
    same = np.array_equal(run(reader, letters)[0], run(small, letters)[0])
    print("the reader with float16 weights says the same:", same)
    sys.path.insert(0, str(folder))
    voice = importlib.import_module("hibari").Hibari()
    sounds = {text: voice.phonemize(text)[0] for text in SENTENCES}
    said = voice.from_phonemes(sounds[SENTENCES[1]], seed=0)
    loud = np.abs(said[: len(said) // 600 * 600]).reshape(-1, 600).mean(1)
    write_down(
        "speech", {"sounds": sounds, "samples": len(said), "loudness": loud.round(4).tolist()}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
