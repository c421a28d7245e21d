"""The registry's contract over SQLite. Small and rarely written; it shares the writer's commits."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

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
from swell.stores.sqlite.comparisons import SqliteComparisons
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.quotas import SqliteQuotas
from swell.stores.sqlite.rows import micros, moment
from swell.stores.sqlite.session import Session

_EPOCH = date(1970, 1, 1)

#: Greater than every id.
_LAST_ID = "~"

#: Greater than every number of an entry of the ledger.
_LAST_NUMBER = 2**63 - 1


class SqliteRegistry(SqliteQuotas, SqliteComparisons):
    """Models, workers, keys and duties in the store's file."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def put_models(self, cards: Sequence[ModelCard]) -> None:
        if any(self._newest(card.name) != (card.version, card.price_micros) for card in cards):
            await self._database.write(lambda session: _put_models(session, cards))

    def _newest(self, name: str) -> tuple[str, int] | None:
        rows = self._database.read("newest_model", (name,))
        return rows[0] if rows else None

    async def models(self) -> list[ModelCard]:
        rows = self._database.read("models")
        return [msgspec.json.decode(body, type=ModelCard) for (body,) in rows]

    async def put_worker(self, worker: WorkerInfo) -> None:
        row = _worker_row(worker)
        await self._database.write(lambda session: session.run("put_worker", row))

    async def touch_workers(self, worker_ids: Sequence[str], seen_at: datetime) -> None:
        def action(session: Session) -> None:
            for worker_id in worker_ids:
                session.run("touch_worker", (micros(seen_at), worker_id))

        await self._database.write(action)

    async def drain_worker(self, worker_id: str) -> WorkerInfo | None:
        def action(session: Session) -> WorkerInfo | None:
            for row in session.rows("worker", (worker_id,)):
                worker = msgspec.structs.replace(_worker_of(row), draining=True)
                session.run("put_worker", _worker_row(worker))
                return worker
            return None

        return await self._database.write(action)

    async def remove_worker(self, worker_id: str, gone_at: datetime) -> None:
        def action(session: Session) -> None:
            session.run("worker_gone", (micros(gone_at), worker_id))
            session.run("forget_workers", (micros(gone_at - GONE_WORKERS_TTL),))

        await self._database.write(action)

    async def workers(self) -> list[WorkerInfo]:
        workers = [_worker_of(row) for row in self._database.read("workers")]
        return sorted(workers, key=lambda worker: (worker.registered_at, worker.id))

    async def put_key(self, key: ApiKey, *, instead_of: bytes | None = None) -> bool:
        def action(session: Session) -> bool:
            rows = session.rows("key", (key.id,))
            known = [msgspec.json.decode(body, type=ApiKey) for (body,) in rows]
            if instead_of is not None and [each.digest for each in known] != [instead_of]:
                return False
            revoked_at = next((each.revoked_at for each in known), None) or key.revoked_at
            kept = msgspec.structs.replace(key, used_at=None, revoked_at=revoked_at)
            row = (key.id, key.digest, micros(key.created_at), _json(kept), key.old_digest)
            session.run("put_key", row)
            return True

        return await self._database.write(action)

    async def keys(self) -> list[ApiKey]:
        return [_key_of(row) for row in self._database.read("keys")]

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        for query in ("key_by_digest", "key_by_old_digest"):
            for row in self._database.read(query, (digest,)):
                return _key_of(row)
        return None

    async def touch_keys(self, used: Mapping[str, datetime]) -> None:
        def action(session: Session) -> None:
            for key_id, used_at in used.items():
                session.run("touch_key", (micros(used_at), key_id, micros(used_at)))

        await self._database.write(action)

    async def record(self, entries: Sequence[AuditEntry]) -> None:
        def action(session: Session) -> None:
            for each in entries:
                session.run("record", (each.id, _json(each)))

        await self._database.write(action)

    async def audit(self, *, limit: int = 50, before: str | None = None) -> list[AuditEntry]:
        rows = self._database.read("audit", (before or _LAST_ID, limit))
        return [msgspec.json.decode(body, type=AuditEntry) for (body,) in rows]

    async def put_startup(
        self,
        startup: Startup,
        charged: Callable[[Startup | None], LedgerEntry | None] = free_of_charge,
    ) -> KeptStartup:
        return await self._database.write(lambda session: _put_startup(session, startup, charged))

    async def startups(self, *, under_way: bool = False) -> list[Startup]:
        rows = self._database.read("startups_under_way" if under_way else "startups")
        return [msgspec.json.decode(body, type=Startup) for (body,) in rows]

    async def startups_of(self, worker_ids: Sequence[str]) -> list[Startup]:
        rows = self._database.read("startups_of", (_json(list(worker_ids)),))
        return [msgspec.json.decode(body, type=Startup) for (body,) in rows]

    async def charge(self, entries: Sequence[LedgerEntry]) -> list[bool]:
        def action(session: Session) -> list[bool]:
            return [session.run("charge", _entry_row(each)) > 0 for each in entries]

        return await self._database.write(action) if entries else []

    async def charged(self, accounts: Sequence[str]) -> list[Charged]:
        rows = self._database.read("charged", (_json(list(accounts)),))
        found = {row[0]: Charged(seconds=row[1], micros=row[2]) for row in rows}
        return [found.get(account, Charged()) for account in accounts]

    async def costs(self, since: date, until: date, *, users: bool = False) -> list[CostRow]:
        days = (since - _EPOCH).days, (until - _EPOCH).days
        (rows,) = await self._database.read_slowly(("costs_of_users" if users else "costs", days))
        return [_cost_row(row) for row in rows]

    async def ledger(self, *, limit: int = 50, before: int | None = None) -> LedgerPage:
        rows = self._database.read("ledger", (_LAST_NUMBER if before is None else before, limit))
        cursor = rows[-1][0] if len(rows) == limit else None
        return LedgerPage(entries=[_entry_of(row) for row in rows], cursor=cursor)

    async def spend(self, spends: Sequence[Spend]) -> list[datetime]:
        def action(session: Session) -> list[datetime]:
            return [_spend(session, each) for each in spends]

        return await self._database.write(action)

    async def put_note(self, name: str, value: bytes) -> None:
        await self._database.write(lambda session: session.run("put_note", (name, value)))

    async def swap_note(self, name: str, before: bytes | None, value: bytes) -> bool:
        def action(session: Session) -> bool:
            if before is None:
                return session.run("add_note", (name, value)) > 0
            return session.run("swap_note", (value, name, before)) > 0

        return await self._database.write(action)

    async def note(self, name: str) -> bytes | None:
        rows = self._database.read("note", (name,))
        return bytes(rows[0][0]) if rows else None

    async def notes(self, prefix: str) -> dict[str, bytes]:
        return dict(self._database.read("notes", (prefix, prefix)))

    async def drop_notes(self, names: Sequence[str]) -> None:
        def action(session: Session) -> None:
            for name in names:
                session.run("drop_note", (name,))

        if names:
            await self._database.write(action)

    async def secret(self, name: str) -> bytes:
        def action(session: Session) -> bytes:
            session.run("keep_secret", (name, secrets.token_bytes(32)))
            ((value,),) = session.rows("secret", (name,))
            return bytes(value)

        return await self._database.write(action)

    async def take_duty(self, name: str, holder: str, *, lease_s: float) -> bool:
        def action(session: Session) -> bool:
            now, lease = session.now, timedelta(seconds=lease_s)
            times = map(micros, (now + lease, now, now + 2 * lease))
            return session.run("take_duty", (name, holder, *times)) > 0

        return await self._database.write(action)

    async def leave_duty(self, name: str, holder: str) -> None:
        await self._database.write(lambda session: session.run("leave_duty", (name, holder)))


