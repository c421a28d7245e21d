"""English words, and a glossary that translates word by word from five languages.

Adjectives are put before their noun. A word that the glossary does not have stays as it is.
"""

import gzip
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from swell.models.onnx_sessions import weights

_WORD: Final = re.compile(r"[^\W_]+(?:[-\u2019'][^\W_]+)*|[\u2019']|[^\w\s]+|_+", re.UNICODE)
#: Longest phrase of the list, in words.
_LONGEST: Final = 6
#: Shortest word, in letters, that is looked up without its accents.
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
#: By kinds of pieces: a noun, then adjectives, the last perhaps after an "and".
_NOUN_AND_QUALITIES: Final = re.compile(r"[n?]j+(?:cj)?")
#: Where adjectives stand before their noun already.
_ADJECTIVE_FIRST: Final = frozenset({"de"})
#: English words that other languages have too, but next to other words.
_SMALL_WORDS: Final = frozenset(
    ("a", "an", "the", "in", "on", "of", "and", "with", "to", "at", "no", "all", "come")
)
#: With two words after it, an article is English, but for a language that has one like it.
_ARTICLES: Final = frozenset({"a", "an", "the"})
_A_IS_THE: Final = frozenset({"pt"})


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text, as it writes them."""
    return frozenset(text.split())


#: Articles, prepositions, pronouns, conjunctions and auxiliaries, by language.
FUNCTION_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "en": words_of("""
        a about after all also an and any are as at be been before behind being between but by can
        could do does down during for from had has have he her here him his i if in into is it its
        just like me my near no not of off on only onto or our out over she so some than that the
        their them then there these they this those through to under up very was we were what when
        where which while who whose will with without would you your
    """),
    "es": words_of("""
        el la los las lo un una unos unas de del al a en con sin por para sobre bajo entre hacia
        desde hasta y e o u que como pero si no se su sus mi mis tu te me le les nos es son era está
        están fue ser hay ha han este esta estos estas ese esa eso más muy ya también donde cuando
        quien porque todo toda todos yo él ella ellos ni nada nunca siempre cada hace tiene tienen
        puede qué cómo sólo
    """),
    "pt": words_of("""
        o a os as um uma uns umas de do da dos das em no na nos nas ao à aos às com sem por para
        pelo pela sobre sob entre até e ou que como mas se não seu sua seus suas meu minha meus
        minhas te me lhe é são era está estão foi ser há tem este esta isto esse essa isso mais
        muito já também onde quando quem porque todo toda todos eu ele ela eles você nem só num numa
        nada nunca sempre cada faz pode pra pelos pelas
    """),
    "fr": words_of("""
        le la les l un une des du de d au aux à en dans sur sous avec sans pour par chez entre vers
        et ou que qu qui où comme mais si ne n pas plus se s son sa ses mon ma mes ton ta je j tu il
        elle nous vous ils elles on ce c cet cette ces est sont était être a ont y très tout toute
        tous lui leur leurs votre peut fait aussi bien quand même
    """),
    "de": words_of("""
        der die das den dem des ein eine einen einem einer eines und oder aber in im ins an am auf
        aus bei beim mit ohne nach von vom vor zu zum zur für über unter hinter neben zwischen durch
        um als wie dass wenn weil ich du er sie es wir ihr mein meine meinen meiner sein seine
        seinen ihre ihren ist sind war hat haben wird werden nicht kein keine keinen auch nur noch
        sehr so sich man was wer wo dieser diese dieses mich mir dich dir uns ihm ihn bin bist habe
        kann muss soll hier dort dann doch alle
    """),
    "it": words_of("""
        il lo la l i gli le un uno una di d del dello della dei degli delle dell a al allo alla ai
        agli alle all da dal dallo dalla dai in nel nello nella nei nelle nell su sul sullo sulla
        sui sulle sull con senza per tra fra sotto sopra e ed o ma che come se non mi ti si ci vi
        suo sua suoi sue mio mia miei mie è sono era sta stanno ha hanno c questo questa questi
        quello quella quelle quel più molto anche dove quando chi io lui lei noi loro ho hai fa ogni
        così perché dopo prima sempre mai
    """),
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some English words for some of the text. Kinds: a p c j n v, `.` for marks, `?` unknown."""

    english: str
    kind: str
    #: Number of words of the text that it translates, and whether no space precedes them.
    words: int = 1
    glued: bool = False


