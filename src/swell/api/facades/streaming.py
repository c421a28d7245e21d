"""What happens to a task, as server-sent events in the words of another API.

An open stream is looked after like our own (`swell.api.streams`): comments keep it open, whoever
hangs up is noticed, and one whose key works no more ends.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import structlog

from swell.api.call import Call
from swell.api.headers import NO_POLICY
from swell.api.service import Service
from swell.api.streams import Stream
from swell.api.submit import note_new
from swell.api.views import encode
from swell.bus import Subscription
from swell.errors import SwellError
from swell.events import TERMINAL_ID, Event
from swell.store import Accepted

_log = structlog.get_logger("swell.api")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def sse(data: Any, event: str = "") -> bytes:
    """Return one event on the wire. JSON from msgspec has no line breaks."""
    name = f"event: {event}\n".encode() if event else b""
    return b"%sdata: %s\n\n" % (name, encode(data))


class Events:
    """The events of one task, told over one open request: `each` once, then `close`.

    Args:
        service: Whose task it is.
        call: Who listens; its body was read.
        accepted: The task, new or one that goes on. `each` offers it to the workers.
        headers: What the answer tells beside.
        is_shown: Whether progress and previews are wanted, or the end alone.
        first: What is told at once.

    Guarantees:
        `task` is the task as it was last heard of. It has ended once the iteration is over, unless
        the backend ends or the key works no more.
    """

    def __init__(
        self,
        service: Service,
        call: Call,
        accepted: Accepted,
        headers: list[tuple[bytes, bytes]] | None = None,
        *,
        is_shown: bool = True,
        first: bytes = b"",
    ) -> None:
        self._service = service
        self._call = call
        self._accepted = accepted
        self._headers = headers or []
        self._first = first
        self._after = -1 if is_shown else TERMINAL_ID - 1
        self.task = accepted.task

    async def send(self, body: bytes) -> None:
        """Write events."""
        await self._call.send({"type": "http.response.body", "body": body, "more_body": True})

    async def close(self) -> None:
        """End the answer."""
        await self._call.send({"type": "http.response.body", "body": b""})

    async def each(self) -> AsyncGenerator[Event]:
        """Begin the answer, and yield what happens; to be closed (`contextlib.aclosing`)."""
        service, call = self._service, self._call
        stream = Stream(asyncio.current_task(), call, None)
        # Listening before the offer: a quick worker must not end the task unheard.
        subscription = service.bus.subscribe(self.task.id, after=self._after)
        try:
            await note_new(service, [self._accepted])
            async with service.limits.open(call, stream):
                headers = [*_HEADERS, *self._headers, NO_POLICY, *call.own_headers()]
                await call.send({"type": "http.response.start", "status": 200, "headers": headers})
                if self._first:
                    await self.send(self._first)
                service.streams.add(stream)
                async for event in self._heard(subscription):
                    yield event
        finally:
            service.streams.remove(stream)
            subscription.close()

    async def _heard(self, subscription: Subscription) -> AsyncIterator[Event]:
        service = self._service
        try:
            if not self._accepted.is_new:
                self.task = await service.lookups.get(self.task.id) or self.task
            while not self.task.state.is_terminal:
                event = await subscription.next()
                if event is None:
                    return
                if event.task is not None:
                    self.task = event.task
                elif event.is_terminal:
                    # From another backend, which does not send the task along.
                    self.task = await service.lookups.get(self.task.id) or self.task
                await service.check_again(self._call)
                yield event
        except SwellError as error:
            # The answer has begun, so that nothing can be told any more.
            _log.warning("a stream ends early", task=self.task.id, detail=error.detail)
