"""Servers with something to see: one that has worked for a while, and one that has done nothing.

The pictures are by the models that come with Swell; failures, workers that were lost, votes, costs
and keys are real ones too. What looks at pages (`pictures.py`, `benchmarks/web_axe.py`) uses it.
"""

import base64
import contextlib
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from commandline import Swell, ready_line, stop

__all__ = ["PERSON", "WAITING", "Seeded", "empty", "full"]

ROOT: Final = Path(__file__).resolve().parents[1]

#: Whose pictures they are: the `person` of the browser that looks.
PERSON: Final = "visitor"

#: Whose pictures are still being made.
WAITING: Final = "olga"

_SETTINGS: Final = """
[delivery]
heartbeat_s = 0.5
lease_s = 3

[costs]
api_image_micros = 40000
budget_day_micros = 5000000

[webhooks]
allow_private_urls = ["127.0.0.1/32"]

[pools.studio]
models = [
    "swell/icons", "swell/translate", "swell/prompt-check", "swell/paint", "swell/upscale",
    "swell/safety", "swell/portraits",
]
least = 1
most = 1
hour_micros = 526000

[pools.trials]
models = ["demo/*"]
least = 1
most = 2
hour_micros = 1204000
"""

#: What was typed, and in which style.
_PROMPTS: Final = (
    ("a red fox in the snow", "mosaic"),
    ("un gato azul en la nieve", ""),
    ("a lighthouse at night", "starlight"),
    ("rocket in space", "flat"),
    ("a castle on a hill at sunset", "ink"),
    ("un vélo vert", "tapestry"),
    ("a slice of pizza", "noto"),
    ("ein roter Apfel", "shards"),
    ("a smiling cat face", ""),
    ("um barco no mar", "weave"),
    ("a yellow school bus", "flat"),
    ("a purple house with a garden, a bench and a very long path that leads to the sea", "mosaic"),
)

_WAIT_S: Final = 180


@dataclass
class Seeded:
    """A server, and what pages there are about."""

    url: str
    key: str
    #: Opens the pages of people who are no operators.
    client_key: str = ""
    #: What stands in paths, such as `task`.
    ids: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None, prefer: str = "wait=0") -> Any:
        """Ask as a program does.

        Raises:
            urllib.error.HTTPError: It was refused.
        """
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.key}",
                "content-type": "application/json",
                "prefer": prefer,
            },
        )
        with urllib.request.urlopen(request, timeout=90) as answer:
            told = answer.read()
        return json.loads(told) if told else None

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something that is true.

        Raises:
            TimeoutError: It did not come.
        """
        for _ in range(_WAIT_S * 10):
            with contextlib.suppress(urllib.error.HTTPError):
                if found := what():
                    return found
            time.sleep(0.1)
        raise TimeoutError("what was waited for never came")

    def made(self, model: str, values: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Send a task and return it when it has ended."""
        body = {"model": model, "input": values, **more}
        task = self.ask("POST", "/v1/tasks", body, prefer="wait=60")
        ended = {"succeeded", "failed", "canceled", "expired"}

        def look() -> Any:
            seen = self.ask("GET", f"/v1/tasks/{task['id']}", prefer="wait=20")
            return seen if seen["state"] in ended else None

        found: dict[str, Any] = self.until(look)
        return found


@contextlib.contextmanager
def empty(folder: Path) -> Iterator[Seeded]:
    """A backend alone: no worker, no model, no task."""
    swell = Swell(folder)
    process = swell.start("serve", "--json", "--port", "0")
    try:
        ready = ready_line(process, folder)
        yield Seeded(ready["url"], ready["key"])
    finally:
        stop(process)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[Seeded]:
    """A Swell that has drawn, failed, lost a worker, been voted on and cost something."""
    swell = Swell(folder)
    (folder / "swell.toml").write_text(_SETTINGS)
    process = swell.start("up", "--json", "--port", "0")
    try:
        ready = ready_line(process, folder)
        server = Seeded(ready["url"], ready["key"])
        _seed(server)
        yield server
    finally:
        # What still runs is not waited for.
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        stop(process, signal.SIGTERM)


