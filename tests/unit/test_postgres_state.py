"""What a backend on PostgreSQL remembers between its transactions."""

from swell.db.postgres.postgres_transaction import PostgresState
from swell.db.transaction import Line


def test_counting_again_replaces_the_counts_of_these_queues_only() -> None:
    state = PostgresState()
    state.count("one", 1, "a", 3, 3)
    state.count("other", 1, "a", 1, 1)
    state.recount(["one"], [("one", 0, "b", 2, 5)])
    assert state.lines["one"] == {1: {"b": Line(2, 5)}}
    state.recount(["one"], [])
    assert state.lines == {"other": {1: {"a": Line(1, 1)}}}


def test_keys_that_were_counted_before_stay_in_their_order() -> None:
    state = PostgresState()
    for key_id in ("c", "a"):
        state.count("one", 1, key_id, 1, 1)
    state.recount(["one"], [("one", 1, key_id, 2, 2) for key_id in ("a", "b", "c")])
    assert list(state.lines["one"][1]) == ["c", "a", "b"]
