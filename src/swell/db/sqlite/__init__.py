"""The embedded database: one SQLite file, one writer, commits in groups."""

from swell.db.sqlite.sqlite_database import SqliteDatabase

__all__ = ["SqliteDatabase"]
