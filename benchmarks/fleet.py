"""Devices in simulated time: what a worker decides is decided by the worker's own code.

Tasks wait at the backend and are leased by turns and affinity (`swell.core.fair_queueing`); a
worker holds as many as it has slots, its model process as many samples as `next_to_draw` lets in,
and `Schedule` says whose turn it is and when another model is loaded. Only times are made up: of a
picture, of a model's load, and of a rented device's boot.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from replay import H200_1024, gentd26, load_times_s, model_bytes
from swell.core.fair_queueing import note_passed, prefer, rotate
from swell.diffusion.batch_scheduler import Sample, Scheduler
from swell.runtime.eviction_policy import Resident, leaving
from swell.worker.batching import next_to_draw
from swell.worker.worker_loop import MOST_CHOICES

#: Seconds of a picture of 30 steps, 1024 pixels square, where one fills the device.
PICTURE_S = 30 * H200_1024[1]

#: Samples of a model that the process holds where one fills the device (`room_of`), and the tasks
#: that a worker holds by itself where models take turns (`default_slots`).
ROOM = 5
SLOTS = MOST_CHOICES * (ROOM + 1)

#: What models may take of a device of 80 GB, of which a fifth is for what they compute; and none,
#: where each has the device to itself.
BUDGET_BYTES = 64_000_000_000
ONE_AT_A_TIME = 0

LOAD_S = load_times_s()
SIZE_BYTES = model_bytes()


@dataclass(frozen=True)
class Request:
    """Pictures of one model that are asked for together; a picture of 30 steps counts as one."""

    id: str
    model: str
    arrived_s: float
    pictures: int
    #: Of each picture, in pictures of 30 steps.
    parts: int
    alone: bool = False

    @property
    def samples(self) -> int:
        return self.pictures

    @property
    def key(self) -> str:
        return self.model

    @property
    def work_s(self) -> float:
        return self.pictures * self.parts * PICTURE_S


def requests(count: int, load: float, seed: int) -> list[Request]:
    """Return requests as in GenTD26, by arrival."""
    found: dict[str, Request] = {}
    for job in gentd26(count, H200_1024[1], load, seed):
        known = found.get(job.request)
        if known is None:
            parts = max(1, round(job.steps / 30))
            found[job.request] = Request(job.request, job.key, job.arrived_s, 1, parts)
        else:
            found[job.request] = replace(known, pictures=known.pictures + 1)
    return list(found.values())


@dataclass
class Outcome:
    """What came of a replay."""

    switches: int = 0
    latency_s: dict[str, float] = field(default_factory=dict)
    #: Device time in pictures, in loading models, and as it is billed.
    loop_s: float = 0.0
    load_s: float = 0.0
    billed_s: float = 0.0
    rentals: int = 0
    most_devices: int = 0


class Memory:
    """The models on a device; who leaves is decided as in a worker."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._used: dict[str, int] = {}
        self._uses = 0

    def latest(self) -> list[str]:
        """Return them, the one used last first."""
        return sorted(self._used, key=lambda model: -self._used[model])

    def use(self, model: str, wanted: Collection[str] = ()) -> list[str] | None:
        """Note that a model runs; return who had to leave for it, or None if it was there."""
        self._uses += 1
        if model in self._used:
            self._used[model] = self._uses
            return None
        residents = [
            Resident(name=name, size_bytes=SIZE_BYTES[name], used=used, is_wanted=name in wanted)
            for name, used in self._used.items()
        ]
        gone = leaving(SIZE_BYTES[model], residents, self._budget_bytes)
        for name in gone:
            del self._used[name]
        self._used[model] = self._uses
        return gone


def in_order(asked: Sequence[Request], budget_bytes: int) -> Outcome:
    """First come, first served, by one device."""
    outcome, memory, now_s = Outcome(), Memory(budget_bytes), 0.0
    for request in asked:
        now_s = max(now_s, request.arrived_s)
        if memory.use(request.model) is not None:
            outcome.switches += 1
            now_s += LOAD_S[request.model]
        now_s += request.work_s
        outcome.latency_s[request.id] = now_s - request.arrived_s
    return outcome


