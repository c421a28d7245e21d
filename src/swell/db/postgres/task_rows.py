"""The statement that writes a group of tasks, and its parameters.

Each column goes to the server as one array, or as one value where all rows have the same: most of
what a group writes is alike, and the client library checks each element of an array.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from swell.db.columns import CHANGED, COLUMNS, NEW, POSTGRES_TYPES, Rows
from swell.db.transaction import StoredTask

#: The ID is always sent as an array.
_OTHER: Final = tuple(column for column in NEW if column.name != "id")

_STORED, _NEW, _CHANGED = (Rows(columns, {}) for columns in (COLUMNS, _OTHER, CHANGED))

#: Name → type of each column that is sent.
_TYPES: Final = {
    column.name: POSTGRES_TYPES.get(column.kind, "text") for column in (*NEW, *CHANGED)
} | {"edition": "bigint", "wake_at": "timestamptz"}
_CHANGED_NAMES: Final = ("id", "edition", "wake_at", *(column.name for column in CHANGED))
_NEW_NAMES: Final = ("id", "wake_at", *(column.name for column in _OTHER))
_KEY_TYPES: Final = ("text", "text", "text", "bytea", "timestamptz")


def _select(names: Sequence[str], first: int) -> str:
    """Return a query over arrays and single values; $first is the first of the arrays."""
    arrays = [f"${first + n}::{_TYPES[name]}[]" for n, name in enumerate(names)]
    values = [
        f"coalesce(a.{name}, ${first + len(names) + n}::{_TYPES[name]}) AS {name}"
        for n, name in enumerate(names)
    ]
    return f"SELECT {', '.join(values)} FROM unnest({', '.join(arrays)}) AS a ({', '.join(names)})"


_FIRST_NEW: Final = 2 * len(_CHANGED_NAMES) + 1
_FIRST_KEY: Final = _FIRST_NEW + 2 * len(_NEW_NAMES)

#: Writes all changes of a transaction, or nothing if another one has changed one of these tasks
#: since it was read. Rows are locked in the order of their ids, so that two never wait in a circle.
WRITE_TASKS: Final = f"""
WITH changed AS ({_select(_CHANGED_NAMES, 1)}), locked AS (
    SELECT t.id FROM changed AS c JOIN tasks AS t ON t.id = c.id AND t.edition = c.edition
    ORDER BY t.id FOR UPDATE OF t
), verdict AS (
    SELECT (SELECT count(*) FROM locked) = (SELECT count(*) FROM changed) AS is_current
), saved AS (
    UPDATE tasks AS t SET edition = t.edition + 1,
        {", ".join(f"{name} = c.{name}" for name in _CHANGED_NAMES[2:])}
    FROM changed AS c WHERE t.id = c.id AND (SELECT is_current FROM verdict)
), inserted AS (
    INSERT INTO tasks (edition, {", ".join(_NEW_NAMES)})
    SELECT 0, n.* FROM ({_select(_NEW_NAMES, _FIRST_NEW)}) AS n
    WHERE (SELECT is_current FROM verdict)
), kept AS (
    INSERT INTO idempotency (key_id, key, task_id, fingerprint, created_at)
    SELECT k.* FROM unnest(
        {", ".join(f"${_FIRST_KEY + n}::{kind}[]" for n, kind in enumerate(_KEY_TYPES))}
    ) AS k WHERE (SELECT is_current FROM verdict)
)
SELECT is_current FROM verdict
"""


def stored_task(record: Sequence[Any]) -> StoredTask:
    """Return what a record of `{task}` has."""
    return StoredTask(_STORED.task(record[2:]), record[0], record[1])


def write_parameters(
    changed: Iterable[StoredTask], new: Iterable[StoredTask], keys: Iterable[tuple[Any, ...]]
) -> list[Any]:
    """Return the parameters of `WRITE_TASKS`.

    Args:
        changed: Tasks to update, with the editions that were read.
        new: Tasks to insert.
        keys: Rows of `idempotency`.
    """
    changes = [_CHANGED.of(task, task.id, edition, wake_at) for task, edition, wake_at in changed]
    inserts = [_NEW.of(task, task.id, wake_at) for task, _, wake_at in new]
    columns = list(zip(*keys, strict=True)) or [()] * len(_KEY_TYPES)
    return [
        *_columns(changes, len(_CHANGED_NAMES)),
        *_columns(inserts, len(_NEW_NAMES)),
        *columns,
    ]


def _columns(rows: Sequence[tuple[Any, ...]], n: int) -> list[Any]:
    """Return n arrays, then n single values; a column with the one has None for the other."""
    if not rows:
        return [None] * (2 * n)
    ids, *others = zip(*rows, strict=True)
    is_single = [column.count(column[0]) == len(rows) for column in others]
    both = list(zip(others, is_single, strict=True))
    arrays = [None if single else column for column, single in both]
    values = [column[0] if single else None for column, single in both]
    return [ids, *arrays, None, *values]
