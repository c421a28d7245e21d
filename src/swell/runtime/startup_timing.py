"""Phases of a worker's cold start, and of later restarts and model switches.

Seconds are monotonic, which all processes of a machine share, so setting the wall clock changes
nothing. Only the boot, which begins on another machine, lies between two wall clocks; an impossible
one is dropped.
"""

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.startup_phases import (
    MAX_BOOT_S,
    Phase,
    Span,
    Startup,
    StartupKind,
    StartupState,
    boot_s,
)
from swell.core.task import new_id

if TYPE_CHECKING:
    from swell.protocol.worker_messages import Dispatch

#: Least time between two reports, in seconds.
SOONEST_S: Final = 1.0

#: Time between two reports until the backend sets another, in seconds.
OFTEN_S: Final = 10.0

#: Longest wait for the last report of a worker that ends, in seconds.
LAST_WORD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Beginning:
    """What happened before this process ran code of Swell."""

    #: Age of the process, in seconds.
    age_s: float = 0.0
    #: When the machine was requested, by the clock of the requester.
    asked_at: datetime | None = None
    #: Duration of the image's pull, in seconds; None if unknown.
    pull_s: float | None = None


class Process(Protocol):
    """The phases of a model process."""

    #: So far, in monotonic seconds.
    spans: Sequence[Span]
    #: Names of its models; empty until they are imported.
    models: Sequence[str]
    #: Set after a change of these.
    has_news: asyncio.Event


