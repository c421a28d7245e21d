"""Checks prompts for content that an operator refuses.

The check compares a prompt with lists of words by category. First it undoes common disguises:
accents, signs for letters, letters of other scripts that look alike, invisible characters, letters
drawn out, spaced out or starred out, and words in two pieces. It matches whole words and beginnings
of words, so Scunthorpe is a town. It excludes harmless phrases first, so a naked mole rat is an
animal. The check learns nothing and reads words alone, so the picture is checked too
(`swell.models.safety`).
"""

# This module needs letters that look like others.
# ruff: noqa: RUF001

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import weights
from swell.sdk.context import Item
from swell.sdk.model import Model

#: What can be refused. `minors` is a child together with anything sexual, never a child alone.
CATEGORIES: Final = ("minors", "sexual", "obscene", "gore", "hate", "self-harm")

#: Lists that count only together with others: words that are sexual next to a child, words with a
#: second meaning, people whom that meaning needs, and words that mark the language of a prompt.
_SUGGESTIVE, _DOUBLE, _COMPANY, _SMALL = "suggestive", "obscene?", "company", "small"
_SEXUAL: Final = frozenset({"sexual", "obscene", _SUGGESTIVE})
#: Lists of words that may be written together: nakedgirl.
_GLUED: Final = _SEXUAL | {"minors"}
#: Lists of words that may be starred out.
_STARS: Final = _GLUED | {_DOUBLE}
_SHORTEST_PART: Final = 3
#: People in compounds with sexual words: nakedwoman.
_PEOPLE: Final = frozenset(("woman", "women", "man", "men", "lady", "ladies", "guy", "guys"))
#: Shortest word that is searched in two pieces, nak ed, or with letters starred out.
_SHORTEST_BROKEN, _SHORTEST_STARRED = 5, 4
#: Adjacent words that form another word together.
_APART: Final = frozenset(
    {("top", "less"), ("shot", "as"), ("min", "or"), ("mi", "nor"), ("un", "dress")}
)
#: Longest phrase of the lists, in words; and in letters where nothing stands between words.
_LONGEST: Final = 6
_LONGEST_RUN_ON: Final = 10

#: Signs used as letters.
_LEET: Final = str.maketrans("0134578@$€!|", "oieastbaseil")
#: Those that may also be another letter.
_LEET_TOO: Final = str.maketrans("1!|", "lli")
#: Letters in a circle or a square, white on black, which Unicode takes for pictures.
_BADGES: Final = {
    first + n: "abcdefghijklmnopqrstuvwxyz"[n] for first in (0x1F150, 0x1F170) for n in range(26)
}
#: Letters that look like Latin ones, in the order of the second line.
_ALIKE: Final = str.maketrans(
    "аеорсухіѕјһԁԛԝкмтвнпгɑɡıøłđαβγεηικνορτυχωϲօսհոᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ",
    "aeopcyxisjhdqwkmtbhnragioldabyenikvoptuxwcouhnabcdefghijklmnoprstuvwyz",
)
#: A word of these alone may be a Latin one, though it has no Latin letter.
_TWINS: Final = frozenset("аеорсухіѕјкмт")
_CYRILLIC: Final = str.maketrans("aeopcyxkmthb", "аеорсухкмтнв")
#: Letters of other scripts that are drawn as nothing.
_UNSEEN: Final = frozenset("\u115f\u1160\u2800\u3164\u17b4\u17b5")
#: Marks that make another letter of a Japanese one.
_VOICED: Final = "\u3099\u309a"
_SPACED: Final = re.compile(r"(?<!\S)(?:\S[ .\-_*]){2,}\S(?!\S)")
_SIGNS: Final = re.compile(r"[ .\-_*]")
_SPACES: Final = re.compile(r"\s+")
#: One or two letters of a word starred out, of twelve at most: ch*ld.
_STARRED: Final = re.compile(r"(?<![\w*])(?=[\w*]{4,12}(?![\w*]))[a-z]+\*[a-z]*\*?[a-z]+")
_INSIDE: Final = re.compile(r"(?<=\w)[.\-_*\u00b7'\u2019|/]+(?=\w)")
#: Three letters with separators.
_SHORTEST_RUN: Final = 4
_DRAWN_OUT: Final = re.compile(r"(.)\1{2,}")
_NOT_WORD: Final = re.compile(r"[\W_]+")
_WORD: Final = re.compile(r"\w+")
#: Characters of scripts that put no spaces between words: Thai, kana, Chinese.
_RUN_ON: Final = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")

