"""The client without an event loop: each method runs the `AsyncClient` method of the same name.

A background thread runs the event loop. So threads may share a client, and it works in a program
that already runs a loop, such as a notebook. A forked child starts a new thread and opens new
connections.
"""

import asyncio
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from swell.client.asynchronous import ANSWER_S, RETRY_S, AsyncClient

P = ParamSpec("P")
R = TypeVar("R")

#: Marks the end of an iteration.
_OVER: Final = object()


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="swell-client", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine to its end; cancel it if the caller is interrupted."""
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def close(self) -> None:
        """End the thread. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Client", P], R]:
    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[R]],
) -> Callable[Concatenate["Client", P], Iterator[R]]:
    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        each, pid = method(self._client, *args, **kwargs), os.getpid()
        try:
            while (found := self._run(_next(each))) is not _OVER:
                yield found
                if os.getpid() != pid:
                    raise RuntimeError("the iteration began before a fork: begin another one here")
        finally:
            if os.getpid() == pid:
                self._run(each.aclose())

    return call


async def _next(each: AsyncIterator[Any]) -> Any:
    return await anext(each, _OVER)


class Client:
    """A client, as a context manager; `swell.AsyncClient` is for programs with an event loop.

    Args:
        url: URL of the server; None for `SWELL_URL`, or else the server of `swell up`.
        key: API key; None for `SWELL_KEY`, or else the key of `swell up`.
        ca_file: PEM file of CA certificates to trust in addition to the system's.
        timeout_s: Longest wait for an answer, in seconds; a call's `wait_s` is added.
        retry_s: Longest time to retry while the server is unreachable or busy, in seconds.

    Raises:
        NoServer: Neither an argument, a setting nor the data folder names a server.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        ca_file: str | Path | None = None,
        timeout_s: float = ANSWER_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._client = AsyncClient(url, key, ca_file=ca_file, timeout_s=timeout_s, retry_s=retry_s)
        self._loop: _Loop | None = None
        self._guard = threading.Lock()
        _clients.add(self)

    def __enter__(self) -> Self:
        self._started()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Idempotent; the next call opens new ones."""
        with self._guard:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.run(self._client.__aexit__(None, None, None))
            loop.close()

    def _leave_to_parent(self) -> None:
        """Drop the thread and its lock in a forked child: only the parent has them."""
        self._loop, self._guard = None, threading.Lock()

    def _started(self) -> _Loop:
        with self._guard:
            if self._loop is None:
                loop = _Loop()
                loop.run(self._client.__aenter__())
                self._loop = loop
            return self._loop

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        return self._started().run(work)

    estimate = _blocking(AsyncClient.estimate)
    submit = _blocking(AsyncClient.submit)
    submit_many = _blocking(AsyncClient.submit_many)
    run = _blocking(AsyncClient.run)
    wait = _blocking(AsyncClient.wait)
    get = _blocking(AsyncClient.get)
    cancel = _blocking(AsyncClient.cancel)
    retry = _blocking(AsyncClient.retry)
    events = _iterating(AsyncClient.events)
    tasks = _iterating(AsyncClient.tasks)
    read = _blocking(AsyncClient.read)
    save = _blocking(AsyncClient.save)
    upload = _blocking(AsyncClient.upload)
    models = _blocking(AsyncClient.models)
    model = _blocking(AsyncClient.model)


#: All clients of this process.
_clients: Final[WeakSet[Client]] = WeakSet()


def _forked() -> None:
    for client in _clients:
        client._leave_to_parent()


os.register_at_fork(after_in_child=_forked)
