"""Translates word by word from five languages.

Adjectives are put before their noun. Unknown words stay as they are.
"""

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from swell.models.onnx_sessions import weights
from swell.models.word_lists import ENDINGS, SMALL_WORDS, English, Glossary

_WORD: Final = re.compile(r"[^\W_]+(?:[-\u2019'][^\W_]+)*|[\u2019']|[^\w\s]+|_+", re.UNICODE)
#: Longest phrase of the list, in words.
_LONGEST: Final = 6
#: By kinds of pieces: a noun, then adjectives, the last perhaps after an "and".
_NOUN_AND_QUALITIES: Final = re.compile(r"[n?]j+(?:cj)?")
#: Where adjectives stand before their noun already.
_ADJECTIVE_FIRST: Final = frozenset({"de"})
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


class WordByWord(Glossary):
    """Translates word by word. See `Glossary`."""

    def share(self, text: str, language: str, english: Container[str] = frozenset()) -> float:
        """Return the share of known words, 0 to 1; English words count as known."""
        pieces = self._pieces(text, language, english)
        count = sum(piece.words for piece in pieces if piece.kind != ".")
        return sum(p.words for p in pieces if p.kind not in ".?") / count if count else 0.0

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
                piece = _Piece(word, "p" if word.lower() in SMALL_WORDS else "n")
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
            content = [word for word in said if word not in SMALL_WORDS]
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
            found = self.known[language].get(phrase) or self.find(phrase.lower(), language)
            if found is not None:
                return _Piece(*found, count)
        return _Piece(words[0], "?")


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


class OnlyEnglish(English):
    """Words of English, without function words of other languages."""

    _foreign = frozenset[str]().union(*(FUNCTION_WORDS[each] for each in ENDINGS)) - SMALL_WORDS

    def __contains__(self, word: object) -> bool:
        is_small = word in FUNCTION_WORDS["en"]
        return word not in self._foreign and (is_small or super().__contains__(word))


@cache
def translation_lists() -> tuple[English, WordByWord]:
    """Return the lists, once for all models of a process."""
    return OnlyEnglish(weights("english.txt.gz")), WordByWord(weights("glossary.tsv.gz"))
