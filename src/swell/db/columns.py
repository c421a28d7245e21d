"""The columns of the `tasks` table. SQL and rows of both databases are made from this list."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec

from swell.results import Artifact, TaskError, TaskWarning, Timings
from swell.stages import Run
from swell.task import Task, TaskState
from swell.webhook import Webhook

#: Bits of the column `removed`.
INPUTS_REMOVED: Final = 1
OUTPUTS_REMOVED: Final = 2


class Column(NamedTuple):
    """One column of `tasks`.

    Args:
        name: In the table.
        kind: Type of the value. Types other than those of `POSTGRES_TYPES` are stored as JSON.
        changes: Whether updates of a task write it.
        field: The field of `Task`, if it has another name.
        read_as: The expression to read, for a value that no insert or update of a task writes.
    """

    name: str
    kind: Any = str
    changes: bool = False
    field: str = ""
    read_as: str = ""


COLUMNS: Final = (
    Column("id"),
    Column("model"),
    Column("queue", changes=True),
    Column("version", changes=True),
    Column("state", TaskState, changes=True),
    Column("input", msgspec.Raw),
    Column("count", int),
    Column("seed", int, changes=True),
    Column("priority", int),
    Column("key_id"),
    Column("user_id", field="user"),
    Column("metadata", msgspec.Raw),
    Column("created_at", datetime),
    Column("start_by_at", datetime),
    Column("finish_by_at", datetime),
    Column("available_at", datetime, changes=True),
    Column("tag", float, changes=True),
    Column("attempt", int, changes=True),
    Column("handed_back", int, changes=True),
    Column("max_attempts", int),
    Column("worker_id", changes=True),
    Column("lease_token", changes=True),
    Column("lease_expires_at", datetime, changes=True),
    Column("cancel_requested", bool, changes=True),
    Column("started_at", datetime, changes=True),
    Column("finished_at", datetime, changes=True),
    Column("output", msgspec.Raw, changes=True),
    Column("artifacts", tuple[Artifact, ...], changes=True),
    Column("warnings", tuple[TaskWarning, ...], changes=True),
    Column("error", TaskError, changes=True),
    Column("timings", Timings, changes=True),
    Column("dead", bool, changes=True),
    Column("retry_of"),
    Column("checkpoint", changes=True),
    Column("traceparent"),
    Column("webhook", Webhook),
    Column("run", Run, changes=True),
    Column("inputs_removed", bool, read_as=f"t.removed & {INPUTS_REMOVED} <> 0"),
    Column("outputs_removed", bool, read_as=f"t.removed & {OUTPUTS_REMOVED} <> 0"),
)

#: What an insert writes, and what an update does.
NEW: Final = tuple(column for column in COLUMNS if not column.read_as)
CHANGED: Final = tuple(column for column in COLUMNS if column.changes)

#: What a `SELECT` from `tasks AS t` reads.
SELECTED: Final = ", ".join(
    f"{column.read_as or f't.{column.name}'} AS {column.name}" for column in COLUMNS
)

POSTGRES_TYPES: Final = {
    str: "text",
    int: "bigint",
    float: "double precision",
    bool: "boolean",
    datetime: "timestamptz",
}

#: (how a value is written, how it is read)
Conversion = tuple[Callable[[Any], Any], Callable[[Any], Any]]

_SHARED: Final[Mapping[Any, Conversion]] = {
    TaskState: (str, {state.value: state for state in TaskState}.__getitem__),
    msgspec.Raw: (lambda raw: str(raw, "utf-8"), msgspec.Raw),
}


def _json(kind: Any) -> Conversion:
    return _as_json, msgspec.json.Decoder(kind).decode


def _as_json(value: Any) -> str | None:
    return None if value == () else msgspec.json.encode(value).decode()


class Rows:
    """Converts tasks to rows of some columns, and rows back to tasks.

    Args:
        columns: In their order in the statement.
        native: How this database converts types that have no JSON form here.
    """

    def __init__(self, columns: Sequence[Column], native: Mapping[Any, Conversion]) -> None:
        known = dict.fromkeys(POSTGRES_TYPES) | dict(_SHARED) | dict(native)
        converted = [
            (place, known[column.kind] if column.kind in known else _json(column.kind))
            for place, column in enumerate(columns)
        ]
        self._writes = [(place, each[0]) for place, each in converted if each]
        self._reads = [(place, each[1]) for place, each in converted if each]
        self._fields = [column.field or column.name for column in columns]
        self._values = attrgetter(*self._fields)

    def of(self, task: Task) -> list[Any]:
        """Return the row of a task."""
        row = list(self._values(task))
        for place, write in self._writes:
            if row[place] is not None:
                row[place] = write(row[place])
        return row

    def task(self, row: Iterable[Any]) -> Task:
        """Return the task of a row; NULL means the default of a field."""
        values = list(row)
        for place, read in self._reads:
            if values[place] is not None:
                values[place] = read(values[place])
        found = zip(self._fields, values, strict=True)
        return Task(**{field: value for field, value in found if value is not None})


def removed_row(task: Task) -> dict[str, Any]:
    """Return the row of `remove_parts`, which is the same for both databases."""
    removed = INPUTS_REMOVED * task.inputs_removed | OUTPUTS_REMOVED * task.outputs_removed
    names = [column.name for column in _REMOVED]
    values = dict(zip(names, _REMOVED_ROWS.of(task), strict=True))
    return {"id": task.id, "removed": removed, **values}


_REMOVED: Final = tuple(
    column
    for column in COLUMNS
    if column.name in ("input", "metadata", "output", "artifacts", "warnings", "error", "run")
)
_REMOVED_ROWS: Final = Rows(_REMOVED, {})
