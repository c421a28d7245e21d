"""The store at scale: one PostgreSQL database, any number of backends.

`database.py` owns the connections and writes in groups; `migrate.py` brings the schema up to date;
`company.py` notifies other backends; `rows.py` turns tasks into rows and back; `session.py` is one
transaction over the tasks, `state.py` what a backend remembers between two;
`tasks.py`, `outbox.py` and `registry.py` are the contracts (docs/decisions/0025).
"""

from swell.stores.postgres.database import PostgresDatabase
from swell.stores.postgres.outbox import PostgresOutbox
from swell.stores.postgres.registry import PostgresRegistry
from swell.stores.postgres.tasks import PostgresStore

__all__ = ["PostgresDatabase", "PostgresOutbox", "PostgresRegistry", "PostgresStore"]
