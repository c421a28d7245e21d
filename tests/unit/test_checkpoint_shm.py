"""Checkpoints in memory that a worker shares with its model process."""

import itertools
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from swell.runtime.checkpoint_shm import (
    CheckpointMemory,
    Kept,
    Page,
    decode_checkpoint,
    new_slate,
    read_slate,
)

SAMPLE = {"seed": 7, "identity": "a model, 9 steps", "x_bytes": 48, "h_bytes": 16}


@pytest.fixture
def file() -> Iterator[BinaryIO]:
    with new_slate() as file:
        yield file


@pytest.fixture
def slate(file: BinaryIO) -> CheckpointMemory:
    return CheckpointMemory(file.fileno())


def write(page: Page, step: int, x_bytes: int = 48, h_bytes: int = 16) -> None:
    page.write(
        step, memoryview(bytes([step]) * x_bytes), memoryview(bytes([~step & 255]) * h_bytes)
    )


def found(file: BinaryIO, *handles: int) -> dict[tuple[int, int], int]:
    """Return the steps of the samples that are found, all of whose bytes are of that step."""
    steps = {}
    for kept in read_slate(file.fileno(), handles):
        checkpoint = decode_checkpoint(kept.checkpoint)
        step = checkpoint.step
        assert set(checkpoint.x) == {step}
        assert checkpoint.h is None or set(checkpoint.h) == {~step & 255}
        steps[kept.handle, kept.index] = step
    return steps


def test_what_was_written_last_is_found(file: BinaryIO, slate: CheckpointMemory) -> None:
    page = slate.page(1, 3, **SAMPLE)
    assert found(file, 1) == {}
    for step in (1, 2, 5):
        write(page, step)
        assert found(file, 1) == {(1, 3): step}
    [kept] = read_slate(file.fileno(), [1])
    assert isinstance(kept, Kept)
    assert kept.seed == 7
    checkpoint = decode_checkpoint(kept.checkpoint)
    assert checkpoint.identity == "a model, 9 steps"
    assert (len(checkpoint.x), len(checkpoint.h or b"")) == (48, 16)


def test_what_was_narrowed_is_found_so(file: BinaryIO, slate: CheckpointMemory) -> None:
    page = slate.page(1, 0, 7, "", 48, 0)
    for is_narrowed in (False, True):
        page.write(4, memoryview(bytes(48)), is_narrowed=is_narrowed)
        [kept] = read_slate(file.fileno(), [1])
        checkpoint = decode_checkpoint(kept.checkpoint)
        assert (checkpoint.step, checkpoint.is_narrowed) == (4, is_narrowed)


def test_a_solver_that_keeps_nothing_has_nothing(file: BinaryIO, slate: CheckpointMemory) -> None:
    slate.page(1, 0, 7, "", 48, 0).write(4, memoryview(bytes(48)))
    [kept] = read_slate(file.fileno(), [1])
    assert decode_checkpoint(kept.checkpoint).h is None


def test_only_the_samples_of_those_tasks_are_found(file: BinaryIO, slate: CheckpointMemory) -> None:
    for handle in (1, 2, 3):
        for index in (0, 1):
            write(slate.page(handle, index, **SAMPLE), handle + index)
    assert found(file, 1, 3, 9) == {(1, 0): 1, (1, 1): 2, (3, 0): 3, (3, 1): 4}


def test_a_page_that_was_given_back_is_empty_and_serves_the_next(
    file: BinaryIO, slate: CheckpointMemory
) -> None:
    first = slate.page(1, 0, **SAMPLE)
    write(first, 1)
    size = os.fstat(file.fileno()).st_size
    slate.give_back(first)
    assert found(file, 1) == {}
    second = slate.page(2, 0, **SAMPLE)
    assert os.fstat(file.fileno()).st_size == size
    # A thread that comes too late writes nothing over another sample.
    write(first, 5)
    assert found(file, 1, 2) == {}
    write(second, 2)
    write(first, 6)
    assert found(file, 1, 2) == {(2, 0): 2}


def test_a_small_sample_takes_no_page_of_a_large_one(
    file: BinaryIO, slate: CheckpointMemory
) -> None:
    large = slate.page(1, 0, 7, "", 16 << 20, 0)
    slate.give_back(large)
    size = os.fstat(file.fileno()).st_size
    assert slate.page(2, 0, 7, "", 48, 0).leaf is not large.leaf
    assert slate.page(3, 0, 7, "", (16 << 20) - 4096, 0).leaf is large.leaf
    assert os.fstat(file.fileno()).st_size < size + (16 << 20)


