"""What runs together."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from swell.core.records import ModelCard
from swell.models.stub import Noop
from swell.sdk.define import define
from swell.worker.batching import batch_key, next_batch, next_to_draw, room_of
from swell.worker.worker_loop import default_slots
from swell_models.simulated_gpu import CurveModel


@dataclass(eq=False)
class Job:
    """A task that waits."""

    name: Any
    samples: int = 1
    key: str = "k"
    alone: bool = False
    model: str = "m"


entries = st.lists(
    st.builds(
        Job,
        name=st.none(),
        samples=st.integers(1, 6),
        key=st.sampled_from(["a", "b", "c"]),
        alone=st.booleans(),
    ),
    max_size=40,
)


def batches_of(jobs: list[Job], limit: int) -> list[list[Job]]:
    waiting, batches = deque(jobs), []
    while batch := next_batch(waiting, {"m": limit}):
        batches.append(batch)
    assert not waiting
    return batches


def names(jobs: list[Job]) -> list[Any]:
    return [job.name for job in jobs]


@given(entries, st.integers(1, 8))
def test_every_task_is_taken_exactly_once(jobs: list[Job], limit: int) -> None:
    taken = [job for batch in batches_of(jobs, limit) for job in batch]
    assert sorted(map(id, taken)) == sorted(map(id, jobs))


@given(entries, st.integers(1, 8))
def test_a_batch_never_mixes_keys_nor_grows_beyond_its_limit(jobs: list[Job], limit: int) -> None:
    for batch in batches_of(jobs, limit):
        assert len({job.key for job in batch}) == 1
        assert sum(job.samples for job in batch) <= limit or len(batch) == 1


@given(entries, st.integers(1, 8))
def test_a_task_that_must_run_alone_does(jobs: list[Job], limit: int) -> None:
    for batch in batches_of(jobs, limit):
        assert len(batch) == 1 or not any(job.alone for job in batch)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 8))
def test_the_task_that_waits_longest_is_first_and_order_holds_within_a_key(
    keys: list[str], limit: int
) -> None:
    batches = batches_of([Job(number, key=key) for number, key in enumerate(keys)], limit)
    leaders = [batch[0].name for batch in batches]
    assert leaders == sorted(leaders)
    for key in "abc":
        order = [job.name for batch in batches for job in batch if job.key == key]
        assert order == sorted(order)


def test_a_large_task_does_not_let_later_ones_pass_it() -> None:
    waiting = deque([Job("a", 3), Job("large", 3), Job("b", 1)])
    batches = [names(next_batch(waiting, {"m": 4})) for _ in range(2)]
    assert batches == [["a"], ["large", "b"]]


def test_a_batch_lets_others_pass_as_long_as_it_says_and_no_task_waits_for_nothing() -> None:
    waiting = deque([Job("far", key="far", model="far"), Job("n1", key="n1"), Job("n2", key="n2")])
    limits = {"far": 1, "m": 4}
    assert names(next_batch(waiting, limits, lambda job: job.model == "far")) == ["n1"]
    assert names(next_batch(waiting, limits)) == ["far"]
    assert names(next_batch(waiting, limits, lambda job: True)) == ["n2"]
    assert next_batch(waiting, limits) == []


def card(*batch_by: str, **defaults: Any) -> ModelCard:
    properties = {name: {"default": value} for name, value in defaults.items()}
    return msgspec.structs.replace(
        define(Noop).card(), batch_by=batch_by, input_schema={"properties": properties}
    )


def key(of: ModelCard, fields: Any) -> Any:
    return batch_key(of, msgspec.Raw(msgspec.json.encode(fields)))


def test_inputs_share_a_key_if_their_named_fields_are_equal() -> None:
    sized = card("width", width=64)
    assert key(sized, {"width": 64, "prompt": "a"}) == key(sized, {"prompt": "b"})
    assert key(sized, {"width": 64}) != key(sized, {"width": 65})
    assert key(sized, {"width": {"b": 1, "a": 2}}) == key(sized, {"width": {"a": 2, "b": 1}})


def test_an_input_that_is_not_an_object_gets_a_key_too() -> None:
    assert key(card("width"), [1]) == key(card("width"), "x")


def test_without_named_fields_all_inputs_share_a_key() -> None:
    noop = define(Noop).card()
    assert noop.max_batch == 256
    assert key(noop, {"text": "a"}) == key(noop, {"text": "b"})


# --- models that draw in steps -------------------------------------------------------------------


def test_there_is_room_for_a_step_and_for_the_tasks_that_come_next() -> None:
    card = define(CurveModel).card()
    assert (card.step_bucket, card.step_rows) == (8, 16)
    assert room_of(card) == 16
    assert room_of(msgspec.structs.replace(card, step_bucket=4)) == 10
    assert room_of(msgspec.structs.replace(card, step_bucket=1, step_rows=8)) == 8
    assert room_of(msgspec.structs.replace(card, step_bucket=1, step_rows=32)) == 20
    # Where all steps have one row, a crowd is of no use.
    one = msgspec.structs.replace(card, step_bucket=1, step_rows=32)
    assert room_of(one, is_pinned=True) == 8
    assert default_slots([one], pinned={one.name}) == 9
    assert room_of(define(Noop).card()) == 0
    assert default_slots([card, define(Noop).card()]) == 512
    assert default_slots([card]) == 24
    assert default_slots([card] * 9, in_turn=True) == 4 * 24


def filled(waiting: deque[Job], inside: list[Job], **rooms: int) -> list[Any]:
    """Move tasks inside until there is no room; return their names."""
    moved = []
    while (job := next_to_draw(waiting, inside, rooms)) is not None:
        inside.append(job)
        moved.append(job.name)
    return moved


def test_tasks_go_in_until_there_is_no_room_and_then_one_for_one() -> None:
    waiting = deque([Job("a", 2), Job("large", 9), Job("c", 1)])
    inside: list[Job] = []
    assert filled(waiting, inside, m=3) == ["a", "large"]
    assert filled(waiting, inside[1:], m=3) == []
    assert filled(waiting, [], m=3) == ["c"]


def test_a_task_that_waits_for_one_model_does_not_hold_up_others() -> None:
    waiting = deque([Job("a"), Job("b"), Job("c", model="n")])
    inside: list[Job] = []
    assert filled(waiting, inside, m=1, n=1) == ["a", "c"]
    assert filled(waiting, inside[1:], m=1, n=1) == ["b"]


def test_one_that_is_alone_waits_for_an_empty_process_and_has_it_to_itself() -> None:
    a, suspect = Job("a"), Job("suspect", alone=True)
    waiting = deque([suspect, Job("b")])
    assert filled(waiting, [a], m=9) == []
    inside: list[Job] = []
    assert filled(waiting, inside, m=9) == ["suspect"]
    assert inside == [suspect]
    assert filled(waiting, [], m=9) == ["b"]


@given(count=st.integers(1, 40), poison=st.integers(0, 39), room=st.integers(1, 50))
def test_a_task_that_kills_the_process_is_found_at_its_second_death(
    count: int, poison: int, room: int
) -> None:
    poison %= count
    waiting = deque(Job(number) for number in range(count))
    finished: list[int] = []
    deaths = 0
    while len(finished) < count:
        inside: list[Job] = []
        moved = filled(waiting, inside, m=room)
        assert moved
        deaths += poison in moved
        if poison not in moved or moved == [poison]:
            finished += moved
            continue
        for job in reversed(inside):
            job.alone = True
            waiting.appendleft(job)
    assert sorted(finished) == list(range(count))
    assert deaths <= 2
