"""The client for Python against a real server."""

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

import swell
from commandline import Swell
from swell.client import Refused, TaskEnded
from swell.client.access import read_access
from swell.core.errors import InvalidRequest

PICTURE = "demo/echo-picture"


@pytest.fixture(scope="module")
def client(running: Swell) -> Iterator[swell.Client]:
    access = read_access(running.folder / ".swell")
    assert access is not None
    with swell.Client(access.url, access.key) as opened:
        yield opened


def test_a_picture_is_asked_for_waited_for_and_saved(client: swell.Client, tmp_path: Path) -> None:
    task = client.run(PICTURE, {"prompt": "a fox", "width": 64}, seed=7, user="anna")
    assert (task.state, task.seed, task.user) == ("succeeded", 7, "anna")
    (path,) = client.save(task, tmp_path / "new" / "folder")
    with PIL.Image.open(path) as picture:
        assert picture.size == (64, 128)
    assert path.suffix == ".png"
    assert client.read(task.artifacts[0]) == path.read_bytes()


def test_several_pictures_of_one_task_are_saved_under_names_of_their_own(
    client: swell.Client, tmp_path: Path
) -> None:
    task = client.run(PICTURE, {"prompt": "foxes"}, count=3)
    paths = client.save(task, tmp_path)
    assert len({path.name for path in paths}) == 3


def test_events_tell_of_progress_and_end_with_the_task(client: swell.Client) -> None:
    for _ in range(5):
        task = client.submit(PICTURE, {"prompt": "slow", "steps": 30, "step_s": 0.02})
        assert not task.has_ended
        events = list(client.events(task))
        # Who comes after its end hears of that alone.
        if len(events) > 1:
            break
    assert events[-1].kind == "succeeded"
    assert any(event.kind == "progress" for event in events)
    assert events[-1].data["id"] == task.id


def test_who_stops_listening_may_go_on_with_other_calls(client: swell.Client) -> None:
    task = client.submit(PICTURE, {"prompt": "slow", "steps": 200, "step_s": 0.05})
    for event in client.events(task):
        if event.kind == "progress":
            break
    assert client.cancel(task).id == task.id
    with pytest.raises(TaskEnded) as ended:
        client.wait(task, timeout_s=20)
    assert ended.value.task.state == "canceled"


def test_a_task_that_takes_longer_than_one_waits_goes_on(client: swell.Client) -> None:
    with pytest.raises(TimeoutError):
        client.run(
            PICTURE, {"prompt": "late", "steps": 600, "step_s": 0.1}, timeout_s=0.5, user="late"
        )
    (task,) = client.tasks(user="late")
    assert not task.has_ended
    client.cancel(task)


def test_a_failure_says_why(client: swell.Client) -> None:
    with pytest.raises(TaskEnded, match="no foxes") as ended:
        client.run("demo/crash", {"how": "reject", "text": "no foxes"})
    assert ended.value.task.error is not None
    assert ended.value.task.error.code == "rejected"


def test_a_refusal_says_which_field_is_wrong(client: swell.Client) -> None:
    with pytest.raises(Refused) as refused:
        client.submit(PICTURE, {"prompt": "a fox", "width": 5})
    assert refused.value.reason == "invalid_input"
    assert refused.value.problem["errors"][0]["pointer"] == "/input/width"


def test_the_same_idempotency_key_gives_the_same_task(client: swell.Client) -> None:
    first, again = (
        client.submit("demo/upper", {"text": "once"}, idempotency_key="a-key") for _ in range(2)
    )
    other = client.submit("demo/upper", {"text": "once"})
    assert first.id == again.id != other.id


def test_files_of_every_kind_are_stored(client: swell.Client, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a text")
    assert client.read(client.upload(tmp_path / "a.txt")) == b"a text"
    assert client.read(client.upload(b"\x89PNG\r\n\x1a\n")).startswith(b"\x89PNG")
    picture = PIL.Image.new("RGB", (8, 8), "red")
    assert PIL.Image.open(io.BytesIO(client.read(client.upload(picture)))).size == (8, 8)
    with (tmp_path / "a.txt").open("rb") as file:
        assert client.read(client.upload(file)) == b"a text"
    with (tmp_path / "a.txt").open() as text, pytest.raises(InvalidRequest):
        client.upload(text)
    with pytest.raises(InvalidRequest, match=r"none\.txt"):
        client.upload(tmp_path / "none.txt")


def test_many_are_asked_for_at_once_and_listed_page_by_page(client: swell.Client) -> None:
    requests = [
        {"model": "demo/upper", "input": {"text": str(n)}, "user": "many"} for n in range(130)
    ]
    made = client.submit_many(requests)
    assert [task.input["text"] for task in made] == [str(n) for n in range(130)]
    for task in made:
        client.wait(task, timeout_s=60)
    listed = list(client.tasks(user="many", state="succeeded"))
    assert {task.id for task in listed} == {task.id for task in made}
    assert client.retry(made[0]).id != made[0].id


def test_models_are_listed_with_their_schemas(client: swell.Client) -> None:
    assert PICTURE in {model.name for model in client.models()}
    model = client.model(PICTURE)
    assert model is not None
    assert "prompt" in model.input_schema["properties"]
    assert client.model("nobody/nothing") is None


def test_threads_may_share_a_client(client: swell.Client) -> None:
    said: list[str] = []

    def ask(n: int) -> None:
        said.append(client.run("demo/upper", {"text": f"thread {n}"}).output)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert sorted(said) == [f"THREAD {n}" for n in range(8)]


async def test_both_clients_work_where_a_loop_runs(client: swell.Client, running: Swell) -> None:
    assert client.run("demo/upper", {"text": "blocking"}).output == "BLOCKING"
    access = read_access(running.folder / ".swell")
    assert access is not None
    async with swell.AsyncClient(access.url, access.key) as other:
        tasks = [other.run("demo/upper", {"text": f"t{n}"}) for n in range(20)]
        assert [task.output for task in await asyncio.gather(*tasks)] == [
            f"T{n}" for n in range(20)
        ]


def test_a_closed_client_opens_again(running: Swell) -> None:
    access = read_access(running.folder / ".swell")
    assert access is not None
    client = swell.Client(access.url, access.key)
    for _ in range(2):
        assert client.run("demo/upper", {"text": "a"}).output == "A"
        client.close()
    client.close()
