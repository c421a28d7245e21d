"""Which part of a prompt `swell/icons` can draw: typos, known and unknown subjects.

A prompt has a subject, perhaps a second one after "and" or "with", and perhaps a scene. English
puts the noun at the end of its phrase, so a subject is known if its phrase ends in one of the
vocabulary's names ("a sleepy cat", but not "a cat scratching post"). Other phrases are compared by
meaning: the cosine between the phrase's sentence vector and the vector of each name.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swell.models.word_lists import English, Glossary

#: A phrase is known if its vector is at least this close to that of a name (cosine).
KNOWN_FROM: Final = 0.75
#: A name is drawn in place of something unknown if it is at least this close.
CLOSE_FROM: Final = 0.5
#: Drawn if no name is close.
INSTEAD: Final = "thinking face"
SUGGESTIONS: Final = 3
#: Longest name, in words.
_LONGEST: Final = 6
#: Words of at least this many letters are mended: by one edit, and by two from eight letters on.
#: In shorter words only two swapped letters are put right.
_SHORTEST_SWAPPED, _SHORTEST_MENDED, _SHORTEST_TWICE = 3, 5, 8

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?|[,.;:!?()]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_JOINS: Final = _words("and with & plus")
#: Words after which there is no more of a subject.
_ENDS: Final = _words("""
    in on at under underneath by near over above below behind beside between before after into
    through across from among against around inside outside during while who that which for to
    without as is are was has have next wearing holding underwater , . ; : ! ? ( )
""")
#: Before "of": what follows is the subject.
_PORTIONS: Final = _words("""
    picture pictures photo photos photograph image images drawing painting illustration sketch
    portrait icon emoji sticker cartoon view slice slices piece pieces cup cups mug glass bottle
    plate bowl bag box bucket stack pile bunch pair loaf drop jar group herd flock pack team kind
    type scoop
""")
#: Around a subject, and no part of it.
_PLAIN: Final = _words("""
    a an the one two three four five some many my your our his her its their this that please draw
    paint sketch make show create generate me i want of emoji icon sticker picture image photo
    drawing illustration cartoon simple clean very really
    cute happy little big beautiful funny small nice magic magical lovely cool old shiny friendly
    colorful colourful tiny huge giant large tall long short fat fluffy sleepy angry sad brave wild
    young new ancient antique vintage golden silver bright dark pretty sweet red orange yellow green
    blue purple pink black white grey gray brown light
""")
_IRREGULAR: Final = {
    "women": "woman",
    "men": "man",
    "mice": "mouse",
    "wolves": "wolf",
    "leaves": "leaf",
    "loaves": "loaf",
    "geese": "goose",
    "knives": "knife",
}
#: Scenes in the training data; the first of each represents the words below.
_TRAINED: Final = (
    ("in the snow", "in winter", "on a snowy day", "in a snowy forest"),
    ("at night", "under the stars", "in the moonlight", "in the dark"),
    ("in space", "in outer space", "among the stars", "flying through space"),
    ("on the beach", "at the beach", "by the sea", "on a tropical island"),
    ("in a meadow", "on the grass", "in a garden", "in a field", "in the forest"),
    ("at sunset", "at dawn", "in the evening light", "in front of the sunset"),
    ("in the rain", "on a rainy day", "in a storm"),
    ("under water", "underwater", "in the ocean", "swimming in the sea"),
    ("in the desert", "on the sand", "among the dunes"),
    ("in the city", "in the street", "in front of skyscrapers"),
)
_SIGNS: Final = (
    _words("snow snowy winter ice icy frozen"),
    _words("night midnight moonlight dark stars starry"),
    _words("space moon galaxy universe cosmos planets"),
    _words("beach sea ocean island shore coast"),
    _words("meadow grass garden field forest woods park jungle lawn"),
    _words("sunset dawn sunrise evening dusk"),
    _words("rain rainy storm thunderstorm"),
    _words("underwater swimming diving"),
    _words("desert sand dunes"),
    _words("city street skyscrapers town"),
)
_DETERMINERS: Final = _words("a an the my your his her its our their some")
_COLOURS: Final = _words("red orange yellow green blue purple pink black grey")
_COUNTS: Final = re.compile(
    r"^(?:one|two|three|four|five|six|seven|eight|nine|ten|some|many|several|\d+) ", re.IGNORECASE
)


class Subject(NamedTuple):
    """What a part of a prompt means."""

    #: As it is drawn.
    phrase: str
    #: Without articles and common adjectives, for messages.
    words: str
    is_known: bool
    #: Where it is not known: names that are close in meaning, the closest first.
    nearest: tuple[str, ...] = ()


class Warned(NamedTuple):
    """A warning; the arguments of `Context.warn`."""

    code: str
    message: str
    suggestions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a prompt is drawn as.

    Args:
        prompt: What the network is given.
        is_open: Whether a backdrop may be added: there is none in it, and no colour, which training
            never had together with one.
        warnings: For the user.
    """

    prompt: str
    warnings: tuple[Warned, ...] = ()
    is_open: bool = False


