"""What a large body, or a hostile card, costs the loop that everybody waits for."""

import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from api_harness import a_world

from swell.core.card_limits import MAX_CARD_BYTES
from swell.server.request import MAX_VALUES

pytestmark = pytest.mark.slow

T = TypeVar("T")

#: In CPU times of counting to a million: many times what a request takes, and a fraction of what
#: one took before there were limits.
MOST_COUNTS = 13

BODY_BYTES = 9_500_000

CARD = {
    "name": "demo/picky",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "steps": {"type": "integer"},
            "kind": {"enum": ["oil", "ink"]},
            "words": {"type": "string", "pattern": "^(a|aa)+$"},
        },
        "additionalProperties": False,
    },
}
ANYTHING = {"name": "demo/any", "version": "1", "input_schema": {}}


async def soon(ask: Callable[[int], Awaitable[T]]) -> T:
    """Return the answer to a try that held the loop no longer than it may.

    A processor that another process shares is slower for a while, so that there are several tries.
    """
    took = []
    for number in range(4):
        begun_s = time.process_time()
        sum(each for each in range(1_000_000))
        counted_s = time.process_time()
        answer = await ask(number)
        took.append((time.process_time() - counted_s) / (counted_s - begun_s))
        if took[-1] < MOST_COUNTS:
            return answer
    raise AssertionError(f"it took as long as counting to so many millions: {took}")


def fields(n: int) -> bytes:
    return b",".join(b'"%d":1' % number for number in range(n))


def hostile() -> Iterator[tuple[str, bytes]]:
    text = b"x" * BODY_BYTES
    # As many as are read, and as many as a body has room for.
    for given in (fields(MAX_VALUES - 10), fields(850_000)):
        yield "/v1/tasks", b'{"model":"demo/picky","input":{%s}}' % given
        yield "/v1/tasks", b'{"model":"demo/any","input":{%s}}' % given
        yield "/v1/tasks/batch", b'{"tasks":[{"model":"demo/picky","input":{%s}}]}' % given
        yield "/v1/estimate", b'{"model":"demo/picky","input":{%s}}' % given
        yield "/fal/queue/demo/picky", b"{%s}" % given
        yield "/replicate/v1/predictions", b'{"version":"demo/picky","input":{%s}}' % given
        yield "/openai/v1/images/generations", b'{"prompt":"a",%s}' % given
    for n in (MAX_VALUES - 10, BODY_BYTES // 2):
        yield "/v1/tasks", b'{"model":"demo/picky","input":{"steps":[%s1]}}' % (b"1," * n)
        yield "/v1/tasks", b'{"model":"demo/any","input":{"a":[%s1]}}' % (b'"",' * (n // 2))
    for name in (b"steps", b"kind", b"words", b"other"):
        yield "/v1/tasks", b'{"model":"demo/picky","input":{"%s":"%s"}}' % (name, text)
    yield "/v1/tasks", b'{"model":"demo/picky","input":{"%s":1}}' % text
    yield "/v1/tasks", b'{"model":"demo/picky","input":{},"%s":1}' % text
    yield "/v1/tasks", b'{"model":"demo/any","input":%s}' % (b"[" * BODY_BYTES)
    yield "/v1/tasks", text


async def test_no_large_body_of_a_client_holds_the_loop() -> None:
    async with a_world(facades=("fal", "openai", "replicate")) as world:
        await world.register(CARD, ANYTHING)
        for path, body in hostile():

            async def ask(number: int, path: str = path, body: bytes = body) -> None:
                key = f"{path} {hash(body)} {number}"
                headers = {"content-type": "application/json", "idempotency-key": key}
                await world.anna("POST", path, body, headers=headers, chunk_bytes=65_536)

            await soon(ask)


@pytest.mark.parametrize("path", ["/worker/v1/register", "/worker/v1/report"])
async def test_no_large_body_of_a_worker_holds_the_loop(path: str) -> None:
    models = b'{"name":"w","models":[{"name":"demo/bad","version":"1","input_schema":{%s}}]}'
    progress = b'{"worker_id":"w","progress":[{"task_id":"a","attempt":1,"token":"t","place":1,'
    progress += b'"kind":"progress","data":{%s}}]}'
    body = (models if path.endswith("register") else progress) % fields(850_000)
    async with a_world() as world:
        answer = await soon(lambda _: world.worker("POST", path, body, chunk_bytes=65_536))
        assert answer.status == 413


@pytest.mark.parametrize("text", ["[" * 60_000, "[a](/" * 12_000, "**a " * 15_000, "`" * 60_000])
async def test_a_hostile_card_is_shown_soon(text: str) -> None:
    names = {f"field_{number}": {"description": text[:20]} for number in range(1900)}
    card = {**ANYTHING, "description": text, "input_schema": {"properties": names}}
    async with a_world() as world:
        await world.register(card)
        for path in ("/llms.txt", "/v1/models/demo/any", "/v1/models"):
            answer = await soon(lambda _, path=path: world.anna("GET", path))  # type: ignore[misc]
            assert answer.status == 200


async def test_a_card_with_as_many_patterns_as_fit_is_refused_soon() -> None:
    pattern = "(\\w{1,100}){1,9}"
    names = {f"p{n}": {"pattern": pattern} for n in range(MAX_CARD_BYTES // 50)}
    body = {"name": "w", "models": [{**CARD, "input_schema": {"properties": names}}]}
    async with a_world() as world:
        answer = await soon(lambda _: world.worker("POST", "/worker/v1/register", body))
        assert answer.status == 422
