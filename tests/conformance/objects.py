"""What every object store must do. Subclass in a test; give `objects` and `clock` fixtures."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

import aiohttp
import pytest
from yarl import URL

from manual_clock import ManualClock
from swell.core.errors import Conflict, Forbidden, InvalidRequest, NotFound
from swell.objects.object_store import Objects


class ObjectsConformance:
    """The guarantees of `swell.objects.object_store`, as tests over an `objects` fixture."""

    async def test_what_was_put_is_read_back(self, objects: Objects) -> None:
        data = bytes(range(256)) * 4000  # more than one chunk
        info = await objects.put("outputs/t1/1/a.bin", data, "application/octet-stream")
        assert (info.key, info.bytes) == ("outputs/t1/1/a.bin", len(data))
        assert await _read(objects, "outputs/t1/1/a.bin") == data

    async def test_a_stream_is_stored_as_one_file(self, objects: Objects) -> None:
        await objects.put("a.txt", _stream(b"one ", b"two ", b"three"), "text/plain")
        assert await _read(objects, "a.txt") == b"one two three"

    async def test_a_stream_that_breaks_leaves_what_was_there(self, objects: Objects) -> None:
        await objects.put("a.txt", b"old", "text/plain")
        with pytest.raises(ConnectionError):
            await objects.put("a.txt", _broken_stream(), "text/plain")
        assert await _read(objects, "a.txt") == b"old"

    async def test_a_stream_that_breaks_leaves_nothing_new(self, objects: Objects) -> None:
        with pytest.raises(ConnectionError):
            await objects.put("new.txt", _broken_stream(), "text/plain")
        with pytest.raises(NotFound):
            await objects.head("new.txt")

    async def test_head_tells_size_type_and_validator(self, objects: Objects) -> None:
        put = await objects.put("a.png", b"12345", "image/png")
        head = await objects.head("a.png")
        assert head == put
        assert head.bytes == 5
        assert head.content_type == "image/png"
        assert head.modified_at.tzinfo is not None

    @pytest.mark.parametrize("key", ["a.png", "a", "deep/er/a.txt"])
    @pytest.mark.parametrize("content_type", ["image/png", "text/plain; charset=utf-8", "x/y"])
    async def test_any_media_type_is_kept_under_any_name(
        self, objects: Objects, key: str, content_type: str
    ) -> None:
        await objects.put(key, b"1", content_type)
        assert (await objects.head(key)).content_type == content_type

    async def test_a_replaced_file_has_another_validator_and_type(self, objects: Objects) -> None:
        old = await objects.put("a.png", b"12345", "x/y")
        new = await objects.put("a.png", b"54321", "image/png")
        assert old.etag != new.etag
        assert (await objects.head("a.png")).content_type == "image/png"
        assert await _read(objects, "a.png") == b"54321"

    @pytest.mark.parametrize("size", [0, 5, 300_000])
    async def test_a_file_put_as_new_is_never_replaced(self, objects: Objects, size: int) -> None:
        data = b"x" * size
        info = await objects.put_new("outputs/t/1/a.png", data, "x/y")
        for other in (data + b"y", b"y" * (size or 1), b""):
            if other == data:
                continue
            with pytest.raises(Conflict):
                await objects.put_new("outputs/t/1/a.png", other, "image/png")
            with pytest.raises(Conflict):
                await objects.put_new("outputs/t/1/a.png", _stream(other), "image/png")
        assert await objects.head("outputs/t/1/a.png") == info
        assert await _read(objects, "outputs/t/1/a.png") == data

    async def test_the_same_bytes_may_be_put_as_new_again(self, objects: Objects) -> None:
        info = await objects.put_new("a.png", b"12345", "x/y")
        assert await objects.put_new("a.png", b"12345", "x/y") == info
        assert await objects.put_new("a.png", _stream(b"123", b"45"), "image/png") == info
        assert await objects.head("a.png") == info

    async def test_of_many_that_put_one_new_file_one_wins(self, objects: Objects) -> None:
        puts = (objects.put_new("deep/a", _stream(b"%d" % n), "text/plain") for n in range(8))
        results = await asyncio.gather(*puts, return_exceptions=True)
        [winner] = [n for n, result in enumerate(results) if not isinstance(result, Exception)]
        assert all(isinstance(result, Conflict) for n, result in enumerate(results) if n != winner)
        assert await _read(objects, "deep/a") == b"%d" % winner

    async def test_a_new_file_that_breaks_leaves_its_place_free(self, objects: Objects) -> None:
        with pytest.raises(ConnectionError):
            await objects.put_new("new.txt", _broken_stream(), "text/plain")
        await objects.put_new("new.txt", b"whole", "text/plain")
        assert await _read(objects, "new.txt") == b"whole"
        await objects.delete(["new.txt"])
        await objects.put_new("new.txt", b"other", "text/plain")

    async def test_names_that_begin_alike_stay_apart(self, objects: Objects) -> None:
        await objects.put("a", b"1", "x/one")
        await objects.put("a.b", b"2", "x/two")
        await objects.delete(["a"])
        assert (await objects.head("a.b")).content_type == "x/two"

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [(0, 4, b"0123"), (3, 5, b"34"), (7, None, b"789"), (8, 99, b"89"), (10, None, b"")],
    )
    async def test_a_range_is_read(
        self, objects: Objects, start: int, end: int | None, expected: bytes
    ) -> None:
        await objects.put("a", b"0123456789", "text/plain")
        assert await _read(objects, "a", start, end) == expected
        if end is not None and end <= 10:
            assert bytes(await objects.read_range("a", start, end)) == expected

    async def test_an_empty_file_is_a_file(self, objects: Objects) -> None:
        await objects.put("empty", b"", "text/plain")
        assert (await objects.head("empty")).bytes == 0
        assert await _read(objects, "empty") == b""

    async def test_a_missing_file_is_not_found(self, objects: Objects) -> None:
        with pytest.raises(NotFound):
            await objects.head("missing")
        with pytest.raises(NotFound):
            await _read(objects, "missing")
        with pytest.raises(NotFound):
            await objects.read_range("missing", 0, 4)

    async def test_a_folder_is_not_a_file(self, objects: Objects) -> None:
        await objects.put("folder/a", b"1", "text/plain")
        with pytest.raises(NotFound):
            await objects.head("folder")

    async def test_deleted_files_are_gone_and_missing_ones_ignored(self, objects: Objects) -> None:
        await objects.put("a", b"1", "text/plain")
        await objects.put("b", b"2", "text/plain")
        await objects.delete(["a", "missing", "b/c"])
        with pytest.raises(NotFound):
            await objects.head("a")
        assert await _read(objects, "b") == b"2"

    async def test_a_file_is_stored_while_the_last_one_beside_it_is_deleted(
        self, objects: Objects
    ) -> None:
        old, new = "outputs/t/1/a.png", "outputs/t/1/b.bin"
        for _ in range(20):
            await objects.put(old, b"1", "x/y")
            await asyncio.gather(objects.delete([old]), objects.put_new(new, b"2", "x/y"))
            assert await _read(objects, new) == b"2"
            await objects.delete([new])
        assert await objects.under("outputs") == []

    async def test_what_lies_under_a_folder_is_listed(self, objects: Objects) -> None:
        keys = ["outputs/t/1/a.png", "outputs/t/1/b/c.png", "outputs/t/10/d.png", "outputs/t/1b"]
        for key in keys:
            await objects.put(key, b"1", "x/y")
        assert sorted(await objects.under("outputs/t/1")) == keys[:2]
        assert sorted(await objects.under("outputs")) == sorted(keys)
        assert len(await objects.under("outputs", limit=3)) == 3
        await objects.delete(keys[:2])
        assert await objects.under("outputs/t/1") == []
        assert await objects.under("missing") == []
        with pytest.raises(InvalidRequest):
            await objects.under("outputs/../")

    @pytest.mark.parametrize(
        "key",
        ["", "/a", "a/", "a//b", "../a", "a/../b", ".b", "a/.b", "a\\b", "a\0b", "a\nb", "x" * 600],
    )
    async def test_a_key_that_is_no_plain_path_is_refused(self, objects: Objects, key: str) -> None:
        with pytest.raises(InvalidRequest):
            await objects.put(key, b"1", "text/plain")
        with pytest.raises(InvalidRequest):
            await objects.put_new(key, b"1", "text/plain")


class SignedUrlConformance:
    """The backend's own URLs: `sign` makes what `verify` takes."""

    @pytest.mark.parametrize("method", ["GET", "PUT"])
    @pytest.mark.parametrize("key", ["outputs/t1/1/a.png", "with space/ü&?#.png"])
    def test_a_signed_url_is_good_for_its_method_and_key(
        self, objects: Objects, method: str, key: str
    ) -> None:
        path, query = _split(objects.sign(method, key, 60))
        assert path == f"/v1/artifacts/{key}"
        objects.verify(method, key, query)

    def test_a_signature_is_for_one_size(self, objects: Objects) -> None:
        _, query = _split(objects.sign("GET", "a.png", 60, 5))
        assert query["bytes"] == "5"
        objects.verify("GET", "a.png", query)
        bare = {name: value for name, value in query.items() if name != "bytes"}
        for other in (bare, query | {"bytes": "4"}):
            with pytest.raises(Forbidden, match="wrong"):
                objects.verify("GET", "a.png", other)
        renewed = objects.renew(objects.sign("GET", "a.png", 60, 5), 60)
        assert renewed is not None
        assert _split(renewed)[1]["bytes"] == "5"

    def test_a_url_for_get_is_good_for_head(self, objects: Objects) -> None:
        _, query = _split(objects.sign("GET", "a.png", 60))
        objects.verify("HEAD", "a.png", query)

    def test_a_signed_url_expires(self, objects: Objects, clock: ManualClock) -> None:
        _, query = _split(objects.sign("GET", "a.png", 60))
        clock.advance(59)
        objects.verify("GET", "a.png", query)
        clock.advance(2)
        with pytest.raises(Forbidden, match="expired"):
            objects.verify("GET", "a.png", query)

    def test_a_signature_is_for_one_method(self, objects: Objects) -> None:
        _, query = _split(objects.sign("GET", "a.png", 60))
        with pytest.raises(Forbidden, match="signed for"):
            objects.verify("PUT", "a.png", query)
        with pytest.raises(Forbidden, match="wrong"):
            objects.verify("PUT", "a.png", query | {"method": "PUT"})

    def test_a_signature_is_for_one_key(self, objects: Objects) -> None:
        _, query = _split(objects.sign("GET", "a.png", 60))
        with pytest.raises(Forbidden, match="wrong"):
            objects.verify("GET", "b.png", query)

    def test_the_expiry_cannot_be_moved(self, objects: Objects) -> None:
        _, query = _split(objects.sign("GET", "a.png", 60))
        with pytest.raises(Forbidden, match="wrong"):
            objects.verify("GET", "a.png", query | {"expires": str(int(query["expires"]) + 1)})

    @pytest.mark.parametrize("home", ["", "http://localhost:8000", "https://swell.example/base"])
    @pytest.mark.parametrize("key", ["uploads/k/1.png", "with space/ü&?#.png"])
    def test_a_url_is_renewed_under_any_name_even_after_it_has_expired(
        self, objects: Objects, clock: ManualClock, home: str, key: str
    ) -> None:
        old = objects.sign("GET", key, 60)
        clock.advance(3600)
        fresh = objects.renew(home + old, 60)
        assert fresh is not None
        path, query = _split(fresh)
        assert path == f"/v1/artifacts/{key}"
        objects.verify("GET", key, query)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("a.png", "b.png"),
            ("expires=", "expires=9"),
            ("signature=", "signature=x"),
            ("&signature=", "&sig="),
            ("/v1/artifacts/", "/v1/files/"),
            ("http://h/", "http://[h/"),
            ("a.png", "a.png%ff"),
            ("a.png", "a.png\ud800"),
        ],
    )
    def test_a_url_that_is_not_ours_is_not_renewed(
        self, objects: Objects, old: str, new: str
    ) -> None:
        ours = "http://h" + objects.sign("GET", "a.png", 60)
        assert objects.renew(ours, 60) is not None
        assert objects.renew(ours.replace(old, new), 60) is None

    def test_a_url_for_storing_is_not_renewed_as_one_for_reading(self, objects: Objects) -> None:
        put = objects.sign("PUT", "a.png", 60)
        assert objects.renew(put, 60) is None
        assert objects.renew(put.replace("method=PUT", "method=GET"), 60) is None

    @pytest.mark.parametrize(
        "query", [{}, {"signature": "x"}, {"expires": "1"}, {"expires": "x", "signature": "ü"}]
    )
    def test_anything_else_is_forbidden(self, objects: Objects, query: dict[str, str]) -> None:
        with pytest.raises(Forbidden):
            objects.verify("GET", "a.png", query)


