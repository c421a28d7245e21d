"""Background work of a backend: functions that run now and then."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import structlog

from swell.core.background_tasks import keep_running
from swell.core.errors import SwellError, Unauthenticated
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.events import EventKind
from swell.core.store_types import Expiry, Part
from swell.core.task import Task, TaskState
from swell.core.telemetry import about
from swell.objects.url_signing import REFRESH_S as KEYS_EVERY_S
from swell.objects.url_signing import read_secrets
from swell.server.billing.attempt_costs import KEEP_EVERY_S as CHARGES_EVERY_S
from swell.server.billing.cost_routes import charge_lost, hear_spent, settle, watch_budget
from swell.server.limits import SHARE_EVERY_S
from swell.server.open_streams import KEEP_ALIVE
from swell.server.peer_messages import receive_messages
from swell.server.rollouts.canary_monitor import look_after_canaries, note_swept
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.event_streams import frame, queued_data
from swell.server.tasks.submit import count_end, publish_changes
from swell.server.webhooks.webhook_endpoints import REFRESH_S as ENDPOINTS_EVERY_S
from swell.server.workers.startups import expire_startups
from swell.settings.backend_settings import RetentionClass, RetentionSettings

_log = structlog.get_logger("swell.api")

#: Intervals in seconds.
_LAG_EVERY_S: Final = 0.5
_STREAMS_EVERY_S: Final = 1.0

#: A sweep changes at most this many tasks.
_SWEEP_LIMIT: Final = 1000

#: A sweep happens this often even if no task is due, since it forgets old idempotency keys.
_TIDY_EVERY_S: Final = 60.0

#: Each stream is checked for a closed connection after this many ticks.
_CHECK_TICKS: Final = 5

#: Streams per turn of the event loop.
_STREAM_BATCH: Final = 500

#: Items per call.
_DISCARD_LIMIT: Final = 100
_RETIRE_LIMIT: Final = 1000
_WORDS_LIMIT: Final = 1000


class Duty(NamedTuple):
    """A function that runs now and then."""

    name: str
    #: The pause before each run, in seconds.
    every_s: float | Callable[[], float]
    run: Callable[[], Awaitable[Any]]
    #: Whether only one backend at a time runs it.
    is_for_leader: bool = False


class Duties:
    """The background work of one backend process."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: list[asyncio.Task[None]] = []
        self._stream_ticks = 0
        self._swept_s = self._clock_checked_s = -math.inf
        self._sweep_pause_s = 0.0

    def table(self) -> list[Duty]:
        """Return all functions that run now and then."""
        service, settings = self._service, self._service.settings
        costs_every_s = min(60.0, settings.settle_every_s)
        heartbeat_s = settings.delivery.heartbeat_s
        index_words = partial(service.store.keep_words, limit=_WORDS_LIMIT)
        duties = [
            Duty("sweep", lambda: self._sweep_pause_s, self._sweep),
            Duty("workers", heartbeat_s / 2, service.fleet.refresh),
            Duty("startups", heartbeat_s, partial(expire_startups, service), True),
            Duty("objects", 2.0, service.writable.look),
            Duty("streams", _STREAMS_EVERY_S, self._keep_streams),
            Duty("stream keys", settings.server.keepalive_s, partial(check_streams, service)),
            Duty("positions", settings.position_every_s, partial(tell_positions, service)),
            # A crash loses this much of the service times.
            Duty("times", 2.0, service.estimates.save_times),
            Duty("discard", 2.0, partial(discard, service), True),
            Duty("retention", 60.0, self._retire, True),
            Duty("words", 5.0, index_words, True),
            Duty("loop lag", 0.0, self._measure_lag),
            Duty("clock", 2.0, service.skew.compare),
            Duty("limits", SHARE_EVERY_S, service.limits.share),
            Duty("keys", KEYS_EVERY_S, self._keep_keys),
            Duty("arrivals", service.scaling.next_bin_s, service.scaling.tell_arrivals),
            Duty("scaling", 2.0, self._follow_scaling),
            Duty("charges", CHARGES_EVERY_S, service.charges.keep),
            Duty("quotas", 1.0, service.quotas.settle),
            Duty("quota holds", 60.0, service.quotas.repair, True),
            Duty("costs", costs_every_s, self._settle_costs),
            Duty("tariffs", 30.0, service.tariffs.refresh),
            Duty("canaries", 1.0, partial(look_after_canaries, service)),
        ]
        if service.backend.is_shared:
            duties.append(Duty("endpoints", ENDPOINTS_EVERY_S, service.hooks.endpoints.refresh))
        if service.publisher is not None:
            duties.append(Duty("queues", settings.broker.repair_s, self._repair_queues, True))
        return duties

    def start(self) -> None:
        """Start all loops."""
        service = self._service
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            duty.name: partial(self._repeat, duty) for duty in self.table()
        }
        loops["peer messages"] = partial(receive_messages, service)
        loops["watch_keys"] = self._watch_keys
        loops["end"] = self._await_end
        leads = partial(service.leadership.leads, "webhooks")
        loops["webhooks"] = partial(service.hooks.dispatcher.run, leads)
        for name, loop in loops.items():
            on_failure = partial(service.metrics.count, "swell_duty_failures_total", name)
            running = keep_running(loop, service.clock, name=name, on_failure=on_failure)
            self._running.append(asyncio.create_task(running, name=name))

    async def stop(self) -> None:
        """End all loops, and write data that is only in memory."""
        for each in self._running:
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        service = self._service
        await service.hooks.stop()
        for write in (
            service.estimates.save_times,
            service.limits.share,
            service.keys.keep_uses,
            service.charges.keep,
            service.quotas.settle,
            service.scaling.tell_arrivals,
        ):
            try:
                await write()
            except SwellError as error:
                _log.warning("stop: not saved", what=write.__name__, detail=error.detail)
        await service.leadership.leave()

    async def _repeat(self, duty: Duty) -> None:
        service, every_s = self._service, duty.every_s
        while True:
            await service.clock.sleep(every_s() if callable(every_s) else every_s)
            try:
                if not duty.is_for_leader or await service.leadership.leads(duty.name):
                    await duty.run()
            except Exception as error:
                _note_failure(service, duty.name, error)

    async def _watch_keys(self) -> None:
        """Check the keys of open streams and lease calls as soon as a key has changed."""
        service = self._service
        while True:
            await service.keys.changed.wait()
            service.keys.changed.clear()
            service.fleet.wake_all()
            await check_streams(service)

    async def _await_end(self) -> None:
        """End all waits once the bus has ended: the service is about to stop."""
        await self._service.bus.ended()
        self._service.is_ready = False
        self._service.is_ending = True
        self._service.fleet.wake_all()

    async def _sweep(self) -> None:
        service = self._service
        store, now_s = service.store, service.clock.monotonic_s()
        self._sweep_pause_s = service.settings.delivery.sweep_every_s
        if not await service.leadership.leads("sweeper"):
            return
        if now_s - self._clock_checked_s >= service.settings.delivery.lease_s:
            self._clock_checked_s = now_s
            await cap_waits(service)
        wake_at = await store.next_wake_at()
        is_due = wake_at is not None and wake_at <= service.clock.now()
        if is_due or now_s - self._swept_s >= _TIDY_EVERY_S:
            self._swept_s = now_s
            while await sweep(service) >= _SWEEP_LIMIT:
                pass
            wake_at = await store.next_wake_at()
        if wake_at is not None:
            left_s = (wake_at - service.clock.now()).total_seconds()
            self._sweep_pause_s = min(self._sweep_pause_s, max(0.005, left_s))

    async def _keep_streams(self) -> None:
        """Send keep-alive comments and find closed connections, a share of the streams per tick."""
        self._stream_ticks += 1
        period = max(1, round(self._service.settings.server.keepalive_s / _STREAMS_EVERY_S))
        for number, stream in enumerate(list(self._service.streams)):
            if (number - self._stream_ticks) % period == 0:
                stream.push(KEEP_ALIVE)
            if (number - self._stream_ticks) % _CHECK_TICKS == 0:
                stream.check()
            if number % _STREAM_BATCH == _STREAM_BATCH - 1:
                await asyncio.sleep(0)

    async def _keep_keys(self) -> None:
        service = self._service
        await service.keys.keep_uses()
        if service.backend.signing is not None:
            service.backend.signing.replace(await read_secrets(service.registry))

    async def _follow_scaling(self) -> None:
        service = self._service
        await service.scaling.listen()
        if service.scaling.status is not None and await service.leadership.leads("workload"):
            await service.scaling.tell_workload(service.fleet, service.times)

    async def _settle_costs(self) -> None:
        service = self._service
        if await service.leadership.leads("costs"):
            await settle(service)
            await watch_budget(service)
        else:
            await hear_spent(service)

    async def _measure_lag(self) -> None:
        """Measure how late this process wakes up."""
        clock = self._service.clock
        due_s = clock.monotonic_s() + _LAG_EVERY_S
        await clock.sleep(_LAG_EVERY_S)
        late_s = max(0.0, clock.monotonic_s() - due_s)
        self._service.metrics.observe((), swell_event_loop_lag_seconds=late_s)

    async def _retire(self) -> None:
        while await retire(self._service) >= _RETIRE_LIMIT:
            pass

    async def _repair_queues(self) -> None:
        service = self._service
        if service.publisher is not None:
            n = await service.publisher.repair()
            service.metrics.count("swell_queue_republished_total", n=n)


