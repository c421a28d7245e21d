"""Individual tasks with arrival time, user, key, priority and model."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.core.errors import InvalidInput
from swell.core.fair_queueing import USUAL_PRIORITY
from swell.simulator.arrivals import TICK_S, arrivals
from swell.simulator.pools import MODEL
from swell.simulator.traces import TEXT, Trace, check_length

_Array = NDArray[np.float64]
_Whole = NDArray[np.int64]


#: Period of the initial arrival rate, in seconds.
_FIRST_S: Final = 300.0

#: Larger times in a file are Unix times, in seconds; smaller ones count from the first task.
_SINCE_1970_S: Final = 1e8


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """Random properties of tasks."""

    #: Number of users, spread evenly over this many API keys.
    users: int = 1000
    keys: int = 1
    #: Probabilities of a task's number of samples, and of its priority.
    samples: Mapping[int, float] = msgspec.field(default_factory=lambda: {1: 1.0})
    priorities: Mapping[int, float] = msgspec.field(default_factory=lambda: {USUAL_PRIORITY: 1.0})

    @property
    def mean_samples(self) -> float:
        """Mean number of samples per task."""
        total = sum(self.samples.values())
        return sum(n * share for n, share in self.samples.items()) / total


class Crowd(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Tasks of one model. All shapes are (tasks,)."""

    model: str = MODEL
    #: Arrival times in seconds since the start, in order.
    at_s: _Array
    samples: _Whole
    users: _Whole
    keys: _Whole
    priorities: _Whole
    #: A task expires if it waits longer than this to start, in seconds; None for never.
    start_by_s: float | None = None
    #: Model of each task if they differ, see `parts`; empty if all have `model`.
    models: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def first_per_s(self) -> float:
        """Samples per second in the first five minutes, or until the last task if earlier."""
        if not len(self):
            return 0.0
        until_s = min(_FIRST_S, max(TICK_S, float(self.at_s[-1])))
        return float(self.samples[self.at_s <= until_s].sum()) / until_s


_ONE_EACH: Final = Mix()


def crowd_of(trace: Trace, seed: int, mix: Mix = _ONE_EACH, *, spread: float = 0.10) -> Crowd:
    """Return the tasks of a trace.

    Args:
        trace: Samples per second.
        seed: Seed of all random values.
        mix: Random properties of tasks.
        spread: Standard deviation of the correlated noise.
    """
    came = arrivals(trace.scaled(1.0 / mix.mean_samples), seed, spread=spread).astype(np.int64)
    random = np.random.default_rng([seed, 1])
    begins_s = np.repeat(np.arange(len(came)) * TICK_S, came)
    at_s = np.sort(begins_s + random.random(len(begins_s)) * TICK_S)
    return crowd_at(at_s, seed, mix)


def crowd_at(at_s: _Array, seed: int, mix: Mix = _ONE_EACH) -> Crowd:
    """Return tasks with these arrival times, in order. Shape: (tasks,)."""
    random = np.random.default_rng([seed, 2])
    n = len(at_s)
    users = random.integers(0, mix.users, n)
    return Crowd(
        at_s=at_s,
        samples=_chosen(mix.samples, n, random),
        users=users,
        keys=users % mix.keys,
        priorities=_chosen(mix.priorities, n, random),
    )


def read_crowd(path: Path) -> Crowd:
    """Return the tasks of a CSV file.

    The column `at_s` is required. `samples`, `user`, `key`, `model` and `priority` are optional.
    Times may be Unix times; the first task is then the start.

    Raises:
        InvalidInput: The file is not valid, or covers too many days.
    """
    try:
        with path.open(newline="", encoding=TEXT) as lines:
            rows = sorted(csv.DictReader(lines), key=lambda row: float(row["at_s"]))
        at_s = np.array([float(row["at_s"]) for row in rows])
        samples = np.array([int(row.get("samples") or 1) for row in rows], np.int64)
        priorities = [int(row.get("priority") or USUAL_PRIORITY) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{path} is no list of tasks ({error}): it needs numbers in the column at_s, and may "
            "have samples, user, key, model and priority"
        ) from error
    if not len(at_s):
        raise InvalidInput(
            f"{path} is no list of tasks: it needs a line for each below that with the columns"
        )
    if not (np.isfinite(at_s).all() and (at_s >= 0).all() and (samples > 0).all()):
        raise InvalidInput(f"{path} is no list of tasks: at_s must be 0 or more, samples 1 or more")
    if at_s[0] >= _SINCE_1970_S:
        at_s -= at_s[0]
    check_length(path, float(at_s[-1]))
    return Crowd(
        at_s=at_s,
        samples=samples,
        users=_numbered(rows, "user"),
        keys=_numbered(rows, "key"),
        priorities=np.array(priorities, np.int64),
        models=[(row["model"] or "").strip() or MODEL for row in rows]
        if "model" in rows[0]
        else (),
    )


def parts(crowd: Crowd) -> list[Crowd]:
    """Split the tasks by model, in the order of model names."""
    if not crowd.models:
        return [crowd]
    of, found = np.array(crowd.models), []
    for model in sorted(set(crowd.models)):
        own = of == model
        found.append(
            msgspec.structs.replace(
                crowd,
                model=model,
                models=(),
                at_s=crowd.at_s[own],
                samples=crowd.samples[own],
                users=crowd.users[own],
                keys=crowd.keys[own],
                priorities=crowd.priorities[own],
            )
        )
    return found


def _numbered(rows: list[dict[str, Any]], column: str) -> _Whole:
    numbers: dict[str, int] = {}
    names = (row.get(column) or "" for row in rows)
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _chosen(shares: Mapping[int, float], n: int, random: np.random.Generator) -> _Whole:
    if len(shares) == 1:
        return np.full(n, next(iter(shares)), np.int64)
    weights = np.array(list(shares.values()))
    return random.choice(np.array(list(shares), np.int64), n, p=weights / weights.sum())
