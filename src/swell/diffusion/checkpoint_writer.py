"""Writes checkpoints of running samples to shared memory (`checkpoint_shm.py`)."""

import math
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import Drawn
from swell.diffusion.step_engine import StepEngine
from swell.runtime.checkpoint_shm import CheckpointMemory, Page
from swell.runtime.ipc import Pipe
from swell.runtime.task_run import Job

#: After writing, a pause of this many times the duration, but at most of this many seconds.
CHECKPOINT_REST: Final = 99
CHECKPOINT_EVERY_S: Final = 2.0


class CheckpointedSample:
    """A sample of a task, and its checkpoint."""

    def __init__(self, job: Job, index: int) -> None:
        self.job = job
        self.index = index
        self.id = f"{job.handle}.{index}"
        #: Finished steps of the checkpoint that the worker has.
        self.kept = 0
        #: None before the first checkpoint.
        self.page: Page | None = None
        #: Set if the sample ended before others of its task, until its last checkpoint is written.
        self.finished: Drawn | None = None


class CheckpointWriter:
    """Writes checkpoints for at most one percent of the time.

    Args:
        memory: Shared memory, which the worker reads if this process dies.
        pipe: Its sending thread waits for copies from an asynchronous device.
        clock: The clock.
    """

    def __init__(self, memory: CheckpointMemory, pipe: Pipe, clock: Clock) -> None:
        self._memory = memory
        self._pipe = pipe
        self._clock = clock
        self._due_s = clock.monotonic_s()
        self._took_s = 0.0
        #: Whether memory was exhausted, which is logged once.
        self._has_no_room = False

    def write_if_due(self, engine: StepEngine, samples: Iterable[CheckpointedSample]) -> None:
        """Write checkpoints unless the pause after the latest ones is not over."""
        begun_s = self._clock.monotonic_s()
        if begun_s < self._due_s:
            return
        self.write(engine, samples)
        now_s = self._clock.monotonic_s()
        # One slow write does not count.
        took_s, self._took_s = self._took_s, now_s - begun_s
        rest_s = CHECKPOINT_REST * min(took_s, self._took_s)
        self._due_s = now_s + min(rest_s, CHECKPOINT_EVERY_S)

    def write(self, engine: StepEngine, samples: Iterable[CheckpointedSample]) -> None:
        """Write checkpoints of all samples that have advanced since their last one."""
        later: list[tuple[Page, Drawn]] = []
        for sample in samples:
            drawn, sample.finished = sample.finished, None
            drawn = drawn or engine.drawn_since(sample.id, sample.kept)
            if drawn is None:
                continue
            sample.kept = drawn.step
            page = sample.page = sample.page or self._new_page(sample, drawn)
            if page is None:
                continue
            if drawn.is_at_hand:
                _write([(page, drawn)])
            else:
                later.append((page, drawn))
        if later:
            # Only the copies are made now: a thread waits for the device.
            self._pipe.send_made(partial(_write, later))

    def free(self, pages: Iterable[Page]) -> None:
        """Free the pages of a task after its result is sent."""
        for page in pages:
            self._memory.give_back(page)

    def _new_page(self, sample: CheckpointedSample, drawn: Drawn) -> Page | None:
        """Return a new page; None if there is no memory, so that the sample has no checkpoints."""
        state, job = drawn.state, sample.job
        x_bytes = 4 * math.prod(state.plan.shape)
        h_bytes = x_bytes * state.table.solver.history
        try:
            return self._memory.page(
                job.handle, sample.index, job.seed, state.identity, x_bytes, h_bytes
            )
        except OSError as error:
            if not self._has_no_room:
                sys.stderr.write(f"samples have no checkpoints: {error}\n")
            self._has_no_room = True
            return None


def _write(drawn: Sequence[tuple[Page, Drawn]]) -> tuple[()]:
    for page, each in drawn:
        page.write(each.step, *each.read(), is_narrowed=each.is_narrowed)
    return ()
