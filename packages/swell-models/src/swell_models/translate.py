"""What a short description of a picture says, in English: which language it is in, and its words.

Two ways, the better one where it is at hand:

    Argos       packages of Argos Translate, neural, whole sentences, about 50 languages; their
                files are read with the libraries that Argos itself uses, CTranslate2 and
                SentencePiece (`swell[argos]`)
    glossary    word by word out of a list that ships, from five languages; adjectives are put
                before their noun, and what is not known stays as it is

The language is that of most words. A word of English counts for English, a word of another list for
its language, and a function word that only one of them has ("the", "und") counts twice. Naive Bayes
over runs of letters (Cavnar and Trenkle, "N-gram-based text categorization", 1994, gave the runs)
decides where the words do not, and for languages without a list. A text that may be English is
taken for it: a wrong translation costs more than none.
"""

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Final

import numpy as np
from pydantic import BaseModel, Field

from swell import ui
from swell.core.records import Speed
from swell.models.onnx_sessions import weights
from swell.models.word_lists import ENDINGS, fold
from swell.sdk.context import Item, Reject
from swell.sdk.model import Model
from swell.settings.environment import argos_folders
from swell_models.word_by_word import FUNCTION_WORDS, translation_lists, words_of

#: What languages are called, by ISO 639-1 code.
LANGUAGES: Final[Mapping[str, str]] = {
    **{"en": "English", "es": "Spanish", "pt": "Portuguese", "fr": "French", "de": "German"},
    **{"it": "Italian", "da": "Danish", "et": "Estonian", "fi": "Finnish", "hu": "Hungarian"},
    **{"lt": "Lithuanian", "ms": "Malay", "nb": "Norwegian", "nl": "Dutch", "pl": "Polish"},
    **{"sv": "Swedish", "vi": "Vietnamese", "bn": "Bengali", "hi": "Hindi", "ja": "Japanese"},
    **{"ko": "Korean", "ru": "Russian", "th": "Thai", "uk": "Ukrainian", "zh": "Chinese"},
    **{"ar": "Arabic", "el": "Greek", "he": "Hebrew", "tr": "Turkish"},
}
#: Those that are read without any package of Argos Translate.
READ: Final = ("en", "es", "fr", "pt", "de", "it")
#: Letters that tell a language, or languages, alone; the first that a text has decide.
_BY_SCRIPT: Final = (
    (re.compile("[\u3040-\u30ff\uff66-\uff9d]"), ("ja",)),
    (re.compile("[\u3400-\u9fff]"), ("zh", "ja")),
    (re.compile("[\uac00-\ud7a3\u1100-\u11ff]"), ("ko",)),
    (re.compile("[іїєґ]"), ("uk",)),
    (re.compile("[\u0400-\u04ff]"), ("ru", "uk")),
    (re.compile("[\u0370-\u03ff]"), ("el",)),
    (re.compile("[\u0590-\u05ff]"), ("he",)),
    (re.compile("[\u0600-\u06ff]"), ("ar",)),
    (re.compile("[\u0900-\u097f]"), ("hi",)),
    (re.compile("[\u0980-\u09ff]"), ("bn",)),
    (re.compile("[\u0e00-\u0e7f]"), ("th",)),
)
#: Letters of Turkish, which the runs of letters do not know.
_TURKISH: Final = re.compile("[ığ]")
_LATIN: Final = re.compile("[a-z\u00e0-\u024f]")
#: Signs that are drawn as nothing. Those that join emoji, or letters of India, say something.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb]|(?<=[A-Za-z\u00c0-\u024f])[\u200c\u200d]"
)
#: Packages were taught sentence by sentence.
_SENTENCES: Final = re.compile(r"(?<=[.!?])\s+")
_LETTERS: Final = frozenset(ascii_lowercase) - {"a"}
#: Function words that another language has as another word, particles of names (Rio de Janeiro,
#: van Gogh) and letters (vitamin e) say nothing of a text's language.
_NEUTRAL: Final = _LETTERS | words_of("""
    à ai all am as bien bin che chi com come con den die do dove era fur ha han hat hay ho in ma man
    me mi mia no on os par per plus pour sans seine sin so sob son sue ton tout war was
    da de del des di du el la las le los van von
""")
#: What a share of the words counts against the letters, in nats per run of letters.
_WORDS: Final = 1.5
#: How much likelier than English a language must be, in nats per run of letters.
_MARGIN: Final = 0.12


