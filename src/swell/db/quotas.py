"""Quotas, credits, and what running tasks have reserved of them."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import msgspec
from msgspec.structs import asdict

from swell.db.sql import Database, Row, Transaction, bodies, to_json
from swell.quotas import (
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
    enter,
    needed,
    place_of,
)


class QuotaRepository:
    """Accounts of keys and of their users."""

    _db: Database

    async def put_quota(self, quota: Quota) -> None:
        """Add or replace the quota of a key and user."""
        place = _place(quota.key_id, quota.user)
        await self._db.execute("put_quota", body=to_json(quota), **place)

    async def drop_quota(self, key_id: str, user: str | None) -> bool:
        """Delete a quota; return whether there was one."""
        return bool(await self._db.execute("drop_quota", **_place(key_id, user)))

    async def quotas(self) -> list[Quota]:
        """Return every quota, by key and user."""
        return bodies(await self._db.fetch("quotas"), Quota)

    async def quota_keys(self) -> frozenset[str]:
        """Return the ids of keys that have a quota, or whose users have one."""
        return frozenset(row["key_id"] for row in await self._db.fetch("quota_keys"))

    async def reserve(self, groups: Sequence[Sequence[Ask]]) -> list[Verdict]:
        """Reserve quota for tasks (`swell.quotas.enter`), until `release`.

        Each group is reserved whole or not at all. Concurrent callers never exceed a limit.

        Args:
            groups: None is empty, and no two tasks have the same id.
        """
        asks = [ask for group in groups for ask in group]

        async def action(tx: Transaction) -> list[Verdict]:
            await tx.lock("quotas", (ask.key_id for ask in asks))
            sheet = await _load(tx, asks)
            verdicts, holds = [], []
            for group in groups:
                verdict, new = enter(sheet, group)
                verdicts.append(verdict)
                holds += new
            if holds:
                rows = [{"id": each.id, "at": each.at, "body": to_json(each)} for each in holds]
                await tx.fetch("put_holds", rows=rows)
            await _save(tx, sheet)
            return verdicts

        return await self._db.transaction(action)

    async def release(self, settled: Sequence[Settled]) -> int:
        """Settle reservations of ended tasks (`swell.quotas.close`); return how many there were."""
        ends = {each.id: each for each in reversed(settled)}
        ids = sorted(ends)

        async def action(tx: Transaction) -> int:
            holds = bodies(await tx.fetch("holds_by_id", ids=ids), Hold)
            if not holds:
                return 0
            await tx.lock("quotas", (hold.key_id for hold in holds))
            # Another backend may have released some of them before this one had the lock.
            holds = bodies(await tx.fetch("drop_holds", ids=ids), Hold)
            sheet = await _load(tx, holds)
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
        place = _place(credit.key_id, credit.user)

        async def action(tx: Transaction) -> bool:
            await tx.lock("quotas", [credit.key_id])
            if not await tx.fetch("put_credit", id=credit.id, body=to_json(credit), **place):
                return False
            await tx.fetch("add_credit", micros=credit.micros, **place)
            return True

        return await self._db.transaction(action)

    async def credits(self, key_id: str | None, *, limit: int) -> list[Credit]:
        """Return grants of a key, or of all keys, newest first."""
        return bodies(await self._db.fetch("credits", key_id=key_id, limit=limit), Credit)

    async def sheet(self, places: Iterable[Place], at: datetime) -> Sheet:
        """Return the rows of accounts in the day and the month of a moment."""
        asks = [
            Ask(id="", key_id=key_id, user=user.removeprefix("=") or None, at=at)
            for key_id, user in places
        ]
        return await self._db.transaction(lambda tx: _load(tx, asks))

    async def credit_places(self) -> list[Place]:
        """Return the accounts that were ever granted credits, by key and user."""
        return [_key(row) for row in await self._db.fetch("credit_places")]

    async def forget_uses(self, before: date) -> None:
        """Delete what was used on days before this one. Months are kept."""
        await self._db.execute("forget_quota_uses", before=before.isoformat())


async def _load(tx: Transaction, asks: Sequence[Ask | Hold]) -> Sheet:
    """Return every row that reserving or settling these tasks may change."""
    sheet = Sheet()
    places, periods = needed(asks)
    rows = [_row(place) for place in sorted(places)]
    any_user = [_row((key_id, ANY_USER)) for key_id in sorted({key_id for key_id, _ in places})]
    for row in await tx.fetch("quotas_at", rows=rows + any_user):
        sheet.quotas[_key(row)] = msgspec.json.decode(row["body"], type=Quota)
    for row in await tx.fetch("credit_accounts_at", rows=rows):
        sheet.accounts[_key(row)] = Account(row["granted"], row["spent"], row["held"])
    rows = [_row(place, period=period) for *place, period in sorted(periods)]
    for row in await tx.fetch("quota_uses_at", rows=rows):
        use = Use(row["tasks"], row["samples"], row["micros"], row["held"])
        sheet.uses[(*_key(row), row["period"])] = use
    return sheet


async def _save(tx: Transaction, sheet: Sheet) -> None:
    if sheet.changed_accounts:
        changed = sorted(sheet.changed_accounts)
        rows = [_row(place, **asdict(sheet.accounts[place])) for place in changed]
        await tx.fetch("put_credit_accounts", rows=rows)
    if sheet.changed_uses:
        rows = [
            _row(use[:2], period=use[2], **asdict(sheet.uses[use]))
            for use in sorted(sheet.changed_uses)
        ]
        await tx.fetch("put_quota_uses", rows=rows)


def _place(key_id: str, user: str | None) -> dict[str, str]:
    key_id, user = place_of(key_id, user)
    return {"key_id": key_id, "user": user}


def _row(place: Sequence[str], **columns: object) -> dict[str, object]:
    return {"key_id": place[0], "user_name": place[1], **columns}


def _key(row: Row) -> Place:
    return row["key_id"], row["user_name"]
