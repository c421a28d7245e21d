"""The emulator of Google Cloud Storage, with the part of the XML API that obstore speaks.

The emulator itself reads and writes objects by XML, and no more. What is missing is added over its
own storage: HEAD and DELETE, uploads in parts, the condition that nothing is there, validators, and
listing. The command line is the emulator's.

Source: https://cloud.google.com/storage/docs/xml-api/reference-methods
"""

import hashlib
import itertools
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from gcp_storage_emulator import server
from gcp_storage_emulator.__main__ import main
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_uploads: dict[str, dict[int, bytes]] = {}
_numbers = itertools.count(1)


def _place(request: Any) -> tuple[str, str]:
    return request.params["bucket_name"], request.params["object_id"]


def _is_there(request: Any, storage: Any) -> bool:
    try:
        storage.get_file_obj(*_place(request))
    except NotFound:
        return False
    return True


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def put(request: Any, response: Any, storage: Any, *_: Any) -> None:
    content = request.data or b""
    if "uploadId" in request.query:
        number = int(request.query["partNumber"][0])
        _uploads[request.query["uploadId"][0]][number] = content
        response["ETag"] = _etag(content)
        return
    if request.get_header("x-goog-if-generation-match") == "0" and _is_there(request, storage):
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    _keep(request, response, storage, content, request.get_header("Content-Type"))


def _keep(request: Any, response: Any, storage: Any, content: bytes, kind: str) -> None:
    place = _place(request)
    thing = objects._make_object_resource(request.base_url, *place, kind, str(len(content)))
    try:
        storage.create_file(*place, content, objects._checksums(content, thing))
    except NotFound:
        response.status = HTTPStatus.NOT_FOUND
    response["ETag"] = _etag(content)


_kinds: dict[str, str] = {}


def post(request: Any, response: Any, storage: Any, *_: Any) -> None:
    bucket, _ = _place(request)
    if "uploads" in request._parsed_url.query:
        upload = str(next(_numbers))
        _uploads[upload] = {}
        _kinds[upload] = request.get_header("Content-Type", "application/octet-stream")
        response.write_file(
            f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>key</Key>"
            f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>",
            "application/xml",
        )
        return
    upload = request.query["uploadId"][0]
    told = ElementTree.fromstring(request.data)
    numbers = [int(each.text or "") for each in told.iter() if each.tag.endswith("PartNumber")]
    parts = _uploads.pop(upload)
    content = b"".join(parts[number] for number in numbers)
    _keep(request, response, storage, content, _kinds.pop(upload))
    response.write_file(
        f"<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>key</Key>"
        f"<ETag>{_etag(content)}</ETag></CompleteMultipartUploadResult>",
        "application/xml",
    )


def delete(request: Any, response: Any, storage: Any, *_: Any) -> None:
    if "uploadId" in request.query:
        _uploads.pop(request.query["uploadId"][0], None)
        return
    objects.delete(request, response, storage)
    if response.status == HTTPStatus.OK:
        response.status = HTTPStatus.NO_CONTENT


def get(request: Any, response: Any, storage: Any, *_: Any) -> None:
    if not _is_there(request, storage):
        response.status = HTTPStatus.NOT_FOUND
        return
    thing, content = storage.get_file_obj(*_place(request)), storage.get_file(*_place(request))
    wanted = request.get_header("If-Match")
    if wanted is not None and wanted != _etag(content):
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    objects.download(request, response, storage)
    response["ETag"] = _etag(content)
    response["Last-Modified"] = _http_date(thing["updated"])


def _http_date(text: str) -> str:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def do_head(self: Any) -> None:
    written = self.wfile
    self.wfile = _HeadOnly(written)
    try:
        server.Router(self).handle(server.GET)
    finally:
        self.wfile = written


class _HeadOnly:
    """Lets headers through, and no body."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._is_over = False

    def write(self, data: bytes) -> None:
        if not self._is_over:
            self._file.write(data)
        self._is_over = self._is_over or data.endswith(b"\r\n\r\n")

    def flush(self) -> None:
        self._file.flush()


def list_keys(request: Any, response: Any, storage: Any, *_: Any) -> None:
    prefix = request.query.get("prefix", [""])[0]
    found = storage.get_file_list(request.params["bucket_name"], prefix)
    items = found[0] if isinstance(found, tuple) else found
    contents = "".join(
        f"<Contents><Key>{escape(each['name'])}</Key><Size>{each['size']}</Size>"
        f"<LastModified>{each['updated']}</LastModified></Contents>"
        for each in items
    )
    response.write_file(f"<ListBucketResult>{contents}</ListBucketResult>", "application/xml")


def extend() -> None:
    pattern, _ = server.HANDLERS[-1]
    handlers = {server.GET: get, server.PUT: put, server.POST: post, server.DELETE: delete}
    listing = (r"^/(?P<bucket_name>[-.\w]+)/?$", {server.GET: list_keys})
    server.HANDLERS = (*server.HANDLERS[:-1], listing, (pattern, handlers))
    server.RequestHandler.do_HEAD = do_head
    # obstore escapes slashes too.
    server.Request.path = property(lambda self: unquote(self._parsed_url.path))


if __name__ == "__main__":
    extend()
    main()
