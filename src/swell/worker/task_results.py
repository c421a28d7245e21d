"""What becomes of a task in a worker, in the words of the backend; and results on their way out."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from swell.core.errors import SwellError, TooLarge
from swell.core.task import Canceled, Failed, Outcome, Released, Succeeded, TaskError, Timings
from swell.protocol.worker_messages import Enclosure
from swell.runtime.ipc_messages import Done, Fault, Part
from swell.runtime.unicode_repair import describe_error, valid_text
from swell.worker.early_outputs import Brought
from swell.worker.encode_outputs import Encoded, FileNote, wanted_format
from swell.worker.encoder_pool import Encoders, EncodingFailed
from swell.worker.inflight import InflightTask
from swell.worker.task_spans import TaskTraces
from swell.worker.upload import Uploader, distinct

_log = structlog.get_logger("swell.worker")

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

    A worker is also told to stop what it has lost the lease of. It may have leased the same task
    again by then, so only the store knows whether somebody cancelled it: handed back, a cancelled
    task ends as canceled, and any other waits for its next turn.

    Args:
        held: The task.
        device_s: What it had of the device.
    """
    timings = Timings(device_s=device_s)
    if held.is_stopped:
        return Released(reason="stopped", timings=timings)
    return Canceled(timings=timings)


class Delivery:
    """Encodes the files of results and stores them.

    Args:
        encoders: Processes that encode.
        courier: The way to the object store.
        picture_format: What pictures become unless their task asks for something else.
        freed: Called when there may be room for more pictures.
        traces: Of tasks whose files were stored.
    """

    def __init__(
        self,
        encoders: Encoders,
        courier: Uploader,
        picture_format: str,
        freed: Callable[[], None],
        traces: TaskTraces,
    ) -> None:
        self._traces = traces
        self._encoders = encoders
        self._courier = courier
        self._format = picture_format
        self._freed = freed

    async def outcome(self, held: InflightTask, done: Done) -> tuple[Outcome, Sequence[Enclosure]]:
        """Encode and store the files of a result.

        Returns:
            What has become of its task, and those files that travel with the report of that.
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
                # Pixels are let go of as soon as there is a file.
                file = files.pop(index)
                return await self._encoders.encode(file, done.sent + index, kind, note)
            finally:
                self._freed()

        names = await self._encoders.names(done.files, kind, done.sent)
        done.files.clear()
        taken, spent_bytes = ((), 0) if parts is None else (parts.names, parts.enclosed_bytes)
        delivered = await self._courier.deliver(task.hold, names, encoded, taken, spent_bytes)
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
                # Pixels are let go of as soon as there is a file.
                return await self._encoders.encode(files.pop(), index, kind, note)
            finally:
                self._freed()

        [name] = await self._encoders.names(files, kind, index)
        [name] = distinct([name], parts.names)
        parts.names.append(name)
        spent_bytes = parts.enclosed_bytes
        delivered = await self._courier.deliver(
            task.hold, [name], encoded, enclosed_bytes=spent_bytes
        )
        parts.enclosed_bytes += sum(len(file.data) for file in delivered.enclosures)
        [artifact] = delivered.artifacts
        return Brought(index, seed, artifact, next(iter(delivered.enclosures), None))
