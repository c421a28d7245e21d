"""Models are compared blind, votes are kept, and ratings come of them."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from api_harness import UPPER, World, a_world, failed, succeeded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from conformance.comparisons import NOW, a_comparison, a_vote
from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.core.model_ratings import Ballot, Rating, ballots_of, counted, ordered
from swell.db.comparisons import ComparisonRepository
from swell.server.evals import comparison_routes, create_comparison
from swell.server.evals.comparison_routes import Ratings
from swell.server.files import thumbnails

ONE = {**UPPER, "name": "demo/one", "version": "1", "memory_bytes": 5 * 2**30}
TWO = {**UPPER, "name": "demo/two", "version": "8"}
THREE = {**UPPER, "name": "demo/three", "version": "9"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as made:
        yield made


def a_picture(model: str) -> bytes:
    """Return a picture whose file tells everything."""
    note = PngImagePlugin.PngInfo()
    note.add_text("swell", json.dumps({"model": model, "seed": 7}))
    file = io.BytesIO()
    colour = {"demo/one": "red", "demo/two": "green"}.get(model, "blue")
    Image.new("RGB", (32, 24), colour).save(file, "PNG", pnginfo=note)
    return file.getvalue()


async def drawn(world: World, *rows: str, failing: tuple[str, ...] = (), **more: Any) -> Any:
    """Have models draw each row, and return the rows of a request."""
    cards = more.pop("cards", (ONE, TWO))
    worker_id = await world.register(*cards, slots=64)
    asked = [
        [
            (await world.create(model=card["name"], input={"text": row}, seed=7, **more))["id"]
            for card in cards
        ]
        for row in rows
    ]
    models = {}
    for row in asked:
        models |= {task_id: card["name"] for task_id, card in zip(row, cards, strict=True)}
    settled = []
    for lease in (await world.lease(worker_id, n=64))["tasks"]:
        task_id = lease["task_id"]
        if models[task_id] in failing:
            settled.append(failed(lease, retryable=False))
            continue
        key = f"outputs/{task_id}/{lease['attempt']}/0.png"
        info = await world.service.objects.put(key, a_picture(models[task_id]), "image/png")
        file = {"key": key, "content_type": "image/png", "bytes": info.bytes}
        outcome = {"artifacts": [file], "timings": {"run_s": 1.5 + len(models[task_id])}}
        settled.append(succeeded(lease, {"$artifact": 0}, **outcome))
    await world.report(worker_id, settlements=settled)
    return [{"tasks": row} for row in asked]


async def compared(world: World, *labels: str, **body: Any) -> Any:
    """Return a comparison of two models, and its permit."""
    answer = await world.anna(
        "POST", "/v1/comparisons", {"rows": await drawn(world, *(labels or ("a fox",))), **body}
    )
    assert answer.status == 201, answer.body
    return answer.json


async def colours(world: World, cells: Any) -> list[str]:
    """Return which model drew each cell, by its colour."""
    found = []
    for cell in cells:
        answer = await world.stranger(
            "GET", cell["picture"]["url"].removeprefix("http://swell.test")
        )
        assert answer.status == 200
        red, green, _ = Image.open(io.BytesIO(answer.body)).convert("RGB").getpixel((9, 9))
        found.append("demo/one:1" if red > 200 else "demo/two:8" if green > 90 else "demo/three:9")
    return found


async def test_nothing_that_is_seen_before_the_end_tells_which_model_it_was(world: World) -> None:
    made = await compared(world, *(f"fox {n}" for n in range(6)))
    comparison_id = made["comparison"]["id"]
    seen = await world.anna("GET", f"/v1/comparisons/{comparison_id}")
    listed = await world.anna("GET", "/v1/comparisons")
    texts = [seen.body, listed.body, json.dumps(made).encode()]
    for row in seen.json["rows"]:
        for cell in row["cells"]:
            path = cell["picture"]["url"].removeprefix("http://swell.test")
            answer = await world.stranger("GET", path)
            texts += [answer.body, json.dumps(answer.headers).encode()]
            assert answer.headers["content-type"] == "image/webp"
            picture = Image.open(io.BytesIO(answer.body))
            assert set(picture.info) <= {"loop", "background", "timestamp", "duration"}
    ids = [row["id"] for row in (await world.anna("GET", "/v1/tasks")).json["tasks"]]
    for word in ("demo/", "/one", "/two", '"seed":7', "outputs/", *ids):
        assert not any(word.encode() in text for text in texts), word
    assert seen.json["models"] is None
    orders = [tuple(await colours(world, row["cells"])) for row in seen.json["rows"]]
    assert all(sorted(order) == ["demo/one:1", "demo/two:8"] for order in orders)


async def test_each_row_has_an_order_of_its_own(world: World) -> None:
    made = await compared(world, *(f"fox {n}" for n in range(16)))
    rows = made["comparison"]["rows"]
    orders = {tuple(await colours(world, row["cells"])) for row in rows}
    # By chance alone it is one in 2^15 that they are all the same.
    assert len(orders) == 2
    assert [row["label"] for row in rows] == [f"fox {n}" for n in range(16)]


async def test_a_vote_is_for_what_stood_at_its_place(world: World) -> None:
    made = await compared(world, "a", "b", "c")
    path = f"/v1/comparisons/{made['comparison']['id']}"
    for row in made["comparison"]["rows"]:
        place = (await colours(world, row["cells"])).index("demo/two:8") + 1
        answer = await world.anna("POST", f"{path}/votes", {"row": row["row"], "winner": place})
        assert answer.status == 200, answer.body
    told = await world.anna("POST", f"{path}/close")
    one, two = told.json["models"]
    assert (one["model"], one["wins"], one["losses"]) == ("demo/one:1", 0, 3)
    assert (two["model"], two["wins"], two["losses"]) == ("demo/two:8", 3, 0)
    assert one["memory_bytes"] == 5 * 2**30
    assert two["memory_bytes"] is None
    assert one["run_s"] == 9.5
    for row in told.json["rows"]:
        assert [cell["model"] for cell in row["cells"]] == await colours(world, row["cells"])
        assert row["cells"][row["voted"] - 1]["model"] == "demo/two:8"
        assert row["seed"] == 7
    [first, second] = (await world.anna("GET", "/v1/ratings")).json["ratings"]
    assert (first["model"], second["model"]) == ("demo/two:8", "demo/one:1")
    assert first["low"] < first["mu"] < first["high"]
    assert first["summary"].startswith("95 % sure between ")


async def test_a_voter_may_change_a_vote_until_the_names_are_told(world: World) -> None:
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}"
    for vote in ({"winner": 1}, {"winner": 2}, {"tie": True}):
        answer = await world.anna("POST", f"{path}/votes", {"row": 0, "voter": "ben", **vote})
        assert answer.status == 200
    seen = (await world.anna("GET", f"{path}?voter=ben")).json
    assert seen["votes"] == 1
    assert (seen["rows"][0]["voted"], seen["rows"][0]["is_tie"]) == (None, True)
    assert (await world.anna("GET", path)).json["rows"][0]["is_tie"] is False
    await world.anna("POST", f"{path}/close")
    late = await world.anna("POST", f"{path}/votes", {"row": 0, "winner": 1})
    assert late.status == 409
    assert "voting has ended" in late.json["detail"]
    closed_at = (await world.anna("GET", path)).json["closed_at"]
    world.clock.advance(60)
    assert (await world.anna("POST", f"{path}/close")).json["closed_at"] == closed_at


async def test_a_vote_cannot_be_watched_on_its_way_to_a_name(world: World) -> None:
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}"
    await world.anna("POST", f"{path}/votes", {"row": 0, "winner": 1})
    assert (await world.anna("GET", "/v1/ratings")).json["ratings"] == []
    await world.anna("POST", f"{path}/close")
    assert (await world.anna("GET", "/v1/ratings")).json["votes"] == 1


async def test_a_sheet_votes_with_its_permit_and_no_key(world: World) -> None:
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}"
    vote = {"permit": made["permit"], "row": 0, "winner": 1, "voter": "ben"}
    answer = await world.stranger(
        "POST", f"{path}/ballots", json.dumps(vote).encode(), headers={"content-type": "text/plain"}
    )
    assert answer.status == 200, answer.body
    assert answer.headers["access-control-allow-origin"] == "*"
    assert (await world.anna("GET", path)).json["votes"] == 1
    for wrong in ({"permit": "x"}, {"row": 1}, {"winner": 3}, {"voter": ""}, {"tie": True}):
        refused = await world.stranger("POST", f"{path}/ballots", {**vote, **wrong})
        assert refused.status in (403, 422), refused.body
        assert refused.headers["access-control-allow-origin"] == "*"
    elsewhere = await world.stranger("POST", "/v1/comparisons/none/ballots", vote)
    assert elsewhere.status == 403
    assert (await world.anna("GET", path)).json["votes"] == 1
    for method, where in (("GET", path), ("POST", f"{path}/votes"), ("POST", f"{path}/close")):
        assert (await world.stranger(method, where)).status == 401


async def test_another_sheet_changes_no_vote_by_typing_the_same_name(world: World) -> None:
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}"
    vote = {"permit": made["permit"], "row": 0, "voter": "ben"}
    for who, said in (
        ({"voter_id": "a" * 28}, {"winner": 1}),
        ({"voter_id": "b" * 28}, {"winner": 2}),
        # Without one all of this name are one voter's.
        ({}, {"winner": 1}),
        ({}, {"winner": 2}),
        ({"voter_id": "a" * 28}, {"tie": True}),
    ):
        answer = await world.stranger("POST", f"{path}/ballots", {**vote, **who, **said})
        assert answer.status == 200, answer.body
    short = await world.stranger(
        "POST", f"{path}/ballots", {**vote, "winner": 1, "voter_id": "a" * 15}
    )
    assert short.status == 422
    told = (await world.anna("POST", f"{path}/close")).json
    assert told["votes"] == 3
    assert [each["ties"] for each in told["models"]] == [1, 1]
    assert sorted(each["wins"] for each in told["models"]) == [0, 2]


async def test_other_keys_see_and_vote_only_where_it_is_shared(world: World) -> None:
    own = await compared(world)
    shared = await compared(world, name="for all", is_shared=True)
    path = f"/v1/comparisons/{own['comparison']['id']}"
    for method, where in (("GET", path), ("POST", f"{path}/close"), ("DELETE", path)):
        assert (await world.berta(method, where)).status == 404
    assert (await world.berta("POST", f"{path}/votes", {"row": 0, "winner": 1})).status == 404
    listed = (await world.berta("GET", "/v1/comparisons")).json["comparisons"]
    assert [(each["name"], each["is_own"]) for each in listed] == [("for all", False)]
    path = f"/v1/comparisons/{shared['comparison']['id']}"
    assert (await world.berta("POST", f"{path}/votes", {"row": 0, "winner": 1})).status == 200
    assert (await world.berta("POST", f"{path}/close")).status == 403
    assert (await world.berta("DELETE", path)).status == 403
    assert len((await world.admin("GET", "/v1/comparisons")).json["comparisons"]) == 2


async def test_only_an_admin_may_ask_for_names_before_the_end(world: World) -> None:
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}"
    assert (await world.admin("GET", path)).json["models"] is None
    told = await world.admin("GET", f"{path}?names=true")
    assert [each["model"] for each in told.json["models"]] == ["demo/one:1", "demo/two:8"]
    assert told.json["closed_at"] is None
    assert (await world.anna("GET", f"{path}?names=true")).status == 403


async def test_comparisons_come_in_pages(world: World) -> None:
    ids = []
    for n in range(3):
        world.clock.advance(1)
        ids.append((await compared(world, name=f"n{n}"))["comparison"]["id"])
    first = (await world.anna("GET", "/v1/comparisons?limit=2")).json
    rest = (await world.anna("GET", f"/v1/comparisons?cursor={first['cursor']}")).json
    found = first["comparisons"] + rest["comparisons"]
    assert [each["id"] for each in found] == ids[::-1]
    assert rest["cursor"] is None


async def test_what_a_model_could_not_draw_is_left_out_and_counted(world: World) -> None:
    rows = await drawn(world, "a", failing=("demo/two",), cards=(ONE, TWO, THREE))
    made = await world.anna("POST", "/v1/comparisons", {"rows": rows})
    [row] = made.json["comparison"]["rows"]
    assert [cell["number"] for cell in row["cells"]] == [1, 2]
    path = f"/v1/comparisons/{made.json['comparison']['id']}"
    assert (await world.anna("POST", f"{path}/votes", {"row": 0, "winner": 3})).status == 422
    assert (await world.anna("POST", f"{path}/votes", {"row": 0, "winner": 2})).status == 200
    models = (await world.anna("POST", f"{path}/close")).json["models"]
    assert [(each["failures"], each["losses"], each["wins"]) for each in models][1] == (1, 0, 0)
    assert models[1]["run_s"] is None


async def test_texts_are_compared_too(world: World) -> None:
    worker_id = await world.register(ONE, TWO)
    ids = [(await world.create(model=f"demo/{n}"))["id"] for n in ("one", "two")]
    leases = (await world.lease(worker_id))["tasks"]
    settled = [succeeded(lease, f"text of {ids.index(lease['task_id'])}") for lease in leases]
    await world.report(worker_id, settlements=settled)
    made = await world.anna("POST", "/v1/comparisons", {"rows": [{"tasks": ids, "label": "so"}]})
    [row] = made.json["comparison"]["rows"]
    assert row["label"] == "so"
    assert sorted(cell["text"] for cell in row["cells"]) == ["text of 0", "text of 1"]


async def test_what_cannot_be_compared_says_why(world: World) -> None:
    rows = await drawn(world, "a", "b")
    (first, second), third = rows[0]["tasks"], rows[1]["tasks"][0]
    waiting = (await world.create(model="demo/one"))["id"]
    others = [
        ([[first, second], [third]], 422, "/rows"),
        ([[first, first]], 422, "twice"),
        ([[first, third]], 422, "same version"),
        ([[first, second], rows[1]["tasks"][::-1]], 422, "name the version"),
        ([[first, waiting]], 409, "all have ended"),
        ([[first, "none"]], 404, "there is no task"),
    ]
    for tasks, status, word in others:
        body = {"rows": [{"tasks": row} for row in tasks]}
        answer = await world.anna("POST", "/v1/comparisons", body)
        assert (answer.status, word in answer.json["detail"]) == (status, True), answer.body
    assert (await world.berta("POST", "/v1/comparisons", {"rows": rows})).status == 404
    await world.anna("POST", f"/v1/tasks/{waiting}/cancel")
    failing = await drawn(world, "c", failing=("demo/two",))
    answer = await world.anna("POST", "/v1/comparisons", {"rows": failing})
    assert answer.status == 400
    assert "no row has outputs from at least two models" in answer.json["detail"]
    assert await world.service.objects.under("comparisons") == []


@pytest.mark.parametrize("name", ["none", "%00", "a" * 31, "g" * 32, "0" * 32])
async def test_what_is_no_id_is_not_found(world: World, name: str) -> None:
    path = f"/v1/comparisons/{name.replace('%00', chr(0))}"
    vote = {"row": 0, "winner": 1, "voter": "ben"}
    assert (await world.anna("GET", path)).status == 404
    assert (await world.anna("DELETE", path)).status == 404
    assert (await world.anna("POST", f"{path}/votes", vote)).status == 404
    refused = await world.stranger("POST", f"{path}/ballots", {"permit": "x", **vote})
    assert refused.status == 403
    if name != "0" * 32:
        assert (await world.anna("GET", f"/v1/comparisons?cursor={name}")).status == 400


async def test_a_picture_that_cannot_be_read_leaves_nothing_behind(world: World) -> None:
    rows = await drawn(world, "a", "b", "c")
    broken = rows[2]["tasks"][0]
    key = f"outputs/{broken}/1/0.png"
    size = (await world.service.objects.head(key)).bytes
    await world.service.objects.put(key, b"no picture".ljust(size), "image/png")
    answer = await world.anna("POST", "/v1/comparisons", {"rows": rows})
    assert answer.status == 400
    assert "cannot be read" in answer.json["detail"]
    assert await world.service.objects.under("comparisons") == []


async def test_pictures_that_are_decoded_at_once_are_few_whatever_asks_for_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await drawn(world, "a", "b", "c", "d")
    going: list[int] = []
    most = [0]

    def watched(decode: Any) -> Any:
        def decoded(*given: Any) -> Any:
            going.append(1)
            most[0] = max(most[0], len(going))
            # Long enough for others to begin, if they could.
            time.sleep(0.02)
            going.pop()
            return decode(*given)

        return decoded

    monkeypatch.setattr(create_comparison, "_bare", watched(create_comparison._bare))
    monkeypatch.setattr(thumbnails, "_shrunk", watched(thumbnails._shrunk))
    small = [f"outputs/{row['tasks'][0]}/1/0.png" for row in rows]
    answers = await asyncio.gather(
        *(world.anna("POST", "/v1/comparisons", {"rows": [row]}) for row in rows),
        *(world.service.thumbnails.find(key, 128) for key in small),
    )
    assert [answer.status for answer in answers[: len(rows)]] == [201] * len(rows)
    assert most == [2]


async def test_a_deleted_comparison_leaves_nothing_behind(world: World) -> None:
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}"
    await world.anna("POST", f"{path}/votes", {"row": 0, "winner": 1})
    await world.anna("POST", f"{path}/close")
    assert len(await world.service.objects.under("comparisons")) == 2
    assert (await world.anna("DELETE", path)).status == 200
    assert await world.service.objects.under("comparisons") == []
    assert (await world.anna("GET", path)).status == 404
    assert (await world.anna("GET", "/v1/ratings")).json["votes"] == 0


async def test_removing_the_tasks_leaves_the_comparison_whole(world: World) -> None:
    rows = await drawn(world, "a")
    made = await world.anna("POST", "/v1/comparisons", {"rows": rows})
    await asyncio.gather(*(world.anna("DELETE", f"/v1/tasks/{n}") for n in rows[0]["tasks"]))
    path = f"/v1/comparisons/{made.json['comparison']['id']}"
    seen = await world.anna("GET", path)
    assert len(await colours(world, seen.json["rows"][0]["cells"])) == 2
    again = await world.anna("POST", "/v1/comparisons", {"rows": rows})
    assert again.status == 409


async def test_ratings_say_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swell.server.evals.comparison_routes.find_spec", lambda name: None)
    answer = await world.anna("GET", "/v1/ratings")
    assert answer.status == 503
    assert "pip install 'swell[adoption]'" in answer.json["detail"]


async def test_a_comparison_takes_no_more_votes_than_it_has_room_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.server.evals.comparison_routes.MOST_VOTES", 1)
    made = await compared(world)
    path = f"/v1/comparisons/{made['comparison']['id']}/votes"
    assert (await world.anna("POST", path, {"row": 0, "winner": 1})).status == 200
    full = await world.anna("POST", path, {"row": 0, "winner": 1, "voter": "more"})
    assert full.status == 409
    assert "no room for more" in full.json["detail"]
    assert (await world.anna("POST", path, {"row": 0, "winner": 2})).status == 200


async def test_a_key_keeps_so_many_comparisons_and_is_told_what_to_do_then(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.server.evals.create_comparison.MOST_KEPT", 1)
    rows = await drawn(world, "a", "b", "c")
    asked = [world.anna("POST", "/v1/comparisons", {"rows": [row]}) for row in rows[:2]]
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status for answer in answers) == [201, 409]
    assert len(await world.service.objects.under("comparisons")) == 2
    full = await world.anna("POST", "/v1/comparisons", {"rows": rows[2:]})
    assert full.status == 409
    assert "DELETE /v1/comparisons/{id}" in full.json["detail"]
    [kept] = [answer.json for answer in answers if answer.status == 201]
    await world.anna("DELETE", f"/v1/comparisons/{kept['comparison']['id']}")
    assert (await world.anna("POST", "/v1/comparisons", {"rows": rows[2:]})).status == 201


async def test_the_texts_of_a_comparison_are_bounded_in_all(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = await drawn(world, "é" * 30, "b")
    monkeypatch.setattr("swell.server.evals.create_comparison._MOST_TEXTS", 60)
    long = await world.anna("POST", "/v1/comparisons", {"rows": rows})
    assert (long.status, "61 bytes" in long.json["detail"]) == (422, True), long.body
    assert await world.service.objects.under("comparisons") == []
    assert (await world.anna("POST", "/v1/comparisons", {"rows": rows[:1]})).status == 201


async def test_a_list_reads_no_comparison(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await compared(world, name="foxes")
    path = f"/v1/comparisons/{made['comparison']['id']}"
    await world.anna("POST", f"{path}/votes", {"row": 0, "winner": 1})
    monkeypatch.delattr(ComparisonRepository, "comparison")
    [told] = (await world.anna("GET", "/v1/comparisons")).json["comparisons"]
    assert (told["name"], told["columns"], told["rows"], told["votes"]) == ("foxes", 2, 1, 1)


async def test_each_vote_is_counted_once_until_a_comparison_is_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reckoned: list[int] = []

    def counting(known: dict[str, Rating], ballots: Sequence[Ballot]) -> dict[str, Rating]:
        reckoned.append(len(ballots))
        return counted(known, ballots)

    monkeypatch.setattr(comparison_routes, "counted", counting)
    paths = []
    for _ in range(3):
        made = await compared(world)
        paths.append(f"/v1/comparisons/{made['comparison']['id']}")
        await world.anna("POST", f"{paths[-1]}/votes", {"row": 0, "winner": 1})
        await world.anna("POST", f"{paths[-1]}/close")
        world.clock.advance(1)
        asked = await asyncio.gather(*(world.anna("GET", "/v1/ratings") for _ in range(3)))
        assert [each.json["votes"] for each in asked] == [len(paths)] * 3
    assert reckoned == [1, 1, 1]
    await world.anna("DELETE", paths[0])
    for _ in range(2):
        assert (await world.anna("GET", "/v1/ratings")).json["comparisons"] == 2
    assert reckoned == [1, 1, 1, 1, 1]


_STEPS = st.lists(
    st.tuples(st.sampled_from(("close", "late", "drop", "ask", "restart")), st.integers(0, 11)),
    max_size=30,
)


@given(_STEPS)
@settings(max_examples=40, deadline=None)
def test_ratings_are_those_of_a_replay_of_all_votes_whatever_ends_or_goes(
    steps: list[tuple[str, int]],
) -> None:
    asyncio.run(_keep_ratings(steps))


async def _keep_ratings(steps: list[tuple[str, int]]) -> None:
    registry = SqliteRig(ManualClock()).registry
    for n in range(12):
        await registry.put_comparison(a_comparison(f"c{n}"))
        for voter in range(n % 4):
            winner = (0, 1, None)[(n + voter) % 3]
            vote = a_vote(voter=f"v{voter}", comparison_id=f"c{n}", winner=winner)
            assert await registry.vote(vote)
    kept, late_s = Ratings(registry), 1000
    for second, (what, n) in enumerate([*steps, ("ask", 0)]):
        if what == "close":
            await registry.close_comparison(f"c{n}", NOW + timedelta(seconds=2000 + second))
        elif what == "late":
            # By the clock of a backend that is behind.
            late_s -= 1
            await registry.close_comparison(f"c{n}", NOW + timedelta(seconds=late_s))
        elif what == "drop":
            await registry.drop_comparison(f"c{n}")
        elif what == "restart":
            kept = Ratings(registry)
        else:
            found = await kept.find()
            ballots: list[Ballot] = []
            for comparison_id, _ in await registry.closed_comparisons():
                comparison = await registry.comparison(comparison_id)
                assert comparison is not None
                ballots += ballots_of(comparison, await registry.votes(comparison_id))
            told = [(each.model, each.mu, each.sigma, each.votes) for each in found.ratings]
            wanted = [
                (each.model, each.mu, each.sigma, each.votes)
                for each in ordered(counted({}, ballots))
            ]
            assert told == wanted
            assert found.votes == len(ballots)
            assert found.comparisons == len(await registry.closed_comparisons())
