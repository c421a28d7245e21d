"""Requests that two programs read differently, that never end, or that are more than they seem."""

import socket
import time
from collections.abc import Iterator
from functools import partial

from attacks import Attack
from target import Target

SMUGGLED = "a second request is read out of the first, or the request is taken"
HELD = "the connection is kept beyond its time"
PUT_IN = "a header or a log line of the attacker's comes out"
TAKEN = "it is taken although it is no JSON of the message, or it breaks the service"

_INNER = "POST /v1/keys HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"


def http_attacks() -> Iterator[Attack]:
    """Yield them."""
    for name, data in smuggled().items():
        yield Attack("http", f"smuggled by {name}", SMUGGLED, partial(_smuggled, data=data))
    for name, data in ambiguous().items():
        yield Attack("http", name, SMUGGLED, partial(_not_taken, data=data))
    for name, data in large().items():
        yield Attack("http", name, "it is taken", partial(_not_taken, data=data))
    for name, data in slow().items():
        yield Attack("http", name, HELD, partial(_slow, data=data))
    for where in (
        "path",
        "user",
        "idempotency-key",
        "filename",
        "accept",
        "user-agent",
        "key",
        "host",
    ):
        yield Attack("http", f"line ends in {where}", PUT_IN, partial(_split, where=where))
    for host in (
        "evil.example",
        "evil.example:80@a",
        "a b",
        "a/../b",
        '"><script>',
        "[::1",
        "a\x00b",
    ):
        yield Attack(
            "http",
            f"a host {host!r}",
            "the links of an answer hold what no host may",
            partial(_host, host=host),
        )
    for name, body in bodies().items():
        yield Attack("json", name, TAKEN, partial(_body, body=body))
    for where in ("user", "input", "metadata", "model", "key", "worker"):
        for name, text in TEXTS.items():
            yield Attack(
                "unicode",
                f"{name} in {where}",
                "it breaks what reads it later",
                partial(_text, where=where, text=text),
            )


def smuggled() -> dict[str, bytes]:
    """Return requests whose length can be read in two ways."""
    length, chunked = len(_INNER), "transfer-encoding: chunked\r\n"
    heads = {
        "a length and chunks": f"content-length: 4\r\n{chunked}\r\n0\r\n\r\n{_INNER}",
        "chunks and a length": f"{chunked}content-length: {length}\r\n\r\n0\r\n\r\n{_INNER}",
        "two lengths": f"content-length: 0\r\ncontent-length: {length}\r\n\r\n{_INNER}",
        "two lengths in one": f"content-length: 0, {length}\r\n\r\n{_INNER}",
        "a length with a sign": f"content-length: +{length}\r\n\r\n{_INNER}",
        "a length below nothing": f"content-length: -1\r\n\r\n{_INNER}",
        "a length in hexadecimal": f"content-length: 0x0\r\n\r\n{_INNER}",
        "a length with spaces": f"content-length: 0 0\r\n\r\n{_INNER}",
        "a length beyond 64 bits": f"content-length: {1 << 65}\r\n\r\n{_INNER}",
        "a space before the colon": f"content-length : 0\r\n\r\n{_INNER}",
        "a folded header": f"content-length: 0\r\n transfer-encoding: chunked\r\n\r\n{_INNER}",
        "chunks of another kind": f"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{_INNER}",
        "chunks twice": f"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n{_INNER}",
        "chunks and identity": f"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{_INNER}",
        "chunks behind a tab": f"transfer-encoding:\tchunked\r\ncontent-length: 0\r\n\r\n{_INNER}",
        "a chunk below nothing": f"transfer-encoding: chunked\r\n\r\n-1\r\n{_INNER}",
        "a chunk of 2^64": f"transfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n{_INNER}",
        "a chunk without its end": f"transfer-encoding: chunked\r\n\r\n1\r\nab0\r\n\r\n{_INNER}",
        "a bare line feed": f"content-length: 0\n\n{_INNER}",
        "a bare carriage return": f"x: a\rcontent-length: {length}\r\n\r\n{_INNER}",
        "a null byte in a header": f"x: a\0b\r\ncontent-length: 0\r\n\r\n{_INNER}",
    }
    start = "POST /v1/models HTTP/1.1\r\nhost: a\r\n"
    found = {name: (start + head).encode() for name, head in heads.items()}
    found["a line before the first"] = f"\0\r\n{_INNER}".encode()
    found["HTTP/0.9"] = b"GET /v1/keys\r\n\r\n"
    found["HTTP/2 in the clear"] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    found["an upgrade to h2c"] = (
        b"GET /v1/keys HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\n"
        b"connection: upgrade, http2-settings\r\n"
        b"http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
    )
    found["a proxy's request"] = b"GET http://127.0.0.1/v1/keys HTTP/1.1\r\nhost: a\r\n\r\n"
    found["a proxy's request without a path"] = b"GET http://a HTTP/1.1\r\nhost: a\r\n\r\n"
    found["CONNECT"] = b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: a\r\n\r\n"
    found["TRACE"] = b"TRACE / HTTP/1.1\r\nhost: a\r\n\r\n"
    return found


