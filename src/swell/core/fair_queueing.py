"""Start-time fair queueing on two levels: first between keys, then between a key's users.

Each task of a flow gets a start tag, and the smallest tag is next. A flow that sends many tasks
pushes its own tags into the future, while a flow that was quiet starts at the current virtual time.
So a burst of one flow delays another flow by at most one task per busy flow.

    start(k)  = max(virtual time at arrival, finish(k - 1) of the same flow)
    finish(k) = start(k) + cost / weight
    virtual time = the largest start tag handed out so far

For each model there are two levels, and a clock for each:

1. Between **keys**, when a worker asks: the next key is the one that would have for its next task
   the smallest start tag (`take_turns`). A key takes one place here, however many tasks, users and
   priorities it names, so none of these gets it more than its share.
2. Between the **users of one key** and priority, when a task becomes ready. These tags are kept
   with the tasks, so any ordered index is the queue. Their clock is small and can be rebuilt from
   the waiting tasks (`restore`).

Priority comes before turns, but only where it cannot harm other keys (`band`): tasks that are more
urgent than usual come first among the tasks of their own key, and tasks that are less urgent than
usual wait for the usual tasks of all keys.

No task starves: of `MOST_URGENT` + 1 tasks that are handed out while a less urgent band waits, at
least one is of that band (`take_bands`, and between models `lift`).

Between models that share workers the band decides, then they take turns, one lease each (`rotate`).
A worker gets models that are loaded on its device first, within bounds (`prefer`).

Guarantees among keys with waiting tasks of one model and band (theorem 1 of the source for the
first two):

- The work done for two of them differs by at most the largest task of each.
- A task of a key that was idle waits for at most one task of each other key.
- The same holds between the users of one key, among its tasks of one priority, with the work done
  for that key in place of all work.

Source:
    P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996, equations 4 to 6, and
    section 3 for levels above one another.
"""

import heapq
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: How often others in a row overtook a model, or a (model, band).
Passed = dict[Any, int]

#: The priority of a request that names none.
USUAL_PRIORITY: Final = 1

#: Most leases in a row that may skip a model in favour of one that the worker has loaded.
MOST_PASSED: Final = 64

#: Most tasks in a row that may be handed out before a less urgent one that waits.
MOST_URGENT: Final = 19

#: Above this many flows, those with a finish tag before the virtual time are forgotten.
MAX_IDLE_FLOWS = 10_000


def band(priority: int) -> int:
    """Return the urgency of a task relative to tasks of other keys; less is more urgent.

    A key cannot overtake others by calling its tasks urgent, but it can let others go first.
    """
    return priority if priority > USUAL_PRIORITY else USUAL_PRIORITY


def least_priority(urgency: int) -> int:
    """Return the least priority of a band."""
    return 0 if urgency == USUAL_PRIORITY else urgency


