"""The HTTP surface as a client meets it: a real server, a real worker, a real file store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from http_server import MODEL, PICTURE, Server, a_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("service")
    with a_server(folder) as server:
        yield server


def test_a_request_that_waits_gets_the_output(server: Server) -> None:
    body = {"model": MODEL, "input": {"text": "hello"}}
    answer = server.post("/v1/tasks", body, Prefer="wait=30")
    assert answer.status_code == 201, answer.text
    assert answer.json()["output"] == "HELLO"
    assert answer.headers["preference-applied"] == "wait=30"


def test_a_picture_comes_back_by_a_signed_url_in_ranges(server: Server) -> None:
    body = {"model": PICTURE, "input": {"prompt": "fox", "width": 64, "height": 48}}
    task = server.post("/v1/tasks", body, Prefer="wait=30").json()
    assert task["state"] == "succeeded", task
    [artifact] = task["artifacts"]
    assert task["output"] == artifact["url"]
    assert (artifact["width"], artifact["height"]) == (64, 48)
    whole = requests.get(artifact["url"], timeout=30)
    assert whole.headers["content-type"] == "image/png"
    assert whole.content.startswith(b"\x89PNG")
    assert len(whole.content) == artifact["bytes"]
    part = requests.get(artifact["url"], headers={"range": "bytes=1-3"}, timeout=30)
    assert (part.status_code, part.content) == (206, b"PNG")
    etag = {"if-none-match": whole.headers["etag"]}
    assert requests.get(artifact["url"], headers=etag, timeout=30).status_code == 304
    head = requests.head(artifact["url"], timeout=30)
    assert head.headers["content-length"] == str(artifact["bytes"])
    assert head.content == b""


def test_a_picture_comes_at_once_to_whoever_asks_for_pictures(server: Server) -> None:
    body = {"model": PICTURE, "input": {"prompt": "fox", "width": 64, "height": 48}}
    headers = {**server.headers, "Prefer": "wait=30", "Accept": "image/png"}
    with requests.Session() as session:
        for _ in range(2):
            answer = session.post(server.url + "/v1/tasks", json=body, headers=headers, timeout=90)
            assert answer.status_code == 201, answer.text
            assert answer.headers["content-type"] == "image/png"
            assert answer.headers["preference-applied"] == "wait=30"
            assert answer.content.startswith(b"\x89PNG")
            same = requests.get(answer.headers["content-location"], timeout=30)
            assert same.content == answer.content
        told = session.get(answer.headers["location"], headers=server.headers, timeout=30).json()
    assert (told["id"], told["state"]) == (answer.headers["swell-task"], "succeeded")


def test_text_comes_as_json_whatever_type_is_asked_for(server: Server) -> None:
    body = {"model": MODEL, "input": {"text": "hello"}}
    answer = server.post("/v1/tasks", body, Prefer="wait=30", Accept="image/png")
    assert (answer.status_code, answer.json()["output"]) == (201, "HELLO")


def test_a_stream_shows_progress_and_previews_and_can_be_resumed(server: Server) -> None:
    body = {"model": PICTURE, "input": {"prompt": "fox", "steps": 6, "step_s": 0.1}}
    for _ in range(5):
        task = server.post("/v1/tasks", body).json()
        events = _events(server, task["id"])
        # Who comes after its end hears of that alone.
        if len(events) > 1:
            break
    kinds = [kind for _, kind, _ in events]
    assert kinds[-1] == "succeeded"
    assert {"started", "progress", "preview"} <= set(kinds)
    ids = [number for number, _, _ in events if number is not None]
    assert ids == sorted(set(ids))
    assert events[-1][2]["artifacts"]
    again = _events(server, task["id"], ids[-2])
    assert [kind for _, kind, _ in again] == ["succeeded"]
    over = server.get(f"/v1/tasks/{task['id']}/events", **{"Last-Event-ID": str(ids[-1])})
    assert over.status_code == 204


def test_a_running_task_is_canceled_within_a_step(server: Server) -> None:
    body = {"model": PICTURE, "input": {"steps": 1000, "step_s": 0.05}}
    task = server.post("/v1/tasks", body).json()
    path = f"/v1/tasks/{task['id']}"
    server.wait_until(lambda: server.get(path).json()["state"] == "running")
    assert server.post(path + "/cancel", None).status_code == 200
    server.wait_until(lambda: server.get(path).json()["state"] == "canceled")


def test_an_uploaded_file_is_what_its_url_gives(server: Server) -> None:
    answer = requests.post(
        server.url + "/v1/uploads",
        files={"file": ("a.bin", b"\r\n\x00\xff--", "application/octet-stream")},
        headers=server.headers,
        timeout=30,
    )
    assert answer.status_code == 201, answer.text
    assert requests.get(answer.json()["url"], timeout=30).content == b"\r\n\x00\xff--"


def test_operators_see_workers_models_and_numbers(server: Server) -> None:
    [worker] = server.get("/v1/workers").json()["workers"]
    assert set(worker["models"]) == {MODEL, PICTURE}
    models = server.get("/v1/models").json()["models"]
    assert [model["name"] for model in models] == sorted(worker["models"])
    assert requests.get(server.url + "/health/ready", timeout=30).json()["status"] == "ok"
    text = requests.get(server.url + "/metrics", timeout=30).text
    assert f'swell_tasks_total{{model="{MODEL}",outcome="succeeded"}}' in text
    for path in ("/", "/docs", "/docs/errors", "/llms.txt"):
        assert requests.get(server.url + path, timeout=30).status_code == 200


def test_a_client_key_cannot_operate(server: Server) -> None:
    made = server.post("/v1/keys", {"name": "shop"}).json()
    known = {"authorization": f"Bearer {made['key']}"}
    assert requests.get(server.url + "/v1/workers", headers=known, timeout=30).status_code == 403
    assert requests.get(server.url + "/v1/tasks", headers=known, timeout=30).json()["tasks"] == []


def _events(server: Server, task_id: str, after: int | None = None) -> list[tuple]:  # type: ignore[type-arg]
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    text = server.get(f"/v1/tasks/{task_id}/events", **headers).text
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((number, fields["event"], json.loads(fields["data"])))
    return found