@pytest.mark.slow
def test_samples_of_any_sizes_are_found(file: BinaryIO, slate: CheckpointMemory) -> None:
    rng = random.Random(3)
    pages: list[tuple[int, Page]] = []
    for handle in range(300):
        size = rng.choice([48, 4096, 70_000, 1 << 20])
        page = slate.page(handle, 0, 7, "", size, 0)
        page.write(1, memoryview(b"\x01" * size))
        pages.append((handle, page))
        if rng.random() < 0.5:
            slate.give_back(pages.pop(rng.randrange(len(pages)))[1])
    assert found(file, *range(300)) == {(handle, 0): 1 for handle, _ in pages}


def test_pages_take_few_open_files(slate: CheckpointMemory) -> None:
    before = len(os.listdir("/proc/self/fd"))
    pages = [slate.page(handle, 0, **SAMPLE) for handle in range(300)]
    assert len(pages) == 300
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_where_there_is_no_memory_a_page_is_refused(
    file: BinaryIO, slate: CheckpointMemory
) -> None:
    with pytest.raises(OSError, match="no place"):
        slate.page(1, 0, 7, "", 1 << 40, 0)
    with Path("/dev/full").open("rb") as full, pytest.raises(OSError, match="Errno"):
        CheckpointMemory(full.fileno()).page(1, 0, **SAMPLE)


def test_a_page_that_says_it_is_larger_than_any_is_left_out(
    file: BinaryIO, slate: CheckpointMemory
) -> None:
    """Its size would be what the reader takes of memory."""
    write(slate.page(1, 0, **SAMPLE), 1)
    os.ftruncate(file.fileno(), 1 << 45)
    for word, value in ((2, 1 << 45), (4, 1 << 40)):
        os.pwrite(file.fileno(), struct.pack("=Q", value), 8 * word)
    assert read_slate(file.fileno(), [1]) == []


@pytest.mark.slow
def test_whoever_kills_the_writer_finds_whole_checkpoints(file: BinaryIO) -> None:
    """At any moment: what was written last, or before it, and never half of both."""
    x_bytes, seen = 256 * 1024, set()
    for trial in range(20):
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:  # pragma: no cover - another process
            os.close(reads)
            _write_on(file.fileno(), trial, x_bytes, writes)
        os.close(writes)
        # Sometimes at once, and sometimes after some of its steps.
        for _ in range(trial + 1):
            assert os.read(reads, 1) == b"."
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reads)
        [step] = found(file, trial).values()
        seen.add(step)
        os.ftruncate(file.fileno(), 0)
    assert len(seen) > 1, "they were all killed at the same step"


def _write_on(fd: int, handle: int, x_bytes: int, ready: int) -> None:
    try:
        page = CheckpointMemory(fd).page(handle, 0, 7, "", x_bytes, 64)
        for count in itertools.count():
            write(page, count % 250 + 1, x_bytes, 64)
            if count < 20:
                os.write(ready, b".")
    finally:
        sys.stderr.write("the writer ended by itself\n")
        os._exit(1)


def test_who_reads_while_the_writer_lives_finds_whole_ones_too(file: BinaryIO) -> None:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - another process
        _write_on(file.fileno(), 1, 4096, writes)
    try:
        os.read(reads, 1)
        steps: list[int] = []
        until_s = time.monotonic() + 20
        # The writer may have no turn for a while.
        while len(steps) < 2000 or (len(set(steps)) < 2 and time.monotonic() < until_s):
            steps += found(file, 1).values()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reads)
        os.close(writes)
    assert len(set(steps)) > 1


@pytest.mark.parametrize("seed", range(30))
def test_a_slate_full_of_nonsense_is_survived(
    file: BinaryIO, slate: CheckpointMemory, seed: int
) -> None:
    random_ = random.Random(seed)
    for handle in (1, 2, 3):
        write(slate.page(handle, 0, **SAMPLE), handle)
    size = os.fstat(file.fileno()).st_size
    for _ in range(random_.randrange(1, 8)):
        word = random_.choice([0, 1, 63, 4096, 2**31, 2**63, 2**64 - 1, random_.getrandbits(64)])
        at = random_.choice([0, 4096, 8192]) + 8 * random_.randrange(12)
        os.pwrite(file.fileno(), struct.pack("=Q", word), at)
    if seed % 3 == 0:
        os.ftruncate(file.fileno(), random_.randrange(size))
    for kept in read_slate(file.fileno(), [1, 2, 3]):
        decode_checkpoint(kept.checkpoint)
