"""What runs in the next step. Pure.

A worker denoises the pictures of many tasks in one loop. Between two steps it asks `decide` which
samples take part in the next one. The answer follows from plain values, the time among them, and
comes with its reasons. `Schedule` keeps those values from step to step.

Samples run together if they have the same batch key. How many, the cost curve of the key says:

- Where a batch gains something, its slots are filled as soon as they are free, up to as many as are
  nearly as cheap as can be, and in a crowd up to the cheapest: first who has waited beyond the
  bound, then whose deadline presses, then the least work left. Nobody waits for a batch to become
  full.
- Where it gains nothing, samples take turns, and the one with the least work left goes first. All
  such keys whose models are loaded take turns as one group, because changing costs nothing there.

Least work first makes long samples wait. The bound holds against that: a sample that would take
longer than `Policy.bound` times what it takes on an idle device goes before all that are not as
late, and the latest of those first. Waiting as such gives no rank, so the order stays that of least
work until somebody is really late.

Between groups: a group keeps the device until it is empty or has used up its share of the round.
A round gives every waiting group a share, more to where more waits (deficit round robin). Loading
another model costs seconds, so it also takes that those who wait for it gain more than it costs.
Past the bound it is loaded anyway, once the present turn was long enough to pay for the change.
Other LoRAs on the weights of a model that is there are a change of the same kind, only cheaper.

Source:
    M. Shreedhar, G. Varghese, "Efficient Fair Queueing Using Deficit Round Robin", SIGCOMM 1995.
    L. Schrage, "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline",
    Operations Research 16 (1968). W. E. Smith, "Various optimizers for single-stage production",
    Naval Research Logistics Quarterly 3 (1956), for weights and for when an exchange pays.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from math import inf
from typing import Final

import msgspec

from swell.worker.curve import BUCKETS, Curve, best_size, full_size, next_size

#: The unit of all loaded keys where a batch gains nothing.
IN_TURN: Final = "batch keys in turn"


#: So many rows must want to run for each one of a larger batch than is nearly as cheap as can be.
#: With 1, all who are there would share the device, and nobody would be finished soon.
CROWD: Final = 1.25

#: Where so many times the rows want to run that are nearly as cheap as can be, one is enough for
#: each, as it is where as many want to as are cheapest: then it is pictures per second that all of
#: them wait for. Both are from simulated crowds (benchmarks/engine_crowd.py).
FULL_CROWD: Final = 6


class Policy(msgspec.Struct, frozen=True):
    """What is a matter of taste."""

    #: A sample goes first before it takes so many times what it takes alone on an idle device.
    bound: float = 20.0
    #: A deadline presses when the spare time is at most so many times the work left.
    pressing: float = 1.0
    #: What a pressing sample weighs when groups share the device.
    pressing_weight: float = 4.0
    #: Seconds of device time in a round, per group of average weight.
    share_s: float = 2.0
    #: A turn that began with loading a model lasts at least so many times as long as that.
    pays_back: float = 20.0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One picture of a task, on its way to being finished."""

    id: str
    key: Hashable
    #: Steps left, at least 1, of how many.
    remaining: int
    steps: int
    #: When it came and when it must be finished, on the clock that `decide` is told.
    arrived_s: float
    deadline_s: float | None = None
    #: Its urgency among others, above 0. With 1 / pictures of the task, the task that can be
    #: finished soonest goes first, rather than the picture.
    weight: float = 1.0
    #: 2 if it also needs a row without the prompt (guidance), else 1.
    rows: int = 1


class Costs(msgspec.Struct, frozen=True):
    """What steps of a key cost, as far as a decision needs it. Made by `costs_of`."""

    #: Rows up to which a batch is filled; 1 where a batch gains nothing.
    size: int
    #: The same in a crowd; at least `size`.
    full: int
    #: A larger size that is to be tried if as many rows wait, or `full`.
    trial: int
    #: Numbers of rows that a step may have, padding included, smallest first; in exact mode the
    #: pinned one.
    buckets: tuple[int, ...]
    #: Seconds of a step with 1, 2, … rows, padding included.
    step_s: tuple[float, ...]


