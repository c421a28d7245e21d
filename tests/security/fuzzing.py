"""Every parser that reads what comes over the network, fed with what is nearly right.

A parser is given whole examples that were changed at random: bits, bytes, numbers at their bounds,
parts left out, doubled, or taken from another example. It may refuse in the ways that it names, and
nothing else may come out of it; nor may it take long.
"""

import asyncio
import io
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from file_attacks import LEADS_OUT, RANGES, forms
from http_attacks import bodies, smuggled
from key_attacks import TOKENS
from picture_attacks import _tensors, bombs, broken, encoded, safetensors
from PIL import Image as Pillow
from pydantic_core import PydanticCustomError
from target import Target

from hostile_urls import ODD, PRIVATE
from manual_clock import ManualClock
from swell.compat.replicate.replicate_predictions import cancel_after_s
from swell.core.errors import SwellError
from swell.net.url_policy import RefusedUrl, UrlPolicy
from swell.objects.folder import TemporaryObjects
from swell.objects.object_store import check_key
from swell.protocol.worker_messages import Ask, Registration, Report
from swell.sdk.media import File, Image, Within
from swell.server.admin.admin_schemas import KeyRequest
from swell.server.auth import bearer_digest
from swell.server.decoding import Reader, read_query
from swell.server.files.content_negotiation import preferred
from swell.server.files.file_routes import UploadQuery, byte_range, plain_type
from swell.server.files.thumbnails import _shrunk
from swell.server.multipart_forms import open_form, read_parts
from swell.server.request import Call
from swell.server.tasks.event_streams import _after
from swell.server.tasks.submit import idempotency_key, prefer_wait_s
from swell.server.tasks.task_schemas import BatchRequest, EventsQuery, TaskQuery, TaskRequest
from swell.server.workers.reported_files import UploadsRequest
from swell.weights.formats import parse_header
from swell.weights.lora import check_lora
from swell.weights.onnx import _Walk
from swell.worker.task_inputs import FileFields

__all__ = ["PARSERS", "Findings", "Parser", "fuzz", "fuzz_service"]

#: One input may take so long, in seconds. The largest picture that is taken needs one, and a busy
#: machine ten.
MOST_S: Final = 20.0

_TOKENS: Final = (
    b"\0", b"\r\n", b"\n", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"..", b"/", b"\\", b"%", b"%00",
    b"{", b"}", b"[", b"]", b'"', b"\\u0000", b"\\ud800", b"null", b"true", b"-", b"1e999", b"NaN",
    b"9" * 40, b"-1", b"0", b"18446744073709551616", b":", b";", b",", b"=", b"&", b"?", b"#", b"@",
    b"chunked", b"content-length: 1\r\n", b"data:", b"base64,", b"\xf0\x9f\x92\xa9",
    b"\xe2\x80\xae",
)  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """A parser under test.

    Args:
        examples: What it usually reads.
        read: Reads bytes.
        refusals: What it may raise.
    """

    examples: Sequence[bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (SwellError,)


@dataclass
class Findings:
    """What came of it."""

    inputs: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def mutated(rng: random.Random, examples: Sequence[bytes]) -> bytes:
    """Return an example with up to eight changes."""
    data = bytearray(rng.choice(examples))
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(data))
        match rng.randrange(8):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + rng.randint(1, 16)] = b""
            case 2:
                data[at:at] = data[at : at + rng.randint(1, 64)]
            case 3:
                other = rng.choice(examples)
                start = rng.randint(0, len(other))
                data[at:at] = other[start : start + rng.randint(1, 64)]
            case 4:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 5 if len(data) >= 4:
                bound = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF))
                at = min(at, len(data) - 4)
                data[at : at + 4] = bound.to_bytes(4, rng.choice(("little", "big")))
            case 6:
                data = data[:at]
            case _:
                data[at:at] = rng.choice(_TOKENS)
    return bytes(data[: 1 << 20])


