"""OpenAI's Images API over the service in process; tests/clients has OpenAI's own clients."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import PIL.Image
import pytest
from api_harness import Answer, World
from facade_harness import PAINTER, Asking, Painter, a_studio, form, picture

from swell.compat.openai.openai_images import is_preview_due
from swell.compat.openai.openai_requests import (
    EditRequest,
    ImageJob,
    ImageRequest,
    read_fields,
    task_request,
)
from swell.core.errors import InvalidInput
from swell.core.records import ModelCard
from swell.server.models.model_cards import Target
from swell.server.tasks.submit import publish_changes

GENERATE = "/openai/v1/images/generations"
EDIT = "/openai/v1/images/edits"

Studio = tuple[World, Painter]


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    async with a_studio() as found:
        yield found


def target(card: dict[str, Any]) -> Target:
    return Target(card["name"], card["name"], ModelCard(**card))


def asked(**fields: Any) -> ImageJob:
    request, own = read_fields({"prompt": "a fox", **fields}, ImageRequest)
    return ImageJob(request, own)


def input_of(asked: ImageJob, card: dict[str, Any] = PAINTER) -> Any:
    return json.loads(bytes(task_request(asked, target(card)).input))


def opened(text: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(text)))


# --- from OpenAI's words to a task


def test_fields_become_the_models_own() -> None:
    told = input_of(asked(size="512x256", quality="low", output_format="webp", guidance_scale=2.0))
    assert told == {
        "prompt": "a fox",
        "width": 512,
        "height": 256,
        "steps": 5,
        "output_format": "webp",
        "guidance": 2.0,
    }


def test_what_is_left_to_the_model_is_left_out() -> None:
    told = input_of(asked(size="auto", quality="auto", background="auto", n=None, style=None))
    assert told == {"prompt": "a fox"}


def test_openais_own_fields_reach_no_model_that_does_not_know_them() -> None:
    told = input_of(asked(moderation="low", style="vivid", input_fidelity="high"))
    assert told == {"prompt": "a fox"}


def test_choices_are_found_where_a_field_may_be_null_or_is_an_enumeration() -> None:
    properties = {
        "prompt": {},
        "quality": {"anyOf": [{"enum": ["low", "high"]}, {"type": "null"}]},
        "background": {"$ref": "#/$defs/Background"},
        "style": {"anyOf": [{"$ref": "#/$defs/Style"}, {"type": "null"}]},
        "output_format": {"anyOf": [{"enum": ["png"]}, {"type": "null"}]},
    }
    enums = {"Background": {"enum": ["transparent"]}, "Style": {"enum": ["ink"]}}
    card = {**PAINTER, "input_schema": {"properties": properties, "$defs": enums}}
    told = asked(quality="low", background="transparent", style="vivid", output_format="webp")
    assert input_of(told, card) == {
        "prompt": "a fox",
        "quality": "low",
        "background": "transparent",
    }


def test_the_models_own_names_come_first() -> None:
    assert input_of(asked(quality="high", steps=3))["steps"] == 3


def test_an_unknown_field_reaches_the_check_of_the_input() -> None:
    assert input_of(asked(colour="red"))["colour"] == "red"


def test_seeds_counts_and_users_are_the_tasks() -> None:
    request = task_request(asked(n=3, seed=5, user="anna"), target(PAINTER))
    assert (request.count, request.seed, request.user) == (3, 5, "anna")
    assert task_request(asked(seed=-1), target(PAINTER)).seed is None
    assert task_request(asked(safety_identifier="b"), target(PAINTER)).user == "b"


def test_a_model_with_a_seed_of_its_own_is_given_it_there() -> None:
    card = {**PAINTER, "input_schema": {"properties": {"prompt": {}, "seed": {"default": 0}}}}
    request = task_request(asked(seed=5), target(card))
    assert (request.seed, json.loads(bytes(request.input))["seed"]) == (None, 5)
    assert "seed" not in input_of(asked(seed=-1), card)


def test_a_format_that_the_model_does_not_know_is_told_to_the_worker() -> None:
    card = {**PAINTER, "input_schema": {"properties": {"prompt": {}}}}
    assert input_of(asked(output_format="jpeg"), card) == {
        "prompt": "a fox",
        "output_format": "jpeg",
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"background": "transparent"}, "background"),
        ({"output_format": "svg"}, "output_format"),
        ({"size": "large"}, "size"),
        ({"size": "4096x4096"}, "size"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        input_of(asked(**fields))
    assert caught.value.errors[0]["pointer"] == f"/{param}"


@pytest.mark.parametrize(
    "fields",
    [{"n": 0}, {"n": 11}, {"n": "2"}, {"partial_images": 4}, {"quality": "great"}, {"prompt": ""}],
)
def test_values_that_openai_does_not_know_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        asked(**fields)


def test_a_form_has_numbers_as_text() -> None:
    told = {"prompt": "1", "n": "2", "stream": "true", "steps": "3"}
    request, own = read_fields(told, EditRequest, is_text=True)
    assert (request.prompt, request.n, request.stream, own) == ("1", 2, True, {"steps": "3"})


def test_few_previews_are_spread_over_the_way() -> None:
    sent: list[int] = []
    for step in range(1, 11):
        if is_preview_due(len(sent), 3, step / 10):
            sent.append(step)
    assert sent == [1, 4, 7]
    assert not is_preview_due(0, 0, 0.5)


# --- over HTTP


async def test_pictures_come_as_base64(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.anna, "POST", GENERATE, {"model": "demo/painter", "prompt": "a", "n": 2})
    lease = await painter.lease()
    assert lease["count"] == 2
    await painter.succeed(lease, picture(), picture(colour="blue"))
    answer = await asking.answer()
    assert answer.status == 200, answer.body
    assert [opened(each["b64_json"]).size for each in answer.json["data"]] == [(8, 8), (8, 8)]
    assert answer.json["size"] == "8x8"
    assert answer.json["output_format"] == "png"
    assert answer.json["usage"]["total_tokens"] == 0
    assert answer.json["swell"]["seed"] == 7
    assert answer.headers["swell-task"] == lease["task_id"] == answer.json["swell"]["task"]


async def test_pictures_come_as_urls_that_need_no_key(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a", "response_format": "url"}
    asking = Asking(world.anna, "POST", GENERATE, body)
    await painter.succeed(await painter.lease(), picture())
    (made,) = (await asking.answer()).json["data"]
    assert set(made) == {"url"}
    url = made["url"].removeprefix("http://swell.test")
    read = await world.stranger("GET", url)
    assert read.status == 200
    assert read.body == picture()


async def test_a_picture_in_another_format_is_turned_into_the_one_that_was_asked_for(
    studio: Studio,
) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a", "output_format": "jpeg"}
    asking = Asking(world.anna, "POST", GENERATE, {**body, "output_compression": 50})
    await painter.succeed(await painter.lease(), picture("PNG"))
    answer = await asking.answer()
    assert opened(answer.json["data"][0]["b64_json"]).format == "JPEG"
    assert answer.json["output_format"] == "jpeg"


async def test_an_edit_takes_files_of_a_form(studio: Studio) -> None:
    world, painter = studio
    body, headers = form(
        ("model", None, b"demo/editor"),
        ("prompt", None, b"a hat"),
        ("image[]", "a.png", picture()),
        ("mask", "b.png", picture(colour="black")),
    )
    asking = Asking(world.anna, "POST", EDIT, body, headers=headers)
    lease = await painter.lease()
    assert set(lease["input"]) == {"prompt", "image", "mask"}
    read = await world.stranger("GET", lease["input"]["image"].removeprefix("http://swell.test"))
    assert read.body == picture()
    await painter.succeed(lease, picture())
    assert (await asking.answer()).status == 200


async def test_an_edit_takes_urls_and_data_uris_as_json(studio: Studio) -> None:
    world, painter = studio
    uri = "data:image/png;base64," + base64.b64encode(picture()).decode()
    for url in ("https://example.org/a.png", uri):
        body = {"model": "demo/editor", "prompt": "a", "images": [{"image_url": url}]}
        asking = Asking(world.anna, "POST", EDIT, body)
        lease = await painter.lease()
        # A URL is the worker's to fetch, behind its guard.
        assert lease["input"]["image"] == url
        await painter.succeed(lease, picture())
        assert (await asking.answer()).status == 200


async def test_a_field_of_a_form_may_name_a_picture_in_place_of_a_file(studio: Studio) -> None:
    world, painter = studio
    uri = "data:image/png;base64," + base64.b64encode(picture(side=64) * 30).decode()
    for text in ("https://example.org/a.png", uri):
        fields = (("model", None, b"demo/editor"), ("prompt", None, b"a hat"))
        body, headers = form(*fields, ("image", None, text.encode()))
        asking = Asking(world.anna, "POST", EDIT, body, headers=headers)
        lease = await painter.lease()
        named = lease["input"]["image"]
        # A long data URI has become an upload.
        assert named == text if text != uri else named.startswith("http://swell.test/v1/")
        await painter.succeed(lease, picture())
        assert (await asking.answer()).status == 200
    body, headers = form(*fields, ("image", None, b"my picture"))
    refused = await world.anna("POST", EDIT, body, headers=headers)
    assert refused.status == 400
    assert "http or https" in refused.json["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"images": [{"image_url": "file:///etc/passwd"}]}, "http or https"),
        ({"images": [{"file_id": "file-1"}]}, "image_url"),
        ({"images": []}, "no picture"),
        ({"images": [{"image_url": "https://a.b/c"}] * 2}, "takes one picture"),
        (
            {"model": "demo/painter", "images": [{"image_url": "https://a.b/c"}]},
            "takes no pictures",
        ),
    ],
)
async def test_edits_that_cannot_be_done_are_refused(
    studio: Studio, fields: dict[str, Any], why: str
) -> None:
    world, _ = studio
    answer = await world.anna("POST", EDIT, {"model": "demo/editor", "prompt": "a", **fields})
    assert answer.status == 400
    assert why in answer.json["error"]["message"]


async def test_the_stream_tells_previews_and_then_the_picture(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a", "stream": True, "partial_images": 2}
    asking = Asking(world.anna, "POST", GENERATE, body)
    lease = await painter.lease()
    small = "data:image/jpeg;base64," + base64.b64encode(picture("JPEG")).decode()
    for step in (1, 2, 3, 4):
        await painter.tell(lease, "progress", step=step, steps=4, fraction=step / 4)
        await painter.tell(lease, "preview", image=small, index=0)
    await painter.succeed(lease, picture())
    answer = await asking.answer()
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = [json.loads(each) for each in _datas(answer)]
    assert [each["type"] for each in told] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [each.get("partial_image_index") for each in told] == [0, 1, None]
    assert opened(told[0]["b64_json"]).format == told[0]["output_format"].upper() == "JPEG"
    assert opened(told[2]["b64_json"]).size == (8, 8)
    assert told[2]["usage"]["total_tokens"] == 0


async def test_a_stream_that_wants_no_previews_has_none_made(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a", "stream": True}
    asking = Asking(world.anna, "POST", GENERATE, body)
    lease = await painter.lease()
    assert world.service.bus.watched([lease["task_id"]]) == []
    await painter.succeed(lease, picture())
    assert len(_datas(await asking.answer())) == 1


async def test_a_stream_that_fails_says_why(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a", "stream": True}
    asking = Asking(world.anna, "POST", GENERATE, body)
    await painter.fail(await painter.lease(), "rejected", retryable=False)
    (told,) = _datas(await asking.answer())
    assert "no such fox" in json.loads(told)["error"]["message"]


async def test_a_wrong_model_is_told_with_the_right_ones(studio: Studio) -> None:
    world, _ = studio
    answer = await world.anna("POST", GENERATE, {"model": "gpt-image-1", "prompt": "a"})
    assert answer.status == 404
    error = answer.json["error"]
    assert error["param"] == "model"
    assert error["code"] == "model_not_found"
    assert "demo/painter" in error["message"]
    assert "x-should-retry" not in answer.headers


async def test_a_model_of_texts_draws_no_pictures(studio: Studio) -> None:
    world, _ = studio
    answer = await world.anna("POST", GENERATE, {"model": "demo/writer", "prompt": "a"})
    assert answer.status == 400
    assert "draws no pictures" in answer.json["error"]["message"]


async def test_aliases_mean_what_the_operator_says() -> None:
    aliases = {"gpt-image-1": "demo/painter", "*": "demo/editor"}
    async with a_studio(model_aliases=aliases) as (world, painter):
        listed = (await world.anna("GET", "/openai/v1/models")).json
        assert listed["object"] == "list"
        ids = [each["id"] for each in listed["data"]]
        assert ids == ["demo/editor", "demo/painter", "demo/writer", "gpt-image-1"]
        one = (await world.anna("GET", "/openai/v1/models/gpt-image-1")).json
        assert (one["id"], one["object"], one["owned_by"]) == ("gpt-image-1", "model", "demo")
        assert (await world.anna("GET", "/openai/v1/models/demo/painter")).status == 200
        for name, model in (("gpt-image-1", "demo/painter"), ("dall-e-3", "demo/editor")):
            # Another has no `*` in its list, and is told so.
            body: dict[str, Any] = {"model": name, "prompt": "a"}
            if model == "demo/painter":
                asking = Asking(world.anna, "POST", GENERATE, body)
                lease = await painter.lease()
                assert lease["model"] == model
                await painter.succeed(lease, picture())
                assert (await asking.answer()).status == 200
            else:
                answer = await world.anna("POST", GENERATE, body)
                assert "image" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("code", "retryable", "status"), [("rejected", False, 400), ("model_error", True, 500)]
)
async def test_a_failed_task_is_final(
    studio: Studio, code: str, retryable: bool, status: int
) -> None:
    world, painter = studio
    asking = Asking(world.anna, "POST", GENERATE, {"model": "demo/painter", "prompt": "a"})
    for _ in range(3 if retryable else 1):
        await painter.fail(await painter.lease(), code, retryable=retryable)
        world.clock.advance(600)
        publish_changes(world.service, await world.service.store.sweep())
    answer = await asking.answer()
    assert answer.status == status
    assert answer.json["error"]["code"] == code
    assert "no such fox" in answer.json["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


async def test_a_canceled_task_is_a_final_conflict(studio: Studio) -> None:
    world, _ = studio
    asking = Asking(world.anna, "POST", GENERATE, {"model": "demo/painter", "prompt": "a"})
    while not (listed := (await world.anna("GET", "/v1/tasks")).json["tasks"]):
        await asyncio.sleep(0)
    await world.anna("POST", f"/v1/tasks/{listed[0]['id']}/cancel")
    answer = await asking.answer()
    assert answer.status == 409
    assert answer.headers["x-should-retry"] == "false"


async def test_nobody_to_run_it_is_worth_another_try() -> None:
    async with a_studio() as (world, _):
        world.clock.advance(3600)
        answer = await world.anna("POST", GENERATE, {"model": "demo/painter", "prompt": "a"})
        assert answer.status == 503
        assert answer.headers["retry-after"].isdigit()
        assert "x-should-retry" not in answer.headers


async def test_a_broken_input_names_the_field(studio: Studio) -> None:
    world, _ = studio
    body = {"model": "demo/painter", "prompt": "a", "colour": "red"}
    answer = await world.anna("POST", GENERATE, body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == "colour"
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


async def test_a_wrong_key_is_told_in_openais_words(studio: Studio) -> None:
    world, _ = studio
    answer = await world.stranger("POST", GENERATE, {"prompt": "a"})
    assert answer.status == 401
    assert answer.json["error"]["type"] == "authentication_error"


async def test_a_request_that_comes_again_gets_what_is_being_drawn(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a"}
    again = {"x-stainless-retry-count": "1"}
    first = Asking(world.anna, "POST", GENERATE, body)
    lease = await painter.lease()
    second = Asking(world.anna, "POST", GENERATE, body, headers=again)
    other = Asking(world.anna, "POST", GENERATE, {**body, "prompt": "b"}, headers=again)
    another = await painter.lease()
    await painter.succeed(lease, picture())
    await painter.succeed(another, picture())
    tasks = [(await each.answer()).json["swell"]["task"] for each in (first, second, other)]
    assert tasks[0] == tasks[1] != tasks[2]
    # Just finished, it is still the same request.
    third = await world.anna("POST", GENERATE, body, headers=again)
    assert third.json["swell"]["task"] == tasks[0]


async def test_whose_answer_was_heard_long_ago_is_another_request(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a"}
    tasks = []
    for retry in ("0", "1"):
        # The second is a retry of a request that was refused, five minutes after the first.
        headers = {"x-stainless-retry-count": retry}
        asking = Asking(world.anna, "POST", GENERATE, body, headers=headers)
        await painter.succeed(await painter.lease(), picture())
        tasks.append((await asking.answer()).json["swell"]["task"])
        world.clock.advance(300)
    assert tasks[0] != tasks[1]


async def test_an_edit_that_comes_again_is_known_by_its_files(studio: Studio) -> None:
    world, painter = studio
    tasks = []
    for colour, retry in (("red", "0"), ("red", "1"), ("blue", "1")):
        parts = (("model", None, b"demo/editor"), ("prompt", None, b"a"))
        body, headers = form(*parts, ("image", "a.png", picture(colour=colour)))
        headers["x-stainless-retry-count"] = retry
        asking = Asking(world.anna, "POST", EDIT, body, headers=headers)
        if (colour, retry) != ("red", "1"):
            await painter.succeed(await painter.lease(), picture())
        tasks.append((await asking.answer()).json["swell"]["task"])
    assert tasks[0] == tasks[1] != tasks[2]


async def test_the_same_request_without_a_retry_is_another(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a"}
    tasks = []
    for _ in range(2):
        asking = Asking(
            world.anna, "POST", GENERATE, body, headers={"x-stainless-retry-count": "0"}
        )
        await painter.succeed(await painter.lease(), picture())
        tasks.append((await asking.answer()).json["swell"]["task"])
    assert tasks[0] != tasks[1]


async def test_the_same_idempotency_key_gives_the_same_pictures(studio: Studio) -> None:
    world, painter = studio
    body = {"model": "demo/painter", "prompt": "a"}
    asking = [
        Asking(world.anna, "POST", GENERATE, each, headers={"Idempotency-Key": "a"})
        for each in (body, dict(reversed(body.items())))
    ]
    await painter.succeed(await painter.lease(), picture())
    tasks = {(await each.answer()).json["swell"]["task"] for each in asking}
    assert len(tasks) == 1
    # The key says more than a client's count of its retries.
    headers = {"Idempotency-Key": "b", "x-stainless-retry-count": "1"}
    asking = [Asking(world.anna, "POST", GENERATE, body, headers=headers)]
    await painter.succeed(await painter.lease(), picture())
    assert (await asking[0].answer()).json["swell"]["task"] not in tasks
    for path, asked in (
        (GENERATE, {**body, "prompt": "b"}),
        (GENERATE, {**body, "steps": 20}),
        (EDIT, {**body, "model": "demo/editor", "images": [{"image_url": "https://a.example/a"}]}),
    ):
        answer = await world.anna("POST", path, asked, headers={"Idempotency-Key": "a"})
        assert (answer.status, answer.json["error"]["type"]) == (422, "invalid_request_error")
        assert answer.json["error"]["code"] == "idempotency_mismatch"


async def test_the_same_idempotency_key_gives_the_same_edit_of_the_same_files(
    studio: Studio,
) -> None:
    world, painter = studio
    parts = (("model", None, b"demo/editor"), ("prompt", None, b"a"))
    tasks = []
    for count in range(2):
        body, headers = form(*parts, ("image", "a.png", picture(colour="red")))
        headers["Idempotency-Key"] = "a"
        asking = Asking(world.anna, "POST", EDIT, body, headers=headers)
        if not count:
            await painter.succeed(await painter.lease(), picture())
        tasks.append((await asking.answer()).json["swell"]["task"])
    assert tasks[0] == tasks[1]
    body, headers = form(*parts, ("image", "a.png", picture(colour="blue")))
    headers["Idempotency-Key"] = "a"
    answer = await world.anna("POST", EDIT, body, headers=headers)
    assert answer.json["error"]["code"] == "idempotency_mismatch"


def _datas(answer: Answer) -> list[str]:
    lines = answer.body.decode().splitlines()
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
