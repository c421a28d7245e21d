"""Models behind APIs of two shapes: Swell's own façades of them are the APIs here."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import swell
from commandline import Swell, ready_line, stop
from pages import block
from swell import Client
from swell.client.access import read_access
from swell.client.errors import TaskEnded
from swell.engines import external_api as remote
from swell.sdk.context import Item, Listener, Reject


@pytest.fixture(scope="module")
def place(running: Swell) -> dict[str, str]:
    access = read_access(running.folder / ".swell")
    assert access is not None
    key_file = running.folder / "key"
    key_file.write_text(access.key + "\n")
    return {"url": access.url, "key_file": str(key_file)}


def loaded(kind: type[remote.RemoteModel], place: dict[str, str], path: str, **more: Any) -> Any:
    told = {"name": "remote/theirs", "url": place["url"] + path, "key_file": place["key_file"]}
    made = type("Theirs", (kind,), told | more)()
    made.load("cpu")
    return made


def item(model: Any, seed: int = 5, **values: Any) -> Item[Any]:
    return Item(model.Input(**values), seed=seed)


class Rings(BaseModel):
    prompt: str
    width: int = 64
    steps: int = 2
    step_s: float = 0.0
    seed: int | None = None


def predictions(place: dict[str, str], model: str = "demo/echo-picture", **more: Any) -> Any:
    told = {"Input": Rings, "Output": swell.Image, "remote_model": model} | more
    return loaded(remote.Predictions, place, "/replicate/v1", **told)


def test_pictures_come_from_an_api_like_openais(place: dict[str, str]) -> None:
    model = loaded(remote.OpenAIImages, place, "/openai/v1", remote_model="demo/echo-picture")
    found = model.run([item(model, prompt=f"fox {n}", size="64x48") for n in range(5)])
    assert [made.pil().size for made in found] == [(64, 48)] * 5
    assert len({made.encoded for made in found}) == 5


def test_what_the_api_refuses_no_retry_can_help(place: dict[str, str]) -> None:
    model = loaded(remote.OpenAIImages, place, "/openai/v1", remote_model="nobody/nothing")
    (refused,) = model.run([item(model, prompt="a fox")])
    assert isinstance(refused, Reject)
    assert "nobody/nothing" in str(refused)


def test_a_wrong_key_is_the_operators_affair(place: dict[str, str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("swell_nobody")
    model = loaded(
        remote.OpenAIImages, {**place, "key_file": str(wrong)}, "/openai/v1", remote_model="a/b"
    )
    (refused,) = model.run([item(model, prompt="a fox")])
    assert isinstance(refused, RuntimeError)
    assert "key_file" in str(refused)
    assert "swell_nobody" not in str(refused)


def test_one_bad_sample_takes_nobody_along(place: dict[str, str]) -> None:
    model = predictions(place)
    found = model.run([item(model, prompt="a"), item(model, prompt="b", width=5)])
    assert found[0].pil().width == 64
    assert isinstance(found[1], Reject)


def test_whatever_a_prediction_makes_is_taken_and_seeds_go_along(place: dict[str, str]) -> None:
    model = predictions(place)
    same, again, other = model.run([item(model, prompt="a", seed=seed) for seed in (1, 1, 2)])
    assert same.encoded == again.encoded != other.encoded

    class Text(BaseModel):
        text: str

    upper = predictions(place, "demo/upper", Input=Text, Output=str)
    assert upper.run([item(upper, text="a fox")]) == ["A FOX"]


def test_a_failure_there_is_told_with_its_reason(place: dict[str, str]) -> None:
    class How(BaseModel):
        how: str
        text: str

    model = predictions(place, "demo/crash", Input=How, Output=str)
    (failed,) = model.run([item(model, how="reject", text="no foxes")])
    assert isinstance(failed, RuntimeError)
    assert "no foxes" in str(failed)


class Ear(Listener):
    """Hears of progress, and cancels when it is told to."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []
        self.has_had_enough = threading.Event()

    def progress(self, done: int, total: int) -> None:
        self.heard.append((done, total))

    def preview(self, make: Any) -> None:
        """Nobody looks."""

    def is_cancelled(self) -> bool:
        return self.has_had_enough.is_set()


