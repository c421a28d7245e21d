"""Are English prompts read as English, and sentences of five languages as theirs?

Each line of `prompts/english.txt` (2,000 English prompts) and of `prompts/foreign.tsv` (500 rows of
a language's code, a tab and a sentence in it) goes through what decides on a prompt's language: the
model `swell/translate` in `swell/picture`, and `prepare` in `swell/artwork`. Neither file was used
to make or tune the lists of words. Nothing is drawn.

Promised: at most 0.005 of the English prompts are taken for another language by either, at least
0.95 of the others are recognised as their language by both, and none is refused for its language.
Value: the smaller of the two shares against its promise; it fails if a prompt is refused.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from machine import report
from swell.sdk.context import Item, Reject
from swell_models.artwork import Artwork
from swell_models.translate import Translate

PROMPTS = Path(__file__).resolve().parent / "prompts"
ENGLISH, FOREIGN = 2000, 500
MOST_WRONG, LEAST_RECOGNISED = 0.005, 0.95
#: Languages, or why there is none: another reason than the language is no refusal here.
REFUSED = "refused"


class Readers:
    """The two ways of a prompt, up to where its language is decided."""

    def __init__(self) -> None:
        self._translate = Translate()
        self._translate.load("cpu")
        self._artwork = Artwork(threads=1)

    def languages(self, prompt: str) -> set[str]:
        """Which languages they read a prompt in; one, unless they differ."""
        [made] = self._translate.run([Item(Translate.Input(text=prompt))])
        found = {REFUSED if isinstance(made, Reject) else made.language}
        item = Item(Artwork.Input(prompt=prompt, refuse=[]))
        try:
            self._artwork.prepare(item)
        except Reject as error:
            # What a prompt asks for may still be refused, whatever its language.
            is_content = str(error).startswith("The prompt is not allowed (")
            return found if is_content else {*found, REFUSED}
        return {*found, item.kept.made.language}


def lines(name: str, count: int) -> list[str]:
    """The lines of a file of prompts that are not empty."""
    path = PROMPTS / name
    if not path.is_file():
        raise SystemExit(f"there is no {path}: it must hold {count:,} lines")
    found = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(found) != count:
        raise SystemExit(f"{path} holds {len(found):,} lines, and must hold {count:,}")
    return found


def main() -> None:
    read = Readers()
    english = [(line, read.languages(line)) for line in lines("english.txt", ENGLISH)]
    rows = [line.split("\t", 1) for line in lines("foreign.tsv", FOREIGN)]
    foreign = [(code, text, read.languages(text)) for code, text in rows]
    taken = [(text, sorted(found - {"en"})) for text, found in english if found != {"en"}]
    missed = [(code, text, sorted(found)) for code, text, found in foreign if found != {code}]
    all_found = [*(found for _, found in english), *(found for *_, found in foreign)]
    refused = sum(REFUSED in found for found in all_found)
    wrong, recognised = len(taken) / len(english), 1 - len(missed) / len(foreign)
    of, lost = Counter(code for code, *_ in foreign), Counter(code for code, *_ in missed)
    detail = {
        "english_taken_for_another": round(wrong, 4),
        "foreign_recognised": round(recognised, 4),
        "refused": refused,
        "recognised_by_language": {code: round(1 - lost[code] / of[code], 4) for code in of},
        "taken": taken[:20],
        "missed": missed[:40],
    }
    value = min((1 - wrong) / (1 - MOST_WRONG), recognised / LEAST_RECOGNISED)
    report(value, detail, ok=refused == 0)


if __name__ == "__main__":
    main()
