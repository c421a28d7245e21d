"""When a remote model's sample is paid, how often it is asked for, and when it is cancelled."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import BaseModel

from loopback import listening
from swell.engines import external_api as remote
from swell.sdk.context import Cancelled, Item, Listener, Reject

PRICE = 40


class Asked(BaseModel):
    prompt: str = "a fox"


class Api:
    """An API that answers what it is told, in order, and the last for ever."""

    def __init__(self) -> None:
        self.url = ""
        self.creates: list[tuple[int, Any]] = [(201, {"id": "p", "status": "starting"})]
        self.polls: list[tuple[int, Any]] = [(200, {"status": "succeeded", "output": "made"})]
        self.heard: list[str] = []
        #: Predictions that are begun are told once this is so.
        self.answers = asyncio.Event()
        self.answers.set()

    async def create(self, request: web.Request) -> web.StreamResponse:
        self.heard.append("create")
        await self.answers.wait()
        return self._next(request, self.creates)

    async def poll(self, request: web.Request) -> web.StreamResponse:
        self.heard.append("poll")
        return self._next(request, self.polls)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        self.heard.append("cancel")
        return web.json_response({})

    def _next(self, request: web.Request, told: list[tuple[int, Any]]) -> web.StreamResponse:
        status, said = told.pop(0) if len(told) > 1 else told[0]
        if status == 0:
            assert request.transport is not None
            request.transport.close()
        headers = {"retry-after": "0"}
        if 300 <= status < 400:
            headers["location"] = "/v1/models/o/n/predictions"
        return web.json_response(said, status=status or 200, headers=headers)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    here, app = Api(), web.Application()
    app.router.add_post("/v1/models/o/n/predictions", here.create)
    app.router.add_get("/v1/predictions/p", here.poll)
    app.router.add_post("/v1/predictions/p/cancel", here.cancel)
    async with listening(app) as url:
        here.url = url
        yield here


class Purse(Listener):
    """Hears what was paid."""

    paid_micros = 0

    def __init__(self, ends: Callable[[], bool] = lambda: False) -> None:
        self._ends = ends

    def is_cancelled(self) -> bool:
        return self._ends()

    def paid(self, micros: int) -> None:
        self.paid_micros += micros


async def asked(
    url: str, folder: Path, ends: Callable[[], bool] = lambda: False, **more: Any
) -> Any:
    told = {
        "name": "remote/theirs",
        "url": f"{url}/v1",
        "remote_model": "o/n",
        "Input": Asked,
        "Output": str,
        "price_micros": PRICE,
        "budget_micros_per_day": 1000,
        "budget_folder": str(folder),
    }
    model, purse = type("Theirs", (remote.Predictions,), told | more)(), Purse(ends)
    model.load("cpu")
    item: Item[Any] = Item(model.Input(), seed=1, listener=purse)
    (found,) = await asyncio.to_thread(model.run, [item])
    assert purse.paid_micros == spent(folder), "charged is what was taken from the budget"
    return found


def spent(folder: Path) -> int:
    (note,) = folder.iterdir()
    micros: int = json.loads(note.read_text())["micros"]
    return micros


@pytest.mark.slow
async def test_what_was_made_is_paid_once(api: Api, tmp_path: Path) -> None:
    assert await asked(api.url, tmp_path) == "made"
    assert (spent(tmp_path), api.heard) == (PRICE, ["create", "poll"])


@pytest.mark.parametrize(
    ("status", "kind", "times"),
    [(400, Reject, 1), (422, Reject, 1), (401, RuntimeError, 1), (402, RuntimeError, 1),
     (409, RuntimeError, 1), (429, RuntimeError, 4)],
)  # fmt: skip
async def test_what_was_refused_costs_nothing(
    api: Api, tmp_path: Path, status: int, kind: type[Exception], times: int
) -> None:
    api.creates = [(status, {"detail": "no"})]
    assert isinstance(await asked(api.url, tmp_path), kind)
    assert (spent(tmp_path), api.heard) == (0, ["create"] * times)


@pytest.mark.parametrize("status", [0, 307, 308, 408, 500, 502, 504])
async def test_what_may_have_been_begun_is_paid_and_not_asked_for_again(
    api: Api, tmp_path: Path, status: int
) -> None:
    api.creates = [(status, {})]
    assert isinstance(await asked(api.url, tmp_path), Exception)
    assert (spent(tmp_path), api.heard) == (PRICE, ["create"])


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_asked_again_for_one_price(
    api: Api, tmp_path: Path, status: int
) -> None:
    api.creates = [(status, {}), (status, {}), *api.creates]
    assert await asked(api.url, tmp_path) == "made"
    assert (spent(tmp_path), api.heard) == (PRICE, [*["create"] * 3, "poll"])


async def test_an_answer_that_is_none_is_paid(api: Api, tmp_path: Path) -> None:
    api.creates = [(503, {})]
    assert isinstance(await asked(api.url, tmp_path), RuntimeError)
    assert (spent(tmp_path), api.heard) == (PRICE, ["create"] * 4)


async def test_what_was_never_sent_costs_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Bound, and nobody listens.
        taken.bind(("127.0.0.1", 0))
        found = await asked(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path)
    assert isinstance(found, OSError)
    assert spent(tmp_path) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("status", "polls"), [(500, 4), (404, 1), (0, 1)])
async def test_a_prediction_that_cannot_be_followed_is_cancelled_and_paid(
    api: Api, tmp_path: Path, status: int, polls: int
) -> None:
    api.polls = [(200, {"id": "p", "status": "processing"}), (status, {})]
    assert isinstance(await asked(api.url, tmp_path), Exception)
    assert api.heard[-1] == "cancel"
    # A connection that breaks is tried anew by the client where it had been kept: reading is free.
    assert api.heard[0] == "create"
    assert set(api.heard[1:-1]) == {"poll"}
    assert len(api.heard[1:-1]) >= 1 + polls
    assert spent(tmp_path) == PRICE


@pytest.mark.slow
async def test_one_that_takes_too_long_is_cancelled_and_paid(api: Api, tmp_path: Path) -> None:
    api.polls = [(200, {"id": "p", "status": "processing"})]
    assert isinstance(await asked(api.url, tmp_path, timeout_s=0.6), TimeoutError)
    assert api.heard[-1] == "cancel"
    assert spent(tmp_path) == PRICE


def cancelled_while_asked(api: Api) -> Callable[[], bool]:
    """Return what says that a task is cancelled once it was asked for; the API answers then."""
    loop = asyncio.get_running_loop()

    def ends() -> bool:
        is_asked = bool(api.heard)
        if is_asked:
            loop.call_soon_threadsafe(api.answers.set)
        return is_asked

    return ends


@pytest.mark.slow
async def test_one_that_nobody_wants_before_its_id_is_known_is_cancelled_and_paid(
    api: Api, tmp_path: Path
) -> None:
    api.answers.clear()
    found = await asked(api.url, tmp_path, cancelled_while_asked(api))
    assert isinstance(found, Cancelled)
    assert (spent(tmp_path), api.heard) == (PRICE, ["create", "cancel"])


@pytest.mark.slow
@pytest.mark.parametrize(("status", "price"), [(422, 0), (500, PRICE), (429, 0), (503, PRICE)])
async def test_what_nobody_wants_is_not_asked_for_again_and_paid_as_it_is_answered(
    api: Api, tmp_path: Path, status: int, price: int
) -> None:
    api.creates = [(status, {})]
    api.answers.clear()
    found = await asked(api.url, tmp_path, cancelled_while_asked(api))
    assert isinstance(found, Cancelled)
    assert (spent(tmp_path), api.heard) == (price, ["create"])


@pytest.mark.slow
async def test_one_whose_time_is_over_before_its_id_is_known_is_cancelled_and_paid(
    api: Api, tmp_path: Path
) -> None:
    api.polls = [(200, {"id": "p", "status": "processing"})]
    api.answers.clear()
    asyncio.get_running_loop().call_later(0.6, api.answers.set)
    assert isinstance(await asked(api.url, tmp_path, timeout_s=0.3), TimeoutError)
    assert (spent(tmp_path), api.heard[0], api.heard[-1]) == (PRICE, "create", "cancel")


@pytest.mark.slow
async def test_what_is_never_answered_is_given_up_and_paid(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_ID_S", 0.05)
    api.answers.clear()
    found = await asked(api.url, tmp_path, lambda: bool(api.heard))
    api.answers.set()
    assert isinstance(found, Cancelled)
    assert (spent(tmp_path), api.heard) == (PRICE, ["create"])


@pytest.mark.slow
@pytest.mark.parametrize("state", ["failed", "canceled"])
async def test_one_that_ended_is_paid_and_not_cancelled(
    api: Api, tmp_path: Path, state: str
) -> None:
    api.polls = [(200, {"id": "p", "status": state, "error": "no foxes"})]
    assert "no foxes" in str(await asked(api.url, tmp_path))
    assert (spent(tmp_path), api.heard) == (PRICE, ["create", "poll"])


async def test_pictures_are_paid_alike(tmp_path: Path) -> None:
    heard: list[int] = []

    async def generate(request: web.Request) -> web.Response:
        heard.append(1)
        return web.json_response({}, status=502, headers={"retry-after": "0"})

    app = web.Application()
    app.router.add_post("/v1/images/generations", generate)
    told = {
        "name": "remote/theirs",
        "price_micros": PRICE,
        "budget_micros_per_day": 1000,
        "budget_folder": str(tmp_path),
    }
    async with listening(app) as url:
        model = type("Theirs", (remote.OpenAIImages,), told | {"url": f"{url}/v1"})()
        model.load("cpu")
        given = Item(model.Input(prompt="a fox"), seed=1)
        (failed,) = await asyncio.to_thread(model.run, [given])
    assert isinstance(failed, RuntimeError)
    assert (spent(tmp_path), len(heard)) == (PRICE, 1)
