"""Replicate's façade: states, errors, schemas, files, streams and deployments on the wire."""

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, Client, World, a_world, failed, hold, succeeded

from swell.compat.replicate.replicate_models import openapi_of
from swell.compat.replicate.replicate_predictions import cancel_after_s
from swell.compat.replicate.replicate_views import STATUSES, progress_line
from swell.core.errors import InvalidRequest
from swell.core.records import ModelCard
from swell.core.task import TaskState
from swell.server.background_jobs import check_streams

HOME = "/replicate/v1"

#: How clients find a bar in a log (replicate-python, `Prediction.Progress`).
BAR = re.compile(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)\/(\d+)")

FORM = {"Content-Type": "multipart/form-data; boundary=B"}

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(5000)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(uploads_s=86400.0) as world:
        yield world


async def predict(world: World, body: Any = None, **headers: str) -> Any:
    body = {"input": {"text": "a"}} if body is None else body
    path = f"{HOME}/models/demo/upper/predictions"
    answer = await world.anna("POST", path, body, headers=headers)
    assert answer.status == 202, answer.body
    return answer.json


async def now(world: World, made: Any, client: Client | None = None) -> Any:
    path = made["urls"]["get"].removeprefix("http://swell.test")
    answer = await (client or world.anna)("GET", path)
    assert answer.status == 200, answer.body
    return answer.json


async def run(world: World, worker: str, **outcome: Any) -> dict[str, Any]:
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease, **outcome)])
    return dict(lease)


# --- predictions ---------------------------------------------------------------------------------


