"""The step engine: draws samples of many tasks, step by step, in batches.

`StepEngine` holds samples and advances them. It has no process or socket: its owner calls
`boundary` in a loop, and adds, cancels or hands over samples between two calls. A boundary drops
cancelled samples, decodes a finished one, asks `Scheduler` for the next step, and runs it.

How a model process uses it:

- Each sample of a task is a `Request` for `add`. Its `Item` has the task's seed + index, and the
  task's listener. The listener gets progress and previews, throttled here per sample, and is asked
  before each step whether the task is cancelled. `cancel` also reaches samples that do not run.
- `ended` gets each result once: a value, a function that returns it (`StepModel.decode`), or an
  exception, such as `Reject`, `Cancelled` or `InvalidCheckpoint`. Exceptions of `ended` and of
  listeners end the loop.
- If `boundary` returned False, the process waits for messages. Otherwise it reads the messages that
  are there, until `due_s`, and calls `boundary` again. Samples added by then join the next step.
- `drawn_since` returns latents for checkpoints (`checkpoint_shm.py`), which come back in
  `Request.checkpoint`. The caller makes sure that model version, device and mode are the same.
- `step_costs` are written to disk by model version and device, and passed to the next process.
- With several models on a device, `set_residency` reports each load and removal. `load` is called
  with the name of a model that is needed; if it raises, all samples of that model end with the
  exception. `decode_finished` comes before another model takes its place, and `replace` after it
  was dropped.
- LoRAs are changed when samples with another set are next (`StepModel.adapt`). `swaps` counts them.

In exact mode every step of a batch key has the model's number of rows, so a picture depends on
model version, device and input only. If memory has no room for these rows, the sample is marked
(`is_narrowed`), because its bits may differ. In fast mode, and with `StepModel.batch_invariant`,
steps have as many rows as pay off.

If the device works asynchronously (`Arrays.mark`), a step is queued while the one before runs:
the samples that finish are known in advance. Progress and step costs follow when the device is
done. A device that breaks then ends the loop.

When memory runs out, the rows of keys without samples and the conditions of unused prompts are
released first, and the step, decoding or preparation is tried again. After that fewer rows run. A
sample fails if a single row has no room, or its decoding.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import (
    BatchBuffers,
    BatchKey,
    Conditions,
    Drawn,
    SampleState,
    table_of,
)
from swell.diffusion.batch_scheduler import Decision, Policy, Sample, Scheduler
from swell.diffusion.conditioning_cache import ConditioningCache, Prompt
from swell.diffusion.device_queue import DeviceQueue, Foreseen, Queued
from swell.diffusion.row_limit import halved
from swell.diffusion.step_cost import StepCost
from swell.diffusion.step_cost_store import MOST_KEPT
from swell.runtime.lora_switching import Adapting, Swaps
from swell.runtime.model_residency import is_out_of_memory
from swell.runtime.out_of_memory import with_room
from swell.sdk.context import Cancelled, Item
from swell.sdk.step_model import (
    NOT_FINITE,
    Array,
    Arrays,
    Mark,
    NoiseStream,
    Plan,
    StepModel,
    whole,
)

#: Least seconds between two reports of a sample's progress, except for its last step.
PROGRESS_EVERY_S: Final = 0.05

#: Least seconds between two previews of a sample.
PREVIEW_EVERY_S: Final = 0.4

#: Finished samples that may wait for decoding; more if the latest step had more samples. Beyond
#: that they are decoded before the next step.
MOST_FINISHED: Final = 8

#: Several samples are decoded between two steps if all together take at most this share of a step,
#: and each takes less than a step's time per sample. Otherwise running samples lose more time than
#: finished ones gain.
DECODING: Final = 0.25

#: Batch keys without samples that are kept. Of others only the step costs are kept.
MOST_IDLE_KEYS: Final = 8

#: Steps queued on a device behind the one that runs.
AHEAD: Final = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sample to draw."""

    #: Unique among the samples of a denoiser.
    id: str
    model: StepModel
    #: Input, seed, index and listener.
    item: Item[Any]
    #: Deadline on the denoiser's clock, in seconds.
    deadline_s: float | None = None
    #: From `StepEngine.checkpoint`, of this process or another.
    checkpoint: bytes | None = None


