"""Who tells a worker where chunks are: the backend, or the store itself."""

import asyncio
import contextlib
import http.client
import ssl
import urllib.parse
from collections.abc import Sequence
from typing import Final

import msgspec

from swell.core.errors import InvalidRequest, NotFound, Unavailable
from swell.weights.aside import aside
from swell.weights.cache import PullFailed
from swell.weights.chunks import Manifest, read_manifest
from swell.weights.gather import Place
from swell.weights.store import WeightStore

#: Chunks that one request may ask for.
MOST_PLACES: Final = 1000

_PATH: Final = "/worker/v1/weights"
_SILENCE_S: Final = 30.0


class WeightsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for weights that were pushed."""

    #: `owner/name`.
    model: str
    version: str
    #: SHA-256 of the manifest; empty for the one that the version names.
    manifest: str = ""
    #: Chunks of it whose places are wanted; none for the manifest itself.
    chunks: list[str] = []


class ChunkPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chunk is."""

    #: Signed, and good for an hour; of the backend where it has no host.
    url: str
    #: Headers that must go along.
    headers: dict[str, str] = {}


class WeightsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The manifest as text, or where the chunks are, in the order that was asked."""

    manifest: str = ""
    places: list[ChunkPlace] = []


class BackendSource:
    """Asks the backend, with the worker's own key.

    Args:
        url: Where it is.
        token: Key with the scope `worker`.
        trust: Certificates for `https`; None for those of the system.
    """

    def __init__(self, url: str, token: str, trust: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._trust = trust

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        asked = WeightsRequest(model=model, version=version, manifest=digest or "")
        answer = await aside(lambda: self._ask(asked))
        return read_manifest(answer.manifest.encode(), digest)

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        what = WeightsRequest(
            model=manifest.model, version=manifest.version, manifest=manifest.digest
        )
        found: list[Place] = []
        for at in range(0, len(digests), MOST_PLACES):
            asked = msgspec.structs.replace(what, chunks=list(digests[at : at + MOST_PLACES]))
            found += (self._resolved(each) for each in self._ask(asked).places)
        if len(found) != len(digests):
            raise PullFailed(f"{self._url} told {len(found)} places of {len(digests)} chunks")
        return found

    def _resolved(self, place: ChunkPlace) -> Place:
        url = self._url + place.url if place.url.startswith("/") else place.url
        if not url.startswith(("http://", "https://")):
            raise PullFailed(
                f"{self._url} tells of a place that no worker can reach: upgrade the backend, or "
                "give this worker a weights.url of its own"
            )
        return Place(url, place.headers)

    def _ask(self, asked: WeightsRequest) -> WeightsAnswer:
        told = f"{asked.model}@{asked.version} from {self._url}"
        try:
            status, text = self._post(msgspec.json.encode(asked))
        except (OSError, http.client.HTTPException) as error:
            # Whoever asks tries again, and knows for how long.
            raise Unavailable(f"{told}: {str(error) or type(error).__name__}") from error
        if status < 300:
            return self._answer(text)
        why = f"it answered {status} {_detail(text)}"
        if status == 404:
            raise NotFound(_detail(text) or f"{asked.model}@{asked.version} was not pushed")
        if status >= 500 or status == 429:
            raise Unavailable(f"{told}: {why}")
        raise PullFailed(f"{told}: {why}")

    def _answer(self, text: bytes) -> WeightsAnswer:
        try:
            return msgspec.json.decode(text, type=WeightsAnswer)
        except msgspec.MsgspecError:
            raise PullFailed(
                f"{self._url} answers as no backend of Swell does: check worker.url, and what "
                "stands between"
            ) from None

    def _post(self, body: bytes) -> tuple[int, bytes]:
        parts = urllib.parse.urlsplit(self._url)
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(host, parts.port, timeout=_SILENCE_S, context=self._trust)
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=_SILENCE_S)
        )
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request("POST", parts.path + _PATH, body, headers)
            response = connection.getresponse()
            return response.status, response.read()


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


def _detail(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=_Problem).detail
    except msgspec.MsgspecError:
        return ""


class StoreSource:
    """Asks the store itself; make it where its event loop runs.

    Args:
        store: Where the weights are.
    """

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        return await self._store.manifest(model, version, digest)

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        told = f"{manifest.model}@{manifest.version}"
        asking = asyncio.run_coroutine_threadsafe(self._store.places(digests), self._loop)
        try:
            places = asking.result(_SILENCE_S)
        except TimeoutError:
            asking.cancel()
            raise Unavailable(f"{told}: no URL was signed") from None
        if any(place.url.startswith("/") for place in places):
            raise InvalidRequest(
                "weights.url names a store that signs nothing and is no folder: leave it out, so "
                "that the worker asks the backend"
            )
        return places
