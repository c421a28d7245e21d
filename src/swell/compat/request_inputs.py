"""Request bodies of other APIs: JSON objects, files of forms, and data URIs in inputs.

Files of forms and long data URIs become uploads, so that neither the database nor lists hold
megabytes of base64. URLs stay as they are: the worker fetches them.
"""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import msgspec

from swell.core.errors import UNREADABLE, InvalidRequest, TooLarge
from swell.objects.object_store import ObjectInfo
from swell.server.files.file_routes import keep_upload, plain_type
from swell.server.models.model_cards import pointer_of
from swell.server.multipart_forms import Part, read_parts
from swell.server.problem_details import field_error
from swell.server.request import Call
from swell.server.service import Service

#: Most fields of a body, without those inside their values.
_MAX_FIELDS: Final = 1000

#: Shorter data URIs stay: an upload would take more room.
_LEAST_CHARS: Final = 4096

#: Most levels of an input that are searched for files.
_DEEPEST: Final = 50

#: Largest seed of a task; larger ones are taken modulo the next number.
_MOST_SEED: Final = 2**53 - 1

#: Most samples of a task.
_MOST_SAMPLES: Final = 100

_DATA_URI: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.ASCII)


def is_data_uri(text: str) -> bool:
    """Whether a string is a data URI with base64."""
    return text.startswith("data:") and _DATA_URI.match(text) is not None


def data_uri(data: bytes, content_type: str) -> str:
    """Return a file as a data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


async def json_object(service: Service, call: Call) -> dict[str, Any]:
    """Return the fields of a body; none where it is empty.

    Raises:
        InvalidRequest: The body is not a JSON object.
        TooLarge: It is too long, or has too many fields.
    """
    call.check_json()
    body = await call.body(service.settings.server.max_body_bytes)
    value = decode_json(body or b"{}", "the body")
    if not isinstance(value, dict):
        raise InvalidRequest('the body is no JSON object: send one such as {"prompt": "a fox"}')
    if len(value) > _MAX_FIELDS:
        raise TooLarge(f"the body has {len(value):,} fields: send at most {_MAX_FIELDS:,}")
    return value


def decode_json(data: bytes | msgspec.Raw | str, what: str) -> Any:
    """Return decoded JSON.

    Raises:
        InvalidRequest: It is not JSON in UTF-8.
    """
    try:
        return msgspec.json.decode(data)
    except UNREADABLE as error:
        raise InvalidRequest(f"{what} is not JSON in UTF-8: {error}") from error


def form_parts(call: Call, limit_bytes: int) -> AsyncIterator[Part]:
    """Return the parts of a form as they arrive.

    Raises:
        InvalidRequest: The form cannot be read.
        TooLarge: It is longer than `limit_bytes`.
    """
    return read_parts(call.headers.get(b"content-type") or b"", call.chunks(limit_bytes))


async def upload_part(
    service: Service, call: Call, part: Part, media_type: str = "", name: str = ""
) -> tuple[ObjectInfo, str]:
    """Store a file of a form as an upload; return it with the SHA-256 of its bytes.

    Raises:
        UnsupportedType, InvalidRequest: The file cannot be an upload.
    """
    sha256 = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for piece in part.data:
            sha256.update(piece)
            yield piece

    kind = plain_type(media_type or part.media_type)
    info = await keep_upload(service, call, hashed(), kind, name or part.filename or "")
    return info, sha256.hexdigest()


def take_seed(fields: dict[str, Any], known: Any, at: str = "") -> int | None:
    """Take the task's seed out of an input, unless the model has an input of this name.

    Empty and negative seeds mean any seed.

    Raises:
        InvalidInput: The seed is no whole number.
    """
    if "seed" in known:
        return None
    seed = fields.pop("seed", None)
    if seed in (None, ""):
        return None
    if type(seed) is not int:
        raise field_error(f"{at}seed", "a seed is a whole number, 0 or more", "type")
    return None if seed < 0 else seed % (_MOST_SEED + 1)


def take_count(fields: dict[str, Any], known: Any, name: str, at: str = "") -> int:
    """Take the task's number of samples out of an input, unless the model has such an input.

    Raises:
        InvalidInput: It is no whole number from 1 to 100.
    """
    count = None if name in known else fields.pop(name, None)
    return 1 if count is None else whole_number(count, at + name, 1, _MOST_SAMPLES)


def whole_number(value: Any, field: str, least: int, most: int) -> int:
    """Return an integer within bounds.

    Raises:
        InvalidInput: It is something else.
    """
    if type(value) is not int or not least <= value <= most:
        raise field_error(field, f"it is a whole number from {least} to {most}", "type")
    return value


async def with_uploads(service: Service, call: Call, value: Any, at: str = "/input") -> Any:
    """Return an input with URLs of uploads in place of its long data URIs.

    Args:
        service: The backend.
        call: The request; the uploads belong to its key.
        value: The input, decoded, or a part of it.
        at: JSON pointer to it, for errors.

    Raises:
        InvalidInput: A data URI is not valid base64.
        UnsupportedType: A file is of a kind that may not be uploaded.
    """

    async def decoded(text: str, pointer: str) -> AsyncIterator[bytes]:
        try:
            yield base64.b64decode(text, validate=True)
        except ValueError as error:
            raise field_error(pointer, "the data URI is not valid base64", "data_uri") from error

    async def upload(text: str, pointer: str) -> str:
        if len(text) < _LEAST_CHARS or not is_data_uri(text):
            return text
        head, _, body = text.partition(",")
        kind = plain_type(head.removeprefix("data:"))
        info = await keep_upload(service, call, decoded(body, pointer), kind)
        return service.urls(call).file(info.key, info.bytes)

    return await replace_strings(value, upload, at)


async def replace_strings(
    value: Any, replace: Callable[[str, str], Awaitable[str]], at: str, levels: int = _DEEPEST
) -> Any:
    """Return a JSON value with other strings.

    Args:
        value: The value.
        replace: Returns the replacement from a string and its JSON pointer.
        at: JSON pointer to the value.
        levels: Strings in more lists and objects than these stay.
    """
    if isinstance(value, str):
        return await replace(value, at)
    if not levels or not isinstance(value, list | dict):
        return value
    if isinstance(value, list):
        return [
            await replace_strings(each, replace, f"{at}/{index}", levels - 1)
            for index, each in enumerate(value)
        ]
    return {
        name: await replace_strings(each, replace, at + pointer_of([name]), levels - 1)
        for name, each in value.items()
    }
