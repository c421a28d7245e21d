"""How much sooner are pictures there by Swell's schedule than if all who are there share each step?

In simulated time, with nothing else of a worker: the real `Schedule`, whose curve is what its steps
took, against a loop in which every picture that is there takes part in the next step. Both draw the
same pictures of 4, 8, 20 or 30 steps on the same device, which is swell/icons on two cores: a step
of both takes 7 ms and 6.9 ms for each row, two rows a picture, and 10 ms to decode one. From two
pictures on, each core runs steps of its own with Swell: such a step takes as long as one of both
with twice the rows, and to decode a picture keeps its core for 20 ms.

The device's speed changes as that of a shared machine does: by 11 % within seconds, the same for
both cores; and for each core and step by chance some percent, and now and then one takes 1.6 times
as long: who shares a step waits for the slower core. That is what steps of real backlogs show: a
standard deviation of 10 to 20 %, and neighbours that have about half of it in common.

A crowd is what `engine_peers.py` brings: 8 clients first, a rest of some seconds, then 32 with the
next picture as soon as they have one, and then arrivals by chance, at 0.9 of what one picture after
another could bear if the device were quiet.
Where this is small and `engine-peers` is not, it is not the schedule that makes pictures late.

Value: the 95th percentile of latency over that of the loop, in the mean of the crowds.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple, Protocol

from engine_peers import CLIENTS, LOAD, SETTLE_S, STEPS, WARM_UP, Size, wishes
from machine import report
from open_load import percentile, poisson
from swell.worker.decide import Decision, Sample
from swell.worker.rehearsal import Rehearsal
from swell.worker.schedule import Schedule

STEP_S, ROW_S, DECODE_S, GAP_S = 7.0e-3, 6.9e-3, 10e-3, 0.3e-3
ROWS = 2
CORES = 2
PX = 128


def step_s(rows: int) -> float:
    return STEP_S + ROW_S * rows


def alone_s(steps: int) -> float:
    return steps * (step_s(ROWS) + GAP_S) + DECODE_S


class Speed:
    """How much longer a step takes than on a quiet machine."""

    DRIFT, LASTS_S = 0.11, 3.0
    #: Of each core: two that are waited for are as late as measured steps of both are.
    EACH, STALLS, STALL = 0.085, 0.005, 1.6
    EVERY_S = 0.25

    def __init__(self, seed: int) -> None:
        self._drifts, self._steps = (
            self._drift(random.Random(seed)),
            random.Random(f"steps of {seed}"),
        )
        self._known: list[float] = []

    def _drift(self, rng: random.Random) -> Iterator[float]:
        """An Ornstein-Uhlenbeck process, in steps of `EVERY_S`."""
        now, keeps = 0.0, math.exp(-self.EVERY_S / self.LASTS_S)
        while True:
            now = keeps * now + math.sqrt(1 - keeps**2) * rng.gauss(0, self.DRIFT)
            yield math.exp(now)

    def at(self, now_s: float, cores: int) -> float:
        """Of a step that so many cores share; the slowest of them is waited for."""
        while len(self._known) <= now_s / self.EVERY_S:
            self._known.append(next(self._drifts))
        return self._known[int(now_s / self.EVERY_S)] * max(self._core() for _ in range(cores))

    def _core(self) -> float:
        stall = self.STALL if self._steps.random() < self.STALLS else 1.0
        return math.exp(abs(self._steps.gauss(0, self.EACH))) * stall


@dataclass(frozen=True)
class Step:
    """A step that runs: of the whole device, or of one core."""

    pictures: int
    #: How many of them it is the last step of.
    last: int
    decision: Decision | None = None
    cores: int = CORES
    #: Whether no core was idle as it began.
    is_usual: bool = True

    @property
    def rows(self) -> int:
        """Rows of a step of the whole device that takes as long."""
        return ROWS * self.pictures * CORES // self.cores


class Order(Protocol):
    """Who takes part in which step."""

    def __len__(self) -> int: ...

    def add(self, picture: str, steps: int, now_s: float) -> None: ...

    def begin(self, now_s: float) -> list[Step]:
        """The steps that cores which have nothing to do begin."""

    def end(self, step: Step, took_s: float) -> list[str]:
        """Who is finished by it."""

    def rehearse(self) -> int:
        """How many rows a step is to have while nobody is there; 0 for none."""

    def rehearsed(self, rows: int, took_s: float) -> None:
        """What that step took."""


class Swell:
    """The schedule of a worker that begins without a curve."""

    MOST_ROWS = 64

    def __init__(self) -> None:
        self._rehearsal = Rehearsal()
        self._schedule = Schedule()
        self._schedule.know("icons", most_rows=self.MOST_ROWS, padded=False)
        self._schedule.set_residency("icons", loaded=True, load_s=0.0, partitions=CORES)
        #: Cores that run steps of their own, or whether one of all runs.
        self._busy: set[int] = set()
        self._all_busy = False

    def __len__(self) -> int:
        return len(self._schedule)

    def add(self, picture: str, steps: int, now_s: float) -> None:
        self._rehearsal.interrupt()
        self._schedule.add(
            Sample(
                id=picture,
                key="icons",
                remaining=steps,
                steps=steps,
                arrived_s=now_s,
                rows=ROWS,
            )
        )

    def begin(self, now_s: float) -> list[Step]:
        if self._all_busy:
            return []
        partitions = self._schedule.partitions
        if partitions == 1:
            if self._busy or not len(self):
                return []
            self._all_busy = True
            return [_told(self._schedule.decide(now_s), CORES)]
        begun = []
        for core in sorted(set(range(partitions)) - self._busy):
            decision = self._schedule.decide(now_s, core)
            if decision.run:
                self._schedule.begun(decision)
                self._busy.add(core)
                begun.append(decision)
        is_usual = len(self._busy) == partitions
        return [_told(decision, 1, is_usual=is_usual) for decision in begun]

    def end(self, step: Step, took_s: float) -> list[str]:
        decision = step.decision
        assert decision is not None
        if step.cores == 1:
            self._schedule.landed(decision)
            self._busy.discard(decision.partition)
        self._all_busy = False
        finished = self._schedule.started(decision)
        self._schedule.took(decision, took_s, is_usual=step.is_usual)
        return [sample.id for sample in finished]

    def rehearse(self) -> int:
        return self._rehearsal.next(self._schedule.curve("icons"), self.MOST_ROWS, ROWS) or 0

    def rehearsed(self, rows: int, took_s: float) -> None:
        curve = self._rehearsal.tried(self._schedule.curve("icons"), rows, took_s)
        self._schedule.learn("icons", curve)


def _told(decision: Decision, cores: int, *, is_usual: bool = True) -> Step:
    last = sum(sample.remaining == 1 for sample in decision.run)
    return Step(len(decision.run), last, decision, cores, is_usual)


class Everybody:
    """All who are there, in each step."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._running: list[str] = []

    def __len__(self) -> int:
        return len(self._left)

    def add(self, picture: str, steps: int, now_s: float) -> None:
        self._left[picture] = steps

    def begin(self, now_s: float) -> list[Step]:
        if self._running or not self._left:
            return []
        self._running = list(self._left)
        return [Step(len(self._running), sum(steps == 1 for steps in self._left.values()))]

    def end(self, step: Step, took_s: float) -> list[str]:
        for picture in self._running:
            self._left[picture] -= 1
        finished = [picture for picture in self._running if not self._left[picture]]
        self._running = []
        for picture in finished:
            del self._left[picture]
        return finished

    def rehearse(self) -> int:
        return 0

    def rehearsed(self, rows: int, took_s: float) -> None:
        """It learns nothing."""


