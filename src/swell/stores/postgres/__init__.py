"""The store at scale: one PostgreSQL database, any number of backends.

`database.py` owns the connections and writes in groups; `migrate.py` brings the schema up to date;
`company.py` notifies other backends; `rows.py` turns tasks into rows and back; `session.py` is one
transaction over the tasks, `state.py` what a backend remembers between two; `tasks.py` is their
store; `sql.py` runs the statements of `swell.db` (docs/decisions/0025).
"""

from swell.db.deliveries import Outbox
from swell.db.registry import Registry
from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.sql import PostgresSql
from swell.stores.postgres.tasks import PostgresStore


class PostgresRegistry(Registry):
    """The registry in the database of the tasks."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(PostgresSql(database))


class PostgresOutbox(Outbox):
    """The outbox in the database of the tasks."""

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(PostgresSql(database), database.state.posting)


__all__ = ["PostgresDatabase", "PostgresOutbox", "PostgresRegistry", "PostgresStore"]
