"""Secrets show up nowhere but where they belong.

Each secret is a canary: a word that stands nowhere else. They are put wherever a request, a setting
or a variable can carry one, and then looked for in logs, errors, numbers and descriptions.
"""

import contextlib
import json
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
import requests

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop


def _canary(form: str) -> str:
    return form.format(secrets.token_hex(20))


@dataclass
class Planted:
    """A service in debug mode, and what was planted there."""

    swell: Swell
    url: str
    key: str
    canaries: dict[str, str]
    #: Answers to those who sent a canary.
    answers: list[requests.Response] = field(default_factory=list)

    def send(self, method: str, path: str, **more: object) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}", **more.pop("headers", {})}  # type: ignore[dict-item]
        answer = requests.request(
            method, self.url + path, headers=headers, timeout=PATIENCE_S, **more
        )  # type: ignore[arg-type]
        self.answers.append(answer)
        return answer

    def logs(self) -> str:
        folder = self.swell.folder
        found = [folder / "stderr.txt", *(folder / ".swell" / "logs").rglob("*")]
        return "\n".join(path.read_text(errors="replace") for path in found if path.is_file())

    def found_in(self, text: str) -> set[str]:
        return {name for name, word in self.canaries.items() if word in text}


#: What stands in variables of the process.
VARIABLES = {
    "the hub's token": ("SWELL_WORKER__HUB_TOKEN", "hf_{}"),
    "the hub's token by its other name": ("HF_TOKEN", "hf_{}"),
    "the cloud's secret": ("AWS_SECRET_ACCESS_KEY", "{}"),
    "the cloud's session": ("AWS_SESSION_TOKEN", "{}"),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    swell = Swell(tmp_path_factory.mktemp("secrets"))
    canaries = {name: _canary(form) for name, (_, form) in VARIABLES.items()}
    variables = {VARIABLES[name][0]: word for name, word in canaries.items()}
    debug = {
        "SWELL_LOG__LEVEL": "debug",
        "SWELL_LOG__REQUESTS": "debug",
        "SWELL_LOG__JSON_LINES": "true",
    }
    with (swell.folder / "stderr.txt").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "swell", "up", "--json", "--port", "0", "-m", "demo/*"],
            cwd=swell.folder,
            env=clean_environment() | variables | debug,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        ready = ready_line(process, swell.folder)
        planted = Planted(swell, ready["url"], ready["key"], canaries)
        made = planted.send("POST", "/v1/keys", json={"name": "client", "scopes": ["client"]})
        planted.canaries["the client's key"] = made.json()["key"]
        planted.answers.pop()
        local = json.loads((swell.folder / ".swell" / "access.json").read_text())["local_key"]
        planted.canaries["the local key"] = local
        for plant in PLANTS:
            plant(planted)
        yield planted
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def _plant(planted: Planted, name: str, form: str = "{}") -> str:
    word = planted.canaries[name] = _canary(form)
    return word


def _in_headers(planted: Planted) -> None:
    for scheme in ("Bearer swell_{}", "bearer {}", "Basic {}", "Token {}", "{}", "Bearer  {}"):
        word = _plant(planted, f"a wrong key as {scheme!r}")
        for method, path in (("GET", "/v1/tasks"), ("POST", "/v1/tasks"), ("GET", "/nothing")):
            planted.send(method, path, headers={"Authorization": scheme.format(word)})
    for name in ("Cookie", "X-Api-Key", "Proxy-Authorization", "X-Amz-Security-Token", "Prefer"):
        word = _plant(planted, f"header {name}")
        planted.send("POST", "/v1/tasks", headers={name: word}, json={"model": "demo/none"})
        planted.send("GET", "/v1/tasks/none", headers={name: word})
        planted.send("PATCH", "/v1/tasks", headers={name: word})


def _in_queries(planted: Planted) -> None:
    for name in ("key", "token", "access_token", "signature", "sig", "password"):
        word = _plant(planted, f"query {name}")
        for path in ("/v1/tasks", "/v1/models", "/nothing", "/metrics", "/v1/tasks/a/events"):
            planted.send("GET", f"{path}?{name}={word}")
        planted.send("GET", f"/v1/artifacts/a/b?method=GET&expires=1&{name}={word}")