@dataclass(frozen=True)
class Rent:
    """When devices are rented and given back."""

    #: From the order to the first task.
    boot_s: float
    #: An idle one is kept so long.
    linger_s: float
    #: The first is rented once so much work waits, or somebody has waited so long.
    first_s: float
    patience_s: float
    #: Another one is rented when more work than this waits for each that is there.
    more_s: float
    #: The least that is billed for one.
    least_s: float = 60.0
    most: int = 14


class Device:
    """A worker and its device."""

    def __init__(self, fleet: Fleet, since_s: float, ready_s: float) -> None:
        self.fleet = fleet
        self.since_s, self.now_s = since_s, ready_s
        self.polled = 0
        self.scheduler = Scheduler()
        for model, load_s in LOAD_S.items():
            self.scheduler.know(model, most_rows=1)
            self.scheduler.set_residency(model, loaded=False, load_s=load_s)
        self.memory = Memory(fleet.budget_bytes)
        #: Tasks that wait for the model process, and those that it has.
        self.waiting: deque[Request] = deque()
        self.inside: dict[str, Request] = {}
        #: Task → its pictures that are not drawn yet.
        self.held: dict[str, int] = {}

    def lease(self, now_s: float) -> None:
        """Take what is given, once the device is there."""
        free = self.fleet.slots - len(self.held)
        if free <= 0 or (now_s < self.now_s and not self.held):
            return
        for request in self.fleet.lease(self, free):
            if not self.held:
                self.now_s = max(self.now_s, now_s)
            self.held[request.id] = request.pictures
            self.waiting.append(request)
        self.feed()

    def feed(self) -> None:
        rooms = dict.fromkeys(LOAD_S, ROOM)
        while (request := next_to_draw(self.waiting, self.inside.values(), rooms)) is not None:
            self.inside[request.id] = request
            for number in range(request.pictures):
                self.scheduler.add(
                    Sample(
                        id=f"{request.id}.{number}",
                        key=request.model,
                        remaining=request.parts,
                        steps=request.parts,
                        arrived_s=self.now_s,
                        weight=1 / request.pictures,
                    )
                )

    def step(self) -> None:
        decision = self.scheduler.decide(self.now_s)
        model, outcome = str(decision.key), self.fleet.outcome
        wanted = {self.fleet.by_id[task].model for task in self.held}
        gone = self.memory.use(model, wanted)
        if gone is not None:
            outcome.switches += 1
            outcome.load_s += LOAD_S[model]
            self.now_s += LOAD_S[model]
            self.scheduler.set_residency(model, loaded=True, load_s=LOAD_S[model])
            for name in gone:
                self.scheduler.set_residency(name, loaded=False, load_s=LOAD_S[name])
        self.now_s += PICTURE_S
        outcome.loop_s += PICTURE_S
        has_ended = False
        for sample in self.scheduler.done(decision, PICTURE_S):
            task = sample.id.partition(".")[0]
            self.held[task] -= 1
            if not self.held[task]:
                del self.held[task]
                del self.inside[task]
                has_ended = True
                outcome.latency_s[task] = self.now_s - self.fleet.by_id[task].arrived_s
        self.feed()
        if has_ended:
            self.fleet.arrive(self.now_s)
            self.lease(self.now_s)