class VirtualClock:
    """Start tags for one level of one queue.

    Guarantees:
        Tags of one flow never decrease. While two flows are both waiting, the service they have
        received differs by at most one task's cost of each (theorem 1 of the source). A flow that
        was idle gets no credit for the time it was idle.
    """

    def __init__(self) -> None:
        #: The virtual time: the largest start tag that was handed out.
        self.now = 0.0
        self._finish: dict[str, float] = {}
        self._max_flows = MAX_IDLE_FLOWS

    def tag(self, flow: str, cost: float = 1.0, *, is_served: bool = False) -> float:
        """Return the start tag of a task that arrives now.

        Args:
            flow: The flow of the task.
            cost: Work in the task, in any unit that is the same for all (pictures, seconds); > 0.
            is_served: Whether the task is handed out at once.
        """
        start = max(self.now, self._finish.get(flow, 0.0))
        self._finish[flow] = start + cost
        if is_served:
            self.now = start
        if len(self._finish) > self._max_flows:
            self._forget_idle()
        return start

    def peek(self, flow: str) -> float:
        """Return the start tag that a task would get now."""
        return max(self.now, self._finish.get(flow, 0.0))

    def starts(self, flows: Iterable[str]) -> list[tuple[float, int, str]]:
        """Return (start tag that its next task would get, place, flow) of each flow."""
        now, finish = self.now, self._finish.get
        return [(max(now, finish(flow, 0.0)), place, flow) for place, flow in enumerate(flows)]

    def serve(self, start: float) -> None:
        """Note that a task with this start tag was handed to a worker."""
        self.now = max(self.now, start)

    def give_back(self, flow: str, cost: float) -> None:
        """Undo `tag` for a task that was not accepted or not handed out.

        The virtual time stays, since other flows may have been served by it.
        """
        if flow in self._finish:
            self._finish[flow] -= cost

    def restore(
        self,
        waiting: Iterable[tuple[str, float, float]],
        served: Iterable[tuple[str, float, float]] = (),
    ) -> None:
        """Rebuild the clock after a restart, from the tasks that have not ended.

        Each is (flow, start tag, cost / weight). A task that was handed out and returned keeps its
        start tag, which is a lower bound of the virtual time.

        Args:
            waiting: Tasks that were never handed out: the virtual time is at most their tag.
            served: Tasks that were handed out: the virtual time is at least their tag.
        """
        fresh, taken = list(waiting), list(served)
        for flow, start, share in fresh + taken:
            self._finish[flow] = max(self._finish.get(flow, 0.0), start + share)
        earliest = min((start for _, start, _ in fresh), default=0.0)
        latest = max((start for _, start, _ in taken), default=0.0)
        self.now = max(self.now, earliest, latest)

    def _forget_idle(self) -> None:
        # A finish tag at or before the virtual time no longer changes any start tag. The limit
        # doubles if most flows are busy, so that the amortised cost per tag stays constant.
        self._finish = {flow: tag for flow, tag in self._finish.items() if tag > self.now}
        self._max_flows = max(MAX_IDLE_FLOWS, 2 * len(self._finish))


def take_turns(
    nexts: list[tuple[float, int, str]], tasks_of: Callable[[str], Iterator[tuple[float, T]]]
) -> Iterator[T]:
    """Yield the tasks of several flows in fair order.

    No clock advances. Call `VirtualClock.tag` for each task that is handed out.

    Args:
        nexts: `VirtualClock.starts` of the flows with waiting tasks, kept as a heap. If tags are
            equal, the smaller place comes first.
        tasks_of: Returns the tasks of a flow in order, as (cost, task). Called when the flow's
            turn comes.
    """
    heapq.heapify(nexts)
    opened: dict[str, Iterator[tuple[float, T]]] = {}
    while nexts:
        start, place, flow = nexts[0]
        if flow not in opened:
            opened[flow] = tasks_of(flow)
        found = next(opened[flow], None)
        if found is None:
            heapq.heappop(nexts)
            continue
        cost, task = found
        heapq.heapreplace(nexts, (start + cost, place, flow))
        yield task


def take_bands(
    model: str,
    bands: Iterable[int],
    tasks_of: Callable[[int], Iterator[T]],
    passed: Passed,
) -> Iterator[T]:
    """Yield the tasks of several bands of one model in fair order.

    Each task that is yielded counts as handed out.

    Args:
        model: The model of the tasks.
        bands: Bands with waiting tasks.
        tasks_of: Returns the tasks of a band in order.
        passed: How many more urgent tasks in a row overtook each band; updated in place.
    """
    left = sorted(bands)
    if len(left) == 1:
        yield from tasks_of(left[0])
        return
    opened: dict[int, Iterator[T]] = {}
    while left:
        due = (each for each in left[1:] if passed.get((model, each), 0) >= MOST_URGENT)
        chosen = next(due, left[0])
        if chosen not in opened:
            opened[chosen] = tasks_of(chosen)
        task = next(opened[chosen], None)
        passed.pop((model, chosen), None)
        if task is None:
            left.remove(chosen)
            continue
        for each in left:
            if each > chosen:
                passed[(model, each)] = passed.get((model, each), 0) + 1
        yield task


def urgent_before(n: int, passed: int) -> int:
    """Return how many more urgent tasks come at most before one that is less urgent.

    Args:
        n: Number of tasks of the same band before it.
        passed: How many tasks overtook its band since the band's last task.
    """
    return max(0, MOST_URGENT - passed) + MOST_URGENT * n