class DirectUrlConformance:
    """For stores that are reached without the backend: `direct` makes what they themselves take."""

    async def test_a_file_is_put_and_read_without_the_backend(self, objects: Objects) -> None:
        key = "outputs/t1/1/a-b_c.png"
        put = await objects.direct("PUT", key, 60)
        assert put is not None
        headers = put.headers | {"content-type": "image/png"}
        assert (await _ask("PUT", put.url, b"12345", headers)).status in (200, 201)
        info = await objects.head(key)
        assert (info.bytes, info.content_type) == (5, "image/png")
        got = await objects.direct("GET", key, 60)
        assert got is not None
        assert await _ask("GET", got.url) == _Answer(200, b"12345")

    async def test_what_was_put_directly_stays_where_the_cloud_can_say_so(
        self, objects: Objects
    ) -> None:
        await objects.put("a.png", b"old", "image/png")
        put = await objects.direct("PUT", "a.png", 60)
        assert put is not None
        if "if-none-match" not in put.headers:
            return
        assert (await _ask("PUT", put.url, b"new", put.headers)).status in (409, 412)
        assert await _read(objects, "a.png") == b"old"

    async def test_a_url_is_for_one_key(self, objects: Objects) -> None:
        await objects.put("a.png", b"1", "image/png")
        await objects.put("b.png", b"2", "image/png")
        got = await objects.direct("GET", "a.png", 60)
        assert got is not None
        assert (await _ask("GET", got.url)).body == b"1"
        assert got.url.partition("?")[0].endswith("a.png")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes


async def _ask(
    method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> _Answer:
    """Send a request as whoever was given a URL does: without any key."""
    async with aiohttp.ClientSession() as session:
        target = URL(url, encoded=True)
        async with session.request(method, target, data=body, headers=headers) as answer:
            return _Answer(answer.status, await answer.read())


async def _read(objects: Objects, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in objects.read(key, start, end)])


async def _stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _broken_stream() -> AsyncIterator[bytes]:
    yield b"half"
    raise ConnectionError("the sender went away")


def _split(url: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    return unquote(parts.path), dict(parse_qsl(parts.query))
