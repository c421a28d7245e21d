"""Creating, reading, canceling and repeating tasks over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from api_harness import UPPER, World, a_world, failed, hold, succeeded

from sqlite_rig import turns
from swell.core.task import Task
from swell.server.app import create_app
from swell.server.background_jobs import sweep


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def test_a_task_is_accepted_with_a_place_in_the_queue(world: World) -> None:
    await world.register()
    await world.create()
    answer = await world.anna(
        "POST",
        "/v1/tasks",
        {"model": "demo/upper", "input": {"text": "b"}, "metadata": {"k": [1]}},
    )
    assert answer.status == 202
    task = answer.json
    assert task["state"] == "queued"
    assert task["position"] == 2
    assert task["eta_s"] is None
    assert task["metadata"] == {"k": [1]}
    assert task["urls"]["get"] == f"http://swell.test/v1/tasks/{task['id']}"
    assert answer.headers["location"] == task["urls"]["get"]
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_task_has_every_field_of_the_design(world: World) -> None:
    await world.register()
    task = await world.create()
    assert set(task) == {
        *("id", "model", "version", "state", "input", "output", "artifacts", "warnings", "error"),
        "attempt",
        *("max_attempts", "position", "eta_s", "created_at", "started_at", "finished_at"),
        *("timings", "cost_micros", "seed", "user", "metadata", "urls", "data_removed"),
    }


async def test_warnings_of_the_model_are_in_every_answer_about_the_task(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    assert task["warnings"] == []
    async with world.anna.stream(f"/v1/tasks/{task['id']}/events") as stream:
        await stream.block()
        await stream.event()
        [lease] = (await world.lease(worker))["tasks"]
        told = {"code": "unknown_subject", "message": "It knows no a.", "suggestions": ["b", "c"]}
        await world.report(worker, settlements=[succeeded(lease, "A", warnings=[told])])
        assert (await stream.event())["event"] == "started"
        assert (await stream.event())["data"]["warnings"] == [told]
    assert (await world.anna("GET", f"/v1/tasks/{task['id']}")).json["warnings"] == [told]
    [listed] = (await world.anna("GET", "/v1/tasks")).json["tasks"]
    assert listed["warnings"] == [told]


@pytest.mark.parametrize(
    "warning",
    [
        {"code": "Not a word", "message": "a"},
        {"code": "long", "message": "a" * 301},
        {"code": "many", "message": "a", "suggestions": ["a"] * 7},
    ],
)
async def test_a_worker_cannot_report_a_warning_of_any_size(
    world: World, warning: dict[str, Any]
) -> None:
    worker = await world.register()
    task = await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    body = {"worker_id": worker, "settlements": [succeeded(lease, "A", warnings=[warning])]}
    answer = await world.worker("POST", "/worker/v1/report", body)
    assert answer.status == 422
    assert (await world.anna("GET", f"/v1/tasks/{task['id']}")).json["state"] == "running"


async def test_waiting_answers_201_with_the_outcome(world: World) -> None:
    worker = await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}}
    asked = asyncio.create_task(
        world.anna("POST", "/v1/tasks", body, headers={"Prefer": "wait=30"})
    )
    grant = await world.lease(worker, wait_s=5)
    await world.report(worker, settlements=[succeeded(grant["tasks"][0], {"text": "A"})])
    answer = await asked
    assert answer.status == 201
    assert answer.json["state"] == "succeeded"
    assert answer.json["output"] == {"text": "A"}
    assert answer.json["version"] == "1"
    assert answer.headers["preference-applied"] == "wait=30"


@pytest.mark.slow
async def test_waiting_in_vain_answers_202(world: World) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}}
    async with asyncio.timeout(5):
        asked = asyncio.create_task(
            world.anna("POST", "/v1/tasks", body, headers={"Prefer": "respond-async, wait=1"})
        )
        answer = await asked
    assert answer.status == 202
    assert answer.headers["preference-applied"] == "wait=1"


async def test_an_unknown_model_names_close_ones_and_how_to_serve_it(world: World) -> None:
    await world.register()
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/uper", "input": {}})
    assert answer.status == 404
    assert "did you mean demo/upper" in answer.json["detail"]
    assert "swell worker" in answer.json["detail"]


async def test_while_workers_start_a_model_is_not_called_unknown(world: World) -> None:
    world.service.cards.is_starting = True
    body = {"model": "demo/upper", "input": {"text": "a"}}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert (answer.status, answer.json["code"]) == (503, "no_worker")
    assert "Swell is starting" in answer.json["detail"]


async def test_a_value_outside_a_choice_is_told_all_choices(world: World) -> None:
    kinds = [f"kind-{n}" for n in range(7)]
    schema = {"properties": {"kind": {"enum": kinds}}}
    await world.register({**UPPER, "input_schema": schema})
    body = {"model": "demo/upper", "input": {"kind": "kin"}}
    [error] = (await world.anna("POST", "/v1/tasks", body)).json["errors"]
    listed = ", ".join(f'"{kind}"' for kind in kinds)
    assert error["detail"] == f'"kin" is not one of {listed}'


async def test_an_unknown_field_is_an_error_with_a_suggestion(world: World) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}, "prioritty": 1}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 422
    assert answer.json["errors"] == [
        {
            "pointer": "/prioritty",
            "detail": "there is no field 'prioritty'; did you mean 'priority'?",
            "code": "unknown_field",
        }
    ]


async def test_of_many_broken_fields_only_some_are_listed(world: World) -> None:
    await world.register()
    fields = {f"f{number}": number for number in range(5000)}
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/upper", "input": fields})
    assert (answer.status, len(answer.json["errors"])) == (422, 50)


async def test_every_broken_input_field_is_listed(world: World) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"times": 10, "tex": "a"}}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 422
    found = {error["pointer"]: error["code"] for error in answer.json["errors"]}
    assert found == {
        "/input/times": "maximum",
        "/input/tex": "unknown_field",
        "/input/text": "required",
    }
    assert "did you mean 'text'" in str(answer.json["errors"])


async def test_a_text_that_must_not_be_blank_is_refused_in_words(world: World) -> None:
    text = {"type": "string", "pattern": r"\S"}
    await world.register({**UPPER, "input_schema": {"properties": {"text": text}}})
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/upper", "input": {"text": " "}})
    assert answer.status == 422
    [error] = answer.json["errors"]
    assert (error["pointer"], error["code"]) == ("/input/text", "pattern")
    assert error["detail"] == "it is blank; write at least one word"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("count", 0), ("count", 101), ("count", "1"), ("priority", 10), ("priority", -1)),
        *(("user", "x" * 201), ("max_attempts", 0), ("max_attempts", 21), ("seed", -1)),
        *(("start_by_s", 0), ("finish_by_s", 1e12), ("model", ""), ("input", []), ("input", None)),
        ("metadata", "x" * 17_000),
    ],
)
async def test_values_out_of_bounds_name_their_field(
    world: World, field: str, value: object
) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}, field: value}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 422
    assert answer.json["errors"][0]["pointer"] == f"/{field}"


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"model": "\xff"}', b"[" * 40_000])
async def test_a_body_that_is_no_request_is_refused(world: World, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await world.anna("POST", "/v1/tasks", body, headers=headers)
    assert answer.status in (400, 422)


async def test_broken_text_inside_an_input_is_refused(world: World) -> None:
    await world.register()
    body = b'{"model": "demo/upper", "input": {"text": "\xff"}}'
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 400


@pytest.mark.parametrize("levels", [300, 900])
async def test_an_input_that_is_nested_too_deeply_to_be_checked_is_refused(
    world: World, levels: int
) -> None:
    await world.register()
    deep = "[" * levels + "]" * levels
    body = f'{{"model": "demo/upper", "input": {{"text": {deep}}}}}'.encode()
    answer = await world.anna("POST", "/v1/tasks", body)
    assert answer.status == 422
    assert answer.json["errors"][0]["pointer"].startswith("/input")


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch"])
@pytest.mark.parametrize("part", [b'"\xff"', b'"\\ud800"'])
async def test_broken_metadata_is_refused_also_with_an_idempotency_key(
    world: World, path: str, part: bytes
) -> None:
    await world.register()
    body = b'{"model": "demo/upper", "input": {"text": "a"}, "metadata": ' + part + b"}"
    if path.endswith("batch"):
        body = b'{"tasks": [' + body + b"]}"
    answer = await world.anna("POST", path, body, headers={"Idempotency-Key": "k"})
    assert answer.status in (400, 422), answer.body


async def test_deep_metadata_comes_back_as_it_came_or_is_refused(world: World) -> None:
    await world.register()
    # How deep JSON may be is the interpreter's: newer ones read this, older ones do not.
    deep = b"[" * 5000 + b"]" * 5000
    body = b'{"model": "demo/upper", "input": {"text": "a"}, "metadata": ' + deep + b"}"
    answer = await world.anna("POST", "/v1/tasks", body, headers={"Idempotency-Key": "k"})
    assert answer.status in (202, 400), answer.body
    if answer.status == 202:
        got = await world.anna("GET", f"/v1/tasks/{answer.json['id']}")
        assert deep in got.body


async def test_another_content_type_is_refused(world: World) -> None:
    answer = await world.anna("POST", "/v1/tasks", b"a=b", headers={"Content-Type": "text/plain"})
    assert answer.status == 400
    assert "application/json" in answer.json["detail"]


async def test_a_body_that_is_too_large_is_refused_as_it_comes() -> None:
    async with a_world(max_body_bytes=1000) as world:
        for chunk_bytes in (None, 100):
            answer = await world.anna(
                "POST", "/v1/tasks", {"model": "a" * 2000}, chunk_bytes=chunk_bytes
            )
            assert answer.status == 413
            assert "/v1/uploads" in answer.json["detail"]


async def test_the_same_idempotency_key_gives_the_same_task(world: World) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}}
    first = await world.anna("POST", "/v1/tasks", body, headers={"Idempotency-Key": '"k 1"'})
    swapped = {"input": {"text": "a"}, "model": "demo/upper"}
    second = await world.anna("POST", "/v1/tasks", swapped, headers={"Idempotency-Key": "k 1"})
    assert first.json["id"] == second.json["id"]
    other = {"model": "demo/upper", "input": {"text": "b"}}
    clash = await world.anna("POST", "/v1/tasks", other, headers={"Idempotency-Key": "k 1"})
    assert (clash.status, clash.json["code"]) == (422, "idempotency_mismatch")


async def test_old_idempotency_keys_are_forgotten_though_no_task_needs_the_sweeper(
    world: World,
) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}}
    first = await world.anna("POST", "/v1/tasks", body, headers={"Idempotency-Key": "k"})
    await world.anna("POST", f"/v1/tasks/{first.json['id']}/cancel")
    anna = next(key for key in await world.service.registry.keys() if key.name == "anna")
    database = world.app.backend.store._db

    async def kept() -> int:
        return len(await database.fetch("idempotent", rows=[{"key_id": anna.id, "key": "k"}]))

    assert await kept() == 1
    for _ in range(2):
        world.clock.advance(86_401)
        await turns(20)
    assert await kept() == 0


async def test_a_clock_set_back_by_an_hour_holds_up_the_task_of_a_dead_worker_for_two_leases(
    world: World,
) -> None:
    worker = await world.register()
    task = await world.create()
    await world.lease(worker)
    world.clock.set_back(3600)
    for _ in range(4 * 62):
        world.clock.advance(0.25)
        await turns(10)
    view = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert (view["state"], view["attempt"]) == ("queued", 1)


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "ä", "k\n1", "k\x1f1"])
async def test_an_idempotency_key_must_be_usable(world: World, key: str) -> None:
    await world.register()
    body = {"model": "demo/upper", "input": {"text": "a"}}
    answer = await world.anna("POST", "/v1/tasks", body, headers={"Idempotency-Key": key})
    assert answer.status == 400


async def test_a_model_without_a_live_worker_answers_503_with_retry_after(world: World) -> None:
    await world.register()
    world.clock.advance(61)
    answer = await world.anna("POST", "/v1/tasks", {"model": "demo/upper", "input": {"text": "a"}})
    assert (answer.status, answer.json["code"]) == (503, "no_worker")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_launchable_model_is_accepted_without_a_worker() -> None:
    async with a_world(launchable=("demo/upper",)) as world:
        worker = await world.register()
        await world.report(worker, goodbye=True)
        await world.create()


async def test_a_launchable_model_brings_no_older_version() -> None:
    async with a_world(launchable=("demo/upper",)) as world:
        await world.register({**UPPER, "version": "1"})
        worker = await world.register({**UPPER, "version": "2"})
        body = {"model": "demo/upper:1", "input": {"text": "a"}}
        assert (await world.anna("POST", "/v1/tasks", body)).status == 202
        await world.report(worker, goodbye=True)
        world.clock.advance(61)
        refused = await world.anna("POST", "/v1/tasks", body)
        assert (refused.status, refused.json["code"]) == (503, "no_worker")
        await world.create(model="demo/upper:2")


async def test_a_version_can_be_insisted_on(world: World) -> None:
    await world.register()
    task = await world.create(model="demo/upper:1")
    assert task["model"] == "demo/upper"
    answer = await world.anna(
        "POST", "/v1/tasks", {"model": "demo/upper:2", "input": {"text": "a"}}
    )
    assert answer.status == 404
    assert "there are: 1" in answer.json["detail"]


async def test_a_deadline_that_cannot_be_kept_is_refused_with_retry_after(world: World) -> None:
    worker = await world.register(slots=1)
    await world.create()
    grant = await world.lease(worker)
    world.clock.advance(10)
    await world.report(worker, settlements=[succeeded(grant["tasks"][0], "x")])
    for _ in range(3):
        await world.create()
    body = {"model": "demo/upper", "input": {"text": "a"}, "finish_by_s": 5}
    answer = await world.anna("POST", "/v1/tasks", body)
    assert (answer.status, answer.json["code"]) == (503, "would_expire")
    assert answer.headers["retry-after"].isdigit()
    task = await world.create(finish_by_s=500)
    assert task["eta_s"]["low"] <= task["eta_s"]["median"] <= task["eta_s"]["high"]
    assert task["position"] == 4


async def _measure(world: World, worker: str, took_s: float, **fields: Any) -> None:
    """Have one task of a model take so long."""
    await world.create(**fields)
    tasks = (await world.lease(worker, n=1))["tasks"]
    await world.hold(worker, tasks, took_s)
    await world.report(worker, settlements=[succeeded(tasks[0], "x")])


def _asking(**fields: Any) -> dict[str, Any]:
    return {"model": "demo/upper", "input": {"text": "a"}, **fields}


async def test_anothers_backlog_breaks_nobodys_deadline(world: World) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [_asking()] * 50})
    mine = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=100))
    yours = await world.berta("POST", "/v1/tasks", _asking(finish_by_s=100))
    assert (mine.status, mine.json["code"]) == (503, "would_expire")
    assert (yours.status, yours.json["position"]) == (202, 1)
    user = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=100, user="ann"))
    assert user.status == 202


async def test_a_deadline_is_judged_at_the_rank_that_the_priority_gives(world: World) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [_asking()] * 50})
    urgent = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=100, priority=0))
    patient = await world.berta("POST", "/v1/tasks", _asking(finish_by_s=100, priority=2))
    assert (urgent.status, urgent.json["position"]) == (202, 1)
    assert (patient.status, patient.json["code"]) == (503, "would_expire")


async def test_the_tasks_of_a_batch_wait_for_one_another(world: World) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    for n, status in ((3, 202), (20, 503)):
        body = {"tasks": [_asking(finish_by_s=100, user=str(user)) for user in range(n)]}
        assert (await world.anna("POST", "/v1/tasks/batch", body)).status == status


@pytest.mark.parametrize(
    ("many", "one", "status"),
    [
        pytest.param({"user": "greedy"}, {"user": "modest"}, 202, id="another user's"),
        pytest.param({"user": "greedy"}, {"priority": 0, "user": "greedy"}, 202, id="less urgent"),
        pytest.param({"user": "greedy"}, {"user": "greedy"}, 503, id="its own user's"),
        pytest.param({"priority": 0, "user": "greedy"}, {"user": "modest"}, 503, id="more urgent"),
    ],
)
async def test_what_comes_earlier_in_a_batch_counts_where_it_is_run_earlier(
    world: World, many: dict[str, Any], one: dict[str, Any], status: int
) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    greedy = [_asking(**many)] * 50
    modest = _asking(finish_by_s=100, **one)
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": [*greedy, modest]})
    assert answer.status == status, answer.body
    # So it is where they come apart.
    assert (await world.anna("POST", "/v1/tasks/batch", {"tasks": greedy})).status == 202
    assert (await world.anna("POST", "/v1/tasks", modest)).status == status


async def test_a_user_of_a_batch_whose_tasks_wait_lets_others_go_first(world: World) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [_asking(user="busy")] * 6})
    batch = [_asking(user="other")] * 6 + [_asking(user="busy", finish_by_s=100)]
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": batch})
    assert answer.json["code"] == "would_expire"


async def test_a_deadline_is_judged_by_the_samples(world: World) -> None:
    worker = await world.register(slots=1)
    for count in (1, 4):
        await _measure(world, worker, 10 * count, count=count)
    many = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50, count=20))
    few = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50, count=4))
    assert (many.status, few.status) == (503, 202)
    assert few.json["eta_s"]["median"] == pytest.approx(40, abs=1)
    behind = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50))
    assert behind.status == 202
    last = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50))
    assert (last.status, last.json["code"]) == (503, "would_expire")


async def test_a_deadline_sees_what_else_its_workers_have_to_do(world: World) -> None:
    other = {**UPPER, "name": "demo/other"}
    worker = await world.register(UPPER, other, slots=1)
    await _measure(world, worker, 1)
    await _measure(world, worker, 100, model="demo/other")
    await world.berta("POST", "/v1/tasks/batch", {"tasks": [_asking(model="demo/other")] * 20})
    # The models take turns: one of the other's tasks comes first, and not all twenty.
    refused = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50))
    taken = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=500))
    assert (refused.status, refused.json["code"]) == (503, "would_expire")
    assert taken.status == 202
    assert 100 <= taken.json["eta_s"]["median"] <= 202
    patient = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=500, priority=2))
    assert patient.json["code"] == "would_expire"


async def test_a_deadline_sees_what_its_workers_are_doing_for_another_model(world: World) -> None:
    other = {**UPPER, "name": "demo/other"}
    worker = await world.register(UPPER, other, slots=1)
    await _measure(world, worker, 1)
    await _measure(world, worker, 100, model="demo/other")
    await world.create(model="demo/other")
    await world.lease(worker, n=1)
    refused = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50))
    assert (refused.status, refused.json["code"]) == (503, "would_expire")


async def test_a_deadline_sees_tasks_that_are_pinned_to_a_version(world: World) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [_asking(model="demo/upper:1")] * 20})
    refused = await world.anna("POST", "/v1/tasks", _asking(finish_by_s=50))
    assert (refused.status, refused.json["code"]) == (503, "would_expire")


@pytest.mark.parametrize("is_killed", [True, False])
async def test_what_tasks_took_is_known_after_a_restart(world: World, is_killed: bool) -> None:
    worker = await world.register(slots=1)
    await _measure(world, worker, 10)
    for _ in range(5):
        await world.create()
    if is_killed:
        world.clock.advance(3)
        await turns(20)
    else:
        await world.app.stop()
    again = World(world.clock, create_app(world.app.backend), world.keys)
    await again.app.start()
    refused = await again.anna("POST", "/v1/tasks", _asking(finish_by_s=30))
    assert (refused.status, refused.json["code"]) == (503, "would_expire")
    assert (await again.create(finish_by_s=500))["eta_s"]["median"] >= 50
    await again.app.stop()


async def test_a_batch_is_accepted_whole(world: World) -> None:
    await world.register()
    tasks = [{"model": "demo/upper", "input": {"text": str(n)}} for n in range(1000)]
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": tasks})
    assert answer.status == 202
    assert [task["input"]["text"] for task in answer.json["tasks"]] == [str(n) for n in range(1000)]


async def test_a_batch_with_one_bad_task_is_refused_whole(world: World) -> None:
    await world.register()
    good = {"model": "demo/upper", "input": {"text": "a"}}
    bad = {"model": "demo/upper", "input": {"text": ""}}
    lost = {"model": "demo/other", "input": {}}
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": [good, bad, lost]})
    assert answer.status == 422
    pointers = [error["pointer"] for error in answer.json["errors"]]
    assert pointers == ["/tasks/1/input/text", "/tasks/2/model"]
    listed = await world.anna("GET", "/v1/tasks")
    assert listed.json["tasks"] == []


@pytest.mark.parametrize("n", [0, 1001])
async def test_a_batch_has_one_to_a_thousand_tasks(world: World, n: int) -> None:
    tasks = [{"model": "demo/upper", "input": {"text": "a"}}] * n
    answer = await world.anna("POST", "/v1/tasks/batch", {"tasks": tasks})
    assert answer.status == 422


async def test_a_repeated_batch_gives_the_same_tasks(world: World) -> None:
    await world.register()
    body = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * 2}
    headers = {"Idempotency-Key": "b"}
    first = await world.anna("POST", "/v1/tasks/batch", body, headers=headers)
    second = await world.anna("POST", "/v1/tasks/batch", body, headers=headers)
    ids = [task["id"] for task in first.json["tasks"]]
    assert ids == [task["id"] for task in second.json["tasks"]]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("is_batch_first", [True, False])
async def test_single_requests_and_batches_share_one_scope_of_keys(
    world: World, is_batch_first: bool
) -> None:
    await world.register()
    headers = {"Idempotency-Key": "k"}
    one = {"model": "demo/upper", "input": {"text": "a"}}
    calls = [("/v1/tasks", one), ("/v1/tasks/batch", {"tasks": [one]})]
    if is_batch_first:
        calls.reverse()
    (first_path, first_body), (second_path, second_body) = calls
    assert (await world.anna("POST", first_path, first_body, headers=headers)).status == 202
    clash = await world.anna("POST", second_path, second_body, headers=headers)
    assert (clash.status, clash.json["code"]) == (422, "idempotency_mismatch")
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 1


@pytest.mark.parametrize("key", ["k#0", "k#1", "k 1", "k.1", "k:1"])
async def test_a_batch_takes_no_key_but_the_one_it_names(world: World, key: str) -> None:
    await world.register()
    one = {"model": "demo/upper", "input": {"text": "a"}}
    batch = {"tasks": [one] * 3}
    made = await world.anna("POST", "/v1/tasks/batch", batch, headers={"Idempotency-Key": "k"})
    other = await world.anna("POST", "/v1/tasks", one, headers={"Idempotency-Key": key})
    assert (made.status, other.status) == (202, 202)
    assert other.json["id"] not in [task["id"] for task in made.json["tasks"]]


async def test_a_batch_repeated_with_other_tasks_is_refused_whole(world: World) -> None:
    await world.register()
    headers = {"Idempotency-Key": "k"}
    one = {"model": "demo/upper", "input": {"text": "a"}}
    await world.anna("POST", "/v1/tasks/batch", {"tasks": [one] * 2}, headers=headers)
    for n in (1, 3):
        body = {"tasks": [one] * n}
        clash = await world.anna("POST", "/v1/tasks/batch", body, headers=headers)
        assert (clash.status, clash.json["code"]) == (422, "idempotency_mismatch")
    assert len((await world.anna("GET", "/v1/tasks")).json["tasks"]) == 2


async def test_a_client_sees_only_its_own_tasks(world: World) -> None:
    await world.register()
    task = await world.create()
    for path in ("", "/events"):
        assert (await world.berta("GET", f"/v1/tasks/{task['id']}{path}")).status == 404
    assert (await world.berta("POST", f"/v1/tasks/{task['id']}/cancel")).status == 404
    assert (await world.berta("GET", "/v1/tasks")).json["tasks"] == []
    assert (await world.anna("GET", f"/v1/tasks/{task['id']}")).status == 200
    assert (await world.admin("GET", f"/v1/tasks/{task['id']}")).status == 200
    assert len((await world.admin("GET", "/v1/tasks")).json["tasks"]) == 1


async def test_the_list_goes_on_with_a_cursor(world: World) -> None:
    await world.register()
    made = []
    for _ in range(5):
        made.append((await world.create())["id"])
        world.clock.advance(1)
    seen, cursor = [], ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        page = (await world.anna("GET", f"/v1/tasks?limit=2&state=queued{more}")).json
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["cursor"]
    assert seen == made[::-1]


async def test_a_user_called_null_is_a_user(world: World) -> None:
    await world.register()
    await world.create(user="anna")
    task = await world.create(user="null")
    listed = await world.anna("GET", "/v1/tasks?user=null")
    assert [each["id"] for each in listed.json["tasks"]] == [task["id"]]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "state=null",
        "limit= 5",
        "limit=x",
        "state=done",
        "stat=queued",
        "limit=1&limit=2",
    ],
)
async def test_a_wrong_query_is_refused(world: World, query: str) -> None:
    answer = await world.anna("GET", f"/v1/tasks?{query}")
    assert answer.status in (400, 422)


async def test_canceling_a_queued_task_ends_it_and_is_idempotent(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    for _ in range(2):
        answer = await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
        assert (answer.status, answer.json["state"]) == (200, "canceled")
    assert await world.lease(worker) == {}


async def test_a_task_that_several_cancel_at_once_ends_once(world: World) -> None:
    await world.register()
    task = await world.create()
    path = f"/v1/tasks/{task['id']}/cancel"
    answers = await asyncio.gather(*(world.anna("POST", path) for _ in range(5)))
    assert [each.json["state"] for each in answers] == ["canceled"] * 5
    assert world.service.metrics.values["swell_tasks_total"] == {("demo/upper", "canceled"): 1}


async def test_canceling_a_running_task_tells_its_worker_at_once(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    await world.lease(worker)
    listening = asyncio.create_task(world.lease(worker, n=0, wait_s=10))
    while not world.service.fleet.workers[worker].polls:
        await asyncio.sleep(0)
    answer = await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    assert answer.json["state"] == "running"
    assert await listening == {"cancels": [task["id"]]}


async def test_another_attempt_gets_the_seed_that_the_first_one_had(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    seeds = [task["seed"]]
    for _ in range(2):
        [lease] = (await world.lease(worker))["tasks"]
        seeds.append(lease["seed"])
        await world.report(worker, settlements=[failed(lease, retryable=True)])
        world.clock.advance(60)
        await sweep(world.service)
    shown = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert [shown["seed"], *seeds] == [task["seed"]] * 4
    assert 0 <= task["seed"] < 2**31


@pytest.mark.parametrize(
    ("told", "default", "asked", "seed"),
    [
        (5, None, {}, 5),
        (5, None, {"seed": 7}, 5),
        (None, None, {"seed": 7}, 7),
        (-1, None, {"seed": 7}, 7),
        (None, 3, {}, None),
        ("left out", 3, {}, 3),
        ("left out", None, {"seed": 7}, 7),
        ("left out", None, {}, None),
        (True, None, {}, None),
    ],
)
async def test_the_seed_of_an_input_is_the_tasks(
    world: World, told: Any, default: int | None, asked: dict[str, int], seed: int | None
) -> None:
    own = {"default": default, "anyOf": [{"type": "integer"}, {"type": ["null", "boolean"]}]}
    worker = await world.register(
        {**UPPER, "name": "demo/seeded", "input_schema": {"properties": {"seed": own}}}
    )
    value = {"words": 'say "seed"'} if told == "left out" else {"seed": told}
    body = {"model": "demo/seeded", "input": value, **asked}
    [task] = (await world.anna("POST", "/v1/tasks/batch", {"tasks": [body]})).json["tasks"]
    single = await world.create(**body)
    leases = (await world.lease(worker))["tasks"]
    assert {each["seed"] for each in leases} == {task["seed"], single["seed"]}
    if seed is None:
        assert task["seed"] != single["seed"]
    else:
        assert task["seed"] == single["seed"] == seed


async def test_an_ended_task_can_be_repeated_once(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    early = await world.anna("POST", f"/v1/tasks/{task['id']}/retry")
    assert early.status == 409
    grant = await world.lease(worker)
    await world.report(worker, settlements=[failed(grant["tasks"][0], retryable=False)])
    again = await world.anna("POST", f"/v1/tasks/{task['id']}/retry")
    assert again.status == 202
    assert again.json["id"] != task["id"]
    twice = await world.anna("POST", f"/v1/tasks/{task['id']}/retry")
    assert twice.json["id"] == again.json["id"]
    assert len((await world.lease(worker))["tasks"]) == 1


async def test_dead_letters_are_listed_and_replayed(world: World) -> None:
    worker = await world.register()
    tasks = [await world.create(max_attempts=1) for _ in range(3)]
    grant = await world.lease(worker)
    told = [failed(each, retryable=True) for each in grant["tasks"]]
    await world.report(worker, settlements=told)
    dead = (await world.admin("GET", "/v1/dead")).json["tasks"]
    assert {each["id"] for each in dead} == {each["id"] for each in tasks}
    one = await world.admin("POST", f"/v1/dead/{tasks[0]['id']}/replay")
    assert one.status == 202
    many = await world.admin("POST", "/v1/dead/replay", {"model": "demo/upper"})
    assert len(many.json["replayed"]) == 2
    assert all(each["new_id"] for each in many.json["replayed"])
    assert (await world.admin("GET", "/v1/dead")).json["tasks"] == []
    assert len((await world.lease(worker))["tasks"]) == 3
    mine = await world.anna("GET", "/v1/tasks?state=running")
    assert len(mine.json["tasks"]) == 3


async def test_many_dead_letters_are_read_by_one_call_and_replayed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await world.register()
    ids = [(await world.create(max_attempts=1))["id"] for _ in range(5)]
    grant = await world.lease(worker, n=5)
    told = [failed(each, retryable=True) for each in grant["tasks"]]
    await world.report(worker, settlements=told)
    store, reads = world.service.store, []
    get = store.get

    async def counted(task_ids: Sequence[str]) -> list[Task | None]:
        reads.append(len(task_ids))
        return await get(task_ids)

    monkeypatch.setattr(store, "get", counted)
    asked = [*ids, "unknown", ids[0]]
    replayed = (await world.admin("POST", "/v1/dead/replay", {"ids": asked})).json["replayed"]
    assert reads == [7]
    assert [each["id"] for each in replayed] == asked
    assert replayed[5]["error"] == "there is no task 'unknown'"
    new = [each["new_id"] for each in replayed if each["id"] in ids]
    # One that is named twice is repeated once.
    assert new[0] == new[5]
    assert len(set(new)) == 5
    assert len((await world.lease(worker, n=9))["tasks"]) == 5


async def test_what_is_no_dead_letter_is_not_replayed(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    grant = await world.lease(worker)
    await world.report(worker, settlements=[succeeded(grant["tasks"][0], "A")])
    one = await world.admin("POST", f"/v1/dead/{task['id']}/replay")
    assert (one.status, one.json["code"]) == (409, "conflict")
    assert f"POST /v1/tasks/{task['id']}/retry" in one.json["detail"]
    many = await world.admin("POST", "/v1/dead/replay", {"ids": [task["id"]]})
    assert many.json["replayed"][0]["error"] == one.json["detail"]
    assert await world.lease(worker) == {}


async def test_files_in_an_output_become_signed_urls(world: World) -> None:
    worker = await world.register()
    task = await world.create()
    grant = await world.lease(worker)
    key = f"outputs/{task['id']}/1/image.png"
    ask = {"worker_id": worker, "hold": hold(grant["tasks"][0]), "keys": [key]}
    where = await world.worker("POST", "/worker/v1/uploads", ask)
    url = where.json["uploads"][0]["url"]
    put = await world.stranger("PUT", url, b"PNG!", headers={"Content-Type": "image/png"})
    assert put.status == 201
    artifact = {"key": key, "content_type": "image/png", "bytes": 4, "width": 1, "height": 2}
    output = {"image": {"$artifact": 0}, "other": {"$artifact": 7}}
    done = succeeded(grant["tasks"][0], output, artifacts=[artifact], seed=7)
    await world.report(worker, settlements=[done])
    seen = (await world.anna("GET", f"/v1/tasks/{task['id']}")).json
    assert seen["seed"] == 7
    assert seen["output"]["image"] == seen["artifacts"][0]["url"]
    assert seen["output"]["other"] == {"$artifact": 7}
    assert "key" not in seen["artifacts"][0]
    assert (seen["artifacts"][0]["width"], seen["artifacts"][0]["height"]) == (1, 2)
    path = seen["artifacts"][0]["url"].removeprefix("http://swell.test")
    got = await world.stranger("GET", path)
    assert (got.status, got.body) == (200, b"PNG!")
    assert got.headers["content-type"] == "image/png"


async def test_a_repeat_gets_its_task_though_no_worker_is_left(world: World) -> None:
    worker = await world.register()
    headers = {"Idempotency-Key": "once"}
    body = {"model": "demo/upper", "input": {"text": "a"}}
    first = await world.anna("POST", "/v1/tasks", body, headers=headers)
    await world.report(worker, goodbye=True)
    again = await world.anna("POST", "/v1/tasks", body, headers=headers)
    assert (again.status, again.json["id"]) == (202, first.json["id"])
    fresh = await world.anna("POST", "/v1/tasks", body, headers={"Idempotency-Key": "new"})
    assert fresh.status == 503


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch"])
async def test_a_repeat_gets_its_task_though_its_model_has_changed(world: World, path: str) -> None:
    worker = await world.register()
    one = {"model": "demo/upper", "input": {"text": "a"}}
    body = {"tasks": [one]} if path.endswith("batch") else one
    headers = {"Idempotency-Key": "once"}
    first = await world.anna("POST", path, body, headers=headers)
    await world.report(worker, goodbye=True)
    schema = {**UPPER["input_schema"], "required": ["times"]}
    changed = {**UPPER, "version": "2", "input_schema": schema, "examples": [{"times": 1}]}
    await world.register(changed)
    await world.service.cards.refresh()
    fresh = await world.anna("POST", path, body)
    assert fresh.status == 422, "a new one would break the new schema"
    again = await world.anna("POST", path, body, headers=headers)
    assert (first.status, again.status) == (202, 202), again.body
    [a], [b] = (x.json.get("tasks", [x.json]) for x in (first, again))
    assert a["id"] == b["id"]
