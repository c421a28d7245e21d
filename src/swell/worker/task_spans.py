"""What a worker tells of a task's trace: fetch, run with load, encode, upload, report.

Models and couriers measure how long things took. They are told when they are over, so that a span
ends now and began so long ago.
"""

from collections.abc import Iterable
from datetime import timedelta

from swell.core.clock import Clock
from swell.core.task import Failed, Settlement
from swell.core.telemetry import Span, Trace, Tracer
from swell.protocol.worker_messages import LeasedTask


class TaskTraces:
    """A worker's part of traces; of tasks whose lease names no trace, nothing.

    Args:
        clock: The time.
        worker: Name of the worker.
    """

    def __init__(self, clock: Clock, worker: str) -> None:
        #: Where spans go; None where nobody wants traces.
        self.tracer: Tracer | None = None
        self._clock = clock
        self._worker = worker
        #: (task, attempt) → its lease's place in the trace, and since when its outcome is known.
        self._settled: dict[tuple[str, int], tuple[LeasedTask, float]] = {}

    def fetched(self, task: LeasedTask, since_s: float, *, error: str = "") -> None:
        """Tell that files and LoRAs of a task have come, which were asked for at `since_s`."""
        self._tell("fetch", task, self._clock.monotonic_s() - since_s, error=error)

    def ran(self, task: LeasedTask, run_s: float, load_s: float, *, error: str = "") -> None:
        """Tell that a model has run a task, and how long it had waited for the model."""
        trace = self._tell("run", task, run_s + load_s, error=error)
        if trace is not None and load_s > 0:
            self._tell("load", task, load_s, ago_s=run_s, parent=trace.own)

    def stored(self, task: LeasedTask, encode_s: float, upload_s: float) -> None:
        """Tell that the files of a result are stored, or on their way with the report."""
        self._tell("encode", task, encode_s, ago_s=upload_s)
        self._tell("upload", task, upload_s)

    def settled(self, task: LeasedTask) -> None:
        """Note that the outcome of a task is known."""
        if self.tracer is not None and task.traceparent is not None:
            self._settled[task.task_id, task.attempt] = (task, self._clock.monotonic_s())

    def reported(self, settlements: Iterable[Settlement]) -> None:
        """Tell that the backend has taken the outcomes of tasks."""
        if not self._settled:
            return
        for each in settlements:
            known = self._settled.pop((each.task_id, each.attempt), None)
            if known is not None:
                error = each.outcome.error.code if isinstance(each.outcome, Failed) else ""
                task, since_s = known
                self._tell("report", task, self._clock.monotonic_s() - since_s, error=error)

    async def close(self) -> None:
        """Send what waits."""
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
