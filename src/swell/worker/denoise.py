"""The loop that draws: samples of many tasks, one step after another, in as few batches as pays.

`Denoiser` holds samples and moves them. It has no socket or process of its own: who owns it calls
`boundary` over and over, and between two calls adds samples, cancels them, or takes them away. At
each boundary it drops who was cancelled, decodes one finished sample, or some if that takes next to
nothing, asks `Scheduler` which samples run, and runs one step.

What a model process does with it:

- A `StepModel` gets no batches. Each task's samples go to `add` as they arrive, one `Request` each,
  whose `Item` has the task's seed + index, and the task's listener. The listener hears progress and
  previews, throttled here per sample, and says whether the task is cancelled. That is asked before
  each step of a sample; `cancel` also reaches those whose turn has not come.
- Results come one by one through `ended`, as they are finished: a value, a function that returns
  it (`StepModel.decode`), or an exception, exactly once per sample. `Reject`,
  `Cancelled` and `InvalidCheckpoint` are among the exceptions.
- In its loop the process waits for the worker's word if `boundary` returned False, else reads what
  was said meanwhile without waiting, and calls `boundary` again. Nobody waits for a full batch.
- To hand over: a checkpoint of each of `ids` is left for the worker (`drawn_since`, `slate.py`),
  and comes back with the next attempt in `Request.checkpoint`. None means that nothing is lost by
  starting anew. It has the size of the latents, 64 KiB to 1 MiB. That model version, device and
  mode are the same is not looked at.
- `step_costs` are written to disk now and then, by model version and device, and read at the start.
- With several models on a device: `set_residency` whenever one was loaded or moved out. `load` is
  called with the name of one that is not there when it is its turn; if it raises, all samples of
  that model end with the exception. `decode_finished` before another one takes a model's place, and
  `replace` as soon as one was dropped: nothing of it is held from then on.
- Between two calls it may wait for words of the worker until `due_s`: a device that works by itself
  needs nothing before, and who comes until then takes part in the next step.
- LoRAs are changed when it is the turn of samples with others than are on (`StepModel.adapt`). What
  that took is in `swaps`, and the scheduler counts with it.
- Exceptions of `ended` and of listeners are not caught: they end the loop, as a lost worker should.

In exact mode every step of a batch key has the model's own number of rows, so a picture depends on
nothing but model version, device and input. Where memory has no room for so many, it may have other
bits, which is known of each sample (`is_narrowed`). In fast mode, and where rows have the same bits
in any company (`StepModel.batch_invariant`), steps have as many rows as pay off.

Where the device works by itself (`Arrays.mark`), a step is told to it while the one before runs,
and nothing waits for it in between: the number of steps is known, and so is who will be finished.
What people hear of a step, and what it took, comes when the device is there. A device that breaks
then takes the loop with it.

An error of the network is the fault of one sample until shown otherwise: the batch is halved until
the one to blame is alone. Whoever shares a half with it just runs again, from the same latents.
Where memory runs out, rows of keys with nothing to draw go first, and conditions of words that
nobody has who is here: then what failed is tried once more, be it a step, a decoding, or what comes
before a first step. If that is of no use, fewer rows run from then on; where a single row finds no
room, and in a decoding, the sample fails.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
import numpy as np

from swell.core.clock import Clock, SystemClock
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
from swell.worker.adapt import Adapting, LoraSet, Swaps
from swell.worker.arena import Arena, BatchKey, Conditions, Raw, SampleState, packed, table_of
from swell.worker.device import is_out_of_memory
from swell.worker.row_limit import halved
from swell.worker.scheduler import Decision, Policy, Sample, Scheduler
from swell.worker.step_cost import StepCost
from swell.worker.step_cost_store import MOST_KEPT

#: A sample tells its progress at most this often, except for its last step.
PROGRESS_EVERY_S: Final = 0.05

#: A sample offers a preview at most this often.
PREVIEW_EVERY_S: Final = 0.4

#: Texts per model whose conditions are remembered, and what these may have together: a control
#: net's picture of 1024 px has 12 MiB. Beyond that the oldest are forgotten that nobody here needs.
MOST_TEXTS: Final = 256
MOST_TEXTS_BYTES: Final = 256 * 1024 * 1024

#: Finished samples that may wait, in samples of the latest step, and at least. Beyond that they are
#: decoded before the next step.
MOST_FINISHED: Final = 8

#: More than one is decoded between two steps where all together take no longer than so much of a
#: step, and each of them less than a step's share of one sample: otherwise those who wait for their
#: steps lose more than who is finished gains.
DECODING: Final = 0.25

#: Batch keys that are remembered though they have no samples; of others, only their step costs.
MOST_IDLE_KEYS: Final = 8

#: Steps that a device knows of beside the one that it runs.
AHEAD: Final = 1

#: A device is told the next step when so much of the present one is left: early enough to have no
#: gap, and late enough for whoever comes meanwhile.
LEAD: Final = 0.1


ResultT = TypeVar("ResultT")

#: Words, and under which LoRAs.
_Said: TypeAlias = tuple[LoraSet, Hashable]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sample to draw."""

    #: Unique among those that are here.
    id: str
    model: StepModel
    #: Its input, seed and index, and who hears of it.
    item: Item[Any]
    #: When it must be finished, in seconds of the denoiser's clock.
    deadline_s: float | None = None
    #: From `Denoiser.checkpoint`, here or elsewhere.
    checkpoint: bytes | None = None


