"""Requests whose clients hung up before the answer: whoever sends one again gets its task.

fal's clients send a request again where the connection broke, and do not say so. What tells such a
request from a new one is that its first client has gone: the same words from somebody else, while
the first still waits, ask for another picture.

Kept in memory, for the requests of this process: at another backend the request is a new one.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from swell.api.call import Call
from swell.clock import Clock

#: Whoever comes later asks for something new, in seconds. fal's clients wait 30 s at most.
_SOON_S: Final = 60.0

#: Requests that are remembered; the oldest goes first.
_MOST: Final = 1000


def mark_of(key_id: str, *asked: Any) -> bytes:
    """Return what two requests have in common that ask for the same.

    Args:
        key_id: Whose they are.
        asked: What they ask, as JSON values.
    """
    words = msgspec.json.encode([key_id, *asked], order="deterministic")
    return hashlib.sha256(words).digest()


class Unanswered:
    """Requests whose client disconnected before the answer, each with its task."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Mark → who waits for which task.
        self._waiting: dict[bytes, dict[Call, str]] = {}
        #: (mark, task) → until when it may be asked for again.
        self._lost: dict[tuple[bytes, str], float] = {}

    @contextlib.contextmanager
    def waits(self, mark: bytes, call: Call, task_id: str) -> Iterator[None]:
        """Know of a request that waits for its task while the block runs."""
        self._waiting.setdefault(mark, {})[call] = task_id
        try:
            yield
        finally:
            if self._leave(mark, call) and call.is_gone():
                self.lose(mark, task_id)

    def lose(self, mark: bytes, task_id: str) -> None:
        """Note that nobody was told of a task."""
        if len(self._lost) >= _MOST:
            del self._lost[next(iter(self._lost))]
        self._lost[mark, task_id] = self._clock.monotonic_s() + _SOON_S

    def claim(self, mark: bytes) -> str | None:
        """Return the task of such a request whose client has gone, once; None where none has."""
        for call, task_id in list(self._waiting.get(mark, {}).items()):
            if call.is_gone():
                self._leave(mark, call)
                return task_id
        now_s = self._clock.monotonic_s()
        for (each, task_id), until_s in list(self._lost.items()):
            if until_s <= now_s:
                del self._lost[each, task_id]
            elif each == mark:
                del self._lost[each, task_id]
                return task_id
        return None

    def _leave(self, mark: bytes, call: Call) -> bool:
        """Forget that a request waits; return whether it was known to."""
        waiting = self._waiting.get(mark, {})
        was_there = waiting.pop(call, None) is not None
        if not waiting:
            self._waiting.pop(mark, None)
        return was_there
