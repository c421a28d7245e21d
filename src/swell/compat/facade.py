"""How a compatible API declares its operations, on the handlers that answer them."""

from collections.abc import Callable
from typing import Any

from swell.core.errors import InvalidInput, InvalidRequest, SwellError
from swell.core.records import Scope
from swell.server.common_schemas import NoQuery
from swell.server.route import Handler, Refusal, Response, declare


def facade(
    name: str, prefix: str, group: str, refuse: Refusal | None = None
) -> Callable[..., Callable[[Handler], Handler]]:
    """Return the decorator that declares operations of a compatible API.

    Args:
        name: As in `server.facades`.
        prefix: Its paths begin with it.
        group: Its heading in the reference, and its tag in OpenAPI.
        refuse: Writes errors in its format; None for problem documents.
    """

    def operation_of(
        operation: str,
        responses: type[Any] | dict[int, Response],
        errors: tuple[type[SwellError], ...] = (),
        *,
        scope: Scope | None = Scope.CLIENT,
        query: type[Any] = NoQuery,
        **more: Any,
    ) -> Callable[[Handler], Handler]:
        if query not in (NoQuery, dict):
            errors = tuple(dict.fromkeys((InvalidRequest, InvalidInput, *errors)))
        method, _, path = operation.partition(" ")
        return lambda handler: declare(
            handler,
            f"{method} {prefix}{path}",
            group,
            responses,
            scope=scope,
            errors=errors,
            query=query,
            facade=name,
            refuse=refuse,
            **more,
        )

    return operation_of
