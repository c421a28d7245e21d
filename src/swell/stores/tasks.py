"""The task store: the only judge of what becomes of a task, over SQLite or PostgreSQL."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from swell import task as life
from swell.db.likes import LikeRepository
from swell.db.retention import RetentionRepository
from swell.db.search import SearchRepository
from swell.db.share_links import ShareLinkRepository
from swell.errors import Conflict, IdempotencyMismatch, NotFound, SwellError
from swell.retry import RetryPolicy
from swell.store import Accepted, Ended, Hold, HoldState, Onward, Start
from swell.stores import steps
from swell.stores.session import IDEMPOTENCY_TTL, KnownKeys, Session
from swell.task import NewTask, Settlement, Task

if TYPE_CHECKING:
    from swell.stores.postgres import PostgresDatabase
    from swell.stores.sqlite import SqliteDatabase

    TaskDatabase = SqliteDatabase | PostgresDatabase


class Store(RetentionRepository, ShareLinkRepository, LikeRepository, SearchRepository):
    """Where tasks live. Lists go in and lists come out; result k belongs to argument k.

    Guarantees:
        Durable: when a writing call returns, its changes survive the death of the process and of
        the machine.
        Atomic: a call writes all that it returns or, when it raises, nothing.
        Final: no call changes the outcome of an ended task. Its data may be removed.
        Fenced: only the (attempt, token) of the current lease can settle or extend it.
        Any number of calls may run at the same time; they share commits.

    Args:
        database: Keeps the tasks, and everything else that this store closes.
        retry_policy: Backoff between attempts.
        rng: Jitter of the backoff.
    """

    _db: "TaskDatabase"

    def __init__(
        self,
        database: "TaskDatabase",
        retry_policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._db = database
        self._retry_policy = retry_policy or RetryPolicy()
        self._rng = rng or random.Random()

    async def accept(
        self, tasks: Sequence[NewTask], *, all_or_none: bool = True
    ) -> list[Accepted | SwellError]:
        """Make tasks durable and queued.

        The same `idempotency_key` of the same `key_id` within 24 h gives the earlier task; with
        another `fingerprint` it gives an `IdempotencyMismatch` in that task's place. With
        `all_or_none`, one error means that nothing of this call was written.
        """
        self._db.check_room()

        async def action(session: Session) -> list[Accepted | SwellError]:
            return await _accept(session, tasks, all_or_none)

        return await self._db.write(action)

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        """Whether `accept` would find an earlier task under this key.

        A repeated request is never refused for reasons that only concern new tasks.
        """
        scope = {"key_id": key_id, "key": idempotency_key}
        rows = await self._db.fetch("idempotent", rows=[scope])
        oldest = self._db.clock.now() - IDEMPOTENCY_TTL
        return any(row["created_at"] > oldest for row in rows)

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        """Return tasks as they are now, None for unknown ids."""
        return await self._db.get(task_ids)

    async def start(self, starts: Sequence[Start]) -> list[Task | None]:
        """Start queued, ready tasks; None for a task that must not run (any more)."""
        self._db.check_room()

        async def action(session: Session) -> list[Task | None]:
            return [steps.start(session, wish) for wish in starts]

        return await self._db.write(action, wants=[wish.task_id for wish in starts])

    async def settle(
        self, settlements: Sequence[Settlement], onward: Onward | None = None
    ) -> Ended:
        """End attempts.

        None if the caller does not hold the lease. A settlement that was written before returns the
        task as it is now, and is listed in `Ended.again`: an answer may get lost on the way. If
        several callers settle the same attempt, exactly one of them is not listed there.

        A pipeline with another stage moves to the queue of that stage. If `onward` serves the
        queue, and has room, the stage starts in the same write, and the task comes back running.
        """

        async def action(session: Session) -> Ended:
            return steps.settle(session, settlements, onward, self._retry_policy, self._rng)

        return await self._db.write(action, wants=[each.task_id for each in settlements])

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> list[HoldState]:
        """Extend leases until `lease_s` seconds from now."""

        async def action(session: Session) -> list[HoldState]:
            until = session.now + timedelta(seconds=lease_s)
            return [steps.extend(session, hold, until) for hold in holds]

        return await self._db.write(action, wants=[hold.task_id for hold in holds])

    async def cancel(self, task_ids: Sequence[str]) -> Ended:
        """Cancel tasks: queued ones end, running ones are marked, ended ones stay as they are.

        None for an unknown task. If several callers end the same task, exactly one of them does not
        find it in `Ended.again`.
        """

        async def action(session: Session) -> Ended:
            return steps.cancel(session, task_ids)

        return await self._db.write(action, wants=task_ids)

    async def sweep(self, *, limit: int = 1000) -> list[Task]:
        """Apply everything that is due to at most `limit` tasks, and return those that changed.

        Lost leases go back to the queue or to the dead letters, tasks past a deadline expire, tasks
        after their backoff become ready, old idempotency keys are deleted.
        """

        async def action(session: Session) -> list[Task]:
            changed = []
            for task in await session.due(limit):
                delay_s = life.retry_delay_s(task, self._retry_policy, self._rng)
                swept = life.sweep(task, now=session.now, retry_delay_s=delay_s)
                # Also if only the time to wake was wrong: a lease was extended.
                session.put(swept)
                if swept is not task:
                    changed.append(swept)
            session.afterwards("forget_idempotent", before=session.now - IDEMPOTENCY_TTL)
            return changed

        return await self._db.write(action)

    async def cap_waits(self, *, lease_s: float, limit: int = 1000) -> int:
        """Shorten leases and backoffs that end too late because the clock was set back.

        One that ends later than twice its longest length from now is cut to that length. `sweep`
        ends it then.

        Args:
            lease_s: How long leases last, in seconds.
            limit: At most this many tasks.

        Returns:
            How many tasks it found; fewer than `limit` if none is left.
        """
        backoff_s = self._retry_policy.longest_s
        now = self._db.clock.now()
        lease, backoff = (now + timedelta(seconds=2 * s) for s in (lease_s, backoff_s))
        values = {"least": min(lease, backoff), "lease": lease, "backoff": backoff, "limit": limit}
        ids = [row["id"] for row in await self._db.scan("overlong_waits", **values)]
        if not ids:
            return 0

        async def action(session: Session) -> int:
            return steps.cap_waits(session, ids, lease_s, backoff_s)

        return await self._db.write(action, wants=ids)

    async def retry(
        self, task_id: str, *, key_id: str, only_dead: bool = False, new_id: str | None = None
    ) -> Accepted:
        """Repeat an ended task as a new one; the same new one if it was repeated before.

        The old task keeps its outcome and leaves the dead letters. With `only_dead` only a dead
        letter is repeated, or one that has left them by being repeated. A new task has the id
        `new_id`, from `swell.task.new_id`, if one is given.

        Raises:
            NotFound: No such task.
            Conflict: The task has not ended, or `only_dead` and it is no dead letter.
        """
        self._db.check_room()

        async def action(session: Session) -> Accepted:
            return await _retry(session, task_id, only_dead, new_id)

        return await self._db.write(action, wants=[task_id])

    async def count_open(self, key_ids: Sequence[str]) -> list[int]:
        """Return how many tasks of each key have not ended."""
        rows = await self._db.scan("open_tasks", keys=list(key_ids))
        counts = {row["key_id"]: row["n"] for row in rows}
        return [counts[key_id] for key_id in key_ids]

    async def next_wake_at(self) -> datetime | None:
        """Return when `sweep` has something to do next, or None for never."""
        [row] = await self._db.fetch("next_wake")
        wake_at: datetime | None = row["wake_at"]
        return wake_at

    async def clock_ahead_s(self) -> float | None:
        """Return by how many seconds the backend's clock is ahead of the database's, at least.

        0 if the clocks may agree, since the round trip takes time; None if the database has no
        clock.

        Raises:
            Unavailable: The database does not answer.
        """
        return await self._db.clock_ahead_s()

    async def check_writable(self) -> None:
        """Raise if writing fails. Cheap: it writes only if the last write was refused.

        Raises:
            Unavailable: The disk is full, cannot be written, or the like; the text says which.
        """
        await self._db.check_writable()

    async def close(self) -> None:
        """Finish writes and close the database, with everything else that lives in it."""
        await self._db.close()


async def _accept(
    session: Session, tasks: Sequence[NewTask], all_or_none: bool
) -> list[Accepted | SwellError]:
    keyed = [new for new in tasks if new.idempotency_key is not None]
    if not keyed:
        return [Accepted(_add(session, new), True) for new in tasks]
    known = await session.known_keys(keyed)
    await session.load({task_id for task_id, _ in (*known.values(), *session.new_keys.values())})
    earlier = _earlier_of_all(session, tasks, known)
    errors = [index for index, result in enumerate(earlier) if isinstance(result, SwellError)]
    if errors and all_or_none:
        text = f"not accepted, because task {errors[0]} of the same call was not"
        return [result if isinstance(result, SwellError) else Conflict(text) for result in earlier]
    # A key may come twice in one call: the second time it is in `new_keys`.
    return [
        result or _earlier(session, new, {}) or Accepted(_add(session, new), True)
        for new, result in zip(tasks, earlier, strict=True)
    ]


def _earlier_of_all(
    session: Session, tasks: Sequence[NewTask], known: KnownKeys
) -> list[Accepted | SwellError | None]:
    """Look up every key before anything is written, and compare keys that come twice."""
    first: dict[tuple[str, str], bytes] = {}
    found: list[Accepted | SwellError | None] = []
    for new in tasks:
        result = _earlier(session, new, known)
        if result is None and new.idempotency_key is not None:
            scope = (new.key_id, new.idempotency_key)
            if first.setdefault(scope, new.fingerprint) != new.fingerprint:
                result = IdempotencyMismatch(
                    "two tasks in this call have the same idempotency key and different "
                    "bodies; use a different key for each request"
                )
        found.append(result)
    return found


def _earlier(session: Session, new: NewTask, known: KnownKeys) -> Accepted | SwellError | None:
    """Return the result for a request with the idempotency key of an earlier task."""
    scope = (new.key_id, new.idempotency_key or "")
    found = session.new_keys.get(scope) or known.get(scope)
    if found is None:
        return None
    task_id, fingerprint = found
    if fingerprint != new.fingerprint:
        return IdempotencyMismatch(
            f"the idempotency key was used for task {task_id} with another body; "
            "use a new key for a new request"
        )
    task = session.get(task_id)
    return Accepted(task, False) if task else None


def _add(session: Session, new: NewTask) -> Task:
    now = session.now
    task = session.add(life.accept(new, task_id=new.id or life.new_id(now), now=now))
    if new.idempotency_key is not None:
        session.new_keys[new.key_id, new.idempotency_key] = (task.id, new.fingerprint)
    session.use_files(task.id, new.files)
    return task


async def _retry(session: Session, task_id: str, only_dead: bool, new_id: str | None) -> Accepted:
    task = session.get(task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id}")
    repeat_id = session.repeats.get(task_id)
    if repeat_id is None:
        for row in await session.fetch("repeat_of", task_id=task_id):
            repeat_id = row["again_id"]
    life.check_repeat(task, only_dead=only_dead, was_repeated=repeat_id is not None)
    if repeat_id is not None:
        await session.load([repeat_id])
        known = session.get(repeat_id)
        if known is not None:
            return Accepted(known, False)
    files = [row["key"] for row in await session.fetch("files_of", ids=[task_id])]
    new = life.again(task)
    again = _add(session, msgspec.structs.replace(new, id=new_id))
    session.use_files(again.id, [key for key in files if key not in new.files])
    session.repeats[task_id] = again.id
    session.afterwards("keep_repeat", task_id=task_id, again_id=again.id)
    session.put(msgspec.structs.replace(task, dead=False))
    return Accepted(again, True)