def later_before(n: int, waiting: int, passed: int) -> int:
    """Return how many less urgent tasks of one band come before a task.

    Args:
        n: How many tasks that are at least as urgent come before it.
        waiting: How many tasks of the other band wait.
        passed: How many tasks overtook that band since the band's last task.
    """
    first = max(0, MOST_URGENT - passed)
    return min(waiting, 1 + (n - first) // MOST_URGENT) if n >= first else 0


def lift(heads: Mapping[str, int], passed: Passed) -> tuple[dict[str, int], set[str]]:
    """Return the bands of models for comparing them, and the models that must not wait longer.

    A model that more urgent tasks of other models overtook `MOST_URGENT` times in a row comes
    first, for one task.

    Args:
        heads: Model → band of its next task.
        passed: From `note_lifted`.
    """
    first = min(heads.values(), default=0)
    due = {
        model
        for model, urgency in heads.items()
        if urgency > first and passed.get((model, urgency), 0) >= MOST_URGENT
    }
    return {model: first - 1 if model in due else each for model, each in heads.items()}, due


def note_lifted(
    heads: Mapping[str, int], served: Sequence[tuple[str, int]], passed: Passed
) -> None:
    """Count how many more urgent tasks of other models overtook each waiting model.

    Args:
        heads: Model → band of its next task.
        served: Model and band of each task that a lease handed out.
        passed: Updated in place; the same mapping as in `take_bands`.
    """
    models = {model for model, _ in served}
    for model, urgency in heads.items():
        name = (model, urgency)
        if model in models:
            passed.pop(name, None)
            continue
        before = sum(each < urgency for _, each in served)
        if before:
            passed[name] = passed.get(name, 0) + before


def turns_before(lead: float, n: int, cost: float, *, wins_tie: bool) -> int:
    """Return how many tasks of another flow come before one of this flow.

    Args:
        lead: Start tag of this task minus the other flow's next start tag.
        n: How many tasks of the other flow wait; >= 0.
        cost: Cost of each of them; > 0.
        wins_tie: Whether the other flow comes first if tags are equal.
    """
    if lead < 0:
        return 0
    turns = lead / cost
    whole = math.ceil(turns)
    return min(n, whole + 1 if wins_tie and whole == turns else whole)


def rotate(heads: Mapping[str, int], last: str | None) -> list[str]:
    """Return the serving order of several models.

    The most urgent band comes first; within it the models take turns, so that a long
    backlog of one model does not hold up the others.

    Args:
        heads: Model → band of its next task.
        last: The model that was served last, or None.
    """
    names = sorted(heads)
    later = [name for name in names if last is not None and name > last]
    turn = later + [name for name in names if name not in set(later)]
    return sorted(turn, key=lambda name: heads[name])


def prefer(
    turn: Sequence[str], heads: Mapping[str, int], near: Sequence[str], passed: Passed
) -> list[str]:
    """Return the order of `rotate` with models first that the worker has loaded.

    Only models change places, never the tasks of one model. A model is not overtaken by less
    urgent ones, nor by others after `MOST_PASSED` times in a row.

    Args:
        turn: From `rotate`.
        heads: Model → band of its next task.
        near: Models on the worker's device, the most useful first.
        passed: From `note_passed`.
    """
    places = {name: place for place, name in enumerate(near)}

    def rank(name: str) -> tuple[int, int]:
        is_due = passed.get(name, 0) >= MOST_PASSED
        return heads[name], -1 if is_due else places.get(name, len(places))

    return sorted(turn, key=rank)


def note_passed(turn: Sequence[str], served: Collection[str], passed: Passed) -> None:
    """Count how many leases in a row skipped each model.

    Args:
        turn: From `rotate`.
        served: Models of the tasks that the lease handed out.
        passed: Model → count; updated in place.
    """
    waiting: list[str] = []
    for name in turn:
        if name not in served:
            waiting.append(name)
            continue
        passed.pop(name, None)
        for each in waiting:
            passed[each] = passed.get(each, 0) + 1
        waiting.clear()