def _in_signed_urls(planted: Planted) -> None:
    upload = planted.send("POST", "/v1/uploads", data=b"hello").json()
    planted.answers.pop()
    signature = upload["url"].partition("signature=")[2]
    planted.canaries["the signature of an upload"] = signature
    planted.send("GET", upload["url"].removeprefix(planted.url))
    planted.send("GET", upload["url"].removeprefix(planted.url).replace("GET", "PUT"))
    planted.send("PUT", upload["url"].removeprefix(planted.url), data=b"x")
    planted.send("GET", upload["url"].removeprefix(planted.url) + "&x=1")
    planted.send("GET", upload["url"].removeprefix(planted.url).replace("expires=1", "expires=2"))
    body = {"model": "demo/upper", "input": {"text": upload["url"]}}
    planted.send("POST", "/v1/tasks", json=body, headers={"Prefer": "wait=30"})
    planted.answers.pop()  # The task is its owner's, with its input.


def _in_bodies(planted: Planted) -> None:
    word = _plant(planted, "a value of a broken body", "swell_{}abc")
    for data in (f'{{"model": "{word}', f'{{"input": {{"text": "{word}"}}}}', f'"{word}"', word):
        headers = {"Content-Type": "application/json"}
        for path in ("/v1/tasks", "/v1/keys", "/worker/v1/lease", "/worker/v1/register"):
            planted.send("POST", path, data=data, headers=headers)
    name = _plant(planted, "a file's name")
    planted.send("POST", "/v1/uploads", files={"file": (f"{name}.html", b"<html>", "text/html")})


def _in_what_a_model_refuses(planted: Planted) -> None:
    word = _plant(planted, "a password in a URL that an input names")
    for url in (f"http://user:{word}@127.0.0.1:1/a.png", f"https://a.example/?sig={word}"):
        body = {"model": "demo/echo-picture", "input": {"prompt": "a", "picture": url}}
        planted.send("POST", "/v1/tasks", json=body, headers={"Prefer": "wait=20"})
        planted.answers.pop()
        body = {"model": "demo/upper", "input": {"text": url}}
        planted.send("POST", "/v1/tasks", json=body, headers={"Prefer": "wait=20"})
        planted.answers.pop()


def _in_broken_requests(planted: Planted) -> None:
    place = urlsplit(planted.url)
    for number, form in enumerate(
        (
            "GET /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {}\r\n\r\n",
            "GET /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nbroken\r\n\r\n",
            "GET /v1/tasks?key={} HTTP/9.9\r\n\r\n",
            "{} / HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            "POST /v1/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n"
            "Content-Length: 99\r\n\r\n",
        )
    ):
        word = _plant(planted, f"broken request {number}")
        with socket.create_connection((place.hostname, place.port), timeout=10) as wire:
            wire.sendall(form.format(word).encode())
            wire.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                assert word.encode() not in b"".join(iter(lambda w=wire: w.recv(4096), b""))


def _in_keys_that_are_made(planted: Planted) -> None:
    made = planted.send("POST", "/v1/keys", json={"name": "shop"}).json()
    rotated = planted.send("POST", f"/v1/keys/{made['id']}/rotate", json={}).json()
    del planted.answers[-2:]  # They are shown once, there.
    planted.canaries |= {"a made key": made["key"], "a rotated key": rotated["key"]}
    for key in (made["key"], rotated["key"]):
        planted.send("GET", "/v1/keys", headers={"Authorization": f"Bearer {key}"})
        planted.send("DELETE", "/v1/keys/x", headers={"Authorization": f"Bearer {key}"})
    planted.send("DELETE", f"/v1/keys/{made['id']}")
    planted.send("GET", "/v1/tasks", headers={"Authorization": f"Bearer {made['key']}"})


#: Each puts canaries somewhere.
PLANTS: tuple[Callable[[Planted], None], ...] = (
    _in_headers,
    _in_queries,
    _in_signed_urls,
    _in_bodies,
    _in_what_a_model_refuses,
    _in_broken_requests,
    _in_keys_that_are_made,
)


def test_there_is_something_to_look_for_and_to_look_in(planted: Planted) -> None:
    assert len(planted.canaries) >= 30
    logs = planted.logs()
    assert logs.count('"event": "request"') >= 50, "the requests were not logged"
    assert len(planted.answers) >= 50
    # The search finds what is there.
    told = planted.found_in(f"x{planted.canaries['header Cookie']}y")
    assert told == {"header Cookie"}


