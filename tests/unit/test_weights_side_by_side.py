"""Many things go side by side as the line bears it, and what breaks in passing is tried again."""

import asyncio
from collections import Counter

import pytest

from manual_clock import ManualClock
from swell.core.errors import Conflict, Unavailable
from swell.weights.side_by_side import SideBySide


class Impatient(ManualClock):
    """Does not wait, and notes how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    async def sleep(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)
        await asyncio.sleep(0)


class Line:
    """A line that bears so many at once, and the things that went through it."""

    def __init__(self, bears: int = 1000) -> None:
        self.bears = bears
        self.busy = self.most = 0
        self.tries: Counter[int] = Counter()
        self.done: list[int] = []

    async def carry(self, thing: int) -> None:
        self.tries[thing] += 1
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                # Of those that are one too many, none comes through in time.
                if self.busy > self.bears:
                    raise Unavailable("too slow")
            self.done.append(thing)
        finally:
            self.busy -= 1


async def test_each_is_done_once_and_never_more_than_allowed_at_a_time() -> None:
    line = Line()
    await SideBySide(8, Impatient()).run(range(100), line.carry)
    assert sorted(line.done) == list(range(100))
    assert line.most == 8


async def test_a_line_that_bears_three_carries_all_that_eight_would_never_get_through() -> None:
    line, clock = Line(bears=3), Impatient()
    await SideBySide(8, clock).run(range(100), line.carry)
    assert sorted(line.done) == list(range(100))
    assert max(clock.waits_s) <= 16


async def test_a_failure_before_anything_went_well_is_not_tried_again() -> None:
    line, clock = Line(bears=0), Impatient()
    with pytest.raises(Unavailable):
        await SideBySide(8, clock).run(range(100), line.carry)
    assert line.tries == {0: 1}
    assert not clock.waits_s


async def test_a_line_that_is_gone_for_a_while_is_waited_for() -> None:
    line, clock = Line(), Impatient()
    gone = 0

    async def carry(thing: int) -> None:
        nonlocal gone
        if thing >= 20 and gone < 5:
            gone += 1
            raise Unavailable("gone")
        await line.carry(thing)

    await SideBySide(8, clock).run(range(40), carry)
    assert sorted(line.done) == list(range(40))


async def test_what_fails_at_every_try_ends_all() -> None:
    line, clock = Line(), Impatient()

    async def carry(thing: int) -> None:
        if thing == 3:
            line.tries[3] += 1
            raise Unavailable("never")
        await line.carry(thing)

    with pytest.raises(Unavailable, match="never"):
        await SideBySide(8, clock).run(range(40), carry)
    assert line.tries[3] == 8
    assert clock.waits_s == [0.5, 1, 2, 4, 8, 16, 16]


async def test_a_line_that_is_gone_for_good_is_found_out_however_much_there_is_to_do() -> None:
    line, clock = Line(), Impatient()

    async def carry(thing: int) -> None:
        if thing >= 20:
            line.tries[thing] += 1
            raise Unavailable("gone")
        await line.carry(thing)

    with pytest.raises(Unavailable, match="gone"):
        await SideBySide(8, clock).run(range(10_000), carry)
    # Those that were on their way when it broke, and no others.
    assert len([thing for thing in line.tries if thing >= 20]) <= 8
    assert max(line.tries.values()) == 8


async def test_what_would_not_go_better_another_time_is_not_tried_again() -> None:
    asked = 0

    async def refuse(thing: int) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise Conflict("no")

    with pytest.raises(Conflict):
        await SideBySide(1, Impatient()).run(range(10), refuse)
    assert asked == 2
