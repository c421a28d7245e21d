"""Dispatch for a worker inside the trusted network: it takes ids from the queues itself.

The backend starts the tasks, fenced as ever, and is told the outcomes; it is spared the waiting,
and a worker hears of work without it. Everything else goes to the backend as before.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from msgspec.structs import replace

from swell.broker import LeaseRequest
from swell.brokers.intake import Arrival, Intake
from swell.brokers.lanes import Message, Queues, Turns
from swell.brokers.post import Post
from swell.clock import Clock
from swell.dispatch import (
    Ask,
    Dispatch,
    Grant,
    Incoming,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
    Upload,
    Welcome,
)
from swell.errors import SwellError
from swell.phases import Startup
from swell.store import Hold

#: The most ids that one call to the backend starts.
_START_N: Final = 512


class DirectDispatch:
    """See `Dispatch`.

    Args:
        remote: The backend.
        queues: Where the ids lie.
        clock: Real time.
        max_receives: A message that has come more often goes to the dead letters of the queues.
        wait_s: How long one long poll waits.
    """

    def __init__(
        self,
        remote: Dispatch,
        queues: Queues,
        clock: Clock,
        *,
        max_receives: int = 20,
        wait_s: float = 20.0,
    ) -> None:
        self._remote = remote
        self._queues = queues
        self._intake = Intake(queues, clock, max_receives=max_receives, wait_s=wait_s)
        self._post = Post(queues)
        self._turns = Turns()
        self._models: dict[str, str] = {}
        #: As the backend told last.
        self._staged: dict[str, tuple[str, ...]] = {}
        self._lease_s = 30.0
        #: Task id → (attempt, the message that told of it).
        self._held: dict[str, tuple[int, Message]] = {}
        #: The call by which the worker hears of cancellations while it waits for ids.
        self._news: asyncio.Task[Grant] | None = None
        #: Whether the backend answered the last call.
        self._is_sure = False

    async def starting(self, startup: Startup) -> StartingAnswer:
        return await self._remote.starting(startup)

    async def register(self, registration: Registration) -> Welcome:
        welcome = await self._remote.register(registration)
        if self._news is not None:
            # It speaks for a worker that is not known any more.
            self._news.cancel()
            self._news = None
        self._models = {card.name: card.version for card in registration.models}
        self._staged = welcome.staged
        # The backend's, never this worker's own: whoever reads a lane last says how long it holds.
        self._lease_s = welcome.lease_s
        self._queues.hold_for(welcome.lease_s)
        self._is_sure = True
        return welcome

    async def lease(self, ask: Ask) -> Grant:
        """See `Dispatch.lease`: whichever comes first, an id or news of the backend."""
        if ask.n <= 0:
            return await self._hear(ask)
        looks = ask.wait_s <= 0
        try:
            if not self._is_sure:
                # An id that is taken in vain has come once more.
                self._learnt(await self._remote.lease(replace(ask, n=0, wait_s=0.0)))
                self._is_sure = True
            while True:
                grant = await self._start(ask, looks=looks)
                if grant.tasks or grant.cancels or grant.drain or ask.wait_s <= 0:
                    return grant
                news = self._listen(ask)
                await self._intake.wait(self._turns.lanes(self._wish(ask)), ask.n, news)
                if news.done():
                    return self._heard(news)
        except SwellError:
            self._is_sure = False
            raise

    def _listen(self, ask: Ask) -> "asyncio.Task[Grant]":
        """Return the call that listens; it stays open over several calls for work."""
        if self._news is None:
            self._news = asyncio.create_task(self._remote_news(ask))
        return self._news

    def _heard(self, news: "asyncio.Task[Grant]") -> Grant:
        if self._news is news:
            self._news = None
        # Ended by a new registration: whoever listened asks again.
        return Grant() if news.cancelled() else self._learnt(news.result())

    def _learnt(self, grant: Grant) -> Grant:
        """Take from an answer which queues are this worker's now."""
        self._staged = grant.staged
        return grant

    async def _hear(self, ask: Ask) -> Grant:
        """Listen only, by the call that is open: of two the other might be told instead."""
        if ask.wait_s <= 0:
            return self._learnt(await self._remote.lease(ask))
        news = self._listen(ask)
        # Whoever listens no longer leaves it to the next.
        await asyncio.wait([news])
        return self._heard(news)

    async def _remote_news(self, ask: Ask) -> Grant:
        # Open for long, it would tell too late what the worker knows.
        return await self._remote.lease(replace(ask, n=0, known=None))

    def _wish(self, ask: Ask) -> LeaseRequest:
        return LeaseRequest(
            worker_id=ask.worker_id,
            models=self._models,
            n=min(ask.n, _START_N),
            lease_s=self._lease_s,
            residents=ask.residents or (),
            staged=self._staged,
        )

    async def _start(self, ask: Ask, *, looks: bool) -> Grant:
        """Take ids, and have the backend start them."""
        wish = self._wish(ask)
        arrivals = await self._take(wish, looks=looks)
        if not arrivals:
            return Grant()
        ids = list(dict.fromkeys(arrival.task_id for arrival in arrivals))
        try:
            offer = replace(ask, n=len(ids), offered=ids, wait_s=0.0)
            grant = self._learnt(await self._remote.lease(offer))
        except BaseException:
            self._intake.restore(arrivals)
            raise
        self._turns.note(wish, [task.model for task in grant.tasks])
        self._keep(arrivals, grant, wish)
        return grant

    async def _take(self, wish: LeaseRequest, *, looks: bool) -> list[Arrival]:
        """Take what has come through the lanes, in their order; look into them where wanted.

        Before what is less urgent is taken, the lanes of what is usual are looked into.
        """
        lanes = self._turns.lanes(wish)
        later = [lane for lane in lanes if not lane.is_usual]
        arrivals: list[Arrival] = []
        try:
            for lane in lanes:
                n = wish.n - len(arrivals)
                if n > 0 and (looks or (lane.is_usual and self._intake.has_any(later))):
                    arrivals += await self._intake.look(lane, n)
                elif n > 0:
                    arrivals += self._intake.kept(lane, n)
        except SwellError:
            if not arrivals:
                raise
        return arrivals

    def _keep(self, arrivals: Sequence[Arrival], grant: Grant, wish: LeaseRequest) -> None:
        """Hold the messages of what was started, and let go of the others."""
        started = {task.task_id: task for task in grant.tasks}
        others: list[Arrival] = []
        for arrival in arrivals:
            task = started.pop(arrival.task_id, None)
            if task is None:
                others.append(arrival)
            else:
                self._let_go(task.task_id)
                self._held[task.task_id] = (task.attempt, arrival.message)
        if grant.drain or grant.staged != wish.staged:
            # Not refused, but not for this worker any more.
            self._intake.restore(others)
        else:
            self._post.forget([arrival.message for arrival in others])

    def _let_go(self, task_id: str) -> None:
        held = self._held.pop(task_id, None)
        if held is not None:
            self._post.forget([held[1]])

    async def report(self, report: Report) -> ReportAnswer:
        """See `Dispatch.report`: what is asked in it is taken from the queues by the next call."""
        answer = await self._remote.report(replace(report, ask=0))
        for settlement in report.settlements:
            attempt, _ = self._held.get(settlement.task_id, (0, None))
            if attempt == settlement.attempt:
                self._let_go(settlement.task_id)
        held = [self._held.get(hold.task_id, (0, None)) for hold in report.holds]
        self._post.extend(
            [
                message
                for hold, (attempt, message) in zip(report.holds, held, strict=True)
                if message is not None and attempt == hold.attempt
            ],
            self._lease_s,
        )
        return answer

    async def uploads(self, worker_id: str, hold: Hold, keys: Sequence[str]) -> list[Upload]:
        return await self._remote.uploads(worker_id, hold, keys)

    async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
        await self._remote.put(upload, data, content_type)

    async def fetch(self, url: str) -> tuple[bytes, str]:
        return await self._remote.fetch(url)

    def open(self, url: str) -> AbstractAsyncContextManager[Incoming]:
        return self._remote.open(url)

    async def close(self) -> None:
        if self._news is not None:
            self._news.cancel()
            await asyncio.gather(self._news, return_exceptions=True)
        await self._intake.close()
        await self._post.close()
        await self._queues.close()
        await self._remote.close()
