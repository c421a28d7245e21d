"""The task store: the only judge of what becomes of a task, over SQLite or PostgreSQL."""

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from swell.core import task as life
from swell.core.errors import Conflict, IdempotencyMismatch, NotFound, SwellError
from swell.core.retry import RetryPolicy
from swell.core.store_types import Accepted, Ended, Hold, HoldState, Onward, Start
from swell.core.task import Failed, NewTask, Settlement, Task, TaskState
from swell.db.likes import LikeRepository
from swell.db.retention import RetentionRepository
from swell.db.search import SearchRepository
from swell.db.share_links import ShareLinkRepository
from swell.db.transaction import IDEMPOTENCY_TTL, KnownKeys, Session

if TYPE_CHECKING:
    from swell.db.postgres import PostgresDatabase
    from swell.db.sqlite import SqliteDatabase

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
        return await self._db.write(partial(_accept, tasks=tasks, all_or_none=all_or_none))

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
            return [_start(session, wish) for wish in starts]

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
        delay_s = partial(life.retry_delay_s, policy=self._retry_policy, rng=self._rng)
        action = partial(_settle, settlements=settlements, onward=onward, delay_s=delay_s)
        return await self._db.write(action, wants=[each.task_id for each in settlements])

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> list[HoldState]:
        """Extend leases until `lease_s` seconds from now."""

        async def action(session: Session) -> list[HoldState]:
            until = session.now + timedelta(seconds=lease_s)
            return [_extend(session, hold, until) for hold in holds]

        return await self._db.write(action, wants=[hold.task_id for hold in holds])

    async def cancel(self, task_ids: Sequence[str]) -> Ended:
        """Cancel tasks: queued ones end, running ones are marked, ended ones stay as they are.

        None for an unknown task. If several callers end the same task, exactly one of them does not
        find it in `Ended.again`.
        """
        return await self._db.write(partial(_cancel, task_ids=task_ids), wants=task_ids)

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
                if swept is not task:
                    session.put(swept)
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
            n, now = 0, session.now
            for task in filter(None, map(session.tasks.get, ids)):
                capped = life.cap_wait(task, now=now, lease_s=lease_s, backoff_s=backoff_s)
                if capped is not task:
                    session.put(capped)
                    n += 1
            return n

        return await self._db.write(action, wants=ids)

    async def retry(
        self, task_id: str, *, only_dead: bool = False, new_id: str | None = None
    ) -> Accepted:
        """Repeat an ended task as a new one; the same new one if it was repeated before.

        The old task keeps its outcome and leaves the dead letters. With `only_dead` only a dead
        letter is repeated, or one that has left them by being repeated. A new task has the id
        `new_id`, from `swell.core.task.new_id`, if one is given.

        Raises:
            NotFound: No such task.
            Conflict: The task has not ended, or `only_dead` and it is no dead letter.
        """
        self._db.check_room()
        action = partial(_retry, task_id=task_id, only_dead=only_dead, new_id=new_id)
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
    session: Session, *, tasks: Sequence[NewTask], all_or_none: bool
) -> list[Accepted | SwellError]:
    keyed = [new for new in tasks if new.idempotency_key is not None]
    if not keyed:
        return [Accepted(_add(session, new), True) for new in tasks]
    known = await session.known_keys(keyed) | session.new_keys
    await session.load({task_id for task_id, _ in known.values()})
    errors = _mismatches(tasks, known)
    if errors and all_or_none:
        text = f"not accepted, because task {min(errors)} of the same call was not"
        return [errors.get(place) or Conflict(text) for place in range(len(tasks))]
    results: list[Accepted | SwellError] = []
    for place, new in enumerate(tasks):
        if place in errors:
            results.append(errors[place])
            continue
        # A key may come twice in one call.
        scope = (new.key_id, new.idempotency_key or "")
        task_id, _ = session.new_keys.get(scope) or known.get(scope, ("", ""))
        task = session.tasks.get(task_id)
        results.append(
            Accepted(_add(session, new), True) if task is None else Accepted(task, False)
        )
    return results