def _smuggled(target: Target, data: bytes) -> str:
    """Nothing but refusals may come back, and never the service's own words to an operator."""
    authorised = data.replace(
        b"host: a\r\n", f"host: a\r\nauthorization: Bearer {target.keys['ada']}\r\n".encode(), 1
    )
    answer = target.send(authorised.rstrip(b"\0"), wait_s=3)
    if b'"key":"' in answer.raw or answer.raw.count(b"HTTP/1.1 2") > 0:
        return f"{answer.raw[:300]!r}"
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


def ambiguous() -> dict[str, bytes]:
    """Return requests whose key, host or body another program may read differently."""
    key = b"authorization: Bearer KEY\r\n"
    get, old = b"GET /v1/tasks HTTP/1.1\r\n" + key, b" HTTP/1.0\r\n" + key
    chunks = b"2\r\n{}\r\n0\r\n"
    post = b"POST /v1/uploads HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    return {
        "a key in a trailer": post + chunks + key + b"\r\n",
        "no host": get + b"\r\n",
        "a host in a trailer": get + b"transfer-encoding: chunked\r\n\r\n0\r\nhost: a\r\n\r\n",
        "two hosts": get + b"host: a\r\nhost: b\r\n\r\n",
        "two keys": get + b"host: a\r\nauthorization: Bearer other\r\n\r\n",
        "another host in the URL": b"GET http://b/v1/tasks HTTP/1.1\r\nhost: a\r\n" + key + b"\r\n",
        "chunks in HTTP/1.0": b"POST /v1/uploads"
        + old
        + b"transfer-encoding: chunked\r\n\r\n"
        + chunks
        + b"\r\n",
    }


def large() -> dict[str, bytes]:
    """Return heads that are larger than any."""
    get = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n"
    return {
        "a header of 10 MB": get + b"x: " + b"a" * (10 << 20) + b"\r\n\r\n",
        "100,000 headers": get + b"a: b\r\n" * 100_000 + b"\r\n",
        "a URL of 10 MB": b"GET /" + b"a" * (10 << 20) + b" HTTP/1.1\r\n\r\n",
        "a method of 1 MB": b"A" * (1 << 20) + b" / HTTP/1.1\r\n\r\n",
        "chunk extensions of 10 MB": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\n"
        b"transfer-encoding: chunked\r\n\r\n1;" + b"a" * (10 << 20) + b"\r\n",
        "a trailer of 10 MB": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * (10 << 20) + b"\r\n\r\n",
        "a body of 20 MB": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\nauthorization: Bearer KEY\r\n"
        b"content-type: application/json\r\ncontent-length: 20971520\r\n\r\n" + b" " * 20_971_520,
        "a body of 20 MB in chunks": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\n"
        b"authorization: Bearer KEY\r\ntransfer-encoding: chunked\r\n\r\n"
        + b"100000\r\n" * 1
        + b" " * 0x100000
        + (b"\r\n100000\r\n" + b" " * 0x100000) * 19,
        "ten thousand small chunks without an end": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\n"
        b"authorization: Bearer KEY\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 10_000,
        "random bytes": bytes(n * 7919 % 251 for n in range(100_000)),
        "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(160),
        "an SSH greeting": b"SSH-2.0-OpenSSH_9.9\r\n",
        "a Redis command": b"*1\r\n$4\r\nINFO\r\n",
    }


def _not_taken(target: Target, data: bytes) -> str:
    known = data.replace(b"KEY", target.keys["ada"].encode(), 1)
    answer = target.send(known, wait_s=10)
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


def slow() -> dict[str, bytes]:
    """Return requests that stop."""
    return {
        "a connection that says nothing": b"",
        "a head that stops": b"GET /v1/models HTTP/1.1\r\nhost:",
        "a request line that stops": b"GET /v1",
        "a body that stops": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
        "a chunk that stops": b"POST /v1/tasks HTTP/1.1\r\nhost: a\r\n"
        b"transfer-encoding: chunked\r\n\r\nff\r\n{",
    }


