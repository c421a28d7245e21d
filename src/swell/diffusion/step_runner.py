"""Draws tasks of models that draw in steps, inside the model process.

Samples join the step engine as their tasks arrive, and take part from the next step on. A task's
result is sent when all of its samples are done, while other tasks continue.

Progress and previews are sent only for tasks that take long enough: no progress in the first 50 ms,
no preview in the first 0.4 s or without a client that follows the task, and all previews together
take at most five percent of the time. The sending thread makes their files; its time counts.
"""

import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from swell.core.clock import Clock
from swell.core.results import TaskWarning
from swell.diffusion.batch_buffers import InvalidCheckpoint
from swell.diffusion.checkpoint_writer import CheckpointedSample, CheckpointWriter
from swell.diffusion.step_engine import Request, StepEngine
from swell.runtime.checkpoint_shm import CheckpointMemory, Page
from swell.runtime.ipc import Pipe
from swell.runtime.ipc_messages import (
    DRAWN,
    Fault,
    Frame,
    HandedOver,
    Order,
    Preview,
    Step,
    Swapped,
)
from swell.runtime.model_residency import Device
from swell.runtime.task_run import (
    EARLY_AFTER_S,
    FIRST_PROGRESS_S,
    PREVIEW_EVERY_S,
    Job,
    Outbox,
    Reader,
    engine_build,
    thumbnail,
)
from swell.sdk.context import Listener
from swell.sdk.step_model import StepModel, whole

#: After a preview, a pause of this many times its duration.
PREVIEW_REST: Final = 19


#: A frame, or a function that makes one.
_Word: TypeAlias = Frame | Callable[[], Preview | None]


class _Sample(CheckpointedSample, Listener):
    """A sample of a task, and its listener."""

    def __init__(self, runner: "StepRunner", job: Job, index: int) -> None:
        super().__init__(job, index)
        self._runner = runner
        #: Number of finished steps.
        self.steps = 0

    def progress(self, done: int, total: int) -> None:
        self.steps = done
        self._runner.tell_progress(self.job, total, is_last=done == total)

    def preview(self, make: Callable[[], Any]) -> None:
        self._runner.tell_preview(self, make)

    def is_cancelled(self) -> bool:
        # Asked before each step, so the first time is its start.
        if self.job.began_s is None:
            self.job.began_s = self._runner.clock.monotonic_s()
        return self.job.is_cancelled()

    def paid(self, micros: int) -> None:
        self.job.paid(micros)

    def warn(self, warning: TaskWarning) -> None:
        self.job.warn(warning)


def _spoken(words: Sequence[_Word]) -> list[Frame]:
    made = [word() if callable(word) else word for word in words]
    return [frame for frame in made if frame is not None]


