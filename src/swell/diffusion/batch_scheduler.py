"""Decides which samples run in the next step. Pure: the caller passes the time.

A worker draws the samples of many tasks in one loop, and asks `Scheduler.decide` before each step.
Samples with the same *batch key* (model, picture size, solver, LoRAs) can share a step.

Order of samples within a key:

1. Overdue samples, the one that is due first. A sample is overdue if it would finish later than
   `Policy.bound` times its duration on an idle device.
2. Samples with a pressing deadline that can still be met, nearest deadline first.
3. Shortest remaining work divided by weight. This minimises the mean waiting time (Schrage 1968;
   Smith 1956 for weights). Rule 1 keeps long samples from starving.

`StepCost.rows_to_fill` gives the batch size. A step never waits for a full batch. Where batching
gains nothing the size is one sample, and samples take turns step by step, in the same order.

Order of keys that can run now: overdue samples first, then pressing deadlines, otherwise weighted
fair queueing: the key with the least device time per weight of its samples is next.

Loading another model, or other LoRAs, takes time, so the loaded ones keep the device for at least
`Policy.pays_back` times the load of the most urgent key that is not loaded. After that its model is
loaded if one of its samples is overdue or has a pressing deadline, and is more urgent than all
samples that can run now; or, if nothing is urgent, if the change saves more waiting than it costs.
When no loaded model has work, the most urgent key is next; if none is urgent, the one that finishes
the most weight per second, load included.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from swell.diffusion.row_limit import RowLimit, ran_out, went_well
from swell.diffusion.step_cost import BUCKETS, StepCost


class Policy(msgspec.Struct, frozen=True):
    """Trade-offs of the scheduler."""

    #: A sample is overdue after this many times its duration on an idle device.
    bound: float = 20.0
    #: A deadline presses when the spare time is at most this many times the remaining work.
    pressing: float = 1.0
    #: Loaded models keep the device for at least this many times the next load.
    pays_back: float = 20.0
    #: Lead in device time per sample that the key that ran last may have, in seconds.
    lead_s: float = 0.2


@dataclass(kw_only=True, eq=False)
class Sample:
    """One sample of a task. Only the scheduler changes `remaining`."""

    id: str
    key: Hashable
    #: Steps left, at least 1, and steps in total.
    remaining: int
    steps: int
    #: Arrival and deadline, on the clock of `decide`.
    arrived_s: float = 0.0
    deadline_s: float | None = None
    #: With 1 / samples of the task, the task that can be finished soonest goes first.
    weight: float = 1.0
    #: 2 with guidance, which needs a second row without the prompt; otherwise 1.
    rows: int = 1


class Urgency(IntEnum):
    """Why a sample goes first."""

    OVERDUE = 0
    DEADLINE = 1
    SHORTEST = 2


class Decision(msgspec.Struct, frozen=True):
    """The next step. Without samples `run` is empty."""

    key: Hashable = None
    #: Samples with two rows come first, so that their second rows are a prefix of the batch.
    run: tuple[Sample, ...] = ()
    #: Rows of the forward pass, padding included; never more than fit into memory.
    bucket: int = 0
    #: Whether the model must be loaded first.
    loads: bool = False
    urgency: Urgency = Urgency.SHORTEST

    @property
    def rows(self) -> int:
        """Rows in use. More than `bucket` only for one sample that does not fit as a whole."""
        return sum(sample.rows for sample in self.run)

    @property
    def passes(self) -> int:
        """Forward passes of this step."""
        return -(-self.rows // self.bucket) if self.run else 0

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the samples."""
        return tuple(sample.id for sample in self.run)


#: Position of a sample in the queue of its key; the smallest goes first.
_Rank = tuple[Urgency, bool, float, float]


