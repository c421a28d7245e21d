"""Statements of a SQLite file, and how values become columns and back."""

import functools
import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from swell.db.columns import CHANGED, COLUMNS, EPOCH, MICROSECOND, NEW, Rows
from swell.db.sql import Row, Statements, to_json

STATEMENTS: Final = Statements("sqlite")
QUERIES: Final = STATEMENTS.all()


def micros(at: datetime) -> int:
    """Return a time as it is stored: microseconds since 1970 UTC."""
    return (at - EPOCH) // MICROSECOND


def moment(value: int | None) -> datetime | None:
    """Return the time that `micros` wrote."""
    return None if value is None else EPOCH + timedelta(microseconds=value)


sqlite3.register_adapter(datetime, micros)
sqlite3.register_adapter(list, to_json)

#: `int`, since the sqlite3 module is slow to adapt a bool.
NATIVE: Final[Mapping[Any, Any]] = {
    datetime: ("({} - EPOCH) // MICROSECOND", moment),
    bool: ("int({})", bool),
}
STORED_ROWS, NEW_ROWS, CHANGED_ROWS = (Rows(columns, NATIVE) for columns in (COLUMNS, NEW, CHANGED))

#: Parameters: `seq` or `id`, `wake_at`, and the columns.
INSERT: Final = (
    f"INSERT INTO tasks (seq, wake_at, {', '.join(column.name for column in NEW)})"
    f" VALUES (?, ?{', ?' * len(NEW)})"
)
UPDATE: Final = (
    "UPDATE tasks SET wake_at = ?2, "
    + ", ".join(f"{column.name} = ?{n}" for n, column in enumerate(CHANGED, 3))
    + " WHERE id = ?1"
)


def fetch_rows(connection: sqlite3.Connection, query: str, values: Mapping[str, Any]) -> list[Row]:
    """Run a statement, once for each of its `rows` if it has any, and return its results."""
    sql, _ = STATEMENTS.find(query, values)
    if "rows" not in values:
        return _decoded(connection.execute(sql, values))
    others = {name: value for name, value in values.items() if name != "rows"}
    cursors = (connection.execute(sql, {**row, **others}) for row in values["rows"])
    return [found for cursor in cursors for found in _decoded(cursor)]


def _decoded(cursor: sqlite3.Cursor) -> list[Row]:
    rows = cursor.fetchall()
    if not rows:
        return []
    columns = [(name, _decoder(name)) for name, *_ in cursor.description]
    return [
        {
            name: decode(value) if decode else value
            for (name, decode), value in zip(columns, row, strict=True)
        }
        for row in rows
    ]


@functools.cache
def _decoder(name: str) -> Callable[[Any], Any] | None:
    if name == "at" or name.endswith(("_at", "_until")):
        return moment
    return bool if name.startswith(("is_", "has_")) else None
