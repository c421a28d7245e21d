"""Files as chunks, and manifests that nobody who writes one can abuse."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.errors import InvalidRequest
from swell.objects.object_store import check_key
from swell.weights.chunks import (
    ChunkedFile,
    Manifest,
    chunk_key,
    cut,
    manifest_key,
    read_manifest,
    read_pointer,
    spans,
    version_key,
    write_manifest,
)
from swell.weights.listing import InvalidListing
from swell.weights.refusals import RefusedFormat

CHUNK = 4096


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(**files: bytes) -> Manifest:
    made = {}
    for name, data in files.items():
        chunks = tuple(sha256(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK))
        made[f"{name}.json"] = ChunkedFile(sha256(data), len(data), chunks)
    return Manifest("acme/poster", "v1", CHUNK, made)


@given(st.binary(max_size=5 * CHUNK), st.integers(1, 2 * CHUNK))
def test_the_chunks_of_a_file_joined_are_the_file(data: bytes, size: int) -> None:
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"cut-{id(data)}"
    path.write_bytes(data)
    try:
        file = cut(path, size)
    finally:
        path.unlink()
    pieces = [data[at : at + length] for _, at, length in spans(file, size)]
    assert b"".join(pieces) == data
    assert [sha256(piece) for piece in pieces] == list(file.chunks)
    assert (file.sha256, file.bytes) == (sha256(data), len(data))


def test_a_manifest_reads_as_it_was_written() -> None:
    manifest = manifest_of(b=b"x" * 10_000, a=b"", c=b"x" * CHUNK)
    text = write_manifest(manifest)
    assert read_manifest(text, manifest.digest) == manifest
    assert list(manifest.chunks.values()) == [CHUNK, 10_000 - 2 * CHUNK]


def test_equal_manifests_have_equal_digests_whatever_the_order_of_their_files() -> None:
    assert manifest_of(a=b"1", b=b"2").digest == manifest_of(b=b"2", a=b"1").digest


def test_another_manifest_than_the_one_that_was_asked_for_is_refused() -> None:
    text = write_manifest(manifest_of(a=b"1"))
    with pytest.raises(InvalidListing, match="it was changed"):
        read_manifest(text, manifest_of(a=b"2").digest)


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


def two_sizes(table: dict[str, Any]) -> None:
    digests = table["files"]["a.json"]["chunks"]
    table["files"]["a.json"]["chunks"] = [digests[0], digests[0], digests[0]]


@pytest.mark.parametrize(
    "change",
    [
        file_named("../a.json"),
        file_named("/etc/a.json"),
        file_named("x/./a.json"),
        file_named("a.pt"),
        file_named("a.so"),
        file_named("x\\a.json"),
        file_with(bytes=-1),
        file_with(bytes=1 << 50),
        file_with(bytes=10_000 + CHUNK),
        file_with(bytes=1.5),
        file_with(chunks=[]),
        file_with(chunks=["0" * 63] * 3),
        file_with(chunks=["A" * 64] * 3),
        file_with(chunks=["../" + "0" * 61] * 3),
        file_with(sha256="sha256:" + "0" * 64),
        file_with(sha256="../../x"),
        nested,
        two_sizes,
        table_with(chunk_bytes=0),
        table_with(chunk_bytes=-4096),
        table_with(chunk_bytes=1 << 40),
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


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_manifest(text)


def test_a_pointer_names_a_digest_and_nothing_else() -> None:
    assert read_pointer(b'{"manifest":"%s"}' % (b"0" * 64), "x") == "0" * 64
    for text in (b"", b"{}", b'{"manifest":"../x"}', b"[]"):
        with pytest.raises(InvalidListing):
            read_pointer(text, "x")


def test_keys_are_keys_of_any_object_store() -> None:
    digest = "9f" * 32
    for key in (chunk_key(digest), manifest_key(digest), version_key("acme/poster", "v1.0_x")):
        assert check_key(key) == key
    with pytest.raises(InvalidListing):
        version_key("acme/poster", "../v1")
