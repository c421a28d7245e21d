"""The conversation between a worker and the backend.

Up to three calls are open at the same time, each on a separate connection:

    report   outcomes, progress and heartbeats; under load its answer also brings the next tasks
    work     the long poll for tasks, open only while slots are free and no report is about to ask
    listen   a long poll for no tasks, for cancellations while all slots are full

Results that finish while a report is in flight go into the next one, which is sent at once: under
load the batches grow, and without load nothing waits.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
import structlog

from swell.core.clock import Clock
from swell.core.errors import (
    Forbidden,
    NotFound,
    SwellError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from swell.core.retry import RetryPolicy
from swell.core.store_types import Hold
from swell.core.task import Failed, TaskError
from swell.core.telemetry import about
from swell.protocol.worker_messages import (
    Ask,
    BackendUnavailable,
    Dispatch,
    Grant,
    LeasedTask,
    Registration,
    Report,
    ReportAnswer,
    Welcome,
)
from swell.runtime.startup_timing import Startups
from swell.runtime.unicode_repair import valid_text
from swell.worker.inflight import InflightTasks, ReportPage

_log = structlog.get_logger("swell.worker")

#: A backend ends the long polls of a worker that has said goodbye at once.
LAST_POLL_S: Final = 1.0

#: A worker that goes at once waits no longer for an answer, in seconds.
LAST_ANSWER_S: Final = 0.25

#: Progress without a follower waits this long after the last report, unless another report is sent.
QUIET_S: Final = 0.25

#: A long poll that ends sooner with nothing to tell was cut short.
EARLY_S: Final = 0.1

#: The report in place of an outcome that the backend refuses.
_REFUSED: Final = frozenset({"output_too_large", "output_refused"})

AnswerT = TypeVar("AnswerT")

#: Waits while the backend is away; results are kept.
_BACKOFF: Final = RetryPolicy(base_s=0.1, cap_s=5.0)


class Runner(Protocol):
    """Runs the tasks of the worker."""

    @property
    def can_run(self) -> bool:
        """Whether it could run a task now; where not, none is asked for."""
        ...

    def admit(self, tasks: Sequence[LeasedTask]) -> None:
        """Take leased tasks in."""
        ...

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Stop tasks, if they are held."""
        ...

    def watch(self, task_ids: Sequence[str]) -> None:
        """Note that clients follow the progress of these tasks."""
        ...


class BackendWatchdog:
    """Calls `end` once the backend has answered no call for `limit_s`.

    Args:
        clock: The time.
        limit_s: In seconds; None to wait for ever.
        end: Called with each unanswered call after that.
    """

    def __init__(self, clock: Clock, limit_s: float | None, end: Callable[[], None]) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._end = end
        #: When the first call failed since the last answer, in monotonic seconds.
        self._since_s: float | None = None

    def note(self, error: SwellError | None = None) -> None:
        """Note the result of a call. An error of the backend itself is an answer, too."""
        now_s = self._clock.monotonic_s()
        if not isinstance(error, Unavailable) or isinstance(error, BackendUnavailable):
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        elif self._limit_s is not None and now_s - self._since_s >= self._limit_s:
            self._end()


