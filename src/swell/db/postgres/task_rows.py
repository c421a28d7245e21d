"""The statements that insert and update tasks: each column goes to the server as one array."""

from collections.abc import Iterable
from typing import Any, Final

from swell.core.task import Task, next_wake_at
from swell.db.columns import CHANGED, COLUMNS, NEW, POSTGRES_TYPES, Column, Rows

#: As in an update, the ID comes before the other columns.
_NEW: Final = tuple(column for column in NEW if column.name != "id")

STORED_ROWS, NEW_ROWS, CHANGED_ROWS = (Rows(columns, {}) for columns in (COLUMNS, _NEW, CHANGED))


def _arrays(columns: Iterable[Column]) -> str:
    """Return the rows of `columns_of`, with the name `c`."""
    types = {"id": "text", "wake_at": "timestamptz"}
    types |= {column.name: POSTGRES_TYPES.get(column.kind, "text") for column in columns}
    arrays = (f"${n}::{kind}[]" for n, kind in enumerate(types.values(), 1))
    return f"unnest({', '.join(arrays)}) AS c ({', '.join(types)})"


INSERT_TASKS: Final = (
    f"INSERT INTO tasks (id, wake_at, {', '.join(column.name for column in _NEW)})"
    f" SELECT * FROM {_arrays(_NEW)}"
)
UPDATE_TASKS: Final = (
    "UPDATE tasks AS t SET wake_at = c.wake_at, "
    + ", ".join(f"{column.name} = c.{column.name}" for column in CHANGED)
    + f" FROM {_arrays(CHANGED)} WHERE t.id = c.id"
)


def columns_of(rows: Rows, tasks: Iterable[Task]) -> list[tuple[Any, ...]]:
    """Return the parameters of `INSERT_TASKS` or `UPDATE_TASKS`."""
    return list(zip(*(rows.of(task, task.id, next_wake_at(task)) for task in tasks), strict=True))
