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
- With several models on a device, `set_residency` reports each load and removal. `load` is called
  with the name of a model that is needed; if it raises, all samples of that model end with the
  exception. `decode_finished` comes before another model takes its place, and `replace` after it
  was dropped.
- LoRAs are changed when samples with another set are next (`StepModel.adapt`). `swaps` counts them.

In exact mode every step of a batch key has the model's number of rows, so a picture depends on
model version, device and input only. If memory has no room for these rows, the sample is marked as
narrowed, because its bits may differ. In fast mode, and with `StepModel.batch_invariant`, a step
has as many rows as pay off.

If the device works asynchronously (`Arrays.mark`), a step is queued while the one before runs:
the samples that finish are known in advance. Progress and step costs follow when the device is
done. A device that breaks then ends the loop.

When memory runs out, the rows of keys without samples and the conditions of unused prompts are
released first, and the step, decoding or preparation is tried again. After that fewer rows run. A
sample fails if a single row has no room, or its decoding.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import BatchKey, Drawn, SampleState, table_of
from swell.diffusion.batch_scheduler import Decision, Policy, Scheduler
from swell.diffusion.decoder import Decoder
from swell.diffusion.device_models import DeviceModel, DeviceModels, KeyBuffers
from swell.diffusion.device_queue import DeviceQueue, Step
from swell.sdk.context import Cancelled, Item
from swell.sdk.step_model import NoiseStream, Plan, StepModel

#: Least seconds between two reports of a sample's progress, except for its last step.
PROGRESS_EVERY_S: Final = 0.05

#: Least seconds between two previews of a sample.
PREVIEW_EVERY_S: Final = 0.4