async def test_a_prediction_goes_through_the_words_that_clients_know(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    assert made["status"] == "starting"
    assert (made["model"], made["version"]) == ("demo/upper", "1")
    assert made["input"] == {"text": "a"}
    assert made["output"] is None
    home = f"http://swell.test{HOME}/predictions/{made['id']}"
    assert made["urls"]["get"] == home
    assert made["urls"]["cancel"] == f"{home}/cancel"
    [lease] = (await world.lease(worker))["tasks"]
    world.clock.advance(2)
    running = await now(world, made)
    assert running["status"] == "processing"
    assert running["started_at"].endswith("Z")
    assert running["completed_at"] is None
    await world.report(worker, settlements=[succeeded(lease, "A")])
    done = await now(world, made)
    assert (done["status"], done["output"], done["error"]) == ("succeeded", "A", None)
    assert done["metrics"] == {"predict_time": 2.0, "total_time": 2.0}


async def test_who_waited_in_vain_is_told_starting_even_while_it_runs(world: World) -> None:
    await world.register()
    made = await predict(world, {"input": {"text": "a"}})
    retried = {"X-Stainless-Retry-Count": "1"}
    [_] = (await world.lease((await world.admin("GET", "/v1/workers")).json["workers"][0]["id"]))[
        "tasks"
    ]
    again = await predict(world, {"input": {"text": "a"}}, **retried)
    assert (await now(world, made))["status"] == "processing"
    assert (again["id"], again["status"]) == (made["id"], "starting")


def test_every_state_is_one_of_the_five_words_that_clients_know() -> None:
    assert set(STATUSES) == set(TaskState)
    assert set(STATUSES.values()) == {"starting", "processing", "succeeded", "failed", "canceled"}
    assert STATUSES[TaskState.EXPIRED] == "canceled"


async def test_a_failure_is_told_in_words(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[failed(lease, retryable=False)])
    done = await now(world, made)
    assert (done["status"], done["error"]) == ("failed", "no")


async def test_a_prediction_past_its_deadline_is_canceled(world: World) -> None:
    await world.register()
    made = await predict(world, **{"Cancel-After": "10s"})
    assert made["deadline"] is not None
    world.clock.advance(11)
    await world.service.store.sweep()
    done = await now(world, made)
    assert done["status"] == "canceled"
    assert "deadline" in done["error"]


async def test_canceling_ends_one_that_waits(world: World) -> None:
    await world.register()
    made = await predict(world)
    path = f"{HOME}/predictions/{made['id']}/cancel"
    answer = await world.anna("POST", path)
    assert (answer.status, answer.json["status"]) == (200, "canceled")
    assert (await world.anna("POST", path)).json["status"] == "canceled"


async def test_predictions_of_others_are_not_there(world: World) -> None:
    await world.register()
    made = await predict(world)
    path = f"{HOME}/predictions/{made['id']}"
    for client in (world.berta,):
        assert (await client("GET", path)).status == 404
        assert (await client("POST", f"{path}/cancel")).status == 404
        assert (await client("GET", f"{path}/stream")).status == 404
        assert (await client("GET", f"{HOME}/predictions")).json["results"] == []
    assert (await world.stranger("GET", path)).status == 401


async def test_seed_and_num_outputs_are_taken_of_models_that_have_no_such_fields(
    world: World,
) -> None:
    worker = await world.register()
    made = await predict(world, {"input": {"text": "a", "seed": 7, "num_outputs": 3}})
    assert made["input"] == {"text": "a", "seed": 7, "num_outputs": 3}
    [lease] = (await world.lease(worker))["tasks"]
    assert (lease["seed"], lease["count"], lease["input"]) == (7, 3, {"text": "a"})
    for wild in (-1, None, ""):
        any_seed = await predict(world, {"input": {"text": "a", "seed": wild}})
        assert any_seed["input"] == {"text": "a"}


async def test_a_model_with_such_fields_of_its_own_keeps_them(world: World) -> None:
    fields = {"seed": {"type": "integer"}, "num_outputs": {"type": "integer"}}
    card = {
        **UPPER,
        "name": "demo/own",
        "input_schema": {"type": "object", "properties": fields, "additionalProperties": False},
    }
    worker = await world.register(card)
    path = f"{HOME}/models/demo/own/predictions"
    await world.anna("POST", path, {"input": {"seed": 7, "num_outputs": 3}})
    [lease] = (await world.lease(worker))["tasks"]
    assert (lease.get("count", 1), lease["input"]) == (1, {"seed": 7, "num_outputs": 3})


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"text": "a", "num_outputs": 0}, "/input/num_outputs"),
        ({"text": "a", "num_outputs": "2"}, "/input/num_outputs"),
        ({"text": "a", "seed": "x"}, "/input/seed"),
        ({"text": ""}, "/input/text"),
        ({"text": "a", "tims": 1}, "/input/tims"),
        ([1], "/input"),
    ],
)
async def test_a_wrong_input_names_its_field(world: World, given: Any, pointer: str) -> None:
    await world.register()
    path = f"{HOME}/models/demo/upper/predictions"
    answer = await world.anna("POST", path, {"input": given})
    assert answer.status == 422
    problem = answer.json
    assert problem["errors"][0]["pointer"] == pointer
    assert {"type", "title", "status", "detail", "instance"} <= set(problem)


@pytest.mark.parametrize("version", ["1", "demo/upper:1", "demo/upper"])
async def test_a_version_may_be_named_in_three_ways(world: World, version: str) -> None:
    await world.register()
    body = {"version": version, "input": {"text": "a"}}
    answer = await world.anna("POST", f"{HOME}/predictions", body)
    assert answer.status == 202, answer.body
    assert (answer.json["model"], answer.json["version"]) == ("demo/upper", "1")


async def test_a_version_that_nobody_or_several_have_is_refused(world: World) -> None:
    await world.register(UPPER, {**UPPER, "name": "demo/other"})
    for version, status, words in (
        ("9", 404, "no model here has the version '9'"),
        ("1", 422, "demo/other, demo/upper all have a version '1'"),
        ("", 422, "'version' is required"),
    ):
        body = {"version": version, "input": {"text": "a"}}
        answer = await world.anna("POST", f"{HOME}/predictions", body)
        assert answer.status == status
        assert words in answer.json["detail"]


async def test_a_page_of_predictions_leads_to_the_next_by_an_absolute_url(world: World) -> None:
    await world.register()
    made = []
    for _ in range(3):
        made.append((await predict(world))["id"])
        world.clock.advance(1)
    first = (await world.anna("GET", f"{HOME}/predictions?limit=2")).json
    assert [each["id"] for each in first["results"]] == [made[2], made[1]]
    assert first["previous"] is None
    assert first["next"].startswith(f"http://swell.test{HOME}/predictions?")
    second = (await world.anna("GET", first["next"].removeprefix("http://swell.test"))).json
    assert [each["id"] for each in second["results"]] == [made[0]]
    assert second["next"] is None
    assert second["previous"].startswith(f"http://swell.test{HOME}/predictions")


