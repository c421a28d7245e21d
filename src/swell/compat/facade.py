"""How a compatible API declares its operations, on the handlers that answer them."""

from collections.abc import Callable
from typing import Any

from swell.core.errors import SwellError
from swell.server.route import Handler, Refusal, Response, group_route


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
    declare = group_route(group, facade=name, refuse=refuse)

    def operation_of(
        operation: str,
        responses: type[Any] | dict[int, Response],
        errors: tuple[type[SwellError], ...] = (),
        **more: Any,
    ) -> Callable[[Handler], Handler]:
        method, _, path = operation.partition(" ")
        return declare(f"{method} {prefix}{path}", responses, errors=errors, **more)

    return operation_of
