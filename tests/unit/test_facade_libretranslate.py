"""LibreTranslate's API over the service in process; tests/clients has its own client."""

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from api_harness import World
from facade_harness import Asking, Painter, a_studio, form
from hypothesis import given
from hypothesis import strategies as st

from swell.compat.libretranslate import language_of, pieces

TRANSLATE = "/libretranslate/translate"
FORM = {"content-type": "application/x-www-form-urlencoded"}
BUILT_IN = {
    "name": "swell/translate",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": 20},
            "source": {"type": "string", "pattern": "^(auto|[a-z]{2,3})$"},
        },
        "required": ["text"],
    },
}
ANY = {
    "name": "our/any",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "source": {"enum": ["auto", "en", "de"]},
            "target": {"enum": ["en", "de"]},
        },
    },
}

Studio = tuple[World, Painter]


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    async with a_studio([BUILT_IN]) as found:
        yield found


def body_of(world: World, **fields: Any) -> dict[str, Any]:
    return {"q": "hola", "source": "auto", "target": "en", "api_key": world.keys["anna"], **fields}


async def say(painter: Painter, text: str, language: str = "es", known: float = 1.0) -> Any:
    lease = await painter.lease()
    output = {"text": text, "language": language, "by": "glossary", "known": known}
    await painter.succeed(lease, output=output)
    return lease["input"]


@given(st.text(alphabet="ab .\n!é", max_size=60), st.integers(1, 12))
def test_a_long_text_is_taken_apart_and_nothing_is_lost(text: str, longest: int) -> None:
    parts = pieces(text, longest)
    assert "".join(part + space for part, space in parts) == text
    assert all(len(part) <= longest for part, _ in parts)


def test_it_is_taken_apart_at_the_ends_of_sentences() -> None:
    assert pieces("One two. Three four. Five", 21) == [("One two. Three four.", " "), ("Five", "")]


@pytest.mark.parametrize("text", ["a" + " " * 99_998 + "b", "ab " * 33_333, " \t" * 50_000])
def test_no_text_takes_long_to_be_taken_apart(text: str) -> None:
    begun_s = time.process_time()
    parts = pieces(text, 2000)
    assert time.process_time() - begun_s < 1
    assert "".join(part + space for part, space in parts) == text


def test_languages_have_other_codes_elsewhere() -> None:
    codes = ("pt-BR", "pb", "zh-Hans", "EN", "de_AT")
    assert [language_of(code) for code in codes] == ["pt", "pt", "zh", "en", "de"]


async def test_a_text_is_translated(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.stranger, "POST", TRANSLATE, body_of(world))
    assert await say(painter, "hello", known=0.5) == {"text": "hola", "source": "auto"}
    assert (await asking.answer()).json == {
        "translatedText": "hello",
        "detectedLanguage": {"confidence": 50.0, "language": "es"},
    }


async def test_a_key_in_the_body_is_known_again_after_a_wait(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.stranger, "POST", TRANSLATE, body_of(world))
    lease = await painter.lease()
    world.clock.advance(world.service.settings.key_cache_s + 1)
    await painter.succeed(lease, output={"text": "hello", "language": "es", "known": 1.0})
    assert (await asking.answer()).status == 200


async def test_a_form_is_read_as_json_is(studio: Studio) -> None:
    world, painter = studio
    body = urlencode(body_of(world, source="pt-BR", q="olá")).encode()
    asking = Asking(world.stranger, "POST", TRANSLATE, body, headers=FORM)
    assert await say(painter, "hello") == {"text": "olá", "source": "pt"}
    assert (await asking.answer()).json == {"translatedText": "hello"}


async def test_a_form_as_browsers_send_it_is_read_too(studio: Studio) -> None:
    world, painter = studio
    told = body_of(world, source="pt-BR")
    fields = [(name, None, str(value).encode()) for name, value in told.items() if name != "q"]
    body, headers = form(*fields, ("q", None, "olá".encode()), ("q", None, b"tchau"))
    asking = Asking(world.stranger, "POST", TRANSLATE, body, headers=headers)
    assert await say(painter, "hello") == {"text": "olá", "source": "pt"}
    assert await say(painter, "bye") == {"text": "tchau", "source": "pt"}
    assert (await asking.answer()).json == {"translatedText": ["hello", "bye"]}


async def test_several_texts_are_several_translations(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.stranger, "POST", TRANSLATE, body_of(world, q=["uno", "due"]))
    await say(painter, "one", "es")
    await say(painter, "two", "it")
    told = (await asking.answer()).json
    assert told["translatedText"] == ["one", "two"]
    assert [each["language"] for each in told["detectedLanguage"]] == ["es", "it"]


