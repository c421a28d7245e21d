"""A store and a registry in memory: for tests and for reading how the contract is meant.

Nothing survives the process, so it is never wired into a running Swell.
"""

import heapq
import itertools
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta

import msgspec

from swell import task as life
from swell.clock import Clock, SystemClock
from swell.errors import Conflict, InvalidRequest, NotFound, SwellError
from swell.money.ledger import Charged, CostRow, LedgerEntry, day_of, model_of
from swell.phases import (
    STARTUPS_KEPT,
    STARTUPS_TTL,
    Startup,
    StartupKind,
    StartupState,
    is_further,
)
from swell.registry import (
    GONE_WORKERS_TTL,
    ApiKey,
    AuditEntry,
    KeptStartup,
    LedgerPage,
    ModelCard,
    Spend,
    WorkerInfo,
    free_of_charge,
)
from swell.retry import RetryPolicy
from swell.store import (
    IDEMPOTENCY_TTL_S,
    Accepted,
    Ended,
    Expiry,
    Hold,
    HoldState,
    Onward,
    Page,
    Part,
    Start,
    TaskFilter,
)
from swell.stores import steps
from swell.stores.memory_comparisons import MemoryComparisons
from swell.stores.memory_favourites import MemoryFavourites
from swell.stores.memory_outbox import MemoryOutbox
from swell.stores.memory_quotas import MemoryQuotas
from swell.stores.memory_sharing import MemorySharing
from swell.task import NewTask, Settlement, Task, TaskState
from swell.words import has_words, task_words


