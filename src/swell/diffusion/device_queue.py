"""Steps, and the work that is queued on a device.

A device that works asynchronously (`Arrays.mark`) gets the next step while it runs the present one.
`DeviceQueue` holds that work until the device has finished it, then reports the progress of its
samples and divides the device time among them. Work of a synchronous device is finished at once.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import SampleState
from swell.diffusion.batch_scheduler import Decision, Scheduler
from swell.diffusion.device_models import KeyBuffers
from swell.runtime.model_residency import is_out_of_memory
from swell.sdk.step_model import Array, Mark, StepModel

#: The next step is queued when this share of the present one is left: early enough to leave no gap,
#: and late enough for samples that have just arrived.
LEAD: Final = 0.1


class Step:
    """One step: the decision of the scheduler, and the results."""

    def __init__(
        self, decision: Decision, key: KeyBuffers, clock: Clock, preview_every_s: float
    ) -> None:
        self.decision = decision
        self.key = key
        self._clock = clock
        self._preview_every_s = preview_every_s
        #: Samples that have advanced, with the number of their finished steps then.
        self.advanced: dict[SampleState, int] = {}
        self.failed: dict[SampleState, Exception] = {}
        #: Functions that return the latents for previews.
        self._previews: list[tuple[SampleState, Callable[[], Array]]] = []
        #: Position of the device at the end of the step; None if it works synchronously.
        self.mark: Mark | None = None
        #: Begin and end of the latest attempt that advanced samples.
        self.begun_s = self.ended_s = 0.0

    def attempt(self, states: Sequence[SampleState]) -> Exception | None:
        """Advance these samples by one step.

        An exception of the network is attributed to a single sample: the batch is halved until the
        failing sample is alone. The others of a half run again from the same latents.

        Returns:
            The exception of the device if it has no memory for all of them.
        """
        buffers, model = self.key.buffers, self.key.owner.model
        assert buffers is not None, "the samples are ready"
        begun_s = self._clock.monotonic_s()
        previews: list[tuple[SampleState, Callable[[], Array]]] = []
        try:
            buffers.place(states)
            buffers.load(self.decision.bucket)
            buffers.forward(model.denoise)
            for state in states if self.key.owner.has_preview else ():
                if begun_s - state.previewed_s >= self._preview_every_s:
                    # First, so that a preview that runs out of memory is not tried again at once.
                    state.previewed_s = begun_s
                    previews.append((state, buffers.foreseen(state)))
        except Exception as error:
            if is_out_of_memory(model, error):
                return error
            if len(states) == 1:
                self.failed[states[0]] = error
                return None
        else:
            try:
                buffers.advance()
                self.mark = model.arrays.mark()
            except Exception as error:
                # The latents may be changed in part.
                self.failed |= dict.fromkeys(states, error)
                return None
            self.begun_s, self.ended_s = begun_s, self._clock.monotonic_s()
            self.advanced |= {state: state.step for state in states}
            self._previews += previews
            return None
        half = len(states) // 2
        lacking = self.attempt(states[:half])
        return lacking if lacking is not None else self.attempt(states[half:])

    def report(self, now_s: float, every_s: float) -> None:
        """Report progress and previews to the listeners of the samples."""
        for state, step in self.advanced.items():
            if now_s - state.told_s >= every_s or step == state.steps:
                state.told_s = now_s
                state.item.progress(step, state.steps)
        model = self.key.owner.model
        for state, latents in self._previews:
            if not state.has_ended:
                state.item.preview(partial(_preview, model, latents, state.item))


def _preview(model: StepModel, latents: Callable[[], Array], item: Any) -> Any:
    return model.preview(latents(), item)


class Decoding(msgspec.Struct, frozen=True):
    """The decoding of a sample."""

    begun_s: float
    mark: Mark
    state: SampleState
    model: str


class DeviceQueue:
    """Queued work, oldest first.

    Args:
        clock: The clock.
        scheduler: Learns the duration of each step.
        progress_every_s: Least seconds between two reports of a sample's progress.
    """

    def __init__(self, clock: Clock, scheduler: Scheduler, progress_every_s: float) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._progress_every_s = progress_every_s
        self._queued: deque[Step | Decoding] = deque()
        #: When the device last finished something.
        self._reached_s = 0.0
        #: Model → duration of its latest decoding.
        self._decoding_s: dict[str, float] = {}
        #: Time that the host needs to queue a step.
        self.host_s = 0.0
        #: Samples of the latest step, and its duration; 0 for asynchronous devices.
        self.together = 0
        self.step_s = 0.0
        #: Duration of the latest encoding, and its samples. On an asynchronous device it is part of
        #: the next step.
        self.encoding: tuple[float, Sequence[SampleState]] = (0.0, ())

    def __len__(self) -> int:
        return len(self._queued)

    def add(self, work: Step | Decoding) -> None:
        """Add work that was started on the device."""
        if isinstance(work, Step):
            self.together = len(work.advanced)
            (encoding_s, encoded), self.encoding = self.encoding, (0.0, ())
            if work.mark is None:
                for state in encoded:
                    state.device_s += encoding_s / len(encoded)
                self.step_s = work.ended_s - work.begun_s
                self._finish(work, self.step_s, work.ended_s)
                return
        self._queued.append(work)

    def wait(self, ahead: int) -> None:
        """Wait until at most `ahead` pieces of work are left."""
        while len(self._queued) > ahead:
            work = self._queued.popleft()
            assert work.mark is not None, "the device works asynchronously"
            work.mark.wait()
            now_s = self._clock.monotonic_s()
            # The device began it when it had finished the work before.
            seconds = now_s - max(work.begun_s, self._reached_s)
            self._reached_s = now_s
            if isinstance(work, Step):
                self._finish(work, seconds, now_s)
            else:
                work.state.device_s += seconds
                self._decoding_s[work.model] = seconds

    def _finish(self, step: Step, seconds: float, now_s: float) -> None:
        rows = sum(state.rows for state in step.advanced)
        for state in step.advanced:
            state.device_s += seconds * state.rows / rows
        self._scheduler.took(step.decision, seconds)
        step.report(now_s, self._progress_every_s)

    @property
    def due_s(self) -> float:
        """When the next step must be queued; the past for at once."""
        running = next((work for work in self._queued if isinstance(work, Step)), None)
        if running is None:
            return 0.0
        begun_s = max(running.begun_s, self._reached_s)
        step_s = self._scheduler.expected_s(running.decision)
        return begun_s if step_s is None else begun_s + (1 - LEAD) * step_s - 2 * self.host_s

    def device_s(self, state: SampleState) -> float:
        """Return the device time of a sample, with the expected time of its queued work."""
        seconds = state.device_s
        for work in self._queued:
            if isinstance(work, Step):
                if state in work.advanced:
                    step_s = self._scheduler.expected_s(work.decision) or 0.0
                    seconds += step_s * state.rows / sum(each.rows for each in work.advanced)
            elif work.state is state:
                seconds += self._decoding_s.get(work.model, 0.0)
        return seconds