def _slow(target: Target, data: bytes) -> str:
    """Both limits are 2 s here; an idle connection has 5, and each is looked at now and then."""
    with socket.create_connection(("127.0.0.1", target.port), timeout=15) as connection:
        connection.sendall(data)
        began = time.monotonic()
        try:
            while connection.recv(1 << 16):
                pass
        except TimeoutError:
            return f"it is open after {time.monotonic() - began:.0f} s"
        except OSError:
            pass
    return ""


# --- what comes out again ------------------------------------------------------------------------

_LINE = "\r\nset-cookie: evil=1\r\n\r\n2026-01-01 [error] forged line"


def _split(target: Target, where: str) -> str:
    headers, path, user = {}, "/v1/tasks", None
    escaped = "%0d%0aset-cookie:%20evil=1"
    if where == "path":
        path = f"/v1/tasks/{escaped}"
    elif where == "filename":
        path = f"/v1/uploads?filename=a{escaped}.png"
    elif where == "user":
        user = _LINE
    elif where == "key":
        made = target.call(
            "POST", "/v1/keys", {"name": f"a{_LINE}", "scopes": ["client"]}, key="admin"
        )
        secret = made.json().get("key")
        if secret is not None:
            # The name stands in the refusal of what the key may not do.
            answer = target.call("GET", "/v1/keys", key=secret)
            if "set-cookie" in answer.headers:
                return f"{answer.headers}"
        return _forged(target)
    else:
        headers = {where: "a" + _LINE[:22].replace("\r\n", "\n")}
    body = {"model": "hostile/echo", "input": {"text": "a"}, "user": user}
    answer = target.call("POST", path, body, key="ada", headers=headers)
    return str(answer.headers) if "set-cookie" in answer.headers else _forged(target)


def _forged(target: Target) -> str:
    for line in (target.folder / "err.log").read_text(errors="replace").splitlines():
        if line.startswith("2026-01-01 [error] forged"):
            return line
    return ""


def _host(target: Target, host: str) -> str:
    """Links name the host that was asked for, if it is one."""
    body = {"model": "hostile/echo", "input": {"text": "a"}}
    answer = target.call("POST", "/v1/tasks", body, key="ada", headers={"host": host})
    if not answer.is_taken:
        return ""
    told = str(answer.json()["urls"]["get"])
    return told if any(letter in told for letter in ' "<>@\\\0') or ".." in told else ""


# --- JSON ----------------------------------------------------------------------------------------


def bodies() -> dict[str, bytes]:
    """Return bodies that are too deep, too large, or something else than they say."""

    def wish(given: str = '{"text":"a"}', more: str = "") -> bytes:
        return f'{{"model":"hostile/echo","input":{given}{more}}}'.encode()

    return {
        "an array 100,000 deep": b"[" * 100_000,
        "an object 100,000 deep": b'{"a":' * 100_000,
        "an input 100,000 deep": wish('{"text":' + "[" * 100_000 + "]" * 100_000 + "}"),
        "metadata 100,000 deep": wish(more=',"metadata":' + "[" * 8000 + "]" * 8000),
        "a number of 100,000 digits": wish(more=f',"count":{"9" * 100_000}'),
        "an exponent of 99999": wish(more=',"start_by_s":1e99999'),
        "a count of 2^63": wish(more=f',"count":{1 << 63}'),
        "a seed of 2^64": wish(more=f',"seed":{1 << 64}'),
        "NaN": wish(more=',"start_by_s":NaN'),
        "Infinity": wish(more=',"start_by_s":Infinity'),
        "a fraction for a count": wish(more=',"count":1.5'),
        "text for a count": wish(more=',"count":"1"'),
        "true for a count": wish(more=',"count":true'),
        "null for a model": b'{"model":null,"input":{}}',
        "an array for a model": b'{"model":["hostile/echo"],"input":{}}',
        "an object for a text": wish('{"text":{"$ne":null}}'),
        "a model twice": b'{"model":"hostile/echo","model":"hostile/none","input":{"text":"a"}}',
        "an input's field twice": wish('{"text":"a","text":5}'),
        "an unknown field": wish(more=',"key_id":"admin"'),
        "a state from outside": wish(more=',"state":"succeeded","output":"a"'),
        "an owner from outside": wish(more=',"id":"0","attempt":5'),
        "__proto__": wish(more=',"__proto__":{"admin":true}'),
        "an array of 100,000 numbers as text": wish('{"text":[' + "1," * 100_000 + "1]}"),
        "a million numbers of another type": wish(
            '{"text":"a","numbers":[' + '"1",' * 500_000 + '"1"]}'
        ),
        "comments": b'/* a */{"model":"hostile/echo","input":{"text":"a"}}',
        "a comma too many": wish(more=","),
        "two values": wish() + wish(),
        "a byte order mark": b"\xef\xbb\xbf" + wish(),
        "UTF-16": wish().decode().encode("utf-16"),
        "broken UTF-8": wish().replace(b'"a"', b'"\xff\xfe"'),
        "overlong UTF-8": wish().replace(b'"a"', b'"\xc0\xaf"'),
        "a half of a pair": wish('{"text":"\\ud800"}'),
        "a raw control character": wish('{"text":"\x01"}'),
        "a raw line end": wish('{"text":"a\nb"}'),
        "a null byte behind": wish() + b"\0",
        "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "YAML": b"model: !!python/object/apply:os.system ['a']",
        "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x01a\x85R.",
        "nothing": b"",
        "spaces alone": b" " * 1_000_000,
        "5,000 tasks": b'{"tasks":[' + b",".join([wish()] * 5000) + b"]}",
        "a gzip": b"\x1f\x8b\x08" + bytes(64),
    }


