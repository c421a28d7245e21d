"""Reads of single tasks that many ask for at once, as one call of the store.

When a message of another backend tells of a hundred tasks that ended, a hundred streams want them
in the same turn of the event loop.
"""

import asyncio
from typing import Final

from swell.stores.tasks import Store
from swell.task import Task

#: Tasks read by one call.
_BATCH: Final = 500


class Lookups:
    """Reads tasks as they are now; those asked for in one turn of the loop share a call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: Task id → who waits for it.
        self._asked: dict[str, list[asyncio.Future[Task | None]]] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def get(self, task_id: str) -> Task | None:
        """Return a task, or None where there is none.

        Raises:
            SwellError: The store cannot be read.
        """
        found: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        if not self._asked:
            reading = asyncio.create_task(self._read(), name="lookups")
            self._reading.add(reading)
            reading.add_done_callback(self._reading.discard)
        self._asked.setdefault(task_id, []).append(found)
        return await found

    async def _read(self) -> None:
        asked, self._asked = self._asked, {}
        ids = list(asked)
        for at in range(0, len(ids), _BATCH):
            part = ids[at : at + _BATCH]
            try:
                found = list(zip(part, await self._store.get(part), strict=True))
            except Exception as error:
                for task_id in part:
                    for waiting in asked[task_id]:
                        if not waiting.done():
                            waiting.set_exception(error)
                continue
            for task_id, task in found:
                for waiting in asked[task_id]:
                    if not waiting.done():
                        waiting.set_result(task)
