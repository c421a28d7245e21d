"""What a worker knows of its samples and of what steps take, from step to step. Pure.

`Schedule` keeps the values that `decide` looks at; it decides nothing itself. Where nothing has
happened since the last step but the step, it says the same again, without a look.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Final

import msgspec

from swell.worker.curve import BUCKETS, Curve
from swell.worker.decide import (
    Costs,
    Decision,
    Group,
    Order,
    Policy,
    Sample,
    Turn,
    TurnReason,
    can_divide,
    charged,
    costs_of,
    decide,
    in_partition,
    lasts,
    takes_turns,
)

#: What a step of so many rows takes is well known after so many, and looked at less often then.
KNOWN: Final = 32
LOOK_EVERY: Final = 8

_FIRST: Final = Turn()
_POLICY: Final = Policy()


# --- memory --------------------------------------------------------------------------------------


class Memory(msgspec.Struct, frozen=True):
    """How many rows of a key fit, as far as is known."""

    #: Rows that may run now, and that may ever.
    rows: int
    most: int
    #: Steps in a row that ran at the limit, and how many of them it takes to raise it.
    clean: int = 0
    patience: int = 256


#: The limit is not tried less often than after so many steps.
_MOST_PATIENCE: Final = 16_384


def halved(limit: int) -> int:
    """Return the rows to try after so many did not fit; never less than 1."""
    return max(1, limit // 2)


def ran_out(memory: Memory, rows: int) -> Memory:
    """Return the limit after a step of so many rows found no memory.

    Each time it takes twice as many steps until more is tried: a limit that is real is found again
    and again, and each time costs a step. If one row does not fit, the limit stays: the caller has
    to fail the sample.
    """
    patience = min(2 * memory.patience, _MOST_PATIENCE)
    return Memory(halved(min(rows, memory.rows)), memory.most, 0, patience)


def went_well(memory: Memory, rows: int) -> Memory:
    """Return the limit after a step of so many rows: one bucket more after `patience` of them."""
    if memory.rows >= memory.most:
        return memory
    largest = max((bucket for bucket in BUCKETS if bucket <= memory.rows), default=1)
    if rows < largest:
        return memory
    if memory.clean + 1 < memory.patience:
        return Memory(memory.rows, memory.most, memory.clean + 1, memory.patience)
    larger = next((bucket for bucket in BUCKETS if bucket > memory.rows), memory.most)
    return Memory(min(larger, memory.most), memory.most, 0, memory.patience)


# --- from step to step ---------------------------------------------------------------------------


class _Timing:
    """What is known of the steps of all batch keys whose steps take the same."""

    __slots__ = ("count", "curve", "decided", "known", "seen")

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        #: The curve by which is decided: it follows where the other one has come away from it.
        self.decided = curve
        #: How many there were, and at which of them the curve was told last.
        self.count = self.seen = 0
        #: Rows of which enough steps were seen.
        self.known: set[int] = set()

    def looks(self, rows: int) -> bool:
        """Say whether it matters what the next step takes, if it has so many rows."""
        return rows not in self.known or not (self.count + 1) % LOOK_EVERY

    def counts(self, rows: int) -> bool:
        """Count a step; say whether `took` is to hear of it."""
        is_looked_at = self.looks(rows)
        self.count += 1
        return is_looked_at

    def took(self, rows: int, seconds: float) -> bool:
        """Note what the step took that was counted last; say whether that may decide otherwise."""
        if rows not in BUCKETS and self.curve.is_between(rows):
            # Not padded: each such number runs seldom, and a disturbed one stands for all around.
            return False
        self.curve = self.curve.observe(rows, seconds, self.count - self.seen)
        self.seen = self.count
        if self.curve.count(rows) >= KNOWN:
            self.known.add(rows)
        else:
            self.known.discard(rows)  # the curve forgets what has not run for long
        if self.curve.is_near(self.decided):
            return False
        self.decided = self.curve
        return True

    def learn(self, curve: Curve) -> None:
        """Go on with another curve."""
        self.curve = self.decided = curve


class _Key:
    """All that is known of one batch key."""

    __slots__ = (
        "costs",
        "load_s",
        "loaded",
        "memory",
        "padded",
        "partitions",
        "pinned",
        "running",
        "samples",
        "swap_s",
        "timing",
        "weights",
    )

    def __init__(self, timing: _Timing, memory: Memory, pinned: int | None, padded: bool) -> None:
        self.timing = timing
        self.memory = memory
        self.pinned = pinned
        self.padded = padded
        self.loaded = False
        self.load_s = 0.0
        self.weights: Hashable = None
        self.swap_s = 0.0
        #: Into how many partitions the device can be divided for its steps.
        self.partitions = 1
        self.samples: dict[str, Sample] = {}
        #: Who took part in the last step of each partition.
        self.running: dict[int, tuple[str, ...]] = {}
        self.costs: dict[int, Costs] = {}


class _Again(msgspec.Struct, frozen=True):
    """A decision that stays the same as long as nothing happens but steps and time."""

    key: Hashable
    #: As they stood when it was first made.
    run: tuple[Sample, ...]
    ids: tuple[str, ...]
    bucket: int
    order: Order
    #: Until when, and for how many steps after the first nobody is finished.
    until_s: float
    steps: int


class Schedule:
    """Keeps what `decide` needs, from step to step.

    The loop that owns it calls `decide`, runs the step, and says how it went: `done` or `failed`;
    where steps are told to a device before others have ended, `started` and, in time, `took`.
    In between it adds and cancels samples as they come.

    Where `partitions` says more than one, each runs steps of its own: `decide` is asked for one
    partition after the other, and `begun` and `landed` say who is away meanwhile.
    """

    def __init__(self, policy: Policy = _POLICY) -> None:
        self._policy = policy
        self._keys: dict[Hashable, _Key] = {}
        self._of: dict[str, _Key] = {}
        self._last: _Key | None = None
        self._turn = _FIRST
        #: What a unit has taken of the device since the turn was charged with it.
        self._unit: Hashable = None
        self._uncharged_s = 0.0
        #: What is decided again, and what will be once a step of it has started, unless something
        #: happens before.
        self._again: _Again | None = None
        self._next: _Again | None = None
        #: The present one, as it was said last.
        self._said: Decision | None = None
        #: Steps that were decided again and are not in the samples yet.
        self._ahead = 0
        #: Whether any key has partitions; and partition → who is in a step of it now.
        self._has_partitions = False
        self._away: dict[int, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def know(
        self,
        key: Hashable,
        *,
        most_rows: int,
        curve: Curve | None = None,
        like: Hashable = None,
        pinned: int | None = None,
        padded: bool = True,
    ) -> None:
        """Introduce a batch key, before its first sample.

        Args:
            key: What samples must share to run together.
            most_rows: Rows that may fit into memory; at least 1.
            curve: What an earlier process measured.
            like: A known key whose steps take the same; then `curve` is not looked at.
            pinned: The bucket of exact mode; None for fast mode.
            padded: Whether steps of fast mode are padded to a bucket.
        """
        memory = Memory(most_rows, most_rows)
        timing = _Timing(curve or Curve()) if like is None else self._keys[like].timing
        self._keys[key] = _Key(timing, memory, pinned, padded)

    def forget(self, key: Hashable) -> None:
        """Forget a batch key that has no samples, what was measured of it, and its share.

        Raises:
            ValueError: It has samples.
        """
        self._forget_again()
        state = self._keys.pop(key, None)
        if state is not None and state.samples:
            self._keys[key] = state
            raise ValueError(f"batch key {key!r} has samples")
        self._charge()
        if key in self._turn.left_s:
            left_s = {unit: left for unit, left in self._turn.left_s.items() if unit != key}
            self._turn = msgspec.structs.replace(self._turn, left_s=left_s)

    def set_residency(
        self,
        key: Hashable,
        *,
        loaded: bool,
        load_s: float,
        weights: Hashable = None,
        swap_s: float = 0.0,
        partitions: int = 1,
    ) -> None:
        """Say whether the key can run as the device is now, and what it takes until it can.

        Args:
            key: Which.
            loaded: Whether its model is on the device, with the LoRAs that the key needs.
            load_s: What bringing it there takes.
            weights: Names the model for keys that differ by LoRAs.
            swap_s: What it takes to change nothing but these.
            partitions: Into how many the device can be divided for its steps, each with samples of
                its own, as soon as there are as many.
        """
        self._forget_again()
        state = self._keys[key]
        state.partitions = partitions if state.pinned is None else 1
        self._has_partitions = self._has_partitions or state.partitions > 1
        state.loaded, state.load_s = loaded, load_s
        state.weights, state.swap_s = weights, swap_s

    def limit(self, key: Hashable, most_rows: int) -> None:
        """Say that never more than so many rows of a key fit; at least 1."""
        state = self._keys[key]
        state.memory = Memory(min(most_rows, state.memory.rows), most_rows)
        self._change(state)

    def undivide(self, key: Hashable) -> None:
        """Say that there is no room for partitions, until `set_residency` says so again."""
        self._keys[key].partitions = 1
        self._forget_again()

    def curve(self, key: Hashable) -> Curve:
        """Return what was measured, to be stored."""
        return self._keys[key].timing.curve

    def learn(self, key: Hashable, curve: Curve) -> None:
        """Go on with what is known now, as after steps that were rehearsed."""
        state = self._keys[key]
        state.timing.learn(curve)
        self._change(state)

    def memory(self, key: Hashable) -> Memory:
        """Return how many rows fit."""
        return self._keys[key].memory

    def sample(self, sample_id: str) -> Sample | None:
        """Return a sample as it stands, or None if it is finished, canceled or unknown."""
        self._catch_up()
        state = self._of.get(sample_id)
        return None if state is None else state.samples[sample_id]

    def add(self, sample: Sample) -> None:
        """Let a sample take part from the next step on.

        Raises:
            ValueError: The key is not known, the id is, or the numbers make no sense.
        """
        if sample.key not in self._keys:
            raise ValueError(f"batch key {sample.key!r} is not known")
        if sample.id in self._of:
            raise ValueError(f"sample {sample.id} is already here")
        if not (1 <= sample.remaining <= sample.steps and sample.rows in (1, 2)):
            raise ValueError(f"sample {sample.id} has no sensible steps or rows")
        if not sample.weight > 0:
            raise ValueError(f"sample {sample.id} has no weight")
        self._forget_again()
        state = self._of[sample.id] = self._keys[sample.key]
        state.samples[sample.id] = sample

    def cancel(self, sample_id: str) -> Sample | None:
        """Forget a sample and return it as it stood, or None if it is not here."""
        state = self._of.pop(sample_id, None)
        if state is None:
            return None
        self._forget_again()
        for partition, ids in state.running.items():
            state.running[partition] = tuple([other for other in ids if other != sample_id])
        return state.samples.pop(sample_id)

    @property
    def partitions(self) -> int:
        """In how many partitions the samples that are here are to run; 1 for each step by itself.

        One batch key has them to itself, with at least a sample for each.
        """
        if not self._has_partitions:
            return 1
        busy = [state for state in self._keys.values() if state.samples]
        if len(busy) != 1:
            return 1
        (state,) = busy
        partitions, samples = state.partitions, state.samples
        if not state.loaded or not 1 < partitions <= len(samples):
            return 1
        costs = _costs(state, _widest(samples.values()))
        if takes_turns(costs.size, samples.values()):
            return 1
        rows = max(sample.rows for sample in samples.values())
        return partitions if can_divide(costs, partitions, rows) else 1

    def decide(self, now_s: float, partition: int | None = None) -> Decision:
        """Return what runs in the next step. Asking again at the same time changes nothing.

        Args:
            now_s: The time, on the clock of the samples.
            partition: Which is to run it, where `partitions` has more than one; None for all of
                the device, where none of them is running a step.
        """
        if partition is not None:
            return self._decide_in_partition(now_s, partition)
        again = self._again
        if again is not None and now_s < again.until_s:
            said = self._said
            if said is None or said.turn is not self._turn:
                key, run, bucket, order = again.key, again.run, again.bucket, again.order
                said = Decision(key, run, bucket, False, self._turn, TurnReason.GOES_ON, order)
                self._said = said
            return said
        self._forget_again()
        self._charge()
        groups = [_group(key, state) for key, state in self._keys.items() if state.samples]
        decision = decide(now_s, groups, self._turn, self._policy)
        self._next = _again(groups, decision, self._policy)
        return decision

    def _decide_in_partition(self, now_s: float, partition: int) -> Decision:
        self._forget_again()
        self._charge()
        busy = [(key, state) for key, state in self._keys.items() if state.samples]
        if not busy:
            return decide(now_s, [], self._turn, self._policy)
        ((key, state),) = busy
        samples = state.samples
        away = {one for ids in self._away.values() for one in ids}
        ids = [one for one in state.running.get(partition, ()) if one not in away]
        running = tuple([samples[one] for one in ids])
        waiting = tuple([s for s in samples.values() if s.id not in ids and s.id not in away])
        # Of all who are there each partition has the same.
        widest = _widest(samples.values())
        most = -(-sum(sample.rows for sample in samples.values()) // state.partitions)
        most = -(-most // widest) * widest
        if widest == 1 and any(sample.rows == 2 for sample in samples.values()):
            most += 1  # a single row may be left that is none for them
        costs = in_partition(_costs(state, widest), state.partitions, widest)
        group = Group(key, costs, running, waiting, wanted=most)
        decision = decide(now_s, [group], self._turn, self._policy)
        return msgspec.structs.replace(decision, partition=partition, partitions=state.partitions)

    def begun(self, decision: Decision) -> None:
        """Note that a partition runs this step: who takes part is away until it has `landed`."""
        self._away[decision.partition] = frozenset(decision.ids)
        self._turn = decision.turn

    def landed(self, decision: Decision) -> None:
        """Note that a partition's step is over, whatever came of it."""
        self._away.pop(decision.partition, None)

    def done(self, decision: Decision, seconds: float) -> list[Sample]:
        """Count a step that has ended: `started` and `took` in one."""
        finished = self.started(decision)
        self.took(decision, seconds)
        return finished

    def looks(self, decision: Decision) -> bool:
        """Say whether the curve hears of what this step takes, if `took` is told of it next."""
        state = self._keys.get(decision.key)
        return state is not None and state.timing.looks(decision.bucket * decision.partitions)

    def took(self, decision: Decision, seconds: float, *, is_usual: bool = True) -> None:
        """Note what a step took on the device, without loading. Others may have been started.

        Args:
            decision: What the device was told.
            seconds: What it took.
            is_usual: Whether others of its kind take as long; not where another partition was idle.
        """
        if decision.turn.unit != self._unit:
            self._charge()
            self._unit = decision.turn.unit
        self._uncharged_s += seconds / (decision.partitions if is_usual else 1)
        state = self._keys.get(decision.key)
        if state is None:
            return
        rows, memory = decision.bucket * decision.partitions, state.memory
        if (
            is_usual
            and state.timing.counts(rows)
            and state.timing.took(rows, seconds / decision.passes)
        ):
            self._change(state)
        if memory.rows < memory.most:
            state.memory = went_well(memory, rows)
            if state.memory.rows != memory.rows:
                self._change(state)

    def started(self, decision: Decision) -> list[Sample]:
        """Count a step and return the samples for which it is the last.

        Those that were canceled while it ran are left out.

        Args:
            decision: What the device was told.
        """
        again = self._again
        if again is not None and decision.run is again.run and self._ahead + 1 < again.steps:
            self._ahead += 1
            self._turn = decision.turn
            return []
        self._catch_up()
        state = self._keys[decision.key]
        if decision.partitions == 1:
            self._turn = decision.turn
        finished, running = [], []
        for sample_id in decision.ids:
            sample = state.samples.get(sample_id)
            if sample is None:
                continue
            sample = msgspec.structs.replace(sample, remaining=sample.remaining - 1)
            if sample.remaining:
                state.samples[sample_id] = sample
                running.append(sample_id)
            else:
                del state.samples[sample_id], self._of[sample_id]
                finished.append(sample)
        self._pause_all_but(state, running, decision)
        if finished or self._next is None or self._next.ids != tuple(running):
            self._forget_again()
        self._again = self._next
        return finished

    def failed(self, decision: Decision) -> bool:
        """Note that a step found no memory; nobody has advanced.

        Returns:
            Whether fewer rows can be tried. If not, a single row does not fit.
        """
        state = self._keys[decision.key]
        rows = decision.bucket * decision.partitions
        can_shrink = rows > 1
        if decision.partitions == 1 or rows <= state.memory.rows:
            # Else another partition has found it out.
            state.memory = ran_out(state.memory, rows)
        self._change(state)
        if decision.partitions == 1:
            self._turn = decision.turn
        self._pause_all_but(state, decision.ids, decision)
        return can_shrink

    def _charge(self) -> None:
        """Have the turn as it stands now."""
        if self._uncharged_s:
            self._turn = charged(self._turn, self._unit, self._uncharged_s)
            self._uncharged_s = 0.0

    def _forget_again(self) -> None:
        self._catch_up()
        self._again = self._next = self._said = None

    def _catch_up(self) -> None:
        """Have the samples as they stand now."""
        if not self._ahead:
            return
        again, ahead = self._again, self._ahead
        assert again is not None, "steps that were decided again"
        samples = self._keys[again.key].samples
        for sample_id in again.ids:
            sample = samples[sample_id]
            samples[sample_id] = msgspec.structs.replace(sample, remaining=sample.remaining - ahead)
        self._again = msgspec.structs.replace(again, steps=again.steps - ahead)
        self._ahead = 0

    def _change(self, state: _Key) -> None:
        """Note that steps of this key cost something else than before."""
        for other in self._keys.values():
            if other.timing is state.timing:
                other.costs.clear()
        self._forget_again()

    def _pause_all_but(self, state: _Key, running: Sequence[str], decision: Decision) -> None:
        if decision.partitions > 1 and self._last is state:
            here = set(decision.ids)
            for partition, ids in state.running.items():
                state.running[partition] = tuple([one for one in ids if one not in here])
        else:
            if self._last is not None:
                self._last.running = {}
            state.running = {}
        state.running[decision.partition] = tuple(running)
        self._last = state


