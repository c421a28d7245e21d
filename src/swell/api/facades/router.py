"""How a compatible API declares its operations, on the handlers that answer them."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from swell.api.messages import NoQuery
from swell.api.route import Handler, Refusal, Response, Route
from swell.errors import InvalidInput, InvalidRequest, SwellError
from swell.registry import Scope

H = TypeVar("H", bound=Handler)


class Facade:
    """One compatible API: its name, its place in the reference, and its operations.

    Args:
        name: As in `server.facades`.
        prefix: Its paths begin with it.
        group: Heading in the reference, and tag of OpenAPI.
        about: The text below that heading.
        refuse: Writes errors in its format; None for problem documents.
        has_resources: Whether ids of operations contain the module of their handler, which is a
            resource such as `predictions`.
    """

    def __init__(
        self,
        name: str,
        prefix: str,
        group: str,
        about: str,
        refuse: Refusal | None = None,
        *,
        has_resources: bool = False,
    ) -> None:
        self.name = name
        self.prefix = prefix
        self.group = group
        self.about = about
        self.routes: list[Route] = []
        self._refuse = refuse
        self._has_resources = has_resources

    def route(
        self,
        method: str,
        path: str,
        returns: type[Any] | dict[int, Response],
        errors: tuple[type[SwellError], ...] = (),
        *,
        scope: Scope | None = Scope.CLIENT,
        query: type[Any] = NoQuery,
        operation: str = "",
        **more: Any,
    ) -> Callable[[H], H]:
        """Declare an operation on its handler. The docstring is its summary and description.

        Args:
            method: HTTP method.
            path: Below the prefix.
            returns: The message of a 200, or the responses by status.
            errors: Further than those of keys, limits and `query`.
            scope: What a key must be allowed; None without a key.
            query: Message of the query, or `dict` for any.
            operation: Operation id without the façade's name; the handler's name by default.
            more: Other fields of `Route`.
        """
        if query not in (NoQuery, dict):
            errors = tuple(dict.fromkeys((InvalidRequest, InvalidInput, *errors)))

        def declare(handler: H) -> H:
            summary, _, description = (inspect.getdoc(handler) or "").partition("\n\n")
            summary = summary.removesuffix(".")
            responses = returns if isinstance(returns, dict) else {200: Response(summary, returns)}
            module = [handler.__module__.rpartition(".")[2]] if self._has_resources else []
            self.routes.append(
                Route(
                    method=method,
                    path=self.prefix + path,
                    handler=handler,
                    scope=scope,
                    summary=summary,
                    group=self.group,
                    responses=responses,
                    errors=errors,
                    description=" ".join(description.partition("Raises:")[0].split()),
                    query=query,
                    facade=self.name,
                    refuse=self._refuse,
                    operation_id="_".join([self.name, *module, operation or handler.__name__]),
                    **more,
                )
            )
            return handler

        return declare
