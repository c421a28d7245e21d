"""Every registry satisfies its contract."""

from pathlib import Path

from conformance.registries import OnPostgres, OnSqlite
from conformance.registry import RegistryConformance, a_key, a_worker
from manual_clock import ManualClock
from swell.core.records import ModelCard
from swell.db.registry import Registry
from swell.db.sqlite import SqliteDatabase


class TestSqliteRegistry(OnSqlite, RegistryConformance):
    async def test_everything_survives_reopening(self, tmp_path: Path) -> None:
        path = tmp_path / "again.db"
        database = SqliteDatabase.open(path, ManualClock())
        registry = Registry(database)
        await registry.put_models([ModelCard(name="demo/a", version="v1")])
        await registry.put_worker(a_worker())
        await registry.put_key(a_key())
        await registry.put_note("times", b"{}")
        secret = await registry.secret("urls")
        await database.close()

        database = SqliteDatabase.open(path, ManualClock())
        registry = Registry(database)
        assert await registry.models() == [ModelCard(name="demo/a", version="v1")]
        assert await registry.workers() == [a_worker()]
        assert await registry.keys() == [a_key()]
        assert await registry.note("times") == b"{}"
        assert await registry.secret("urls") == secret
        await database.close()


class TestPostgresRegistry(OnPostgres, RegistryConformance):
    pass
