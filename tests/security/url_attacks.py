"""URLs that lead the worker where it must not go."""

import zlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from attacks import Attack
from target import CANARY, Target

from hostile_urls import ODD, PRIVATE

#: Ways to write this machine; a port follows.
HERE = (
    "127.0.0.1",
    "localhost",
    "LocalHost",
    "localhost.",
    "a.localhost",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "①②⑦.⓪.⓪.①",
    "\uff11\uff12\uff17.0.0.1",
    "127。0。0。1",
    "ⓛocalhost",
    "%31%32%37.0.0.1",
    "example.com@127.0.0.1",
    "me:word@127.0.0.1",
    "127.0.0.1#@example.com",
    "127.0.0.1\\@example.com",
)

REACHED = "the private server hears of it, or what it says comes out"
CONNECTED = "the worker tries to connect, or reads it"


def url_attacks() -> Iterator[Attack]:
    """Yield them."""
    for host in HERE:
        yield Attack("ssrf", f"this machine as {host}", REACHED, partial(_at_canary, host=host))
    for number, url in enumerate((*PRIVATE, *ODD)):
        name = f"{number} {url[:60]!r}"
        yield Attack("ssrf", name, CONNECTED, partial(_refused, url=url))
    yield from redirect_attacks()
    for path in (
        "/metrics",
        "/v1/artifacts/../../metrics",
        "/v1/artifacts/%2e%2e/%2e%2e/metrics",
        "/v1/artifacts/..%2f..%2fmetrics",
        "/v1/artifacts//../../metrics",
        "/v1/artifacts/a/../../../health/live",
        "metrics",
        "../metrics",
        "?a",
        "//127.0.0.1/metrics",
    ):
        success = "a page of the backend comes out as a file"
        yield Attack("ssrf", f"the backend's own {path}", success, partial(_own_page, path=path))
    for model in ("hostile/style", "hostile/see", "hostile/hear", "hostile/album"):
        yield Attack("ssrf", f"through {model}", REACHED, partial(_through, model=model))
    yield from remote_attacks()


def canary_attacks() -> list[Attack]:
    """Return those that aim at the private server, which can tell whether they reached it."""
    at_canary = [
        Attack("ssrf", f"this machine as {host}", REACHED, partial(_at_canary, host=host))
        for host in ("127.0.0.1", "localhost", "①②⑦.⓪.⓪.①", "[::ffff:127.0.0.1]", "127。0。0。1")
    ]
    return [*at_canary, *redirect_attacks()]


def redirect_attacks() -> Iterator[Attack]:
    """Yield a trusted server's answers that lead elsewhere."""
    for status in (301, 302, 303, 307, 308):
        run = partial(_redirected, status=status, to="http://127.0.0.1:{canary}/r")
        yield Attack("ssrf", f"a redirect with {status}", REACHED, run)
    for to in (
        "//127.0.0.1:{canary}/r",
        "http://localhost:{canary}/r",
        "http://①②⑦.⓪.⓪.①:{canary}/r",
        "http://[::ffff:127.0.0.1]:{canary}/r",
        "HTTP://2130706433:{canary}/r",
    ):
        run = partial(_redirected, status=302, to=to)
        yield Attack("ssrf", f"a redirect to {to}", REACHED, run)
    for hops in (2, 3):
        yield Attack("ssrf", f"{hops} redirects", REACHED, partial(_hops, hops=hops))


def remote_attacks() -> Iterator[Attack]:
    """Yield URLs that come out of a model elsewhere, which repeats what it is told."""
    for host in HERE:
        run = partial(_said, model="hostile/carrier", url=f"http://{host}:{{canary}}/")
        yield Attack("ssrf", f"a remote model's file at {host}", REACHED, run)
    for number, url in enumerate((*PRIVATE, *ODD)):
        run = partial(_said, model="hostile/carrier", url=url.replace("{", "{{").replace("}", "}}"))
        yield Attack("ssrf", f"a remote model's file, {number} {url[:60]!r}", CONNECTED, run)
    run = partial(_said, model="hostile/parrot", url="http://127.0.0.1:{canary}/words")
    yield Attack("ssrf", "a remote model's words", REACHED, run)
    yield Attack("ssrf", "a redirect of a remote model's file", REACHED, _said_elsewhere)


