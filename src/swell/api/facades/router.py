"""How a compatible API declares its operations, on the handlers that answer them."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from swell.api.route import Handler, Refusal, Response, Route, make_route
from swell.api.schemas import NoQuery
from swell.errors import InvalidInput, InvalidRequest, SwellError
from swell.registry import Scope

H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Facade:
    """One compatible API: its name, its place in the reference, and its operations."""

    #: As in `server.facades`.
    name: str
    #: Its paths begin with it.
    prefix: str
    #: Heading in the reference, and tag of OpenAPI.
    group: str
    #: The text below that heading.
    about: str
    #: Writes errors in its format; None for problem documents.
    refuse: Refusal | None = None
    #: Whether ids of operations contain the module of their handler, a resource such as
    #: `predictions`.
    has_resources: bool = False
    routes: list[Route] = field(default_factory=list)

    def route(
        self,
        operation: str,
        returns: type[Any] | dict[int, Response],
        errors: tuple[type[SwellError], ...] = (),
        *,
        scope: Scope | None = Scope.CLIENT,
        query: type[Any] = NoQuery,
        operation_id: str = "",
        **more: Any,
    ) -> Callable[[H], H]:
        """Declare an operation on its handler. The docstring is its summary and description.

        Args:
            operation: Method and path below the prefix, such as "GET /models".
            returns: The message of a 200, or the responses by status.
            errors: Further than those of keys, limits and `query`.
            scope: What a key must be allowed; None without a key.
            query: Message of the query, or `dict` for any.
            operation_id: Without the façade's name; the handler's name by default.
            more: Other fields of `Route`.
        """
        if query not in (NoQuery, dict):
            errors = tuple(dict.fromkeys((InvalidRequest, InvalidInput, *errors)))

        def declare(handler: H) -> H:
            method, _, path = operation.partition(" ")
            returned = returns
            if not isinstance(returned, dict):
                summary = (inspect.getdoc(handler) or "").partition("\n\n")[0]
                returned = {200: Response(summary.removesuffix("."), returned)}
            module = [handler.__module__.rpartition(".")[2]] if self.has_resources else []
            made = make_route(
                handler,
                f"{method} {self.prefix}{path}",
                self.group,
                returned,
                scope=scope,
                errors=errors,
                query=query,
                facade=self.name,
                refuse=self.refuse,
                operation_id="_".join([self.name, *module, operation_id or handler.__name__]),
                **more,
            )
            self.routes.append(made)
            return handler

        return declare
