"""The models of a device: their LoRAs, cached conditions, batch keys, buffers and step costs."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final

import numpy as np

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import BatchBuffers, BatchKey, SampleState
from swell.diffusion.batch_scheduler import Scheduler
from swell.diffusion.conditioning_cache import ConditioningCache, Prompt
from swell.diffusion.row_limit import halved
from swell.diffusion.step_cost import StepCost
from swell.runtime.lora_switching import Adapting, Swaps
from swell.runtime.model_residency import is_out_of_memory
from swell.runtime.out_of_memory import with_room
from swell.sdk.step_model import Array, Arrays, StepModel

#: Batch keys without samples that are kept. Of others only the step costs are kept.
MOST_IDLE_KEYS: Final = 8

#: Batch keys with step costs that are kept, the most recently used ones.
MOST_COSTS: Final = 1024


class DeviceModel:
    """A model with its LoRAs and cached conditions."""

    def __init__(self, model: StepModel, clock: Clock) -> None:
        self.model = model
        self.conditions = ConditioningCache(model)
        self.adapting = Adapting(model, clock)
        self.loaded = True
        self.load_s = 0.0
        self.has_preview = type(model).preview is not StepModel.preview

    def set_conditions(self, state: SampleState) -> None:
        """Set the conditions of a sample's rows from the cache and its plan."""
        plan, arrays = state.plan, self.model.arrays
        values = {name: _put(arrays, value) for name, value in plan.values.items()}
        loras = state.key.loras
        words = {} if plan.words is None else self.conditions[loras, plan.words]
        state.with_words = {**words, **values}
        if not state.is_guided:
            return
        if plan.without is None:
            without = {name: arrays.rows(value, 1)[0] for name, value in words.items()}
            state.without_words = {**without, **values}
        else:
            state.without_words = {**self.conditions[loras, plan.without], **values}


def _put(arrays: Arrays, value: Any) -> Array:
    if isinstance(value, float):
        value = np.float32(value)
    if isinstance(value, int | list | tuple | np.ndarray | np.generic):
        return arrays.put(np.asarray(value))
    return value


class KeyBuffers:
    """The buffers of a batch key; None until one of its samples runs."""

    def __init__(self, owner: DeviceModel, most_rows: int) -> None:
        self.owner = owner
        self.most_rows = most_rows
        self.buffers: BatchBuffers | None = None
        #: Whether the device had finished the latest step when it returned.
        self.is_at_hand = False


