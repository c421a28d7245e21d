"""When a worker tells the backend what there is to tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from manual_clock import ManualClock
from swell.core.errors import Unavailable
from swell.core.task import Canceled
from swell.protocol.worker_messages import (
    Ask,
    BackendUnavailable,
    Grant,
    LeasedTask,
    Registration,
    Report,
    ReportAnswer,
    Welcome,
)
from swell.worker.backend_session import QUIET_S, BackendSession, BackendWatchdog
from swell.worker.inflight import InflightTask, InflightTasks


class Backend:
    """Takes reports and answers nothing but that."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.asks: list[Ask] = []
        #: So many calls are heard, and their answers get lost.
        self.losses = 0
        #: Whether its answers to reports ask for files.
        self.asks_for_files = False

    async def register(self, registration: Registration) -> Welcome:
        return Welcome(worker_id="w", lease_s=30.0, heartbeat_s=10.0, max_wait_s=30.0)

    async def report(self, report: Report) -> ReportAnswer:
        self.reports.append(report)
        self._lose()
        asks, self.asks_for_files = self.asks_for_files, False
        return ReportAnswer(tell_files=asks)

    async def lease(self, ask: Ask) -> Grant:
        self.asks.append(ask)
        self._lose()
        await asyncio.Event().wait()
        raise AssertionError

    def _lose(self) -> None:
        if self.losses:
            self.losses -= 1
            raise Unavailable("the answer was lost")


REGISTRATION = Registration(name="tester", models=[])


class Conversation:
    """A session that reports, and what it has to tell."""

    def __init__(self) -> None:
        self.clock, self.backend, self.tasks = ManualClock(), Backend(), InflightTasks(slots=4)
        nobody: Any = None
        dispatch: Any = self.backend
        self.session = BackendSession(dispatch, self.clock, self.tasks, nobody, lambda: None)
        self.session.takes_work = False

    def hold(self, name: str = "t1") -> InflightTask:
        task = LeasedTask(
            task_id=name, attempt=1, token="k", model="m", version="v", input=msgspec.Raw(b"{}")
        )
        return self.tasks.hold(task, "key", 0.0)

    async def told(self, after_s: float = 0.0) -> int:
        """Reports so far, once so much time has passed."""
        await settle()
        self.clock.advance(after_s)
        await settle()
        return len(self.backend.reports)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def reporting() -> AsyncIterator[Conversation]:
    talk = Conversation()
    await talk.session.register(REGISTRATION)
    loops = [
        asyncio.create_task(loop)
        for loop in (talk.session.report(), talk.session.report_small_news())
    ]
    try:
        yield talk
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def test_what_nobody_follows_is_told_at_once_where_nothing_was_told_lately() -> None:
    async with reporting() as talk:
        talk.tasks.tell(talk.hold(), "progress", {"step": 1}, soon=False)
        assert await talk.told() == 1


async def test_what_nobody_follows_waits_after_a_report_but_not_for_long() -> None:
    async with reporting() as talk:
        held = talk.hold()
        talk.tasks.tell(held, "progress", {"step": 1})
        assert await talk.told() == 1
        talk.tasks.tell(held, "progress", {"step": 2}, soon=False)
        assert await talk.told(0.9 * QUIET_S) == 1
        talk.tasks.tell(held, "progress", {"step": 3}, soon=False)
        assert await talk.told(0.1 * QUIET_S) == 2
        assert [each.data["step"] for each in talk.backend.reports[1].progress] == [3]
        talk.tasks.tell(held, "progress", {"step": 4})
        assert await talk.told() == 3


async def test_an_outcome_takes_along_what_has_time() -> None:
    async with reporting() as talk:
        held, other = talk.hold("t1"), talk.hold("t2")
        talk.tasks.tell(held, "progress", {"step": 1})
        assert await talk.told() == 1
        talk.tasks.tell(held, "progress", {"step": 2}, soon=False)
        talk.tasks.settle(other, Canceled())
        assert await talk.told() == 2
        assert len(talk.backend.reports[1].progress) == 1
        assert await talk.told(2 * QUIET_S) == 2


@pytest.mark.parametrize("count", [1, 7])
async def test_many_words_in_a_row_make_few_reports(count: int) -> None:
    async with reporting() as talk:
        held = [talk.hold(f"t{n}") for n in range(count)]
        for _ in range(40):
            for each in held:
                talk.tasks.tell(each, "progress", {}, soon=False)
            await talk.told(QUIET_S / 4)
        assert 10 <= len(talk.backend.reports) <= 12


