"""The translator of a company: the built-in one, with the company's own words.

The glossary is one of the model's files. So it is part of the version: with another word in it the
model is another, and what was translated before is not taken for what it would be now.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

import swell
from swell.models.onnx_sessions import weights
from swell.settings.environment import argos_folders
from swell_models.translate import Translator

__all__ = ["CompanyTranslate", "read_glossary", "taken_apart"]

GLOSSARY: Final = Path(__file__).with_name("glossary.tsv")


def read_glossary(text: str) -> dict[str, str]:
    """Return the words of a glossary, by how they are written in small letters."""
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return {row[0].strip().lower(): row[-1].strip() for row in rows}


def taken_apart(text: str, words: Mapping[str, str]) -> list[tuple[str, bool]]:
    """Return a text in parts, each with whether it is one of the words; the longest come first."""
    if not words:
        return [(text, False)]
    longest = sorted(words, key=len, reverse=True)
    found = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
    parts = [(part, at % 2 == 1) for at, part in enumerate(found.split(text))]
    return [(part, is_word) for part, is_word in parts if part]


class CompanyTranslate(swell.Model):
    """Brings texts into English, with the company's own words as the company has them.

    What is between these words `swell/translate` translates: word by word from five languages, and
    whole sentences with packages of Argos Translate. Its card says how good that is: word by word
    is enough for a label, and not for a letter.
    """

    name = "company/translate"
    licence = "Apache-2.0 AND Unicode-3.0; Argos packages under their own"
    memory_bytes = 40_000_000
    files: Sequence[Path] = (GLOSSARY, weights("glossary.tsv.gz"), weights("languages.npz"))
    examples = ({"text": "un gato azul en la casa matriz"},)
    batch = swell.Batch(max=64)

    class Input(BaseModel):
        """What to translate."""

        model_config = ConfigDict(extra="forbid")
        text: Annotated[str, Field(min_length=1, max_length=2000, title="Text")]
        source: Annotated[str, Field(pattern="^(auto|[a-z]{2,3})$", title="From")] = "auto"

    class Output(BaseModel):
        """The text in English, what it was in, and how many words of the glossary are in it."""

        text: str
        language: str
        known: float
        words: int

    def load(self, device: str) -> None:
        """Read the lists."""
        self._words = read_glossary(GLOSSARY.read_text(encoding="utf-8"))
        self._translator = Translator(argos_folders())

    def run(self, items: list[swell.Item[Any]]) -> list["CompanyTranslate.Output | Exception"]:
        """Translate each by itself."""
        return [self._one(item.input) for item in items]

    def _one(self, asked: Any) -> "CompanyTranslate.Output | Exception":
        parts = taken_apart(asked.text, self._words)
        between = " ".join(part for part, is_word in parts if not is_word)
        language = self._translator.detect(between) if asked.source == "auto" else asked.source
        if language not in ("en", *self._translator.languages):
            return swell.Reject(f"there is no translation from {language!r} here")
        said, known = [], []
        for part, is_word in parts:
            if is_word:
                said.append(self._words[part.lower()])
            elif part.strip():
                made = self._translator(part.strip(), language)
                known.append(made.known)
                lead = part[: len(part) - len(part.lstrip())]
                said.append(lead + made.text + part[len(part.rstrip()) :])
            else:
                said.append(part)
        share = sum(known) / len(known) if known else 1.0
        words = sum(is_word for _, is_word in parts)
        return self.Output(
            text="".join(said), language=language, known=round(share, 3), words=words
        )
