"""SQL as data: named queries and migrations."""

from importlib.resources import files

from swell.db.sql import Statements

_SQL = files("swell.stores") / "sql"


def load_queries(dialect: str) -> dict[str, str]:
    """Return name → statement of one dialect (`sqlite`, `postgres`)."""
    return Statements(dialect).all()


def load_migrations(dialect: str) -> list[tuple[int, str, str]]:
    """Return (number, name, script) of every migration, in order."""
    found = []
    for entry in (_SQL / "migrations" / dialect).iterdir():
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        found.append((int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found)
