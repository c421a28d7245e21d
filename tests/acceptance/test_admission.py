"""The requests and commands of the page on quotas, deadlines and priorities, on a real server."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from commandline import Swell, ready_line, stop
from pages import blocks

PAGE = (Path(__file__).parents[2] / "docs" / "quotas.md").read_text(encoding="utf-8")
REQUESTS = re.findall(r"```json (\w+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for each in blocks("docs/quotas.md", "sh") for line in each.splitlines()]


@dataclass(frozen=True)
class Running(Swell):
    """A Swell that runs, and where."""

    url: str = ""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    swell = Swell(tmp_path_factory.mktemp("swell"))
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/*")
    try:
        yield Running(swell.folder, url=ready_line(process, swell.folder)["url"])
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


@pytest.fixture(scope="module")
def shop(running: Running) -> dict[str, str]:
    """Return id and secret of a key of its own."""
    made: dict[str, str] = running.json("keys", "create", "shop")
    return made


def ask(running: Running, key: str, path: str, body: Any) -> requests.Response:
    headers = {"authorization": f"Bearer {key}"}
    return requests.post(running.url + path, json=body, headers=headers, timeout=60)


@pytest.mark.parametrize(("kind", "text"), REQUESTS)
def test_a_request_of_the_page_is_taken(
    kind: str, text: str, running: Running, shop: dict[str, str]
) -> None:
    path = {"estimate": "/v1/estimate", "task": "/v1/tasks"}[kind]
    answer = ask(running, shop["key"], path, json.loads(text))
    assert answer.status_code in (200, 201, 202), answer.text
    if kind == "estimate":
        told = answer.json()
        table = PAGE.partition("| `is_accepted`")[2].partition("\n\n")[0]
        named = {"is_accepted", *re.findall(r"`(\w+)`", table)}
        assert set(told) <= named
        assert told["is_accepted"] is True


def test_every_command_of_the_page_works_in_its_order(
    running: Running, shop: dict[str, str]
) -> None:
    assert len(COMMANDS) >= 10
    for line in COMMANDS:
        program, *words = shlex.split(line.replace("KEY_ID", shop["id"]))
        assert program == "swell"
        done = running.run(*words)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    accounts = running.json("quotas", shop["id"])["accounts"]
    assert [(each["user"], each["left_micros"]) for each in accounts] == [
        (None, 25_000_000),
        ("anna", 2_500_000),
    ]
    running.ok("quotas", shop["id"], "--drop")
    running.ok("quotas", shop["id"], "--drop", "--user", "*")


def test_a_quota_holds_for_real_tasks_and_says_so(running: Running) -> None:
    key = running.json("keys", "create", "limited")
    running.ok("quotas", key["id"], "--user", "*", "--samples-per-day", "3")
    body = {"model": "demo/upper", "input": {"text": "a"}, "user": "otto"}
    answers = [ask(running, key["key"], "/v1/tasks", body) for _ in range(4)]
    assert [each.status_code for each in answers] == [202, 202, 202, 429]
    assert answers[0].headers["ratelimit"].startswith('"user-samples-day";r=2')
    assert answers[3].json()["code"] == "quota_exceeded"
    assert int(answers[3].headers["retry-after"]) >= 1
    other = ask(running, key["key"], "/v1/tasks", {**body, "user": "anna"})
    assert other.status_code == 202
    [listed] = [each for each in running.json("quotas")["quotas"] if each["key_id"] == key["id"]]
    assert (listed["user"], listed["samples_per_day"]) == ("*", 3)


def test_a_prepaid_key_without_credits_is_told_what_to_do(running: Running) -> None:
    key = running.json("keys", "create", "prepaid")
    running.ok("quotas", key["id"], "--prepaid")
    body = {"model": "demo/upper", "input": {"text": "a"}}
    refused = ask(running, key["key"], "/v1/tasks", body)
    assert (refused.status_code, refused.json()["code"]) == (402, "credits_used_up")
    assert "swell quotas KEY_ID --credit" in refused.json()["detail"]
    running.ok("quotas", key["id"], "--credit", "1.50", "--id", "one")
    running.ok("quotas", key["id"], "--credit", "1.50", "--id", "one")
    assert ask(running, key["key"], "/v1/tasks", body).status_code == 202
    [account] = running.json("quotas", key["id"])["accounts"]
    assert account["granted_micros"] == 1_500_000


def test_a_class_is_bound_to_its_key(running: Running) -> None:
    key = running.json("keys", "create", "trial", "--class", "free")
    body = {"model": "demo/upper", "input": {"text": "a"}}
    told = ask(running, key["key"], "/v1/estimate", body).json()
    assert told["priority"] == 5
    refused = ask(running, key["key"], "/v1/tasks", {**body, "class": "paid"})
    assert refused.status_code == 403