class StepRunner:
    """The step models of this process, and all tasks that they draw.

    Args:
        readers: Readers of orders, by the names of the models.
        pipe: To the worker.
        memory: Shared memory for checkpoints.
        clock: The clock.
        device: The models, and which of them are loaded.
        exact: Whether a picture depends on its input alone.
        moved: Called with the duration of each load, in seconds.
    """

    def __init__(
        self,
        readers: Mapping[str, Reader],
        pipe: Pipe,
        memory: CheckpointMemory,
        clock: Clock,
        *,
        device: Device,
        exact: bool,
        moved: Callable[[float], None],
    ) -> None:
        self._readers = readers
        self._pipe = pipe
        self.clock = clock
        self._device = device
        self._moved = moved
        self._outbox = Outbox(DRAWN, pipe, clock, aside=True)
        self._checkpoints = CheckpointWriter(memory, pipe, clock)
        self._jobs: dict[int, Job] = {}
        self._samples: dict[str, _Sample] = {}
        #: Ended tasks with unsent results, and their pages.
        self._leaving: list[tuple[threading.Event, int, list[Page]]] = []
        self._previews_from_s = 0.0
        #: Time that the sending thread took for previews, and the part of it that was counted.
        self._small_s = self._counted_s = 0.0
        #: Progress and previews of the present step.
        self._words: list[_Word] = []
        self._is_handed_over = False
        self._build = engine_build(device.name, "exact" if exact else "fast")
        #: LoRA swaps that the worker knows, by model.
        self._told_swaps: dict[str, int] = {}
        self.engine = StepEngine(
            clock,
            self._ended,
            exact=exact,
            load=self._bring,
            progress_every_s=FIRST_PROGRESS_S,
            preview_every_s=PREVIEW_EVERY_S,
        )
        #: The models as the engine knows them: object, residency, and expected duration of a load.
        self._known: dict[str, tuple[StepModel, bool, float]] = {}
        device.left = self.look
        self.look()

    @property
    def is_busy(self) -> bool:
        """Whether there are samples to draw."""
        return bool(self._samples) and not self._is_handed_over

    @property
    def wanted(self) -> set[str]:
        """Names of the models that have tasks."""
        return {job.model for job in self._jobs.values()}

    # Models

    def look(self) -> None:
        """Tell the engine which models are on the device."""
        expected_s = self._device.expected_s()
        for name in self._readers:
            model = self._device.model(name)
            assert isinstance(model, StepModel), "it draws in steps"
            seen = (model, self._device.has(name), expected_s[name])
            known = self._known.get(name)
            if known is not None and known[0] is not model:
                self.engine.replace(model)
            if known != seen:
                self._known[name] = seen
                self.engine.set_residency(model, loaded=seen[1], load_s=seen[2])

    def clear(self) -> None:
        """Decode finished samples before another model takes the device."""
        self.engine.decode_finished()

    def _bring(self, name: str) -> None:
        """Load a model for the next step.

        Raises:
            CannotLoad: It cannot be loaded.
        """
        try:
            load_s = self._device.bring(name, self.wanted)
        finally:
            self.look()
        self._moved(load_s)
        for job in self._jobs.values():
            if job.model == name:
                job.load_s += load_s
                if job.began_s is not None:
                    # Loading does not count as running.
                    job.began_s += load_s

    # Tasks

    def add(self, model: str, orders: list[Order]) -> None:
        """Add tasks; their samples join from the next step on."""
        reader, drawn_by = self._readers[model], self._known[model][0]
        for order in orders:
            job = reader.job(order, self._pipe, self.clock, drawn_by.pack)
            if isinstance(job, Fault):
                self._outbox.faults.append(job)
                continue
            job.model, job.engine = model, self._build
            job.told_s = job.previewed_s = self.clock.monotonic_s()
            job.samples = [_Sample(self, job, index) for index in range(job.count)]
            self._jobs[job.handle] = job
            for sample in job.samples:
                self._begin(sample, order.checkpoints.get(sample.index))
        if not self._outbox.is_empty:
            self._outbox.flush()

    def _begin(self, sample: _Sample, checkpoint: bytes | None) -> None:
        job = sample.job
        if job.error is not None:
            # An earlier sample of this task failed already.
            self._count_off(job)
            return
        self._samples[sample.id] = sample
        request = Request(
            id=sample.id,
            model=self._known[job.model][0],
            item=job.item(sample.index, sample),
            deadline_s=job.deadline_s,
            checkpoint=checkpoint,
        )
        self.engine.add([request])
        state = self.engine.samples.get(sample.id)
        if state is not None:
            # The worker has the checkpoint that it came with.
            sample.steps = sample.kept = state.step

    def _ended(self, name: str, result: Any) -> None:
        sample = self._samples.pop(name)
        job = sample.job
        if isinstance(result, InvalidCheckpoint):
            # From another model version: start over.
            sys.stderr.write(f"a sample is drawn again: {result}\n")
            self._begin(sample, None)
            return
        job.device_s += self.engine.device_s(name)
        state = self.engine.samples.get(name)
        if state is not None and state.is_narrowed:
            # As in fast mode, so its file must not claim exact mode.
            job.engine = {**self._build, "batching": "fast"}
        if not isinstance(result, Exception):
            job.results[sample.index] = result
            if job.left > 1:
                # If the process dies, only decoding is repeated.
                sample.finished = self.engine.drawn_since(name, 0)
                began_s = job.began_s
                if began_s is not None and self.clock.monotonic_s() - began_s >= EARLY_AFTER_S:
                    self._pipe.send_made(job.parts)
        elif job.error is None:
            job.error = result
            for other in job.samples:
                self.engine.cancel(other.id)
        self._count_off(job)

    def _count_off(self, job: Job) -> None:
        job.left -= 1
        if job.left:
            return
        del self._jobs[job.handle]
        if job.began_s is not None:
            job.run_s = self.clock.monotonic_s() - job.began_s
        self._device.use(job.model)
        samples, job.samples = job.samples, []
        pages = [sample.page for sample in samples if sample.page is not None]
        for sample in samples:
            sample.finished = None
        sent = self._outbox.add(job)
        if sent is None:
            self._checkpoints.free(pages)
        else:
            self._leaving.append((sent, job.handle, pages))
        self._pipe.forget(job.handle)

    # Steps

    def step(self) -> None:
        """Run one step and the work around it."""
        if self._leaving:
            self._give_back_left()
        for handle in self._pipe.stopped and self._pipe.stopped & self._jobs.keys():
            for sample in self._jobs[handle].samples:
                self.engine.cancel(sample.id)
        is_left = self.engine.boundary()
        if not self._outbox.is_empty:
            self._outbox.flush()
        if self._words:
            words, self._words = self._words, []
            self._pipe.send_made(partial(_spoken, words))
        for model, swaps in self.engine.models.swaps.items():
            if swaps.count != self._told_swaps.get(model):
                self._told_swaps[model] = swaps.count
                self._pipe.send(Swapped(model, swaps.count, swaps.seconds))
        if is_left:
            self._checkpoints.write_if_due(self.engine, self._begun_samples())

    def _give_back_left(self) -> None:
        """Free the pages of tasks after their results were sent."""
        leaving, self._leaving = self._leaving, []
        for each in leaving:
            sent, handle, pages = each
            if not sent.is_set():
                self._leaving.append(each)
                continue
            # Stops and watches that arrived since.
            self._pipe.forget(handle)
            self._checkpoints.free(pages)

    def _begun_samples(self) -> list[_Sample]:
        begun = [job for job in self._jobs.values() if job.began_s is not None]
        return [sample for job in begun for sample in job.samples]

    def hand_over(self) -> None:
        """Write checkpoints of all samples, and draw no more."""
        self._checkpoints.write(self.engine, self._begun_samples())
        # The thread sends this after the frames that it already has.
        device_s = {job.handle: job.device_s for job in self._jobs.values()}
        for name, sample in self._samples.items():
            device_s[sample.job.handle] += self.engine.device_s(name)
        self._pipe.send(HandedOver(device_s))
        self._is_handed_over = True

    # Progress and previews

    def tell_progress(self, job: Job, total: int, *, is_last: bool) -> None:
        """Report the finished steps of all samples of a task."""
        if not job.left:
            # An asynchronous device reports late: the results may be sent already.
            return
        now_s = self.clock.monotonic_s()
        every_s = job.progress_every_s if job.is_told else FIRST_PROGRESS_S
        is_time = now_s - job.told_s >= every_s
        if not (is_time or (is_last and job.is_told)):
            return
        # A sample with a checkpoint of the last step reports no progress.
        done = sum(
            sample.steps if result is None else total
            for sample, result in zip(job.samples, job.results, strict=True)
        )
        whole = job.count * total
        if not (is_time or done >= whole):
            return
        job.is_told, job.told_s = True, now_s
        self._words.append(Step(job.handle, min(done, whole), whole))

    def tell_preview(self, sample: _Sample, make: Callable[[], Any]) -> None:
        """Send a preview of a sample, unless the pause is not over."""
        job, start_s = sample.job, self.clock.monotonic_s()
        if start_s < self._previews_from_s or start_s - job.previewed_s < PREVIEW_EVERY_S:
            return
        if not job.is_shown:
            return
        job.previewed_s = start_s
        try:
            made = make()
        except Exception:
            traceback.print_exc()
            made = None
        now_s, small_s = self.clock.monotonic_s(), self._small_s
        took_s = now_s - start_s + small_s - self._counted_s
        self._counted_s = small_s
        self._previews_from_s = now_s + PREVIEW_REST * took_s
        if made is not None:
            self._words.append(partial(self._small, job.handle, sample.index, made))

    def _small(self, handle: int, index: int, made: Any) -> Preview | None:
        """Encode a preview in the sending thread."""
        try:
            picture = whole(made)
        except Exception:
            traceback.print_exc()
            return None
        # Waiting for the device does not count.
        start_s = self.clock.monotonic_s()
        jpeg = thumbnail(lambda: picture)
        self._small_s += self.clock.monotonic_s() - start_s
        return None if jpeg is None else Preview(handle, index, jpeg)
