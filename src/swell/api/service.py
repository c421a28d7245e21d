"""What the handlers of one backend process share."""

import asyncio
import secrets
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from swell.api.audit import Audit
from swell.api.auth import Keys
from swell.api.body_queue import BodyQueue
from swell.api.call import Call
from swell.api.canaries import Canaries
from swell.api.cards import Cards
from swell.api.charges import Charges, Tariffs
from swell.api.classes import Classes
from swell.api.comparisons import Ratings
from swell.api.estimates import Estimates
from swell.api.eta import Calibration, ServiceTimes
from swell.api.facades.unanswered_requests import UnansweredRequests
from swell.api.fleet import Fleet, never_dead
from swell.api.headers import Hosts, Origins, host_name
from swell.api.hook_bodies import BodyFormat
from swell.api.hooks import Hooks
from swell.api.leadership import Leadership
from swell.api.limits import Limits
from swell.api.liveness import is_dead
from swell.api.lookups import Lookups
from swell.api.metered import metered
from swell.api.metrics import Metrics
from swell.api.polled import Polled
from swell.api.quotas import Quotas
from swell.api.requests import Requests
from swell.api.samples import samples_of
from swell.api.scaling import Scaling
from swell.api.settings import ApiSettings, Backend
from swell.api.skew import Skew
from swell.api.starts import Starts
from swell.api.streams import Streams
from swell.api.thumbnails import Thumbnails
from swell.api.traces import Traces
from swell.api.views import UrlMaker
from swell.api.web import WebApp
from swell.api.writable import Writable
from swell.brokers.publisher import QueuePublisher
from swell.errors import Unavailable
from swell.events import TaskSummary, event_of, summary_of, summary_of_stage
from swell.objects import Objects
from swell.registry import KeyLimits, Scope
from swell.task import Task, TaskState
from swell.weights.chunks import is_chunk_key
from swell.weights.store import Manifests, WeightStore

#: Most pictures that are decoded at once.
_DECODED_AT_ONCE: Final = 2


