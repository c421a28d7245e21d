"""Request and response bodies of files. OpenAPI's schemas are made from these types."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.api.schemas import Moment


class UploadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an upload."""

    filename: (
        Annotated[str, Meta(max_length=100, description="Swell keeps its extension")] | None
    ) = None


class UploadView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored input file; the URL is signed and expires."""

    key: str
    url: str
    content_type: str
    bytes: int
    expires_at: Moment


class StoredView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored output file."""

    key: str
    bytes: int
    content_type: str
    etag: str
