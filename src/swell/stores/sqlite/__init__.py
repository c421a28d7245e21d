"""The embedded database: one SQLite file, one writer, commits in groups."""

from swell.stores.sqlite.file import SqliteDatabase

__all__ = ["SqliteDatabase"]
