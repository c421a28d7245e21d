"""Uploads, signed URLs, ranges and caches."""

import asyncio
import contextlib
import itertools
import json
import os
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from api_harness import World, a_world, failed
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from sqlite_rig import turns
from swell.core.errors import InvalidRequest, RangeNotSatisfiable
from swell.objects.folder import TemporaryObjects
from swell.server.files.file_routes import byte_range, name_files
from swell.server.multipart_forms import open_form


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(max_upload_bytes=100_000) as world:
        yield world


async def _upload(world: World, data: bytes, media_type: str = "image/png") -> str:
    answer = await world.anna("POST", "/v1/uploads", data, headers={"Content-Type": media_type})
    assert answer.status == 201, answer.body
    assert answer.json["bytes"] == len(data)
    return str(answer.json["url"]).removeprefix("http://swell.test")


async def test_an_upload_can_be_read_with_its_url_alone(world: World) -> None:
    url = await _upload(world, b"hello", "image/png")
    answer = await world.stranger("GET", url)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-disposition" not in answer.headers


async def test_an_upload_that_was_cut_since_is_not_served(world: World) -> None:
    url = await _upload(world, b"hello", "image/png")
    (key,) = await world.service.objects.under("uploads")
    await world.service.objects.put(key, b"hel", "image/png")
    answer = await world.stranger("GET", url)
    assert (answer.status, answer.json["code"]) == (404, "damaged_artifact")
    renewed = world.service.objects.renew(url, 60)
    assert renewed is not None
    assert (await world.stranger("GET", renewed)).json["code"] == "damaged_artifact"


