"""SQL as data."""

import re
import sqlite3
from pathlib import Path

import pytest

import swell
from swell.stores.queries import load_migrations, load_queries

DIALECTS = ["sqlite", "postgres"]
BASELINE = "".join(script for _, _, script in load_migrations("sqlite"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_migrations_are_numbered_without_gaps(dialect: str) -> None:
    numbers = [number for number, _, _ in load_migrations(dialect)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_query_compiles_against_the_schema() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(BASELINE)
    for name, statement in load_queries("sqlite").items():
        named = re.findall(r":(\w+)", re.sub(r"'[^']*'", "", statement))
        parameters = dict.fromkeys(named, 0) if named else (0,) * statement.count("?")
        try:
            connection.execute(f"EXPLAIN {statement}", parameters)
        except sqlite3.Error as error:
            pytest.fail(f"{name}: {error}")
    connection.close()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ready_head", ("q", "k", 1, 0, -1.0, "", 0, 5)),
        ("ready_lines", ()),
        ("rank", ("q", "k", 0, 1, 1.0, "x", 5)),
        ("due_ids", (0, 5)),
        ("next_wake", ()),
        ("open_shares", ()),
        ("ready_depths", ()),
        ("woken_depths", ()),
        ("task_by_id", ("x",)),
        ("retry_of", ("x",)),
        ("discarded", (5,)),
        ("key_by_digest", {"digest": b"x"}),
        ("idempotent", ("a", "b")),
    ],
)
def test_what_runs_often_never_reads_a_whole_table(name: str, parameters: object) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(BASELINE)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {load_queries('sqlite')[name]}", parameters)
    steps = [step for *_, step in plan]
    connection.close()
    scans = [step for step in steps if re.match(r"SCAN (tasks|workers|api_keys|idempotency)", step)]
    assert all("USING" in scan for scan in scans), steps


@pytest.mark.slow
def test_every_query_is_used_somewhere() -> None:
    package = Path(swell.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    unused = [name for name in load_queries("sqlite") if f'"{name}"' not in source]
    assert unused == []
