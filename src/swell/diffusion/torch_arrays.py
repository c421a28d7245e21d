"""Torch devices for models: arrays for `StepModel.arrays`, copies, noise and errors of the device.

Only models that need torch import it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from swell.sdk.model import DeviceBroken

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: For `StepModel.out_of_memory`.
OUT_OF_MEMORY: Final = (torch.OutOfMemoryError,)

#: Texts of errors with which CUDA's libraries say that they got no memory.
_NO_MEMORY: Final = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine",
)

#: Texts of errors after which every later call to the device fails, too.
#: Source: CUDA Runtime API, `cudaError_t`: those after which the process must be ended.
_BROKEN: Final = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "misaligned address",
    "illegal instruction",
    "invalid program counter",
    "not supported on the address space",
    "hardware stack error",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "launch timed out",
    "CUDA error: unknown error",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_EXECUTION_FAILED",
)


def inference(function: FunctionT) -> FunctionT:
    """Run a function without gradients, and classify the errors of its device.

    The function raises `torch.OutOfMemoryError` for each lack of memory that CUDA's libraries
    report, and `DeviceBroken` for errors that leave the CUDA context unusable.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with torch.no_grad():
                return function(*args, **kwargs)
        except RuntimeError as error:
            meaning = device_error(error)
            if meaning is error:
                raise
            raise meaning from error

    return run  # type: ignore[return-value]


def device_error(error: RuntimeError) -> BaseException:
    """Classify an error: out of memory, a broken device, or the error itself."""
    found: BaseException = error
    if isinstance(error, OUT_OF_MEMORY):
        return found
    text = str(error)
    if any(each in text for each in _NO_MEMORY):
        found = torch.OutOfMemoryError(text)
    elif any(each in text for each in _BROKEN):
        found = DeviceBroken(text)
    return found


def free_memory(device: torch.device) -> int | None:
    """Return the memory that this process may use on a GPU, in bytes; None for other devices.

    It includes the memory of this process's models, and excludes that of other processes.
    """
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to a device; the host does not wait for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    # torch keeps the pinned memory until the copy has read it.
    return tensor.pin_memory().to(device, non_blocking=True)


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
        return to_device(host, self.device)

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
