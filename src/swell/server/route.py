"""How an operation of the HTTP API is declared, on the handler that answers it."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from swell.core.errors import InvalidInput, InvalidRequest, SwellError, TooLarge
from swell.core.records import Scope
from swell.server.common_schemas import NoQuery
from swell.server.request import Call, Reply

if TYPE_CHECKING:
    from swell.server.service import Service

#: None means that the handler has written its answer itself.
Handler = Callable[["Service", Call], Awaitable[Reply | None]]

#: Makes the answer for an error.
Refusal = Callable[[Call, SwellError], Reply]


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that an operation reads."""

    name: str
    description: str
    schema: dict[str, Any]
    example: str


IDEMPOTENCY_KEY: Final = Header(
    "Idempotency-Key",
    "the same key returns the same task for 24 hours; another body is an error",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*[!-~][ -~]*$"},
    "8e03978e-40d5-43e8-bc93-6894a57f9324",
)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: a message as JSON, or files of these media types."""

    message: type[Any] | None = None
    media_types: tuple[str, ...] = ("application/json",)
    example: Any = None


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: a message as JSON, or something else of this media type."""

    description: str
    message: type[Any] | None = None
    media_type: str = "application/json"
    #: Media types of files that may come instead, where `Accept` prefers them.
    files: tuple[str, ...] = ()
    #: Headers that not every answer has, with their meaning.
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the surface: everything that is served, described and documented of it."""

    method: str
    #: Path with `{name}` for one part and `{name:path}` for the rest.
    path: str
    handler: Handler
    #: The permission that a key needs; None if no key is needed.
    scope: Scope | None
    summary: str
    #: Heading under which it is documented.
    group: str
    responses: dict[int, Response]
    errors: tuple[type[SwellError], ...] = ()
    description: str = ""
    body: Body | None = None
    query: type[Any] = NoQuery
    headers: tuple[Header, ...] = ()
    #: Kept out of OpenAPI: pages for people.
    is_page: bool = False
    #: Its name in the audit log, such as `keys.create`; empty if it is not logged.
    audit: str = ""
    #: Which other API's clients it is for, such as `replicate`; empty for our own surface.
    facade: str = ""
    #: Makes the answers for errors; None for problem documents.
    refuse: Refusal | None = None
    #: The operation's id in OpenAPI, such as `tasks_create_task`. It is public: the tables of
    #: routes set it, so that it stays when a handler moves.
    operation_id: str = ""

    @property
    def public_path(self) -> str:
        """The path as OpenAPI writes it."""
        return self.path.replace(":path}", "}")


TASK_EXAMPLE: Final[dict[str, Any]] = {
    "model": "demo/upper",
    "input": {"text": "hello"},
    "user": "anna",
    "finish_by_s": 60,
}

_declared: Final[dict[str, list[Route]]] = {}


def declared_in(module: str) -> list[Route]:
    """Return the operations that the handlers of a module declare, in their order."""
    return _declared.get(module, [])


def route(
    operation: str,
    responses: Response | type[Any] | dict[int, Response],
    *,
    group: str,
    scope: Scope | None = Scope.CLIENT,
    body: type[Any] | Body | None = None,
    errors: tuple[type[SwellError], ...] = (),
    **more: Any,
) -> Callable[[Handler], Handler]:
    """Return a decorator that declares an operation on its handler.

    The first line of the handler's docstring is the summary, and the text up to "Raises:" the
    description. The errors of reading a body or a query are added to `errors`.

    Args:
        operation: Method and path, such as "GET /v1/tasks".
        responses: By status; or the one of status 200, or its message, which the summary describes.
        group: Heading in the reference.
        scope: Permission that a key needs; None if no key is needed.
        body: What it reads, or its message.
        errors: Errors that it answers.
        more: Other fields of `Route`.
    """
    if isinstance(body, type):
        body = Body(body)
    if body is not None and body.message is not None:
        errors = (InvalidRequest, InvalidInput, TooLarge, *errors)
    elif more.get("query", NoQuery) not in (NoQuery, dict):
        errors = (InvalidRequest, InvalidInput, *errors)
    method, _, path = operation.partition(" ")

    def declare(handler: Handler) -> Handler:
        summary, _, rest = (inspect.getdoc(handler) or "").partition("\n\n")
        summary = summary.removesuffix(".")
        by_status = responses
        if isinstance(by_status, Response):
            by_status = {200: by_status}
        elif not isinstance(by_status, dict):
            by_status = {200: Response(summary, by_status)}
        made = Route(
            method=method,
            path=path,
            handler=handler,
            scope=scope,
            summary=summary,
            description=" ".join(rest.partition("Raises:")[0].split()),
            group=group,
            responses=by_status,
            errors=tuple(dict.fromkeys(errors)),
            body=body,
            **more,
        )
        _declared.setdefault(handler.__module__, []).append(made)
        return handler

    return declare


def group_route(group: str, **common: Any) -> Callable[..., Callable[[Handler], Handler]]:
    """Return `route` for one group, with defaults of its arguments."""
    return functools.partial(route, group=group, **common)


task_route: Final = group_route("Tasks")
file_route: Final = group_route("Files")
model_route: Final = group_route("Models")

#: For operators, with an `admin` key.
admin_route: Final = group_route("Operators", scope=Scope.ADMIN)

#: For workers, with a `worker` key.
worker_route: Final = group_route("Workers", scope=Scope.WORKER)

#: For everyone, without a key.
service_route: Final = group_route("Service", scope=None)


def page_route(
    path: str, errors: tuple[type[SwellError], ...] = ()
) -> Callable[[Handler], Handler]:
    """Declare a page for people, which OpenAPI leaves out."""
    html = Response("HTML", media_type="text/html; charset=utf-8")
    return service_route(f"GET {path}", html, query=dict, errors=errors, is_page=True)
