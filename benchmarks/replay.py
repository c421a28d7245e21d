"""A denoising worker in simulated time: the real `Scheduler`, and what it is compared with.

Only the device is simulated: the duration of a step follows a published curve. The scheduler
measures its steps, as in a worker.
"""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from statistics import fmean

from swell.diffusion.batch_scheduler import Policy, Sample, Scheduler

#: Seconds per step by rows: Qwen-Image-2512 on one H200, bfloat16, compiled (sglang, pull request
#: 22183). 512 pixels square gain 3.1 times at 8 rows, 1024 nothing.
H200_512 = {1: 0.167, 2: 0.183, 3: 0.186, 4: 0.240, 8: 0.425, 16: 0.832}
H200_1024 = {1: 0.243, 2: 0.474, 3: 0.711}

#: Steps → share of requests, in GenTD26 (alibaba/clusterdata, cluster-trace-v2026-GenAI).
GENTD26_STEPS = {
    30: 0.907,
    40: 0.0508,
    28: 0.0072,
    50: 0.0054,
    35: 0.0049,
    25: 0.004,
    38: 0.0037,
    20: 0.0025,
}
MIXED_STEPS = {4: 0.25, 8: 0.25, 20: 0.25, 30: 0.25}

Device = Callable[[int], float]


def device(curve: Mapping[int, float]) -> Device:
    """Return seconds per step by rows: linear between the points, proportional beyond."""
    known = sorted(curve)

    def seconds(rows: int) -> float:
        if rows >= known[-1]:
            return curve[known[-1]] * rows / known[-1]
        high = next(n for n in known if n >= rows)
        if high == rows:
            return curve[rows]
        low = max(n for n in known if n < rows)
        return curve[low] + (curve[high] - curve[low]) * (rows - low) / (high - low)

    return seconds


@dataclass(frozen=True)
class Job:
    """One picture that is asked for."""

    id: str
    key: str
    steps: int
    arrived_s: float
    rows: int = 1
    weight: float = 1.0
    request: str = ""


@dataclass
class Run:
    """What came of it."""

    unloaded_s: dict[str, float]
    latency_s: dict[str, float] = field(default_factory=dict)
    finished_s: dict[str, float] = field(default_factory=dict)
    loads: int = 0
    busy_s: float = 0.0
    #: From arrival to first step, in lengths of the step that ran meanwhile, if a slot was free.
    admissions: list[float] = field(default_factory=list)

    def finish(self, job: Job, now_s: float) -> None:
        self.finished_s[job.id] = now_s
        self.latency_s[job.id] = now_s - job.arrived_s

    @property
    def slowdowns(self) -> list[float]:
        return sorted(self.latency_s[job] / self.unloaded_s[job] for job in self.latency_s)

    @property
    def mean_slowdown(self) -> float:
        return fmean(self.slowdowns)

    @property
    def p95_slowdown(self) -> float:
        return quantile(self.slowdowns, 0.95)

    @property
    def mean_latency_s(self) -> float:
        return fmean(self.latency_s.values())

    @property
    def end_s(self) -> float:
        return max(self.finished_s.values())


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def drawn(rng: random.Random, shares: Mapping[int, float]) -> int:
    return rng.choices(list(shares), list(shares.values()))[0]


def poisson(
    count: int, shares: Mapping[int, float], step_s: float, load: float, seed: int
) -> list[Job]:
    """Return arrivals that would keep a worker without batches busy for `load` of the time."""
    rng = random.Random(seed)
    mean_s = sum(steps * share for steps, share in shares.items()) / sum(shares.values()) * step_s
    now_s, jobs = 0.0, []
    for n in range(count):
        now_s += rng.expovariate(load / mean_s)
        jobs.append(Job(str(n), "key", drawn(rng, shares), now_s))
    return jobs


def _run_of(jobs: Sequence[Job], devices: Mapping[str, Device], least_rows: int = 1) -> Run:
    rows = {job.id: max(job.rows, least_rows) for job in jobs}
    return Run({job.id: job.steps * devices[job.key](rows[job.id]) for job in jobs})


class Models:
    """The models on a device; the one that was used longest ago makes room."""

    def __init__(self, fit: int) -> None:
        self._fit = fit
        self._used: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._used

    def use(self, key: str) -> str | None:
        """Note that a model runs; return the one that had to go for it."""
        self._used.pop(key, None)
        self._used[key] = None
        if len(self._used) <= self._fit:
            return None
        gone = next(iter(self._used))
        del self._used[gone]
        return gone