class Glossary:
    """Translates word by word.

    Args:
        path: `glossary.tsv`: language, word, kind and English, a row each.
    """

    def __init__(self, path: Path) -> None:
        self._known: dict[str, dict[str, tuple[str, str]]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            language, word, kind, english = line.split("\t")
            self._known.setdefault(language, {})[word] = (english, kind)
        self._folded = {language: _by_fold(known) for language, known in self._known.items()}

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that it translates from."""
        return tuple(self._known)

    def known(self, text: str, language: str, english: Container[str] = frozenset()) -> float:
        """Return which share of the words it knows, 0 to 1, with those that are English."""
        pieces = self._pieces(text, language, english)
        count = sum(piece.words for piece in pieces if piece.kind != ".")
        return sum(p.words for p in pieces if p.kind not in ".?") / count if count else 0.0

    def has(self, word: str, language: str) -> bool:
        """Whether the list of a language has a word."""
        return self._found(word.lower(), language) is not None

    def __call__(self, text: str, language: str, english: Container[str] = frozenset()) -> str:
        """Return the text in English; unknown words stay as they are.

        Args:
            text: A few words.
            language: Which list to use.
            english: Words that stay as they are where they stand among others of these, one of
                which the language has not: a red fox en la nieve.
        """
        pieces = self._pieces(text, language, english)
        if language not in _ADJECTIVE_FIRST:
            pieces = _adjectives_first(pieces)
        return _written(pieces)

    def _pieces(
        self, text: str, language: str, english: Container[str] = frozenset()
    ) -> list[_Piece]:
        words = [(m.group(), m.start(), m.end()) for m in _WORD.finditer(_parted(text, language))]
        kept = self._kept([word for word, _, _ in words], language, english)
        pieces: list[_Piece] = []
        at, ended = 0, -1
        while at < len(words):
            glued = words[at][1] == ended
            piece = self._longest([word for word, _, _ in words[at : at + _LONGEST]], language)
            if at in kept and piece.words == 1:
                word = words[at][0]
                piece = _Piece(word, "p" if word.lower() in _SMALL_WORDS else "n")
            pieces.append(_Piece(piece.english, piece.kind, piece.words, glued))
            at += piece.words
            ended = words[at - 1][2]
        return pieces

    def _kept(self, words: Sequence[str], language: str, english: Container[str]) -> set[int]:
        """Return the places of words that are English already.

        That is runs of its words with one that only English has, or behind its article.
        """
        kept, run = set[int](), list[int]()
        for at, word in enumerate((*words, "")):
            if word.lower() in english:
                run.append(at)
                continue
            said = [words[i].lower() for i in run]
            content = [word for word in said if word not in _SMALL_WORDS]
            begins = language not in _A_IS_THE and len(content) > 1 and said[0] in _ARTICLES
            if begins or not all(self.has(word, language) for word in content):
                kept.update(run)
            run = []
        return kept

    def _longest(self, words: Sequence[str], language: str) -> _Piece:
        """Return what the first of these words means, with as many of the next as the list has."""
        if not any(letter.isalnum() for letter in words[0]):
            return _Piece(words[0], ".")
        for count in range(len(words), 0, -1):
            phrase = " ".join(words[:count])
            # A German noun that is an adjective in small letters: Junge.
            found = self._known[language].get(phrase) or self._found(phrase.lower(), language)
            if found is not None:
                return _Piece(*found, count)
        return _Piece(words[0], "?")

    def _found(self, phrase: str, language: str) -> tuple[str, str] | None:
        """Look a phrase up as it is written, then without accents, then less its ending."""
        known, folded = self._known[language], self._folded[language]
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
    """Return what words with accents mean by how they are typed without.

    Of words that are typed alike, one that the text encoder knows comes first. A word that exists
    without accents, in this language or as a small word of English, keeps its own meaning: thé.
    """
    drawn, found = _english_words(), dict[str, tuple[str, str]]()
    for word, row in known.items():
        bare = fold(word)
        if bare == word or bare in known or bare in _SMALL_WORDS or len(bare) < _SHORTEST_FOLD:
            continue
        if bare not in found or (found[bare][0] not in drawn and row[0] in drawn):
            found[bare] = row
    return found


def _parted(text: str, language: str) -> str:
    """Return the text with what French and Italian write together taken apart: l'orso, l' orso."""
    if language not in ("fr", "it"):
        return text
    return re.sub(r"\b(\w{1,5})[\u2019'](?=\w)", r"\1 ", text)


def _adjectives_first(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Put the adjectives after a noun before it: gato azul pequeño, gato azul y pequeño.

    The last comes first, unless they are joined.
    """
    kinds = "".join(piece.kind for piece in pieces)
    found = list(pieces)
    for match in _NOUN_AND_QUALITIES.finditer(kinds):
        noun, *qualities = pieces[match.start() : match.end()]
        if "c" not in match.group():
            qualities.reverse()
        found[match.start() : match.end()] = [*qualities, noun]
    return found


def _written(pieces: Sequence[_Piece]) -> str:
    """Join the pieces, with the right article."""
    text = ""
    for piece in pieces:
        text += piece.english if piece.glued or not text else f" {piece.english}"
    text = re.sub(r"\b(a|the) (?:a|the)\b", r"\1", text)
    return re.sub(r"\ba(?= [aeiou])", "an", text)


class English:
    """The words of English. A sorted list loads in a quarter of the time that a set takes."""

    def __init__(self, path: Path) -> None:
        self._words = gzip.decompress(path.read_bytes()).split()
        foreign = (FUNCTION_WORDS[language] for language in ENDINGS)
        self._foreign = frozenset[str]().union(*foreign) - _SMALL_WORDS

    def __contains__(self, word: object) -> bool:
        if not isinstance(word, str) or word in self._foreign:
            return False
        raw = word.encode(errors="replace")
        at = bisect_left(self._words, raw)
        return word in FUNCTION_WORDS["en"] or self._words[at : at + 1] == [raw]


@cache
def word_lists() -> tuple[English, Glossary]:
    """Return the lists that ship, once for all models of a process."""
    return English(weights("english.txt.gz")), Glossary(weights("glossary.tsv"))


@cache
def _english_words() -> frozenset[str]:
    """Return the words that are a single piece for the text encoder."""
    lines = weights("icons-vocab.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line.isascii() and line.isalpha() and len(line) > 2)