class DeviceModels:
    """All models and batch keys of a step engine.

    Args:
        clock: The clock.
        scheduler: Learns the batch keys, and which of them can run.
        samples: All samples of the engine.
    """

    def __init__(
        self,
        clock: Clock,
        scheduler: Scheduler,
        samples: Mapping[str, SampleState],
    ) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self._samples = samples
        #: By name of the batch key, also of keys that were removed; most recently used last.
        self.step_costs: dict[str, StepCost] = {}
        self.by_name: dict[str, DeviceModel] = {}
        self.keys: OrderedDict[BatchKey, KeyBuffers] = OrderedDict()
        #: LoRA changes by model, of models that had any.
        self.swaps: dict[str, Swaps] = {}

    def get(self, model: StepModel) -> DeviceModel:
        """Return the entry of a model, which is new or known already."""
        found = self.by_name.get(model.name)
        if found is None:
            found = self.by_name[model.name] = DeviceModel(model, self._clock)
        if found.model is not model:
            raise ValueError(f"another {model.name} is already here")
        return found

    def set_residency(self, owner: DeviceModel, *, loaded: bool, load_s: float) -> None:
        """Set whether a model is on the device, and the expected duration of loading it."""
        if loaded and not owner.loaded:
            owner.adapting.brought(owner.model)
        owner.loaded, owner.load_s = loaded, load_s
        if not loaded:
            owner.conditions.evict_all_but(frozenset())
            self._drop_buffers([key for key in self.keys.values() if key.owner is owner])
        self._tell_residency(owner)

    def replace(self, model: StepModel) -> bool:
        """Continue with a new object of a model; return whether the model is known."""
        owner = self.by_name.get(model.name)
        if owner is None:
            return False
        owner.model = model
        owner.conditions = ConditioningCache(model)
        owner.adapting.brought(model)
        return True

    def change_loras(self, owner: DeviceModel, state: SampleState) -> Exception | None:
        """Apply a sample's LoRAs to its model; return the error if that fails."""
        error = owner.adapting.change(state.plan.loras)
        if error is None and owner.adapting.swaps.count:
            self.swaps[owner.model.name] = owner.adapting.swaps
        self._tell_residency(owner)
        return error

    # Batch keys

    def register(self, key: BatchKey, owner: DeviceModel) -> None:
        """Add a batch key, unless it is known."""
        if key in self.keys:
            return
        most_rows = key.bucket or owner.model.most_rows
        self._scheduler.know(
            key,
            most_rows=most_rows,
            cost=self.step_costs.setdefault(str(key), StepCost()),
            pinned=key.bucket,
            padded=owner.model.padded,
        )
        self.keys[key] = KeyBuffers(owner, most_rows)
        self._tell_residency(owner)
        self._forget_idle(key)

    def _tell_residency(self, owner: DeviceModel) -> None:
        """Tell the scheduler which keys of a model can run now, and how long the others load."""
        adapting = owner.adapting
        for key, known in self.keys.items():
            if known.owner is not owner:
                continue
            fits = adapting.fits(key.loras)
            whole_s = owner.load_s + (adapting.swap_s if key.loras else 0.0)
            self._scheduler.set_residency(
                key,
                loaded=owner.loaded and fits,
                load_s=adapting.swap_s if owner.loaded and not fits else whole_s,
            )

    def _forget_idle(self, newest: BatchKey) -> None:
        """Remove the keys that were idle longest, and the oldest step costs."""
        busy = {state.key for state in self._samples.values()} | {newest}
        idle = [key for key in self.keys if key not in busy]
        for key in idle[: max(0, len(idle) - MOST_IDLE_KEYS)]:
            self._scheduler.forget(key)
            del self.keys[key]
        for name in list(self.step_costs)[:-MOST_COSTS]:
            del self.step_costs[name]

    # Before a sample's first step

    def introduce(
        self, key: KeyBuffers, new: Sequence[SampleState]
    ) -> list[tuple[SampleState, Exception]]:
        """Encode the prompts of new samples and allocate buffers; return the samples that fail."""
        owner, failed = key.owner, []
        self.keys.move_to_end(new[0].key)
        name = str(new[0].key)
        self.step_costs.pop(name, None)
        self.step_costs[name] = self._scheduler.cost(new[0].key)
        words = [each for state in new for each in (state.plan.words, state.plan.without)]
        errors = owner.conditions.encode(words, new[0].key.loras, self.make_room)
        for state in new:
            error = errors.get(state.plan.words) or errors.get(state.plan.without)
            if error is None:
                try:
                    with_room(owner.model, self.make_room, partial(self._introduce, key, state))
                except Exception as raised:
                    error = raised
            if error is not None:
                failed.append((state, error))
        return failed

    def _introduce(self, key: KeyBuffers, state: SampleState) -> None:
        key.owner.set_conditions(state)
        state.look()
        if key.buffers is None:
            key.buffers = self._new_buffers(key, state)
        for conditions in (state.with_words, state.without_words):
            if conditions is not None:
                key.buffers.check(conditions)

    def _new_buffers(self, key: KeyBuffers, first: SampleState) -> BatchBuffers:
        """Return buffers, and lower the row limit of the key if memory has no room for all rows.

        Raises:
            Exception: There is no room for a single row.
        """
        model = key.owner.model
        assert first.with_words is not None, "they were set"
        while True:
            try:
                return BatchBuffers(first.key, model.arrays, key.most_rows, first.with_words)
            except Exception as error:
                if not is_out_of_memory(model, error):
                    raise
                if self.make_room():
                    continue
                if key.most_rows == 1:
                    raise
            key.most_rows = halved(key.most_rows)
            self._scheduler.limit(first.key, key.most_rows)

    # Memory

    def make_room(self) -> bool:
        """Release memory that no sample needs; return whether there was any."""
        evicted = [
            owner.conditions.evict_all_but(self._needed_prompts(owner))
            for owner in self.by_name.values()
        ]
        return self._drop_buffers(self.keys.values()) or any(evicted)

    def evict_oldest(self, owner: DeviceModel) -> None:
        """Bring a model's cache of conditions within its limits."""
        if owner.conditions.is_full:
            owner.conditions.evict_oldest(self._needed_prompts(owner))

    def _needed_prompts(self, owner: DeviceModel) -> AbstractSet[Prompt]:
        """Return the prompts of a model's samples that have steps left."""
        return {
            (state.key.loras, words)
            for state in self._samples.values()
            if state.key.model == owner.model.name and not state.is_finished
            for words in (state.plan.words, state.plan.without)
        }

    def _drop_buffers(self, keys: Iterable[KeyBuffers]) -> bool:
        """Release the buffers of keys without samples that have begun; return whether any were."""
        busy = {state.key for state in self._samples.values() if state.with_words is not None}
        needed = {id(self.keys[key]) for key in busy}
        idle = [key for key in keys if key.buffers and id(key) not in needed]
        for key in idle:
            key.buffers = None
        return bool(idle)
