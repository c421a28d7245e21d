"""Files: uploads of ours, with a name, a checksum and what their owner noted beside them.

What an upload does not know of itself lies in a second object beside it, `KEY.about`. A file is
named by the last part of its key, so that no list of them is kept.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.facades.links import page_url
from swell.api.facades.replicate.messages import (
    HOME,
    ReplicateFile,
    ReplicateFileList,
    ReplicateQuery,
)
from swell.api.facades.replicate.views import moment
from swell.api.files import keep_upload, plain_type
from swell.api.forms import Part, read_parts
from swell.api.reading import read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.errors import FieldError, InvalidInput, InvalidRequest, NotFound, SwellError
from swell.objects import ObjectInfo, check_key
from swell.task import created_at_of, is_id

_ABOUT: Final = ".about"

#: What may stand in the form beside the file.
_FIELDS: Final = frozenset({"filename", "type", "metadata"})

#: Largest note of an owner on a file.
_MAX_METADATA_BYTES: Final = 16 * 1024

#: How many files of a key are looked through for a list.
_MOST_LISTED: Final = 1000


class _About(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a file."""

    name: str
    sha256: str
    metadata: Any = {}


async def create(service: Service, call: Call) -> Reply:
    """`POST /files`: a form with the file as `content`."""
    if call.media_type != "multipart/form-data":
        raise InvalidRequest("send a form (multipart/form-data) with the file as `content`")
    limit = service.settings.server.max_upload_bytes
    info: ObjectInfo | None = None
    fields: dict[str, str] = {}
    name, sha256 = "", hashlib.sha256()
    async for part in read_parts(call.header(b"content-type") or b"", call.chunks(limit)):
        if part.name in _FIELDS:
            fields[part.name] = await part.text(_MAX_METADATA_BYTES)
        elif part.name != "content":
            continue
        elif info is not None:
            raise InvalidRequest("the form holds `content` twice: send one file at a time")
        else:
            name = fields.get("filename") or part.filename or "file"
            media_type = plain_type(fields.get("type") or part.media_type)
            info = await keep_upload(service, call, _hashed(part, sha256), media_type, name)
    if info is None:
        raise InvalidRequest("the form holds no `content`: send the file under this name")
    about = _About(
        name=fields.get("filename") or name,
        sha256=sha256.hexdigest(),
        metadata=_metadata(fields.get("metadata", "")),
    )
    await service.store.note_upload(info.key + _ABOUT)
    await service.objects.put(info.key + _ABOUT, encode(about), "application/json")
    return Reply(201, encode(_view(service, call, info, about)))


async def get(service: Service, call: Call) -> Reply:
    """`GET /files/{id}`."""
    return Reply(200, encode(await _found(service, call, call.params["id"])))


async def list_files(service: Service, call: Call) -> Reply:
    """`GET /files`, newest first."""
    query = read_query(call, ReplicateQuery)
    keys = await service.objects.under(f"uploads/{call.caller.id}", limit=2 * _MOST_LISTED)
    ids = sorted(
        (key.rpartition("/")[2].removesuffix(_ABOUT) for key in keys if key.endswith(_ABOUT)),
        reverse=True,
    )
    if query.cursor is not None:
        ids = [each for each in ids if each < query.cursor]
    shown, rest = ids[: query.limit], ids[query.limit :]
    limit = str(query.limit)
    home = f"{HOME}/files"
    results = []
    for each in shown:
        try:
            results.append(await _found(service, call, each))
        except NotFound:
            # Its time has ended a moment ago.
            continue
    page = ReplicateFileList(
        previous=None if query.cursor is None else page_url(service, call, home, limit=limit),
        next=page_url(service, call, home, cursor=shown[-1], limit=limit) if rest else None,
        results=results,
    )
    return Reply(200, encode(page))


async def delete(service: Service, call: Call) -> Reply:
    """`DELETE /files/{id}`."""
    file_id = call.params["id"]
    await _found(service, call, file_id)
    key = _key(call, file_id)
    await service.objects.delete([key, key + _ABOUT])
    return Reply(204)


def file_urls(service: Service, call: Call) -> tuple[str, Callable[[str, str], Awaitable[str]]]:
    """Return how URLs of these files begin, and what gives workers one in place of each."""
    home = f"{service.base_url(call)}{HOME}/files/"

    async def signed(text: str, pointer: str) -> str:
        file_id = text[len(home) :]
        try:
            info = await service.objects.head(_key(call, file_id))
        except SwellError as error:
            detail = f"there is no file {file_id[:80]!r} (any more): upload it again"
            where = FieldError(pointer=pointer, detail=detail, code="not_found")
            raise InvalidInput(f"{pointer}: {detail}", errors=[where]) from error
        return service.urls(call).file(info.key, info.bytes)

    return home, signed


async def _hashed(part: Part, sha256: "hashlib._Hash") -> AsyncIterator[bytes]:
    async for piece in part.data:
        sha256.update(piece)
        yield piece


def _metadata(text: str) -> Any:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"the form's field `metadata` is not JSON: {error}") from error


def _key(call: Call, file_id: str) -> str:
    """Return where a file of this caller lies.

    Raises:
        NotFound: Nothing can be called so.
    """
    plain = file_id.partition(".")[0]
    if not is_id(plain) or file_id.endswith(_ABOUT) or "/" in file_id:
        raise NotFound(
            f"this key has no file {file_id[:80]!r}: GET {HOME}/files lists those it has"
        )
    return check_key(f"uploads/{call.caller.id}/{file_id}")


async def _found(service: Service, call: Call, file_id: str) -> ReplicateFile:
    key = _key(call, file_id)
    try:
        info = await service.objects.head(key)
    except NotFound as error:
        raise NotFound(
            f"this key has no file {file_id[:80]!r} (any more): GET {HOME}/files lists those it has"
        ) from error
    return _view(service, call, info, await _about(service, key))


async def _about(service: Service, key: str) -> _About:
    """Return what lies beside a file; what can be told without, where nothing does."""
    try:
        data = b"".join([piece async for piece in service.objects.read(key + _ABOUT)])
        return msgspec.json.decode(data, type=_About)
    except (NotFound, msgspec.MsgspecError):
        return _About(name=key.rpartition("/")[2], sha256="")


def _view(service: Service, call: Call, info: ObjectInfo, about: _About) -> ReplicateFile:
    file_id = info.key.rpartition("/")[2]
    created_at = created_at_of(file_id.partition(".")[0])
    lasting_s = service.settings.uploads_s
    expires_at = None if lasting_s is None else created_at + timedelta(seconds=lasting_s)
    return ReplicateFile(
        id=file_id,
        name=about.name,
        content_type=info.content_type,
        size=info.bytes,
        etag=info.etag,
        checksums={"sha256": about.sha256} if about.sha256 else {},
        metadata=about.metadata,
        created_at=moment(created_at) or "",
        expires_at=moment(expires_at),
        urls={"get": f"{service.base_url(call)}{HOME}/files/{file_id}"},
    )
