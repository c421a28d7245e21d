"""Connection to a server: requests, errors, retries, files and event streams.

The connection sends the API key only to the server's own address. Signed URLs of files may lead to
a bucket, which must not get the key.
"""

import asyncio
import ctypes
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin, urlsplit
from weakref import WeakSet

import aiohttp
import msgspec

from swell.client.access import Access
from swell.client.errors import Refused, Unreachable
from swell.client.messages import Event
from swell.net.tls_context import trusting

#: Longest time to connect, in seconds.
_CONNECT_S: Final = 10.0

#: A slower upload times out, in bytes per second.
_SLOWEST_BYTES_PER_S: Final = 32_000

#: Tries to reopen a broken event stream. If it has delivered an event, the client keeps trying for
#: at least `_RESUMES_S` seconds, which is long enough for a server to restart.
_RESUMES: Final = 5
_RESUMES_S: Final = 60.0

#: Longest silence of an event stream, in seconds: servers send comments more often.
_SILENCE_S: Final = 120.0

#: First pause before a retry, in seconds; it doubles with each try, up to the longest.
_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 8.0

#: Statuses that allow a retry: the server is busy or briefly away.
_PASSING: Final = frozenset({429, 502, 503, 504})

#: Error codes that come with such a status, but that a retry does not change.
_DECIDED: Final = frozenset({"no_worker", "would_expire"})


