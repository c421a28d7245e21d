"""The client without an event loop: each method is that of `AsyncClient`, run to its end.

An event loop of its own runs in a thread, so a client may be shared by threads, and be used where
another loop runs, as in a notebook. In a forked child it starts another thread and opens other
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

#: What a stream of events says when there are no more.
_OVER: Final = object()


class _Loop:
    """An event loop in a thread of its own, which ends with the program."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="swell-client", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run something there to its end; it is cancelled if the caller is interrupted."""
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
    """A server, as a context manager; `swell.AsyncClient` is the same for programs with a loop.

    Args:
        url: The server; None for `SWELL_URL`, or else what `swell up` left in the data folder.
        key: API key; None for `SWELL_KEY`, or else the local one.
        ca_file: Certificates, PEM, that the server's is trusted by beside those of the system.
        timeout_s: Longest wait for an answer, in seconds, beside what a call says that it waits.
        retry_s: For so long a request is sent again where the server cannot be reached, or is too
            busy, in seconds.

    Raises:
        NoServer: None is known.
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
        """Close the connections. Idempotent; the next call opens others."""
        with self._guard:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.run(self._client.__aexit__(None, None, None))
            loop.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: forget the thread, which only the parent has, and its lock."""
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
