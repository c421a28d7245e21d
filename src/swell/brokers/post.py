"""What a process tells lanes, without making anybody wait for it.

What comes while a call is on its way goes with the next one, so that batches grow by themselves.
Nothing here may be lost for good: an id that was not sent is offered again from the store, and a
message that was not forgotten comes again and is dropped.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import structlog

from swell.background import log_failure
from swell.brokers.lanes import Lane, Letter, Message, Queues
from swell.errors import SwellError

_log = structlog.get_logger("swell.broker")

#: How long `close` waits for what is on its way, in seconds.
_LAST_S: Final = 2.0


class Post:
    """Letters to send, and messages to forget or to hold longer.

    Args:
        queues: Where to.
        on_unsent: Told of letters that could not be sent.
    """

    def __init__(
        self, queues: Queues, on_unsent: Callable[[Lane, Sequence[Letter]], None] | None = None
    ) -> None:
        self._queues = queues
        self._on_unsent = on_unsent
        self._letters: dict[Lane, list[Letter]] = {}
        self._forgotten: list[Message] = []
        #: Handle → (message, seconds from then).
        self._extended: dict[str, tuple[Message, float]] = {}
        #: Lanes to which letters are on their way.
        self._sending: set[Lane] = set()
        self._round: asyncio.Task[None] | None = None
        self._was_refused = False

    def send(self, lane: Lane, letters: Sequence[Letter]) -> None:
        """Send soon."""
        if letters:
            self._letters.setdefault(lane, []).extend(letters)
            self._start()

    def is_sending(self, lane: Lane) -> bool:
        """Whether letters to a lane wait, or are on their way."""
        return lane in self._letters or lane in self._sending

    def forget(self, messages: Iterable[Message]) -> None:
        """Forget messages soon."""
        for message in messages:
            self._forgotten.append(message)
            self._extended.pop(message.handle, None)
        if self._forgotten:
            self._start()

    def extend(self, messages: Iterable[Message], hold_s: float) -> None:
        """Hold messages longer soon."""
        for message in messages:
            self._extended[message.handle] = (message, hold_s)
        if self._extended:
            self._start()

    def _start(self) -> None:
        if self._round is None:
            self._round = asyncio.create_task(self._go())
            self._round.add_done_callback(log_failure)

    async def _go(self) -> None:
        try:
            while self._letters or self._forgotten or self._extended:
                letters, self._letters = self._letters, {}
                forgotten, self._forgotten = self._forgotten, []
                extended, self._extended = list(self._extended.values()), {}
                await asyncio.gather(
                    *(self._send(lane, batch) for lane, batch in letters.items()),
                    self._forget(forgotten),
                    self._extend(extended),
                )
        finally:
            self._round = None

    async def _send(self, lane: Lane, letters: list[Letter]) -> None:
        self._sending.add(lane)
        try:
            is_sent = await self._tried(self._queues.send(lane, letters))
        finally:
            self._sending.discard(lane)
        if not is_sent and self._on_unsent is not None:
            self._on_unsent(lane, letters)

    async def _forget(self, messages: list[Message]) -> None:
        if messages:
            await self._tried(self._queues.forget(messages))

    async def _extend(self, extended: list[tuple[Message, float]]) -> None:
        by_time: dict[float, list[Message]] = {}
        for message, hold_s in extended:
            by_time.setdefault(hold_s, []).append(message)
        for hold_s, messages in by_time.items():
            await self._tried(self._queues.extend(messages, hold_s))

    async def _tried(self, work: Awaitable[None]) -> bool:
        """Return whether it went well; tell of the first failure, and of the end of failing."""
        try:
            await work
        except SwellError as error:
            if not self._was_refused:
                _log.warning("the queues cannot be reached", detail=error.detail)
            self._was_refused = True
            return False
        except Exception:
            _log.exception("a queue refused something")
            return False
        if self._was_refused:
            _log.info("the queues can be reached again")
            self._was_refused = False
        return True

    async def close(self) -> None:
        """Wait a moment for what is on its way."""
        if self._round is not None:
            await asyncio.wait([self._round], timeout=_LAST_S)
        if self._round is not None:
            self._round.cancel()
