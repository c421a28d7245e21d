"""Numbers for Prometheus.

The hot paths add to plain Python lists; the text is made when somebody asks for it. (A labelled
histogram of prometheus-client costs ten times as much per observation as a task may.)
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from swell.broker import Depth
from swell.dispatch import Switches
from swell.scaling import CHANGES, ENDS, ScalingStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_RELEASE: Final = version_of("swell")

#: Bounds of task times, in seconds.
TASK_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: Bounds of cold starts and their phases, in seconds, up to half an hour.
START_BOUNDS_S = (
    *(0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0),
    *(300.0, 420.0, 600.0, 900.0, 1200.0, 1800.0),
)
#: Bounds of calls, and of lateness, in seconds.
CALL_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
#: Bounds of HTTP times, in seconds.
HTTP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0)

#: Every metric and what it tells; the reference is made from it.
METRICS: dict[str, str] = {
    "swell_tasks_total": "Ended tasks, by model and outcome.",
    "swell_tasks_accepted_total": "Accepted tasks, by model.",
    "swell_tasks_degraded_total": "Tasks that `degrade` changed to meet a deadline or to get a "
    "worker, by the requested model.",
    "swell_requests_refused_total": "Requests answered with an error, by its code: "
    "`quota_exceeded`, `credits_used_up`, `too_many_requests`, "
    "`would_expire`, `no_worker`, …",
    "swell_tasks_dead_total": "Tasks that became dead letters, by model.",
    "swell_tasks_swept_total": "Tasks changed by the sweeper, by cause: `lost` (the lease "
    "expired), `expired` (a deadline passed), `ready` (a backoff "
    "ended).",
    "swell_attempts_requeued_total": "Attempts after which the task was queued again, by model.",
    "swell_task_queue_seconds": "Time from acceptance to the start of the last attempt, by model.",
    "swell_task_run_seconds": "Run time of the model, by model.",
    "swell_task_total_seconds": "Time from acceptance to the end, by model.",
    "swell_tasks_waiting": "Tasks ready to run, by queue.",
    "swell_tasks_delayed": "Tasks in backoff, by queue.",
    "swell_tasks_running": "Tasks under lease, by queue.",
    "swell_class_ready": "Tasks ready to run, by model and priority class.",
    "swell_queue_oldest_age_seconds": "Age of the oldest task ready to run, by queue.",
    "swell_lease_tasks": "Tasks in each granted lease.",
    "swell_workers": "Workers, by pool and state; lost ones for an hour.",
    "swell_worker_slots": "Capacity of live workers in tasks, by pool.",
    "swell_worker_slots_held": "Tasks held by live workers, by pool.",
    "swell_model_switches_total": "Models loaded onto a worker's device, by model and source: "
    "`disk`, `host` (host memory), or `lora` (only the LoRAs "
    "changed).",
    "swell_cold_start_seconds": "Cold starts of workers, by pool, model and phase; `ready` lasts "
    "until the worker takes tasks, `whole` includes the first task.",
    "swell_cold_starts_total": "Ended cold starts, by pool and outcome: `ready` or `died`.",
    "swell_workers_starting": "Workers that are not ready yet, by pool.",
    "swell_pool_desired": "Wanted workers, by scaled pool.",
    "swell_pool_ready": "Workers that take tasks, by scaled pool.",
    "swell_pool_busy": "Workers that hold tasks, by scaled pool.",
    "swell_pool_booting": "Launched workers that are not ready yet, by scaled pool.",
    "swell_pool_draining": "Workers that finish their tasks and exit, by scaled pool.",
    "swell_pool_closed_seconds": "Time until the pool's provider is asked again, after refusals, "
    "timeouts or failed boots.",
    "swell_pool_changes_total": "Workers by scaled pool and change: `launch`, `cancel` (of "
    "boots), `drain`, `end`, `hurry`, `refused`, `failed`, `lost`.",
    "swell_pool_ends_total": "Ended machines by scaled pool and cause: `drained`, `cancelled` "
    "(before a worker registered), `taken_back` (by the provider), "
    "`cut_short` (time ran out before its worker finished), `failed` "
    "(no worker registered), `lost` (without notice).",
    "swell_autoscaler_age_seconds": "Age of the autoscaler's data; absent if none runs.",
    "swell_cost_micros_total": "Cost of pools with a price, in millionths of a dollar, by pool "
    "and kind: `cold_start`, `attempt`, `failed`, `idle` or `wasted`.",
    "swell_cost_seconds_total": "Charged worker seconds, by pool and kind.",
    "swell_cost_images_total": "Charged pictures, by pool with a price.",
    "swell_spent_micros": "Money spent in this period, in millionths of a dollar, by period: "
    "`day` or `month` (UTC).",
    "swell_budget_micros": "Budget, by period; absent if none is set.",
    "swell_canary_share": "Share of the traffic of a canary, 0 to 1, by model.",
    "swell_canary_evidence": "Likelihood ratio for a worse canary, by model and kind: `failures` "
    "or `slowness`.",
    "swell_canary_rollbacks_total": "Automatic rollbacks of canaries, by model.",
    "swell_webhook_deliveries_total": "Webhook attempts, by outcome: `delivered`, `retried`, "
    "`failed` (the last attempt), `skipped` (a newer event "
    "exists).",
    "swell_webhooks_waiting": "Deliveries waiting for an attempt.",
    "swell_webhooks_oldest_age_seconds": "Age of the oldest event in a waiting delivery.",
    "swell_event_streams": "Open event streams.",
    "swell_http_request_seconds": "HTTP requests, by method, route and status.",
    "swell_call_seconds": "Calls of store, broker, objects, registry and bus, by contract and "
    "call; without calls that wait for work or events, or have nothing to "
    "do.",
    "swell_call_errors_total": "Calls that failed because of a database, server or disk, by "
    "contract, call and code.",
    "swell_bus_gaps_total": "Times that events of other backends may have been missed, so that "
    "the backend read the store.",
    "swell_queue_republished_total": "Task IDs sent to Amazon SQS or NATS again, because ready "
    "tasks had no message.",
    "swell_duty_failures_total": "Failures of background work, by duty.",
    "swell_event_loop_lag_seconds": "Delay of the event loop.",
    "swell_clock_ahead_seconds": "Seconds by which the backend's clock is ahead of the "
    "database's; it grants no leases if they differ by more than 3.",
    "swell_process_starts_total": "Backend processes started since the service started.",
    "swell_build_info": "1, with the version.",
}

#: What the library for Prometheus tells of the process.
PROCESS_METRICS: dict[str, str] = {
    "process_cpu_seconds_total": "CPU time of the backend process.",
    "process_resident_memory_bytes": "Resident memory.",
    "process_virtual_memory_bytes": "Virtual memory.",
    "process_start_time_seconds": "Start time, in seconds since 1970 UTC; of the first of "
    "several processes on one port.",
    "process_open_fds": "Open files and connections; of several processes on one port, the "
    "largest number.",
    "process_max_fds": "Limit of open files.",
}


class Histogram:
    """Counts in buckets, with one label set."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect.bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, count of values up to it) for each bucket."""
        found: list[tuple[str, float]] = []
        seen = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            seen += count
            found.append((bound, float(seen)))
        return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is looked up only when somebody asks for the numbers."""

    depths: Sequence[Depth]
    ages_s: Mapping[str, float]
    workers: Mapping[tuple[str, str], int]
    streams: int
    #: Pool → how many tasks its live workers may hold, and hold.
    slots: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    #: Pool → how many of its workers are not ready yet.
    starting: Mapping[str, int] = field(default_factory=dict)
    #: How the autoscaler stands; None where none runs.
    scaling: ScalingStatus | None = None
    #: Model and class → how many tasks could run.
    classes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    #: Deliveries of webhooks that wait, and the age of the oldest's event, in seconds.
    webhooks: tuple[int, float] = (0, 0.0)
    #: As of `Skew`.
    clock_ahead_s: float = 0.0


class Metrics:
    """All counters of one backend process."""

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self.ended: dict[tuple[str, str], int] = {}
        self.requeued: dict[str, int] = {}
        self.dead: dict[str, int] = {}
        self.degraded: dict[str, int] = {}
        #: Code of an error → how often it was answered.
        self.refused: dict[str, int] = {}
        self.swept: dict[str, int] = {}
        self.duty_failures: dict[str, int] = {}
        self.bus_gaps = 0
        #: What came of attempts to deliver webhooks → how often.
        self.webhooks = dict.fromkeys(("delivered", "retried", "failed", "skipped"), 0)
        #: Messages that went to the dead letters of queues elsewhere.
        self.republished = 0
        #: (contract, call) → its times; (contract, call, code) → how often it failed so.
        self.call_s: dict[tuple[str, str], Histogram] = {}
        self.call_errors: dict[tuple[str, str, str], int] = {}
        self.loop_lag_s = Histogram(CALL_BOUNDS_S)
        #: (model, source) → how often it was brought to a device.
        self.switches: dict[tuple[str, str], int] = {}
        #: Model → its waiting, running and whole times.
        self.task_s: dict[str, tuple[Histogram, Histogram, Histogram]] = {}
        #: (pool, model, phase) → how long it took; (pool, outcome) → how many cold starts.
        self.start_s: dict[tuple[str, str, str], Histogram] = {}
        self.starts: dict[tuple[str, str], int] = {}
        #: (pool, kind) → what was charged.
        self.cost_micros: dict[tuple[str, str], int] = {}
        self.cost_s: dict[tuple[str, str], float] = {}
        #: Pool → pictures that have a price.
        self.cost_images: dict[str, int] = {}
        #: Period → what was spent, and what may be; of one backend that looks after that.
        self.spent_micros: dict[str, int] = {"day": 0, "month": 0}
        self.budget_micros: dict[str, int] = {}
        #: Model → share of its canary, and evidence that it fails more often, and is slower.
        self.canaries: dict[str, tuple[float, float, float]] = {}
        #: Model → automatic rollbacks of its canaries.
        self.rollbacks: dict[str, int] = {}
        self.lease_tasks = Histogram((1, 2, 4, 8, 16, 32, 64, 128))
        self.http_s: dict[tuple[str, str, int], Histogram] = {}

    def http(self, method: str, route: str, status: int) -> Histogram:
        """Return the times of such requests, to add one."""
        histogram = self.http_s.get((method, route, status))
        if histogram is None:
            histogram = self.http_s[method, route, status] = Histogram(HTTP_BOUNDS_S)
        return histogram

    def call(self, contract: str, name: str) -> Histogram:
        """Return the times of a call of a contract, to add one."""
        return self.call_s.setdefault((contract, name), Histogram(CALL_BOUNDS_S))

    def cold_start(self, pool: str, model: str, phase: str) -> Histogram:
        """Return the times of a phase of cold starts, to add one."""
        return self.start_s.setdefault((pool, model, phase), Histogram(START_BOUNDS_S))

    def cold_start_ended(self, pool: str, outcome: str) -> None:
        """Note that a cold start is over."""
        self.starts[pool, outcome] = self.starts.get((pool, outcome), 0) + 1

    def know_pool(self, pool: str) -> None:
        """Begin to count a pool's cold starts at 0, so that the first is seen as an increase."""
        for outcome in ("ready", "died"):
            self.starts.setdefault((pool, outcome), 0)

    def charged(
        self, pool: str, kind: str, seconds: float, micros: int | None, images: int = 0
    ) -> None:
        """Note an entry of the ledger. Corrections, which are negative, are not counted."""
        key = pool, kind
        self.cost_s[key] = self.cost_s.get(key, 0.0) + max(0.0, seconds)
        if micros is not None:
            self.cost_micros[key] = self.cost_micros.get(key, 0) + max(0, micros)
            self.cost_images[pool] = self.cost_images.get(pool, 0) + max(0, images)

    def task_degraded(self, model: str) -> None:
        """Note that a task of this model is given less than was asked."""
        self.degraded[model] = self.degraded.get(model, 0) + 1

    def request_refused(self, code: str) -> None:
        """Note that a request was answered with this error."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def duty_failed(self, name: str) -> None:
        """Note that something the backend does by itself has failed."""
        self.duty_failures[name] = self.duty_failures.get(name, 0) + 1

    def task_ended(
        self, model: str, outcome: str, *, queue_s: float, run_s: float, total_s: float
    ) -> None:
        """Note the end of a task."""
        key = (model, outcome)
        self.ended[key] = self.ended.get(key, 0) + 1
        times = self.task_s.get(model)
        if times is None:
            bounds = TASK_BOUNDS_S
            times = self.task_s[model] = (Histogram(bounds), Histogram(bounds), Histogram(bounds))
        times[0].observe(queue_s)
        times[1].observe(run_s)
        times[2].observe(total_s)

    def models_switched(self, switches: Iterable[Switches]) -> None:
        """Note models that were brought to a device or changed there."""
        for each in switches:
            for source, n in (("disk", each.disk), ("host", each.host), ("lora", each.loras)):
                if n:
                    key = (each.model, source)
                    self.switches[key] = self.switches.get(key, 0) + n

    def text(self, snapshot: Snapshot) -> bytes:
        """Return the exposition format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Source(self, snapshot))
        ProcessCollector(registry=registry)
        return generate_latest(registry)


