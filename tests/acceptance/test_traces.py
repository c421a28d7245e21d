"""One trace leads through a backend, a worker and a model process to the artifact."""

import json
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from collector import Collector, Told, collecting
from commandline import Swell, ready_line, stop

PARENT = f"00-{'5c' * 16}-{'0e' * 8}-01"

#: Span → whose child it is; `accept` is the client's.
PARENTS = {
    "queued": "accept",
    "lease": "accept",
    "delivered": "accept",
    "run": "lease",
    "encode": "lease",
    "upload": "lease",
    "report": "lease",
}


async def send(url: str, key: str, body: object, **headers: str) -> dict:  # type: ignore[type-arg]
    """Send a task, and wait for its end."""
    headers |= {"authorization": f"Bearer {key}", "prefer": "wait=30"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.post(f"{url}/v1/tasks", json=body) as answer,
    ):
        assert answer.status == 201, await answer.text()
        return dict(await answer.json())


def of(spans: list[Told], task_id: str) -> dict[str, Told]:
    found = [span for span in spans if span.attributes["swell.task.id"] == task_id]
    assert max(Counter(span.name for span in found).values()) == 1, found
    return {span.name: span for span in found}


def config(collector: Collector, folder: Path, lines: str = "") -> None:
    (folder / "swell.toml").write_text(
        f'[telemetry]\nendpoint = "{collector.url}"\nin_tasks = true\n{lines}\n'
        '[log]\njson_lines = true\nlevel = "debug"\nrequests = "info"\n'
    )


async def test_one_trace_has_all_spans_and_the_right_parents(swell: Swell) -> None:
    async with collecting() as collector:
        config(collector, swell.folder)
        process = swell.start("up", "--json", "--port", "0", "-m", "demo/*")
        try:
            ready = ready_line(process, swell.folder)
            wish = {"model": "demo/echo-picture", "input": {"prompt": "fox", "width": 64}}
            task = await send(ready["url"], ready["key"], wish, traceparent=PARENT)
            assert task["state"] == "succeeded", task
            names = {"accept", *PARENTS}
            spans = await collector.until(
                lambda spans: {each.name for each in spans if each.trace == "5c" * 16} >= names
            )
            found = of(spans, task["id"])
            assert set(found) == names
            assert {span.trace for span in found.values()} == {"5c" * 16}
            assert task["trace_id"] == "5c" * 16
            assert found["accept"].parent == "0e" * 8
            for name, parent in PARENTS.items():
                assert found[name].parent == found[parent].id, name
            assert {name: found[name].service for name in ("accept", "lease", "delivered")} == (
                dict.fromkeys(("accept", "lease", "delivered"), "swell-backend")
            )
            assert {found[name].service for name in ("run", "encode", "upload", "report")} == {
                "swell-worker"
            }
            assert found["queued"].end_ns == found["lease"].start_ns
            ordered = [found[name].end_ns for name in ("queued", "run", "encode", "upload")]
            assert ordered == sorted(ordered)

            # Without a client's word it has a trace of its own, below nothing.
            other = await send(ready["url"], ready["key"], wish)
            assert other["trace_id"] != task["trace_id"]
            spans = await collector.until(
                lambda spans: (
                    {each.name for each in spans if each.trace == other["trace_id"]} >= names
                )
            )
            assert of(spans, other["id"])["accept"].parent == ""
            # A client that does not want one is not traced.
            quiet = await send(ready["url"], ready["key"], wish, traceparent=PARENT[:-2] + "00")
            assert "trace_id" not in quiet
        finally:
            assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()
        assert quiet["id"] not in str(collector.spans)
        lines = log_lines(swell)
        accepted = next(line for line in lines if line.get("task_id") == task["id"])
        assert accepted["trace_id"] == "5c" * 16
        assert accepted["route"] == "/v1/tasks"


async def test_what_fails_says_so_in_its_trace_and_in_the_log(swell: Swell) -> None:
    file = swell.folder / "broken.py"
    file.write_text(
        "import swell\n\n"
        "@swell.model('test/broken')\n"
        "def broken(text: str) -> str:\n"
        "    raise RuntimeError('on purpose')\n"
    )
    async with collecting() as collector:
        config(collector, swell.folder)
        process = swell.start("up", "--json", "--port", "0", "-m", "broken.py")
        try:
            ready = ready_line(process, swell.folder)
            wish = {"model": "test/broken", "input": {"text": "a"}, "max_attempts": 1}
            headers = {"x-request-id": "from-our-proxy/17"}
            task = await send(ready["url"], ready["key"], wish, **headers)
            assert task["state"] == "failed"
            spans = await collector.until(
                lambda spans: {"run", "report", "delivered"} <= {each.name for each in spans}
            )
            found = of(spans, task["id"])
            assert found["run"].error == found["delivered"].error == "model_error"
        finally:
            stop(process)
        [request] = [each for each in log_lines(swell) if each.get("task_id") == task["id"]]
        assert request["request_id"] == "from-our-proxy/17"
        assert (request["status"], request["level"]) == (201, "info")
        [failure] = [each for each in worker_lines(swell) if each.get("task_id") == task["id"]]
        assert failure["event"] == "the model failed"
        assert (failure["attempt"], failure["code"]) == (1, "model_error")
        assert "RuntimeError: on purpose" in failure["exception"]
        assert failure["trace_id"] == task["trace_id"]
        assert failure["worker"]


@pytest.mark.parametrize("level", ["off", "debug", "info"])
def test_the_line_of_a_request_is_as_important_as_was_set(swell: Swell, level: str) -> None:
    (swell.folder / "swell.toml").write_text(f'[log]\nrequests = "{level}"\njson_lines = true\n')
    process = swell.start("serve", "--json", "--port", "0")
    try:
        ready_line(process, swell.folder)
        swell.ok("tasks", "ls")
    finally:
        assert stop(process) == 0
    told = [line for line in log_lines(swell) if line["event"] == "request"]
    assert bool(told) == (level == "info")


def log_lines(swell: Swell) -> list[dict]:  # type: ignore[type-arg]
    return json_lines((swell.folder / "stderr.txt").read_text())


def worker_lines(swell: Swell) -> list[dict]:  # type: ignore[type-arg]
    logs = sorted((swell.folder / ".swell" / "logs").iterdir())
    return [line for log in logs for line in json_lines(log.read_text())]


def json_lines(text: str) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
