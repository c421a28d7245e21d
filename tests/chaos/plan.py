"""What is asked, and when who dies: all that chance decides, beforehand, from one seed. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from conformance.history import Ask
from swell.core.task import TaskState

__all__ = [
    "Job",
    "Kill",
    "Plan",
    "Strike",
    "Submission",
    "Victim",
    "judge",
    "make_plan",
    "make_strikes",
    "written_down",
]

#: More than a run can kill of one innocent task.
ENOUGH_ATTEMPTS: Final = 20
#: What a task that can only fail may try.
FEW_ATTEMPTS: Final = 3

USERS: Final = tuple(f"user-{number}" for number in range(7))


class Victim(StrEnum):
    """What is killed."""

    BACKEND = "backend"
    WORKER = "worker"
    MODEL = "model"


#: Chances of each victim, and how many of a run's kills it gets at least, where there are enough.
_WEIGHTS: Final = {Victim.WORKER: 4, Victim.MODEL: 3, Victim.BACKEND: 3}

#: Kinds of tasks: (weight, model, mode, chance of a cancel, has a deadline).
_KINDS: Final[tuple[tuple[float, str, str, float, bool], ...]] = (
    (30, "chaos/turn", "", 0.0, False),
    (34, "chaos/work", "work", 0.0, False),
    (8, "chaos/work", "work", 1.0, False),
    (4, "chaos/turn", "", 1.0, False),
    (8, "chaos/work", "flaky", 0.1, False),
    (3, "chaos/work", "bad", 0.0, False),
    (3, "chaos/work", "reject", 0.0, False),
    (10, "chaos/work", "work", 0.0, True),
)


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL. `index` names the worker, or the worker whose model process it is."""

    at_s: float
    victim: Victim
    index: int


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault, from its begin to its end. `chance` decides whatever of it is left to chance."""

    at_s: float
    fault: str
    duration_s: float
    chance: float


@dataclass(frozen=True, slots=True)
class Job:
    """One ask, and what its client does beside asking."""

    ask: Ask
    #: The body of `POST /v1/tasks`.
    body: dict[str, Any]
    #: Cancel so long after it was accepted.
    cancel_after_s: float | None = None
    #: Follow its events.
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class Submission:
    """One request: a single task or a batch, under one idempotency key."""

    at_s: float
    key: str
    jobs: tuple[Job, ...]
    is_batch: bool = False
    #: `Prefer: wait`, in seconds.
    wait_s: int | None = None
    #: Send the same again so long after it was answered.
    again_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, decided."""

    seed: int
    submissions: tuple[Submission, ...]
    kills: tuple[Kill, ...] = field(default=())

    @property
    def jobs(self) -> list[Job]:
        """Every job, in the order of its submission."""
        return [job for submission in self.submissions for job in submission.jobs]


def make_plan(
    seed: int, *, tasks: int, kills: int, span_s: float, workers: int, poisons: int
) -> Plan:
    """Return what happens within `span_s` seconds: `tasks` asks, `kills` deaths by our hand.

    `poisons` of the asks are for tasks that kill their model process themselves.
    """
    rng = random.Random(seed)
    poisoned = frozenset(rng.sample(range(tasks), poisons))
    submissions = []
    number = 0
    while number < tasks:
        is_batch = rng.random() < 0.12
        size = min(tasks - number, rng.randint(2, 40)) if is_batch else 1
        numbers = range(number, number + size)
        number += size
        submissions.append(_submission(rng, seed, numbers, poisoned, span_s, is_batch))
    submissions.sort(key=lambda each: each.at_s)
    return Plan(
        seed=seed,
        submissions=tuple(submissions),
        kills=tuple(_kills(rng, kills, span_s, workers)),
    )


#: Sizes of files: some travel inside reports, some by themselves.
_FILES_BYTES: Final = (100, 20_000, 300_000)


#: So many of the tasks that work take longer than a lease that is not extended.
_SLOW: Final = 0.015
_SLOW_MS: Final = 3_000


def written_down(plan: Plan, runs: str, most_attempts: int = ENOUGH_ATTEMPTS) -> Plan:
    """Return the same plan, with files and long runs among it, and runs written into a file.

    No task of it has more attempts than `most_attempts`.
    """
    rng = random.Random(plan.seed)
    submissions = []
    for submission in plan.submissions:
        jobs = []
        for job in submission.jobs:
            asked = job.body["input"] | {"runs": runs}
            if asked.get("mode") == "work" and rng.random() < 1 / 3:
                asked["file_bytes"] = rng.choice(_FILES_BYTES)
            if asked.get("mode") == "work" and rng.random() < _SLOW:
                asked["ms"] = _SLOW_MS
            attempts = min(most_attempts, job.ask.max_attempts)
            body = job.body | {"input": asked, "max_attempts": attempts}
            ask = msgspec.structs.replace(job.ask, max_attempts=attempts)
            jobs.append(replace(job, ask=ask, body=body))
        submissions.append(replace(submission, jobs=tuple(jobs)))
    return replace(plan, submissions=tuple(submissions))