class Subjects:
    """Reads prompts.

    Args:
        path: `icons-names.npz`, which `training/names.py` writes.
        meaning: Returns the sentence vector of some words, of unit length. Shape: (384,).
        english: Words that are no typos.
        glossary: The same, in other languages.
    """

    def __init__(
        self,
        path: Path,
        meaning: Callable[[str], NDArray[np.float32]],
        english: English,
        glossary: Glossary,
    ) -> None:
        with np.load(path) as held:
            self._names: list[str] = held["names"].tolist()
            self._concept = held["concept"]
            is_popular = held["popular"]
            rows = held["meanings"].astype(np.float32)
        self._rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        _, firsts = np.unique(self._concept, return_index=True)
        #: By concept.
        self._plainest = [self._names[place] for place in firsts]
        self._popular = tuple(self._names[place] for place in firsts if is_popular[place])
        self._meaning = meaning
        self._english, self._glossary = english, glossary
        self._stems = {_stemmed(_split(name)) for name in self._names}
        #: Names such as "bow and arrow", which are searched before a prompt is split.
        whole = (_bare(name) for name in self._names if set(name.split()) & (_ENDS | _JOINS))
        #: Other spellings of names: "hotdog", "sad emoji".
        self._spelled = {
            re.sub(" face$", " emoji", name): name for name in self._names if name.endswith(" face")
        } | {name.replace(" ", ""): name for name in self._names if name.count(" ") == 1}
        spelled = "|".join(self._spelled.keys() - set(self._names))
        self._spelling = re.compile(rf"\b(?:{spelled})\b", re.IGNORECASE)
        self._whole = tuple(f" {name} " for name in whole)
        named = {word for name in self._names for word in _split(name)}
        self._mends = sorted(
            word for word in named | _COLOURS.union(*_SIGNS) if len(word) >= _SHORTEST_SWAPPED
        )
        #: As a word sounds → it, where no other sounds like it.
        sounds = Counter(map(_sound, named))
        self._sounds = {key: word for word in named if sounds[key := _sound(word)] == 1}

    def read(self, prompt: str, model: str) -> Reading:
        """Return what to draw for a prompt, and what to say about it.

        Args:
            prompt: English.
            model: Name for the messages.
        """
        prompt = self._spelling.sub(lambda match: self._spelled[match.group().lower()], prompt)
        prompt, typos = self._mended(prompt)
        warnings = []
        if typos:
            told = ", ".join(f'"{word}" as "{mend}"' for word, mend in typos)
            warnings.append(Warned("typo", f"{model} read {told}.", ()))
        if self._names_it(prompt):
            return Reading(prompt, tuple(warnings))
        first, second, rest = _parts(prompt)
        scene, subject = _scene(rest), self.subject(first)
        other = None if second is None else self.subject(second.words)
        if subject.is_known:
            drawn = subject.phrase
            if second is not None and other is not None:
                if other.is_known:
                    drawn += f" {second.join} {other.phrase}"
                elif second.join != "with":
                    drew = f'drew "{_shown(drawn)}" alone'
                    warnings.append(_unknown(model, other, drew, self._suggested(other)))
        elif other is not None and other.is_known:
            drawn, drew = other.phrase, f'drew "{_shown(other.phrase)}" alone'
            warnings.append(_unknown(model, subject, drew, self._suggested(subject)))
        else:
            drawn = subject.nearest[0] if subject.nearest else INSTEAD
            scene = scene if subject.nearest else ""
            drew = f'drew "{drawn}" instead'
            warnings.append(_unknown(model, subject, drew, self._suggested(subject)))
        if subject.is_known and second is None:
            warnings += self._undone(model, first, drawn)
        is_open = not scene and _COLOURS.isdisjoint(_split(drawn))
        return Reading(f"{drawn} {scene}".strip(), tuple(warnings), is_open)

    def _undone(self, model: str, phrase: str, drawn: str) -> list[Warned]:
        """Return a warning of what the subject does to something, unless a name says it."""
        words = _split(phrase)
        at = _act(words)
        stems = _stemmed(words)
        counts = range(len(words) - at + 1, _LONGEST + 1)
        if at == len(words) or any(stems[-count:] in self._stems for count in counts):
            return []
        thing = self.subject(" ".join(words[at + 1 :]))
        nearest = (_shown(thing.phrase),) if thing.is_known else thing.nearest
        act = Subject(phrase, " ".join(words[at:]), is_known=False, nearest=nearest)
        return [_unknown(model, act, f'drew "{_shown(drawn)}" alone', self._suggested(act))]

    def _suggested(self, subject: Subject) -> tuple[str, ...]:
        """Return the names that are close to a subject, or some popular ones."""
        found = dict.fromkeys(subject.nearest)
        begin = zlib.crc32(subject.words.encode()) % len(self._popular)
        for name in (*self._popular[begin:], *self._popular[:begin]):
            if len(found) == SUGGESTIONS:
                break
            found[name] = None
        return tuple(found)

    def subject(self, phrase: str) -> Subject:
        """Return whether the subject of a phrase is known, and the closest names if not."""
        words = _split(phrase)
        for end in _ends(words):
            if self._ends_in_name(words[:end]):
                return Subject(_without_count(_upto(phrase, end)), "", is_known=True)
        words = words[_behind_portion(words) :]
        plain = [word for word in words[: min(_ends(words))] if word not in _PLAIN]
        plain = plain or [word for word in words if word not in _PLAIN] or words
        cosines = self._rows @ self._meaning(" ".join(plain) or phrase)
        order = np.argsort(-cosines)
        if cosines[order[0]] >= KNOWN_FROM:
            return Subject(_without_count(phrase), "", is_known=True)
        if len(plain) > 1:
            # "a ruined palace" is closest to what "palace" is closest to.
            cosines = np.maximum(cosines, self._rows @ self._meaning(plain[-1]))
            order = np.argsort(-cosines)
        close = order[cosines[order] >= CLOSE_FROM][: 4 * SUGGESTIONS]
        nearest = dict.fromkeys(self._plainest[self._concept[place]] for place in close)
        return Subject(
            phrase, " ".join(plain) or phrase, is_known=False, nearest=tuple(nearest)[:SUGGESTIONS]
        )

    def _names_it(self, prompt: str) -> bool:
        bare = f" {_bare(prompt)} "
        return any(name in bare for name in self._whole)

    def _ends_in_name(self, words: Sequence[str]) -> bool:
        stems = _stemmed(words)
        return any(stems[-count:] in self._stems for count in range(1, _LONGEST + 1))

    def _mended(self, prompt: str) -> tuple[str, list[tuple[str, str]]]:
        typos: list[tuple[str, str]] = []

        def mend(match: re.Match[str]) -> str:
            word = match.group()
            found = self._mend(word.lower())
            if found is None:
                return word
            typos.append((word, found))
            return found

        return re.sub(r"[^\W\d_]+", mend, prompt), typos

    def _mend(self, word: str) -> str | None:
        """Return the only trained word that is closest to a word that no list has."""
        if not word.isascii() or word in self._english or (_stem(word),) in self._stems:
            return None
        if len(word) >= _SHORTEST_MENDED - 1 and (alike := self._sounds.get(_sound(word))):
            return alike
        if any(self._glossary.has(word, language) for language in self._glossary.languages):
            return None
        if _stem(word) in self._english or (_stem(word),) in self._stems:
            return None
        if len(word) < _SHORTEST_MENDED:
            letters = sorted(word)
            swapped = [each for each in self._mends if sorted(each) == letters]
            return (
                swapped[0]
                if len(swapped) == 1 and edit_distance(word, swapped[0], 1) == 1
                else None
            )
        most = 2 if len(word) >= _SHORTEST_TWICE else 1
        for edits in range(1, most + 1):
            close = [each for each in self._mends if edit_distance(word, each, most) == edits]
            if close:
                return close[0] if len(close) == 1 else None
        return None


