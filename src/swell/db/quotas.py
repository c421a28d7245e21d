"""Quotas, credits, and the reservations of running tasks."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import msgspec
from msgspec.structs import asdict

from swell.core.quota import (
    ANY_USER,
    Account,
    Ask,
    Credit,
    Hold,
    Place,
    Quota,
    Settled,
    Sheet,
    Use,
    Verdict,
    close,
    day_of,
    enter,
    month_of,
    place_of,
    places_of,
)
from swell.db.sql import Database, Row, Transaction, bodies, to_json


class QuotaRepository:
    """Accounts of keys and of their users."""

    _db: Database

    async def put_quota(self, quota: Quota) -> None:
        """Add or replace the quota of a key and user."""
        place = place_of(quota.key_id, quota.user)
        await self._db.execute("put_quota", **_row(place, body=to_json(quota)))

    async def drop_quota(self, key_id: str, user: str | None) -> bool:
        """Delete a quota; return whether there was one."""
        return bool(await self._db.execute("drop_quota", **_row(place_of(key_id, user))))

    async def quotas(self) -> list[Quota]:
        """Return every quota, by key and user."""
        return bodies(await self._db.fetch("quotas"), Quota)

    async def quota_keys(self) -> frozenset[str]:
        """Return the ids of keys with a quota for the key or its users."""
        return frozenset(row["key_id"] for row in await self._db.fetch("quota_keys"))

    async def reserve(self, groups: Sequence[Sequence[Ask]]) -> list[Verdict]:
        """Reserve quota for tasks (`swell.core.quota.enter`), until `release`.

        Each group is reserved whole or not at all. Concurrent callers never exceed a limit.

        Args:
            groups: None is empty, and no two tasks have the same id.
        """
        asks = [ask for group in groups for ask in group]

        async def action(tx: Transaction) -> list[Verdict]:
            await tx.lock("quotas", (ask.key_id for ask in asks))
            sheet = await _load(tx, _accounts(asks))
            entered = [enter(sheet, group) for group in groups]
            holds = [hold for _, new in entered for hold in new]
            if holds:
                rows = [{"id": each.id, "at": each.at, "body": to_json(each)} for each in holds]
                await tx.fetch("put_holds", rows=rows)
                await _save(tx, sheet)
            return [verdict for verdict, _ in entered]

        return await self._db.transaction(action)

    async def release(self, settled: Sequence[Settled]) -> int:
        """Settle reservations of ended tasks (`swell.core.quota.close`); return their number."""
        ends = {each.id: each for each in reversed(settled)}
        ids = sorted(ends)

        async def action(tx: Transaction) -> int:
            holds = bodies(await tx.fetch("holds_by_id", ids=ids), Hold)
            if not holds:
                return 0
            await tx.lock("quotas", (hold.key_id for hold in holds))
            # Another backend may have released some of them before this one had the lock.
            holds = bodies(await tx.fetch("drop_holds", ids=ids), Hold)
            sheet = await _load(tx, _accounts(holds))
            for hold in holds:
                close(sheet, hold, ends[hold.id])
            await _save(tx, sheet)
            return len(holds)

        return await self._db.transaction(action)

    async def holds(self, *, after: str, before: datetime, limit: int) -> list[Hold]:
        """Return reservations made before a moment, with task ids larger than `after`, by id."""
        rows = await self._db.fetch("holds", after=after, before=before, limit=limit)
        return bodies(rows, Hold)

    async def grant(self, credit: Credit) -> bool:
        """Grant credits; return False if this id was granted before."""
        place = place_of(credit.key_id, credit.user)

        async def action(tx: Transaction) -> bool:
            await tx.lock("quotas", [credit.key_id])
            row = _row(place, id=credit.id, body=to_json(credit))
            if not await tx.fetch("put_credit", **row):
                return False
            await tx.fetch("add_credit", **_row(place, micros=credit.micros))
            return True

        return await self._db.transaction(action)

    async def credits(self, key_id: str | None, *, limit: int) -> list[Credit]:
        """Return grants of a key, or of all keys, newest first."""
        return bodies(await self._db.fetch("credits", key_id=key_id, limit=limit), Credit)

    async def sheet(self, places: Iterable[Place], at: datetime) -> Sheet:
        """Return the rows of accounts in the day and the month of a moment."""
        accounts = [(place, at) for place in places]
        return await self._db.transaction(lambda tx: _load(tx, accounts))

    async def credit_places(self) -> list[Place]:
        """Return the accounts that were ever granted credits, by key and user."""
        return [_key(row) for row in await self._db.fetch("credit_places")]

    async def forget_uses(self, before: date) -> None:
        """Delete the use of days before this one. Months are kept."""
        await self._db.execute("forget_quota_uses", before=before.isoformat())


def _accounts(asks: Iterable[Ask]) -> list[tuple[Place, datetime]]:
    return [(place, ask.at) for ask in asks for place in places_of(ask.key_id, ask.user)]


async def _load(tx: Transaction, accounts: Iterable[tuple[Place, datetime]]) -> Sheet:
    sheet = Sheet()
    periods = {(*place, period) for place, at in accounts for period in (day_of(at), month_of(at))}
    places = {(key_id, user) for key_id, user, _ in periods}
    any_user = {(key_id, ANY_USER) for key_id, _ in places}
    for row in await tx.fetch("quotas_at", rows=[_row(each) for each in sorted(places | any_user)]):
        sheet.quotas[_key(row)] = msgspec.json.decode(row["body"], type=Quota)
    for row in await tx.fetch("credit_accounts_at", rows=[_row(each) for each in sorted(places)]):
        sheet.accounts[_key(row)] = msgspec.convert(row, Account)
    rows = [_row(each, period=each[2]) for each in sorted(periods)]
    for row in await tx.fetch("quota_uses_at", rows=rows):
        sheet.uses[(*_key(row), row["period"])] = msgspec.convert(row, Use)
    return sheet


async def _save(tx: Transaction, sheet: Sheet) -> None:
    accounts = [_row(place, **asdict(each)) for place, each in sorted(sheet.accounts.items())]
    uses = [
        _row(place, period=place[2], **asdict(each)) for place, each in sorted(sheet.uses.items())
    ]
    for query, rows in (("put_credit_accounts", accounts), ("put_quota_uses", uses)):
        if rows:
            await tx.fetch(query, rows=rows)


def _row(place: Sequence[str], **columns: object) -> dict[str, object]:
    return {"key_id": place[0], "user_name": place[1], **columns}


def _key(row: Row) -> Place:
    return row["key_id"], row["user_name"]
