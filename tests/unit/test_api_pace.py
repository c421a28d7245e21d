"""What tasks cost their worker, measured while it works."""

import heapq
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_harness import World, a_world, succeeded
from hypothesis import given
from hypothesis import strategies as st

from swell.core.events import Event, EventKind, TaskSummary
from swell.server.estimates.eta import Meter, Pace, Window, first_pace, learn
from swell.server.peer_messages import take_events

RUN_S = 0.2


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(lease_s=1e6) as made:
        yield made


def _window(n: int, busy_s: float, held: float, run_s: float, count: int = 1) -> Window:
    """Return a window of `n` tasks that ran for `run_s` each while `held` were held."""
    window = Window()
    window.n, window.count, window.run_s = n, n * count, n * run_s
    window.busy_s, window.held_s = busy_s, held * busy_s
    return window


WINDOWS = st.builds(
    _window,
    st.integers(0, 64),
    st.floats(0, 1000),
    st.floats(1, 64),
    st.floats(0, 1000),
    st.integers(1, 100),
)


@pytest.mark.slow
@given(st.lists(WINDOWS, max_size=20), st.integers(1, 64))
def test_a_pace_is_positive_and_nobody_runs_less_than_one(
    windows: list[Window], slots: int
) -> None:
    pace: Pace | None = None
    for window in windows:
        pace = learn(pace, window, slots)
    if pace is not None:
        assert pace.task_s > 0
        assert pace.at_once >= 1
        assert 1 <= pace.count <= 100


@given(st.floats(0.01, 100), st.integers(1, 16), st.integers(1, 16), st.floats(0.01, 100))
def test_a_worker_that_has_enough_to_do_is_known_soon(
    run_s: float, truth: int, before: int, before_s: float
) -> None:
    pace: Pace | None = Pace(task_s=before_s / before, run_s=before_s)
    for _ in range(20):
        pace = learn(pace, _window(16, 16 * run_s / truth, 16, run_s), 16)
    assert pace is not None
    assert pace.task_s == pytest.approx(run_s / truth, rel=0.01, abs=1e-3)


@given(st.floats(0.01, 100), st.floats(1, 7))
def test_little_to_do_says_nothing_against_a_worker(run_s: float, held: float) -> None:
    known = Pace(task_s=run_s / 8, run_s=run_s)
    assert learn(known, _window(16, 16 * run_s / held, held, run_s), 8) == known


def test_the_way_of_a_task_that_was_alone_is_not_counted() -> None:
    pace = learn(None, _window(1, 0.5, 1, 0.2), 8)
    assert pace == Pace(task_s=0.2, run_s=0.2)


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=100))
def test_busy_time_is_neither_lost_nor_counted_twice(steps: list[tuple[float, bool]]) -> None:
    meter, now_s, busy_s = Meter(), 0.0, 0.0
    seen: list[Window | None] = []
    for pause_s, takes in [*steps, *[(1.0, False)] * 100]:
        now_s += pause_s
        busy_s += pause_s if meter.held else 0.0
        if takes:
            meter.take(1, now_s)
        elif meter.held:
            seen.append(meter.end("a/b", 1.0, 1, now_s))
            seen.extend(meter.release(now_s).values())
    assert sum(each.busy_s for each in seen if each) == pytest.approx(busy_s, abs=1e-6)
    assert sum(each.n for each in seen if each) == sum(takes for _, takes in steps)


def test_tasks_that_end_together_belong_to_one_window() -> None:
    meter, pace = Meter(), None
    meter.take(64, 0.0)
    for end_s in (1.0, 2.0, 3.0):
        for _ in range(32):
            full = meter.end("a/b", 1.0, 1, end_s)
            if full is not None:
                pace = learn(pace, full, 64)
        meter.take(32, end_s)
    assert pace == Pace(task_s=1 / 32, run_s=1.0)


def test_what_ends_while_nothing_is_known_to_be_held_says_nothing() -> None:
    meter = Meter()
    for n in range(10):
        assert meter.end("a/b", 1.0, 1, n / 100) is None
    meter.take(1, 10.0)
    meter.end("a/b", 1.0, 1, 11.0)
    [window] = meter.release(11.0).values()
    assert (window.n, window.busy_s) == (1, 1.0)


def test_tasks_that_take_no_time_at_all_take_turns() -> None:
    assert first_pace(0.0, 1.0).at_once == 1


