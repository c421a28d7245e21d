"""Files and data that are no longer needed: uploads, and parts of ended tasks."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from swell.core import task as life
from swell.core.errors import NotFound
from swell.core.store_types import Expiry, Part
from swell.core.task import Task
from swell.db.columns import removed_row
from swell.db.sql import Database, Transaction

#: Tasks that lose a part in one transaction, for which others wait.
_BATCH: Final = 100


class RetentionRepository:
    """Removal of data, and the list of objects to delete from the object store.

    Transactions here change only ended tasks. Under the lock of a file's key, no other transaction
    begins to use it.
    """

    _db: Database

    async def discarded(self, *, limit: int = 1000) -> list[str]:
        """Return keys of objects that no task needs any more, longest known first.

        A key with a slash at its end means everything below it. A change that leaves objects
        without use (`swell.core.task.discarded`) notes them in the same write.
        """
        return _keys(await self._db.fetch("discarded", limit=limit))

    async def forget_discarded(self, keys: Sequence[str]) -> None:
        """Remove keys from `discarded`: the objects are deleted. Unknown ones are ignored."""

        async def action(tx: Transaction) -> None:
            await tx.fetch("forget_discarded", keys=list(keys))

        await self._db.transaction(action, frees_space=True)

    async def note_upload(self, key: str) -> None:
        """Note a file that a client has stored now, which no task uses yet. Idempotent.

        A task uses the files in `NewTask.files` from `accept` until its inputs are removed, and so
        does each that repeats it.
        """
        self._db.check_room()
        await self._db.execute("keep_uploads", keys=[key], at=self._db.clock.now())

    async def retire_uploads(self, before: datetime, *, limit: int = 1000) -> int:
        """Discard files noted at `before` or earlier that no task uses; return how many."""

        async def action(tx: Transaction) -> int:
            keys = _keys(await tx.fetch("unused_uploads", before=before, limit=limit))
            await tx.lock("files", keys)
            return len(await _discard_uploads(tx, keys))

        return await self._db.transaction(action, frees_space=True)

    async def retire(self, expiry: Expiry, *, limit: int = 1000) -> int:
        """Remove a part of ended tasks that still have it, and return of how many.

        The keys of their files are noted as discarded in the same write. A file that another task
        uses stays until no task does. Tasks of the last 24 hours must not be removed as a whole,
        since their idempotency keys still find them.
        """
        parts = {part.value: True if part is expiry.part else None for part in Part}
        models = None if expiry.models is None else list(expiry.models)
        values = {"before": expiry.before, "limit": limit, "models": models, **parts}
        rows = await self._db.scan("ended_ids", **values, except_models=list(expiry.except_models))
        ids = [row["id"] for row in rows]
        n = 0
        for start in range(0, len(ids), _BATCH):
            n += (await self._remove(ids[start : start + _BATCH], {expiry.part}))[0]
        return n

    async def erase(self, task_id: str) -> list[str]:
        """Remove inputs and outputs of an ended task; return the keys of files discarded by that.

        The task stays, without them. A second call has nothing to remove.

        Raises:
            NotFound: No such task.
            Conflict: It has not ended.
        """
        n, keys = await self._remove([task_id], {Part.INPUTS, Part.OUTPUTS})
        if not n:
            raise NotFound(f"there is no task {task_id}")
        return keys

    async def _remove(
        self, task_ids: Sequence[str], parts: Collection[Part]
    ) -> tuple[int, list[str]]:
        """Remove parts of tasks; return how many there were, and the keys that are discarded."""

        async def action(tx: Transaction) -> tuple[int, list[str]]:
            tasks = await tx.lock_tasks(task_ids)
            return len(tasks), await _remove(tx, tasks, parts, self._db.clock.now())

        return await self._db.transaction(action, frees_space=True)


async def _remove(
    tx: Transaction, tasks: Sequence[Task], parts: Collection[Part], now: datetime
) -> list[str]:
    asked, given = tasks, tasks
    if Part.TASK not in parts:
        asked = tasks if Part.INPUTS in parts else ()
        given = tasks if Part.OUTPUTS in parts else ()
    asked = [task for task in asked if not task.inputs_removed]
    given = [task for task in given if not task.outputs_removed]
    bare = _without(asked, given)
    asked_ids, given_ids = _ids(asked), _ids(given)
    used = _keys(await tx.fetch("files_of", ids=asked_ids))
    made = [key for task in given for key in life.objects_of(task)]
    await tx.lock("files", [*used, *made])
    await tx.fetch("forget_uses", ids=asked_ids)
    if asked:
        # Waits for a transaction that indexes these inputs.
        await tx.lock("words", [""], is_shared=True)
        await tx.fetch("forget_words", ids=asked_ids)
    await tx.fetch("drop_share_links", ids=given_ids)
    await tx.fetch("forget_likes", ids=given_ids)
    discarded = await _discard_uploads(tx, used)
    kept = set(_keys(await tx.fetch("used_files", keys=made)))
    await tx.fetch("keep_uploads", keys=sorted(kept), at=now)
    unused = [key for task in given for key in life.remains_of(task)]
    unused += [key for key in made if key not in kept]
    await tx.fetch("discard", keys=unused)
    if Part.TASK in parts:
        for query in ("delete_tasks", "forget_repeats", "forget_deliveries"):
            await tx.fetch(query, ids=_ids(tasks))
    elif bare:
        await tx.fetch("remove_parts", rows=list(map(removed_row, bare)))
        await tx.fetch("forget_answers", ids=_ids(bare))
    return discarded + unused


def _without(asked: Iterable[Task], given: Iterable[Task]) -> list[Task]:
    bare = {task.id: life.without(task, inputs=True) for task in asked}
    for task in given:
        bare[task.id] = life.without(bare.get(task.id, task), outputs=True)
    return list(bare.values())


async def _discard_uploads(tx: Transaction, keys: Sequence[str]) -> list[str]:
    """Discard those of these files that no task uses, and return them."""
    discarded = _keys(await tx.fetch("forget_unused_uploads", keys=list(keys)))
    await tx.fetch("discard", keys=discarded)
    return discarded


def _keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [row["key"] for row in rows]


def _ids(tasks: Iterable[Task]) -> list[str]:
    return [task.id for task in tasks]
