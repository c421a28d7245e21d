"""Drives the HTTP service in process, over a SQLite database and a manual clock."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.core.records import Scope
from swell.objects.folder import FolderObjects, TemporaryObjects
from swell.objects.url_signing import SigningSecrets, read_secrets
from swell.pubsub.local_bus import MemoryBus
from swell.server.app import App, create_app
from swell.server.auth import create_key
from swell.server.dependencies import ApiSettings, Backend
from swell.settings.backend_settings import WebhooksSettings
from swell.weights.store import WeightStore

UPPER = {
    "name": "demo/upper",
    "version": "1",
    "description": "# Upper\n\nMakes text large.",
    "input_schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "minLength": 1},
            "times": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["text"],
        "additionalProperties": False,
    },
    "examples": [{"text": "hello"}],
}


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Stream:
    """An event stream that is being read."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.gone = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._text = b""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
            return
        if message.get("body"):
            self._chunks.put_nowait(message["body"])
        if not message.get("more_body"):
            self._chunks.put_nowait(None)

    async def block(self) -> str | None:
        """Return the next block of lines; None at the end."""
        while b"\n\n" not in self._text:
            chunk = await self._chunks.get()
            if chunk is None:
                return None
            self._text += chunk
        block, _, self._text = self._text.partition(b"\n\n")
        return block.decode()

    async def event(self) -> dict[str, Any] | None:
        """Return the next event, past comments and `retry`; None at the end."""
        while (block := await self.block()) is not None:
            fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
            if "event" in fields:
                number = int(fields["id"]) if "id" in fields else None
                return {
                    "id": number,
                    "event": fields["event"],
                    "data": json.loads(fields["data"]),
                }
        return None


class Client:
    """Speaks ASGI to the service."""

    def __init__(self, app: App, key: str | None) -> None:
        self.app = app
        self.key = key

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        chunk_bytes: int | None = None,
    ) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else _json(body)
        chunks = [data]
        if chunk_bytes is not None:
            chunks = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]
        messages = [
            {"type": "http.request", "body": each, "more_body": n + 1 < len(chunks)}
            for n, each in enumerate(chunks)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            return await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(self._scope(method, path, body, headers), receive, send)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], sent[0]["headers"], content)

    @asynccontextmanager
    async def stream(self, path: str, headers: dict[str, str] | None = None) -> Any:
        stream = Stream()
        first = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if first:
                return first.pop()
            await stream.gone.wait()
            return {"type": "http.disconnect"}

        call = self.app(self._scope("GET", path, None, headers), receive, stream.send)
        stream.task = asyncio.create_task(call)
        try:
            yield stream
        finally:
            stream.task.cancel()
            await asyncio.gather(stream.task, return_exceptions=True)

    def _scope(
        self, method: str, path: str, body: Any, headers: dict[str, str] | None
    ) -> dict[str, Any]:
        path, _, query = path.partition("?")
        lines = {"host": "swell.test"}
        if self.key is not None:
            lines["authorization"] = f"Bearer {self.key}"
        if body is not None and not isinstance(body, bytes):
            lines["content-type"] = "application/json"
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(key.encode(), value.encode()) for key, value in lines.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }


