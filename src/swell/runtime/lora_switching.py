"""Which LoRAs are on a model's weights, and what changing them takes.

A swap is the change from one set of LoRAs to another on a model that stays on its device. It is
counted and timed here, and nowhere else.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.sdk.context import Reject
from swell.sdk.media import LoRA, combined
from swell.sdk.step_model import StepModel
from swell.weights.lora import WrongLora

#: Content and scale of each LoRA of a set, in its one order; empty for none.
LoraSet = tuple[tuple[str, float], ...]

#: Weight of the newest swap in the moving average.
_NEWEST: Final = 0.25


class Swaps(msgspec.Struct, frozen=True):
    """How often the LoRAs of a model were changed, and how long that took in all."""

    count: int = 0
    seconds: float = 0.0


def set_of(loras: Sequence[LoRA]) -> LoraSet:
    """Return what samples must have in common to run together."""
    return tuple((lora.digest, lora.scale) for lora in combined(loras))


class Adapting:
    """The LoRAs of one model.

    Args:
        model: What to change.
        clock: For what it takes.
    """

    def __init__(self, model: StepModel, clock: Clock) -> None:
        self._model = model
        self._clock = clock
        self._takes_loras = type(model).adapt is not StepModel.adapt
        #: What is on; None if nobody knows.
        self._applied: LoraSet | None = ()
        #: What a swap takes, as a moving average; 0 before the first.
        self.swap_s = 0.0
        self.swaps = Swaps()

    def fits(self, loras: LoraSet) -> bool:
        """Return whether just these are on."""
        return self._applied == loras

    def check(self, loras: Sequence[LoRA]) -> LoraSet:
        """Return the set that a sample asks for.

        Raises:
            Reject: The model takes none.
        """
        if loras and not self._takes_loras:
            raise Reject(f"{self._model.name} draws without LoRAs: ask without any")
        return set_of(loras)

    def change(self, loras: Sequence[LoRA]) -> Exception | None:
        """Put these on, and take off all others; return why that cannot be done, if so."""
        before, self._applied = self._applied, None
        start_s = self._clock.monotonic_s()
        try:
            if loras and before is None:
                # The model may take for changed what came back without.
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
            # One that came back, and is only told to have none, is not changed.
            self._note(self._clock.monotonic_s() - start_s)
        return None

    def _note(self, seconds: float) -> None:
        count = self.swaps.count + 1
        self.swaps = Swaps(count, self.swaps.seconds + seconds)
        self.swap_s += max(_NEWEST, 1 / count) * (seconds - self.swap_s)

    def brought(self, model: StepModel) -> None:
        """Note that the model, perhaps another object, is on its device anew."""
        self._model = model
        self._applied = None if self._takes_loras else ()
