"""The route table, what is made from it, and the errors that every path shares."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_harness import Client, World, a_world
from openapi_spec_validator import OpenAPIV31SpecValidator

from swell.server import reference
from swell.server.openapi import describe
from swell.server.problem_details import ERROR_TYPES
from swell.server.routes import GROUPS, ROUTES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


@pytest.mark.slow
def test_the_description_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(describe(ROUTES, GROUPS, version="1")).validate()


def test_every_operation_has_its_own_name_and_group() -> None:
    names = [route.operation_id for route in ROUTES]
    assert len(names) == len(set(names))
    assert {route.group for route in ROUTES} == set(GROUPS)


def test_every_schema_that_is_referred_to_is_there() -> None:
    described = describe(ROUTES, GROUPS, version="1")
    text = json.dumps(described)
    for name in set(text.split('"#/components/schemas/')[1:]):
        assert name.partition('"')[0] in described["components"]["schemas"]


def test_files_are_described_beside_the_json_that_they_may_come_instead_of() -> None:
    create = describe(ROUTES, GROUPS, version="1")["paths"]["/v1/tasks"]["post"]
    over = create["responses"]["201"]
    assert {"application/json", "image/*", "audio/*"} <= set(over["content"])
    assert {"x-request-id", "swell-task"} <= set(over["headers"])
    assert set(create["responses"]["202"]["content"]) == {"application/json"}
    # A parameter of this name would be ignored.
    assert "Accept" not in {each["name"] for each in create["parameters"]}


def test_the_reference_is_current() -> None:
    assert REFERENCE.read_text() == reference.write(), (
        "run `python -m swell.server.reference > docs/reference/http.md`"
    )
    metrics = REFERENCE.with_name("metrics.md")
    assert metrics.read_text() == reference.metrics_markdown(), "run `make docs`"


async def test_the_served_description_names_where_it_is_served(world: World) -> None:
    answer = await world.stranger("GET", "/openapi.json")
    assert answer.json["servers"] == [{"url": "http://swell.test"}]
    assert "/v1/tasks/{id}/events" in answer.json["paths"]


async def test_an_error_is_readable_by_several_clients(world: World) -> None:
    answer = await world.anna("GET", "/v1/tasks/nope")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert set(problem) == {
        *("type", "title", "status", "detail", "instance", "code", "errors", "request_id"),
        *("error", "error_type"),
    }
    assert problem["type"] == "/docs/errors#not_found"
    assert problem["instance"] == "/v1/tasks/nope"
    assert problem["error"]["message"] == problem["detail"]
    assert problem["error"]["code"] == problem["error_type"] == problem["code"] == "not_found"
    assert problem["request_id"] == answer.headers["x-request-id"]


async def test_each_error_code_has_a_place_in_the_docs(world: World) -> None:
    page = (await world.stranger("GET", "/docs/errors")).body.decode()
    assert ERROR_TYPES
    for code in ERROR_TYPES:
        assert f'id="{code}"' in page


@pytest.mark.parametrize(
    "path", ["/v1/task", "/v2/tasks", "/v1/tasks/", "/nothing", "/v1/tasks/a/b"]
)
async def test_a_path_that_leads_nowhere_says_so(world: World, path: str) -> None:
    answer = await world.stranger("GET", path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/docs" in answer.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/tasks", "GET, HEAD, POST"),
        ("PUT", "/v1/tasks/a", "DELETE, GET, HEAD"),
        ("GET", "/worker/v1/lease", "POST"),
        ("POST", "/v1/artifacts/a/b", "GET, HEAD, PUT"),
    ],
)
async def test_a_wrong_method_names_the_right_ones(
    world: World, method: str, path: str, allowed: str
) -> None:
    answer = await world.admin(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed


async def test_words_win_over_placeholders(world: World) -> None:
    answer = await world.admin("POST", "/v1/dead/replay", {})
    assert answer.json == {"replayed": []}


@pytest.mark.parametrize("header", [None, "Basic abc", "Bearer", "Bearer swell_wrong", "\xff"])
async def test_a_missing_or_wrong_key_says_how_to_get_one(world: World, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = await world.stranger("GET", "/v1/tasks", headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "swell keys create" in answer.json["detail"]
    assert answer.json["error"]["type"] == "authentication_error"


async def test_a_key_without_the_scope_is_refused(world: World) -> None:
    assert (await world.anna("GET", "/v1/keys")).status == 403
    assert (await world.anna("POST", "/worker/v1/lease", {})).status == 403
    assert (await world.worker("POST", "/v1/tasks", {})).status == 403
    assert (await world.admin("GET", "/v1/tasks")).status == 200


async def test_a_key_is_shown_once_and_can_be_revoked(world: World) -> None:
    made = await world.admin("POST", "/v1/keys", {"name": "shop"})
    assert made.status == 201
    secret = made.json["key"]
    assert secret.startswith("swell_")
    shop = Client(world.app, secret)
    assert (await shop("GET", "/v1/tasks")).status == 200
    listed = await world.admin("GET", "/v1/keys")
    assert secret not in listed.body.decode()
    assert "digest" not in listed.body.decode()
    for _ in range(2):
        revoked = await world.admin("DELETE", f"/v1/keys/{made.json['id']}")
        assert revoked.json["revoked_at"] is not None
    assert (await shop("GET", "/v1/tasks")).status == 401
    assert (await world.admin("DELETE", "/v1/keys/none")).status == 404


async def test_a_key_revoked_elsewhere_stops_working_in_seconds(world: World) -> None:
    made = (await world.admin("POST", "/v1/keys", {"name": "shop"})).json
    shop = Client(world.app, made["key"])
    assert (await shop("GET", "/v1/tasks")).status == 200
    registry = world.service.registry
    [key] = [key for key in await registry.keys() if key.id == made["id"]]
    await registry.put_key(type(key)(**{**_fields(key), "revoked_at": world.clock.now()}))
    world.clock.advance(6)
    assert (await shop("GET", "/v1/tasks")).status == 401


@pytest.mark.slow
async def test_a_fault_of_ours_tells_the_request_id_and_nothing_else(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = await world.register()
    assert worker
    # A store that was taken away under a running service.
    world.service.store = None  # type: ignore[assignment]
    answer = await world.anna("GET", "/v1/tasks")
    assert answer.status == 500
    assert answer.json["request_id"] in answer.json["detail"]
    assert "NoneType" not in answer.body.decode()
    out = capsys.readouterr()
    assert answer.json["request_id"] in out.out + out.err


async def test_health_and_numbers_need_no_key(world: World) -> None:
    worker = await world.register()
    await world.create()
    assert worker
    assert (await world.stranger("GET", "/health/live")).status == 200
    assert (await world.stranger("GET", "/health/ready")).json["status"] == "ok"
    text = (await world.stranger("GET", "/metrics")).body.decode()
    assert 'swell_tasks_accepted_total{model="demo/upper"} 1.0' in text
    assert 'swell_tasks_waiting{queue="demo/upper"} 1.0' in text
    assert 'swell_workers{pool="default",state="idle"} 1.0' in text
    assert 'route="/v1/tasks",status="202"' in text


async def test_a_stopped_service_is_not_ready() -> None:
    async with a_world() as world:
        await world.app.stop()
        answer = await world.stranger("GET", "/health/ready")
        assert answer.status == 503


async def test_pages_have_no_scripts_and_llms_txt_names_the_models(world: World) -> None:
    await world.register({"name": "demo/evil", "version": "1", "description": "<script>"})
    for path in ("/", "/docs", "/docs/errors"):
        answer = await world.stranger("GET", path)
        assert answer.status == 200
        text = answer.body.decode()
        assert "<script" not in text
        assert "//cdn" not in text
    assert "demo/evil" in (await world.stranger("GET", "/llms.txt")).body.decode()


async def test_the_reference_is_a_page_with_tables(world: World) -> None:
    text = (await world.stranger("GET", "/docs")).body.decode()
    assert "<h1>HTTP reference</h1>" in text
    assert "<code>POST /v1/tasks</code></h3>" in text
    assert "<td><code>model</code></td>" in text


async def test_models_are_listed_with_their_schemas(world: World) -> None:
    await world.register()
    [model] = (await world.anna("GET", "/v1/models")).json["models"]
    assert model["name"] == "demo/upper"
    assert model["workers"] == 1
    assert model["input_schema"]["required"] == ["text"]
    one = (await world.anna("GET", "/v1/models/demo/upper")).json
    assert one == model
    versions = (await world.anna("GET", "/v1/models/demo/upper/versions")).json["models"]
    assert versions == [model]
    assert (await world.anna("GET", "/v1/models/demo/none/versions")).status == 404


async def test_a_head_request_has_no_body_but_its_length(world: World) -> None:
    full = await world.stranger("GET", "/health/live")
    answer = await world.stranger("HEAD", "/health/live")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-length"] == str(len(full.body))


def _fields(key: object) -> dict[str, object]:
    return {name: getattr(key, name) for name in key.__struct_fields__}  # type: ignore[attr-defined]
