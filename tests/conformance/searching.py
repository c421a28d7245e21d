"""What every store must do to find tasks by words. Subclass and give `delivery`."""

from typing import Any

import msgspec
import pytest

from conformance.delivery import Delivery
from conformance.factories import a_new_task
from swell.core.like import Favourite, Viewer
from swell.core.search_words import words_of
from swell.core.store_types import Expiry, Part, TaskFilter
from swell.core.task import Task

ANN = Viewer("key-1", "ann")


class SearchingConformance:
    """The guarantees of `swell.core.store_types` about words."""

    @pytest.mark.parametrize(
        ("sought", "found"),
        [
            ("fox", [0, 1]),
            ("FO", [0, 1]),
            ("f", []),
            ("fox tree", [0]),
            ("tree, fox!", [0]),
            ("ox", []),
            ("elephant", []),
            ("éléphant", [2]),
            ("ELEPH", [2]),
            ("狐", [3]),
            ("木 狐", [3]),
            ("a", [0, 1]),
            ("https", []),
            ("key", []),
        ],
    )
    async def test_tasks_are_found_by_how_their_words_begin(
        self, delivery: Delivery, sought: str, found: list[int]
    ) -> None:
        prompts = ("A red fox, under a tree", "a FOX's den", "un éléphant", "木の下の狐")
        tasks = [await _asked(delivery, prompt) for prompt in prompts]
        if sought == "elephant":
            # Accents are left out of both.
            found = [2]
        assert await delivery.store.keep_words() == 4
        assert await _found(delivery, sought) == [tasks[n].id for n in reversed(found)]

    async def test_pages_of_what_is_found_miss_nothing_and_obey_the_other_filters(
        self, delivery: Delivery
    ) -> None:
        tasks = []
        for n in range(9):
            user, key_id = ("ann", "bob")[n % 2], f"key-{n % 3}"
            tasks.append(await _asked(delivery, f"fox {n}", user=user, key_id=key_id))
        await delivery.store.keep_words()
        newest = [task.id for task in reversed(tasks)]
        wanted, seen, cursor = TaskFilter(words=("fox",)), list[str](), None
        for _ in range(5):
            page = await delivery.store.page(wanted, limit=2, cursor=cursor)
            seen += [task.id for task in page.tasks]
            cursor = page.cursor
        assert (seen, cursor) == (newest, None)
        assert await _found(delivery, "fox", user="ann") == newest[::2]
        assert await _found(delivery, "fox", key_id="key-1") == [newest[1], newest[4], newest[7]]
        assert await _found(delivery, "fox 4", key_id="key-0") == []
        cut = {"since": tasks[3].created_at, "until": tasks[5].created_at}
        assert await _found(delivery, "fox", **cut) == [tasks[4].id, tasks[3].id]

    async def test_what_is_found_may_be_what_somebody_likes(self, delivery: Delivery) -> None:
        tasks = [await _asked(delivery, "fox") for _ in range(3)]
        await delivery.store.keep_words()
        await delivery.store.favour(Favourite(ANN, tasks[1].id))
        assert await _found(delivery, "fox", liked_by=ANN) == [tasks[1].id]
        assert await _found(delivery, "fox", liked_by=Viewer("key-1")) == []

    async def test_words_are_kept_once_the_oldest_first(self, delivery: Delivery) -> None:
        tasks = [await _asked(delivery, "fox") for _ in range(5)]
        store = delivery.store
        assert await _found(delivery, "fox") == []
        assert await store.keep_words(limit=2) == 2
        assert await _found(delivery, "fox") == [tasks[1].id, tasks[0].id]
        assert await store.keep_words(limit=2) == 2
        assert await store.keep_words(limit=2) == 1
        assert await store.keep_words() == 0
        delivery.clock.advance(3600)
        assert await store.keep_words() == 0
        newest = await _asked(delivery, "fox")
        assert await store.keep_words() == 1
        assert await _found(delivery, "fox") == [newest.id, *(task.id for task in reversed(tasks))]

    @pytest.mark.parametrize("part", [None, Part.INPUTS, Part.TASK])
    @pytest.mark.parametrize("is_kept", [True, False])
    async def test_a_task_loses_its_words_with_its_inputs(
        self, delivery: Delivery, part: Part | None, is_kept: bool
    ) -> None:
        store, task = delivery.store, await _asked(delivery, "fox")
        if is_kept:
            await store.keep_words()
        await store.cancel([task.id])
        if part is None:
            await store.erase(task.id)
        else:
            assert await store.retire(Expiry(part=part, before=delivery.clock.now())) == 1
        await store.keep_words()
        other = await _asked(delivery, "fox")
        await store.keep_words()
        assert await _found(delivery, "fox") == [other.id]

    async def test_files_and_long_texts_are_no_words(self, delivery: Delivery) -> None:
        given = {
            "image": "https://example.org/fox.png",
            "mask": "data:image/png;base64,fox",
            "scenes": ["beach", "https://example.org/den"],
            "nested": {"prompt": "owl"},
            "prompt": "x " * 2000 + "hidden",
        }
        await delivery.submit(a_new_task(input=msgspec.Raw(msgspec.json.encode(given))))
        await delivery.store.keep_words()
        for lost in ("fox", "den", "owl", "hidden"):
            assert await _found(delivery, lost) == []
        assert len(await _found(delivery, "beach")) == 1
        assert len(await _found(delivery, "x")) == 1


async def _asked(delivery: Delivery, prompt: str, **fields: Any) -> Task:
    given = msgspec.Raw(msgspec.json.encode({"prompt": prompt, "steps": 4}))
    (task,) = await delivery.submit(a_new_task(input=given, **fields))
    delivery.clock.advance(1)
    return task


async def _found(delivery: Delivery, sought: str, **where: Any) -> list[str]:
    page = await delivery.store.page(TaskFilter(words=words_of(sought), **where))
    return [task.id for task in page.tasks]
