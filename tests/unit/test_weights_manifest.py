"""Manifests: canonical, checked, and kept in the cache whole or not at all."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weights_harness import NAME, pushed, write

from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest, SwellError
from swell.objects.object_store import check_key
from swell.weights.cache import CacheUnusable, NotCached, WeightCache
from swell.weights.declared_weights import Provided
from swell.weights.manifest import (
    manifest_digest,
    manifest_paths,
    note_manifest,
    noted_manifest,
    read_manifest,
    write_manifest,
)
from swell.weights.store import file_key, version_key
from swell.weights.weight_errors import RefusedFormat
from swell.weights.weight_index import Entry, InvalidListing, Listing, Wanted
from swell.worker.weight_prefetch import Provision, Wish
from weight_server import WeightServer


def manifest_of(source: str = "", **files: bytes) -> Listing:
    made = {
        f"{name}.json": Entry(hashlib.sha256(data).hexdigest(), len(data))
        for name, data in files.items()
    }
    return Listing("acme/poster", "v1", made, source)


def test_a_manifest_reads_as_it_was_written() -> None:
    manifest = manifest_of(a=b"", b=b"x" * 10_000)
    text = write_manifest(manifest)
    assert read_manifest(text, manifest_digest(manifest)) == manifest


def test_equal_files_have_equal_digests_whatever_their_order_and_source() -> None:
    one = manifest_of(a=b"1", b=b"2")
    other = manifest_of("https://example.com/w?token=hunter2", b=b"2", a=b"1")
    assert manifest_digest(one) == manifest_digest(other)
    assert b"hunter2" not in write_manifest(other)


def test_another_manifest_than_the_one_that_was_asked_for_is_refused() -> None:
    text = write_manifest(manifest_of(a=b"1"))
    with pytest.raises(InvalidListing, match="Correct the digest, or push the model again"):
        read_manifest(text, manifest_digest(manifest_of(a=b"2")))


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    table = msgspec.json.decode(write_manifest(manifest_of(a=b"x" * 10_000)))
    change(table)
    return msgspec.json.encode(table)


def file_named(name: str) -> Callable[[dict[str, Any]], None]:
    def change(table: dict[str, Any]) -> None:
        table["files"] = {name: table["files"]["a.json"]}

    return change


def file_with(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda table: table["files"]["a.json"].update(parts)


def table_with(**parts: Any) -> Callable[[dict[str, Any]], None]:
    return lambda table: table.update(parts)


def nested(table: dict[str, Any]) -> None:
    file = table["files"]["a.json"]
    table["files"] = {"a.json": file, "a.json/b.json": file}


@pytest.mark.parametrize(
    "change",
    [
        file_named("../a.json"),
        file_named("/etc/a.json"),
        file_named("x/./a.json"),
        file_named("x//a.json"),
        file_named("a.pt"),
        file_named("a.so"),
        file_named("x\\a.json"),
        file_named(""),
        file_with(bytes=-1),
        file_with(bytes=1 << 50),
        file_with(bytes=1.5),
        file_with(sha256="sha256:" + "0" * 64),
        file_with(sha256="A" * 64),
        file_with(sha256="../../x"),
        file_with(more=1),
        nested,
        table_with(files={}),
        table_with(model="../x"),
        table_with(version="../x"),
        table_with(format=2),
        table_with(format="1"),
        table_with(more=1),
    ],
)
def test_a_hostile_manifest_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises((InvalidListing, RefusedFormat)):
        read_manifest(changed(change))


def test_a_manifest_that_names_a_file_twice_is_refused() -> None:
    text = write_manifest(manifest_of(a=b"1"))
    inner = text[text.index(b'"a.json"') : text.rindex(b"},")]
    twice = text.replace(inner, inner + b"," + inner)
    assert twice.count(b'"a.json"') == 2
    with pytest.raises(SwellError, match="canonical form"):
        read_manifest(twice)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_manifest(text)


def test_keys_are_keys_of_any_object_store() -> None:
    for key in (file_key("9f" * 32), version_key("acme/poster", "v1.0_x")):
        assert check_key(key) == key
    with pytest.raises(InvalidListing):
        version_key("acme/poster", "../v1")


# --- in the cache --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"", b"{", b"\0" * 300], ids=["empty", "cut off", "zeros"])
async def test_one_that_a_crash_has_cut_off_is_fetched_again(
    server: WeightServer,
    cache: WeightCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    digest = manifest_digest(manifest)
    [path] = manifest_paths(cache, digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(NotCached):
        noted_manifest(cache, digest)
    wish = Wish("acme/poster", "v1", digest)
    assert not wish.is_in(cache)
    weights = Provided(Wanted("acme/poster", "v1", {}, digest), cache, ManualClock())
    looked, hold = threading.Semaphore(0), weights._hold
    monkeypatch.setattr(weights, "_hold", lambda name: looked.release() or hold(name))
    waiting = asyncio.create_task(asyncio.to_thread(weights.path, NAME))
    for _ in range(3):
        assert await asyncio.to_thread(looked.acquire, timeout=60)
    assert not waiting.done()
    await Provision([wish], cache, server, SystemClock()).bring()
    assert (await waiting).exists()
    assert noted_manifest(cache, digest) == manifest
    assert path.read_bytes() == write_manifest(manifest)
    assert wish.is_in(cache)


def test_one_that_was_damaged_in_an_image_is_noted_beside_it(tmp_path: Path) -> None:
    manifest = manifest_of(a=b"1")
    below = WeightCache(tmp_path / "baked")
    digest = note_manifest(below, manifest)
    cache = WeightCache(tmp_path / "cache", below=below.folder)
    own, baked = manifest_paths(cache, digest)
    note_manifest(cache, manifest)
    assert not own.exists(), "it is there already"
    baked.write_bytes(b"{")
    with pytest.raises(NotCached):
        noted_manifest(cache, digest)
    note_manifest(cache, manifest)
    assert noted_manifest(cache, digest) == manifest
    assert baked.read_bytes() == b"{"


def test_one_that_this_version_cannot_use_says_so_and_is_not_fetched_again_and_again(
    cache: WeightCache,
) -> None:
    text = b'{"format":2}'
    digest = hashlib.sha256(text).hexdigest()
    [path] = manifest_paths(cache, digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(InvalidListing):
        noted_manifest(cache, digest)


def test_a_folder_in_its_place_is_told(cache: WeightCache) -> None:
    manifest = manifest_of(a=b"1")
    [path] = manifest_paths(cache, manifest_digest(manifest))
    path.mkdir(parents=True)
    (path / "something").write_text("")
    with pytest.raises(CacheUnusable, match="move it away") as told:
        note_manifest(cache, manifest)
    assert str(path) in told.value.detail
    assert list(path.parent.iterdir()) == [path], "no draft is left"
