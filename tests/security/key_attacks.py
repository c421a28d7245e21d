"""Keys and leases that are used for what they were not given for."""

import contextlib
import itertools
import json
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from attacks import Attack
from target import PATIENCE_S, Answer, Target

OTHERS = "something of another key comes back, or changes"
MORE = "it is done without the scope"
STOLEN = "a worker takes, ends or reads what another holds"


def key_attacks() -> Iterator[Attack]:
    """Yield them."""
    for method, path in (
        ("GET", "/v1/tasks/{task}"),
        ("GET", "/v1/tasks/{task}/events"),
        ("POST", "/v1/tasks/{task}/cancel"),
        ("POST", "/v1/tasks/{task}/retry"),
        ("HEAD", "/v1/tasks/{task}"),
        ("GET", "/v1/tasks/{task}/"),
        ("GET", "/v1//tasks/{task}"),
        ("GET", "/v1/tasks/%2e/{task}"),
        ("GET", "/v1/tasks/{task}%00"),
        ("GET", "/v1/tasks/{task}%20"),
        ("GET", "/V1/TASKS/{task}"),
        ("GET", "/v1/tasks/{task}/events?after=0"),
        ("GET", "/v1/tasks?user=ada"),
        ("GET", "/v1/tasks?limit=1000"),
        ("GET", "/v1/tasks?cursor={task}"),
        ("GET", "/v1/tasks?state=succeeded&model=hostile/echo"),
        ("POST", "/v1/dead/{task}/replay"),
    ):
        run = partial(_of_ada, method=method, path=path)
        yield Attack("keys", f"bob asks {method} {path}", OTHERS, run)
    yield Attack("keys", "bob uses ada's idempotency key", OTHERS, _repeat)
    yield Attack("keys", "bob guesses neighbours of his task's id", OTHERS, _neighbours)
    for scope in ("ada", "worker-1", "nobody"):
        for method, path, body in ADMIN:
            run = partial(_escalate, key=scope, method=method, path=path, body=body)
            yield Attack("scopes", f"{scope} asks {method} {path}", MORE, run)
    for method, path, body in CLIENT:
        run = partial(_escalate, key="worker-1", method=method, path=path, body=body)
        yield Attack("scopes", f"a worker's token for {method} {path}", MORE, run)
    for path in ("register", "lease", "report", "uploads"):
        run = partial(_escalate, key="ada", method="POST", path=f"/worker/v1/{path}", body={})
        yield Attack("scopes", f"a client's key for a worker's {path}", MORE, run)
    for name, value in TOKENS.items():
        yield Attack("scopes", f"a token that is {name}", MORE, partial(_token, value=value))
    yield Attack("scopes", "a key in the query", MORE, _in_query)
    yield Attack("scopes", "a key as a cookie", MORE, _in_cookie)
    yield Attack("scopes", "two authorization headers", MORE, _two_headers)
    yield Attack("scopes", "a key that was revoked", MORE, _revoked)
    for name in ("x-http-method-override", "x-http-method", "x-method-override", "_method"):
        yield Attack("scopes", f"{name}: DELETE", MORE, partial(_override, name=name))
    for name in (
        "x-original-url",
        "x-rewrite-url",
        "x-forwarded-for",
        "x-forwarded-user",
        "x-user",
    ):
        yield Attack("scopes", f"{name} says who asks", MORE, partial(_told, name=name))
    for name, what in worker_attacks().items():
        yield Attack("workers", name, STOLEN, what)


# --- clients -------------------------------------------------------------------------------------

_MARK = "ada's own words 7f3a"


def _ada_task(target: Target) -> str:
    task = target.run("hostile/echo", {"text": _MARK}, user="ada")
    if task.get("state") != "succeeded":
        raise RuntimeError(str(task)[:300])
    return str(task["id"])


def _of_ada(target: Target, method: str, path: str) -> str:
    answer = target.call(method, path.format(task=_ada_task(target)), key="bob")
    if _MARK.encode() in answer.body or (answer.is_taken and "{task}/" in path):
        return f"{answer.status} {answer.body[:200]!r}"
    return ""


def _repeat(target: Target) -> str:
    body = {"model": "hostile/echo", "input": {"text": _MARK}}
    same = {"idempotency-key": "both-use-this"}
    his = target.call("POST", "/v1/tasks", body, key="ada", headers=same).json()
    mine = target.call("POST", "/v1/tasks", body, key="bob", headers=same).json()
    return f"bob got {mine}"[:200] if his["id"] == mine.get("id") else ""


