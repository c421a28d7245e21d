"""Links to what came of tasks: who makes them, what they show, and how they end."""

import io
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from api_harness import Answer, Client, World, a_world, failed, succeeded
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from swell.server.shares.share_routes import settings_of

PROMPT = "<a fox> & a crow"
SECRETS = ("swell_private", "uploads/", "Anna", "a-note-in-the-file", "cost", "key_id")

PAINTER = {
    "name": "demo/painter",
    "version": "1",
    "input_schema": {
        "type": "object",
        "properties": {
            "prompt": {"type": "string"},
            "negative": {"type": "string"},
            "aspect": {"enum": ["1:1", "9:16"]},
            "steps": {"type": "integer"},
            "style": {"enum": ["two-tone"]},
            "image": {"type": "string"},
        },
    },
}

INPUT = {
    "prompt": PROMPT,
    "negative": "swell_private",
    "aspect": "9:16",
    "steps": 4,
    "style": "two-tone",
    "image": "http://swell.test/v1/artifacts/uploads/k/1?signature=s",
}

#: What is the same for all links that lead nowhere.
NOWHERE = "this link was revoked"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


def _png(color: str) -> bytes:
    note, file = PngInfo(), io.BytesIO()
    note.add_text("parameters", "a-note-in-the-file " + PROMPT)
    Image.new("RGB", (600, 300), color).save(file, "PNG", pnginfo=note)
    return file.getvalue()


async def _made(world: World, *, kind: str = "image/png", files: int = 1, good: bool = True) -> str:
    """Return the id of a task of Anna's that has ended."""
    worker = await world.register(PAINTER)
    asked = {"model": "demo/painter", "input": INPUT, "user": "Anna", "metadata": {"x": "Anna"}}
    created = await world.anna("POST", "/v1/tasks", asked)
    assert created.status == 202, created.body
    (lease,) = (await world.lease(worker))["tasks"]
    artifacts = []
    for number in range(files):
        key = f"outputs/{lease['task_id']}/{lease['attempt']}/{number}.png"
        data = _png("red") if kind == "image/png" else b"hello"
        await world.service.objects.put(key, data, kind)
        sides = {"width": 600, "height": 300} if kind == "image/png" else {}
        artifacts.append({"key": key, "content_type": kind, "bytes": len(data), **sides})
    settled = (
        succeeded(lease, None, artifacts=artifacts) if good else failed(lease, retryable=False)
    )
    await world.report(worker, settlements=[settled])
    return str(lease["task_id"])


async def _shared(world: World, task_id: str, **fields: Any) -> Any:
    answer = await world.anna("POST", f"/v1/tasks/{task_id}/share", fields)
    assert answer.status == 200, answer.body
    return answer.json


async def _look(world: World, token: str) -> Answer:
    return await world.stranger("GET", f"/v1/shares/{token}")


async def _leads_nowhere(world: World, token: str) -> None:
    """Check that a link says what one says that never was."""
    for path, others in [
        (f"/v1/shares/{token}", "/v1/shares/" + "x" * 32),
        (f"/v1/shares/{token}/pictures/0", f"/v1/shares/{'x' * 32}/pictures/0"),
    ]:
        answer, other = await world.stranger("GET", path), await world.stranger("GET", others)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
        assert answer.json["detail"].startswith(NOWHERE)
        assert answer.json["detail"] == other.json["detail"]
    page = await world.stranger("GET", f"/s/{token}")
    assert (page.status, page.body) == (404, (await world.stranger("GET", "/s/no")).body)


async def test_whoever_has_the_link_sees_the_picture_and_how_it_came_to_be(world: World) -> None:
    link = await _shared(world, await _made(world, files=2))
    assert link["url"] == f"http://swell.test/s/{link['token']}"
    seen = (await _look(world, link["token"])).json
    assert seen["prompt"] == PROMPT
    assert seen["model"] == "demo/painter"
    assert seen["settings"] == {"aspect": "9:16", "steps": 4, "style": "two-tone"}
    assert [(each["width"], each["height"]) for each in seen["pictures"]] == [(600, 300)] * 2
    for url in (seen["pictures"][1]["url"], seen["pictures"][1]["thumbnail_url"]):
        picture = await world.stranger("GET", url.removeprefix("http://swell.test"))
        assert (picture.status, picture.headers["content-type"]) == (200, "image/webp")
        with Image.open(io.BytesIO(picture.body)) as opened:
            assert opened.size in ((600, 300), (512, 256))


async def test_nothing_else_of_the_task_is_told(world: World) -> None:
    task_id = await _made(world)
    token = (await _shared(world, task_id, with_prompt=False))["token"]
    answers = [
        await _look(world, token),
        await world.stranger("GET", f"/s/{token}"),
        await world.stranger("GET", f"/v1/shares/{token}/pictures/0"),
    ]
    for answer in answers:
        assert answer.status == 200
        told = answer.body.decode("latin-1") + str(answer.headers)
        assert not [each for each in (*SECRETS, task_id, "a fox") if each in told]
        assert answer.headers["x-robots-tag"] == "noindex"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answers[0].json["prompt"] is None


