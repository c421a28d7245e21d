"""Whether a prompt asks for what an operator will not have drawn.

Lists of words by category, compared after what people do to hide a word is undone: accents, signs
for letters, letters drawn out or spaced out. Whole words only, so that a Scunthorpe is a town.
Nothing is learnt here, and nothing that words alone do not say is found: the picture is checked too
(`swell.zoo.safety`).
"""

import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from swell import ui
from swell.model import Item, Model, Speed
from swell.zoo.embedded import weights

__all__ = ["CATEGORIES", "Finding", "PromptCheck", "PromptWords"]

#: What can be refused. `minors` is a child together with anything sexual, never a child alone.
CATEGORIES: Final = ("minors", "sexual", "obscene", "gore", "hate", "self-harm")

#: Signs that stand for letters.
_LEET: Final = str.maketrans("0134578@$€!|", "oieastbaseil")
_AGE: Final = re.compile(r"\b(\d{1,2}) ?-?(?:years?|yo|y/o|anos|años|ans|jahre|anni)\b")
_ADULT_AGE: Final = 18
_SPACED: Final = re.compile(r"(?<!\S)(?:\S[ .\-_*]){2,}\S(?!\S)")
_SIGNS: Final = re.compile(r"[ .\-_*]")
#: Three letters and what stands between them.
_SHORTEST_RUN: Final = 4
_DRAWN_OUT: Final = re.compile(r"(.)\1{2,}")
_NOT_WORD: Final = re.compile(r"[^\w]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Args:
        categories: Category → the words of its list that the prompt holds, none of them twice.
    """

    categories: Mapping[str, tuple[str, ...]]

    def refused(self, categories: Collection[str]) -> tuple[str, ...]:
        """Return those of `categories` that were found, in their order in `CATEGORIES`."""
        return tuple(c for c in CATEGORIES if c in self.categories and c in categories)


class PromptWords:
    """Looks for words of the lists.

    Args:
        path: `prompt-words.json`, category → words, lower case and without accents, which
            `training/prompt_words.py` writes.
        more: An operator's own, category → words.
    """

    def __init__(self, path: Path, more: Mapping[str, Sequence[str]] | None = None) -> None:
        lists: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        for category, words in (more or {}).items():
            lists.setdefault(category, []).extend(_bare(word) for word in words)
        self._spaced = {name: _pattern(words, True) for name, words in lists.items()}
        # Chinese, Japanese and Thai put no spaces between words.
        self._run_on = {name: _pattern(words, False) for name, words in lists.items()}

    def __call__(self, *texts: str) -> Finding:
        """Return what any of these texts holds, such as a prompt and its translation."""
        found: dict[str, dict[str, None]] = {}
        readings = [reading for text in texts for reading in _readings(text)]
        for reading in readings:
            for patterns in (self._spaced, self._run_on):
                for category, pattern in patterns.items():
                    for match in pattern.finditer(reading) if pattern else ():
                        found.setdefault(category, {})[match.group().strip()] = None
        ages = [int(age) for reading in readings for age in _AGE.findall(reading)]
        if any(age < _ADULT_AGE for age in ages):
            found.setdefault("minors", {})[f"{min(ages)} years"] = None
        if not (found.keys() & {"sexual", "obscene"}):
            found.pop("minors", None)
        return Finding({name: tuple(words) for name, words in found.items()})


def _readings(text: str) -> set[str]:
    """Return the ways in which a text may be meant."""
    plain = _bare(text)
    # An article may stand before a word that is spaced out, and belongs to none of its letters.
    runs = [(run, run[2:]) for run in _SPACED.findall(plain)]
    together = {_SIGNS.sub("", one) for run in runs for one in run if len(one) > _SHORTEST_RUN}
    ways = {plain, *together} | {way.translate(_LEET) for way in (plain, *together)}
    ways |= {_DRAWN_OUT.sub(letters, way) for way in tuple(ways) for letters in (r"\1", r"\1\1")}
    return {f" {_NOT_WORD.sub(' ', way).strip()} " for way in ways}


def _bare(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in parts if not unicodedata.combining(letter)).strip()


def _pattern(words: Sequence[str], is_spaced: bool) -> re.Pattern[str] | None:
    chosen = [_NOT_WORD.sub(" ", word).strip() for word in words if _has_spaces(word) is is_spaced]
    if not any(chosen):
        return None
    either = "|".join(sorted(map(re.escape, filter(None, chosen)), key=len, reverse=True))
    return re.compile(f"(?<= )(?:{either})(?= )" if is_spaced else f"(?:{either})")


def _has_spaces(word: str) -> bool:
    """Whether its script puts spaces between words."""
    return not any("\u0e00" <= c <= "\u0e7f" or "\u3040" <= c <= "\u9fff" for c in word)


class PromptCheck(Model):
    """Say whether a prompt asks for what should not be drawn.

    | category | found by |
    |---|---|
    | `minors` | a child, or an age below 18, together with anything sexual or obscene |
    | `sexual`, `gore`, `hate`, `self-harm` | short lists, English and a little of five more |
    | `obscene` | LDNOOBW, 13 languages (CC BY 4.0), less what also names something to draw |

    It reads words, not intentions: it lets through what is well paraphrased, and refuses some that
    was harmless. Let it be the first of two checks, with `swell/safety` on the picture.
    Time: below 1 ms.
    """

    name = "swell/prompt-check"
    licence = "Apache-2.0 AND CC-BY-4.0"
    credits = """
    Obscene words: "List of Dirty, Naughty, Obscene, and Otherwise Bad Words" by LDNOOBW
    ([CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)), changed.
    """
    memory_bytes = 21_000_000
    speed = (Speed("one core of an AMD EPYC", "a prompt", 0.00003, "2026-11-25"),)
    samples = {"what may be drawn, and what not": "samples/prompt-check.txt"}
    examples = (
        {"text": "a red fox in the snow"},
        {"text": "the swastika on a flag", "refuse": ["hate"]},
    )

    class Input(BaseModel):
        """What to check, and for what."""

        text: Annotated[
            str,
            Field(min_length=1, max_length=5000, title="Prompt", description="What was asked."),
            ui.textarea(rows=2),
        ]
        refuse: Annotated[
            list[Literal["minors", "sexual", "obscene", "gore", "hate", "self-harm"]],
            Field(title="Refuse", description="Categories that are not allowed."),
        ] = list(CATEGORIES)

    class Output(BaseModel):
        """The verdict, and what it rests on: category → words."""

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
