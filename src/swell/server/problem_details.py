"""One body for every error, readable by several clients.

It is a problem document of RFC 9457. It also carries `error`, which OpenAI's
clients read, and `error_type`, which fal's read; Replicate's read the document itself. So no façade
needs a second way to fail.
"""

import difflib
from collections.abc import Iterable

import msgspec

from swell.core.errors import FieldError, Internal, InvalidInput, SwellError
from swell.server.request import Reply

PROBLEM_TYPE = b"application/problem+json"


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One broken value."""

    #: JSON pointer into the request body, or the name of a query parameter or header.
    pointer: str
    detail: str
    code: str


class ErrorEcho(msgspec.Struct, frozen=True, kw_only=True):
    """The same error, as OpenAI's clients read it."""

    message: str
    type: str
    code: str
    param: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong and what to do about it (RFC 9457)."""

    #: Where this kind of error is described.
    type: str
    title: str
    status: int
    detail: str
    #: The path that was asked.
    instance: str
    #: Stable word to compare.
    code: str
    #: The broken values, if single values are to blame.
    errors: tuple[FieldProblem, ...] = ()
    #: Name it when you report the error.
    request_id: str
    error: ErrorEcho
    error_type: str


def _tree(kind: type[SwellError]) -> Iterable[type[SwellError]]:
    for child in kind.__subclasses__():
        if child.__module__ == SwellError.__module__:
            yield child
            yield from _tree(child)


#: Every kind of error, by code.
ERROR_TYPES: dict[str, type[SwellError]] = {kind.code: kind for kind in _tree(SwellError)}

_encode = msgspec.json.Encoder().encode


def problem_reply(error: SwellError, *, path: str, request_id: str) -> Reply:
    """Return the answer for an error.

    The detail of a 500 stays in the log: the caller gets the request id to ask with.
    """
    detail = error.detail
    if error.status == Internal.status:
        detail = f"something broke on our side; report request id {request_id}"
    errors = tuple(FieldProblem(**field) for field in error.errors)
    body = Problem(
        type=f"/docs/errors#{error.code}",
        title=error.title,
        status=error.status,
        detail=detail,
        instance=path,
        code=error.code,
        errors=errors,
        request_id=request_id,
        error=ErrorEcho(
            message=detail,
            type=family_of(error.status),
            code=error.code,
            param=errors[0].pointer if errors else None,
        ),
        error_type=error.code,
    )
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for name, value in error.headers.items()
    ]
    if error.retryable and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", b"5"))
    return Reply(error.status, _encode(body), PROBLEM_TYPE, headers)


def field_error(field: str, detail: str, code: str = "unsupported_value") -> InvalidInput:
    """Return the error of one field, by its name or its JSON pointer."""
    where = FieldError(pointer="/" + field.removeprefix("/"), detail=detail, code=code)
    return InvalidInput(f"{field}: {detail}", errors=[where])


def closest(word: str, among: Iterable[str], n: int = 3) -> list[str]:
    """Return the known words that are closest to `word`, best first."""
    return difflib.get_close_matches(word[:100], list(among), n=n, cutoff=0.5)


def family_of(status: int) -> str:
    """Return OpenAI's name for errors of a status."""
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
