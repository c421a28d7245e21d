"""Files: uploads with a name, a checksum and the owner's metadata.

These are a second object, `KEY.about`. A file's id is the last part of its key, so no list of files
is kept.
"""

import contextlib
from datetime import timedelta
from typing import Any, Final

import msgspec

from swell.compat.replicate.replicate_facade import (
    HOME,
    ReplicatePage,
    ReplicateQuery,
    page_links,
    replicate,
)
from swell.compat.request_inputs import decode_json, form_parts, replace_strings, upload_part
from swell.core.clock import Moment
from swell.core.errors import InvalidRequest, NotFound, SwellError, TooLarge, UnsupportedType
from swell.core.task import created_at_of, is_id
from swell.objects.object_store import ObjectInfo, check_key
from swell.server.decoding import read_query
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import Body, Response
from swell.server.serializers import encode, project
from swell.server.service import Service

_ABOUT: Final = ".about"

#: Fields of the form except the file.
_FIELDS: Final = frozenset({"filename", "type", "metadata"})

_MAX_METADATA_BYTES: Final = 16 * 1024

#: Most files of a key that a list looks at.
_MOST_LISTED: Final = 1000


class ReplicateFile(msgspec.Struct, frozen=True, kw_only=True):
    """An upload."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: Any
    created_at: Moment
    expires_at: Moment | None
    urls: dict[str, str]


class _About(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    sha256: str
    metadata: Any = {}


@replicate(
    "POST /files",
    {201: Response("The file", ReplicateFile)},
    (InvalidRequest, TooLarge, UnsupportedType),
    body=Body(media_types=("multipart/form-data",)),
)
async def create(service: Service, call: Call) -> Reply:
    """Upload a file.

    A form with the file as `content`, and optionally `filename` and `metadata` (JSON). Inputs refer
    to it by its `urls.get`.
    """
    if call.media_type != "multipart/form-data":
        raise InvalidRequest("send a form (multipart/form-data) with the file as `content`")
    info: ObjectInfo | None = None
    fields: dict[str, str] = {}
    name = sha256 = ""
    async for part in form_parts(call, service.settings.server.max_upload_bytes):
        if part.name in _FIELDS:
            fields[part.name] = await part.text(_MAX_METADATA_BYTES)
        elif part.name == "content":
            if info is not None:
                raise InvalidRequest("the form holds `content` twice: send one file at a time")
            name = fields.get("filename") or part.filename or "file"
            info, sha256 = await upload_part(service, call, part, fields.get("type", ""), name)
    if info is None:
        raise InvalidRequest("the form holds no `content`: send the file under this name")
    metadata = decode_json(fields.get("metadata") or "{}", "the form's field `metadata`")
    about = _About(name=fields.get("filename") or name, sha256=sha256, metadata=metadata)
    await service.store.note_upload(info.key + _ABOUT)
    await service.objects.put(info.key + _ABOUT, encode(about), "application/json")
    return Reply(201, encode(_view(service, call, info, about)))


@replicate("GET /files", ReplicatePage[ReplicateFile], query=ReplicateQuery)
async def list_files(service: Service, call: Call) -> Reply:
    """A page of files, newest first."""
    query = read_query(call, ReplicateQuery)
    keys = await service.objects.under(f"uploads/{call.caller.id}", limit=2 * _MOST_LISTED)
    ids = [key.rpartition("/")[2].removesuffix(_ABOUT) for key in keys if key.endswith(_ABOUT)]
    ids = sorted((each for each in ids if each < (query.cursor or "~")), reverse=True)
    results = []
    for each in ids[: query.limit]:
        with contextlib.suppress(NotFound):  # It may have expired a moment ago.
            results.append(await _find(service, call, each))
    cursor = ids[query.limit - 1] if len(ids) > query.limit else None
    links = page_links(service, call, "/files", query, cursor)
    return Reply(200, encode(ReplicatePage(results=results, **links)))


@replicate("GET /files/{id}", ReplicateFile, (NotFound,))
async def get(service: Service, call: Call) -> Reply:
    """A file."""
    return Reply(200, encode(await _find(service, call, call.params["id"])))


@replicate(
    "DELETE /files/{id}",
    {204: Response("The file is deleted", media_type="")},
    (NotFound,),
    audit="files.delete",
)
async def delete(service: Service, call: Call) -> Reply:
    """Delete a file."""
    file_id = call.params["id"]
    await _find(service, call, file_id)
    key = _key(call, file_id)
    await service.objects.delete([key, key + _ABOUT])
    return Reply(204)


async def with_file_urls(service: Service, call: Call, value: Any) -> Any:
    """Return an input with URLs that workers can read in place of the key's file URLs.

    Raises:
        InvalidInput: A file is not there (any more).
    """
    home = f"{service.base_url(call)}{HOME}/files/"

    async def signed(url: str, pointer: str) -> str:
        if not url.startswith(home):
            return url
        file_id = url.removeprefix(home)
        try:
            info = await service.objects.head(_key(call, file_id))
        except SwellError as error:
            detail = f"there is no file {file_id[:80]!r} (any more): upload it again"
            raise field_error(pointer, detail, "not_found") from error
        return service.urls(call).file(info.key, info.bytes)

    return await replace_strings(value, signed, "/input")


def _key(call: Call, file_id: str) -> str:
    if not is_id(file_id.partition(".")[0]) or file_id.endswith(_ABOUT) or "/" in file_id:
        raise NotFound(f"{file_id[:80]!r} is not the id of a file: list them at {HOME}/files")
    return check_key(f"uploads/{call.caller.id}/{file_id}")


async def _find(service: Service, call: Call, file_id: str) -> ReplicateFile:
    key = _key(call, file_id)
    try:
        info = await service.objects.head(key)
    except NotFound as error:
        detail = f"this key has no file {file_id[:80]!r} (any more): list them at {HOME}/files"
        raise NotFound(detail) from error
    try:
        data = b"".join([piece async for piece in service.objects.read(key + _ABOUT)])
        about = msgspec.json.decode(data, type=_About)
    except (NotFound, msgspec.MsgspecError):
        about = _About(name=file_id, sha256="")
    return _view(service, call, info, about)


def _view(service: Service, call: Call, info: ObjectInfo, about: _About) -> ReplicateFile:
    file_id = info.key.rpartition("/")[2]
    created_at, expires_at = created_at_of(file_id.partition(".")[0]), None
    if (lasting_s := service.settings.uploads_s) is not None:
        expires_at = created_at + timedelta(seconds=lasting_s)
    return project(
        ReplicateFile,
        about,
        id=file_id,
        content_type=info.content_type,
        size=info.bytes,
        etag=info.etag,
        checksums={"sha256": about.sha256} if about.sha256 else {},
        created_at=created_at,
        expires_at=expires_at,
        urls={"get": f"{service.base_url(call)}{HOME}/files/{file_id}"},
    )
