"""fal's API over the service in process; tests/clients has fal's own clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from api_harness import Answer, Client, World
from facade_harness import PAINTER, WRITER, Asking, Leaving, Painter, a_studio, picture

from swell.compat.fal.fal_arguments import SIZES, app_names, task_request
from swell.compat.fal.fal_results import hook_body
from swell.core.errors import InvalidInput
from swell.core.records import ModelCard
from swell.server.models.model_cards import Target
from swell.server.serializers import UrlMaker
from swell.server.tasks.submit import publish_changes

RUN = "/fal/run/demo/painter"
QUEUE = "/fal/queue/demo/painter"
#: One that takes several pictures.
BLENDER = {
    "name": "demo/blender",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {"images": {"type": "array", "items": {"type": "string", "x-file": "image"}}},
    },
}

Studio = tuple[World, Painter]


@pytest.fixture
async def studio() -> AsyncIterator[Studio]:
    async with a_studio() as found:
        yield found


def request_of(told: dict[str, Any], card: dict[str, Any] = PAINTER) -> Any:
    target = Target(card["name"], card["name"], ModelCard(**card))
    return task_request(told, target)


def input_of(told: dict[str, Any], card: dict[str, Any] = PAINTER) -> Any:
    return json.loads(bytes(request_of(told, card).input))


# --- from fal's words to a task


def test_arguments_become_the_models_own() -> None:
    told = {
        "prompt": "a",
        "image_size": "landscape_4_3",
        "num_inference_steps": 4,
        "guidance_scale": 2.5,
        "enable_safety_checker": True,
        "output_format": "jpeg",
    }
    assert input_of(told) == {
        "prompt": "a",
        "width": 1024,
        "height": 768,
        "steps": 4,
        "guidance": 2.5,
        "output_format": "jpeg",
    }


def test_counts_and_seeds_are_the_tasks() -> None:
    request = request_of({"prompt": "a", "num_images": 3, "seed": 5})
    assert (request.count, request.seed) == (3, 5)
    assert json.loads(bytes(request.input)) == {"prompt": "a"}


def test_a_model_with_a_seed_of_its_own_is_given_it_there() -> None:
    properties = {"prompt": {"type": "string"}, "seed": {"type": "integer", "default": 0}}
    card = {**PAINTER, "input_schema": {"properties": properties, "required": ["seed"]}}
    request = request_of({"prompt": "a", "seed": 5}, card)
    assert (request.seed, json.loads(bytes(request.input))) == (None, {"prompt": "a", "seed": 5})
    assert input_of({"prompt": "a", "seed": -1}, card) == {"prompt": "a"}


def test_less_than_nothing_is_any_seed() -> None:
    assert request_of({"prompt": "a", "seed": -1}).seed is None


@pytest.mark.parametrize("size", [*SIZES, {"width": 100, "height": 200}, "100x200"])
def test_sizes_have_names_or_sides(size: Any) -> None:
    told = input_of({"prompt": "a", "image_size": size})
    assert (told["width"], told["height"]) == (SIZES[size] if size in list(SIZES) else (100, 200))


@pytest.mark.parametrize(
    ("told", "param"),
    [
        ({"image_size": "huge"}, "image_size"),
        ({"image_size": {"width": 100}}, "image_size"),
        ({"image_size": {"width": 1e9, "height": 5}}, "image_size"),
        ({"num_images": 0}, "num_images"),
        ({"num_images": True}, "num_images"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(told: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        request_of({"prompt": "a", **told})
    assert caught.value.errors[0]["pointer"] == f"/{param}"


def test_pictures_come_to_the_field_that_takes_them() -> None:
    assert input_of({"image_url": "u"}, BLENDER) == {"images": ["u"]}
    assert input_of({"image_urls": ["u", "v"]}, BLENDER) == {"images": ["u", "v"]}
    single = {**BLENDER, "input_schema": {"properties": {"image": {"x-file": "image"}}}}
    assert input_of({"image_urls": ["u"]}, single) == {"image": "u"}
    assert input_of({"image_url": "u"}, single) == {"image": "u"}


def test_an_app_may_be_called_with_its_path_or_without() -> None:
    assert app_names("fal-ai", "flux", "dev") == ["fal-ai/flux/dev", "fal-ai/flux"]
    assert app_names("fal-ai", "flux", "dev/stream") == ["fal-ai/flux/dev", "fal-ai/flux"]
    assert app_names("demo", "painter", "stream") == ["demo/painter"]


# --- over HTTP


async def test_run_waits_for_the_pictures(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.anna, "POST", RUN, {"prompt": "a", "num_images": 2})
    lease = await painter.lease()
    await painter.succeed(lease, picture(), picture())
    answer = await asking.answer()
    assert answer.status == 200, answer.body
    assert answer.headers["x-fal-request-id"] == lease["task_id"]
    told = answer.json
    assert [each["width"] for each in told["images"]] == [8, 8]
    assert told["images"][0]["content_type"] == "image/png"
    assert told["has_nsfw_concepts"] == [False, False]
    assert (told["seed"], told["prompt"], told["timings"]) == (7, "a", {"inference": 1.5})
    read = await world.stranger("GET", told["images"][0]["url"].removeprefix("http://swell.test"))
    assert read.body == picture()


async def test_pictures_may_stand_in_the_result_itself(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.anna, "POST", RUN, {"prompt": "a", "sync_mode": True})
    await painter.succeed(await painter.lease(), picture())
    url = (await asking.answer()).json["images"][0]["url"]
    assert url.startswith("data:image/png;base64,")


async def test_a_text_is_a_result_too(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.anna, "POST", "/fal/run/demo/writer", {"prompt": "a"})
    await painter.succeed(await painter.lease(), output="once")
    assert (await asking.answer()).json == {"output": "once"}


async def test_a_request_goes_through_the_queue(studio: Studio) -> None:
    world, painter = studio
    before = (await world.anna("POST", QUEUE, {"prompt": "a"})).json
    made = (await world.anna("POST", QUEUE + "/some/path", {"prompt": "b"})).json
    assert set(made) >= {"request_id", "response_url", "status_url", "cancel_url"}
    assert (made["status"], made["queue_position"]) == ("IN_QUEUE", 1)
    home = made["response_url"].removeprefix("http://swell.test")
    assert home == f"{QUEUE}/requests/{made['request_id']}"
    waiting = await world.anna("GET", home + "/status")
    assert waiting.status == 202
    assert (waiting.json["status"], waiting.json["queue_position"]) == ("IN_QUEUE", 1)
    assert (await world.anna("GET", home)).status == 400
    leases = [await painter.lease(), await painter.lease()]
    running = await world.anna("GET", home + "/status")
    assert running.status == 202
    assert (running.json["status"], running.json["logs"]) == ("IN_PROGRESS", None)
    assert (await world.anna("GET", home + "/status?logs=1")).json["logs"] == []
    for lease in leases:
        await painter.succeed(lease, picture())
    over = await world.anna("GET", home + "/status?logs=true")
    assert over.status == 200
    assert (over.json["status"], over.json["logs"]) == ("COMPLETED", [])
    assert over.json["metrics"] == {"inference_time": 1.5}
    result = await world.anna("GET", home)
    assert result.json["prompt"] == "b"
    for answer in (waiting, running, over, result):
        assert answer.headers["x-fal-request-id"] == made["request_id"]
    assert before["queue_position"] == 0


async def test_canceling_says_whether_it_came_in_time(studio: Studio) -> None:
    world, _ = studio
    made = (await world.anna("POST", QUEUE, {"prompt": "a"})).json
    home = f"{QUEUE}/requests/{made['request_id']}"
    first = await world.anna("PUT", home + "/cancel")
    assert (first.status, first.json["status"]) == (202, "CANCELLATION_REQUESTED")
    again = await world.anna("PUT", home + "/cancel")
    assert (again.status, again.json["status"]) == (400, "ALREADY_COMPLETED")
    none = await world.anna("PUT", f"{QUEUE}/requests/{'0' * 32}/cancel")
    assert (none.status, none.json["error_type"]) == (404, "not_found")
    over = (await world.anna("GET", home + "/status")).json
    assert (over["status"], over["error_type"]) == ("COMPLETED", "request_canceled")
    assert over["logs"] is None
    # A status that fal's clients would try again is none for this.
    assert (await world.anna("GET", home)).status == 400


async def test_requests_of_others_are_not_there(studio: Studio) -> None:
    world, _ = studio
    made = (await world.anna("POST", QUEUE, {"prompt": "a"})).json
    home = f"{QUEUE}/requests/{made['request_id']}"
    for method, path in (("GET", home), ("GET", home + "/status"), ("PUT", home + "/cancel")):
        assert (await world.berta(method, path)).status == 404


@pytest.mark.parametrize(
    ("code", "retryable", "status", "error_type"),
    [
        ("rejected", False, 422, "rejected"),
        ("invalid_input", False, 422, "invalid_input"),
        ("input_unavailable", False, 422, "input_unavailable"),
        ("input_unavailable", True, 422, "input_unavailable"),
        ("output_too_large", False, 500, "output_too_large"),
        ("model_error", True, 500, "model_error"),
        ("worker_lost", True, 503, "runner_disconnected"),
    ],
)
async def test_a_failure_is_told_with_its_status(
    studio: Studio, code: str, retryable: bool, status: int, error_type: str
) -> None:
    world, painter = studio
    once = {"x-fal-no-retry": "1"}
    made = (await world.anna("POST", QUEUE, {"prompt": "a"}, headers=once)).json
    await painter.fail(await painter.lease(), code, retryable=retryable)
    home = f"{QUEUE}/requests/{made['request_id']}"
    over = (await world.anna("GET", home + "/status")).json
    assert (over["status"], over["error_type"]) == ("COMPLETED", error_type)
    assert "no such fox" in over["error"]
    result = await world.anna("GET", home)
    assert result.status == status
    assert result.json["error_type"] == result.headers["x-fal-error-type"] == error_type
    assert "no such fox" in json.dumps(result.json["detail"])
    assert result.headers["content-type"] == "application/json"


async def test_a_failure_is_told_alike_after_it_was_replayed(studio: Studio) -> None:
    world, painter = studio
    once = {"x-fal-no-retry": "1"}
    made = (await world.anna("POST", QUEUE, {"prompt": "a"}, headers=once)).json
    await painter.fail(await painter.lease(), "model_error", retryable=True)
    home = f"{QUEUE}/requests/{made['request_id']}"
    before = await world.anna("GET", home)
    replayed = await world.admin("POST", f"/v1/dead/{made['request_id']}/replay")
    assert replayed.status == 202, replayed.body
    after = await world.anna("GET", home)
    assert (before.status, after.status) == (500, 500)
    assert after.json == before.json


async def test_what_does_not_start_in_time_is_the_users_timeout(studio: Studio) -> None:
    world, _ = studio
    made = (
        await world.anna("POST", QUEUE, {"prompt": "a"}, headers={"x-fal-request-timeout": "30.5"})
    ).json
    world.clock.advance(31)
    publish_changes(world.service, await world.service.store.sweep())
    home = f"{QUEUE}/requests/{made['request_id']}"
    assert (await world.anna("GET", home + "/status")).json["error_type"] == "request_timeout"
    late = await world.anna("GET", home)
    assert (late.status, late.headers["x-fal-request-timeout-type"]) == (504, "user")


async def test_what_could_not_start_in_time_is_not_begun(studio: Studio) -> None:
    world, painter = studio
    for _ in range(2):
        await world.anna("POST", QUEUE, {"prompt": "a"})
        lease = await painter.lease()
        world.clock.advance(20)
        await painter.succeed(lease, picture())
    for _ in range(9):
        await world.anna("POST", QUEUE, {"prompt": "a"})
    answer = await world.anna("POST", RUN, {"prompt": "a"}, headers={"x-fal-request-timeout": "2"})
    assert (answer.status, answer.headers["x-fal-request-timeout-type"]) == (504, "user")
    assert answer.json["error_type"] == "request_timeout"


async def test_low_priority_lets_others_go_first(studio: Studio) -> None:
    world, painter = studio
    await world.anna("POST", QUEUE, {"prompt": "a"}, headers={"x-fal-queue-priority": "low"})
    await world.anna("POST", QUEUE, {"prompt": "b"}, headers={"x-fal-queue-priority": "normal"})
    lease = (await world.lease(painter.worker_id, n=1))["tasks"][0]
    assert lease["input"]["prompt"] == "b"


@pytest.mark.parametrize(
    ("classes", "priority"),
    [((), 2), (("paid",), 2), (("free",), 5), (("free", "paid"), 5), (("paid", "free"), 2)],
)
async def test_low_is_no_more_urgent_than_what_a_key_asks_for_usually(
    studio: Studio, classes: tuple[str, ...], priority: int
) -> None:
    world, _ = studio
    made = await world.admin("POST", "/v1/keys", {"name": "c", "classes": list(classes)})
    client = Client(world.app, made.json["key"])
    answer = await client("POST", QUEUE, {"prompt": "a"}, headers={"x-fal-queue-priority": "low"})
    assert answer.status == 200, answer.body
    [task] = await world.service.store.get([answer.json["request_id"]])
    assert task is not None
    assert task.priority == priority


@pytest.mark.parametrize(
    "headers", [{"x-fal-queue-priority": "high"}, {"x-fal-request-timeout": "soon"}]
)
async def test_headers_that_mean_nothing_are_refused(
    studio: Studio, headers: dict[str, str]
) -> None:
    world, _ = studio
    answer = await world.anna("POST", QUEUE, {"prompt": "a"}, headers=headers)
    assert answer.status == 422


async def test_broken_arguments_are_listed_as_fals_are(studio: Studio) -> None:
    world, _ = studio
    answer = await world.anna("POST", RUN, {"prompt": "", "colour": "red"})
    assert answer.status == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-fal-request-id"]
    places = [each["loc"] for each in answer.json["detail"]]
    assert sorted(places) == [["body", "colour"], ["body", "prompt"]]
    assert all(each["msg"] and each["type"] for each in answer.json["detail"])


@pytest.mark.parametrize(
    ("path", "status"),
    [("/fal/run/demo/nothing", 404), (QUEUE + "/requests/nothing", 404)],
)
async def test_what_is_not_there_is_told_in_fals_words(
    studio: Studio, path: str, status: int
) -> None:
    world, _ = studio
    answer = await world.anna("POST" if "run" in path else "GET", path, {})
    assert answer.status == status
    assert isinstance(answer.json["detail"], str)
    assert answer.json["error_type"]
    assert answer.headers["x-fal-request-id"]


async def test_a_wrong_key_is_told_in_fals_words(studio: Studio) -> None:
    world, _ = studio
    answer = await world.stranger("POST", RUN, {"prompt": "a"})
    assert answer.status == 401
    assert answer.headers["x-fal-request-id"]
    good = {"authorization": f"Key {world.keys['anna']}"}
    assert (await world.stranger("POST", QUEUE, {"prompt": "a"}, headers=good)).status == 200


async def test_aliases_may_name_a_path() -> None:
    aliases = {"fal-ai/flux/dev": "demo/writer", "fal-ai/flux": "demo/painter"}
    async with a_studio(model_aliases=aliases) as (world, painter):
        for path, model in (("dev", "demo/writer"), ("schnell", "demo/painter")):
            await world.anna("POST", f"/fal/queue/fal-ai/flux/{path}", {"prompt": "a"})
            assert (await painter.lease())["model"] == model


async def test_a_stream_shows_previews_and_then_the_result(studio: Studio) -> None:
    world, painter = studio
    asking = Asking(world.anna, "POST", RUN + "/stream", {"prompt": "a"})
    lease = await painter.lease()
    await painter.tell(lease, "progress", step=1, steps=2, fraction=0.5)
    await painter.tell(lease, "preview", image="data:image/jpeg;base64,AAAA", index=0)
    await painter.succeed(lease, picture())
    answer = await asking.answer()
    told = _datas(answer)
    assert told[0]["images"][0] == {
        "url": "data:image/jpeg;base64,AAAA",
        "content_type": "image/jpeg",
    }
    assert told[0]["progress"] == 0.5
    assert told[-1]["images"][0]["width"] == 8
    assert answer.headers["x-fal-request-id"] == lease["task_id"]


async def test_the_status_can_be_followed(studio: Studio) -> None:
    world, painter = studio
    made = (await world.anna("POST", QUEUE, {"prompt": "a"})).json
    home = f"{QUEUE}/requests/{made['request_id']}"
    asking = Asking(world.anna, "GET", home + "/status/stream?logs=1", None)
    while made["request_id"] not in world.service.bus.subscribed():
        await asyncio.sleep(0)
    lease = await painter.lease()
    await painter.tell(lease, "progress", step=1, steps=2, fraction=0.5)
    await painter.succeed(lease, picture())
    told = _datas(await asking.answer())
    assert [each["status"] for each in told][-1] == "COMPLETED"
    assert {each["status"] for each in told} >= {"IN_QUEUE", "COMPLETED"}
    lines = [line["message"] for each in told for line in each.get("logs", [])]
    assert "step 1 of 2" in lines
    # Of an ended one the end alone is told.
    again = _datas(await world.anna("GET", home + "/status/stream"))
    assert [each["status"] for each in again] == ["COMPLETED"]


def _target(url: str) -> dict[str, str]:
    return {"x-fal-target-url": url}


async def test_the_proxy_does_what_the_javascript_client_asks(studio: Studio) -> None:
    world, painter = studio
    made = (
        await world.anna(
            "POST",
            "/fal/proxy",
            {"prompt": "a"},
            headers=_target("https://queue.fal.run/demo/painter"),
        )
    ).json
    home = f"https://queue.fal.run/demo/painter/requests/{made['request_id']}"
    answer = await world.anna("GET", "/fal/proxy", headers=_target(home + "/status?logs=0"))
    assert answer.json["status"] == "IN_QUEUE"
    canceled = await world.anna("PUT", "/fal/proxy", headers=_target(home + "/cancel"))
    assert canceled.status == 202
    asking = Asking(
        world.anna,
        "POST",
        "/fal/proxy",
        {"prompt": "b"},
        headers=_target("https://fal.run/demo/painter"),
    )
    await painter.succeed(await painter.lease(), picture())
    assert (await asking.answer()).json["prompt"] == "b"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1:1/demo/painter",
        "https://fal.run.example.org/demo/painter",
        "https://rest.fal.ai/tokens/",
        "https://[broken",
        "https://queue.fal.run",
    ],
)
async def test_the_proxy_goes_nowhere_else(studio: Studio, url: str) -> None:
    world, _ = studio
    answer = await world.anna("POST", "/fal/proxy", {}, headers=_target(url))
    assert answer.status == 404


async def test_the_javascript_client_uploads_files(studio: Studio) -> None:
    world, _ = studio
    where = _target("https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3")
    told = {"file_name": "a.png", "content_type": "image/png"}
    made = (await world.anna("POST", "/fal/proxy", told, headers=where)).json
    put = made["upload_url"].removeprefix("http://swell.test")
    stored = await world.stranger("PUT", put, picture(), headers={"content-type": "image/png"})
    assert stored.status == 201
    read = await world.stranger("GET", made["file_url"].removeprefix("http://swell.test"))
    assert read.body == picture()


async def test_uploads_of_the_javascript_client_are_held_to_the_same_limits() -> None:
    async with a_studio(upload_types=("image/*",), max_upload_bytes=1000) as (world, _):
        where = _target("https://rest.fal.ai/storage/upload/initiate")
        for body, status in ((b"<html>" * 10, 415), (picture() + b"x" * 1000, 413)):
            made = (await world.anna("POST", "/fal/proxy", {}, headers=where)).json
            put = made["upload_url"].removeprefix("http://swell.test")
            assert (await world.stranger("PUT", put, body)).status == status


def _datas(answer: Answer) -> list[Any]:
    lines = answer.body.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def test_the_writer_takes_a_prompt() -> None:
    assert input_of({"prompt": "a"}, WRITER) == {"prompt": "a"}


async def test_a_webhook_is_kept_with_the_task_and_its_body_is_fals(studio: Studio) -> None:
    world, painter = studio
    url = "https://hooks.example.org/a?b=c"
    path = f"{QUEUE}?fal_webhook={quote(url, safe='')}"
    made = (await world.anna("POST", path, {"prompt": "a"})).json
    [task] = await world.service.store.get([made["request_id"]])
    assert task is not None
    assert task.webhook is not None
    assert (task.webhook.url, task.webhook.format) == (url, "fal")
    assert set(task.webhook.events) == {"succeeded", "failed", "canceled", "expired"}
    await painter.succeed(await painter.lease(), picture())
    [over] = await world.service.store.get([task.id])
    assert over is not None
    urls = UrlMaker("https://swell.test", world.service.objects, 60)
    body = hook_body(None, over, urls)  # type: ignore[arg-type] - how it ended is in the task
    assert (body["request_id"], body["status"]) == (task.id, "OK")
    assert body["payload"]["images"][0]["url"].startswith("https://swell.test/v1/artifacts/")


async def test_a_webhook_of_a_failure_says_why(studio: Studio) -> None:
    world, painter = studio
    made = (await world.anna("POST", QUEUE, {"prompt": "a"})).json
    await painter.fail(await painter.lease(), "rejected", retryable=False)
    [over] = await world.service.store.get([made["request_id"]])
    assert over is not None
    urls = UrlMaker("https://swell.test", world.service.objects, 60)
    body = hook_body(None, over, urls)  # type: ignore[arg-type] - how it ended is in the task
    assert body["status"] == "ERROR"
    assert "no such fox" in body["error"]
    assert body["payload"]["error_type"] == "rejected"


async def test_a_request_that_comes_again_after_its_client_has_gone_gets_its_task(
    studio: Studio,
) -> None:
    world, painter = studio
    body = {"prompt": "a"}
    first = Leaving(world, world.keys["anna"], RUN, body)
    lease = await painter.lease()
    first.leave()
    second = Asking(world.anna, "POST", RUN, body)
    await asyncio.sleep(0)
    await painter.succeed(lease, picture())
    assert (await second.answer()).headers["x-fal-request-id"] == lease["task_id"]
    await first.end()
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_an_answer_that_reached_nobody_is_given_once_more(studio: Studio) -> None:
    world, painter = studio
    body = {"prompt": "a"}
    for path in (RUN, QUEUE):
        first = Leaving(world, world.keys["anna"], path, body)
        if path == RUN:
            lease = await painter.lease()
            first.leave()
            await painter.succeed(lease, picture())
        first.leave()
        await first.end()
        before = {each["id"] for each in (await world.anna("GET", "/v1/tasks")).json["tasks"]}
        again = await world.anna("POST", path, body)
        assert again.headers["x-fal-request-id"] in before
        # Once only: whoever asks then asks for something new.
        if path == QUEUE:
            third = await world.anna("POST", path, body)
            assert third.headers["x-fal-request-id"] not in before


async def test_the_same_request_beside_one_that_waits_is_another(studio: Studio) -> None:
    world, painter = studio
    asking = [Asking(world.anna, "POST", RUN, {"prompt": "a"}) for _ in range(2)]
    for _ in asking:
        await painter.succeed(await painter.lease(), picture())
    ids = {(await each.answer()).headers["x-fal-request-id"] for each in asking}
    assert len(ids) == 2


async def test_what_others_ask_is_not_given_away(studio: Studio) -> None:
    world, _ = studio
    first = Leaving(world, world.keys["anna"], QUEUE, {"prompt": "a"})
    first.leave()
    await first.end()
    [known] = (await world.anna("GET", "/v1/tasks")).json["tasks"]
    for client, body in ((world.berta, {"prompt": "a"}), (world.anna, {"prompt": "b"})):
        made = await client("POST", QUEUE, body)
        assert made.json["request_id"] != known["id"]
    world.clock.advance(61)
    late = await world.anna("POST", QUEUE, {"prompt": "a"})
    assert late.json["request_id"] != known["id"]


@pytest.mark.parametrize("path", [RUN, QUEUE])
async def test_the_same_idempotency_key_gives_the_same_request(studio: Studio, path: str) -> None:
    world, painter = studio
    key, body = {"Idempotency-Key": "a"}, {"prompt": "a"}
    asking = [Asking(world.anna, "POST", path, body, headers=key) for _ in range(2)]
    lease = await painter.lease()
    await painter.succeed(lease, picture())
    # It may have ended long ago.
    asking.append(Asking(world.anna, "POST", path, {"prompt": "a"}, headers=key))
    told = [await each.answer() for each in asking]
    assert [each.status for each in told] == [200] * 3
    assert {each.headers["x-fal-request-id"] for each in told} == {lease["task_id"]}
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_an_idempotency_key_is_of_one_key_one_app_and_one_body(studio: Studio) -> None:
    world, _ = studio
    key, body = {"Idempotency-Key": "a"}, {"prompt": "a"}
    first = await world.anna("POST", QUEUE, body, headers=key)
    other = await world.berta("POST", QUEUE, body, headers=key)
    assert other.json["request_id"] != first.json["request_id"]
    for path, asked in (
        (QUEUE, {"prompt": "b"}),
        ("/fal/queue/demo/writer", body),
        ("/fal/run/demo/writer", body),
        (f"{QUEUE}?fal_webhook={quote('https://shop.example/a')}", body),
    ):
        answer = await world.anna("POST", path, asked, headers=key)
        assert (answer.status, answer.json["error_type"]) == (422, "idempotency_mismatch")
        assert answer.headers["x-fal-error-type"] == "idempotency_mismatch"
    native = {"model": "demo/painter", "input": body}
    assert (await world.anna("POST", "/v1/tasks", native, headers=key)).status == 422
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_the_order_of_fields_does_not_matter_to_an_idempotency_key(studio: Studio) -> None:
    world, _ = studio
    key = {"Idempotency-Key": "a"}
    first = await world.anna("POST", QUEUE, {"prompt": "a", "seed": 1}, headers=key)
    again = await world.anna("POST", QUEUE, {"seed": 1, "prompt": "a"}, headers=key)
    assert again.json["request_id"] == first.json["request_id"]


async def test_a_request_with_an_idempotency_key_is_taken_for_no_other(studio: Studio) -> None:
    world, _ = studio
    body, ids = {"prompt": "a"}, set()
    for headers in (None, {"Idempotency-Key": "a"}, {"Idempotency-Key": "b"}, None):
        asked = Leaving(world, world.keys["anna"], QUEUE, body, headers)
        asked.leave()
        await asked.end()
        ids |= {each["id"] for each in (await world.anna("GET", "/v1/tasks")).json["tasks"]}
    # The last was sent as the first was, whose answer reached nobody.
    assert len(ids) == 3