def fuzz(name: str, parser: Parser, rng: random.Random, findings: Findings, n: int) -> None:
    """Feed a parser with `n` inputs."""
    for _ in range(n):
        data = mutated(rng, parser.examples)
        began = time.monotonic()
        try:
            parser.read(data)
        except parser.refusals:
            pass
        except Exception as error:
            findings.wrong.append(f"{name}: {type(error).__name__}: {error}: {data[:300]!r}")
        if time.monotonic() - began > MOST_S:
            findings.wrong.append(f"{name}: {time.monotonic() - began:.1f} s for {data[:300]!r}")
    findings.inputs[name] = findings.inputs.get(name, 0) + n


def fuzz_service(target: Target, rng: random.Random, findings: Findings, n: int) -> None:
    """Send `n` broken requests to a service; none may be answered with a 5xx."""
    examples = _requests(target)
    faults = len(target.faults)
    for _ in range(n):
        data = mutated(rng, examples)
        target.send(data, wait_s=10, is_all=True)
        if len(target.faults) > faults:
            findings.wrong.append(f"service: {target.faults[faults:]}")
            faults = len(target.faults)
    if not target.is_well():
        findings.wrong.append("service: it is not well after broken requests")
    findings.inputs["service"] = findings.inputs.get("service", 0) + n


def _requests(target: Target) -> list[bytes]:
    # Broken requests may have their key anywhere, and are told what they were: it is nobody's.
    made = target.call("POST", "/v1/keys", {"name": "eve", "scopes": ["client"]}, key="admin")
    key = made.json()["key"]
    body = b'{"model":"hostile/echo","input":{"text":"a"},"user":"b","metadata":{"c":[1]}}'
    head = f"host: a\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
    found = [
        f"POST /v1/tasks HTTP/1.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body,
        f"POST /v1/tasks HTTP/1.1\r\n{head}transfer-encoding: chunked\r\n\r\n".encode()
        + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\nx: y\r\n\r\n",
        f"GET /v1/tasks?limit=5&state=queued HTTP/1.1\r\n{head}\r\n".encode(),
        f"GET /v1/tasks/{'0' * 32}/events HTTP/1.1\r\n{head}last-event-id: 9\r\n\r\n".encode(),
        f"POST /v1/uploads?filename=a.png HTTP/1.1\r\n{head}content-length: 3\r\n\r\nabc".encode(),
        f"GET /v1/artifacts/uploads/a/b?method=GET&expires=1&signature=a HTTP/1.1\r\n{head}"
        "range: bytes=0-5\r\n\r\n".encode(),
        f"GET /v1/models HTTP/1.1\r\n{head}\r\nGET /health/live HTTP/1.1\r\n{head}\r\n".encode(),
    ]  # fmt: skip
    return found + list(smuggled().values())


# --- the parsers ---------------------------------------------------------------------------------


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _call(query: bytes = b"", headers: Sequence[tuple[bytes, bytes]] = ()) -> Call:
    scope = {"type": "http", "path": "/", "query_string": query, "headers": list(headers)}
    return Call(scope, None, None)  # type: ignore[arg-type]


def _query(kind: type[object]) -> Callable[[bytes], object]:
    return lambda data: read_query(_call(data), kind)


def _form(data: bytes) -> object:
    """Read a form whose boundary, and whose pieces, the input itself tells."""
    boundary, _, rest = data.partition(b"\n")
    size = 1 + len(data) % 97

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(rest), size):
            yield rest[at : at + size]

    async def read() -> int:
        part = await open_form(boundary, pieces())
        return len(part.filename) + sum([len(chunk) async for chunk in part.data])

    return asyncio.run(read())


def _parts(data: bytes) -> object:
    """Read all parts of a form whose boundary, and whose pieces, the input itself tells."""
    boundary, _, rest = data.partition(b"\n")
    size = 1 + len(data) % 97

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(rest), size):
            yield rest[at : at + size]

    async def read() -> int:
        total = 0
        async for part in read_parts(boundary, pieces()):
            total += sum([len(piece) async for piece in part.data])
        assert total <= len(rest), "more came out than went in"
        return total

    return asyncio.run(read())