async def test_errors_ask_to_come_again_in_whole_seconds(world: World) -> None:
    worker = await world.register()
    await world.report(worker, goodbye=True)
    path = f"{HOME}/models/demo/upper/predictions"
    answer = await world.anna("POST", path, {"input": {"text": "a"}})
    assert answer.status == 503
    assert answer.headers["retry-after"].isdigit()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("15s", 15), ("2m", 120), ("1h30m45s", 5445), ("90", 90), ("24h", 86400)],
)
def test_a_duration_is_read_as_people_write_it(text: str, expected: float) -> None:
    assert cancel_after_s(text.encode()) == expected


@pytest.mark.parametrize("text", ["", "s", "4s", "25h", "1.5m", "-9s", "1m1h", "٣s"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="5s to 24h"):
        cancel_after_s(text.encode())


# --- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"step": 9, "steps": 20}, ("45", "9", "20")),
        ({"step": 0, "steps": 20, "fraction": 0.0}, ("0", "0", "20")),
        ({"step": 20, "steps": 20}, ("100", "20", "20")),
        ({"step": 30, "steps": 20}, ("100", "20", "20")),
        ({"fraction": 0.5}, ("50", "50", "100")),
    ],
)
def test_progress_is_a_line_that_clients_read_a_bar_from(
    told: dict[str, Any], expected: tuple[str, ...]
) -> None:
    found = BAR.match(progress_line(told) or "")
    assert found is not None
    assert found.groups() == expected


def test_progress_without_numbers_is_no_line() -> None:
    assert progress_line({"note": "x"}) is None