class Visitor:
    """Could run a task at any time."""

    can_run = True


async def test_a_call_for_tasks_whose_answer_got_lost_tells_what_is_known_with_the_next() -> None:
    talk = Conversation()
    runner: Any = Visitor()
    talk.session._runner = runner
    talk.session.takes_work = True
    await talk.session.register(REGISTRATION)
    held = talk.hold()
    talk.backend.losses = 2
    work = asyncio.create_task(talk.session.take_work())
    try:
        await talk.told()
        assert [ask.known for ask in talk.backend.asks] == [None]
        await talk.told(10.0)
        await talk.told(10.0)
        assert [ask.known for ask in talk.backend.asks] == [None, [held.task.hold]] * 1 + [
            [held.task.hold]
        ]
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def test_a_report_that_asks_counts_what_it_tells_among_the_known() -> None:
    talk = Conversation()
    runner: Any = Visitor()
    talk.session._runner = runner
    talk.session.takes_work = True
    await talk.session.register(REGISTRATION)
    ended, held = talk.hold("ended"), talk.hold("held")
    talk.tasks.settle(ended, Canceled())
    talk.backend.losses = 1
    reporting = asyncio.create_task(talk.session.report_once())
    await talk.told()
    late = talk.hold("late")
    talk.tasks.settle(late, Canceled())
    await talk.told(10.0)
    await reporting
    first, again = talk.backend.reports
    assert (first.ask, first.known) == (3, None)
    assert {each.task_id for each in again.known or []} == {"ended", "held", "late"}
    await talk.session.report_once()
    assert talk.backend.reports[-1].known is None, "an answer that came makes sure"
    assert held.task.task_id in talk.tasks.held


@pytest.mark.parametrize("why", ["asked", "lost"])
async def test_files_are_told_again_where_a_backend_asks_or_an_answer_got_lost(why: str) -> None:
    async with reporting() as talk:
        held = talk.hold()
        talk.tasks.tell_file(held, 0, {"index": 0}, None, soon=True)
        assert await talk.told() == 1
        talk.backend.asks_for_files, talk.backend.losses = why == "asked", int(why == "lost")
        talk.tasks.tell(held, "progress", {"step": 1})
        await talk.told(1.0)
        assert await talk.told(1.0) == {"asked": 3, "lost": 4}[why]
        told = [[(each.kind, each.again) for each in r.progress] for r in talk.backend.reports]
        assert told[0] == [("artifact", False)]
        assert told[-1] == [("artifact", True)]
        assert await talk.told(10.0) == len(told), "each is told again once"


@pytest.mark.parametrize(("limit_s", "is_over"), [(60.0, True), (None, False)])
async def test_a_backend_that_answers_nothing_for_long_is_given_up(
    limit_s: float | None, is_over: bool
) -> None:
    talk, ends = Conversation(), []
    talk.session._watchdog = BackendWatchdog(talk.clock, limit_s, lambda: ends.append(1))
    await talk.session.register(REGISTRATION)
    talk.backend.losses = 1000
    talk.tasks.settle(talk.hold(), Canceled())
    report = asyncio.create_task(talk.session.report_once())
    try:
        for _ in range(11):
            # No wait between two calls is longer than 5 s.
            await talk.told(5.0)
        assert ends == []
        for _ in range(2):
            await talk.told(5.0)
        assert bool(ends) is is_over
    finally:
        report.cancel()
        await asyncio.gather(report, return_exceptions=True)


async def test_one_answer_is_enough_to_go_on_waiting() -> None:
    clock, ends = ManualClock(), []
    watchdog = BackendWatchdog(clock, 60.0, lambda: ends.append(1))
    for _ in range(10):
        watchdog.note(Unavailable("away"))
        clock.advance(59.0)
        watchdog.note(Unavailable("away"))
        watchdog.note()
        clock.advance(59.0)
    assert ends == []


async def test_an_error_of_the_backend_itself_is_an_answer() -> None:
    clock, ends = ManualClock(), []
    watchdog = BackendWatchdog(clock, 60.0, lambda: ends.append(1))
    watchdog.note(Unavailable("the error page of a proxy"))
    for _ in range(3):
        clock.advance(59.0)
        watchdog.note(BackendUnavailable("the database does not answer"))
    assert ends == []
