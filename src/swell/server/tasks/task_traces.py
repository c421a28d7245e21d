"""The backend's spans of a task: accept, queued, lease, delivered."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from swell.core.clock import Clock
from swell.core.store_types import Accepted
from swell.core.task import Task
from swell.core.telemetry import Span, Trace, Tracer, client_trace
from swell.server.request import Call


class Traces:
    """The backend's part of traces.

    Args:
        tracer: Exporter of spans.
        clock: The time.
    """

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock

    def begin(self, call: Call) -> None:
        """Start the trace of a request that may create tasks, or continue its client's."""
        call.trace = self._tracer.begin(client_trace(call.headers.get(b"traceparent")))

    def accepted(self, call: Call, accepted: Sequence[Accepted]) -> None:
        """Record that the tasks of a request are durable."""
        fresh = [each.task for each in accepted if each.is_new]
        if call.trace is None or not fresh:
            return
        now = self._clock.now()
        took_s = self._clock.monotonic_s() - call.started_s
        attributes = _of(fresh[0]) | {
            "swell.tasks": len(fresh),
            "swell.request.id": call.request_id,
            "http.request.method": str(call.scope["method"]),
            "url.path": call.path,
        }
        self._tracer.tell(
            Span(
                name="accept",
                trace=call.trace,
                start_at=now - timedelta(seconds=took_s),
                end_at=now,
                attributes=attributes,
                is_server=True,
            )
        )

    def leased(self, task: Task) -> str | None:
        """Record the lease of a task and its wait; return the context for the worker."""
        if task.traceparent is None or task.started_at is None:
            return None
        self._record("queued", task, task.created_at, task.started_at)
        return self._record("lease", task, task.started_at, self._clock.now()).own

    def delivered(self, tasks: Sequence[Task]) -> None:
        """Record that waiting clients got the outcome of ended tasks."""
        for task in tasks:
            if task.traceparent is not None and task.finished_at is not None:
                self._record("delivered", task, task.finished_at, self._clock.now())

    def _record(self, name: str, task: Task, start_at: datetime, end_at: datetime) -> Trace:
        assert task.traceparent is not None, "the caller has checked it"
        trace = self._tracer.below(task.traceparent)
        attributes = _of(task) | {"swell.task.attempt": task.attempt}
        if task.worker_id is not None:
            attributes["swell.worker.id"] = task.worker_id
        if task.finished_at is not None:
            attributes["swell.task.state"] = task.state.value
        error = "" if task.error is None or task.finished_at is None else task.error.code
        self._tracer.tell(
            Span(
                name=name,
                trace=trace,
                start_at=start_at,
                end_at=end_at,
                attributes=attributes,
                error=error,
            )
        )
        return trace


def _of(task: Task) -> dict[str, str | int | float]:
    return {"swell.task.id": task.id, "swell.model": task.model}