class _Resident:
    """A model and its caches."""

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


class _Key:
    """A batch key: its model, and its rows once a sample has run."""

    def __init__(self, resident: _Resident, most_rows: int) -> None:
        self.resident = resident
        self.most_rows = most_rows
        self.arena: BatchBuffers | None = None
        #: Whether the device had finished the latest step when it returned.
        self.is_at_hand = False


class _Step:
    """The results of one step."""

    def __init__(self) -> None:
        #: Samples that have advanced, and those that failed.
        self.advanced: list[SampleState] = []
        self.failed: list[tuple[SampleState, Exception]] = []
        self.foreseen: list[Foreseen] = []
        #: Position of the device at the end of the step; None if it works synchronously.
        self.mark: Mark | None = None
        #: Begin and end of the latest attempt that advanced samples.
        self.begun_s = self.ended_s = 0.0


class StepEngine:
    """Draws samples step by step.

    Args:
        clock: The clock.
        ended: Called once per sample with its id, and its result or an exception.
        exact: Whether all steps of a batch key have the same number of rows.
        bucket: That number; None for the number of the plan or model.
        step_costs: Step costs of an earlier process, from `step_costs`.
        load: Called with the name of a model that must be brought to the device.
        policy: Trade-offs of the scheduler.
        progress_every_s: Least seconds between two reports of a sample's progress.
        preview_every_s: Least seconds between two previews of a sample.
    """

    def __init__(  # noqa: PLR0913 - all but two have defaults
        self,
        clock: Clock,
        ended: Callable[[str, Any], None],
        *,
        exact: bool = True,
        bucket: int | None = None,
        step_costs: Mapping[str, StepCost] | None = None,
        load: Callable[[str], None] | None = None,
        policy: Policy | None = None,
        progress_every_s: float = PROGRESS_EVERY_S,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._exact = exact
        self._bucket = bucket
        #: Costs of keys that are not registered now, by name, most recently used last.
        self._step_costs = dict(step_costs or {})
        self._load = load
        self._scheduler = Scheduler(policy)
        self._queue = DeviceQueue(clock, self._scheduler)
        self._progress_every_s = progress_every_s
        self._preview_every_s = preview_every_s
        self._residents: dict[str, _Resident] = {}
        self._keys: OrderedDict[BatchKey, _Key] = OrderedDict()
        #: Samples with steps left, and those that wait for decoding.
        self._states: dict[str, SampleState] = {}
        self._finished: deque[SampleState] = deque()
        self._cancelled: set[str] = set()
        #: Time that the host needs to queue a step.
        self._host_s = 0.0
        #: Samples of the latest step, and its duration; 0 for asynchronous devices.
        self._together = 0
        self._step_s = 0.0
        #: LoRA changes by model, of models that had any.
        self.swaps: dict[str, Swaps] = {}
        #: Duration of the latest encoding, and its samples. It counts only if the next step shows
        #: that the device works synchronously.
        self._encoding: tuple[float, dict[str, int]] = (0.0, {})

    def __len__(self) -> int:
        return len(self._states) + len(self._finished)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all samples."""
        return (*self._states, *(state.id for state in self._finished))

    def add(self, requests: Iterable[Request]) -> None:
        """Add samples, which join from the next step on. A sample with a wrong input ends at once.

        Raises:
            ValueError: A sample with this id is already here.
        """
        for request in requests:
            if self._find(request.id) is not None:
                raise ValueError(f"sample {request.id} is already here")
            try:
                state = self._prepared(request)
            except Exception as error:
                self._ended(request.id, error)
                continue
            self._queue.spent_s[state.id] = 0.0
            if state.is_finished:
                self._finished.append(state)
            else:
                self._states[state.id] = state
                self._scheduler.add(
                    Sample(
                        id=state.id,
                        key=state.key,
                        remaining=len(state.table) - state.step,
                        steps=len(state.table),
                        arrived_s=self._clock.monotonic_s(),
                        deadline_s=request.deadline_s,
                        weight=1 / max(1, request.item.count),
                        rows=2 if state.is_guided else 1,
                    )
                )

    def cancel(self, sample_id: str) -> None:
        """Drop a sample at the next boundary. An unknown id is ignored."""
        self._cancelled.add(sample_id)

    def checkpoint(self, sample_id: str) -> bytes | None:
        """Return a checkpoint of a sample, or None if it has no finished step."""
        drawn = self.drawn_since(sample_id, 0)
        return None if drawn is None else drawn.checkpoint()

    def drawn_since(self, sample_id: str, step: int) -> Drawn | None:
        """Return a sample as it is now, or None if it is unknown or still at `step`.

        On an asynchronous device the latents are copied, as the next queued operation: any thread
        may read them later. Otherwise they are read in place.
        """
        state = self._find(sample_id)
        if state is None or state.step == step:
            return None
        key, x, h = self._keys[state.key], state.x, state.h
        if state.row >= 0 and key.arena is not None:
            x, h = key.arena.latents(state)
            if not key.is_at_hand:
                x, h = x * 1, None if h is None else h * 1
        arrays = key.resident.model.arrays
        return Drawn(state, state.step, state.is_narrowed, arrays, x, h, key.is_at_hand)

    def step_of(self, sample_id: str) -> int:
        """Return the number of finished steps of a sample; 0 if it is unknown."""
        state = self._find(sample_id)
        return 0 if state is None else state.step

    def is_narrowed(self, sample_id: str) -> bool:
        """Return whether a sample had a step with fewer rows than exact mode asks for.

        Memory had no room for more. `ended` may still ask.
        """
        state = self._find(sample_id)
        return state is not None and state.is_narrowed

    def take_share(self, sample_id: str) -> float:
        """Return the device time of a sample that ends, in seconds. The next call returns 0."""
        return self._queue.take_spent_s(sample_id)

    def share_so_far(self, sample_id: str) -> float:
        """Return the device time of a sample that continues, in seconds."""
        return self._queue.spent_s.get(sample_id, 0.0)

    def set_residency(self, model: StepModel, *, loaded: bool, load_s: float) -> None:
        """Set whether a model is on the device, and the expected duration of loading it."""
        resident = self._resident(model)
        if loaded and not resident.loaded:
            resident.adapting.brought(model)
        resident.loaded, resident.load_s = loaded, load_s
        if not loaded:
            resident.conditions.evict_all_but(frozenset())
            self._drop_arenas([key for key in self._keys.values() if key.resident is resident])
        self._tell_residency(resident)

    def replace(self, model: StepModel) -> None:
        """Continue with a new object of a model that was dropped."""
        resident = self._residents.get(model.name)
        if resident is None:
            return
        resident.model = model
        resident.conditions = ConditioningCache(model)
        resident.adapting.brought(model)
        for state in [*self._states.values(), *self._finished]:
            if state.key.model == model.name:
                self._prepare_again(state, model)

    def _prepare_again(self, state: SampleState, model: StepModel) -> None:
        """Remove all references of a sample to the object that was dropped."""
        if state.row >= 0 or state.x is not None:
            state.part()
            return
        state.with_words = state.without_words = state.start = None
        try:
            state.plan, state.stream = model.prepare(state.item), _stream_of(model)
        except Exception as error:
            self._end(state, error)

    def decode_finished(self) -> None:
        """Decode all finished samples, and wait for the device: a model is about to leave it."""
        while self._finished:
            self._decode_first()
        self._wait(0)

    def step_costs(self) -> dict[str, StepCost]:
        """Return step costs by batch key, most recently used last.

        They hold for one model version on one device.
        """
        known = {str(key): self._scheduler.cost(key) for key in self._keys}
        others = {name: cost for name, cost in self._step_costs.items() if name not in known}
        return others | known

    @property
    def due_s(self) -> float:
        """When `boundary` must be called next, on the clock; the past for at once."""
        return self._queue.due_s(self._host_s)

    def boundary(self) -> bool:
        """Do the work between two steps, then run one; return whether any sample is left."""
        begun_s, queued = self._clock.monotonic_s(), len(self._queue.queued)
        self._step()
        if len(self._queue.queued) > queued:
            self._host_s = max(self._clock.monotonic_s() - begun_s, 0.9 * self._host_s)
        if self._queue.queued:
            self._wait(AHEAD if self._states or self._finished else 0)
        return bool(self._states or self._finished)

    def _step(self) -> None:
        if self._cancelled:
            self._drop_cancelled()
        if self._finished:
            self._decode()
        decision, states = self._choose()
        if not states:
            return
        key = self._keys[states[0].key]
        if (
            (key.resident.loaded or self._can_bring(key.resident, states))
            and self._adapt(key.resident, states[0])
            and self._ready(key, states)
        ):
            self._take_step(decision, key, states)

    # Between two steps

    def _drop_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        for state in [state for state in self._finished if state.id in cancelled]:
            self._finished.remove(state)
            self._tell_end(state.id, Cancelled())
        for state in [state for state in self._states.values() if state.id in cancelled]:
            self._end(state, Cancelled())

    def _decode(self) -> None:
        """Decode one sample, and more if that takes little time or too many would wait."""
        begun_s, queued = self._clock.monotonic_s(), len(self._queue.queued)
        most = max(MOST_FINISHED, self._together)
        for count in range(1, len(self._finished) + 1):
            self._decode_first()
            if len(self._finished) >= most:
                continue
            # The time that an asynchronous device takes is not known here.
            each_s = (self._clock.monotonic_s() - begun_s) / count
            is_slow = max(self._together, (count + 1) / DECODING) * each_s >= self._step_s
            if len(self._queue.queued) > queued or is_slow:
                break

    def _decode_first(self) -> None:
        state = self._finished[0]
        # `ended` can still ask for its checkpoint.
        self._tell_end(state.id, self._decoded(state))
        self._finished.popleft()
        # It may be kept for its checkpoint.
        state.part()
        self._evict_oldest(self._keys[state.key].resident)

    def _tell_end(self, sample_id: str, result: Any) -> None:
        self._ended(sample_id, result)
        self._queue.take_spent_s(sample_id)

    def _decoded(self, state: SampleState) -> Any:
        if state.item.cancelled:
            return Cancelled()
        resident = self._keys[state.key].resident
        try:
            self._bring(resident)
            begun_s = self._clock.monotonic_s()
            attempt = partial(_decode, resident.model, state)
            result, mark = with_room(resident.model, self._make_room, attempt)
        except Exception as error:
            return error
        if mark is None:
            self._queue.spend(self._clock.monotonic_s() - begun_s, {state.id: 1})
        else:
            decoded = state.id, resident.model.name
            self._queue.queued.append(Queued(begun_s, mark, decoded=decoded))
        return result

    def _choose(self) -> tuple[Decision, list[SampleState]]:
        """Return the next step and its samples, after dropping those that are cancelled."""
        while True:
            decision = self._scheduler.decide(self._clock.monotonic_s())
            states = [self._states[sample.id] for sample in decision.run]
            cancelled = [state for state in states if state.item.cancelled]
            if not cancelled:
                return decision, states
            for state in cancelled:
                self._end(state, Cancelled())

    # A step

    def _take_step(self, decision: Decision, key: _Key, states: Sequence[SampleState]) -> None:
        """Run a step, and handle its results."""
        step = _Step()
        lacking = self._attempt(step, key, decision.bucket, states)
        if lacking is not None and self._make_room():
            del lacking  # and the tensors that its frames hold
            done = {state.id for state in (*step.advanced, *(state for state, _ in step.failed))}
            left = [state for state in states if state.id not in done]
            lacking = self._attempt(step, key, decision.bucket, left)
        for state, reason in step.failed:
            self._end(state, reason)
        if step.advanced:
            key.is_at_hand = step.mark is None
            narrows = not key.resident.model.batch_invariant
            if decision.bucket < (states[0].key.bucket or 0) and narrows:
                for state in step.advanced:
                    state.is_narrowed = True
            self._count(decision, key, step)
        if lacking is not None:
            self._shrink(decision, step, lacking)

    def _attempt(
        self, step: _Step, key: _Key, bucket: int, states: Sequence[SampleState]
    ) -> Exception | None:
        """Advance these samples by one step.

        An exception of the network is attributed to a single sample: the batch is halved until the
        failing sample is alone. The others of a half run again from the same latents.

        Returns:
            The exception of the device if it has no memory for all of them.
        """
        arena, model = key.arena, key.resident.model
        assert arena is not None, "the samples are ready"
        begun_s = self._clock.monotonic_s()
        foreseen: list[Foreseen] = []
        try:
            arena.place(states)
            arena.load(bucket)
            arena.forward(model.denoise)
            for state in states if key.resident.has_preview else ():
                if begun_s - state.previewed_s >= self._preview_every_s:
                    # First, so that a preview that runs out of memory is not tried again at once.
                    state.previewed_s = begun_s
                    foreseen.append((state, arena.foreseen(state)))
        except Exception as error:
            if is_out_of_memory(model, error):
                return error
            if len(states) == 1:
                step.failed.append((states[0], error))
                return None
        else:
            try:
                arena.advance()
                step.mark = model.arrays.mark()
            except Exception as error:
                # The latents may be changed in part.
                step.failed += [(state, error) for state in states]
                return None
            step.begun_s, step.ended_s = begun_s, self._clock.monotonic_s()
            step.advanced += states
            step.foreseen += foreseen
            return None
        half = len(states) // 2
        lacking = self._attempt(step, key, bucket, states[:half])
        return lacking if lacking is not None else self._attempt(step, key, bucket, states[half:])

    def _can_bring(self, resident: _Resident, states: Sequence[SampleState]) -> bool:
        """Bring a model to the device. If that fails, all of its samples end.

        Returns:
            Whether it is there, and all of these samples still are.
        """
        self.decode_finished()
        try:
            self._bring(resident)
        except Exception as error:
            for state in list(self._states.values()):
                if self._keys[state.key].resident is resident:
                    self._end(state, error)
            return False
        return all(state.id in self._states for state in states)

    def _bring(self, resident: _Resident) -> None:
        if resident.loaded:
            return
        self._wait(0)
        if self._load is not None:
            # By name, so that no frame holds the object that is replaced.
            self._load(resident.model.name)
        self.set_residency(resident.model, loaded=True, load_s=resident.load_s)

    def _make_room(self) -> bool:
        """Release memory that no sample needs; return whether there was any."""
        evicted = [
            resident.conditions.evict_all_but(self._needed_prompts(resident))
            for resident in self._residents.values()
        ]
        return self._drop_arenas(self._keys.values()) or any(evicted)

    def _evict_oldest(self, resident: _Resident) -> None:
        if resident.conditions.is_full:
            resident.conditions.evict_oldest(self._needed_prompts(resident))

    def _needed_prompts(self, resident: _Resident) -> AbstractSet[Prompt]:
        """Return the prompts of a model's samples that have steps left."""
        return {
            (state.key.loras, words)
            for state in self._states.values()
            if state.key.model == resident.model.name
            for words in (state.plan.words, state.plan.without)
        }

    def _drop_arenas(self, keys: Iterable[_Key]) -> bool:
        """Release the rows of keys without samples that have begun; return whether any were."""
        busy = {state.key for state in self._states.values() if state.with_words is not None}
        needed = {id(self._keys[key]) for key in busy}
        idle = [key for key in keys if key.arena and id(key) not in needed]
        for key in idle:
            key.arena = None
        return bool(idle)

    def _adapt(self, resident: _Resident, first: SampleState) -> bool:
        """Apply a sample's LoRAs to its model. If that fails, all samples with these LoRAs end."""
        loras = first.key.loras
        if resident.adapting.fits(loras):
            return True
        # Queued steps need the weights as they are.
        self._wait(0)
        reason = resident.adapting.change(first.plan.loras)
        if reason is None and resident.adapting.swaps.count:
            self.swaps[resident.model.name] = resident.adapting.swaps
        elif reason is not None:
            model = first.key.model
            for state in [
                s for s in self._states.values() if (s.key.model, s.key.loras) == (model, loras)
            ]:
                self._end(state, reason)
        self._tell_residency(resident)
        return reason is None

    def _count(self, decision: Decision, key: _Key, step: _Step) -> None:
        """Count a step, and move the samples that it finishes."""
        assert key.arena is not None, "the step ran"
        ids = {state.id for state in step.advanced}
        if len(ids) < len(decision.run):
            ran = tuple(sample for sample in decision.run if sample.id in ids)
            decision = msgspec.structs.replace(decision, run=ran)
        rows = {sample.id: sample.rows for sample in decision.run}
        moved = [(state, state.step) for state in step.advanced]
        self._together = len(moved)
        for sample in self._scheduler.started(decision):
            state = self._states.pop(sample.id)
            key.arena.take(state)
            # It may wait for a while.
            state.with_words = state.without_words = None
            self._finished.append(state)
        encoding, self._encoding = self._encoding, (0.0, {})
        if step.mark is not None:
            self._queue.queued.append(
                Queued(step.begun_s, step.mark, decision, moved, rows, step.foreseen)
            )
            return
        self._step_s = seconds = step.ended_s - step.begun_s
        self._queue.spend(*encoding)
        self._queue.spend(seconds, rows)
        self._scheduler.took(decision, seconds)
        self._tell(moved, step.foreseen, step.ended_s)

    def _wait(self, ahead: int) -> None:
        """Wait until at most this much work is queued, and report the finished steps."""
        for work in self._queue.finished(ahead):
            self._tell(work.moved, work.foreseen, self._clock.monotonic_s())

    def _tell(
        self,
        moved: Iterable[tuple[SampleState, int]],
        foreseen: Iterable[Foreseen],
        now_s: float,
    ) -> None:
        for state, step in moved:
            if now_s - state.told_s >= self._progress_every_s or step == len(state.table):
                state.told_s = now_s
                state.item.progress(step, len(state.table))
        for state, picture in foreseen:
            if self._find(state.id) is state:
                model = self._keys[state.key].resident.model
                state.item.preview(partial(_preview, model, picture, state.item))

    def _shrink(self, decision: Decision, step: _Step, reason: Exception) -> None:
        """Lower the row limit after a step ran out of memory."""
        moved = {state.id for state in step.advanced}
        left = tuple(s for s in decision.run if s.id in self._states and s.id not in moved)
        if not self._scheduler.failed(msgspec.structs.replace(decision, run=left)):
            for sample in left:
                self._end(self._states[sample.id], reason)

    # Samples

    def _find(self, sample_id: str) -> SampleState | None:
        state = self._states.get(sample_id)
        if state is None:
            state = next((each for each in self._finished if each.id == sample_id), None)
        return state

    def _prepared(self, request: Request) -> SampleState:
        model, item = request.model, request.item
        plan = model.prepare(item)
        table = table_of(plan.sampler)
        hash((plan.words, plan.without))  # raises here if they cannot be cached
        own = plan.bucket or (None if model.batch_invariant else model.bucket)
        bucket = (self._bucket or own) if self._exact else None
        loras = self._resident(model).adapting.check(plan.loras)
        key = BatchKey(model.name, plan.shape, table.solver, bucket, plan.key, loras)
        state = SampleState(request.id, item, plan, key, table, stream=_stream_of(model))
        if request.checkpoint is not None:
            state.resume(request.checkpoint, model.arrays)
        if key not in self._keys:
            self._know(key, self._resident(model))
        return state

    def _resident(self, model: StepModel) -> _Resident:
        resident = self._residents.get(model.name)
        if resident is None:
            resident = self._residents[model.name] = _Resident(model, self._clock)
        if resident.model is not model:
            raise ValueError(f"another {model.name} is already here")
        return resident

    def _know(self, key: BatchKey, resident: _Resident) -> None:
        most_rows, name = key.bucket or resident.model.most_rows, str(key)
        like = next((other for other in self._keys if str(other) == name), None)
        self._scheduler.know(
            key,
            most_rows=most_rows,
            cost=self._step_costs.get(name),
            like=like,
            pinned=key.bucket,
            padded=resident.model.padded,
        )
        self._keys[key] = _Key(resident, most_rows)
        self._tell_residency(resident)
        self._forget_idle(key)

    def _tell_residency(self, resident: _Resident) -> None:
        """Tell the scheduler which keys of a model can run now, and how long the others load."""
        adapting = resident.adapting
        for key, known in self._keys.items():
            if known.resident is not resident:
                continue
            fits = adapting.fits(key.loras)
            whole_s = resident.load_s + (adapting.swap_s if key.loras else 0.0)
            self._scheduler.set_residency(
                key,
                loaded=resident.loaded and fits,
                load_s=adapting.swap_s if resident.loaded and not fits else whole_s,
            )

    def _forget_idle(self, newest: BatchKey) -> None:
        busy = {state.key for state in (*self._states.values(), *self._finished)} | {newest}
        idle = [key for key in self._keys if key not in busy]
        for key in idle[: max(0, len(idle) - MOST_IDLE_KEYS)]:
            self._keep_cost(key)
            self._scheduler.forget(key)
            del self._keys[key]

    def _keep_cost(self, key: BatchKey) -> None:
        name = str(key)
        self._step_costs.pop(name, None)
        self._step_costs[name] = self._scheduler.cost(key)
        own = [other for other in self._step_costs if other.startswith(f"{key.model} ")]
        for other in own[:-MOST_KEPT]:
            del self._step_costs[other]

    def _end(self, state: SampleState, error: Exception) -> None:
        """End a sample that has steps left."""
        self._scheduler.cancel(state.id)
        del self._states[state.id]
        arena = self._keys[state.key].arena
        if arena is not None:
            arena.take(state)
        self._evict_oldest(self._keys[state.key].resident)
        self._tell_end(state.id, error)

    # Before a sample's first step

    def _ready(self, key: _Key, states: Sequence[SampleState]) -> bool:
        """Encode the prompts of new samples; return whether the step can run as it was decided."""
        most_rows = key.most_rows
        new = [state for state in states if state.with_words is None]
        if not new:
            return True
        self._keys.move_to_end(new[0].key)
        begun_s = self._clock.monotonic_s()
        words = [w for state in new for w in (state.plan.words, state.plan.without)]
        errors = key.resident.conditions.encode(words, new[0].key.loras, self._make_room)
        self._encoding = self._clock.monotonic_s() - begun_s, {state.id: 1 for state in new}
        for state in new:
            reason = errors.get(state.plan.words) or errors.get(state.plan.without)
            if reason is None:
                introduce = partial(self._introduce, key, state)
                try:
                    with_room(key.resident.model, self._make_room, introduce)
                except Exception as error:
                    reason = error
            if reason is not None:
                self._end(state, reason)
        self._evict_oldest(key.resident)
        return key.most_rows == most_rows and all(state.id in self._states for state in states)

    def _introduce(self, key: _Key, state: SampleState) -> None:
        key.resident.set_conditions(state)
        state.look()
        assert state.with_words is not None, "they were set"
        if key.arena is None:
            key.arena = self._arena(key, state, state.with_words)
        for conditions in (state.with_words, state.without_words):
            if conditions is not None:
                key.arena.check(conditions)

    def _arena(self, key: _Key, first: SampleState, conditions: Conditions) -> BatchBuffers:
        """Return the rows of a key, and lower its row limit if memory has no room for all.

        Raises:
            Exception: There is no room for a single row.
        """
        model = key.resident.model
        while True:
            try:
                return BatchBuffers(first.key, model.arrays, key.most_rows, conditions)
            except Exception as error:
                if not is_out_of_memory(model, error):
                    raise
                if self._make_room():
                    continue
                if key.most_rows == 1:
                    raise
            key.most_rows = halved(key.most_rows)
            self._scheduler.limit(first.key, key.most_rows)


def _stream_of(model: StepModel) -> Callable[[int, Plan], NoiseStream] | None:
    """Return the model's own streams of noise, if it has any."""
    return None if type(model).noise is StepModel.noise else model.noise


def _decode(model: StepModel, state: SampleState) -> tuple[Any, Mark | None]:
    is_finite = model.arrays.is_finite(state.x)
    result = model.decode(state.x, state.item)

    def finite() -> Any:
        if not is_finite():
            raise FloatingPointError(NOT_FINITE)
        return whole(result)

    mark = model.arrays.mark()
    if mark is not None:
        # Encoding waits for the device anyway, so check there.
        return finite, mark
    if not is_finite():
        raise FloatingPointError(NOT_FINITE)
    return result, None


def _preview(model: StepModel, foreseen: Callable[[], Array], item: Any) -> Any:
    return model.preview(foreseen(), item)
