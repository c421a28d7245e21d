"""The parts of one backend process that its handlers share."""

import asyncio
import re
import secrets
from collections.abc import Mapping
from functools import cached_property, partial
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from swell.core.records import KeyLimits
from swell.objects.object_store import Objects
from swell.server.admin.audit_log import Audit
from swell.server.admin.autoscaler_status import Scaling
from swell.server.auth import Keys
from swell.server.billing.attempt_costs import Charges, Tariffs
from swell.server.billing.quota_accounting import Quotas
from swell.server.body_queue import BodyQueue
from swell.server.clock_skew import Skew
from swell.server.dependencies import ApiSettings, Backend
from swell.server.estimates.eta import Calibration, ServiceTimes
from swell.server.estimates.task_estimates import Estimates
from swell.server.evals.comparison_routes import Ratings
from swell.server.files.storage_health import Writable
from swell.server.files.thumbnails import Thumbnails
from swell.server.headers import Hosts, Origins, host_name
from swell.server.leader_election import Leadership
from swell.server.limits import Limits
from swell.server.metrics import Metrics, measured
from swell.server.models.model_cards import Cards
from swell.server.open_streams import Stream
from swell.server.request import Call
from swell.server.request_log import RequestLog
from swell.server.rollouts.canary_monitor import Canaries
from swell.server.serializers import UrlMaker
from swell.server.tasks.polling_progress import Polled
from swell.server.tasks.priority_classes import Classes
from swell.server.tasks.sample_counts import samples_of
from swell.server.tasks.task_traces import Traces
from swell.server.tasks.unanswered_requests import UnansweredRequests
from swell.server.web.web_app import WebApp
from swell.server.webhooks.task_webhooks import Hooks
from swell.server.webhooks.webhook_bodies import BodyFormat
from swell.server.workers.liveness import is_dead
from swell.server.workers.startup_limits import Starts
from swell.server.workers.worker_tracker import Fleet, never_dead
from swell.weights.store import WeightStore, is_file_key

#: Most pictures that are decoded at once.
_DECODED_AT_ONCE: Final = 2

_PLAIN_HOST: Final = re.compile(rb"[A-Za-z0-9._:\[\]-]{1,255}")


class Service:
    """The backend's parts, and the state that its handlers share in memory.

    Args:
        backend: The parts.
        formats: Formats of webhooks' bodies, by name.
    """

    def __init__(
        self, backend: Backend, formats: Mapping[str, BodyFormat] = MappingProxyType({})
    ) -> None:
        settings, clock = backend.settings, backend.clock
        server, log_level = settings.server, settings.log.level_of_requests
        self.metrics = Metrics()
        backend = measured(backend, self.metrics)
        self.backend, self.settings, self.clock = backend, settings, clock
        self.store, self.broker, self.bus = backend.store, backend.broker, backend.bus
        self.objects, self.registry = backend.objects, backend.registry
        #: Sends task IDs to an external queue service; None without one.
        self.publisher = backend.publisher
        #: Random name of this process among those on the same store.
        self.name = secrets.token_hex(8)

        self.keys = Keys(self.registry, clock, settings.key_cache_s)
        self.audit = Audit(self.registry, clock)
        self.classes = Classes(settings.admission.classes)
        self.hosts = _hosts(settings)
        self.origins = Origins(server.cors_origins) if server.cors_origins else None
        self.request_log = None if log_level == "off" else RequestLog(clock, log_level)
        self.traces = None if backend.tracer is None else Traces(backend.tracer, clock)
        self.body_queue = BodyQueue()
        self._add_scheduling()
        self._add_files()
        self.hooks = Hooks(backend, formats, self.metrics)
        #: Open event streams, as an ordered set.
        self.streams: dict[Stream, None] = {}
        self.unanswered = UnansweredRequests(clock)
        #: True between start and stop; otherwise requests do not wait.
        self.is_ready = self.is_ending = False

    def _add_scheduling(self) -> None:
        """Add the models, the workers, and the estimates, limits and costs of tasks."""
        backend, settings, clock = self.backend, self.settings, self.clock
        self.cards = Cards(self.registry, clock)
        self.times = ServiceTimes(live_versions=self.cards.live_versions)
        self.calibration = Calibration()
        self.fleet = _fleet(backend, self.times)
        self.skew = Skew(self.store, clock, self.fleet.wake_all)
        self.writable = Writable(self.objects, self.fleet.wake_all)
        self.leadership = Leadership(
            self.registry, clock, self.name, is_shared=backend.is_shared, skew=self.skew
        )
        # The autoscaler's reports.
        self.scaling = Scaling(self.registry, clock, self.name)
        self.tariffs = Tariffs(self.registry, self.scaling, settings)
        self.estimates = Estimates(self)
        #: How much keys and their users may use in a day and a month.
        self.quotas = Quotas(
            self.registry,
            self.store,
            clock,
            self.estimates.cost_micros,
            partial(samples_of, self.cards),
            settings.admission.sample_micros,
        )
        defaults = msgspec.convert(settings.limits, KeyLimits, from_attributes=True)
        self.limits = Limits(self.registry, self.store, clock, defaults, self.quotas)
        self.charges = Charges(self.registry, clock, self.metrics)
        self.canaries = Canaries()
        self.starts = Starts(clock)
        self.polled = Polled(self.bus, clock)

    def _add_files(self) -> None:
        """Add thumbnails and weights."""
        #: Limits how many pictures are decoded at once.
        self.lanes = asyncio.Semaphore(_DECODED_AT_ONCE)
        self.thumbnails = Thumbnails(self.objects, self.lanes)
        self.weights = self.backend.weights or WeightStore(self.objects, "weights")

    def objects_of(self, key: str) -> Objects:
        """Return the store of a file with a signed URL: weights may have another store."""
        return self.weights.objects if is_file_key(key) else self.objects

    @cached_property
    def ratings(self) -> Ratings:
        """The ratings of models by votes, computed on first use."""
        return Ratings(self.registry)

    @cached_property
    def web_app(self) -> WebApp:
        """The files of the web app, read on first use."""
        return WebApp(self.settings)

    def urls(self, call: Call) -> UrlMaker:
        """Return a maker of URLs that the client of a request can follow."""
        server = self.settings.server
        if server.public_url is not None:
            base = server.public_url.rstrip("/")
        else:
            scope, host = call.scope, call.headers.get(b"host", b"")
            name = host.decode("ascii") if _PLAIN_HOST.fullmatch(host) else "127.0.0.1"
            base = f"{scope.get('scheme', 'http')}://{name}{scope.get('root_path', '')}"
        shows_trace = self.settings.telemetry.in_tasks
        return UrlMaker(base, self.objects, server.signed_url_s, shows_trace)

    def base_url(self, call: Call) -> str:
        """Return scheme and host as the client reached them, or as they were configured."""
        return self.urls(call).base


def _fleet(backend: Backend, times: ServiceTimes) -> Fleet:
    return Fleet(
        backend.registry,
        backend.clock,
        times,
        alive_s=backend.settings.alive_s,
        lost_s=backend.settings.lost_s,
        # A worker on another machine may have the process id of a dead process here.
        is_dead=never_dead if backend.is_shared else is_dead,
    )


def _hosts(settings: ApiSettings) -> Hosts | None:
    names = list(settings.server.hosts)
    if settings.server.public_url is not None:
        names.append(host_name(urlsplit(settings.server.public_url).netloc) or "")
    return Hosts(names) if names else None