@dataclass(slots=True, eq=False)
class _Key:
    """State of one batch key."""

    key: Hashable
    cost: StepCost
    limit: RowLimit
    #: Exact mode: the bucket of every step.
    pinned: int | None
    #: Whether steps are padded to a bucket.
    padded: bool
    loaded: bool = False
    #: False until the first `set_residency`: a new key of a loaded model is not a load.
    is_placed: bool = False
    load_s: float = 0.0
    #: Virtual time of fair queueing: device seconds, each divided by the weight served.
    served_s: float = 0.0
    samples: dict[str, Sample] = field(default_factory=dict)
    #: Samples of its last step that have steps left.
    running: frozenset[str] = frozenset()

    @property
    def most_rows(self) -> int:
        """Rows of the largest possible step."""
        return self.limit.rows if self.pinned is None else min(self.pinned, self.limit.rows)

    def bucket_of(self, rows: int) -> int:
        """Return the rows of a step, padding included."""
        if self.pinned is not None or rows >= self.most_rows:
            return self.most_rows
        if not self.padded:
            return rows
        return min(next(bucket for bucket in BUCKETS if bucket >= rows), self.most_rows)

    def step_s(self, rows: int) -> float:
        """Return the expected duration of a step with this many rows in use."""
        bucket = self.bucket_of(rows)
        return self.cost.seconds(bucket) * -(-rows // bucket)

    @property
    def weight(self) -> float:
        """Total weight of its samples."""
        return sum([sample.weight for sample in self.samples.values()])

    def work_s(self) -> float:
        """Return the device time that finishes all of its samples."""
        wanted = sum([sample.rows for sample in self.samples.values()])
        row_steps = sum([sample.rows * sample.remaining for sample in self.samples.values()])
        together = min(wanted, self.rows_to_fill())
        return row_steps * self.step_s(together) / together

    def rows_to_fill(self) -> int:
        """Return the number of rows to which its next step should be filled."""
        if self.pinned is not None:
            return self.most_rows
        rows = [sample.rows for sample in self.samples.values()]
        return self.cost.rows_to_fill(sum(rows), self.most_rows, min(rows), max(rows))


class Scheduler:
    """Holds the samples that wait for steps, and decides which run next.

    The owner calls `decide`, runs the step, and reports the outcome: `done` or `failed`. Where
    steps are queued on a device before others end, it reports `started`, and `took` later.
    """

    def __init__(self, policy: Policy | None = None) -> None:
        self._policy = policy or Policy()
        self._keys: dict[Hashable, _Key] = {}
        self._key_of: dict[str, _Key] = {}
        #: Device seconds since the last load, and the key that ran last.
        self._since_load_s = 0.0
        self._last: _Key | None = None

    def __len__(self) -> int:
        return len(self._key_of)

    # Batch keys

    def know(
        self,
        key: Hashable,
        *,
        most_rows: int,
        cost: StepCost | None = None,
        pinned: int | None = None,
        padded: bool = True,
    ) -> None:
        """Register a batch key, before its first sample.

        Args:
            key: What samples must have in common to share a step.
            most_rows: Rows that may fit into memory; at least 1.
            cost: Measured costs; keys with equal costs may share them.
            pinned: The bucket of exact mode; None for fast mode.
            padded: Whether steps of fast mode are padded to a bucket.
        """
        limit = RowLimit(most_rows, most_rows)
        self._keys[key] = _Key(key, cost or StepCost(), limit, pinned, padded)

    def forget(self, key: Hashable) -> None:
        """Forget a batch key without samples."""
        del self._keys[key]

    def set_residency(self, key: Hashable, *, loaded: bool, load_s: float) -> None:
        """Set whether the key can run now.

        Args:
            key: The batch key.
            loaded: Whether its model is on the device, with the LoRAs of the key.
            load_s: Expected duration of loading; only that of the LoRAs if the model is there.
        """
        known = self._keys[key]
        if loaded and known.is_placed and not known.loaded:
            self._since_load_s = 0.0
        known.loaded, known.is_placed, known.load_s = loaded, True, load_s

    def limit(self, key: Hashable, most_rows: int) -> None:
        """Lower the number of rows of a key that can ever fit; at least 1."""
        known = self._keys[key]
        known.limit = RowLimit(min(most_rows, known.limit.rows), most_rows)

    def cost(self, key: Hashable) -> StepCost:
        """Return the measured costs of a key."""
        return self._keys[key].cost

    def expected_s(self, decision: Decision) -> float | None:
        """Return the expected duration of a step; None if no step of its key was measured."""
        known = self._keys.get(decision.key)
        if known is None or not known.cost.measured:
            return None
        return known.cost.seconds(decision.bucket) * decision.passes

    # Samples

    def sample(self, sample_id: str) -> Sample | None:
        """Return a sample, or None if it is finished, cancelled or unknown."""
        known = self._key_of.get(sample_id)
        return None if known is None else known.samples[sample_id]

    def add(self, sample: Sample) -> None:
        """Add a sample of a known key, with an id of its own; it can run from the next step on."""
        known = self._key_of[sample.id] = self._keys[sample.key]
        if not known.samples:
            # A key gets no credit for time without samples.
            busy = [other.served_s for other in self._keys.values() if other.samples]
            known.served_s = max(known.served_s, min(busy, default=0.0))
        known.samples[sample.id] = sample

    def cancel(self, sample_id: str) -> Sample | None:
        """Remove a sample and return it, or None if it is not here."""
        known = self._key_of.pop(sample_id, None)
        return None if known is None else known.samples.pop(sample_id)

    # Steps

    def decide(self, now_s: float) -> Decision:
        """Return the next step. Calling it again at the same time changes nothing."""
        busy = [known for known in self._keys.values() if known.samples]
        if not busy:
            return Decision()
        known = self._choose(busy, now_s)
        run, urgency = self._fill(known, now_s)
        if len(run) > 1:
            run = sorted(run, key=_by_rows)
        rows = sum([sample.rows for sample in run])
        return Decision(known.key, tuple(run), known.bucket_of(rows), not known.loaded, urgency)

    def done(self, decision: Decision, seconds: float) -> list[Sample]:
        """Report a step that has ended: `started` and `took` in one."""
        finished = self.started(decision)
        self.took(decision, seconds)
        return finished

    def started(self, decision: Decision) -> list[Sample]:
        """Count a step, and return the samples for which it is the last.

        Samples cancelled since the decision are skipped.
        """
        known = self._last = self._keys[decision.key]
        finished, running = [], []
        for sample in decision.run:
            if known.samples.get(sample.id) is not sample:
                continue
            sample.remaining -= 1
            if sample.remaining:
                running.append(sample.id)
            else:
                del known.samples[sample.id], self._key_of[sample.id]
                finished.append(sample)
        known.running = frozenset(running)
        return finished

    def took(self, decision: Decision, seconds: float) -> None:
        """Record the duration of a step on the device, without loading."""
        self._since_load_s += seconds
        known = self._keys.get(decision.key)
        if known is not None:
            known.served_s += seconds / (known.weight or decision.run[0].weight)
            known.cost.record(decision.bucket, seconds / decision.passes)
            known.limit = went_well(known.limit, decision.bucket)

    def failed(self, decision: Decision) -> bool:
        """Report a step that ran out of memory; no sample has advanced.

        Returns:
            Whether fewer rows can be tried. If not, a single row does not fit.
        """
        known = self._keys[decision.key]
        known.limit = ran_out(known.limit, decision.bucket)
        return decision.bucket > 1

    # The rules

    def _choose(self, busy: Sequence[_Key], now_s: float) -> _Key:
        """Return the key that runs next."""
        if len(busy) == 1:
            return busy[0]
        needs = {known.key: self._need(known, now_s) for known in busy}
        here = [known for known in busy if known.loaded]
        away = [known for known in busy if not known.loaded]
        best = min(here or away, key=lambda known: needs[known.key])
        if not (here and away):
            return best
        # The most urgent one decides: while its load does not pay, another load would delay it.
        other = min(away, key=lambda known: needs[known.key])
        if self._since_load_s < self._policy.pays_back * other.load_s:
            return best
        if needs[other.key][0] is not Urgency.SHORTEST:
            return other if needs[other.key] < needs[best.key] else best
        is_calm = needs[best.key][0] is Urgency.SHORTEST
        return other if is_calm and _saves_waiting(other, here, busy) else best

    def _need(self, known: _Key, now_s: float) -> tuple[Urgency, float]:
        """Return how urgent a key is; the smallest goes first."""
        ranks = [self._rank(each, known, now_s, keeps=False) for each in known.samples.values()]
        urgency, _, until_s, _ = min(ranks)
        if urgency is not Urgency.SHORTEST:
            return urgency, until_s
        if not known.loaded:
            return urgency, -known.weight / (known.work_s() + known.load_s)
        return urgency, known.served_s - (self._policy.lead_s if known is self._last else 0.0)

    def _fill(self, known: _Key, now_s: float) -> tuple[Sequence[Sample], Urgency]:
        """Return the samples of a key that run, most urgent first, and how urgent they are."""
        samples = list(known.samples.values())
        rows = known.rows_to_fill()
        if len(samples) == 1:
            return samples, self._rank(samples[0], known, now_s, keeps=False)[0]
        # Samples of a batch stay in it. A sample that takes turns gives way to a shorter one.
        keeps = rows > samples[0].rows
        ranked = sorted(
            (self._rank(sample, known, now_s, keeps=keeps), n) for n, sample in enumerate(samples)
        )
        run: list[Sample] = []
        for rank, n in ranked:
            sample = samples[n]
            if sample.rows <= rows or not run:
                run.append(sample)
                rows -= sample.rows
            elif rank[0] is Urgency.OVERDUE:
                break  # The next free row is reserved for it.
            if rows <= 0:
                break
        return run, ranked[0][0][0]

    def _rank(self, sample: Sample, known: _Key, now_s: float, *, keeps: bool) -> _Rank:
        step_s = known.step_s(sample.rows)
        left_s = sample.remaining * step_s
        load_s = 0.0 if known.loaded else known.load_s
        due_s = sample.arrived_s + self._policy.bound * (sample.steps * step_s + load_s)
        if now_s + load_s + left_s >= due_s:
            return Urgency.OVERDUE, False, due_s, sample.arrived_s
        if sample.deadline_s is not None:
            time_s = sample.deadline_s - now_s - load_s
            work_s = sample.remaining * known.step_s(max(known.rows_to_fill(), sample.rows))
            if left_s <= time_s <= (1 + self._policy.pressing) * work_s:
                return Urgency.DEADLINE, False, sample.deadline_s, sample.arrived_s
        waits = keeps and sample.id not in known.running
        return Urgency.SHORTEST, waits, left_s / sample.weight, sample.arrived_s


def _by_rows(sample: Sample) -> int:
    return -sample.rows


def _saves_waiting(other: _Key, here: Sequence[_Key], busy: Sequence[_Key]) -> bool:
    """Say whether loading another key now saves more waiting than it costs.

    The other key no longer waits for the work that is loaded. In exchange the loaded keys wait for
    its load and work, and all keys but itself wait until the present model is back.
    """
    weight, work_s = sum(k.weight for k in here), sum(k.work_s() for k in here)
    total, back_s = sum(k.weight for k in busy), max(k.load_s for k in here)
    delayed = weight * (other.load_s + other.work_s()) + (total - other.weight) * back_s
    return other.weight * work_s > delayed
