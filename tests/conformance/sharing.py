"""What every store must do with links to what came of tasks. Subclass and give `delivery`."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from conformance.delivery import Delivery
from conformance.factories import a_new_task
from swell.core.share_link import ShareLink, new_share_token
from swell.core.store_types import Expiry, Part
from swell.core.task import Task


class SharingConformance:
    """The guarantees of `swell.core.store_types` about links."""

    async def test_a_link_is_kept_whole_and_found_by_its_token(self, delivery: Delivery) -> None:
        link = await _link(delivery, has_prompt=False, expires_s=60.5)
        store = delivery.store
        assert await store.share(link) == link
        assert await store.share_link(link.token) == link
        assert await store.share_link_of(link.task_id) == link
        assert await store.share_link(new_share_token()) is None
        assert await store.share_link_of("0" * 32) is None

    async def test_sharing_again_changes_what_is_told_and_keeps_the_token(
        self, delivery: Delivery
    ) -> None:
        first = await _link(delivery)
        await delivery.store.share(first)
        ends_at = first.created_at + timedelta(days=1)
        again = msgspec.structs.replace(
            first,
            token=new_share_token(),
            created_at=first.created_at + timedelta(hours=1),
            has_prompt=False,
            expires_at=ends_at,
        )
        kept = msgspec.structs.replace(first, has_prompt=False, expires_at=ends_at)
        assert await delivery.store.share(again) == kept
        assert await delivery.store.share_link(first.token) == kept
        assert await delivery.store.share_link(again.token) is None

    async def test_a_link_that_was_taken_back_leads_nowhere_and_the_next_one_is_another(
        self, delivery: Delivery
    ) -> None:
        link = await _link(delivery)
        store = delivery.store
        await store.share(link)
        assert await store.unshare(link.task_id) == link
        assert await store.unshare(link.task_id) is None
        assert await store.share_link(link.token) is None
        other = msgspec.structs.replace(link, token=new_share_token())
        assert await store.share(other) == other
        assert await store.share_link(link.token) is None

    async def test_an_unknown_task_is_not_shared(self, delivery: Delivery) -> None:
        link = msgspec.structs.replace(await _link(delivery), task_id="0" * 32)
        assert await delivery.store.share(link) is None
        assert await delivery.store.share_links() == []

    async def test_links_are_listed_by_key_those_of_the_newest_tasks_first(
        self, delivery: Delivery
    ) -> None:
        links = []
        for n in range(5):
            links.append(await _link(delivery, key_id=f"key-{n % 2}"))
            await delivery.store.share(links[-1])
            delivery.clock.advance(1)
        store = delivery.store
        assert await store.share_links() == links[::-1]
        assert await store.share_links(key_id="key-0") == [links[4], links[2], links[0]]
        assert await store.share_links(limit=2, before=links[3].task_id) == [links[2], links[1]]
        before = links[2].task_id
        assert await store.share_links(key_id="key-0", before=before) == [links[0]]
        assert await store.share_links(key_id="key-9") == []

    @pytest.mark.parametrize("part", [Part.OUTPUTS, Part.TASK])
    async def test_a_task_loses_its_link_with_its_outputs(
        self, delivery: Delivery, part: Part
    ) -> None:
        link = await _shared(delivery)
        assert await delivery.store.retire(Expiry(part=part, before=delivery.clock.now())) == 1
        await _is_gone(delivery, link)

    async def test_an_erased_task_loses_its_link_and_gets_no_other(
        self, delivery: Delivery
    ) -> None:
        link = await _shared(delivery)
        await delivery.store.erase(link.task_id)
        await _is_gone(delivery, link)

    async def test_a_task_without_its_inputs_keeps_its_link(self, delivery: Delivery) -> None:
        link = await _shared(delivery)
        await delivery.store.retire(Expiry(part=Part.INPUTS, before=delivery.clock.now()))
        assert await delivery.store.share_link(link.token) == link


async def _ended(delivery: Delivery, key_id: str = "key-1") -> Task:
    await delivery.submit(a_new_task(key_id=key_id))
    (ended,) = await delivery.settle(*await delivery.lease())
    assert ended is not None
    return ended


async def _link(
    delivery: Delivery, key_id: str = "key-1", expires_s: float | None = None, **fields: Any
) -> ShareLink:
    """Return a link to a task that has succeeded; nothing of it is kept yet."""
    task, now = await _ended(delivery, key_id), delivery.clock.now()
    return ShareLink(
        task_id=task.id,
        key_id=key_id,
        token=new_share_token(),
        created_at=now,
        expires_at=None if expires_s is None else now + timedelta(seconds=expires_s),
        **fields,
    )


async def _shared(delivery: Delivery) -> ShareLink:
    link = await delivery.store.share(await _link(delivery))
    assert link is not None
    return link


async def _is_gone(delivery: Delivery, link: ShareLink) -> None:
    store = delivery.store
    assert await store.share_link(link.token) is None
    assert await store.share_link_of(link.task_id) is None
    assert await store.share_links() == []
    assert await store.share(link) is None
    assert await store.share_links() == []
