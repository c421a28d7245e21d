"""The store's contract over SQLite."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import msgspec

from swell import task as life
from swell.db.likes import LikeRepository
from swell.db.search import FTS5, SearchRepository
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
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.rows import INPUTS, OUTPUTS, micros, moment, task_of
from swell.stores.sqlite.session import Session
from swell.stores.sqlite.sql import SqliteSql
from swell.task import NewTask, Settlement, Task

#: Values of `removed` of a task that still has a part.
_STILL_THERE = {
    Part.INPUTS: (0, OUTPUTS),
    Part.OUTPUTS: (0, INPUTS),
    Part.TASK: (0, INPUTS, OUTPUTS, INPUTS | OUTPUTS),
}

#: So many tasks lose a part in one commit: others wait for it.
_RETIRED_AT_ONCE = 100


class SqliteStore(ShareLinkRepository, LikeRepository, SearchRepository):
    """Tasks in one SQLite file; every write shares its commit with all others that wait."""

    _syntax = FTS5

    def __init__(
        self,
        database: SqliteDatabase,
        retry_policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._database = database
        self._db = SqliteSql(database)
        self._retry_policy = retry_policy or RetryPolicy()
        self._rng = rng or random.Random()

    async def accept(
        self, tasks: Sequence[NewTask], *, all_or_none: bool = True
    ) -> list[Accepted | SwellError]:
        self._database.check_room()
        return await self._database.write(lambda session: _accept(session, tasks, all_or_none))

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        rows = self._database.read("idempotent", (key_id, idempotency_key))
        oldest = self._database.clock.now() - timedelta(seconds=IDEMPOTENCY_TTL_S)
        return any(created > micros(oldest) for _, _, created in rows)

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        if len(task_ids) == 1:
            rows = self._database.read("task_by_id", (task_ids[0],))
            return [task_of(rows[0])[1]] if rows else [None]
        rows = self._database.read("tasks_by_id", (_json_list(task_ids),))
        found = {task.id: task for _, task in map(task_of, rows)}
        return [found.get(task_id) for task_id in task_ids]

    async def start(self, starts: Sequence[Start]) -> list[Task | None]:
        self._database.check_room()
        return await self._database.write(
            lambda session: [steps.start(session, wish) for wish in starts]
        )

    async def settle(
        self, settlements: Sequence[Settlement], onward: Onward | None = None
    ) -> Ended:
        def action(session: Session) -> Ended:
            session.load(settlement.task_id for settlement in settlements)
            return steps.settle(session, settlements, onward, self._retry_policy, self._rng)

        return await self._database.write(action)

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> list[HoldState]:
        def action(session: Session) -> list[HoldState]:
            session.load(hold.task_id for hold in holds)
            until = session.now + timedelta(seconds=lease_s)
            return [steps.extend(session, hold, until) for hold in holds]

        return await self._database.write(action)

    async def cancel(self, task_ids: Sequence[str]) -> Ended:
        return await self._database.write(lambda session: steps.cancel(session, task_ids))

    async def sweep(self, *, limit: int = 1000) -> list[Task]:
        return await self._database.write(lambda session: self._sweep(session, limit))

    def _sweep(self, session: Session, limit: int) -> list[Task]:
        session.flush()
        now = session.now
        due = [row[0] for row in session.rows("due_ids", (micros(now), limit))]
        session.load(due)
        changed = []
        for task_id in due:
            task = session.get(task_id)
            if task is None:
                continue
            delay_s = life.retry_delay_s(task, self._retry_policy, self._rng)
            swept = life.sweep(task, now=now, retry_delay_s=delay_s)
            session.put(swept)
            if swept is not task:
                changed.append(swept)
        oldest = now - timedelta(seconds=IDEMPOTENCY_TTL_S)
        session.run("forget_idempotent", (micros(oldest),))
        return changed

    async def cap_waits(self, *, lease_s: float, limit: int = 1000) -> int:
        backoff_s = self._retry_policy.longest_s
        now = self._database.clock.now()
        lease, backoff = (micros(now + timedelta(seconds=2 * s)) for s in (lease_s, backoff_s))
        # On a reader's connection: it scans all tasks with deadlines.
        (rows,) = await self._database.read_slowly(
            ("overlong_waits", {"lease": lease, "backoff": backoff, "limit": limit})
        )
        if not rows:
            return 0

        def action(session: Session) -> int:
            session.load(task_id for (task_id,) in rows)
            tasks = [session.get(task_id) for (task_id,) in rows]
            return steps.cap_waits(session, tasks, lease_s, backoff_s)

        return await self._database.write(action)

    async def retry(
        self, task_id: str, *, key_id: str, only_dead: bool = False, new_id: str | None = None
    ) -> Accepted:
        self._database.check_room()
        return await self._database.write(
            lambda session: _retry(session, task_id, only_dead, new_id)
        )

    async def count_open(self, key_ids: Sequence[str]) -> list[int]:
        reads = [("open_tasks", (key_id, key_id)) for key_id in key_ids]
        return [rows[0][0] for rows in await self._database.read_slowly(*reads)]

    async def next_wake_at(self) -> datetime | None:
        ((value,),) = self._database.read("next_wake")
        return moment(value)

    async def discarded(self, *, limit: int = 1000) -> list[str]:
        return [key for (key,) in self._database.read("discarded", (limit,))]

    async def forget_discarded(self, keys: Sequence[str]) -> None:
        def action(session: Session) -> None:
            session.run("forget_discarded", (_json_list(keys),))

        await self._database.write_to_free(action)

    async def note_upload(self, key: str) -> None:
        self._database.check_room()

        def action(session: Session) -> None:
            session.run("keep_upload", (key, micros(session.now)))

        await self._database.write(action)

    async def retire_uploads(self, before: datetime, *, limit: int = 1000) -> int:
        def action(session: Session) -> int:
            keys = [key for (key,) in session.rows("unused_uploads", (micros(before), limit))]
            for key in keys:
                _discard_upload(session, key)
            return len(keys)

        return await self._database.write_to_free(action)

    async def retire(self, expiry: Expiry, *, limit: int = 1000) -> int:
        wanted = {
            "removed": msgspec.json.encode(_STILL_THERE[expiry.part]).decode(),
            "before": micros(expiry.before),
            "models": None if expiry.models is None else _json_list(expiry.models),
            "except_models": _json_list(expiry.except_models),
            "limit": limit,
        }
        # Who is due is read beside the writer, since it may have to pass over many.
        (rows,) = await self._database.read_slowly(("ended_ids", wanted))
        ids = [row[0] for row in rows]
        n = 0
        for at in range(0, len(ids), _RETIRED_AT_ONCE):
            part = ids[at : at + _RETIRED_AT_ONCE]
            retire = partial(_retire, part=expiry.part, task_ids=part)
            n += await self._database.write_to_free(retire)
        return n

    async def erase(self, task_id: str) -> list[str]:
        def action(session: Session) -> list[str]:
            task = session.get(task_id)
            if task is None:
                raise NotFound(f"there is no task {task_id}")
            return _remove(session, task, inputs=True, outputs=True)

        return await self._database.write_to_free(action)

    async def clock_ahead_s(self) -> None:
        """See `Store.clock_ahead_s`: the backend's clock is the only one."""

    async def check_writable(self) -> None:
        await self._database.check_writable()

    async def close(self) -> None:
        """Close the database, with everything else that lives in it."""
        await self._database.close()


