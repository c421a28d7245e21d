"""Make what translates short descriptions of pictures into English, and tells their language.

    python glossary.py WORK TO      # writes TO/glossary.tsv.gz and TO/languages.npz

The words come from the names and keywords that the Unicode CLDR gives emoji in each language, as
packed by npm's `emojibase-data`, and from `glossary.txt`. Keywords of two languages stand side by
side without saying which means which: a word is taken to mean the English one that it shares most
emoji with, against all the emoji of both (Dice, "Measures of the amount of ecologic association
between species", 1945), and a little the more the more alike they are written.

The language is told by naive Bayes over runs of one to four letters, hashed. It is taught with the
same names; of one emoji in ten they are held out, and how many of those it tells right is printed.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

import captions
from data import vocabulary

PACKAGE = "emojibase-data"
TRANSLATED = ("es", "pt", "fr", "de", "it")
TOLD = (
    *("en", *TRANSLATED, "da", "et", "fi", "hu", "lt", "ms", "nb", "nl", "pl", "sv", "vi"),
    *("bn", "hi", "ja", "ko", "ru", "th", "uk", "zh"),
)
KINDS = {"article": "a", "preposition": "p", "conjunction": "c", "adjective": "j", "verb": "v"}
# Plurals of words that `glossary.txt` has: (ending, in its place).
PLURALS = {
    "es": (("s", ""), ("es", "")),
    "pt": (("s", ""), ("es", "")),
    "fr": (("s", ""), ("x", "")),
    "de": (("n", ""), ("en", "")),
    "it": (("i", "o"), ("e", "a"), ("i", "e")),
}
# English words that keywords of other languages hold untranslated, or in another sense.
ENGLISH = ("the", "was", "at", "no", "as")
BUCKETS = 1 << 15
LEAST = 0.55


def fetch(work: Path) -> dict[str, dict[str, dict]]:
    """Language -> emoji -> its name and keywords."""
    if not (found := sorted(work.glob(f"{PACKAGE}-*.tgz"))):
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=work, check=True)
        found = sorted(work.glob(f"{PACKAGE}-*.tgz"))
    said = {}
    with tarfile.open(found[-1]) as tar:
        for language in TOLD:
            raw = json.loads(tar.extractfile(f"package/{language}/data.json").read())
            said[language] = {one["hexcode"]: one for one in raw}
    return said


def plain(text: str) -> str:
    """Lower case, without marks."""
    return re.sub(r"\s+", " ", re.sub(r"[“”«»\"!?:;,.()]", " ", text.lower())).strip()


def parted(word: str, language: str) -> str:
    """As `swell_models.translate` reads it: what French and Italian write together taken apart."""
    if language not in ("fr", "it"):
        return word
    return re.sub(r"\b(\w{1,5})[\u2019'](?=\w)", r"\1 ", word)


def phrases(one: dict) -> set[str]:
    return {plain(text) for text in (one["label"], *one.get("tags", ()))} - {""}


def induced(english: dict[str, dict], other: dict[str, dict]) -> dict[str, str]:
    """What each word of another language most likely means."""
    of_them, of_us, both = Counter(), Counter(), Counter()
    for code, ours in english.items():
        if code not in other:
            continue
        theirs = other[code]
        of_us.update(phrases(ours))
        of_them.update(phrases(theirs))
        both.update((a, b) for a in phrases(theirs) for b in phrases(ours))
        both[plain(theirs["label"]), plain(ours["label"])] += 1
    best: dict[str, tuple[float, str]] = {}
    for (word, meaning), together in both.items():
        score = 2 * together / (of_them[word] + of_us[meaning])
        score += 0.3 * SequenceMatcher(None, word, meaning).ratio()
        score -= 0.1 * abs(word.count(" ") - meaning.count(" "))
        best[word] = max(best.get(word, (0.0, "")), (score, meaning))
    return {word: meaning for word, (score, meaning) in best.items() if score > LEAST}


def written() -> list[tuple[str, str, str, str]]:
    """Rows of `glossary.txt`: (language, word, kind, English)."""
    rows, kind = [], "n"
    for line in Path(__file__).with_name("glossary.txt").read_text().splitlines():
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            kind = KINDS.get(line.strip("[]"), "n")
            continue
        english, words = line.split(": ", 1)
        for language, theirs in zip(TRANSLATED, words.split(" | "), strict=True):
            for word in filter(lambda one: one != "-", theirs.split(", ")):
                noun = plain(word.removeprefix("^")).capitalize() if word[0] == "^" else plain(word)
                rows.append((language, noun, kind, english))
    return rows


def grams(text: str) -> list[int]:
    """Buckets of all runs of one to four letters."""
    raw = f" {plain(text)} "
    runs = (raw[i : i + n] for n in range(1, 5) for i in range(len(raw) - n + 1))
    return [zlib.crc32(run.encode()) % BUCKETS for run in runs]


def taught(texts: dict[str, list[str]]) -> np.ndarray:
    """Log-probability of each bucket in each language. Shapes: (BUCKETS, languages) float32."""
    counts = np.full((BUCKETS, len(TOLD)), 0.02)
    for column, language in enumerate(TOLD):
        seen = Counter(gram for text in texts[language] for gram in grams(text))
        counts[list(seen), column] += list(seen.values())
    return np.log(counts / counts.sum(0)).astype(np.float32)


def glossary(said: dict[str, dict[str, dict]]) -> dict[tuple[str, str], tuple[str, str]]:
    """(language, word) -> (kind, English)."""
    rows = {}
    for language in TRANSLATED:
        for word, meaning in induced(said["en"], said[language]).items():
            if word not in ENGLISH or word == meaning:
                rows[language, word] = ("n", meaning)
    known = written()
    qualities = {english for _, _, kind, english in known if kind == "j"}
    rows = {key: ("j" if means in qualities else "n", means) for key, (_, means) in rows.items()}
    # A word that several lines hold means what the first of them says.
    ours = {(lang, word): (kind, means) for lang, word, kind, means in reversed(known)}
    rows = {key: row for key, row in rows.items() if not is_wrong_plural(*key, row[1], ours)} | ours
    return {(lang, parted(word, lang)): row for (lang, word), row in rows.items()}


def is_wrong_plural(language: str, word: str, means: str, ours: dict) -> bool:
    """Whether a word is the plural of one of ours, and is taken for something else: bambine."""
    for ending, instead in PLURALS[language]:
        single = ours.get((language, word.removesuffix(ending) + instead))
        if word.endswith(ending) and single and single[1][:3] not in means:
            return True
    return False


def examples(said: dict[str, dict[str, dict]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Texts by language: to learn from, and names that are held out."""
    kept = {language: [r[1] for r in written() if r[0] == language] * 2 for language in TOLD}
    kept["en"] = [word for words in vocabulary().values() for word in words] * 2
    kept["en"] += [tail for tails in captions.SCENES.values() for tail in tails] * 4
    kept["en"] += [frame.format(mood) for frame in captions.FRAMES for mood in captions.MOODS]
    held_out: dict[str, list[str]] = {language: [] for language in TOLD}
    for language in TOLD:
        for code, one in said[language].items():
            if zlib.crc32(code.encode()) % 10:
                kept[language] += sorted(phrases(one) | {one["label"]})
            elif " " in one["label"] or language in ("ja", "ko", "zh", "th"):
                held_out[language].append(one["label"])
    return kept, held_out


def main(work: Path, to: Path) -> None:
    said = fetch(work)
    rows = glossary(said)
    lines = [f"{lang}\t{word}\t{kind}\t{means}" for (lang, word), (kind, means) in rows.items()]
    text = "\n".join(sorted(lines)) + "\n"
    (to / "glossary.tsv.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    kept, held_out = examples(said)
    table = taught(kept)
    for language, texts in held_out.items():
        right = [TOLD[table[grams(text)].sum(0).argmax()] == language for text in texts]
        print(language, f"{np.mean(right):.3f} of {len(texts)} names held out", end="; ")
    low, high = table.min(), table.max()
    codes = ((table - low) / (high - low) * 255).round().astype(np.uint8)
    np.savez_compressed(to / "languages.npz", codes=codes, span=[low, high], languages=TOLD)
    print()
    for name in ("glossary.tsv.gz", "languages.npz"):
        print(name, f"{(to / name).stat().st_size / 1e6:.2f} MB", end="; ")
    print(len(rows), "words")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
