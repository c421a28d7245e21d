"""Prometheus metrics of one backend process.

Plain counters are cheaper than prometheus-client's: its labelled histogram costs ten times as much
per observation. The text format is made on request.
"""

import bisect
import dataclasses
import inspect
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from swell.core.clock import Clock
from swell.core.errors import Internal, SwellError
from swell.protocol.autoscaler_messages import CHANGES, ENDS, ScalingStatus
from swell.protocol.worker_messages import Switches
from swell.server.dependencies import Backend

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_RELEASE: Final = version_of("swell")

#: Bounds of task times, in seconds.
TASK_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: Bounds of cold starts and their phases, in seconds, up to half an hour.
START_BOUNDS_S = (
    *(0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0),
    *(300.0, 420.0, 600.0, 900.0, 1200.0, 1800.0),
)
#: Bounds of calls and of event loop lag, in seconds.
CALL_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
#: Bounds of HTTP times, in seconds.
HTTP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0)

#: Histograms with the upper bounds of their buckets.
_BOUNDS: Final[Mapping[str, Sequence[float]]] = {
    "swell_task_queue_seconds": TASK_BOUNDS_S,
    "swell_task_run_seconds": TASK_BOUNDS_S,
    "swell_task_total_seconds": TASK_BOUNDS_S,
    "swell_lease_tasks": (1, 2, 4, 8, 16, 32, 64, 128),
    "swell_http_request_seconds": HTTP_BOUNDS_S,
    "swell_call_seconds": CALL_BOUNDS_S,
    "swell_cold_start_seconds": START_BOUNDS_S,
    "swell_event_loop_lag_seconds": CALL_BOUNDS_S,
}

#: Parts of the backend with measured calls.
_CONTRACTS: Final = ("store", "broker", "objects", "registry", "outbox")

#: Calls that wait for something to happen: only their errors are counted.
_WAITING: Final = frozenset({"lease"})