def _accept(
    session: Session, tasks: Sequence[NewTask], all_or_none: bool
) -> list[Accepted | SwellError]:
    now = session.now

    def find(new: NewTask) -> Accepted | SwellError | None:
        return _earlier(session, new, now)

    def add(new: NewTask) -> Task:
        return _add(session, new, now)

    return steps.accept(tasks, find, add, all_or_none=all_or_none)


def _earlier(session: Session, new: NewTask, now: datetime) -> Accepted | SwellError | None:
    oldest = micros(now) - int(IDEMPOTENCY_TTL_S * 1e6)
    for task_id, fingerprint, created in session.rows(
        "idempotent", (new.key_id, new.idempotency_key)
    ):
        if created > oldest:
            return steps.repeated(new, task_id, fingerprint, session.get)
    return None


def _add(session: Session, new: NewTask, now: datetime) -> Task:
    task = session.add(life.accept(new, task_id=new.id or life.new_id(now), now=now))
    if new.idempotency_key is not None:
        session.run(
            "keep_idempotent",
            (new.key_id, new.idempotency_key, task.id, new.fingerprint, micros(now)),
        )
    for key in new.files:
        session.run("use_file", (key, task.id))
    return task


def _retry(session: Session, task_id: str, only_dead: bool, new_id: str | None) -> Accepted:
    task = session.get(task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id}")
    session.flush()
    repeats = [again_id for (again_id,) in session.rows("retry_of", (task_id,))]
    life.check_repeat(task, only_dead=only_dead, was_repeated=bool(repeats))
    for again_id in repeats:
        again = session.get(again_id)
        if again is not None:
            return Accepted(again, False)
    now = session.now
    new = life.again(task)
    again = session.add(life.accept(new, task_id=new_id or life.new_id(now), now=now))
    session.run("use_same_files", {"new_id": again.id, "old_id": task.id})
    for key in new.files:
        session.run("use_file", (key, again.id))
    session.put(msgspec.structs.replace(task, dead=False))
    return Accepted(again, True)


