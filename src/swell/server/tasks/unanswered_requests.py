"""Requests without an answer, because their client disconnected; for when they come again.

fal's clients repeat a request after a broken connection without saying so. The backend knows a
repeat by its digest and by the disconnected client: the same request from a client that still
waits is another request. Kept in memory, for the requests of this process.
"""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Final

from swell.core.clock import Clock
from swell.server.request import Call

#: How long a request is remembered, in seconds. fal's clients wait 30 s at most.
_REMEMBERED_S: Final = 60.0

#: Most requests; the oldest are dropped first.
_MOST: Final = 1000


class UnansweredRequests:
    """Tasks of requests without an answer, by the request's digest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Digest → task by request; its client waits or has disconnected.
        self._tasks: dict[bytes, dict[Call, str]] = {}
        #: When to drop requests after their client has disconnected, the oldest first.
        self._ended: deque[tuple[float, bytes, Call]] = deque()

    @contextlib.contextmanager
    def watch(self, digest: bytes, call: Call, task_id: str) -> Iterator[None]:
        """Watch a request until its answer, the end of the block; later if its client has gone."""
        self._tasks.setdefault(digest, {})[call] = task_id
        try:
            yield
        finally:
            if call.is_gone():
                self._ended.append((self._clock.monotonic_s() + _REMEMBERED_S, digest, call))
            else:
                self._drop(digest, call)

    def take(self, digest: bytes) -> str | None:
        """Return the task of an unanswered request, once; None if there is none."""
        now_s = self._clock.monotonic_s()
        while self._ended and (self._ended[0][0] <= now_s or len(self._ended) > _MOST):
            self._drop(*self._ended.popleft()[1:])
        for call, task_id in self._tasks.get(digest, {}).items():
            if call.is_gone():
                self._drop(digest, call)
                return task_id
        return None

    def _drop(self, digest: bytes, call: Call) -> None:
        tasks = self._tasks.get(digest, {})
        tasks.pop(call, None)
        if not tasks:
            self._tasks.pop(digest, None)
