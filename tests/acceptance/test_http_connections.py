"""HTTP connections, byte by byte."""

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from http_server import Server, a_server

BODY = {"model": "demo/upper", "input": {"text": "a"}}


class Wire:
    """A TCP connection to the service, with what has come and was not read yet."""

    def __init__(self, server: Server) -> None:
        place = urlsplit(server.url)
        assert place.hostname is not None
        self.socket = socket.create_connection((place.hostname, place.port or 80), timeout=30)
        self.file = self.socket.makefile("rb")
        self.key = server.key

    def head(self, *lines: str, path: str = "/v1/tasks", version: str = "1.1") -> bytes:
        fields = [
            "Host: swell.test",
            f"Authorization: Bearer {self.key}",
            "Prefer: wait=30",
            *lines,
        ]
        return "\r\n".join([f"POST {path} HTTP/{version}", *fields, "", ""]).encode()

    def request(self, body: Any, *lines: str, **more: str) -> bytes:
        data = json.dumps(body).encode()
        return self.head(f"Content-Length: {len(data)}", *lines, **more) + data

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Read one response: status, headers and the JSON."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(":")
            assert name.lower() not in headers, f"{name} is told twice"
            headers[name.lower()] = value.strip()
        if status == 100:
            return 100, headers, None
        return status, headers, json.loads(self.file.read(int(headers["content-length"])))

    def is_closed(self) -> bool:
        return self.file.read(1) == b""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with a_server(tmp_path_factory.mktemp("service")) as server:
        yield server


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    wire.socket.close()


def test_a_connection_is_used_again_and_again(wire: Wire) -> None:
    for _ in range(3):
        wire.send(wire.request(BODY))
        status, headers, task = wire.answer()
        assert (status, task["output"]) == (201, "A")
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"].startswith("req_")
        assert headers["date"].endswith("GMT")
        assert "connection" not in headers


def test_a_request_may_come_in_pieces(wire: Wire) -> None:
    whole = wire.request(BODY)
    wire.send(*(whole[place : place + 7] for place in range(0, len(whole), 7)))
    assert wire.answer()[2]["output"] == "A"


def test_a_long_body_is_read_too(wire: Wire) -> None:
    text = "long " * 60_000
    wire.send(wire.request({**BODY, "input": {"text": text}}), wire.request(BODY))
    assert wire.answer()[2]["output"] == text.upper()
    assert wire.answer()[2]["output"] == "A"


@pytest.mark.parametrize("text", ["short", "long " * 60_000])
def test_a_body_may_be_chunked(wire: Wire, text: str) -> None:
    data = json.dumps({**BODY, "input": {"text": text}}).encode()
    cut = [data[place : place + 9_000] for place in range(0, len(data), 9_000)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut]
    wire.send(wire.head("Transfer-Encoding: chunked"), *chunks, b"0\r\n\r\n")
    assert wire.answer()[2]["output"] == text.upper()


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    texts = ["one", "two", "three"]
    wire.send(b"".join(wire.request({**BODY, "input": {"text": text}}) for text in texts))
    assert [wire.answer()[2]["output"] for _ in texts] == ["ONE", "TWO", "THREE"]


def test_who_asks_first_whether_to_go_on_is_told_so(wire: Wire) -> None:
    data = json.dumps(BODY).encode()
    wire.send(wire.head(f"Content-Length: {len(data)}", "Expect: 100-continue"))
    assert wire.answer()[0] == 100
    wire.send(data)
    assert wire.answer()[2]["output"] == "A"


def test_an_old_client_is_answered_and_left(wire: Wire) -> None:
    wire.send(wire.request(BODY, version="1.0"))
    assert wire.answer()[2]["output"] == "A"
    assert wire.is_closed()


def test_who_wants_the_connection_closed_has_it_closed(wire: Wire) -> None:
    wire.send(wire.request(BODY, "Connection: close"))
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (201, "close")
    assert wire.is_closed()


def test_a_body_that_is_too_long_is_refused_before_it_is_read(wire: Wire) -> None:
    wire.send(wire.head("Content-Length: 99000000"), b'{"model": "' + b"x" * 11_000_000)
    status, headers, problem = wire.answer()
    assert (status, problem["code"]) == (413, "too_large")
    assert headers["connection"] == "close"


def test_a_path_that_is_written_another_way_is_the_same_path(wire: Wire) -> None:
    wire.send(wire.request(BODY, path="/v1/%74asks"))
    assert wire.answer()[2]["output"] == "A"


def test_a_wrong_key_is_refused(wire: Wire) -> None:
    wire.key = "swell_wrong"
    wire.send(wire.request(BODY))
    status, headers, problem = wire.answer()
    assert (status, problem["code"]) == (401, "unauthenticated")
    assert headers["www-authenticate"] == "Bearer"


def test_who_hangs_up_leaves_a_task_that_ends_all_the_same(server: Server) -> None:
    wire = Wire(server)
    wire.send(wire.request({**BODY, "user": "gone"}))
    wire.socket.close()
    server.wait_until(
        lambda: (
            [task["state"] for task in server.get("/v1/tasks?user=gone").json()["tasks"]]
            == ["succeeded"]
        )
    )