async def test_a_page_that_somebody_uploaded_is_never_shown_as_one(world: World) -> None:
    url = await _upload(world, b"<script>", "text/html")
    answer = await world.stranger("GET", url)
    assert answer.headers["content-disposition"] == "attachment"
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_form_with_one_file_is_taken(world: World) -> None:
    data = os.urandom(2000) + b"\r\n\n\r--x\r\n"
    body = (
        b'--BOUND\r\nContent-Disposition: form-data; name="note"\r\n\r\nhi\r\n'
        b'--BOUND\r\nContent-Disposition: form-data; name="file"; filename="A.PNG"\r\n'
        b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--BOUND--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=BOUND"}
    answer = await world.anna("POST", "/v1/uploads", body, headers=headers)
    assert answer.status == 201, answer.body
    assert answer.json["key"].endswith(".png")
    url = answer.json["url"].removeprefix("http://swell.test")
    got = await world.stranger("GET", url)
    assert got.body == data
    assert got.headers["content-type"] == "image/png"


@pytest.mark.parametrize("body", [b"", b"nonsense", b"--BOUND--\r\n", b"--BOUND\r\n\r\n"])
async def test_a_form_without_a_file_is_refused(world: World, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=BOUND"}
    answer = await world.anna("POST", "/v1/uploads", body, headers=headers)
    assert answer.status == 400


HEAD = b'--frontier\r\nContent-Disposition: form-data; name="f"; filename="a.bin"\r\n\r\n'

FRONTIER = b"multipart/form-data; boundary=frontier"


async def _open(header: bytes, pieces: list[bytes]) -> bytes:
    """Return the bytes of the file in a form that comes in pieces."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    data = (await open_form(header, chunks())).data
    return b"".join([piece async for piece in data])


@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=6))
def test_any_bytes_survive_a_form_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    if b"--frontier" in data:
        return
    body = HEAD + data + b"\r\n--frontier--\r\n"
    at = sorted({0, *(cut for cut in cuts if cut < len(body)), len(body)})
    pieces = [body[a:b] for a, b in itertools.pairwise(at)]
    assert asyncio.run(_open(FRONTIER, pieces)) == data


@given(st.binary(max_size=100), st.binary(max_size=200))
def test_a_broken_form_is_an_invalid_request(content_type: bytes, body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        asyncio.run(_open(b"multipart/form-data; " + content_type, [body]))


async def test_a_form_goes_to_the_store_as_it_comes() -> None:
    line = b"a\n" * 32_768

    async def chunks() -> AsyncIterator[bytes]:
        yield HEAD
        for _ in range(200):
            yield line
        yield b"\r\n--frontier--\r\n"

    tracemalloc.start()
    try:
        data = (await open_form(FRONTIER, chunks())).data
        total = 0
        async for piece in data:
            total += len(piece)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 200 * len(line)
    assert peak_bytes < 10 * len(line)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HEAD + b"abc", id="without its end"),
        pytest.param(HEAD + b"a\r\n" + HEAD + b"b\r\n--frontier--\r\n", id="with two files"),
        pytest.param(b"--frontier\r\n\r\na\r\n" * 101 + HEAD, id="with parts without end"),
        pytest.param(b"--frontier\r\nA: " + b"x" * 20_000, id="with a head without end"),
        pytest.param(HEAD[:-2] + b"Content-Transfer-Encoding: base64\r\n\r\nYQ==", id="in base64"),
    ],
)
async def test_a_form_that_cannot_be_taken_leaves_nothing(world: World, body: bytes) -> None:
    headers = {"Content-Type": FRONTIER.decode()}
    answer = await world.anna("POST", "/v1/uploads", body, headers=headers, chunk_bytes=1000)
    assert answer.status == 400, answer.body
    assert "form" in answer.json["detail"]
    assert await world.service.objects.under("uploads") == []


@pytest.mark.parametrize("chunk_bytes", [None, 7000])
async def test_an_upload_that_is_too_large_leaves_nothing(
    world: World, chunk_bytes: int | None
) -> None:
    answer = await world.anna(
        "POST", "/v1/uploads", b"x" * 100_001, chunk_bytes=chunk_bytes, headers={}
    )
    assert answer.status == 413


async def test_an_empty_upload_is_refused(world: World) -> None:
    assert (await world.anna("POST", "/v1/uploads", b"")).status == 400


@pytest.mark.parametrize(
    ("header", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=5-2", 200, b"0123456789", None),
    ],
)
async def test_a_range_gives_that_part(
    world: World, header: str, status: int, body: bytes | None, content_range: str | None
) -> None:
    url = await _upload(world, b"0123456789")
    answer = await world.stranger("GET", url, headers={"Range": header})
    assert answer.status == status
    assert answer.headers.get("content-range") == content_range
    if body is not None:
        assert answer.body == body
        assert answer.headers["content-length"] == str(len(body))


async def test_a_range_of_another_version_gives_the_whole_file(world: World) -> None:
    url = await _upload(world, b"0123456789")
    headers = {"Range": "bytes=0-3", "If-Range": '"other"'}
    assert (await world.stranger("GET", url, headers=headers)).status == 200


async def test_what_a_client_has_is_not_sent_again(world: World) -> None:
    url = await _upload(world, b"hello")
    first = await world.stranger("GET", url)
    again = await world.stranger("GET", url, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


async def test_head_tells_the_size_without_the_file(world: World) -> None:
    url = await _upload(world, b"hello")
    answer = await world.stranger("HEAD", url)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == "5"


async def test_a_url_that_expired_says_how_to_get_a_fresh_one(world: World) -> None:
    url = await _upload(world, b"hello")
    world.clock.advance(3601)
    answer = await world.stranger("GET", url)
    assert answer.status == 403
    assert "expired" in answer.json["detail"]
    assert "again" in answer.json["detail"]


async def test_a_url_is_good_for_one_method_and_one_file(world: World) -> None:
    url = await _upload(world, b"hello")
    assert (await world.stranger("PUT", url, b"x")).status == 403
    path, _, query = url.partition("?")
    assert (await world.stranger("GET", f"{path}x?{query}")).status == 403
    assert (await world.stranger("GET", path)).status == 403


# --- files of ours in inputs ---------------------------------------------------------------------

SIZE = {
    "name": "demo/size",
    "version": "1",
    "input_schema": {"type": "object", "properties": {"image": {"x-file": "image"}}},
}


async def _is_readable(world: World, leased: dict[str, Any], url: str, data: bytes) -> bool:
    fresh = leased.get("own_files", {}).get(url)
    if fresh is None:
        return False
    answer = await world.stranger("GET", fresh)
    return (answer.status, answer.body) == (200, data)


@pytest.mark.parametrize("host", ["swell.test", "localhost:8000", "10.1.2.3", "[::1]:80"])
async def test_an_upload_can_be_an_input_under_whatever_name_the_client_knows_us(
    world: World, host: str
) -> None:
    headers = {"Content-Type": "image/png", "Host": host}
    url = (await world.anna("POST", "/v1/uploads", b"hello", headers=headers)).json["url"]
    assert url.startswith(f"http://{host}/v1/artifacts/")
    worker = await world.register(SIZE)
    task = await world.create(model="demo/size", input={"image": url, "more": [{"same": url}]})
    [leased] = (await world.lease(worker))["tasks"]
    assert await _is_readable(world, leased, url, b"hello")
    assert list(leased["own_files"]) == [url]
    # The model and the client see what was sent.
    assert leased["input"] == task["input"] == {"image": url, "more": [{"same": url}]}


async def test_an_upload_stays_readable_while_its_task_waits_and_on_every_attempt(
    world: World,
) -> None:
    worker = await world.register(SIZE)
    url = "http://swell.test" + await _upload(world, b"hello")
    task = await world.create(model="demo/size", input={"image": url}, max_attempts=2)
    for ask in ({}, {"ask": 1}):
        world.clock.advance(2 * 3600)
        # The sweeper makes the task ready again.
        await turns(20)
        worker = await world.register(SIZE)
        answer = await world.report(worker, **ask) if ask else await world.lease(worker)
        [leased] = answer["tasks"]
        assert await _is_readable(world, leased, url, b"hello")
        await world.report(worker, settlements=[failed(leased, retryable=True)])
    again = await world.admin("POST", f"/v1/dead/{task['id']}/replay")
    assert again.status == 202
    world.clock.advance(24 * 3600)
    [leased] = (await world.lease(await world.register(SIZE)))["tasks"]
    assert leased["task_id"] == again.json["id"]
    assert await _is_readable(world, leased, url, b"hello")


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch"])
async def test_a_url_that_has_expired_is_no_input_of_a_new_task(world: World, path: str) -> None:
    await world.register(SIZE)
    url = "http://swell.test" + await _upload(world, b"hello")
    request = {"model": "demo/size", "input": {"image": url}}
    body = {"tasks": [request]} if path.endswith("batch") else request
    key = {"Idempotency-Key": "k"}
    assert (await world.anna("POST", path, body, headers=key)).status == 202
    world.clock.advance(2 * 3600)
    await world.register(SIZE)
    # A repeat is answered as ever; a new one would read what its sender may not read any more.
    assert (await world.anna("POST", path, body, headers=key)).status == 202
    answer = await world.anna("POST", path, body)
    assert answer.status == 422
    assert "expired" in answer.json["detail"]


async def test_escapes_of_json_do_not_hide_a_file(world: World) -> None:
    worker = await world.register(SIZE)
    url = "http://localhost" + await _upload(world, b"hello")
    text = json.dumps({"model": "demo/size", "input": {"image": url}})
    body = text.replace("/", "\\/").replace("&", "\\u0026").encode()
    headers = {"Content-Type": "application/json"}
    assert (await world.anna("POST", "/v1/tasks", body, headers=headers)).status == 202
    [leased] = (await world.lease(worker))["tasks"]
    assert await _is_readable(world, leased, url, b"hello")


async def test_a_forged_url_opens_nothing(world: World) -> None:
    worker = await world.register(SIZE)
    ours = "http://localhost" + await _upload(world, b"hello")
    other = await _upload(world, b"other")
    path, _, query = ours.partition("?")
    forged = [
        f"{path}x?{query}",
        f"{other.partition('?')[0]}?{query}",
        ours.replace("expires=", "expires=9"),
        ours[:-3],
        ours.replace("method=GET", "method=PUT"),
        "http://localhost/v1/artifacts/x?signature=",
    ]
    await world.create(model="demo/size", input={"image": forged})
    [leased] = (await world.lease(worker))["tasks"]
    assert "own_files" not in leased


async def test_a_flood_of_signed_urls_is_looked_at_in_part_only(world: World) -> None:
    worker = await world.register(SIZE)
    urls = [f"http://x/v1/artifacts/{n}?signature=x" for n in range(5000)]
    ours = await _upload(world, b"hello")
    await world.create(model="demo/size", input={"image": [*urls, ours]})
    [leased] = (await world.lease(worker))["tasks"]
    assert "own_files" not in leased


@given(st.recursive(st.none() | st.text() | st.floats(allow_nan=False), st.lists, max_leaves=9))
def test_no_input_names_a_file_that_was_not_signed(value: Any) -> None:
    objects = TemporaryObjects(ManualClock(), bytes(32))
    raw = msgspec.Raw(json.dumps({"a": value, "signature=": value}).encode())
    assert name_files(objects, raw) == {}
    assert name_files(objects, msgspec.Raw(bytes(raw)[:-1])) == {}


@given(st.text(max_size=30), st.integers(0, 1000))
def test_any_range_header_is_understood_or_refused(header: str, size: int) -> None:
    try:
        span = byte_range(header, size)
    except RangeNotSatisfiable:
        return
    assert span is None or 0 <= span[0] < span[1] <= size


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_a_range_is_what_slicing_gives(first: int, last: int, size: int) -> None:
    data = bytes(range(size))
    if first >= size or last < first:
        return
    span = byte_range(f"bytes={first}-{last}", size)
    assert span is not None
    assert data[span[0] : span[1]] == data[first : last + 1]
