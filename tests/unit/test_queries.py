"""SQL as data."""

import re
import sqlite3
from pathlib import Path

import pytest

import swell
from swell.db.schema_files import load_migrations
from swell.db.sql import Statements

DIALECTS = ["sqlite", "postgres"]
BASELINE = "".join(script for _, _, script in load_migrations("sqlite"))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_migrations_are_numbered_without_gaps(dialect: str) -> None:
    numbers = [number for number, _, _ in load_migrations(dialect)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_query_compiles_against_the_schema() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(BASELINE)
    for name, statement in Statements("sqlite").all().items():
        named = re.findall(r":(\w+)", re.sub(r"'[^']*'", "", statement))
        parameters = dict.fromkeys(named, "[]") if named else (0,) * statement.count("?")
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
        (
            "ranks",
            dict.fromkeys(("queue", "key_id", "least", "priority", "tag", "task_id", "bound")),
        ),
        ("due_tasks", {"now": 0, "limit": 5}),
        ("next_wake", ()),
        ("open_shares", ()),
        ("ready_depths", ()),
        ("woken_depths", ()),
        ("tasks_by_id", {"ids": "[]"}),
        ("repeat_of", {"task_id": "x"}),
        ("discarded", {"limit": 5}),
        ("overlong_waits", {"least": 0, "lease": 0, "backoff": 0, "limit": 5}),
        ("ended_ids", {"before": 0, "models": "[]", "except_models": "[]", "limit": 5}),
        ("files_of", {"ids": "[]"}),
        ("key_by_digest", {"digest": b"x"}),
        ("idempotent", {"key_id": "a", "key": "b"}),
    ],
)
def test_what_runs_often_never_reads_a_whole_table(name: str, parameters: object) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(BASELINE)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {Statements('sqlite').all()[name]}", parameters)
    steps = [step for *_, step in plan]
    connection.close()
    scans = [step for step in steps if re.match(r"SCAN (tasks|workers|api_keys|idempotency)", step)]
    assert all("USING" in scan for scan in scans), steps


@pytest.mark.slow
def test_every_query_is_used_somewhere() -> None:
    package = Path(swell.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    unused = [name for name in Statements("sqlite").all() if f'"{name}"' not in source]
    assert unused == []
