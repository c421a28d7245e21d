"""The clock of phases in a worker."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from conformance.dispatch import MemoryDispatch
from manual_clock import ManualClock
from sqlite_rig import turns
from swell.core.clock import Clock, process_age_s
from swell.core.errors import Internal, NotFound, SwellError, TooManyRequests, Unavailable
from swell.core.startup_phases import MAX_BOOT_S, Phase, Span, Startup, StartupState, covered_s
from swell.runtime.startup_timing import Beginning, Startups


class Process:
    """Phases as a model process tells them."""

    def __init__(self) -> None:
        self.spans: Sequence[Span] = ()
        self.models: Sequence[str] = ()
        self.has_news = asyncio.Event()

    def tell(self, *spans: tuple[str, str, float, float | None]) -> None:
        self.spans = [Span(phase=p, model=m, start_s=a, end_s=b) for p, m, a, b in spans]
        self.has_news.set()


@pytest.fixture
def clock() -> ManualClock:
    made = ManualClock()
    made.advance(1000.0)
    return made


def started(clock: Clock, **beginning: object) -> Startups:
    return Startups(clock, "spot", "cuda:0", Beginning(**beginning))  # type: ignore[arg-type]


def told(startup: Startup) -> list[tuple[str, str, float, float | None]]:
    return [
        (s.phase, s.model, round(s.start_s, 6), s.end_s and round(s.end_s, 6))
        for s in startup.spans
    ]


def test_all_phases_lie_on_one_axis_and_cover_the_whole(clock: ManualClock) -> None:
    asked_at = clock.now() - timedelta(seconds=70)
    startups = started(clock, age_s=10.0, asked_at=asked_at, pull_s=25.0)
    process = Process()
    clock.advance(1)
    startups.follow(process)
    process.models = ["a/a"]
    clock.advance(4)
    process.tell(
        ("import", "", 1000.5, 1002.0),
        ("fetch", "a/a", 1002.0, 1003.0),
        ("load", "a/a", 1002.5, 1004.0),
        ("warm", "a/a", 1004.0, 1005.0),
    )
    registering = startups.registering()
    assert registering.state is StartupState.READY
    assert registering.models == ["a/a"]
    assert registering.ready_s == registering.age_s == 75.0
    startups.ready()
    clock.advance(100)
    startups.task_came()
    clock.advance(3)
    done = startups.first_outcome()
    assert told(done) == [
        ("boot", "", 0.0, 60.0),
        ("pull", "", 35.0, 60.0),
        ("import", "", 60.0, 71.0),
        ("import", "", 60.0, 72.0),
        ("fetch", "a/a", 72.0, 73.0),
        ("load", "a/a", 72.5, 74.0),
        ("warm", "a/a", 74.0, 75.0),
        ("first_task", "", 175.0, 178.0),
    ]
    assert (done.state, done.ready_s, done.whole_s) == (StartupState.DONE, 75.0, 78.0)
    assert done.id == registering.id
    assert covered_s(done.spans, done.age_s) == done.whole_s
    # Registering again, as with another backend.
    assert startups.registering().state is StartupState.DONE


def test_the_wait_for_a_task_that_was_there_counts(clock: ManualClock) -> None:
    startups = started(clock)
    startups.follow(Process())
    clock.advance(2)
    startups.task_came()
    startups.ready()
    clock.advance(1)
    done = startups.first_outcome()
    assert told(done)[-1] == ("first_task", "", 2.0, 3.0)
    assert done.whole_s == 3.0


@pytest.mark.parametrize("off_s", [-3600.0, -1.0, MAX_BOOT_S + 20])
def test_a_boot_by_a_clock_that_is_wrong_is_not_told(clock: ManualClock, off_s: float) -> None:
    asked_at = clock.now() - timedelta(seconds=off_s)
    startups = started(clock, age_s=4.0, asked_at=asked_at)
    startups.follow(Process())
    assert told(startups.cold(StartupState.STARTING)) == [
        ("import", "", 0.0, 4.0),
        ("import", "", 0.0, None),
    ]


def test_a_pull_without_a_boot_is_told_and_one_longer_than_the_boot_is_not(
    clock: ManualClock,
) -> None:
    startups = started(clock, age_s=1.0, pull_s=9.0)
    told_of = startups.cold(StartupState.STARTING)
    assert (told(told_of), told_of.age_s) == ([("pull", "", 0.0, 9.0)], 10.0)
    asked_at = clock.now() - timedelta(seconds=5)
    startups = started(clock, age_s=1.0, asked_at=asked_at, pull_s=9.0)
    assert told(startups.cold(StartupState.STARTING)) == [("boot", "", 0.0, 4.0)]


class Jumping(ManualClock):
    """Its wall clock is set while it runs."""

    jump = timedelta()

    def now(self):  # type: ignore[no-untyped-def]
        return super().now() + self.jump


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_jump_of_the_wall_clock_changes_no_phase(hours: int) -> None:
    clock = Jumping()
    startups = started(clock, age_s=2.0, asked_at=clock.now() - timedelta(seconds=30))
    process = Process()
    startups.follow(process)
    clock.jump = timedelta(hours=hours)
    clock.advance(5)
    process.tell(("import", "", 0.0, 1.0), ("load", "a/a", 1.0, 5.0))
    startups.ready()
    done = startups.first_outcome()
    assert told(done) == [
        ("boot", "", 0.0, 28.0),
        ("import", "", 28.0, 30.0),
        ("import", "", 28.0, 31.0),
        ("load", "a/a", 31.0, 35.0),
        ("first_task", "", 35.0, 35.0),
    ]
    assert done.ready_s == 35.0


@pytest.mark.parametrize("minutes", [-50, 50])
def test_a_clock_that_is_set_after_the_process_began_is_no_part_of_a_start(minutes: int) -> None:
    clock = Jumping()
    clock.jump = timedelta(minutes=minutes)
    startups = started(clock, age_s=2.0)
    startups.follow(Process())
    told_of = startups.cold(StartupState.STARTING)
    assert (told_of.age_s, told(told_of)[0]) == (2.0, ("import", "", 0.0, 2.0))


def test_what_was_fetched_before_the_models_were_looked_for_is_told(clock: ManualClock) -> None:
    startups = started(clock)
    with startups.fetching("bucket"):
        clock.advance(3)
        assert told(startups.cold(StartupState.STARTING)) == [("fetch", "", 0.0, None)]
    with startups.fetching("bucket", lambda: False):
        clock.advance(3)
    assert startups.cold(StartupState.STARTING).spans == [
        Span(phase=Phase.FETCH, start_s=0.0, end_s=3.0, source="bucket")
    ]


def test_a_switch_has_phases_of_its_own(clock: ManualClock) -> None:
    startups, process = started(clock), Process()
    process.tell(("load", "a/b", 1000.0, 1000.5), ("load", "a/a", 1000.5, 1002.0))
    clock.advance(2)
    switch = startups.switched("a/a", 1000.0, process, is_there=True)
    assert (switch.kind, switch.state, switch.models) == ("switch", StartupState.DONE, ["a/a"])
    assert (told(switch), switch.age_s) == ([("load", "a/a", 0.5, 2.0)], 2.0)
    failed = startups.switched("a/a", 1000.0, process, is_there=False)
    assert failed.state is StartupState.DIED
    assert failed.id != switch.id


def test_a_restart_begins_when_the_process_before_was_lost(clock: ManualClock) -> None:
    startups, process = started(clock), Process()
    process.tell(("import", "", 1001.0, 1002.0), ("load", "a/a", 1002.0, 1004.0))
    clock.advance(4)
    restart = startups.restarted(1000.0, process)
    assert (restart.kind, restart.state) == ("restart", StartupState.DONE)
    assert told(restart) == [("import", "", 0.0, 2.0), ("load", "a/a", 2.0, 4.0)]


class Backend(MemoryDispatch):
    """Answers as it is told to."""

    errors: list[Exception]

    async def starting(self, startup: Startup):  # type: ignore[no-untyped-def]
        if self.errors:
            raise self.errors.pop(0)
        return await super().starting(startup)


@pytest.fixture
async def backend(clock: ManualClock) -> Backend:
    made = Backend(clock)
    made.errors = []
    return made


async def settle() -> None:
    await turns(20)


async def test_it_is_told_at_once_and_when_something_has_changed(
    clock: ManualClock, backend: Backend
) -> None:
    startups, process = started(clock), Process()
    startups.follow(process)
    telling = asyncio.create_task(startups.tell(backend))
    await settle()
    assert len(backend.startups) == 1
    process.tell(("import", "", 1000.0, None))
    process.models = ["a/a"]
    await settle()
    assert len(backend.startups) == 1, "not sooner than a second after the last"
    clock.advance(1)
    await settle()
    assert [each.models for each in backend.startups] == [[], ["a/a"]]
    startups.ready()
    clock.advance(1)
    process.has_news.set()
    await asyncio.wait_for(telling, 5)
    assert len(backend.startups) == 2


@pytest.mark.parametrize(
    "error", [Unavailable("away"), Internal("the database failed"), TooManyRequests("too many")]
)
async def test_a_backend_that_cannot_hear_is_told_again(
    clock: ManualClock, backend: Backend, error: SwellError
) -> None:
    startups, process = started(clock), Process()
    startups.follow(process)
    backend.errors = [error]
    telling = asyncio.create_task(startups.tell(backend))
    await settle()
    assert backend.startups == []
    process.has_news.set()
    clock.advance(1)
    await settle()
    assert len(backend.startups) == 1
    telling.cancel()


async def test_a_backend_that_does_not_know_the_message_is_left_alone(
    clock: ManualClock, backend: Backend
) -> None:
    startups = started(clock)
    backend.errors = [NotFound("there is no such path")]
    await asyncio.wait_for(startups.tell(backend), 5)
    assert backend.startups == []


async def test_the_end_of_one_that_was_never_ready_is_told(
    clock: ManualClock, backend: Backend
) -> None:
    startups, process = started(clock), Process()
    startups.follow(process)
    process.tell(("import", "", 1000.0, 1001.0), ("load", "a/a", 1001.0, None))
    clock.advance(4)
    await startups.tell_end(backend)
    [end] = backend.startups
    assert end.state is StartupState.DIED
    assert told(end)[-1] == ("load", "a/a", 1.0, None)
    assert end.age_s == 4.0
    backend.errors = [Unavailable("away")]
    await startups.tell_end(backend)


def test_a_process_knows_its_own_age() -> None:
    first = process_age_s()
    assert 0 <= first <= process_age_s() < 7 * 24 * 3600
