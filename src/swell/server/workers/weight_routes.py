"""`POST /worker/v1/weights`: weights that were pushed, for workers that have only a URL and a key.

The backend sends the manifest. A bucket that signs URLs sends the chunks itself; otherwise the
backend does, at `GET /v1/artifacts/…`.
"""

import msgspec

from swell.core.errors import Forbidden, InvalidInput, NotFound, Unavailable
from swell.server.auth import check_worker
from swell.server.decoding import read_body
from swell.server.request import Call, Reply
from swell.server.route import Response, worker_route
from swell.server.service import Service
from swell.weights.chunks import write_manifest
from swell.weights.listing import check_digest
from swell.weights.sources import MOST_PLACES, ChunkPlace, WeightsAnswer, WeightsRequest

_encode = msgspec.json.Encoder().encode


@worker_route(
    "POST /worker/v1/weights",
    Response("The manifest, or the URLs of its chunks", WeightsAnswer),
    body=WeightsRequest,
    errors=(NotFound, Forbidden, Unavailable),
)
async def show_weights(service: Service, call: Call) -> Reply:
    """Get pushed weights.

    Without `chunks`: the files of the version and their chunks. With up to 1,000 `chunks`: a
    signed URL for each, valid for an hour, of the bucket if it signs, or else of the backend.
    See `swell models push`.
    """
    asked = await read_body(service, call, WeightsRequest)
    check_worker(call.caller, next(iter(call.caller.pools), ""), [asked.model])
    if len(asked.chunks) > MOST_PLACES:
        raise InvalidInput(f"ask for at most {MOST_PLACES} chunks at once")
    digest = asked.manifest and check_digest(asked.manifest, "manifest")
    manifest = await service.manifests.get(asked.model, asked.version, digest)
    if not asked.chunks:
        return Reply(200, _encode(WeightsAnswer(manifest=write_manifest(manifest).decode())))
    known = manifest.chunks
    strange = next((digest for digest in asked.chunks if digest not in known), None)
    if strange is not None:
        raise InvalidInput(
            f"{asked.model}@{asked.version} has no chunk {strange[:80]!r}: ask for those that its "
            "manifest lists"
        )
    return await _show_places(service, asked)


async def _show_places(service: Service, asked: WeightsRequest) -> Reply:
    places = await service.weights.places(asked.chunks)
    found = [ChunkPlace(url=place.url, headers=place.headers) for place in places]
    return Reply(200, _encode(WeightsAnswer(places=found)))