def _retire(session: Session, *, part: Part, task_ids: Sequence[str]) -> int:
    """Remove a part of tasks that have ended; return of how many."""
    n = 0
    session.load(task_ids)
    for task_id in task_ids:
        task = session.get(task_id)
        if task is None:
            continue
        n += 1
        _remove(session, task, inputs=part is not Part.OUTPUTS, outputs=part is not Part.INPUTS)
        if part is Part.TASK:
            session.flush()
            session.run("delete_task", (task_id,))
            session.run("forget_deliveries", {"ids": _json_list([task_id])})
    return n


def _remove(session: Session, task: Task, *, inputs: bool, outputs: bool) -> list[str]:
    """Remove parts of a task that it still has; return the keys that are discarded with them.

    Raises:
        Conflict: It has not ended.
    """
    inputs, outputs = inputs and not task.inputs_removed, outputs and not task.outputs_removed
    bare = life.without(task, inputs=inputs, outputs=outputs)
    discarded: list[str] = []
    ids = _json_list([task.id])
    if inputs:
        discarded += _let_go(session, task.id)
        # Its number is known where it was accepted in this very transaction.
        session.flush()
        session.run("forget_words", (task.id,))
    if outputs:
        session.run("drop_share_links", {"ids": ids})
        session.run("forget_likes", {"ids": ids})
        discarded += _give_up(session, task)
    if inputs or outputs:
        session.put(bare)
        removed = INPUTS * bare.inputs_removed | OUTPUTS * bare.outputs_removed
        metadata = None if bare.metadata is None else str(bare.metadata, "utf-8")
        values = (removed, str(bare.input, "utf-8"), metadata, task.id)
        # It may have been accepted in this very transaction.
        session.flush()
        session.run("remove_parts", values)
        session.run("forget_answers", {"ids": ids})
    return discarded


def _let_go(session: Session, task_id: str) -> list[str]:
    """Note that a task uses no file any more; return the keys that nobody needs now."""
    keys = [key for (key,) in session.rows("files_of", (task_id,))]
    session.run("forget_uses", (task_id,))
    unused = [key for key in keys if not session.rows("is_used", (key,))]
    return [key for key in unused if _discard_upload(session, key)]


def _give_up(session: Session, task: Task) -> list[str]:
    """Note that a task's files are its own no more; return the keys that nobody needs now."""
    discarded = life.remains_of(task)
    for key in life.objects_of(task):
        if session.rows("is_used", (key,)):
            session.run("keep_upload", (key, micros(session.now)))
        else:
            discarded.append(key)
    for key in discarded:
        session.run("discard", (key,))
    return discarded


def _discard_upload(session: Session, key: str) -> bool:
    """Discard a file that no task owns; return whether it was one."""
    is_upload = session.run("forget_upload", (key,)) > 0
    if is_upload:
        session.run("discard", (key,))
    return is_upload


def _json_list(values: Sequence[str]) -> str:
    return msgspec.json.encode(list(values)).decode()
