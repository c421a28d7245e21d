"""The SQLite store, broker, registry and outbox in a temporary folder, for tests and benchmarks."""

import asyncio
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from swell.core.clock import Clock
from swell.core.retry import RetryPolicy
from swell.db.registry import Registry
from swell.db.sql import Row
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.db.webhook_deliveries import Outbox
from swell.queues.table_broker import Broker

#: A file system in memory, where there is one: a commit there takes microseconds.
_MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

#: Rigs whose event loop still runs.
_open: set["SqliteRig"] = set()


async def turns(n: int) -> None:
    """Give other coroutines n turns of the event loop, not counting while a database works."""
    while n > 0:
        await asyncio.sleep(0)
        n -= not any(rig.database.is_working for rig in _open)


class _Database(SqliteDatabase):
    _reads = 0

    @property
    def is_working(self) -> bool:
        """Whether a transaction or a slow read is under way."""
        return self._writing is not None or self._reads > 0

    async def scan(self, query: str, **values: Any) -> list[Row]:
        self._reads += 1
        try:
            return await super().scan(query, **values)
        finally:
            self._reads -= 1


class SqliteRig:
    """A fresh database and what stands on it.

    Create it while an event loop runs: it is closed and its folder removed when that loop ends.

    Args:
        clock: Time of the database.
        retry_policy: Waits between attempts.
        rng: Jitter of these waits.
    """

    def __init__(
        self,
        clock: Clock,
        retry_policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._folder = TemporaryDirectory(prefix="swell-", dir=_MEMORY)
        self.database = _Database.open(Path(self._folder.name) / "swell.db", clock)
        # The disk is quick, so commits run in the event loop from the first one on.
        self.database._sync_s = 0.0
        self.store = Store(self.database, retry_policy, rng)
        self.broker = Broker(self.database)
        self.registry = Registry(self.database)
        self.outbox = Outbox(self.database)
        _open.add(self)
        self._open_until_the_end = asyncio.create_task(self._stay_open())

    async def _stay_open(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # The loop ends and cancels its tasks.
            await self.database.close()
            self._folder.cleanup()
            _open.discard(self)
