"""Files in inputs, as clients of other APIs name them.

A file may be named by a URL, which its worker fetches behind the same guard as any URL of a user
(`swell.addresses.outbound`), or stand in the input itself as a data URI. Those become uploads of
ours, so that megabytes of base64 lie neither in the store nor in what is listed.
"""

import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from swell.api.call import Call
from swell.api.cards import pointer_of
from swell.api.files import keep_upload, plain_type
from swell.api.reading import check_json
from swell.api.service import Service
from swell.errors import FieldError, InvalidInput, InvalidRequest, TooLarge

#: Most fields of a body, without those inside their values.
_MAX_FIELDS: Final = 1000

#: Shorter ones stay where they are: an upload would take more room.
_LEAST_CHARS: Final = 4096

#: How far inputs are looked into, in levels.
_DEEPEST: Final = 50

#: Names and numbers that lead to a value.
_Path = tuple[str | int, ...]
#: A list or an object, where in it a string stands, and the whole way to it.
_Place = tuple[Any, Any, _Path]

_DATA_URI: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII)


def is_data_uri(text: str) -> bool:
    """Whether a string is a data URI with base64 in it."""
    return text.startswith("data:") and _DATA_URI.match(text) is not None


def data_uri(data: bytes, content_type: str) -> str:
    """Return a file as a data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


async def json_object(service: Service, call: Call) -> dict[str, Any]:
    """Return the fields of a body; none where it is empty.

    Raises:
        InvalidRequest: It is no JSON object.
        TooLarge: It is too long, or has too many fields.
    """
    check_json(call)
    body = await call.body(service.settings.server.max_body_bytes)
    try:
        told = msgspec.json.decode(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not JSON in UTF-8: {error}; send an object") from error
    if not isinstance(told, dict):
        raise InvalidRequest('the body is no JSON object: send one such as {"prompt": "a fox"}')
    if len(told) > _MAX_FIELDS:
        raise TooLarge(f"the body has {len(told):,} fields: send at most {_MAX_FIELDS:,}")
    return told


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
        head, _, body = text.partition(",")
        try:
            data = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            detail = "the data URI is not valid base64"
            where = FieldError(pointer=pointer, detail=detail, code="data_uri")
            raise InvalidInput(f"{pointer}: {detail}", errors=[where]) from error
        content_type = plain_type(head.removeprefix("data:"))
        info = await keep_upload(service, call, _once(data), content_type)
        return service.urls(call).file(info.key, info.bytes)

    return await replaced_strings(value, _is_long_data_uri, kept, at)


async def replaced_strings(
    value: Any,
    is_wanted: Callable[[str], bool],
    replace: Callable[[str, str], Awaitable[str]],
    at: str = "",
) -> Any:
    """Return a JSON value with some of the strings in it replaced.

    Args:
        value: The value. It is not changed.
        is_wanted: Whether a string is replaced. Asked of each, of which there may be millions.
        replace: From a string and the JSON pointer to it to what stands for it.
        at: JSON pointer to the value. More than 50 levels below it nothing is looked at.
    """
    found: list[_Place] = []
    whole = [value]
    if not _has_wanted(whole, is_wanted):
        # Nearly always: millions of lists are not made anew for nothing.
        return value
    copy = _copied(whole, is_wanted, (), found, -1)
    for holder, key, path in found:
        holder[key] = await replace(holder[key], at + pointer_of(path[1:]))
    return copy[0]


def _has_wanted(whole: list[Any], is_wanted: Callable[[str], bool]) -> bool:
    left: list[Any] = whole.copy()
    while left:
        each = left.pop()
        if isinstance(each, str):
            if is_wanted(each):
                return True
        elif isinstance(each, list):
            left.extend(each)
        elif isinstance(each, dict):
            left.extend(each.values())
    return False


def _copied(
    value: Any, is_wanted: Callable[[str], bool], path: _Path, found: list[_Place], level: int
) -> Any:
    """Return a list or an object anew, and note where in it strings are wanted."""
    copy: Any = value.copy()
    if level >= _DEEPEST:
        return copy
    for key, each in enumerate(value) if isinstance(value, list) else value.items():
        if isinstance(each, str):
            if is_wanted(each):
                found.append((copy, key, (*path, key)))
        elif isinstance(each, list | dict):
            copy[key] = _copied(each, is_wanted, (*path, key), found, level + 1)
    return copy


def _is_long_data_uri(text: str) -> bool:
    return len(text) >= _LEAST_CHARS and is_data_uri(text)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
