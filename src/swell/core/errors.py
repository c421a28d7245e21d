"""Every error that Swell raises on purpose.

    SwellError
    ├── InvalidRequest      400  the request cannot be read
    │   ├── InvalidInput    422  read, but a value breaks the schema
    │   ├── UnknownSetting  400  a setting that does not exist
    │   └── InvalidModel    400  a model is not written in a way that can be served
    ├── Unauthenticated     401  no key, or a key that is not known
    ├── CreditsUsedUp       402  the prepaid credits do not cover it
    ├── Forbidden           403  the key lacks the scope; a signed URL is wrong or expired
    ├── NotFound            404  no such task, model, artifact, …
    │   └── DamagedArtifact 404  the stored file has another size than its task says
    ├── MethodNotAllowed    405
    ├── RequestTimeout      408  the request did not come to its end
    ├── Conflict            409  the thing is in a state that does not allow this
    │   └── IdempotencyMismatch  422  the same key with another body
    ├── ExpiredArtifact     410  the file was removed, as its task's data was
    ├── TooLarge            413
    ├── UrlTooLong          414
    ├── UnsupportedType     415  the file is of a kind that is not taken
    ├── RangeNotSatisfiable 416
    ├── TooManyRequests     429  retry later
    │   └── QuotaExceeded   429  used up until the next day or month
    ├── HeadTooLarge        431  the request's headers
    ├── Internal            500  our fault; the caller gets a request id only
    └── Unavailable         503  retry later
        ├── NoWorker        503  nothing that is live or launchable can run this
        └── WouldExpire     503  the estimate breaks the deadline

`code` is a stable string that clients may compare, `status` the HTTP status, `retryable` whether
the same request may succeed later. The text of a 4xx says what to do. Exceptions of libraries are
mapped once, at the edge where they enter.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, TypedDict

import msgspec

#: What decoding raises for bytes that are not JSON in UTF-8, or not of the expected type.
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class FieldError(TypedDict):
    """One invalid value: its JSON pointer, the reason, and a stable code."""

    pointer: str
    detail: str
    code: str


class SwellError(Exception):
    """Something went wrong that Swell knows the name of.

    Args:
        detail: What happened and, for a 4xx, what to do about it.
        errors: The invalid values, for a form to show at its fields.
        headers: Extra HTTP headers, such as `Retry-After`.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    title: ClassVar[str] = "Something went wrong"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class InvalidRequest(SwellError):
    """The request cannot be read."""

    code, status, title = "invalid_request", 400, "The request cannot be read"


class InvalidInput(InvalidRequest):
    """A value breaks the schema."""

    code, status, title = "invalid_input", 422, "A value is not allowed"


class UnknownSetting(InvalidRequest):
    """A setting that does not exist."""

    code, title = "unknown_setting", "No such setting"


class InvalidModel(InvalidRequest):
    """A model is not written in a way that can be served; the text says what to change."""

    code, title = "invalid_model", "This model cannot be served"


class Unauthenticated(SwellError):
    """No key, or a key that is not known."""

    code, status, title = "unauthenticated", 401, "A valid API key is needed"


class CreditsUsedUp(SwellError):
    """The prepaid credits do not cover the request."""

    code, status, title = "credits_used_up", 402, "The credits are used up"


class Forbidden(SwellError):
    """The key may not do this."""

    code, status, title = "forbidden", 403, "Not allowed"


class NotFound(SwellError):
    """There is no such thing."""

    code, status, title = "not_found", 404, "Not found"


class DamagedArtifact(NotFound):
    """The stored file has another size than its task says."""

    code, title = "damaged_artifact", "The stored file is damaged"


class MethodNotAllowed(SwellError):
    """The path exists, but not with this method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class RequestTimeout(SwellError):
    """The request did not come to its end."""

    code, status, retryable = "request_timeout", 408, True
    title = "The request took too long to arrive"


class Conflict(SwellError):
    """The thing is in a state that does not allow this."""

    code, status, title = "conflict", 409, "Not possible in this state"


class IdempotencyMismatch(Conflict):
    """The same idempotency key came with another body."""

    code, status = "idempotency_mismatch", 422
    title = "This idempotency key was used for another request"


class ExpiredArtifact(SwellError):
    """The file was removed, as its task's data was."""

    code, status, title = "expired_artifact", 410, "The file was removed"


class TooLarge(SwellError):
    """The body or file is larger than allowed."""

    code, status, title = "too_large", 413, "Too large"


class UrlTooLong(SwellError):
    """The URL is longer than allowed."""

    code, status, title = "url_too_long", 414, "The URL is too long"


class UnsupportedType(SwellError):
    """The file is of a kind that is not taken."""

    code, status, title = "unsupported_type", 415, "This kind of file is not taken"


class RangeNotSatisfiable(SwellError):
    """The byte range lies outside the file."""

    code, status, title = "range_not_satisfiable", 416, "The range lies outside the file"


class TooManyRequests(SwellError):
    """The caller is too fast."""

    code, status, retryable, title = "too_many_requests", 429, True, "Too many requests"


class QuotaExceeded(TooManyRequests):
    """What may be used in a day or a month is used up."""

    code, title = "quota_exceeded", "The quota is used up"


class HeadTooLarge(SwellError):
    """The request's headers are larger, or more, than allowed."""

    code, status, title = "head_too_large", 431, "The request's headers are too large"


class Internal(SwellError):
    """Our fault."""

    code, status, retryable, title = "internal", 500, True, "Internal error"


class Unavailable(SwellError):
    """Not now."""

    code, status, retryable, title = "unavailable", 503, True, "Temporarily unavailable"


class NoWorker(Unavailable):
    """Nothing that is live or launchable can run this."""

    code, title = "no_worker", "No worker can run this model"


class WouldExpire(Unavailable):
    """The estimate breaks the deadline."""

    code, title = "would_expire", "The deadline cannot be kept"
