"""Bodies with more values than may be decoded at once are refused, and long strings are not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, World, a_world

from swell.core.errors import InvalidInput, TooLarge, TooManyRequests
from swell.server.body_queue import BodyQueue
from swell.server.request import (
    MAX_KEYLESS_BYTES,
    MAX_VALUES,
    MAX_WORKER_VALUES,
    Call,
    count_values,
)

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
    assert "it is too large to list the broken fields" in answer.json["detail"]
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
    assert "too large to check" in answer.json["detail"]


#: It takes long only where a text has many an `a`, and is counted for all texts.
LARGE_PATTERN = {
    "name": "demo/pattern",
    "version": "1",
    "input_schema": {"properties": {"a": {"pattern": "[ab]*a[ab]{500}c|x"}}},
}


async def test_the_tasks_of_a_batch_share_one_budget_of_checks(world: World) -> None:
    await world.register(LARGE_PATTERN)
    given = task("demo/pattern", b'{"a":"%s"}' % (b"x" * 3000))
    for n, status in ((50, 202), (60, 422)):
        body = b'{"tasks":[%s]}' % b",".join([given] * n)
        answer = await world.anna("POST", "/v1/tasks/batch", body)
        assert answer.status == status
    assert "these inputs are too large to check" in answer.json["detail"]


async def receive() -> dict[str, Any]:
    return {"type": "http.disconnect"}


async def send(message: Any) -> None:
    assert message


async def test_inputs_for_other_models_count_in_the_budget_of_their_request(world: World) -> None:
    await world.register(LARGE_PATTERN)
    cards = world.service.cards
    target = await cards.target("demo/pattern")
    raw = msgspec.Raw(b'{"a":"%s"}' % (b"x" * 12_000))
    call = Call({}, receive, send)
    fits = [cards.takes("demo/pattern", raw, call) for _ in range(20)]
    assert fits == sorted(fits, reverse=True)
    assert 10 <= fits.count(True) < 20
    with pytest.raises(InvalidInput, match="these inputs are too large"):
        cards.check_input(call, target, raw)


async def test_a_batch_lets_other_requests_run_between_its_tasks(world: World) -> None:
    steps = 0

    async def count_steps() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_steps())
    body = b'{"tasks":[%s]}' % b",".join([task("demo/any", b"{}")] * 1000)
    answer = await world.anna("POST", "/v1/tasks/batch", body)
    counting.cancel()
    assert answer.status == 202
    assert steps >= 1000


async def test_an_input_that_breaks_a_schema_that_refers_to_itself_is_refused_whole(
    world: World,
) -> None:
    node = {"$ref": "#/$defs/node"}
    kinds = [
        {"type": "object", "properties": {"op": {"const": op}, "of": node}} for op in ("not", "neg")
    ]
    schema = {
        "$defs": {"node": {"anyOf": [*kinds, {"type": "integer"}]}},
        "properties": {"x": node},
    }
    await world.register({"name": "demo/tree", "version": "1", "input_schema": schema})
    given: Any = "bad"
    for _ in range(60):
        given = {"op": "neg", "of": given}
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/tree", "input": {"x": given}})
    assert answer.status == 422
    assert [each["pointer"] for each in answer.json["errors"]] == ["/input"]
    assert "refers to itself" in answer.json["detail"]


@pytest.mark.parametrize(
    ("prop", "given"),
    [
        ({"pattern": "^.{1,500}$"}, b'"%s"' % (b"x" * 500)),
        ({"pattern": "^[A-Za-z0-9+/=]{1,10000}$"}, b'"%s"' % (b"x" * 10_000)),
        ({"pattern": "^(data:|https?://)"}, b'"data:%s"' % (b"x" * 9_000_000)),
        ({"items": {"type": "number", "minimum": 0}}, b"[" + b"0.5," * 49_000 + b"1]"),
        (
            {"items": {"properties": {f"p{n}": {"type": "integer"} for n in range(35)}}},
            b"[%s]" % b",".join([b'{"p0":1,"p1":1,"p2":1,"p3":1,"p4":1,"p5":1,"p6":1}'] * 1000),
        ),
    ],
)
async def test_a_large_ordinary_input_is_taken(
    world: World, prop: dict[str, Any], given: bytes
) -> None:
    schema = {"type": "object", "properties": {"a": prop}}
    await world.register({"name": "demo/large", "version": "1", "input_schema": schema})
    answer = await world.anna("POST", "/v1/tasks", task("demo/large", b'{"a":%s}' % given))
    assert answer.status == 202, answer.body[:300]


@pytest.mark.parametrize(
    ("prop", "given"),
    [
        ({"pattern": "[ab]*a[ab]{500}c"}, b'"%s"' % (b"ab" * 10_000)),
        ({"items": {"anyOf": [{"const": n} for n in range(95)]}}, b"[" + b"94," * 10_000 + b"1]"),
        ({"items": {"multipleOf": 0.01}}, b"[" + b"1e300," * 10_000 + b"1]"),
        ({"items": {"minimum": 1}}, b"[" + b"9" * 200 + b"]"),
    ],
)
async def test_an_input_that_takes_long_to_check_is_refused(
    world: World, prop: dict[str, Any], given: bytes
) -> None:
    schema = {"type": "object", "properties": {"a": prop}}
    await world.register({"name": "demo/slow", "version": "1", "input_schema": schema})
    answer = await world.anna("POST", "/v1/tasks", task("demo/slow", b'{"a":%s}' % given))
    assert answer.status == 422
    assert answer.json["errors"][0]["code"] == "too_large"


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_a_body_without_a_key_in_the_header_is_short_and_takes_no_turn(
    world: World, kind: str
) -> None:
    path, headers = "/libretranslate/translate", {"content-type": kind}
    large = b'{"q":"%s"}' % (b"x" * MAX_KEYLESS_BYTES)
    answer = await world.stranger("POST", path, large, headers=headers, chunk_bytes=2**16)
    assert answer.status == 413
    assert "send a key" in answer.json["error"]
    assert len(world.service.body_queue) == 0
    answer = await world.anna("POST", path, large, headers=headers, chunk_bytes=2**16)
    assert answer.status != 413


async def test_a_key_in_the_header_is_looked_up_before_the_body_is_read(world: World) -> None:
    headers = {"content-type": "application/json", "authorization": "Bearer sk_wrong"}
    answer = await world.stranger("POST", "/libretranslate/translate", b"{", headers=headers)
    assert answer.status == 403


async def test_a_ballot_is_short(world: World) -> None:
    answer = await world.stranger("POST", "/v1/comparisons/a/ballots", b"x" * 20_000)
    assert answer.status == 413


async def test_large_bodies_of_a_key_take_turns_and_others_go_between() -> None:
    queue = BodyQueue()
    done: list[str] = []

    async def take(key_id: str) -> None:
        await queue.take(key_id, b"x" * 1_000_000)
        done.append(key_id)

    await asyncio.gather(*(take(key_id) for key_id in ("greedy", "greedy", "other")))
    assert done == ["greedy", "other", "greedy"]


async def test_a_refused_body_counts_as_a_turn() -> None:
    queue = BodyQueue()
    done: list[str] = []

    async def take(key_id: str) -> None:
        try:
            await queue.take(key_id, b"," * 1_000_000)
        except TooLarge:
            done.append(key_id)

    await asyncio.gather(*(take(key_id) for key_id in ("greedy", "greedy", "other")))
    assert done == ["greedy", "other", "greedy"]


async def test_the_pause_of_a_key_does_not_hang_on_the_work_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0

    def work() -> None:
        nonlocal now_s
        now_s += 10

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: now_s)
    queue, data = BodyQueue(), b"x" * 300_000
    loop.call_soon(work)
    await queue.take("greedy", data)
    now_s += 0.1
    following = asyncio.create_task(queue.take("greedy", data))
    for _ in range(10):
        await asyncio.sleep(0)
    assert following.done()


async def test_a_key_without_waiting_bodies_and_pause_is_forgotten() -> None:
    queue = BodyQueue()
    for key_id in ("a", "a", "b"):
        await queue.take(key_id, b"x" * 300_000)
    assert len(queue) > 0
    for _ in range(1000):
        if not len(queue):
            break
        await asyncio.sleep(0.001)
    assert len(queue) == 0


async def test_only_so_many_large_bodies_of_a_key_wait_for_their_turn() -> None:
    queue, data = BodyQueue(), b"x" * 10_000_000
    waiting = [asyncio.create_task(queue.take("greedy", data)) for _ in range(30)]
    await queue.take("other", data)
    refused = [each for each in waiting if each.done() and each.exception() is not None]
    assert len(refused) == 4
    assert all(isinstance(each.exception(), TooManyRequests) for each in refused)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await queue.take("greedy", data)


async def test_no_large_body_of_a_client_goes_on_at_once_and_all_of_a_worker_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    async def take(queue: BodyQueue, key_id: str, data: bytes) -> None:
        taken.append(key_id)

    monkeypatch.setattr(BodyQueue, "take", take)
    large = b'{"text":"%s"}' % (b"x" * 300_000)
    await world.anna("POST", "/v1/tasks", task("demo/picky", large))
    assert len(taken) == 1
    await world.anna("POST", "/v1/tasks", task("demo/picky", b'{"text":"a"}'))
    await world.worker("POST", "/worker/v1/report", b'{"worker_id":"%s"}' % (b"x" * 300_000))
    assert len(taken) == 1
