"""What a worker holds and has to tell."""

import msgspec

from swell.dispatch import LeasedTask
from swell.task import Canceled, Released
from swell.worker.desk import Desk, Held


def a_leased_task(task_id: str = "t1", attempt: int = 1) -> LeasedTask:
    return LeasedTask(
        task_id=task_id,
        attempt=attempt,
        token="k",
        model="demo/noop",
        version="v",
        input=msgspec.Raw(b"{}"),
    )


def hold(desk: Desk, task_id: str = "t1", attempt: int = 1) -> Held:
    return desk.hold(a_leased_task(task_id, attempt), "key", 0.0)


def test_a_slot_is_free_again_once_the_outcome_is_told_and_not_before() -> None:
    desk = Desk(slots=2)
    held = hold(desk)
    assert desk.free == 1
    desk.settle(held, Canceled())
    assert desk.free == 1
    desk.take()
    assert desk.free == 1
    desk.told()
    assert desk.free == 2


def test_of_two_outcomes_the_first_counts() -> None:
    desk = Desk(slots=2)
    held = hold(desk)
    desk.settle(held, Canceled())
    desk.settle(held, Released())
    assert [each.outcome for each in desk.take().settlements] == [Canceled()]


def test_progress_that_was_not_told_is_replaced_and_places_grow() -> None:
    desk = Desk(slots=2)
    held = hold(desk)
    desk.tell(held, "progress", {"step": 1})
    desk.tell(held, "preview", {"image": "a"})
    desk.tell(held, "progress", {"step": 2})
    page = desk.take()
    assert [(each.kind, each.place) for each in page.progress] == [("preview", 2), ("progress", 3)]
    desk.told()
    desk.tell(held, "progress", {"step": 3})
    assert [each.place for each in desk.take().progress] == [4]


def test_an_ended_task_tells_no_progress() -> None:
    desk = Desk(slots=2)
    held = hold(desk)
    desk.settle(held, Canceled())
    desk.tell(held, "progress", {})
    assert desk.take().progress == []


def test_leases_are_named_only_when_a_heartbeat_is_due() -> None:
    desk = Desk(slots=2)
    hold(desk)
    assert desk.take().is_empty
    desk.beat()
    assert [each.task_id for each in desk.take().holds] == ["t1"]
    assert desk.take().is_empty


def test_an_empty_desk_does_not_beat() -> None:
    desk = Desk(slots=2)
    desk.beat()
    assert not desk.news.is_set()


def test_the_desk_is_clear_when_everything_is_told() -> None:
    desk = Desk(slots=2)
    held = hold(desk)
    assert not desk.is_clear.is_set()
    desk.settle(held, Canceled())
    desk.take()
    assert not desk.is_clear.is_set()
    desk.told()
    assert desk.is_clear.is_set()


def test_a_new_attempt_of_a_task_does_not_end_with_the_old_one() -> None:
    desk = Desk(slots=2)
    old, new = hold(desk), hold(desk, attempt=2)
    desk.settle(old, Canceled())
    assert desk.held["t1"] is new
    assert new.alone
    assert not old.alone
