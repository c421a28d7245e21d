"""Reads of single tasks, batched per turn of the event loop."""

import asyncio
from typing import Final

from swell.stores.tasks import Store
from swell.task import Task

#: Tasks per call of the store.
_BATCH: Final = 500


class Lookups:
    """Reads the tasks of one turn of the event loop with one call of the store.

    One message of another backend can wake hundreds of event streams.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        #: For the next call.
        self._ids: set[str] = set()
        self._reading: asyncio.Task[dict[str, Task]]

    async def get(self, task_id: str) -> Task | None:
        """Return a task, or None if there is none.

        Raises:
            SwellError: The store cannot be read.
        """
        if not self._ids:
            self._reading = asyncio.create_task(self._read(), name="lookups")
        self._ids.add(task_id)
        found = await asyncio.shield(self._reading)
        return found.get(task_id)

    async def _read(self) -> dict[str, Task]:
        ids, self._ids = list(self._ids), set()
        tasks: list[Task | None] = []
        for start in range(0, len(ids), _BATCH):
            tasks += await self._store.get(ids[start : start + _BATCH])
        return {task.id: task for task in tasks if task is not None}
