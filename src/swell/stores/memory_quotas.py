"""Quotas, credits and what is held of them, in dictionaries."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime

from swell.quotas import (
    Ask,
    Credit,
    Hold,
    Place,
    Quota,
    Settled,
    Sheet,
    Verdict,
    close,
    enter,
    place_of,
)


class MemoryQuotas:
    """The registry's part about quotas and credits."""

    def __init__(self) -> None:
        super().__init__()
        self._sheet = Sheet()
        self._holds: dict[str, Hold] = {}
        self._credits: dict[str, Credit] = {}

    async def put_quota(self, quota: Quota) -> None:
        self._sheet.quotas[place_of(quota.key_id, quota.user)] = quota

    async def drop_quota(self, key_id: str, user: str | None) -> bool:
        return self._sheet.quotas.pop(place_of(key_id, user), None) is not None

    async def quotas(self) -> list[Quota]:
        return [quota for _, quota in sorted(self._sheet.quotas.items())]

    async def quota_keys(self) -> frozenset[str]:
        return frozenset(key_id for key_id, _ in self._sheet.quotas)

    async def reserve(self, groups: Sequence[Sequence[Ask]]) -> list[Verdict]:
        verdicts = []
        for group in groups:
            verdict, holds = enter(self._sheet, group)
            verdicts.append(verdict)
            self._holds.update((hold.id, hold) for hold in holds)
        return verdicts

    async def release(self, settled: Sequence[Settled]) -> int:
        n = 0
        for each in settled:
            hold = self._holds.pop(each.id, None)
            if hold is not None:
                close(self._sheet, hold, each)
                n += 1
        return n

    async def holds(self, *, after: str, before: datetime, limit: int) -> list[Hold]:
        found = (hold for key, hold in sorted(self._holds.items()) if key > after)
        return [hold for hold in found if hold.at < before][:limit]

    async def grant(self, credit: Credit) -> bool:
        if credit.id in self._credits:
            return False
        self._credits[credit.id] = credit
        self._sheet.credit(place_of(credit.key_id, credit.user), granted=credit.micros)
        return True

    async def credits(self, key_id: str | None, *, limit: int) -> list[Credit]:
        found = [each for each in self._credits.values() if key_id in (None, each.key_id)]
        return found[::-1][:limit]

    async def sheet(self, places: Iterable[Place], at: datetime) -> Sheet:
        return self._sheet

    async def credit_places(self) -> list[Place]:
        return sorted(self._sheet.accounts)

    async def forget_uses(self, before: date) -> None:
        for key in list(self._sheet.uses):
            if len(key[2]) == 10 and key[2] < before.isoformat():
                del self._sheet.uses[key]