class Fleet:
    """The backend, and its devices.

    Args:
        asked: Requests by arrival.
        budget_bytes: What models may take of each device.
        slots: Tasks that a worker holds.
        rent: When devices are rented; None for one that is there all the time.
    """

    def __init__(
        self,
        asked: Sequence[Request],
        budget_bytes: int = BUDGET_BYTES,
        *,
        slots: int = SLOTS,
        rent: Rent | None = None,
    ) -> None:
        self.budget_bytes, self.slots, self.rent = budget_bytes, slots, rent
        self.by_id = {request.id: request for request in asked}
        self.outcome = Outcome()
        self.coming = deque(asked)
        self.queues: dict[str, deque[Request]] = defaultdict(deque)
        self.last: str | None = None
        self.passed: dict[str, int] = {}
        self.polls = 0
        self.devices = [] if rent else [Device(self, 0.0, 0.0)]

    # The backend

    def lease(self, device: Device, n: int) -> list[Request]:
        heads = {model: 1 for model, queue in self.queues.items() if queue}
        turn = rotate(heads, self.last)
        granted: list[Request] = []
        for model in prefer(turn, heads, device.memory.latest(), self.passed):
            queue = self.queues[model]
            while queue and len(granted) < n:
                granted.append(queue.popleft())
                self.last = model
        if len(turn) > 1:
            note_passed(turn, {request.model for request in granted}, self.passed)
        self.polls += 1
        device.polled = self.polls
        return granted

    def arrive(self, until_s: float) -> None:
        """Let requests come; whoever has waited longest for work gets them."""
        while self.coming and self.coming[0].arrived_s <= until_s:
            request = self.coming.popleft()
            self.queues[request.model].append(request)
            for device in sorted(self.devices, key=lambda device: device.polled):
                device.lease(request.arrived_s)
            self.rent_more(request.arrived_s)

    # Devices

    def work_s(self) -> float:
        """Return the work that waits anywhere."""
        queued = sum(request.work_s for queue in self.queues.values() for request in queue)
        held = sum(
            left * self.by_id[task].parts * PICTURE_S
            for device in self.devices
            for task, left in device.held.items()
        )
        return queued + held

    def rent_more(self, now_s: float) -> None:
        rent = self.rent
        if rent is None or len(self.devices) >= rent.most:
            return
        if self.devices:
            wants = self.work_s() > rent.more_s * len(self.devices)
        else:
            wants = self.work_s() >= rent.first_s or now_s >= self.patience_ends_s()
        if wants:
            self.devices.append(Device(self, now_s, now_s + rent.boot_s))
            self.outcome.rentals += 1
            self.outcome.most_devices = max(self.outcome.most_devices, len(self.devices))

    def patience_ends_s(self) -> float:
        """Return when somebody has waited long enough for the first device."""
        if self.rent is None or self.devices:
            return inf
        waiting = [queue[0].arrived_s for queue in self.queues.values() if queue]
        return min(waiting, default=inf) + self.rent.patience_s

    def give_back(self, device: Device, now_s: float) -> None:
        assert self.rent is not None
        self.devices.remove(device)
        self.outcome.billed_s += max(self.rent.least_s, now_s - device.since_s)

    # Time

    def run(self) -> Outcome:
        while True:
            comes_s = self.coming[0].arrived_s if self.coming else inf
            busy = [device for device in self.devices if device.held]
            first = min(busy, key=lambda device: device.now_s, default=None)
            works_s = inf if first is None else first.now_s
            idle = [device for device in self.devices if not device.held]
            last = min(idle, key=lambda device: device.now_s, default=None)
            waits = any(self.queues.values())
            if last is not None and waits and last.now_s <= min(comes_s, works_s):
                # It has booted, and work waits.
                last.lease(last.now_s)
                continue
            patience_s = self.patience_ends_s()
            leaves_s = inf
            if self.rent is not None and last is not None and not waits:
                leaves_s = last.now_s + self.rent.linger_s
            next_s = min(comes_s, works_s, patience_s, leaves_s)
            if next_s == inf:
                break
            if next_s == leaves_s and last is not None:
                self.give_back(last, leaves_s)
            elif next_s == comes_s:
                self.arrive(comes_s)
            elif next_s == patience_s:
                self.rent_more(patience_s)
            elif first is not None:
                first.step()
        missing = len(self.by_id) - len(self.outcome.latency_s)
        if missing:
            raise RuntimeError(f"{missing} requests were not served")
        return self.outcome