class World:
    """A running service with one client of each kind."""

    def __init__(self, clock: ManualClock, app: App, keys: dict[str, str]) -> None:
        self.clock = clock
        self.app = app
        self.service = app.service
        self.keys = keys
        self.anna = Client(app, keys["anna"])
        self.berta = Client(app, keys["berta"])
        self.admin = Client(app, keys["admin"])
        self.worker = Client(app, keys["worker"])
        self.stranger = Client(app, None)

    async def register(self, *cards: dict[str, Any], slots: int = 4) -> str:
        body = {"name": "w", "models": list(cards) or [UPPER], "slots": slots}
        answer = await self.worker("POST", "/worker/v1/register", body)
        assert answer.status == 200, answer.body
        return str(answer.json["worker_id"])

    async def lease(self, worker_id: str, n: int = 10, wait_s: float = 0.0) -> Any:
        body = {"worker_id": worker_id, "n": n, "wait_s": wait_s}
        answer = await self.worker("POST", "/worker/v1/lease", body)
        assert answer.status == 200, answer.body
        return answer.json

    async def report(self, worker_id: str, **told: Any) -> Any:
        answer = await self.worker("POST", "/worker/v1/report", {"worker_id": worker_id, **told})
        assert answer.status == 200, answer.body
        return answer.json

    async def hold(self, worker_id: str, grants: list[dict[str, Any]], took_s: float) -> None:
        """Let this time pass while a worker tells in time that it still holds these tasks."""
        while took_s > 0:
            self.clock.advance(min(took_s, 10.0))
            took_s -= 10.0
            await self.report(worker_id, holds=[hold(each) for each in grants])

    async def create(self, **fields: Any) -> Any:
        body = {"model": "demo/upper", "input": {"text": "a"}, **fields}
        answer = await self.anna("POST", "/v1/tasks", body)
        assert answer.status == 202, answer.body
        return answer.json


def settings_of(**given: Any) -> ApiSettings:
    """Return settings, where those of some groups need no name of their group."""
    settings = ApiSettings()
    given = {"upload_types": ("*/*",), "uploads_s": None, **given}
    for group in ("server", "delivery", "limits", "admission", "retention", "costs"):
        values = getattr(settings, group)
        names = type(values).model_fields.keys() - ApiSettings.model_fields.keys()
        own = {name: given.pop(name) for name in names & given.keys()}
        if own:
            given[group] = given.get(group, values).model_copy(update=own)
    return settings.model_copy(update=given)


@asynccontextmanager
async def a_world(
    launchable: tuple[str, ...] = (),
    weights_dir: Path | None = None,
    objects_dir: Path | None = None,
    clock: Any = None,
    **settings: Any,
) -> AsyncIterator[World]:
    clock = clock or ManualClock()
    # Tests that name webhooks on the way to something else send nothing anywhere.
    settings.setdefault("webhooks", WebhooksSettings().model_copy(update={"at_once": 0}))
    rig = SqliteRig(clock)
    registry = rig.registry
    signing = SigningSecrets(clock, await read_secrets(registry))
    backend = Backend(
        store=rig.store,
        broker=rig.broker,
        bus=MemoryBus(clock),
        objects=(
            TemporaryObjects(clock, signing)
            if objects_dir is None
            else FolderObjects(objects_dir, clock, signing)
        ),
        registry=registry,
        clock=clock,
        settings=settings_of(**settings),
        launchable=lambda: launchable,
        signing=signing,
        outbox=rig.outbox,
        weights=weights_dir and WeightStore(FolderObjects(weights_dir, clock, signing)),
    )
    scopes = {"anna": "client", "berta": "client", "admin": "admin", "worker": "worker"}
    keys = {}
    for name, scope in scopes.items():
        made = await create_key(registry, clock, name, frozenset({Scope(scope)}))
        keys[name] = made.secret
    app = create_app(backend)
    await app.start()
    try:
        yield World(clock, app, keys)
    finally:
        await app.stop()


def succeeded(lease: dict[str, Any], output: Any = None, **more: Any) -> dict[str, Any]:
    """Return the settlement of a lease that went well."""
    outcome = {"type": "succeeded", "output": output, **more}
    return _settlement(lease, outcome)


def failed(lease: dict[str, Any], *, retryable: bool, code: str = "model_error") -> dict[str, Any]:
    """Return the settlement of a lease that went wrong."""
    error = {"code": code, "title": "It broke", "detail": "no"}
    return _settlement(lease, {"type": "failed", "error": error, "retryable": retryable})


def hold(lease: dict[str, Any]) -> dict[str, Any]:
    """Return a lease as its holder names it."""
    return {"task_id": lease["task_id"], "attempt": lease["attempt"], "token": lease["token"]}


def _settlement(lease: dict[str, Any], outcome: dict[str, Any]) -> dict[str, Any]:
    return {**hold(lease), "outcome": outcome}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
