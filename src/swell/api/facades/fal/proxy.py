"""The endpoint of `proxyUrl` in fal's JavaScript client, which has fal's hosts built in.

The client sends everything to this one URL and names its target in a header. The header selects an
operation of this backend; nothing is ever fetched from it.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from swell.api.call import Call, Reply
from swell.api.facades.fal import requests
from swell.api.facades.fal.api import fal, reply
from swell.api.facades.inputs import json_object
from swell.api.facades.result_files import file_url
from swell.api.route import Header, Response
from swell.api.service import Service
from swell.errors import NotFound
from swell.task import new_id

_TARGET: Final = Header(
    "X-Fal-Target-Url",
    "the target at fal; Swell answers itself and fetches nothing",
    {"type": "string", "maxLength": 8192},
    "https://queue.fal.run/swell/icons",
)

_ENDING: Final = re.compile(r"\.[A-Za-z0-9]{1,10}$")


async def start_upload(service: Service, call: Call) -> Reply:
    """Return where to PUT a file, and its URL afterwards."""
    name = str((await json_object(service, call)).get("file_name", ""))
    ending = _ENDING.search(name)
    key = f"uploads/{call.caller.id}/{new_id(service.clock.now())}{ending[0] if ending else ''}"
    await service.store.note_upload(key)
    put = service.objects.sign("PUT", key, service.settings.server.signed_url_s)
    body = {
        "upload_url": f"{service.base_url(call)}{put}" if put.startswith("/") else put,
        "file_url": file_url(service.urls(call), key),
    }
    return reply(200, body, call.request_id)


_APP: Final = r"/(?P<owner>[^/]+)/(?P<alias>[^/]+)"
_REQUEST: Final = rf"queue\.fal\.run{_APP}/requests/(?P<id>[^/]+)"

#: Operations by method and target.
_OPERATIONS: Final[tuple[tuple[str, Callable[[Service, Call], Awaitable[Reply | None]]], ...]] = (
    (rf"POST fal\.run{_APP}(?:/(?P<path>.*))?", requests.run),
    (rf"GET {_REQUEST}", requests.result),
    (rf"GET {_REQUEST}/status", requests.status),
    (rf"GET {_REQUEST}/status/stream", requests.status_stream),
    (rf"PUT {_REQUEST}/cancel", requests.cancel),
    (rf"POST queue\.fal\.run{_APP}(?:/(?P<path>.*))?", requests.queue),
    (r"POST rest(\.alpha)?\.fal\.ai/storage/upload/initiate", start_upload),
)


@fal.route("POST /proxy", requests.RESULT, requests.ERRORS, headers=(_TARGET, *requests.HEADERS))
async def proxy(service: Service, call: Call) -> Reply | None:
    """Forwarded POST of the JavaScript client.

    For `proxyUrl` of @fal-ai/client: runs the operation that the header names.
    """
    target = (call.headers.get(b"x-fal-target-url") or b"").decode("latin-1")
    try:
        url = urlsplit(target)
        place = (url.hostname or "") + re.sub("/{2,}", "/", url.path).rstrip("/")
    except ValueError:
        place = ""
    for pattern, operation in _OPERATIONS:
        found = re.fullmatch(pattern, f"{call.scope['method']} {place}")
        if found is not None:
            call.params = found.groupdict("")
            query = url.query.encode("latin-1", "replace")
            call.scope = {**call.scope, "query_string": query}
            return await operation(service, call)
    raise NotFound(
        f"x-fal-target-url names nothing that is answered here ({target[:120]!r}): it is an "
        "address of fal.run or queue.fal.run, as @fal-ai/client sets it"
    )


@fal.route("GET /proxy", requests.RESULT, (NotFound,), headers=(_TARGET,))
async def proxy_get(service: Service, call: Call) -> Reply | None:
    """Forwarded GET of the JavaScript client."""
    return await proxy(service, call)


@fal.route(
    "PUT /proxy",
    {202: Response("The request will be stopped", dict)},
    (NotFound,),
    headers=(_TARGET,),
)
async def proxy_put(service: Service, call: Call) -> Reply | None:
    """Forwarded cancellation of the JavaScript client."""
    return await proxy(service, call)
