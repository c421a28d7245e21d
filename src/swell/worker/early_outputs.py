"""Files of a task that go out before it ends, as soon as the model has made them.

They are encoded and stored side by side, and told in the order of their numbers, each once: a model
process that died makes some of them again, and those are dropped. What could not be stored fails
the attempt at its end, as any other file does.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from swell.core.task import Artifact
from swell.protocol.worker_messages import Enclosure


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that is there. Its pixels are not: they are large, and tasks may have many."""

    #: Which of the task's files it is, from 0, and the seed of its sample.
    index: int
    seed: int
    artifact: Artifact
    #: Its bytes, where they travel with the reports that tell of it: of the file, and of the end.
    enclosure: Enclosure | None


class Parts:
    """Those of one attempt, by number."""

    def __init__(self) -> None:
        self._on_way: dict[int, asyncio.Task[Brought]] = {}
        #: How many were told.
        self._told = 0
        #: The names that they have in the object store.
        self.names: list[str] = []
        #: How much of them travels inside reports.
        self.enclosed_bytes = 0

    def __contains__(self, index: int) -> bool:
        return index in self._on_way

    def add(
        self, index: int, bring: Awaitable[Brought], tell: Callable[[Brought], None]
    ) -> "asyncio.Task[Brought]":
        """Bring a file, and tell it once it and all before it are there."""
        task = asyncio.ensure_future(bring)
        self._on_way[index] = task
        task.add_done_callback(lambda _: self._tell(tell))
        return task

    def _tell(self, tell: Callable[[Brought], None]) -> None:
        while (task := self._on_way.get(self._told)) is not None and task.done():
            if task.cancelled() or task.exception() is not None:
                # Nothing after it can be told in its order.
                return
            self._told += 1
            tell(task.result())

    async def first(self, n: int) -> list[Brought]:
        """Return the first `n`, once they are there.

        Raises:
            Exception: Whatever came up on the way of the first that failed.
        """
        return [await self._on_way[index] for index in range(n)]
