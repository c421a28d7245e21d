"""What may be uploaded, by what it is."""

import io
from collections.abc import AsyncIterator

import pytest
from api_harness import World, a_world
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swell.server.files.mime_sniffing import HEAD_BYTES, is_allowed, sniffed_type
from swell.settings.load import Settings

DEFAULT = Settings().server.upload_types


def _picture(name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, name)
    return buffer.getvalue()


KNOWN = {
    "image/png": _picture("png"),
    "image/jpeg": _picture("jpeg"),
    "image/webp": _picture("webp"),
    "image/gif": _picture("gif"),
    "image/avif": _picture("avif"),
    "image/tiff": _picture("tiff"),
    "image/bmp": _picture("bmp"),
    "audio/wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "audio/flac": b"fLaC\0\0\0\x22",
    "audio/ogg": b"OggS\0\2",
    "audio/mpeg": b"ID3\4\0",
    "video/webm": b"\x1a\x45\xdf\xa3\x01",
    "video/mp4": b"\0\0\0\x20ftypisom",
    "application/pdf": b"%PDF-1.7",
    "text/plain": "hällo, BMX and MZ".encode(),
    "application/json": b' {"a": 1}',
    "application/octet-stream": b'\x80\0\0\0\0\0\0\0{"__metadata__"',
}

HOSTILE = {
    "a page": b"<!DOCTYPE html><p>hi",
    "a script": b"  \n<ScRiPt>alert(1)</script>",
    "a page with a mark": b"\xef\xbb\xbf<html>",
    "a page in UTF-16": "\ufeff<script>alert(1)</script>".encode("utf-16-le"),
    "a page after a zero": b"<html>\0",
    "an unknown tag before a script": b"<x><script>alert(1)</script>",
    "a comment": b"<!-- --><script>",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "a drawing after its head": b'<?xml version="1.0"?><!-- x --><svg/>',
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    "a program": b"\x7fELF\2\1\1",
    "a program of Windows": b"MZ\x90\0\3",
    "a shell script": b"#!/bin/sh\nrm -rf /",
    "an archive": b"PK\3\4\x14",
    "a packed archive": b"\x1f\x8b\x08",
}


@pytest.mark.parametrize("media_type", KNOWN)
def test_what_is_useful_is_known_and_taken(media_type: str) -> None:
    assert sniffed_type(KNOWN[media_type]) == media_type
    assert is_allowed(media_type, DEFAULT)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_browser_or_a_machine_would_run_is_not_taken(what: str) -> None:
    assert not is_allowed(sniffed_type(HOSTILE[what]), DEFAULT)
    assert is_allowed(sniffed_type(HOSTILE[what]), ("*/*",))


@given(st.binary(max_size=2 * HEAD_BYTES))
def test_every_beginning_has_a_type(head: bytes) -> None:
    assert sniffed_type(head).count("/") == 1


@given(st.binary(max_size=40).map(bytes.strip), st.sampled_from([b"<script>", b"<html>", b"<svg>"]))
def test_white_space_hides_no_page(space: bytes, tag: bytes) -> None:
    padding = b"".join(b" \t\r\n"[each % 4 : each % 4 + 1] for each in space)
    assert not is_allowed(sniffed_type(padding + tag), DEFAULT)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(upload_types=DEFAULT) as world:
        yield world


@pytest.mark.parametrize("told", ["image/png", "text/plain", "application/octet-stream", ""])
@pytest.mark.parametrize("what", HOSTILE)
async def test_what_it_is_said_to_be_does_not_matter(world: World, what: str, told: str) -> None:
    headers = {"Content-Type": told} if told else {}
    answer = await world.anna("POST", "/v1/uploads", HOSTILE[what], headers=headers)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_type")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("chunk_bytes", [1, 3, 700])
async def test_it_does_not_matter_in_which_pieces_it_comes(world: World, chunk_bytes: int) -> None:
    for what, data in (("page", b"<html>" + b"x" * 3000), ("text", b"hello" + b"x" * 3000)):
        answer = await world.anna("POST", "/v1/uploads", data, chunk_bytes=chunk_bytes)
        assert answer.status == (415 if what == "page" else 201)
        if what == "text":
            url = answer.json["url"].removeprefix("http://swell.test")
            assert (await world.stranger("GET", url)).body == data


async def test_a_form_is_looked_into(world: World) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n<script>alert(1)</script>\r\n--B--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = await world.anna("POST", "/v1/uploads", body, headers=headers)
    assert answer.status == 415


async def test_nothing_is_kept_of_what_is_not_taken(world: World) -> None:
    await world.anna("POST", "/v1/uploads", b"<html>")
    assert await world.app.backend.objects.under("uploads") == []


@pytest.mark.parametrize(
    ("told", "data", "is_saved"),
    [
        ("text/html", b"<script>", True),
        ("image/svg+xml", b"<svg onload='alert(1)'/>", True),
        ("application/xhtml+xml", b"<html/>", True),
        ("image/png", KNOWN["image/png"], False),
    ],
)
async def test_whatever_was_taken_runs_nothing_here(told: str, data: bytes, is_saved: bool) -> None:
    async with a_world(upload_types=("*/*",)) as world:
        answer = await world.anna("POST", "/v1/uploads", data, headers={"Content-Type": told})
        url = answer.json["url"].removeprefix("http://swell.test")
        for method in ("GET", "HEAD"):
            found = await world.stranger(method, url)
            assert found.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in found.headers["content-security-policy"]
            assert ("content-disposition" in found.headers) == is_saved
