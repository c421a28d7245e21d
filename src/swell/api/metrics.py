"""Numbers for Prometheus.

The hot paths add to plain Python lists; the text is made when somebody asks for it. (A labelled
histogram of prometheus-client costs ten times as much per observation as a task may.)
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from swell.broker import Depth
from swell.dispatch import Switches

__all__ = ["CONTENT_TYPE", "METRICS", "Histogram", "Metrics", "Snapshot"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Bounds of task times, in seconds.
TASK_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
#: Bounds of HTTP times, in seconds.
HTTP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0)

#: Every metric and what it tells; the reference is made from it.
METRICS: dict[str, str] = {
    "swell_tasks_total": "Tasks that ended, by model and outcome.",
    "swell_tasks_accepted_total": "Tasks accepted, by model.",
    "swell_attempts_requeued_total": "Attempts that ended with the task queued again, by model.",
    "swell_task_queue_seconds": "From acceptance to the start of the last attempt, by model.",
    "swell_task_run_seconds": "What the model took, by model.",
    "swell_task_total_seconds": "From acceptance to the end, by model.",
    "swell_tasks_waiting": "Tasks that could run now, by queue.",
    "swell_tasks_running": "Tasks under lease, by queue.",
    "swell_queue_oldest_age_seconds": "Age of the oldest task that could run now, by queue.",
    "swell_lease_tasks": "Tasks per lease that was granted.",
    "swell_workers": "Workers, by pool and state.",
    "swell_model_switches_total": "Models brought to a worker's device when it was their turn, by "
    "model and source: `disk` (loaded anew), `host` (back from the host's memory), or `lora` (it "
    "stays, with other LoRAs).",
    "swell_event_streams": "Open event streams.",
    "swell_http_request_seconds": "HTTP requests, by method, route and status.",
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


class Snapshot:
    """What is looked up only when somebody asks for the numbers."""

    def __init__(
        self,
        depths: Sequence[Depth],
        ages_s: dict[str, float],
        workers: dict[tuple[str, str], int],
        streams: int,
    ) -> None:
        self.depths = depths
        self.ages_s = ages_s
        self.workers = workers
        self.streams = streams


class Metrics:
    """All counters of one backend process."""

    def __init__(self) -> None:
        self.accepted: dict[str, int] = {}
        self.ended: dict[tuple[str, str], int] = {}
        self.requeued: dict[str, int] = {}
        #: (model, source) → how often it was brought to a device.
        self.switches: dict[tuple[str, str], int] = {}
        #: Model → its waiting, running and whole times.
        self.task_s: dict[str, tuple[Histogram, Histogram, Histogram]] = {}
        self.lease_tasks = Histogram((1, 2, 4, 8, 16, 32, 64, 128))
        self.http_s: dict[tuple[str, str, int], Histogram] = {}

    def http(self, method: str, route: str, status: int) -> Histogram:
        """Return the times of such requests, to add one."""
        histogram = self.http_s.get((method, route, status))
        if histogram is None:
            histogram = self.http_s[method, route, status] = Histogram(HTTP_BOUNDS_S)
        return histogram

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

    def _counters(self) -> Iterator[Metric]:
        metrics = self._metrics
        ended = _counter("swell_tasks_total", ["model", "outcome"])
        for (model, outcome), n in metrics.ended.items():
            ended.add_metric([model, outcome], n)
        yield ended
        for name, counts in (
            ("swell_tasks_accepted_total", metrics.accepted),
            ("swell_attempts_requeued_total", metrics.requeued),
        ):
            family = _counter(name, ["model"])
            for model, n in counts.items():
                family.add_metric([model], n)
            yield family
        switches = _counter("swell_model_switches_total", ["model", "source"])
        for labels, n in metrics.switches.items():
            switches.add_metric(list(labels), n)
        yield switches

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

    def _gauges(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        waiting = _gauge("swell_tasks_waiting", ["queue"])
        running = _gauge("swell_tasks_running", ["queue"])
        ages = _gauge("swell_queue_oldest_age_seconds", ["queue"])
        for depth in snapshot.depths:
            waiting.add_metric([depth.queue], depth.ready)
            running.add_metric([depth.queue], depth.running)
        for queue, age_s in snapshot.ages_s.items():
            ages.add_metric([queue], age_s)
        yield from (waiting, running, ages)
        workers = _gauge("swell_workers", ["pool", "state"])
        for labels, n in snapshot.workers.items():
            workers.add_metric(list(labels), n)
        yield workers
        streams = _gauge("swell_event_streams", [])
        streams.add_metric([], snapshot.streams)
        yield streams


def _counter(name: str, labels: Sequence[str]) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), METRICS[name], labels=labels)


def _gauge(name: str, labels: Sequence[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, METRICS[name], labels=labels)
