"""The columns of the `tasks` table. SQL and rows of both databases are made from this list."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from swell.core.pipeline_stages import Run
from swell.core.results import Artifact, TaskError, TaskWarning, Timings
from swell.core.task import Task, TaskState
from swell.core.webhook import Webhook

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

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)

#: (expression that writes the value in place of `{}`, function that reads it)
Conversion = tuple[str, Callable[[Any], Any]]

_SHARED: Final[Mapping[Any, Conversion]] = {
    TaskState: ("str({})", {state.value: state for state in TaskState}.__getitem__),
    msgspec.Raw: ('str({}, "utf-8")', msgspec.Raw),
}


class Rows:
    """Converts tasks to rows of some columns, and rows back to tasks.

    Both functions are compiled once from the list of columns, since every write calls them.

    Args:
        columns: In their order in the statement.
        native: How this database converts values of types that are not stored as JSON.
    """

    def __init__(self, columns: Sequence[Column], native: Mapping[Any, Conversion]) -> None:
        known = {**_SHARED, **native}
        # Of the names of this module, `Task`, `msgspec`, `EPOCH` and `MICROSECOND` are used.
        names: dict[str, Any] = dict(globals())
        values, fields = [], []
        for n, column in enumerate(columns):
            field = column.field or column.name
            value, read = f"task.{field}", f"row[{n}]"
            if column.kind in known:
                write, names[f"read{n}"] = known[column.kind]
                value = f"None if {value} is None else {write.format(value)}"
                read = f"None if {read} is None else read{n}({read})"
            elif column.kind not in POSTGRES_TYPES:
                names[f"read{n}"] = msgspec.json.Decoder(column.kind).decode
                empty = "()" if field in ("artifacts", "warnings") else "None"
                # An empty list is NULL.
                value = f"msgspec.json.encode({value}).decode() if {value} else None"
                read = f"{empty} if {read} is None else read{n}({read})"
            values.append(value)
            fields.append(f"{field}={read}")
        of = eval(f"lambda task, *before: (*before, {', '.join(values)})", names)
        task = eval(f"lambda row: Task({', '.join(fields)})", names)
        #: (task, more values) → a row that begins with these values.
        self.of: Callable[..., tuple[Any, ...]] = of
        #: Row → task, if these are all columns.
        self.task: Callable[[Sequence[Any]], Task] = task


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
