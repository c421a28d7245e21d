"""Arrays of models that use torch: what `StepModel.arrays` is set to in `load`.

Imported by models that need torch, by nothing of Swell.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["OUT_OF_MEMORY", "TorchArrays"]

#: For `StepModel.out_of_memory`.
OUT_OF_MEMORY: Final = (torch.OutOfMemoryError,)


class TorchArrays:
    """Arrays on a device of torch. See `swell.model.Arrays`.

    A GPU is told the next step while it runs one: numbers go there without waiting for it, and
    nothing is read back between steps.

    Args:
        device: As torch names it.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._is_cuda = self.device.type == "cuda"

    def put(self, values: NDArray[Any]) -> torch.Tensor:
        """Return the same numbers on the device; on the CPU they share their memory."""
        host = torch.from_numpy(np.ascontiguousarray(values))
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

    def mark(self) -> "_Event | None":
        """See `Arrays.mark`."""
        return _Event(self.device) if self._is_cuda else None


class _Event:
    """A place in the device's current stream. See `swell.model.Mark`."""

    def __init__(self, device: torch.device) -> None:
        # Sleeps while it waits: the processor belongs to whoever encodes.
        self._event = torch.cuda.Event(blocking=True)
        self._event.record(torch.cuda.current_stream(device))

    def wait(self) -> None:
        self._event.synchronize()
