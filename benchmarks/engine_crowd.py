"""How much sooner are pictures finished by Swell's scheduler than if all share each step?

In simulated time, without the rest of a worker: the real `Scheduler`, which measures its steps,
against a loop that gives every picture a part in each step. Both draw the same pictures of 4,
8, 20 or 30 steps on the same device, which is swell/icons on two cores: a step takes 7 ms and
6.9 ms per row, a picture has two rows, and takes 10 ms to decode.

The device's speed varies as on a shared machine: by 11 % within seconds, and by some percent per
core and step; now and then a step takes 1.6 times as long. A step waits for the slower core. Steps
of real backlogs show this: a standard deviation of 10 to 20 %, about half of it in common with the
neighbouring steps.

A crowd is the load of `engine_peers.py`: 8 clients first, a rest of some seconds, then 32 that ask
for the next picture as soon as they have one, and then random arrivals, at 0.9 of what one picture
after another could bear on a quiet device. If this value is small and that of `engine-peers` is
not, the scheduler is not the reason.

Value: the 95th percentile of latency over that of the loop, in the mean of the crowds.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

from engine_peers import CLIENTS, LOAD, SETTLE_S, STEPS, WARM_UP, Size, wishes
from machine import report
from open_load import percentile, poisson
from swell.diffusion.batch_scheduler import Decision, Sample, Scheduler

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
    #: Per core. The slower of two cores is as late as measured steps of both.
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

    def at(self, now_s: float) -> float:
        """Of a step that begins now, which ends with its slowest core."""
        while len(self._known) <= now_s / self.EVERY_S:
            self._known.append(next(self._drifts))
        return self._known[int(now_s / self.EVERY_S)] * max(self._core() for _ in range(CORES))

    def _core(self) -> float:
        stall = self.STALL if self._steps.random() < self.STALLS else 1.0
        return math.exp(abs(self._steps.gauss(0, self.EACH))) * stall


class Order(Protocol):
    """Decides which pictures a step has."""

    def __len__(self) -> int: ...

    def add(self, picture: str, steps: int, now_s: float) -> None: ...

    def begin(self, now_s: float) -> int:
        """Begin a step; return how many pictures take part in it."""

    def end(self, took_s: float) -> list[str]:
        """End that step; return the pictures that it finishes."""


class Swell:
    """The scheduler of a worker that starts without stored step costs."""

    MOST_ROWS = 64

    def __init__(self) -> None:
        self._scheduler = Scheduler()
        self._scheduler.know("icons", most_rows=self.MOST_ROWS, padded=False)
        self._scheduler.set_residency("icons", loaded=True, load_s=0.0)
        self._decision = Decision()

    def __len__(self) -> int:
        return len(self._scheduler)

    def add(self, picture: str, steps: int, now_s: float) -> None:
        self._scheduler.add(
            Sample(
                id=picture,
                key="icons",
                remaining=steps,
                steps=steps,
                arrived_s=now_s,
                rows=ROWS,
            )
        )

    def begin(self, now_s: float) -> int:
        self._decision = self._scheduler.decide(now_s)
        return len(self._decision.run)

    def end(self, took_s: float) -> list[str]:
        return [sample.id for sample in self._scheduler.done(self._decision, took_s)]


class Sharing:
    """All pictures take part in each step."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._left)

    def add(self, picture: str, steps: int, now_s: float) -> None:
        self._left[picture] = steps

    def begin(self, now_s: float) -> int:
        return len(self._left)

    def end(self, took_s: float) -> list[str]:
        finished = [picture for picture, steps in self._left.items() if steps == 1]
        self._left = {picture: steps - 1 for picture, steps in self._left.items() if steps > 1}
        return finished


@dataclass
class Device:
    """A device in simulated time, and its order."""

    order: Order
    speed: Speed
    now_s: float = 0.0
    #: Arrival of each unfinished picture.
    _came_s: dict[str, float] = field(default_factory=dict)
    _count: int = 0

    def _add(self, steps: int, came_s: float) -> str:
        picture = str(self._count)
        self._count += 1
        self._came_s[picture] = came_s
        self.order.add(picture, steps, came_s)
        return picture

    def _step(self) -> list[tuple[str, float]]:
        """Run a step, and decode the pictures that it finishes.

        Returns:
            Those pictures and their latencies.
        """
        pictures = self.order.begin(self.now_s)
        took_s = step_s(ROWS * pictures) * self.speed.at(self.now_s)
        self.now_s += took_s + GAP_S
        found = []
        for picture in self.order.end(took_s):
            self.now_s += DECODE_S
            found.append((picture, self.now_s - self._came_s.pop(picture)))
        return found

    def by_clients(self, steps: Sequence[int], clients: int) -> float:
        """Return pictures per second, if each client asks for the next picture at once."""
        begun_s, waiting = self.now_s, list(reversed(steps))
        while waiting or len(self.order):
            while waiting and len(self.order) < clients:
                self._add(waiting.pop(), self.now_s)
            self._step()
        return len(steps) / (self.now_s - begun_s)

    def at_times(self, steps: Sequence[int], at_s: Sequence[float]) -> list[tuple[int, float]]:
        """Return steps and latency of pictures that arrive at these times from now on."""
        coming = [(self.now_s + due_s, count) for due_s, count in zip(at_s, steps, strict=True)]
        coming.reverse()
        of: dict[str, int] = {}
        found = []
        while coming or len(self.order):
            if not len(self.order):
                self.now_s = max(self.now_s, coming[-1][0])
            while coming and coming[-1][0] <= self.now_s:
                due_s, count = coming.pop()
                of[self._add(count, due_s)] = count
            found += [(of[picture], latency_s) for picture, latency_s in self._step()]
        return found


def crowd(order: Order, number: int, load: float) -> dict[str, float]:
    """Return the figures of one crowd."""
    size, seed = Size(), 100 * number + PX
    device = Device(order, Speed(1000 + number))
    rate_per_s = load / fmean(alone_s(steps) for steps in STEPS)

    def steps(count: int, seed: int) -> list[int]:
        return [wish["steps"] for wish in wishes(count, seed, PX)]

    device.by_clients(steps(WARM_UP, 0), WARM_UP // 2)
    device.now_s += SETTLE_S
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
        (crowd(Swell(), n, asked.load), crowd(Sharing(), n, asked.load))
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
