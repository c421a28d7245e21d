"""Tasks inside the model process: reads orders, packs results and sends them to the worker."""

import io
import random
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import msgspec
import numpy as np
import PIL.Image
import pydantic

from swell.core.clock import Clock
from swell.core.results import MOST_WARNINGS, TaskWarning
from swell.runtime.ipc import Pipe
from swell.runtime.ipc_messages import (
    MAX_FRAME_BYTES,
    MAX_OUTPUT_BYTES,
    Blob,
    Done,
    Fault,
    Frame,
    Order,
    Paid,
    Part,
    Pixels,
    Preview,
    Results,
    Step,
)
from swell.runtime.model_residency import CannotLoad, check_device
from swell.runtime.unicode_repair import describe_error, mend
from swell.sdk.context import Cancelled, Item, Listener, Reject
from swell.sdk.define import Definition
from swell.sdk.image_orientation import in_8_bits, upright
from swell.sdk.media import Attachment, File, Image, flatten
from swell.sdk.multi_sample_inputs import inputs_of, pack_fields
from swell.sdk.step_model import NOT_FINITE, whole
from swell.weights.lora import WrongLora

#: Least interval between progress reports of a task, except for its last step; and the delay
#: before the first report of a step model.
PROGRESS_EVERY_S: Final = 0.1
FIRST_PROGRESS_S: Final = 0.05

#: Least interval if no client follows the task. The worker learns of new followers from the
#: response to its report.
UNWATCHED_EVERY_S: Final = 0.5

#: A preview of one task is made at most this often.
PREVIEW_EVERY_S: Final = 0.4

#: A task that runs longer than this sends finished files early; shorter tasks gain nothing.
EARLY_AFTER_S: Final = 0.05

#: Longest side of a preview.
PREVIEW_PX: Final = 256

#: Results of a batch that runs one by one are held back no longer than this.
FLUSH_EVERY_S: Final = 0.004

#: Results are sent once they have this many bytes; more in one frame only keeps memory busy.
FLUSH_BYTES: Final = 64 * 1024 * 1024

#: Room in a frame for all that is not the bytes of files and output.
_FRAME_MARGIN_BYTES: Final = 1024 * 1024

#: Longest traceback, in characters; the beginning is cut off.
MAX_TRACEBACK: Final = 16_000

#: Random seeds fit a signed 32-bit integer, which every framework takes.
SEED_BITS: Final = 31

#: Largest seed of a sample that can be recorded.
MAX_SEED: Final = (1 << 63) - 1


# --- orders --------------------------------------------------------------------------------------


class Reader:
    """Reads the orders of one model."""

    def __init__(self, definition: Definition, rng: random.Random) -> None:
        self._validate = definition.input_type.model_validate_json
        self._packs = pack_fields(definition.input_type)
        self._rng = rng

    def job(
        self,
        order: Order,
        pipe: Pipe,
        clock: Clock,
        pack: Callable[[Any], int | None] = lambda checked: None,
    ) -> "Job | Fault":
        """Validate the input of an order, and return its job, or the error of its task.

        Args:
            order: The task.
            pipe: To the worker.
            clock: The clock.
            pack: See `StepModel.pack`.
        """
        files = {"files": order.files, "loras": order.loras}
        has_files = order.files or order.loras
        try:
            checked = self._validate(order.input, context=files if has_files else None)
            inputs = inputs_of(checked, self._packs) if self._packs else None
            size = pack(checked) if inputs is None else len(inputs)
            count = order.count * (size or 1)
            seed = self._seed(order, checked, count)
        except pydantic.ValidationError as error:
            return _fault_of_input(order.handle, error)
        except Exception as error:  # code of the model
            return fault_of(order.handle, error)
        job = Job(order.handle, count, seed, checked, pipe, clock)
        job.pack, job.inputs = size, inputs
        if order.within_s is not None:
            job.deadline_s = clock.monotonic_s() + order.within_s
        return job

    def _seed(self, order: Order, checked: Any, count: int) -> int:
        """Return the seed of the first sample: that of the input, else of the task, else random.

        Raises:
            pydantic.ValidationError: The seed of the last sample cannot be recorded.
        """
        own = getattr(checked, "seed", None)
        if not isinstance(own, int) or isinstance(own, bool) or own < 0:
            return self._rng.getrandbits(SEED_BITS) if order.seed is None else order.seed
        most = MAX_SEED - (count - 1)
        if own > most:
            raise pydantic.ValidationError.from_exception_data(
                "seed",
                [{"type": "less_than_equal", "loc": ("seed",), "input": own, "ctx": {"le": most}}],
            )
        return own


