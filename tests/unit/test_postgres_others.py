"""When a backend on PostgreSQL looks at what others have accepted."""

from swell.stores.postgres.others import OVERLOOKED_S, Others

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


def test_others_can_wait_while_workers_here_get_something_of_that_queue() -> None:
    others = Others()
    assert not others.can_wait(QUEUE, 0.0)
    others.handed_out("demo/lower", 0.0)
    assert not others.can_wait(QUEUE, 0.0)
    others.handed_out(QUEUE, 0.0)
    assert others.can_wait(QUEUE, 0.0)
    assert others.can_wait(QUEUE, 0.04)
    assert not others.can_wait(QUEUE, 0.06)
    others.handed_out(QUEUE, 0.06)
    assert others.can_wait(QUEUE, 0.1)