class Connection:
    """A connection to a server, as an async context manager.

    Args:
        access: URL and key.
        timeout_s: Longest wait for an answer, in seconds.
        retry_s: Longest time to retry repeatable requests while the server is unreachable or busy,
            in seconds; 0 for no retries.
    """

    def __init__(self, access: Access, timeout_s: float, retry_s: float = 0.0) -> None:
        self.access = access
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        #: None while the connection is not open in this process.
        self._opened: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        ca_file = self.access.ca_file
        self._opened = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting(Path(ca_file)) if ca_file else True),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, connect=10),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        _connections.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def leave_to_parent(self) -> None:
        """Keep a forked child from closing the parent's sockets.

        The session is leaked on purpose. To close a connection would write to the parent's socket
        and remove it from the epoll instance, which both processes share.
        """
        opened, self._opened = self._opened, None
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(opened))

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            raise RuntimeError(
                "the client is not open in this process: use it within `async with`, and open "
                "another one after a fork"
            )
        return self._opened

    async def get(self, path: str, **query: object) -> Any:
        """Return the JSON at a path.

        Raises:
            Refused: The server answered with an error.
            Unreachable: The server does not answer.
        """
        return await self._json("GET", path, query=query, is_repeatable=True)

    async def post(
        self,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
        is_repeatable: bool = False,
    ) -> Any:
        """Send JSON and return the answer; raises as `get` does.

        Args:
            path: Path of the server.
            body: Value to send as JSON; None for an empty body.
            headers: Additional headers.
            wait_s: Added to the usual timeout, in seconds.
            is_repeatable: Whether the request may be sent twice.
        """
        return await self._json(
            "POST", path, body=body, headers=headers, wait_s=wait_s, is_repeatable=is_repeatable
        )

    async def put(self, path: str, body: object) -> Any:
        """Replace the JSON at a path and return the answer; raises as `get` does."""
        return await self._json("PUT", path, body=body)

    async def delete(self, path: str, **query: object) -> Any:
        """Delete and return the answer; raises as `get` does."""
        return await self._json("DELETE", path, query=query)

    async def upload(self, data: bytes, content_type: str, filename: str) -> str:
        """Upload an input file and return its URL; raises as `get` does."""
        answer = await self._send(
            "POST",
            "/v1/uploads",
            params={"filename": filename},
            data=data,
            headers={"Content-Type": content_type},
            limits=self._within(len(data) / _SLOWEST_BYTES_PER_S),
            is_repeatable=True,
        )
        return str(json.loads(answer)["url"])

    async def download(self, url: str) -> bytes:
        """Return the bytes of a file; raises as `get` does."""
        # No limit on the whole download, only on the time without data.
        limits = aiohttp.ClientTimeout(connect=_CONNECT_S, sock_read=self._timeout_s)
        return await self._send("GET", url, limits=limits, is_repeatable=True)

    async def events(self, task_id: str, after: int = -1) -> AsyncGenerator[Event]:
        """Yield the events of a task until it ends; a broken stream is reopened.

        Args:
            task_id: Id of the task.
            after: Id of the last event that the caller has seen.

        Raises:
            Refused: The server answered with an error.
            Unreachable: The server does not answer, even after several tries.
        """
        loop = asyncio.get_running_loop()
        last_id, tries, gives_up_s, has_heard = after, 0, loop.time(), False
        while True:
            why: Exception | None = None
            try:
                async with aclosing(self._stream(task_id, last_id)) as stream:
                    async for event in stream:
                        last_id, tries, has_heard = event.id, 0, True
                        yield event
                        if event.is_terminal:
                            return
            except (aiohttp.ClientError, TimeoutError) as error:
                why = error
            except Refused as error:
                if error.http_status not in _PASSING:
                    raise
                why = error
            tries += 1
            if tries == 1 and has_heard:
                gives_up_s = loop.time() + _RESUMES_S
            if tries >= _RESUMES and loop.time() >= gives_up_s:
                raise why if isinstance(why, Refused) else self._unreachable(why)
            await asyncio.sleep(_pause_s(tries - 1))

    async def _stream(self, task_id: str, last_id: int) -> AsyncGenerator[Event]:
        headers = self._key_for(self.access.url) | {"Accept": "text/event-stream"}
        if last_id >= 0:
            headers["Last-Event-ID"] = str(last_id)
        url = self._absolute(f"/v1/tasks/{task_id}/events")
        forever = aiohttp.ClientTimeout(total=None, connect=10, sock_read=_SILENCE_S)
        async with self._session.get(url, headers=headers, timeout=forever) as answer:
            if answer.status >= 400:
                raise _refused(await answer.read(), answer)
            fields: dict[str, str] = {}
            async for raw in _lines(answer.content):
                line = raw.decode().rstrip("\r")
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                    continue
                if "event" in fields and "data" in fields:
                    yield Event(
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
        wait_s: float = 0.0,
        is_repeatable: bool = False,
    ) -> Any:
        params = {k: _word(v) for k, v in (query or {}).items() if v is not None}
        data = None if body is None else msgspec.json.encode(body)
        kind = {} if body is None else {"Content-Type": "application/json"}
        answer = await self._send(
            method,
            path,
            params=params,
            data=data,
            headers=kind | dict(headers or {}),
            limits=self._within(wait_s),
            is_repeatable=is_repeatable,
        )
        return json.loads(answer) if answer else None

    def _within(self, more_s: float) -> aiohttp.ClientTimeout:
        """Return the usual timeouts, with `more_s` seconds added to the total."""
        return aiohttp.ClientTimeout(total=self._timeout_s + more_s, connect=_CONNECT_S)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limits: aiohttp.ClientTimeout,
        is_repeatable: bool = False,
    ) -> bytes:
        """Send a request, retry it if it is repeatable, and return the body."""
        loop = asyncio.get_running_loop()
        url = self._absolute(path)
        all_headers = self._key_for(url) | dict(headers or {})
        gives_up_s = loop.time() + self._retry_s
        tries = 0
        while True:
            try:
                async with self._session.request(
                    method, url, params=params, data=data, headers=all_headers, timeout=limits
                ) as answer:
                    body = await answer.read()
                    if answer.status < 400:
                        return body
                    error: Refused | Unreachable = _refused(body, answer)
            except (aiohttp.ClientError, TimeoutError) as lost:
                error = self._unreachable(lost)
            pause_s = _pause_s(tries)
            if isinstance(error, Refused) and error.retry_after_s is not None:
                pause_s = error.retry_after_s
            may_help = is_repeatable and _is_passing(error)
            if not may_help or loop.time() + pause_s > gives_up_s:
                raise error
            await asyncio.sleep(pause_s)
            tries += 1

    def _absolute(self, path: str) -> str:
        return path if "://" in path else urljoin(self.access.url.rstrip("/") + "/", path[1:])

    def _key_for(self, url: str) -> dict[str, str]:
        """Return the header with the key; empty if the URL is not the server's."""
        if not self.access.key or urlsplit(url)[:2] != urlsplit(self.access.url)[:2]:
            return {}
        return {"Authorization": f"Bearer {self.access.key}"}

    def _unreachable(self, error: Exception | None) -> Unreachable:
        reason = str(error or "") or type(error).__name__
        if error is None:
            reason = "event streams end before their task has"
        return Unreachable(
            f"{self.access.url} cannot be reached ({reason}): is `swell up` running there?"
        )


#: All connections of this process.
_connections: Final[WeakSet[Connection]] = WeakSet()


def _forked() -> None:
    for connection in _connections:
        connection.leave_to_parent()


os.register_at_fork(after_in_child=_forked)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines of any length: a task's last event has all of its output in one line."""
    begun: list[bytes] = []
    async for chunk in content.iter_any():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join([*begun, end])
            begun = []
        if rest:
            begun.append(rest)


def _is_passing(error: Refused | Unreachable) -> bool:
    if isinstance(error, Unreachable):
        return True
    return error.http_status in _PASSING and error.reason not in _DECIDED


def _pause_s(tries: int) -> float:
    longest = min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0**tries)
    return random.uniform(0.5 * longest, longest)


def _refused(body: bytes, answer: aiohttp.ClientResponse) -> Refused:
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    told = answer.headers.get("Retry-After", "")
    retry_after_s = float(told) if told.isascii() and told.isdecimal() else None
    return Refused(problem if isinstance(problem, dict) else {}, answer.status, retry_after_s)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
