"""Words of task inputs, for full-text search."""

import re
import unicodedata
from typing import Final

import msgspec

from swell.core.errors import UNREADABLE

#: Indexed characters of one input, and of one word.
_MAX_CHARS: Final = 2000
_MAX_WORD_CHARS: Final = 40

#: Most words in one search.
MOST_SOUGHT: Final = 8

#: Scripts without spaces between words: each character is a word. Thai and Lao, Myanmar, Khmer,
#: Hiragana and Katakana, and Han.
_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD: Final = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

#: Texts that name files.
_FILES: Final = ("http://", "https://", "data:")


def words_of(text: str) -> tuple[str, ...]:
    """Return each word of a text once, in lower case and without accents, in order."""
    bare = text[:_MAX_CHARS].casefold()
    if not bare.isascii():
        # Some characters decompose only after they are lower case.
        small = unicodedata.normalize("NFKD", text[:_MAX_CHARS]).casefold()
        plain = unicodedata.normalize("NFKD", small).casefold()
        bare = "".join(char for char in plain if not unicodedata.combining(char))
    return tuple(dict.fromkeys([word[:_MAX_WORD_CHARS] for word in _WORD.findall(bare)]))


def task_words(raw: msgspec.Raw) -> tuple[str, ...]:
    """Return the words of the texts of an input, without URLs and data URLs."""
    try:
        value = msgspec.json.decode(raw, type=dict[str, object])
    except UNREADABLE:
        return ()
    lists = [each if isinstance(each, list) else [each] for each in value.values()]
    texts = [text for each in lists for text in each if isinstance(text, str)]
    return words_of("\n".join([text for text in texts if not text.startswith(_FILES)]))


def key_word(key_id: str) -> str:
    """Return the word under which all tasks of a key are indexed; no text has it."""
    return f"=={key_id.encode().hex()}"
