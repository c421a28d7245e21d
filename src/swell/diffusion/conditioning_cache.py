"""Caches the conditions of the latest prompts of one model."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, TypeAlias

from swell.runtime.lora_switching import LoraSet
from swell.runtime.out_of_memory import with_room
from swell.sdk.step_model import Array, StepModel

#: Limits per model. The conditions of a control net's picture of 1024 px take 12 MiB.
MOST_TEXTS: Final = 256
MOST_TEXTS_BYTES: Final = 256 * 1024 * 1024

#: A prompt, or any input of `StepModel.encode`, and the LoRAs under which it was encoded.
Prompt: TypeAlias = tuple[LoraSet, Hashable]


class ConditioningCache:
    """Conditions by prompt, least recently used first, with their size."""

    def __init__(self, model: StepModel) -> None:
        self._model = model
        self._known: OrderedDict[Prompt, tuple[Mapping[str, Array], int]] = OrderedDict()
        self._size_bytes = 0

    def __getitem__(self, prompt: Prompt) -> Mapping[str, Array]:
        self._known.move_to_end(prompt)
        return self._known[prompt][0]

    def encode(
        self, words: Iterable[Hashable], loras: LoraSet, make_room: Callable[[], bool]
    ) -> dict[Hashable, Exception]:
        """Encode the words that are not cached, in one batch; return the errors by word.

        LoRAs may change the encoders, so a prompt is encoded once per set of LoRAs.
        """
        new = [
            each
            for each in dict.fromkeys(words)
            if each is not None and (loras, each) not in self._known
        ]
        errors: dict[Hashable, Exception] = {}
        if new:
            self._encode(new, loras, errors, make_room)
        return errors

    def _encode(
        self,
        new: list[Hashable],
        loras: LoraSet,
        errors: dict[Hashable, Exception],
        make_room: Callable[[], bool],
    ) -> None:
        try:
            encoded = with_room(self._model, make_room, partial(self._encoded, new))
        except Exception as error:
            if len(new) == 1:
                errors[new[0]] = error
                return
        else:
            self._known.update(zip([(loras, each) for each in new], encoded, strict=True))
            self._size_bytes += sum(size_bytes for _, size_bytes in encoded)
            return
        half = len(new) // 2
        self._encode(new[:half], loras, errors, make_room)
        self._encode(new[half:], loras, errors, make_room)

    def _encoded(self, new: list[Hashable]) -> list[tuple[Mapping[str, Array], int]]:
        conditions = list(self._model.encode(new))
        if len(conditions) != len(new):
            raise TypeError(f"encode() returned {len(conditions)} results for {len(new)} words")
        return [(each, _size_bytes(each)) for each in conditions]

    @property
    def is_full(self) -> bool:
        """Whether it is above its limits."""
        return len(self._known) > MOST_TEXTS or self._size_bytes > MOST_TEXTS_BYTES

    def evict_oldest(self, needed: AbstractSet[Prompt]) -> None:
        """Evict prompts until the cache is within its limits, except for those that are needed."""
        for prompt in list(self._known):
            if not self.is_full:
                return
            if prompt not in needed:
                self._evict(prompt)

    def evict_all_but(self, needed: AbstractSet[Prompt]) -> bool:
        """Evict all prompts that are not needed; return whether there was one."""
        others = [prompt for prompt in self._known if prompt not in needed]
        for prompt in others:
            self._evict(prompt)
        return bool(others)

    def _evict(self, prompt: Prompt) -> None:
        self._size_bytes -= self._known.pop(prompt)[1]


def _size_bytes(conditions: Mapping[str, Any]) -> int:
    """Return the size of arrays, as far as they have `nbytes`."""
    return sum(int(getattr(array, "nbytes", 0)) for array in conditions.values())
