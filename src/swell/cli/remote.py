"""The HTTP client of the commands."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
import msgspec
import uvloop

from swell.cli.access import Access, find_access
from swell.cli.output import CommandFailed, Refused
from swell.config import Settings
from swell.wiring import trusting

__all__ = ["Remote", "ServerEvent", "call"]

T = TypeVar("T")

#: How often a broken event stream is taken up again before giving up.
_RESUMES = 5


class ServerEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    id: int
    kind: str
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self.kind in ("succeeded", "failed", "canceled", "expired")


class Remote:
    """A connection to a server, as an async context manager.

    Args:
        access: Where it is, and the key.
        timeout_s: Longest wait for an answer, in seconds.
    """

    def __init__(self, access: Access, timeout_s: float) -> None:
        self.access = access
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "Remote":
        ca_file = self.access.ca_file
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting(Path(ca_file)) if ca_file else True),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=10),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def get(self, path: str, **query: object) -> Any:
        """Return the JSON at a path.

        Raises:
            Refused: The server answered with a problem.
            CommandFailed: It could not be reached.
        """
        return await self._json("GET", path, query=query)

    async def post(
        self, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send JSON and return the answer; raises as `get` does."""
        return await self._json("POST", path, body=body, headers=headers)

    async def put(self, path: str, body: object) -> Any:
        """Put JSON in place of what is there and return the answer; raises as `get` does."""
        return await self._json("PUT", path, body=body)

    async def delete(self, path: str, **query: object) -> Any:
        """Delete and return the answer; raises as `get` does."""
        return await self._json("DELETE", path, query=query)

    async def upload(self, data: bytes, content_type: str, filename: str) -> str:
        """Store an input file and return its URL; raises as `get` does."""
        answer = await self._send(
            "POST",
            "/v1/uploads",
            params={"filename": filename},
            data=data,
            headers={"Content-Type": content_type},
        )
        return str(json.loads(answer)["url"])

    async def download(self, url: str) -> bytes:
        """Return the bytes of an artifact; raises as `get` does."""
        return await self._send("GET", url)

    async def events(self, task_id: str) -> AsyncIterator[ServerEvent]:
        """Yield what happens to a task until it has ended; a broken stream is taken up again.

        Raises:
            Refused: The server answered with a problem.
            CommandFailed: It could not be reached, also after some tries.
        """
        last_id, tries = -1, 0
        while True:
            try:
                async for event in self._stream(task_id, last_id):
                    last_id, tries = event.id, 0
                    yield event
                    if event.is_terminal:
                        return
            except aiohttp.ClientError as error:
                tries += 1
                if tries >= _RESUMES:
                    raise self._unreachable(error) from error

    async def _stream(self, task_id: str, last_id: int) -> AsyncIterator[ServerEvent]:
        headers = self._headers() | {"Accept": "text/event-stream"}
        if last_id >= 0:
            headers["Last-Event-ID"] = str(last_id)
        url = self._absolute(f"/v1/tasks/{task_id}/events")
        forever = aiohttp.ClientTimeout(total=None, sock_read=120)
        async with self._session.get(url, headers=headers, timeout=forever) as answer:
            if answer.status >= 400:
                raise _refused(await answer.read(), answer.status)
            fields: dict[str, str] = {}
            async for raw in answer.content:
                line = raw.decode().rstrip("\r\n")
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                    continue
                if "event" in fields and "data" in fields:
                    yield ServerEvent(
                        id=int(fields.get("id", last_id)),
                        kind=fields["event"],
                        data=json.loads(fields["data"]),
                    )
                fields = {}

    async def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        params = {k: _word(v) for k, v in (query or {}).items() if v is not None}
        data = None if body is None else msgspec.json.encode(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        answer = await self._send(
            method, path, params=params, data=data, headers=kind | dict(headers or {})
        )
        return json.loads(answer) if answer else None

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        try:
            async with self._session.request(
                method,
                self._absolute(path),
                params=params,
                data=data,
                headers=self._headers() | dict(headers or {}),
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if answer.status >= 400:
            raise _refused(body, answer.status)
        return body

    def _absolute(self, path: str) -> str:
        return path if "://" in path else self.access.url.rstrip("/") + path

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access.key}"} if self.access.key else {}

    def _unreachable(self, error: Exception) -> CommandFailed:
        reason = str(error) or type(error).__name__
        return CommandFailed(
            f"{self.access.url} cannot be reached ({reason}): is `swell up` running there?"
        )


def call(settings: Settings, work: Callable[[Remote], Awaitable[T]]) -> T:
    """Run a client command against the server that the settings name."""

    async def run() -> T:
        async with Remote(find_access(settings), settings.client.timeout_s) as remote:
            return await work(remote)

    return uvloop.run(run())


def _refused(body: bytes, status: int) -> Refused:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    return Refused(problem if isinstance(problem, dict) else {}, status)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