def _again(groups: Sequence[Group], decision: Decision, policy: Policy) -> _Again | None:
    """Return a decision as one for the steps to come, if it is one."""
    if len(groups) != 1:
        return None
    lasting = lasts(groups[0], decision, policy)
    if lasting is None:
        return None
    order, until_s = lasting
    steps = min(sample.remaining for sample in decision.run) - 1
    run, ids = decision.run, decision.ids
    return _Again(decision.key, run, ids, decision.bucket, order, until_s, steps)


def _group(key: Hashable, state: _Key) -> Group:
    samples = state.samples
    ids = [one for ids in state.running.values() for one in ids]
    running = tuple([samples[sample_id] for sample_id in ids])
    waiting = tuple([s for s in samples.values() if s.id not in ids])
    costs = _costs(state, _widest(samples.values()))
    loaded, load_s = state.loaded, state.load_s
    return Group(key, costs, running, waiting, loaded, load_s, state.weights, state.swap_s)


def _widest(samples: Iterable[Sample]) -> int:
    """Return the rows of the narrowest sample."""
    return 2 if all(sample.rows > 1 for sample in samples) else 1


def _costs(state: _Key, widest: int) -> Costs:
    if state.pinned is not None:
        widest = 1
    costs = state.costs.get(widest)
    if costs is None:
        costs = costs_of(
            state.timing.decided,
            state.memory.rows,
            pinned=state.pinned,
            padded=state.padded,
            widest=widest,
        )
        state.costs[widest] = costs
    return costs
