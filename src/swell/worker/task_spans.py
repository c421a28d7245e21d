"""Spans of a task in its trace: fetch, run with load, encode, upload, report.

Spans are recorded at their end, from measured durations.
"""

from collections.abc import Iterable
from datetime import timedelta

from swell.core.clock import Clock
from swell.core.task import Failed, Settlement
from swell.core.telemetry import Span, Trace, Tracer
from swell.protocol.worker_messages import LeasedTask


class TaskTraces:
    """Records a worker's spans of tasks with a trace in the lease.

    Args:
        clock: The time.
        worker: Name of the worker.
    """

    def __init__(self, clock: Clock, worker: str) -> None:
        #: Exports spans; None without tracing.
        self.tracer: Tracer | None = None
        self._clock = clock
        self._worker = worker
        #: (task, attempt) → the task, and when its outcome was known, in monotonic seconds.
        self._settled: dict[tuple[str, int], tuple[LeasedTask, float]] = {}

    def fetched(self, task: LeasedTask, since_s: float, *, error: str = "") -> None:
        """Record the download of a task's files and LoRAs, which began at `since_s`."""
        self._tell("fetch", task, self._clock.monotonic_s() - since_s, error=error)

    def ran(self, task: LeasedTask, run_s: float, load_s: float, *, error: str = "") -> None:
        """Record the run of a task, and its wait for the model to load."""
        trace = self._tell("run", task, run_s + load_s, error=error)
        if trace is not None and load_s > 0:
            self._tell("load", task, load_s, ago_s=run_s, parent=trace.own)

    def stored(self, task: LeasedTask, encode_s: float, upload_s: float) -> None:
        """Record the encoding and upload of a result's files."""
        self._tell("encode", task, encode_s, ago_s=upload_s)
        self._tell("upload", task, upload_s)

    def settled(self, task: LeasedTask) -> None:
        """Note that the outcome of a task is known."""
        if self.tracer is not None and task.traceparent is not None:
            self._settled[task.task_id, task.attempt] = (task, self._clock.monotonic_s())

    def reported(self, settlements: Iterable[Settlement]) -> None:
        """Record the reports of tasks that the backend accepted."""
        if not self._settled:
            return
        for each in settlements:
            known = self._settled.pop((each.task_id, each.attempt), None)
            if known is not None:
                error = each.outcome.error.code if isinstance(each.outcome, Failed) else ""
                task, since_s = known
                self._tell("report", task, self._clock.monotonic_s() - since_s, error=error)

    async def close(self) -> None:
        """Export the remaining spans."""
        if self.tracer is not None:
            await self.tracer.close()

    def _tell(
        self,
        name: str,
        task: LeasedTask,
        took_s: float,
        *,
        ago_s: float = 0.0,
        parent: str | None = None,
        error: str = "",
    ) -> Trace | None:
        if self.tracer is None or task.traceparent is None:
            return None
        trace = self.tracer.below(parent or task.traceparent)
        end_at = self._clock.now() - timedelta(seconds=ago_s)
        self.tracer.tell(
            Span(
                name=name,
                trace=trace,
                start_at=end_at - timedelta(seconds=took_s),
                end_at=end_at,
                attributes={
                    "swell.task.id": task.task_id,
                    "swell.task.attempt": task.attempt,
                    "swell.model": task.model,
                    "swell.worker.name": self._worker,
                },
                error=error,
            )
        )
        return trace