_OBJECTS = TemporaryObjects(ManualClock(), b"s" * 32)
_SIGNED = _OBJECTS.sign("GET", "uploads/a/b.png", 3600)


def _signed(data: bytes) -> object:
    """A URL that was changed opens nothing but what it did before."""
    url = data.decode("utf-8", "replace")
    again = _OBJECTS.renew(url, 60)
    assert again is None or "/uploads/a/b.png?" in again, "another file was opened"
    path, _, query = url.partition("?")
    known = _call(query.encode("ascii", "ignore")).query()
    key = path.removeprefix("/v1/artifacts/")
    _OBJECTS.verify("GET", key, known)
    assert key == "uploads/a/b.png", "another file was opened"
    return again


def _url(data: bytes) -> object:
    checked = UrlPolicy().check(data.decode("utf-8", "surrogateescape"))
    assert UrlPolicy().check(checked.url) == checked, "it is read in two ways"
    return checked


def _picture(data: bytes) -> object:
    # A picture may have many pixels; here it is enough that the head is looked at.
    return Image(data).checked(Within())


def _turned(kind: str) -> bytes:
    """Return a picture with what a camera says of it."""
    exif = Pillow.Exif()
    exif.update({0x0112: 6, 0x010E: "desc", 0x8769: {0x9003: "2020:01:01"}})
    file = io.BytesIO()
    Pillow.effect_noise((64, 48), 60).convert("RGB").save(file, kind, exif=exif)
    return file.getvalue()


def _json_bodies() -> list[bytes]:
    return [body for body in bodies().values() if len(body) < 5000]


def _onnx() -> list[bytes]:
    entry = b"\x0a\x08location\x12\x01w"
    tensor = b"\x6a" + bytes([len(entry)]) + entry + b"\x08\x01"
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return [b"\x08\x07\x12\x05swell\x3a" + bytes([len(graph)]) + graph, b"", b"\x08\x07"]


_CARD = {"name": "a/b", "version": "1", "input_schema": {"type": "object"}, "examples": [{"a": 1}]}
_HOLD = {"task_id": "0" * 32, "attempt": 1, "token": "a"}
_OUTCOME = {
    "type": "succeeded",
    "output": {"$artifact": 0},
    "artifacts": [{"key": "a", "bytes": 1}],
}

_WORKER: Mapping[type[object], object] = {
    Registration: {"name": "w", "models": [_CARD], "slots": 2},
    Ask: {"worker_id": "w", "n": 3, "wait_s": 1.5, "residents": ["a/b"]},
    Report: {
        "worker_id": "w",
        "settlements": [{**_HOLD, "outcome": _OUTCOME}],
        "holds": [_HOLD],
        "progress": [{**_HOLD, "kind": "progress", "place": 1, "data": {"step": 1}}],
        "enclosures": [{"key": "outputs/a/1/0.png", "data": "AAAA"}],
    },
    UploadsRequest: {"worker_id": "w", "hold": _HOLD, "keys": ["outputs/a/1/0.png"]},
}

_FORM = b'multipart/form-data; boundary=b\n--b\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\nabc\r\n--b--\r\n'  # noqa: E501