class Drawn:
    """A sample after some of its steps. See `Denoiser.drawn_since`."""

    __slots__ = ("_arrays", "_h", "_raw", "_x", "is_at_hand", "is_narrowed", "state", "step")

    def __init__(
        self,
        state: SampleState,
        arrays: Arrays,
        x: Array,
        h: Array | None,
        is_at_hand: bool,
    ) -> None:
        self.state = state
        #: So many are over.
        self.step, self.is_narrowed = state.step, state.is_narrowed
        self._arrays = arrays
        self._x = x
        self._h = h
        #: What `read` returns, where that lies there already; then there is nothing else.
        self._raw = state.raw
        #: Whether reading it waits for no device. Then it must be read before the next step, else
        #: it stays as it is.
        self.is_at_hand = is_at_hand

    @property
    def shape(self) -> tuple[int, int]:
        """Bytes of its latents, and of what its solver keeps."""
        size = 4 * int(np.prod(self.state.plan.shape))
        return size, size * self.state.table.solver.history

    def read(self) -> Raw:
        """Return both, as a `Checkpoint` has them; waits for the device."""
        if self._raw is not None:
            return self._raw
        x = packed(self._arrays.get(self._x))
        return x, None if self._h is None else packed(self._arrays.get(self._h))

    def checkpoint(self) -> bytes:
        """Return both as a checkpoint; waits for the device."""
        return self.state.checkpoint(self.read(), self.step, self.is_narrowed)


# --- where memory runs out -----------------------------------------------------------------------


def _with_room(
    model: StepModel, make_room: Callable[[], bool], attempt: Callable[[], ResultT]
) -> ResultT:
    """Do something; once more where memory ran out and some could be given up."""
    try:
        return attempt()
    except Exception as error:
        if not (is_out_of_memory(model, error) and make_room()):
            raise
    # By now the error is gone, with all that its calls held.
    return attempt()


# --- what is remembered --------------------------------------------------------------------------


class _Texts:
    """Conditions of the latest words of one model, each with its bytes."""

    def __init__(self, model: StepModel) -> None:
        self._model = model
        self._known: OrderedDict[_Said, tuple[Mapping[str, Array], int]] = OrderedDict()
        self._size_bytes = 0

    def __getitem__(self, key: _Said) -> Mapping[str, Array]:
        self._known.move_to_end(key)
        return self._known[key][0]

    def learn(
        self, words: Iterable[Hashable], loras: LoraSet, make_room: Callable[[], bool]
    ) -> dict[Hashable, Exception]:
        """Encode what is new, in one batch; return what cannot be encoded, and why.

        LoRAs may change what words become, so what was learnt under some is not known under others.
        """
        new = [
            one
            for one in dict.fromkeys(words)
            if one is not None and (loras, one) not in self._known
        ]
        wrong: dict[Hashable, Exception] = {}
        if new:
            self._encode(new, loras, wrong, make_room)
        return wrong

    def _encode(
        self,
        new: list[Hashable],
        loras: LoraSet,
        wrong: dict[Hashable, Exception],
        make_room: Callable[[], bool],
    ) -> None:
        try:
            encoded = _with_room(self._model, make_room, partial(self._encoded, new))
        except Exception as error:
            if len(new) == 1:
                wrong[new[0]] = error
                return
        else:
            self._known.update(zip([(loras, one) for one in new], encoded, strict=True))
            self._size_bytes += sum(size_bytes for _, size_bytes in encoded)
            return
        half = len(new) // 2
        self._encode(new[:half], loras, wrong, make_room)
        self._encode(new[half:], loras, wrong, make_room)

    def _encoded(self, new: list[Hashable]) -> list[tuple[Mapping[str, Array], int]]:
        conditions = list(self._model.encode(new))
        if len(conditions) != len(new):
            raise TypeError(f"encode() returned {len(conditions)} results for {len(new)} words")
        return [(each, _size_bytes(each)) for each in conditions]

    @property
    def are_too_many(self) -> bool:
        return len(self._known) > MOST_TEXTS or self._size_bytes > MOST_TEXTS_BYTES

    def forget_oldest(self, needed: AbstractSet[_Said]) -> None:
        """Forget those that are too many; what is needed is in memory in any case."""
        for said in list(self._known):
            if not self.are_too_many:
                return
            if said not in needed:
                self._forget(said)

    def forget_all_but(self, needed: AbstractSet[_Said]) -> bool:
        """Forget what is not needed; say whether there was any."""
        others = [said for said in self._known if said not in needed]
        for said in others:
            self._forget(said)
        return bool(others)

    def _forget(self, said: _Said) -> None:
        self._size_bytes -= self._known.pop(said)[1]