def _put_startup(
    session: Session, startup: Startup, charged: Callable[[Startup | None], LedgerEntry | None]
) -> KeptStartup:
    rows = session.rows("startup", (startup.id,))
    before = next((msgspec.json.decode(body, type=Startup) for (body,) in rows), None)
    if before is not None and is_further(before.state, startup.state):
        return KeptStartup(before)
    assert startup.begun_at is not None, "the backend sets it"
    begun_at, alike = startup.begun_at, family(startup)
    worker_id = startup.worker_id if startup.kind is StartupKind.COLD else ""
    is_under_way = startup.state is StartupState.STARTING
    row = (startup.id, alike, worker_id, micros(begun_at), is_under_way, _json(startup))
    session.run("put_startup", row)
    session.run("forget_startups", (micros(begun_at - STARTUPS_TTL), alike, STARTUPS_KEPT))
    entry = charged(before)
    is_new = entry is not None and session.run("charge", _entry_row(entry)) > 0
    return KeptStartup(before, is_charged=is_new)


def _entry_row(entry: LedgerEntry) -> tuple[object, ...]:
    return (
        entry.id,
        micros(entry.at),
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


def _entry_of(row: tuple[Any, ...]) -> LedgerEntry:
    _, entry_id, at, kind, pool, models, worker_id, ref, outcome, seconds, cost, *more = row
    account, key_id, user, attempts, images = more
    told_at = moment(at)
    assert told_at is not None, "the column is never null"
    return LedgerEntry(
        id=entry_id,
        at=told_at,
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


def _cost_row(row: tuple[Any, ...]) -> CostRow:
    day, kind, pool, model, key_id, user, is_priced, attempts, images, seconds, cost = row
    return CostRow(
        day=_EPOCH + timedelta(days=day),
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


def _spend(session: Session, spend: Spend) -> datetime:
    begin = session.now
    for (spent_until,) in session.rows("spent_until", (spend.name,)):
        begin = max(begin, moment(spent_until) or begin)
    until = begin + timedelta(seconds=spend.cost_s)
    session.run("spend", (spend.name, micros(until)))
    return until


def _key_of(row: tuple[str, int | None]) -> ApiKey:
    key = msgspec.json.decode(row[0], type=ApiKey)
    return msgspec.structs.replace(key, used_at=moment(row[1]))


def _put_models(session: Session, cards: Sequence[ModelCard]) -> None:
    for card in cards:
        if not session.run("touch_model", (card.name, card.version)):
            session.run("put_model", (card.name, card.version, _json(card)))
        else:
            session.run("price_model", (card.price_micros, card.name, card.version))


def _worker_row(worker: WorkerInfo) -> tuple[str, int, int | None, str]:
    gone_at = None if worker.gone_at is None else micros(worker.gone_at)
    return worker.id, micros(worker.seen_at), gone_at, _json(worker)


def _worker_of(row: tuple[str, int, int | None]) -> WorkerInfo:
    worker = msgspec.json.decode(row[0], type=WorkerInfo)
    seen_at = moment(row[1]) or worker.seen_at
    return msgspec.structs.replace(worker, seen_at=seen_at, gone_at=moment(row[2]))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