class Group(msgspec.Struct, frozen=True):
    """The samples of one batch key, longest waiting first, and what running them costs."""

    key: Hashable
    costs: Costs
    #: Took part in the last step, in this order.
    running: tuple[Sample, ...] = ()
    #: Did not: new, or paused.
    waiting: tuple[Sample, ...] = ()
    #: Whether the model is on the device, and its weights as this group needs them; and what it
    #: takes to get there if not.
    loaded: bool = True
    load_s: float = 0.0
    #: Whose weights these are, for groups that differ by what is on them, and what such a change
    #: takes.
    weights: Hashable = None
    swap_s: float = 0.0
    #: What a partition has of all rows that want to run; no more run there. None for all of them.
    wanted: int | None = None


class TurnReason(StrEnum):
    """Why this group."""

    #: There are no samples.
    IDLE = "idle"
    #: It has not used up its share, or nobody else waits.
    GOES_ON = "goes on"
    #: It has, but loading another model would cost more than it gains.
    STAYS = "stays"
    #: The group before has no samples left.
    EMPTY = "empty"
    #: The group before has used up its share.
    SPENT = "spent"
    #: One of its samples has waited beyond the bound.
    BOUND = "bound"


class Order(StrEnum):
    """Why these samples of the group."""

    #: There are none.
    NONE = "none"
    #: The same as before.
    SAME = "same"
    #: Free slots were filled, least work first.
    FILLED = "filled"
    #: It has the least work left of those that take turns.
    SHORTEST = "shortest"
    #: A deadline presses.
    DEADLINE = "deadline"
    #: One would be later than the bound allows.
    OVERDUE = "overdue"
    #: A larger batch than before is tried.
    TRIAL = "trial"
    #: The batch was larger than it may be now.
    SHRUNK = "shrunk"


class Turn(msgspec.Struct, frozen=True):
    """Whose turn it is, how long already, and what each unit has left of the round."""

    unit: Hashable = None
    served_s: float = 0.0
    #: Seconds; none or negative if the share is used up.
    left_s: Mapping[Hashable, float] = {}