def _note_failure(service: Service, duty: str, error: Exception) -> None:
    service.metrics.count("swell_duty_failures_total", duty)
    if isinstance(error, SwellError):
        _log.warning("duty failed", duty=duty, detail=error.detail)
    else:
        _log.error("duty failed", duty=duty, exc_info=error)


async def sweep(service: Service) -> int:
    """Expire tasks and leases, and make tasks ready after backoff; return how many changed."""
    tasks = await service.store.sweep(limit=_SWEEP_LIMIT)
    if not tasks:
        return 0
    # Their workers no longer hold these.
    taken = [
        task
        for task in tasks
        if task.state is not TaskState.RUNNING
        and service.fleet.held_attempt(task.id) == task.attempt
    ]
    service.fleet.stop(taken)
    ended = tuple(each.id for each in tasks if each.state.is_terminal and each.worker_id)
    if ended:
        # Their workers may call other backends.
        await service.bus.broadcast([PeerMessage(kind=MessageKind.STOP, ids=ended)])
    service.fleet.release([(task.id, task.attempt) for task in taken])
    held = {task.id for task in taken}
    for task in tasks:
        what = _change_by_sweep(task)
        service.metrics.count("swell_tasks_swept_total", what)
        if what == "lost":
            _log.warning(
                "a lease ran out",
                **about(task.id, task.attempt, task.traceparent),
                worker_id=task.worker_id,
                state=task.state.value,
            )
        if service.cards.canaries and (what == "lost" or task.id in held):
            note_swept(service, task, what)
        if task.state.is_terminal:
            count_end(service, task)
    publish_changes(service, tasks)
    lost = [task for task in tasks if _change_by_sweep(task) == "lost"]
    try:
        await charge_lost(service, list({task.id: task for task in taken + lost}.values()))
    except Exception as error:
        _note_failure(service, "costs", error)
    return len(tasks)


