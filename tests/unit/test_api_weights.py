"""Workers that have only a URL and a key learn where the files of pushed weights are."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_harness import World, a_world

from swell.core.records import Scope
from swell.weights.manifest import read_manifest
from swell.weights.push import push
from swell.weights.store import file_key, version_key
from swell.weights.weight_index import Entry, Listing

FILES = {"config.json": b'{"a":"' + b"x" * 20_000 + b'"}', "vae/config.json": b"{}"}
DIGESTS = [hashlib.sha256(data).hexdigest() for data in FILES.values()]
DATA, DIGEST = FILES["config.json"], DIGESTS[0]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


async def pushed(world: World, folder: Path) -> Listing:
    paths = {}
    for name, data in FILES.items():
        paths[name] = folder / name
        paths[name].parent.mkdir(exist_ok=True)
        paths[name].write_bytes(data)
    sizes = map(len, FILES.values())
    entries = dict(zip(FILES, map(Entry, DIGESTS, sizes), strict=True))
    listing = Listing("acme/poster", "v1", entries)
    await push(listing, paths, world.service.weights)
    return listing


async def ask(world: World, **fields: Any) -> Any:
    body = {"model": "acme/poster", "version": "v1", **fields}
    return await world.worker("POST", "/worker/v1/weights", body)


async def test_a_worker_reads_the_manifest_and_every_file(world: World, tmp_path: Path) -> None:
    listing = await pushed(world, tmp_path)
    answer = await ask(world)
    assert answer.status == 200
    assert read_manifest(answer.json["manifest"].encode()) == listing
    answer = await ask(world, files=DIGESTS)
    # The URLs are signed: they open one file each, without any key.
    read = [await world.stranger("GET", each["url"]) for each in answer.json["urls"]]
    assert [each.body for each in read] == list(FILES.values())
    changed = answer.json["urls"][0]["url"].replace(DIGESTS[0], DIGESTS[1])
    assert (await world.stranger("GET", changed)).status == 403


async def test_nothing_but_files_of_that_version_is_signed(world: World, tmp_path: Path) -> None:
    await pushed(world, tmp_path)
    for strange in ("0" * 64, "../../outputs/x", ""):
        assert (await ask(world, files=[strange])).status == 422
    assert (await ask(world, files=["0" * 64] * 1001)).status == 422


async def test_what_was_not_pushed_is_not_there(world: World, tmp_path: Path) -> None:
    await pushed(world, tmp_path)
    for fields in ({"version": "v2"}, {"model": "acme/other"}):
        answer = await ask(world, **fields)
        assert answer.status == 404
        assert "swell models push" in answer.json["detail"]
    assert (await ask(world, model="../x")).status == 400


async def test_only_workers_ask_and_only_for_their_models(world: World, tmp_path: Path) -> None:
    await pushed(world, tmp_path)
    body = {"model": "acme/poster", "version": "v1"}
    assert (await world.anna("POST", "/worker/v1/weights", body)).status == 403
    assert (await world.stranger("POST", "/worker/v1/weights", body)).status == 401
    wish = {"name": "w", "scopes": [Scope.WORKER], "models": ["acme/other"]}
    made = (await world.admin("POST", "/v1/keys", wish)).json
    other = type(world.worker)(world.app, made["key"])
    assert (await other("POST", "/worker/v1/weights", body)).status == 403


@pytest.fixture
async def apart(tmp_path: Path) -> AsyncIterator[World]:
    """A backend whose weights lie in a folder of their own."""
    async with a_world(weights_dir=tmp_path / "shelf") as made:
        yield made


async def test_files_in_a_folder_of_their_own_come_through_the_backend(
    apart: World, tmp_path: Path
) -> None:
    await pushed(apart, tmp_path)
    answer = await ask(apart, files=[DIGEST])
    # No worker hears of the folder.
    assert str(tmp_path).encode() not in answer.body
    assert b"file:" not in answer.body
    url = answer.json["urls"][0]["url"]
    read = await apart.stranger("GET", url)
    assert (read.status, read.body) == (200, DATA)
    part = await apart.stranger("GET", url, headers={"Range": "bytes=100-199"})
    assert (part.status, part.body) == (206, DATA[100:200])
    assert (await apart.stranger("HEAD", url)).headers["content-length"] == str(len(DATA))


async def test_nothing_but_files_of_weights_leaves_that_folder(
    apart: World, tmp_path: Path
) -> None:
    await pushed(apart, tmp_path)
    (tmp_path / "shelf" / "secret.json").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "shelf" / "files" / DIGEST[:2] / "notes").write_text("x")
    for key in (
        "secret.json",
        version_key("acme/poster", "v1"),
        f"files/{DIGEST[:2]}/notes",
        f"files/{DIGEST[:2]}/{DIGEST}.json",
        f"files/00/{DIGEST}",
    ):
        # Even where somebody could sign it.
        url = apart.service.objects.sign("GET", key, 60)
        assert (await apart.stranger("GET", url)).status == 404, key
    right = (await ask(apart, files=[DIGEST])).json["urls"][0]["url"]
    query = right.partition("?")[2]
    for path in (
        f"files/{DIGEST[:2]}/../../secret.json",
        f"files/{DIGEST[:2]}/%2e%2e/%2e%2e/secret.json",
        f"files/{DIGEST[:2]}/{DIGEST}/../../../secret.json",
        file_key(DIGESTS[1]),
    ):
        assert (await apart.stranger("GET", f"/v1/artifacts/{path}?{query}")).status == 403, path
    assert (await apart.stranger("GET", right)).status == 200
    assert (await apart.stranger("GET", right.partition("?")[0])).status == 403
    assert (await apart.stranger("PUT", right, b"x")).status == 403
    apart.clock.advance(3601)
    assert (await apart.stranger("GET", right)).status == 403


async def test_a_file_that_is_gone_from_the_folder_is_not_found(
    apart: World, tmp_path: Path
) -> None:
    await pushed(apart, tmp_path)
    (tmp_path / "shelf" / file_key(DIGEST)).unlink()
    url = (await ask(apart, files=[DIGEST])).json["urls"][0]["url"]
    assert (await apart.stranger("GET", url)).status == 404


async def test_a_manifest_that_was_cut_off_says_so_to_the_worker(
    apart: World, tmp_path: Path
) -> None:
    await pushed(apart, tmp_path)
    path = tmp_path / "shelf" / version_key("acme/poster", "v1")
    path.write_bytes(path.read_bytes()[:100])
    answer = await ask(apart)
    assert answer.status == 400
    assert "push the model again" in answer.json["detail"].replace("\n", " ")
    assert str(tmp_path) not in answer.json["detail"]
