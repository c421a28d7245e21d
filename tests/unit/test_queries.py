"""SQL as data."""

import re
import sqlite3
from pathlib import Path

import msgspec
import pytest

import swell
from swell.comparisons import Comparison
from swell.stores.queries import load_migrations, load_queries, load_schema
from swell.stores.sqlite.rows import micros
from swell.testing.comparisons import NOW, a_comparison

DIALECTS = ["sqlite", "postgres"]


def layout(scripts: list[str]) -> dict[tuple[str, str], str]:
    """Return (type, name) → statement of everything that the scripts make, spaces aside."""
    with sqlite3.connect(":memory:") as connection:
        for script in scripts:
            connection.executescript(script)
        rows = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE sql NOT NULL")
        found = {
            (kind, name): re.sub(r" ?([(),]) ?", r"\1", re.sub(r"\s+", " ", sql))
            for kind, name, sql in rows
        }
    connection.close()
    return found


def test_the_schema_is_what_all_migrations_make() -> None:
    migrated = layout([script for _, _, script in load_migrations("sqlite")])
    assert layout([load_schema("sqlite")]) == migrated
    assert migrated


@pytest.mark.parametrize("dialect", DIALECTS)
def test_migrations_are_numbered_without_gaps(dialect: str) -> None:
    numbers = [number for number, _, _ in load_migrations(dialect)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_keys_of_batches_from_before_are_found_under_their_new_names() -> None:
    scripts = [script for _, _, script in load_migrations("sqlite")]
    with sqlite3.connect(":memory:") as connection:
        for script in scripts[:2]:
            connection.executescript(script)
        for key in ("k#0", "k#1", "k#12", "#3", "plain", "with#word", "s#0", "s"):
            row = ("key-1", key, b"f", f"task of {key}", 7)
            connection.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)", row)
        connection.executescript(scripts[2])
        found = dict(connection.execute("SELECT key, task_id FROM idempotency"))
    connection.close()
    assert found["k"] == "task of k#0"
    assert found["k\n1"] == "task of k#1"
    assert found["k\n12"] == "task of k#12"
    assert found["s"] == "task of s"
    assert {found[key] for key in ("k#0", "plain", "with#word", "#3")} == {
        *("task of k#0", "task of plain", "task of with#word", "task of #3")
    }
    assert len(found) == 8 + 3


def test_a_ledger_from_before_is_added_up() -> None:
    scripts = [script for _, _, script in load_migrations("sqlite")]
    day = 86_400 * 10**6
    rows = [
        ("a-ready", 0, "cold_start", "p", "m", "w", "a", "ready", 2.5, 7),
        ("a-died", day, "cold_start", "p", "m", "", "a", "died", 1.0, 3),
        ("b-ready", 1, "cold_start", "p", "m", "w", "b", "ready", 4.0, None),
    ]
    with sqlite3.connect(":memory:") as connection:
        for script in scripts[:12]:
            connection.executescript(script)
        columns = "id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros"
        connection.executemany(f"INSERT INTO ledger ({columns}) VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
        connection.executescript(scripts[12])
        accounts = connection.execute("SELECT * FROM accounts ORDER BY id").fetchall()
        kept = "day, kind, pool, model, is_priced, seconds, micros"
        days = connection.execute(f"SELECT {kept} FROM costs ORDER BY 1, 5").fetchall()
    connection.close()
    assert accounts == [("a", 3.5, 10), ("b", 4.0, 0)]
    assert days == [
        (0, "cold_start", "p", "", 0, 4.0, 0),
        (0, "cold_start", "p", "", 1, 2.5, 7),
        (1, "cold_start", "p", "", 1, 1.0, 3),
    ]


def test_comparisons_from_before_are_outlined() -> None:
    scripts = [script for _, _, script in load_migrations("sqlite")]
    whole = a_comparison("a", created_at=NOW.replace(microsecond=0), is_shared=True)
    with sqlite3.connect(":memory:") as connection:
        for script in scripts[:17]:
            connection.executescript(script)
        for kept, closed_at in ((whole, 7), (a_comparison("b"), None)):
            row = (kept.id, closed_at, msgspec.json.encode(kept).decode())
            connection.execute("INSERT INTO comparisons VALUES (?, ?, ?)", row)
        connection.execute("INSERT INTO votes VALUES ('b', 0, 'k', 'ben', 1, 9)")
        connection.executescript(scripts[17])
        found = connection.execute("SELECT * FROM comparison_outlines ORDER BY id").fetchall()
        bodies = connection.execute("SELECT id, body FROM comparisons ORDER BY id").fetchall()
    connection.close()
    assert found == [
        ("a", "key-1", 1, "foxes", micros(whole.created_at), 7, 2, 1, 0),
        ("b", "key-1", 0, "foxes", micros(NOW), None, 2, 1, 1),
    ]
    assert msgspec.json.decode(bodies[0][1], type=Comparison) == whole


def test_every_query_compiles_against_the_schema() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(load_schema("sqlite"))
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
        ("ready_head", ("q", "k", 1, 0, -1.0, "", 5)),
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
        ("key_by_digest", (b"x",)),
        ("idempotent", ("a", "b")),
    ],
)
def test_what_runs_often_never_reads_a_whole_table(name: str, parameters: tuple[object]) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(load_schema("sqlite"))
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
