"""The latents of a sample after some of its steps, for a checkpoint."""

import numpy as np

from swell.diffusion.batch_buffers import Raw, SampleState, packed
from swell.sdk.step_model import Array, Arrays


class Drawn:
    """A sample after some of its steps. See `Denoiser.drawn_since`."""

    __slots__ = ("_arrays", "_h", "_raw", "_x", "is_at_hand", "is_narrowed", "state", "step")

    def __init__(
        self,
        state: SampleState,
        arrays: Arrays,
        x: Array,
        h: Array | None,
        is_at_hand: bool,
    ) -> None:
        self.state = state
        #: Number of finished steps.
        self.step, self.is_narrowed = state.step, state.is_narrowed
        self._arrays = arrays
        self._x = x
        self._h = h
        #: Result of `read`, if the latents are in host memory.
        self._raw = state.raw
        #: Whether `read` does not wait for a device. Then it must be called before the next step.
        self.is_at_hand = is_at_hand

    @property
    def shape(self) -> tuple[int, int]:
        """Bytes of its latents, and of its solver's history."""
        size = 4 * int(np.prod(self.state.plan.shape))
        return size, size * self.state.table.solver.history

    def read(self) -> Raw:
        """Return both as a `Checkpoint` has them; waits for the device."""
        if self._raw is not None:
            return self._raw
        x = packed(self._arrays.get(self._x))
        return x, None if self._h is None else packed(self._arrays.get(self._h))

    def checkpoint(self) -> bytes:
        """Return both as a checkpoint; waits for the device."""
        return self.state.checkpoint(self.read(), self.step, self.is_narrowed)