def _neighbours(target: Target) -> str:
    mine = int(_ada_task(target), 16)
    for step in (*range(-40, 0), *range(1, 41)):
        answer = target.call("GET", f"/v1/tasks/{mine + step:032x}", key="bob")
        if answer.is_taken:
            return f"{mine + step:032x}"
    return ""


# --- scopes --------------------------------------------------------------------------------------

ADMIN: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/v1/queues", None),
    ("GET", "/v1/workers", None),
    ("GET", "/v1/dead", None),
    ("GET", "/v1/keys", None),
    ("POST", "/v1/keys", {"name": "evil", "scopes": ["admin"]}),
    ("POST", "/v1/dead/replay", {"model": "hostile/echo"}),
    ("POST", "/v1/workers/a/drain", None),
    ("DELETE", "/v1/keys/a", None),
    ("GET", "/v1/audit", None),
    ("POST", "/v1/keys/a/rotate", {}),
)

CLIENT: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/v1/tasks", {"model": "hostile/echo", "input": {"text": "a"}}),
    ("GET", "/v1/tasks", None),
    ("POST", "/v1/uploads", b"abc"),
    ("GET", "/v1/models", None),
)

TOKENS = {
    "empty": "",
    "a space": " ",
    "null": "null",
    "wrong": "swell_" + "A" * 43,
    "a digest": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "an injection": "' OR '1'='1",
    "a megabyte": "swell_" + "A" * 60_000,
    "of other letters": "swell_\u0441\u0435\u0441\u0440\u0435\u0442",
    "a JWT without a signature": "eyJhbGciOiJub25lIn0.eyJzY29wZSI6ImFkbWluIn0.",
    "a wildcard": "*",
    "a null byte": "swell_\0",
}


def _escalate(target: Target, key: str, method: str, path: str, body: Any) -> str:
    answer = target.call(method, path, body, key=None if key == "nobody" else key)
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


def _token(target: Target, value: str) -> str:
    said = value.encode().decode("latin-1")
    for words in (f"Bearer {said}", f"bearer {said}", f"Basic {said}", said, f"Bearer{said}"):
        answer = target.call("GET", "/v1/keys", headers={"authorization": words})
        if answer.is_taken:
            return f"{words[:60]!r}: {answer.status}"
    return ""


def _in_query(target: Target) -> str:
    for name in ("key", "token", "api_key", "access_token", "authorization"):
        if target.call("GET", f"/v1/models?{name}={target.admin}").is_taken:
            return name
    return ""


def _in_cookie(target: Target) -> str:
    cookie = {"cookie": f"authorization=Bearer {target.admin}; key={target.admin}"}
    answer = target.call("GET", "/v1/keys", headers=cookie)
    return str(answer.status) if answer.is_taken else ""


def _two_headers(target: Target) -> str:
    """The first counts for all that read it, or the request is refused."""
    lines = (
        f"authorization: Bearer {target.keys['ada']}\r\nauthorization: Bearer {target.admin}\r\n"
    )
    head = f"GET /v1/keys HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}\r\n"
    return str(answer.status) if (answer := target.send(head.encode())).is_taken else ""


def _revoked(target: Target) -> str:
    wish = {"name": "gone", "scopes": ["admin"]}
    made = target.call("POST", "/v1/keys", wish, key="admin").json()
    target.call("GET", "/v1/keys", key=made["key"])
    target.call("DELETE", f"/v1/keys/{made['id']}", key="admin")
    answer = target.call("GET", "/v1/keys", key=made["key"])
    return str(answer.status) if answer.is_taken else ""


def _override(target: Target, name: str) -> str:
    """A method stands in the request line, and nowhere else."""
    made = target.call(
        "POST", "/v1/keys", {"name": "kept", "scopes": ["client"]}, key="admin"
    ).json()
    where = f"/v1/keys/{made['id']}"
    target.call("GET", f"{where}?_method=DELETE", key="admin", headers={name: "DELETE"})
    target.call("POST", where, {}, key="admin", headers={name: "DELETE"})
    answer = target.call("GET", "/v1/models", key=made["key"])
    return "" if answer.is_taken else "the key was revoked"


def _told(target: Target, name: str) -> str:
    for value in ("/v1/keys", "127.0.0.1", "admin"):
        for path in ("/v1/keys", "/v1/models"):
            answer = target.call("GET", path, headers={name: value})
            if answer.is_taken:
                return f"{name}: {value} {answer.status}"
    return ""


# --- workers -------------------------------------------------------------------------------------


