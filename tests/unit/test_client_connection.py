"""The client's way to a server: what it repeats, whom it tells the key, how it reads streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from msgspec import convert

from loopback import listening
from manual_clock import time_skipper
from swell.client import Task, connection
from swell.client.access import Access
from swell.client.asynchronous import AsyncClient
from swell.client.errors import NoServer, Refused, Unreachable
from swell.core.task import new_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TASK = {"id": "t1", "model": "demo/upper", "state": "queued"}


class Server:
    """Answers in turn what it was told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.answers: list[Handler] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.asked.append(request)
        return await self.answers.pop(0)(request)

    def says(self, status: int, body: object = TASK, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def say(request: web.Request) -> web.StreamResponse:
            return web.json_response(body, status=status, headers=named)

        self.answers.append(say)

    def breaks_off(self) -> None:
        async def hang_up(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.close()
            return web.Response()

        self.answers.append(hang_up)

    def streams(self, *lines: str) -> None:
        async def stream(request: web.Request) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            for line in lines:
                await answer.write(line.encode())
            return answer

        self.answers.append(stream)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", served.answer)
    async with listening(app) as served.url:
        yield served


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, "a-key", retry_s=20) as opened:
        yield opened


@pytest.mark.slow
async def test_a_busy_server_is_asked_again_under_the_same_idempotency_key(
    server: Server, client: AsyncClient
) -> None:
    server.says(503, {"title": "busy"})
    server.says(429, {"title": "too fast"}, Retry_After="1")
    server.breaks_off()
    server.says(202)
    began_s = asyncio.get_running_loop().time()
    assert (await client.submit("demo/upper", {"text": "a"})).id == "t1"
    assert len({request.headers["Idempotency-Key"] for request in server.asked}) == 1
    assert len(server.asked) == 4
    assert asyncio.get_running_loop().time() - began_s >= 1.0


async def test_files_of_tasks_of_one_moment_are_saved_side_by_side(
    server: Server, client: AsyncClient, tmp_path: Path
) -> None:
    now = datetime(2026, 11, 27, tzinfo=UTC)
    file = {"url": f"{server.url}/v1/artifacts/a.png", "content_type": "image/png", "bytes": 3}
    saved = []
    for number in range(2):
        task = convert({**TASK, "id": new_id(now), "artifacts": [file]}, Task)
        server.answers.append(says_bytes(b"%03d" % number))
        saved += await client.save(task, tmp_path)
        assert saved[-1].name == f"{task.id}-1.png"
    assert [path.read_bytes() for path in saved] == [b"000", b"001"]


def says_bytes(data: bytes) -> Handler:
    async def say(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data)

    return say


async def test_a_file_may_take_as_long_as_something_of_it_comes(server: Server) -> None:
    skip = time_skipper()

    async def slowly(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(70):
            await answer.write(b"a" * 1000)
            await asyncio.sleep(0.001)
            skip(1.0)
        return answer

    server.answers.append(slowly)
    async with AsyncClient(server.url, "a-key", timeout_s=60.0, retry_s=0) as client:
        assert len(await client._connection.download("/v1/artifacts/a.bin")) == 70_000


@pytest.mark.slow
async def test_a_file_of_which_nothing_comes_is_given_up(server: Server) -> None:
    given_up = asyncio.Event()

    async def stop(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"a")
        await given_up.wait()
        return answer

    server.answers.append(stop)
    async with AsyncClient(server.url, "a-key", timeout_s=0.2, retry_s=0) as client:
        with pytest.raises(Unreachable):
            await client._connection.download("/v1/artifacts/a.bin")
    given_up.set()


@pytest.mark.slow
async def test_the_larger_a_file_is_the_longer_it_may_take_to_store(server: Server) -> None:
    given_up = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        await given_up.wait()
        return web.Response()

    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.json_response({"url": "/v1/artifacts/a"})

    server.answers += [never, late]
    async with AsyncClient(server.url, "a-key", timeout_s=0.2, retry_s=0) as client:
        with pytest.raises(Unreachable):
            await client._connection.upload(b"a", "text/plain", "a.txt")
        given_up.set()
        # Half a minute more than a file of one byte.
        assert await client._connection.upload(b"a" * 1_000_000, "text/plain", "a.txt")


@pytest.mark.parametrize("code", ["no_worker", "would_expire"])
async def test_what_no_waiting_helps_against_is_told_at_once(
    server: Server, client: AsyncClient, code: str
) -> None:
    server.says(503, {"code": code, "title": "no", "detail": "because"}, Retry_After="10")
    with pytest.raises(Refused, match="because") as refused:
        await client.submit("demo/upper", {})
    assert (refused.value.reason, refused.value.retry_after_s) == (code, 10.0)
    assert len(server.asked) == 1


async def test_a_wait_longer_than_ones_patience_is_not_begun(
    server: Server, client: AsyncClient
) -> None:
    server.says(503, {"title": "busy"}, Retry_After="3600")
    with pytest.raises(Refused):
        await client.submit("demo/upper", {})
    assert len(server.asked) == 1


async def test_an_answer_that_is_no_json_is_told_with_its_status(
    server: Server, client: AsyncClient
) -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="<html>nothing here</html>")

    server.answers.append(page)
    with pytest.raises(Refused, match="HTTP 404"):
        await client.get("t1")


async def test_the_key_goes_to_the_server_and_to_nobody_else(
    server: Server, client: AsyncClient
) -> None:
    server.says(200, {})
    await client.read(f"{server.url}/v1/artifacts/a")
    assert server.asked[0].headers["Authorization"] == "Bearer a-key"
    server.says(200, {})
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    await client.read(f"{elsewhere}/bucket/a?signature=s")
    assert "Authorization" not in server.asked[1].headers


@pytest.mark.slow
async def test_a_broken_stream_is_taken_up_after_its_last_event(
    server: Server, client: AsyncClient
) -> None:
    server.streams('id: 5\nevent: progress\ndata: {"step":1}\n\n: still here\n\n', "id: 6\nev")
    server.says(503, {"title": "restarting"})
    server.streams('id: 9\nevent: succeeded\ndata: {"id":"t1"}\n\n')
    events = [event async for event in client.events("t1")]
    assert [event.kind for event in events] == ["progress", "succeeded"]
    assert [request.headers.get("Last-Event-ID") for request in server.asked] == [None, "5", "5"]


async def test_a_stream_that_has_told_something_outlives_a_restart(
    server: Server, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PAUSE_S", 0.0001)
    server.streams('id: 5\nevent: progress\ndata: {"step":1}\n\n')
    for _ in range(6):
        server.breaks_off()
        server.says(503, {"title": "starting"})
    server.streams('id: 9\nevent: succeeded\ndata: {"id":"t1"}\n\n')
    events = [event async for event in client.events("t1")]
    assert [event.kind for event in events] == ["progress", "succeeded"]


async def test_a_stream_of_a_server_that_never_told_anything_is_given_up(
    server: Server, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PAUSE_S", 0.0001)
    for _ in range(9):
        server.says(503, {"title": "starting"})
    with pytest.raises(Refused):
        [event async for event in client.events("t1")]
    assert len(server.asked) == 5


async def test_an_end_with_a_large_output_comes_whole(server: Server, client: AsyncClient) -> None:
    output = "größer " * 400_000
    end = json.dumps({"id": "t1", "output": output}, ensure_ascii=False)
    server.streams(f"id: 5\nevent: progress\ndata: 7\n\nid: 9\nevent: succeeded\ndata: {end}\n\n")
    events = [event async for event in client.events("t1")]
    assert [event.kind for event in events] == ["progress", "succeeded"]
    assert events[1].data["output"] == output


async def test_a_stream_of_a_task_that_is_not_there_is_a_refusal(
    server: Server, client: AsyncClient
) -> None:
    server.says(404, {"title": "Not found", "code": "not_found"})
    with pytest.raises(Refused) as refused:
        [event async for event in client.events("t1")]
    assert refused.value.http_status == 404


@pytest.mark.slow
async def test_a_server_that_is_not_there_is_given_up_in_the_end() -> None:
    async with AsyncClient("http://127.0.0.1:9", "a-key", retry_s=0.5) as client:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.get("t1")


async def test_members_that_are_not_given_are_not_sent(server: Server, client: AsyncClient) -> None:
    server.says(202)
    await client.submit("demo/upper", {"text": "a"}, count=None, user="anna", wait_s=5)
    assert await server.asked[0].json() == {
        "model": "demo/upper",
        "input": {"text": "a"},
        "user": "anna",
    }
    assert server.asked[0].headers["Prefer"] == "wait=5"


def test_without_a_server_it_is_said_how_to_name_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    for name in ("SWELL_URL", "SWELL_KEY", "SWELL_DATA_DIR", "SWELL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoServer, match="SWELL_URL"):
        AsyncClient()


def test_a_known_server_needs_no_settings() -> None:
    assert AsyncClient("http://x/", "k")._connection.access == Access(url="http://x", key="k")
