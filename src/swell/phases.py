"""What comes before a worker is at work, phase by phase. Pure, but for what `PhaseLog` is told.

A startup is a cold start of a worker, a restart of its model process, or a switch that brings one
of its models to the device. Its phases are intervals on one axis, in seconds since it began; they
may overlap, so they are never added up: what counts is the time that they cover together.
"""

import contextlib
import hashlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from swell.errors import InvalidInput
from swell.survival import Observation

#: Of each family (see `family`) so many are kept, the newest, and none longer than this.
STARTUPS_KEPT: Final = 200
STARTUPS_TTL: Final = timedelta(days=30)

#: From the beginning until tasks are taken, and until the first outcome: told beside the phases.
READY: Final = "ready"
WHOLE: Final = "whole"

#: Two machines have two clocks, and an environment may be used again: a longer boot is no boot.
MAX_BOOT_S: Final = 2 * 3600.0

#: What a process knows of its own beginning is rounded down to a tick of the system, in seconds.
_TICK_S: Final = 0.05

#: A longer phase than this is a mistake.
MAX_SPAN_S: Final = 24 * 3600.0

#: As much of a startup is taken.
MAX_SPANS: Final = 256
MAX_MODELS: Final = 64
MAX_TEXT: Final = 200

#: A phase may seem to end so much after the message that tells it, in seconds.
_SLACK_S: Final = 1.0

#: Ten years.
_MAX_AGE_S: Final = 315_360_000.0


class Phase(StrEnum):
    """A part of a startup."""

    #: From asking for the machine or process to the beginning of the container or process.
    BOOT = "boot"
    #: The image comes to the machine; within the boot.
    PULL = "pull"
    #: Processes start, and the models' code is imported.
    IMPORT = "import"
    #: Weights come to this machine.
    FETCH = "fetch"
    #: A model comes to its device.
    LOAD = "load"
    #: A model is warmed up, and what it compiles is compiled.
    WARM = "warm"
    #: From the first task, or from when tasks are taken if that is later, to the first outcome.
    FIRST_TASK = "first_task"


