"""Which user's task comes next: start-time fair queueing on a virtual clock.

Each task gets a start tag when it becomes ready; the ready task with the smallest tag runs next. A
flow (one user of one key) that sends many tasks pushes its own tags into the future, while a flow
that was quiet starts at the current virtual time. So nobody's burst delays another by more than one
task per busy flow.

    start(k)  = max(virtual time at arrival, finish(k - 1) of the same flow)
    finish(k) = start(k) + cost / weight
    virtual time = the largest start tag handed out so far

Tags are kept with the tasks, so any ordered index is the queue. The clock itself is small and can
be rebuilt from the waiting tasks (`restore`).

Source:
    P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996, equations 4 to 6.
"""

from collections.abc import Iterable, Mapping

__all__ = ["VirtualClock", "rotate"]

#: Flows whose finish tag lies behind the virtual time are looked for once this many are known.
MAX_IDLE_FLOWS = 10_000


class VirtualClock:
    """Start tags for one queue and priority class.

    Guarantees:
        Tags of one flow never decrease. While two flows are both waiting, the service they have
        received differs by at most one task's cost of each (theorem 1 of the source). A flow that
        was idle gets no credit for the time it was idle.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._finish: dict[str, float] = {}
        self._max_flows = MAX_IDLE_FLOWS

    @property
    def now(self) -> float:
        """The virtual time: the largest start tag that was handed out."""
        return self._now

    def tag(self, flow: str, *, cost: float = 1.0, weight: float = 1.0) -> float:
        """Return the start tag of a task that arrives now.

        Args:
            flow: Whose task it is.
            cost: Work in the task, in any unit that is the same for all (pictures, seconds); > 0.
            weight: The flow's share relative to others; > 0.
        """
        start = max(self._now, self._finish.get(flow, 0.0))
        self._finish[flow] = start + cost / weight
        if len(self._finish) > self._max_flows:
            self._forget_idle()
        return start

    def serve(self, start: float) -> None:
        """Note that a task with this start tag was handed to a worker."""
        if start > self._now:
            self._now = start

    def restore(
        self,
        waiting: Iterable[tuple[str, float, float]],
        served: Iterable[tuple[str, float, float]] = (),
    ) -> None:
        """Rebuild the clock after a restart, from the tasks that have not ended.

        Each is (flow, start tag, cost / weight). A task that was handed out and came back keeps its
        small tag and says nothing of where the clock stood, except that it stood there or later.

        Args:
            waiting: Tasks that were never handed out: the clock had not passed them.
            served: Tasks that were: it had come at least so far.
        """
        fresh, taken = list(waiting), list(served)
        for flow, start, share in fresh + taken:
            self._finish[flow] = max(self._finish.get(flow, 0.0), start + share)
        earliest = min((start for _, start, _ in fresh), default=0.0)
        latest = max((start for _, start, _ in taken), default=0.0)
        self._now = max(self._now, earliest, latest)

    def _forget_idle(self) -> None:
        # A finish tag at or before the virtual time no longer changes any start tag. Where most
        # flows are busy, the next look waits until there are twice as many, so that looking costs
        # each tag the same on average.
        self._finish = {flow: tag for flow, tag in self._finish.items() if tag > self._now}
        self._max_flows = max(MAX_IDLE_FLOWS, 2 * len(self._finish))


def rotate(heads: Mapping[str, int], last: str | None) -> list[str]:
    """Return in which order to serve several models.

    The most urgent priority class comes first; within it the models take turns, so that a long
    backlog of one model does not hold up the others.

    Args:
        heads: Model → priority class of its next task.
        last: The model that was served last, or None.
    """
    names = sorted(heads)
    later = [name for name in names if last is not None and name > last]
    turn = later + [name for name in names if name not in set(later)]
    return sorted(turn, key=lambda name: heads[name])