@dataclass(frozen=True, slots=True)
class Translation:
    """What became of a text.

    Args:
        text: In English, or as it was.
        language: ISO 639-1 code of what it was in, as far as that can be told.
        by: `argos`, `glossary`, or `none` where it stayed as it was.
        known: Share of its words that could be translated, 0 to 1.
        note: A sentence for the author of the text where its language is in doubt, or is not
            translated here; empty otherwise.
    """

    text: str
    language: str
    by: str = "none"
    known: float = 1.0
    note: str = ""


class Detector:
    """Tells which of 25 languages a short text is in.

    Args:
        path: `languages.npz`, which `training/glossary.py` writes.
    """

    def __init__(self, path: Path) -> None:
        with np.load(path) as held:
            low, high = held["span"]
            self._table = held["codes"].astype(np.float32) / 255 * (high - low) + low
            self.languages = tuple(held["languages"].tolist())

    def scores(self, text: str) -> dict[str, float]:
        """Return the mean log-likelihood of its runs of letters by language, in nats."""
        raw = f" {_plain(text)} "
        runs = [raw[i : i + n] for n in range(1, 5) for i in range(len(raw) - n + 1)]
        rows = [zlib.crc32(run.encode(errors="replace")) % len(self._table) for run in runs]
        found = self._table[rows].mean(0)
        return dict(zip(self.languages, found.tolist(), strict=True))


def _by_script(text: str) -> tuple[str, ...]:
    """Return the languages that most of a text's letters belong to; none for Latin ones."""
    latin = len(_LATIN.findall(text))
    for letters, languages in _BY_SCRIPT:
        if letters.search(text):
            others = sum(c.isalpha() for c in text) - latin
            return languages if others >= latin else ()
    return ()


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[“”«»\"!?:;,.()]", " ", text.lower())).strip()


def _seen(text: str) -> str:
    """Return a text without signs that are drawn as nothing; they may stand for its spaces."""
    if "\u200b" in text and not any(letter.isspace() for letter in text):
        text = text.replace("\u200b", " ").strip()
    return _UNSEEN.sub("", text)


