"""Macros of SQL statements that both databases share."""

import sqlite3

import pytest

from swell.db.schema_files import load_migrations
from swell.db.sql import Statements

SQLITE, POSTGRES = Statements("sqlite"), Statements("postgres")


def test_parameters_are_numbered_in_order_of_first_use() -> None:
    names = dict.fromkeys(("key_id", "user", "task_id", "artifact"), "x")
    sql, parameters = POSTGRES.find("unlike", names)
    assert "key_id = $1 AND user_name = $2 AND task_id = $3 AND artifact = $4" in sql
    assert parameters == ("key_id", "user", "task_id", "artifact")


def test_a_condition_is_left_out_where_its_parameter_is_none() -> None:
    for statements in (SQLITE, POSTGRES):
        some, parameters = statements.find("credits", {"key_id": "k", "limit": 1})
        assert "key_id = " in some
        assert parameters == ("key_id", "limit")
        every, parameters = statements.find("credits", {"key_id": None, "limit": 1})
        assert "key_id" not in every
        assert parameters == ("limit",)


def test_sqlite_takes_no_locks() -> None:
    assert "FOR UPDATE" in POSTGRES.find("worker_for_update", {"id": "w"}).sql
    assert "FOR UPDATE" not in SQLITE.find("worker_for_update", {"id": "w"}).sql


@pytest.mark.parametrize("statements", [SQLITE, POSTGRES], ids=["sqlite", "postgres"])
def test_no_macro_is_left_in_any_statement(statements: Statements) -> None:
    left = [name for name, sql in statements.all().items() if "{" in sql or "}" in sql]
    assert left == []


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ({}, "INTEGER PRIMARY KEY"),
        ({"task_id": "t"}, "deliveries_line"),
        ({"task_id": "t", "also_key_id": "k"}, "deliveries_line"),
        ({"endpoint": "e"}, "deliveries_endpoint"),
        ({"endpoint": "e", "also_key_id": "k"}, "deliveries_endpoint"),
        ({"key_id": "k"}, "deliveries_key"),
    ],
)
def test_pages_of_deliveries_use_an_index(where: dict[str, str], index: str) -> None:
    filters = ("task_id", "endpoint", "key_id", "also_key_id", "state", "since")
    assert index in _plan("page_deliveries", dict.fromkeys(filters) | where)


@pytest.mark.parametrize(
    ("where", "index"),
    [
        ({}, "tasks_id"),
        ({"user": "u", "is_dead": True}, "tasks_user"),
        ({"is_dead": True, "state": "failed"}, "tasks_dead"),
        ({"liked_by_key": "k", "liked_by_user": "u"}, "tasks_id (id=?)"),
    ],
)
def test_pages_of_tasks_use_an_index(where: dict[str, object], index: str) -> None:
    filters = ("state", "model", "user", "key_id", "is_dead", "is_not_dead", "liked_by_key")
    assert index in _plan("page_ids", dict.fromkeys(filters) | where)


def _plan(name: str, values: dict[str, object]) -> str:
    connection = sqlite3.connect(":memory:")
    connection.executescript("".join(script for _, _, script in load_migrations("sqlite")))
    values |= {"before": "z", "after": "a", "limit": 1}
    plan = connection.execute(f"EXPLAIN QUERY PLAN {SQLITE.find(name, values).sql}", values)
    text = "\n".join(step for *_, step in plan)
    connection.close()
    return text
