"""A worker's weights through a real backend: by its URL and key, under names of its own."""

import asyncio
import hashlib
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from sqlite_rig import SqliteRig
from swell.core.clock import SystemClock
from swell.core.errors import NotFound, SwellError
from swell.core.records import Scope
from swell.objects.folder import FolderObjects, TemporaryObjects
from swell.objects.url_signing import SigningSecrets, read_secrets
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import create_app
from swell.server.auth import create_key
from swell.server.dependencies import ApiSettings, Backend
from swell.weights.cache import PullFailed, WeightCache
from swell.weights.declared_weights import Provided
from swell.weights.manifest import manifest_digest
from swell.weights.push import push
from swell.weights.store import WeightStore, file_key, version_key
from swell.weights.store_reader import MOST_URLS, BackendSource
from swell.weights.weight_index import Entry, Listing, Wanted, WantedFile
from swell.worker.weight_prefetch import Provision, wishes_of

#: Bytes of a request.
RANGE = 4096
#: Names as they were pushed.
FILES = {
    "unet/config.json": b'{"of":"unet"}',
    "unet/model.json": b'{"a":"' + b"u" * 30_000 + b'"}',
    "vae/model.json": b'{"b":"' + b"v" * 10_000 + b'"}',
}
#: And as the model asks for them.
NAMES = {
    "first/config.json": "unet/config.json",
    "unet.json": "unet/model.json",
    # The name of another one there.
    "unet/config.json": "vae/model.json",
}


@pytest.fixture(params=["apart", "among the files"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """One that listens; its weights lie in a folder of their own, or among its files."""
    clock = SystemClock()
    rig = SqliteRig(clock)
    registry = rig.registry
    signing = SigningSecrets(clock, await read_secrets(registry))
    shelf = WeightStore(FolderObjects(tmp_path / "shelf", clock, signing))
    return Backend(
        store=rig.store,
        broker=rig.broker,
        outbox=rig.outbox,
        bus=MemoryBus(clock),
        objects=TemporaryObjects(clock, signing),
        registry=registry,
        clock=clock,
        settings=ApiSettings(),
        signing=signing,
        weights=shelf if request.param == "apart" else None,
    )


@pytest.fixture
async def url(backend: Backend) -> AsyncIterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(create_app(backend), port=port, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


@pytest.fixture
async def source(url: str, backend: Backend) -> BackendSource:
    made = await create_key(backend.registry, backend.clock, "w", frozenset({Scope.WORKER}))
    return BackendSource(url, made.secret)


def shelf_of(backend: Backend) -> WeightStore:
    return backend.weights or WeightStore(backend.objects, "weights")


@pytest.fixture
async def manifest(backend: Backend, tmp_path: Path) -> Listing:
    entries, paths = {}, {}
    for name, data in FILES.items():
        path = tmp_path / "author" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        entries[name], paths[name] = Entry(hashlib.sha256(data).hexdigest(), len(data)), path
    listing = Listing("acme/poster", "v1", entries)
    await push(listing, paths, shelf_of(backend))
    shutil.rmtree(tmp_path / "author")
    return listing


def toml(folder: Path, manifest: Listing, *, is_pinned: bool) -> Path:
    """Write what lies beside the model's code: its own names for what was pushed."""
    pin = f'manifest = "sha256:{manifest_digest(manifest)}"\n' if is_pinned else ""
    lines = [f'"{ours}" = "{manifest.files[theirs].sha256}"' for ours, theirs in NAMES.items()]
    path = folder / "weights.toml"
    path.write_text(
        f'model = "acme/poster"\nversion = "v1"\n{pin}[weights]\n' + "\n".join(lines) + "\n"
    )
    return path


@pytest.mark.parametrize("is_pinned", [False, True])
async def test_files_come_under_the_names_that_the_model_asks_for(
    is_pinned: bool,
    source: BackendSource,
    manifest: Listing,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swell.weights.store_download.RANGE_BYTES", RANGE)
    cache = WeightCache(tmp_path / "cache")
    path = toml(tmp_path, manifest, is_pinned=is_pinned)
    provision = Provision(wishes_of([], [str(path)], None), cache, source, SystemClock())
    await provision.bring()
    assert provision.bytes == sum(map(len, FILES.values()))
    files = {ours: WantedFile("", manifest.files[theirs].sha256) for ours, theirs in NAMES.items()}
    wanted = Wanted("acme/poster", "v1", files, manifest_digest(manifest) if is_pinned else None)
    weights = Provided(wanted, cache, SystemClock(), patience_s=1.5)
    for ours, theirs in NAMES.items():
        assert weights.path(ours).read_bytes() == FILES[theirs]
    folder = weights.folder()
    for ours, theirs in NAMES.items():
        assert (folder / ours).read_bytes() == FILES[theirs]
    # Another worker of the machine asks nobody.
    again = Provision(wishes_of([], [str(path)], None), cache, source, SystemClock())
    await again.bring()
    assert again.bytes == 0


async def test_a_file_that_was_not_pushed_is_told_by_the_name_that_the_model_asks_for(
    source: BackendSource, manifest: Listing, tmp_path: Path
) -> None:
    path = toml(tmp_path, manifest, is_pinned=False)
    path.write_text(path.read_text() + f'"late.json" = "{"0" * 64}"\n')
    wishes = wishes_of([], [str(path)], None)
    with pytest.raises(SwellError, match=r"was pushed without the late\.json that is wanted"):
        await Provision(wishes, WeightCache(tmp_path / "cache"), source, SystemClock()).bring()


async def test_more_files_than_one_request_may_ask_for_are_asked_for_in_several(
    source: BackendSource, manifest: Listing
) -> None:
    digests = [entry.sha256 for entry in manifest.files.values()] * (MOST_URLS // 3 + 1)
    assert len(digests) > MOST_URLS
    places = await source.places(manifest, digests)
    assert [place.sha256 for place in places] == digests
    assert all(file_key(place.sha256) in place.url for place in places)


async def test_a_key_that_may_not_is_told_why(
    url: str, backend: Backend, manifest: Listing
) -> None:
    made = await create_key(backend.registry, backend.clock, "c", frozenset({Scope.CLIENT}))
    with pytest.raises(PullFailed, match="it answered 403"):
        await BackendSource(url, made.secret).manifest("acme/poster", "v1")
    with pytest.raises(PullFailed, match="it answered 401"):
        await BackendSource(url, "swell_wrong").manifest("acme/poster", "v1")


async def test_a_version_that_was_not_pushed_is_told_with_the_command(
    source: BackendSource, manifest: Listing
) -> None:
    with pytest.raises(NotFound, match="swell models push acme/poster@v2"):
        await source.manifest("acme/poster", "v2")


async def test_a_manifest_that_was_cut_off_at_the_backend_ends_the_worker_with_what_to_do(
    source: BackendSource, backend: Backend, manifest: Listing
) -> None:
    shelf = shelf_of(backend)
    key = version_key("acme/poster", "v1")
    key = key if backend.weights else f"weights/{key}"
    await shelf.objects.put(key, b'{"model":', "application/json")
    with pytest.raises(PullFailed, match=r"cannot be used.*push the model again"):
        await source.manifest("acme/poster", "v1")
