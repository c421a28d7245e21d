"""Files in and out: uploads of clients, outputs of workers, signed URLs to read them."""

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Annotated, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import structlog

from swell.core.clock import Moment
from swell.core.errors import (
    Conflict,
    DamagedArtifact,
    ExpiredArtifact,
    Forbidden,
    InvalidRequest,
    NotFound,
    RangeNotSatisfiable,
    SwellError,
    TooLarge,
    Unavailable,
    UnsupportedType,
)
from swell.core.task import Artifact, Task, TaskState, new_id
from swell.objects.object_store import ObjectInfo, Objects
from swell.server.common_schemas import doc
from swell.server.decoding import read_query
from swell.server.files.content_negotiation import preferred
from swell.server.files.mime_sniffing import HEAD_BYTES, is_allowed, sniffed_type
from swell.server.files.thumbnails import width_of
from swell.server.headers import POLICY
from swell.server.multipart_forms import open_form
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import Body, Header, Response, file_route
from swell.server.serializers import encode, project
from swell.server.service import Service

_log = structlog.get_logger("swell.api")

_RANGE: Final = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$")
_TYPE: Final = re.compile(r"^[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}$")

#: Keys of what attempts deliver, with the task and the number of the attempt.
_OF_ATTEMPT: Final = re.compile(r"^(?:outputs|checkpoints)/([^/-]+)[/-](\d{1,9})[/.]")

#: Types that a browser may show inline; others are downloads, so that no upload runs scripts.
_SHOWN: Final = ("image/", "audio/", "video/", "text/plain", "application/json", "application/pdf")

#: But not pictures that may hold scripts.
_DRAWN_BY_SCRIPTS: Final = "image/svg"

#: Below it lie files of clients.
_UPLOADS: Final = "uploads/"

_UNKNOWN_TYPE: Final = "application/octet-stream"

#: Where files are read.
_HOME: Final = "/v1/artifacts/"

#: Every URL that we sign holds this, and escapes of JSON leave it as it is.
SIGNED: Final = b"signature="

#: A string of JSON.
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

#: A worker reads the files of a task as soon as it has leased it.
READ_URL_S: Final = 3600.0

#: Larger files do not come as the answer to a task, which is in memory as a whole, but from their
#: URL, in pieces. An output of JSON may be as large.
_MOST_AT_ONCE_BYTES: Final = 16 * 1024 * 1024

#: Most signed URLs of one input that are checked, since each check takes time.
_MAX_FILES: Final = 500


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


_RANGE_HEADER: Final = Header(
    "Range", "one range of bytes", {"type": "string", "maxLength": 100}, "bytes=0-1023"
)


@file_route(
    "POST /v1/uploads",
    {201: Response("The stored file and its URL, for use in an input", UploadView)},
    body=Body(media_types=("application/octet-stream", "image/png", "multipart/form-data")),
    query=UploadQuery,
    errors=(TooLarge, UnsupportedType),
)
async def upload(service: Service, call: Call) -> Reply:
    """Upload an input file.

    Send the file as the body, with its content type, or as a form with one file.
    """
    query = read_query(call, UploadQuery)
    limit = service.settings.server.max_upload_bytes
    if call.media_type == "multipart/form-data":
        part = await open_form(call.headers[b"content-type"], call.chunks(limit))
        data, content_type, filename = part.data, plain_type(part.media_type), part.filename or ""
    else:
        data, content_type, filename = call.chunks(limit), _content_type(call), query.filename or ""
    expires_at = service.clock.now() + timedelta(seconds=service.settings.server.signed_url_s)
    info = await keep_upload(service, call, data, content_type, filename)
    url = service.urls(call).file(info.key, info.bytes)
    return Reply(201, encode(project(UploadView, info, url=url, expires_at=expires_at)))


async def new_upload(service: Service, call: Call, filename: str) -> str:
    """Return the key of a file that a client is about to store; it keeps the name's extension."""
    key = f"{_UPLOADS}{call.caller.id}/{new_id(service.clock.now())}{_ending(filename)}"
    # Recorded first, so that a crash leaves no file that is never removed.
    await service.store.note_upload(key)
    return key