class MemoryStore(MemorySharing, MemoryFavourites):
    """Tasks in a dictionary."""

    def __init__(
        self,
        clock: Clock,
        retry_policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._retry_policy = retry_policy or RetryPolicy()
        self._rng = rng or random.Random()
        self._tasks: dict[str, Task] = {}
        self._words: dict[str, tuple[str, ...]] = {}
        self._keys: dict[tuple[str, str], tuple[str, bytes, datetime]] = {}
        self._retried: dict[str, str] = {}
        self._wakes: list[tuple[datetime, int, str]] = []
        self._order = itertools.count()
        #: An ordered set.
        self._discarded: dict[str, None] = {}
        #: Files that no task owns → when they came; and file → the tasks that use it.
        self._uploads: dict[str, datetime] = {}
        self._uses: dict[str, set[str]] = {}
        #: What is to be delivered of these tasks.
        self.outbox = MemoryOutbox(clock, self._tasks)
        #: Called after each change of a task.
        self.on_put: Callable[[Task], None] | None = None

    async def accept(
        self, tasks: Sequence[NewTask], *, all_or_none: bool = True
    ) -> list[Accepted | SwellError]:
        now = self._clock.now()
        results: list[Accepted | SwellError] = []
        keys: dict[tuple[str, str], tuple[str, bytes, datetime]] = {}
        fresh: dict[str, Task] = {}
        for new in tasks:
            results.append(self._accept_one(new, now, keys, fresh))
        errors = [index for index, result in enumerate(results) if isinstance(result, SwellError)]
        if errors and all_or_none:
            return [
                result
                if isinstance(result, SwellError)
                else Conflict(f"not accepted, because task {errors[0]} of the same call was not")
                for result in results
            ]
        self._keys.update(keys)
        for accepted in fresh.values():
            self._put(accepted)
        for new, result in zip(tasks, results, strict=True):
            if isinstance(result, Accepted) and result.is_new:
                self._use(result.task.id, new.files)
        return results

    def _accept_one(
        self,
        new: NewTask,
        now: datetime,
        keys: dict[tuple[str, str], tuple[str, bytes, datetime]],
        fresh: dict[str, Task],
    ) -> Accepted | SwellError:
        scope, tasks = (new.key_id, new.idempotency_key or ""), self._tasks
        if new.idempotency_key is not None:
            earlier = keys.get(scope) or self._keys.get(scope)
            if earlier and earlier[2] > now - timedelta(seconds=IDEMPOTENCY_TTL_S):
                known = steps.repeated(new, *earlier[:2], lambda one: fresh.get(one) or tasks[one])
                if known is not None:
                    return known
        accepted = life.accept(new, task_id=new.id or life.new_id(now), now=now)
        fresh[accepted.id] = accepted
        if new.idempotency_key is not None:
            keys[scope] = (accepted.id, new.fingerprint, now)
        return Accepted(accepted, True)

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        kept = self._keys.get((key_id, idempotency_key))
        oldest = self._clock.now() - timedelta(seconds=IDEMPOTENCY_TTL_S)
        return kept is not None and kept[2] > oldest

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        return [self._tasks.get(task_id) for task_id in task_ids]

    async def page(self, where: TaskFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        if cursor is not None and not life.is_id(cursor):
            raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
        newest_first = sorted(self._tasks, reverse=True)
        found = [
            self._tasks[task_id]
            for task_id in newest_first
            if (cursor is None or task_id < cursor)
            and _matches(self._tasks[task_id], where)
            and (where.liked_by is None or self._is_liked(self._tasks[task_id], where.liked_by))
            and (not where.words or has_words(self._words.get(task_id, ()), where.words))
        ]
        page = found[:limit]
        more = len(found) > limit
        return Page(tasks=tuple(page), cursor=page[-1].id if more and page else None)

    async def start(self, starts: Sequence[Start]) -> list[Task | None]:
        now = self._clock.now()
        started: list[Task | None] = []
        for wish in starts:
            task = self._tasks.get(wish.task_id)
            ready = task is not None and task.state is TaskState.QUEUED and not task.available_at
            ready = ready and task is not None and task.queue == wish.queue
            if task is None or not ready or life.is_expired(task, now):
                started.append(None)
                continue
            running = life.start(
                task,
                worker_id=wish.worker_id,
                version=wish.version,
                token=wish.token,
                now=now,
                lease_s=wish.lease_s,
            )
            self._put(running)
            started.append(running)
        return started

    async def settle(
        self, settlements: Sequence[Settlement], onward: Onward | None = None
    ) -> Ended:
        now = self._clock.now()
        settled: list[Task | None] = []
        again, n = [], 0
        for place, settlement in enumerate(settlements):
            task = self._tasks.get(settlement.task_id)
            if task is None:
                settled.append(None)
            elif task.is_held_by(settlement.attempt, settlement.token):
                delay_s = life.retry_delay_s(task, self._retry_policy, self._rng)
                ended = life.settle(task, settlement.outcome, now=now, retry_delay_s=delay_s)
                ended = steps.going_on(ended, onward, n, now)
                n += ended.attempt > task.attempt
                self._put(ended)
                settled.append(ended)
            elif life.was_settled_by(task, settlement.attempt, settlement.token):
                again.append(place)
                settled.append(task)
            else:
                settled.append(None)
        return Ended(settled, again)

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> list[HoldState]:
        until = self._clock.now() + timedelta(seconds=lease_s)
        states: list[HoldState] = []
        for hold in holds:
            task = self._tasks.get(hold.task_id)
            if task is None or not task.is_held_by(hold.attempt, hold.token):
                states.append(HoldState(is_held=False))
                continue
            self._put(msgspec.structs.replace(task, lease_expires_at=until))
            states.append(HoldState(is_held=True, cancel_requested=task.cancel_requested))
        return states

    async def cancel(self, task_ids: Sequence[str]) -> Ended:
        now = self._clock.now()
        canceled: list[Task | None] = []
        again = []
        for place, task_id in enumerate(task_ids):
            task = self._tasks.get(task_id)
            if task is not None and task.state.is_terminal:
                again.append(place)
            elif task is not None:
                task = life.cancel(task, now=now)
                self._put(task)
            canceled.append(task)
        return Ended(canceled, again)

    async def sweep(self, *, limit: int = 1000) -> list[Task]:
        now = self._clock.now()
        changed: list[Task] = []
        while self._wakes and self._wakes[0][0] <= now and len(changed) < limit:
            wake_at, _, task_id = heapq.heappop(self._wakes)
            task = self._tasks.get(task_id)
            if task is None or life.next_wake_at(task) != wake_at:
                continue
            delay_s = life.retry_delay_s(task, self._retry_policy, self._rng)
            swept = life.sweep(task, now=now, retry_delay_s=delay_s)
            self._put(swept)
            if swept is not task:
                changed.append(swept)
        oldest = now - timedelta(seconds=IDEMPOTENCY_TTL_S)
        self._keys = {scope: kept for scope, kept in self._keys.items() if kept[2] > oldest}
        return changed

    async def cap_waits(self, *, lease_s: float, limit: int = 1000) -> int:
        now, n = self._clock.now(), 0
        for task in list(self._tasks.values()):
            capped = life.cap_wait(
                task, now=now, lease_s=lease_s, backoff_s=self._retry_policy.longest_s
            )
            if capped is not task and n < limit:
                self._put(capped)
                n += 1
        return n

    async def retry(
        self, task_id: str, *, key_id: str, only_dead: bool = False, new_id: str | None = None
    ) -> Accepted:
        task = self._tasks.get(task_id)
        if task is None:
            raise NotFound(f"there is no task {task_id}")
        life.check_repeat(task, only_dead=only_dead, was_repeated=task_id in self._retried)
        if task_id in self._retried:
            return Accepted(self._tasks[self._retried[task_id]], False)
        now = self._clock.now()
        new = life.again(task)
        again = life.accept(new, task_id=new_id or life.new_id(now), now=now)
        self._put(again)
        self._use(again.id, [key for key, users in self._uses.items() if task_id in users])
        self._use(again.id, new.files)
        self._put(msgspec.structs.replace(task, dead=False))
        self._retried[task_id] = again.id
        return Accepted(again, True)

    async def count_open(self, key_ids: Sequence[str]) -> list[int]:
        open_tasks = [task.key_id for task in self._tasks.values() if not task.state.is_terminal]
        return [open_tasks.count(key_id) for key_id in key_ids]

    async def next_wake_at(self) -> datetime | None:
        while self._wakes:
            wake_at, _, task_id = self._wakes[0]
            task = self._tasks.get(task_id)
            if task is not None and life.next_wake_at(task) == wake_at:
                return wake_at
            heapq.heappop(self._wakes)
        return None

    async def discarded(self, *, limit: int = 1000) -> list[str]:
        return list(itertools.islice(self._discarded, limit))

    async def forget_discarded(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._discarded.pop(key, None)

    async def note_upload(self, key: str) -> None:
        self._uploads.setdefault(key, self._clock.now())

    async def retire_uploads(self, before: datetime, *, limit: int = 1000) -> int:
        unused = [
            key
            for key, noted_at in self._uploads.items()
            if noted_at <= before and key not in self._uses
        ]
        return sum(self._discard_upload(key) for key in unused[:limit])

    async def retire(self, expiry: Expiry, *, limit: int = 1000) -> int:
        due = [task for task in self._tasks.values() if _is_due(task, expiry)][:limit]
        for task in due:
            self._remove(
                task,
                inputs=expiry.part is not Part.OUTPUTS,
                outputs=expiry.part is not Part.INPUTS,
            )
            if expiry.part is Part.TASK:
                del self._tasks[task.id]
                self.outbox.forget(task.id)
                self._retried.pop(task.id, None)
                self._retried = {old: new for old, new in self._retried.items() if new != task.id}
        return len(due)

    async def erase(self, task_id: str) -> list[str]:
        task = self._tasks.get(task_id)
        if task is None:
            raise NotFound(f"there is no task {task_id}")
        return self._remove(task, inputs=True, outputs=True)

    def _remove(self, task: Task, *, inputs: bool, outputs: bool) -> list[str]:
        """Remove parts of a task that it still has; return the keys that are discarded."""
        inputs, outputs = inputs and not task.inputs_removed, outputs and not task.outputs_removed
        bare = life.without(task, inputs=inputs, outputs=outputs)
        discarded: list[str] = []
        if inputs:
            self._words.pop(task.id, None)
            used = [key for key, users in self._uses.items() if task.id in users]
            for key in used:
                self._uses[key].discard(task.id)
                if not self._uses[key]:
                    del self._uses[key]
                    discarded += [key] if self._discard_upload(key) else []
        if outputs:
            self._links.pop(task.id, None)
            self._forget_favourites(task.id)
            files = life.objects_of(task)
            for key in files:
                if key in self._uses:
                    self._uploads.setdefault(key, self._clock.now())
            free = [key for key in files if key not in self._uses]
            discarded += life.remains_of(task) + free
        self._discarded.update(dict.fromkeys(discarded))
        self._put(bare)
        if inputs or outputs:
            self.outbox.forget_answers(task.id)
        return discarded

    def _use(self, task_id: str, keys: Sequence[str]) -> None:
        for key in keys:
            self._uses.setdefault(key, set()).add(task_id)

    def _discard_upload(self, key: str) -> bool:
        """Discard a file that no task owns; return whether it was one."""
        if self._uploads.pop(key, None) is None:
            return False
        self._discarded[key] = None
        return True

    async def keep_words(self, *, limit: int = 1000) -> int:
        lacking = [
            task
            for _, task in sorted(self._tasks.items())
            if task.id not in self._words and not task.inputs_removed
        ]
        for task in lacking[:limit]:
            self._words[task.id] = task_words(task.input)
        return min(limit, len(lacking))

    async def clock_ahead_s(self) -> None:
        """See `Store.clock_ahead_s`: the backend's clock is the only one."""

    async def check_writable(self) -> None:
        """See `Store.check_writable`. Memory takes every write."""

    async def close(self) -> None:
        """See `Store.close`."""

    def _put(self, task: Task) -> None:
        self.outbox.note(self._tasks.get(task.id, task), task)
        self._discarded.update(dict.fromkeys(life.discarded(self._tasks.get(task.id, task), task)))
        self._tasks[task.id] = task
        wake_at = life.next_wake_at(task)
        if wake_at is not None:
            heapq.heappush(self._wakes, (wake_at, next(self._order), task.id))
        if self.on_put is not None:
            self.on_put(task)


def _is_due(task: Task, expiry: Expiry) -> bool:
    """Whether a task has to lose a part that it still has."""
    is_chosen = expiry.models is None or task.model in expiry.models
    is_there = {
        Part.INPUTS: not task.inputs_removed,
        Part.OUTPUTS: not task.outputs_removed,
        Part.TASK: True,
    }
    return (
        task.finished_at is not None
        and task.finished_at <= expiry.before
        and is_chosen
        and task.model not in expiry.except_models
        and is_there[expiry.part]
    )


def _matches(task: Task, where: TaskFilter) -> bool:
    wanted = (
        (where.state, task.state),
        (where.model, task.model),
        (where.user, task.user),
        (where.key_id, task.key_id),
        (where.dead, task.dead),
    )
    after, before = life.span_of_ids(where.since, where.until)
    return after < task.id < before and all(
        value is None or value == actual for value, actual in wanted
    )


class MemoryRegistry(MemoryQuotas, MemoryComparisons):
    """Models, workers, keys and duties in dictionaries."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__()
        self._clock = clock or SystemClock()
        self._models: dict[tuple[str, str], ModelCard] = {}
        self._workers: dict[str, WorkerInfo] = {}
        self._keys: dict[str, ApiKey] = {}
        self._secrets: dict[str, bytes] = {}
        self._notes: dict[str, bytes] = {}
        self._audit: list[AuditEntry] = []
        self._startups: dict[str, Startup] = {}
        self._ledger: dict[str, LedgerEntry] = {}
        #: Allowance → up to when it is used up.
        self._spent: dict[str, datetime] = {}
        #: Duty → who has it, and until when.
        self._duties: dict[str, tuple[str, datetime]] = {}

    async def put_models(self, cards: Sequence[ModelCard]) -> None:
        for card in cards:
            known = self._models.pop((card.name, card.version), card)
            known = msgspec.structs.replace(known, price_micros=card.price_micros)
            self._models[card.name, card.version] = known

    async def models(self) -> list[ModelCard]:
        newest_first = reversed(self._models.values())
        return sorted(newest_first, key=lambda card: card.name)

    async def put_worker(self, worker: WorkerInfo) -> None:
        self._workers[worker.id] = worker

    async def touch_workers(self, worker_ids: Sequence[str], seen_at: datetime) -> None:
        for worker_id in worker_ids:
            worker = self._workers.get(worker_id)
            if worker is not None and worker.gone_at is None:
                self._workers[worker_id] = msgspec.structs.replace(worker, seen_at=seen_at)

    async def drain_worker(self, worker_id: str) -> WorkerInfo | None:
        worker = self._workers.get(worker_id)
        if worker is not None:
            worker = msgspec.structs.replace(worker, draining=True)
            self._workers[worker_id] = worker
        return worker

    async def remove_worker(self, worker_id: str, gone_at: datetime) -> None:
        worker = self._workers.get(worker_id)
        if worker is not None and worker.gone_at is None:
            self._workers[worker_id] = msgspec.structs.replace(worker, gone_at=gone_at)
        oldest = gone_at - GONE_WORKERS_TTL
        self._workers = {
            known.id: known
            for known in self._workers.values()
            if known.gone_at is None or known.gone_at > oldest
        }

    async def workers(self) -> list[WorkerInfo]:
        return sorted(self._workers.values(), key=lambda worker: (worker.registered_at, worker.id))

    async def put_key(self, key: ApiKey, *, instead_of: bytes | None = None) -> bool:
        known = self._keys.get(key.id)
        if instead_of is not None and (known is None or known.digest != instead_of):
            return False
        if known is not None:
            revoked_at = known.revoked_at or key.revoked_at
            key = msgspec.structs.replace(key, revoked_at=revoked_at, used_at=known.used_at)
        else:
            key = msgspec.structs.replace(key, used_at=None)
        self._keys[key.id] = key
        return True

    async def keys(self) -> list[ApiKey]:
        return sorted(self._keys.values(), key=lambda key: (key.created_at, key.id))

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        return next(
            (key for key in self._keys.values() if digest in (key.digest, key.old_digest)), None
        )

    async def touch_keys(self, used: Mapping[str, datetime]) -> None:
        for key_id, used_at in used.items():
            key = self._keys.get(key_id)
            if key is not None and (key.used_at is None or key.used_at < used_at):
                self._keys[key_id] = msgspec.structs.replace(key, used_at=used_at)

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        self._audit += entries

    async def audit(self, *, limit: int = 50, before: str | None = None) -> list[AuditEntry]:
        found = [each for each in self._audit if before is None or each.id < before]
        return sorted(found, key=lambda each: each.id, reverse=True)[:limit]

    async def put_startup(
        self,
        startup: Startup,
        charged: Callable[[Startup | None], LedgerEntry | None] = free_of_charge,
    ) -> KeptStartup:
        before = self._startups.get(startup.id)
        if before is not None and is_further(before.state, startup.state):
            return KeptStartup(before)
        entry = charged(before)
        self._startups[startup.id] = startup
        _trim(self._startups, startup)
        is_new = entry is not None and entry.id not in self._ledger
        if entry is not None:
            await self.charge([entry])
        return KeptStartup(before, is_charged=is_new)

    async def startups(self, *, under_way: bool = False) -> list[Startup]:
        return sorted(
            (
                each
                for each in self._startups.values()
                if not under_way or each.state is StartupState.STARTING
            ),
            key=_age,
        )

    async def startups_of(self, worker_ids: Sequence[str]) -> list[Startup]:
        wanted = {each for each in worker_ids if each}
        return [
            each
            for each in await self.startups()
            if each.kind is StartupKind.COLD and each.worker_id in wanted
        ]

    async def charge(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        return [self._ledger.setdefault(each.id, each) is each for each in entries]

    async def charged(self, accounts: Sequence[str]) -> list[Charged]:
        found = dict.fromkeys(accounts, Charged())
        for each in self._ledger.values():
            if each.account in found:
                known = found[each.account]
                found[each.account] = Charged(
                    seconds=known.seconds + each.seconds, micros=known.micros + (each.micros or 0)
                )
        return [found[account] for account in accounts]

    async def costs(self, since: date, until: date, *, users: bool = False) -> list[CostRow]:
        found: dict[object, CostRow] = {}
        for each in self._ledger.values():
            row = _cost_row(each, users)
            if since <= row.day <= until:
                own = (row.day, row.kind, row.pool, row.model, row.key_id, row.user)
                key = (*own, row.micros is None)
                found[key] = _together(found[key], row) if key in found else row
        return sorted(found.values(), key=lambda row: row.day)

    async def ledger(self, *, limit: int = 50, before: int | None = None) -> LedgerPage:
        entries = list(self._ledger.values())
        end = len(entries) if before is None else min(before, len(entries))
        start = max(0, end - limit)
        return LedgerPage(entries=entries[start:end][::-1], cursor=start or None)

    async def spend(self, spends: Sequence[Spend]) -> list[datetime]:
        now = self._clock.now()
        for each in spends:
            begin = max(now, self._spent.get(each.name, now))
            self._spent[each.name] = begin + timedelta(seconds=each.cost_s)
        return [self._spent[each.name] for each in spends]

    async def put_note(self, name: str, value: bytes) -> None:
        self._notes[name] = value

    async def swap_note(self, name: str, before: bytes | None, value: bytes) -> bool:
        if self._notes.get(name) != before:
            return False
        self._notes[name] = value
        return True

    async def note(self, name: str) -> bytes | None:
        return self._notes.get(name)

    async def notes(self, prefix: str) -> dict[str, bytes]:
        return {name: each for name, each in sorted(self._notes.items()) if name.startswith(prefix)}

    async def drop_notes(self, names: Sequence[str]) -> None:
        for name in names:
            self._notes.pop(name, None)

    async def secret(self, name: str) -> bytes:
        return self._secrets.setdefault(name, secrets.token_bytes(32))

    async def take_duty(self, name: str, holder: str, *, lease_s: float) -> bool:
        now = self._clock.now()
        known, until = self._duties.get(name, (holder, now))
        if known != holder and until > now and until <= now + timedelta(seconds=2 * lease_s):
            return False
        self._duties[name] = (holder, now + timedelta(seconds=lease_s))
        return True

    async def leave_duty(self, name: str, holder: str) -> None:
        if self._duties.get(name, ("", None))[0] == holder:
            del self._duties[name]


def _age(startup: Startup) -> tuple[datetime, str]:
    assert startup.begun_at is not None, "the backend sets it"
    return startup.begun_at, startup.id


def _trim(startups: dict[str, Startup], new: Startup) -> None:
    """Forget startups that have ended and are too old, or too many, beside a new one."""
    begun_at, _ = _age(new)
    ended = [each for each in startups.values() if each.state is not StartupState.STARTING]
    kind, pool, models = new.kind, new.pool, sorted(new.models)
    alike = [s for s in ended if s.kind is kind and s.pool == pool and sorted(s.models) == models]
    alike.sort(key=_age)
    old = [s for s in ended if _age(s)[0] <= begun_at - STARTUPS_TTL]
    for each in (*alike[:-STARTUPS_KEPT], *old):
        startups.pop(each.id, None)


def _cost_row(entry: LedgerEntry, users: bool) -> CostRow:
    return CostRow(
        day=day_of(entry.at),
        kind=entry.kind,
        pool=entry.pool,
        model=model_of(entry),
        key_id=entry.key_id,
        user=entry.user if users else "",
        attempts=entry.attempts,
        images=entry.images,
        seconds=entry.seconds,
        micros=entry.micros,
    )


def _together(one: CostRow, other: CostRow) -> CostRow:
    return msgspec.structs.replace(
        one,
        attempts=one.attempts + other.attempts,
        images=one.images + other.images,
        seconds=one.seconds + other.seconds,
        micros=None if one.micros is None else one.micros + (other.micros or 0),
    )
