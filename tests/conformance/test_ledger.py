"""Every registry sums its ledger by account and by day."""

from conformance.ledger import LedgerConformance
from conformance.registries import OnPostgres, OnSqlite


class TestSqliteLedger(OnSqlite, LedgerConformance):
    pass


class TestPostgresLedger(OnPostgres, LedgerConformance):
    pass
