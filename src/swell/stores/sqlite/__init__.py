"""The embedded store: one SQLite file, one writer, commits in groups.

`file.py` owns the file and its one transaction at a time; `rows.py` turns tasks into rows and back;
`session.py` is one transaction over the tasks; `tasks.py`, `outbox.py` and `registry.py` are the
contracts.
"""

from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.outbox import SqliteOutbox
from swell.stores.sqlite.registry import SqliteRegistry
from swell.stores.sqlite.tasks import SqliteStore

__all__ = ["SqliteDatabase", "SqliteOutbox", "SqliteRegistry", "SqliteStore"]
