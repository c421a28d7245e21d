"""Sends what is due, side by side, and writes down what came of it.

One loop looks what is due, starts attempts, and writes their outcomes, in groups. What is under way
is known in memory only: after a crash it is due still, and is sent again under the same id. Of a
line nothing is started while another of it is under way, so that a receiver hears of a task in
order.
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

#: What other processes have written is looked for so often, in seconds.
_LOOK_EVERY_S: Final = 0.5

#: A store that failed is asked again after so long, in seconds.
_AGAIN_S: Final = 0.5

#: More are read of each place than may be under way there: those that are come again.
_READ_TIMES: Final = 3

#: So many are read at once.
_READ_AT_ONCE: Final = 2000


class Unsendable(Exception):
    """There is nothing to send any more, or nowhere; the text says why."""


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """How much is sent at once, and when again."""

    #: Waits before all attempts but the first, in seconds.
    schedule_s: Sequence[float] = SCHEDULE_S
    #: Attempts under way in all, and at one place.
    at_once: int = 1536
    per_place: int = 8
    #: Attempts under way when it stops have so long, in seconds.
    grace_s: float = 2.0


class Receivers(Protocol):
    """Who gets what: what a dispatcher does not know itself."""

    async def letter(self, delivery: Delivery) -> Letter:
        """Return what to send.

        Raises:
            Unsendable: There is nothing to send, or nowhere.
            Unavailable: That cannot be found out now.
        """
        ...

    def paused(self) -> Sequence[str]:
        """Return the places to which nothing is sent now."""
        ...

    async def gone(self, delivery: Delivery) -> None:
        """Take note that a receiver wants nothing any more."""
        ...

    def told(self, delivery: Delivery) -> None:
        """Take note of a delivery after an attempt."""
        ...


class Dispatcher:
    """Delivers what lies in an outbox.

    Args:
        outbox: What is to be delivered.
        clock: The time.
        sender: Makes attempts.
        receivers: Who gets what.
        settings: How much at once, and when again.
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
        #: Delivery id → what is under way, or is not written down yet.
        self._flying: dict[str, Delivery] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        self._answering = Answering(self._settings.per_place)
        #: What came of attempts, to be written.
        self._landed: list[Told] = []

    def wake(self) -> None:
        """Look now: something may be due."""
        self._woken.set()

    async def run(self, leads: Callable[[], Awaitable[bool]]) -> None:
        """Deliver for ever, while `leads` says that this process should."""
        while True:
            self._woken.clear()
            rest_s = _AGAIN_S
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
        """Give what is under way a moment, write what came of it, and drop the rest."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=self._settings.grace_s)
        for each in self._attempts:
            each.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self._write()
        await self._sender.close()

    async def _start_due(self) -> float:
        """Start what is due and has room; return for how long there is nothing more to do."""
        settings = self._settings
        room = Room(settings.at_once, settings.per_place, self._flying.values(), self._answering)
        without = {*self._receivers.paused(), *room.full_places()}
        next_at = await self._outbox.next_due_at(without=without)
        left_s = _LOOK_EVERY_S
        if next_at is not None:
            left_s = (next_at - self._clock.now()).total_seconds()
        if left_s <= 0:
            await self._start_what_has_room(room, without)
        # What is due and was not started waits for something that is under way.
        return min(_LOOK_EVERY_S, left_s) if left_s > 0 else _LOOK_EVERY_S

    async def _start_what_has_room(self, room: Room, without: set[str]) -> None:
        """Read what is due, and start it; then what there is at other places, as long as there is.

        One key may have more that is due than is read at once, at places that have no room.
        """
        per_place = _READ_TIMES * self._settings.per_place
        while room.free > 0:
            due = await self._outbox.due(per_place=per_place, limit=_READ_AT_ONCE, without=without)
            for each in due:
                if room.take(each):
                    self._start(each)
            if len(due) < _READ_AT_ONCE:
                return
            without.update(each.place for each in due)

    def _start(self, delivery: Delivery) -> None:
        self._flying[delivery.id] = delivery
        attempt = asyncio.create_task(self._attempt(delivery), name="webhook")
        self._attempts.add(attempt)
        attempt.add_done_callback(self._attempts.discard)

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            answer, letter = await self._answer(delivery)
            if is_gone(answer):
                await self._note_gone(delivery)
            told = what_follows(delivery, answer, self._settings.schedule_s, self._rng)
            if letter is not None:
                told = _after(letter, told)
            self._landed.append(told)
        except Unavailable as error:
            # Nothing was sent, so that it is no attempt: it is due still.
            _log.warning("a webhook cannot be sent now", id=delivery.id, detail=error.detail)
            await self._clock.sleep(_AGAIN_S)
            del self._flying[delivery.id]
        except Exception:
            # It is due still, and not over and over at once.
            _log.exception("a webhook cannot be sent now", id=delivery.id)
            await self._clock.sleep(_AGAIN_S)
            del self._flying[delivery.id]
        except BaseException:
            # It is due still.
            del self._flying[delivery.id]
            raise
        finally:
            self._woken.set()

    async def _answer(self, delivery: Delivery) -> tuple[Answer, Letter | None]:
        """Return what an attempt met, and what was sent, if anything was.

        Raises:
            Unavailable: The store is away, and with it what was to be sent.
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
            # The delivery has failed all the same, and the next one will tell again.
            _log.exception("a receiver that is gone was not noted", delivery=delivery.id)

    async def _write(self) -> None:
        """Write what came of attempts; only then may the next of their lines start."""
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
        woken = asyncio.ensure_future(self._woken.wait())
        passing = asyncio.ensure_future(self._clock.sleep(duration_s))
        try:
            await asyncio.wait({woken, passing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            passing.cancel()


def _after(letter: Letter, told: Told) -> Told:
    """Return what became of an attempt, with what the letter could not quote."""
    return msgspec.structs.replace(
        told, inputs_removed=letter.inputs_removed, outputs_removed=letter.outputs_removed
    )