class _Second(NamedTuple):
    join: str
    words: str


def _parts(prompt: str) -> tuple[str, _Second | None, str]:
    """Return the first subject, a second one, and the scene, in the words of the prompt."""
    found = [(match.group().lower(), *match.span()) for match in _WORD.finditer(prompt)]
    said = [word for word, _, _ in found]
    end = _first(said, 1, _ENDS | _JOINS)
    if end < len(said) and said[end] in _JOINS and _PLAIN.issuperset(said[:end]):
        # "an old and rusty robot"
        end = _first(said, end + 2, _ENDS | _JOINS)
    first = _cut(prompt, found[:end])
    if end == len(said) or said[end] not in _JOINS:
        return first, None, _cut(prompt, found[end:])
    stop = _first(said, end + 2, _ENDS)
    second = _cut(prompt, found[end + 1 : stop])
    return first, _Second(said[end], second) if second else None, _cut(prompt, found[stop:])


def _behind_portion(said: Sequence[str]) -> int:
    """Return where the subject begins: "a portrait of a samurai" is about the samurai."""
    places = range(len(said) - 2)
    return next((at + 2 for at in places if said[at] in _PORTIONS and said[at + 1] == "of"), 0)


def _first(said: Sequence[str], begin: int, of: frozenset[str]) -> int:
    return next((at for at in range(begin, len(said)) if said[at] in of), len(said))