class _Running(NamedTuple):
    """A step on its way, in order of when its cores are free."""

    free_s: float
    number: int
    ended_s: float
    took_s: float
    step: Step


@dataclass
class Device:
    """A device in simulated time, and by which order it draws."""

    order: Order
    speed: Speed
    now_s: float = 0.0
    #: Of a picture that is not finished: when it came.
    _came_s: dict[str, float] = field(default_factory=dict)
    _running: list[_Running] = field(default_factory=list)
    _count: int = 0
    _steps: int = 0

    def _add(self, steps: int, came_s: float) -> str:
        picture = str(self._count)
        self._count += 1
        self._came_s[picture] = came_s
        self.order.add(picture, steps, came_s)
        return picture

    def _begin(self) -> None:
        """Have all cores that are free begin what they can."""
        for step in self.order.begin(self.now_s):
            took_s = step_s(step.rows) * self.speed.at(self.now_s, step.cores)
            ended_s = self.now_s + took_s + GAP_S
            free_s = ended_s + step.last * DECODE_S * CORES / step.cores
            self._steps += 1
            heapq.heappush(self._running, _Running(free_s, self._steps, ended_s, took_s, step))

    def _end(self) -> list[tuple[str, float]]:
        """Wait until a step's cores are free.

        Returns:
            Who is finished, and how long it took from when it came.
        """
        running = heapq.heappop(self._running)
        self.now_s = running.free_s
        decode_s = DECODE_S * CORES / running.step.cores
        return [
            (picture, running.ended_s + n * decode_s - self._came_s.pop(picture))
            for n, picture in enumerate(self.order.end(running.step, running.took_s), start=1)
        ]

    def rest(self, seconds: float) -> None:
        """Nobody comes; a step that has begun by then ends."""
        until_s = self.now_s + seconds
        while self.now_s < until_s and (rows := self.order.rehearse()):
            took_s = step_s(rows) * self.speed.at(self.now_s, CORES)
            self.now_s += took_s
            self.order.rehearsed(rows, took_s)
        self.now_s = max(self.now_s, until_s)

    def by_clients(self, steps: Sequence[int], clients: int) -> float:
        """Pictures per second, if so many clients ask for the next one as soon as they have one."""
        begun_s, waiting = self.now_s, list(reversed(steps))
        while waiting or len(self.order):
            while waiting and len(self.order) < clients:
                self._add(waiting.pop(), self.now_s)
            self._begin()
            self._end()
        return len(steps) / (self.now_s - begun_s)

    def at_times(self, steps: Sequence[int], at_s: Sequence[float]) -> list[tuple[int, float]]:
        """Steps and latency of each picture that comes at these times from now on."""
        coming = [(self.now_s + due_s, count) for due_s, count in zip(at_s, steps, strict=True)]
        coming.reverse()
        of: dict[str, int] = {}
        found = []
        while coming or len(self.order):
            if coming and (not self._running or coming[-1][0] <= self._running[0].free_s):
                due_s, count = coming.pop()
                self.now_s = max(self.now_s, due_s)
                of[self._add(count, due_s)] = count
            else:
                found += [(of[picture], latency_s) for picture, latency_s in self._end()]
            self._begin()
        return found


