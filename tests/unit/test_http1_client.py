"""The worker's small HTTP client, against a server that misbehaves on command."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from conformance.dispatch import MemoryDispatch
from manual_clock import ManualClock
from swell.bootstrap.local_workers import worker_environment
from swell.bootstrap.worker import build_worker
from swell.core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    SwellError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from swell.net.url_policy import UrlPolicy
from swell.protocol.backend_client import RemoteDispatch
from swell.protocol.http1_client import Answer, Http1Client
from swell.protocol.worker_messages import Ask, Upload
from swell.settings.load import load
from swell.worker.task_inputs import FETCHES, MOST_FILES, MOST_TOGETHER, fetch_files

Talk = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def a_server(talk: Talk) -> AsyncIterator[tuple[Http1Client, list[bytes]]]:
    """Calls `talk` with each request that came whole."""
    connections: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(b"")
        writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                connections[-1] += head + body
                await talk(head + body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Http1Client(f"http://127.0.0.1:{port}/base", {"authorization": "Bearer k"})
    try:
        yield client, connections
    finally:
        client.close()
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


def reply(body: bytes, status: int = 200, more: str = "") -> bytes:
    return f"HTTP/1.1 {status} OK\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


async def echo(request: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(reply(request.partition(b"\r\n\r\n")[2]))


async def test_a_poll_goes_over_what_rested_longest_and_a_report_over_what_spoke_last() -> None:
    released: dict[bytes, asyncio.Event] = {}
    came_by: dict[bytes, asyncio.StreamWriter] = {}

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        body = request.rpartition(b"\r\n\r\n")[2]
        came_by[body] = writer
        if body in released:
            await released[body].wait()
        writer.write(reply(b"ok"))

    async with a_server(talk) as (client, connections):
        released |= {b"first": asyncio.Event(), b"second": asyncio.Event()}
        first, second = (
            asyncio.create_task(client.post("/lease", body, timeout_s=5)) for body in released
        )
        released[b"first"].set()
        await first
        released[b"second"].set()
        await second
        await client.post("/report", b"told", timeout_s=5)
        await client.post("/lease", b"asked", timeout_s=5, is_poll=True)

        assert len(connections) == 2
        assert came_by[b"told"] is came_by[b"second"]
        assert came_by[b"asked"] is came_by[b"first"]


async def test_calls_share_a_kept_connection() -> None:
    async with a_server(echo) as (client, connections):
        for body in (b"one", b"", b"x" * 300_000):
            assert await client.post("/p", body, timeout_s=5) == Answer(200, body)
        assert len(connections) == 1
        assert connections[0].startswith(b"POST /base/p HTTP/1.1\r\nhost: 127.0.0.1:")
        assert b"authorization: Bearer k\r\n" in connections[0]


async def test_calls_at_the_same_time_have_connections_of_their_own() -> None:
    gate = asyncio.Event()

    async def wait(request: bytes, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await echo(request, writer)

    async with a_server(wait) as (client, connections):
        calls = [asyncio.create_task(client.post("/", b"%d" % n, timeout_s=5)) for n in range(3)]
        while len(connections) < 3:
            await asyncio.sleep(0)
        gate.set()
        assert [answer.body for answer in await asyncio.gather(*calls)] == [b"0", b"1", b"2"]


async def test_an_answer_may_come_in_pieces() -> None:
    async def crumble(request: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"hello", 404):
            writer.write(bytes([byte]))
            await writer.drain()

    async with a_server(crumble) as (client, _):
        assert await client.post("/", b"", timeout_s=5) == Answer(404, b"hello")


async def test_an_answer_may_be_chunked() -> None:
    async def chunk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    async with a_server(chunk) as (client, _):
        assert (await client.post("/", b"", timeout_s=5)).body == b"abcde"


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    async def once(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"ok", more="connection: close\r\n"))

    async with a_server(once) as (client, connections):
        await client.post("/", b"", timeout_s=5)
        await client.post("/", b"", timeout_s=5)
        assert len(connections) == 2


async def test_an_answer_cut_short_is_a_lost_connection() -> None:
    async def cut(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly")
        writer.close()

    async with a_server(cut) as (client, _):
        with pytest.raises(ConnectionResetError):
            await client.post("/", b"", timeout_s=5)


async def test_something_other_than_http_is_a_lost_connection() -> None:
    async def mumble(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async with a_server(mumble) as (client, _):
        with pytest.raises(ConnectionResetError, match="not HTTP"):
            await client.post("/", b"", timeout_s=5)


async def silence(request: bytes, writer: asyncio.StreamWriter) -> None:
    pass


async def test_a_call_without_an_answer_ends_in_time_and_its_connection_is_not_used_again() -> None:
    async with a_server(silence) as (client, connections):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await client.post("/", b"", timeout_s=0.05)
        async with asyncio.timeout(20):
            while len(connections) < 2:
                await asyncio.sleep(0.01)
        assert len(connections) == 2


async def test_a_late_answer_to_a_cancelled_call_answers_nobody() -> None:
    async def slow(request: bytes, writer: asyncio.StreamWriter) -> None:
        if request.endswith(b"first"):
            return
        writer.write(reply(b"second"))

    async with a_server(slow) as (client, connections):
        first = asyncio.create_task(client.post("/", b"first", timeout_s=5))
        while not connections or not connections[0].endswith(b"first"):
            await asyncio.sleep(0)
        first.cancel()
        assert (await client.post("/", b"", timeout_s=5)).body == b"second"
        assert len(connections) == 2


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async def twice(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"one"))
        await writer.drain()
        writer.write(reply(b"again"))

    async with a_server(twice) as (client, _):
        for _ in range(3):
            assert (await client.post("/", b"", timeout_s=5)).body == b"one"
            await asyncio.sleep(0.01)  # the second answer arrives by itself


async def test_a_server_that_is_not_there_is_an_os_error() -> None:
    client = Http1Client("http://127.0.0.1:9", {})
    with pytest.raises(OSError, match=r"Connect call failed|refused"):
        await client.post("/", b"", timeout_s=1)


def test_a_header_cannot_smuggle_lines() -> None:
    with pytest.raises(ValueError, match="line break"):
        Http1Client("http://x", {"authorization": "a\r\nhost: evil"})


# --- errors as the worker sees them --------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_a_status_becomes_the_error_of_its_kind(status: int, kind: type[SwellError]) -> None:
    async def refuse(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b'{"detail": "do this"}', status))

    async with a_server(refuse) as (client, _):
        dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}", "k")
        with pytest.raises(kind, match="do this") as caught:
            await dispatch.lease(Ask(worker_id="w", n=1))
        assert type(caught.value) is kind
        await dispatch.close()


async def test_an_answer_of_something_else_says_so() -> None:
    async def page(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"<html>"))

    async with a_server(page) as (client, _):
        dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}", "k")
        with pytest.raises(Unavailable, match="is it a Swell backend"):
            await dispatch.lease(Ask(worker_id="w", n=1))
        await dispatch.close()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "ftp://example.com/a",
    ],
)
async def test_input_files_are_not_read_from_private_places(url: str) -> None:
    dispatch = RemoteDispatch("http://192.0.2.1:8000", "k")
    with pytest.raises(InvalidRequest):
        await dispatch.fetch(url)
    await dispatch.close()


@pytest.mark.parametrize("prefix", ["", "/swell"])
async def test_a_relative_url_is_read_from_the_backend_and_from_nowhere_else(prefix: str) -> None:
    async def picture(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"bytes", more="content-type: image/png\r\n"))

    async with a_server(picture) as (client, connections):
        dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}{prefix}", "k")
        assert await dispatch.fetch("/v1/artifacts/a.png?x=1") == (b"bytes", "image/png")
        await dispatch.put(Upload(key="b", url="/v1/artifacts/b"), b"b", "text/plain")
        for url in ("//10.0.0.1/a.png", "/metrics", "/v1/artifacts/../../metrics", "docs"):
            with pytest.raises(InvalidRequest, match=r"private network|port"):
                await dispatch.fetch(url)
        await dispatch.close()
        lines = b"".join(connections).split(b"\r\n")
        for line in ("GET %s/v1/artifacts/a.png?x=1", "PUT %s/v1/artifacts/b"):
            assert f"{line % prefix} HTTP/1.1".encode() in lines
        # Only calls carry the worker's key; whoever names a file must not borrow it.
        assert b"Bearer" not in b"".join(connections)


SIGNED = "/v1/artifacts/a.png?method=GET&signature=opens"


async def test_files_of_the_backend_may_be_larger_than_those_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swell.protocol.backend_client._FOREIGN_LIMIT_BYTES", 64)

    async def file(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"x" * 80))

    async with a_server(file) as (client, _), a_server(file) as (foreign, _):
        dispatch = RemoteDispatch(
            f"http://127.0.0.1:{client._port}",
            "k",
            own_limit_bytes=100,
            policy=UrlPolicy(trusts_all=True),
        )
        assert (await dispatch.fetch(SIGNED))[0] == b"x" * 80
        with pytest.raises(TooLarge, match="larger than 64 bytes"):
            await dispatch.fetch(f"http://127.0.0.1:{foreign._port}{SIGNED}")
        await dispatch.close()


def test_the_workers_of_swell_up_keep_weights_where_the_settings_say(tmp_path: Path) -> None:
    flags = {"data_dir": tmp_path, "worker.token": "k", "worker.max_lora_bytes": 7}
    chosen = load(flags, environment={}, folder=tmp_path).settings
    told = worker_environment(chosen, ["demo/noop"], "http://here", "k")
    assert told["SWELL_WORKER__MAX_LORA_BYTES"] == "7"
    assert "SWELL_WORKER__CACHE_DIR" not in told
    elsewhere = flags | {"worker.cache_dir": tmp_path / "cache", "worker.cache_bytes": 9}
    chosen = load(elsewhere, environment={}, folder=tmp_path).settings
    told = worker_environment(chosen, ["demo/noop"], "http://here", "k")
    assert told["SWELL_WORKER__CACHE_DIR"] == str(tmp_path / "cache")
    assert told["SWELL_WORKER__CACHE_BYTES"] == "9"
    cache = build_worker(chosen, ManualClock())._loras._cache
    assert cache is not None
    assert (cache.folder, cache.budget_bytes) == (tmp_path / "cache", 9)


def test_a_worker_reads_what_may_be_uploaded(tmp_path: Path) -> None:
    flags = {"data_dir": tmp_path, "worker.token": "k"}
    chosen = load(flags, environment={}, folder=tmp_path).settings
    dispatch = build_worker(chosen, ManualClock())._dispatch
    assert isinstance(dispatch, RemoteDispatch)
    assert dispatch._own_limit_bytes == chosen.server.max_upload_bytes
    assert chosen.worker.max_file_bytes == chosen.server.max_upload_bytes
    more = load(flags | {"server.max_upload_bytes": 5 << 30}, environment={}, folder=tmp_path)
    told = worker_environment(more.settings, ["demo/noop"], "http://here", "k")
    assert told["SWELL_WORKER__MAX_FILE_BYTES"] == str(5 << 30)


@pytest.mark.parametrize("status", [200, 302, 404, 503, None])
async def test_an_error_never_shows_what_opens_a_file(status: int | None) -> None:
    async def refuse(request: bytes, writer: asyncio.StreamWriter) -> None:
        if status is None:
            writer.close()
        else:
            writer.write(reply(b"x" * 80, status, more=f"location: {SIGNED}\r\n"))

    async with a_server(refuse) as (client, _):
        dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}", "k", own_limit_bytes=64)
        for url in (SIGNED, f"http://me:opens@127.0.0.1:{client._port}{SIGNED}"):
            with pytest.raises(SwellError) as caught:
                await dispatch.fetch(url)
            assert "opens" not in caught.value.detail
            assert "/v1/artifacts/a.png" in caught.value.detail
        await dispatch.close()


async def test_own_files_are_read_where_the_lease_says() -> None:
    class Recorder(MemoryDispatch):
        async def fetch(self, url: str) -> tuple[bytes, str]:
            return url.encode(), "text/plain"

    mine, other = "http://localhost:1/v1/artifacts/a?signature=x", "https://example.com/b"
    own_files = {mine: "/v1/artifacts/a?signature=y"}
    files = await fetch_files(Recorder(ManualClock()), [mine, other], 100, own_files)
    assert files == {
        mine: (b"/v1/artifacts/a?signature=y", "text/plain"),
        other: (other.encode(), "text/plain"),
    }


async def test_a_task_names_so_many_files_and_bytes_and_no_more() -> None:
    class Giver(MemoryDispatch):
        async def fetch(self, url: str) -> tuple[bytes, str]:
            return b"x" * 10, "text/plain"

    giver = Giver(ManualClock())
    urls = [f"https://example.com/{n}" for n in range(MOST_FILES + 1)]
    assert len(await fetch_files(giver, urls[:MOST_FILES], 1000, {})) == MOST_FILES
    with pytest.raises(InvalidInput, match="at most 100"):
        await fetch_files(giver, urls, 1000, {})
    # Those that come at the same moment count as well.
    assert len(await fetch_files(giver, urls[:MOST_TOGETHER], 10, {})) == MOST_TOGETHER
    for count in (MOST_TOGETHER + 1, FETCHES, 50):
        with pytest.raises(TooLarge, match="together more"):
            await fetch_files(giver, urls[:count], 10, {})


async def test_no_file_is_fetched_on_once_one_has_failed() -> None:
    ended: list[str] = []

    class Slow(MemoryDispatch):
        async def fetch(self, url: str) -> tuple[bytes, str]:
            if url.endswith("/0"):
                await asyncio.sleep(0)
                raise InvalidInput("it is not there")
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(url)
            raise AssertionError

    urls = [f"https://example.com/{n}" for n in range(20)]
    with pytest.raises(InvalidInput, match="not there"):
        await fetch_files(Slow(ManualClock()), urls, 10, {})
    assert FETCHES - 1 <= len(ended) <= FETCHES, "those under way end, and no other begins"


async def test_a_file_that_the_backend_keeps_elsewhere_is_read_by_exactly_its_url() -> None:
    async def bucket(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"stored"))

    async with a_server(bucket) as (store, _):
        url = f"http://127.0.0.1:{store._port}/bucket/a.png?X-Amz-Signature=s"
        leased = {"task_id": "t", "attempt": 1, "token": "k", "model": "a/b", "version": "1"}
        task = {**leased, "input": {}, "count": 1, "own_files": {"https://here/a": url}}
        grant = msgspec.json.encode({"tasks": [task], "cancels": [], "drain": False})

        async def backend(request: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(reply(grant))

        async with a_server(backend) as (client, _):
            dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}", "k")
            with pytest.raises(InvalidRequest, match="private network"):
                await dispatch.fetch(url)
            await dispatch.lease(Ask(worker_id="w", n=1))
            assert (await dispatch.fetch(url))[0] == b"stored"
            with pytest.raises(InvalidRequest, match="private network"):
                await dispatch.fetch(url.replace("a.png", "b.png"))
            await dispatch.close()


async def test_a_name_that_stands_for_a_private_address_is_not_read() -> None:
    dispatch = RemoteDispatch("http://192.0.2.1:8000", "k")
    with pytest.raises(SwellError, match="private network"):
        await dispatch.fetch("http://localhost:1/a.png")
    await dispatch.close()


@pytest.mark.parametrize("told", [True, False])
async def test_a_file_for_the_disk_comes_part_by_part_whatever_its_size(told: bool) -> None:
    data = b"x" * 3_000_000

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        if told:
            writer.write(reply(data))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + data)
            writer.close()

    async with a_server(answer) as (client, _):
        dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}", "k", own_limit_bytes=64)
        async with dispatch.open(SIGNED) as incoming:
            assert incoming.size_bytes == (len(data) if told else None)
            parts = [part async for part in incoming.parts]
        assert b"".join(parts) == data
        assert len(parts) > 1
        await dispatch.close()


@pytest.mark.parametrize("status", [200, 302, 404, 503, None])
async def test_a_file_that_goes_to_the_disk_fails_like_any_other(status: int | None) -> None:
    async def refuse(request: bytes, writer: asyncio.StreamWriter) -> None:
        if status == 200:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort")
            writer.close()
        elif status is None:
            writer.close()
        else:
            writer.write(reply(b"", status, more=f"location: {SIGNED}\r\n"))

    kinds = {302: InvalidRequest, 404: NotFound}
    async with a_server(refuse) as (client, _):
        dispatch = RemoteDispatch(f"http://127.0.0.1:{client._port}", "k")
        with pytest.raises(kinds.get(status or 0, Unavailable)) as caught:
            async with dispatch.open(SIGNED) as incoming:
                [part async for part in incoming.parts]
        assert "opens" not in caught.value.detail
        await dispatch.close()


@pytest.mark.parametrize(
    "url",
    ["http://localhost:1/a", "http://127.0.0.1:1/a", "http://[::1]:1/a", "ftp://a/b", "file:///a"],
)
async def test_a_private_address_is_not_read_to_the_disk_either(url: str) -> None:
    dispatch = RemoteDispatch("http://192.0.2.1:8000", "k")
    with pytest.raises(InvalidRequest, match=r"private network|http or https"):
        async with dispatch.open(url):
            pass
    await dispatch.close()