def test_progress_is_passed_on_and_a_cancellation_reaches_the_api(
    place: dict[str, str], running: Swell
) -> None:
    ear, model = Ear(), predictions(place)
    slow = Item(Rings(prompt="slow", steps=500, step_s=0.05), seed=1, listener=ear)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(model.run([slow])))
    thread.start()
    ends_s = time.monotonic() + 40
    while not ear.heard and time.monotonic() < ends_s:
        time.sleep(0.05)
    assert ear.heard
    assert ear.heard[-1][1] == 500
    ear.has_had_enough.set()
    thread.join(20)
    assert isinstance(found[0], swell.Cancelled)
    access = read_access(running.folder / ".swell")
    assert access is not None
    with swell.Client(access.url, access.key) as client:
        newest = next(client.tasks(model="demo/echo-picture"))
        assert newest.input["steps"] == 500
        while not client.get(newest).has_ended and time.monotonic() < ends_s:
            time.sleep(0.1)
        assert client.get(newest).state == "canceled"


def test_no_more_is_spent_than_the_budget_of_the_day(place: dict[str, str], tmp_path: Path) -> None:
    model = predictions(
        place, price_micros=40_000, budget_micros_per_day=100_000, budget_folder=str(tmp_path)
    )
    (refused,) = model.run([item(model, prompt="a", width=5)])
    assert isinstance(refused, Reject)  # and costs nothing
    found = model.run([item(model, prompt=str(n)) for n in range(3)])
    assert sum(isinstance(each, swell.Image) for each in found) == 2
    assert [str(each) for each in found if isinstance(each, remote.BudgetSpent)] != []


def write_theirs(swell: Swell, **attributes: object) -> None:
    """Write a file with `remote/theirs`, of a shape like OpenAI's."""
    lines = ['"""Drawn elsewhere."""', 'name = "remote/theirs"']
    lines += [f"{name} = {value!r}" for name, value in attributes.items()]
    head = "from swell.engines import external_api\n\nclass Theirs(external_api.OpenAIImages):\n"
    (swell.folder / "theirs.py").write_text(head + "".join(f"    {each}\n" for each in lines))


def of_echoes(place: dict[str, str]) -> dict[str, str]:
    """Return what a remote model says that asks the Swell of these tests."""
    return {
        "url": f"{place['url']}/openai/v1",
        "remote_model": "demo/echo-picture",
        "key_file": place["key_file"],
    }


def test_a_remote_model_is_a_file_like_any_other(place: dict[str, str], swell: Swell) -> None:
    write_theirs(swell, **of_echoes(place))
    swell.ok("run", "theirs.py", "-i", "prompt=a fox", "-i", "size=64x64", "--out", "made")
    assert len(list((swell.folder / "made").iterdir())) == 1


def test_a_task_without_money_fails_at_once_and_says_until_when(swell: Swell) -> None:
    write_theirs(
        swell,
        url="http://127.0.0.1:9/v1",
        price_micros=2,
        budget_micros_per_day=1,
        budget_folder=str(swell.folder / "budgets"),
    )
    process = swell.start("up", "--json", "--port", "0", "-m", "theirs.py")
    try:
        ready_line(process, swell.folder)
        access = read_access(swell.folder / ".swell")
        assert access is not None
        with Client(access.url, access.key) as client:
            task = client.submit("remote/theirs", {"prompt": "a fox"})
            with pytest.raises(TaskEnded, match="resets on"):
                client.wait(task, timeout_s=60)
            ended = client.get(task)
    finally:
        assert stop(process) == 0
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert ended.error is not None
    assert ended.error.code == "rejected"


def test_what_others_ask_is_charged_to_the_task(place: dict[str, str], swell: Swell) -> None:
    (swell.folder / "own.py").write_text(block("docs/what-it-costs.md", "own/theirs"))
    write_theirs(swell, **of_echoes(place), price_micros=40_000)
    process = swell.start("up", "--json", "--port", "0", "-m", "theirs.py", "-m", "own.py")
    try:
        ready_line(process, swell.folder)
        access = read_access(swell.folder / ".swell")
        assert access is not None
        with Client(access.url, access.key) as client:
            asked = {"prompt": "a fox", "size": "64x64"}
            expected = client.estimate("remote/theirs", asked, count=2)
            drawn = client.run("remote/theirs", asked, count=2)
            said = client.run("own/theirs", {"text": "a fox"})
        # A pool without a price: what others ask is all that is known.
        assert (expected.cost_micros, drawn.cost_micros, said.cost_micros) == (
            80_000,
            80_000,
            2_000,
        )
        assert (len(drawn.artifacts), said.output) == (2, "A FOX")
        ends_s = time.monotonic() + 30
        while time.monotonic() < ends_s:
            rows = json.loads(swell.ok("costs", "--ledger", "--json"))
            paid = {each["ref"]: each for each in rows if each["outcome"] == "paid"}
            if len(paid) == 2:
                break
            time.sleep(0.2)
        assert paid[drawn.id]["cost_micros"] == 80_000
        assert paid[said.id]["cost_micros"] == 2_000
    finally:
        assert stop(process) == 0