async def test_the_page_works_without_scripts_and_tells_messengers_of_the_picture(
    world: World,
) -> None:
    token = (await _shared(world, await _made(world)))["token"]
    answer = await world.stranger("GET", f"/s/{token}", headers={"accept-language": "de, fr;q=0.5"})
    text = answer.body.decode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in text
    assert '<html lang="fr">' in text
    assert "Style : Two tone · Créée avec demo/painter" in text
    assert "&lt;a fox&gt; &amp; a crow" in text
    assert "<a fox>" not in text
    assert f'<img src="../v1/shares/{token}/pictures/0"' in text
    image = f"http://swell.test/v1/shares/{token}/pictures/0?w=512"
    assert f'<meta property="og:image" content="{image}">' in text
    assert '<meta property="og:image:height" content="256">' in text


async def test_a_picture_that_is_kept_is_asked_for_again_each_time(world: World) -> None:
    task_id = await _made(world)
    token = (await _shared(world, task_id))["token"]
    path = f"/v1/shares/{token}/pictures/0"
    first = await world.stranger("GET", path)
    assert first.headers["cache-control"] == "private, no-cache"
    known = {"if-none-match": first.headers["etag"]}
    assert (await world.stranger("GET", path, headers=known)).status == 304
    await world.anna("DELETE", f"/v1/tasks/{task_id}/share")
    assert (await world.stranger("GET", path, headers=known)).status == 404


@pytest.mark.parametrize("number", ["1", "-1", "00", "0" * 5000, "²", "x"])
async def test_a_picture_that_is_not_there_is_not_found(world: World, number: str) -> None:
    token = (await _shared(world, await _made(world)))["token"]
    answer = await world.stranger("GET", f"/v1/shares/{token}/pictures/{number}")
    assert answer.status == 404


async def test_a_link_that_was_taken_back_leads_nowhere(world: World) -> None:
    task_id = await _made(world)
    link = await _shared(world, task_id)
    assert (await world.anna("GET", f"/v1/tasks/{task_id}/share")).json == link
    assert (await world.anna("DELETE", f"/v1/tasks/{task_id}/share")).json == link
    await _leads_nowhere(world, link["token"])
    assert (await world.anna("DELETE", f"/v1/tasks/{task_id}/share")).status == 404
    assert (await world.anna("GET", f"/v1/tasks/{task_id}/share")).status == 404
    assert (await _shared(world, task_id))["token"] != link["token"]
    await _leads_nowhere(world, link["token"])


async def test_a_link_ends_at_its_time_and_a_later_one_brings_it_back(world: World) -> None:
    task_id = await _made(world)
    ends_at = world.clock.now() + timedelta(seconds=60)
    link = await _shared(world, task_id, expires_at=ends_at.isoformat())
    world.clock.advance(59.9)
    assert (await _look(world, link["token"])).status == 200
    world.clock.advance(0.1)
    await _leads_nowhere(world, link["token"])
    past = await world.anna(
        "POST", f"/v1/tasks/{task_id}/share", {"expires_at": ends_at.isoformat()}
    )
    assert (past.status, past.json["errors"][0]["pointer"]) == (422, "/expires_at")
    assert (await _shared(world, task_id, expires_at=None))["token"] == link["token"]
    assert (await _look(world, link["token"])).status == 200


async def test_erasing_a_task_takes_its_link_away(world: World) -> None:
    task_id = await _made(world)
    link = await _shared(world, task_id)
    await world.stranger("GET", f"/v1/shares/{link['token']}/pictures/0")
    assert (await world.anna("DELETE", f"/v1/tasks/{task_id}")).status == 200
    await _leads_nowhere(world, link["token"])
    assert (await world.anna("POST", f"/v1/tasks/{task_id}/share", {})).status == 409
    assert await world.service.objects.under(f"outputs/{task_id}", limit=1) == []


@pytest.mark.parametrize("made", [{"good": False}, {"kind": "text/plain"}, {"files": 0}])
async def test_what_has_no_picture_is_not_shared(world: World, made: dict[str, Any]) -> None:
    answer = await world.anna("POST", f"/v1/tasks/{await _made(world, **made)}/share", {})
    assert (answer.status, answer.json["code"]) == (409, "conflict")


async def test_a_body_may_be_left_out_and_a_moment_needs_its_zone(world: World) -> None:
    task_id = await _made(world)
    assert (await world.anna("POST", f"/v1/tasks/{task_id}/share")).json["with_prompt"] is True
    for wrong in ({"expires_at": "2030-01-01T00:00:00"}, {"prompt": True}):
        assert (await world.anna("POST", f"/v1/tasks/{task_id}/share", wrong)).status == 422


