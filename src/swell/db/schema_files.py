"""The migrations of a database, as SQL files."""

from importlib.resources import files


def load_migrations(dialect: str) -> list[tuple[int, str, str]]:
    """Return (number, name, script) of every migration of `sqlite` or `postgres`, in order."""
    found = []
    for entry in (files("swell.db") / "schema" / dialect).iterdir():
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        found.append((int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found)
