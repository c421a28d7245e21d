"""What an attempt leaves to the next one, as a file."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.protocol.worker_messages import LeasedTask
from swell.worker.task_inputs import UnusableCheckpoint, packed, unpacked


def a_task(**fields: object) -> LeasedTask:
    values: dict[str, object] = {
        "task_id": "t1",
        "attempt": 1,
        "token": "k",
        "model": "demo/curve",
        "version": "v",
        "input": msgspec.Raw(b"{}"),
        "count": 3,
    }
    return LeasedTask(**(values | fields))  # type: ignore[arg-type]


SAMPLES = {0: b"first", 2: bytes(1000)}
FILE = packed(a_task(), "cuda:0", True, 7, SAMPLES)


def test_the_next_attempt_gets_the_samples_and_the_seed_of_a_task_without_one() -> None:
    left = unpacked(FILE, a_task(attempt=2, token="other"), "cuda:1", True)
    assert (left.samples, left.seed) == (SAMPLES, 7)


@pytest.mark.parametrize(
    ("task", "device", "exact", "what"),
    [
        (a_task(version="w"), "cuda", True, "version v, and not w"),
        (a_task(model="demo/other"), "cuda", True, "model"),
        (a_task(task_id="t2"), "cuda", True, "task"),
        (a_task(count=4), "cuda", True, "count"),
        (a_task(), "cpu", True, "device cuda, and not cpu"),
        (a_task(), "cuda", False, "exact True, and not False"),
    ],
)
def test_what_was_left_of_something_else_is_refused(
    task: LeasedTask, device: str, exact: bool, what: str
) -> None:
    with pytest.raises(UnusableCheckpoint, match=what):
        unpacked(FILE, task, device, exact)


def test_samples_that_no_task_has_are_refused() -> None:
    with pytest.raises(UnusableCheckpoint, match="below 0"):
        unpacked(packed(a_task(), "cuda", True, 7, {-1: b""}), a_task(), "cuda", True)


def test_a_task_of_packs_has_more_samples_than_its_count() -> None:
    samples = dict.fromkeys(range(9), b"one")
    left = unpacked(packed(a_task(), "cuda", True, 7, samples), a_task(), "cuda", True)
    assert left.samples == samples


@given(at=st.integers(0, len(FILE) - 1), bit=st.integers(0, 7))
def test_a_file_with_a_wrong_bit_is_refused(at: int, bit: int) -> None:
    broken = bytearray(FILE)
    broken[at] ^= 1 << bit
    with pytest.raises(UnusableCheckpoint):
        unpacked(bytes(broken), a_task(), "cuda", True)


@given(st.binary(max_size=200) | st.integers(0, len(FILE) - 1).map(lambda n: FILE[:n]))
def test_any_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(UnusableCheckpoint):
        unpacked(raw, a_task(), "cuda", True)