def test_logs_hold_no_secret(planted: Planted) -> None:
    assert planted.found_in(planted.logs()) == set()


def test_answers_hold_no_secret(planted: Planted) -> None:
    found = {}
    for answer in planted.answers:
        text = answer.text + "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        # Whoever sent a name, a field or a path that does not exist is told which.
        leaked = planted.found_in(text)
        if leaked:
            found[f"{answer.request.method} {answer.request.path_url}"[:60]] = leaked
    assert found == {}


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/openapi.json", "/llms.txt", "/docs", "/docs/errors", "/", "/health/ready"],
)
def test_what_everybody_may_read_holds_no_secret(planted: Planted, path: str) -> None:
    answer = requests.get(planted.url + path, timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert planted.found_in(answer.text) == set()


@pytest.mark.parametrize(
    "path", ["/v1/keys", "/v1/audit", "/v1/workers?gone=true", "/v1/queues", "/v1/models"]
)
def test_what_operators_read_holds_no_secret(planted: Planted, path: str) -> None:
    headers = {"Authorization": f"Bearer {planted.key}"}
    answer = requests.get(planted.url + path, headers=headers, timeout=PATIENCE_S)
    assert answer.status_code == 200
    assert planted.found_in(answer.text) == set()


def test_files_of_the_data_folder_hold_no_secret_but_the_local_key(planted: Planted) -> None:
    kept = {
        "the local key",
        # An input is kept as it was sent.
        "the signature of an upload",
        "a password in a URL that an input names",
    }
    for path in (planted.swell.folder / ".swell").rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode("latin-1")
            assert planted.found_in(text) <= kept, path


# ---- settings

SETTINGS = {
    "a database": {"SWELL_STORE__URL": "postgresql://swell:{}@127.0.0.1:1/swell"},
    "a database by query": {"SWELL_STORE__URL": "postgresql://127.0.0.1:1/swell?password={}"},
    "no database": {"SWELL_STORE__URL": "mysql://swell:{}@127.0.0.1:1/swell"},
    "a bus": {"SWELL_BUS__URL": "nats://swell:{}@127.0.0.1:1"},
    "no bus": {"SWELL_BUS__URL": "amqp://swell:{}@127.0.0.1:1"},
    "a bucket": {"SWELL_OBJECTS__URL": "s3://user:{}@bucket/x y"},
    "a bucket's secret": {
        "SWELL_OBJECTS__URL": "s3://bucket/x",
        "SWELL_OBJECTS__ENDPOINT": "http://127.0.0.1:1",
        "SWELL_OBJECTS__SECRET": "{}",
    },
    "an address": {"SWELL_SERVER__PUBLIC_URL": "https://user:{}@swell.example"},
    "a worker's address": {"SWELL_WORKER__URL": "http://user:{}@127.0.0.1:1"},
    "a wrong setting": {"SWELL_STORE__ULR": "postgresql://swell:{}@127.0.0.1:1/swell"},
}

SHOW = ("config", "--json", "--origin")
SERVE = ("serve", "--port", "0")
CASES = [
    *((name, SHOW) for name in SETTINGS),
    *((name, SERVE) for name in SETTINGS if name not in ("an address", "a worker's address")),
    ("a worker's address", ("worker", "-m", "demo/upper")),
    ("a database", ("config",)),
    ("a bucket", ("doctor",)),
]


@pytest.mark.parametrize(("name", "command"), CASES, ids=str)
def test_a_secret_in_a_setting_is_not_told(
    swell: Swell, name: str, command: tuple[str, ...]
) -> None:
    word = secrets.token_hex(20)
    settings = {key: value.format(word) for key, value in SETTINGS[name].items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "swell", *command],
        cwd=swell.folder,
        env=clean_environment() | settings | {"SWELL_WORKER__TOKEN": "swell_none"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    guard = threading.Timer(PATIENCE_S, process.kill)
    guard.start()
    assert process.stdout is not None
    said = process.stdout.readline()
    # Some go on for ever: what they say soon after their first word is enough.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)
    process.terminate()
    said += process.communicate()[0]
    guard.cancel()
    assert said
    assert word not in said
