"""Names of lanes, what travels in them, and how much of it at most."""

import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from conformance.factories import a_lease_request, a_new_task
from swell import task as life
from swell.brokers.lanes import Lane, Message, Turns, lane_of, letter_of, read
from swell.brokers.window import Window
from swell.clock import ManualClock
from swell.task import Task

queues = st.text(min_size=1, max_size=120)


def a_task(user: str | None = None, priority: int = 1) -> Task:
    now = ManualClock().now()
    return life.accept(a_new_task(user=user, priority=priority), task_id=life.new_id(now), now=now)


@given(queues, st.booleans())
def test_a_lane_has_a_name_that_sqs_and_nats_allow(queue: str, is_usual: bool) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,57}", Lane(queue, is_usual).name)


@given(st.lists(st.tuples(queues, st.booleans()), unique=True, max_size=20))
def test_two_lanes_have_two_names(lanes: list[tuple[str, bool]]) -> None:
    assert len({Lane(*lane).name for lane in lanes}) == len(lanes)


def test_a_message_holds_the_id_of_its_task() -> None:
    task = a_task(priority=5)
    lane = lane_of(task)
    assert lane == Lane("demo/upper", False)
    message = Message(lane=lane, body=letter_of(task).body, handle="x", times=1)
    assert read(message) == task.id


@given(st.binary(max_size=200))
def test_a_message_that_somebody_else_has_sent_is_read_as_none(body: bytes) -> None:
    message = Message(lane=Lane("demo/upper", True), body=body, handle="x", times=1)
    assert read(message) is None


def test_an_offer_has_its_own_mark_and_the_same_one_when_it_is_repeated() -> None:
    task = a_task()
    assert letter_of(task).mark == letter_of(task).mark
    assert letter_of(task).mark != letter_of(task, again=1).mark


flows = st.lists(st.sampled_from(["ann", "bob", "eve", None]), max_size=60)


@given(flows, st.integers(1, 20), st.integers(1, 20))
def test_a_window_holds_so_many_and_of_one_flow_so_many(
    users: list[str | None], size: int, flow_size: int
) -> None:
    window = Window(size, flow_size)
    tasks = [a_task(user) for user in users]
    added = window.add(tasks, 0.0)
    assert len(window) == len(added) <= size
    assert max(Counter(task.user for task in added).values(), default=0) <= flow_size
    assert window.is_behind is (len(added) < len(tasks))
    assert window.add(added, 1.0) == []
    window.remove(task.id for task in added)
    assert (len(window), window.room) == (0, size)


def test_an_id_that_is_sent_again_and_again_waits_longer_each_time() -> None:
    window = Window(1, 1)
    [task] = window.add([a_task()], 0.0)
    [(_, place)] = window.sent_before(0.0)
    waits, now_s = [], 0.0
    for _ in range(6):
        sent_s = now_s
        while not place.is_late(now_s, reoffer_s=30.0):
            now_s += 1.0
        waits.append(now_s - sent_s)
        place.sent_s, place.again = now_s, place.again + 1
    assert waits == [30.0, 60.0, 120.0, 240.0, 240.0, 240.0]
    assert window.knows(task)


def test_a_worker_looks_into_all_lanes_that_it_serves_the_usual_ones_first() -> None:
    turns = Turns()
    request = a_lease_request(models={"demo/a": "v1", "demo/b": "v2"})
    lanes = turns.lanes(request)
    assert [lane.is_usual for lane in lanes] == [True] * 4 + [False] * 4
    served = {"demo/a", "demo/a:v1", "demo/b", "demo/b:v2"}
    assert {lane.queue for lane in lanes[:4]} == {lane.queue for lane in lanes[4:]} == served


def test_models_take_turns_and_so_do_tasks_pinned_to_a_version() -> None:
    turns = Turns()
    request = a_lease_request(models={"demo/a": "v1", "demo/b": "v2"})
    first = []
    for _ in range(8):
        lane = turns.lanes(request)[0]
        turns.note(request, [lane.model])
        first.append(lane)
    assert Counter(lane.queue for lane in first) == dict.fromkeys(
        ["demo/a", "demo/a:v1", "demo/b", "demo/b:v2"], 2
    )
