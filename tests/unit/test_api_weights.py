"""Workers with a URL and a key only hear where the chunks of pushed weights are."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_harness import World, a_world

from swell.registry import Scope
from swell.weights.chunks import Manifest, read_manifest
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
