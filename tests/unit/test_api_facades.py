"""What all façades share: paths, forms, inputs, links, retries, and which of them are on."""

import base64
import itertools
import json
from collections.abc import AsyncIterator

import msgspec
import pytest
from api_harness import Client, World, a_world
from hypothesis import given
from hypothesis import strategies as st

from swell.compat.path_rewrite import path_meant
from swell.compat.request_inputs import data_uri, is_data_uri, with_uploads
from swell.compat.retry_detection import find_first_attempt, is_retry
from swell.core.errors import InvalidInput, InvalidRequest
from swell.core.task import Task
from swell.server.multipart_forms import read_parts
from swell.server.request import Call
from swell.server.tasks.admission import check
from swell.server.tasks.submit import accept, follow
from swell.server.tasks.task_schemas import TaskRequest


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        await world.register()
        yield world


async def a_call(world: World, client: Client, headers: dict[str, str] | None = None) -> Call:
    """Return a request of a client, as a handler gets it."""
    scope = client._scope("POST", "/", None, headers)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: object) -> None:
        raise AssertionError("nothing is to be answered")

    call = Call(scope, receive, send)
    call.key = call.caller = await world.service.keys.find(call.headers.get(b"authorization"))
    return call


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/replicate/v1/models", "/replicate/v1/models"),
        ("/replicate/v1/v1/models", "/replicate/v1/models"),
        ("/replicate/models", "/replicate/v1/models"),
        ("/openai/images/generations", "/openai/v1/images/generations"),
        ("/fal/run/a/b", "/fal/run/a/b"),
        ("/v1/v1/tasks", "/v1/v1/tasks"),
    ],
)
def test_a_base_url_with_v1_twice_or_not_at_all_is_understood(asked: str, meant: str) -> None:
    assert path_meant(asked) == meant


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Token", "Key"])
async def test_a_key_may_stand_behind_the_word_that_its_client_writes(
    world: World, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} {world.keys['anna']}"}
    assert (await world.stranger("GET", "/v1/tasks", headers=headers)).status == 200


async def test_other_words_before_a_key_are_refused(world: World) -> None:
    headers = {"Authorization": f"Basic {world.keys['anna']}"}
    assert (await world.stranger("GET", "/v1/tasks", headers=headers)).status == 401


async def _parts(pieces: list[bytes]) -> list[tuple[str, str | None, str, bytes]]:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    found = []
    async for part in read_parts(b"multipart/form-data; boundary=B", chunks()):
        data = b"".join([piece async for piece in part.data])
        found.append((part.name, part.filename, part.media_type, data))
    return found


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na fox\r\n'
    b'--B\r\nContent-Disposition: form-data; name="image[]"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n\x00\r\n-\r\n"
    b'--B\r\nContent-Disposition: form-data; name="image[]"; filename="b.png"\r\n'
    b"Content-Type: image/png\r\n\r\n\r\n--B--\r\n"
)


@given(st.lists(st.integers(0, len(FORM)), max_size=8))
async def test_all_parts_of_a_form_come_in_order_however_it_is_cut(cuts: list[int]) -> None:
    at = sorted({0, len(FORM), *cuts})
    pieces = [FORM[a:b] for a, b in itertools.pairwise(at)]
    assert await _parts(pieces) == [
        ("prompt", None, "text/plain", b"a fox"),
        ("image[]", "a.png", "image/png", b"\x00\r\n-"),
        ("image[]", "b.png", "image/png", b""),
    ]


@pytest.mark.parametrize("at", [30, 70, len(FORM) - 8])
async def test_a_form_that_ends_early_is_refused(at: int) -> None:
    with pytest.raises(InvalidRequest, match="ends before"):
        await _parts([FORM[:at]])


async def test_a_field_of_a_form_is_read_as_text_up_to_a_length() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield FORM

    parts = read_parts(b"multipart/form-data; boundary=B", chunks())
    first = await anext(parts)
    with pytest.raises(InvalidRequest, match="more than 3 bytes"):
        await first.text(3)
    async for part in read_parts(b"multipart/form-data; boundary=B", chunks()):
        assert await part.text() == "a fox"
        break


async def test_a_long_data_uri_becomes_an_upload_and_a_short_one_stays(world: World) -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(5000)
    short = data_uri(b"abc", "text/plain")
    call = await a_call(world, world.anna)
    value = {"image": data_uri(data, "image/png"), "all": [short, 1, None], "prompt": "data: a fox"}
    made = await with_uploads(world.service, call, value)
    assert made["all"] == [short, 1, None]
    assert made["prompt"] == "data: a fox"
    answer = await world.stranger("GET", made["image"].removeprefix("http://swell.test"))
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    assert answer.body == data


async def test_a_data_uri_that_is_no_base64_names_its_field(world: World) -> None:
    call = await a_call(world, world.anna)
    with pytest.raises(InvalidInput, match=r"/input/images/0: the data URI is not valid base64"):
        await with_uploads(world.service, call, {"images": ["data:image/png;base64," + "*" * 5000]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (data_uri(b"x", "image/png"), True),
        ("data:;base64,eA==", True),
        ("data:text/plain;charset=utf-8;base64,eA==", True),
        ("data:text/plain,x", False),
        ("data: shows a fox", False),
        ("https://a.example/x.png", False),
    ],
)
def test_what_a_data_uri_is(text: str, expected: bool) -> None:
    assert is_data_uri(text) is expected
    if expected:
        assert base64.b64decode(text.partition(",")[2]) == b"x"


async def _ask(world: World, client: Client, text: str) -> Task:
    request = TaskRequest(model="demo/upper", input=_raw(text))
    service, call = world.service, await a_call(world, client)
    [accepted] = await accept(service, call, [await check(service, call, request)])
    return await follow(service, call, accepted, 0.0)


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(json.dumps({"text": text}).encode())


async def test_a_counted_retry_finds_the_task_of_its_first_try_and_no_other(world: World) -> None:
    task = await _ask(world, world.anna, "hello")
    await _ask(world, world.anna, "other")
    call = await a_call(world, world.anna, {"X-Stainless-Retry-Count": "1"})
    assert is_retry(call)
    request = TaskRequest(model="demo/upper", input=_raw("hello"))
    found = await find_first_attempt(world.service, call, await check(world.service, call, request))
    assert found is not None
    assert found.id == task.id
    # Not for another key, nor once it is too long ago, nor where it went wrong.
    berta = await a_call(world, world.berta)
    assert not is_retry(berta)
    new = await check(world.service, berta, request)
    assert await find_first_attempt(world.service, berta, new) is None
    await world.anna("POST", f"/v1/tasks/{task.id}/cancel")
    assert (
        await find_first_attempt(world.service, call, await check(world.service, call, request))
        is None
    )


async def test_a_retry_after_a_quarter_of_an_hour_is_a_new_request(world: World) -> None:
    await _ask(world, world.anna, "hello")
    call = await a_call(world, world.anna, {"X-Stainless-Retry-Count": "2"})
    new = await check(world.service, call, TaskRequest(model="demo/upper", input=_raw("hello")))
    world.clock.advance(901)
    assert await find_first_attempt(world.service, call, new) is None


async def test_a_facade_that_is_off_is_not_there() -> None:
    async with a_world(facades=()) as world:
        answer = await world.anna("GET", "/replicate/v1/account")
        assert answer.status == 404
        paths = (await world.stranger("GET", "/openapi.json")).json["paths"]
        assert not any(path.startswith("/replicate") for path in paths)
