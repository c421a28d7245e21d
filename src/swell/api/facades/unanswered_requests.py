"""Requests whose client disconnected before the answer, to answer them when they come again.

fal's clients repeat a request after a broken connection without saying so. The backend knows a
repeat by its digest and by the disconnected client: the same request from a client that still
waits is another request. Kept in memory, for the requests of this process.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from swell.api.call import Call
from swell.clock import Clock

#: How long a request is remembered, in seconds. fal's clients wait 30 s at most.
_REMEMBERED_S: Final = 60.0

#: Most requests; the oldest are dropped first.
_MOST: Final = 1000


def request_digest(key_id: str, *parts: Any) -> bytes:
    """Return a digest that two requests of a key share if their parts, as JSON, are equal."""
    words = msgspec.json.encode([key_id, *parts], order="deterministic")
    return hashlib.sha256(words).digest()


class UnansweredRequests:
    """Tasks of requests whose client disconnected before the answer, by the request's digest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Digest → task by waiting request.
        self._waiting: dict[bytes, dict[Call, str]] = {}
        #: (digest, task) → when it is forgotten.
        self._unanswered: dict[tuple[bytes, str], float] = {}

    @contextlib.contextmanager
    def waits(self, digest: bytes, call: Call, task_id: str) -> Iterator[None]:
        """Watch a request while the block waits for its task."""
        waiting = self._waiting.setdefault(digest, {})
        waiting[call] = task_id
        try:
            yield
        finally:
            if waiting.pop(call, None) is not None and call.is_gone():
                self.add(digest, task_id)
            if not self._waiting.get(digest):
                self._waiting.pop(digest, None)

    def add(self, digest: bytes, task_id: str) -> None:
        """Remember a task whose client got no answer."""
        if len(self._unanswered) >= _MOST:
            del self._unanswered[next(iter(self._unanswered))]
        self._unanswered[digest, task_id] = self._clock.monotonic_s() + _REMEMBERED_S

    def take(self, digest: bytes) -> str | None:
        """Return the task of an unanswered request, once; None if there is none."""
        waiting = self._waiting.get(digest, {})
        for call, task_id in waiting.items():
            if call.is_gone():
                del waiting[call]
                return task_id
        now_s = self._clock.monotonic_s()
        for (each, task_id), until_s in list(self._unanswered.items()):
            if until_s <= now_s or each == digest:
                del self._unanswered[each, task_id]
            if until_s > now_s and each == digest:
                return task_id
        return None