PARSERS: Final[Mapping[str, Parser]] = {
    **{
        f"the message {kind.__name__}": Parser([json.dumps(example).encode()], Reader(kind).read)
        for kind, example in _WORKER.items()
    },
    "the message TaskRequest": Parser(_json_bodies(), Reader(TaskRequest).read),
    "the message BatchRequest": Parser(
        [b'{"tasks":[' + body + b"]}" for body in _json_bodies()], Reader(BatchRequest).read
    ),
    "the message KeyRequest": Parser(
        [b'{"name":"a","scopes":["client","worker"],"expires_in_s":60}'], Reader(KeyRequest).read
    ),
    "a query for tasks": Parser(
        [b"state=queued&model=a%2Fb&user=c&cursor=" + b"0" * 32 + b"&limit=5"], _query(TaskQuery)
    ),
    "a query for events": Parser([b"after=1048577"], _query(EventsQuery)),
    "a query for uploads": Parser(
        [b"filename=" + name.encode()[:100] for name in LEADS_OUT], _query(UploadQuery)
    ),
    "a place in a stream of events": Parser(
        [b"1048577", b"0", b"-1", b""],
        lambda data: _after(_call(headers=[(b"last-event-id", data)])),
    ),
    "a form": Parser(
        [_FORM, *(b"multipart/form-data; boundary=b\n" + form[:4000] for form in forms().values())],
        _form,
    ),
    "all parts of a form": Parser(
        [_FORM, *(b"multipart/form-data; boundary=b\n" + form[:4000] for form in forms().values())],
        _parts,
    ),
    "a deadline of Replicate's": Parser([b"1h30m45s", b"90", b"15s"], cancel_after_s),
    "a range": Parser(
        [span.encode()[:200] for span in RANGES],
        lambda data: byte_range(data.decode("latin-1"), 10),
    ),
    "a token": Parser(
        [b"Bearer " + token.encode()[:200] for token in TOKENS.values()], bearer_digest
    ),
    "an idempotency key": Parser([b'"a-b"', b"a"], idempotency_key),
    "a preference": Parser([b"wait=5, respond-async"], lambda data: prefer_wait_s(data, 60.0)),
    "what is accepted": Parser(
        [b'image/png;q=0.5, */*;q=0.1, text/html;a="b,c"'],
        lambda data: preferred(data, ["image/png"]),
    ),
    "a media type": Parser([b"image/png; charset=utf-8"], lambda data: plain_type(_text(data))),
    "a key of a file": Parser(
        [name.encode() for name in LEADS_OUT],
        lambda data: check_key(data.decode("utf-8", "replace")),
    ),
    "a signed URL": Parser([_SIGNED.encode()], _signed),
    "a URL of a user": Parser(
        [url.encode("utf-8", "surrogateescape")[:500] for url in (*PRIVATE, *ODD)]
        + [b"https://user.example/a?b=c", b"http://[2606:4700::1]:80/"],
        _url,
        (RefusedUrl,),
    ),
    "the files of an input": Parser(
        _json_bodies(),
        lambda data: FileFields(("text", "input")).urls(data),  # type: ignore[arg-type]
    ),
    "safetensors": Parser(
        [safetensors(_tensors(), bytes(64))],
        lambda data: parse_header(io.BytesIO(data), "a.safetensors", len(data)),
    ),
    "a LoRA": Parser([safetensors(_tensors(), bytes(64))], lambda data: check_lora(data, "a")),
    "ONNX": Parser(_onnx(), lambda data: list(_Walk(data).locations()), (ValueError,)),
    "a picture": Parser(
        [encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "AVIF", "GIF")]
        + [data for data in (*bombs().values(), *broken().values()) if len(data) < 20_000],
        _picture,
        (PydanticCustomError,),
    ),
    "a picture to be made small": Parser(
        [encoded(kind) for kind in ("PNG", "JPEG", "WEBP", "AVIF", "GIF")]
        + [_turned(kind) for kind in ("PNG", "JPEG", "WEBP", "AVIF")]
        + [data for data in broken().values() if len(data) < 20_000],
        lambda data: _shrunk(data, 128),
    ),
    "a data URI": Parser(
        [b"data:image/png;base64,AAAA", b"data:,a"],
        lambda data: File._validate(_text(data), _Info()),  # type: ignore[arg-type]
        (PydanticCustomError,),
    ),
}


class _Info:
    """As much of pydantic's information as a file asks for."""

    context: Mapping[str, object] | None = None