class Span(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One phase as an interval, in seconds since its startup began."""

    #: One of `Phase`; another is of a newer Swell.
    phase: str
    #: Empty for what is done for all models together.
    model: str = ""
    start_s: float
    #: None while it is under way, and for ever where the startup died in it.
    end_s: float | None = None
    #: What made it short: `fork` (of a warm process), `compiled` (found in the cache), `host` (from
    #: the host's memory), `disk` (from the weights cache), `bucket` (pushed weights).
    source: str = msgspec.field(name="from", default="")


class StartupKind(StrEnum):
    """What was started."""

    COLD = "cold"
    RESTART = "restart"
    SWITCH = "switch"


class StartupState(StrEnum):
    """How far it came."""

    STARTING = "starting"
    #: It ended, or was not heard of any more, before tasks could be taken.
    DIED = "died"
    #: Tasks are taken.
    READY = "ready"
    #: The first outcome is there; of a restart or a switch: the model is there.
    DONE = "done"


_ORDER: Final = tuple(StartupState)


class Startup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A cold start, a restart or a switch, as far as it is known."""

    #: Made by the worker.
    id: str
    kind: StartupKind = StartupKind.COLD
    state: StartupState = StartupState.STARTING
    pool: str = "default"
    #: Empty as long as they are not known.
    models: list[str] = []
    device: str = ""
    host: str = ""
    pid: int = 0
    #: Its `swell.provider.Instance` by id; empty for a worker that somebody has started.
    instance: str = ""
    #: Of the backend, once the worker has registered.
    worker_id: str = ""
    #: How long ago it began when this was told, by the worker's monotonic clock, in seconds; of one
    #: that died, how far it came.
    age_s: float
    spans: list[Span] = []
    #: From its beginning until tasks were taken, in seconds.
    ready_s: float | None = None
    #: The same and the first task, without the wait for it.
    whole_s: float | None = None
    #: Set by the backend, in its own time.
    begun_at: datetime | None = None
    seen_at: datetime | None = None


def family(startup: Startup) -> str:
    """Return what startups have in common that are kept together: kind, pool and models.

    Their SHA-256, since a database cannot index the names of many models.
    """
    named = "\n".join([startup.kind.value, startup.pool, *sorted(startup.models)])
    return hashlib.sha256(named.encode()).hexdigest()


def is_further(state: StartupState, than: StartupState) -> bool:
    """Whether a state comes after another: what was told late changes nothing.

    One that died for want of news may be heard of again.
    """
    return _ORDER.index(state) > _ORDER.index(than)


def boot_s(asked_at: datetime | None, began_at: datetime) -> float | None:
    """Return how long a boot took; None where that is not known, or cannot be.

    Args:
        asked_at: When the machine was asked for, by the clock of whoever asked.
        began_at: When the container or process began, by its machine's clock.
    """
    if asked_at is None:
        return None
    took_s = (began_at - asked_at).total_seconds()
    return max(0.0, took_s) if -_TICK_S <= took_s <= MAX_BOOT_S else None


def covered_s(spans: Iterable[Span], until_s: float) -> float:
    """Return the time that phases cover together, in seconds: the critical path.

    Args:
        spans: In any order, overlapping or not.
        until_s: The end of those that are under way, and the latest that counts.
    """
    total = reached_s = 0.0
    ends = [(each.start_s, _end_s(each, until_s)) for each in spans]
    for start_s, end_s in sorted(ends):
        total += max(0.0, end_s - max(start_s, reached_s))
        reached_s = max(reached_s, end_s)
    return total


def _end_s(span: Span, until_s: float) -> float:
    return until_s if span.end_s is None else min(span.end_s, until_s)


def span_s(startup: Startup, phase: str, model: str, until_s: float) -> float | None:
    """Return how long a phase took, of a model or of all together; None if it did not take place.

    Args:
        startup: Of which one.
        phase: Which one.
        model: Whose.
        until_s: The end of what is under way, in seconds since the beginning.
    """
    spans = [s for s in startup.spans if s.phase == phase and s.model in ("", model)]
    return covered_s(spans, until_s) if spans else None


def observations(startup: Startup, now: datetime) -> dict[tuple[str, str], Observation]:
    """Return (model, phase) → how long it took, or has taken and is not over.

    `READY` and `WHOLE` are among the phases. What a startup died in counts as not over: nobody
    knows how long it would have taken, but not less.
    """
    until_s = _until_s(startup, now)
    grouped: dict[tuple[str, str], list[Span]] = {}
    for each in startup.spans:
        grouped.setdefault((each.phase, each.model), []).append(each)
    found: dict[tuple[str, str], Observation] = {}
    for phase in Phase:
        shared = grouped.get((phase, ""), [])
        of_all = _observed(shared, until_s)
        for model in startup.models:
            own = grouped.get((phase, model), []) if model else []
            seen = _observed([*shared, *own], until_s) if own else of_all
            if seen is not None:
                found[model, phase] = seen
    for model in startup.models:
        if startup.kind is StartupKind.COLD:
            is_ready = startup.ready_s is not None
            found[model, READY] = Observation(
                until_s if startup.ready_s is None else startup.ready_s, is_ready
            )
        if startup.whole_s is not None:
            found[model, WHOLE] = Observation(startup.whole_s)
    return found


def _observed(spans: Sequence[Span], until_s: float) -> Observation | None:
    is_over = all(each.end_s is not None for each in spans)
    return Observation(covered_s(spans, until_s), is_over) if spans else None


def _until_s(startup: Startup, now: datetime) -> float:
    if startup.state is StartupState.STARTING and startup.begun_at is not None:
        return max(0.0, (now - startup.begun_at).total_seconds())
    return startup.age_s


def accepted(told: Startup, now: datetime) -> Startup:
    """Return what is kept of what a worker told.

    Phases that cannot be are left out: unknown ones, those that end before they start or after they
    were told, and those of more than a day.

    Raises:
        InvalidInput: It has no id, an age that cannot be, or a text that cannot be shown.
    """
    if not (told.id and _is_plain(told.id)):
        raise InvalidInput("a startup needs an id of 1 to 200 printable characters")
    for text in (told.pool, told.device, told.host, told.instance, *told.models):
        if not _is_plain(text):
            raise InvalidInput(
                f"{text[:60]!r} cannot be shown: pool, device, host and models have at most 200 "
                "printable characters"
            )
    if not 0.0 <= told.age_s <= _MAX_AGE_S:
        raise InvalidInput("age_s says how many seconds ago the startup began")
    known = told.state not in (StartupState.STARTING, StartupState.DIED)
    return msgspec.structs.replace(
        told,
        models=told.models[:MAX_MODELS],
        spans=[each for each in told.spans if _can_be(each, told.age_s)][:MAX_SPANS],
        ready_s=_within(told.ready_s, told.age_s) if known else None,
        whole_s=_within(told.whole_s, told.age_s) if known else None,
        begun_at=now - timedelta(seconds=told.age_s),
        seen_at=now,
    )


def _can_be(span: Span, age_s: float) -> bool:
    end_s = age_s if span.end_s is None else span.end_s
    return (
        span.phase in tuple(Phase)
        and 0.0 <= span.start_s <= end_s <= age_s + _SLACK_S
        and end_s - span.start_s <= MAX_SPAN_S
        and _is_plain(span.model)
        and _is_plain(span.source)
    )


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_TEXT and all(each == " " or each.isprintable() for each in text)


def _within(seconds: float | None, age_s: float) -> float | None:
    if seconds is None or not (math.isfinite(seconds) and 0.0 <= seconds <= age_s + _SLACK_S):
        return None
    return seconds


class PhaseLog:
    """The phases of what goes on in this process, in monotonic seconds. May be told by any thread.

    A phase that ends with an error stays open: how long it would have taken is not known.

    Args:
        now_s: Returns monotonic seconds.
        changed: Called whenever one begins or ends in the thread that has made this.
    """

    def __init__(
        self, now_s: Callable[[], float], changed: Callable[[], None] = lambda: None
    ) -> None:
        self._now_s = now_s
        self._changed = changed
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._spans: list[Span] = []
        #: Whose phases are told by those who do not know it.
        self.model = ""
        #: Models for which something was found that was compiled before.
        self.compiled: set[str] = set()

    @property
    def spans(self) -> Sequence[Span]:
        """All phases so far."""
        with self._lock:
            return list(self._spans)

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._spans.clear()

    def drop(self, model: str) -> None:
        """Forget a model that is left out."""
        with self._lock:
            self._spans = [each for each in self._spans if each.model != model]

    @contextlib.contextmanager
    def phase(self, phase: Phase, model: str, source: str = "") -> Iterator[None]:
        """Note a phase of a model, of which all are that follow."""
        self.model = model
        with self.inner(phase, source):
            yield

    @contextlib.contextmanager
    def inner(self, phase: Phase, source: str = "") -> Iterator[None]:
        """Note a phase of the model that it is the turn of."""
        span = Span(phase=phase, model=self.model, start_s=self._now_s(), source=source)
        with self._lock:
            self._spans.append(span)
        self._tell()
        yield
        if phase is Phase.WARM and self.model in self.compiled:
            source = "compiled"
        ended = msgspec.structs.replace(span, end_s=self._now_s(), source=source)
        with self._lock:
            self._spans = [ended if each is span else each for each in self._spans]
        self._tell()

    def _tell(self) -> None:
        if threading.get_ident() == self._thread:
            self._changed()


_log: ContextVar[PhaseLog | None] = ContextVar("phases", default=None)


def logging_to(log: PhaseLog) -> None:
    """Have `fetching` and `found_compiled` tell this one, from now on in this context."""
    _log.set(log)


@contextlib.contextmanager
def fetching(source: str = "") -> Iterator[None]:
    """Say that weights come to this machine within the block; for whoever loads a model.

    Does nothing where nobody notes phases. A thread of one's own needs a copy of the context.

    Args:
        source: From where, such as `bucket`.
    """
    log = _log.get()
    if log is None:
        yield
        return
    with log.inner(Phase.FETCH, source):
        yield


def found_compiled() -> None:
    """Say that what the model compiles in its warm-up was found, compiled before."""
    log = _log.get()
    if log is not None:
        log.compiled.add(log.model)