#: Every metric with its labels, and its description. The reference is made from this table.
_METRICS: Final = {
    "swell_tasks_total{model,outcome}": "Ended tasks, by model and outcome.",
    "swell_tasks_accepted_total{model}": "Accepted tasks, by model.",
    "swell_tasks_degraded_total{model}": "Tasks that `degrade` changed to meet a deadline or to "
    "get a worker, by the requested model.",
    "swell_requests_refused_total{code}": "Requests answered with an error, by its code: "
    "`quota_exceeded`, `credits_used_up`, `too_many_requests`, `would_expire`, `no_worker`, …",
    "swell_tasks_dead_total{model}": "Tasks that became dead letters, by model.",
    "swell_tasks_swept_total{what}": "Tasks changed by the sweeper, by cause: `lost` (the lease "
    "expired), `expired` (a deadline passed), `ready` (a backoff ended).",
    "swell_attempts_requeued_total{model}": "Attempts after which the task was queued again, by "
    "model.",
    "swell_task_queue_seconds{model}": "Time from acceptance to the start of the last attempt, by "
    "model.",
    "swell_task_run_seconds{model}": "Run time of the model, by model.",
    "swell_task_total_seconds{model}": "Time from acceptance to the end, by model.",
    "swell_tasks_waiting{queue}": "Tasks ready to run, by queue.",
    "swell_tasks_delayed{queue}": "Tasks in backoff, by queue.",
    "swell_tasks_running{queue}": "Tasks under lease, by queue.",
    "swell_class_ready{model,class}": "Tasks ready to run, by model and priority class.",
    "swell_queue_oldest_age_seconds{queue}": "Age of the oldest task ready to run, by queue.",
    "swell_lease_tasks": "Tasks in each granted lease.",
    "swell_workers{pool,state}": "Workers, by pool and state; lost ones for an hour.",
    "swell_worker_slots{pool}": "Capacity of live workers in tasks, by pool.",
    "swell_worker_slots_held{pool}": "Tasks held by live workers, by pool.",
    "swell_model_switches_total{model,source}": "Models loaded onto a worker's device, by model "
    "and source: `disk`, `host` (host memory), or `lora` (only the LoRAs changed).",
    "swell_cold_start_seconds{pool,model,phase}": "Cold starts of workers, by pool, model and "
    "phase; `ready` lasts until the worker takes tasks, `whole` includes the first task.",
    "swell_cold_starts_total{pool,outcome}": "Ended cold starts, by pool and outcome: `ready` or "
    "`died`.",
    "swell_workers_starting{pool}": "Workers that are not ready yet, by pool.",
    "swell_pool_desired{pool}": "Wanted workers, by scaled pool.",
    "swell_pool_ready{pool}": "Workers that take tasks, by scaled pool.",
    "swell_pool_busy{pool}": "Workers that hold tasks, by scaled pool.",
    "swell_pool_booting{pool}": "Launched workers that are not ready yet, by scaled pool.",
    "swell_pool_draining{pool}": "Workers that finish their tasks and exit, by scaled pool.",
    "swell_pool_closed_seconds{pool}": "Time until the pool's provider is asked again, after "
    "refusals, timeouts or failed boots.",
    "swell_pool_changes_total{pool,what}": "Workers by scaled pool and change: `launch`, `cancel` "
    "(of boots), `drain`, `end`, `hurry`, `refused`, `failed`, `lost`.",
    "swell_pool_ends_total{pool,how}": "Ended machines by scaled pool and cause: `drained`, "
    "`cancelled` (before a worker registered), `taken_back` (by the provider), `cut_short` (time "
    "ran out before its worker finished), `failed` (no worker registered), `lost` (without "
    "notice).",
    "swell_autoscaler_age_seconds": "Age of the autoscaler's data; absent if none runs.",
    "swell_cost_micros_total{pool,kind}": "Cost of pools with a price, in millionths of a dollar, "
    "by pool and kind: `cold_start`, `attempt`, `failed`, `idle` or `wasted`.",
    "swell_cost_seconds_total{pool,kind}": "Charged worker seconds, by pool and kind.",
    "swell_cost_images_total{pool}": "Charged pictures, by pool with a price.",
    "swell_spent_micros{period}": "Money spent in this period, in millionths of a dollar, by "
    "period: `day` or `month` (UTC).",
    "swell_budget_micros{period}": "Budget, by period; absent if none is set.",
    "swell_canary_share{model}": "Share of the traffic of a canary, 0 to 1, by model.",
    "swell_canary_evidence{model,what}": "Likelihood ratio for a worse canary, by model and kind: "
    "`failures` or `slowness`.",
    "swell_canary_rollbacks_total{model}": "Automatic rollbacks of canaries, by model.",
    "swell_webhook_deliveries_total{outcome}": "Webhook attempts, by outcome: `delivered`, "
    "`retried`, `failed` (the last attempt), `skipped` (a newer event exists).",
    "swell_webhooks_waiting": "Deliveries waiting for an attempt.",
    "swell_webhooks_oldest_age_seconds": "Age of the oldest event in a waiting delivery.",
    "swell_event_streams": "Open event streams.",
    "swell_http_request_seconds{method,route,status}": "HTTP requests, by method, route and "
    "status.",
    "swell_call_seconds{contract,call}": "Calls of store, broker, objects and registry, by "
    "contract and call; without calls that wait for work or events, or have nothing to do.",
    "swell_call_errors_total{contract,call,code}": "Calls that failed because of a database, "
    "server or disk, by contract, call and code.",
    "swell_bus_gaps_total": "Times that events of other backends may have been missed, so that the "
    "backend read the store.",
    "swell_queue_republished_total": "Task IDs sent to Amazon SQS or NATS again, because ready "
    "tasks had no message.",
    "swell_duty_failures_total{duty}": "Failures of background work, by duty.",
    "swell_event_loop_lag_seconds": "Delay of the event loop.",
    "swell_clock_ahead_seconds": "How far the backend's clock is ahead of the database's, in "
    "seconds; it grants no leases if they differ by more than 3.",
    "swell_process_starts_total": "Backend processes started since the service started.",
    "swell_build_info{version}": "1, with the version.",
}

METRICS: Final = {key.partition("{")[0]: description for key, description in _METRICS.items()}
_LABELS: Final = {
    key.partition("{")[0]: re.findall(r"\w+", key.partition("{")[2]) for key in _METRICS
}

#: Metrics that prometheus-client adds.
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
    """A histogram with one set of label values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, count of values up to it) for each bucket."""
        bounds = (*map(str, self.bounds), "+Inf")
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


#: Values of a metric by label values: a string for one label, a tuple for none or several.
Samples = Mapping[Any, float]


