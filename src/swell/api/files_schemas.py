"""Request and response bodies of files. OpenAPI's schemas are made from these types."""

from typing import Annotated

import msgspec

from swell.api.schemas import Moment, doc


class UploadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an upload."""

    filename: Annotated[str, doc("Swell keeps its extension", max_length=100)] | None = None


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
