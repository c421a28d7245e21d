"""Virtual clocks with uncommitted changes of a transaction."""

from collections.abc import Iterable
from typing import Any

from swell.fairness import VirtualClock


class Draft(VirtualClock):
    """A clock with changes on top of another one, which may be a draft too."""

    def __init__(self, base: VirtualClock) -> None:
        super().__init__()
        self._base = base
        self._now = base.now
        self._steps: list[tuple[Any, ...]] = []

    def peek(self, flow: str) -> float:
        """Return the start tag that a task would get now."""
        end = self._finish.get(flow)
        return max(self._now, self._base.peek(flow) if end is None else end)

    def starts(self, flows: Iterable[str]) -> list[tuple[float, int, str]]:
        """Return (start tag that its next task would get, place, flow) of each flow."""
        if not self._steps:
            return self._base.starts(flows)
        now, finish = self._now, self._finish.get
        return [
            (max(now, finish(flow, tag)), place, flow)
            for tag, place, flow in self._base.starts(flows)
        ]

    def tag(self, flow: str, *, cost: float = 1.0, weight: float = 1.0) -> float:
        """Return the start tag of a task that arrives now."""
        self._steps.append(("tag", flow, cost, weight))
        return self._tag(flow, cost / weight)

    def serve(self, start: float) -> None:
        """Advance the virtual time: a task with this start tag was leased."""
        self._steps.append(("serve", start))
        super().serve(start)

    def take(self, flow: str, cost: float) -> float:
        """Lease a task that gets its tag only now; return the flow's next start tag."""
        self._steps.append(("take", flow, cost))
        super().serve(self._tag(flow, cost))
        return self._finish[flow]

    def keep(self) -> None:
        """Apply the changes to the base."""
        for step, *values in self._steps:
            if step == "serve":
                self._base.serve(values[0])
            elif step == "take":
                self._base.take(*values)
            else:
                self._base.tag(values[0], cost=values[1], weight=values[2])

    def take_back(self) -> None:
        """After `keep`: refund the base for tasks that were not written."""
        for step, *values in self._steps:
            if step == "take":
                self._base.give_back(*values)
            elif step == "tag":
                self._base.give_back(values[0], values[1] / values[2])

    def _tag(self, flow: str, share: float) -> float:
        start = self.peek(flow)
        self._finish[flow] = start + share
        return start