class _Machine:
    """A worker with 8 slots that runs `at_once` tasks of `RUN_S` seconds at a time, in order."""

    def __init__(self, world: World, worker_id: str, at_once: int) -> None:
        self.world = world
        self.worker_id = worker_id
        self.at_once = at_once
        self.held: deque[dict[str, Any]] = deque()
        self.running: list[tuple[float, int, dict[str, Any]]] = []
        self.ended_s: dict[str, float] = {}
        self.numbers = iter(range(10**9))

    async def run(self, until_s: float | None = None) -> None:
        """Work until nothing waits, or until then."""
        clock = self.world.clock
        await self._fill()
        while self.running and (until_s is None or self.running[0][0] <= until_s):
            end_s = self.running[0][0]
            clock.advance(max(0.0, end_s - clock.monotonic_s()))
            over = []
            while self.running and self.running[0][0] <= end_s:
                lease = heapq.heappop(self.running)[2]
                self.ended_s[lease["task_id"]] = clock.monotonic_s()
                over.append(succeeded(lease, "x", timings={"run_s": RUN_S}))
            free = 8 - len(self.running) - len(self.held)
            told = await self.world.report(self.worker_id, settlements=over, ask=free)
            self.held.extend(told.get("tasks", ()))
            self._start()
            await self._fill()

    async def _fill(self) -> None:
        free = 8 - len(self.running) - len(self.held)
        if free > 0:
            self.held.extend((await self.world.lease(self.worker_id, n=free)).get("tasks", ()))
        self._start()

    def _start(self) -> None:
        now_s = self.world.clock.monotonic_s()
        while self.held and len(self.running) < self.at_once:
            heapq.heappush(self.running, (now_s + RUN_S, next(self.numbers), self.held.popleft()))


async def _batch(world: World, n: int) -> list[Any]:
    body = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * n}
    answer = await world.anna("POST", "/v1/tasks/batch", body)
    assert answer.status == 202, answer.body
    return list(answer.json["tasks"])


async def _check(machine: _Machine, tasks: list[Any], *, within: float) -> None:
    """Work, and compare when tasks ended with what was said when they were sent."""
    sent_s = machine.world.clock.monotonic_s()
    await machine.run()
    for task in tasks:
        took_s = machine.ended_s[task["id"]] - sent_s
        assert task["eta_s"]["median"] == pytest.approx(took_s, rel=within)


@pytest.mark.parametrize("at_once", [1, 8])
async def test_after_a_crowd_a_task_that_comes_alone_is_told_its_own_time(
    world: World, at_once: int
) -> None:
    machine = _Machine(world, await world.register(slots=8), at_once)
    await _batch(world, 80)
    await machine.run()
    await _check(machine, [await world.create(finish_by_s=1.0)], within=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 8])
async def test_after_tasks_that_came_alone_a_crowd_is_told_what_it_costs(
    world: World, at_once: int
) -> None:
    machine = _Machine(world, await world.register(slots=8), at_once)
    await _batch(world, 80 if at_once > 1 else 1)
    await machine.run()
    for _ in range(250):
        await world.create()
        await machine.run()
    tasks = await _batch(world, 40)
    # Those that run at once end together; the first of them are told less.
    await _check(machine, [tasks[-1]] if at_once > 1 else tasks, within=0.25)


@pytest.mark.slow
async def test_a_crowd_that_cannot_end_in_time_is_refused(world: World) -> None:
    machine = _Machine(world, await world.register(slots=8), 1)
    for _ in range(250):
        await world.create()
        await machine.run()
    await _batch(world, 39)
    body = {"model": "demo/upper", "input": {"text": "a"}}
    late = await world.anna("POST", "/v1/tasks", {**body, "finish_by_s": 6})
    good = await world.anna("POST", "/v1/tasks", {**body, "finish_by_s": 9})
    assert (late.status, good.status) == (503, 202)


async def test_what_a_worker_holds_already_comes_first(world: World) -> None:
    machine = _Machine(world, await world.register(slots=8), 1)
    await _batch(world, 20)
    await machine.run()
    await _batch(world, 20)
    await machine.run(until_s=world.clock.monotonic_s() + 4 * RUN_S)
    await _check(machine, [await world.create()], within=0.25)


async def test_a_task_does_not_wait_for_itself_where_a_worker_has_taken_it_at_once(
    world: World,
) -> None:
    machine = _Machine(world, await world.register(slots=8), 1)
    await _batch(world, 3)
    await machine.run()
    sent = [await world.service.store.get([each["id"]]) for each in await _batch(world, 3)]
    tasks = [task for [task] in sent if task is not None]
    ranks = await world.service.broker.ranks(tasks)
    await world.lease(machine.worker_id)

    async def as_before(*_: object, **__: object) -> object:
        return ranks

    # As with a broker that looked before the worker came.
    world.service.broker.ranks = as_before  # type: ignore[method-assign,assignment]
    ends = [expected for _, expected in await world.service.estimates.positions(tasks)]
    found = [None if each is None else each.finish.median for each in ends]
    assert found == pytest.approx([RUN_S, 2 * RUN_S, 3 * RUN_S], abs=0.002)


async def test_what_another_backend_tells_twice_is_learnt_once(world: World) -> None:
    worker = await world.register(slots=1)
    summary = TaskSummary("demo/upper", 1, worker, 1, RUN_S, RUN_S)
    started = Event(task_id="t", id=1, kind=EventKind.STARTED, summary=summary)
    ended = Event(task_id="t", id=2, kind=EventKind.SUCCEEDED, summary=summary)
    take_events(world.service, [started, ended])
    take_events(world.service, [ended])
    stats = world.service.times.stats("demo/upper")
    assert stats is not None
    assert stats.n == 1
    assert world.service.fleet.held_tasks() == []
