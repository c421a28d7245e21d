"""English words, and a glossary of five other languages."""

import gzip
import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from swell.models.onnx_sessions import weights

#: Shortest word, in letters, to find without its accents.
_SHORTEST_FOLD: Final = 3
#: Endings that a word may have lost or changed against the list: (ending, in its place).
ENDINGS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "es": (
        ("s", ""),
        ("es", ""),
        ("as", "o"),
        ("a", "o"),
        ("ita", "a"),
        ("ito", "o"),
        ("ces", "z"),
    ),
    "pt": (
        ("s", ""),
        ("es", ""),
        ("as", "o"),
        ("a", "o"),
        ("inha", "a"),
        ("inho", "o"),
        ("ns", "m"),
    ),
    "fr": (("s", ""), ("x", ""), ("e", ""), ("es", ""), ("aux", "al")),
    "de": (("e", ""), ("n", ""), ("en", ""), ("er", ""), ("es", ""), ("s", ""), ("em", "")),
    "it": (("i", "o"), ("e", "a"), ("i", "e"), ("a", "o"), ("ini", "ino"), ("he", "a")),
}
#: English words that other languages have too, but next to other words.
SMALL_WORDS: Final = frozenset(
    ("a", "an", "the", "in", "on", "of", "and", "with", "to", "at", "no", "all", "come")
)


class Glossary:
    """English words for words of other languages.

    Args:
        path: `glossary.tsv.gz`: language, word, kind and English, a row each.
    """

    def __init__(self, path: Path) -> None:
        self.known: dict[str, dict[str, tuple[str, str]]] = {}
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            language, word, kind, english = line.split("\t")
            self.known.setdefault(language, {})[word] = (english, kind)
        self._folded = {language: _by_fold(known) for language, known in self.known.items()}

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages, by code."""
        return tuple(self.known)

    def has(self, word: str, language: str) -> bool:
        """Whether the list of a language has a word."""
        return self.find(word.lower(), language) is not None

    def find(self, phrase: str, language: str) -> tuple[str, str] | None:
        """Return English for a phrase in lower case, and its kind; None if it is unknown.

        The lookup tries the phrase as written, then without accents, then without its ending.
        """
        known, folded = self.known[language], self._folded[language]
        bare = fold(phrase)
        if found := known.get(phrase) or folded.get(bare):
            return found
        for ending, instead in ENDINGS[language]:
            if phrase.endswith(ending) and len(stem := phrase.removesuffix(ending) + instead) > 2:
                found = known.get(stem) or folded.get(bare.removesuffix(ending) + instead)
                if found:
                    return found
        return None


def fold(text: str) -> str:
    """Return a text without accents, as many type it: aviao."""
    if text.isascii():
        return text
    parts = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def _by_fold(known: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the meanings of words with accents, by their spelling without accents.

    Of words with the same spelling, one that the text encoder knows comes first. A word that exists
    without accents, in this language or as a small word of English, keeps its own meaning: thé.
    """
    drawn, found = _english_words(), dict[str, tuple[str, str]]()
    for word, row in known.items():
        bare = fold(word)
        if bare == word or bare in known or bare in SMALL_WORDS or len(bare) < _SHORTEST_FOLD:
            continue
        if bare not in found or (found[bare][0] not in drawn and row[0] in drawn):
            found[bare] = row
    return found


class English:
    """The words of English. A sorted list loads in a quarter of the time that a set takes."""

    def __init__(self, path: Path) -> None:
        self._words = gzip.decompress(path.read_bytes()).split()

    def __contains__(self, word: object) -> bool:
        if not isinstance(word, str):
            return False
        raw = word.encode(errors="replace")
        at = bisect_left(self._words, raw)
        return self._words[at : at + 1] == [raw]


@cache
def word_lists() -> tuple[English, Glossary]:
    """Return the lists that ship, once for all models of a process."""
    return English(weights("english.txt.gz")), Glossary(weights("glossary.tsv.gz"))


@cache
def _english_words() -> frozenset[str]:
    """Return the words that are a single piece for the text encoder."""
    lines = weights("icons-vocab.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line.isascii() and line.isalpha() and len(line) > 2)