class _Held:
    """A task that a worker of the attacker's pool holds, with all that it was told."""

    _numbers = itertools.count()

    def __init__(self, target: Target) -> None:
        # A model of its own: what an attack leaves waiting must not come to the next one.
        self.model = model = f"hostile/held-{next(self._numbers)}"
        self.worker_1 = _register(target, "worker-1", model)
        self.worker_2 = _register(target, "worker-2", "hostile/other")
        wish = {"model": model, "input": {"text": "held"}}
        self.task = target.call("POST", "/v1/tasks", wish, key="ada").json()
        ask = {"worker_id": self.worker_1, "n": 1, "wait_s": 5}
        granted = target.call("POST", "/worker/v1/lease", ask, key="worker-1").json()
        lease = granted["tasks"][0]
        # The worker hears of it before the commit that makes it so.
        ends = time.monotonic() + PATIENCE_S
        while self.seen(target)["state"] != "running" and time.monotonic() < ends:
            time.sleep(0.005)
        if lease["task_id"] != self.task["id"]:
            raise RuntimeError(f"another task was leased than {self.task['id']}: {lease}")
        self.hold = {
            "task_id": lease["task_id"],
            "attempt": lease["attempt"],
            "token": lease["token"],
        }

    def settlement(self, output: str = "stolen", **change: Any) -> dict[str, Any]:
        outcome = {"type": "succeeded", "output": output, "artifacts": []}
        return {**self.hold, "outcome": outcome, **change}

    def seen(self, target: Target) -> dict[str, Any]:
        found: dict[str, Any] = target.call("GET", f"/v1/tasks/{self.task['id']}", key="ada").json()
        return found


def _register(target: Target, key: str, model: str) -> str:
    answer = register(target, key, model)
    if not answer.is_taken:
        raise RuntimeError(f"no worker could be registered: {answer.body[:300]!r}")
    return str(answer.json()["worker_id"])


def register(target: Target, key: str, model: str, **more: Any) -> Answer:
    """Register a worker."""
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    card = {"name": model, "version": "1", "input_schema": schema, "output_schema": {}}
    body = {"name": "w", "models": [{**card, **more.pop("card", {})}], **more}
    return target.call("POST", "/worker/v1/register", body, key=key)


def worker_attacks() -> dict[str, Any]:
    """Return what a worker's token may be tried for."""
    return {
        "a report with a wrong token": partial(_report, change={"token": "0" * 32}),
        "a report with an empty token": partial(_report, change={"token": ""}),
        "a report for the next attempt": partial(_report, change={"attempt": 2}),
        "a report for attempt 0": partial(_report, change={"attempt": 0}),
        "a report for attempt 2^62": partial(_report, change={"attempt": 1 << 62}),
        "a report as another's worker": _as_other,
        "a lease as another's worker": _lease_as_other,
        "a goodbye of another's worker": _goodbye,
        "an outcome twice with other words": _twice,
        "an outcome after a cancel": _late,
        "progress without the lease": _progress,
        "an upload place without the lease": _place,
        "an upload place of another attempt": _other_place,
        "an enclosure under another's key": _enclosure,
        "an artifact with a key of another": _foreign_artifact,
        "an event of an artifact with a key of another": _foreign_event,
        "a checkpoint with a key of another": _foreign_checkpoint,
        "names that lead out of the folder": _odd_names,
        "a schema that never ends": _schema,
        "100,000 tasks asked for": _greedy,
        "a wait without end": _patient,
    }


def _report(target: Target, change: dict[str, Any]) -> str:
    held = _Held(target)
    body = {"worker_id": held.worker_2, "settlements": [held.settlement(**change)]}
    target.call("POST", "/worker/v1/report", body, key="worker-2")
    return _end(target, held)


def _end(target: Target, held: _Held) -> str:
    """Look whether the task is as its holder left it; then let the holder end it."""
    seen = held.seen(target)
    mine = {"worker_id": held.worker_1, "settlements": [held.settlement("right")], "goodbye": True}
    target.call("POST", "/worker/v1/report", mine, key="worker-1")
    after = held.seen(target)
    if seen["state"] != "running":
        return f"it was {seen['state']}: {seen.get('output')}"
    return "" if after.get("output") == "right" else f"it ended as {str(after)[:200]}"


def _as_other(target: Target) -> str:
    """Who knows all but the lease's token and the worker's key."""
    held = _Held(target)
    body = {"worker_id": held.worker_1, "settlements": [held.settlement(token="0" * 32)]}
    target.call("POST", "/worker/v1/report", body, key="worker-2")
    return _end(target, held)


