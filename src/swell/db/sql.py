"""Named statements that run on SQLite and PostgreSQL.

`queries/shared.sql` holds those that both databases share, the other files those of one. They have
`:name` parameters and these macros:

    {each ids}                   a subquery over the texts of the parameter `ids`, as `value`
    {rows id text, at time}      a subquery over the dictionaries of the parameter `rows`; SQLite
                                 runs the statement once for each of them instead
    {if key_id: AND ...}         nothing if the parameter `key_id` is None
    {lock FOR SHARE}             nothing on SQLite, which has one writer
    {task}                       the columns of a row of `tasks AS t`, as in `swell.db.columns`

Rows come back as dictionaries. On SQLite the name of a column says how it is stored: `at`, `_at`
and `_until` are times, `is_` and `has_` are booleans.
"""

import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from swell.core.clock import Clock
from swell.core.task import Task
from swell.db.columns import SELECTED

if TYPE_CHECKING:
    from swell.db.transaction import State

R = TypeVar("R")
T = TypeVar("T", bound=msgspec.Struct)
Row = dict[str, Any]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")
_EACH = re.compile(r"\{each ([a-z_]+)\}")
_IN_EACH = re.compile(r"(?<!NOT )IN \(\{each ([a-z_]+)\}\)")
_ROWS = re.compile(r"\{rows ([^{}]+)\}")
_IF = re.compile(r"\{if ([a-z_]+): ([^{}]+)\}")
_LOCK = re.compile(r"\{lock ([^{}]+)\}")
_POSTGRES_TYPES: Final = {
    "text": "text",
    "int": "bigint",
    "real": "double precision",
    "time": "timestamptz",
}

#: Sorts after every id.
LAST_ID: Final = "~"


class Transaction(Protocol):
    """Statements that commit together."""

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        """Run a statement and return its rows, or those it names in `RETURNING`."""

    async def lock(self, scope: str, keys: Iterable[str], *, is_shared: bool = False) -> None:
        """Serialize with other transactions that lock one of these keys, until commit.

        Shared locks only wait for locks that are not shared.
        """

    async def lock_tasks(self, task_ids: Iterable[str]) -> list[Task]:
        """Return those of these tasks that exist; no other transaction changes them until commit.

        If the caller changes their rows, the task store reads them again.
        """


class Database(Protocol):
    """A database, as repositories see it."""

    #: `sqlite` or `postgres`.
    dialect: str

    @property
    def clock(self) -> Clock:
        """The time that is written."""

    @property
    def state(self) -> "State":
        """What the writer keeps in memory between its transactions."""

    async def fetch(self, query: str, **values: Any) -> list[Row]:
        """Read the last committed state."""

    async def scan(self, query: str, **values: Any) -> list[Row]:
        """Read as `fetch` does, but without blocking the event loop if it takes long."""

    async def execute(self, query: str, **values: Any) -> list[Row]:
        """Run one statement that writes; return the rows it names in `RETURNING`."""

    async def transaction(
        self, action: Callable[[Transaction], Awaitable[R]], *, frees_space: bool = False
    ) -> R:
        """Run `action` and commit. It may run twice, and must await nothing but its argument.

        An action that frees space also succeeds on a full disk.
        """

    def check_room(self) -> None:
        """Raise if the disk has room for a start and for erasing only.

        Raises:
            Unavailable: With what to do.
        """


class Statement(NamedTuple):
    """SQL for one dialect, and its parameters in order."""

    sql: str
    parameters: tuple[str, ...]


class Statements:
    """The named statements of one dialect, `sqlite` or `postgres`."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        shared = files("swell.db") / "queries" / "shared.sql"
        own = files("swell.db") / "queries" / f"{dialect}.sql"
        texts = _parse(shared.read_text("utf-8") + own.read_text("utf-8"))
        self._texts = {name: _with_lists(text, dialect) for name, text in texts.items()}
        self._optional = {
            name: tuple(found[0] for found in _IF.findall(text))
            for name, text in self._texts.items()
        }
        self._rendered = functools.cache(self._render)

    def find(self, name: str, values: Mapping[str, Any]) -> Statement:
        """Return a statement without the conditions for which `values` has None."""
        absent = tuple(each for each in self._optional[name] if values[each] is None)
        return self._rendered(name, absent)

    def all(self) -> dict[str, str]:
        """Return name → SQL of every statement, with all of its conditions."""
        return {name: self._rendered(name, ()).sql for name in self._texts}

    def _render(self, name: str, absent: tuple[str, ...]) -> Statement:
        text = _IF.sub(lambda found: "" if found[1] in absent else found[2], self._texts[name])
        if self._dialect == "sqlite":
            text = _LOCK.sub("", _ROWS.sub(_sqlite_rows, text))
            return Statement(text, tuple(_PARAMETER.findall(text)))
        text = _LOCK.sub(r"\1", _ROWS.sub(_postgres_rows, text))
        order = list(dict.fromkeys(_PARAMETER.findall(text)))
        text = _PARAMETER.sub(lambda found: f"${order.index(found[1]) + 1}", text)
        return Statement(text, tuple(order))


def _with_lists(text: str, dialect: str) -> str:
    """Replace the macros `each` and `task`, which may stand inside of `if`."""
    text = text.replace("{task}", SELECTED)
    if dialect == "sqlite":
        return _EACH.sub(r"SELECT value FROM json_each(:\1)", text)
    text = _IN_EACH.sub(r"= ANY(:\1::text[])", text)
    return _EACH.sub(r"SELECT unnest(:\1::text[]) AS value", text)


def _parse(text: str) -> dict[str, str]:
    _, *parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"there are two queries named {name}")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        queries[name] = "\n".join(lines).strip().removesuffix(";")
    return queries


def _columns(found: re.Match[str]) -> list[tuple[str, str]]:
    columns = [column.split() for column in found[1].split(",")]
    return [(name, kind) for name, kind in columns]


def _sqlite_rows(found: re.Match[str]) -> str:
    return "SELECT " + ", ".join(f":{name} AS {name}" for name, _ in _columns(found))


def _postgres_rows(found: re.Match[str]) -> str:
    columns = (f"{name} {_POSTGRES_TYPES[kind]}" for name, kind in _columns(found))
    return f"SELECT * FROM json_to_recordset(:rows::json) AS r ({', '.join(columns)})"


def to_json(value: object) -> str:
    """Return a value as JSON."""
    return msgspec.json.encode(value).decode()


def bodies(rows: Sequence[Row], record: type[T], *columns: str) -> list[T]:
    """Return the records that are stored as JSON in `body`, with the values of some columns."""
    found = []
    for row in rows:
        stored = msgspec.json.decode(row["body"], type=record)
        values = {name: row[name] for name in columns}
        found.append(msgspec.structs.replace(stored, **values) if values else stored)
    return found
