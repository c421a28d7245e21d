"""Quotas, credits and what is held of them, over SQLite. It shares the writer's commits."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import msgspec

from swell.quotas import (
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
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.rows import micros
from swell.stores.sqlite.session import Session


class SqliteQuotas:
    """The registry's part about quotas and credits."""

    _database: SqliteDatabase

    async def put_quota(self, quota: Quota) -> None:
        row = (*place_of(quota.key_id, quota.user), _json(quota))
        await self._database.write(lambda session: session.run("put_quota", row))

    async def drop_quota(self, key_id: str, user: str | None) -> bool:
        row = place_of(key_id, user)
        return bool(await self._database.write(lambda session: session.run("drop_quota", row)))

    async def quotas(self) -> list[Quota]:
        return [_quota(body) for (body,) in self._database.read("quotas")]

    async def quota_keys(self) -> frozenset[str]:
        return frozenset(key_id for (key_id,) in self._database.read("quota_keys"))

    async def reserve(self, groups: Sequence[Sequence[Ask]]) -> list[Verdict]:
        def action(session: Session) -> list[Verdict]:
            sheet = _loaded(session, [ask for group in groups for ask in group])
            verdicts = []
            for group in groups:
                verdict, holds = enter(sheet, group)
                verdicts.append(verdict)
                for hold in holds:
                    session.run("put_hold", (hold.id, micros(hold.at), _json(hold)))
            _write(session, sheet)
            return verdicts

        return await self._database.write(action)

    async def release(self, settled: Sequence[Settled]) -> int:
        def action(session: Session) -> int:
            found: list[tuple[Hold, Settled]] = []
            for each in settled:
                rows = session.rows("hold", (each.id,))
                if rows and session.run("drop_hold", (each.id,)):
                    found.append((_hold(rows[0][0]), each))
            if found:
                sheet = _loaded(session, [hold for hold, _ in found])
                for hold, each in found:
                    close(sheet, hold, each)
                _write(session, sheet)
            return len(found)

        return await self._database.write(action)

    async def holds(self, *, after: str, before: datetime, limit: int) -> list[Hold]:
        rows = self._database.read("holds", (after, micros(before), limit))
        return [_hold(body) for (body,) in rows]

    async def grant(self, credit: Credit) -> bool:
        place = place_of(credit.key_id, credit.user)

        def action(session: Session) -> bool:
            if not session.run("put_credit", (credit.id, *place, _json(credit))):
                return False
            session.run("add_credit", (*place, credit.micros))
            return True

        return await self._database.write(action)

    async def credits(self, key_id: str | None, *, limit: int) -> list[Credit]:
        rows = self._database.read("credits", {"key_id": key_id, "n": limit})
        return [msgspec.json.decode(body, type=Credit) for (body,) in rows]

    async def sheet(self, places: Iterable[Place], at: datetime) -> Sheet:
        asks = [Ask(id="", key_id=key_id, user=_user(user), at=at) for key_id, user in places]
        return await self._database.write(lambda session: _loaded(session, asks))

    async def credit_places(self) -> list[Place]:
        return [(key_id, user) for key_id, user in self._database.read("credit_places")]

    async def forget_uses(self, before: date) -> None:
        row = (before.isoformat(),)
        await self._database.write(lambda session: session.run("forget_quota_uses", row))


def _loaded(session: Session, asks: Sequence[Ask | Hold]) -> Sheet:
    """Return the rows of all accounts that tasks may be entered in."""
    sheet = Sheet()
    places, periods = needed(asks)
    for place in places | {(key_id, "*") for key_id, _ in places}:
        for (body,) in session.rows("quota", place):
            sheet.quotas[place] = _quota(body)
    for place in places:
        for row in session.rows("credit_account", place):
            sheet.accounts[place] = Account(*row)
    for period in periods:
        for row in session.rows("quota_use", period):
            sheet.uses[period] = Use(*row)
    return sheet


def _write(session: Session, sheet: Sheet) -> None:
    for place in sheet.changed_accounts:
        account = sheet.accounts[place]
        amounts = account.granted, account.spent, account.held
        session.run("put_credit_account", (*place, *amounts))
    for period in sheet.changed_uses:
        use = sheet.uses[period]
        counts = use.tasks, use.samples, use.micros, use.held
        session.run("put_quota_use", (*period, *counts))


def _user(user: str) -> str | None:
    return user.removeprefix("=") or None


def _quota(body: str) -> Quota:
    return msgspec.json.decode(body, type=Quota)


def _hold(body: str) -> Hold:
    return msgspec.json.decode(body, type=Hold)


def _json(value: Quota | Hold | Credit) -> str:
    return msgspec.json.encode(value).decode()
