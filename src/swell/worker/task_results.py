"""Outcomes of tasks, and the upload of their files.

While one file is encoded, others are uploaded. Small files travel inside the report of the outcome.
Every file is stored before the outcome that names it is reported. A worker that dies in between
leaves files that no outcome names, and the next attempt has its own keys. A repeated call writes
the same bytes under the same key, so delivery is idempotent on (task, attempt).
"""

import asyncio
import itertools
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import structlog

from swell.core.clock import Clock
from swell.core.errors import NotFound, SwellError, TooLarge, Unavailable
from swell.core.retry import RetryPolicy
from swell.core.store_types import Hold
from swell.core.task import (
    Artifact,
    Canceled,
    Failed,
    Outcome,
    Released,
    Succeeded,
    TaskError,
    Timings,
    checkpoint_key,
)
from swell.protocol.worker_messages import Dispatch, Enclosure, Upload
from swell.runtime.ipc_messages import Done, Fault, Part
from swell.runtime.unicode_repair import describe_error, valid_text
from swell.worker.encode_outputs import Encoded, FileNote, wanted_format
from swell.worker.encoder_pool import Encoders, EncodingFailed
from swell.worker.inflight import Brought, InflightTask
from swell.worker.task_spans import TaskTraces

_log = structlog.get_logger("swell.worker")

#: What an earlier attempt has left is asked for so often, and a place for a file by a worker that
#: the backend has forgotten.
MAX_TRIES: Final = 6

#: An upload to a bucket that keeps failing for this many seconds fails the attempt. Uploads to the
#: backend are retried without a limit, as reports are.
STORE_S: Final = 60.0

#: Longest name of a file, in characters.
MAX_NAME: Final = 100

#: Most concurrent uploads of all tasks.
MAX_UPLOADS: Final = 16

#: Most bytes of one task's files inside a report.
MAX_ENCLOSED_BYTES: Final = 1024 * 1024