class Decision(msgspec.Struct, frozen=True):
    """What runs in the next step, and why."""

    key: Hashable
    #: Those with two rows first, so that their second rows are a prefix too. Where the same is
    #: decided again, they are as they stood at first.
    run: tuple[Sample, ...]
    #: Rows of the forward pass, padding included; never more than fit into memory.
    bucket: int
    #: Whether the model has to be loaded first.
    loads: bool
    turn: Turn
    why_turn: TurnReason
    why_order: Order
    #: Which partition runs it, of how many: each has that part of the device. 1 for all of it.
    partition: int = 0
    partitions: int = 1

    @property
    def rows(self) -> int:
        """Rows in use. More than `bucket` only for one sample that does not fit as a whole."""
        return sum(sample.rows for sample in self.run)

    @property
    def passes(self) -> int:
        """How often the bucket must run for one step: 1, unless there are more rows than fit."""
        return -(-self.rows // self.bucket) if self.run else 0

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of those that run."""
        return tuple(sample.id for sample in self.run)

    @property
    def reason(self) -> str:
        """Both reasons, for people."""
        return f"{self.why_turn}, {self.why_order}"


_FIRST: Final = Turn()
_POLICY: Final = Policy()

#: Sums of times in another order differ by less than so much of them.
_ROUNDING: Final = 1e-12


def costs_of(
    curve: Curve,
    largest: int,
    *,
    pinned: int | None = None,
    padded: bool = True,
    widest: int = 1,
) -> Costs:
    """Return what steps of a key cost.

    Args:
        curve: What was measured.
        largest: Rows that fit into memory; at least 1.
        pinned: Exact mode: the one bucket that ever runs, so that a picture depends on nothing but
            its input. It gives way only where it does not fit, which `SampleState` remembers.
        padded: Whether other steps have to be padded to one of the buckets.
        widest: Rows of the narrowest sample: 1, or 2 if all have guidance.
    """
    if pinned is not None:
        only = min(pinned, largest)
        cost = curve.seconds(only)
        return Costs(only, only, only, (only,), (cost,) * only)
    buckets = tuple(rows for rows in BUCKETS if rows <= largest)
    if not padded:
        buckets = tuple(range(1, buckets[-1] + 1))
    size = best_size(curve, largest)
    full = max(size, full_size(curve, largest))
    trial = next_size(curve, largest, widest)
    costs = [curve.seconds(rows) for rows in buckets]
    step_s = tuple(costs[_place(buckets, rows)] for rows in range(1, buckets[-1] + 1))
    return Costs(size, full, full if trial is None else max(full, trial), buckets, step_s)


def can_divide(costs: Costs, partitions: int, rows: int) -> bool:
    """Say whether each of so many partitions can run a sample of so many rows."""
    return any(n % partitions == 0 and n >= rows * partitions for n in costs.buckets)


def in_partition(costs: Costs, partitions: int, widest: int) -> Costs:
    """Return what steps cost in one of several partitions, each with samples of its own.

    A step there takes as long as one of so many times the rows that has the device for itself.

    Args:
        costs: Of steps that have the device for themselves, some of which `can_divide`.
        partitions: Into how many the device is divided.
        widest: Rows of the narrowest sample.
    """
    buckets = tuple(rows // partitions for rows in costs.buckets if rows % partitions == 0)
    step_s = tuple(costs.step_s[rows * partitions - 1] for rows in range(1, buckets[-1] + 1))

    def part(rows: int) -> int:
        """Return what of so many rows a partition has, in whole samples."""
        samples = -(-rows // (partitions * widest))
        return min(samples * widest, buckets[-1])

    return Costs(part(costs.size), part(costs.full), part(costs.trial), buckets, step_s)


def _place(buckets: Sequence[int], rows: int) -> int:
    return next((n for n, bucket in enumerate(buckets) if bucket >= rows), len(buckets) - 1)


def _cost_s(costs: Costs, rows: int) -> float:
    """Return seconds of a step with so many rows, in several passes if they do not fit."""
    most = len(costs.step_s)
    if rows <= most:
        return costs.step_s[rows - 1]
    return costs.step_s[-1] * -(-rows // most)


def decide(
    now_s: float, groups: Sequence[Group], turn: Turn = _FIRST, policy: Policy = _POLICY
) -> Decision:
    """Return what runs in the next step.

    The same values give the same answer. As long as there are samples, some of them run.

    Args:
        now_s: The time, on the clock of the samples.
        groups: One for each batch key that has samples, in any fixed order.
        turn: That of the last decision, after `Schedule.done` or the like charged it.
        policy: Matters of taste.
    """
    units: dict[Hashable, list[Group]] = {}
    for group in groups:
        if group.running or group.waiting:
            units.setdefault(_unit_of(group), []).append(group)
    if not units:
        return Decision(
            None, (), 0, False, Turn(None, 0.0, turn.left_s), TurnReason.IDLE, Order.NONE
        )
    turn, why = _next_turn(now_s, units, _followed(turn, units), policy)
    members = units[turn.unit]
    if turn.unit == IN_TURN or _takes_turns(members[0]):
        group, run, order = _slice(now_s, members, policy)
    else:
        group = members[0]
        run, order = _fill(now_s, group, policy)
    if len(run) > 1:
        run = (*(s for s in run if s.rows > 1), *(s for s in run if s.rows == 1))
    rows = sum(sample.rows for sample in run)
    buckets = group.costs.buckets
    bucket = buckets[_place(buckets, rows)]
    return Decision(group.key, run, bucket, not group.loaded, turn, why, order)


def _unit_of(group: Group) -> Hashable:
    return IN_TURN if group.loaded and _takes_turns(group) else group.key


def _followed(turn: Turn, units: Mapping[Hashable, Sequence[Group]]) -> Turn:
    """Return the turn under its unit's new name, if its key has joined those that take turns."""
    in_turn = units.get(IN_TURN, ())
    if turn.unit in units or not any(group.key == turn.unit for group in in_turn):
        return turn
    left_s = {**turn.left_s, IN_TURN: turn.left_s.get(turn.unit, 0.0)}
    return Turn(IN_TURN, turn.served_s, left_s)


def _takes_turns(group: Group) -> bool:
    return takes_turns(_size(group), group.running + group.waiting)


def takes_turns(size: int, samples: Iterable[Sample]) -> bool:
    """Say whether only one of these at a time can run, or should, where so many rows may."""
    if size == 1:
        return True
    if size > 3:
        return False
    return not any(sample.rows == 1 for sample in samples)


def _size(group: Group) -> int:
    """Return the rows up to which a batch is filled: more of them in a crowd."""
    size = _size_of(group)
    return size if group.wanted is None else min(size, group.wanted)


def _size_of(group: Group) -> int:
    costs = group.costs
    if costs.trial == costs.size:
        return costs.size
    running = sum([sample.rows for sample in group.running])
    wanted = group.wanted
    if wanted is None:
        wanted = running + sum([sample.rows for sample in group.waiting])
    if costs.trial > costs.full and wanted >= costs.trial:
        return costs.trial
    if costs.size == 1:
        # Even the cheapest batch gains little, so smaller ones gain nothing.
        return costs.full if costs.full * CROWD <= wanted else 1
    each = CROWD if wanted < FULL_CROWD * costs.size else 1
    fit = [n for n in costs.buckets if n <= costs.full and n * each <= wanted]
    # Whoever runs goes on when the crowd becomes less.
    fit += [costs.size, min(running, len(costs.step_s))]
    # With more than that it is pictures per second that everybody waits for.
    return max([*fit, costs.full] if wanted >= costs.full else fit)


def lasts(group: Group, decision: Decision, policy: Policy = _POLICY) -> tuple[Order, float] | None:
    """Return in which order, and until when, a decision about the only group stays the same while
    nobody comes, goes or is finished; None where it has to be looked at every time.

    Whoever has the least work left has less still after a step. A full batch, or one that nobody
    waits beside, is the same until somebody is finished. Deadlines are looked at every time.
    """
    everybody = group.running + group.waiting
    if not group.loaded or any(sample.deadline_s is not None for sample in everybody):
        return None
    if decision.why_order is Order.SHORTEST:
        return Order.SHORTEST, min(_overdue_s(sample, group, policy) for sample in everybody)
    if len(decision.run) < len(everybody) and decision.rows < _size(group):
        return None
    if decision.why_order in (Order.OVERDUE, Order.DEADLINE) and _takes_turns(group):
        return None
    ids = set(decision.ids)
    waiting = [sample for sample in everybody if sample.id not in ids]
    return Order.SAME, min((_overdue_s(one, group, policy) for one in waiting), default=inf)


def _overdue_s(sample: Sample, group: Group, policy: Policy) -> float:
    """Return from when on a sample would be later than the bound allows, if it waits.

    A little less: `_rank` adds the same numbers in another order, which rounds otherwise.
    """
    step_s = _cost_s(group.costs, sample.rows)
    due_s = sample.arrived_s + policy.bound * step_s * sample.steps
    return due_s - step_s * sample.remaining - _ROUNDING * max(1.0, abs(due_s))


# Which samples of a group


def _slice(
    now_s: float, groups: Sequence[Group], policy: Policy
) -> tuple[Group, tuple[Sample, ...], Order]:
    """Choose the one sample that runs where nothing is gained by running several."""
    best: tuple[Group, Sample] | None = None
    best_rank = (3, 0.0, 0.0)
    for group in groups:
        for sample in group.running + group.waiting:
            rank = _rank(now_s, sample, group, policy, preempts=True)
            if rank < best_rank:
                best, best_rank = (group, sample), rank
    assert best is not None
    group, sample = best
    why = (Order.OVERDUE, Order.DEADLINE, Order.SHORTEST)[best_rank[0]]
    return group, (sample,), why


def _fill(now_s: float, group: Group, policy: Policy) -> tuple[tuple[Sample, ...], Order]:
    """Let those who run go on, and fill what is free."""
    size = _size(group)
    running, order = group.running, Order.SAME
    free = size - sum(sample.rows for sample in running)
    if free < 0:
        ranked = sorted(running, key=lambda s: _rank(now_s, s, group, policy, preempts=False))
        kept = {sample.id for sample in _fitting(ranked, size)}
        running = tuple(sample for sample in running if sample.id in kept)
        return running, Order.SHRUNK
    if not group.waiting:
        return running, order
    ranks = [_rank(now_s, s, group, policy, preempts=False) for s in group.waiting]
    places = sorted(range(len(ranks)), key=ranks.__getitem__)
    if ranks[places[0]][0] < 2 and size < group.costs.full:
        # Whoever is late or in a hurry need not wait until somebody is finished.
        places = [place for place in places if ranks[place][0] < 2]
        free += group.costs.full - size
    joining = _joining(group, places, ranks, free)
    if not joining:
        return running, order
    first = min(ranks[place][0] for place in joining)
    order = (Order.OVERDUE, Order.DEADLINE, Order.FILLED)[first]
    if order is Order.FILLED and size > group.costs.full:
        order = Order.TRIAL
    return (*running, *(group.waiting[place] for place in joining)), order


def _joining(
    group: Group, places: Sequence[int], ranks: Sequence[tuple[int, float, float]], free: int
) -> list[int]:
    """Return which of those at these places, in their order, get the free rows."""
    joining: list[int] = []
    for place in places:
        rows = group.waiting[place].rows
        if not free:
            break
        if rows <= free:
            free -= rows
            joining.append(place)
        elif ranks[place][0] == 0:
            break  # the next slot that is free makes room for it
    return joining


def _fitting(ranked: Iterable[Sample], size: int) -> list[Sample]:
    kept: list[Sample] = []
    for sample in ranked:
        if sample.rows <= size or not kept:
            kept.append(sample)
            size -= sample.rows
    return kept


def _rank(
    now_s: float, sample: Sample, group: Group, policy: Policy, *, preempts: bool
) -> tuple[int, float, float]:
    """Return a sample's place in line; the smallest goes first.

    Overdue samples come in the order of when they had to be finished, which does not change while
    one of them runs, so that two of them never alternate. The same goes for deadlines where a
    sample may be paused for another; where it may not, the one with the least spare time is first.
    """
    costs = group.costs
    step_s = costs.step_s[0] if sample.rows == 1 else _cost_s(costs, sample.rows)
    left_s = sample.remaining * step_s
    load_s = 0.0 if group.loaded else group.load_s
    # Not from what is left: of two equal samples one would be late first by rounding, and then the
    # other one.
    due_s = sample.arrived_s + policy.bound * (sample.steps * step_s + load_s)
    if now_s + load_s + left_s >= due_s:
        return (0, due_s, sample.arrived_s)
    if sample.deadline_s is not None:
        spare_s = sample.deadline_s - now_s - load_s - sample.remaining * _cost_s(costs, costs.size)
        if _presses(now_s + load_s, sample, left_s, costs, policy):
            return (1, sample.deadline_s if preempts else spare_s, sample.arrived_s)
    return (2, left_s / sample.weight, sample.arrived_s)


def _presses(now_s: float, sample: Sample, left_s: float, costs: Costs, policy: Policy) -> bool:
    """Say whether a deadline is near and can still be met; beyond that, rushing helps nobody."""
    if sample.deadline_s is None:
        return False
    time_s = sample.deadline_s - now_s
    work_s = sample.remaining * _cost_s(costs, max(costs.size, sample.rows))
    return left_s <= time_s <= (1 + policy.pressing) * work_s


# Which group


class _Survey(msgspec.Struct, frozen=True):
    """What is at stake in a unit."""

    #: Of its samples, pressing deadlines counting more.
    weight: float
    #: Seconds until all of them are finished, and to load the model before.
    work_s: float
    load_s: float
    #: When the latest of those beyond the bound had to be finished, or infinity.
    due_s: float


def _survey(now_s: float, groups: Sequence[Group], policy: Policy) -> _Survey:
    weight = work_s = 0.0
    due_s = inf
    for group in groups:
        costs = group.costs
        load_s = 0.0 if group.loaded else group.load_s
        start_s, bound, pressing = now_s + load_s, policy.bound, policy.pressing_weight
        alone_s = (costs.step_s[0], _cost_s(costs, 2))
        rows = row_steps = 0
        for sample in group.running + group.waiting:
            remaining, step_s = sample.remaining, alone_s[sample.rows - 1]
            rows += sample.rows
            row_steps += sample.rows * remaining
            due = sample.arrived_s + bound * (sample.steps * step_s + load_s)
            if start_s + remaining * step_s >= due and due < due_s:
                due_s = due
            if sample.deadline_s is not None and _presses(
                start_s, sample, remaining * step_s, costs, policy
            ):
                weight += sample.weight * pressing
            else:
                weight += sample.weight
        together = min(rows, costs.size)
        work_s += row_steps * _cost_s(costs, together) / together
    first = groups[0]
    return _Survey(weight, work_s, 0.0 if first.loaded else first.load_s, due_s)


def _next_turn(
    now_s: float, units: Mapping[Hashable, Sequence[Group]], turn: Turn, policy: Policy
) -> tuple[Turn, TurnReason]:
    """Choose the unit that has the device next."""
    if len(units) == 1:
        (unit,) = units
        if unit == turn.unit:
            return turn, TurnReason.GOES_ON
        return Turn(unit, 0.0, turn.left_s), TurnReason.EMPTY
    surveys = {unit: _survey(now_s, groups, policy) for unit, groups in units.items()}
    current = turn.unit if turn.unit in units else None
    unit = _overdue(surveys, current, turn, policy)
    if unit is not None:
        if unit == current:
            return turn, TurnReason.GOES_ON
        return Turn(unit, 0.0, turn.left_s), TurnReason.BOUND
    if current is not None and turn.left_s.get(current, 0.0) > 0:
        return turn, TurnReason.GOES_ON
    others = [unit for unit in units if unit != current]
    if current is not None:
        others = _worth_changing_to(units, surveys, current)
        if not others:
            return turn, TurnReason.STAYS
    left_s = turn.left_s
    ready = [unit for unit in others if left_s.get(unit, 0.0) > 0]
    if not ready:
        left_s = _new_round(surveys, left_s, policy)
        ready = others
    best = max(ready, key=lambda unit: _worth(surveys[unit]))
    if current is None:
        return Turn(best, 0.0, left_s), TurnReason.EMPTY
    return Turn(best, 0.0, left_s), TurnReason.SPENT


def _worth_changing_to(
    units: Mapping[Hashable, Sequence[Group]],
    surveys: Mapping[Hashable, _Survey],
    current: Hashable,
) -> list[Hashable]:
    """Return the other units that can have the device at once, or gain more than loading costs.

    Whoever does not must not be in the way of those that need no load.
    """
    waiting = sum(survey.weight for survey in surveys.values())

    def pays(unit: Hashable) -> bool:
        if not surveys[unit].load_s:
            return True
        back_s = max(_back_s(group, units[unit][0]) for group in units[current])
        return _gains(surveys[unit], surveys[current], back_s, waiting)

    return [unit for unit in units if unit != current and pays(unit)]


def _back_s(group: Group, other: Group) -> float:
    """Return what it takes to bring a group back after the other had the device."""
    is_swap = group.weights is not None and group.weights == other.weights
    return group.swap_s if is_swap else group.load_s


def _overdue(
    surveys: Mapping[Hashable, _Survey], current: Hashable | None, turn: Turn, policy: Policy
) -> Hashable | None:
    """Return the unit of the sample that is latest beyond the bound, or None.

    Loading its model has to wait for a turn that pays for it: else the bound would make a crowd of
    late samples change the model for each of them, and all of them later.
    """
    unit = min(surveys, key=lambda unit: surveys[unit].due_s)
    survey = surveys[unit]
    if survey.due_s == inf:
        return None
    if current is not None and unit != current and turn.served_s < policy.pays_back * survey.load_s:
        return current
    return unit


def _worth(survey: _Survey) -> float:
    """Return the weight that is finished per second: the unit with most of it comes first."""
    return survey.weight / (survey.work_s + survey.load_s)


def _gains(other: _Survey, current: _Survey, back_s: float, waiting: float) -> bool:
    """Say whether changing now leaves less waiting than finishing the current unit first.

    It spares the other unit the current work. It costs the current unit the other's work and load,
    and everybody but the other the load that brings the current model back.
    """
    spared = other.weight * current.work_s
    delayed = current.weight * (other.load_s + other.work_s)
    return spared > delayed + (waiting - other.weight) * back_s


def _new_round(
    surveys: Mapping[Hashable, _Survey], left_s: Mapping[Hashable, float], policy: Policy
) -> dict[Hashable, float]:
    """Give every unit that waits its share; what it overdrew is taken off, at most half of it."""
    average = sum(survey.weight for survey in surveys.values()) / len(surveys)
    fresh = {}
    for unit, survey in surveys.items():
        share = policy.share_s * survey.weight / average
        share = max(share, policy.pays_back * survey.load_s)
        fresh[unit] = share + max(min(left_s.get(unit, 0.0), 0.0), -share / 2)
    return fresh


def charged(turn: Turn, unit: Hashable, seconds: float) -> Turn:
    """Return the turn after this unit has had the device for so long; most often it is its turn."""
    left_s = {**turn.left_s, unit: turn.left_s.get(unit, 0.0) - seconds}
    served_s = turn.served_s + seconds if unit == turn.unit else turn.served_s
    return Turn(turn.unit, served_s, left_s)
