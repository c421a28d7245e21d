"""`POST /worker/v1/weights`: pushed weights, for workers that have only a URL and a key.

The backend sends the manifest. A bucket that signs URLs sends the files itself; otherwise the
backend does, at `GET /v1/artifacts/…`.
"""

import msgspec

from swell.core.errors import Forbidden, InvalidInput, NotFound, Unavailable
from swell.server.auth import check_worker
from swell.server.decoding import read_body
from swell.server.request import Call, Reply
from swell.server.route import Response, worker_route
from swell.server.service import Service
from swell.weights.manifest import write_manifest
from swell.weights.store_reader import MOST_URLS, WeightsAnswer, WeightsRequest

_encode = msgspec.json.Encoder().encode


@worker_route(
    "POST /worker/v1/weights",
    Response("The manifest, or the URLs of its files", WeightsAnswer),
    body=WeightsRequest,
    errors=(NotFound, Forbidden, Unavailable),
)
async def show_weights(service: Service, call: Call) -> Reply:
    """Get pushed weights.

    Without `files`: the manifest of the version, which lists its files. With the SHA-256 of up to
    1,000 `files`: a signed URL for each, valid for an hour, of the bucket if it signs, or else of
    the backend. See `swell models push`.
    """
    asked = await read_body(service, call, WeightsRequest)
    check_worker(call.caller, next(iter(call.caller.pools), ""), [asked.model])
    if len(asked.files) > MOST_URLS:
        raise InvalidInput(f"ask for at most {MOST_URLS} files at once")
    manifest = await service.weights.manifest(asked.model, asked.version)
    if not asked.files:
        return Reply(200, _encode(WeightsAnswer(manifest=write_manifest(manifest).decode())))
    known = {entry.sha256 for entry in manifest.files.values()}
    strange = next((digest for digest in asked.files if digest not in known), None)
    if strange is not None:
        raise InvalidInput(
            f"{asked.model}@{asked.version} has no file {strange[:80]!r}: ask for those that its "
            "manifest lists"
        )
    return Reply(200, _encode(WeightsAnswer(urls=await service.weights.urls(asked.files))))
