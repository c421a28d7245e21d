"""What every store must do with what people like best. Subclass and give `delivery`."""

import msgspec
import pytest

from conformance.delivery import Delivery
from conformance.factories import a_new_task
from swell.core.like import Favourite, Viewer
from swell.core.store_types import Expiry, Part, TaskFilter
from swell.core.task import Task

ANN = Viewer("key-1", "ann")
BOB = Viewer("key-1", "bob")
KEY = Viewer("key-1")
OTHERS = Viewer("key-2", "ann")


class FavouritesConformance:
    """The guarantees of `swell.core.store_types` about favourites."""

    async def test_each_viewer_has_favourites_of_his_own(self, delivery: Delivery) -> None:
        one, two = [await _ended(delivery) for _ in range(2)]
        store = delivery.store
        for viewer, task, artifact in ((ANN, one, 2), (ANN, one, 0), (BOB, two, 1), (KEY, one, 3)):
            assert await store.favour(Favourite(viewer, task.id, artifact))
        assert await store.favour(Favourite(ANN, one.id, 2))
        ids = [two.id, one.id, "0" * 32]
        assert await store.favourites(ANN, ids) == [(), (0, 2), ()]
        assert await store.favourites(BOB, ids) == [(1,), (), ()]
        assert await store.favourites(KEY, ids) == [(), (3,), ()]
        assert await store.favourites(OTHERS, ids) == [(), (), ()]
        assert await store.favourites(ANN, []) == []

    async def test_what_is_liked_no_more_is_forgotten(self, delivery: Delivery) -> None:
        task, store = await _ended(delivery), delivery.store
        await store.favour(Favourite(ANN, task.id, 0))
        await store.favour(Favourite(ANN, task.id, 1))
        await store.disfavour(Favourite(ANN, task.id, 0))
        await store.disfavour(Favourite(ANN, task.id, 0))
        await store.disfavour(Favourite(BOB, task.id, 1))
        assert await store.favourites(ANN, [task.id]) == [(1,)]

    async def test_pages_list_what_somebody_likes_newest_first_and_each_task_once(
        self, delivery: Delivery
    ) -> None:
        tasks, store = [await _ended(delivery) for _ in range(6)], delivery.store
        for task in tasks[1:]:
            await store.favour(Favourite(ANN, task.id, 0))
            await store.favour(Favourite(ANN, task.id, 7))
        await store.favour(Favourite(BOB, tasks[0].id))
        wanted, found, cursor = TaskFilter(liked_by=ANN), list[str](), None
        for _ in range(3):
            page = await store.page(wanted, limit=2, cursor=cursor)
            found += [task.id for task in page.tasks]
            cursor = page.cursor
        assert found == [task.id for task in reversed(tasks[1:])]
        assert cursor is None
        for where in (TaskFilter(liked_by=ANN, user="nobody"), TaskFilter(liked_by=OTHERS)):
            assert (await store.page(where)).tasks == ()

    async def test_an_unknown_task_is_nobodys_favourite(self, delivery: Delivery) -> None:
        assert not await delivery.store.favour(Favourite(ANN, "0" * 32))
        assert await delivery.store.favourites(ANN, ["0" * 32]) == [()]

    @pytest.mark.parametrize("part", [None, Part.OUTPUTS, Part.TASK])
    async def test_a_task_loses_its_favourites_with_its_outputs(
        self, delivery: Delivery, part: Part | None
    ) -> None:
        task, other = [await _ended(delivery) for _ in range(2)]
        store = delivery.store
        for each in (task, other):
            await store.favour(Favourite(ANN, each.id))
        if part is None:
            await store.erase(task.id)
        else:
            await store.retire(Expiry(part=part, before=delivery.clock.now()), limit=1)
        gone = task if await store.favourites(ANN, [task.id]) == [()] else other
        kept = other if gone is task else task
        assert await store.favourites(ANN, [gone.id, kept.id]) == [(), (0,)]
        assert not await store.favour(Favourite(ANN, gone.id))
        assert [each.id for each in (await store.page(TaskFilter(liked_by=ANN))).tasks] == [kept.id]

    async def test_pages_list_what_was_created_within_a_time(self, delivery: Delivery) -> None:
        tasks = []
        for _ in range(5):
            tasks.append(await _ended(delivery))
            delivery.clock.advance(60)
        store, (_, since, _, until, _) = delivery.store, [task.created_at for task in tasks]
        for where in (TaskFilter(), TaskFilter(user="ann"), TaskFilter(liked_by=ANN)):
            for task in tasks:
                await store.favour(Favourite(ANN, task.id))
            found = []
            for start, end in ((since, until), (since, None), (None, until)):
                cut = msgspec.structs.replace(where, since=start, until=end)
                page = await store.page(cut, limit=1)
                found.append([task.id for task in page.tasks])
                while page.cursor:
                    page = await store.page(cut, limit=1, cursor=page.cursor)
                    found[-1] += [task.id for task in page.tasks]
            wanted = [tasks[1:3], tasks[1:], tasks[:3]]
            assert found == [[task.id for task in reversed(each)] for each in wanted]


async def _ended(delivery: Delivery) -> Task:
    await delivery.submit(a_new_task(user="ann"))
    (ended,) = await delivery.settle(*await delivery.lease())
    assert ended is not None
    delivery.clock.advance(1)
    return ended