async def cap_waits(service: Service) -> None:
    """Shorten leases and backoffs that are too long because the clock was set back."""
    n, lease_s = _SWEEP_LIMIT, service.settings.delivery.lease_s
    while n >= _SWEEP_LIMIT:
        n = await service.store.cap_waits(lease_s=lease_s, limit=_SWEEP_LIMIT)
        if n:
            _log.warning("the clock was set back: leases and backoffs were shortened", tasks=n)


def _change_by_sweep(task: Task) -> str:
    if task.state is TaskState.EXPIRED:
        return "expired"
    is_ready = task.state is TaskState.QUEUED and task.available_at is None
    return "ready" if is_ready else "lost"


async def discard(service: Service) -> int:
    """Delete objects that no task needs any more; return how many.

    The store forgets them after the deletion, so a crash in between leaves no object behind.
    """
    keys = await service.store.discarded(limit=_DISCARD_LIMIT)
    if keys:
        await delete(service, keys)
        await service.store.forget_discarded(keys)
    return len(keys)


async def delete(service: Service, keys: Sequence[str]) -> None:
    """Delete objects; a key that ends with a slash means all objects below it."""
    objects = service.objects
    await objects.delete([key for key in keys if not key.endswith("/")])
    for folder in (key.rstrip("/") for key in keys if key.endswith("/")):
        while found := await objects.under(folder, limit=_DISCARD_LIMIT):
            await objects.delete(found)


async def retire(service: Service) -> int:
    """Remove expired data once; return the largest number of removed tasks, uploads or webhooks.

    `discard` deletes their objects.
    """
    store, settings, retention = service.store, service.settings, service.settings.retention
    named = tuple(model for each in retention.classes.values() for model in each.models)
    counts = [0]

    def before(kept_s: float) -> datetime:
        return service.clock.now() - timedelta(seconds=kept_s)

    periods: list[RetentionClass | RetentionSettings] = [*retention.classes.values(), retention]
    for kept in periods:
        models = kept.models if isinstance(kept, RetentionClass) else None
        others = named if models is None else ()
        parts = {Part.TASK: kept.tasks_s, Part.OUTPUTS: kept.outputs_s, Part.INPUTS: kept.inputs_s}
        for part, kept_s in parts.items():
            if kept_s is not None:
                expiry = Expiry(
                    part=part, before=before(kept_s), models=models, except_models=others
                )
                counts.append(await store.retire(expiry, limit=_RETIRE_LIMIT))
    if settings.uploads_s is not None:
        counts.append(await store.retire_uploads(before(settings.uploads_s), limit=_RETIRE_LIMIT))
    if (log_s := settings.webhooks.log_s) is not None:
        counts.append(await service.hooks.outbox.retire(before(log_s), limit=_RETIRE_LIMIT))
    return max(counts)


async def check_streams(service: Service) -> None:
    """End event streams with keys that no longer work."""
    for number, stream in enumerate(list(service.streams), start=1):
        try:
            # A signed URL, instead of a key, is valid until the stream ends.
            if stream.call.key is not None:
                await service.keys.find(stream.call.headers.get(b"authorization"))
        except Unauthenticated:
            stream.end()
        if number % _STREAM_BATCH == 0:
            await asyncio.sleep(0)


async def tell_positions(service: Service) -> None:
    """Send waiting tasks' new positions to their event streams."""
    streams, limit = service.streams, service.settings.position_streams
    waiting = [(stream, stream.waiting) for stream in streams if stream.waiting is not None]
    del waiting[limit:]
    for stream, _ in waiting:
        # The next call serves other streams first.
        streams[stream] = streams.pop(stream)
    places = await service.estimates.positions([task for _, task in waiting])
    for (stream, task), (position, expected) in zip(waiting, places, strict=True):
        if stream.waiting is task and position not in (None, stream.last_position):
            stream.last_position = position
            body = frame(EventKind.QUEUED, encode(queued_data(task, position, expected)), None)
            stream.push({"type": "http.response.body", "body": body, "more_body": True})
