"""Every registry enforces quotas and credits exactly."""

import asyncio

from conformance.quotas import QuotasConformance, an_ask
from conformance.registries import OnPostgres, OnSqlite
from manual_clock import ManualClock
from postgres_databases import PostgresDatabases
from swell.core.quota import Account, Credit, Quota, Settled
from swell.db.postgres import PostgresDatabase
from swell.db.registry import Registry


class TestSqliteQuotas(OnSqlite, QuotasConformance):
    pass


class TestPostgresQuotas(OnPostgres, QuotasConformance):
    async def test_several_backends_give_no_more_than_there_is(
        self, postgres_databases: PostgresDatabases, clock: ManualClock
    ) -> None:
        url = await postgres_databases.new()
        databases = [await PostgresDatabase.open(url, clock) for _ in range(3)]
        registries = [Registry(database) for database in databases]
        await registries[0].put_quota(Quota(key_id="key-1", tasks_per_day=20, is_prepaid=True))
        granted = Credit(id="c", key_id="key-1", micros=1_550, at=clock.now())
        assert sorted(await asyncio.gather(*(each.grant(granted) for each in registries))) == [
            *(False, False, True)
        ]
        asked = [
            registries[n % 3].reserve([[an_ask(f"t{n}", micros=100, at=clock.now())]])
            for n in range(60)
        ]
        told = [verdict for verdicts in await asyncio.gather(*asked) for verdict in verdicts]
        # Credits allow 15, the daily quota 20.
        taken = [n for n, verdict in enumerate(told) if verdict.refused_by is None]
        assert len(taken) == 15
        released = await asyncio.gather(
            *(each.release([Settled(f"t{n}", 40) for n in taken]) for each in registries)
        )
        assert sum(released) == 15
        sheet = await registries[0].sheet([("key-1", "")], clock.now())
        assert sheet.account(("key-1", "")) == Account(granted=1_550, spent=600)
        for database in databases:
            await database.close()
