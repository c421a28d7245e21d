"""When a backend on PostgreSQL looks at what others have accepted."""

from swell.stores.postgres.others import OVERLOOKED_S, PATIENCE_S, Others

QUEUE = "demo/upper"


def test_others_are_due_until_they_were_looked_at_and_when_they_were_passed_over_long_enough() -> (
    None
):
    others = Others()
    assert others.are_due(QUEUE, 5.0)
    assert others.are_due(QUEUE, 5.0)
    others.looked(QUEUE, 5.0)
    assert not others.are_due(QUEUE, 5.0 + 0.99 * OVERLOOKED_S)
    assert others.are_due("demo/lower", 5.0)
    assert others.are_due(QUEUE, 5.0 + 1.01 * OVERLOOKED_S)
    others.looked(QUEUE, 5.0 + 1.01 * OVERLOOKED_S)
    assert not others.are_due(QUEUE, 5.0 + 1.99 * OVERLOOKED_S)


def test_who_has_had_no_work_of_his_own_takes_what_is_there_at_once() -> None:
    others = Others()
    assert others.least_age_s(QUEUE, 0.0) == 0.0
    others.served("demo/lower", 0.0)
    assert others.least_age_s(QUEUE, 0.0) == 0.0
    others.served(QUEUE, 0.0)
    assert others.least_age_s(QUEUE, 1.0) == 0.0


def test_who_was_busy_a_moment_ago_takes_what_has_waited_and_asks_now_and_then() -> None:
    others = Others()
    others.served(QUEUE, 1.0)
    assert others.least_age_s(QUEUE, 1.001) == PATIENCE_S
    assert others.least_age_s(QUEUE, 1.001 + 0.9 * PATIENCE_S) is None
    assert others.least_age_s(QUEUE, 1.001 + 1.1 * PATIENCE_S) == PATIENCE_S
