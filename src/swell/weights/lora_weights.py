"""A model's weights, with LoRAs put on and taken off.

    self.adapted = AdaptedWeights(self.weights)      # in load: arrays by name, which denoise uses
    self.adapted.apply(loras)                        # in adapt

What a weight was without LoRAs is kept, and every change starts from there: nothing is subtracted,
so taking a LoRA off leaves the very bits that were there before it came.

Files are loaded once and remembered, the latest used, by a budget of bytes.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from swell.sdk.media import LoRA, combined
from swell.weights.lora import Change, LayerNames, add, read_lora

#: What loaded LoRAs may take in host memory, as float32: a dozen of usual size (20 MB to 200 MB in
#: half precision). Loading one again from the page cache costs about as
#: much as putting it on.
MEMORY_BYTES: Final = 2 << 30

#: Changes of a weight with their scales; and the same by digest and scale.
_Sum = Sequence[tuple[Change, float]]
_Parts = tuple[tuple[str, float], ...]


class LoraMemory:
    """Loaded LoRAs in host memory, the latest used.

    Args:
        budget_bytes: Limit of all together. A larger LoRA is loaded each time.
    """

    def __init__(self, budget_bytes: int = MEMORY_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._known: OrderedDict[str, dict[str, Change]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, lora: LoRA) -> dict[str, Change]:
        """Return what a LoRA adds, by the layer names of its file.

        Raises:
            WrongLora: The file is no LoRA.
            OSError: It cannot be read.
        """
        known = self._known.get(lora.digest)
        if known is not None:
            self._known.move_to_end(lora.digest)
            return known
        loaded = read_lora(lora.source, lora.name)
        size_bytes = _size_bytes(loaded)
        if size_bytes <= self._budget_bytes:
            self._known[lora.digest] = loaded
            self.size_bytes += size_bytes
            while self.size_bytes > self._budget_bytes:
                _, oldest = self._known.popitem(last=False)
                self.size_bytes -= _size_bytes(oldest)
        return loaded


def _size_bytes(changes: Mapping[str, Change]) -> int:
    return sum(change.size_bytes for change in changes.values())


class AdaptedWeights:
    """Weights of a model that LoRAs are added to, in place. Arrays of numpy.

    Args:
        weights: The arrays that the model computes with, by name: `down.0.to_q.weight`. Shapes:
            (outputs, inputs, *kernel) of a floating type; others are never touched.
        base: The same without LoRAs, if the caller keeps them. By default each weight is copied
            before its first change.
        ignore: See `LayerNames`.
        rename: See `LayerNames`.
        memory: Loaded LoRAs; may be shared between models.

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
        memory: LoraMemory | None = None,
    ) -> None:
        self._weights = weights
        self._base = base
        self._kept: dict[str, Any] = {}
        shapes = {name: tuple(each.shape) for name, each in weights.items() if _is_float(each)}
        self._names = LayerNames(shapes, ignore=ignore, rename=rename)
        self._memory = LoraMemory() if memory is None else memory
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
            placed = self._names.place(self._memory.get(lora), lora.name)
            for name, change in placed.items():
                parts, told = wanted.get(name, ((), ()))
                part = (lora.digest, lora.scale)
                wanted[name] = ((*parts, (change, lora.scale)), (*told, part))
        return wanted

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
