# ruff: noqa: RUF001 - sounds are written in letters that look like others
"""English text as sounds, for `swell/speech`.

Numbers become words, words are looked up in misaki's list of 180,000, endings (`-s`, `-ed`, `-ing`)
are taken off and put back, and what is still unknown is read by a small network. Parts of speech
are not told apart, so that "read" always rhymes with "need".

Source: the alphabet and the rules of sounds (what "the" is before a vowel, how "-ed" is said after
which consonant, which words are stressed where a sentence begins) are those of misaki 0.9.4,
https://github.com/hexgrad/misaki.
"""

import gzip
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from swell.models.onnx_sessions import session, weights

# --- numbers

_SMALL: Final[list[str]] = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen",
)
_TENS: Final[list[str]] = re.findall(
    r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety"
)
_LARGE: Final = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
#: More than these have no name here, and are told one by one.
_MOST_DIGITS: Final = 15
_ORDINALS: Final = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def in_words(number: int) -> str:
    """Return a number from 0 in words; beyond trillions its digits one by one."""
    if number >= 10**_MOST_DIGITS:
        return _one_by_one(str(number))
    for size, name in _LARGE:
        if number >= size:
            return _joined(f"{in_words(number // size)} {name}", number % size)
    if number >= 100:
        return _joined(f"{_SMALL[number // 100]} hundred", number % 100)
    if number >= 20:
        return _joined(_TENS[number // 10 - 2], number % 10)
    return _SMALL[number]


def _said(digits: str) -> str:
    """Return digits in words; many of them one by one, without making a number of them first."""
    plain = digits.lstrip("0") or "0"
    return _one_by_one(plain) if len(plain) > _MOST_DIGITS else in_words(int(plain))


def _one_by_one(digits: str) -> str:
    return " ".join(_SMALL[int(digit)] for digit in digits)


def _joined(words: str, rest: int) -> str:
    return f"{words} {in_words(rest)}" if rest else words


def _ordinal(digits: str) -> str:
    *before, last = _said(digits).split()
    if last in _ORDINALS:
        last = _ORDINALS[last]
    else:
        last = (last[:-1] + "ie" if last.endswith("y") else last) + "th"
    return " ".join([*before, last])


def _year(number: int) -> str:
    """Return a year as it is said: nineteen ninety nine, two thousand five, twenty ten."""
    century, rest = divmod(number, 100)
    if number < 1100 or 2000 <= number < 2010 or number >= 2100:
        return in_words(number)
    if rest == 0:
        return f"{in_words(century)} hundred"
    return f"{in_words(century)} {'oh ' if rest < 10 else ''}{in_words(rest)}"


def _decimal(text: str) -> str:
    whole, _, part = text.replace(",", "").partition(".")
    words = _said(whole)
    return f"{words} point {_one_by_one(part)}" if part else words


# --- text

_COINS: Final = {"$": ("dollar", "cent"), "£": ("pound", "pence"), "€": ("euro", "cent")}
_SHORT: Final = {
    "Dr": "Doctor",
    "Mr": "Mister",
    "Mrs": "Missis",
    "Ms": "Miz",
    "Prof": "Professor",
    "St": "Saint",
    "vs": "versus",
    "etc": "et cetera",
    "approx": "approximately",
    "No": "number",
}
_SIGNS: Final = {"&": " and ", "+": " plus ", "@": " at ", "=": " equals ", "%": " percent "}
_NUMBER: Final = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


def _money(found: re.Match[str]) -> str:
    coin, part = _COINS[found[1]]
    whole, _, cents = found[2].replace(",", "").partition(".")
    if found[3]:
        return f"{_decimal(found[2])} {found[3]} {coin}s"
    said = [f"{_said(whole)} {coin}{'' if whole.lstrip('0') == '1' else 's'}"]
    if cents.strip("0"):
        number = int(cents.ljust(2, "0")[:2])
        plural = "" if part == "pence" or number == 1 else "s"
        said.append(f"{in_words(number)} {part}{plural}")
    return " and ".join(said)


def _time(found: re.Match[str]) -> str:
    hour, minute = int(found[1]), int(found[2])
    if minute == 0:
        return f"{in_words(hour)} o'clock"
    return f"{in_words(hour)} {'oh ' if minute < 10 else ''}{in_words(minute)}"


#: In this order: what has a sign or an ending before what is only digits.
_SPOKEN: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (
        re.compile(rf"([$£€])({_NUMBER})(?:\s?(thousand|million|billion|trillion)\b)?"),
        _money,
    ),
    (re.compile(r"\b([01]?\d|2[0-3]):([0-5]\d)\b"), _time),
    (re.compile(r"\b(\d+)(?:st|nd|rd|th)\b"), lambda found: _ordinal(found[1])),
    (
        re.compile(r"(?<![\d.,])(1[1-9]\d\d|20\d\d)(?![\d.,]*\d)"),
        lambda found: _year(int(found[1])),
    ),
    (re.compile(rf"(?<![\w.])-(?={_NUMBER})"), lambda _: "minus "),
    (re.compile(_NUMBER), lambda found: f" {_decimal(found[0])} "),
    (re.compile(r"[&+@=%]"), lambda found: _SIGNS[found[0]]),
    (
        re.compile(rf"\b({'|'.join(_SHORT)})\.(?=\s)"),
        lambda found: _SHORT[found[1]],
    ),
)


def spoken(text: str) -> str:
    """Return the text with numbers, money, times, signs and short forms in words."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'")
    for pattern, say in _SPOKEN:
        text = pattern.sub(say, text)
    return re.sub(r"\s+", " ", text).strip()


def sentences(text: str, longest: int = 300) -> list[str]:
    """Cut a text after its sentences, and long ones after commas or between words.

    Args:
        text: As `spoken` returns it.
        longest: Characters of a piece at most.
    """
    found: list[str] = []
    for sentence in re.split(r"(?<=[.!?…])[\"”')\]]*\s+|\n+", text):
        if len(sentence) <= longest:
            found.append(sentence)
            continue
        piece = ""
        for part in re.findall(rf"[^,;:\s]+[,;:]*\s*|.{{1,{longest}}}", sentence):
            is_pause = piece.rstrip().endswith((",", ";", ":"))
            if piece and len(piece) + len(part) > (longest // 2 if is_pause else longest):
                found.append(piece.strip())
                piece = ""
            piece += part
        found.append(piece.strip())
    return [each for each in found if re.search(r"\w", each)]


# --- sounds

_VOWELS: Final = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻ")
_TAPPED_AFTER: Final = frozenset("AIOWYiuæɑəɛɪɹʊʌ")
_STRESSES: Final = ("ˈ", "ˌ")
_PAUSES: Final = frozenset(";:,.!?—…")
_MARKS: Final = frozenset(';:,.!?—…"“”()')
_TOKEN: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*'?|[;:,.!?—…\"“”()]")


class Pronouncer:
    """Knows words and reads unknown ones."""

    def __init__(self) -> None:
        with gzip.open(weights("speech-words.tsv.gz"), "rt", encoding="utf-8") as file:
            rows = (line.rstrip("\n").partition("\t") for line in file)
            #: What each word sounds like; after a tab, what it does before a pause.
            self._words: dict[str, str] = {word: sounds for word, _, sounds in rows}
        alphabet = json.loads(weights("speech-alphabet.json").read_text(encoding="utf-8"))
        self._reader = _Reader(alphabet)
        #: Numbers of sounds, for the network that speaks them.
        self.numbers: Mapping[str, int] = alphabet["sounds"]

    def __call__(self, sentence: str) -> str:
        """Return one sentence as sounds; empty where nothing in it can be said."""
        tokens = _TOKEN.findall(sentence.replace(" - ", " — "))
        said: list[str] = []
        # From behind: what a small word sounds like depends on what follows.
        following = ""
        for token in reversed(tokens):
            if token in _MARKS:
                said.append(token)
                following = "" if token in _PAUSES else following
                continue
            sound = self._said(token, following)
            if sound:
                said.append(sound)
                following = next((s for s in sound if s not in _STRESSES), following)
        return _together(reversed(said)).replace("ɾ", "T").replace("ʔ", "t")

    def _said(self, word: str, following: str) -> str:
        small = _small_word(word, following)
        if small:
            return small
        sound = self._known(word, following) or self._spelled(word) or self._reader(word)
        if word[0].isupper() and not any(stress in sound for stress in _STRESSES):
            return _stressed(sound)
        return sound

    def _known(self, word: str, following: str) -> str:
        """Look a word up, as it is written or in small letters, whole or without its ending."""
        for form in dict.fromkeys((word, word.lower(), word.rstrip("'"))):
            sounds = self._words.get(form) or self._words.get(form.capitalize(), "")
            if sounds and (form == word or not _is_short(word)):
                plain, _, pausing = sounds.partition("\t")
                return plain if following else pausing or plain
        return "" if _is_short(word) else self._with_ending(word.lower())

    def _with_ending(self, word: str) -> str:
        for stem, add in _stems(word):
            if stem in self._words:
                return add(self._words[stem].partition("\t")[0])
        return ""

    def _spelled(self, word: str) -> str:
        """Say the letters of a short form such as GPU; GPUs is more than one of them."""
        plural = "z" if len(word) > 2 and word.endswith("s") and word[:-1].isupper() else ""
        letters = word[:-1] if plural else word
        if not letters.isupper() or not all(letter in self._words for letter in letters):
            return ""
        sounds = "".join(self._words[letter] for letter in letters).replace("ˈ", "ˌ")
        before, stress, last = sounds.rpartition("ˌ")
        return f"{before}{'ˈ' if stress else ''}{last}{plural}"


class _Reader:
    """The network that reads unknown words: one sound or none for each of a few places."""

    def __init__(self, alphabet: Mapping[str, Any]) -> None:
        self._letters = {letter: n for n, letter in enumerate(alphabet["reader_letters"], 1)}
        self._sounds = ["", *alphabet["reader_sounds"]]
        self._longest = alphabet["reader_longest"]
        self._session = session("speech-reader.onnx", 1)

    def __call__(self, word: str) -> str:
        plain = unicodedata.normalize("NFKD", word) if not set(word) <= set(self._letters) else word
        numbers = [self._letters[c] for c in plain if c in self._letters][: self._longest]
        if not numbers:
            return ""
        said = self._session.run(None, {"chars": np.array([numbers], np.int64)})[0][0]
        # As in CTC: neighbours that are alike count once, and then the blanks go.
        new = np.flatnonzero(np.diff(said, prepend=-1))
        return "".join(self._sounds[number] for number in said[new])


def _small_word(word: str, following: str) -> str:
    """Return words whose sound follows from the next one's first sound."""
    before_vowel = following in _VOWELS if following else None
    match word.lower():
        case "the":
            return "ði" if before_vowel else "ðə"
        case "a" if before_vowel is not None:
            return "ɐ"
        case "an":
            return "ɐn"
        case "to":
            return "tu" if before_vowel is None else "tʊ" if before_vowel else "tə"
        case "in":
            return "ˈɪn" if before_vowel is None else "ɪn"
        case "am" if before_vowel is not None:
            return "ɐm"
    return "ˌI" if word == "I" else ""


def _is_short(word: str) -> bool:
    """Tell whether it is written in capitals, as short forms are: GPU, BBC, GPUs."""
    letters = word.removesuffix("s")
    return len(letters) > 1 and letters.isupper() and len(letters) <= 5


def _stressed(sound: str) -> str:
    """Put a light stress before the first vowel."""
    place = next((n for n, s in enumerate(sound) if s in _VOWELS), None)
    return sound if place is None else f"{sound[:place]}ˌ{sound[place:]}"


def _together(said: Iterator[str]) -> str:
    """Put spaces between words and none before the marks that close something."""
    text = " ".join(said)
    text = re.sub(r" +([;:,.!?…)”])", r"\1", text)
    return re.sub(r"([(“]) +", r"\1", text).strip()


def _stems(word: str) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Yield what may stand before an ending, with how the ending is said after a sound."""
    if word.endswith("'s"):
        yield word[:-2], _with_s
    if word.endswith("s") and not word.endswith("ss"):
        yield word[:-1], _with_s
    if word.endswith("ies"):
        yield word[:-3] + "y", _with_s
    elif word.endswith("es"):
        yield word[:-2], _with_s
    if word.endswith("ied"):
        yield word[:-3] + "y", _with_ed
    elif word.endswith("ed"):
        yield word[:-1], _with_ed
        yield word[:-2], _with_ed
        if len(word) > 4 and word[-3] == word[-4]:
            yield word[:-3], _with_ed
    if word.endswith("ing") and len(word) > 4:
        yield word[:-3], _with_ing
        yield word[:-3] + "e", _with_ing
        if len(word) > 5 and word[-4] == word[-5]:
            yield word[:-4], _with_ing


def _with_s(sound: str) -> str:
    if sound[-1] in "ptkfθ":
        return sound + "s"
    return sound + ("ᵻz" if sound[-1] in "szʃʒʧʤ" else "z")


def _with_ed(sound: str) -> str:
    if sound[-1] in "pkfθʃsʧ":
        return sound + "t"
    if sound[-1] == "d":
        return sound + "ᵻd"
    if sound[-1] != "t":
        return sound + "d"
    return (sound[:-1] + "ɾᵻd") if sound[-2:-1] in _TAPPED_AFTER else sound + "ᵻd"


def _with_ing(sound: str) -> str:
    is_tapped = sound[-1] == "t" and sound[-2:-1] in _TAPPED_AFTER
    return (sound[:-1] + "ɾ" if is_tapped else sound) + "ɪŋ"