def crowd(order: Order, number: int, load: float) -> dict[str, float]:
    """What becomes of one crowd."""
    size, seed = Size(), 100 * number + PX
    device = Device(order, Speed(1000 + number))
    rate_per_s = load / fmean(alone_s(steps) for steps in STEPS)

    def steps(count: int, seed: int) -> list[int]:
        return [wish["steps"] for wish in wishes(count, seed, PX)]

    device.by_clients(steps(WARM_UP, 0), WARM_UP // 2)
    device.rest(SETTLE_S)
    images_per_s = device.by_clients(steps(size.backlog, seed), CLIENTS)
    at_s = poisson(rate_per_s, size.arrivals, seed + 2)
    found = device.at_times(steps(size.arrivals, seed + 1), at_s)
    slowdowns = [latency_s / alone_s(count) for count, latency_s in found]
    latencies_s = [latency_s for _, latency_s in found]
    return {
        "images_per_s": images_per_s,
        "p95": percentile(latencies_s, 0.95),
        "p50": percentile(latencies_s, 0.5),
        "mean": fmean(latencies_s),
        "mean_slowdown": fmean(slowdowns),
        "p95_slowdown": percentile(slowdowns, 0.95),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crowds", type=int, default=200)
    parser.add_argument("--load", type=float, default=LOAD, help="of what one after another bears")
    asked = parser.parse_args()
    pairs = [
        (crowd(Swell(), n, asked.load), crowd(Everybody(), n, asked.load))
        for n in range(asked.crowds)
    ]
    ratios = {
        name: round(fmean(ours[name] / other[name] for ours, other in pairs), 4)
        for name in pairs[0][0]
    }
    sooner = fmean(ours["p95"] < other["p95"] for ours, other in pairs)
    detail = {
        "crowds": asked.crowds,
        "over_everybody": ratios,
        "crowds_in_which_p95_is_less": round(sooner, 3),
        "load": asked.load,
    }
    report(ratios["p95"], detail)


if __name__ == "__main__":
    main()
