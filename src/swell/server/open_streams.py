"""Open event streams.

An idle stream costs one small object here, its request's coroutine and the server's connection: no
extra asyncio task, no timer and no queue. Background jobs (`background_jobs.py`) send keep-alive
comments and new positions, and find closed connections.
"""

import asyncio
from typing import Any

from swell.core.task import Task
from swell.server.request import Call, poll

KEEP_ALIVE = {"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True}


class Stream:
    """One client that listens to one task."""

    def __init__(self, owner: "asyncio.Task[Any] | None", call: Call, waiting: Task | None) -> None:
        #: The server's asyncio task that handles the request.
        self.owner = owner
        self.call = call
        #: The task while it is queued.
        self.waiting = waiting
        self.last_position: int | None = None
        #: Whether the client hung up or its key was revoked.
        self.is_gone = False

    def check(self) -> None:
        """End the stream if its client has hung up."""
        message = poll(self.call.receive())
        if message is not None and message["type"] == "http.disconnect":
            self._cancel()

    def end(self) -> None:
        """End the stream. The client gets the reason when it reconnects."""
        if not self.is_gone:
            self.push({"type": "http.response.body", "body": b"", "more_body": False})
            self._cancel()

    def push(self, message: dict[str, Any]) -> None:
        """Write without waiting. A client that reads too slowly does not get the message."""
        poll(self.call.send(message))

    def _cancel(self) -> None:
        self.is_gone = True
        if self.owner is not None:
            self.owner.cancel()
