"""Conformance of external queue services.

An adapter's author subclasses `ExternalQueuesConformance` with the fixtures `queues` and
`queues_that_hide_briefly`. Real servers have only the real clock, so the tests wait by asking.
"""

import asyncio
import secrets

from swell.core.broker_types import ReadyTask
from swell.queues.external_queue import ExternalQueues, Message, QueueId

QUEUE = QueueId("demo/upper", True)

#: How long a test waits for what must come, in seconds.
PATIENCE_S = 60.0


def a_ready_task(user: str | None = "ann") -> ReadyTask:
    """Return a ready task that no database knows."""
    return ReadyTask(
        id=secrets.token_hex(16), queue="demo/upper", key_id="key-1", user=user, priority=1
    )


async def received(queues: ExternalQueues, n: int, queue: QueueId = QUEUE) -> list[Message]:
    """Receive until there are n messages."""
    found: list[Message] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < n:
            found += await queues.receive(queue, n - len(found), wait_s=1.0)
    return found


class ExternalQueuesConformance:
    """What every service must do."""

    async def test_sent_messages_are_received_once_while_they_are_hidden(
        self, queues: ExternalQueues
    ) -> None:
        tasks = [a_ready_task(user=f"{n}") for n in range(25)]
        await queues.send(QUEUE, tasks)
        found = await received(queues, 25)
        assert sorted(each.task_id for each in found) == sorted(task.id for task in tasks)
        assert {message.queue for message in found} == {QUEUE}
        assert await queues.receive(QUEUE, 25, wait_s=0.0) == []

    async def test_queues_are_separate(self, queues: ExternalQueues) -> None:
        ids = [
            QueueId("demo/upper", True),
            QueueId("demo/upper", False),
            QueueId("demo/upper:v1", True),
            QueueId("demo/up.per", True),
            QueueId("demo/up_per", True),
        ]
        tasks = {queue: a_ready_task() for queue in ids}
        for queue, task in tasks.items():
            await queues.send(queue, [task])
        for queue, task in tasks.items():
            assert [each.task_id for each in await received(queues, 1, queue)] == [task.id]

    async def test_deleted_messages_are_not_received_again(self, queues: ExternalQueues) -> None:
        await queues.send(QUEUE, [a_ready_task() for _ in range(12)])
        found = await received(queues, 12)
        await queues.delete(found)
        await queues.release(found)
        for _ in range(3):
            assert await queues.receive(QUEUE, 12, wait_s=1.0) == []

    async def test_messages_that_are_not_deleted_are_received_again(
        self, queues_that_hide_briefly: ExternalQueues
    ) -> None:
        queues = queues_that_hide_briefly
        await queues.send(QUEUE, [a_ready_task()])
        (first,) = await received(queues, 1)
        (again,) = await received(queues, 1)
        assert again.task_id == first.task_id

    async def test_released_messages_are_received_at_once(self, queues: ExternalQueues) -> None:
        await queues.send(QUEUE, [a_ready_task()])
        (first,) = await received(queues, 1)
        await queues.release([first])
        (again,) = await received(queues, 1)
        assert again.task_id == first.task_id

    async def test_waiting_messages_are_counted(self, queues: ExternalQueues) -> None:
        assert await queues.pending(QUEUE) == 0
        await queues.send(QUEUE, [a_ready_task() for _ in range(5)])
        async with asyncio.timeout(PATIENCE_S):
            while await queues.pending(QUEUE) != 5:
                await asyncio.sleep(0.01)
        await received(queues, 5)
        assert await queues.pending(QUEUE) == 0

    async def test_a_wait_ends_with_the_first_message(self, queues: ExternalQueues) -> None:
        waiting = asyncio.ensure_future(queues.receive(QUEUE, 5, wait_s=10.0))
        task = a_ready_task()
        await queues.send(QUEUE, [task])
        # Before the longest wait of every service.
        found = await asyncio.wait_for(waiting, 9)
        assert [message.task_id for message in found] == [task.id]

    async def test_consumers_share_no_message(self, queues: ExternalQueues) -> None:
        await queues.send(QUEUE, [a_ready_task() for _ in range(40)])
        parts = await asyncio.gather(*(queues.receive(QUEUE, 10, wait_s=1.0) for _ in range(4)))
        ids = [message.task_id for part in parts for message in part]
        assert ids
        assert len(ids) == len(set(ids))
