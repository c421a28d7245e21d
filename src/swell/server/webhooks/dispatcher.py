"""Sends due webhooks concurrently and writes their outcomes.

One loop reads due deliveries, starts attempts, and writes outcomes in groups. Running attempts are
in memory only: after a crash they are still due, and go out again with the same id. Of each line
(one task, one receiver) one attempt runs at a time, so receivers get a task's events in order.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import structlog

from swell.core.clock import Clock
from swell.core.errors import SwellError, Unavailable
from swell.core.outbox import AttemptResult, Delivery
from swell.db.webhook_deliveries import Outbox
from swell.server.webhooks.concurrency_limits import Answering, Room
from swell.server.webhooks.retry_schedule import GONE, UNSENDABLE, result_of
from swell.server.webhooks.webhook_sender import Answer, HookRequest
from swell.settings.backend_settings import WebhooksSettings

if TYPE_CHECKING:
    from swell.server.webhooks.task_webhooks import Hooks

_log = structlog.get_logger("swell.webhooks")

#: The dispatcher reads the outbox this often, in seconds: other processes write to it too, and a
#: waiting attempt becomes due.
_LOOK_EVERY_S: Final = 0.5

#: The pause after an attempt that could not be made, in seconds.
_RETRY_S: Final = 0.5

#: The outbox returns this many times `per_receiver` deliveries of each place.
_READ_TIMES: Final = 3

#: Deliveries per read.
_READ_AT_ONCE: Final = 2000


class Undeliverable(Exception):
    """A delivery that can never be sent; the text says why."""


class Dispatcher:
    """Delivers the contents of an outbox.

    Args:
        outbox: Keeps the deliveries.
        clock: The time.
        send: Makes one attempt of a request with a message id. It raises nothing that a receiver
            can cause.
        receivers: Makes the requests, and notes what became of them.
        settings: Limits and retries.
        rng: Varies the waits between attempts.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        send: Callable[[HookRequest, str], Awaitable[Answer]],
        receivers: "Hooks",
        settings: WebhooksSettings,
        rng: random.Random | None = None,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._send = send
        self._receivers = receivers
        self._settings = settings
        self._rng = rng or random.Random()
        self._woken = asyncio.Event()
        #: Delivery id → delivery with an attempt under way, or with a result to write.
        self._busy: dict[str, Delivery] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        self._answering = Answering(settings.per_receiver)
        self._results: list[AttemptResult] = []

    def wake(self) -> None:
        """Read the outbox now: a delivery may be due."""
        self._woken.set()

    async def run(self, leads: Callable[[], Awaitable[bool]]) -> None:
        """Deliver for ever, while `leads` returns True."""
        while True:
            self._woken.clear()
            try:
                await self._write_results()
                if await leads():
                    await self._start_due()
            except SwellError as error:
                _log.warning(
                    "webhook dispatcher: database unavailable, retrying", detail=error.detail
                )
            except Exception:
                _log.exception("webhook dispatcher: failed, retrying")
            await self._rest()

    async def stop(self, grace_s: float = 2.0) -> None:
        """Wait for attempts under way, write their results, and drop the others."""
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=grace_s)
        for each in self._attempts:
            each.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        await self._write_results()

    async def _start_due(self) -> None:
        """Start due attempts while there are slots."""
        most = self._settings.per_receiver
        room = Room(self._settings.at_once, most, self._busy.values(), self._answering)
        without = {*self._receivers.paused(), *room.full_places()}
        # A key may have more due deliveries at full places than one read returns.
        while room.free > 0:
            due = await self._outbox.due(
                per_place=_READ_TIMES * most, limit=_READ_AT_ONCE, without=without
            )
            for delivery in filter(room.take, due):
                self._busy[delivery.id] = delivery
                attempt = asyncio.create_task(self._attempt(delivery), name="webhook")
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)
            if len(due) < _READ_AT_ONCE:
                break
            without.update(each.place for each in due)

    async def _attempt(self, delivery: Delivery) -> None:
        try:
            self._results.append(await self._result(delivery))
        except Exception as error:
            # This was no attempt, so the delivery is still due; after a pause.
            if isinstance(error, Unavailable):
                _log.warning("webhooks: cannot send now", id=delivery.id, detail=error.detail)
            else:
                _log.exception("webhooks: cannot send now", id=delivery.id)
            await self._clock.sleep(_RETRY_S)
            del self._busy[delivery.id]
        finally:
            self._woken.set()

    async def _result(self, delivery: Delivery) -> AttemptResult:
        """Send a delivery and return the result.

        Raises:
            Unavailable: The database does not answer.
        """
        now, request = self._clock.now(), None
        try:
            request = await self._receivers.make_request(delivery)
            answer = await self._send(request, delivery.id)
            self._answering.note(delivery.place, has_answered=answer.status is not None)
            if answer.status == GONE:
                await self._receivers.note_gone(delivery)
        except Undeliverable as error:
            answer = Answer(at=now, took_s=0.0, error=UNSENDABLE, detail=str(error))
        except Unavailable:
            raise
        except Exception as error:
            _log.exception("webhooks: cannot make a request", delivery=delivery.id)
            detail = f"it could not be made ({type(error).__name__}): see the log of the backend"
            answer = Answer(at=now, took_s=0.0, error="internal", detail=detail)
        return result_of(delivery, request, answer, self._settings.schedule_s, self._rng)

    async def _write_results(self) -> None:
        """Write results; only then may the next attempts of their lines start."""
        results = list(self._results)
        if not results:
            return
        written = await self._outbox.record_attempts(results)
        del self._results[: len(results)]
        for result, delivery in zip(results, written, strict=True):
            del self._busy[result.id]
            if delivery is not None:
                self._receivers.note_attempt(delivery)

    async def _rest(self) -> None:
        waits = [
            asyncio.ensure_future(self._woken.wait()),
            asyncio.ensure_future(self._clock.sleep(_LOOK_EVERY_S)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