#: Steps queued on a device behind the one that runs.
AHEAD: Final = 1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sample to draw."""

    #: Unique among the samples of an engine.
    id: str
    model: StepModel
    #: Input, seed, index and listener.
    item: Item[Any]
    #: Deadline on the engine's clock, in seconds.
    deadline_s: float | None = None
    #: From `StepEngine.checkpoint`, of this process or another.
    checkpoint: bytes | None = None


class StepEngine:
    """Draws samples step by step.

    Args:
        clock: The clock.
        ended: Called once per sample with its id, and its result or an exception. The sample is
            still in `samples` then.
        exact: Whether all steps of a batch key have the same number of rows.
        bucket: That number; None for the number of the plan or model.
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
        load: Callable[[str], None] | None = None,
        policy: Policy | None = None,
        progress_every_s: float = PROGRESS_EVERY_S,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._exact = exact
        self._bucket = bucket
        self._load = load
        self._preview_every_s = preview_every_s
        #: All samples by id: those with steps left, and those that wait for decoding.
        self.samples: dict[str, SampleState] = {}
        self._cancelled: set[str] = set()
        self._scheduler = Scheduler(policy)
        self.models = DeviceModels(clock, self._scheduler, self.samples)
        self._queue = DeviceQueue(clock, self._scheduler, progress_every_s)
        self._decoder = Decoder(
            clock, self.models, self._queue, bring=self._bring, ended=self._tell_end
        )

    def __len__(self) -> int:
        return len(self.samples)

    # Samples

    def add(self, requests: Iterable[Request]) -> None:
        """Add samples, which join from the next step on. A sample with a wrong input ends at once.

        Raises:
            ValueError: A sample with this id is already here.
        """
        for request in requests:
            if request.id in self.samples:
                raise ValueError(f"sample {request.id} is already here")
            try:
                state = self._prepared(request)
            except Exception as error:
                self._ended(request.id, error)
                continue
            self.samples[state.id] = state
            if state.is_finished:
                self._decoder.waiting.append(state)
            else:
                self._scheduler.add(state)

    def _prepared(self, request: Request) -> SampleState:
        model, item = request.model, request.item
        plan = model.prepare(item)
        table = table_of(plan.sampler)
        hash((plan.words, plan.without))  # raises here if they cannot be cached
        own = plan.bucket or (None if model.batch_invariant else model.bucket)
        bucket = (self._bucket or own) if self._exact else None
        owner = self.models.get(model)
        loras = owner.adapting.check(plan.loras)
        key = BatchKey(model.name, plan.shape, table.solver, bucket, plan.key, loras)
        state = SampleState(request.id, item, plan, key, table, stream=_stream_of(model))
        if request.checkpoint is not None:
            state.resume(request.checkpoint, model.arrays)
        state.arrived_s, state.deadline_s = self._clock.monotonic_s(), request.deadline_s
        self.models.register(key, owner)
        return state

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
        state = self.samples.get(sample_id)
        if state is None or state.step == step:
            return None
        key, x, h = self.models.keys[state.key], state.x, state.h
        if state.row >= 0 and key.buffers is not None:
            x, h = key.buffers.latents(state)
            if not key.is_at_hand:
                x, h = x * 1, None if h is None else h * 1
        arrays = key.owner.model.arrays
        return Drawn(state, state.step, state.is_narrowed, arrays, x, h, key.is_at_hand)

    def device_s(self, sample_id: str) -> float:
        """Return the device time of a sample in seconds, queued work included; 0 if unknown."""
        state = self.samples.get(sample_id)
        return 0.0 if state is None else self._queue.device_s(state)

    def _end(self, state: SampleState, error: Exception) -> None:
        """End a sample that has steps left."""
        self._scheduler.cancel(state.id)
        key = self.models.keys[state.key]
        if key.buffers is not None:
            key.buffers.take(state)
        self._tell_end(state, error)
        self.models.evict_oldest(key.owner)

    def _tell_end(self, state: SampleState, result: Any) -> None:
        self._ended(state.id, result)
        state.has_ended = True
        del self.samples[state.id]

    # Models

    def set_residency(self, model: StepModel, *, loaded: bool, load_s: float) -> None:
        """Set whether a model is on the device, and the expected duration of loading it."""
        self.models.set_residency(self.models.get(model), loaded=loaded, load_s=load_s)

    def replace(self, model: StepModel) -> None:
        """Continue with a new object of a model that was dropped."""
        if not self.models.replace(model):
            return
        for state in [each for each in self.samples.values() if each.key.model == model.name]:
            # No reference to the object that was dropped remains.
            if state.row >= 0 or state.x is not None:
                state.part()
                continue
            state.with_words = state.without_words = state.start = None
            try:
                state.plan, state.stream = model.prepare(state.item), _stream_of(model)
            except Exception as error:
                self._end(state, error)

    def decode_finished(self) -> None:
        """Decode all finished samples, and wait for the device: a model is about to leave it."""
        self._decoder.decode_all()
        self._queue.wait(0)

    # The loop

    @property
    def due_s(self) -> float:
        """When `boundary` must be called next, on the clock; the past for at once."""
        return self._queue.due_s

    def boundary(self) -> bool:
        """Do the work between two steps, then run one; return whether any sample is left."""
        begun_s, queue, queued = self._clock.monotonic_s(), self._queue, len(self._queue)
        if self._cancelled:
            self._drop_cancelled()
        if self._decoder.waiting:
            self._decoder.decode_some()
        decision, states = self._choose()
        if states:
            key = self.models.keys[states[0].key]
            if (
                (key.owner.loaded or self._can_bring(key.owner, states))
                and self._has_loras(key.owner, states[0])
                and self._is_ready(key, states)
            ):
                self._take_step(decision, key, states)
        if len(queue) > queued:
            queue.host_s = max(self._clock.monotonic_s() - begun_s, 0.9 * queue.host_s)
        queue.wait(AHEAD if self.samples else 0)
        return bool(self.samples)

    def _drop_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        for state in [state for state in self.samples.values() if state.id in cancelled]:
            if state.is_finished:
                self._decoder.waiting.remove(state)
                self._tell_end(state, Cancelled())
            else:
                self._end(state, Cancelled())

    def _choose(self) -> tuple[Decision, list[SampleState]]:
        """Return the next step and its samples, after dropping those that are cancelled."""
        while True:
            decision = self._scheduler.decide(self._clock.monotonic_s())
            states = [self.samples[sample.id] for sample in decision.run]
            cancelled = [state for state in states if state.item.cancelled]
            if not cancelled:
                return decision, states
            for state in cancelled:
                self._end(state, Cancelled())

    def _can_bring(self, owner: DeviceModel, states: Sequence[SampleState]) -> bool:
        """Bring a model to the device. If that fails, all of its samples end.

        Returns:
            Whether it is there, and all of these samples still are.
        """
        self.decode_finished()
        try:
            self._bring(owner)
        except Exception as error:
            for state in list(self.samples.values()):
                if self.models.keys[state.key].owner is owner:
                    self._end(state, error)
            return False
        return not any(state.has_ended for state in states)

    def _bring(self, owner: DeviceModel) -> None:
        if owner.loaded:
            return
        self._queue.wait(0)
        if self._load is not None:
            # By name, so that no frame holds the object that is replaced.
            self._load(owner.model.name)
        self.models.set_residency(owner, loaded=True, load_s=owner.load_s)

    def _has_loras(self, owner: DeviceModel, first: SampleState) -> bool:
        """Apply a sample's LoRAs to its model. If that fails, all samples with these LoRAs end."""
        if owner.adapting.fits(first.key.loras):
            return True
        # Queued steps need the weights as they are.
        self._queue.wait(0)
        error = self.models.change_loras(owner, first)
        if error is None:
            return True
        wanted = (first.key.model, first.key.loras)
        for state in list(self.samples.values()):
            if not state.is_finished and (state.key.model, state.key.loras) == wanted:
                self._end(state, error)
        return False

    def _is_ready(self, key: KeyBuffers, states: Sequence[SampleState]) -> bool:
        """Encode the prompts of new samples; return whether the step can run as it was decided."""
        new = [state for state in states if state.with_words is None]
        if not new:
            return True
        most_rows, begun_s = key.most_rows, self._clock.monotonic_s()
        failed = self.models.introduce(key, new)
        self._queue.encoding = self._clock.monotonic_s() - begun_s, new
        for state, error in failed:
            self._end(state, error)
        self.models.evict_oldest(key.owner)
        return key.most_rows == most_rows and not failed

    def _take_step(
        self, decision: Decision, key: KeyBuffers, states: Sequence[SampleState]
    ) -> None:
        """Run a step, and handle its results."""
        step = Step(decision, key, self._clock, self._preview_every_s)
        lacking = step.attempt(states)
        if lacking is not None and self.models.make_room():
            del lacking  # and the tensors that its frames hold
            tried = step.advanced.keys() | step.failed.keys()
            lacking = step.attempt([state for state in states if state not in tried])
        for state, error in step.failed.items():
            self._end(state, error)
        if step.advanced:
            self._count(step)
        if lacking is None:
            return
        left = tuple(s for s in states if not s.has_ended and s not in step.advanced)
        if not self._scheduler.failed(msgspec.structs.replace(decision, run=left)):
            for state in left:
                self._end(state, lacking)

    def _count(self, step: Step) -> None:
        """Count a step, and move the samples that it finishes to the decoder."""
        key, decision, ran = step.key, step.decision, step.advanced
        assert key.buffers is not None, "the step ran"
        if len(ran) < len(decision.run):
            run = tuple(sample for sample in decision.run if sample in ran)
            step.decision = msgspec.structs.replace(decision, run=run)
        key.is_at_hand = step.mark is None
        if not key.owner.model.batch_invariant:
            for state in ran:
                state.is_narrowed |= decision.bucket < (state.key.bucket or 0)
        self._scheduler.started(step.decision)
        for state in ran:
            if state.is_finished:
                key.buffers.take(state)
                # It may wait for a while.
                state.with_words = state.without_words = None
                self._decoder.waiting.append(state)
        self._queue.add(step)


def _stream_of(model: StepModel) -> Callable[[int, Plan], NoiseStream] | None:
    """Return the model's own streams of noise, if it has any."""
    return None if type(model).noise is StepModel.noise else model.noise