class Worker:
    """A loop around the real scheduler, with one device on which a few models fit."""

    def __init__(
        self,
        run: Run,
        devices: Mapping[str, Device],
        scheduler: Scheduler,
        load_s: Mapping[str, float] | None,
        noise: float,
        models: int,
        most_rows: int,
    ) -> None:
        self._most_rows = most_rows
        self.run, self.devices, self.scheduler, self.load_s = run, devices, scheduler, load_s
        self.now_s, self.step_s, self.noise = 0.0, 0.0, noise
        self._models = Models(models)
        self._random = random.Random(1)
        self._jobs: dict[str, Job] = {}
        self._new: list[Job] = []

    def admit(self, job: Job) -> None:
        slots = self.scheduler.cost(job.key).rows_to_fill(0, self._most_rows)
        if len(self.scheduler) < slots:
            self._new.append(job)
        self._jobs[job.id] = job
        self.scheduler.add(
            Sample(
                id=job.id,
                key=job.key,
                remaining=job.steps,
                steps=job.steps,
                arrived_s=job.arrived_s,
                rows=job.rows,
                weight=job.weight,
            )
        )

    def step(self) -> None:
        decision = self.scheduler.decide(self.now_s)
        assert decision.run, "idle while samples wait"
        key = str(decision.key)
        if decision.loads:
            self._load(key)
        elif self.load_s is not None:
            self._models.use(key)
        for job in self._new:
            late_s = self.now_s - job.arrived_s
            steps = late_s / self.step_s if self.step_s else 0.0
            self.run.admissions.append(steps if job.id in decision.ids else inf)
        self._new.clear()
        self.step_s = self.devices[key](decision.bucket) * decision.passes
        self.step_s *= max(0.5, self._random.gauss(1, self.noise))
        self.now_s += self.step_s
        self.run.busy_s += self.step_s
        for sample in self.scheduler.done(decision, self.step_s):
            self.run.finish(self._jobs[sample.id], self.now_s)

    def _load(self, key: str) -> None:
        assert self.load_s is not None
        self.run.loads += 1
        self.now_s += self.load_s[key]
        gone = self._models.use(key)
        if gone is not None:
            self.scheduler.set_residency(gone, loaded=False, load_s=self.load_s[gone])
        self.scheduler.set_residency(key, loaded=True, load_s=self.load_s[key])


def in_steps(  # noqa: PLR0913 - all but two have defaults
    jobs: Sequence[Job],
    devices: Mapping[str, Device],
    *,
    most_rows: int = 16,
    pinned: int | None = None,
    room: int | None = None,
    policy: Policy | None = None,
    load_s: Mapping[str, float] | None = None,
    models: int = 1,
    noise: float = 0.02,
) -> Run:
    """Run the real scheduler. Without `load_s`, all models are loaded.

    Args:
        jobs: By arrival.
        devices: What a step of each key costs.
        most_rows: Rows that fit.
        pinned: Exact mode: the rows of every step, whoever is there, and of a job alone.
        room: How many jobs the worker holds; whoever comes then waits outside, in order.
        policy: Instead of the usual one.
        load_s: What loading each key's model takes.
        models: How many are loaded at a time.
        noise: Standard deviation of a step's time, as a share of it.
    """
    scheduler = Scheduler(policy)
    for key in devices:
        scheduler.know(key, most_rows=pinned or most_rows, pinned=pinned)
        scheduler.set_residency(key, loaded=load_s is None, load_s=(load_s or {}).get(key, 0.0))
    run = _run_of(jobs, devices, pinned or 1)
    worker = Worker(run, devices, scheduler, load_s, noise, models, pinned or most_rows)
    coming = deque(jobs)
    while coming or len(scheduler):
        if not len(scheduler):
            worker.now_s = max(worker.now_s, coming[0].arrived_s)
        while coming and coming[0].arrived_s <= worker.now_s and len(scheduler) < (room or inf):
            worker.admit(coming.popleft())
        worker.step()
    return run


def in_order(
    jobs: Sequence[Job],
    devices: Mapping[str, Device],
    *,
    batch: int = 1,
    load_s: Mapping[str, float] | None = None,
    models: int = 1,
) -> Run:
    """Run requests to their end, first come, first served, up to `batch` of a key together."""
    run = _run_of(jobs, devices)
    waiting, coming = deque[Job](), deque(jobs)
    now_s, loaded = 0.0, Models(models)
    while coming or waiting:
        if not waiting:
            now_s = max(now_s, coming[0].arrived_s)
        while coming and coming[0].arrived_s <= now_s:
            waiting.append(coming.popleft())
        together = [waiting.popleft()]
        while waiting and len(together) < batch and waiting[0].key == together[0].key:
            together.append(waiting.popleft())
        key = together[0].key
        if load_s is not None:
            if key not in loaded:
                run.loads += 1
                now_s += load_s[key]
            loaded.use(key)
        left = sorted(together, key=lambda job: job.steps)
        done = 0
        while left:
            seconds = (left[0].steps - done) * devices[key](sum(job.rows for job in left))
            done, now_s = left[0].steps, now_s + seconds
            run.busy_s += seconds
            while left and left[0].steps == done:
                run.finish(left.pop(0), now_s)
    return run


