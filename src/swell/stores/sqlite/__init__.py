"""The embedded store: one SQLite file, one writer, commits in groups.

`file.py` owns the file and its one transaction at a time; `rows.py` turns tasks into rows and back;
`session.py` is one transaction over the tasks; `tasks.py` is their store; `sql.py` runs the
statements of `swell.db`.
"""

from swell.db.deliveries import Outbox
from swell.db.registry import Registry
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.sql import SqliteSql
from swell.stores.sqlite.tasks import SqliteStore


class SqliteRegistry(Registry):
    """The registry in the file of the tasks."""

    def __init__(self, database: SqliteDatabase) -> None:
        super().__init__(SqliteSql(database))


class SqliteOutbox(Outbox):
    """The outbox in the file of the tasks."""

    def __init__(self, database: SqliteDatabase) -> None:
        super().__init__(SqliteSql(database), database.state.posting)


__all__ = ["SqliteDatabase", "SqliteOutbox", "SqliteRegistry", "SqliteStore"]
