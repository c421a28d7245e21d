"""Work that is queued on a device, and the device time of each sample.

A device that works asynchronously (`Arrays.mark`) gets the next step while it runs the present one.
`DeviceQueue` remembers that work until the device has finished it. A device that works
synchronously queues nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import SampleState
from swell.diffusion.batch_scheduler import Decision, Scheduler
from swell.sdk.step_model import Array, Mark

#: The next step is queued when this share of the present one is left: early enough to leave no gap,
#: and late enough for samples that have just arrived.
LEAD: Final = 0.1


#: A sample, and a function that returns the latents for its preview.
Foreseen = tuple[SampleState, Callable[[], Array]]


class Queued(msgspec.Struct, frozen=True):
    """A step, or the decoding of a sample, on a device."""

    begun_s: float
    mark: Mark
    #: The step; None for a decoding.
    decision: Decision | None = None
    #: The samples that advance, each with its step, and their rows.
    moved: Sequence[tuple[SampleState, int]] = ()
    rows: Mapping[str, int] = {}
    foreseen: Sequence[Foreseen] = ()
    #: Id of the sample that is decoded, and name of its model.
    decoded: tuple[str, str] | None = None


class DeviceQueue:
    """Queued work, oldest first, and device time by sample."""

    def __init__(self, clock: Clock, scheduler: Scheduler) -> None:
        self._clock = clock
        self._scheduler = scheduler
        self.queued: deque[Queued] = deque()
        #: When the device last finished something.
        self._reached_s = 0.0
        #: Sample → seconds of the device: its part of each step, by rows.
        self.spent_s: dict[str, float] = {}
        #: Model → duration of its latest decoding.
        self._decoding_s: dict[str, float] = {}

    def finished(self, ahead: int) -> Iterator[Queued]:
        """Wait until at most `ahead` pieces of work are left; yield the others as they finish."""
        while len(self.queued) > ahead:
            work = self.queued.popleft()
            work.mark.wait()
            now_s = self._clock.monotonic_s()
            # The device began it when it had finished the work before.
            seconds = now_s - max(work.begun_s, self._reached_s)
            self._reached_s = now_s
            if work.decoded is not None:
                sample_id, model = work.decoded
                self.spend(seconds, {sample_id: 1})
                self._decoding_s[model] = seconds
            if work.decision is not None:
                self.spend(seconds, work.rows)
                self._scheduler.took(work.decision, seconds)
                yield work

    def due_s(self, host_s: float) -> float:
        """Return when the next step must be queued; the past for at once.

        Args:
            host_s: Time that the host needs to queue a step.
        """
        running = next((work for work in self.queued if work.decision is not None), None)
        if running is None or running.decision is None:
            return 0.0
        begun_s = max(running.begun_s, self._reached_s)
        step_s = self._scheduler.expected_s(running.decision)
        return begun_s if step_s is None else begun_s + (1 - LEAD) * step_s - 2 * host_s

    # Device time

    def spend(self, seconds: float, rows: Mapping[str, int]) -> None:
        """Divide device time among samples in proportion to their rows."""
        each_s = seconds / max(1, sum(rows.values()))
        for sample_id, n in rows.items():
            if sample_id in self.spent_s:
                self.spent_s[sample_id] += each_s * n

    def take_spent_s(self, sample_id: str) -> float:
        """Return the device time of a sample, queued work included, and stop counting it."""
        seconds = self.spent_s.pop(sample_id, 0.0)
        for work in self.queued:
            if work.decoded is not None and work.decoded[0] == sample_id:
                seconds += self._decoding_s.get(work.decoded[1], 0.0)
            if work.decision is not None and sample_id in work.rows:
                step_s = self._scheduler.expected_s(work.decision) or 0.0
                seconds += step_s * work.rows[sample_id] / sum(work.rows.values())
        return seconds