_ADULT_AGE: Final = 18
#: Numbers in words; bare, as a reading is. English, Spanish, Portuguese, French, German, Italian
#: and Russian, each from 1 to 17.
_NUMBERS: Final = (
    "one un uno una um uma ein ein eine eines один одна",
    "two dos dois duas deux zwei due два две",
    "three tres trois drei tre три",
    "four cuatro quatro quatre vier quattro четыре",
    "five cinco cinq funf cinque пять пяти",
    "six seis sechs sei шесть шести",
    "seven siete sete sept sieben sette семь семи",
    "eight ocho oito huit acht otto восемь восьми",
    "nine nueve nove neuf neun девять девяти",
    "ten diez dez dix zehn dieci десять десяти",
    "eleven once onze elf undici одиннадцать одиннадцати",
    "twelve doce doze douze zwolf dodici двенадцать двенадцати",
    "thirteen trece treze treize dreizehn tredici тринадцать тринадцати",
    "fourteen catorce catorze quatorze vierzehn quattordici четырнадцать четырнадцати",
    "fifteen quince quinze funfzehn quindici пятнадцать пятнадцати",
    "sixteen dieciseis dezesseis seize sechzehn sedici шестнадцать шестнадцати",
    "seventeen diecisiete dezessete siebzehn diciassette семнадцать семнадцати",
)
_BY_NAME: Final = {name: n for n, names in enumerate(_NUMBERS, 1) for name in names.split()}
_NUMBER: Final = rf"(?<!\d)(?:\d{{1,2}}|{'|'.join(sorted(_BY_NAME, key=len, reverse=True))})"
#: Twenty-five is not five.
_TENS: Final = (
    r"(?:(?P<tens>twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|veinte|treinta"
    r"|cuarenta|cincuenta|sesenta|setenta|ochenta|noventa|vinte|trinta|quarenta|cinquenta"
    r"|sessenta|vingt|trente|quarante|cinquante|soixante|двадцать|тридцать|сорок|пятьдесят)"
    r" (?:y |e |et |and )?)?"
)
_AGE: Final = re.compile(
    rf"\b{_TENS}(?P<age>{_NUMBER}) ?"
    r"(?:(?:year|yr)s?(?: ?olds?)?|yo|y o|anos?|anitos|aninhos|ans|jahren?|ja(?:e)?hrig\w*|anni"
    r"|лет|летн\w+|года?|годик\w*)(?!\w)"
)
_SAID_AGE: Final = re.compile(
    r"\b(?:(?:age|aged|ages|edad|idade|alter|возраст\w*)(?: of| de| is)?|(?:s?he|who) (?:is|s)"
    r"|i (?:am|m)) (?P<age>\d{1,2}|ten|eleven|twelve|\w+teen)(?!\w)"
    # Tall, far, or likely.
    r"(?! ?(?:feet|foot|ft|inches|met(?:er|re)s?|miles|km|cm|percent)\b)"
)
_NEWBORN: Final = re.compile(r"\b\d{1,2} (?:month|week|day)s? old\b")
_AGE_RUN_ON: Final = re.compile(
    r"(?<!\d)(?P<age>\d{1,2}|[一二三四五六七八九十]{1,3}) ?(?:周?[岁歲]|[歳才]|세|살)"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The categories and words that a check found.

    Args:
        categories: Category → the words of its list that the prompt holds, none of them twice.
    """

    categories: Mapping[str, tuple[str, ...]]

    def refused(self, categories: Collection[str]) -> tuple[str, ...]:
        """Return those of `categories` that were found, in their order in `CATEGORIES`."""
        return tuple(c for c in CATEGORIES if c in self.categories and c in categories)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A place of a word on the lists."""

    category: str
    language: str
    #: English has the word too: it counts only next to another word of its language.
    is_shared: bool


class PromptWords:
    """Looks for words of the lists.

    Args:
        path: `prompt-words.json`, which `training/prompt_words.py` writes: category → language →
            words. A star at the end of a word matches any ending.
        more: An operator's own lists, category → words, in the same format.
    """

    def __init__(self, path: Path, more: Mapping[str, Sequence[str]] | None = None) -> None:
        lists: dict[str, dict[str, list[str]]] = json.loads(path.read_text(encoding="utf-8"))
        self._harmless, self._harmless_run_on = _phrases(lists.pop("harmless")["en"])
        self._words: dict[str, list[_Entry]] = {}
        self._stems: dict[str, list[_Entry]] = {}
        self._run_on: dict[str, list[_Entry]] = {}
        for category, languages in lists.items():
            for language, words in languages.items():
                self._add(category, language, words)
        for category, own in (more or {}).items():
            self._add(category, "", own)
        #: English words that may be starred out, by length and by first and last letter.
        self._alike: dict[tuple[int, str, str], list[str]] = {}
        for word, entries in chain(self._words.items(), self._stems.items()):
            if len(word) >= _SHORTEST_STARRED and any(map(_is_english, entries)):
                self._alike.setdefault((len(word), word[0], word[-1]), []).append(word)

    def __call__(self, *texts: str) -> Finding:
        """Return what any of these texts holds, such as a prompt and its translation."""
        hits = [hit for text in texts for hit in self._starred(_bare(text))]
        readings = list[str]()
        for text in texts:
            for reading in _readings(text):
                phrases, spoken = self._spoken(reading)
                hits += [(one, entry) for one in phrases for entry in self._words.get(one, ())]
                readings.append(spoken)
        hits += [hit for reading in readings for hit in self._hits(reading)]
        found: dict[str, dict[str, None]] = {}
        for word, category in _counted(hits):
            found.setdefault(category, {})[word] = None
        ages = [age for reading in readings for age in self._ages(reading)]
        if ages and min(ages) < _ADULT_AGE:
            found.setdefault("minors", {})[f"{min(ages)} years"] = None
        if found.keys() & _SEXUAL:
            if "minors" in found:
                found["minors"] |= found.get(_SUGGESTIVE, {})
        else:
            found.pop("minors", None)
        found.pop(_SUGGESTIVE, None)
        return Finding({name: tuple(words) for name, words in found.items()})

    def _add(self, category: str, language: str, words: Iterable[str]) -> None:
        for word in words:
            entry = _Entry(category, language, word.startswith("~"))
            key = " ".join(_NOT_WORD.sub(" ", _bare(word)).split())
            if _RUN_ON.search(key):
                self._run_on.setdefault(key, []).append(entry)
            elif key:
                where = self._stems if word.endswith("*") else self._words
                where.setdefault(key, []).append(entry)

    def _hits(self, reading: str) -> Iterator[tuple[str, _Entry]]:
        """Yield the listed words that a reading holds, with their entries."""
        words = reading.split()
        yield from self._broken(words)
        for at, word in enumerate(words):
            for end in range(at + 1, min(at + _LONGEST, len(words)) + 1):
                phrase = " ".join(words[at:end])
                yield from ((phrase, entry) for entry in self._words.get(phrase, ()))
            for length in range(2, len(word) + 1):
                yield from ((word, entry) for entry in self._stems.get(word[:length], ()))
            # 1girl, kid12
            letters = word.strip("0123456789")
            if letters != word:
                yield from ((letters, entry) for entry in self._words.get(letters, ()))
            yield from self._parts(letters)
            if _RUN_ON.search(word):
                yield from self._inside(word)

    def _parts(self, word: str) -> Iterator[tuple[str, _Entry]]:
        """Take a word apart that is two English ones of the lists: nakedgirl."""
        for cut in range(_SHORTEST_PART, len(word) - _SHORTEST_PART + 1):
            first, second = (
                [entry for entry in self._words.get(part, ()) if _is_glued(entry)]
                for part in (word[:cut], word[cut:])
            )
            if (first and second) or _is_of_people(word[:cut], second, word[cut:], first):
                yield from ((word[:cut], entry) for entry in first)
                yield from ((word[cut:], entry) for entry in second)

    def _broken(self, words: Sequence[str]) -> Iterator[tuple[str, _Entry]]:
        """Put two pieces together that are one English word of the lists: nak ed."""
        for one, other in pairwise(words):
            entries = self._words.get(one + other)
            if not entries or len(one + other) < _SHORTEST_BROKEN or (one, other) in _APART:
                continue
            if len(one) > 1 and len(other) > 1:
                yield from ((one + other, entry) for entry in entries if _is_plain(entry))

    def _starred(self, text: str) -> Iterator[tuple[str, _Entry]]:
        """Say which words of the lists those with letters starred out may be."""
        for hidden in sorted(set(_STARRED.findall(text.replace("•", "*")))):
            for word in self._alike.get((len(hidden), hidden[0], hidden[-1]), ()):
                if all(sign in ("*", letter) for sign, letter in zip(hidden, word, strict=True)):
                    entries = chain(self._words.get(word, ()), self._stems.get(word, ()))
                    yield from ((word, entry) for entry in entries if _is_english(entry))

    def _inside(self, word: str) -> Iterator[tuple[str, _Entry]]:
        """Find phrases in text without spaces."""
        for at in range(len(word)):
            for end in range(at + 1, min(at + _LONGEST_RUN_ON, len(word)) + 1):
                part = word[at:end]
                yield from ((part, entry) for entry in self._run_on.get(part, ()))

    def _spoken(self, reading: str) -> tuple[list[str], str]:
        """Return the harmless phrases, and the text without them."""
        phrases: list[str] = []

        def left(match: re.Match[str]) -> str:
            phrases.append(match.group())
            return " / "

        spoken = self._harmless.sub(left, reading)
        return phrases, self._harmless_run_on.sub(" ", spoken)

    def _ages(self, reading: str) -> Iterator[int]:
        for pattern in (_AGE, _SAID_AGE, _AGE_RUN_ON):
            for match in pattern.finditer(reading):
                if not match.groupdict().get("tens"):
                    yield _number(match["age"])
        if _NEWBORN.search(reading):
            yield 0


def _phrases(listed: Sequence[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of phrases: where spaces stand between words, and where none do."""
    with_spaces, without = (
        sorted((p for p in listed if bool(_RUN_ON.search(p)) is runs_on), key=len, reverse=True)
        for runs_on in (False, True)
    )
    spoken = (_NOT_WORD.sub(" ", re.sub(r"[#*]", _wild, _bare(phrase))) for phrase in with_spaces)
    either = "|".join(spoken).replace("anynumber", r"\d+").replace("anyending", r"\w*")
    return re.compile(f"(?<= )(?:{either})(?= )"), re.compile("|".join(map(_bare, without)))


def _wild(match: re.Match[str]) -> str:
    return "anynumber" if match.group() == "#" else "anyending"


def _is_english(entry: _Entry) -> bool:
    return entry.language == "en" and entry.category in _STARS


def _is_plain(entry: _Entry) -> bool:
    """Whether an English word is of a child, or sexual by itself."""
    return entry.language == "en" and entry.category in ("sexual", "minors")


def _is_of_people(one: str, two_is: list[_Entry], two: str, one_is: list[_Entry]) -> bool:
    """Whether one of two parts of a word is who, and the other sexual."""
    return any(
        who in _PEOPLE and any(entry.category == "sexual" for entry in other)
        for who, other in ((one, two_is), (two, one_is))
    )


def _is_glued(entry: _Entry) -> bool:
    return entry.language == "en" and entry.category in _GLUED


def _counted(hits: Sequence[tuple[str, _Entry]]) -> Iterator[tuple[str, str]]:
    """Yield words that count, with their category: some need other words."""
    spoken = {entry.language for _, entry in hits if not entry.is_shared}
    beside = {entry.category for _, entry in hits} - {_SMALL, _DOUBLE}
    has_company = bool(beside & (_GLUED | {_COMPANY}))
    for word, entry in hits:
        if entry.is_shared and entry.language not in spoken:
            continue
        if entry.category == _DOUBLE:
            if has_company:
                yield word, "obscene"
        elif entry.category not in (_SMALL, _COMPANY):
            yield word, entry.category


def _number(text: str) -> int:
    """Return a number up to 99 that is written in figures or in words of the ages' languages."""
    if text.isdecimal():
        return int(text)
    if text in _BY_NAME:
        return _BY_NAME[text]
    if text[0] in "一二三四五六七八九十":
        tens, ten, ones = text.rpartition("十")
        value = {"": 0} | {sign: n for n, sign in enumerate("一二三四五六七八九", 1)}
        return 10 * value.get(tens, 1) * bool(tens) + 10 * (bool(ten) and not tens) + value[ones]
    return _ADULT_AGE


def _readings(text: str) -> set[str]:
    """Return the possible readings of a text, with disguises undone."""
    # Invisible characters may hide a word, or replace a space.
    plain = {_bare(text), _bare("".join(" " if _is_unseen(c) else c for c in text))}
    plain |= {_WORD.sub(_in_latin, way) for way in plain}
    plain |= {_WORD.sub(_in_cyrillic, way) for way in plain}
    # An article may come before a spaced-out word; it is not part of the word.
    close = plain | {_SPACES.sub(" ", way) for way in plain}
    runs = [(run, run[2:]) for way in close for run in _SPACED.findall(way)]
    together = {_SIGNS.sub("", one) for run in runs for one in run if len(one) > _SHORTEST_RUN}
    ways = plain | together | {_INSIDE.sub("", way) for way in plain}
    ways |= {way.translate({**_LEET, **more}) for way in ways for more in ({}, _LEET_TOO)}
    ways |= {_DRAWN_OUT.sub(letters, way) for way in tuple(ways) for letters in (r"\1", r"\1\1")}
    return {f" {_NOT_WORD.sub(' ', way).strip()} " for way in ways}


def _in_latin(match: re.Match[str]) -> str:
    """Return a word with its lookalike letters replaced by Latin ones, if it may be Latin."""
    word = match.group()
    is_foreign = any("\u0370" <= letter <= "\u058f" for letter in word)
    may_be_latin = _TWINS.issuperset(word) or any("a" <= letter <= "z" for letter in word)
    return word.translate(_ALIKE) if may_be_latin or not is_foreign else word


def _in_cyrillic(match: re.Match[str]) -> str:
    word = match.group()
    return word.translate(_CYRILLIC) if any("а" <= letter <= "я" for letter in word) else word


def _is_unseen(letter: str) -> bool:
    return letter in _UNSEEN or unicodedata.category(letter) in ("Cf", "Cc")


def _bare(text: str) -> str:
    """Return a text in lower case without accents and invisible characters."""
    seen = "".join(c for c in text if c.isspace() or not _is_unseen(c))
    known = unicodedata.normalize("NFKC", seen.translate(_BADGES)).casefold()
    parts = unicodedata.normalize("NFKD", known)
    kept = "".join(c for c in parts if c in _VOICED or unicodedata.category(c) not in ("Mn", "Me"))
    return unicodedata.normalize("NFC", kept).strip()


class PromptCheck(Model):
    """Checks prompts for content that is not allowed.

    A building block for pipelines. It compares the words of a prompt with lists, by category:

    | category | found by |
    |---|---|
    | `minors` | a child, or an age below 18, together with anything sexual or obscene |
    | `sexual` | bare skin and acts; underwear and "sexy" count next to a child only |
    | `gore`, `hate`, `self-harm` | short lists, English and a little of three more |
    | `obscene` | LDNOOBW, 13 languages (CC BY 4.0), less what names things to draw; some more |

    Words for children and for sex are English, Spanish, Portuguese, French, German,
    Italian, Russian, Japanese, Chinese and Korean; ages are read in figures, and up to 17 in words.
    Undone first are letters of other scripts and in badges, figures and signs for letters,
    invisible characters, letters spaced or drawn out, one or two letters starred out of an English
    word, and an English word in two pieces. Not undone are words that are misspelt, turned around
    or spelt with flags, and an age in Roman figures. Some phrases are known to be harmless ("naked
    mole rat", "minor key"); "sex education for kids" is not one of them, and "girl" is a child
    here.

    It goes as far as its words go. It reads words, not intentions: it lets through paraphrases,
    new spellings and other languages, and refuses some that was harmless.
    It is no promise that nothing slips through, and no filter for what the law forbids: let it be
    the first of two checks, with `swell/safety` on the picture, and people behind both.
    Time: 0.2 ms for a few words, 30 ms for 5,000 characters, a third of a second for the worst.
    """

    name = "swell/prompt-check"
    licence = "Apache-2.0 AND CC-BY-4.0"
    credits = """
    Obscene words: "List of Dirty, Naughty, Obscene, and Otherwise Bad Words" by LDNOOBW
    ([CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)), changed.
    """
    memory_bytes = 21_000_000
    speed = (Speed("one core of an AMD EPYC", "a prompt", 0.0002, "2026-11-25"),)
    samples = {"what may be drawn, and what not": "samples/prompt-check.txt"}
    examples = (
        {"text": "a red fox in the snow"},
        {"text": "a gory battle scene", "refuse": ["gore"]},
    )

    class Input(BaseModel):
        """What to check, and for what."""

        text: Annotated[
            str,
            Field(
                min_length=1, max_length=5000, title="Prompt", description="The prompt to check."
            ),
            ui.textarea(rows=2),
        ]
        refuse: Annotated[
            list[Literal["minors", "sexual", "obscene", "gore", "hate", "self-harm"]],
            Field(title="Refuse", description="Categories that are not allowed."),
        ] = list(CATEGORIES)

    class Output(BaseModel):
        """The verdict, and its reasons: category → words."""

        allowed: bool
        refused: list[str]
        found: dict[str, list[str]]

    def load(self, device: str) -> None:
        """Read the lists."""
        self._words = PromptWords(weights("prompt-words.json"))

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Check each by itself."""
        return [self._one(item.input) for item in items]

    def _one(self, asked: Input) -> "PromptCheck.Output":
        finding = self._words(asked.text)
        refused = list(finding.refused(asked.refuse))
        found = {name: list(words) for name, words in finding.categories.items()}
        return self.Output(allowed=not refused, refused=refused, found=found)
