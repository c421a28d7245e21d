"""SQL as data: named queries and migrations from the `sql` folder."""

import re
from importlib.resources import files
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_SQL = files("swell.stores") / "sql"


def load_queries(dialect: str) -> MappingProxyType[str, str]:
    """Return name → statement of one dialect (`sqlite`, `postgres`).

    Raises:
        ValueError: Two statements have the same name.
    """
    text = (_SQL / "queries" / f"{dialect}.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"{dialect}.sql has two queries named {name}")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        queries[name] = "\n".join(lines).strip().removesuffix(";")
    return MappingProxyType(queries)


def load_migrations(dialect: str) -> list[tuple[int, str, str]]:
    """Return (number, name, script) of every migration, in order."""
    found = []
    for entry in (_SQL / "migrations" / dialect).iterdir():
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        found.append((int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found)