def answer_attacks() -> Iterator[Attack]:
    """Yield what a server of an attacker may answer."""
    endless = "the worker reads on and on"
    yield Attack("answers", "a body without end", endless, _endless)
    yield Attack("answers", "a redirect to itself", endless, _loop)
    unpacked = "what is small on the way is large in memory"
    for coding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        yield Attack("answers", f"packed as {coding}", unpacked, partial(_packed, coding=coding))
    for kind in ("text/event-stream", "multipart/x-mixed-replace; boundary=a"):
        run = partial(_typed, kind=kind)
        yield Attack("answers", f"a stream: {kind}", "it is taken as a file", run)
    for to in ("file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "", "http://"):
        run = partial(_elsewhere, to=to)
        yield Attack("answers", f"a redirect to {to!r}", "it is followed", run)
    yield Attack("answers", "a media type of 20,000 characters", "it breaks the task's JSON", _long)


def _at_canary(target: Target, host: str) -> str:
    return _judged(target, f"http://{host}:{target.canary.port}/")


def _judged(target: Target, url: str, model: str = "hostile/read") -> str:
    field = {"hostile/read": "file", "hostile/see": "image", "hostile/hear": "sound"}
    given = {field.get(model, "lora"): url}
    task = target.run(model, {"images": [url]} if model == "hostile/album" else given)
    output = str(task.get("output"))
    if CANARY.decode() in str(task) or task.get("state") == "succeeded":
        return f"{task.get('state')}: {output[:200]}"
    return ""


def _said(target: Target, model: str, url: str) -> str:
    told = url.format(canary=target.canary.port)
    task = target.run(model, {"text": told})
    if CANARY.decode() in str(task):
        return str(task)[:300]
    if model == "hostile/parrot":
        return "" if task.get("output") == told else str(task)[:300]
    # A string that is no URL at all is no file either.
    is_read = task.get("state") == "succeeded" and not told.startswith("data:")
    return f"it was read: {str(task.get('output'))[:200]}" if is_read else _tried(task)


def _said_elsewhere(target: Target) -> str:
    to = f"http://127.0.0.1:{target.canary.port}/r"
    url = target.front.page("/a-remote-file", 302, location=to)
    return _said(target, "hostile/carrier", url)


def _refused(target: Target, url: str) -> str:
    task = target.run("hostile/read", {"file": url})
    if task.get("state") == "succeeded" and not url.startswith("data:"):
        return f"it was read: {str(task.get('output'))[:200]}"
    return _tried(task)


def _tried(task: dict[str, Any]) -> str:
    """Return what a task's error tells of a connection that was tried."""
    detail = str((task.get("error") or task).get("detail"))
    for word in ("Cannot connect", "Timeout", "getaddrinfo", "Name or service"):
        if word in detail:
            return f"it was tried: {detail[:200]}"
    return ""


def _redirected(target: Target, status: int, to: str) -> str:
    location = to.format(canary=target.canary.port)
    # Headers are Latin-1 here; other characters travel as their UTF-8 bytes, as servers send them.
    written = location.encode().decode("latin-1")
    url = target.front.page(f"/to/{status}/{abs(hash(to))}", status, location=written)
    return _judged(target, url)


def _hops(target: Target, hops: int) -> str:
    to = f"http://127.0.0.1:{target.canary.port}/hops"
    for hop in range(hops):
        to = target.front.page(f"/hop/{hops}/{hop}", 302, location=to)
    return _judged(target, to)


def _own_page(target: Target, path: str) -> str:
    task = target.run("hostile/read", {"file": path})
    return f"{task['output'][:200]}" if task.get("state") == "succeeded" else ""


def _through(target: Target, model: str) -> str:
    return _judged(target, f"http://127.0.0.1:{target.canary.port}/a.safetensors", model)


def _endless(target: Target) -> str:
    task = target.run("hostile/read", {"file": f"http://{target.front.host}/endless"})
    return "" if "larger than" in str(task.get("error")) else str(task)[:300]


def _loop(target: Target) -> str:
    url = f"http://{target.front.host}/loop"
    target.front.page("/loop", 302, location=url)
    task = target.run("hostile/read", {"file": url})
    return "" if "redirects more than" in str(task.get("error")) else str(task)[:300]


def _packed(target: Target, coding: str) -> str:
    bomb = zlib.compress(bytes(1 << 20), 9)
    path = f"/packed/{abs(hash(coding))}"
    url = target.front.page(path, body=bomb, content_encoding=coding)
    task = target.run("hostile/read", {"file": url})
    return str(task.get("output")) if task.get("state") == "succeeded" else ""


def _typed(target: Target, kind: str) -> str:
    url = target.front.page(f"/typed/{abs(hash(kind))}", body=b"data: a\n\n", content_type=kind)
    task = target.run("hostile/read", {"file": url})
    return str(task.get("output")) if task.get("state") == "succeeded" else ""


def _elsewhere(target: Target, to: str) -> str:
    url = target.front.page(f"/else/{abs(hash(to))}", 302, location=to)
    task = target.run("hostile/read", {"file": url})
    return str(task.get("output")) if task.get("state") == "succeeded" else ""


def _long(target: Target) -> str:
    kind = "text/" + "a" * 7000
    task = target.run(
        "hostile/read", {"file": target.front.page("/long", body=b"a", content_type=kind)}
    )
    return str(task)[:300] if len(str(task.get("output"))) > 2000 else ""