def _size_bytes(conditions: Mapping[str, Array]) -> int:
    """Return what arrays have together; of those that do not say it, nothing is known."""
    return sum(int(getattr(array, "nbytes", 0)) for array in conditions.values())


class _Resident:
    """A model, and what is remembered of it."""

    def __init__(self, model: StepModel, clock: Clock) -> None:
        self.model = model
        self.texts = _Texts(model)
        self.adapting = Adapting(model, clock)
        self.loaded = True
        self.load_s = 0.0
        self.has_preview = type(model).preview is not StepModel.preview

    def tell(self, state: SampleState) -> None:
        """Put together what the network hears of a sample whose words are known."""
        plan, arrays = state.plan, self.model.arrays
        values = {name: _put(arrays, value) for name, value in plan.values.items()}
        loras = state.key.loras
        words = {} if plan.words is None else self.texts[loras, plan.words]
        state.with_words = {**words, **values}
        if not state.is_guided:
            return
        if plan.without is None:
            without = {name: arrays.rows(value, 1)[0] for name, value in words.items()}
            state.without_words = {**without, **values}
        else:
            state.without_words = {**self.texts[loras, plan.without], **values}


def _put(arrays: Arrays, value: Any) -> Array:
    if isinstance(value, float):
        value = np.float32(value)
    if isinstance(value, int | list | tuple | np.ndarray | np.generic):
        return arrays.put(np.asarray(value))
    return value


class _Key:
    """A batch key: whose it is, and its memory once a sample has run."""

    def __init__(self, resident: _Resident, most_rows: int) -> None:
        self.resident = resident
        self.most_rows = most_rows
        self.arena: Arena | None = None
        #: Whether its device had done all of the latest step when it was told.
        self.is_at_hand = False


# --- one step ------------------------------------------------------------------------------------


