"""What an attempt leaves to the next one, wherever that runs: checkpoints of a task's samples.

They go into one file, with what must be the same for the next attempt to end at the same picture.
Whoever reads it believes nothing: a file that is broken, or of something else, is refused whole.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from swell.protocol.worker_messages import LeasedTask

CONTENT_TYPE: Final = "application/octet-stream"

#: Of the format.
_VERSION: Final = 1

_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class UnusableCheckpoint(ValueError):
    """A file is broken, or holds nothing that this task could go on from."""


class Left(msgspec.Struct, frozen=True, array_like=True):
    """What lies in the file."""

    version: int
    task_id: str
    model: str
    model_version: str
    #: Such as `cpu` or `cuda`: another kind of device rounds otherwise.
    device: str
    #: Whether each step was to have the same number of rows; else it rounds as its neighbours will.
    #: A sample for which memory had no room for so many says so in its checkpoint.
    exact: bool
    count: int
    #: Of the first sample; a task without one of its own got it by chance.
    seed: int
    #: Sample → its checkpoint. One that is not there had not begun.
    samples: dict[int, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Left).decode


def packed(
    task: LeasedTask, device: str, exact: bool, seed: int, samples: Mapping[int, bytes]
) -> bytes:
    """Return the file: SHA-256 of all that follows, then MessagePack."""
    left = Left(
        _VERSION,
        task.task_id,
        task.model,
        task.version,
        _kind(device),
        exact,
        task.count,
        seed,
        dict(samples),
    )
    body = _encode(left)
    return hashlib.sha256(body).digest() + body


def unpacked(raw: bytes, task: LeasedTask, device: str, exact: bool) -> Left:
    """Return what was left for a task that is to be drawn on this device, in this mode.

    Raises:
        UnusableCheckpoint: It is broken, or of something else; the text says what.
    """
    digest, body = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise UnusableCheckpoint("the file is broken")
    try:
        left = _decode(body)
    except msgspec.MsgspecError as error:
        raise UnusableCheckpoint(f"the file is of another format: {error}") from error
    told = {
        "format": (left.version, _VERSION),
        "task": (left.task_id, task.task_id),
        "model": (left.model, task.model),
        "version": (left.model_version, task.version),
        "device": (left.device, _kind(device)),
        "exact": (left.exact, exact),
        "count": (left.count, task.count),
    }
    for what, (theirs, ours) in told.items():
        if theirs != ours:
            raise UnusableCheckpoint(f"it was drawn with {what} {theirs}, and not {ours}")
    # What a sample was drawn with, its seed among it, stands in its checkpoint: only the model
    # knows whether its input has a seed of its own. So it is with packs, which have more samples
    # than the task's count: those that the model does not have are left alone.
    if any(index < 0 for index in left.samples):
        raise UnusableCheckpoint("it has samples with numbers below 0")
    return left


def _kind(device: str) -> str:
    return device.partition(":")[0]
