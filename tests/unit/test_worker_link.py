"""When a worker tells the backend what there is to tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from swell.clock import ManualClock
from swell.dispatch import LeasedTask, Registration, Report, ReportAnswer, Welcome
from swell.task import Canceled
from swell.worker.desk import Desk, Held
from swell.worker.link import QUIET_S, Link


class Backend:
    """Takes reports and answers nothing but that."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    async def register(self, registration: Registration) -> Welcome:
        return Welcome(worker_id="w", lease_s=30.0, heartbeat_s=10.0, max_wait_s=30.0)

    async def report(self, report: Report) -> ReportAnswer:
        self.reports.append(report)
        return ReportAnswer()


class Office:
    """A link that reports, and what it has to tell."""

    def __init__(self) -> None:
        self.clock, self.backend, self.desk = ManualClock(), Backend(), Desk(slots=4)
        registration = Registration(name="tester", models=[])
        nobody: Any = None
        dispatch: Any = self.backend
        self.link = Link(dispatch, self.clock, self.desk, registration, nobody)
        self.link.takes_work = False

    def hold(self, name: str = "t1") -> Held:
        task = LeasedTask(
            task_id=name, attempt=1, token="k", model="m", version="v", input=msgspec.Raw(b"{}")
        )
        return self.desk.hold(task, "key", 0.0)

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
async def reporting() -> AsyncIterator[Office]:
    office = Office()
    await office.link.register()
    loops = [
        asyncio.create_task(loop)
        for loop in (office.link.report(), office.link.report_small_news())
    ]
    try:
        yield office
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def test_what_nobody_follows_is_told_at_once_where_nothing_was_told_lately() -> None:
    async with reporting() as office:
        office.desk.tell(office.hold(), "progress", {"step": 1}, soon=False)
        assert await office.told() == 1


async def test_what_nobody_follows_waits_after_a_report_but_not_for_long() -> None:
    async with reporting() as office:
        held = office.hold()
        office.desk.tell(held, "progress", {"step": 1})
        assert await office.told() == 1
        office.desk.tell(held, "progress", {"step": 2}, soon=False)
        assert await office.told(0.9 * QUIET_S) == 1
        office.desk.tell(held, "progress", {"step": 3}, soon=False)
        assert await office.told(0.1 * QUIET_S) == 2
        assert [each.data["step"] for each in office.backend.reports[1].progress] == [3]
        office.desk.tell(held, "progress", {"step": 4})
        assert await office.told() == 3


async def test_an_outcome_takes_along_what_has_time() -> None:
    async with reporting() as office:
        held, other = office.hold("t1"), office.hold("t2")
        office.desk.tell(held, "progress", {"step": 1})
        assert await office.told() == 1
        office.desk.tell(held, "progress", {"step": 2}, soon=False)
        office.desk.settle(other, Canceled())
        assert await office.told() == 2
        assert len(office.backend.reports[1].progress) == 1
        assert await office.told(2 * QUIET_S) == 2


@pytest.mark.parametrize("count", [1, 7])
async def test_many_words_in_a_row_make_few_reports(count: int) -> None:
    async with reporting() as office:
        held = [office.hold(f"t{n}") for n in range(count)]
        for _ in range(40):
            for each in held:
                office.desk.tell(each, "progress", {}, soon=False)
            await office.told(QUIET_S / 4)
        assert 10 <= len(office.backend.reports) <= 12
