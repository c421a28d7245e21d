"""Arrays of models that use torch: what `StepModel.arrays` is set to in `load`.

Imported by models that need torch, by nothing of Swell.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

#: For `StepModel.out_of_memory`.
OUT_OF_MEMORY: Final = (torch.OutOfMemoryError,)


class TorchArrays:
    """Arrays on a device of torch. See `swell.sdk.step_model.Arrays`.

    The host enqueues a step while the GPU runs the previous one: copies are asynchronous, and
    nothing is read back between steps.

    Args:
        device: As torch names it.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._is_cuda = self.device.type == "cuda"

    def put(self, values: NDArray[Any]) -> torch.Tensor:
        """Return the same numbers on the device; on the CPU they share their memory."""
        # A scalar stays a scalar: `ascontiguousarray` would make it a list.
        host = torch.from_numpy(np.ascontiguousarray(values)).reshape(np.shape(values))
        if not self._is_cuda:
            return host.to(self.device)
        # From pinned memory the copy runs by itself; torch keeps that memory until it has.
        return host.pin_memory().to(self.device, non_blocking=True)

    def get(self, array: torch.Tensor) -> NDArray[Any]:
        """Return the same numbers in the machine's memory; waits for the device."""
        found: NDArray[Any] = array.detach().cpu().numpy()
        return found

    def rows(self, like: torch.Tensor, count: int) -> torch.Tensor:
        """Return zeros. Shape: (count, *like.shape)."""
        return like.new_zeros((count, *like.shape))

    def is_finite(self, array: torch.Tensor) -> Callable[[], bool]:
        # To pinned memory, where the device writes by itself.
        found = torch.isfinite(array).all().to("cpu", non_blocking=self._is_cuda)
        mark = self.mark()

        def known() -> bool:
            if mark is not None:
                mark.wait()
            return bool(found)

        return known

    def mark(self) -> "_Event | None":
        return _Event(self.device) if self._is_cuda else None


class _Event:
    """A place in the device's current stream. See `swell.sdk.step_model.Mark`."""

    def __init__(self, device: torch.device) -> None:
        # Sleeps while it waits: encoders need the processor.
        self._event = torch.cuda.Event(blocking=True)
        self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        self._event.synchronize()


class TorchNoise:
    """One sample's noise as torch draws it on the CPU. See `swell.sdk.step_model.NoiseStream`.

    For pictures that a pipeline of diffusers draws too, with
    `torch.Generator("cpu").manual_seed(seed)`: its draws for other purposes are drawn here too and
    discarded.

    Args:
        seed: The sample's.
        before: Shapes of discarded draws before the first one.
        between: The same, between the first draw and the second.

    Raises:
        ValueError: The seed is negative.
    """

    def __init__(
        self,
        seed: int,
        *,
        before: Sequence[tuple[int, ...]] = (),
        between: Sequence[tuple[int, ...]] = (),
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed}: use 0 or more")
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._skipped = [tuple(before), tuple(between)]

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the next numbers, of mean 0 and deviation 1."""
        out = np.empty(shape, np.float32)
        self.fill(out)
        return out

    def fill(self, out: NDArray[np.float32]) -> None:
        """Write the next numbers into `out`, which is contiguous: the same as `draw` gives."""
        for shape in self._skipped.pop(0) if self._skipped else ():
            torch.randn(shape, generator=self._generator)
        torch.randn(out.shape, generator=self._generator, out=torch.from_numpy(out))
