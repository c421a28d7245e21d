"""Bodies with more values than may be decoded at once are refused, and long strings are not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, World, a_world

from swell.api.call import MAX_VALUES, MAX_WORKER_VALUES, Turns, count_values
from swell.errors import TooLarge, TooManyRequests

ANYTHING = {"name": "demo/any", "version": "1", "input_schema": {}}
PICKY = {
    "name": "demo/picky",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "steps": {"type": "integer"},
            "kind": {"enum": ["oil", "ink"]},
            "text": {"type": "string"},
        },
        "additionalProperties": False,
    },
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(facades=("fal", "openai", "replicate", "libretranslate")) as world:
        await world.register(UPPER, ANYTHING, PICKY)
        yield world


def task(model: str, given: bytes) -> bytes:
    return b'{"model":"%s","input":%s}' % (model.encode(), given)


def fields(n: int) -> bytes:
    return b"{" + b",".join(b'"%d":1' % number for number in range(n)) + b"}"


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("1", 0),
        ("{}", 1),
        ('{"a":1,"b":[2,3]}', 4),
        ("[[[]]]", 3),
    ],
)
def test_each_field_and_each_item_counts_as_a_value(text: str, n: int) -> None:
    assert count_values(text.encode()) == n


@pytest.mark.parametrize("part", [",", "[{", '\\",', "\\\\,", ",\\\\\\\\"])
def test_what_stands_in_a_string_counts_as_no_value(part: str) -> None:
    text = f'{{"a":"{part * (MAX_VALUES + 1)}","b":[1,2]}}'
    assert msgspec.json.decode(text)["b"] == [1, 2]
    assert count_values(text.encode()) == 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/tasks", b'{"model":"demo/any","input":%s}'),
        ("/v1/tasks/batch", b'{"tasks":[{"model":"demo/any","input":%s}]}'),
        ("/v1/estimate", b'{"model":"demo/any","input":%s}'),
        ("/fal/queue/demo/any", b'{"a":%s}'),
        ("/fal/run/demo/any", b'{"a":%s}'),
        ("/openai/v1/images/generations", b'{"model":"demo/any","prompt":"a","b":%s}'),
        ("/openai/v1/images/edits", b'{"model":"demo/any","prompt":"a","b":%s}'),
        ("/replicate/v1/predictions", b'{"version":"demo/any","input":%s}'),
        ("/libretranslate/translate", b'{"q":"a","source":"en","target":"de","b":%s}'),
    ],
)
async def test_a_body_of_too_many_values_is_refused_on_every_path_of_clients(
    world: World, path: str, body: bytes
) -> None:
    headers = {"content-type": "application/json", "idempotency-key": "a"}
    for given in (fields(MAX_VALUES), b"[" + b"1," * MAX_VALUES + b"1]"):
        answer = await world.anna("POST", path, body % given, headers=headers, chunk_bytes=2**16)
        assert answer.status == 413
        assert answer.json["code"] == "too_large"
        assert f"more than {MAX_VALUES:,} values" in answer.json["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/worker/v1/register", b'{"name":"w","models":[{"name":"a/b","version":"1","speed":%s}]}'),
        ("/worker/v1/lease", b'{"worker_id":"w","n":1,"residents":%s}'),
        ("/worker/v1/report", b'{"worker_id":"w","residents":%s}'),
        ("/worker/v1/uploads", b'{"worker_id":"w","keys":%s}'),
    ],
)
async def test_a_body_of_too_many_values_is_refused_on_every_path_of_workers(
    world: World, path: str, body: bytes
) -> None:
    for most, is_refused in ((MAX_VALUES, False), (MAX_WORKER_VALUES, True)):
        answer = await world.worker("POST", path, body % (b"[" + b"1," * most + b"1]"))
        assert (answer.status == 413) is is_refused
        assert (answer.json["code"] == "too_large") is is_refused


async def test_long_strings_are_taken(world: World) -> None:
    for text in (b"x" * 4_000_000, b"one, [two]; " * 400_000):
        answer = await world.anna("POST", "/v1/tasks", task("demo/picky", b'{"text":"%s"}' % text))
        assert answer.status == 202


async def test_a_thousand_tasks_are_taken_at_once(world: World) -> None:
    whole = b",".join([task("demo/any", fields(40))] * 1000)
    answer = await world.anna("POST", "/v1/tasks/batch", b'{"tasks":[%s]}' % whole)
    assert answer.status == 202
    assert len(answer.json["tasks"]) == 1000


async def test_a_small_input_is_told_every_broken_field(world: World) -> None:
    given = {"steps": "many", "kind": "wax", "txt": "a"}
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/picky", "input": given})
    assert answer.status == 422
    assert {each["pointer"] for each in answer.json["errors"]} == {
        "/input/steps",
        "/input/kind",
        "/input/txt",
    }


@pytest.mark.parametrize("given", [fields(45_000), b'{"steps":[' + b"1," * 45_000 + b"1]}"])
async def test_of_a_large_input_that_does_not_fit_only_that_is_told(
    world: World, given: bytes
) -> None:
    answer = await world.anna("POST", "/v1/tasks", task("demo/picky", given))
    assert answer.status == 422
    assert [each["pointer"] for each in answer.json["errors"]] == ["/input"]
    assert "too large to say where" in answer.json["detail"]
    assert "/v1/models/demo/picky" in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (task("demo/picky", b'{"steps":"%s"}' % (b"x" * 1_000_000)), "/input/steps"),
        (task("demo/picky", b'{"kind":"%s"}' % (b"x" * 1_000_000)), "/input/kind"),
        (task("demo/picky", b'{"%s":1}' % (b"x" * 1_000_000)), "/input/" + "x" * 200),
        (b'{"model":"demo/any","input":{},"%s":1}' % (b"x" * 1_000_000), "/" + "x" * 200),
        (b'{"model":"demo/any","input":{},"priority":"%s"}' % (b"x" * 1_000_000), "/priority"),
        (task("demo/" + "x" * 1_000_000, b"{}"), "/model"),
    ],
)
async def test_an_error_repeats_no_long_value_of_a_body(
    world: World, body: bytes, pointer: str
) -> None:
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 422
    assert answer.json["errors"][0]["pointer"] == pointer
    assert len(answer.body) < 5000


@pytest.mark.parametrize("path", ["/fal/queue/demo/any", "/openai/v1/images/generations"])
async def test_a_facade_takes_a_thousand_fields(world: World, path: str) -> None:
    headers = {"content-type": "application/json"}
    answer = await world.anna("POST", path, fields(1001), headers=headers)
    assert answer.status == 413
    assert "at most 1,000" in answer.body.decode()


@pytest.mark.parametrize("piece", ["x" * 75_000, "[" + "1," * 30_000 + "1]"])
async def test_fields_of_a_form_are_together_no_larger_than_a_body(piece: str) -> None:
    async with a_world(facades=("openai",), max_body_bytes=140_000) as world:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        path, texts = "/openai/v1/images/edits", {"prompt": "a", "model": "demo/any"}
        small = await world.anna("POST", path, form({**texts, "a": piece}), headers=headers)
        assert small.status == 404
        large = await world.anna(
            "POST", path, form({**texts, "a": piece, "b": piece}), headers=headers
        )
        assert (large.status, large.json["code"]) == (413, "too_large")


def form(texts: dict[str, str]) -> bytes:
    head = '--b\r\ncontent-disposition: form-data; name="'
    parts = "".join(f'{head}{name}"\r\n\r\n{text}\r\n' for name, text in texts.items())
    picture = f'{head}image"; filename="a.png"\r\ncontent-type: image/png\r\n\r\nx\r\n--b--\r\n'
    return (parts + picture).encode()


async def test_a_schema_of_many_rules_takes_fewer_values(world: World) -> None:
    choices: list[Any] = [{"const": number} for number in range(1000)]
    schema = {"type": "object", "properties": {"a": {"items": {"anyOf": choices}}}}
    await world.register({"name": "demo/choice", "version": "1", "input_schema": schema})
    answer = await world.anna("POST", "/v1/tasks", task("demo/choice", b'{"a":[1,2,3]}'))
    assert answer.status == 202
    many = b'{"a":[' + b"999," * 10_000 + b"1]}"
    answer = await world.anna("POST", "/v1/tasks", task("demo/choice", many))
    assert answer.status == 422
    assert "too large to be checked" in answer.json["detail"]


async def test_large_bodies_of_a_key_take_turns_and_others_go_between() -> None:
    turns = Turns()
    done: list[str] = []

    async def take(key_id: str) -> None:
        await turns.take(key_id, b"x" * 1_000_000)
        done.append(key_id)

    await asyncio.gather(*(take(key_id) for key_id in ("greedy", "greedy", "other")))
    assert done == ["greedy", "other", "greedy"]


async def test_a_refused_body_counts_as_a_turn() -> None:
    turns = Turns()
    done: list[str] = []

    async def take(key_id: str) -> None:
        try:
            await turns.take(key_id, b"," * 1_000_000)
        except TooLarge:
            done.append(key_id)

    await asyncio.gather(*(take(key_id) for key_id in ("greedy", "greedy", "other")))
    assert done == ["greedy", "other", "greedy"]


async def test_only_so_many_large_bodies_of_a_key_wait_for_their_turn() -> None:
    turns, data = Turns(), b"x" * 10_000_000
    waiting = [asyncio.create_task(turns.take("greedy", data)) for _ in range(30)]
    await turns.take("other", data)
    refused = [each for each in waiting if each.done() and each.exception() is not None]
    assert len(refused) == 4
    assert all(isinstance(each.exception(), TooManyRequests) for each in refused)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await turns.take("greedy", data)


async def test_no_large_body_of_a_client_goes_on_at_once_and_all_of_a_worker_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    class Noted(Turns):
        async def take(self, key_id: str, data: bytes) -> None:
            taken.append(key_id)
            await super().take(key_id, data)

    monkeypatch.setattr(world.service, "turns", Noted())
    large = b'{"text":"%s"}' % (b"x" * 70_000)
    await world.anna("POST", "/v1/tasks", task("demo/picky", large))
    assert len(taken) == 1
    await world.anna("POST", "/v1/tasks", task("demo/picky", b'{"text":"a"}'))
    await world.worker("POST", "/worker/v1/report", b'{"worker_id":"%s"}' % (b"x" * 70_000))
    assert len(taken) == 1