#: Share of requests by rank of their base model, and how many models there are (GenTD26).
GENTD26_MODELS = (
    *(0.307, 0.1496, 0.0936, 0.0788, 0.0752, 0.0428, 0.0358, 0.0304, 0.0268, 0.0265),
    *(0.0215, 0.0087, 0.0075, 0.007, 0.0068, 0.0052, 0.0043, 0.0042, 0.0039, 0.0037),
)
GENTD26_MODEL_COUNT = 87
#: Pictures per request → share (GenTD26).
GENTD26_PICTURES = {1: 0.5782, 2: 0.0818, 4: 0.1915, 8: 0.1481}
#: Quantiles of what loading a base model takes, in seconds (GenTD26).
GENTD26_LOAD_S = {0.05: 2.287, 0.25: 3.144, 0.5: 22.718, 0.75: 36.919, 0.9: 41.988, 0.95: 45.442}
#: Share of requests for the same model as the request before (GenTD26).
GENTD26_SAME_MODEL = 0.25
#: Shape of the gamma distribution of an hour's rate. It gives the dispersion of GenTD26's counts:
#: variance / mean is 1.45 in 10 s, 3.75 in a minute, 27 in ten, 140 in an hour.
GENTD26_RATE_SHAPE = 0.31


#: What base models take, in bytes: from 1 to 20 GB (the authors' page of GenTD26), spread evenly.
GENTD26_MODEL_BYTES = (1e9, 20e9)


def model_bytes() -> dict[str, int]:
    """Return what each model takes of a device; how often it is used has nothing to do with it."""
    least, most = GENTD26_MODEL_BYTES
    share = (most - least) / (GENTD26_MODEL_COUNT - 1)
    sizes = [round(least + share * n) for n in range(GENTD26_MODEL_COUNT)]
    random.Random(11).shuffle(sizes)
    return {f"model-{n}": size for n, size in enumerate(sizes)}


def load_times_s() -> dict[str, float]:
    """Return what loading each model takes: the quantiles, spread over the models."""
    points = [(0.0, 2.287), *GENTD26_LOAD_S.items(), (1.0, 51.824)]
    times = []
    for n in range(GENTD26_MODEL_COUNT):
        share = (n + 0.5) / GENTD26_MODEL_COUNT
        (low, low_s), (high, high_s) = next(
            (a, b) for a, b in pairwise(points) if a[0] <= share <= b[0]
        )
        times.append(low_s + (high_s - low_s) * (share - low) / (high - low))
    random.Random(7).shuffle(times)
    return {f"model-{n}": times[n] for n in range(GENTD26_MODEL_COUNT)}


def gentd26(count: int, step_s: float, load: float, seed: int) -> list[Job]:
    """Return requests as in GenTD26: bursts, several pictures each, few models most of the time.

    Args:
        count: Requests.
        step_s: Seconds of a step of one picture.
        load: Share of the time that one worker would need for the pictures alone.
        seed: Of everything.
    """
    rng = random.Random(seed)
    rest = (1 - sum(GENTD26_MODELS)) / (GENTD26_MODEL_COUNT - len(GENTD26_MODELS))
    shares = [*GENTD26_MODELS, *[rest] * (GENTD26_MODEL_COUNT - len(GENTD26_MODELS))]
    by_chance = sum(share**2 for share in shares)
    repeats = (GENTD26_SAME_MODEL - by_chance) / (1 - by_chance)
    pictures = sum(n * share for n, share in GENTD26_PICTURES.items())
    steps = sum(n * share for n, share in GENTD26_STEPS.items())
    per_hour = 3600 * load / (pictures * steps * step_s)
    jobs: list[Job] = []
    model, hour, made = "model-0", 0, 0
    while made < count:
        rate = per_hour * rng.gammavariate(GENTD26_RATE_SHAPE, 1 / GENTD26_RATE_SHAPE)
        now_s = rng.expovariate(rate / 3600) if rate > 1e-9 else inf
        while now_s < 3600 and made < count:
            if rng.random() >= repeats:
                model = f"model-{rng.choices(range(GENTD26_MODEL_COUNT), shares)[0]}"
            wanted, steps_of_it = drawn(rng, GENTD26_PICTURES), drawn(rng, GENTD26_STEPS)
            for n in range(wanted):
                job = Job(f"{made}.{n}", model, steps_of_it, hour * 3600 + now_s)
                jobs.append(replace(job, weight=1 / wanted, request=str(made)))
            made += 1
            now_s += rng.expovariate(rate / 3600)
        hour += 1
    return jobs


def request_latencies_s(run: Run, jobs: Sequence[Job]) -> dict[str, float]:
    """Return from arrival to the last picture, by request."""
    latency_s: dict[str, float] = {}
    for job in jobs:
        latency_s[job.request] = max(latency_s.get(job.request, 0.0), run.latency_s[job.id])
    return latency_s
