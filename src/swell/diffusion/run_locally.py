"""`StepModel.run`: draws the items of one call without a worker."""

from collections.abc import Sequence
from typing import Any

from swell.core.clock import Clock, SystemClock
from swell.diffusion.step_engine import Request, StepEngine
from swell.sdk.context import Item
from swell.sdk.step_model import StepModel, whole


class Runs:
    """Draws items in exact mode, and returns when all have ended."""

    def __init__(self, model: StepModel, clock: Clock | None = None) -> None:
        self._model = model
        self._clock = clock or SystemClock()
        self._results: dict[str, Any] = {}
        self._denoiser = self._fresh()

    def _fresh(self) -> StepEngine:
        return StepEngine(self._clock, self._keep, progress_every_s=0.0, preview_every_s=0.0)

    def _keep(self, name: str, result: Any) -> None:
        try:
            self._results[name] = whole(result)
        except Exception as error:
            self._results[name] = error

    def __call__(self, items: Sequence[Item[Any]]) -> list[Any]:
        """Return one result or exception per item, in order; a list for an item with a pack."""
        self._results.clear()
        packs = [self._model.pack(item.input) for item in items]
        samples = {
            f"{number}.{place}": item if size is None else item.of_pack(place, size)
            for number, (item, size) in enumerate(zip(items, packs, strict=True))
            for place in range(1 if size is None else size)
        }
        try:
            self._denoiser.add(
                Request(id=name, model=self._model, item=item) for name, item in samples.items()
            )
            while self._denoiser.boundary():
                pass
        except BaseException:
            # A listener ended the call: drop the samples that are left.
            self._denoiser = self._fresh()
            raise
        return [self._result(number, size) for number, size in enumerate(packs)]

    def _result(self, number: int, size: int | None) -> Any:
        if size is None:
            return self._results[f"{number}.0"]
        found = [self._results[f"{number}.{place}"] for place in range(size)]
        return next((each for each in found if isinstance(each, Exception)), found)
