"""Handles what the model process says of tasks: results, files, progress and previews."""

import asyncio
import base64
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import structlog

from swell.core.background_tasks import BackgroundTasks
from swell.core.clock import Clock
from swell.runtime.ipc_messages import (
    DRAWN,
    Done,
    Fault,
    Frame,
    HandedOver,
    Paid,
    Part,
    Preview,
    Results,
    Step,
    StopAcknowledged,
)
from swell.worker.inflight import Brought, InflightTask, InflightTasks, Parts
from swell.worker.model_supervisor import ModelSupervisor
from swell.worker.task_results import Delivery, faulty, stopped, success
from swell.worker.task_spans import TaskTraces

_log = structlog.get_logger("swell.worker")


class ResultHandler:
    """Settles tasks with what the model process says of them.

    Args:
        clock: The time.
        tasks: The tasks in flight.
        models: The model process.
        delivery: Encodes and stores the files of results.
        traces: Record spans.
    """

    def __init__(
        self,
        clock: Clock,
        tasks: InflightTasks,
        models: ModelSupervisor,
        delivery: Delivery,
        traces: TaskTraces,
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        self._models = models
        self._delivery = delivery
        self._traces = traces
        self._jobs = BackgroundTasks()
        #: Results on their way to the object store, by handle.
        self.deliveries: dict[int, asyncio.Task[None]] = {}
        #: Set when the model process has sent all results, or is gone.
        self.handed_over = asyncio.Event()
        #: Called when the model process may have room for more tasks.
        self.on_room: Callable[[], None]
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Results: self._on_results,
            Step: self._on_step,
            Preview: self._on_preview,
            Part: self._on_part,
            Paid: lambda paid: tasks.pay(paid.handle, paid.micros),
            StopAcknowledged: self._on_stop_acknowledged,
            HandedOver: self._on_handed_over,
        }

    @property
    def is_full(self) -> bool:
        """Whether pictures wait for an encoder; models should not create more."""
        return self._delivery.is_full

    async def close(self) -> None:
        """Cancel uploads."""
        await self._jobs.cancel()

    def handle(self, frame: Frame) -> None:
        """Handle a frame that is about tasks."""
        if (handler := self._handlers.get(type(frame))) is not None:
            handler(frame)

    def _on_results(self, results: Results) -> None:
        state = self._models.state
        for done in results.done:
            held = state.remove(results.batch, done.handle)
            self._traces.ran(held.task, done.run_s, held.load_s + done.load_s)
            if done.files or done.sent:
                self.deliveries[held.handle] = self._jobs.start(self._deliver(held, done))
            else:
                self._tasks.settle(held, success(held, done))
        for fault in results.faults:
            held = state.remove(results.batch, fault.handle)
            self._on_fault(held, fault)
            self._tasks.settle(held, faulty(held, fault))
        spent_s = dict(zip(results.stopped, results.stopped_s, strict=False))
        for handle in results.stopped:
            held = state.remove(results.batch, handle)
            self._tasks.settle(held, stopped(held, spent_s.get(handle, 0.0)))
        if results.done or results.is_last:
            self._models.note_result()
        now_s = self._clock.monotonic_s()
        if results.batch == DRAWN:
            state.note_step(now_s)
        else:
            state.end_call(now_s, is_last=results.is_last)
            self._tasks.fit(state.task_s)
        if results.batch == DRAWN or results.is_last:
            self.on_room()

    def _on_fault(self, held: InflightTask, fault: Fault) -> None:
        load_s = held.load_s + fault.load_s
        self._traces.ran(held.task, fault.run_s, load_s, error=fault.code)
        if fault.traceback:
            _log.warning(
                "the model failed", **held.about, code=fault.code, exception=fault.traceback
            )
        else:
            _log.debug("refused by the model", **held.about, code=fault.code)

    async def _deliver(self, held: InflightTask, done: Done) -> None:
        try:
            self._tasks.settle(held, *await self._delivery.outcome(held, done))
        finally:
            del self.deliveries[held.handle]

    def _on_step(self, step: Step) -> None:
        if step.handle in self._models.state.drawn:
            self._models.state.note_step(self._clock.monotonic_s())
        held = self._tasks.find(step.handle)
        if held is not None:
            fraction = step.done / step.total if step.total > 0 else 0.0
            data = {"step": step.done, "steps": step.total, "fraction": round(fraction, 4)}
            soon = self._models.state.is_watched(step.handle)
            self._tasks.tell(held, "progress", data, soon=soon)

    def _on_preview(self, preview: Preview) -> None:
        held = self._tasks.find(preview.handle)
        if held is not None:
            image = f"data:image/jpeg;base64,{base64.b64encode(preview.jpeg).decode()}"
            self._tasks.tell(held, "preview", {"image": image, "index": preview.index})

    def _on_stop_acknowledged(self, acknowledged: StopAcknowledged) -> None:
        for held in filter(None, map(self._tasks.find, acknowledged.handles)):
            held.is_stop_known = True

    def _on_handed_over(self, handed_over: HandedOver) -> None:
        for handle, held in self._models.state.drawn.items():
            held.device_s = handed_over.device_s.get(handle, 0.0)
        self.handed_over.set()

    def _on_part(self, part: Part) -> None:
        """Bring a file of a task that has not ended, unless it is on its way already."""
        held = self._tasks.find(part.handle)
        if held is None:
            return
        if held.parts is None:
            held.parts = Parts()
            # Another process that draws the rest must draw it for the same first seed.
            held.seed = part.first_seed
        if part.index not in held.parts:
            bring = self._jobs.keep(asyncio.create_task(self._delivery.bring(held, part)))
            held.parts.add(part.index, bring, partial(self._tell_part, held))

    def _tell_part(self, held: InflightTask, brought: Brought) -> None:
        if held.task.is_stage:
            # What a stage of a pipeline gives is not what its task gives.
            return
        data = {"index": brought.index, "seed": brought.seed}
        data |= msgspec.to_builtins(brought.artifact)
        soon = self._models.state.is_watched(held.handle)
        self._tasks.tell_file(held, brought.index, data, brought.enclosure, soon=soon)
