"""Files and tensors into memory."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weights_harness import safetensors

from swell.weights.fast_file_reader import BLOCK_BYTES, PART_BYTES, Reading, host_memory
from swell.weights.safetensors_loader import load
from swell.weights.weight_errors import RefusedFormat

BIG = 2 * PART_BYTES + 12_345


def pattern(size: int) -> bytes:
    return np.arange(-(-size // 4), dtype=np.uint32).tobytes()[:size]


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, PART_BYTES, BIG])
def test_a_file_is_in_memory_byte_for_byte(tmp_path: Path, size: int, direct: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(size))
    memory = Reading(path, direct=direct).start().wait()
    assert memory[:size].tobytes() == pattern(size)


def test_parts_come_in_order_without_gaps(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    reading = Reading(path).start()
    at = 0
    for start, stop in reading.parts():
        assert start == at
        assert reading.memory[start:stop].tobytes() == pattern(BIG)[start:stop]
        at = stop
    assert at == BIG


def test_what_the_page_cache_has_lost_is_read_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, BIG // 2, os.POSIX_FADV_DONTNEED)
    assert Reading(path).start().wait()[:BIG].tobytes() == pattern(BIG)


def test_a_disk_that_cannot_be_read_directly_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, BIG, os.POSIX_FADV_DONTNEED)
    really_open = os.open

    def refuse_direct(where: Any, flags: int, *more: Any) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not on this file system")
        return really_open(where, flags, *more)

    monkeypatch.setattr(os, "open", refuse_direct)
    assert Reading(path).start().wait()[:BIG].tobytes() == pattern(BIG)


def test_memory_that_is_not_aligned_is_filled_too(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    into = host_memory(BIG + BLOCK_BYTES)[1 : BIG + 1]
    Reading(path, into=into).start().wait()
    assert into.tobytes() == pattern(BIG)


def test_memory_that_is_too_small_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    with pytest.raises(ValueError, match="do not fit"):
        Reading(path, into=host_memory(1))


def test_a_cached_file_that_nobody_may_write_to_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    path.chmod(0o444)
    first, second = (Reading(path).start().wait() for _ in range(2))
    assert first.tobytes() == pattern(BIG)
    assert not first.flags.owndata
    first[:4] = 255
    assert second.tobytes() == path.read_bytes() == pattern(BIG)


def test_a_file_that_may_be_written_to_does_not_change_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    memory = Reading(path).start().wait()
    path.write_bytes(b"another content")
    assert memory[:BIG].tobytes() == pattern(BIG)


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    reading = Reading(path, direct=False)
    os.truncate(path, PART_BYTES)
    with pytest.raises(OSError, match="shorter"):
        reading.start().wait()


def test_a_reading_that_nobody_hears_to_its_end_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(BIG))
    reading = Reading(path).start()
    parts = reading.parts()
    next(parts)
    parts.close()
    assert not any(thread.is_alive() for thread in reading._pool._threads)


# --- tensors -------------------------------------------------------------------------------------

ARRAYS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3, 1),
    "scalar": np.array(7, np.int32),
    "none": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False, True]),
    "bits": np.array([0x3F80], np.uint16),
}


@pytest.mark.parametrize("align", [8, 1])
def test_tensors_are_what_was_written(tmp_path: Path, align: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(ARRAYS, align))
    weights = load(path)
    assert list(weights) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert weights[name].dtype == array.dtype
        assert weights[name].flags.aligned
        np.testing.assert_array_equal(weights[name], array)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(RefusedFormat, match="pickle"):
        load(path)
