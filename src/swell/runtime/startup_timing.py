"""The clock of phases: how a worker, its model processes and its models came to be at work.

All seconds are monotonic ones of this machine, which its processes share; a jump of the wall clock
changes nothing. Only the boot, which begins on another machine, is between two wall clocks, and
what cannot be is not told. What is told of a cold start before the worker has registered, and to
whom, is here too.
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

#: What has changed is told no sooner than so long after the last time, in seconds.
SOONEST_S: Final = 1.0

#: How often it is told until the backend says otherwise, in seconds.
OFTEN_S: Final = 10.0

#: A worker that ends waits no longer to have that heard, in seconds.
LAST_WORD_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Beginning:
    """What came before this process ran any code of ours."""

    #: For how long the process has run, in seconds.
    age_s: float = 0.0
    #: When the machine was asked for, by the clock of whoever asked.
    asked_at: datetime | None = None
    #: For how long the container has run, in seconds; None for as long as the process.
    container_age_s: float | None = None
    #: How long the image took to come, in seconds; None where nobody knows.
    pull_s: float | None = None


class Process(Protocol):
    """What a model process tells of its phases."""

    #: In monotonic seconds, so far.
    spans: Sequence[Span]
    #: Names of its models; empty until they are imported.
    models: Sequence[str]
    #: Set whenever one of these has changed.
    has_news: asyncio.Event


class Startups:
    """The cold start of one worker, and what is started later in its life.

    Args:
        clock: The time.
        pool: Of the worker.
        device: Where its models go.
        beginning: What came before.
        instance: What its machine is called by whoever launched it.
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
        self._pool = pool
        self._device = device
        self._instance = instance
        self._id = new_id(clock.now())
        self._spans, self._origin_s = _before(beginning or Beginning(), clock)
        self._began_s = max((s.end_s or 0.0 for s in self._spans), default=0.0)
        #: How long it took until tasks were taken, and when the first came.
        self._ready_s: float | None = None
        self._registering_s: float | None = None
        self._task_s: float | None = None
        self._whole_s: float | None = None
        self._models: list[str] = []
        #: Of the process that is being started.
        self._process: Process | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the worker has registered."""
        return self._ready_s is not None

    @property
    def has_task(self) -> bool:
        """Whether the first task has come."""
        return self._task_s is not None

    def follow(self, process: Process) -> None:
        """Take the phases of this model process for those of the worker, which is imported now."""
        self._process = process
        own = Span(phase=Phase.IMPORT, start_s=self._began_s, end_s=self._now_s())
        self._spans = [*self._spans, own]

    @contextlib.contextmanager
    def fetching(
        self, source: str = "", has_come: Callable[[], bool] = lambda: True
    ) -> Iterator[None]:
        """Time what this process does to bring weights to the machine.

        Args:
            source: From where, such as `bucket`.
            has_come: Asked at the end: where nothing has come there was no such phase.
        """
        span = Span(phase=Phase.FETCH, start_s=self._now_s(), source=source)
        self._spans = [*self._spans, span]
        yield
        ended = [msgspec.structs.replace(span, end_s=self._now_s())] if has_come() else []
        self._spans = [*(each for each in self._spans if each is not span), *ended]

    async def tell(
        self,
        dispatch: "Dispatch",
        note: Callable[[SwellError | None], None] = lambda error: None,
    ) -> None:
        """Tell how far the cold start is whenever that changes, until it is ready.

        A backend that is older than this is left alone, one that is away, has failed or is told
        too much is tried again.

        Args:
            dispatch: The backend.
            note: Called after each call, with its error if it failed.
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
        """Tell that it ended before it was ready. Nothing else waits for that for long."""
        with contextlib.suppress(SwellError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_S):
                await dispatch.starting(self.cold(StartupState.DIED))

    def registering(self) -> Startup:
        """Return what is told with a registration: it is ready now, or has been for some time."""
        state = StartupState.READY if self._whole_s is None else StartupState.DONE
        told = self.cold(state)
        if self._ready_s is not None:
            return told
        self._registering_s = told.age_s
        return msgspec.structs.replace(told, ready_s=told.age_s)

    def ready(self) -> None:
        """Note that the registration was answered, so that tasks are taken from when it was told.

        Of several times the first counts.
        """
        if self._ready_s is None:
            if self._process is not None:
                self._models = list(self._process.models)
            self._spans = self._all_spans()
            self._process = None
            self._ready_s = self._registering_s
            if self._ready_s is None:
                self._ready_s = self._now_s()
            if self._task_s is not None:
                self._task_s = self._ready_s

    def task_came(self) -> None:
        """Note a task. Of several the first counts."""
        if self._task_s is None:
            self._task_s = self._now_s()

    def first_outcome(self) -> Startup:
        """Note the first outcome, and return the whole cold start."""
        now_s = self._now_s()
        ready_s = now_s if self._ready_s is None else self._ready_s
        start_s = ready_s if self._task_s is None else max(ready_s, self._task_s)
        first = Span(phase=Phase.FIRST_TASK, start_s=start_s, end_s=now_s)
        self._spans = [*self._spans, first]
        self._whole_s = ready_s + now_s - start_s
        return self.cold(StartupState.DONE)

    def cold(self, state: StartupState) -> Startup:
        """Return the cold start as it is now."""
        return Startup(
            id=self._id,
            state=state,
            pool=self._pool,
            models=self._models if self._process is None else list(self._process.models),
            device=self._device,
            host=socket.gethostname(),
            pid=os.getpid(),
            instance=self._instance,
            age_s=self._now_s(),
            spans=self._all_spans(),
            ready_s=self._ready_s,
            whole_s=self._whole_s,
        )

    def restarted(self, since_s: float, process: Process) -> Startup:
        """Return the restart of a model process whose models are loaded now.

        Args:
            since_s: When the one before was lost, in monotonic seconds.
            process: The new one.
        """
        spans = _imported(process, since_s)
        return self._later(StartupKind.RESTART, since_s, spans, StartupState.DONE)

    def switched(self, model: str, since_s: float, process: Process, *, is_there: bool) -> Startup:
        """Return the switch that has brought a model, or could not.

        Args:
            model: Which one.
            since_s: When it began, in monotonic seconds.
            process: In which.
            is_there: Whether the model is on the device now.
        """
        state = StartupState.DONE if is_there else StartupState.DIED
        spans = [each for each in process.spans if each.model == model]
        told = self._later(StartupKind.SWITCH, since_s, spans, state)
        return msgspec.structs.replace(told, models=[model])

    def _later(
        self, kind: StartupKind, since_s: float, spans: Sequence[Span], state: StartupState
    ) -> Startup:
        return Startup(
            id=new_id(self._clock.now()),
            kind=kind,
            state=state,
            pool=self._pool,
            device=self._device,
            age_s=self._clock.monotonic_s() - since_s,
            spans=_shifted(spans, since_s),
        )

    def _now_s(self) -> float:
        return self._clock.monotonic_s() - self._origin_s

    def _all_spans(self) -> list[Span]:
        process = self._process
        if process is None:
            return list(self._spans)
        since_s = self._origin_s + self._began_s
        return [*self._spans, *_shifted(_imported(process, since_s), self._origin_s)]


def _before(beginning: Beginning, clock: Clock) -> tuple[list[Span], float]:
    """Return the phases before this process, and the monotonic second at which all began."""
    age_s, container_s = beginning.age_s, beginning.container_age_s
    # Another is of another container: its environment is used again.
    if container_s is not None and 0.0 <= container_s - age_s <= MAX_BOOT_S:
        age_s = container_s
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
    """Return a process's phases with its imports from when it was wanted."""
    own = [each for each in process.spans if each.phase == Phase.IMPORT]
    end_s = own[0].end_s if own else None
    whole = Span(phase=Phase.IMPORT, start_s=since_s, end_s=end_s)
    return [whole, *(each for each in process.spans if each.phase != Phase.IMPORT)]


def _shifted(spans: Sequence[Span], origin_s: float) -> list[Span]:
    """Return spans in seconds since a moment."""
    return [
        msgspec.structs.replace(
            each,
            start_s=max(0.0, each.start_s - origin_s),
            end_s=None if each.end_s is None else max(0.0, each.end_s - origin_s),
        )
        for each in spans
    ]


def _log() -> Any:
    # Imported when it is needed: a model process is to be asked for before that.
    return importlib.import_module("structlog").get_logger("swell.worker")