async def test_only_its_owner_and_operators_share_a_task_and_the_latter_are_written_down(
    world: World,
) -> None:
    task_id = await _made(world)
    path = f"/v1/tasks/{task_id}/share"
    for method in ("POST", "GET", "DELETE"):
        assert (await world.berta(method, path)).status == 404
    assert (await world.stranger("POST", path)).status == 401
    await _shared(world, task_id)
    assert (await world.admin("POST", path, {"with_prompt": False})).status == 200
    assert (await world.admin("DELETE", path)).status == 200
    entries = (await world.admin("GET", "/v1/audit")).json["entries"]
    told = {(each["action"], each["target"]) for each in entries}
    assert told == {("tasks.unshare", task_id), ("tasks.share", task_id)}
    assert len(entries) == 2


async def test_each_lists_its_own_links_page_by_page(world: World) -> None:
    links = []
    for _ in range(3):
        links.append(await _shared(world, await _made(world)))
        world.clock.advance(1)
    first = (await world.anna("GET", "/v1/shares?limit=2")).json
    assert first["shares"] == [links[2], links[1]]
    rest = (await world.anna("GET", f"/v1/shares?cursor={first['cursor']}")).json
    assert rest == {"shares": [links[0]], "cursor": None}
    assert (await world.berta("GET", "/v1/shares")).json["shares"] == []
    one = f"/v1/shares?task_id={links[1]['task_id']}"
    assert (await world.anna("GET", one)).json == {"shares": [links[1]], "cursor": None}
    assert (await world.admin("GET", one)).json["shares"] == [links[1]]
    assert (await world.berta("GET", one)).json["shares"] == []
    assert len((await world.admin("GET", "/v1/shares")).json["shares"]) == 3
    assert (await world.anna("GET", "/v1/shares?cursor=x")).status == 400


async def test_a_visitor_gets_a_key_for_a_day_and_a_few_tasks(world: World) -> None:
    link = await _shared(world, await _made(world))
    path = f"/v1/shares/{link['token']}"
    assert (await world.stranger("GET", path)).json["guest_tasks"] == 0
    assert (await world.stranger("POST", f"{path}/guest")).status == 403
    async with a_world(guest_tasks=2) as open_world:
        link = await _shared(open_world, await _made(open_world))
        path = f"/v1/shares/{link['token']}"
        assert (await open_world.stranger("GET", path)).json["guest_tasks"] == 2
        assert (await open_world.stranger("POST", f"/v1/shares/{'x' * 32}/guest")).status == 404
        made = await open_world.stranger("POST", f"{path}/guest")
        assert made.status == 201
        guest = Client(open_world.app, made.json["key"])
        asked = {"model": "demo/painter", "input": INPUT}
        answers = [await guest("POST", "/v1/tasks", asked) for _ in range(3)]
        assert [each.status for each in answers] == [202, 202, 429]
        assert answers[2].json["code"] == "quota_exceeded"
        assert "2 tasks per month" in answers[2].json["detail"], "no task comes back in a day"
        seen = await guest("GET", f"/v1/tasks/{link['task_id']}")
        assert seen.status == 404, "a guest sees own tasks alone"
        open_world.clock.advance(86_401)
        assert (await guest("GET", "/v1/keys/self")).status == 401


async def test_guests_are_let_in_at_a_bounded_rate() -> None:
    async with a_world(guest_tasks=1) as world:
        path = f"/v1/shares/{(await _shared(world, await _made(world)))['token']}/guest"

        async def ask(address: str) -> int:
            forwarded = {"x-forwarded-for": address}
            return (await world.stranger("POST", path, headers=forwarded)).status

        answers = [await ask(f"10.0.0.{n}") for n in range(61)]
        assert answers == [201] * 60 + [429]
        world.clock.advance(60)
        assert await ask("10.0.0.60") == 201


async def test_an_address_gets_one_guest_key_an_hour() -> None:
    async with a_world(guest_tasks=1) as world:
        path = f"/v1/shares/{(await _shared(world, await _made(world)))['token']}/guest"
        answers = [await world.stranger("POST", path) for _ in range(2)]
        assert [each.status for each in answers] == [201, 429]
        assert answers[1].headers["retry-after"] == "3600"
        world.clock.advance(3600)
        assert (await world.stranger("POST", path)).status == 201


def test_only_numbers_switches_and_choices_are_settings() -> None:
    schema = {
        "properties": {
            "scene": {"items": {"$ref": "#/$defs/Scene"}},
            "look": {"anyOf": [{"const": "soft"}, {"type": "null"}]},
            "words": {"items": {"type": "string"}},
        },
        "$defs": {"Scene": {"enum": ["beach", "snow"]}},
    }
    given = {
        "scene": ["snow"],
        "look": "soft",
        "words": ["secret"],
        "tall": True,
        "strength": 0.5,
        "nested": {"prompt": "secret"},
        "unknown": "secret",
        "nothing": None,
        "prompt": "secret",
    }
    assert settings_of(given, schema) == {
        "scene": ["snow"],
        "look": "soft",
        "tall": True,
        "strength": 0.5,
    }
    assert settings_of({"scene": ["elsewhere"], "look": "secret"}, schema) == {}