async def test_who_polls_hears_of_progress(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    [lease] = (await world.lease(worker))["tasks"]
    assert (await now(world, made))["logs"] == ""
    # Somebody listens by now, so that the worker is asked to tell.
    for place in (1, 2):
        data = {"step": place, "steps": 4}
        news = {**hold(lease), "place": place, "kind": "progress", "data": data}
        answer = await world.report(worker, progress=[news])
        assert answer["watched"] == [made["id"]]
    lines = (await now(world, made))["logs"].splitlines()
    assert [BAR.match(line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("25", "1", "4"),
        ("50", "2", "4"),
    ]
    assert (await now(world, made))["logs"].splitlines() == lines
    await world.report(worker, settlements=[succeeded(lease, "A")])
    assert (await now(world, made))["logs"].splitlines() == [*lines, "100%|##########| 1/1"]
    assert len(world.service.polled) == 0


async def test_of_long_logs_the_end_is_kept(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    [lease] = (await world.lease(worker))["tasks"]
    steps, told = 1200, 60
    for first in range(0, steps, told):
        news = [
            {**hold(lease), "place": 1 + n, "kind": "progress", "data": {"step": n, "steps": steps}}
            for n in range(first, first + told)
        ]
        await world.report(worker, progress=news)
        lines = (await now(world, made))["logs"].splitlines()
    numbers = [int(BAR.match(line).groups()[1]) for line in lines]  # type: ignore[union-attr]
    assert numbers == list(range(steps - 1000, steps))


async def test_who_polls_no_more_is_listened_for_no_more(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    await world.lease(worker)
    await now(world, made)
    assert len(world.service.polled) == 1
    world.clock.advance(16)
    other = await predict(world)
    await world.lease(worker)
    await now(world, other)
    assert len(world.service.polled) == 1


# --- outputs and files ---------------------------------------------------------------------------


async def test_output_files_are_absolute_urls_that_answer_at_once_with_or_without_a_key(
    world: World,
) -> None:
    worker = await world.register()
    made = await predict(world)
    [lease] = (await world.lease(worker))["tasks"]
    key = f"outputs/{made['id']}/1/0.png"
    await world.service.objects.put(key, PICTURE, "image/png")
    artifact = {"key": key, "content_type": "image/png", "bytes": len(PICTURE)}
    done = succeeded(lease, [{"$artifact": 0}, "x"], artifacts=[artifact])
    await world.report(worker, settlements=[done])
    url, word = (await now(world, made))["output"]
    assert word == "x"
    assert url.startswith("http://swell.test/v1/artifacts/outputs/")
    # Even where files are usually read from a bucket: its clients follow no redirect.
    assert url.endswith("&redirect=no")
    path = url.removeprefix("http://swell.test")
    for client in (world.anna, world.stranger):
        answer = await client("GET", path)
        assert (answer.status, answer.body) == (200, PICTURE)


async def test_on_ones_own_machine_without_tls_small_files_are_data_uris(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    [lease] = (await world.lease(worker))["tasks"]
    key = f"outputs/{made['id']}/1/0.png"
    await world.service.objects.put(key, PICTURE, "image/png")
    artifact = {"key": key, "content_type": "image/png", "bytes": len(PICTURE)}
    done = succeeded(lease, {"$artifact": 0}, artifacts=[artifact])
    await world.report(worker, settlements=[done])
    path = f"{HOME}/predictions/{made['id']}"
    for host, start in (
        ("127.0.0.1:8000", "data:image/png;base64,"),
        ("localhost", "data:image/png;base64,"),
        ("swell.test", "http://swell.test/v1/artifacts/"),
    ):
        answer = await world.anna("GET", path, headers={"Host": host})
        assert answer.json["output"].startswith(start)
    listed = await world.anna("GET", f"{HOME}/predictions", headers={"Host": "localhost"})
    assert listed.json["results"][0]["output"].startswith("http://localhost/")


def _form(name: str = "content", *, more: bytes = b"") -> bytes:
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n'
    return (
        head.encode() + b"Content-Type: image/png\r\n\r\n" + PICTURE + b"\r\n" + more + b"--B--\r\n"
    )


#: As replicate-javascript sends it: a field that is a file too.
_NOTE = (
    b'--B\r\nContent-Disposition: form-data; name="metadata"; filename="blob"\r\n'
    b'Content-Type: application/json\r\n\r\n{"of": "me"}\r\n'
)


async def _uploaded(world: World) -> Any:
    answer = await world.anna("POST", f"{HOME}/files", _form(more=_NOTE), headers=FORM)
    assert answer.status == 201, answer.body
    return answer.json


async def test_a_file_is_kept_with_all_that_clients_ask_of_it(world: World) -> None:
    made = await _uploaded(world)
    assert (made["name"], made["content_type"], made["size"]) == (
        "a.png",
        "image/png",
        len(PICTURE),
    )
    assert made["metadata"] == {"of": "me"}
    assert len(made["checksums"]["sha256"]) == 64
    assert made["etag"]
    assert made["created_at"] < made["expires_at"]
    path = f"{HOME}/files/{made['id']}"
    assert made["urls"]["get"] == f"http://swell.test{path}"
    assert (await world.anna("GET", path)).json == made
    listed = (await world.anna("GET", f"{HOME}/files")).json
    assert listed["results"] == [made]
    assert (await world.berta("GET", path)).status == 404
    assert (await world.berta("GET", f"{HOME}/files")).json["results"] == []


async def test_a_deleted_file_is_gone(world: World) -> None:
    made = await _uploaded(world)
    path = f"{HOME}/files/{made['id']}"
    assert (await world.berta("DELETE", path)).status == 404
    answer = await world.anna("DELETE", path)
    assert (answer.status, answer.body) == (204, b"")
    assert (await world.anna("GET", path)).status == 404
    assert (await world.anna("DELETE", path)).status == 404
    key = await world.service.keys.find(f"Bearer {world.keys['anna']}".encode())
    folder = f"uploads/{key.id}"
    assert await world.service.objects.under(folder) == []


async def test_files_are_listed_newest_first_in_pages(world: World) -> None:
    made = []
    for _ in range(3):
        made.append((await _uploaded(world))["id"])
        world.clock.advance(1)
    first = (await world.anna("GET", f"{HOME}/files?limit=2")).json
    assert [each["id"] for each in first["results"]] == [made[2], made[1]]
    rest = (await world.anna("GET", first["next"].removeprefix("http://swell.test"))).json
    assert [each["id"] for each in rest["results"]] == [made[0]]
    assert rest["next"] is None


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (_form("file"), FORM, "no `content`"),
        (_form(more=_form()[:-7]), FORM, "`content` twice"),
        (PICTURE, {"Content-Type": "image/png"}, "send a form"),
        (_form(more=_NOTE.replace(b'{"of"', b"{of")), FORM, "`metadata` is not JSON"),
    ],
)
async def test_a_form_that_is_not_as_it_should_be_is_refused(
    world: World, body: bytes, headers: dict[str, str], words: str
) -> None:
    answer = await world.anna("POST", f"{HOME}/files", body, headers=headers)
    assert answer.status == 400
    assert words in answer.json["detail"]


@pytest.mark.parametrize("file_id", ["x", "../x", "a" * 32, f"{'0' * 32}.about", "%2e%2e"])
async def test_a_file_that_nobody_uploaded_is_not_there(world: World, file_id: str) -> None:
    await _uploaded(world)
    assert (await world.anna("GET", f"{HOME}/files/{file_id}")).status == 404


async def test_an_input_may_name_a_file_and_the_worker_gets_a_url_that_it_can_read(
    world: World,
) -> None:
    worker = await world.register()
    made = await _uploaded(world)
    await predict(world, {"input": {"text": made["urls"]["get"]}})
    [lease] = (await world.lease(worker))["tasks"]
    url = lease["input"]["text"]
    assert "signature=" in url
    answer = await world.stranger("GET", url.removeprefix("http://swell.test"))
    assert answer.body == PICTURE


async def test_an_input_that_names_a_file_which_is_gone_says_so(world: World) -> None:
    await world.register()
    made = await _uploaded(world)
    path = f"{HOME}/models/demo/upper/predictions"
    body = {"input": {"text": made["urls"]["get"]}}
    assert (await world.berta("POST", path, body)).status == 422
    await world.anna("DELETE", f"{HOME}/files/{made['id']}")
    answer = await world.anna("POST", path, body)
    assert answer.status == 422
    assert answer.json["errors"][0]["pointer"] == "/input/text"


async def test_a_data_uri_in_an_input_becomes_an_upload(world: World) -> None:
    worker = await world.register()
    uri = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    await predict(world, {"input": {"text": uri}})
    [lease] = (await world.lease(worker))["tasks"]
    answer = await world.stranger("GET", lease["input"]["text"].removeprefix("http://swell.test"))
    assert answer.body == PICTURE


async def test_a_repeated_key_or_a_counted_retry_makes_one_prediction(world: World) -> None:
    await world.register()
    made = await _uploaded(world)
    body = {"input": {"text": made["urls"]["get"]}}
    first = await predict(world, body)
    world.clock.advance(60)
    again = await predict(world, body, **{"X-Stainless-Retry-Count": "1"})
    assert again["id"] == first["id"]
    other = await predict(world, body, **{"X-Stainless-Retry-Count": "0"})
    assert other["id"] != first["id"]
    key = {"Idempotency-Key": "k1"}
    one, two = await predict(world, body, **key), await predict(world, body, **key)
    assert one["id"] == two["id"]


async def test_an_idempotency_key_is_of_one_model(world: World) -> None:
    await world.register(UPPER, {**UPPER, "name": "demo/other"})
    key = {"Idempotency-Key": "k1"}
    await predict(world, **key)
    path, body = f"{HOME}/models/demo/other/predictions", {"input": {"text": "a"}}
    answer = await world.anna("POST", path, body, headers=key)
    assert (answer.status, answer.json["code"]) == (422, "idempotency_mismatch")


async def test_an_idempotency_key_says_more_than_a_count_of_retries(world: World) -> None:
    await world.register()
    first = await predict(world)
    retry = {"X-Stainless-Retry-Count": "1"}
    assert (await predict(world, **retry, **{"Idempotency-Key": "k1"}))["id"] != first["id"]


# --- streams -------------------------------------------------------------------------------------


async def _events(client: Client, url: str, headers: dict[str, str] | None = None) -> Any:
    path = url.removeprefix("http://swell.test")
    found = []
    async with client.stream(path, headers) as stream:
        assert stream.task is not None
        while (block := await stream.block()) is not None:
            lines = [line.partition(": ") for line in block.splitlines()]
            fields: dict[str, Any] = {}
            for name, _, value in lines:
                fields[name] = f"{fields[name]}\n{value}" if name in fields else value
            if "event" in fields:
                found.append((fields["event"], fields["id"], fields["data"]))
    return found


async def test_a_stream_has_four_kinds_of_events_and_each_has_an_id(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    [lease] = (await world.lease(worker))["tasks"]
    news = {**hold(lease), "place": 1, "kind": "progress", "data": {"step": 1, "steps": 2}}
    await world.report(worker, progress=[news])
    preview = {**hold(lease), "place": 2, "kind": "preview", "data": {"image": "data:,x"}}
    await world.report(worker, progress=[preview])
    await world.report(worker, settlements=[succeeded(lease, ["A", {"b": 1}])])
    # The signed URL is enough: replicate-javascript sends no key.
    events = await _events(world.stranger, made["urls"]["stream"])
    assert [(kind, data) for kind, _, data in events] == [
        ("output", "A"),
        ("output", '{"b":1}'),
        ("done", "{}"),
    ]
    assert len({place for _, place, _ in events}) == 3
    # Whoever has the beginning gets the rest.
    for seen in range(3):
        headers = {"Last-Event-ID": events[seen][1]}
        rest = await _events(world.anna, made["urls"]["stream"], headers)
        assert rest == events[seen + 1 :]


async def test_a_stream_tells_progress_while_it_runs(world: World) -> None:
    worker = await world.register()
    made = await predict(world)
    path = made["urls"]["stream"].removeprefix("http://swell.test")
    async with world.stranger.stream(path) as stream:
        assert await stream.block() == "retry: 2000"
        [lease] = (await world.lease(worker))["tasks"]
        news = {**hold(lease), "place": 1, "kind": "progress", "data": {"step": 1, "steps": 2}}
        await world.report(worker, progress=[news])
        block = await stream.block()
        assert block == "event: logs\nid: 1000001-0\ndata:  50%|#####     | 1/2\ndata: "
        await world.report(worker, settlements=[failed(lease, retryable=False)])
        assert (await stream.block()).startswith("event: error\n")
        assert (await stream.block()).endswith('data: {"reason": "error"}')
        assert await stream.block() is None
    assert len(world.service.streams) == 0


async def test_a_stream_of_a_canceled_prediction_says_why_it_is_done(world: World) -> None:
    await world.register()
    made = await predict(world)
    await world.anna("POST", f"{HOME}/predictions/{made['id']}/cancel")
    events = await _events(world.stranger, made["urls"]["stream"])
    assert [(kind, data) for kind, _, data in events] == [("done", '{"reason": "canceled"}')]


async def test_a_stream_needs_a_key_or_its_own_signature(world: World) -> None:
    await world.register()
    made, other = await predict(world), await predict(world)
    path, _, query = made["urls"]["stream"].partition("?")
    path = path.removeprefix("http://swell.test")
    assert (await world.stranger("GET", path)).status == 401
    wrong = f"{path.replace(made['id'], other['id'])}?{query}"
    assert (await world.stranger("GET", wrong)).status == 403
    world.clock.advance(3601)
    assert (await world.stranger("GET", f"{path}?{query}")).status == 403


async def test_a_signed_stream_outlives_a_look_at_keys(world: World) -> None:
    await world.register()
    made = await predict(world)
    path = made["urls"]["stream"].removeprefix("http://swell.test")
    async with world.stranger.stream(path) as stream:
        assert await stream.block() == "retry: 2000"
        await check_streams(world.service)
        assert len(world.service.streams) == 1


@pytest.mark.parametrize("last", ["x", "5", "1000000-", "-1", "9" * 20 + "-0"])
async def test_an_id_that_is_none_of_a_stream_is_refused(world: World, last: str) -> None:
    await world.register()
    made = await predict(world)
    path = made["urls"]["stream"].removeprefix("http://swell.test")
    answer = await world.stranger("GET", path, headers={"Last-Event-ID": last})
    assert answer.status == 400


# --- models --------------------------------------------------------------------------------------


async def test_a_model_and_its_versions_are_told_as_clients_read_them(world: World) -> None:
    await world.register()
    listed = (await world.anna("GET", f"{HOME}/models")).json
    [model] = listed["results"]
    assert (model["owner"], model["name"]) == ("demo", "upper")
    assert model["visibility"] == "public"
    assert isinstance(model["run_count"], int)
    assert model["default_example"]["input"] == {"text": "hello"}
    assert (await world.anna("GET", f"{HOME}/models/demo/upper")).json == model
    version = (await world.anna("GET", f"{HOME}/models/demo/upper/versions/1")).json
    assert version == model["latest_version"]
    assert {"id", "created_at", "cog_version", "openapi_schema"} == set(version)
    assert tuple(map(int, version["cog_version"].split("."))) >= (0, 3, 9)
    versions = (await world.anna("GET", f"{HOME}/models/demo/upper/versions")).json
    assert versions["results"] == [version]
    readme = await world.anna("GET", f"{HOME}/models/demo/upper/readme")
    assert readme.body.decode().startswith("# Upper")
    examples = (await world.anna("GET", f"{HOME}/models/demo/upper/examples")).json["results"]
    assert [each["input"] for each in examples] == [{"text": "hello"}]
    assert (await world.anna("GET", f"{HOME}/models/demo/none")).status == 404
    assert (await world.anna("GET", f"{HOME}/models/demo/upper/versions/9")).status == 404


@pytest.mark.parametrize("words", [b"upper", b"LARGE text", b'"upper"', b""])
async def test_models_are_searched_by_a_query(world: World, words: bytes) -> None:
    await world.register(UPPER, {**UPPER, "name": "demo/none", "description": "Nothing."})
    answer = await world.anna("QUERY", f"{HOME}/models", words)
    assert answer.status == 200, answer.body
    names = [each["name"] for each in answer.json["results"]]
    assert names == (["upper"] if words else ["none", "upper"])


async def test_everything_is_searched_as_newer_clients_do(world: World) -> None:
    await world.register()
    found = (await world.anna("GET", f"{HOME}/search?query=upper&limit=5")).json
    assert [each["model"]["name"] for each in found["models"]] == ["upper"]
    assert (await world.anna("GET", f"{HOME}/search")).status == 422


async def test_models_come_in_pages(world: World) -> None:
    await world.register(*({**UPPER, "name": f"demo/m{n}"} for n in range(3)))
    first = (await world.anna("GET", f"{HOME}/models?limit=2")).json
    rest = (await world.anna("GET", first["next"].removeprefix("http://swell.test"))).json
    names = [each["name"] for each in [*first["results"], *rest["results"]]]
    assert names == ["m0", "m1", "m2"]
    assert rest["next"] is None


def test_a_schema_has_input_and_output_and_no_reference_that_leads_nowhere() -> None:
    card = ModelCard(
        name="a/b",
        version="1",
        input_schema={
            "$defs": {"Size": {"enum": ["s", "l"]}},
            "type": "object",
            "properties": {"size": {"$ref": "#/$defs/Size"}, "text": {"type": "string"}},
            "required": ["text"],
        },
        output_schema={
            "$defs": {"Word": {"type": "string"}},
            "type": "array",
            "items": {"$ref": "#/$defs/Word"},
            "x-cog-array-type": "iterator",
        },
    )
    schemas = openapi_of(card)["components"]["schemas"]
    assert schemas["Output"]["type"] == "array"
    assert schemas["Output"]["x-cog-array-type"] == "iterator"
    assert schemas["Input"]["required"] == ["text"]
    assert list(schemas["Input"]["properties"]) == ["size", "text", "seed", "num_outputs"]
    text = msgspec.json.encode(schemas).decode()
    referred = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', text))
    assert referred <= set(schemas)
    assert "$defs" not in text


async def test_what_stands_around_models_is_told(world: World) -> None:
    await world.register()
    account = (await world.anna("GET", f"{HOME}/account")).json
    assert (account["type"], account["username"]) == ("user", "anna")
    [pool] = (await world.anna("GET", f"{HOME}/hardware")).json
    assert set(pool) == {"name", "sku"}
    [collection] = (await world.anna("GET", f"{HOME}/collections")).json["results"]
    assert collection["slug"] == "demo"
    found = (await world.anna("GET", f"{HOME}/collections/demo")).json
    assert [each["name"] for each in found["models"]] == ["upper"]
    assert (await world.anna("GET", f"{HOME}/collections/none")).status == 404
    secret = (await world.anna("GET", f"{HOME}/webhooks/default/secret")).json["key"]
    assert secret == (await world.anna("GET", f"{HOME}/webhooks/default/secret")).json["key"]
    prefix, _, code = secret.partition("_")
    assert prefix == "whsec"
    assert "_" not in code
    assert len(base64.b64decode(code, validate=True)) >= 24


# --- deployments ---------------------------------------------------------------------------------


async def test_every_model_is_a_deployment_of_its_own_name(world: World) -> None:
    worker = await world.register()
    found = (await world.anna("GET", f"{HOME}/deployments/demo/upper")).json
    release = found["current_release"]
    assert (release["model"], release["version"], release["number"]) == ("demo/upper", "1", 1)
    assert release["configuration"]["min_instances"] == 1
    path = f"{HOME}/deployments/demo/upper/predictions"
    made = (await world.anna("POST", path, {"input": {"text": "a"}})).json
    assert made["deployment"] == "demo/upper"
    await run(world, worker, output="A")
    assert (await now(world, made))["deployment"] == "demo/upper"


async def test_a_deployment_stands_for_a_version_and_may_be_pointed_at_another(
    world: World,
) -> None:
    await world.register(UPPER)
    await world.register({**UPPER, "version": "2"})
    body = {"name": "big", "model": "demo/upper", "version": "1", "min_instances": 0}
    assert (await world.anna("POST", f"{HOME}/deployments", body)).status == 403
    made = await world.admin("POST", f"{HOME}/deployments", body)
    assert made.status == 201, made.body
    assert made.json["owner"] == "admin"
    assert (await world.admin("POST", f"{HOME}/deployments", body)).status == 409
    path = f"{HOME}/deployments/admin/big"
    ask = {"input": {"text": "a"}}
    first = (await world.anna("POST", f"{path}/predictions", ask)).json
    assert (first["model"], first["version"]) == ("demo/upper", "1")
    changed = (await world.admin("PATCH", path, {"version": "2"})).json
    assert changed["current_release"]["number"] == 2
    second = (await world.anna("POST", f"{path}/predictions", ask)).json
    assert (second["version"], second["deployment"]) == ("2", "admin/big")
    names = [
        each["name"] for each in (await world.anna("GET", f"{HOME}/deployments")).json["results"]
    ]
    assert names == ["big", "upper"]
    assert (await world.admin("DELETE", path)).status == 204
    assert (await world.anna("GET", path)).status == 404


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"min_instances": 5}, "/min_instances"),
        ({"max_instances": 0}, "/max_instances"),
        ({"hardware": "gpu-none"}, "/hardware"),
    ],
)
async def test_a_deployment_that_a_pool_cannot_keep_is_refused(
    world: World, wish: dict[str, Any], field: str
) -> None:
    await world.register()
    body = {"name": "big", "model": "demo/upper", **wish}
    answer = await world.admin("POST", f"{HOME}/deployments", body)
    assert answer.status == 422
    assert answer.json["errors"][0]["pointer"] == field
    assert "pool" in answer.json["detail"]


async def test_a_model_itself_is_not_to_be_changed_as_a_deployment(world: World) -> None:
    await world.register()
    path = f"{HOME}/deployments/demo/upper"
    assert (await world.admin("PATCH", path, {"version": "1"})).status == 409
    assert (await world.admin("DELETE", path)).status == 409
    assert (await world.admin("DELETE", f"{HOME}/deployments/demo/none")).status == 404


async def test_the_body_of_an_error_can_be_read_by_these_clients(world: World) -> None:
    answer = await world.stranger("GET", f"{HOME}/account")
    assert answer.status == 401
    assert {"type", "title", "status", "detail", "instance"} <= set(json.loads(answer.body))