class Argos:
    """Packages of Argos Translate into English that lie on this machine, by their language.

    Args:
        folders: Where to look; each package is a folder with `metadata.json`, a CTranslate2 model
            under `model/`, and `sentencepiece.model`.

    Source: the layout of argostranslate 1.11's packages.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._open: dict[str, tuple[Any, Any, str]] = {}

    def languages(self) -> dict[str, Path]:
        """Return the languages that can be translated from, and where the packages are."""
        found: dict[str, Path] = {}
        for path in sorted(p for f in self._folders for p in f.glob("*/metadata.json")):
            try:
                facts = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(facts, dict) and facts.get("to_code") == "en":
                found.setdefault(str(facts.get("from_code")), path.parent)
        return found

    def __call__(self, text: str, folder: Path) -> str:
        """Translate one sentence.

        Raises:
            ImportError: `swell[argos]` is not installed.
            RuntimeError: The package's files cannot be read.
        """
        key = str(folder)
        if key not in self._open:
            self._open[key] = _opened(folder)
        pieces, network, prefix = self._open[key]
        sentences = [pieces.encode(one, out_type=str) for one in _SENTENCES.split(text)]
        results = network.translate_batch(
            sentences,
            target_prefix=[[prefix]] * len(sentences) if prefix else None,
            replace_unknowns=True,
            beam_size=4,
            length_penalty=0.2,
        )
        said = ["".join(result.hypotheses[0]).replace("▁", " ").strip() for result in results]
        return " ".join(one.removeprefix(prefix).strip() for one in said)


def _opened(folder: Path) -> tuple[Any, Any, str]:
    # Found only with `swell[argos]`: whoever has no package never comes here.
    import ctranslate2  # noqa: PLC0415
    import sentencepiece  # noqa: PLC0415

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.model"))
    network = ctranslate2.Translator(str(folder / "model"), device="cpu", intra_threads=1)
    facts = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    return pieces, network, str(facts.get("target_prefix", ""))


class Translator:
    """Brings texts into English by the best way at hand.

    Args:
        folders: Where packages of Argos are looked for.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._detector = Detector(weights("languages.npz"))
        self._english, self._glossary = translation_lists()
        self._argos = Argos(folders)
        self._small = {
            language: words | {fold(word) for word in words}
            for language, words in FUNCTION_WORDS.items()
        }
        foreign = frozenset[str]().union(*(self._small[language] for language in ENDINGS))
        self._own = {
            language: frozenset(word for word in self._small[language] if word not in self._english)
            - (_NEUTRAL - _LETTERS)
            for language in ENDINGS
        } | {"en": self._small["en"] - foreign}

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that can be translated from now, by code."""
        return tuple(sorted({*self._glossary.languages, *self._argos.languages()}))

    def detect(self, text: str) -> str:
        """Return the language of a text, English in doubt."""
        language, is_sure = self._guess(_seen(text))
        return language if is_sure else "en"

    def _guess(self, text: str) -> tuple[str, bool]:
        """Return the likeliest language, and whether more than its letters speak for it."""
        if written := _by_script(text.lower()):
            scores = self._detector.scores(text)
            return max(written, key=lambda language: scores.get(language, 0.0)), True
        # Without what is written with digits: 3d, 8k.
        words = re.findall(r"\b[^\W\d_]+\b", text.lower())
        content = [word for word in words if word not in _NEUTRAL]
        english = sum(word in self._english for word in content)
        if english == len(content):
            return "en", True
        scores = self._detector.scores(text)
        votes = {language: self._votes(words, language) for language in ENDINGS}
        ours = english + sum(word in self._own["en"] for word in content)
        # A language without a list is likely only where no list has most of the words.
        is_unknown = english < len(content) / 2 and max(votes.values()) <= len(words) / 2
        if is_unknown and _TURKISH.search(text.lower()):
            return "tr", True
        rates = {"en": scores["en"] + _WORDS * ours / len(words) + _MARGIN}
        for language, score in scores.items():
            if language in votes:
                rates[language] = score + _WORDS * votes[language] / len(words)
            elif language != "en" and is_unknown:
                rates[language] = score
        best = max(rates, key=rates.__getitem__)
        has_own = any(word in self._own.get(best, ()) for word in words)
        if best == "en" or (english > len(content) / 2 and not has_own):
            return "en", True
        # One or two words that no list has may be a name in any language.
        foreign = [word for word in words if word not in self._english]
        is_known = best in votes and self._votes(foreign, best) > 0
        return best, is_known or len(words) > 2

    def _votes(self, words: Sequence[str], language: str) -> int:
        """Return how many of these words a language has; those that only it has count twice."""
        own, small = self._own[language], self._small[language]
        return sum(
            2 if word in own else word in small or self._glossary.has(word, language)
            for word in words
            if word in own or word not in _NEUTRAL
        )

    def __call__(self, text: str, language: str | None = None) -> Translation:
        """Return the text in English, or as it is with a note that says why.

        Args:
            text: A sentence or a few words.
            language: Its ISO 639-1 code; None finds out.
        """
        text = _seen(text)
        told, is_sure = (language, True) if language else self._guess(text)
        if not is_sure:
            note = f"This may be {_name(told)}; it was read as English."
            return Translation(text, "en", known=0.0, note=note)
        if told == "en":
            return Translation(text, "en")
        package = self._argos.languages().get(told)
        if package is not None:
            try:
                return Translation(self._argos(text, package), told, "argos")
            except ImportError:
                pass  # the package is there, its libraries are not
        if told not in self._glossary.languages:
            why = f"This looks like {_name(told)}, which this model cannot translate"
        elif not self._glossary.share(text, told):
            why = f"This model knows none of these words in {_name(told)}"
        else:
            why = ""
        if why:
            return Translation(text, told, known=0.0, note=f"{why}.")
        known = self._glossary.share(text, told, self._english)
        said = self._glossary(text, told, self._english)
        return Translation(said, told, "glossary", round(known, 3))


def _name(language: str) -> str:
    return LANGUAGES.get(language, language)


class Translate(Model):
    """Translate a prompt into English.

    Without anything else installed it translates word by word from Spanish, Portuguese, French,
    German and Italian: enough for "un gato azul en la nieve", not for a letter. With packages of
    Argos Translate (`swell models pull --argos`) it translates whole sentences from about 50
    languages. Unknown words and English text stay as they are. If the language is in doubt or has
    no translation, the text stays as it is, and a warning and `note` say so.

    | | |
    |---|---|
    | words | 28,755, accents or not: the Unicode CLDR's names of emoji (Unicode-3.0), and our own |
    | words of English | 75,673, by which it knows what to leave: SCOWL, and our own |
    | languages told apart | 29, by words, script and runs of letters |
    | time | below 1 ms |
    | Argos packages | licences of their own, most of them MIT or CC0; see each `README.md` |
    """

    name = "swell/translate"
    licence = "Apache-2.0 AND Unicode-3.0 AND LicenseRef-SCOWL; Argos packages under their own"
    credits = """
    Names and keywords of emoji from the Unicode CLDR, (c) Unicode, Inc. English words from SCOWL,
    (c) 2000-2011 Kevin Atkinson and others.
    """
    memory_bytes = 35_000_000
    speed = (Speed("one core of an AMD EPYC", "a prompt, word by word", 0.0003, "2026-11-25"),)
    samples = {"prompts in five languages, word by word": "samples/translate.txt"}
    examples = (
        {"text": "un gato azul en la nieve"},
        {"text": "eine rote Katze im Schnee", "source": "de"},
    )

    class Input(BaseModel):
        """What to translate."""

        text: Annotated[
            str,
            Field(min_length=1, max_length=2000, title="Text", description="A prompt."),
            ui.textarea(rows=2, languages=READ),
        ]
        source: Annotated[
            str,
            Field(
                pattern="^(auto|[a-z]{2,3})$",
                title="From",
                description="The language's code, such as es; auto detects it.",
            ),
        ] = "auto"

    class Output(BaseModel):
        """The text in English, what it was in, and what translated it."""

        text: str
        language: str
        by: str
        known: float
        #: Where the language is in doubt or not translated here, a sentence that says so.
        note: str

    def load(self, device: str) -> None:
        """Read the lists."""
        self._translator = Translator(argos_folders())

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Translate each by itself."""
        return [self._one(item) for item in items]

    def _one(self, item: Item[Any]) -> "Translate.Output | Reject":
        asked = item.input
        source = None if asked.source == "auto" else asked.source
        known = ("en", *self._translator.languages)
        if source is not None and source not in known:
            return Reject(
                f"Cannot translate from {source!r}. Choose from {', '.join(sorted(known))}."
            )
        made = self._translator(asked.text, source)
        if made.note:
            item.warn("language", made.note)
        return self.Output(
            text=made.text,
            language=made.language,
            by=made.by,
            known=made.known,
            note=made.note,
        )