class _NoMemory(Exception):
    """The device has no memory left; `reason` is what it said."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class _Step:
    """One step of a batch, in as many attempts as it takes."""

    def __init__(
        self,
        model: StepModel,
        arena: Arena,
        decision: Decision,
        clock: Clock,
        asked: Callable[[], None],
    ) -> None:
        self._model = model
        self._asked = asked
        self._arena = arena
        self._clock = clock
        self._departed_s = 0.0
        #: When the latest attempt was told in which somebody moved, and until when.
        self.begun_s = self.told_s = 0.0
        #: A sample shows what is foreseen of it at most this often; NaN where none does.
        self.preview_every_s = math.nan
        self.renew(decision.bucket)

    def renew(self, bucket: int) -> None:
        """Be the next step of the same samples, with so many rows.

        When the one before was told, and what it took, is known until somebody moves.
        """
        self._bucket = bucket
        #: Who has moved, and who cannot.
        self.advanced: Sequence[SampleState] = ()
        self.failed: Sequence[tuple[SampleState, Exception]] = ()
        #: Where the device is when it is done; None if it was when it was told.
        self.mark: Mark | None = None
        #: What previews are to show, by sample.
        self.foreseen: Sequence[tuple[SampleState, Callable[[], Array]]] = ()

    def _forward(self, states: Sequence[SampleState]) -> None:
        """Ask the network."""
        self._departed_s = self._clock.monotonic_s()
        self._arena.place(states)
        self._arena.load(self._bucket)
        self._asked()
        self._arena.forward(self._model.denoise, self._bucket)

    def run(self, states: Sequence[SampleState]) -> None:
        """Move these samples; take note of the picture that is foreseen, of those to be shown.

        Args:
            states: Who runs.

        Raises:
            _NoMemory: Those that are neither among the advanced nor the failed did not move.
        """
        arena = self._arena
        try:
            self._forward(states)
            unseen_s = self._departed_s - self.preview_every_s
            foreseen = [self._foreseen(state) for state in states if state.previewed_s <= unseen_s]
        except Exception as error:
            if is_out_of_memory(self._model, error):
                raise _NoMemory(error) from error
            if len(states) == 1:
                self.failed = [*self.failed, (states[0], error)]
                return
            half = len(states) // 2
            self.run(states[:half])
            self.run(states[half:])
            return
        try:
            arena.advance()
            self.mark = self._model.arrays.mark()
        except Exception as error:
            # Their latents may be half moved.
            self.failed = [*self.failed, *((state, error) for state in states)]
            return
        self.begun_s = self._departed_s
        self.told_s = self._clock.monotonic_s()
        self.advanced = [*self.advanced, *states]
        if foreseen:
            self.foreseen = [*self.foreseen, *foreseen]

    def _foreseen(self, state: SampleState) -> tuple[SampleState, Callable[[], Array]]:
        # First, so that nobody asks again where there is no memory for it.
        state.previewed_s = self._departed_s
        return state, self._arena.foreseen(state)

    def left(self, states: Sequence[SampleState]) -> Sequence[SampleState]:
        """Return those of them who have not moved and still can."""
        done = {state.id for state in (*self.advanced, *(state for state, _ in self.failed))}
        return [state for state in states if state.id not in done]


def _lacking(step: _Step, states: Sequence[SampleState]) -> Exception | None:
    """Run a step; return what the device said if it has no memory for all of it."""
    try:
        step.run(states)
    except _NoMemory as error:
        return error.reason
    return None


class _Company:
    """Who was chosen to run, and what they need, as long as all of that stays."""

    __slots__ = ("key", "rows", "run", "states", "step")

    def __init__(self, run: tuple[Sample, ...], states: tuple[SampleState, ...]) -> None:
        self.run = run
        self.states = states
        #: By sample.
        self.rows = {sample.id: sample.rows for sample in run}
        #: Whose they are, and the step that they run again and again, once all are ready.
        self.key: _Key | None = None
        self.step: _Step | None = None


_NOBODY: Final = _Company((), ())


class _Told(msgspec.Struct, frozen=True):
    """What a device was told, and what is to be heard of it when it is done."""

    begun_s: float
    mark: Mark
    #: A step; None for what is done for one sample, such as a decoding.
    decision: Decision | None = None
    #: Who was moved, and to which step; and the rows of each.
    moved: Sequence[tuple[SampleState, int]] = ()
    rows: Mapping[str, int] = {}
    foreseen: Sequence[tuple[SampleState, Callable[[], Array]]] = ()
    #: Whose decoding, and of which model.
    decoded: tuple[str, str] | None = None


def _nothing() -> None:
    pass


# --- the loop ------------------------------------------------------------------------------------


class Denoiser:
    """Draws samples step by step.

    Args:
        clock: What tells the time.
        ended: Called once per sample with its id, and its result or an exception.
        exact: Whether all steps of a batch key have the same number of rows.
        bucket: That number; None for what each plan or model says.
        step_costs: Step costs of an earlier process, from `step_costs`.
        load: Called with the name of a model that has to be brought to the device.
        asked: Called when the network is about to be asked, which leaves others time.
        policy: Trade-offs of the scheduler.
        progress_every_s: Seconds between two words of progress of a sample.
        preview_every_s: Seconds between two previews of a sample.
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
        asked: Callable[[], None] = _nothing,
        policy: Policy | None = None,
        progress_every_s: float = PROGRESS_EVERY_S,
        preview_every_s: float = PREVIEW_EVERY_S,
    ) -> None:
        self._clock = clock
        self._ended = ended
        self._exact = exact
        self._bucket = bucket
        #: Of keys that are not known now, by their names; those used last at the end.
        self._step_costs = dict(step_costs or {})
        self._load = load
        self._asked = asked
        self._scheduler = Scheduler(policy)
        self._progress_every_s = progress_every_s
        self._preview_every_s = preview_every_s
        self._residents: dict[str, _Resident] = {}
        self._keys: OrderedDict[BatchKey, _Key] = OrderedDict()
        #: Samples with steps left, and those that wait to be decoded.
        self._states: dict[str, SampleState] = {}
        self._finished: deque[SampleState] = deque()
        self._cancelled: set[str] = set()
        #: What the device has not come to yet, as far as is known, and when it last got anywhere.
        self._told: deque[_Told] = deque()
        self._reached_s = 0.0
        #: What the host takes for a step, as far as it has shown.
        self._host_s = 0.0
        self._company = _NOBODY
        #: How many there were in the latest step, and what it took; 0 where devices work by
        #: themselves.
        self._together = 0
        self._step_s = 0.0
        #: How often LoRAs were changed, by model; only of those that took any.
        self.swaps: dict[str, Swaps] = {}
        #: Sample → seconds of the device that it has taken: its part of each step, by rows.
        self._spent_s: dict[str, float] = {}
        #: What it took to encode words just now, and whose; it counts where a step shows that the
        #: device does not work by itself.
        self._encoding: tuple[float, dict[str, int]] = (0.0, {})
        #: Model → what a decoding took lately, of devices that work by themselves.
        self._decoding_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._states) + len(self._finished)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all samples that are here."""
        return (*self._states, *(state.id for state in self._finished))

    def add(self, requests: Iterable[Request]) -> None:
        """Take samples; they take part from the next step on. What cannot be drawn ends at once.

        Raises:
            ValueError: A sample of that id is already here.
        """
        for request in requests:
            if self._find(request.id) is not None:
                raise ValueError(f"sample {request.id} is already here")
            try:
                state = self._prepared(request)
            except Exception as error:
                self._ended(request.id, error)
                continue
            self._spent_s[state.id] = 0.0
            if state.is_finished:
                self._finished.append(state)
            else:
                self._states[state.id] = state
                self._scheduler.add(self._sample(request, state))

    def cancel(self, sample_id: str) -> None:
        """Drop a sample at the next boundary. An id that is not here means nothing."""
        self._cancelled.add(sample_id)

    def checkpoint(self, sample_id: str) -> bytes | None:
        """Return what a sample needs to go on elsewhere, or None if it has nothing to lose."""
        drawn = self.drawn_since(sample_id, 0)
        return None if drawn is None else drawn.checkpoint()

    def drawn_since(self, sample_id: str, step: int) -> Drawn | None:
        """Return a sample as it is now, unless it is no further than `step`: 0, or where it was.

        Of a device that works by itself the latents are copied, as the next thing that it is told:
        they may be read in any thread, however far the sample goes meanwhile. Others are read where
        they lie.
        """
        state = self._find(sample_id)
        if state is None or state.step == step:
            return None
        key, x, h = self._keys[state.key], state.x, state.h
        if state.row >= 0 and state.raw is None:
            arena = key.arena
            assert arena is not None, "it has a row there"
            x, h = arena.latents(state) if key.is_at_hand else arena.copied(state)
        return Drawn(state, key.resident.model.arrays, x, h, key.is_at_hand)

    def step_of(self, sample_id: str) -> int:
        """Return how many steps of a sample are over; 0 for one that is not here."""
        state = self._find(sample_id)
        return 0 if state is None else state.step

    def is_narrowed(self, sample_id: str) -> bool:
        """Say whether a sample's bits may be others than those of exact mode, also as it ends.

        It shared a step with fewer rows than all of its key have, for want of memory.
        """
        state = self._find(sample_id)
        return state is not None and state.is_narrowed

    def take_share(self, sample_id: str) -> float:
        """Return what a sample has taken of the device, in seconds, to be asked as it ends.

        A second time it is 0.
        """
        return self._spent_s.pop(sample_id, 0.0) + self._still_takes_s(sample_id)

    def share_so_far(self, sample_id: str) -> float:
        """Return what a sample that goes on has taken of the device, in seconds."""
        return self._spent_s.get(sample_id, 0.0)

    def set_residency(self, model: StepModel, *, loaded: bool, load_s: float) -> None:
        """Say whether a model is on the device, and what loading it takes."""
        resident = self._resident(model)
        self._forget_company()
        if loaded and not resident.loaded:
            resident.adapting.brought(model)
        resident.loaded, resident.load_s = loaded, load_s
        if not loaded:
            self._clear(resident)
        self._tell_residency(resident)

    def replace(self, model: StepModel) -> None:
        """Go on with this object, made anew, where there was another one of its name."""
        resident = self._residents.get(model.name)
        if resident is None:
            return
        self._forget_company()
        resident.model = model
        resident.texts = _Texts(model)
        resident.adapting.brought(model)
        for state in [*self._states.values(), *self._finished]:
            if state.key.model == model.name:
                self._prepare_anew(state, model)

    def _prepare_anew(self, state: SampleState, model: StepModel) -> None:
        """Have a sample ask nothing more of an object that is gone."""
        if state.has_begun:
            state.part()
            return
        # Nobody keeps the words' conditions of what was there before.
        state.with_words = state.without_words = state.start = None
        try:
            state.plan, state.stream = model.prepare(state.item), _stream_of(model)
        except Exception as error:
            self._end(state, error)

    def decode_finished(self) -> None:
        """Decode all that wait for it, and wait for the device: a model is about to leave it."""
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
        """When `boundary` is to be called next, on the clock; the past for at once."""
        if not self._told:
            return 0.0
        running = next((told for told in self._told if told.decision is not None), None)
        if running is None or running.decision is None or running.decision.key not in self._keys:
            return 0.0
        cost = self._scheduler.cost(running.decision.key)
        step_s = cost.seconds(running.decision.bucket) * running.decision.passes
        begun_s = max(running.begun_s, self._reached_s)
        if not cost.measured:
            return begun_s
        return begun_s + (1 - LEAD) * step_s - 2 * self._host_s

    def boundary(self) -> bool:
        """Do what is due between two steps, then run one; return whether anything is left."""
        begun_s, told = self._clock.monotonic_s(), len(self._told)
        self._step()
        if len(self._told) > told:
            # It was told, not waited for.
            self._host_s = max(self._clock.monotonic_s() - begun_s, 0.9 * self._host_s)
        if self._told:
            self._wait(AHEAD if self._states or self._finished else 0)
        return bool(self._states or self._finished)

    def _step(self) -> None:
        if self._cancelled:
            self._drop_cancelled()
        if self._finished:
            self._decode()
        decision = self._choose()
        if decision.run:
            step = self._prepared_step(decision)
            if step is not None:
                self._take_step(decision, step, self._company)

    # Between two steps

    def _drop_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        for state in [state for state in self._finished if state.id in cancelled]:
            self._finished.remove(state)
            self._tell_end(state.id, Cancelled())
        for state in [state for state in self._states.values() if state.id in cancelled]:
            self._end(state, Cancelled())

    def _decode(self) -> None:
        """Decode one sample; more only where that takes nothing, or too many would wait."""
        begun_s, told = self._clock.monotonic_s(), len(self._told)
        most = max(MOST_FINISHED, self._together)
        for count in range(1, len(self._finished) + 1):
            self._decode_first()
            if len(self._finished) >= most:
                continue
            # What a device that works by itself will take is not known.
            each_s = (self._clock.monotonic_s() - begun_s) / count
            is_dear = max(self._together, (count + 1) / DECODING) * each_s >= self._step_s
            if len(self._told) > told or is_dear:
                break

    def _decode_first(self) -> None:
        state = self._finished[0]
        # Who hears of its end can still ask for its checkpoint.
        self._tell_end(state.id, self._decoded(state))
        self._finished.popleft()
        # Somebody may keep it for its checkpoint.
        state.part()
        self._forget_oldest(self._keys[state.key].resident)

    def _tell_end(self, sample_id: str, result: Any) -> None:
        self._ended(sample_id, result)
        self._spent_s.pop(sample_id, None)

    def _decoded(self, state: SampleState) -> Any:
        if state.item.cancelled:
            return Cancelled()
        resident = self._keys[state.key].resident
        try:
            self._bring(resident)
            begun_s = self._clock.monotonic_s()
            attempt = partial(self._told_to_decode, resident.model, state)
            result, mark = _with_room(resident.model, self._make_room, attempt)
        except Exception as error:
            return error
        if mark is None:
            self._spend(self._clock.monotonic_s() - begun_s, {state.id: 1})
        else:
            decoded = state.id, resident.model.name
            self._told.append(_Told(begun_s, mark, decoded=decoded))
        return result

    def _told_to_decode(self, model: StepModel, state: SampleState) -> tuple[Any, Mark | None]:
        is_finite = model.arrays.is_finite(state.x)
        result = model.decode(state.x, state.item)
        mark = model.arrays.mark()
        if mark is not None:
            # Encoding waits for the device anyway, so check there.
            return partial(_if_finite, is_finite, result), mark
        if not is_finite():
            raise FloatingPointError(NOT_FINITE)
        return result, None

    def _choose(self) -> Decision:
        """Return who runs; drop whom nobody waits for any more."""
        while True:
            decision = self._scheduler.decide(self._clock.monotonic_s())
            states = self._company_of(decision).states
            cancelled = [state for state in states if state.item.cancelled]
            if not cancelled:
                return decision
            for state in cancelled:
                self._end(state, Cancelled())

    def _company_of(self, decision: Decision) -> _Company:
        if decision.run != self._company.run:
            states = tuple([self._states[sample.id] for sample in decision.run])
            self._company = _Company(decision.run, states)
        return self._company

    def _forget_company(self) -> None:
        """Look anew at what those need who run next."""
        self._company = _NOBODY

    # A step

    def _prepared_step(self, decision: Decision) -> _Step | None:
        """Return a step whose samples have all that they need; None if it is not to be run."""
        company = self._company_of(decision)
        step = company.step
        if step is None:
            return self._new_step(decision, company)
        step.renew(decision.bucket)
        return step

    def _new_step(self, decision: Decision, company: _Company) -> _Step | None:
        """Have ready what these samples need; None if they are not to run."""
        states = company.states
        key = self._keys[states[0].key]
        resident = key.resident
        if not (resident.loaded or self._can_bring(resident, states)):
            return None
        if not self._adapt(resident, states[0]):
            return None
        if not self._ready(key, states):
            return None  # somebody else can have the free row
        assert key.arena is not None, "they are ready"
        step = _Step(resident.model, key.arena, decision, self._clock, self._asked)
        if resident.has_preview:
            step.preview_every_s = self._preview_every_s
        # What was done here may have had them looked at anew.
        self._company, company.key = company, key
        company.step = step
        return step

    def _take_step(self, decision: Decision, step: _Step, company: _Company) -> None:
        """Run a step that is ready, and note what came of it."""
        states, key = company.states, company.key
        assert key is not None, "it is ready"
        model = key.resident.model
        lacking = _lacking(step, states)
        if lacking is not None and self._make_room():
            del lacking  # with all that its calls held
            lacking = _lacking(step, step.left(states))
        for state, reason in step.failed:
            self._end(state, reason)
        if step.advanced:
            key.is_at_hand = step.mark is None
            if decision.bucket < (states[0].key.bucket or 0) and not model.batch_invariant:
                for state in step.advanced:
                    state.is_narrowed = True
            self._count(decision, step, company)
        if lacking is not None:
            self._shrink(decision, step, lacking)

    def _can_bring(self, resident: _Resident, states: Sequence[SampleState]) -> bool:
        """Bring a model whose turn it is; where that fails, so do all that wait for it.

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
        self._forget_company()
        if self._load is not None:
            # Not with itself: nobody may hold it who waits until another one stands in its place.
            self._load(resident.model.name)
        self.set_residency(resident.model, loaded=True, load_s=resident.load_s)

    def _clear(self, resident: _Resident) -> None:
        """Let go of what lies on the device beside the model, as far as no sample needs it."""
        resident.texts.forget_all_but(frozenset())
        self._drop_arenas([key for key in self._keys.values() if key.resident is resident])

    def _make_room(self) -> bool:
        """Give up what nobody needs who is here; say whether there was any."""
        forgotten = [
            resident.texts.forget_all_but(self._needed_texts(resident))
            for resident in self._residents.values()
        ]
        return self._drop_arenas(self._keys.values()) or any(forgotten)

    def _forget_oldest(self, resident: _Resident) -> None:
        if resident.texts.are_too_many:
            resident.texts.forget_oldest(self._needed_texts(resident))

    def _needed_texts(self, resident: _Resident) -> AbstractSet[_Said]:
        """Return the words of a model's samples that have steps left."""
        return {
            (state.key.loras, words)
            for state in self._states.values()
            if state.key.model == resident.model.name
            for words in (state.plan.words, state.plan.without)
        }

    def _drop_arenas(self, keys: Iterable[_Key]) -> bool:
        """Let go of the rows of those keys that have no sample on its way; say whether any had."""
        busy = {state.key for state in self._states.values() if state.with_words is not None}
        needed = {id(self._keys[key]) for key in busy}
        idle = [key for key in keys if key.arena and id(key) not in needed]
        if idle:
            self._forget_company()
        for key in idle:
            key.arena = None
        return bool(idle)

    def _adapt(self, resident: _Resident, first: SampleState) -> bool:
        """Have a sample's LoRAs on its model's weights; if that fails, all with these fail."""
        loras = first.key.loras
        if resident.adapting.fits(loras):
            return True
        # What was told before needs the weights as they are.
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

    def _count(self, decision: Decision, step: _Step, company: _Company) -> None:
        """Note who has moved, and retire who is finished."""
        states, rows = company.states, company.rows
        if len(step.advanced) < len(states):
            states = tuple([state for state in states if state in step.advanced])
            rows = {state.id: rows[state.id] for state in states}
            ran = tuple(sample for sample in decision.run if sample.id in rows)
            decision = msgspec.structs.replace(decision, run=ran)
        moved = [(state, state.step) for state in states]
        self._together = len(moved)
        for sample in self._scheduler.started(decision):
            self._forget_company()
            state = self._states.pop(sample.id)
            self._rows_of(state).take(state)
            # It hears no more, and may wait for a while.
            state.with_words = state.without_words = None
            self._finished.append(state)
        if step.mark is not None:
            self._encoding = 0.0, {}
            self._told.append(_Told(step.begun_s, step.mark, decision, moved, rows, step.foreseen))
            return
        self._step_s = seconds = step.told_s - step.begun_s
        self._spend(*self._encoding)
        self._encoding = 0.0, {}
        self._spend(seconds, rows)
        self._scheduler.took(decision, seconds)
        self._tell(moved, step.foreseen, step.told_s)

    def _spend(self, seconds: float, rows: Mapping[str, int]) -> None:
        """Share what the device took among those who took part, by their rows."""
        each_s = seconds / max(1, sum(rows.values()))
        for sample_id, n in rows.items():
            if sample_id in self._spent_s:
                self._spent_s[sample_id] += each_s * n

    def _wait(self, ahead: int) -> None:
        """Wait until the device has at most so much to do still, and tell of what it has done."""
        while len(self._told) > ahead:
            told = self._told.popleft()
            told.mark.wait()
            now_s = self._clock.monotonic_s()
            # It began with this when it was done with what came before.
            seconds = now_s - max(told.begun_s, self._reached_s)
            self._reached_s = now_s
            if told.decoded is not None:
                sample_id, model = told.decoded
                self._spend(seconds, {sample_id: 1})
                self._decoding_s[model] = seconds
            if told.decision is not None:
                self._spend(seconds, told.rows)
                self._scheduler.took(told.decision, seconds)
                self._tell(told.moved, told.foreseen, now_s)

    def _still_takes_s(self, sample_id: str) -> float:
        """Return what a device that works by itself will take for a sample, as far as is known."""
        seconds = 0.0
        for told in self._told:
            if told.decoded is not None and told.decoded[0] == sample_id:
                seconds += self._decoding_s.get(told.decoded[1], 0.0)
            if told.decision is None:
                continue
            rows = told.rows
            if sample_id in rows and told.decision.key in self._keys:
                cost = self._scheduler.cost(told.decision.key)
                if cost.measured:
                    step_s = cost.seconds(told.decision.bucket) * told.decision.passes
                    seconds += step_s * rows[sample_id] / sum(rows.values())
        return seconds

    def _tell(
        self,
        moved: Iterable[tuple[SampleState, int]],
        foreseen: Iterable[tuple[SampleState, Callable[[], Array]]],
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
        """Try fewer rows from now on; nobody of those who are left has moved."""
        moved = {state.id for state in step.advanced}
        left = tuple(s for s in decision.run if s.id in self._states and s.id not in moved)
        if not self._scheduler.failed(msgspec.structs.replace(decision, run=left)):
            for sample in left:
                self._end(self._states[sample.id], reason)

    # Samples

    def _find(self, sample_id: str) -> SampleState | None:
        state = self._states.get(sample_id)
        if state is None:
            state = next((one for one in self._finished if one.id == sample_id), None)
        return state

    def _prepared(self, request: Request) -> SampleState:
        model, item = request.model, request.item
        plan = model.prepare(item)
        table = table_of(plan.sampler)
        hash((plan.words, plan.without))  # what cannot be remembered is refused here
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

    def _sample(self, request: Request, state: SampleState) -> Sample:
        return Sample(
            id=state.id,
            key=state.key,
            remaining=len(state.table) - state.step,
            steps=len(state.table),
            arrived_s=self._clock.monotonic_s(),
            deadline_s=request.deadline_s,
            weight=1 / max(1, request.item.count),
            rows=2 if state.is_guided else 1,
        )

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
        """Tell the scheduler which keys of a model can run as it is, and what the others take."""
        adapting = resident.adapting
        for key, known in self._keys.items():
            if known.resident is not resident:
                continue
            fits = adapting.fits(key.loras)
            # What brings back all of it, or only the LoRAs that are missing.
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

    def _rows_of(self, state: SampleState) -> Arena:
        arena = self._keys[state.key].arena
        assert arena is not None, "it has a row there"
        return arena

    def _end(self, state: SampleState, error: Exception) -> None:
        """Part with a sample that has steps left."""
        self._scheduler.cancel(state.id)
        self._forget_company()
        del self._states[state.id]
        if state.row >= 0:
            self._rows_of(state).take(state)
        self._forget_oldest(self._keys[state.key].resident)
        self._tell_end(state.id, error)

    # Before a sample's first step

    def _ready(self, key: _Key, states: Sequence[SampleState]) -> bool:
        """Encode the words of those who are new; return whether all can run as was decided."""
        most_rows = key.most_rows
        new = [state for state in states if state.with_words is None]
        if not new:
            return True
        self._keys.move_to_end(new[0].key)
        texts, begun_s = key.resident.texts, self._clock.monotonic_s()
        words = [w for state in new for w in (state.plan.words, state.plan.without)]
        wrong = texts.learn(words, new[0].key.loras, self._make_room)
        self._encoding = self._clock.monotonic_s() - begun_s, {state.id: 1 for state in new}
        for state in new:
            reason = wrong.get(state.plan.words) or wrong.get(state.plan.without)
            reason = reason or self._admit(key, state)
            if reason is not None:
                self._end(state, reason)
        self._forget_oldest(key.resident)
        return key.most_rows == most_rows and all(state.id in self._states for state in states)

    def _admit(self, key: _Key, state: SampleState) -> Exception | None:
        """Tell the network of a sample, or return why it cannot be told."""
        try:
            _with_room(key.resident.model, self._make_room, partial(self._introduce, key, state))
        except Exception as error:
            return error
        return None

    def _introduce(self, key: _Key, state: SampleState) -> None:
        key.resident.tell(state)
        state.look()
        assert state.with_words is not None, "it was told"
        if key.arena is None:
            key.arena = self._arena(key, state, state.with_words)
        for conditions in (state.with_words, state.without_words):
            if conditions is not None:
                key.arena.check(conditions)

    def _arena(self, key: _Key, first: SampleState, conditions: Conditions) -> Arena:
        """Return the rows of a key: fewer from now on where memory has no room for all.

        Raises:
            Exception: There is none for a single one.
        """
        model = key.resident.model
        while True:
            try:
                return Arena(first.key, model.arrays, key.most_rows, conditions)
            except Exception as error:
                if not is_out_of_memory(model, error):
                    raise
                # What nobody needs now goes first.
                if self._make_room():
                    continue
                if key.most_rows == 1:
                    raise
            key.most_rows = halved(key.most_rows)
            self._scheduler.limit(first.key, key.most_rows)


def _stream_of(model: StepModel) -> Callable[[int, Plan], NoiseStream] | None:
    """Return what makes streams of noise, where that is not Swell's own."""
    return None if type(model).noise is StepModel.noise else model.noise


def _if_finite(is_finite: Callable[[], bool], result: Any) -> Any:
    if not is_finite():
        raise FloatingPointError(NOT_FINITE)
    return whole(result)


def _preview(model: StepModel, foreseen: Callable[[], Array], item: Any) -> Any:
    return model.preview(foreseen(), item)


# --- models without an owner ---------------------------------------------------------------------


class Runs:
    """`run` of a `StepModel`: draws the items of one call, and returns when all have ended."""

    def __init__(self, model: StepModel, clock: Clock | None = None) -> None:
        self._model = model
        self._clock = clock or SystemClock()
        self._results: dict[str, Any] = {}
        self._denoiser = self._fresh()

    def _fresh(self) -> Denoiser:
        return Denoiser(self._clock, self._keep, progress_every_s=0.0, preview_every_s=0.0)

    def _keep(self, name: str, result: Any) -> None:
        try:
            self._results[name] = whole(result)
        except Exception as error:
            self._results[name] = error

    def __call__(self, items: Sequence[Item[Any]]) -> list[Any]:
        """Return one result or exception per item, in order; of one with a pack, a list."""
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
            # A listener stopped it half-way: what is left there belongs to nobody.
            self._denoiser = self._fresh()
            raise
        return [self._result(number, size) for number, size in enumerate(packs)]

    def _result(self, number: int, size: int | None) -> Any:
        if size is None:
            return self._results[f"{number}.0"]
        found = [self._results[f"{number}.{place}"] for place in range(size)]
        return next((each for each in found if isinstance(each, Exception)), found)
