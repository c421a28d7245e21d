"""Outputs to the object store.

While one file is encoded, others are on their way. Small ones wait for the report of the outcome
and travel inside it, where the backend itself keeps the files.

The order of writes: every file is stored, then the outcome that names them is reported. A worker
that dies between the two leaves files that nobody names, and the next attempt has keys of its own;
a call that is repeated writes the same bytes under the same key. So delivery is idempotent on
(task, attempt).
"""

import asyncio
import itertools
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from swell.core.clock import Clock
from swell.core.errors import NotFound, Unavailable
from swell.core.retry import RetryPolicy
from swell.core.store_types import Hold
from swell.core.task import Artifact, checkpoint_key
from swell.protocol.worker_messages import Dispatch, Enclosure, Upload
from swell.worker.encode_outputs import Encoded

#: What an earlier attempt has left is asked for so often, and a place for a file by a worker that
#: the backend has forgotten.
MAX_TRIES: Final = 6

#: A file that could not be stored elsewhere for so many seconds fails the attempt. For the backend
#: itself it waits as long as it takes, as whatever is to be reported to it does.
STORE_S: Final = 60.0

#: Longest name of a file, in characters.
MAX_NAME: Final = 100

#: So many files are on their way to the object store at once, of all tasks together.
MAX_UPLOADS: Final = 16

#: The files of one task that travel inside a report have at most so many bytes together.
MAX_ENCLOSED_BYTES: Final = 1024 * 1024

_BACKOFF: Final = RetryPolicy(base_s=0.2, cap_s=5.0)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What was stored, in the order of the files, and how long it took."""

    artifacts: tuple[Artifact, ...]
    #: Until the last file was encoded.
    encode_s: float
    #: From then until the last one was stored.
    upload_s: float
    #: Those of the files that are not stored yet: they travel with the report.
    enclosures: tuple[Enclosure, ...] = ()


class Uploader:
    """Takes the files of results to the object store, and what attempts leave to others there.

    Args:
        dispatch: The backend, which says where.
        clock: For waits between tries.
        worker_id: Returns the id that the backend knows the worker by now.
        enclose_bytes: Returns the size up to which files travel inside reports; 0 for none.
        max_uploads: So many files are on their way at once.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        clock: Clock,
        worker_id: Callable[[], str],
        *,
        enclose_bytes: Callable[[], int] = lambda: 0,
        max_uploads: int = MAX_UPLOADS,
    ) -> None:
        self._dispatch = dispatch
        self._clock = clock
        self._worker_id = worker_id
        self._enclose_bytes = enclose_bytes
        self._lanes = asyncio.Semaphore(max_uploads)

    async def deliver(
        self,
        hold: Hold,
        names: Sequence[str],
        encoded: Callable[[int], Awaitable[Encoded]],
        taken: Sequence[str] = (),
        enclosed_bytes: int = 0,
    ) -> Delivered:
        """Store the files of a held attempt, each as soon as it is encoded, or enclose them.

        Args:
            hold: The lease.
            names: What the files are called, in their order.
            encoded: Returns file number i; called at once for all.
            taken: Names of files of the attempt that are stored already.
            enclosed_bytes: How much of the task travels inside reports already.

        Waits while the backend is away.

        Raises:
            Conflict: The lease was lost.
            SwellError: They could not be stored; of a passing kind after a minute.
            Exception: Whatever `encoded` raises. Of several errors it is the first.
        """
        names = distinct(names, taken)
        keys = [f"outputs/{hold.task_id}/{hold.attempt}/{name}" for name in names]
        start_s = encoded_s = self._clock.monotonic_s()
        limit_bytes, left_bytes = self._enclose_bytes(), MAX_ENCLOSED_BYTES - enclosed_bytes
        enclosures: list[Enclosure] = []
        places: asyncio.Task[list[Upload]] | None = None

        def ask_for_places() -> "asyncio.Task[list[Upload]]":
            nonlocal places
            places = places or group.create_task(self._upload_places(hold, keys))
            return places

        async def store(index: int) -> Artifact:
            nonlocal encoded_s, left_bytes
            file = await encoded(index)
            encoded_s = self._clock.monotonic_s()
            size_bytes = len(file.data)
            if size_bytes <= min(limit_bytes, left_bytes):
                left_bytes -= size_bytes
                enclosures.append(Enclosure(key=keys[index], data=file.data))
                return file.artifact(keys[index])
            upload = (await ask_for_places())[index]
            await self._put(upload, file.data, file.content_type)
            return file.artifact(upload.key)

        try:
            async with asyncio.TaskGroup() as group:
                if not limit_bytes:
                    ask_for_places()
                stored = [group.create_task(store(index)) for index in range(len(keys))]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return Delivered(
            artifacts=tuple(task.result() for task in stored),
            encode_s=encoded_s - start_s,
            upload_s=self._clock.monotonic_s() - encoded_s,
            enclosures=tuple(enclosures),
        )

    async def leave(self, hold: Hold, data: bytes, content_type: str) -> str:
        """Store what a held attempt leaves to the next one; return the key.

        Waits while the backend is away.

        Raises:
            Conflict: The lease was lost.
            SwellError: It could not be stored; of a passing kind after a minute.
        """
        key = checkpoint_key(hold.task_id, hold.attempt)
        [upload] = await self._upload_places(hold, [key])
        await self._put(upload, data, content_type)
        return key

    async def recall(self, url: str) -> bytes:
        """Return what an earlier attempt has left.

        Raises:
            SwellError: It cannot be read; of a passing kind after several tries.
        """
        rng = random.Random()
        for attempt in range(1, MAX_TRIES):
            try:
                return (await self._dispatch.fetch(url))[0]
            except Unavailable:
                await self._clock.sleep(_BACKOFF.delay_s(attempt, rng))
        return (await self._dispatch.fetch(url))[0]

    async def _upload_places(self, hold: Hold, keys: list[str]) -> list[Upload]:
        rng, forgotten = random.Random(), 0
        for attempt in itertools.count(1):
            try:
                return await self._dispatch.uploads(self._worker_id(), hold, keys)
            except Unavailable:
                pass
            except NotFound:
                # A worker that was forgotten registers again, and has another id then.
                forgotten += 1
                if forgotten == MAX_TRIES:
                    raise
            await self._clock.sleep(_BACKOFF.delay_s(attempt, rng))
        raise AssertionError("it counts for ever")

    async def _put(self, upload: Upload, data: bytes, content_type: str) -> None:
        rng, is_elsewhere = random.Random(), not upload.url.startswith("/")
        until_s = self._clock.monotonic_s() + STORE_S
        for attempt in itertools.count(1):
            try:
                return await self._put_once(upload, data, content_type)
            except Unavailable:
                if is_elsewhere and self._clock.monotonic_s() >= until_s:
                    raise
            await self._clock.sleep(_BACKOFF.delay_s(attempt, rng))
        raise AssertionError("it counts for ever")

    async def _put_once(self, upload: Upload, data: bytes, content_type: str) -> None:
        # Whoever waits for his next try holds no lane meanwhile.
        async with self._lanes:
            await self._dispatch.put(upload, data, content_type)


def distinct(names: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Return one name per file; of equal ones the later get their number before it."""
    found = list(taken)
    for index, name in enumerate(map(_safe, names), len(found)):
        while name in found:
            name = f"{index}-{name}"
        found.append(name)
    return found[len(taken) :]


def _safe(name: str) -> str:
    """Return a file name that is safe as the last part of a key, with the end of a long one."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[-MAX_NAME:].lstrip(".") or "file"