async def keep_upload(
    service: Service, call: Call, data: AsyncIterator[bytes], content_type: str, filename: str = ""
) -> ObjectInfo:
    """Store a file of a client for use in inputs, and return its metadata.

    Args:
        service: The backend.
        call: The request; its key owns the file.
        data: The pieces of the file.
        content_type: Media type without parameters.
        filename: The key keeps its extension.

    Raises:
        UnsupportedType: The file's type may not be uploaded.
        InvalidRequest: The file is empty.
    """
    key = await new_upload(service, call, filename)
    checked = _checked(data, service.settings.server.upload_types)
    info = await service.objects.put(key, checked, content_type)
    if info.bytes == 0:
        await service.objects.delete([info.key])
        raise InvalidRequest("the upload is empty: send the file as the body, or as one form part")
    return info


async def _checked(data: AsyncIterator[bytes], allowed: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield a file in pieces, once its first bytes show that it may be uploaded.

    Raises:
        UnsupportedType: It may not.
    """
    head = b""
    async for piece in data:
        head += piece
        if len(head) >= HEAD_BYTES:
            break
    found = sniffed_type(head[:HEAD_BYTES])
    if head and not is_allowed(found, allowed):
        raise UnsupportedType(
            f"the file begins like {found}, which this service does not take (the setting "
            f"server.upload_types): send one of {', '.join(allowed)}",
            # The rest of the body is not read.
            headers={"connection": "close"},
        )
    yield head
    async for piece in data:
        yield piece


@file_route(
    "PUT /v1/artifacts/{key:path}",
    {201: Response("The stored file", StoredView)},
    scope=None,
    body=Body(media_types=("application/octet-stream", "image/png")),
    query=dict,
    errors=(InvalidRequest, Forbidden, Conflict, TooLarge),
)
async def put_artifact(service: Service, call: Call) -> Reply:
    """Store an output file.

    For workers, with a URL from `POST /worker/v1/uploads`.
    """
    key, settings = call.params["key"], service.settings.server
    service.objects.verify("PUT", key, call.query())
    await _check_attempt(service, key)
    data = call.chunks(settings.max_artifact_bytes)
    if key.startswith(_UPLOADS):
        # An upload through a URL of a compatible API.
        data = _checked(call.chunks(settings.max_upload_bytes), settings.upload_types)
    try:
        info = await service.objects.put_new(key, data, _content_type(call))
    except Unavailable:
        await service.writable.takes_files()
        raise
    if not key.startswith(_UPLOADS) and await _was_removed(service, key):
        # Its task ended and was erased while the file came.
        await service.objects.delete([key])
        raise _removed(key)
    return Reply(201, encode(project(StoredView, info)))


async def _check_attempt(service: Service, key: str) -> None:
    """Check that the attempt that makes a file still runs: its URL may be valid for longer.

    Raises:
        ExpiredArtifact: The data of its task was removed.
        Conflict: The attempt has ended.
    """
    made = _OF_ATTEMPT.match(key)
    if made is None:
        return
    (task,) = await service.store.get([made[1]])
    if task is None or task.outputs_removed:
        raise _removed(key)
    if task.state is not TaskState.RUNNING or task.attempt != int(made[2]):
        raise Conflict(f"attempt {int(made[2])} of task {task.id} has ended: discard the result")


def _removed(key: str) -> ExpiredArtifact:
    why = "its retention time ended, or someone deleted the task's data"
    return ExpiredArtifact(f"the file {key[:120]!r} was deleted: {why}")


@file_route(
    "GET /v1/artifacts/{key:path}",
    {
        200: Response("The file", media_type="application/octet-stream"),
        206: Response("The requested range", media_type="application/octet-stream"),
        302: Response("A redirect to the bucket, with `objects.serve` = `redirect`", media_type=""),
        304: Response("It has not changed", media_type=""),
    },
    scope=None,
    query=dict,
    headers=(_RANGE_HEADER,),
    errors=(
        InvalidRequest,
        Forbidden,
        NotFound,
        ExpiredArtifact,
        RangeNotSatisfiable,
        DamagedArtifact,
    ),
)
async def get_artifact(service: Service, call: Call) -> Reply:
    """Read a file.

    Tasks and uploads contain this signed URL; it needs no key and expires. `&w=128`, `256`,
    `512` or `2048` returns a task's picture as WebP of that width.
    """
    key, query = call.params["key"], call.query()
    objects = service.objects_of(key)
    objects.verify("GET", key, query)
    info = await _find(service, objects, key, query.get("w"))
    if "bytes" in query and "w" not in query:
        _check_size(key, int(query["bytes"]), info.bytes)
    headers = _file_headers(info)
    if _is_known(call.headers.get(b"if-none-match"), info.etag):
        return Reply(304, headers=headers)
    may_redirect = service.settings.objects.serve == "redirect" and query.get("redirect") != "no"
    if may_redirect and call.scope["method"] != "HEAD":
        left_s = max(1.0, int(query["expires"]) - service.clock.now().timestamp())
        direct = await objects.direct("GET", info.key, left_s)
        if direct is not None:
            headers = [
                (b"location", direct.url.encode()),
                (b"cache-control", b"private, no-store"),
                (b"access-control-allow-origin", b"*"),
            ]
            return Reply(302, headers=headers)
    return _pieces(objects, call, info, headers)


def _check_size(key: str, size_bytes: int, found_bytes: int) -> None:
    """Check that a file has the size that it was stored with.

    Raises:
        DamagedArtifact: It does not.
    """
    if found_bytes != size_bytes:
        _log.error("a stored file is damaged", key=key, expected=size_bytes, has=found_bytes)
        sizes = f"expected {size_bytes:,} bytes, has {found_bytes:,}"
        raise DamagedArtifact(f"the file {key[:120]!r} is damaged ({sizes}): run its task again")


async def read_file(objects: Objects, artifact: Artifact) -> bytes:
    """Return a file of a task as a whole.

    Raises:
        NotFound: It is not there.
        DamagedArtifact: It has another size than its task says.
    """
    read = objects.read(artifact.key, 0, artifact.bytes + 1)
    data = b"".join([piece async for piece in read])
    if len(data) != artifact.bytes:
        _check_size(artifact.key, artifact.bytes, (await objects.head(artifact.key)).bytes)
    return data


async def _find(service: Service, objects: Objects, key: str, width: str | None) -> ObjectInfo:
    """Return the metadata of a file, or of a picture's thumbnail of this width.

    Raises:
        NotFound: It is not there.
        ExpiredArtifact: It was, and its time was over.
        InvalidRequest: There is no such thumbnail.
    """
    try:
        if width is not None:
            return await service.thumbnails.find(key, width_of(width))
        return await objects.head(key)
    except NotFound as error:
        if await _was_removed(service, key):
            raise _removed(key) from error
        raise NotFound(f"the file {key[:120]!r} is not there (any more)") from error


async def _was_removed(service: Service, key: str) -> bool:
    """Whether this service removed a missing file that it signed a URL for."""
    made = _OF_ATTEMPT.match(key)
    if made is None:
        return key.startswith(_UPLOADS)
    (task,) = await service.store.get([made[1]])
    return task is None or task.outputs_removed


def _pieces(
    objects: Objects, call: Call, info: ObjectInfo, headers: list[tuple[bytes, bytes]]
) -> Reply:
    """Return a file, or the range of it that was asked.

    Raises:
        RangeNotSatisfiable: The range lies outside.
    """
    span = None
    unchanged = call.headers.get(b"if-range")
    if unchanged is None or _is_known(unchanged, info.etag):
        span = byte_range((call.headers.get(b"range") or b"").decode("latin-1"), info.bytes)
    start, end = span or (0, info.bytes)
    if span is not None:
        headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, info.bytes)))
    return Reply(
        200 if span is None else 206,
        content_type=info.content_type.encode("latin-1", "replace"),
        headers=headers,
        stream=objects.read(info.key, start, end),
        length=end - start,
    )


def preferred_file(call: Call, task: Task) -> Artifact | None:
    """Return the file of a task that its caller would rather have than JSON; None for JSON."""
    if not task.artifacts:
        return None
    accept = b",".join([value for name, value in call.scope["headers"] if name == b"accept"])
    at = preferred(accept, [plain_type(each.content_type) for each in task.artifacts])
    return None if at is None else task.artifacts[at]


def comes_from_its_url(service: Service, artifact: Artifact) -> bool:
    """Whether clients must read a file from its URL: it is large, or the store is remote."""
    return artifact.bytes > _MOST_AT_ONCE_BYTES or not service.objects.is_here


async def file_reply(
    service: Service, artifact: Artifact, headers: list[tuple[bytes, bytes]]
) -> Reply | None:
    """Return a file as the answer to the request that made it; None where it cannot be read.

    Args:
        service: The backend that stores the file.
        artifact: The file.
        headers: Other headers of the answer.
    """
    try:
        data = await read_file(service.objects, artifact)
    except SwellError:
        # Answer with the task's JSON; the file's URL in it explains the error.
        return None
    content_type = plain_type(artifact.content_type)
    guards = [(b"cache-control", b"private, no-store"), *_guards(content_type)]
    return Reply(201, data, content_type.encode(), headers + guards)


def check_files(objects: Objects, raw: msgspec.Raw, at: str) -> tuple[str, ...]:
    """Check that the signed URLs in an input are valid now; return the keys of their files.

    The files stay readable for an accepted task, even if the URLs expire later.

    Raises:
        InvalidInput: A URL of this backend has expired.
    """
    keys: dict[str, None] = {}
    for url in _signed_strings(raw):
        if objects.renew(url, READ_URL_S) is None:
            # Not signed here: the worker decides whether it may be fetched.
            continue
        parts = urlsplit(url)
        key = unquote(parts.path.partition(_HOME)[2])
        try:
            objects.verify("GET", key, dict(parse_qsl(parts.query)))
        except Forbidden as error:
            raise field_error(at, error.detail, "expired_url") from error
        keys[key] = None
    return tuple(keys)


def name_files(objects: Objects, raw: msgspec.Raw) -> dict[str, str]:
    """Return the signed URLs in an input, each with a new one. Other URLs are left out."""
    fresh = {url: objects.renew(url, READ_URL_S) for url in _signed_strings(raw)}
    return {old: new for old, new in fresh.items() if new is not None}


def _signed_strings(raw: msgspec.Raw) -> list[str]:
    data = bytes(raw)
    if SIGNED not in data:
        return []
    found = [each for each in _STRING.findall(data) if SIGNED in each]
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        return [msgspec.json.decode(each, type=str) for each in found[:_MAX_FILES]]
    return []


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the bytes [start, end) that a `Range` header asks for; None for the whole file.

    Several ranges, or another unit, mean the whole file, as the standard allows.

    Raises:
        RangeNotSatisfiable: The range begins behind the end.

    Source:
        RFC 9110, section 14.
    """
    found = _RANGE.match(header.replace(" ", ""))
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start = int(first)
        end = min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or end <= start:
        detail = f"the file has {size:,} bytes: ask for a range within them"
        raise RangeNotSatisfiable(detail, headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _content_type(call: Call) -> str:
    media_type = call.media_type
    if not media_type:
        return _UNKNOWN_TYPE
    if not _TYPE.match(media_type):
        raise InvalidRequest(f"{media_type[:60]!r} is not a media type such as image/png")
    return media_type


def plain_type(told: str) -> str:
    """Return the media type that a worker reported, if valid, without parameters."""
    media_type = told.partition(";")[0].strip().lower()
    return media_type if _TYPE.fullmatch(media_type) else _UNKNOWN_TYPE


def _ending(filename: str) -> str:
    _, dot, ending = filename.rpartition(".")
    plain = ending.isascii() and ending.isalnum() and len(ending) <= 8
    return f".{ending.lower()}" if dot and plain else ""


def _is_known(header: bytes | None, etag: str) -> bool:
    """Whether an `If-None-Match` or `If-Range` names this version of the file."""
    return header is not None and (header == b"*" or f'"{etag}"' in header.decode("latin-1"))


def _file_headers(info: ObjectInfo) -> list[tuple[bytes, bytes]]:
    return [
        (b"accept-ranges", b"bytes"),
        (b"etag", f'"{info.etag}"'.encode("latin-1", "replace")),
        # The URL names one version until it expires, and only its owner knows it.
        (b"cache-control", b"private, max-age=3600, immutable"),
        (b"last-modified", info.modified_at.strftime("%a, %d %b %Y %H:%M:%S GMT").encode()),
        (b"access-control-allow-origin", b"*"),
        (b"cross-origin-resource-policy", b"cross-origin"),
        *_guards(info.content_type),
    ]


def _guards(content_type: str) -> list[tuple[bytes, bytes]]:
    """Return what keeps a browser from running anything that a file holds."""
    found = [(POLICY, b"default-src 'none'; sandbox; frame-ancestors 'none'")]
    if not content_type.startswith(_SHOWN) or content_type.startswith(_DRAWN_BY_SCRIPTS):
        found.append((b"content-disposition", b"attachment"))
    return found
