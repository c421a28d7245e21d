"""Sends due webhooks concurrently and writes their outcomes.

One loop reads due deliveries, starts attempts, and writes outcomes in groups. Running attempts are
in memory only: after a crash they are still due, and go out again with the same id. Of each line
(one task, one receiver) one attempt runs at a time, so receivers get a task's events in order.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from swell.clock import Clock
from swell.db.deliveries import Outbox
from swell.errors import SwellError, Unavailable
from swell.outbox import Delivery, Told
from swell.webhooks.room import Answering, Room
from swell.webhooks.schedule import SCHEDULE_S, Answer, is_gone, what_follows
from swell.webhooks.send import Letter, Sender

_log = structlog.get_logger("swell.webhooks")

#: The outbox is read this often, since other processes write to it, in seconds.
_LOOK_EVERY_S: Final = 0.5

#: The pause after a failure of the database, in seconds.
_RETRY_S: Final = 0.5

#: The outbox returns this many times `per_place` deliveries of each place.
_READ_TIMES: Final = 3

#: Deliveries per read.
_READ_AT_ONCE: Final = 2000


class Unsendable(Exception):
    """A delivery that can never be sent; the text says why."""


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """Limits and retries."""

    #: Waits before all attempts but the first, in seconds.
    schedule_s: Sequence[float] = SCHEDULE_S
    #: Concurrent attempts in total, and at one place.
    at_once: int = 1536
    per_place: int = 8
    #: `stop` waits this long for attempts under way, in seconds.
    grace_s: float = 2.0


class Receivers(Protocol):
    """Knows the receivers of deliveries."""

    async def letter(self, delivery: Delivery) -> Letter:
        """Return the request to send.

        Raises:
            Unsendable: It can never be sent.
            Unavailable: The database does not answer now.
        """
        ...

    def paused(self) -> Sequence[str]:
        """Return the places that get nothing now."""
        ...

    async def gone(self, delivery: Delivery) -> None:
        """Note that a receiver refuses all later deliveries."""
        ...

    def told(self, delivery: Delivery) -> None:
        """Note a delivery after an attempt."""
        ...


class Dispatcher:
    """Delivers the contents of an outbox.

    Args:
        outbox: Keeps the deliveries.
        clock: The time.
        sender: Makes attempts.
        receivers: Know where deliveries go.
        settings: Limits and retries.
        rng: Spreads attempts.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        sender: Sender,
        receivers: Receivers,
        settings: DispatcherSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._sender = sender
        self._receivers = receivers
        self._settings = settings or DispatcherSettings()
        self._rng = rng or random.Random()
        self._woken = asyncio.Event()
        #: Delivery id → delivery with an attempt under way or not written yet.
        self._flying: dict[str, Delivery] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        self._answering = Answering(self._settings.per_place)
        #: Outcomes to write.
        self._landed: list[Told] = []

    def wake(self) -> None:
        """Read the outbox now: a delivery may be due."""
        self._woken.set()

    async def run(self, leads: Callable[[], Awaitable[bool]]) -> None:
        """Deliver for ever, while `leads` returns True."""
        while True:
            self._woken.clear()
            rest_s = _RETRY_S
            try:
                await self._write()
                rest_s = await self._start_due() if await leads() else _LOOK_EVERY_S
            except SwellError as error:
                _log.warning(
                    "webhook dispatcher: database unavailable, retrying", detail=error.detail
                )
            except Exception:
                _log.exception("webhook dispatcher: database unavailable, retrying")
            await self._rest(rest_s)

    async def stop(self) -> None:
        """Wait a moment for attempts under way, write their outcomes, and drop the others."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=self._settings.grace_s)
        for each in self._attempts:
            each.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self._write()
        await self._sender.close()

    async def _start_due(self) -> float:
        """Start due attempts while there are slots; return how long to rest, in seconds."""
        settings = self._settings
        room = Room(settings.at_once, settings.per_place, self._flying.values(), self._answering)
        without = {*self._receivers.paused(), *room.full_places()}
        next_at = await self._outbox.next_due_at(without=without)
        if next_at is None:
            return _LOOK_EVERY_S
        left_s = (next_at - self._clock.now()).total_seconds()
        if left_s > 0:
            return min(_LOOK_EVERY_S, left_s)
        # A key may have more due deliveries at full places than one read returns.
        per_place = _READ_TIMES * settings.per_place
        while room.free > 0:
            due = await self._outbox.due(per_place=per_place, limit=_READ_AT_ONCE, without=without)
            for each in due:
                if room.take(each):
                    self._start(each)
            if len(due) < _READ_AT_ONCE:
                break
            without.update(each.place for each in due)
        return _LOOK_EVERY_S

    def _start(self, delivery: Delivery) -> None:
        self._flying[delivery.id] = delivery
        attempt = asyncio.create_task(self._attempt(delivery), name="webhook")
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)

    async def _attempt(self, delivery: Delivery) -> None:
        has_landed = False
        try:
            answer, letter = await self._answer(delivery)
            if is_gone(answer):
                await self._note_gone(delivery)
            told = what_follows(delivery, answer, self._settings.schedule_s, self._rng)
            if letter is not None:
                told = msgspec.structs.replace(
                    told,
                    inputs_removed=letter.inputs_removed,
                    outputs_removed=letter.outputs_removed,
                )
            self._landed.append(told)
            has_landed = True
        except Exception as error:
            # It was no attempt, so the delivery is still due; after a pause.
            if isinstance(error, Unavailable):
                _log.warning("a webhook cannot be sent now", id=delivery.id, detail=error.detail)
            else:
                _log.exception("a webhook cannot be sent now", id=delivery.id)
            await self._clock.sleep(_RETRY_S)
        finally:
            if not has_landed:
                del self._flying[delivery.id]
            self._woken.set()

    async def _answer(self, delivery: Delivery) -> tuple[Answer, Letter | None]:
        """Send a delivery; return the answer and the request, if there was one.

        Raises:
            Unavailable: The database does not answer.
        """
        now, letter = self._clock.now(), None
        try:
            letter = await self._receivers.letter(delivery)
            answer = await self._sender.send(letter, delivery.id)
            self._answering.note(delivery.place, has_answered=answer.status is not None)
            return answer, letter
        except Unsendable as error:
            detail = str(error)
            refused = Answer(at=now, took_s=0.0, error="unsendable", detail=detail, is_final=True)
            return refused, None
        except Unavailable:
            raise
        except Exception as error:
            _log.exception("a webhook cannot be sent", delivery=delivery.id)
            detail = f"it could not be made ({type(error).__name__}): see the log of the backend"
            return Answer(at=now, took_s=0.0, error="internal", detail=detail), letter

    async def _note_gone(self, delivery: Delivery) -> None:
        try:
            await self._receivers.gone(delivery)
        except Exception:
            # The delivery has failed anyway, and the next one tries again.
            _log.exception("a receiver that is gone was not noted", delivery=delivery.id)

    async def _write(self) -> None:
        """Write outcomes; only then may the next attempts of their lines start."""
        landed = list(self._landed)
        if not landed:
            return
        written = await self._outbox.tell(landed)
        del self._landed[: len(landed)]
        for told, delivery in zip(landed, written, strict=True):
            del self._flying[told.id]
            if delivery is not None:
                self._receivers.told(delivery)

    async def _rest(self, duration_s: float) -> None:
        waits = [
            asyncio.ensure_future(self._woken.wait()),
            asyncio.ensure_future(self._clock.sleep(duration_s)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
