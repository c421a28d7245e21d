"""The façade of Replicate's API, and the pages of its lists."""

from typing import Annotated, Final, Generic, TypeVar
from urllib.parse import urlencode

import msgspec

from swell.compat.facade import facade
from swell.server.common_schemas import doc
from swell.server.request import Call
from swell.server.service import Service

#: The prefix of its paths.
HOME: Final = "/replicate/v1"

T = TypeVar("T")

replicate: Final = facade("replicate", HOME, "Replicate")


class ReplicatePage(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list, with absolute URLs of its neighbours."""

    previous: str | None = None
    next: str | None = None
    results: list[T]


class ReplicateQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list."""

    cursor: Annotated[str | None, doc("from `next` of the previous page")] = None
    limit: Annotated[int, doc("largest number", ge=1, le=100)] = 100


def full_name(call: Call) -> str:
    """Return `owner/name` of the path."""
    return f"{call.params['owner']}/{call.params['name']}"


def page_links(
    service: Service, call: Call, path: str, query: ReplicateQuery, cursor: str | None
) -> dict[str, str | None]:
    """Return absolute URLs of the first page, unless it is this one, and of the next.

    Args:
        service: The backend.
        call: The request.
        path: Path of the list, such as `/predictions`.
        query: The query of this page.
        cursor: Cursor of the next page; None on the last.
    """
    first = f"{service.base_url(call)}{HOME}{path}?limit={query.limit}"
    return {
        "previous": None if query.cursor is None else first,
        "next": None if cursor is None else f"{first}&{urlencode({'cursor': cursor})}",
    }
