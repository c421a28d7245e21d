"""What answers tell browsers, which pages may ask, and by which name."""

import re
from collections.abc import AsyncIterator

import pytest
from api_harness import World, a_world
from hypothesis import given
from hypothesis import strategies as st

from swell.core.errors import InvalidRequest
from swell.server.headers import Hosts, Origins, host_name
from swell.server.routes import ROUTES


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


EVERY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.path}")
@pytest.mark.parametrize("who", ["admin", "stranger"])
async def test_every_answer_has_them(world: World, route: object, who: str) -> None:
    path = re.sub(r"\{[^}]*\}", "x", route.path)  # type: ignore[attr-defined]
    answer = await getattr(world, who)(route.method, path, b"")  # type: ignore[attr-defined]
    assert EVERY.items() <= answer.headers.items()
    assert "camera=()" in answer.headers["permissions-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "script-src" not in answer.headers["content-security-policy"]
    # A sheet of votes is a file, and has a permit in place of a key.
    is_for_all = path in ("/openapi.json", "/v1/comparisons/x/ballots")
    assert ("access-control-allow-origin" in answer.headers) == is_for_all


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PATCH", "/v1/tasks")])
async def test_so_have_answers_to_what_is_not_there(world: World, method: str, path: str) -> None:
    answer = await world.stranger(method, path)
    assert answer.status in (404, 405)
    assert EVERY.items() <= answer.headers.items()


async def test_each_header_comes_once(world: World) -> None:
    for path in ("/", "/docs", "/health/live", "/v1/tasks", "/metrics"):
        sent: list[tuple[bytes, bytes]] = []

        async def send(message: dict[str, object], sent: list[tuple[bytes, bytes]] = sent) -> None:
            sent += message.get("headers", ())  # type: ignore[arg-type]

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b""}

        await world.app(world.admin._scope("GET", path, None, None), receive, send)  # type: ignore[arg-type]
        names = [name for name, _ in sent]
        assert len(names) == len(set(names)), path


async def test_no_page_has_a_script(world: World) -> None:
    for path in ("/", "/docs", "/docs/errors"):
        page = (await world.stranger("GET", path)).body.decode()
        assert "<script" not in page
        assert not re.search(r"<[^>]+\son\w+=", page)


async def test_streams_have_them_too(world: World) -> None:
    await world.register()
    task = await world.create()
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        await stream.event()
        assert EVERY.items() <= stream.headers.items()


# ---- pages elsewhere

SHOP = "https://shop.example"


@pytest.fixture
async def open_world() -> AsyncIterator[World]:
    async with a_world(cors_origins=(SHOP,)) as world:
        yield world


async def test_no_page_elsewhere_may_ask_unless_it_was_allowed(world: World) -> None:
    answer = await world.anna("GET", "/v1/tasks", headers={"Origin": SHOP})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    assert (await world.stranger("OPTIONS", "/v1/tasks", headers=headers)).status == 405


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/none", "/nothing"])
async def test_an_allowed_page_may_read_answers_and_errors(open_world: World, path: str) -> None:
    answer = await open_world.anna("GET", path, headers={"Origin": SHOP})
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "retry-after" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://shop.example", SHOP + ".evil.example", "null"]
)
async def test_others_may_not(open_world: World, origin: str) -> None:
    answer = await open_world.anna("GET", "/v1/tasks", headers={"Origin": origin})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = await open_world.stranger("OPTIONS", "/v1/tasks", headers=headers)
    assert answer.status == 405
    assert "access-control-allow-origin" not in answer.headers


async def test_a_browser_that_asks_first_is_told_what_it_may_send(open_world: World) -> None:
    headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    answer = await open_world.stranger("OPTIONS", "/v1/tasks", headers=headers)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]


async def test_streams_may_be_read_too(open_world: World) -> None:
    await open_world.register()
    task = await open_world.create()
    path, origin = f"/v1/tasks/{task['id']}/events", {"Origin": SHOP}
    async with open_world.anna.stream(path, origin) as stream:
        await stream.event()
        assert stream.headers["access-control-allow-origin"] == SHOP


def test_a_star_stands_for_all_pages() -> None:
    found = dict(Origins(["*"]).headers(b"https://any.example"))
    assert found[b"access-control-allow-origin"] == b"*"


# ---- the name of the service


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("swell.example", 200),
        ("SWELL.example:8443", 200),
        ("swell.example.", 200),
        ("api.example", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("localhost", 200),
        ("evil.example", 400),
        ("swell.example.evil.example", 400),
        ("swell.example@evil.example", 400),
        ("evil.example#swell.example", 400),
        ("swell.example/x", 400),
        ("swell.example:port", 400),
        ("", 400),
    ],
)
async def test_a_request_by_another_name_is_refused(host: str, status: int) -> None:
    async with a_world(public_url="https://swell.example/base", hosts=("api.example",)) as world:
        answer = await world.anna("GET", "/v1/models", headers={"Host": host})
        assert answer.status == status, answer.body
        if status == 400:
            assert "server.hosts" in answer.json["detail"]
        probe = await world.stranger("GET", "/health/live", headers={"Host": host})
        assert probe.status == 200


async def test_any_name_will_do_where_none_was_set(world: World) -> None:
    assert (await world.anna("GET", "/v1/models", headers={"Host": "any.example"})).status == 200


@given(st.binary(max_size=60))
def test_no_host_header_breaks_the_check(host: bytes) -> None:
    hosts = Hosts(["swell.example"])
    try:
        hosts.check(host)
    except InvalidRequest:
        return
    name = host_name(host.decode("latin-1"))
    assert name is not None
    assert name in ("swell.example", "localhost") or re.fullmatch(r"[0-9a-f:.%]+", name)
