"""Files in inputs, as clients of other APIs name them.

A file may be named by a URL, which its worker fetches behind the same guard as any URL of a user
(`swell.outbound`), or stand in the input itself as a data URI. Those become uploads of ours, so
that megabytes of base64 lie neither in the store nor in what is listed.
"""

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from swell.api.call import Call
from swell.api.cards import pointer_of
from swell.api.files import keep_upload, plain_type
from swell.api.service import Service
from swell.errors import FieldError, InvalidInput

__all__ = ["data_uri", "is_data_uri", "replaced_strings", "with_uploads"]

#: Shorter ones stay where they are: an upload would take more room.
_LEAST_CHARS: Final = 4096

#: How far inputs are looked into, in levels.
_DEEPEST: Final = 50

_DATA_URI: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII)


def is_data_uri(text: str) -> bool:
    """Whether a string is a data URI with base64 in it."""
    return text.startswith("data:") and _DATA_URI.match(text) is not None


def data_uri(data: bytes, content_type: str) -> str:
    """Return a file as a data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


async def with_uploads(service: Service, call: Call, value: Any, at: str = "/input") -> Any:
    """Return an input, decoded, with URLs of uploads in the place of its long data URIs.

    Args:
        service: Who keeps them.
        call: Whose they are.
        value: The input, or a part of it.
        at: JSON pointer to it, for errors.

    Raises:
        InvalidInput: One of them is not base64.
        UnsupportedType: One is of a kind that may not be uploaded.
    """

    async def kept(text: str, pointer: str) -> str:
        if len(text) < _LEAST_CHARS or not is_data_uri(text):
            return text
        head, _, body = text.partition(",")
        try:
            data = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            detail = "the data URI is not valid base64"
            where = FieldError(pointer=pointer, detail=detail, code="data_uri")
            raise InvalidInput(f"{pointer}: {detail}", errors=[where]) from error
        content_type = plain_type(head.removeprefix("data:"))
        info = await keep_upload(service, call, _once(data), content_type)
        return service.urls(call).file(info.key)

    return await replaced_strings(value, kept, at)


async def replaced_strings(
    value: Any, replace: Callable[[str, str], Awaitable[str]], at: str = "", level: int = 0
) -> Any:
    """Return a JSON value with each string in it replaced.

    Args:
        value: The value.
        replace: From a string and the JSON pointer to it to what stands for it.
        at: JSON pointer to the value.
        level: How deep it lies; below 50 nothing is looked at.
    """
    if isinstance(value, str):
        return await replace(value, at)
    if level >= _DEEPEST:
        return value
    if isinstance(value, list):
        return [
            await replaced_strings(each, replace, f"{at}/{number}", level + 1)
            for number, each in enumerate(value)
        ]
    if isinstance(value, dict):
        return {
            name: await replaced_strings(each, replace, at + pointer_of([name]), level + 1)
            for name, each in value.items()
        }
    return value


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