def _lease_as_other(target: Target) -> str:
    held = _Held(target)
    wish = {"model": held.model, "input": {"text": "for worker 1"}}
    target.call("POST", "/v1/tasks", wish, key="ada")
    ask = {"worker_id": held.worker_1, "n": 1, "wait_s": 0}
    answer = target.call("POST", "/worker/v1/lease", ask, key="worker-2")
    tasks = answer.json().get("tasks")
    _end(target, held)
    return f"it was given {str(tasks)[:200]}" if tasks else ""


def _goodbye(target: Target) -> str:
    held = _Held(target)
    answer = target.call(
        "POST", "/worker/v1/report", {"worker_id": held.worker_1, "goodbye": True}, key="worker-2"
    )
    _end(target, held)
    return f"{answer.status} {answer.body[:100]!r}" if answer.is_taken else ""


def _twice(target: Target) -> str:
    held = _Held(target)
    for output in ("right", "changed"):
        body = {"worker_id": held.worker_1, "settlements": [held.settlement(output)]}
        target.call("POST", "/worker/v1/report", body, key="worker-1")
    output = held.seen(target).get("output")
    return "" if output == "right" else str(output)


def _late(target: Target) -> str:
    held = _Held(target)
    released = {**held.hold, "outcome": {"type": "canceled"}}
    target.call("POST", f"/v1/tasks/{held.task['id']}/cancel", key="ada")
    body = {"worker_id": held.worker_1, "settlements": [released]}
    target.call("POST", "/worker/v1/report", body, key="worker-1")
    before = held.seen(target)["state"]
    body["settlements"] = [held.settlement("late")]
    target.call("POST", "/worker/v1/report", body, key="worker-1")
    after = held.seen(target)
    return "" if after["state"] == before and after.get("output") != "late" else str(after)[:200]


def _progress(target: Target) -> str:
    held = _Held(target)
    news = {**held.hold, "token": "0" * 32, "kind": "preview", "place": 1, "data": {"url": "evil"}}
    body = {"worker_id": held.worker_2, "progress": [news]}
    target.call("POST", "/worker/v1/report", body, key="worker-2")
    got = _end(target, held)
    heard = target.call("GET", f"/v1/tasks/{held.task['id']}/events", key="ada").body
    return got or ("it was told" if b"evil" in heard else "")


def _place(target: Target) -> str:
    held = _Held(target)
    key = f"outputs/{held.hold['task_id']}/{held.hold['attempt']}/0.png"
    ask = {"worker_id": held.worker_2, "hold": {**held.hold, "token": "0" * 32}, "keys": [key]}
    answer = target.call("POST", "/worker/v1/uploads", ask, key="worker-2")
    _end(target, held)
    return f"{answer.body[:200]!r}" if answer.is_taken else ""


def _other_place(target: Target) -> str:
    held = _Held(target)
    home = f"outputs/{held.hold['task_id']}"
    got = ""
    for key in (
        f"{home}/9/0.png",
        f"{home}/1/../9/0.png",
        f"{home}/1/a/b.png",
        f"{home}/1/",
        "uploads/a/b.png",
        f"{home}/1/\0.png",
        f"{home}/1/a\n.png",
        "checkpoints/a-1.bin",
        "/etc/passwd",
        f"{home}/1/..",
    ):
        ask = {"worker_id": held.worker_1, "hold": held.hold, "keys": [key]}
        answer = target.call("POST", "/worker/v1/uploads", ask, key="worker-1")
        if answer.is_taken:
            got = f"{key}: {answer.body[:200]!r}"
    return _end(target, held) or got


def _enclosure(target: Target) -> str:
    held = _Held(target)
    key = f"outputs/{_ada_task(target)}/1/0.png"
    artifact = {"key": key, "content_type": "text/html", "bytes": 4}
    outcome = {"type": "succeeded", "output": {"$artifact": 0}, "artifacts": [artifact]}
    body = {
        "worker_id": held.worker_1,
        "settlements": [{**held.hold, "outcome": outcome}],
        "enclosures": [{"key": key, "data": "ZXZpbA=="}],
    }
    answer = target.call("POST", "/worker/v1/report", body, key="worker-1")
    _end(target, held)
    return f"{answer.status}" if answer.is_taken else ""


def _foreign_artifact(target: Target) -> str:
    """An outcome that names another's file would have it signed for whoever asked."""
    his = target.call("POST", "/v1/uploads", b"bob's own file", key="bob").json()["key"]
    held = _Held(target)
    artifact = {"key": his, "content_type": "text/plain", "bytes": 14}
    outcome = {"type": "succeeded", "output": {"$artifact": 0}, "artifacts": [artifact]}
    body = {"worker_id": held.worker_1, "settlements": [{**held.hold, "outcome": outcome}]}
    target.call("POST", "/worker/v1/report", body, key="worker-1")
    seen = held.seen(target)
    found = json.dumps(seen.get("artifacts"))
    _end(target, held)
    return f"{seen['state']}: {found[:200]}" if his in found else ""