def _seed(server: Seeded) -> None:
    served = ("swell/picture", "swell/portraits", "demo/echo-picture")
    server.until(lambda: all(_workers(server, name) for name in served))
    _keys(server)
    _fail(server)
    _lose_a_worker(server)
    _compare(server)
    _draw(server)
    # Last, so that they still run while somebody looks.
    for words in ("a long one", "another long one", "one that waits"):
        slow = {"prompt": words, "steps": 900, "step_s": 1.0}
        body = {"model": "demo/echo-picture", "input": slow, "user": WAITING}
        server.ids["running"] = server.ask("POST", "/v1/tasks", body)["id"]


def _workers(server: Seeded, model: str) -> int:
    return int(server.ask("GET", f"/v1/models/{model}")["workers"])


def _keys(server: Seeded) -> None:
    def make(name: str, scope: str, **more: Any) -> str:
        body = {"name": name, "scopes": [scope], **more}
        return str(server.ask("POST", "/v1/keys", body)["key"])

    server.client_key = make("phone app", "client", rate_per_s=5, tasks_per_day=400)
    make("workers in Frankfurt", "worker")
    make("partner with a rather long name, for the summer campaign", "client")


def _draw(server: Seeded) -> None:
    styles = {each["name"]: each for each in server.ask("GET", "/v1/styles")["styles"]}
    for seed, (prompt, style) in enumerate(_PROMPTS):
        recipe = {"prompt": prompt, "style": style, "model": "swell/picture", "seed": seed}
        values = {**(styles[style]["input"] if style else {}), "prompt": prompt}
        told = {"user": PERSON, "seed": seed, "metadata": {"create": recipe}}
        task = server.made("swell/picture", values, **told)
        assert task["state"] == "succeeded", task["error"]
    server.ids["task"] = task["id"]
    server.ids["shared"] = server.ask("POST", f"/v1/tasks/{task['id']}/share", {})["token"]
    face = (ROOT / "packages/swell-models/src/swell_models/weights/portrait.webp").read_bytes()
    pack = {
        "image": f"data:image/webp;base64,{base64.b64encode(face).decode()}",
        "scenarios": ["beach", "city-night", "snow", "meadow", "space"],
        "size": 512,
    }
    assert server.made("swell/portraits", pack, user=PERSON)["state"] == "succeeded"


def _fail(server: Seeded) -> None:
    refused = server.made("swell/picture", {"prompt": "a naked woman"}, user=PERSON)
    assert refused["state"] == "failed", refused
    server.ids["failed"] = refused["id"]
    for _ in range(2):
        server.made("demo/crash", {}, max_attempts=1, user="olga")
    # Nobody listens there.
    told = {"url": "http://127.0.0.1:9/told", "events": ["succeeded"]}
    server.made("demo/upper", {"text": "told to somebody"}, user="mia", webhook=told)


def _lose_a_worker(server: Seeded) -> None:
    slow = {"prompt": "a picture whose worker was lost", "steps": 30, "step_s": 0.1}
    body = {"model": "demo/echo-picture", "input": slow, "user": "olga"}
    task = server.ask("POST", "/v1/tasks", body)["id"]

    def holder() -> Any:
        state = server.ask("GET", f"/v1/tasks/{task}")["state"]
        held = [each for each in server.ask("GET", "/v1/workers")["workers"] if each["held"]]
        return held if state == "running" else None

    [worker, *_] = server.until(holder)
    os.kill(worker["pid"], signal.SIGKILL)
    server.until(lambda: server.ask("GET", f"/v1/tasks/{task}")["state"] == "succeeded")
    server.ids["retried"] = task


def _compare(server: Seeded) -> None:
    def compared(prompt: str) -> dict[str, Any]:
        pair = [
            server.made(model, {"prompt": prompt}, seed=7, user=PERSON)
            for model in ("swell/icons", "swell/picture")
        ]
        row = {"tasks": [each["id"] for each in pair], "label": prompt}
        made = server.ask("POST", "/v1/comparisons", {"rows": [row], "name": prompt})
        return dict(made["comparison"])

    done, server.ids["voting"] = compared("a sailing boat"), compared("a yellow star")["id"]
    path = f"/v1/comparisons/{done['id']}"
    server.ask("POST", f"{path}/votes", {"row": 0, "winner": 1, "voter": PERSON})
    server.ask("POST", f"{path}/close")
    server.ids["voted"] = done["id"]
