"""Startups of workers, and their phases. Pure, except for `PhaseLog`.

A startup is a cold start of a worker, a restart of its model process, or a switch that loads one of
its models. Its phases are intervals in seconds since it began. They may overlap, so durations are
never added: the time that they cover together counts.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from swell.core.errors import InvalidInput
from swell.core.kaplan_meier import Observation

#: Startups kept of each `family`, and for how long.
STARTUPS_KEPT: Final = 200
STARTUPS_TTL: Final = timedelta(days=30)

#: From the beginning until the worker takes tasks, and until its first outcome.
READY: Final = "ready"
WHOLE: Final = "whole"

#: A longer boot, in seconds, is a difference between two clocks or an environment that was reused.
MAX_BOOT_S: Final = 2 * 3600.0

#: A process knows its own beginning to a tick of the system, in seconds.
_TICK_S: Final = 0.05

#: Phases that take longer, in seconds, are dropped.
MAX_SPAN_S: Final = 24 * 3600.0

#: Limits of a report.
MAX_SPANS: Final = 256
MAX_MODELS: Final = 64
MAX_TEXT: Final = 200

#: A phase may end this long after the message that reports it, in seconds.
_SLACK_S: Final = 1.0

#: Ten years.
_MAX_AGE_S: Final = 315_360_000.0


class Phase(StrEnum):
    """A part of a startup."""

    #: From the request for the machine or process to the start of the container or process.
    BOOT = "boot"
    #: The machine downloads the image, as a part of the boot.
    PULL = "pull"
    #: Processes start and import the models' code.
    IMPORT = "import"
    #: The machine downloads weights.
    FETCH = "fetch"
    #: A model is loaded onto its device.
    LOAD = "load"
    #: A model warms up and compiles.
    WARM = "warm"
    #: From the first task to the first outcome, without the time before the worker takes tasks.
    FIRST_TASK = "first_task"


class Span(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One phase as an interval, in seconds since its startup began."""

    #: A `Phase`; others come from newer versions of Swell.
    phase: str
    #: Empty for work shared by all models.
    model: str = ""
    start_s: float
    #: None while running, and if the startup died in it.
    end_s: float | None = None
    #: The cache that made it short: `compiled`, `host` (host memory), `disk` (the weights cache),
    #: `bucket` (pushed weights).
    source: str = msgspec.field(name="from", default="")


class StartupKind(StrEnum):
    """A kind of startup."""

    COLD = "cold"
    RESTART = "restart"
    SWITCH = "switch"


class StartupState(StrEnum):
    """The progress of a startup, in order."""

    STARTING = "starting"
    #: It ended, or stopped reporting, before it took tasks.
    DIED = "died"
    #: It takes tasks.
    READY = "ready"
    #: It has its first outcome; after a restart or switch: its model.
    DONE = "done"


_ORDER: Final = tuple(StartupState)