class Startups:
    """The cold start of one worker, and later restarts and switches.

    Args:
        clock: The time.
        pool: Of the worker.
        device: Of its models.
        beginning: What happened before.
        instance: Name of the machine at its provider.
    """

    def __init__(
        self,
        clock: Clock,
        pool: str,
        device: str,
        beginning: Beginning | None = None,
        instance: str = "",
    ) -> None:
        self._clock = clock
        self._of_all: dict[str, Any] = {"pool": pool, "device": device}
        self._instance = instance
        self._id = new_id(clock.now())
        self._spans, self._origin_s = _before(beginning or Beginning(), clock)
        self._began_s = max((s.end_s or 0.0 for s in self._spans), default=0.0)
        #: Seconds until the worker was ready for tasks, until the first came, and without the wait
        #: in between.
        self._ready_s: float | None = None
        self._registering_s: float | None = None
        self._task_s: float | None = None
        self._whole_s: float | None = None
        self._models: list[str] = []
        #: The process that is being started.
        self._process: Process | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the worker has registered."""
        return self._ready_s is not None

    def follow(self, process: Process) -> None:
        """Add the phases of this model process; the worker itself is imported now."""
        self._process = process
        self._add(Phase.IMPORT, self._began_s, self._now_s())

    @contextlib.contextmanager
    def fetching(
        self, source: str = "", has_come: Callable[[], bool] = lambda: True
    ) -> Iterator[None]:
        """Time a download of weights by this process.

        Args:
            source: Where from, such as `bucket`.
            has_come: Called at the end; if nothing was downloaded there is no such phase.
        """
        start_s = self._now_s()
        self._add(Phase.FETCH, start_s, None, source)
        span = self._spans[-1]
        yield
        self._spans.remove(span)
        if has_come():
            self._add(Phase.FETCH, start_s, self._now_s(), source)

    async def tell(
        self,
        dispatch: "Dispatch",
        note: Callable[[SwellError | None], None] = lambda error: None,
    ) -> None:
        """Report the cold start after each change, until the worker is ready.

        Reports end if the backend does not know them; after other errors they continue.

        Args:
            dispatch: The backend.
            note: Called after each report, with its error if it failed.
        """
        often_s = OFTEN_S
        while not self.is_ready:
            news = None if self._process is None else self._process.has_news
            if news is not None:
                news.clear()
            try:
                often_s = (await dispatch.starting(self.cold(StartupState.STARTING))).tell_every_s
                note(None)
            except SwellError as error:
                note(error)
                if not error.retryable:
                    _log().debug("the backend does not accept start reports", detail=error.detail)
                    return
            await self._clock.sleep(SOONEST_S)
            if news is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, often_s - SOONEST_S)):
                        await news.wait()

    async def tell_end(self, dispatch: "Dispatch") -> None:
        """Report, within a short time, that the worker ended before it was ready."""
        with contextlib.suppress(SwellError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await dispatch.starting(self.cold(StartupState.DIED))

    def registering(self) -> Startup:
        """Return the report for a registration."""
        told = self.cold(StartupState.READY if self._whole_s is None else StartupState.DONE)
        if self._ready_s is not None:
            return told
        self._registering_s = told.age_s
        return msgspec.structs.replace(told, ready_s=told.age_s)

    def ready(self) -> None:
        """Note the answer to a registration: the worker is ready since it was sent. Idempotent."""
        if self._ready_s is not None:
            return
        self._spans = self._all_spans()
        if self._process is not None:
            self._models, self._process = list(self._process.models), None
        self._ready_s = self._now_s() if self._registering_s is None else self._registering_s
        if self._task_s is not None:
            self._task_s = self._ready_s

    def task_came(self) -> None:
        """Note the first task. Idempotent."""
        if self._task_s is None:
            self._task_s = self._now_s()

    def first_outcome(self) -> Startup:
        """Note the first outcome, and return the whole cold start."""
        now_s = self._now_s()
        ready_s = now_s if self._ready_s is None else self._ready_s
        start_s = ready_s if self._task_s is None else max(ready_s, self._task_s)
        self._add(Phase.FIRST_TASK, start_s, now_s)
        self._whole_s = ready_s + now_s - start_s
        return self.cold(StartupState.DONE)

    def cold(self, state: StartupState) -> Startup:
        """Return the cold start so far."""
        return Startup(
            **self._of_all,
            id=self._id,
            state=state,
            models=self._models if self._process is None else list(self._process.models),
            host=socket.gethostname(),
            pid=os.getpid(),
            instance=self._instance,
            age_s=self._now_s(),
            spans=self._all_spans(),
            ready_s=self._ready_s,
            whole_s=self._whole_s,
        )

    def restarted(self, since_s: float, process: Process) -> Startup:
        """Return the restart of a model process after its models are loaded.

        Args:
            since_s: When the previous process ended, in monotonic seconds.
            process: The new process.
        """
        spans = _imported(process, since_s)
        return self._later(StartupKind.RESTART, since_s, spans, StartupState.DONE)

    def switched(self, model: str, since_s: float, process: Process, *, is_there: bool) -> Startup:
        """Return a switch to another model.

        Args:
            model: Its name.
            since_s: When the switch began, in monotonic seconds.
            process: The model process.
            is_there: Whether the model is on the device now.
        """
        state = StartupState.DONE if is_there else StartupState.DIED
        spans = [each for each in process.spans if each.model == model]
        return self._later(StartupKind.SWITCH, since_s, spans, state, [model])

    def _later(
        self,
        kind: StartupKind,
        since_s: float,
        spans: Sequence[Span],
        state: StartupState,
        models: Sequence[str] = (),
    ) -> Startup:
        return Startup(
            **self._of_all,
            id=new_id(self._clock.now()),
            kind=kind,
            state=state,
            models=list(models),
            age_s=self._clock.monotonic_s() - since_s,
            spans=_shifted(spans, since_s),
        )

    def _add(self, phase: Phase, start_s: float, end_s: float | None, source: str = "") -> None:
        self._spans.append(Span(phase=phase, start_s=start_s, end_s=end_s, source=source))

    def _now_s(self) -> float:
        return self._clock.monotonic_s() - self._origin_s

    def _all_spans(self) -> list[Span]:
        if self._process is None:
            return list(self._spans)
        imported = _imported(self._process, self._origin_s + self._began_s)
        return [*self._spans, *_shifted(imported, self._origin_s)]


def _before(beginning: Beginning, clock: Clock) -> tuple[list[Span], float]:
    """Return the phases before this process, and the monotonic second of the beginning."""
    age_s = beginning.age_s
    took_s = boot_s(beginning.asked_at, clock.now() - timedelta(seconds=age_s))
    if took_s is None and beginning.asked_at is not None:
        _log().warning("this boot cannot be: two clocks differ", asked_at=str(beginning.asked_at))
    spans = [] if took_s is None else [Span(phase=Phase.BOOT, start_s=0.0, end_s=took_s)]
    pull_s = beginning.pull_s
    if pull_s is not None and took_s is None and pull_s <= MAX_BOOT_S:
        took_s = pull_s
    lead_s = took_s or 0.0
    if pull_s is not None and pull_s <= lead_s:
        spans.append(Span(phase=Phase.PULL, start_s=lead_s - pull_s, end_s=lead_s))
    return spans, clock.monotonic_s() - age_s - lead_s


def _imported(process: Process, since_s: float) -> list[Span]:
    """Return a process's phases; its imports begin at `since_s`."""
    own = [each for each in process.spans if each.phase == Phase.IMPORT]
    whole = Span(phase=Phase.IMPORT, start_s=since_s, end_s=own[0].end_s if own else None)
    return [whole, *(each for each in process.spans if each.phase != Phase.IMPORT)]


def _shifted(spans: Sequence[Span], origin_s: float) -> list[Span]:
    """Return spans in seconds since `origin_s`."""
    return [
        msgspec.structs.replace(
            each,
            start_s=max(0.0, each.start_s - origin_s),
            end_s=None if each.end_s is None else max(0.0, each.end_s - origin_s),
        )
        for each in spans
    ]


def _log() -> Any:
    # Imported late, so that the model process can be started first.
    return importlib.import_module("structlog").get_logger("swell.worker")