_BACKOFF: Final = RetryPolicy(base_s=0.2, cap_s=5.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The stored files in order, and how long that took."""

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
        max_uploads: Most concurrent uploads.
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
            SwellError: They could not be stored; for transient errors after a minute.
            Exception: The first error of `encoded`.
        """
        names = distinct(names, taken)
        keys = [f"outputs/{hold.task_id}/{hold.attempt}/{name}" for name in names]
        start_s = encoded_s = self._clock.monotonic_s()
        limit_bytes, left_bytes = self._enclose_bytes(), MAX_ENCLOSED_BYTES - enclosed_bytes
        enclosures: list[Enclosure] = []
        places: asyncio.Task[list[Upload]] | None = None

        async def store(index: int) -> Artifact:
            nonlocal encoded_s, left_bytes, places
            file = await encoded(index)
            encoded_s = self._clock.monotonic_s()
            size_bytes = len(file.data)
            if size_bytes <= min(limit_bytes, left_bytes):
                left_bytes -= size_bytes
                enclosures.append(Enclosure(key=keys[index], data=file.data))
                return file.artifact(keys[index])
            places = places or group.create_task(self._upload_places(hold, keys))
            upload = (await places)[index]
            await self._put(upload, file.data, file.content_type)
            return file.artifact(upload.key)

        try:
            async with asyncio.TaskGroup() as group:
                if not limit_bytes:
                    places = group.create_task(self._upload_places(hold, keys))
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
        data, _ = await self._retry(
            lambda: self._dispatch.fetch(url),
            lambda error, n: isinstance(error, NotFound) or n == MAX_TRIES,
        )
        return data

    async def _upload_places(self, hold: Hold, keys: list[str]) -> list[Upload]:
        # A worker that was forgotten registers again, and has another id then.
        forgotten = itertools.count(1)
        return await self._retry(
            lambda: self._dispatch.uploads(self._worker_id(), hold, keys),
            lambda error, _: isinstance(error, NotFound) and next(forgotten) == MAX_TRIES,
        )

    async def _put(self, upload: Upload, data: bytes, content_type: str) -> None:
        is_elsewhere = not upload.url.startswith("/")
        until_s = self._clock.monotonic_s() + STORE_S

        async def put() -> None:
            # No lane is held between two tries.
            async with self._lanes:
                await self._dispatch.put(upload, data, content_type)

        def is_over(error: SwellError, _: int) -> bool:
            is_late = is_elsewhere and self._clock.monotonic_s() >= until_s
            return is_late or isinstance(error, NotFound)

        await self._retry(put, is_over)

    async def _retry(
        self, call: Callable[[], Awaitable[T]], is_over: Callable[[SwellError, int], bool]
    ) -> T:
        """Repeat a call while it fails; `is_over` gets each error, and its number from 1."""
        rng = random.Random()
        attempt = 0
        while True:
            attempt += 1
            try:
                return await call()
            except (Unavailable, NotFound) as error:
                if is_over(error, attempt):
                    raise
            await self._clock.sleep(_BACKOFF.delay_s(attempt, rng))


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


#: Longest text of an error, in characters.
MAX_DETAIL: Final = 2000


def failed(
    code: str,
    title: str,
    detail: str,
    *,
    retryable: bool,
    checkpoint: str | None = None,
    device_s: float = 0.0,
) -> Failed:
    """Return that an attempt has failed, with text that the backend takes."""
    return Failed(
        error=_error(code, title, detail),
        retryable=retryable,
        checkpoint=checkpoint,
        timings=Timings(device_s=device_s),
    )


def faulty(held: InflightTask, fault: Fault) -> Failed:
    """Return what a model process says of a task that it could not run."""
    error = _error(fault.code, fault.title, fault.detail)
    timings = Timings(
        run_s=fault.run_s, load_s=held.load_s + fault.load_s, device_s=_share_s(fault)
    )
    return Failed(error=error, retryable=fault.retryable, timings=timings)


def _error(code: str, title: str, detail: str) -> TaskError:
    return TaskError(code=code, title=title, detail=valid_text(detail)[:MAX_DETAIL])


def success(held: InflightTask, done: Done) -> Succeeded:
    """Return the outcome of a result without files."""
    return Succeeded(
        output=msgspec.Raw(done.output),
        warnings=done.warnings,
        timings=Timings(
            run_s=done.run_s, load_s=held.load_s + done.load_s, device_s=_share_s(done)
        ),
        seed=done.seed,
    )


def _share_s(told: Done | Fault) -> float | None:
    """Return a task's share of the device; None where it is all that it ran, as of most quick ones:
    it is not worth its bytes then.
    """
    return None if told.device_s == told.run_s else told.device_s


def stopped(held: InflightTask, device_s: float = 0.0) -> Outcome:
    """Return the outcome of a task that did not run to its end.

    A worker must also stop a task whose lease it has lost. It may hold a new lease of the task by
    then, so only the store knows whether the task was cancelled: after the return, a cancelled task
    ends as canceled, and another one is queued again.

    Args:
        held: The task.
        device_s: Its device time.
    """
    timings = Timings(device_s=device_s)
    if held.is_stopped:
        return Released(reason="stopped", timings=timings)
    return Canceled(timings=timings)


class Delivery:
    """Encodes the files of results and stores them.

    Args:
        encoders: Encode pictures.
        uploader: The way to the object store.
        picture_format: What pictures become unless their task asks for something else.
        traces: Records spans of stored files.
    """

    def __init__(
        self, encoders: Encoders, uploader: Uploader, picture_format: str, traces: TaskTraces
    ) -> None:
        self._traces = traces
        self._encoders = encoders
        self._uploader = uploader
        self._format = picture_format
        #: Called when there may be room for more pictures.
        self.on_room: Callable[[], None] = lambda: None

    @property
    def is_full(self) -> bool:
        """Whether pictures wait for an encoder; models should not create more."""
        return self._encoders.is_full

    async def outcome(self, held: InflightTask, done: Done) -> tuple[Outcome, Sequence[Enclosure]]:
        """Encode and store the files of a result.

        Returns:
            The outcome of its task, and its files that travel in the report.
        """
        spent_s = done.device_s
        try:
            return await self._delivered(held, done)
        except TooLarge as error:
            title, detail = "The output is too large", error.detail
            why = failed("output_too_large", title, detail, retryable=False, device_s=spent_s)
        except SwellError as error:
            title, detail = "The output could not be stored", error.detail
            why = failed("upload_failed", title, detail, retryable=True, device_s=spent_s)
        except Exception as error:
            if isinstance(error, EncodingFailed):
                _log.warning("encoding failed", **held.about, detail=str(error))
            else:
                _log.exception("encoding failed", **held.about)
            title, detail = "The output could not be encoded", describe_error(error)
            why = failed("encode_failed", title, detail, retryable=True, device_s=spent_s)
        return why, ()

    async def _delivered(
        self, held: InflightTask, done: Done
    ) -> tuple[Succeeded, Sequence[Enclosure]]:
        task = held.task
        note = FileNote(task.model, task.version, task.input)
        kind = wanted_format(task.input, self._format)
        parts = held.parts if done.sent else None
        before = [] if parts is None else await parts.first(done.sent)
        files = dict(enumerate(done.files))

        async def encoded(index: int) -> Encoded:
            try:
                # Pixels are released as soon as the file exists.
                file = files.pop(index)
                return await self._encoders.encode(file, done.sent + index, kind, note)
            finally:
                self.on_room()

        names = await self._encoders.names(done.files, kind, done.sent)
        done.files.clear()
        taken, spent_bytes = ((), 0) if parts is None else (parts.names, parts.enclosed_bytes)
        delivered = await self._uploader.deliver(task.hold, names, encoded, taken, spent_bytes)
        self._traces.stored(task, delivered.encode_s, delivered.upload_s)
        timings = Timings(
            load_s=held.load_s + done.load_s,
            run_s=done.run_s,
            encode_s=delivered.encode_s,
            upload_s=delivered.upload_s,
            device_s=_share_s(done),
        )
        outcome = Succeeded(
            output=msgspec.Raw(done.output),
            artifacts=(*(each.artifact for each in before), *delivered.artifacts),
            warnings=done.warnings,
            timings=timings,
            seed=done.seed,
        )
        early = [each.enclosure for each in before if each.enclosure is not None]
        return outcome, (*early, *delivered.enclosures)

    async def bring(self, held: InflightTask, part: Part) -> Brought:
        """Encode and store a file of a task that has not ended.

        Raises:
            Exception: It could not be done; the attempt fails of it when it ends.
        """
        task, parts = held.task, held.parts
        assert parts is not None, "it was put there with its first part"
        kind = wanted_format(task.input, self._format)
        note = FileNote(task.model, task.version, task.input)
        index, seed, files = part.index, part.seed, [part.file]
        del part

        async def encoded(_: int) -> Encoded:
            try:
                # Pixels are released as soon as the file exists.
                return await self._encoders.encode(files.pop(), index, kind, note)
            finally:
                self.on_room()

        [name] = await self._encoders.names(files, kind, index)
        [name] = distinct([name], parts.names)
        parts.names.append(name)
        spent_bytes = parts.enclosed_bytes
        delivered = await self._uploader.deliver(
            task.hold, [name], encoded, enclosed_bytes=spent_bytes
        )
        parts.enclosed_bytes += sum(len(file.data) for file in delivered.enclosures)
        [artifact] = delivered.artifacts
        return Brought(index, seed, artifact, next(iter(delivered.enclosures), None))