class Metrics:
    """All metrics of one backend process."""

    def __init__(self) -> None:
        #: Metric → its values by label values.
        self.values: dict[str, dict[Any, float]] = {
            name: defaultdict(int) for name in METRICS if name not in _BOUNDS
        }
        self.histograms: dict[str, dict[Any, Histogram]] = {name: {} for name in _BOUNDS}
        # These start at 0, so that the first event counts as an increase.
        for outcome in ("delivered", "retried", "failed", "skipped"):
            self.values["swell_webhook_deliveries_total"][outcome] = 0
        for name, labels in _LABELS.items():
            if not labels and name in _BOUNDS:
                self.histograms[name][()] = Histogram(_BOUNDS[name])
            elif not labels and name.endswith("_total"):
                self.values[name][()] = 0
        self.values["swell_spent_micros"] = {"day": 0, "month": 0}
        self.count("swell_process_starts_total")
        self.count("swell_build_info", _RELEASE)

    def count(self, name: str, labels: str | tuple[str, ...] = (), n: float = 1) -> None:
        """Add to a counter.

        Args:
            name: The metric.
            labels: A string for one label, a tuple for none or several.
            n: How much to add.
        """
        self.values[name][labels] += n

    def observe(self, labels: object, **values: float) -> None:
        """Add a value to each of some histograms, by its name; `labels` as of `count`."""
        for name, value in values.items():
            histogram = self.histograms[name].get(labels)
            if histogram is None:
                histogram = self.histograms[name][labels] = Histogram(_BOUNDS[name])
            histogram.counts[bisect.bisect_left(histogram.bounds, value)] += 1
            histogram.total += value

    def know_pool(self, pool: str) -> None:
        """Start a pool's cold starts at 0, so that the first counts as an increase."""
        for outcome in ("ready", "died"):
            self.values["swell_cold_starts_total"].setdefault((pool, outcome), 0)

    def charged(
        self, pool: str, kind: str, seconds: float, micros: int | None, images: int = 0
    ) -> None:
        """Count an entry of the ledger. Negative corrections are not counted."""
        self.count("swell_cost_seconds_total", (pool, kind), max(0.0, seconds))
        if micros is not None:
            self.count("swell_cost_micros_total", (pool, kind), max(0, micros))
            self.count("swell_cost_images_total", pool, max(0, images))

    def models_switched(self, switches: Iterable[Switches]) -> None:
        """Count loads of models onto a device, and changes of LoRAs."""
        for each in switches:
            for source, n in (("disk", each.disk), ("host", each.host), ("lora", each.loras)):
                if n:
                    self.count("swell_model_switches_total", (each.model, source), n)

    def text(self, gauges: Mapping[str, Samples]) -> bytes:
        """Return the metrics in Prometheus' text format.

        Args:
            gauges: Values that are read on request, by name of the metric.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Source({**self.values, **gauges}, self.histograms))
        ProcessCollector(registry=registry)
        return generate_latest(registry)


def scaling_gauges(status: ScalingStatus | None) -> dict[str, Samples]:
    """Return the metrics of the autoscaler; empty if none runs."""
    if status is None:
        return {}
    pools = status.pools
    fields = ("desired", "ready", "busy", "booting", "draining")
    return {
        **{
            f"swell_pool_{name}": {each.pool: getattr(each, name) for each in pools}
            for name in fields
        },
        "swell_pool_closed_seconds": {each.pool: each.closed_s for each in pools},
        "swell_pool_changes_total": {
            (each.pool, what): each.counts.get(what, 0) for each in pools for what in CHANGES
        },
        "swell_pool_ends_total": {
            (each.pool, how): each.ends.get(how, 0) for each in pools for how in ENDS
        },
        "swell_autoscaler_age_seconds": {(): status.age_s},
    }


class _Source(Collector):
    """Converts values and histograms to metrics of prometheus-client."""

    def __init__(
        self, samples: Mapping[str, Samples], histograms: Mapping[str, Mapping[Any, Histogram]]
    ) -> None:
        self._samples = samples
        self._histograms = histograms

    def collect(self) -> Iterator[Metric]:
        for name, description in METRICS.items():
            labels = _LABELS[name]
            family: CounterMetricFamily | GaugeMetricFamily
            if name in self._histograms:
                histogram = HistogramMetricFamily(name, description, labels=labels)
                for key, each in self._histograms[name].items():
                    histogram.add_metric(_values(key), each.buckets(), each.total)
                yield histogram
                continue
            if name.endswith("_total"):
                family = CounterMetricFamily(
                    name.removesuffix("_total"), description, labels=labels
                )
            else:
                family = GaugeMetricFamily(name, description, labels=labels)
            for key, value in self._samples.get(name, {}).items():
                family.add_metric(_values(key), value)
            yield family


def _values(key: str | tuple[object, ...]) -> list[str]:
    return [key] if isinstance(key, str) else [str(value) for value in key]


def measured(backend: Backend, metrics: Metrics) -> Backend:
    """Return the backend with parts that add their calls to these metrics."""
    found: dict[str, Any] = {
        name: _Measured(name, getattr(backend, name), metrics, backend.clock) for name in _CONTRACTS
    }
    return dataclasses.replace(backend, **found)


class _Measured:
    """Delegates to a part; counts the time of its coroutines, and errors that are its fault."""

    def __init__(self, name: str, part: object, metrics: Metrics, clock: Clock) -> None:
        self._name = name
        self._part = part
        self._metrics = metrics
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if inspect.ismethod(found):
            found = self._measure(name) if inspect.iscoroutinefunction(found) else found
            setattr(self, name, found)
        return found

    def _measure(self, name: str) -> Callable[..., Awaitable[Any]]:
        metrics, clock, labels = self._metrics, self._clock, (self._name, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            started_s = clock.monotonic_s()
            try:
                return await getattr(self._part, name)(*arguments, **named)
            except SwellError as error:
                if error.status >= Internal.status:
                    metrics.count("swell_call_errors_total", (*labels, error.code))
                raise
            except Exception:
                metrics.count("swell_call_errors_total", (*labels, Internal.code))
                raise
            finally:
                if name not in _WAITING:
                    took_s = clock.monotonic_s() - started_s
                    metrics.observe(labels, swell_call_seconds=took_s)

        return call
