"""What the handlers of one backend process share."""

import itertools
import secrets
from collections.abc import Sequence
from typing import Final

from swell.api.auth import Keys
from swell.api.call import Call
from swell.api.cards import Cards, Target
from swell.api.eta import Estimate, ServiceTimes, estimate
from swell.api.fleet import Fleet
from swell.api.metrics import Metrics
from swell.api.places import Places
from swell.api.settings import Backend
from swell.api.streams import Streams
from swell.api.views import UrlMaker
from swell.events import event_of
from swell.registry import Scope
from swell.task import Task, TaskState

__all__ = ["Service"]

#: For how long a look at the queues' lengths is good enough for an estimate, in seconds.
_READY_S: Final = 0.1


class Service:
    """Contracts, and the few things that are kept in memory beside them."""

    def __init__(self, backend: Backend) -> None:
        settings = backend.settings
        self.backend = backend
        self.settings = settings
        self.store = backend.store
        self.broker = backend.broker
        self.bus = backend.bus
        self.objects = backend.objects
        self.registry = backend.registry
        self.clock = backend.clock
        self.keys = Keys(backend.registry, backend.clock, settings.key_cache_s)
        self.cards = Cards(backend.registry, backend.clock)
        self.fleet = Fleet(
            backend.registry, backend.clock, alive_s=settings.alive_s, lost_s=settings.lost_s
        )
        self.times = ServiceTimes()
        self.metrics = Metrics()
        self.streams = Streams()
        self._places = Places(backend.broker, backend.clock)
        self._ready: dict[str, int] = {}
        self._ready_until_s = float("-inf")
        #: Between start and end; outside, nobody is kept waiting.
        self.is_ready = False
        self.is_ending = False
        self._bases: dict[tuple[str, bytes, str], str] = {}
        # Ids tell the process and the request apart; random, so that they say nothing else.
        self._request_prefix = secrets.token_hex(5)
        self._request_numbers = itertools.count(1)

    def new_request_id(self) -> str:
        """Return an id for a request."""
        return f"req_{self._request_prefix}{next(self._request_numbers):08x}"

    def urls(self, call: Call) -> UrlMaker:
        """Return what makes URLs that this client can follow."""
        return UrlMaker(self.base_url(call), self.objects, self.settings.signed_url_s)

    def base_url(self, call: Call) -> str:
        """Return scheme and host as the client reached them, or as they were configured."""
        if self.settings.public_url is not None:
            return self.settings.public_url.rstrip("/")
        scope = call.scope
        host = call.header(b"host") or b"127.0.0.1"
        known = (scope.get("scheme", "http"), host, scope.get("root_path", ""))
        base = self._bases.get(known)
        if base is None:
            if len(self._bases) > 1000:
                self._bases.clear()
            text = host.decode("latin-1") if _is_plain_host(host) else "127.0.0.1"
            base = self._bases[known] = f"{known[0]}://{text}{known[2]}"
        return base

    def may_see(self, call: Call, task: Task) -> bool:
        """Whether the caller may know of a task: its own, or any for an admin."""
        key = call.caller
        return task.key_id == key.id or Scope.ADMIN in key.scopes

    async def place(
        self, task: Task, *, is_new: bool = False
    ) -> tuple[int | None, Estimate | None]:
        """Return the position (1 is next) and the estimate of a task; None where unknown."""
        if task.state is not TaskState.QUEUED:
            return None, None
        return (await self.places([task], are_new=is_new))[0]

    async def places(
        self, tasks: Sequence[Task], *, are_new: bool = False
    ) -> list[tuple[int | None, Estimate | None]]:
        """Return position and estimate of tasks; only those that wait have a position."""
        places: list[tuple[int | None, Estimate | None]] = []
        ranks = await self._places.ahead(tasks, are_new=are_new)
        for task, ahead in zip(tasks, ranks, strict=True):
            if ahead is None:
                places.append((None, None))
            else:
                places.append((ahead + 1, self.estimate(task.model, task.queue, ahead)))
        return places

    def estimate(self, model: str, queue: str, ahead: int) -> Estimate | None:
        """Return when a task starts and ends with `ahead` others before it."""
        stats = self.times.stats(model)
        if stats is None:
            return None
        _, _, version = queue.partition(":")
        slots, free = self.fleet.slots(model, version or None)
        return estimate(stats, ahead=ahead, slots=slots, free=free)

    async def expected(self, target: Target, before: int = 0) -> Estimate | None:
        """Return when a task would start and end that was sent now.

        Args:
            target: Its model.
            before: How many tasks of the same request come before it.
        """
        if self.times.stats(target.model) is None:
            return None
        now_s = self.clock.monotonic_s()
        if now_s >= self._ready_until_s:
            # One look serves all requests of a moment.
            self._ready = {depth.queue: depth.ready for depth in await self.broker.depths()}
            self._ready_until_s = now_s + _READY_S
        ahead = self._ready.get(target.queue, 0) + before
        return self.estimate(target.model, target.queue, ahead)

    async def changed(self, tasks: list[Task]) -> None:
        """Tell broker and bus what became of tasks, after the store has written it."""
        ready, over = [], []
        for task in tasks:
            if task.state is TaskState.QUEUED and task.available_at is None:
                ready.append(task)
            elif task.state is not TaskState.RUNNING:
                over.append(task)
        if over:
            await self.broker.ack(over)
        if ready:
            await self.broker.offer(ready)
        await self.bus.publish([event_of(task) for task in tasks])

    def count_end(self, task: Task) -> None:
        """Learn from a task that has ended."""
        finished_at, started_at = task.finished_at, task.started_at
        if finished_at is None:
            return
        timings = task.timings
        if started_at is not None and task.state is TaskState.SUCCEEDED:
            self.times.observe(task.model, (finished_at - started_at).total_seconds())
        self.metrics.task_ended(
            task.model,
            task.state._value_,
            queue_s=0.0 if timings is None else timings.queue_s,
            run_s=0.0 if timings is None else timings.run_s,
            total_s=(finished_at - task.created_at).total_seconds(),
        )


def _is_plain_host(host: bytes) -> bool:
    return len(host) <= 255 and host.decode("latin-1").translate(_HOST_CHARACTERS) == ""


_HOST_CHARACTERS: Final = {
    ord(letter): None
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"
}
