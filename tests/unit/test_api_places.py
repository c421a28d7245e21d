"""Positions in the queue: exact for small groups, interpolated in large ones."""

from collections.abc import AsyncIterator, Sequence

import pytest
from api_harness import World, a_world
from hypothesis import given
from hypothesis import strategies as st

from swell.core.broker_types import Rank, ServedWith
from swell.core.task import Task
from swell.server.estimates.task_estimates import spread


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        await world.register()
        yield world


async def batch(world: World, n: int, **fields: object) -> list[int]:
    """Send a batch; return the positions of its tasks."""
    task = {"model": "demo/upper", "input": {"text": "a"}, **fields}
    sent = await world.anna("POST", "/v1/tasks/batch", {"tasks": [task] * n})
    assert sent.status == 202, sent.body
    return [each["position"] for each in sent.json["tasks"]]


async def listed(world: World) -> list[int]:
    """Return the positions of the listed tasks."""
    page = (await world.anna("GET", "/v1/tasks?limit=100")).json["tasks"]
    return sorted(each["position"] for each in page)


async def test_positions_of_a_short_queue_are_exact(world: World) -> None:
    assert await batch(world, 3) == [1, 2, 3]
    assert await batch(world, 2) == [4, 5]
    assert await listed(world) == [1, 2, 3, 4, 5]


async def test_positions_of_large_groups_are_in_order(world: World) -> None:
    assert await batch(world, 60) == list(range(1, 61))
    assert await batch(world, 30) == list(range(61, 91))
    assert await listed(world) == list(range(1, 91))


async def test_the_broker_counts_twice_for_a_large_group(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = world.service.broker
    ranks = broker.ranks
    counted: list[int] = []

    async def counting(tasks: Sequence[Task], *, served_with: ServedWith) -> list[Rank | None]:
        counted.append(len(tasks))
        return await ranks(tasks, served_with=served_with)

    monkeypatch.setattr(broker, "ranks", counting)
    await batch(world, 8)
    await batch(world, 60)
    assert counted == [8, 2]


async def test_users_and_priorities_have_positions_of_their_own(world: World) -> None:
    await batch(world, 60, user="flood")
    # IDs tell the age to the millisecond.
    world.clock.advance(1)
    assert await batch(world, 1, user="ann") == [2]
    assert await batch(world, 1, user="flood", priority=0) == [1]
    assert await batch(world, 1, user="flood") == [63]


def _rank(ahead: int) -> Rank:
    return Rank(ahead=ahead, samples=2 * ahead)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 50))
def test_spread_ranks_never_go_back(first: int, more: int, n: int) -> None:
    found = [rank for rank in spread(_rank(first), _rank(first + more), n) if rank is not None]
    places = [rank.ahead for rank in found]
    assert len(places) == n
    assert places == sorted(places)
    assert all(first <= place <= first + more for place in places)
    assert all(abs(rank.samples - 2 * rank.ahead) <= 1 for rank in found)


def test_a_task_that_has_left_the_queue_gives_no_positions() -> None:
    assert spread(None, _rank(3), 2) == [None, None]