class Service:
    """The backend's parts, and the state that its handlers share in memory.

    Args:
        backend: The parts.
        formats: Formats of webhooks' bodies, by name.
    """

    def __init__(
        self, backend: Backend, formats: Mapping[str, BodyFormat] = MappingProxyType({})
    ) -> None:
        settings = backend.settings
        self.metrics = Metrics()
        backend = metered(backend, self.metrics)
        self.backend = backend
        self.settings = settings
        self.store, self.broker, self.bus = backend.store, backend.broker, backend.bus
        self.objects = backend.objects
        self.registry = backend.registry
        self.clock = backend.clock
        self.keys = Keys(backend.registry, backend.clock, settings.key_cache_s)
        self.audit = Audit(backend.registry, backend.clock)
        self.classes = Classes(settings.admission.classes)
        self.limits = self._make_limits(backend)
        self.hosts = _hosts(settings)
        origins = settings.server.cors_origins
        self.origins = Origins(origins) if origins else None
        self.cards = Cards(backend.registry, backend.clock)
        self.times = ServiceTimes(live_versions=self.cards.live_versions)
        self.calibration = Calibration()
        self.fleet = self._make_fleet(backend)
        #: Random name of this process among those on the same store.
        self.name = secrets.token_hex(8)
        self.leadership = Leadership(
            backend.registry,
            backend.bus,
            backend.clock,
            self.name,
            is_shared=backend.is_shared,
            skew=self.skew,
        )
        # The autoscaler's reports.
        self.scaling = Scaling(backend.registry, backend.clock, self.name)
        self.hooks = (
            Hooks(backend, backend.outbox, formats, self.metrics) if backend.outbox else None
        )
        self.requests = Requests(backend.clock, settings.log.level_of_requests)
        self.traces = Traces(backend.tracer, backend.clock)
        self.streams, self.canaries = Streams(), Canaries()
        self.thumbnails = Thumbnails(backend.objects, self.lanes)
        self.weights = backend.weights or WeightStore(backend.objects, "weights")
        self._has_weights_apart = backend.weights is not None
        self.manifests = Manifests(self.weights)
        self.lookups, self.body_queue = Lookups(backend.store), BodyQueue()
        self.polled = Polled(backend.bus, backend.clock)
        self.unanswered = UnansweredRequests(backend.clock)
        self.starts = Starts(backend.clock)
        self.charges = Charges(backend.registry, backend.clock, self.metrics)
        self.estimates = Estimates(self)
        #: True between start and stop; otherwise requests do not wait.
        self.is_ready = self.is_ending = False
        self._makers: dict[tuple[str, bytes, str], UrlMaker] = {}

    def _make_limits(self, backend: Backend) -> Limits:
        settings = backend.settings
        parts = backend.registry, backend.store, backend.clock
        quotas = Quotas(
            *parts,
            lambda task: self.estimates.cost_micros(task),
            lambda task: samples_of(self.cards, task),
            settings.admission.sample_micros,
        )
        limits = msgspec.convert(settings.limits, KeyLimits, from_attributes=True)
        return Limits(*parts, limits, quotas)

    def _make_fleet(self, backend: Backend) -> Fleet:
        return Fleet(
            backend.registry,
            backend.clock,
            self.times,
            alive_s=backend.settings.alive_s,
            lost_s=backend.settings.lost_s,
            # A worker on another machine may have the process id of a dead process here.
            is_dead=never_dead if backend.is_shared else is_dead,
        )

    @property
    def publisher(self) -> QueuePublisher | None:
        """Sends task IDs to an external queue service; None without one."""
        return self.backend.publisher

    @property
    def quotas(self) -> Quotas:
        """How much keys and their users may use in a day and a month."""
        return self.limits.quotas

    def need_hooks(self) -> Hooks:
        """Return the webhooks' part.

        Raises:
            Unavailable: This service sends none.
        """
        if self.hooks is None:
            raise Unavailable("this service sends no webhooks: leave them out")
        return self.hooks

    async def check_again(self, call: Call) -> None:
        """Check that the key of a request that has waited still works.

        Raises:
            Unauthenticated: It was revoked or has expired.
        """
        if call.key is None or not self.keys.remembers(call.key):
            await self.keys.find(call.header(b"authorization"))

    def objects_of(self, key: str) -> Objects:
        """Return the store of a file with a signed URL: weights may have a store of their own."""
        if self._has_weights_apart and is_chunk_key(key):
            return self.weights.objects
        return self.objects

    @cached_property
    def lanes(self) -> asyncio.Semaphore:
        """Limits how many pictures are decoded at once."""
        return asyncio.Semaphore(_DECODED_AT_ONCE)

    @cached_property
    def skew(self) -> Skew:
        """How far the clock is from the database's."""
        return Skew(self.backend.store, self.backend.clock, self.fleet.wake_all)

    @property
    def refusal(self) -> str:
        """Why no tasks are handed out; empty while they are."""
        return self.skew.refusal or self.writable.refusal

    @cached_property
    def writable(self) -> Writable:
        """Whether the object store takes files."""
        return Writable(self.objects, self.fleet.wake_all)

    @cached_property
    def tariffs(self) -> Tariffs:
        """What workers cost."""
        return Tariffs(self.registry, self.scaling, self.settings)

    @cached_property
    def ratings(self) -> Ratings:
        """What votes say of models, reckoned when it is first asked for."""
        return Ratings(self.registry)

    @cached_property
    def web_app(self) -> WebApp:
        """The files of the web app, read when the first is asked for."""
        return WebApp(self.settings)

    def urls(self, call: Call) -> UrlMaker:
        """Return what makes URLs that this client can follow."""
        if self.settings.server.public_url is not None:
            return self._url_maker(self.settings.server.public_url.rstrip("/"))
        scope = call.scope
        host = call.header(b"host") or b"127.0.0.1"
        known = (scope.get("scheme", "http"), host, scope.get("root_path", ""))
        maker = self._makers.get(known)
        if maker is None:
            if len(self._makers) > 1000:
                self._makers.clear()
            text = host.decode("latin-1") if _is_plain_host(host) else "127.0.0.1"
            maker = self._makers[known] = self._url_maker(f"{known[0]}://{text}{known[2]}")
        return maker

    def _url_maker(self, base: str) -> UrlMaker:
        shows_trace = self.settings.telemetry.in_tasks
        return UrlMaker(
            base, self.objects, self.settings.server.signed_url_s, shows_trace=shows_trace
        )

    def base_url(self, call: Call) -> str:
        """Return scheme and host as the client reached them, or as they were configured."""
        return self.urls(call).base

    def may_see(self, call: Call, task: Task) -> bool:
        """Whether the caller may know of a task: its own, or any for an admin."""
        key = call.caller
        if task.key_id == key.id:
            return True
        call.of_others = Scope.ADMIN in key.scopes
        return call.of_others

    async def changed(self, tasks: list[Task]) -> None:
        """Publish what became of tasks, after the store has written it."""
        if self.publisher is not None:
            self.publisher.publish(tasks)
        await self.bus.publish([event_of(task) for task in tasks])
        self.traces.told(tasks)

    def learn(self, summary: TaskSummary) -> None:
        """Learn from a task that has succeeded, here or at another backend."""
        worker = None if summary.worker_id is None else self.fleet.get(summary.worker_id)
        device = "" if worker is None else worker.info.device
        self.times.observe(summary.model, summary.took_s, summary.count, device, summary.version)
        self.fleet.end(summary)

    def stage_passed(self, task: Task) -> None:
        """Learn from an ended stage of a pipeline, and count the arrival of the next one."""
        assert task.run is not None, "it has stages"
        self.estimates.observe_size(task)
        self.learn(summary_of_stage(task, task.run.done[-1]))
        arrivals, queue = self.scaling.arrivals.fresh, task.queue
        arrivals[queue] = arrivals.get(queue, 0) + task.count

    def count_end(self, task: Task) -> None:
        """Learn from a task that has ended."""
        self.limits.ended(task.key_id)
        self.quotas.ended(task)
        self.calibration.ended(task.id, self.clock, has_succeeded=task.state is TaskState.SUCCEEDED)
        finished_at = task.finished_at
        if finished_at is None:
            return
        timings = task.timings
        if task.started_at is not None and task.state is TaskState.SUCCEEDED:
            self.estimates.observe_size(task)
            self.learn(summary_of(task))
        if task.dead:
            self.metrics.dead[task.model] = self.metrics.dead.get(task.model, 0) + 1
        self.metrics.task_ended(
            task.model,
            task.state._value_,
            queue_s=0.0 if timings is None else timings.queue_s,
            run_s=0.0 if timings is None else timings.run_s,
            total_s=(finished_at - task.created_at).total_seconds(),
        )


def _hosts(settings: ApiSettings) -> Hosts | None:
    names = list(settings.server.hosts)
    if settings.server.public_url is not None:
        names.append(host_name(urlsplit(settings.server.public_url).netloc) or "")
    return Hosts(names) if names else None


def _is_plain_host(host: bytes) -> bool:
    return len(host) <= 255 and host.decode("latin-1").translate(_HOST_CHARACTERS) == ""


_HOST_CHARACTERS: Final = {
    ord(letter): None
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"
}
