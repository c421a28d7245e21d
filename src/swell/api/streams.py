"""Open event streams, looked after by one loop.

An idle stream costs one small object here, its request's coroutine and the server's connection: no
task, no timer and no queue of its own. Comments that keep it open, the discovery that a client has
hung up and fresh positions all come from the loop in `duties.py`.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from swell.api.call import Call, poll
from swell.task import Task

KEEP_ALIVE = {"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True}


class Stream:
    """One client that listens to one task."""

    __slots__ = (
        "authorization",
        "is_gone",
        "is_signed",
        "last_position",
        "owner",
        "receive",
        "send",
        "waiting",
    )

    def __init__(self, owner: "asyncio.Task[Any] | None", call: Call, waiting: Task | None) -> None:
        #: The server's task that runs the request.
        self.owner = owner
        self.receive = call.receive
        self.send = call.send
        #: The header that names its key.
        self.authorization = call.header(b"authorization")
        #: Whether it came by a signed URL instead, which is good until the stream ends.
        self.is_signed = call.key is None
        #: The task, as long as it is queued.
        self.waiting = waiting
        self.last_position: int | None = None
        #: Whether it was found that the client hung up, or may listen no more.
        self.is_gone = False

    def check(self) -> None:
        """End the stream if its client has hung up."""
        message = poll(self.receive())
        if message is not None and message["type"] == "http.disconnect":
            self._leave()

    def end(self) -> None:
        """End the stream; its client finds out why when it comes back."""
        if not self.is_gone:
            self.push({"type": "http.response.body", "body": b"", "more_body": False})
            self._leave()

    def _leave(self) -> None:
        self.is_gone = True
        if self.owner is not None:
            self.owner.cancel()

    def push(self, message: dict[str, Any]) -> None:
        """Write without waiting: a client that does not read misses it."""
        poll(self.send(message))


class Streams:
    """All open streams of this process."""

    def __init__(self) -> None:
        self._streams: dict[Stream, None] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams))

    def add(self, stream: Stream) -> None:
        """Look after a stream."""
        self._streams[stream] = None

    def remove(self, stream: Stream) -> None:
        """Stop looking after it."""
        self._streams.pop(stream, None)

    def waiting(self, limit: int) -> list[Stream]:
        """Return up to `limit` streams whose task is queued; others come first the next time."""
        found = []
        for stream in self._streams:
            if stream.waiting is not None:
                found.append(stream)
                if len(found) >= limit:
                    break
        for stream in found:
            # To the end, so that everybody has a turn.
            del self._streams[stream]
            self._streams[stream] = None
        return found
