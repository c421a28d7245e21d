"""Places in the queue: exact while it is short, cheap when it is long."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from swell.api.places import Places, between
from swell.broker import Rank
from swell.clock import ManualClock
from swell.task import Task

BOUND = 100


class LongQueue:
    """A broker that counts how often it is asked, and is exact up to a bound."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.asked = 0

    async def ranks(self, tasks: Sequence[Task]) -> list[Rank | None]:
        self.asked += len(tasks)
        return [
            Rank(
                ahead=self.before + int(task.tag),
                is_exact=self.before + task.tag <= BOUND,
                samples=self.before + int(task.tag),
            )
            for task in tasks
        ]


def _tasks(n: int, **fields: Any) -> list[Task]:
    return [
        Task(
            id=str(k),
            model="a/b",
            queue="a/b",
            seed=k,
            tag=float(k),
            created_at=datetime.now(UTC),
            **fields,
        )
        for k in range(n)
    ]


def _rank(ahead: int) -> Rank:
    return Rank(ahead=ahead, is_exact=True, samples=2 * ahead)


async def _ahead(places: Places, tasks: Sequence[Task], *, are_new: bool = False) -> list[int]:
    return [rank.ahead for rank in await places.ahead(tasks, are_new=are_new) if rank is not None]


async def test_a_short_queue_is_told_exactly() -> None:
    broker = LongQueue(3)
    places = Places(broker.ranks, ManualClock())
    assert await _ahead(places, _tasks(2), are_new=True) == [3, 4]
    assert await _ahead(places, _tasks(2)) == [3, 4]


async def test_newcomers_of_a_long_queue_are_counted_on() -> None:
    broker, clock = LongQueue(5000), ManualClock()
    places = Places(broker.ranks, clock)
    seen = [(await _ahead(places, _tasks(1), are_new=True))[0] for _ in range(50)]
    assert seen == list(range(5000, 5050))
    assert broker.asked == 1
    clock.advance(1)
    assert await _ahead(places, _tasks(1), are_new=True) == [5000]


async def test_a_large_group_costs_two_questions() -> None:
    broker = LongQueue(10)
    places = Places(broker.ranks, ManualClock())
    assert await _ahead(places, _tasks(50)) == list(range(10, 60))
    assert broker.asked == 2


async def test_a_large_batch_of_newcomers_is_in_order() -> None:
    for before in (0, 5000):
        places = Places(LongQueue(before).ranks, ManualClock())
        seen = await _ahead(places, _tasks(60), are_new=True)
        assert seen == list(range(before, before + 60))


async def test_newcomers_of_other_users_and_keys_have_places_of_their_own() -> None:
    broker = LongQueue(5000)
    places = Places(broker.ranks, ManualClock())
    assert await _ahead(places, _tasks(1, user="flood"), are_new=True) == [5000]
    broker.before = 2
    for fields in ({"user": "ann"}, {"key_id": "other"}, {"priority": 0, "user": "flood"}):
        assert await _ahead(places, _tasks(1, **fields), are_new=True) == [2]
    assert await _ahead(places, _tasks(1, user="flood"), are_new=True) == [5001]


async def test_newcomers_of_a_long_queue_are_counted_on_in_samples_too() -> None:
    places = Places(LongQueue(5000).ranks, ManualClock())
    (first,) = await places.ahead(_tasks(1, count=3), are_new=True)
    (second,) = await places.ahead(_tasks(1, count=3), are_new=True)
    assert first is not None
    assert second is not None
    assert second.samples - first.samples == 3


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 50))
def test_places_between_two_others_never_go_back(first: int, more: int, n: int) -> None:
    found = between(_rank(first), _rank(first + more), n)
    places = [rank.ahead for rank in found]
    assert len(places) == n
    assert places == sorted(places)
    assert all(first <= place <= first + more for place in places)
    assert all(abs(rank.samples - 2 * rank.ahead) <= 1 for rank in found)
