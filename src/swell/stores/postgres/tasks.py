"""The store's contract over PostgreSQL."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from swell import task as life
from swell.db.likes import LikeRepository
from swell.db.search import TSQUERY, SearchRepository
from swell.db.share_links import ShareLinkRepository
from swell.errors import NotFound, SwellError
from swell.retry import RetryPolicy
from swell.store import (
    IDEMPOTENCY_TTL_S,
    Accepted,
    Ended,
    Expiry,
    Hold,
    HoldState,
    Onward,
    Part,
    Start,
)
from swell.stores import steps
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.retention import remove, retire_uploads
from swell.stores.postgres.rows import INPUTS, OUTPUTS, row_of
from swell.stores.postgres.session import Session, lock_of
from swell.stores.postgres.sql import PostgresSql
from swell.task import NewTask, Settlement, Task

#: Values of `removed` of a task that still has a part.
_STILL_THERE: Final = {
    Part.INPUTS: [0, OUTPUTS],
    Part.OUTPUTS: [0, INPUTS],
    Part.TASK: [0, INPUTS, OUTPUTS, INPUTS | OUTPUTS],
}

#: So many tasks lose a part in one transaction.
_RETIRED_AT_ONCE: Final = 200

_TTL: Final = timedelta(seconds=IDEMPOTENCY_TTL_S)

#: (key, idempotency key) → (task, fingerprint).
_Known = dict[tuple[str, str], tuple[str, bytes]]


class PostgresStore(ShareLinkRepository, LikeRepository, SearchRepository):
    """Tasks in one database; the writes of a process share commits with all others that wait."""

    _syntax = TSQUERY

    def __init__(
        self,
        database: PostgresDatabase,
        retry_policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._database = database
        self._db = PostgresSql(database)
        self._retry_policy = retry_policy or RetryPolicy()
        self._rng = rng or random.Random()

    async def accept(
        self, tasks: Sequence[NewTask], *, all_or_none: bool = True
    ) -> list[Accepted | SwellError]:
        async def action(session: Session) -> list[Accepted | SwellError]:
            return await _accept(session, tasks, all_or_none)

        return await self._database.write(action)

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        rows = await self._database.read("idempotent", [key_id], [idempotency_key])
        oldest = self._database.clock.now() - _TTL
        return any(created_at > oldest for *_, created_at in rows)

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        rows = await self._database.read("tasks_by_id", list(task_ids))
        found = {row[0]: row_of(row).task for row in rows}
        return [found.get(task_id) for task_id in task_ids]

    async def count_open(self, key_ids: Sequence[str]) -> list[int]:
        counts = dict(await self._database.read("open_tasks", list(key_ids)))
        return [counts[key_id] for key_id in key_ids]

    async def start(self, starts: Sequence[Start]) -> list[Task | None]:
        async def action(session: Session) -> list[Task | None]:
            return [steps.start(session, wish) for wish in starts]

        return await self._database.write(action, wants=[wish.task_id for wish in starts])

    async def settle(
        self, settlements: Sequence[Settlement], onward: Onward | None = None
    ) -> Ended:
        async def action(session: Session) -> Ended:
            return steps.settle(session, settlements, onward, self._retry_policy, self._rng)

        wants = [settlement.task_id for settlement in settlements]
        return await self._database.write(action, wants=wants)

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> list[HoldState]:
        async def action(session: Session) -> list[HoldState]:
            until = session.now + timedelta(seconds=lease_s)
            return [steps.extend(session, hold, until) for hold in holds]

        return await self._database.write(action, wants=[hold.task_id for hold in holds])

    async def cancel(self, task_ids: Sequence[str]) -> Ended:
        async def action(session: Session) -> Ended:
            return steps.cancel(session, task_ids)

        return await self._database.write(action, wants=task_ids)

    async def sweep(self, *, limit: int = 1000) -> list[Task]:
        async def action(session: Session) -> list[Task]:
            return await self._sweep(session, limit)

        return await self._database.write(action)

    async def _sweep(self, session: Session, limit: int) -> list[Task]:
        now = session.now
        changed = []
        for task in session.note(await session.fetch("due_tasks", now, limit)):
            delay_s = life.retry_delay_s(task, self._retry_policy, self._rng)
            swept = life.sweep(task, now=now, retry_delay_s=delay_s)
            # Also where only the time to look again was wrong: a lease that was extended.
            session.put(swept)
            if swept is not task:
                changed.append(swept)
        session.afterwards("forget_idempotent", now - _TTL)
        return changed

    async def cap_waits(self, *, lease_s: float, limit: int = 1000) -> int:
        backoff_s = self._retry_policy.longest_s
        now = self._database.clock.now()
        lease, backoff = (now + timedelta(seconds=2 * s) for s in (lease_s, backoff_s))
        rows = await self._database.read(
            "overlong_waits", min(lease, backoff), lease, backoff, limit
        )
        ids = [task_id for (task_id,) in rows]
        if not ids:
            return 0

        async def action(session: Session) -> int:
            tasks = [session.get(task_id) for task_id in ids]
            return steps.cap_waits(session, tasks, lease_s, backoff_s)

        return await self._database.write(action, wants=ids)

    async def retry(
        self, task_id: str, *, key_id: str, only_dead: bool = False, new_id: str | None = None
    ) -> Accepted:
        async def action(session: Session) -> Accepted:
            return await _retry(session, task_id, only_dead, new_id)

        return await self._database.write(action, wants=[task_id])

    async def next_wake_at(self) -> datetime | None:
        ((value,),) = await self._database.read("next_wake")
        wake_at: datetime | None = value
        return wake_at

    async def discarded(self, *, limit: int = 1000) -> list[str]:
        return [key for (key,) in await self._database.read("discarded", limit)]

    async def forget_discarded(self, keys: Sequence[str]) -> None:
        await self._database.read("forget_discarded", list(keys))

    async def note_upload(self, key: str) -> None:
        await self._database.read("keep_uploads", [key], self._database.clock.now())

    async def retire_uploads(self, before: datetime, *, limit: int = 1000) -> int:
        rows = await self._database.read("unused_uploads", before, limit)
        async with self._database.transaction() as run:
            return await retire_uploads(run, [key for (key,) in rows])

    async def retire(self, expiry: Expiry, *, limit: int = 1000) -> int:
        removed = _STILL_THERE[expiry.part]
        models = None if expiry.models is None else list(expiry.models)
        rows = await self._database.read(
            "ended_ids", removed, expiry.before, models, list(expiry.except_models), limit
        )
        n = 0
        for at in range(0, len(rows), _RETIRED_AT_ONCE):
            task_ids = [row[0] for row in rows[at : at + _RETIRED_AT_ONCE]]
            async with self._database.transaction() as run:
                n += (await remove(run, task_ids, expiry.part, self._database.clock.now()))[0]
        return n

    async def erase(self, task_id: str) -> list[str]:
        async with self._database.transaction() as run:
            n, keys = await remove(run, [task_id], None, self._database.clock.now())
        if not n:
            raise NotFound(f"there is no task {task_id}")
        return keys

    async def clock_ahead_s(self) -> float:
        clock = self._database.clock
        asked_at = clock.now()
        ((there,),) = await self._database.read("time")
        ahead_s = (asked_at - there).total_seconds()
        behind_s = (clock.now() - there).total_seconds()
        return max(0.0, float(ahead_s)) + min(0.0, float(behind_s))

    async def check_writable(self) -> None:
        await self._database.check_writable()

    async def close(self) -> None:
        """Close the database, with everything else that lives in it."""
        await self._database.close()


async def _accept(
    session: Session, tasks: Sequence[NewTask], all_or_none: bool
) -> list[Accepted | SwellError]:
    now = session.now
    known: _Known = {}
    if any(new.idempotency_key for new in tasks):
        if session.is_careful:
            known = await _keys_before(session, tasks)
        await session.load({task_id for task_id, _ in (*known.values(), *session.kept.values())})

    def find(new: NewTask) -> Accepted | SwellError | None:
        scope = (new.key_id, new.idempotency_key or "")
        found = session.kept.get(scope) or known.get(scope)
        return steps.repeated(new, *found, session.get) if found else None

    def add(new: NewTask) -> Task:
        return _add(session, new, now)

    return steps.accept(tasks, find, add, all_or_none=all_or_none)


async def _keys_before(session: Session, tasks: Sequence[NewTask]) -> _Known:
    """Return the idempotency keys of these that are known, and keep others from using any.

    Without care they are not looked up: a key that is known already makes the write fail.
    """
    scopes = sorted({(new.key_id, new.idempotency_key) for new in tasks if new.idempotency_key})
    key_ids, keys = [key_id for key_id, _ in scopes], [key for _, key in scopes]
    await session.fetch("lock_keys", sorted(lock_of(*scope) for scope in scopes))
    await session.fetch("forget_idempotent_keys", key_ids, keys, session.now - _TTL)
    rows = await session.fetch("idempotent", key_ids, keys)
    return {(key_id, key): (task_id, told) for key_id, key, task_id, told, _ in rows}


def _add(session: Session, new: NewTask, now: datetime) -> Task:
    task = session.add(life.accept(new, task_id=new.id or life.new_id(now), now=now))
    if new.idempotency_key is not None:
        session.keep_key(new.key_id, new.idempotency_key, task.id, new.fingerprint)
    if new.files:
        session.use_files(task.id, new.files)
    return task


async def _retry(session: Session, task_id: str, only_dead: bool, new_id: str | None) -> Accepted:
    task = session.get(task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id}")
    repeats = [again_id for (again_id,) in await session.fetch("repeat_of", task_id)]
    if task_id in session.repeats:
        repeats = [session.repeats[task_id]]
    life.check_repeat(task, only_dead=only_dead, was_repeated=bool(repeats))
    await session.load(repeats)
    for again_id in repeats:
        again = session.get(again_id)
        if again is not None:
            return Accepted(again, False)
    now = session.now
    files = [key for (key,) in await session.fetch("files_of", [task_id])]
    new = life.again(task)
    again = session.add(life.accept(new, task_id=new_id or life.new_id(now), now=now))
    session.use_files(again.id, dict.fromkeys([*files, *new.files]))
    session.repeats[task_id] = again.id
    session.afterwards("keep_repeat", task_id, again.id)
    session.put(msgspec.structs.replace(task, dead=False))
    return Accepted(again, True)
