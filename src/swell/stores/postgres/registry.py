"""The registry's contract over PostgreSQL. Small and rarely written; it goes past the writer."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

import msgspec

from swell.money.ledger import Charged, CostRow, EntryKind, LedgerEntry
from swell.phases import (
    STARTUPS_KEPT,
    STARTUPS_TTL,
    Startup,
    StartupKind,
    StartupState,
    family,
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
from swell.stores.postgres.comparisons import PostgresComparisons
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.quotas import PostgresQuotas

#: Larger than any id of what operators did.
_LAST_ID: Final = "~"

#: Larger than any number of an entry of the ledger.
_LAST_NUMBER: Final = 2**63 - 1


class PostgresRegistry(PostgresQuotas, PostgresComparisons):
    """Models, workers, keys and duties in the store's database."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def put_models(self, cards: Sequence[ModelCard]) -> None:
        names = [card.name for card in cards]
        rows = await self._database.read("newest_models", names) if names else []
        newest = [msgspec.json.decode(body, type=ModelCard) for (body,) in rows]
        known = {(card.name, card.version, card.price_micros) for card in newest}
        if all((card.name, card.version, card.price_micros) in known for card in cards):
            return
        async with self._database.transaction() as run:
            for card in cards:
                [(body,)] = await run("put_model", card.name, card.version, _json(card))
                kept = msgspec.json.decode(body, type=ModelCard)
                if kept.price_micros != card.price_micros:
                    asked = msgspec.structs.replace(kept, price_micros=card.price_micros)
                    await run("price_model", card.name, card.version, _json(asked))

    async def models(self) -> list[ModelCard]:
        rows = await self._database.read("models")
        return [msgspec.json.decode(body, type=ModelCard) for (body,) in rows]

    async def put_worker(self, worker: WorkerInfo) -> None:
        await self._database.read("put_worker", *_worker_row(worker))

    async def touch_workers(self, worker_ids: Sequence[str], seen_at: datetime) -> None:
        await self._database.read("touch_workers", list(worker_ids), seen_at)

    async def drain_worker(self, worker_id: str) -> WorkerInfo | None:
        async with self._database.transaction() as run:
            for row in await run("worker", worker_id):
                worker = msgspec.structs.replace(_worker_of(row), draining=True)
                await run("put_worker", *_worker_row(worker))
                return worker
        return None

    async def remove_worker(self, worker_id: str, gone_at: datetime) -> None:
        async with self._database.transaction() as run:
            await run("worker_gone", worker_id, gone_at)
            await run("forget_workers", gone_at - GONE_WORKERS_TTL)

    async def workers(self) -> list[WorkerInfo]:
        workers = [_worker_of(row) for row in await self._database.read("workers")]
        return sorted(workers, key=lambda worker: (worker.registered_at, worker.id))

    async def put_key(self, key: ApiKey, *, instead_of: bytes | None = None) -> bool:
        async with self._database.transaction() as run:
            rows = await run("key_to_replace", key.id)
            known = [msgspec.json.decode(body, type=ApiKey) for (body,) in rows]
            if instead_of is not None and [each.digest for each in known] != [instead_of]:
                return False
            revoked_at = next((each.revoked_at for each in known), None) or key.revoked_at
            kept = msgspec.structs.replace(key, used_at=None, revoked_at=revoked_at)
            row = (key.id, key.digest, key.created_at, _json(kept), key.old_digest)
            await run("put_key", *row)
        return True

    async def keys(self) -> list[ApiKey]:
        return [_key_of(row) for row in await self._database.read("keys")]

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        rows = await self._database.read("key_by_digest", digest)
        return _key_of(rows[0]) if rows else None

    async def touch_keys(self, used: Mapping[str, datetime]) -> None:
        ids = sorted(used)
        await self._database.read("touch_keys", ids, [used[key_id] for key_id in ids])

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        bodies = [_json(each) for each in entries]
        await self._database.read("record", [each.id for each in entries], bodies)

    async def audit(self, *, limit: int = 50, before: str | None = None) -> list[AuditEntry]:
        rows = await self._database.read("audit", before or _LAST_ID, limit)
        return [msgspec.json.decode(body, type=AuditEntry) for (body,) in rows]

    async def put_startup(
        self,
        startup: Startup,
        charged: Callable[[Startup | None], LedgerEntry | None] = free_of_charge,
    ) -> KeptStartup:
        row = _startup_row(startup)
        _, alike, _, begun_at, _, _ = row
        async with self._database.transaction() as run:
            before = await _added(run, row)
            if before is not None:
                if is_further(before.state, startup.state):
                    return KeptStartup(before)
                await run("replace_startup", *row)
            await run("forget_startups", begun_at - STARTUPS_TTL, alike, STARTUPS_KEPT)
            entry = charged(before)
            is_new = entry is not None and bool(await run("charge", *_entry_columns([entry])))
        return KeptStartup(before, is_charged=is_new)

    async def startups(self, *, under_way: bool = False) -> list[Startup]:
        rows = await self._database.read("startups_under_way" if under_way else "startups")
        return [msgspec.json.decode(body, type=Startup) for (body,) in rows]

    async def startups_of(self, worker_ids: Sequence[str]) -> list[Startup]:
        rows = await self._database.read("startups_of", list(worker_ids))
        return [msgspec.json.decode(body, type=Startup) for (body,) in rows]

    async def charge(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        if not entries:
            return []
        rows = await self._database.read("charge", *_entry_columns(entries))
        fresh = {row[0] for row in rows}
        told: list[bool] = []
        for each in entries:
            told.append(each.id in fresh)
            # Of several with the same id the first was taken.
            fresh.discard(each.id)
        return told

    async def charged(self, accounts: Sequence[str]) -> list[Charged]:
        rows = await self._database.read("charged", list(accounts))
        found = {row[0]: Charged(seconds=row[1], micros=row[2]) for row in rows}
        return [found.get(account, Charged()) for account in accounts]

    async def costs(self, since: date, until: date, *, users: bool = False) -> list[CostRow]:
        rows = await self._database.read("costs_of_users" if users else "costs", since, until)
        return [_cost_row(row) for row in rows]

    async def ledger(self, *, limit: int = 50, before: int | None = None) -> LedgerPage:
        last = _LAST_NUMBER if before is None else before
        rows = await self._database.read("ledger", last, limit)
        cursor = rows[-1][0] if len(rows) == limit else None
        return LedgerPage(entries=[_entry_of(row) for row in rows], cursor=cursor)

    async def spend(self, spends: Sequence[Spend]) -> list[datetime]:
        names = [each.name for each in spends]
        costs = [timedelta(seconds=each.cost_s) for each in spends]
        found = dict(await self._database.read("spend", names, costs, self._database.clock.now()))
        return [found[name] for name in names]

    async def put_note(self, name: str, value: bytes) -> None:
        await self._database.read("put_note", name, value)

    async def swap_note(self, name: str, before: bytes | None, value: bytes) -> bool:
        if before is None:
            return bool(await self._database.read("add_note", name, value))
        return bool(await self._database.read("swap_note", name, before, value))

    async def note(self, name: str) -> bytes | None:
        rows = await self._database.read("note", name)
        return bytes(rows[0][0]) if rows else None

    async def notes(self, prefix: str) -> dict[str, bytes]:
        rows = await self._database.read("notes", prefix)
        return {row[0]: bytes(row[1]) for row in rows}

    async def drop_notes(self, names: Sequence[str]) -> None:
        if names:
            await self._database.read("drop_notes", list(names))

    async def secret(self, name: str) -> bytes:
        rows = await self._database.read("secret", name)
        if not rows:
            await self._database.read("keep_secret", name, secrets.token_bytes(32))
            # Another may have been quicker.
            rows = await self._database.read("secret", name)
        return bytes(rows[0][0])

    async def take_duty(self, name: str, holder: str, *, lease_s: float) -> bool:
        now, lease = self._database.clock.now(), timedelta(seconds=lease_s)
        times = (now + lease, now, now + 2 * lease)
        return bool(await self._database.read("take_duty", name, holder, *times))

    async def leave_duty(self, name: str, holder: str) -> None:
        await self._database.read("leave_duty", name, holder)


def _startup_row(startup: Startup) -> tuple[str, str, str, datetime, bool, str]:
    assert startup.begun_at is not None, "the backend sets it"
    worker_id = startup.worker_id if startup.kind is StartupKind.COLD else ""
    is_under_way = startup.state is StartupState.STARTING
    alike, body = family(startup), _json(startup)
    return startup.id, alike, worker_id, startup.begun_at, is_under_way, body


async def _added(run: Callable[..., Awaitable[list[Any]]], row: tuple[Any, ...]) -> Startup | None:
    """Add a startup; return the one of its id that is there already, locked, if there is one."""
    # Of two that tell of the same for the first time, one waits for the other here.
    while not await run("add_startup", *row):
        for (body,) in await run("startup_to_replace", row[0]):
            return msgspec.json.decode(body, type=Startup)
        # It was forgotten between the two.
    return None


def _entry_columns(entries: Sequence[LedgerEntry]) -> list[list[object]]:
    return [list(column) for column in zip(*map(_entry_row, entries), strict=True)]


def _entry_row(entry: LedgerEntry) -> tuple[object, ...]:
    return (
        entry.id,
        entry.at,
        entry.kind.value,
        entry.pool,
        entry.models,
        entry.worker_id,
        entry.ref,
        entry.outcome,
        entry.seconds,
        entry.micros,
        entry.account,
        entry.key_id,
        entry.user,
        entry.attempts,
        entry.images,
    )


def _entry_of(row: Any) -> LedgerEntry:
    _, entry_id, at, kind, pool, models, worker_id, ref, outcome, seconds, cost, *more = row
    account, key_id, user, attempts, images = more
    return LedgerEntry(
        id=entry_id,
        at=at,
        kind=EntryKind(kind),
        pool=pool,
        models=models,
        worker_id=worker_id,
        ref=ref,
        outcome=outcome,
        seconds=seconds,
        micros=cost,
        account=account,
        key_id=key_id,
        user=user,
        attempts=attempts,
        images=images,
    )


def _cost_row(row: Any) -> CostRow:
    day, kind, pool, model, key_id, user, is_priced, attempts, images, seconds, cost = row
    return CostRow(
        day=day,
        kind=EntryKind(kind),
        pool=pool,
        model=model,
        key_id=key_id,
        user=user,
        attempts=attempts,
        images=images,
        seconds=seconds,
        micros=cost if is_priced else None,
    )


def _key_of(row: Any) -> ApiKey:
    key = msgspec.json.decode(row[0], type=ApiKey)
    return msgspec.structs.replace(key, used_at=row[1])


def _worker_row(worker: WorkerInfo) -> tuple[str, datetime, datetime | None, str]:
    return worker.id, worker.seen_at, worker.gone_at, _json(worker)


def _worker_of(row: Any) -> WorkerInfo:
    worker = msgspec.json.decode(row[0], type=WorkerInfo)
    return msgspec.structs.replace(worker, seen_at=row[1], gone_at=row[2])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