async def test_a_long_text_becomes_several_tasks(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(
        world.stranger, "POST", TRANSLATE, body_of(world, q="Uno dos tres.\nCuatro cinco.")
    )
    await say(painter, "One two three.")
    await say(painter, "Four five.")
    assert (await asking.answer()).json["translatedText"] == "One two three.\nFour five."


async def test_a_key_that_may_have_few_tasks_has_them_one_after_the_other(studio: Studio) -> None:
    world, painter = studio
    made = await world.admin("POST", "/v1/keys", {"name": "few", "tasks_in_flight": 2})
    body = body_of(world, q="uno\ndue\ntre\nquattro\ncinque", api_key=made.json["key"])
    asking = Asking(world.stranger, "POST", TRANSLATE, body)
    for word in ("one", "two", "three", "four", "five"):
        await say(painter, word)
    assert (await asking.answer()).json["translatedText"] == "one\ntwo\nthree\nfour\nfive"
    made = await world.admin("POST", "/v1/keys", {"name": "fewer", "tasks_per_day": 2})
    never = await world.stranger("POST", TRANSLATE, {**body, "api_key": made.json["key"]})
    assert (never.status, "2 tasks a day" in never.json["error"]) == (400, True)


async def test_the_same_idempotency_key_translates_once(studio: Studio) -> None:
    world, painter = studio
    body, key = body_of(world, q=["uno", "due"]), {"Idempotency-Key": "a"}
    asking = [Asking(world.stranger, "POST", TRANSLATE, body, headers=key) for _ in range(2)]
    await say(painter, "one")
    await say(painter, "two")
    for each in asking:
        assert (await each.answer()).json["translatedText"] == ["one", "two"]
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 2
    other = body_of(world, q=["uno", "tre"])
    answer = await world.stranger("POST", TRANSLATE, other, headers=key)
    assert (answer.status, answer.json["code"]) == (400, "idempotency_mismatch")
    assert isinstance(answer.json["error"], str)


async def test_the_language_is_told(studio: Studio) -> None:
    world, painter = studio
    body = {"q": "hola", "api_key": world.keys["anna"]}
    asking = Asking(world.stranger, "POST", "/libretranslate/detect", body)
    await say(painter, "hello", known=0.25)
    assert (await asking.answer()).json == [{"confidence": 25.0, "language": "es"}]


async def test_languages_need_no_key(studio: Studio) -> None:
    world, _ = studio
    # Its client sends GET with a body.
    answer = await world.stranger("GET", "/libretranslate/languages", b"", headers=FORM)
    told = {each["code"]: each for each in answer.json}
    assert told["es"] == {"code": "es", "name": "Spanish", "targets": ["en"]}


async def test_the_operators_own_model_takes_its_place() -> None:
    async with a_studio([ANY], model_aliases={"libretranslate": "our/any"}) as (world, painter):
        told = (await world.stranger("GET", "/libretranslate/languages")).json
        assert told[1] == {"code": "de", "name": "German", "targets": ["en", "de"]}
        asking = Asking(world.stranger, "POST", TRANSLATE, body_of(world, target="de"))
        lease = await painter.lease()
        assert lease["input"] == {"text": "hola", "source": "auto", "target": "de"}
        await painter.succeed(lease, output="hallo")
        assert (await asking.answer()).json["translatedText"] == "hallo"


@pytest.mark.parametrize(
    ("fields", "status", "why"),
    [
        ({"api_key": None}, 403, "needs a key"),
        ({"api_key": "swell_wrong"}, 403, "not known"),
        ({"target": "fr"}, 400, "fr is not supported: there is en"),
        ({"format": "html"}, 400, "plain text"),
        ({"q": None}, 400, "q"),
        ({"target": None}, 400, "target"),
    ],
)
async def test_what_cannot_be_done_is_told_in_its_words(
    studio: Studio, fields: dict[str, Any], status: int, why: str
) -> None:
    world, _ = studio
    body = {name: value for name, value in body_of(world, **fields).items() if value is not None}
    answer = await world.stranger("POST", TRANSLATE, body)
    assert answer.status == status
    assert why in answer.json["error"]


async def test_a_key_in_the_header_does_as_well(studio: Studio) -> None:
    world, painter = studio
    body = {"q": "hola", "target": "en"}
    asking = Asking(world.anna, "POST", TRANSLATE, body)
    await say(painter, "hello")
    assert (await asking.answer()).status == 200


async def test_a_key_for_workers_translates_nothing(studio: Studio) -> None:
    world, _ = studio
    answer = await world.stranger("POST", TRANSLATE, body_of(world, api_key=world.keys["worker"]))
    assert answer.status == 403


async def test_what_the_model_refuses_is_a_bad_request(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.stranger, "POST", TRANSLATE, body_of(world, source="xx"))
    await painter.fail(await painter.lease(), "rejected", retryable=False)
    answer = await asking.answer()
    assert answer.status == 400
    assert answer.json["error"] == "no such fox"


async def test_without_a_model_nothing_is_translated() -> None:
    async with a_studio() as (world, _):
        answer = await world.stranger("POST", TRANSLATE, body_of(world))
        assert answer.status == 404
        assert "--models swell/translate" in answer.json["error"]
        assert "server.model_aliases.libretranslate" in answer.json["error"]