#: What may be taken, as long as it can be read again.
_READABLE = b'"metadata":['


def _body(target: Target, body: bytes) -> str:
    path = "/v1/tasks/batch" if body.startswith(b'{"tasks"') else "/v1/tasks"
    answer = target.call("POST", path, body, key="ada")
    if answer.is_taken and _READABLE in body:
        again = target.call("GET", f"/v1/tasks/{answer.json()['id']}", key="ada")
        listed = target.call("GET", "/v1/tasks", key="ada")
        return "" if again.is_taken and listed.is_taken else "it cannot be read again"
    return f"{answer.status} {answer.body[:200]!r}" if answer.is_taken else ""


# --- Unicode -------------------------------------------------------------------------------------

TEXTS = {
    "a null byte": "a\0b",
    "a line end": "a\r\nb",
    "an escape of a terminal": "a\x1b]0;evil\x07\x1b[2Jb",
    "letters from right to left": "a\u202eb\u2066c",
    "no character at all": "\ufffe\uffff",
    "a tag of the private plane": "\U000e0041\U0010ffff",
    "a hundred thousand accents": "a" + "\u0301" * 30_000,
    "an SQL comment": "'; DROP TABLE tasks; --",
    "a template": "${jndi:ldap://127.0.0.1/a}{{7*7}}%s%n{0}",
    "a page": "<script>alert(1)</script>",
}


def _text(target: Target, where: str, text: str) -> str:
    """It is refused, or comes back as it was sent; and lists, pages and numbers still come."""
    body = {"model": "hostile/echo", "input": {"text": "a"}}
    if where == "key":
        answer = target.call("POST", "/v1/keys", {"name": text, "scopes": ["client"]}, key="admin")
        kept = answer.json().get("name")
    elif where == "worker":
        card = {"name": "hostile/other", "version": "1", "input_schema": {"type": "object"}}
        told = {"name": text, "pool": text, "device": text, "host": text, "models": [card]}
        answer = target.call("POST", "/worker/v1/register", told, key="worker-2")
        worker = answer.json().get("worker_id")
        goodbye = {"worker_id": worker, "goodbye": True}
        target.call("POST", "/worker/v1/report", goodbye, key="worker-2")
        kept = text
    else:
        wish = {**body, "input": {"text": text}} if where == "input" else {**body, where: text}
        task = target.run(
            "hostile/echo", wish["input"], **{where: text} if where in ("user", "metadata") else {}
        )
        if where == "model":
            answer = target.call("POST", "/v1/tasks", wish, key="ada")
            return f"{answer.status}" if answer.is_taken else ""
        if "state" not in task:
            return ""
        kept = {"input": task["input"].get("text"), **task}.get(where)
        if where == "input":
            kept = task["input"].get("text")
        if task["state"] == "failed":
            return str(task.get("error"))[:300]
        return "" if kept == text else f"{kept!r}"[:200]
    for path in ("/v1/tasks", "/v1/keys", "/v1/workers?gone=true", "/metrics", "/v1/queues"):
        if not target.call("GET", path, key="admin").is_taken:
            return f"{path} no longer comes"
    return "" if not answer.is_taken or kept == text else f"{kept!r}"[:200]
