"""Workers with a URL and a key only hear where the chunks of pushed weights are."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_harness import World, a_world

from swell.core.records import Scope
from swell.weights.chunks import Manifest, manifest_key, read_manifest, version_key
from swell.weights.listing import Entry, Listing
from swell.weights.push import push

DATA = b'{"a":"' + b"x" * 20_000 + b'"}'


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


async def pushed(world: World, folder: Path) -> Manifest:
    path = folder / "config.json"
    path.write_bytes(DATA)

    entry = Entry(hashlib.sha256(DATA).hexdigest(), len(DATA))
    listing = Listing("acme/poster", "v1", {"config.json": entry})
    done = await push(listing, {"config.json": path}, world.service.weights, chunk_bytes=4096)
    return done.manifest


async def ask(world: World, **fields: Any) -> Any:
    body = {"model": "acme/poster", "version": "v1", **fields}
    return await world.worker("POST", "/worker/v1/weights", body)


async def test_a_worker_reads_the_manifest_and_every_chunk(world: World, tmp_path: Path) -> None:
    manifest = await pushed(world, tmp_path)
    answer = await ask(world)
    assert answer.status == 200
    assert read_manifest(answer.json["manifest"].encode(), manifest.digest) == manifest
    chunks = list(manifest.files["config.json"].chunks)
    answer = await ask(world, manifest=manifest.digest, chunks=chunks)
    assert len(answer.json["places"]) == len(chunks)
    # The URLs are signed: they open one chunk each, without any key.
    read = [await world.stranger("GET", place["url"]) for place in answer.json["places"]]
    assert b"".join(each.body for each in read) == DATA
    changed = answer.json["places"][0]["url"].replace(chunks[0], chunks[1])
    assert (await world.stranger("GET", changed)).status == 403


async def test_nothing_but_chunks_of_that_version_is_signed(world: World, tmp_path: Path) -> None:
    await pushed(world, tmp_path)
    for strange in ("0" * 64, "../../outputs/x", ""):
        assert (await ask(world, chunks=[strange])).status == 422
    assert (await ask(world, chunks=["0" * 64] * 1001)).status == 422


async def test_what_was_not_pushed_is_not_there(world: World, tmp_path: Path) -> None:
    await pushed(world, tmp_path)
    for fields in ({"version": "v2"}, {"model": "acme/other"}, {"manifest": "0" * 64}):
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


async def test_chunks_in_a_folder_of_their_own_come_through_the_backend(
    apart: World, tmp_path: Path
) -> None:
    manifest = await pushed(apart, tmp_path)
    chunks = list(manifest.files["config.json"].chunks)
    answer = await ask(apart, manifest=manifest.digest, chunks=chunks)
    # No worker hears of the folder.
    assert str(tmp_path).encode() not in answer.body
    assert b"file:" not in answer.body
    urls = [place["url"] for place in answer.json["places"]]
    read = [await apart.stranger("GET", url) for url in urls]
    assert [each.status for each in read] == [200] * len(chunks)
    assert b"".join(each.body for each in read) == DATA
    assert read[0].headers["content-length"] == "4096"
    part = await apart.stranger("GET", urls[0], headers={"Range": "bytes=100-199"})
    assert (part.status, part.body) == (206, DATA[100:200])
    assert (await apart.stranger("HEAD", urls[0])).headers["content-length"] == "4096"


async def test_nothing_but_chunks_leaves_that_folder(apart: World, tmp_path: Path) -> None:
    manifest = await pushed(apart, tmp_path)
    digest = manifest.files["config.json"].chunks[0]
    (tmp_path / "shelf" / "secret.json").write_text("{}")
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "shelf" / "chunks" / digest[:2] / "notes").write_text("x")
    for key in (
        "secret.json",
        manifest_key(manifest.digest),
        version_key("acme/poster", "v1"),
        f"chunks/{digest[:2]}/notes",
        f"chunks/{digest[:2]}/{digest}.json",
        f"chunks/00/{digest}",
    ):
        # Even where somebody could sign it.
        url = apart.service.objects.sign("GET", key, 60)
        assert (await apart.stranger("GET", url)).status == 404, key
    right = (await ask(apart, chunks=[digest])).json["places"][0]["url"]
    query = right.partition("?")[2]
    for path in (
        f"chunks/{digest[:2]}/../../secret.json",
        f"chunks/{digest[:2]}/%2e%2e/%2e%2e/secret.json",
        f"chunks/{digest[:2]}/{digest}/../../../secret.json",
        manifest.files["config.json"].chunks[1],
    ):
        assert (await apart.stranger("GET", f"/v1/artifacts/{path}?{query}")).status == 403, path
    assert (await apart.stranger("GET", right)).status == 200
    assert (await apart.stranger("GET", right.partition("?")[0])).status == 403
    assert (await apart.stranger("PUT", right, b"x")).status == 403
    apart.clock.advance(3601)
    assert (await apart.stranger("GET", right)).status == 403


async def test_a_chunk_that_is_gone_from_the_folder_is_not_found(
    apart: World, tmp_path: Path
) -> None:
    manifest = await pushed(apart, tmp_path)
    digest = manifest.files["config.json"].chunks[0]
    (tmp_path / "shelf" / "chunks" / digest[:2] / digest).unlink()
    url = (await ask(apart, chunks=[digest])).json["places"][0]["url"]
    assert (await apart.stranger("GET", url)).status == 404


async def test_a_manifest_that_is_no_digest_is_refused(world: World, tmp_path: Path) -> None:
    await pushed(world, tmp_path)
    for strange in ("../../secret", "60303a", "x" * 64):
        assert (await ask(world, manifest=strange)).status == 400


async def test_a_manifest_that_was_cut_off_says_so_to_the_worker(
    apart: World, tmp_path: Path
) -> None:
    manifest = await pushed(apart, tmp_path)
    path = tmp_path / "shelf" / manifest_key(manifest.digest)
    path.write_bytes(path.read_bytes()[:100])
    answer = await ask(apart)
    assert answer.status == 400
    assert "push the model again" in answer.json["detail"]
    assert str(tmp_path) not in answer.json["detail"]