def _mismatches(tasks: Sequence[NewTask], known: KnownKeys) -> dict[int, SwellError]:
    """Return place → error of the tasks with a known idempotency key and another fingerprint."""
    errors: dict[int, SwellError] = {}
    seen = dict(known)
    for place, new in enumerate(tasks):
        if new.idempotency_key is None:
            continue
        given = new.fingerprint.hex()
        task_id, fingerprint = seen.setdefault((new.key_id, new.idempotency_key), ("", given))
        if fingerprint != given:
            errors[place] = IdempotencyMismatch(
                f"the idempotency key was used for task {task_id} with another body; "
                "use a new key for a new request"
                if task_id
                else "two tasks in this call have the same idempotency key and different bodies; "
                "use a different key for each request"
            )
    return errors


def _add(session: Session, new: NewTask) -> Task:
    now = session.now
    task = session.add(life.accept(new, task_id=new.id or life.new_id(now), now=now))
    if new.idempotency_key is not None:
        session.new_keys[new.key_id, new.idempotency_key] = (task.id, new.fingerprint.hex())
    if new.files:
        session.use_files(task.id, new.files)
    return task


async def _retry(
    session: Session, *, task_id: str, only_dead: bool, new_id: str | None
) -> Accepted:
    task = session.tasks.get(task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id}")
    repeat_id = session.repeats.get(task_id)
    if repeat_id is None:
        for row in await session.fetch("repeat_of", task_id=task_id):
            repeat_id = row["again_id"]
    life.check_repeat(task, only_dead=only_dead, was_repeated=repeat_id is not None)
    if repeat_id is not None:
        await session.load([repeat_id])
        known = session.tasks.get(repeat_id)
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


def _start(session: Session, wish: Start) -> Task | None:
    """Start a task by its ID if it is ready."""
    task = session.tasks.get(wish.task_id)
    if task is None or not task.is_ready or task.queue != wish.queue:
        return None
    if life.is_expired(task, session.now):
        return None
    running = session.start(
        task,
        worker_id=wish.worker_id,
        version=wish.version,
        token=wish.token,
        lease_s=wish.lease_s,
    )
    session.put(running)
    return running


async def _settle(
    session: Session,
    *,
    settlements: Sequence[Settlement],
    onward: Onward | None,
    delay_s: Callable[[Task], float],
) -> Ended:
    """End attempts; start the next stages of pipelines that the worker has room for."""
    ended, again, n = Ended(), set(), 0
    for place, each in enumerate(settlements):
        before = session.tasks.get(each.task_id)
        if before is not None and before.is_held_by(each.attempt, each.token):
            wait_s = delay_s(before) if isinstance(each.outcome, Failed) else 0.0
            task = life.settle(before, each.outcome, now=session.now, retry_delay_s=wait_s)
            if onward is not None and n < onward.n and can_go_on(task, onward, session.now):
                n += 1
                task = session.start(
                    task,
                    worker_id=onward.worker_id,
                    version=onward.versions[task.queue],
                    lease_s=onward.lease_s,
                )
            session.put(task)
            ended.append(task)
        elif before is not None and life.was_settled_by(before, each.attempt, each.token):
            again.add(place)
            ended.append(before)
        else:
            ended.append(None)
    ended.again = frozenset(again)
    return ended


def can_go_on(task: Task, onward: Onward, now: datetime) -> bool:
    """Whether a settled task has come to a next stage that this worker can start now."""
    return (
        task.state is TaskState.QUEUED
        and task.queue in onward.versions
        and life.has_gone_on(task)
        and not life.is_expired(task, now)
    )


def _extend(session: Session, hold: Hold, until: datetime) -> HoldState:
    task = session.tasks.get(hold.task_id)
    if task is None or not task.is_held_by(hold.attempt, hold.token):
        return HoldState(is_held=False)
    session.put(msgspec.structs.replace(task, lease_expires_at=until))
    return HoldState(is_held=True, cancel_requested=task.cancel_requested)


async def _cancel(session: Session, *, task_ids: Sequence[str]) -> Ended:
    ended, again = Ended(), set()
    for place, task_id in enumerate(task_ids):
        task = session.tasks.get(task_id)
        if task is not None and task.state.is_terminal:
            again.add(place)
        elif task is not None:
            task = life.cancel(task, now=session.now)
            session.put(task)
        ended.append(task)
    ended.again = frozenset(again)
    return ended