def _cut(prompt: str, words: Sequence[tuple[str, int, int]]) -> str:
    return prompt[words[0][1] : words[-1][2]] if words else ""


def _ends(words: Sequence[str]) -> list[int]:
    """Return where the noun of a phrase may end: at its end, or before what the noun is doing."""
    acts = [at for at, word in enumerate(words) if at and _is_act(word)]
    # "a man reading his book" is no book; "a smiling face" is a face.
    last = _act(words)
    return [last, *(at for at in acts if at < last)]


def _act(words: Sequence[str]) -> int:
    """Return where an action with an object begins, such as "reading his book"."""
    pairs = enumerate(pairwise(words))
    found = (at for at, (word, after) in pairs if at and _is_act(word) and after in _DETERMINERS)
    return next(found, len(words))


def _is_act(word: str) -> bool:
    return len(word) > 4 and word.endswith(("ing", "ed"))


def _shown(phrase: str) -> str:
    """Return a phrase without its article."""
    return re.sub(r"^(?:an?|the) ", "", phrase, flags=re.IGNORECASE)


def _unknown(model: str, subject: Subject, drew: str, suggestions: tuple[str, ...]) -> Warned:
    told = f'{model} cannot draw "{subject.words}" and {drew}.'
    return Warned("unknown_subject", told, suggestions)


def _scene(rest: str) -> str:
    """Return what training had behind a subject and the rest of a prompt asks for."""
    words = _split(rest)
    if "background" in words or (len(words) == 2 and words[0] == "on"):
        colour = next((word for word in words if word in _COLOURS), None)
        if colour is not None:
            return f"on a {colour} background"
    said = f" {' '.join(words)} "
    whole = (each for scene in _TRAINED for each in scene if f" {each} " in said)
    signs = zip(_TRAINED, _SIGNS, strict=True)
    like = (scene[0] for scene, meant in signs if not meant.isdisjoint(words))
    return next(whole, next(like, ""))


def _upto(phrase: str, end: int) -> str:
    """Return the first words of a phrase, unchanged."""
    words = list(re.finditer(r"[^\W_]+", phrase))
    return phrase[: words[end - 1].end()] if 0 < end <= len(words) else phrase


def _without_count(phrase: str) -> str:
    return _COUNTS.sub("", phrase)


def _split(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.lower())
    return re.findall(r"[a-z0-9]+", "".join(c for c in plain if not unicodedata.combining(c)))


def _bare(text: str) -> str:
    return " ".join(_stem(word) for word in _split(text) if word not in ("a", "an", "the"))


def _stemmed(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(_stem(word) for word in words)


def _stem(word: str) -> str:
    """Return a noun in the singular, more or less: the same for both of its forms."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word


def _sound(word: str) -> str:
    """Return a word as it sounds, more or less: the same for "elephant" and "elefant"."""
    for letters, sound in (("ph", "f"), ("ck", "k"), ("c", "k"), ("ks", "x")):
        word = word.replace(letters, sound)
    return re.sub(r"(.)\1", r"\1", word)


def edit_distance(one: str, other: str, most: int) -> int:
    """Return how many letters differ, counting a swap of neighbours as one; above `most`, any more.

    Source: optimal string alignment, Damerau, "A technique for computer detection and correction of
    spelling errors", 1964.
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before, last = last, row
    return last[-1]