def _foreign_event(target: Target) -> str:
    """The same before the outcome: readers of the events get a signed URL for it."""
    his = target.call("POST", "/v1/uploads", b"bob's own file", key="bob").json()["key"]
    held = _Held(target)
    path = f"/v1/tasks/{held.task['id']}/events"
    with _listening(target, path, key="ada") as connection:
        for place, kind in enumerate(("artifact", "preview", "progress"), start=1):
            news = {**held.hold, "kind": kind, "place": place, "data": {"key": his}}
            body = {"worker_id": held.worker_1, "progress": [news]}
            target.call("POST", "/worker/v1/report", body, key="worker-1")
        got = _end(target, held)
        heard = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    if b"event: succeeded" not in heard:
        raise RuntimeError(f"the events ended before the task: {heard[-300:]!r}")
    signed = [line for line in heard.split(b"\n") if b"signature=" in line]
    return got or (f"{signed[0][:200]!r}" if signed else "")


@contextlib.contextmanager
def _listening(target: Target, path: str, key: str) -> Iterator[socket.socket]:
    """Open an event stream, of which the first bytes have come."""
    head = f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
    head += f"authorization: Bearer {target.keys[key]}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", target.port), timeout=PATIENCE_S) as connection:
        connection.sendall(head.encode())
        connection.recv(1 << 16)
        yield connection


def _foreign_checkpoint(target: Target) -> str:
    his = target.call("POST", "/v1/uploads", b"bob's own file", key="bob").json()["key"]
    held = _Held(target)
    outcome = {"type": "released", "reason": "drain", "checkpoint": his}
    body = {"worker_id": held.worker_1, "settlements": [{**held.hold, "outcome": outcome}]}
    target.call("POST", "/worker/v1/report", body, key="worker-1")
    ask = {"worker_id": held.worker_1, "n": 1, "wait_s": 5}
    granted = target.call("POST", "/worker/v1/lease", ask, key="worker-1").json()
    found = str(granted.get("tasks"))
    for lease in granted.get("tasks", ()):
        held.hold = {name: lease[name] for name in ("task_id", "attempt", "token")}
    _end(target, held)
    return found[:300] if his in found else ""


def _odd_names(target: Target) -> str:
    for name in (
        "../../a",
        "a/../b",
        "a",
        "a/b/c",
        "/a/b",
        "a/b\0",
        "a/b\n",
        "a/<b>",
        "a/b c",
        "a/" + "b" * 500,
    ):
        if register(target, "worker-2", name).is_taken:
            return repr(name)
    for version in ("../1", "1\n2", "", "1" * 500, "<b>"):
        if register(target, "worker-2", "hostile/x", card={"version": version}).is_taken:
            return repr(version)
    return ""


def _schema(target: Target) -> str:
    """A pattern that takes exponential time must not hold up the backend."""
    slow = {"type": "object", "properties": {"text": {"type": "string", "pattern": "^(a+)+$"}}}
    held = register(target, "worker-2", "hostile/slow", card={"input_schema": slow})
    if not held.is_taken:
        return ""
    wish = {"model": "hostile/slow", "input": {"text": "a" * 60 + "!"}}
    answer = target.call("POST", "/v1/tasks", wish, key="ada")
    worker = held.json()["worker_id"]
    target.call("POST", "/worker/v1/report", {"worker_id": worker, "goodbye": True}, key="worker-2")
    return "" if answer.status == 422 else f"{answer.status} {answer.body[:200]!r}"


def _greedy(target: Target) -> str:
    worker = _register(target, "worker-2", "hostile/other")
    for n in (100_000, -1, 1 << 62):
        ask = {"worker_id": worker, "n": n, "wait_s": 0}
        target.call("POST", "/worker/v1/lease", ask, key="worker-2")
    return ""


def _patient(target: Target) -> str:
    worker = _register(target, "worker-2", "hostile/other")
    for wait_s in (-1, 1e-300):
        ask = {"worker_id": worker, "n": 1, "wait_s": wait_s}
        target.call("POST", "/worker/v1/lease", ask, key="worker-2")
    for odd in (b"1e999", b"NaN", b"Infinity"):
        body = b'{"worker_id":"' + worker.encode() + b'","n":1,"wait_s":' + odd + b"}"
        answer = target.call("POST", "/worker/v1/lease", body, key="worker-2")
        if answer.is_taken:
            return f"{odd!r}: {answer.status}"
    return ""
