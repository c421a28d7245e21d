"""A model's weights, with LoRAs put on and taken off.

    self.adapted = AdaptedWeights(self.weights)      # in load: arrays by name, which denoise uses
    self.adapted.apply(loras)                        # in adapt

What a weight was without LoRAs is kept, and every change starts from there: nothing is subtracted,
so taking a LoRA off leaves the very bits that were there before it came.

The latest files are remembered.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from swell.sdk.media import LoRA, combined
from swell.weights.lora import Change, LayerNames, add, read_lora

#: Loaded LoRAs that stay in host memory, as float32. Loading one again from the page cache costs
#: about as much as putting it on.
MOST_LOADED: Final = 8

#: Changes of a weight with their scales; and the same by digest and scale.
_Sum = Sequence[tuple[Change, float]]
_Parts = tuple[tuple[str, float], ...]


class AdaptedWeights:
    """Weights of a model that LoRAs are added to, in place. Arrays of numpy.

    Args:
        weights: The arrays that the model computes with, by name: `down.0.to_q.weight`. Shapes:
            (outputs, inputs, *kernel) of a floating type; others are never touched.
        base: The same without LoRAs, if the caller keeps them. By default each weight is copied
            before its first change.
        ignore: See `LayerNames`.
        rename: See `LayerNames`.

    Guarantees:
        After `apply` every weight depends on the set of LoRAs alone, bit for bit, not on earlier
        LoRAs; after `apply(())` all are those of the base. If `apply` raises `WrongLora` nothing
        has changed; after any other exception the next `apply` sets everything right.
    """

    def __init__(
        self,
        weights: Mapping[str, Any],
        *,
        base: Mapping[str, Any] | None = None,
        ignore: Sequence[str] = (),
        rename: Callable[[str], str] | None = None,
    ) -> None:
        self._weights = weights
        self._base = base
        self._kept: dict[str, Any] = {}
        shapes = {name: tuple(each.shape) for name, each in weights.items() if _is_float(each)}
        self._names = LayerNames(shapes, ignore=ignore, rename=rename)
        #: Loaded LoRAs by digest, the latest used last.
        self._loaded: dict[str, dict[str, Change]] = {}
        #: LoRAs on each changed weight; None while it is being written.
        self._on: dict[str, _Parts | None] = {}

    def check(self, loras: Sequence[LoRA]) -> None:
        """Check that these can be applied, without doing it: for `prepare`.

        Raises:
            WrongLora: One is no LoRA, or one for another model.
            OSError: One cannot be read.
        """
        self._wanted(combined(loras))

    def apply(self, loras: Sequence[LoRA]) -> int:
        """Apply exactly these LoRAs, and remove all others.

        Returns:
            How many weights have changed.

        Raises:
            WrongLora: One is no LoRA, or one for another model.
            OSError: One cannot be read.
        """
        wanted = self._wanted(combined(loras))
        stale = [name for name in self._on if name not in wanted]
        for name in stale:
            self._on[name] = None
            self._restore(self._weights[name], self._base_of(name))
            del self._on[name]
        fresh = {name: told for name, (_, told) in wanted.items() if self._on.get(name) != told}
        self._on.update(dict.fromkeys(fresh))
        for name in fresh:
            self._add(self._weights[name], self._base_of(name), wanted[name][0])
        self._on.update(fresh)
        return len(stale) + len(fresh)

    def moved(self, weights: Mapping[str, Any]) -> None:
        """Take other arrays for the same weights, without LoRAs: the model was loaded again."""
        self._weights = weights
        self._on.clear()

    def _wanted(self, loras: Sequence[LoRA]) -> dict[str, tuple[_Sum, _Parts]]:
        wanted: dict[str, tuple[_Sum, _Parts]] = {}
        for lora in loras:
            placed = self._names.place(self._load(lora), lora.name)
            for name, change in placed.items():
                parts, told = wanted.get(name, ((), ()))
                part = (lora.digest, lora.scale)
                wanted[name] = ((*parts, (change, lora.scale)), (*told, part))
        return wanted

    def _load(self, lora: LoRA) -> dict[str, Change]:
        changes = self._loaded.pop(lora.digest, None) or read_lora(lora.source, lora.name)
        self._loaded[lora.digest] = changes
        if len(self._loaded) > MOST_LOADED:
            del self._loaded[next(iter(self._loaded))]
        return changes

    def _base_of(self, name: str) -> Any:
        if self._base is not None:
            return self._base[name]
        if name not in self._kept:
            self._kept[name] = self._copy(self._weights[name])
        return self._kept[name]

    # What differs between numpy and torch

    def _copy(self, weight: Any) -> Any:
        return weight.copy()

    def _restore(self, weight: Any, base: Any) -> None:
        np.copyto(weight, base)

    def _add(self, weight: Any, base: Any, parts: _Sum) -> None:
        add(base, parts, weight)


def _is_float(array: Any) -> bool:
    """Return whether numpy or torch computes with it as it is: quantised weights are integers."""
    kind = getattr(array.dtype, "kind", None)
    return bool(array.dtype.is_floating_point) if kind is None else kind == "f"
