"""What the backend does without being asked: sweep, look after workers, look after streams."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog

from swell.api.canaries import LOOK_EVERY_S as CANARIES_EVERY_S
from swell.api.canaries import look_after_canaries, note_swept
from swell.api.charges import KEEP_EVERY_S
from swell.api.costs import charge_taken, hear_spent, settle, watch_budget
from swell.api.endpoints import REFRESH_S as ENDPOINTS_EVERY_S
from swell.api.events import frame, queued_data
from swell.api.limits import SHARE_EVERY_S
from swell.api.news import hear
from swell.api.quotas import LOOK_EVERY_S
from swell.api.quotas import SETTLE_EVERY_S as QUOTAS_EVERY_S
from swell.api.service import Service
from swell.api.skew import COMPARE_EVERY_S
from swell.api.startups import look_after_startups
from swell.api.streams import KEEP_ALIVE
from swell.api.views import encode
from swell.api.writable import LOOK_EVERY_S as OBJECTS_EVERY_S
from swell.background import keep_running
from swell.bus import News, NewsKind
from swell.errors import SwellError, Unauthenticated
from swell.events import EventKind
from swell.settings.backend import RetentionClass, RetentionSettings
from swell.signing import REFRESH_S, read_secrets
from swell.store import Expiry, Part
from swell.task import Task, TaskState
from swell.telemetry import about

_log = structlog.get_logger("swell.api")

#: How many tasks one look of the sweeper changes.
_SWEEP_LIMIT: Final = 1000

#: The store is swept so often though no task asks for it: it forgets old idempotency keys then, in
#: seconds.
_TIDY_EVERY_S: Final = 60.0

#: How often a part of the streams is looked at, in seconds.
_STREAM_TICK_S: Final = 1.0

#: After how many looks every stream was asked whether its client has hung up.
_CHECK_TICKS: Final = 5

#: How often what tasks took is written down, in seconds: as much is forgotten in a crash.
_KEEP_TIMES_S: Final = 2.0

#: How often objects that no task needs any more are deleted, in seconds, and how many at once.
_DISCARD_EVERY_S: Final = 2.0
_DISCARD_LIMIT: Final = 100

#: How often data is looked for whose time is over, in seconds, and how much of each kind at once.
_RETIRE_EVERY_S: Final = 20.0
_RETIRE_LIMIT: Final = 1000

#: How often tasks are made to be found by their words, in seconds, and how many at once.
_WORDS_EVERY_S: Final = 5.0
_WORDS_LIMIT: Final = 2000

#: In a rush, which is so many tasks since the last time, only so many: it costs what they need.
_RUSH: Final = 500
_WORDS_IN_RUSH: Final = 100

#: Looking takes at most this share of the time, unless it is done so seldom, in seconds.
_RETIRE_SHARE: Final = 0.02
_RETIRE_REST_S: Final = 600.0

#: How often autoscaler and backends tell each other how things stand, in seconds.
_SCALING_EVERY_S: Final = 2.0

#: How often prices are read that change while workers live, in seconds.
_TARIFFS_EVERY_S: Final = 30.0

#: How often it is measured how late this process is, in seconds.
_LAG_EVERY_S: Final = 0.5

#: Idle time, what is left of machines that have ended, and budgets are looked at so often, in
#: seconds.
_SETTLE_EVERY_S: Final = 60.0

#: Streams looked at before others get a turn on the event loop.
_STREAM_BATCH: Final = 500


class Duties:
    """The loops of one backend process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all loops."""
        loops = (
            self._sweep,
            self._watch_workers,
            self._watch_startups,
            self._watch_objects,
            self._keep_streams,
            self._check_streams,
            self._watch_keys,
            self._tell_positions,
            self._keep_times,
            self._discard,
            self._repair_queues,
            self._retire,
            self._keep_words,
            self._hear,
            self._watch_loop,
            self._compare_clocks,
            self._share_limits,
            self._keep_keys,
            self._tell_arrivals,
            self._follow_scaling,
            self._keep_charges,
            self._settle_quotas,
            self._look_after_quotas,
            self._settle,
            self._hear_tariffs,
            self._send_webhooks,
            self._watch_endpoints,
            self._watch_canaries,
            self._await_end,
        )
        self._running = [self._started(loop) for loop in loops]

    def _started(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        name, service = loop.__name__.strip("_"), self._service
        on_failure = partial(service.metrics.duty_failed, name)
        running = keep_running(loop, service.clock, name=name, on_failure=on_failure)
        return asyncio.create_task(running, name=name)

    async def stop(self) -> None:
        """End all loops, and the streams."""
        for each in self._running:
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        service = self._service
        if service.hooks is not None:
            await service.hooks.stop()
        keeps = (
            service.keep_times,
            service.limits.share,
            service.keys.keep_uses,
            service.charges.keep_all,
            service.quotas.settle,
            service.scaling.tell_arrivals,
        )
        for keep in keeps:
            try:
                await keep()
            except SwellError as error:
                _log.warning("something was not kept", what=keep.__name__, detail=error.detail)
        await service.leadership.leave()

    async def _sweep(self) -> None:
        service = self._service
        swept_s = service.clock.monotonic_s()
        capped_s = -math.inf
        while True:
            wake_at: datetime | None = None
            try:
                if not await service.leadership.leads("sweeper"):
                    await service.leadership.wait()
                    continue
                if service.clock.monotonic_s() - capped_s >= service.settings.delivery.lease_s:
                    capped_s = service.clock.monotonic_s()
                    await cap_waits(service)
                wake_at = await service.store.next_wake_at()
                is_due = wake_at is not None and wake_at <= service.clock.now()
                if is_due or service.clock.monotonic_s() - swept_s >= _TIDY_EVERY_S:
                    swept_s = service.clock.monotonic_s()
                    while await sweep(service) >= _SWEEP_LIMIT:
                        pass
                    wake_at = await service.store.next_wake_at()
            except SwellError as error:
                service.metrics.duty_failed("sweep")
                _log.warning("sweep failed", detail=error.detail)
            except Exception:
                service.metrics.duty_failed("sweep")
                _log.exception("sweep failed")
            every_s = service.settings.delivery.sweep_every_s
            await service.clock.sleep(pause_s(wake_at, service.clock.now(), every_s))

    async def _watch_workers(self) -> None:
        every_s = self._service.settings.delivery.heartbeat_s / 2
        await self._repeat("workers", every_s, self._service.fleet.refresh)

    async def _watch_startups(self) -> None:
        service = self._service

        async def look() -> None:
            if await service.leadership.leads("startups"):
                await look_after_startups(service)

        await self._repeat("startups", service.settings.delivery.heartbeat_s, look)

    async def _watch_objects(self) -> None:
        await self._repeat("objects", OBJECTS_EVERY_S, self._service.writable.look)

    async def _keep_streams(self) -> None:
        service = self._service
        ticks = max(1, round(service.settings.server.keepalive_s / _STREAM_TICK_S))
        tick = 0

        async def look() -> None:
            nonlocal tick
            tick = (tick + 1) % ticks
            # Each tick looks at its share of the streams; all have had their turn after `ticks`.
            for number, stream in enumerate(service.streams):
                if number % ticks == tick:
                    stream.push(KEEP_ALIVE)
                if number % _CHECK_TICKS == tick % _CHECK_TICKS:
                    stream.check()
                if number % _STREAM_BATCH == _STREAM_BATCH - 1:
                    await asyncio.sleep(0)

        await self._repeat("streams", _STREAM_TICK_S, look)

    async def _check_streams(self) -> None:
        """Look now and then whether the keys of open streams still work: they have their time."""
        service = self._service
        every_s = service.settings.server.keepalive_s
        await self._repeat("stream keys", every_s, lambda: check_streams(service))

    async def _watch_keys(self) -> None:
        """Have whoever waits asked for their keys again as soon as one has changed."""
        service = self._service
        while True:
            await service.keys.changed.wait()
            service.keys.changed.clear()
            service.fleet.wake_all()
            try:
                await check_streams(service)
            except SwellError as error:
                service.metrics.duty_failed("stream keys")
                _log.warning("the keys of streams are not known", detail=error.detail)

    async def _await_end(self) -> None:
        """Let nobody wait any longer once the bus is closed: the service is about to end."""
        subscription = self._service.bus.subscribe("")
        try:
            while await subscription.next() is not None:
                pass
        finally:
            subscription.close()
        self._service.is_ready = False
        self._service.is_ending = True
        self._service.fleet.wake_all()

    async def _keep_words(self) -> None:
        service = self._service
        before = 0

        async def keep() -> None:
            nonlocal before
            accepted = sum(service.metrics.accepted.values())
            is_rush, before = accepted - before > _RUSH, accepted
            if await service.leadership.leads("words"):
                await service.store.keep_words(limit=_WORDS_IN_RUSH if is_rush else _WORDS_LIMIT)

        await self._repeat("words", _WORDS_EVERY_S, keep)

    async def _hear(self) -> None:
        """Take what other backends tell."""
        await hear(self._service)

    async def _keep_times(self) -> None:
        await self._repeat("times", _KEEP_TIMES_S, self._service.keep_times)

    async def _discard(self) -> None:
        async def look() -> None:
            if await self._service.leadership.leads("discarder"):
                await discard(self._service)

        await self._repeat("discard", _DISCARD_EVERY_S, look)

    async def _share_limits(self) -> None:
        await self._repeat("limits", SHARE_EVERY_S, self._service.limits.share)

    async def _keep_keys(self) -> None:
        service = self._service

        async def look() -> None:
            await service.keys.keep_uses()
            signing = service.backend.signing
            if signing is not None:
                signing.replace(await read_secrets(service.registry))

        await self._repeat("keys", REFRESH_S, look)

    async def _tell_arrivals(self) -> None:
        """Tell after each bin of time what has arrived in it."""
        service = self._service
        while True:
            await service.clock.sleep(service.scaling.next_bin_s())
            try:
                await service.scaling.tell_arrivals()
            except SwellError as error:
                service.metrics.duty_failed("arrivals")
                _log.warning("autoscaler: arrivals were not reported", detail=error.detail)
            except Exception:
                service.metrics.duty_failed("arrivals")
                _log.exception("autoscaler: arrivals were not reported")

    async def _follow_scaling(self) -> None:
        """Hear how the autoscaler stands; where there is one, tell it of workers."""
        service = self._service

        async def look() -> None:
            await service.scaling.listen()
            if service.scaling.status is not None and await service.leadership.leads("workload"):
                await service.scaling.tell_workload(service.fleet, service.times)

        await self._repeat("scaling", _SCALING_EVERY_S, look)

    async def _keep_charges(self) -> None:
        await self._repeat("charges", KEEP_EVERY_S, self._service.charges.keep)

    async def _settle_quotas(self) -> None:
        await self._repeat("quotas", QUOTAS_EVERY_S, self._service.quotas.settle)

    async def _look_after_quotas(self) -> None:
        service = self._service

        async def look() -> None:
            if await service.leadership.leads("quotas"):
                await service.quotas.look_after()

        await self._repeat("left quotas", LOOK_EVERY_S, look)

    async def _settle(self) -> None:
        service = self._service

        async def look() -> None:
            if await service.leadership.leads("costs"):
                await settle(service)
                await watch_budget(service)
            else:
                await hear_spent(service)

        every_s = min(_SETTLE_EVERY_S, service.settings.settle_every_s)
        await self._repeat("costs", every_s, look)

    async def _hear_tariffs(self) -> None:
        """Hear of prices that change, which every backend charges by."""
        await self._repeat("tariffs", _TARIFFS_EVERY_S, self._service.tariffs.refresh)

    async def _send_webhooks(self) -> None:
        service = self._service

        async def leads() -> bool:
            return await service.leadership.leads("webhooks")

        if service.hooks is not None:
            await service.hooks.dispatcher.run(leads)

    async def _watch_endpoints(self) -> None:
        """Hear of standing endpoints that other backends have made or changed."""
        service = self._service
        if service.hooks is not None and service.backend.is_shared:
            await self._repeat("endpoints", ENDPOINTS_EVERY_S, service.hooks.endpoints.refresh)

    async def _watch_canaries(self) -> None:
        service = self._service
        await self._repeat("canaries", CANARIES_EVERY_S, lambda: look_after_canaries(service))

    async def _watch_loop(self) -> None:
        """Measure how late this process gets to what it wants to do."""
        service = self._service
        while True:
            due_s = service.clock.monotonic_s() + _LAG_EVERY_S
            await service.clock.sleep(_LAG_EVERY_S)
            service.metrics.loop_lag_s.observe(max(0.0, service.clock.monotonic_s() - due_s))

    async def _compare_clocks(self) -> None:
        await self._repeat("clock", COMPARE_EVERY_S, self._service.skew.compare)

    async def _retire(self) -> None:
        service, rests_until_s = self._service, 0.0

        async def look() -> None:
            nonlocal rests_until_s
            leads = await service.leadership.leads("retention")
            if not leads or service.clock.monotonic_s() < rests_until_s:
                return
            n = _RETIRE_LIMIT
            while n >= _RETIRE_LIMIT:
                began_s = service.clock.monotonic_s()
                n = await retire(service)
            ended_s = service.clock.monotonic_s()
            rests_until_s = ended_s + rest_s(ended_s - began_s)

        await self._repeat("retention", _RETIRE_EVERY_S, look)

    async def _repair_queues(self) -> None:
        service, publisher = self._service, self._service.publisher
        if publisher is None:
            return

        async def look() -> None:
            if await service.leadership.leads("publisher"):
                service.metrics.republished += await publisher.repair()

        await self._repeat("queues", service.settings.broker.repair_s, look)

    async def _tell_positions(self) -> None:
        service = self._service

        async def tell() -> None:
            await tell_positions(service)

        await self._repeat("positions", service.settings.position_every_s, tell)

    async def _repeat(self, name: str, every_s: float, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._service.clock.sleep(every_s)
            try:
                await step()
            except SwellError as error:
                self._service.metrics.duty_failed(name)
                _log.warning("duty failed", duty=name, detail=error.detail)
            except Exception:
                self._service.metrics.duty_failed(name)
                _log.exception("duty failed", duty=name)


def pause_s(wake_at: datetime | None, now: datetime, every_s: float) -> float:
    """Return how long the sweeper may rest: until there is work, at most `every_s`. Pure."""
    if wake_at is None:
        return every_s
    return min(every_s, max(0.005, (wake_at - now).total_seconds()))


def rest_s(took_s: float) -> float:
    """Return for how long not to look again for data whose time is over. Pure.

    A look passes over what is kept of the same age, and takes long where that is much.
    """
    return min(_RETIRE_REST_S, took_s / _RETIRE_SHARE)


async def sweep(service: Service) -> int:
    """Do what time demands, once; return how many tasks changed."""
    tasks = await service.store.sweep(limit=_SWEEP_LIMIT)
    if not tasks:
        return 0
    # Whoever still works on one of these holds it no longer.
    taken = [
        task
        for task in tasks
        if task.state is not TaskState.RUNNING
        and service.fleet.held_attempt(task.id) == task.attempt
    ]
    service.fleet.stop(taken)
    if service.backend.is_shared:
        # Whoever has it may call another backend.
        over = tuple(each.id for each in tasks if each.state.is_terminal and each.worker_id)
        if over:
            await service.bus.tell([News(kind=NewsKind.STOP, ids=over)])
    service.fleet.release([(task.id, task.attempt) for task in taken])
    held = {task.id for task in taken}
    for task in tasks:
        what = _count_swept(service, task)
        if service.cards.canaries and (what == "lost" or task.id in held):
            note_swept(service, task, what)
        if task.state.is_terminal:
            service.count_end(task)
    await service.changed(tasks)
    await _charge_taken(service, tasks, taken)
    return len(tasks)


async def cap_waits(service: Service) -> None:
    """Shorten leases and backoffs that a clock set back has made too long."""
    lease_s, n = service.settings.delivery.lease_s, _SWEEP_LIMIT
    while n >= _SWEEP_LIMIT:
        n = await service.store.cap_waits(lease_s=lease_s, limit=_SWEEP_LIMIT)
        if n:
            _log.warning("the clock was set back: leases and backoffs were shortened", tasks=n)


async def _charge_taken(service: Service, tasks: Sequence[Task], taken: Sequence[Task]) -> None:
    """Charge the attempts that ended with this; accounting never stops what it accounts for."""
    over = {task.id: task for task in taken}
    over |= {task.id: task for task in tasks if _swept(task) == "lost"}
    try:
        await charge_taken(service, list(over.values()))
    except SwellError as error:
        service.metrics.duty_failed("costs")
        _log.warning("attempts that were lost cannot be charged", detail=error.detail)
    except Exception:
        service.metrics.duty_failed("costs")
        _log.exception("attempts that were lost cannot be charged")


def _count_swept(service: Service, task: Task) -> str:
    """Count what the sweeper did with a task, log it where a worker was lost, and return it."""
    what = _swept(task)
    if what == "lost":
        _log.warning(
            "a lease ran out",
            **about(task.id, task.attempt, task.traceparent),
            worker_id=task.worker_id,
            state=task.state.value,
        )
    swept = service.metrics.swept
    swept[what] = swept.get(what, 0) + 1
    return what


def _swept(task: Task) -> str:
    """Return what the sweeper did with a task, from how it left it."""
    if task.state is TaskState.EXPIRED:
        return "expired"
    is_ready = task.state is TaskState.QUEUED and task.available_at is None
    return "ready" if is_ready else "lost"


async def discard(service: Service) -> int:
    """Delete objects that no task needs any more; return how many.

    They are forgotten after they are gone, so that a crash in between leaves none.
    """
    keys = await service.store.discarded(limit=_DISCARD_LIMIT)
    if keys:
        await delete(service, keys)
        await service.store.forget_discarded(keys)
    return len(keys)


async def delete(service: Service, keys: Sequence[str]) -> None:
    """Delete objects; a key with a slash at its end stands for everything below it."""
    objects = service.objects
    await objects.delete([key for key in keys if not key.endswith("/")])
    for folder in (key.rstrip("/") for key in keys if key.endswith("/")):
        while found := await objects.under(folder, limit=_DISCARD_LIMIT):
            await objects.delete(found)


async def retire(service: Service) -> int:
    """Remove data whose time is over, once; return how many tasks, or uploads, lost the most.

    Their objects are deleted by `discard`.
    """
    settings, now = service.settings, service.clock.now()
    retention = settings.retention
    named = tuple(model for each in retention.classes.values() for model in each.models)
    most = 0
    periods: list[RetentionClass | RetentionSettings] = [*retention.classes.values(), retention]
    for kept in periods:
        models = kept.models if isinstance(kept, RetentionClass) else None
        parts = (
            (Part.TASK, kept.tasks_s),
            (Part.OUTPUTS, kept.outputs_s),
            (Part.INPUTS, kept.inputs_s),
        )
        for part, kept_s in parts:
            if kept_s is None:
                continue
            expiry = Expiry(
                part=part,
                before=now - timedelta(seconds=kept_s),
                models=models,
                except_models=named if models is None else (),
            )
            most = max(most, await service.store.retire(expiry, limit=_RETIRE_LIMIT))
    if settings.uploads_s is not None:
        before = now - timedelta(seconds=settings.uploads_s)
        most = max(most, await service.store.retire_uploads(before, limit=_RETIRE_LIMIT))
    if service.hooks is not None and settings.webhooks.log_s is not None:
        before = now - timedelta(seconds=settings.webhooks.log_s)
        most = max(most, await service.hooks.outbox.retire(before, limit=_RETIRE_LIMIT))
    return most


async def check_streams(service: Service) -> None:
    """End the streams whose keys work no more."""
    for number, stream in enumerate(service.streams, start=1):
        try:
            if not stream.is_signed:
                await service.keys.find(stream.authorization)
        except Unauthenticated:
            stream.end()
        if number % _STREAM_BATCH == 0:
            await asyncio.sleep(0)


async def tell_positions(service: Service) -> None:
    """Tell waiting streams their position, where it has changed."""
    streams = service.streams.waiting(service.settings.position_streams)
    waiting = [(stream, stream.waiting) for stream in streams if stream.waiting is not None]
    if not waiting:
        return
    places = await service.places([task for _, task in waiting])
    for (stream, task), (position, expected) in zip(waiting, places, strict=True):
        if stream.waiting is not task or position is None or position == stream.last_position:
            continue
        stream.last_position = position
        body = frame(EventKind.QUEUED, encode(queued_data(task, position, expected)), None)
        stream.push({"type": "http.response.body", "body": body, "more_body": True})
