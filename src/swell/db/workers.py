"""Registered workers."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from swell.core.records import GONE_WORKERS_TTL, WorkerInfo
from swell.db.sql import Database, Transaction, bodies, to_json

#: Columns that are newer than the body.
_TIMES = ("seen_at", "gone_at")


class WorkerRepository:
    """Workers, the gone ones of the last day included."""

    _db: Database

    async def put_worker(self, worker: WorkerInfo) -> None:
        """Register or replace a worker."""
        await self._db.execute("put_worker", **_values(worker))

    async def touch_workers(self, worker_ids: Sequence[str], seen_at: datetime) -> None:
        """Note when workers were last seen. Unknown and gone workers are ignored."""
        await self._db.execute("touch_workers", ids=list(worker_ids), seen_at=seen_at)

    async def drain_worker(self, worker_id: str) -> WorkerInfo | None:
        """Mark a worker as draining; return None if it is not known."""

        async def action(tx: Transaction) -> WorkerInfo | None:
            rows = await tx.fetch("worker_for_update", id=worker_id)
            for known in bodies(rows, WorkerInfo, *_TIMES):
                worker = msgspec.structs.replace(known, draining=True)
                await tx.fetch("put_worker", **_values(worker))
                return worker
            return None

        return await self._db.transaction(action)

    async def remove_worker(self, worker_id: str, gone_at: datetime) -> None:
        """Note that a worker has gone. Idempotent."""

        async def action(tx: Transaction) -> None:
            await tx.fetch("worker_gone", id=worker_id, gone_at=gone_at)
            await tx.fetch("forget_workers", before=gone_at - GONE_WORKERS_TTL)

        await self._db.transaction(action)

    async def workers(self) -> list[WorkerInfo]:
        """Return every worker, oldest first."""
        workers = bodies(await self._db.fetch("workers"), WorkerInfo, *_TIMES)
        return sorted(workers, key=lambda worker: (worker.registered_at, worker.id))


def _values(worker: WorkerInfo) -> dict[str, object]:
    times = {"seen_at": worker.seen_at, "gone_at": worker.gone_at}
    return {"id": worker.id, "body": to_json(worker), **times}