class _Source(Collector):
    """Translates the lists into what prometheus-client writes."""

    def __init__(self, metrics: Metrics, snapshot: Snapshot) -> None:
        self._metrics = metrics
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()
        yield from self._canaries()

    def _counters(self) -> Iterator[Metric]:
        metrics = self._metrics
        ended = _counter("swell_tasks_total", ["model", "outcome"])
        for (model, outcome), n in metrics.ended.items():
            ended.add_metric([model, outcome], n)
        yield ended
        for name, counts in (
            ("swell_tasks_accepted_total", metrics.accepted),
            ("swell_attempts_requeued_total", metrics.requeued),
            ("swell_tasks_dead_total", metrics.dead),
            ("swell_tasks_degraded_total", metrics.degraded),
        ):
            yield _counted(name, "model", counts)
        yield _counted("swell_tasks_swept_total", "what", metrics.swept)
        yield _counted("swell_canary_rollbacks_total", "model", metrics.rollbacks)
        yield _counted("swell_requests_refused_total", "code", metrics.refused)
        yield _counted("swell_webhook_deliveries_total", "outcome", metrics.webhooks)
        yield _counted("swell_duty_failures_total", "duty", metrics.duty_failures)
        gaps = _counter("swell_bus_gaps_total", [])
        gaps.add_metric([], metrics.bus_gaps)
        yield gaps
        republished = _counter("swell_queue_republished_total", [])
        republished.add_metric([], metrics.republished)
        yield republished
        errors = _counter("swell_call_errors_total", ["contract", "call", "code"])
        for each, n in metrics.call_errors.items():
            errors.add_metric(list(each), n)
        yield errors
        switches = _counter("swell_model_switches_total", ["model", "source"])
        for labels, n in metrics.switches.items():
            switches.add_metric(list(labels), n)
        yield switches
        starts = _counter("swell_cold_starts_total", ["pool", "outcome"])
        for labels, n in metrics.starts.items():
            starts.add_metric(list(labels), n)
        yield starts
        costs = _counter("swell_cost_micros_total", ["pool", "kind"])
        for labels, n in metrics.cost_micros.items():
            costs.add_metric(list(labels), n)
        yield costs
        paid = _counter("swell_cost_seconds_total", ["pool", "kind"])
        for labels, seconds in metrics.cost_s.items():
            paid.add_metric(list(labels), seconds)
        yield paid
        images = _counter("swell_cost_images_total", ["pool"])
        for pool, n in metrics.cost_images.items():
            images.add_metric([pool], n)
        yield images

    def _histograms(self) -> Iterator[Metric]:
        metrics = self._metrics
        names = ("swell_task_queue_seconds", "swell_task_run_seconds", "swell_task_total_seconds")
        for place, name in enumerate(names):
            family = HistogramMetricFamily(name, METRICS[name], labels=["model"])
            for model, times in metrics.task_s.items():
                family.add_metric([model], times[place].buckets(), times[place].total)
            yield family
        lease = HistogramMetricFamily("swell_lease_tasks", METRICS["swell_lease_tasks"])
        lease.add_metric([], metrics.lease_tasks.buckets(), metrics.lease_tasks.total)
        yield lease
        name = "swell_http_request_seconds"
        http = HistogramMetricFamily(name, METRICS[name], labels=["method", "route", "status"])
        for (method, route, status), each in metrics.http_s.items():
            http.add_metric([method, route, str(status)], each.buckets(), each.total)
        yield http
        name = "swell_call_seconds"
        calls = HistogramMetricFamily(name, METRICS[name], labels=["contract", "call"])
        for (contract, call), each in metrics.call_s.items():
            if each.total or any(each.counts):
                calls.add_metric([contract, call], each.buckets(), each.total)
        yield calls
        name = "swell_cold_start_seconds"
        cold = HistogramMetricFamily(name, METRICS[name], labels=["pool", "model", "phase"])
        for labels, each in metrics.start_s.items():
            cold.add_metric(list(labels), each.buckets(), each.total)
        yield cold
        name = "swell_event_loop_lag_seconds"
        lag = HistogramMetricFamily(name, METRICS[name])
        lag.add_metric([], metrics.loop_lag_s.buckets(), metrics.loop_lag_s.total)
        yield lag

    def _gauges(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        waiting = _gauge("swell_tasks_waiting", ["queue"])
        delayed = _gauge("swell_tasks_delayed", ["queue"])
        running = _gauge("swell_tasks_running", ["queue"])
        ages = _gauge("swell_queue_oldest_age_seconds", ["queue"])
        for depth in snapshot.depths:
            waiting.add_metric([depth.queue], depth.ready)
            delayed.add_metric([depth.queue], depth.delayed)
            running.add_metric([depth.queue], depth.running)
        for queue, age_s in snapshot.ages_s.items():
            ages.add_metric([queue], age_s)
        yield from (waiting, delayed, running, ages)
        classes = _gauge("swell_class_ready", ["model", "class"])
        for labels, n in snapshot.classes.items():
            classes.add_metric(list(labels), n)
        yield classes
        workers = _gauge("swell_workers", ["pool", "state"])
        for labels, n in snapshot.workers.items():
            workers.add_metric(list(labels), n)
        yield workers
        slots, held = (
            _gauge("swell_worker_slots", ["pool"]),
            _gauge("swell_worker_slots_held", ["pool"]),
        )
        for pool, (may_hold, holds) in snapshot.slots.items():
            slots.add_metric([pool], may_hold)
            held.add_metric([pool], holds)
        yield from (slots, held)
        starting = _gauge("swell_workers_starting", ["pool"])
        for pool, n in snapshot.starting.items():
            starting.add_metric([pool], n)
        yield starting
        yield from _scaled(snapshot.scaling)
        for name, amounts in (
            ("swell_spent_micros", self._metrics.spent_micros),
            ("swell_budget_micros", self._metrics.budget_micros),
        ):
            money = _gauge(name, ["period"])
            for period, micros in amounts.items():
                money.add_metric([period], micros)
            yield money
        build = _gauge("swell_build_info", ["version"])
        build.add_metric([_RELEASE], 1)
        yield build
        starts = _counter("swell_process_starts_total", [])
        starts.add_metric([], 1)
        yield starts
        streams, ahead, hooks, hooks_age = (
            _gauge("swell_event_streams", []),
            _gauge("swell_clock_ahead_seconds", []),
            _gauge("swell_webhooks_waiting", []),
            _gauge("swell_webhooks_oldest_age_seconds", []),
        )
        streams.add_metric([], snapshot.streams)
        ahead.add_metric([], snapshot.clock_ahead_s)
        hooks.add_metric([], snapshot.webhooks[0])
        hooks_age.add_metric([], snapshot.webhooks[1])
        yield from (streams, ahead, hooks, hooks_age)

    def _canaries(self) -> Iterator[Metric]:
        shares, speaks = (
            _gauge("swell_canary_share", ["model"]),
            _gauge("swell_canary_evidence", ["model", "what"]),
        )
        for model, (share, failures, slowness) in self._metrics.canaries.items():
            shares.add_metric([model], share)
            speaks.add_metric([model, "failures"], failures)
            speaks.add_metric([model, "slowness"], slowness)
        yield from (shares, speaks)


def _scaled(status: ScalingStatus | None) -> Iterator[Metric]:
    """Yield how pools stand that are scaled."""
    pools = () if status is None else status.pools
    for name, told in (
        ("swell_pool_desired", "desired"),
        ("swell_pool_ready", "ready"),
        ("swell_pool_busy", "busy"),
        ("swell_pool_booting", "booting"),
        ("swell_pool_draining", "draining"),
        ("swell_pool_closed_seconds", "closed_s"),
    ):
        family = _gauge(name, ["pool"])
        for pool in pools:
            family.add_metric([pool.pool], getattr(pool, told))
        yield family
    changes = _counter("swell_pool_changes_total", ["pool", "what"])
    for pool in pools:
        for what in CHANGES:
            changes.add_metric([pool.pool, what], pool.counts.get(what, 0))
    yield changes
    ends = _counter("swell_pool_ends_total", ["pool", "how"])
    for pool in pools:
        for how in ENDS:
            ends.add_metric([pool.pool, how], pool.ends.get(how, 0))
    yield ends
    age = _gauge("swell_autoscaler_age_seconds", [])
    if status is not None:
        age.add_metric([], status.age_s)
    yield age


def _counted(name: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = _counter(name, [label])
    for value, n in counts.items():
        family.add_metric([value], n)
    return family


def _counter(name: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), METRICS[name], labels=labels)


def _gauge(name: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name], labels=labels)
