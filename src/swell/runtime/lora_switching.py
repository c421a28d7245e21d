"""Switches the LoRAs on a model's weights, and measures how long that takes."""

from collections.abc import Sequence
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.sdk.context import Reject
from swell.sdk.media import LoRA, combined
from swell.sdk.step_model import StepModel
from swell.weights.lora import WrongLora

#: Content and scale of each LoRA, in a fixed order; empty for none.
LoraSet = tuple[tuple[str, float], ...]

#: Weight of the newest swap in the moving average.
_NEWEST: Final = 0.25


class Swaps(msgspec.Struct, frozen=True):
    """Number and total duration of the changes of a model's LoRAs."""

    count: int = 0
    seconds: float = 0.0


def set_of(loras: Sequence[LoRA]) -> LoraSet:
    """Return the set of LoRAs; samples of one batch have the same."""
    return tuple((lora.digest, lora.scale) for lora in combined(loras))


class Adapting:
    """The LoRAs of one model.

    Args:
        model: The model.
        clock: The time.
    """

    def __init__(self, model: StepModel, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self._takes_loras = type(model).adapt is not StepModel.adapt
        #: The current set; None if it is unknown.
        self._applied: LoraSet | None = ()
        #: Average seconds of a change; 0 before the first.
        self.swap_s = 0.0
        self.swaps = Swaps()

    def fits(self, loras: LoraSet) -> bool:
        """Say whether exactly these are applied."""
        return self._applied == loras

    def check(self, loras: Sequence[LoRA]) -> LoraSet:
        """Return the set of a sample.

        Raises:
            Reject: The model takes no LoRAs.
        """
        if loras and not self._takes_loras:
            raise Reject(f"{self._model.name} draws without LoRAs: ask without any")
        return set_of(loras)

    def change(self, loras: Sequence[LoRA]) -> Exception | None:
        """Apply exactly these; return the error if that fails."""
        before, self._applied = self._applied, None
        start_s = self._clock.monotonic_s()
        try:
            if loras and before is None:
                # A model that was loaded again may expect the LoRAs that it had.
                self._model.adapt(())
            self._model.adapt(combined(loras))
            mark = self._model.arrays.mark()
            if mark is not None:
                mark.wait()
        except WrongLora as error:
            return Reject(error.detail)
        except Exception as error:
            return error
        self._applied = set_of(loras)
        if before or loras:
            count, seconds = self.swaps.count + 1, self._clock.monotonic_s() - start_s
            self.swaps = Swaps(count, self.swaps.seconds + seconds)
            self.swap_s += max(_NEWEST, 1 / count) * (seconds - self.swap_s)
        return None

    def brought(self, model: StepModel) -> None:
        """Note that the model, perhaps another object, was loaded again."""
        self._model = model
        self._applied = None if self._takes_loras else ()
