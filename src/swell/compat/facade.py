"""How a compatible API declares its operations, on the handlers that answer them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, TypeVar

from swell.core.errors import InvalidInput, InvalidRequest, SwellError
from swell.core.records import Scope
from swell.server.common_schemas import NoQuery
from swell.server.route import Handler, Refusal, Response, Route, make_route

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
    routes: list[Route] = field(default_factory=list)

    def name_by_resource(self, resources: Mapping[str, ModuleType]) -> None:
        """Put the resource into ids of operations, and sort them by it.

        Ids are public, so a resource keeps its name when a module is renamed.

        Args:
            resources: Resource, such as `predictions` → the module of its handlers.
        """
        self.routes[:] = [
            replace(route, operation_id=route.operation_id.replace("_", f"_{resource}_", 1))
            for resource, module in resources.items()
            for route in self.routes
            if route.handler.__module__ == module.__name__
        ]

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
                operation_id=f"{self.name}_{operation_id or handler.__name__}",
                **more,
            )
            self.routes.append(made)
            return handler

        return declare