class BackendSession:
    """A worker's registration and its three conversations."""

    def __init__(
        self,
        dispatch: Dispatch,
        clock: Clock,
        tasks: InflightTasks,
        runner: Runner,
        drain: Callable[[], None],
        startups: Startups | None = None,
        watchdog: BackendWatchdog | None = None,
    ) -> None:
        self._dispatch = dispatch
        self._clock = clock
        self._tasks = tasks
        self._runner = runner
        self._drain = drain
        self._startups = startups
        self._watchdog = watchdog or BackendWatchdog(clock, None, lambda: None)
        self._rng = random.Random()
        self._registering = asyncio.Lock()
        self._welcome: Welcome | None = None
        #: Tasks that the open `work` call may bring.
        self._polled = 0
        self._is_report_asking = False
        #: Whether an answer that may have brought tasks got lost. Only one such call is open at a
        #: time, so the tasks in flight are all that arrived.
        self._is_unsure = False
        self._unanswered: ReportPage | None = None
        #: When the last report was answered.
        self._told_s = clock.monotonic_s() - QUIET_S
        self._wake = asyncio.Event()
        #: Set while the `work` call is not open.
        self._is_quiet = asyncio.Event()
        self._is_quiet.set()
        self._reporting = asyncio.Lock()
        self.takes_work = True

    @property
    def welcome(self) -> Welcome:
        """What the backend said when the worker registered."""
        assert self._welcome is not None, "register first"
        return self._welcome

    @property
    def worker_id(self) -> str:
        """The id that the backend gave."""
        return self.welcome.worker_id

    def nudge(self) -> None:
        """Look again whether a long poll should be open."""
        self._wake.set()

    async def register(self, registration: Registration) -> Welcome:
        """Introduce the worker; waits while the backend is away.

        Raises:
            Unauthenticated: The token is not known.
        """
        self._registration = registration
        return await self._register()

    async def _register(self) -> Welcome:
        attempt = 0
        while True:
            try:
                startup = None if self._startups is None else self._startups.registering()
                registration = msgspec.structs.replace(
                    self._registration, sent_at=self._clock.now(), startup=startup
                )
                self._welcome = await self._dispatch.register(registration)
                self._watchdog.note()
                return self._welcome
            except Unavailable as error:
                attempt += 1
                await self._back_off(attempt, error)

    async def _again(self, refused: Welcome) -> None:
        """Register again, once for all conversations that were refused."""
        async with self._registering:
            if self._welcome is refused:
                _log.warning("registering again: the backend does not know this worker")
                await self._register()
                self._tasks.resend_files()

    async def _call(
        self, make: Callable[[str], Awaitable[AnswerT]], *, asks: bool = False, brings: bool = False
    ) -> AnswerT:
        """Call until the backend answers.

        Args:
            make: Makes the call.
            asks: Whether the answer may bring tasks, and the call lists the known leases.
            brings: Whether the answer may bring tasks without such a list.
        """
        attempt = 0
        while True:
            welcome = self.welcome
            try:
                answer = await make(welcome.worker_id)
            except NotFound:
                await self._again(welcome)
            except Unavailable as error:
                self._is_unsure = self._is_unsure or asks or brings
                attempt += 1
                await self._back_off(attempt, error)
            else:
                self._watchdog.note()
                self._is_unsure = self._is_unsure and not asks
                if attempt:
                    # The backend may have restarted, or another one may answer.
                    self._tasks.resend_files()
                return answer

    @property
    def _known(self) -> list[Hold] | None:
        """What a call that asks for tasks has to tell of those that are known."""
        if not self._is_unsure:
            return None
        page = self._unanswered
        return self._tasks.known([] if page is None else page.settlements)

    async def _back_off(self, attempt: int, error: Unavailable) -> None:
        delay_s = _BACKOFF.delay_s(attempt, self._rng)
        if attempt in (1, 5) or attempt % 20 == 0:
            _log.warning("the backend is away", detail=error.detail, retry_in_s=round(delay_s, 2))
        self._watchdog.note(error)
        await self._clock.sleep(delay_s)

    # work

    async def take_work(self) -> None:
        """Keep the long poll for tasks open while it is wanted, for ever."""
        while True:
            n = self._credit()
            if n <= 0:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._polled = n
            self._is_quiet.clear()
            try:
                grant = await self._poll(n)
            finally:
                self._polled = 0
                self._is_quiet.set()
            self._hear(grant)
            if self._tasks.held:
                # Full, or draining: from now on only `listen` gets cancellations.
                self._tasks.busy.set()

    @property
    def _wants_work(self) -> bool:
        return self.takes_work and self._runner.can_run

    def _credit(self) -> int:
        if not self._wants_work or self._is_report_asking or self._tasks.outcomes:
            return 0
        return self._tasks.free

    async def listen(self) -> None:
        """Receive cancellations while the slots are full, for ever."""
        while True:
            if self._polled or not self._tasks.held:
                await self._tasks.busy.wait()
                # Short tasks end before anybody could cancel them: do not open a call for those.
                await self._clock.sleep(0.1)
                if self._polled or not self._tasks.held:
                    self._tasks.busy.clear()
                    continue
            grant = await self._poll(0)
            self._hear(grant)

    async def _poll(self, n: int) -> Grant:
        wait_s = self.welcome.max_wait_s
        start_s = self._clock.monotonic_s()
        grant = await self._call(
            lambda worker_id: self._dispatch.lease(
                Ask(
                    worker_id=worker_id,
                    n=n,
                    wait_s=wait_s,
                    residents=self._tasks.residents,
                    known=self._known if n else None,
                )
            ),
            asks=n > 0,
        )
        is_empty = not (grant.tasks or grant.cancels or grant.drain)
        if is_empty and self._clock.monotonic_s() - start_s < EARLY_S:
            # A backend that is about to go ends its long polls: do not ask it in circles.
            await self._clock.sleep(EARLY_S)
        return grant

    def _hear(self, answer: Grant | ReportAnswer) -> None:
        if answer.tasks:
            if self._startups is not None:
                self._startups.task_came()
            self._runner.admit(answer.tasks)
        if answer.cancels:
            self._runner.cancel(answer.cancels)
        if isinstance(answer, ReportAnswer):
            if answer.watched:
                self._runner.watch(answer.watched)
            if answer.tell_files:
                self._tasks.resend_files()
        if answer.drain:
            self._drain()

    # reports

    async def report(self) -> None:
        """Tell what there is to tell as soon as it is there, for ever."""
        while True:
            await self._tasks.news.wait()
            self._tasks.news.clear()
            await self.report_once()

    async def report_small_news(self) -> None:
        """Send reports that may wait, in time, for ever.

        The answer names the followed tasks, so a report without other content is sent at once.
        """
        while True:
            await self._tasks.small_news.wait()
            self._tasks.small_news.clear()
            await self._clock.sleep(max(0.0, self._told_s + QUIET_S - self._clock.monotonic_s()))
            if self._tasks.progress:
                self._tasks.news.set()

    async def report_once(self, *, goodbye: bool = False) -> None:
        """Tell what there is to tell, and ask for as many tasks as will then be free."""
        async with self._reporting:
            page = self._tasks.take()
            if not page.is_empty or goodbye:
                await self._tell(page, goodbye=goodbye)

    async def _tell(self, page: ReportPage, *, goodbye: bool) -> None:
        self._unanswered = page
        ask = 0
        if page.settlements and self._wants_work and not self._polled:
            ask = self._tasks.free + len(page.settlements) - self._tasks.onward(page.settlements)
        self._is_report_asking = ask > 0
        try:
            await self._tell_all(page, ask=ask, goodbye=goodbye)
        finally:
            self._is_report_asking = False
        self._unanswered = None
        self._told_s = self._clock.monotonic_s()
        self._tasks.told()
        self._wake.set()

    async def _tell_all(self, page: ReportPage, *, ask: int = 0, goodbye: bool = False) -> None:
        """Send a page; split a refused one, down to the entry at fault.

        Raises:
            Unauthenticated, Forbidden: The backend refuses the worker, not the report.
        """
        onward = self._tasks.onward(page.settlements) if self._wants_work and not goodbye else 0
        asks = ask > 0 or (onward > 0 and not self._polled)
        try:
            answer = await self._call(
                lambda worker_id: self._dispatch.report(
                    Report(
                        worker_id=worker_id,
                        progress=page.progress,
                        settlements=page.settlements,
                        enclosures=page.enclosures(),
                        holds=page.holds,
                        ask=ask,
                        onward=onward,
                        residents=self._tasks.residents,
                        known=self._known if asks else None,
                        switches=self._tasks.switches,
                        startups=list(self._tasks.startups),
                        goodbye=goodbye,
                    )
                ),
                asks=asks,
                brings=onward > 0,
            )
        except (Unauthenticated, Forbidden):
            raise
        except SwellError as error:
            parts = page.halves()
            if len(parts) <= 1:
                parts = _instead(page, error)
            for part in parts[:-1]:
                await self._tell_all(part)
            for part in parts[-1:]:
                await self._tell_all(part, ask=ask, goodbye=goodbye)
            return
        if answer.stale:
            _log.warning("outcomes came too late", task_ids=answer.stale)
        self._hear(answer)

    async def say_goodbye(self) -> None:
        """Say goodbye, and return whether the open long poll still brought tasks."""
        await self.report_once(goodbye=True)
        try:
            async with asyncio.timeout(LAST_POLL_S):
                await self._is_quiet.wait()
        except TimeoutError:
            _log.warning("the backend did not end the long poll of a worker that goes")

    async def say_goodbye_at_once(self) -> None:
        """Tell everything that is left, and nothing after it; takes no longer than it must."""
        # An answer in flight may bring tasks. If none comes, the report is sent again. The lock is
        # kept: a call after the goodbye would register the worker again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWER_S):
                await self._reporting.acquire()
        await self._tell_rest()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_ANSWER_S):
                await self._is_quiet.wait()
        if self._tasks.outcomes:
            # The long poll brought tasks after all.
            await self._tell_rest()

    async def _tell_rest(self) -> None:
        pages = [] if self._unanswered is None else [self._unanswered]
        while self._tasks.outcomes:
            pages.append(self._tasks.take())
        outcomes = [
            ReportPage(page.settlements, [], [], page.files) for page in pages if page.settlements
        ]
        for page in outcomes[:-1]:
            await self._tell_all(page)
        await self._tell_all(outcomes[-1] if outcomes else ReportPage([], [], []), goodbye=True)
        self._unanswered = None
        self._tasks.told()


def _instead(page: ReportPage, error: SwellError) -> list[ReportPage]:
    """Return the report in place of a refused page of at most one entry."""
    if not page.settlements:
        _log.error("the backend refuses a report", detail=error.detail)
        return []
    [settlement] = page.settlements
    told_of = about(settlement.task_id, settlement.attempt)
    outcome = settlement.outcome
    if isinstance(outcome, Failed) and outcome.error.code in _REFUSED:
        _log.error("backend: cannot deliver an outcome", **told_of, detail=error.detail)
        return []
    _log.warning("the backend refuses an outcome", **told_of, detail=error.detail)
    told = valid_text(error.detail)[:500]
    if isinstance(error, TooLarge):
        failure = TaskError(
            code="output_too_large",
            title="The output is too large",
            detail=f"the backend rejects it ({told}): return a swell.File or swell.Image "
            "instead, which the server stores as a file",
        )
    else:
        failure = TaskError(
            code="output_refused",
            title="The output was refused",
            detail=f"the backend does not take it ({told})",
        )
    failed = Failed(error=failure, retryable=False)
    return [ReportPage([msgspec.structs.replace(settlement, outcome=failed)], [], [])]
