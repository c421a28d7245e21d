"""Quotas, credits and what is held of them, over PostgreSQL: whoever uses a key's takes turns."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

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
from swell.stores.postgres.database import PostgresDatabase

_Run = Callable[..., Awaitable[list[Any]]]


class PostgresQuotas:
    """The registry's part about quotas and credits."""

    _database: PostgresDatabase

    async def put_quota(self, quota: Quota) -> None:
        place = place_of(quota.key_id, quota.user)
        await self._database.read("put_quota", *place, _json(quota))

    async def drop_quota(self, key_id: str, user: str | None) -> bool:
        return bool(await self._database.read("drop_quota", *place_of(key_id, user)))

    async def quotas(self) -> list[Quota]:
        return [_quota(body) for (body,) in await self._database.read("quotas")]

    async def quota_keys(self) -> frozenset[str]:
        return frozenset(key_id for (key_id,) in await self._database.read("quota_keys"))

    async def reserve(self, groups: Sequence[Sequence[Ask]]) -> list[Verdict]:
        asks = [ask for group in groups for ask in group]
        async with self._database.transaction() as run:
            await _lock(run, asks)
            sheet = await _loaded(run, asks)
            verdicts, holds = [], []
            for group in groups:
                verdict, held = enter(sheet, group)
                verdicts.append(verdict)
                holds += held
            if holds:
                ids, ats = [each.id for each in holds], [each.at for each in holds]
                await run("put_holds", ids, ats, [_json(each) for each in holds])
            await _write(run, sheet)
        return verdicts

    async def release(self, settled: Sequence[Settled]) -> int:
        ends = {each.id: each for each in reversed(settled)}
        async with self._database.transaction() as run:
            held = [_hold(body) for (body,) in await run("holds_of", list(ends))]
            await _lock(run, held)
            gone = {row[0] for row in await run("drop_holds", sorted(ends))}
            held = [each for each in held if each.id in gone]
            if held:
                sheet = await _loaded(run, held)
                for hold in held:
                    close(sheet, hold, ends[hold.id])
                await _write(run, sheet)
        return len(held)

    async def holds(self, *, after: str, before: datetime, limit: int) -> list[Hold]:
        return [_hold(body) for (body,) in await self._database.read("holds", after, before, limit)]

    async def grant(self, credit: Credit) -> bool:
        place = place_of(credit.key_id, credit.user)
        async with self._database.transaction() as run:
            await run("lock_quotas", [credit.key_id])
            if not await run("put_credit", credit.id, *place, _json(credit)):
                return False
            await run("add_credit", *place, credit.micros)
        return True

    async def credits(self, key_id: str | None, *, limit: int) -> list[Credit]:
        rows = await self._database.read("credits", key_id, limit)
        return [msgspec.json.decode(body, type=Credit) for (body,) in rows]

    async def sheet(self, places: Iterable[Place], at: datetime) -> Sheet:
        asks = [
            Ask(id="", key_id=key_id, user=user.removeprefix("=") or None, at=at)
            for key_id, user in places
        ]
        async with self._database.transaction() as run:
            return await _loaded(run, asks)

    async def credit_places(self) -> list[Place]:
        return [(row[0], row[1]) for row in await self._database.read("credit_places")]

    async def forget_uses(self, before: date) -> None:
        await self._database.read("forget_quota_uses", before.isoformat())


async def _lock(run: _Run, asks: Sequence[Ask | Hold]) -> None:
    """Wait for all others that use the same keys' quotas, in one order."""
    await run("lock_quotas", sorted({each.key_id for each in asks}))


async def _loaded(run: _Run, asks: Sequence[Ask | Hold]) -> Sheet:
    """Return the rows of all accounts that tasks may be entered in."""
    sheet = Sheet()
    places, periods = needed(asks)
    wanted = sorted(places | {(key_id, ANY_USER) for key_id, _ in places})
    for key_id, user, body in await run("quotas_at", *_columns(wanted, 2)):
        sheet.quotas[key_id, user] = _quota(body)
    for key_id, user, *amounts in await run("credit_accounts_at", *_columns(sorted(places), 2)):
        sheet.accounts[key_id, user] = Account(*amounts)
    for key_id, user, period, *amounts in await run("quota_uses_at", *_columns(sorted(periods), 3)):
        sheet.uses[key_id, user, period] = Use(*amounts)
    return sheet


async def _write(run: _Run, sheet: Sheet) -> None:
    if sheet.changed_accounts:
        accounts = [
            (*place, each.granted, each.spent, each.held)
            for place in sorted(sheet.changed_accounts)
            for each in (sheet.accounts[place],)
        ]
        await run("put_credit_accounts", *_columns(accounts, 5))
    if sheet.changed_uses:
        uses = [
            (*period, each.tasks, each.samples, each.micros, each.held)
            for period in sorted(sheet.changed_uses)
            for each in (sheet.uses[period],)
        ]
        await run("put_quota_uses", *_columns(uses, 7))


def _columns(rows: Sequence[Sequence[Any]], n: int) -> list[list[Any]]:
    return [[row[at] for row in rows] for at in range(n)]


def _quota(body: str) -> Quota:
    return msgspec.json.decode(body, type=Quota)


def _hold(body: str) -> Hold:
    return msgspec.json.decode(body, type=Hold)


def _json(value: Quota | Hold | Credit) -> str:
    return msgspec.json.encode(value).decode()
