"""Every registry sums its ledger by account and by day."""

from registries import InMemory, OnPostgres, OnSqlite

from swell.testing.ledger import LedgerConformance


class TestMemoryLedger(InMemory, LedgerConformance):
    pass


class TestSqliteLedger(OnSqlite, LedgerConformance):
    pass


class TestPostgresLedger(OnPostgres, LedgerConformance):
    pass
