"""Everything that backends share apart from the tasks."""

from swell.db.api_keys import ApiKeyRepository
from swell.db.comparisons import ComparisonRepository
from swell.db.coordination import CoordinationRepository
from swell.db.ledger_entries import LedgerRepository
from swell.db.models import ModelRepository
from swell.db.quotas import QuotaRepository
from swell.db.sql import Database
from swell.db.workers import WorkerRepository


class Registry(
    ModelRepository,
    WorkerRepository,
    ApiKeyRepository,
    LedgerRepository,
    QuotaRepository,
    ComparisonRepository,
    CoordinationRepository,
):
    """Models, workers, keys, costs, quotas, comparisons, and how backends coordinate."""

    def __init__(self, database: Database) -> None:
        self._db = database
