"""Replaces lone surrogates, which have no UTF-8, in texts of models. Pure.

They come from file names that are not UTF-8, and from tokenizers that split an emoji.
"""

from typing import Any

import msgspec


def valid_text(text: str) -> str:
    """Return the text with U+FFFD for every lone surrogate; two that make a pair become it."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend(value: Any) -> Any:
    """Return a message, or anything else of structs, lists and dictionaries, with valid texts."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, list | tuple):
        return type(value)(mend(part) for part in value)
    if isinstance(value, dict):
        return {mend(key): mend(part) for key, part in value.items()}
    if isinstance(value, msgspec.Struct):
        parts = {name: mend(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **parts)
    return value


def describe_error(error: BaseException) -> str:
    """Return what an error says, or its kind where it says nothing or cannot even be asked."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return text or type(error).__name__
