"""Keys: made, used, rotated, ended; and what workers may do with theirs."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from api_harness import UPPER, Client, World, a_world, hold, succeeded

from sqlite_rig import turns
from swell.core.records import ApiKey
from swell.objects.url_signing import REFRESH_S, SigningSecrets, read_secrets, rotate_secrets

DAY_S = 86_400.0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


async def _make(world: World, **fields: Any) -> dict[str, Any]:
    answer = await world.admin("POST", "/v1/keys", {"name": "shop", **fields})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json
    return made


async def _rotate(world: World, key_id: str, **fields: Any) -> dict[str, Any]:
    answer = await world.admin("POST", f"/v1/keys/{key_id}/rotate", fields)
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json
    return made


async def _status(world: World, secret: str) -> int:
    return (await Client(world.app, secret)("GET", "/v1/tasks")).status


async def _key(world: World, key_id: str) -> ApiKey:
    (found,) = [key for key in await world.service.registry.keys() if key.id == key_id]
    return found


def _wait(world: World, seconds: float) -> None:
    world.clock.advance(seconds)


# ---- rotation


async def test_both_secrets_work_until_the_overlap_ends(world: World) -> None:
    made = await _make(world)
    new = await _rotate(world, made["id"], overlap_s=3600)
    assert new["id"] == made["id"]
    assert new["key"] != made["key"]
    assert [await _status(world, each["key"]) for each in (made, new)] == [200, 200]
    _wait(world, 3599)
    assert [await _status(world, each["key"]) for each in (made, new)] == [200, 200]
    _wait(world, 1)
    assert [await _status(world, each["key"]) for each in (made, new)] == [401, 200]


async def test_the_end_of_an_overlap_is_not_outlived_in_memory() -> None:
    async with a_world(key_cache_s=10 * DAY_S) as world:
        made = await _make(world)
        await _rotate(world, made["id"], overlap_s=60)
        assert await _status(world, made["key"]) == 200
        _wait(world, 60)
        assert await _status(world, made["key"]) == 401


async def test_without_an_overlap_the_old_secret_ends_at_once(world: World) -> None:
    made = await _make(world)
    assert await _status(world, made["key"]) == 200
    new = await _rotate(world, made["id"], overlap_s=0)
    assert new["old_until"] is None
    assert [await _status(world, each["key"]) for each in (made, new)] == [401, 200]


async def test_the_overlap_is_a_day_unless_said_otherwise(world: World) -> None:
    made = await _make(world)
    answer = await world.admin("POST", f"/v1/keys/{made['id']}/rotate", b"")
    assert answer.status == 200, answer.body
    key = await _key(world, made["id"])
    assert key.old_until is not None
    assert (key.old_until - world.clock.now()).total_seconds() == DAY_S


async def test_of_several_secrets_before_only_the_last_works(world: World) -> None:
    first = await _make(world)
    second = await _rotate(world, first["id"])
    third = await _rotate(world, first["id"])
    found = [await _status(world, each["key"]) for each in (first, second, third)]
    assert found == [401, 200, 200]


async def test_whoever_rotates_at_the_same_moment_has_a_secret_that_works_or_is_told(
    world: World,
) -> None:
    made = await _make(world)
    path = f"/v1/keys/{made['id']}/rotate"
    # The registry answers after a turn of the loop, as one that is elsewhere does.
    registry = world.service.registry
    read = registry.keys

    async def keys() -> list[ApiKey]:
        found = await read()
        await asyncio.sleep(0)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "keys", keys)
        answers = await asyncio.gather(*(world.admin("POST", path, {}) for _ in range(5)))
    assert sorted(each.status for each in answers) == [200, 409, 409, 409, 409]
    for each in answers:
        if each.status == 200:
            assert await _status(world, each.json["key"]) == 200
        else:
            assert "at the same moment" in each.json["detail"]
    assert await _status(world, made["key"]) == 200


async def test_a_rotated_key_keeps_what_it_may_and_its_tasks(world: World) -> None:
    await world.register()
    made = await _make(world, rate_per_s=50, models=["demo/*"], expires_in_s=DAY_S)
    before = await _key(world, made["id"])
    body = {"model": "demo/upper", "input": {"text": "a"}}
    task = (await Client(world.app, made["key"])("POST", "/v1/tasks", body)).json
    new = await _rotate(world, made["id"], overlap_s=0)
    after = await _key(world, made["id"])
    for field in ("name", "scopes", "limits", "models", "pools", "expires_at", "created_at"):
        assert getattr(after, field) == getattr(before, field)
    assert (await Client(world.app, new["key"])("GET", f"/v1/tasks/{task['id']}")).status == 200


async def test_what_works_no_more_is_not_rotated(world: World) -> None:
    revoked, ended = await _make(world), await _make(world, expires_in_s=60)
    await world.admin("DELETE", f"/v1/keys/{revoked['id']}")
    _wait(world, 60)
    for made in (revoked, ended):
        answer = await world.admin("POST", f"/v1/keys/{made['id']}/rotate", {})
        assert answer.status == 409, answer.body
    assert (await world.admin("POST", "/v1/keys/none/rotate", {})).status == 404


async def test_a_revoked_key_works_with_none_of_its_secrets(world: World) -> None:
    made = await _make(world)
    new = await _rotate(world, made["id"])
    await world.admin("DELETE", f"/v1/keys/{made['id']}")
    assert [await _status(world, each["key"]) for each in (made, new)] == [401, 401]


async def test_only_digests_are_kept(world: World) -> None:
    made = await _make(world)
    new = await _rotate(world, made["id"])
    key = await _key(world, made["id"])
    assert key.digest == hashlib.sha256(new["key"].encode()).digest()
    assert key.old_digest == hashlib.sha256(made["key"].encode()).digest()
    listed = (await world.admin("GET", "/v1/keys")).body.decode()
    assert made["key"] not in listed
    assert new["key"] not in listed
    assert key.digest.hex() not in listed


# ---- time


async def test_a_key_ends_when_it_was_said_to(world: World) -> None:
    made = await _make(world, expires_in_s=100)
    assert await _status(world, made["key"]) == 200
    _wait(world, 99.5)
    assert await _status(world, made["key"]) == 200
    _wait(world, 0.5)
    answer = await Client(world.app, made["key"])("GET", "/v1/tasks")
    assert (answer.status, answer.json["code"]) == (401, "unauthenticated")
    assert "expired" in answer.json["detail"]


async def test_when_a_key_was_used_is_told_and_written_once_a_minute(world: World) -> None:
    made = await _make(world)
    assert (await _key(world, made["id"])).used_at is None
    first = world.clock.now()
    for _ in range(3):
        await _status(world, made["key"])
        _wait(world, 6)
        await world.service.keys.keep_uses()
    assert (await _key(world, made["id"])).used_at == first
    _wait(world, 60)
    last = world.clock.now()
    await _status(world, made["key"])
    await world.service.keys.keep_uses()
    # A duty may be writing it.
    await _beat(world)
    assert (await _key(world, made["id"])).used_at == last
    listed = (await world.admin("GET", "/v1/keys")).json["keys"]
    told = {each["id"]: each["used_at"] for each in listed}
    assert datetime.fromisoformat(told[made["id"]]) == last


# ---- what may be asked of a new key


@pytest.mark.parametrize(
    "fields",
    [
        {"expires_in_s": 0},
        {"expires_in_s": 1e12},
        {"rate_per_s": -1},
        {"burst": 0},
        {"tasks_in_flight": -1},
        {"tasks_per_day": 1.5},
        {"pools": [""]},
        {"models": "demo/*"},
        {"digest": "aa"},
    ],
)
async def test_nonsense_is_refused(world: World, fields: dict[str, Any]) -> None:
    answer = await world.admin("POST", "/v1/keys", {"name": "shop", **fields})
    assert answer.status == 422, answer.body


@pytest.mark.parametrize("who", ["anna", "worker", "stranger"])
async def test_only_operators_make_and_rotate_keys(world: World, who: str) -> None:
    made = await _make(world)
    client = getattr(world, who)
    wanted = 401 if who == "stranger" else 403
    for method, path in (
        ("POST", "/v1/keys"),
        ("GET", "/v1/keys"),
        ("POST", f"/v1/keys/{made['id']}/rotate"),
        ("DELETE", f"/v1/keys/{made['id']}"),
        ("POST", "/v1/signing/rotate"),
        ("GET", "/v1/audit"),
    ):
        body = {"name": "mine", "scopes": ["admin"]} if method == "POST" else None
        assert (await client(method, path, body)).status == wanted
    assert await _status(world, made["key"]) == 200


# ---- workers


async def _worker(world: World, **fields: Any) -> Client:
    made = await _make(world, scopes=["worker"], **fields)
    return Client(world.app, made["key"])


def _registration(pool: str = "default", *names: str) -> dict[str, Any]:
    models = [UPPER | {"name": name} for name in names or ("demo/upper",)]
    return {"name": "w", "pool": pool, "models": models, "slots": 2}


@pytest.mark.parametrize(
    ("pool", "names", "status"),
    [
        ("gpu", ["demo/upper"], 200),
        ("gpu", ["demo/upper", "acme/one"], 200),
        ("cpu", ["demo/upper"], 403),
        ("gpu", ["acme/two"], 403),
        ("gpu", ["demo/upper", "acme/two"], 403),
        ("gpu", ["demonic/upper"], 403),
        ("GPU", ["demo/upper"], 403),
    ],
)
async def test_a_worker_registers_only_what_its_key_is_for(
    world: World, pool: str, names: list[str], status: int
) -> None:
    client = await _worker(world, pools=["gpu"], models=["demo/*", "acme/one"])
    answer = await client("POST", "/worker/v1/register", _registration(pool, *names))
    assert answer.status == status, answer.body
    assert len(await world.service.registry.workers()) == (status == 200)


async def test_a_worker_speaks_for_itself_only(world: World) -> None:
    worker = await world.register()
    await world.create()
    (lease,) = (await world.lease(worker))["tasks"]
    thief = await _worker(world)
    key = f"outputs/{lease['task_id']}/{lease['attempt']}/a.png"
    for path, body in (
        ("lease", {"worker_id": worker, "n": 1, "wait_s": 0}),
        ("report", {"worker_id": worker, "settlements": [succeeded(lease)]}),
        ("report", {"worker_id": worker, "goodbye": True}),
        ("uploads", {"worker_id": worker, "hold": hold(lease), "keys": [key]}),
    ):
        answer = await thief("POST", f"/worker/v1/{path}", body)
        assert answer.status == 403, (path, answer.body)
    task = (await world.anna("GET", f"/v1/tasks/{lease['task_id']}")).json
    assert task["state"] == "running"
    assert await world.report(worker, settlements=[succeeded(lease)]) == {}


async def test_another_worker_cannot_settle_what_it_does_not_hold(world: World) -> None:
    worker = await world.register()
    await world.create()
    (lease,) = (await world.lease(worker))["tasks"]
    other = await _worker(world)
    registered = await other("POST", "/worker/v1/register", _registration())
    guess = {**lease, "token": "0" * len(lease["token"])}
    told = {"worker_id": registered.json["worker_id"], "settlements": [succeeded(guess)]}
    answer = await other("POST", "/worker/v1/report", told)
    assert answer.json["stale"] == [lease["task_id"]]


async def test_a_rotated_key_still_speaks_for_its_workers(world: World) -> None:
    made = await _make(world, scopes=["worker"])
    client = Client(world.app, made["key"])
    worker = (await client("POST", "/worker/v1/register", _registration())).json["worker_id"]
    new = Client(world.app, (await _rotate(world, made["id"], overlap_s=0))["key"])
    ask = {"worker_id": worker, "n": 1, "wait_s": 0}
    assert (await new("POST", "/worker/v1/lease", ask)).status == 200
    assert (await client("POST", "/worker/v1/lease", ask)).status == 401


async def test_a_worker_is_no_client_and_a_client_no_worker(world: World) -> None:
    assert (await world.worker("GET", "/v1/tasks")).status == 403
    assert (await world.anna("POST", "/worker/v1/register", _registration())).status == 403


# ---- what signs URLs


async def _upload(world: World) -> str:
    answer = await world.anna("POST", "/v1/uploads", b"hello")
    assert answer.status == 201, answer.body
    return str(answer.json["url"]).removeprefix("http://swell.test")


async def test_urls_stay_good_when_what_signs_them_changes(world: World) -> None:
    before = await _upload(world)
    answer = await world.admin("POST", "/v1/signing/rotate", {})
    assert answer.status == 200, answer.body
    at_once = await _upload(world)
    _wait(world, 2 * REFRESH_S)
    after = await _upload(world)
    assert {(await world.stranger("GET", url)).status for url in (before, at_once, after)} == {200}
    _wait(world, 3700)
    assert (await world.stranger("GET", before)).status == 403


async def test_revoked_signatures_open_nothing(world: World) -> None:
    before = await _upload(world)
    answer = await world.admin("POST", "/v1/signing/rotate", {"revoke": True})
    assert answer.json["others_until"] is None
    assert (await world.stranger("GET", before)).status == 403
    assert (await world.stranger("GET", await _upload(world))).status == 200


async def test_a_leaked_secret_signs_nothing_beyond_its_time(world: World) -> None:
    (leaked,) = await read_secrets(world.service.registry)
    key = (await _upload(world)).partition("?")[0].removeprefix("/v1/artifacts/")
    await world.admin("POST", "/v1/signing/rotate", {})
    forged = SigningSecrets(world.clock, [leaked]).signed_path("GET", key, 13 * 365 * 86400.0)
    assert (await world.stranger("GET", forged)).status == 403
    body = {"model": "demo/upper", "input": {"text": f"http://swell.test{forged}"}}
    await world.register()
    await world.anna("POST", "/v1/tasks", body)
    assert world.service.objects.renew(forged, 60) is None


# ---- the secret of URLs, by two at the same moment


@pytest.mark.parametrize("first", ["revoke", "keep"])
async def test_what_was_made_void_stays_void_whoever_rotates_at_the_same_moment(
    world: World, first: str
) -> None:
    """Both had read the secrets before either wrote."""
    registry, clock = world.service.registry, world.clock
    before = await read_secrets(registry)
    read = registry.note
    both, n = asyncio.Event(), 0

    async def note(name: str) -> bytes | None:
        nonlocal n
        found = await read(name)
        n += 1
        if n == 2:
            both.set()
        await both.wait()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "note", note)
        rotations = {
            "revoke": rotate_secrets(registry, clock, b"r" * 32, lasting_s=60, revoke=True),
            "keep": rotate_secrets(registry, clock, b"p" * 32, lasting_s=60),
        }
        await asyncio.gather(*sorted(rotations.values(), key=lambda it: it is not rotations[first]))
    kept = [each.secret for each in await read_secrets(registry)]
    assert before[0].secret not in kept
    # Who came last knew of the other, in whichever order.
    assert kept in ([b"p" * 32, b"r" * 32], [b"r" * 32])


# ---- what a key that works no more has open


async def _beat(world: World) -> None:
    """Let the duties have their turns."""
    await turns(20)


ENDS = {
    "revoked": lambda world, made: world.admin("DELETE", f"/v1/keys/{made['id']}"),
    "rotated": lambda world, made: _rotate(world, made["id"], overlap_s=0),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_worker_that_waits_gets_nothing_once_its_key_works_no_more(
    world: World, end: str
) -> None:
    made = await _make(world, scopes=["worker"])
    client = Client(world.app, made["key"])
    body = {"name": "w", "models": [UPPER], "slots": 4}
    worker = (await client("POST", "/worker/v1/register", body)).json["worker_id"]
    ask = {"worker_id": worker, "n": 1, "wait_s": 19}
    waiting = asyncio.create_task(client("POST", "/worker/v1/lease", ask))
    await _beat(world)
    await ENDS[end](world, made)
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.status == 401


async def test_a_task_that_comes_after_the_end_of_a_waiting_key_goes_to_another(
    world: World,
) -> None:
    made = await _make(world, scopes=["worker"], expires_in_s=10)
    client = Client(world.app, made["key"])
    body = {"name": "w", "models": [UPPER], "slots": 4}
    gone = (await client("POST", "/worker/v1/register", body)).json["worker_id"]
    ask = {"worker_id": gone, "n": 1, "wait_s": 19}
    waiting = asyncio.create_task(client("POST", "/worker/v1/lease", ask))
    await _beat(world)
    world.clock.advance(10)
    task = await world.create()
    assert (await asyncio.wait_for(waiting, 5)).status == 401
    worker = await world.register()
    [lease] = (await world.lease(worker))["tasks"]
    assert lease["task_id"] == task["id"]


@pytest.mark.parametrize("end", ENDS)
async def test_an_open_stream_ends_with_its_key(world: World, end: str) -> None:
    await world.register()
    made = await _make(world)
    client = Client(world.app, made["key"])
    task = (await client("POST", "/v1/tasks", {"model": "demo/upper", "input": {"text": "a"}})).json
    path = f"/v1/tasks/{task['id']}/events"
    other = (await world.create())["id"]
    async with client.stream(path) as stream, world.anna.stream(f"/v1/tasks/{other}/events") as own:
        assert (await stream.event())["event"] == "queued"
        assert (await own.event())["event"] == "queued"
        await ENDS[end](world, made)
        assert await asyncio.wait_for(stream.event(), 5) is None
        assert (await client("GET", path)).status == 401
        # Those of other keys go on.
        await world.anna("POST", f"/v1/tasks/{other}/cancel")
        assert (await own.event())["event"] == "canceled"


async def test_an_open_stream_tells_nothing_after_its_key_has_expired(world: World) -> None:
    worker = await world.register()
    made = await _make(world, expires_in_s=10)
    client = Client(world.app, made["key"])
    task = (await client("POST", "/v1/tasks", {"model": "demo/upper", "input": {"text": "a"}})).json
    async with client.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "queued"
        world.clock.advance(10)
        [lease] = (await world.lease(worker))["tasks"]
        await world.report(worker, settlements=[succeeded(lease, "a secret")])
        assert await asyncio.wait_for(stream.event(), 5) is None


async def test_an_idle_stream_ends_after_its_key_has_expired(world: World) -> None:
    await world.register()
    made = await _make(world, expires_in_s=10)
    client = Client(world.app, made["key"])
    task = (await client("POST", "/v1/tasks", {"model": "demo/upper", "input": {"text": "a"}})).json
    async with client.stream(f"/v1/tasks/{task['id']}/events") as stream:
        assert (await stream.event())["event"] == "queued"
        for _ in range(30):
            world.clock.advance(1)
            await _beat(world)
        assert await asyncio.wait_for(stream.event(), 5) is None
        assert len(world.service.streams) == 0


async def test_who_waits_for_a_result_does_not_get_it_with_a_key_that_works_no_more(
    world: World,
) -> None:
    worker = await world.register()
    made = await _make(world)
    client = Client(world.app, made["key"])
    wish = {"model": "demo/upper", "input": {"text": "a"}}
    headers = {"Prefer": "wait=30"}
    waiting = asyncio.create_task(client("POST", "/v1/tasks", wish, headers=headers))
    await _beat(world)
    await world.admin("DELETE", f"/v1/keys/{made['id']}")
    [lease] = (await world.lease(worker))["tasks"]
    await world.report(worker, settlements=[succeeded(lease, "a secret")])
    answer = await asyncio.wait_for(waiting, 5)
    assert answer.status == 401
    assert b"a secret" not in answer.body


async def test_what_was_read_of_a_key_before_it_was_revoked_is_not_remembered(
    world: World,
) -> None:
    made = await _make(world)
    registry = world.service.registry
    read = registry.key_by_digest
    is_read, goes_on = asyncio.Event(), asyncio.Event()

    async def key_by_digest(digest: bytes) -> ApiKey | None:
        found = await read(digest)
        is_read.set()
        await goes_on.wait()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "key_by_digest", key_by_digest)
        early = asyncio.create_task(_status(world, made["key"]))
        await is_read.wait()
    await world.admin("DELETE", f"/v1/keys/{made['id']}")
    goes_on.set()
    assert await early == 200
    assert await _status(world, made["key"]) == 401


async def test_a_crowd_whose_key_is_not_remembered_has_it_looked_up_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await _make(world)
    registry = world.service.registry
    read, asked = registry.key_by_digest, 0

    async def key_by_digest(digest: bytes) -> ApiKey | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return await read(digest)

    monkeypatch.setattr(registry, "key_by_digest", key_by_digest)
    crowd = await asyncio.gather(*(_status(world, made["key"]) for _ in range(20)))
    assert set(crowd) == {200}
    assert asked == 1
