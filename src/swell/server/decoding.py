"""Decodes and validates bodies and queries; errors name the field and suggest a correction."""

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from swell.core.errors import UNREADABLE, FieldError, InvalidInput, InvalidRequest
from swell.server.models.model_cards import pointer_of
from swell.server.problem_details import closest
from swell.server.request import Call

if TYPE_CHECKING:
    from swell.server.service import Service

T = TypeVar("T")

_UNKNOWN = re.compile(r"unknown field `(.*?)`(?: - at `(.*)`)?", re.S)
_MISSING = re.compile(r"missing required field `(.*?)`(?: - at `(.*)`)?", re.S)
_AT = re.compile(r"^(.*?)(?: - at `(.*)`)?$", re.S)
_INTEGER = re.compile(r"^-?[0-9]{1,18}$", re.A)

#: Longest start and end of a message, in characters.
_MAX_MESSAGE = 300
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|\[\.\.\.\]")


class Reader:
    """Reads JSON bodies of one type, strictly: an unknown field is an error with a suggestion."""

    __slots__ = ("_fields", "decode")

    def __init__(self, kind: type[Any]) -> None:
        self.decode = msgspec.json.Decoder(kind).decode
        self._fields = _all_fields(kind)

    def read(self, body: bytes) -> Any:
        """Return the message.

        Raises:
            InvalidRequest: The body is not JSON.
            InvalidInput: It is JSON of another shape.
        """
        try:
            return self.decode(body)
        except UNREADABLE as error:
            raise self.refusal(body, error) from error

    def refusal(self, body: bytes, error: Exception) -> InvalidRequest:
        """Return the error for a client whose body cannot be decoded."""
        if isinstance(error, msgspec.ValidationError):
            return _refusal(str(error), self._fields)
        what = "the body is empty" if not body else f"the body is not JSON in UTF-8: {error}"
        return InvalidRequest(f"{what}; send a JSON object")


async def read_body(
    service: "Service", call: Call, kind: type[T], *, is_optional: bool = False
) -> T:
    """Return the message in a request's body. An optional body may be empty.

    Raises:
        InvalidRequest: The body is not JSON, or of another shape.
        TooLarge: It is longer than `server.max_body_bytes`.
    """
    shape: Any = kind
    reader, limit_bytes = _reader(shape), service.settings.server.max_body_bytes
    message: T
    if is_optional:
        message = reader.read(await call.body(limit_bytes) or b"{}")
    else:
        message = await call.read(reader, limit_bytes)
    return message


_reader = functools.cache(Reader)


def convert_fields(fields: Mapping[str, Any], kind: type[T], *, is_text: bool = False) -> T:
    """Return fields that were read already as a message.

    Args:
        fields: By name.
        kind: The message.
        is_text: Whether numbers and booleans come as text, as in a form.

    Raises:
        InvalidInput: One is unknown, or its value is not allowed.
    """
    try:
        return msgspec.convert(fields, kind, strict=not is_text)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), _all_fields(kind)) from error


def read_query(call: Call, kind: type[T]) -> T:
    """Return the query parameters as a message.

    Raises:
        InvalidInput: A parameter is unknown, or its value is not allowed.
    """
    shape: Any = kind
    kinds = _scalars(shape)
    values = {name: _scalar(text, kinds.get(name, ())) for name, text in call.query().items()}
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise _refusal(str(error), _all_fields(kind), what="query parameter") from error


def _refusal(message: str, fields: list[str], what: str = "field") -> InvalidRequest:
    """Translate msgspec's message into one with a pointer and a suggestion."""
    if len(message) > 2 * _MAX_MESSAGE:
        # It repeats a name or a value from the body.
        message = f"{message[:_MAX_MESSAGE]}…{message[-_MAX_MESSAGE:]}"
    unknown = _UNKNOWN.search(message)
    if unknown:
        name = unknown[1]
        near = closest(name, fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields) or 'none'}"
        detail = f"there is no {what} {name[:60]!r}; {hint}"
        return _one_error(_pointer(unknown[2]) + pointer_of([name]), detail, "unknown_field")
    missing = _MISSING.search(message)
    if missing:
        detail = f"{missing[1]!r} is required"
        return _one_error(_pointer(missing[2]) + pointer_of([missing[1]]), detail, "required")
    found = _AT.match(message)
    assert found is not None, "the pattern matches anything"
    return _one_error(_pointer(found[2]), _lower(found[1]), "type")


def _one_error(pointer: str, detail: str, code: str) -> InvalidInput:
    where = f"{pointer}: " if pointer else ""
    return InvalidInput(
        where + detail, errors=[FieldError(pointer=pointer, detail=detail, code=code)]
    )


def _pointer(path: str | None) -> str:
    """Return the JSON pointer of msgspec's `$.tasks[3].count`."""
    steps = _STEP.findall(path or "")
    return pointer_of([name or index or "*" for name, index in steps])


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


@functools.cache
def _scalars(kind: type[Any]) -> dict[str, tuple[type[Any], ...]]:
    """Return which kinds of value each parameter may have."""
    found = {}
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        bare = _bare(field.type)
        options = getattr(bare, "types", (bare,))
        found[field.encode_name] = tuple(type(_bare(each)) for each in options)
    return found


def _bare(kind: Any) -> Any:
    """Return a type without the description that is wrapped around it."""
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    return kind


def _scalar(text: str, kinds: tuple[type[Any], ...]) -> int | bool | str:
    # By hand, since msgspec's lax mode would read a user called `null` as none at all.
    if msgspec.inspect.IntType in kinds and _INTEGER.match(text):
        return int(text)
    if msgspec.inspect.BoolType in kinds and text in ("true", "false"):
        return text == "true"
    return text


def _all_fields(kind: Any) -> list[str]:
    """Return the field names of a message and of the items of its lists."""
    info = msgspec.inspect.type_info(kind)
    return _names(info)


def _names(info: Any) -> list[str]:
    names: list[str] = []
    if isinstance(info, msgspec.inspect.StructType):
        for field in info.fields:
            names.append(field.encode_name)
            if isinstance(field.type, msgspec.inspect.ListType):
                names += _names(field.type.item_type)
    return names