class Startup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A cold start, a restart or a switch."""

    #: Made by the worker.
    id: str
    kind: StartupKind = StartupKind.COLD
    state: StartupState = StartupState.STARTING
    pool: str = "default"
    #: Empty while unknown.
    models: list[str] = []
    device: str = ""
    host: str = ""
    pid: int = 0
    #: The id of its `swell.core.provider.Instance`; empty for a worker that no provider launched.
    instance: str = ""
    #: Set once the worker has registered.
    worker_id: str = ""
    #: Its age when it was reported, by the worker's monotonic clock, in seconds; of a dead one its
    #: age at death.
    age_s: float
    spans: list[Span] = []
    #: From its beginning until it took tasks, in seconds.
    ready_s: float | None = None
    #: The same and the first task, without the wait for it.
    whole_s: float | None = None
    #: Set by the backend, by its clock.
    begun_at: datetime | None = None
    seen_at: datetime | None = None


def family(startup: Startup) -> str:
    """Return the SHA-256 of its kind, pool and models, which have a common limit of startups."""
    named = "\n".join([startup.kind.value, startup.pool, *sorted(startup.models)])
    return hashlib.sha256(named.encode()).hexdigest()


def is_further(state: StartupState, than: StartupState) -> bool:
    """Return whether a state comes after another. A startup thought dead may become ready."""
    return _ORDER.index(state) > _ORDER.index(than)


def boot_s(asked_at: datetime | None, began_at: datetime) -> float | None:
    """Return the duration of a boot; None if it is unknown or impossible.

    Args:
        asked_at: The request for the machine, by the requester's clock.
        began_at: The start of the container or process, by its machine's clock.
    """
    if asked_at is None:
        return None
    took_s = (began_at - asked_at).total_seconds()
    return max(0.0, took_s) if -_TICK_S <= took_s <= MAX_BOOT_S else None


def covered_s(spans: Iterable[Span], until_s: float) -> float:
    """Return the seconds that phases cover together.

    Args:
        spans: In any order, overlapping or not.
        until_s: The end of running phases; later time does not count.
    """
    total_s = reached_s = 0.0
    for each in sorted(spans, key=lambda span: span.start_s):
        end_s = until_s if each.end_s is None else min(each.end_s, until_s)
        total_s += max(0.0, end_s - max(each.start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s


def observations(startup: Startup, now: datetime) -> dict[tuple[str, str], Observation]:
    """Return (model, phase) → its duration, with `READY` and `WHOLE` among the phases.

    A phase has not ended if it is running or the startup died in it: it is a lower bound.
    """
    until_s = startup.age_s
    if startup.state is StartupState.STARTING and startup.begun_at is not None:
        until_s = max(0.0, (now - startup.begun_at).total_seconds())
    grouped: dict[tuple[str, str], list[Span]] = {}
    for each in startup.spans:
        grouped.setdefault((each.model, each.phase), []).append(each)
    found: dict[tuple[str, str], Observation] = {}
    for model in startup.models:
        for phase in Phase:
            spans = [*grouped.get(("", phase), ()), *grouped.get((model, phase), ())]
            if spans:
                is_over = all(each.end_s is not None for each in spans)
                found[model, phase] = Observation(covered_s(spans, until_s), is_over)
        if startup.kind is StartupKind.COLD:
            ready_s = startup.ready_s
            found[model, READY] = Observation(
                until_s if ready_s is None else ready_s, ready_s is not None
            )
        if startup.whole_s is not None:
            found[model, WHOLE] = Observation(startup.whole_s)
    return found


def accepted(told: Startup, now: datetime) -> Startup:
    """Return a reported startup without impossible phases and times.

    Raises:
        InvalidInput: A text is not printable or too long, or its id or age is invalid.
    """
    texts = (told.id, told.pool, told.device, told.host, told.instance, *told.models)
    if not told.id or not all(map(_is_plain, texts)):
        raise InvalidInput(
            "id, pool, device, host, instance and models of a startup may have at most 200 "
            "printable characters, and the id needs at least 1"
        )
    if not 0.0 <= told.age_s <= _MAX_AGE_S:
        raise InvalidInput("age_s must be the seconds since the startup began")
    is_ready = told.state in (StartupState.READY, StartupState.DONE)
    return msgspec.structs.replace(
        told,
        models=told.models[:MAX_MODELS],
        spans=[each for each in told.spans if _is_possible(each, told.age_s)][:MAX_SPANS],
        ready_s=_within(told.ready_s, told.age_s) if is_ready else None,
        whole_s=_within(told.whole_s, told.age_s) if is_ready else None,
        begun_at=now - timedelta(seconds=told.age_s),
        seen_at=now,
    )


def _is_possible(span: Span, age_s: float) -> bool:
    end_s = age_s if span.end_s is None else span.end_s
    return (
        span.phase in tuple(Phase)
        and 0.0 <= span.start_s <= end_s <= age_s + _SLACK_S
        and end_s - span.start_s <= MAX_SPAN_S
        and _is_plain(span.model)
        and _is_plain(span.source)
    )


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_TEXT and text.isprintable()


def _within(seconds: float | None, age_s: float) -> float | None:
    is_valid = seconds is not None and 0.0 <= seconds <= age_s + _SLACK_S
    return seconds if is_valid else None


class PhaseLog:
    """The phases of this process, in monotonic seconds. Thread-safe.

    A phase that ends with an error stays open, since its duration is unknown.

    Args:
        now_s: Returns monotonic seconds.
        changed: Called when a phase begins or ends in the thread that has made this.
    """

    def __init__(
        self, now_s: Callable[[], float], changed: Callable[[], None] = lambda: None
    ) -> None:
        self._now_s = now_s
        self._changed = changed
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._spans: list[Span] = []
        #: The model of phases that are noted without one.
        self.model = ""
        #: Models with compiled programs that were found in a cache.
        self.compiled: set[str] = set()

    @property
    def spans(self) -> Sequence[Span]:
        """All phases so far."""
        with self._lock:
            return list(self._spans)

    def clear(self) -> None:
        """Delete all phases."""
        with self._lock:
            self._spans.clear()

    def drop(self, model: str) -> None:
        """Delete the phases of a model."""
        with self._lock:
            self._spans = [each for each in self._spans if each.model != model]

    @contextlib.contextmanager
    def phase(self, phase: Phase, model: str, source: str = "") -> Iterator[None]:
        """Note a phase of a model, to which the following phases belong, too."""
        self.model = model
        with self.inner(phase, source):
            yield

    @contextlib.contextmanager
    def inner(self, phase: Phase, source: str = "") -> Iterator[None]:
        """Note a phase of the current model."""
        span = Span(phase=phase, model=self.model, start_s=self._now_s(), source=source)
        with self._lock:
            self._spans.append(span)
        self._notify()
        yield
        if phase is Phase.WARM and self.model in self.compiled:
            source = "compiled"
        ended = msgspec.structs.replace(span, end_s=self._now_s(), source=source)
        with self._lock:
            self._spans = [ended if each is span else each for each in self._spans]
        self._notify()

    def _notify(self) -> None:
        if threading.get_ident() == self._thread:
            self._changed()


_log: ContextVar[PhaseLog | None] = ContextVar("phases", default=None)


def logging_to(log: PhaseLog) -> None:
    """Send `fetching` and `found_compiled` to a log, from now on in this context."""
    _log.set(log)


@contextlib.contextmanager
def fetching(source: str = "") -> Iterator[None]:
    """Note that weights are downloaded within the block, if this context has a log.

    Another thread needs a copy of the context.

    Args:
        source: Where they come from, such as `bucket`.
    """
    log = _log.get()
    with contextlib.nullcontext() if log is None else log.inner(Phase.FETCH, source):
        yield


def found_compiled() -> None:
    """Note that the compiled programs of the current model were found in a cache."""
    log = _log.get()
    if log is not None:
        log.compiled.add(log.model)