def make_strikes(
    seed: int, faults: dict[str, tuple[float, float]], *, n: int, span_s: float
) -> tuple[Strike, ...]:
    """Return `n` faults within `span_s` seconds, each at least once where there are enough.

    Args:
        seed: Decides.
        faults: By their names the shortest and longest time for which each lasts, in seconds.
        n: How many.
        span_s: The last begins before.
    """
    rng = random.Random(seed)
    names = list(faults)
    rng.shuffle(names)
    names = (names + rng.choices(names, k=max(0, n - len(names))))[:n]
    rng.shuffle(names)
    return tuple(
        Strike(
            # One in each part of the time, so that they come at random and not all at once.
            at_s=(place + rng.random()) * span_s / n,
            fault=name,
            duration_s=rng.uniform(*faults[name]),
            chance=rng.random(),
        )
        for place, name in enumerate(names)
    )


def judge(ask: Ask, output: bytes) -> str | None:
    """Say what is wrong with an output: it must be the name of the ask, turned round."""
    try:
        value = msgspec.json.decode(output)
    except msgspec.MsgspecError:
        return f"{output[:80]!r} is not JSON"
    if not isinstance(value, dict) or set(value) - {"file"} != {"text", "nonce"}:
        return f"{output[:80]!r} is not a result"
    return None if value["text"] == ask.name[::-1] else f"{value['text']!r} for {ask.name!r}"


def _submission(
    rng: random.Random,
    seed: int,
    numbers: Sequence[int],
    poisoned: frozenset[int],
    span_s: float,
    is_batch: bool,
) -> Submission:
    user = rng.choice(USERS)
    jobs = tuple(
        _job(rng, f"{seed}-{number}", user, number in poisoned, may_hurry=not is_batch)
        for number in numbers
    )
    # A batch's own key, so that a task of it never shares one with a single task.
    key = f"batch-{jobs[0].ask.name}" if is_batch else jobs[0].ask.name
    return Submission(
        at_s=rng.uniform(0.0, span_s),
        key=key,
        jobs=jobs,
        is_batch=is_batch,
        wait_s=rng.randint(1, 10) if not is_batch and rng.random() < 0.4 else None,
        again_after_s=rng.uniform(0.0, min(10.0, span_s / 3)) if rng.random() < 0.15 else None,
    )


def _job(rng: random.Random, name: str, user: str, is_poison: bool, *, may_hurry: bool) -> Job:
    weights = [each[0] for each in _KINDS]
    _, model, mode, cancel_chance, has_deadline = rng.choices(_KINDS, weights)[0]
    if is_poison:
        model, mode, cancel_chance, has_deadline = "chaos/work", "poison", 0.0, False
    # A batch with one hopeless deadline is refused whole; single tasks have enough of these.
    has_deadline = has_deadline and may_hurry
    is_canceled = rng.random() < cancel_chance
    ms = rng.choice((0, 5, 20, 60, 120, 600 if is_canceled else 250))
    task_input: dict[str, Any] = {"text": name, "ms": ms}
    if mode:
        task_input["mode"] = mode
    body: dict[str, Any] = {
        "model": model,
        "input": task_input,
        "user": user,
        "priority": rng.choice((0, 1, 1, 1, 2)),
        "max_attempts": FEW_ATTEMPTS if mode in ("bad", "poison") else ENOUGH_ATTEMPTS,
        "metadata": {"ask": name},
    }
    if has_deadline:
        body[rng.choice(("start_by_s", "finish_by_s"))] = round(rng.uniform(0.05, 6.0), 2)
    return Job(
        ask=Ask(
            name=name,
            may_end=_may_end(mode, is_canceled, has_deadline),
            max_attempts=body["max_attempts"],
            is_doomed=mode in ("bad", "poison"),
            is_rejected=mode == "reject",
        ),
        body=body,
        cancel_after_s=rng.uniform(0.0, 1.0) if is_canceled else None,
        is_streamed=rng.random() < 0.06,
    )


def _may_end(mode: str, is_canceled: bool, has_deadline: bool) -> frozenset[TaskState]:
    ends = {TaskState.FAILED if mode in ("bad", "poison", "reject") else TaskState.SUCCEEDED}
    if is_canceled:
        ends.add(TaskState.CANCELED)
    if has_deadline:
        ends.add(TaskState.EXPIRED)
    return frozenset(ends)


def _kills(rng: random.Random, kills: int, span_s: float, workers: int) -> list[Kill]:
    # One of each first, so that a short run has them all.
    victims = list(Victim)[:kills]
    victims += rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=kills - len(victims))
    rng.shuffle(victims)
    times = sorted(rng.uniform(0.0, span_s) for _ in victims)
    return [
        Kill(at_s=at_s, victim=victim, index=rng.randrange(workers))
        for at_s, victim in zip(times, victims, strict=True)
    ]
