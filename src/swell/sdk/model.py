"""Base class of models with weights. See `swell.sdk.define` for models that are functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel

from swell.core.errors import InvalidModel
from swell.core.records import Speed


class DeviceBroken(BaseException):
    """The device fails every call from now on, as CUDA does after an illegal memory access.

    The model process ends; no sample is to blame. It is no `Exception`, so that nothing on the way
    takes it for an error of one sample.
    """


@dataclass(frozen=True, slots=True)
class Batch:
    """Which inputs may be run together.

    Args:
        max: At most this many samples at once.
        by: Names of input fields that must have equal values within a batch.
    """

    max: int = 1
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that are probably mistakes."""
        if self.max < 1:
            raise InvalidModel(f"Batch(max={self.max}): use 1 or more")
        by: object = self.by  # a string is a sequence, too
        if isinstance(by, str):
            raise InvalidModel(f"Batch(by={self.by!r}): use a tuple, by=({self.by!r},)")


class Model:
    """A model with weights: derive from it, set `name` and `Input`, write `run`.

    The docstring of the derived class is the model card, in Markdown.
    """

    #: `owner/name`.
    name: ClassVar[str] = ""
    #: Type of one input.
    Input: ClassVar[type[BaseModel]]
    #: Type of one result, for the schema; anything pydantic knows, `swell.Image` or `swell.File`.
    Output: ClassVar[Any] = None
    batch: ClassVar[Batch] = Batch()
    #: Files that are part of the version, such as weights; relative to the file that sets this
    #: attribute.
    files: ClassVar[Sequence[str | Path]] = ()
    #: Inputs that work, for docs, checks and warm-up; taken from the schema if empty.
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ()
    #: `trial`, `canary` or `live`.
    stage: ClassVar[str] = "live"
    #: Of the code and of the weights: an SPDX expression such as `Apache-2.0`, or words.
    licence: ClassVar[str] = ""
    #: Markdown for the card: who made the parts it is built from, and how to cite them.
    credits: ClassVar[str] = ""
    #: Speed on some devices, as its author measured it.
    speed: ClassVar[Sequence[Speed]] = ()
    #: Small pictures, sounds and texts for the card, by their captions; relative to the file that
    #: sets this attribute.
    samples: ClassVar[Mapping[str, str | Path]] = MappingProxyType({})
    #: Device memory, in bytes; `load` may set it. 0 means the growth of the process while it loads,
    #: which does not include a GPU's memory.
    memory_bytes: int = 0
    #: Price of one sample at an API that `run` calls, in addition to the device's time, in
    #: millionths of a dollar; `run` reports each payment with `Item.paid`.
    price_micros: ClassVar[int] = 0
    #: Exceptions that mean that the device has no memory left, in addition to `MemoryError`.
    out_of_memory: tuple[type[Exception], ...] = ()

    def load(self, device: str) -> None:
        """Get ready to run on `device` (`cpu`, `cuda`, `cuda:1`); called once per process."""

    def warmup(self) -> None:
        """Run something small once after `load`, so that the first user does not wait for it."""

    def offload(self) -> int:
        """Free the device; return how many bytes of host memory the model keeps. Optional.

        Called between two batches or steps, and only if models take turns on a device. A model
        without it is dropped, and made and loaded again when it is needed.
        """
        raise NotImplementedError

    def onload(self) -> None:
        """Return to the device, in the state before `offload`. Required if `offload` is written."""
        raise NotImplementedError

    def run(self, items: list[Any]) -> list[Any]:
        """Return one result or exception per item, in order.

        An exception in the list fails that item only. If `run` raises, the batch is split in halves
        and run again until the failing item is alone; items that have called `ready` or `paid` fail
        at once instead. Check `item.cancelled` between steps.
        """
        raise NotImplementedError


def can_offload(model: Model) -> bool:
    """Whether a model can leave its device and return without being loaded again."""
    return type(model).offload is not Model.offload
