"""Start-time fair queueing: what it promises, over any arrivals."""

import heapq
import itertools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.core import fair_queueing
from swell.core.fair_queueing import (
    MOST_PASSED,
    USUAL_PRIORITY,
    VirtualClock,
    band,
    note_passed,
    prefer,
    rotate,
    take_turns,
    turns_before,
)


class Queue:
    """A broker of one queue, reduced to its order of service."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.waiting: list[tuple[float, int, str, float]] = []
        self.running: list[tuple[float, int, str, float]] = []
        self._arrivals = 0

    def arrive(self, flow: str, cost: float = 1.0) -> None:
        start = self.clock.tag(flow, cost)
        heapq.heappush(self.waiting, (start, self._arrivals, flow, cost))
        self._arrivals += 1

    def serve(self) -> tuple[str, float]:
        """Hand out the next task and return whose it was and what it costs."""
        task = heapq.heappop(self.waiting)
        self.clock.serve(task[0])
        self.running.append(task)
        return task[2], task[3]

    def come_back(self) -> None:
        """The task that was handed out last failed and is ready again; it keeps its tag."""
        heapq.heappush(self.waiting, self.running.pop())

    def restart(self, *, was_served: set[int]) -> None:
        """Forget the clock and rebuild it from the tasks, as a store does."""
        self.clock = VirtualClock()
        fresh = [task for task in self.waiting if task[1] not in was_served]
        served = [task for task in self.waiting if task[1] in was_served] + self.running
        self.clock.restore(
            [(flow, start, cost) for start, _, flow, cost in fresh],
            [(flow, start, cost) for start, _, flow, cost in served],
        )


costs = st.integers(1, 20)


@given(
    ann=st.lists(costs, min_size=1, max_size=40),
    bob=st.lists(costs, min_size=1, max_size=40),
    before=st.lists(st.tuples(st.sampled_from(["ann", "bob", "eve"]), costs), max_size=30),
)
def test_two_backlogged_flows_differ_by_at_most_one_largest_task_each(
    ann: list[int], bob: list[int], before: list[tuple[str, int]]
) -> None:
    queue = Queue()
    for flow, cost in before:
        queue.arrive(flow, cost)
        queue.serve()
    for cost in ann:
        queue.arrive("ann", cost)
    for cost in bob:
        queue.arrive("bob", cost)
    left = {"ann": len(ann), "bob": len(bob)}
    received = {"ann": 0.0, "bob": 0.0}
    # A flow's earlier tasks count towards its largest: it may have been served just now.
    largest = {"ann": max(ann), "bob": max(bob), "eve": 0}
    for flow, cost in before:
        largest[flow] = max(largest[flow], cost)
    bound = largest["ann"] + largest["bob"]
    while min(left.values()):
        flow, cost = queue.serve()
        left[flow] -= 1
        received[flow] += cost
        assert abs(received["ann"] - received["bob"]) <= bound


@given(idle_for=st.integers(0, 500), burst=st.integers(1, 50))
def test_a_flow_that_was_idle_gets_no_credit(idle_for: int, burst: int) -> None:
    queue = Queue()
    queue.arrive("ann")
    queue.serve()
    for _ in range(idle_for + 2 * burst):
        queue.arrive("bob")
    for _ in range(idle_for):
        queue.serve()
    for _ in range(burst):
        queue.arrive("ann")
    served = [queue.serve()[0] for _ in range(2 * burst)]
    assert abs(served.count("ann") - served.count("bob")) <= 2


@pytest.mark.parametrize("served_before", [0, 1, 5_000, 9_999])
@pytest.mark.parametrize("busy_flows", [0, 1, 10])
def test_a_flood_delays_anothers_task_by_at_most_one_task_of_each_busy_flow(
    served_before: int, busy_flows: int
) -> None:
    queue = Queue()
    for _ in range(10_000):
        queue.arrive("flood")
    for flow in range(busy_flows):
        for _ in range(served_before // (busy_flows + 1) + 10):
            queue.arrive(f"busy-{flow}")
    for _ in range(served_before):
        queue.serve()
    queue.arrive("ann")
    before_ann = []
    while (flow := queue.serve()[0]) != "ann":
        before_ann.append(flow)
    assert all(before_ann.count(flow) <= 1 for flow in set(before_ann))
    assert len(before_ann) <= busy_flows + 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from("abcd")),
        st.tuples(st.just("serve"), st.none()),
        st.tuples(st.just("come back"), st.none()),
        st.tuples(st.just("end"), st.none()),
    ),
    max_size=60,
)


@given(steps)
def test_tags_of_one_flow_never_decrease(steps: list[tuple[str, str | None]]) -> None:
    queue = Queue()
    last: dict[str, float] = {}
    for step, flow in steps:
        if flow is not None:
            start = queue.clock.tag(flow)
            assert start >= last.get(flow, 0.0)
            last[flow] = start
            queue.waiting.append((start, len(queue.waiting), flow, 1.0))
            queue.waiting.sort()
        elif step == "serve" and queue.waiting:
            queue.serve()


@pytest.mark.slow
@given(steps)
@settings(max_examples=200)
def test_a_restart_keeps_the_bound_on_the_delay(steps: list[tuple[str, str | None]]) -> None:
    queue = Queue()
    was_served: set[int] = set()
    for step, flow in steps:
        if flow is not None:
            queue.arrive(flow)
        elif step == "serve" and queue.waiting:
            queue.serve()
            was_served.add(queue.running[-1][1])
        elif step == "come back" and queue.running:
            queue.come_back()
        elif step == "end" and queue.running:
            queue.running.pop(0)
    queue.restart(was_served=was_served)
    # Tasks that came back are owed from before; everybody else waits one task of each busy flow.
    owed = [number for _, number, _, _ in queue.waiting if number in was_served]
    queue.arrive("new")
    queue.arrive("new")
    served = []
    while queue.waiting:
        _, number, flow, _ = queue.waiting[0]
        queue.serve()
        if number not in owed:
            served.append(flow)
    before = served[: served.index("new")]
    assert all(before.count(flow) <= 1 for flow in set(before))
    # Nor does the new flow get credit: whoever has waited comes before its second task.
    waited = {task[2] for task in queue.running if task[1] not in was_served} - {"new"}
    second = [at for at, flow in enumerate(served) if flow == "new"][1]
    assert waited <= set(served[:second])


def test_a_task_that_came_back_before_a_restart_gives_new_flows_no_credit() -> None:
    queue = Queue()
    for _ in range(2_000):
        queue.arrive("ann")
    queue.serve()
    queue.come_back()
    old = heapq.heappop(queue.waiting)
    for _ in range(1_000):
        queue.serve()
    queue.running.clear()
    heapq.heappush(queue.waiting, old)
    queue.restart(was_served={old[1]})
    for _ in range(100):
        queue.arrive("bob")
    served = [queue.serve()[0] for _ in range(20)]
    assert abs(served.count("ann") - served.count("bob")) <= 2


def test_a_task_that_ran_over_a_restart_does_not_wait_behind_all_later_ones() -> None:
    queue = Queue()
    for _ in range(1_000):
        queue.arrive("ann")
        queue.serve()
    queue.running = queue.running[-1:]
    queue.restart(was_served=set(range(1_000)))
    for _ in range(500):
        queue.arrive("bob")
    queue.come_back()
    assert "ann" in {queue.serve()[0] for _ in range(2)}


def test_a_crowd_of_busy_flows_does_not_make_tags_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    forget = VirtualClock._forget_idle

    def counted(clock: VirtualClock) -> None:
        nonlocal looks
        looks += 1
        forget(clock)

    monkeypatch.setattr(VirtualClock, "_forget_idle", counted)
    clock = VirtualClock()
    for number in range(20 * fair_queueing.MAX_IDLE_FLOWS):
        clock.tag(f"user-{number}")
    assert looks <= 6


def test_idle_flows_are_forgotten() -> None:
    clock = VirtualClock()
    for number in range(3 * fair_queueing.MAX_IDLE_FLOWS):
        clock.serve(clock.tag(f"user-{number}") + 1)
    assert len(clock._finish) <= fair_queueing.MAX_IDLE_FLOWS


# ---- two levels


class Levels:
    """The tasks of one model and band, with keys above users."""

    def __init__(self) -> None:
        self.turns = VirtualClock()
        self.clocks: dict[str, VirtualClock] = defaultdict(VirtualClock)
        self.lines: dict[str, list[tuple[float, int, str, int]]] = {}
        self._arrivals = 0

    def arrive(self, key: str, user: str = "", cost: int = 1) -> None:
        start = self.clocks[key].tag(user, cost)
        heapq.heappush(self.lines.setdefault(key, []), (start, self._arrivals, user, cost))
        self._arrivals += 1

    def serve(self) -> tuple[str, str, int]:
        """Hand out the next task and return its key, user and cost."""
        waiting = [key for key, line in self.lines.items() if line]
        nexts = self.turns.starts(waiting)
        key = next(take_turns(nexts, lambda key: iter([(self.lines[key][0][3], key)])))
        start, _, user, cost = heapq.heappop(self.lines[key])
        self.turns.tag(key, cost, is_served=True)
        self.clocks[key].serve(start)
        return key, user, cost


requests = st.lists(st.tuples(st.sampled_from("uvwxyz"), costs), min_size=1, max_size=30)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from("ABC"), requests, min_size=2))
def test_two_backlogged_keys_differ_by_one_largest_task_each_whatever_users_they_name(
    asked: dict[str, list[tuple[str, int]]],
) -> None:
    levels = Levels()
    for key, tasks in asked.items():
        for user, cost in tasks:
            levels.arrive(key, user, cost)
    left = {key: len(tasks) for key, tasks in asked.items()}
    received = dict.fromkeys(asked, 0)
    largest = {key: max(cost for _, cost in tasks) for key, tasks in asked.items()}
    while min(left.values()):
        key, _, cost = levels.serve()
        left[key] -= 1
        received[key] += cost
        for one, other in itertools.combinations(asked, 2):
            assert abs(received[one] - received[other]) <= largest[one] + largest[other]


@given(users=st.integers(1, 60), each=st.integers(1, 5), before=st.integers(0, 40))
def test_invented_users_do_not_delay_a_quiet_key(users: int, each: int, before: int) -> None:
    levels = Levels()
    for number in range(users * each):
        levels.arrive("crowd", f"user-{number % users}")
    for _ in range(min(before, users * each)):
        levels.serve()
    levels.arrive("quiet")
    assert "quiet" in {levels.serve()[0] for _ in range(min(2, 1 + len(levels.lines["crowd"])))}


@given(st.lists(st.sampled_from(["arrive", "serve"]), max_size=40), st.integers(1, 20))
def test_users_of_one_key_share_what_it_gets_whatever_another_key_does(
    noise: list[str], n: int
) -> None:
    levels = Levels()
    for user in ("ann", "bob"):
        for _ in range(n):
            levels.arrive("key", user)
    received = {"ann": 0, "bob": 0}
    steps = itertools.chain(noise, itertools.repeat("serve"))
    while max(received.values()) < n:
        if next(steps) == "arrive":
            levels.arrive("other", f"user-{len(levels.lines)}")
            continue
        key, user, _ = levels.serve()
        if key == "key":
            received[user] += 1
            assert abs(received["ann"] - received["bob"]) <= 2


@given(
    lines=st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 20), min_size=1),
    served=st.integers(0, 30),
    cost=st.integers(1, 3),
    data=st.data(),
)
def test_the_turns_before_a_task_are_those_that_are_taken(
    lines: dict[str, int], served: int, cost: int, data: st.DataObject
) -> None:
    levels = Levels()
    for key, n in lines.items():
        for _ in range(n):
            levels.arrive(key, cost=cost)
    for _ in range(min(served, sum(lines.values()) - 1)):
        levels.serve()
    waiting = {key: len(line) for key, line in levels.lines.items() if line}
    mine = data.draw(st.sampled_from(sorted(waiting)))
    place = data.draw(st.integers(0, waiting[mine] - 1))
    start = levels.turns.peek(mine) + place * cost
    told, wins_tie = place, True
    for key, n in waiting.items():
        if key == mine:
            wins_tie = False
            continue
        lead = start - levels.turns.peek(key)
        told += turns_before(lead, n, cost, wins_tie=wins_tie)
    order = [levels.serve()[0] for _ in range(sum(waiting.values()))]
    at = [number for number, key in enumerate(order) if key == mine][place]
    assert at == told


@given(st.integers(0, 9), st.integers(0, 9))
def test_no_priority_comes_before_another_keys_usual_one(mine: int, others: int) -> None:
    assert band(mine) >= band(USUAL_PRIORITY)
    if mine > others >= USUAL_PRIORITY:
        assert band(mine) > band(others)


def test_peeking_changes_nothing() -> None:
    clock = VirtualClock()
    clock.serve(clock.tag("ann"))
    assert [clock.peek("ann"), clock.peek("bob"), clock.peek("ann")] == [1.0, 0.0, 1.0]
    assert clock.tag("ann") == 1.0


names = st.text("abcdef", min_size=1, max_size=2)


@given(st.dictionaries(names, st.integers(0, 3)), st.one_of(st.none(), names))
def test_rotation_serves_every_model_once_and_the_most_urgent_first(
    heads: dict[str, int], last: str | None
) -> None:
    order = rotate(heads, last)
    assert sorted(order) == sorted(heads)
    classes = [heads[name] for name in order]
    assert classes == sorted(classes)


@given(st.sets(names, min_size=1, max_size=8), st.one_of(st.none(), names))
def test_rotation_starves_nobody_of_the_same_class(models: set[str], last: str | None) -> None:
    heads = dict.fromkeys(models, 1)
    served = []
    for _ in range(len(models)):
        last = rotate(heads, last)[0]
        served.append(last)
    assert set(served) == models


@pytest.mark.slow
@given(
    st.sets(names, min_size=2, max_size=6),
    st.lists(st.integers(0, 7), min_size=20, max_size=40),
)
def test_a_model_that_always_has_work_is_served_within_one_round_of_the_others(
    models: set[str], comings: list[int]
) -> None:
    steady, *others = sorted(models)
    waited, last = 0, None
    for bits in comings:
        # Any set of the others has work at this moment.
        busy = {name for index, name in enumerate(others) if (bits >> (index % 3)) & 1}
        last = rotate(dict.fromkeys({steady, *busy}, 1), last)[0]
        waited = 0 if last == steady else waited + 1
        assert waited <= len(others)


names = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)


@pytest.mark.slow
@given(names, names, st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3)), st.data())
def test_preferring_what_is_at_hand_keeps_models_and_bands(
    waiting: list[str], near: list[str], bands: dict[str, int], data: st.DataObject
) -> None:
    heads = {name: bands.get(name, 0) for name in waiting}
    passed = {name: data.draw(st.integers(0, MOST_PASSED)) for name in waiting}
    turn = rotate(heads, data.draw(st.sampled_from([None, *"abcdef"])))
    order = prefer(turn, heads, near, passed)
    assert sorted(order) == sorted(turn)
    assert [heads[name] for name in order] == sorted(heads.values())
    assert prefer(turn, heads, [], {}) == turn


@pytest.mark.slow
@given(st.lists(st.sets(st.sampled_from("abcde"), min_size=1), min_size=1), names)
def test_no_model_is_passed_in_its_turn_more_often_than_the_bound(
    waits: list[set[str]], near: list[str]
) -> None:
    passed: dict[str, int] = {}
    last = None
    for waiting in waits * 30:
        heads = dict.fromkeys(waiting, 1)
        turn = rotate(heads, last)
        last = prefer(turn, heads, near, passed)[0]
        note_passed(turn, {last}, passed)
        # Of several that are due at once, one is served by each lease.
        assert max(passed.values(), default=0) < MOST_PASSED + 5


def test_a_model_whose_turn_it_was_long_enough_is_served_before_what_is_at_hand() -> None:
    heads, passed = {"far": 1, "near": 1}, {"far": MOST_PASSED}
    assert prefer(["far", "near"], heads, ["near"], passed) == ["far", "near"]
    note_passed(["far", "near"], {"far"}, passed)
    assert prefer(["far", "near"], heads, ["near"], passed) == ["near", "far"]