def _defaults(checked: Any) -> dict[str, Any]:
    """Return the default values that the input did not override, if they are plain values."""
    given = checked.model_fields_set
    return {
        name: value
        for name, value in checked.__dict__.items()
        if name not in given and name != "seed" and isinstance(value, str | int | float)
    }


class Job(Listener):
    """A task while it runs: its samples and their results, and the listener of its model."""

    def __init__(
        self, handle: int, count: int, seed: int, checked: Any, pipe: Pipe, clock: Clock
    ) -> None:
        self.handle = handle
        self.checked = checked
        self.count = count
        #: The inputs of its samples, where its fields are packs (`ui.pack`).
        self.inputs: list[Any] | None = None
        #: For step models: model, samples, and when the first step began.
        self.model = ""
        self.samples: list[Any] = []
        self.began_s: float | None = None
        #: Whether progress was reported.
        self.is_told = False
        #: On the clock, in seconds; None for no deadline.
        self.deadline_s: float | None = None
        #: Samples per result, if a result is a list; None if each sample is a result.
        self.pack: int | None = None
        self.seed = seed
        self.left = count
        self.results: list[Any] = [None] * count
        #: Number of files already sent as `Part`.
        self.sent = 0
        #: JSON values of the first samples, if all files of these samples were sent.
        self.flat: list[Any] | None = None
        #: Files of the next sample that were sent, as the model made them.
        self.early: list[Attachment] | None = None
        #: Whether the current model call has sent a file or a payment, so it must not be repeated.
        self.has_told = False
        self.error: Exception | None = None
        self.warnings: tuple[TaskWarning, ...] = ()
        self.run_s = 0.0
        #: Its share of the device time: less than `run_s` if it shared a batch.
        self.device_s = 0.0
        #: Seconds that it waited for its model to load.
        self.load_s = 0.0
        #: Metadata for its image files, in addition to input and seed.
        self.settings: dict[str, Any] = _defaults(checked)
        #: Versions of the software that made them, if recorded.
        self.engine: Mapping[str, str] = {}
        self.told_s = -1.0
        self.previewed_s = -1.0
        self._pipe = pipe
        self._clock = clock

    def item(self, index: int, listener: Listener) -> Item[Any]:
        """Return one of its samples."""
        own = self.checked if self.inputs is None else self.inputs[index % len(self.inputs)]
        return Item(own, seed=self.seed + index, index=index, count=self.count, listener=listener)

    @property
    def progress_every_s(self) -> float:
        """Least seconds between two reports of progress."""
        is_watched = self.handle in self._pipe.watched
        return PROGRESS_EVERY_S if is_watched else UNWATCHED_EVERY_S

    @property
    def is_shown(self) -> bool:
        """Whether a client follows the task, and it is not cancelled."""
        return self.handle in self._pipe.watched and self.handle not in self._pipe.stopped

    def progress(self, done: int, total: int) -> None:
        """See `Listener.progress`. Samples that already ran count as complete."""
        # A model may count in parts of a step.
        done, total = int(done), int(total)
        self._pipe.listen()
        now_s = self._clock.monotonic_s()
        if done < total and now_s - self.told_s < self.progress_every_s:
            return
        self.told_s = now_s
        before = (self.count - self.left) * total
        self._pipe.send(
            Step(self.handle, min(before + done, self.count * total), self.count * total)
        )

    def preview(self, make: Callable[[], Any]) -> None:
        self._pipe.listen()
        now_s = self._clock.monotonic_s()
        if now_s - self.previewed_s < PREVIEW_EVERY_S or not self.is_shown:
            return
        self.previewed_s = now_s
        jpeg = thumbnail(make)
        if jpeg is not None:
            self._pipe.send(Preview(self.handle, self.count - self.left, jpeg))

    def is_cancelled(self) -> bool:
        """See `Listener.is_cancelled`. Acknowledges all cancelled tasks."""
        self._pipe.listen()
        stopped = self._pipe.stopped
        if stopped:
            self._pipe.heed()
        return self.handle in stopped

    def ready(self, index: int, file: Attachment) -> None:
        """See `Listener.ready`. A file waits until all samples before its sample are complete."""
        if index != len(self.flat or ()) or self.handle in self._pipe.stopped:
            return
        part = self._part(file, self.seed + index)
        if part is not None:
            self.early, self.has_told = [*(self.early or ()), file], True
            self._pipe.send(part)

    def paid(self, micros: int) -> None:
        """See `Listener.paid`. Sent at once, so that a crash does not lose the payment."""
        if micros:
            self.has_told = True
            self._pipe.send(Paid(self.handle, micros))

    def warn(self, warning: TaskWarning) -> None:
        """See `Listener.warn`. Pictures of one task often repeat a warning."""
        if warning not in self.warnings and len(self.warnings) < MOST_WARNINGS:
            self.warnings = (*self.warnings, warning)

    def parts(self) -> list[Frame]:
        """Return the files of the complete samples before the first incomplete one.

        If a sample returned something other than files, it waits for the end of the task.
        """
        found: list[Frame] = []
        flat = self.flat = self.flat or []
        while len(flat) < self.count and self.results[len(flat)] is not None:
            index = len(flat)
            try:
                result = self.results[index] = whole(self.results[index])
            except Exception:
                # Packing the result at the end reports the error.
                return found
            files = _files_of(result)
            told = self.early or []
            if files is None or any(a is not b for a, b in zip(told, files, strict=False)):
                return found
            is_list = isinstance(result, list | tuple)
            self.results[index] = files if is_list else files[0]
            for file in files[len(told) :]:
                part = self._part(file, self.seed + index)
                if part is None:
                    return found
                self.early = [*(self.early or ()), file]
                found.append(part)
            first = self.sent - len(files)
            named = [{"$artifact": first + number} for number in range(len(files))]
            flat.append(named if is_list else named[0])
            # Pictures are large.
            self.results[index], self.early = True, None
        return found

    def _part(self, file: Attachment, seed: int) -> Part | None:
        """Return the message with the next file; None if the file cannot be packed or sent."""
        try:
            packed = _pack(file, seed, self.told_of_files())
            _check_size(b"", [packed])
        except Exception:
            return None
        self.sent += 1
        return Part(self.handle, self.sent - 1, seed, self.seed, packed)

    def told_of_files(self) -> dict[str, Mapping[str, Any]]:
        """Return the metadata for its image files, in addition to input and seed."""
        told = {"settings": self.settings, "engine": self.engine}
        return {name: values for name, values in told.items() if values}


