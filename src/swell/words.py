"""Words of task inputs, for full-text search."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import msgspec

#: Indexed characters of one input, and of one word.
_MOST_CHARS: Final = 2000
_MOST_WORD_CHARS: Final = 40

#: Most words in one search.
MOST_SOUGHT: Final = 8

_ASCII: Final = re.compile(r"[a-z0-9]+")

#: Scripts without spaces between words: each character is a word.
_UNSPACED: Final = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def words_of(text: str) -> tuple[str, ...]:
    """Return each word of a text once, in lower case and without accents, in order."""
    text = text[:_MOST_CHARS]
    if text.isascii():
        return tuple(
            dict.fromkeys(word[:_MOST_WORD_CHARS] for word in _ASCII.findall(text.lower()))
        )
    # Some characters decompose only after they are lower case.
    small = unicodedata.normalize("NFKD", text).casefold()
    plain = unicodedata.normalize("NFKD", small).casefold()
    found: dict[str, None] = {}
    word = ""
    for sign in plain:
        if unicodedata.combining(sign):
            continue
        if sign.isalnum() and not _is_unspaced(sign):
            word += sign
            continue
        _add(found, word)
        word = ""
        if sign.isalnum():
            _add(found, sign)
    _add(found, word)
    return tuple(found)


def task_words(raw: msgspec.Raw) -> tuple[str, ...]:
    """Return the words of the texts of an input, without URLs and data URLs."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return words_of("\n".join(_texts(value)))


def is_whole(sought: str) -> bool:
    """Whether a search must match this whole word, and not only a prefix."""
    return len(sought) == 1


def key_word(key_id: str) -> str:
    """Return the word under which all tasks of a key are indexed; no text has it."""
    return f"=={key_id.encode().hex()}"


def _texts(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        return
    left = _MOST_CHARS
    for each in value.values():
        for text in each if isinstance(each, list) else (each,):
            if isinstance(text, str) and not _is_file(text) and left > 0:
                yield text[:left]
                left -= len(text) + 1


def _is_file(text: str) -> bool:
    return text.startswith(("http://", "https://", "data:"))


def _add(found: dict[str, None], word: str) -> None:
    if word:
        found[word[:_MOST_WORD_CHARS]] = None


def _is_unspaced(sign: str) -> bool:
    code = ord(sign)
    return code >= _UNSPACED[0][0] and any(low <= code <= high for low, high in _UNSPACED)
