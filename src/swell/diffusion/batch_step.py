"""One step of a batch, in as many attempts as it takes.

An exception of the network is attributed to a single sample: the batch is halved until the failing
sample is alone. The others of a half run again from the same latents.
"""

import math
from collections.abc import Callable, Sequence

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import BatchBuffers, SampleState
from swell.runtime.model_residency import is_out_of_memory
from swell.sdk.step_model import Array, Mark, StepModel

#: A sample, and a function that returns the latents for its preview.
Foreseen = tuple[SampleState, Callable[[], Array]]


class _NoMemory(Exception):
    """The device ran out of memory; `reason` is its exception."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class BatchStep:
    """A step of a batch. The same object serves the next steps of an unchanged batch."""

    def __init__(
        self,
        model: StepModel,
        arena: BatchBuffers,
        bucket: int,
        clock: Clock,
        before_network: Callable[[], None],
    ) -> None:
        self._model = model
        self._before_network = before_network
        self._arena = arena
        self._clock = clock
        self._attempt_s = 0.0
        #: Begin and end of the latest attempt that advanced samples.
        self.begun_s = self.told_s = 0.0
        #: Least seconds between two previews of a sample; NaN for no previews.
        self.preview_every_s = math.nan
        self.renew(bucket)

    def renew(self, bucket: int) -> None:
        """Prepare the next step of the same samples. `begun_s` and `told_s` stay."""
        self._bucket = bucket
        #: Samples that have advanced, and those that failed.
        self.advanced: Sequence[SampleState] = ()
        self.failed: Sequence[tuple[SampleState, Exception]] = ()
        #: Position of the device at the end of the step; None if it works synchronously.
        self.mark: Mark | None = None
        self.foreseen: Sequence[Foreseen] = ()

    def run(self, states: Sequence[SampleState]) -> Exception | None:
        """Advance these samples by one step.

        Returns:
            The exception of the device if it has no memory for all of them. `left` returns the
            samples that did not run.
        """
        try:
            self._run(states)
        except _NoMemory as error:
            return error.reason
        return None

    def _run(self, states: Sequence[SampleState]) -> None:
        arena = self._arena
        try:
            self._forward(states)
            unseen_s = self._attempt_s - self.preview_every_s
            foreseen = [self._foreseen(state) for state in states if state.previewed_s <= unseen_s]
        except Exception as error:
            if is_out_of_memory(self._model, error):
                raise _NoMemory(error) from error
            if len(states) == 1:
                self.failed = [*self.failed, (states[0], error)]
                return
            half = len(states) // 2
            self._run(states[:half])
            self._run(states[half:])
            return
        try:
            arena.advance()
            self.mark = self._model.arrays.mark()
        except Exception as error:
            # The latents may be changed in part.
            self.failed = [*self.failed, *((state, error) for state in states)]
            return
        self.begun_s = self._attempt_s
        self.told_s = self._clock.monotonic_s()
        self.advanced = [*self.advanced, *states]
        if foreseen:
            self.foreseen = [*self.foreseen, *foreseen]

    def _forward(self, states: Sequence[SampleState]) -> None:
        self._attempt_s = self._clock.monotonic_s()
        self._arena.place(states)
        self._arena.load(self._bucket)
        self._before_network()
        self._arena.forward(self._model.denoise, self._bucket)

    def _foreseen(self, state: SampleState) -> Foreseen:
        # First, so that a preview that runs out of memory is not tried again at once.
        state.previewed_s = self._attempt_s
        return state, self._arena.foreseen(state)

    def left(self, states: Sequence[SampleState]) -> Sequence[SampleState]:
        """Return the samples that neither advanced nor failed."""
        done = {state.id for state in (*self.advanced, *(state for state, _ in self.failed))}
        return [state for state in states if state.id not in done]
