"""Outputs to the object store.

The order of writes: every file is stored, then the outcome that names them is reported. A worker
that dies between the two leaves files that nobody names, and the next attempt has keys of its own;
a call that is repeated writes the same bytes under the same key. So delivery is idempotent on
(task, attempt).
"""

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from typing import Final

from swell.clock import Clock
from swell.dispatch import Dispatch, Upload
from swell.errors import NotFound, Unavailable
from swell.retry import RetryPolicy
from swell.store import Hold
from swell.task import Artifact
from swell.worker.encode import Encoded

__all__ = ["deliver"]

#: A file that could not be stored after so many tries fails the attempt.
MAX_TRIES: Final = 6

#: Longest name of a file, in characters.
MAX_NAME: Final = 100

_BACKOFF: Final = RetryPolicy(base_s=0.2, cap_s=5.0)


async def deliver(
    dispatch: Dispatch,
    clock: Clock,
    worker_id: Callable[[], str],
    hold: Hold,
    files: Sequence[Encoded],
) -> tuple[Artifact, ...]:
    """Store the files of a held attempt and return them as artifacts, in their order.

    Raises:
        Conflict: The lease was lost.
        SwellError: They could not be stored; of a passing kind after several tries.
    """
    keys = [f"outputs/{hold.task_id}/{hold.attempt}/{name}" for name in _names(files)]
    uploads = await _upload_places(dispatch, clock, worker_id, hold, keys)
    puts = [
        _put(dispatch, clock, upload, file) for upload, file in zip(uploads, files, strict=True)
    ]
    await asyncio.gather(*puts)
    return tuple(file.artifact(upload.key) for upload, file in zip(uploads, files, strict=True))


async def _upload_places(
    dispatch: Dispatch, clock: Clock, worker_id: Callable[[], str], hold: Hold, keys: list[str]
) -> list[Upload]:
    rng = random.Random()
    for attempt in range(1, MAX_TRIES):
        try:
            return await dispatch.uploads(worker_id(), hold, keys)
        except (Unavailable, NotFound):
            # A worker that was forgotten registers again, and has another id then.
            await clock.sleep(_BACKOFF.delay_s(attempt, rng))
    return await dispatch.uploads(worker_id(), hold, keys)


async def _put(dispatch: Dispatch, clock: Clock, upload: Upload, file: Encoded) -> None:
    rng = random.Random()
    for attempt in range(1, MAX_TRIES):
        try:
            return await dispatch.put(upload, file.data, file.content_type)
        except Unavailable:
            await clock.sleep(_BACKOFF.delay_s(attempt, rng))
    return await dispatch.put(upload, file.data, file.content_type)


def _names(files: Sequence[Encoded]) -> list[str]:
    """Return one name per file; of equal ones the later get their number before it."""
    names: list[str] = []
    for index, file in enumerate(files):
        name = _safe(file.name)
        names.append(f"{index}-{name}" if name in names else name)
    return names


def _safe(name: str) -> str:
    """Return a file name that is safe as the last part of a key, with the end of a long one."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[-MAX_NAME:].lstrip(".") or "file"
