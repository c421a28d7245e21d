"""What runs together."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from swell.models.stub import Noop
from swell.sdk.define import define
from swell.worker.batching import Batching, BatchQueue, StepAdmission, batching_of, room_of
from swell.worker.worker_loop import default_slots
from swell_models.simulated_gpu import CurveModel

PLAIN = Batching(model="test/a", max=4, by=(), defaults={})

entries = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),  # key
        st.integers(1, 6),  # samples
        st.booleans(),  # alone
        st.booleans(),  # put back
    ),
    max_size=40,
)


def filled(wanted: list[tuple[str, int, bool, bool]], limit: int) -> BatchQueue[int]:
    backlog: BatchQueue[int] = BatchQueue()
    batching = Batching(model="test/a", max=limit, by=("key",), defaults={})
    for number, (key, samples, alone, is_back) in enumerate(wanted):
        put = backlog.put_back if is_back else backlog.add
        put(number, batching, key, samples=samples, alone=alone)
    return backlog


def emptied(backlog: BatchQueue[int]) -> list[list[int]]:
    batches = []
    while batch := backlog.take():
        batches.append(batch)
    return batches


@given(entries, st.integers(1, 8))
def test_everybody_is_taken_exactly_once(
    wanted: list[tuple[str, int, bool, bool]], limit: int
) -> None:
    backlog = filled(wanted, limit)
    assert len(backlog) == len(wanted)
    batches = emptied(backlog)
    assert sorted(number for batch in batches for number in batch) == list(range(len(wanted)))
    assert len(backlog) == 0


@given(entries, st.integers(1, 8))
def test_a_batch_never_mixes_keys_nor_grows_beyond_its_limit(
    wanted: list[tuple[str, int, bool, bool]], limit: int
) -> None:
    for batch in emptied(filled(wanted, limit)):
        assert len({wanted[number][0] for number in batch}) == 1
        samples = sum(wanted[number][1] for number in batch)
        assert samples <= limit or len(batch) == 1


@given(entries, st.integers(1, 8))
def test_who_must_be_alone_is_alone(wanted: list[tuple[str, int, bool, bool]], limit: int) -> None:
    for batch in emptied(filled(wanted, limit)):
        assert len(batch) == 1 or not any(wanted[number][2] for number in batch)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 8))
def test_whoever_waits_longest_leads_and_order_holds_within_a_key(
    keys: list[str], limit: int
) -> None:
    batches = emptied(filled([(key, 1, False, False) for key in keys], limit))
    leaders = [batch[0] for batch in batches]
    assert leaders == sorted(leaders)
    for key in "abc":
        order = [number for batch in batches for number in batch if keys[number] == key]
        assert order == sorted(order)


def test_who_was_put_back_comes_before_who_waits() -> None:
    backlog: BatchQueue[str] = BatchQueue()
    backlog.add("waits", PLAIN, "k", samples=1)
    for name in ("second", "first"):
        backlog.put_back(name, PLAIN, "k", samples=1)
    assert backlog.take() == ["first", "second", "waits"]


def test_a_large_task_does_not_let_later_ones_pass_it() -> None:
    backlog: BatchQueue[str] = BatchQueue()
    for name, samples in (("a", 3), ("large", 3), ("b", 1)):
        backlog.add(name, PLAIN, "k", samples=samples)
    assert [backlog.take(), backlog.take()] == [["a"], ["large", "b"]]


def test_a_batch_lets_others_pass_as_long_as_it_says_and_nobody_waits_for_nothing() -> None:
    far = Batching(model="far", max=1, by=(), defaults={})
    backlog: BatchQueue[str] = BatchQueue()
    backlog.add("far", far, "far", samples=1)
    for name in ("near 1", "near 2"):
        backlog.add(name, PLAIN, name, samples=1)
    assert backlog.models == {"far", PLAIN.model}
    assert backlog.take(lambda model, _: model == "far") == ["near 1"]
    assert backlog.take(lambda model, _: False) == ["far"]
    assert backlog.take(lambda model, _: True) == ["near 2"]
    assert backlog.models == set()


def key(batching: Batching, fields: Any) -> Any:
    return batching.key(msgspec.Raw(msgspec.json.encode(fields)))


def test_inputs_share_a_key_if_their_named_fields_are_equal() -> None:
    batching = Batching(model="test/a", max=4, by=("width",), defaults={"width": 64})
    assert key(batching, {"width": 64, "prompt": "a"}) == key(batching, {"prompt": "b"})
    assert key(batching, {"width": 64}) != key(batching, {"width": 65})
    assert key(batching, {"width": {"b": 1, "a": 2}}) == key(batching, {"width": {"a": 2, "b": 1}})


def test_an_input_that_is_not_an_object_gets_a_key_too() -> None:
    batching = Batching(model="test/a", max=4, by=("width",), defaults={})
    assert key(batching, [1]) == key(batching, "x")


def test_the_card_says_how_to_batch() -> None:
    batching = batching_of(define(Noop).card())
    assert (batching.model, batching.max) == ("demo/noop", 256)
    assert key(batching, {"text": "a"}) == key(batching, {"text": "b"})


# --- models that draw in steps -------------------------------------------------------------------


def test_there_is_room_for_a_step_and_for_who_comes_next() -> None:
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


def test_tasks_go_in_until_there_is_no_room_and_then_one_for_one() -> None:
    line: StepAdmission[str] = StepAdmission({"m": 3})
    for name, samples in (("a", 2), ("large", 9), ("c", 1)):
        line.add(name, "m", samples)
    assert [line.take(), line.take(), line.take()] == ["a", "large", None]
    line.leave("a")
    line.leave("a")
    assert line.take() is None
    line.leave("large")
    assert (line.take(), len(line)) == ("c", 0)


def test_who_waits_for_one_model_does_not_hold_up_others() -> None:
    line: StepAdmission[str] = StepAdmission({"m": 1, "n": 1})
    for name, model in (("a", "m"), ("b", "m"), ("c", "n")):
        line.add(name, model, 1)
    assert [line.take(), line.take(), line.take()] == ["a", "c", None]
    line.leave("a")
    assert (line.take(), len(line)) == ("b", 0)


def test_one_that_is_alone_waits_for_an_empty_process_and_has_it_to_itself() -> None:
    line: StepAdmission[str] = StepAdmission({"m": 9})
    line.add("a", "m", 1)
    line.add("b", "m", 1)
    assert line.take() == "a"
    line.put_back("suspect", "m", 1, alone=True)
    assert line.take() is None
    line.leave("a")
    assert [line.take(), line.take()] == ["suspect", None]
    line.leave("suspect")
    line.add("c", "m", 1)
    assert [line.take(), line.take()] == ["b", "c"]
    line.leave_all()
    line.add("d", "m", 1)
    assert line.take() == "d"


@given(count=st.integers(1, 40), poison=st.integers(0, 39), room=st.integers(1, 50))
def test_who_kills_the_process_is_found_at_its_second_death(
    count: int, poison: int, room: int
) -> None:
    poison %= count
    line: StepAdmission[int] = StepAdmission({"m": room})
    for number in range(count):
        line.add(number, "m", 1)
    finished: list[int] = []
    deaths = 0
    while len(finished) < count:
        inside = []
        while (number := line.take()) is not None:
            inside.append(number)
        assert inside
        line.leave_all()
        if poison in inside:
            deaths += 1
        if poison not in inside or inside == [poison]:
            finished += inside
            continue
        for number in reversed(inside):
            line.put_back(number, "m", 1, alone=True)
    assert sorted(finished) == list(range(count))
    assert deaths <= 2
