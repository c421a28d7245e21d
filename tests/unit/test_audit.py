"""What operators did is written down, and stays so."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from api_harness import UPPER, World, a_world, hold, succeeded

from manual_clock import ManualClock
from swell.cli.models import _printable_lines
from swell.cli.output import table
from swell.core.errors import Unavailable
from swell.core.records import AuditEntry, Scope
from swell.db.registry import Registry
from swell.db.sqlite import SqliteDatabase
from swell.server.routes import ROUTES


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def _entries(world: World) -> list[dict[str, Any]]:
    answer = await world.admin("GET", "/v1/audit")
    assert answer.status == 200, answer.body
    entries: list[dict[str, Any]] = answer.json["entries"]
    return entries


# ---- the table of routes


def test_every_route_by_which_an_operator_changes_something_is_written_down() -> None:
    changing = [route for route in ROUTES if route.scope is Scope.ADMIN and route.method != "GET"]
    assert len(changing) >= 7
    assert [route.path for route in changing if not route.audit] == []


def test_what_is_read_is_not_written_down() -> None:
    noted = [route for route in ROUTES if route.audit]
    read = {route.audit for route in noted if route.method == "GET"}
    # But who was shown a secret is.
    assert read == {"webhooks.secret", "webhooks.named_secret"}
    assert all(route.scope is not None for route in noted)


def test_every_path_of_workers_tells_what_an_operator_did_there() -> None:
    theirs = [route for route in ROUTES if route.scope is Scope.WORKER]
    assert theirs
    # Weights are only read.
    assert [route.path for route in theirs if not route.audit] == ["/worker/v1/weights"]


def test_every_action_on_a_task_of_another_key_is_written_down() -> None:
    on_tasks = [
        route
        for route in ROUTES
        if route.scope is Scope.CLIENT and route.method != "GET" and "{id}" in route.path
    ]
    assert on_tasks
    assert [route.path for route in on_tasks if not route.audit] == []


def test_actions_have_names_of_their_own() -> None:
    # What another API's clients do has the name of what it does here.
    names = [(route.audit, route.facade) for route in ROUTES if route.audit]
    assert len(names) == len(set(names))
    native = {route.audit for route in ROUTES if not route.facade}
    shared = [name for name, facade in names if facade and name in native]
    assert set(shared) == {"tasks.cancel"}


@pytest.mark.parametrize(
    "route",
    [r for r in ROUTES if r.scope is Scope.ADMIN and r.method != "GET"],
    ids=lambda r: r.path,
)
async def test_each_of_them_really_writes(world: World, route: Any) -> None:
    """Whatever comes of it: here there is mostly nothing to act upon."""
    path = route.path.replace("{id}", "nothing").replace("{owner}/{name}", "no/thing")
    answer = await world.admin(route.method, path, {})
    (entry,) = await _entries(world)
    assert (entry["action"], entry["status"]) == (route.audit, answer.status)
    assert entry["request_id"] == answer.headers["x-request-id"]
    named = {"{id}": "nothing", "{owner}/{name}": "no/thing"}
    assert entry["target"] == next((named[part] for part in named if part in route.path), "")


# ---- what an entry tells


async def test_an_entry_tells_who_did_what_when_from_where_and_its_outcome(world: World) -> None:
    made = (await world.admin("POST", "/v1/keys", {"name": "shop"})).json
    world.clock.advance(60)
    revoked_at = world.clock.now()
    await world.admin("DELETE", f"/v1/keys/{made['id']}")
    (newest, oldest) = await _entries(world)
    admin = next(key for key in await world.service.registry.keys() if key.name == "admin")
    assert newest["at"] == revoked_at.isoformat().replace("+00:00", "Z")
    for entry in (newest, oldest):
        assert (entry["key_id"], entry["key_name"]) == (admin.id, "admin")
        assert entry["address"] == "127.0.0.1"
        assert entry["target"] == made["id"]
    assert (oldest["action"], oldest["status"]) == ("keys.create", 201)
    assert (newest["action"], newest["status"]) == ("keys.revoke", 200)
    assert oldest["detail"] == "'shop': client"


async def test_secrets_are_not_written_down(world: World) -> None:
    made = (await world.admin("POST", "/v1/keys", {"name": "shop"})).json
    new = (await world.admin("POST", f"/v1/keys/{made['id']}/rotate", {})).json
    await world.admin("POST", "/v1/signing/rotate", {})
    text = (await world.admin("GET", "/v1/audit")).body.decode()
    assert made["key"] not in text
    assert new["key"] not in text
    assert "swell_" not in text


async def test_what_was_refused_is_written_down_once_a_minute(world: World) -> None:
    for _ in range(5):
        assert (await world.anna("POST", "/v1/keys", {"name": "mine"})).status == 403
    assert [(e["key_name"], e["status"]) for e in await _entries(world)] == [("anna", 403)]
    await world.anna("DELETE", "/v1/keys/x")
    await world.berta("POST", "/v1/keys", {"name": "mine"})
    assert len(await _entries(world)) == 3
    world.clock.advance(60)
    await world.anna("POST", "/v1/keys", {"name": "mine"})
    assert len(await _entries(world)) == 4


async def test_who_has_no_key_leaves_no_entry(world: World) -> None:
    assert (await world.stranger("POST", "/v1/keys", {"name": "mine"})).status == 401
    assert await _entries(world) == []


async def test_an_operator_who_looks_after_the_task_of_another_is_written_down(
    world: World,
) -> None:
    await world.register()
    task = await world.create()
    await world.anna("POST", f"/v1/tasks/{task['id']}/cancel")
    assert await _entries(world) == []
    await world.admin("GET", f"/v1/tasks/{task['id']}")
    assert await _entries(world) == []
    await world.admin("POST", f"/v1/tasks/{task['id']}/cancel")
    (entry,) = await _entries(world)
    assert (entry["action"], entry["target"]) == ("tasks.cancel", task["id"])


async def test_a_client_that_tries_the_task_of_another_is_not_an_operator(world: World) -> None:
    await world.register()
    task = await world.create()
    assert (await world.berta("POST", f"/v1/tasks/{task['id']}/cancel")).status == 404
    assert await _entries(world) == []


async def test_an_operators_vote_is_written_down_where_the_comparison_is_anothers_own(
    world: World,
) -> None:
    two = UPPER | {"name": "demo/two"}
    worker_id = await world.register(UPPER, two)
    asked = [await world.create(model=each["name"]) for each in (UPPER, two)]
    leases = (await world.lease(worker_id, n=2))["tasks"]
    await world.report(worker_id, settlements=[succeeded(each, "a") for each in leases])
    rows = [{"tasks": [each["id"] for each in asked]}]
    vote = {"row": 0, "winner": 1, "voter": "v"}
    found = []
    for shared in (False, True):
        made = await world.anna("POST", "/v1/comparisons", {"rows": rows, "is_shared": shared})
        assert made.status == 201, made.body
        path = f"/v1/comparisons/{made.json['comparison']['id']}/votes"
        for caller in (world.anna, world.admin):
            assert (await caller("POST", path, vote)).status == 200
        found.append(made.json["comparison"]["id"])
    (entry,) = await _entries(world)
    assert (entry["action"], entry["target"]) == ("comparisons.vote", found[0])


async def test_what_workers_do_is_not_written_down(world: World) -> None:
    worker = await world.register()
    await world.create()
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease)], goodbye=True)
    assert await _entries(world) == []


async def test_what_an_operator_does_as_a_worker_is_written_down(world: World) -> None:
    body = {"name": "mine", "models": [UPPER]}
    own = (await world.admin("POST", "/worker/v1/register", body)).json["worker_id"]
    # Its own goes on without a word.
    await world.admin("POST", "/worker/v1/lease", {"worker_id": own, "n": 1})
    worker = await world.register()
    await world.create()
    ask = {"worker_id": worker, "n": 1}
    [lease] = (await world.admin("POST", "/worker/v1/lease", ask)).json["tasks"]
    wish = {"worker_id": worker, "hold": hold(lease), "keys": [f"outputs/{lease['task_id']}/1/a"]}
    assert (await world.admin("POST", "/worker/v1/uploads", wish)).status == 200
    told = {"worker_id": worker, "settlements": [succeeded(lease)], "goodbye": True}
    assert (await world.admin("POST", "/worker/v1/report", told)).status == 200
    begun = {"id": "s1", "age_s": 0.0, "pool": "default"}
    assert (await world.admin("POST", "/worker/v1/starting", begun)).status == 200
    entries = await _entries(world)
    written = {each["action"]: each["target"] for each in entries}
    # Each that the table of routes names is written in truth.
    theirs = [route for route in ROUTES if route.scope is Scope.WORKER and route.audit]
    assert {route.audit for route in theirs} == written.keys()
    assert written == {
        "workers.starting": "s1",
        "workers.register": own,
        "workers.lease": worker,
        "workers.upload": worker,
        "workers.report": worker,
    }
    assert len(entries) == 5


async def test_who_has_no_rights_writes_nothing_into_the_log_but_text(world: World) -> None:
    for path in ("/v1/keys/z\x1b[2K\x1b[1A", "/v1/keys/a\nb\u202e\x9b2J"):
        world.clock.advance(60)
        assert (await world.anna("DELETE", path)).status == 403
    targets = [entry["target"] for entry in await _entries(world)]
    assert targets == ["a\\nb\\u202e\\x9b2J", "z\\x1b[2K\\x1b[1A"]


def test_a_table_shows_nothing_but_text(capsys: pytest.CaptureFixture[str]) -> None:
    table(("A", "B"), [("\x1b]0;owned\x07", "a\nb"), ("ü 雨", None)], empty="")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b]0;owned\\x07" in shown
    assert "a\\nb" in shown
    assert "ü 雨" in shown


def test_what_a_card_says_is_shown_as_text_with_its_lines() -> None:
    assert (
        _printable_lines("# Up\x1b[2K\n\n\ta\x9b2J\u202e") == "# Up\\x1b[2K\n\n    a\\x9b2J\\u202e"
    )


async def test_entries_come_page_by_page(world: World) -> None:
    for number in range(5):
        await world.admin("POST", "/v1/keys", {"name": f"k{number}"})
        world.clock.advance(1)
    seen, cursor = [], ""
    while True:
        page = (await world.admin("GET", f"/v1/audit?limit=2{cursor}")).json
        seen += [entry["detail"] for entry in page["entries"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert seen == [f"'k{number}': client" for number in range(4, -1, -1)]


# ---- that it is written


async def test_what_cannot_be_written_down_is_not_said_to_be_done(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: Registry, entries: list[AuditEntry]) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(Registry, "record", full)
    answer = await world.admin("POST", "/v1/keys", {"name": "shop"})
    assert answer.status == 503
    assert "the disk is full" in answer.json["detail"]
    assert "swell_" not in answer.body.decode()


async def test_what_was_written_down_in_sqlite_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "swell.db"
    clock = ManualClock()
    database = SqliteDatabase.open(path, clock)
    entry = AuditEntry(
        id="a",
        at=clock.now(),
        key_id="k",
        key_name="ops",
        address="",
        action="keys.create",
        status=201,
    )
    await Registry(database).record([entry])
    await database.close()
    connection = sqlite3.connect(path)
    for statement in (
        "UPDATE audit SET body = '{}'",
        "UPDATE OR REPLACE audit SET id = 'b'",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit (id, body) VALUES ('a', '{}')",
        "REPLACE INTO audit (id, body) VALUES ('a', '{}')",
        "INSERT INTO audit (id, body) VALUES ('a', '{}') ON CONFLICT (id) DO UPDATE SET body = ''",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()
    database = SqliteDatabase.open(path, clock)
    another = msgspec.structs.replace(entry, id="b")
    await Registry(database).record([another])
    assert await Registry(database).audit() == [another, entry]
    await database.close()