def _files_of(result: Any) -> list[Attachment] | None:
    """Return the files of a sample; None unless its result is a file or a list of files."""
    each_alone = list(result) if isinstance(result, list | tuple) else [result]
    files = [Image(each) if isinstance(each, PIL.Image.Image) else each for each in each_alone]
    return files if files and all(isinstance(each, Image | File) for each in files) else None


def thumbnail(make: Callable[[], Any]) -> bytes | None:
    """Return a small JPEG of the image from `make`. Return None if it fails."""
    try:
        picture = make()
        picture = (picture if isinstance(picture, Image) else Image(picture)).pil()
        small = picture.convert("RGB")
        small.thumbnail((PREVIEW_PX, PREVIEW_PX))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=70)
    except Exception:
        # A preview that fails must not fail the task.
        traceback.print_exc()
        return None
    return file.getvalue()


# --- results -------------------------------------------------------------------------------------


class OutputTooLarge(Exception):
    """The output of a model exceeds a size limit."""


class Outbox:
    """Collects the results of one batch and sends them to the worker.

    Args:
        batch: Number of the batch.
        pipe: To the worker.
        clock: The clock.
        aside: Whether a thread packs each result, so that the model can continue.
    """

    def __init__(self, batch: int, pipe: Pipe, clock: Clock, *, aside: bool = False) -> None:
        self._batch = batch
        self._aside = aside
        self._pipe = pipe
        self._clock = clock
        self._flushed_s = clock.monotonic_s()
        self._done: list[Done] = []
        self._stopped: list[int] = []
        self._stopped_s: list[float] = []
        self._waiting_bytes = 0
        self._logged: Exception | None = None
        self.faults: list[Fault] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be sent."""
        return not (self._done or self._stopped or self.faults)

    def add(self, job: Job) -> threading.Event | None:
        """Add a job after all its samples ran; return an event that is set once it is sent."""
        if job.handle in self._pipe.stopped or isinstance(job.error, Cancelled):
            self._stopped.append(job.handle)
            self._stopped_s.append(job.device_s)
        elif self._aside and job.error is None:
            return self._pipe.send_made(partial(_results_of, self._batch, job))
        else:
            told, size_bytes = _result_of(job)
            if isinstance(told, Done):
                if self._waiting_bytes + size_bytes > FLUSH_BYTES:
                    self.flush()
                self._waiting_bytes += size_bytes
                self._done.append(told)
            else:
                if job.error is not None and job.error is self._logged:
                    # One exception may have failed a whole batch: its traceback is sent once.
                    told = msgspec.structs.replace(told, traceback="")
                self._logged = job.error
                self.faults.append(told)
        self.tick()
        return None

    def tick(self) -> None:
        """Note that a model call ended; flush if the last flush is too long ago."""
        if self._clock.monotonic_s() - self._flushed_s >= FLUSH_EVERY_S:
            self.flush()

    def flush(self, *, is_last: bool = False) -> None:
        """Send the collected results; an empty frame shows that the process is alive."""
        told = self._done, self.faults, self._stopped
        self._pipe.send(Results(self._batch, *told, is_last, self._stopped_s))
        self._done, self.faults, self._stopped, self._stopped_s = [], [], [], []
        self._waiting_bytes = 0
        self._flushed_s = self._clock.monotonic_s()


def _result_of(job: Job) -> tuple[Done | Fault, int]:
    """Return the result of a job, and its size in bytes."""
    error = job.error
    if error is None:
        try:
            output, packed = _packed(job)
            size_bytes = _check_size(output, packed)
            told = job.run_s, packed, job.load_s, job.device_s, job.sent, job.warnings
            return Done(job.handle, output, job.seed, *told), size_bytes
        except Exception as failed:
            error = failed
    fault = fault_of(job.handle, error, job.run_s)
    return msgspec.structs.replace(fault, load_s=job.load_s, device_s=job.device_s), 0


def _results_of(batch: int, job: Job) -> list[Frame]:
    """Return the frame with the result of one job."""
    told, _ = _result_of(job)
    # Pictures are large.
    job.results.clear()
    done, faults = ([told], []) if isinstance(told, Done) else ([], [told])
    return [Results(batch, done, faults, [], False)]


def _packed(job: Job) -> tuple[bytes, list[Pixels | Blob]]:
    """Return a job's output as JSON, and its files, each with the seed of its sample.

    Files that were already sent are left out.

    Raises:
        TypeError: The result has the wrong type, or lacks files that were already sent.
    """
    files: list[Attachment] = []
    values: list[Any] = []
    if job.sent:
        # Placeholders for files that were sent with their samples.
        files += [_GONE] * (job.sent - len(job.early or ()))
        values += job.flat or ()
    seeds: list[int] = [job.seed] * len(files)
    for index, result in enumerate(job.results[len(values) :], len(values)):
        values.append(flatten(whole(result), files))
        seeds += [job.seed + index] * (len(files) - len(seeds))
    if job.early:
        _check_told(job.early, files[job.sent - len(job.early) : job.sent])
    if job.pack is not None:
        values = [values[at : at + job.pack] for at in range(0, len(values), job.pack)]
    output = _json(values[0] if len(values) == 1 else values)
    if len(files) == job.sent:
        return output, []
    about = job.told_of_files()
    rest = list(zip(files, seeds, strict=True))[job.sent :]
    return output, [_pack(file, seed, about) for file, seed in rest]


def _check_told(early: Sequence[Attachment], files: Sequence[Attachment]) -> None:
    if len(files) < len(early) or any(a is not b for a, b in zip(early, files, strict=True)):
        raise TypeError(
            "a result must begin with the files that were passed to ready(), in the same order"
        )


#: Placeholder for a file that was already sent.
_GONE: Final = File(b"")


def _pack(file: Attachment, seed: int, told: Mapping[str, Any]) -> Pixels | Blob:
    if not isinstance(file, Image):
        return Blob(file.read(), file.content_type, file.name)
    encoded = file.encoded
    if encoded is not None and not file.format:
        return Blob(encoded, "image/*", "")
    # An encoded file may have an EXIF orientation, which would be lost.
    picture = in_8_bits(file.pil()) if encoded is None else upright(file)
    if picture.mode == "F" and not np.isfinite(np.asarray(picture)).all():
        raise FloatingPointError(NOT_FINITE)
    if picture.has_transparency_data:
        picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    elif picture.mode not in ("RGB", "L"):
        picture = picture.convert("RGB")
    return Pixels(
        picture.mode,
        picture.width,
        picture.height,
        picture.tobytes(),
        file.format or "",
        _json({**told, **file.metadata}),
        seed,
    )


def _check_size(output: bytes, files: Sequence[Pixels | Blob]) -> int:
    """Return the size of a result in bytes.

    Raises:
        OutputTooLarge: A limit is exceeded; the text says what to do.
    """
    if len(output) > MAX_OUTPUT_BYTES:
        raise OutputTooLarge(
            f"the output has {len(output):,} bytes of JSON, and the limit is "
            f"{MAX_OUTPUT_BYTES:,}: return a swell.File or swell.Image instead, "
            "which the server stores as a file"
        )
    size_bytes = len(output) + sum(len(file.data) for file in files)
    if size_bytes > MAX_FRAME_BYTES - _FRAME_MARGIN_BYTES:
        raise OutputTooLarge(
            f"the files of the output have {size_bytes:,} bytes together and at most "
            f"{MAX_FRAME_BYTES - _FRAME_MARGIN_BYTES:,} are taken: return smaller ones"
        )
    return size_bytes


def _json(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(mend(value))


def fault_of(handle: int, error: Exception, run_s: float = 0.0) -> Fault:
    """Return the error of a task after its model raised an exception.

    Raises:
        DeviceBroken: The device is broken; the task is not at fault.
    """
    check_device(error)
    detail = describe_error(error)
    if isinstance(error, Reject | WrongLora):
        return Fault(handle, "rejected", "The model refused this input", detail, False, run_s)
    if isinstance(error, OutputTooLarge):
        return Fault(handle, "output_too_large", "The output is too large", detail, False, run_s)
    if isinstance(error, CannotLoad):
        title = "The model cannot be loaded"
        fault = Fault(handle, "model_load_failed", title, detail, True, run_s)
    else:
        detail = f"{type(error).__name__}: {detail}"
        fault = Fault(handle, "model_error", "The model failed", detail, True, run_s)
    # The worker logs the traceback: only it knows the owner of the task.
    text = "".join(traceback.format_exception(error))[-MAX_TRACEBACK:]
    return msgspec.structs.replace(fault, traceback=text)


def _fault_of_input(handle: int, error: pydantic.ValidationError) -> Fault:
    """Return the error of an invalid input; a JSON pointer names each wrong value."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"/{'/'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in problems[:5]
    ]
    return Fault(handle, "invalid_input", "A value is not allowed", "; ".join(told), False, 0.0)


def engine_build(device: str, batching: str) -> dict[str, str]:
    """Return the versions and settings that affect an image, for its metadata.

    Only libraries that are already imported are included.
    """
    build = {"batching": batching, "device": device, "swell": version("swell")}
    for name in ("numpy", "onnxruntime", "torch", "diffusers"):
        found = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(found, str):
            # The version of torch is a subclass of `str`, which a message cannot encode.
            build[name] = str(found)
    return build
