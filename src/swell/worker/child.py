"""The model process: imports and loads the models, then runs batches until its worker is gone.

It is one thread. The worker's words are read between batches and, while a model runs, whenever it
asks `cancelled`: so a cancellation arrives within one step, and nothing disturbs the model.
"""

import collections
import ctypes
import io
import os
import random
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import pydantic

from swell.clock import Clock, SystemClock
from swell.errors import SwellError
from swell.model import (
    Attachment,
    Cancelled,
    Definition,
    Image,
    InvalidModel,
    Item,
    Model,
    Reject,
    flatten,
    is_function_model,
    load_models,
)
from swell.worker.frames import (
    HEAD_BYTES,
    MAX_FRAME_BYTES,
    MAX_OUTPUT_BYTES,
    Blob,
    Described,
    Done,
    Fault,
    Frame,
    Load,
    Order,
    Pixels,
    Preview,
    Ready,
    Refused,
    Results,
    Run,
    Step,
    Stop,
    Work,
    decode_work,
    encode_frame,
)
from swell.worker.text import describe_error, mend

__all__ = [
    "Job",
    "OutputTooLarge",
    "Pipe",
    "Runner",
    "WorkerGone",
    "main",
    "serve",
]

#: Progress of one task is told at most this often, except for its last step.
PROGRESS_EVERY_S: Final = 0.05

#: A preview of one sample is made at most this often.
PREVIEW_EVERY_S: Final = 0.4

#: Longest side of a preview.
PREVIEW_PX: Final = 256

#: The worker's words are looked for at most this often while a model runs.
LISTEN_EVERY_S: Final = 0.002

#: Results of a batch that runs one by one are held back no longer than this.
FLUSH_EVERY_S: Final = 0.004

#: Results are sent once they have this many bytes; more in one frame only keeps memory busy.
FLUSH_BYTES: Final = 64 * 1024 * 1024

#: Room in a frame for all that is not the bytes of files and output.
_FRAME_MARGIN_BYTES: Final = 1024 * 1024

#: Seeds fit a signed 32-bit integer, which every framework takes.
SEED_BITS: Final = 31

#: Linux: the signal to get when the parent dies (prctl.h).
PR_SET_PDEATHSIG: Final = 1


class WorkerGone(Exception):
    """The other end of the socket is closed."""


class Pipe:
    """The socket to the worker, and what it has said so far."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket = sock
        self._clock = clock
        self._buffer = bytearray()
        self._inbox: collections.deque[Load | Run] = collections.deque()
        self._listened_s = 0.0
        #: Handles of cancelled tasks.
        self.stopped: set[int] = set()

    def send(self, frame: Frame) -> None:
        """Say something; waits while the worker is slow to listen.

        Raises:
            WorkerGone: Nobody listens any more.
        """
        try:
            self._socket.sendall(encode_frame(frame))
        except OSError as error:
            raise WorkerGone from error

    def next(self) -> Load | Run:
        """Wait for something to do."""
        while not self._inbox:
            self._receive(0)
        return self._inbox.popleft()

    def listen(self) -> None:
        """Hear what has been said meanwhile, without waiting."""
        now_s = self._clock.monotonic_s()
        if now_s - self._listened_s < LISTEN_EVERY_S:
            return
        self._listened_s = now_s
        try:
            while self._receive(socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass

    def _receive(self, flags: int) -> bool:
        """Read once; return whether there may be more at once."""
        try:
            chunk = self._socket.recv(1 << 18, flags)
        except ConnectionError as error:
            raise WorkerGone from error
        if not chunk:
            raise WorkerGone
        self._buffer += chunk
        for work in self._take_frames():
            if isinstance(work, Stop):
                self.stopped.update(work.handles)
            else:
                self._inbox.append(work)
        return len(chunk) == 1 << 18

    def _take_frames(self) -> list[Work]:
        works: list[Work] = []
        buffer, at = self._buffer, 0
        while len(buffer) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + int.from_bytes(buffer[at : at + HEAD_BYTES], "big")
            if len(buffer) < end:
                break
            works.append(decode_work(bytes(buffer[at + HEAD_BYTES : end])))
            at = end
        del buffer[:at]
        return works


class OutputTooLarge(Exception):
    """A model returned more than can be taken."""


class Job:
    """A task while it runs: its samples, what they gave, and who hears them."""

    __slots__ = (
        "_clock",
        "_pipe",
        "_previewed_s",
        "_told_s",
        "count",
        "error",
        "handle",
        "index",
        "left",
        "results",
        "run_s",
        "seed",
    )

    def __init__(self, handle: int, count: int, seed: int, pipe: Pipe, clock: Clock) -> None:
        self.handle = handle
        self.count = count
        self.seed = seed
        self.left = count
        self.index = 0
        self.results: list[Any] = [None] * count
        self.error: Exception | None = None
        self.run_s = 0.0
        self._pipe = pipe
        self._clock = clock
        self._told_s = -1.0
        self._previewed_s = -1.0

    def progress(self, done: int, total: int) -> None:
        """See `Listener.progress`. Samples that ran before count as whole."""
        now_s = self._clock.monotonic_s()
        if done < total and now_s - self._told_s < PROGRESS_EVERY_S:
            return
        self._told_s = now_s
        before = (self.count - self.left) * total
        self._pipe.send(
            Step(self.handle, min(before + done, self.count * total), self.count * total)
        )

    def preview(self, make: Callable[[], Any]) -> None:
        """See `Listener.preview`."""
        now_s = self._clock.monotonic_s()
        if now_s - self._previewed_s < PREVIEW_EVERY_S or self.handle in self._pipe.stopped:
            return
        self._previewed_s = now_s
        try:
            jpeg = _thumbnail(make())
        except Exception:
            # A picture that only shows what is to come must not fail what comes.
            traceback.print_exc()
            return
        self._pipe.send(Preview(self.handle, self.count - self.left, jpeg))

    def is_cancelled(self) -> bool:
        """See `Listener.is_cancelled`."""
        self._pipe.listen()
        return self.handle in self._pipe.stopped


def _thumbnail(picture: Any) -> bytes:
    pil = (picture if isinstance(picture, Image) else Image(picture)).pil().convert("RGB")
    pil.thumbnail((PREVIEW_PX, PREVIEW_PX))
    file = io.BytesIO()
    pil.save(file, "JPEG", quality=70)
    return file.getvalue()


class Runner:
    """Runs the batches of one model."""

    def __init__(
        self, definition: Definition, model: Model, pipe: Pipe, clock: Clock, rng: random.Random
    ) -> None:
        self._model = model
        self._by = definition.batch.by
        # A function runs its inputs one after another, so each result can go when it is there.
        self._max = 1 if is_function_model(model) else definition.batch.max
        self._validate = definition.input_type.model_validate_json
        self._pipe = pipe
        self._clock = clock
        self._rng = rng

    def run(self, batch: int, orders: Sequence[Order]) -> None:
        """Run a batch and send what became of it."""
        results = _Outbox(batch, self._pipe, self._clock)
        items: list[tuple[Item[Any], Job]] = []
        for order in orders:
            self._prepare(order, items, results)
        for chunk in self._chunks(items):
            self._run_chunk(chunk, results)
        results.flush(is_last=True)
        if self._pipe.stopped:
            self._pipe.stopped.difference_update(order.handle for order in orders)

    def _prepare(
        self, order: Order, items: list[tuple[Item[Any], Job]], results: "_Outbox"
    ) -> None:
        try:
            checked = self._validate(
                order.input, context={"files": order.files} if order.files else None
            )
        except pydantic.ValidationError as error:
            results.faults.append(
                Fault(
                    order.handle,
                    "invalid_input",
                    "A value is not allowed",
                    _told(error),
                    False,
                    0.0,
                )
            )
            return
        seed = order.seed
        if seed is None:
            own = getattr(checked, "seed", None)
            seed = own if isinstance(own, int) else self._rng.getrandbits(SEED_BITS)
        job = Job(order.handle, order.count, seed, self._pipe, self._clock)
        for index in range(order.count):
            item = Item(checked, seed=seed + index, index=index, count=order.count, listener=job)
            items.append((item, job))

    def _chunks(self, items: list[tuple[Item[Any], Job]]) -> list[list[tuple[Item[Any], Job]]]:
        """Cut into what runs together: equal in every `by` field as validated, at most `max`."""
        if not self._by:
            return [items[at : at + self._max] for at in range(0, len(items), self._max)]
        groups: dict[str, list[tuple[Item[Any], Job]]] = {}
        for item, job in items:
            key = repr([getattr(item.input, field) for field in self._by])
            groups.setdefault(key, []).append((item, job))
        return [
            group[at : at + self._max]
            for group in groups.values()
            for at in range(0, len(group), self._max)
        ]

    def _run_chunk(self, chunk: list[tuple[Item[Any], Job]], results: "_Outbox") -> None:
        # What is stopped before it begins need not begin, even if the model never looks.
        self._pipe.listen()
        stopped = self._pipe.stopped
        live = [(item, job) for item, job in chunk if job.error is None]
        if stopped:
            live = [(item, job) for item, job in live if job.handle not in stopped]
        start_s = self._clock.monotonic_s()
        answers = self._call([item for item, _ in live]) if live else []
        run_s = self._clock.monotonic_s() - start_s
        for (item, job), answer in zip(live, answers, strict=True):
            job.run_s += run_s
            if isinstance(answer, Exception):
                job.error = job.error or answer
            else:
                job.results[item.index] = answer
        for _, job in chunk:
            job.left -= 1
            if job.left == 0:
                results.add(job)
        results.tick()

    def _call(self, items: list[Item[Any]]) -> list[Any]:
        try:
            answers = self._model.run(items)
        except Exception as error:
            return [error] * len(items)
        if isinstance(answers, list | tuple) and len(answers) == len(items):
            return list(answers)
        wrong = TypeError(
            f"run() must return a list with one result for each of its {len(items)} items, "
            f"and returned {_shape(answers)}"
        )
        return [wrong] * len(items)


def _shape(answers: Any) -> str:
    if isinstance(answers, list | tuple):
        return f"{len(answers)}"
    return f"a {type(answers).__name__}"


class _Outbox:
    """Results of one batch on their way to the worker."""

    def __init__(self, batch: int, pipe: Pipe, clock: Clock) -> None:
        self._batch = batch
        self._pipe = pipe
        self._clock = clock
        self._flushed_s = clock.monotonic_s()
        self._done: list[Done] = []
        self._stopped: list[int] = []
        self._waiting_bytes = 0
        self._logged: Exception | None = None
        self.faults: list[Fault] = []

    def add(self, job: Job) -> None:
        """Take a job whose samples have all run."""
        if job.handle in self._pipe.stopped or isinstance(job.error, Cancelled):
            self._stopped.append(job.handle)
        elif job.error is not None:
            self._add_fault(job, job.error)
        else:
            self._add_result(job)
        self.tick()

    def tick(self) -> None:
        """Show that a call of the model has ended, also where no task has."""
        if self._clock.monotonic_s() - self._flushed_s >= FLUSH_EVERY_S:
            self.flush()

    def _add_result(self, job: Job) -> None:
        files: list[Attachment] = []
        try:
            value = job.results[0] if job.count == 1 else job.results
            output = _json(flatten(value, files))
            packed = [_pack(file, job.seed) for file in files] if files else []
            size_bytes = _check_size(output, packed)
        except Exception as error:
            self._add_fault(job, error)
            return
        if self._waiting_bytes + size_bytes > FLUSH_BYTES:
            self.flush()
        self._waiting_bytes += size_bytes
        self._done.append(Done(job.handle, output, job.seed, job.run_s, packed))

    def _add_fault(self, job: Job, error: Exception) -> None:
        # One exception may have failed a whole batch: its traceback is worth telling once.
        if error is not self._logged and not isinstance(error, Reject | OutputTooLarge):
            traceback.print_exception(error)
            self._logged = error
        self.faults.append(_fault(job, error))

    def flush(self, *, is_last: bool = False) -> None:
        """Send what is there; nothing is a sign of life."""
        self._pipe.send(
            Results(self._batch, self._done, self.faults, self._stopped, is_last, _peak_bytes())
        )
        self._done, self.faults, self._stopped = [], [], []
        self._waiting_bytes = 0
        self._flushed_s = self._clock.monotonic_s()


def _check_size(output: bytes, files: Sequence[Pixels | Blob]) -> int:
    """Return how many bytes a result has.

    Raises:
        OutputTooLarge: It cannot be taken; the text says what to do.
    """
    if len(output) > MAX_OUTPUT_BYTES:
        raise OutputTooLarge(
            f"the output has {len(output):,} bytes of JSON and at most {MAX_OUTPUT_BYTES:,} are "
            "taken: return a swell.File or swell.Image instead, which are stored beside the task"
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


def _pack(file: Attachment, seed: int) -> Pixels | Blob:
    if not isinstance(file, Image):
        return Blob(file.read(), file.content_type, file.name)
    encoded = file.encoded
    if encoded is not None and not file.format:
        return Blob(encoded, "image/*", "")
    picture = file.pil()
    if picture.mode not in ("RGB", "RGBA", "L"):
        picture = picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
    metadata = _json(file.metadata)
    return Pixels(
        picture.mode,
        picture.width,
        picture.height,
        picture.tobytes(),
        file.format or "",
        metadata,
        seed,
    )


def _fault(job: Job, error: Exception) -> Fault:
    detail = describe_error(error)
    if isinstance(error, Reject):
        return Fault(
            job.handle, "rejected", "The model refused this input", detail, False, job.run_s
        )
    if isinstance(error, OutputTooLarge):
        return Fault(
            job.handle, "output_too_large", "The output is too large", detail, False, job.run_s
        )
    return Fault(
        job.handle,
        "model_error",
        "The model failed",
        f"{type(error).__name__}: {detail}",
        True,
        job.run_s,
    )


def _told(error: pydantic.ValidationError) -> str:
    """Return what is wrong with an input, each value by its JSON pointer."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"/{'/'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in problems[:5]
    ]
    return "; ".join(told)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _load(work: Load, pipe: Pipe, clock: Clock) -> dict[str, Runner]:
    """Import, describe, load and warm the models."""
    definitions = [definition for ref in work.refs for definition in load_models(ref)]
    names = [definition.name for definition in definitions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InvalidModel(f"{twice} is named twice: give each model a name of its own")
    pipe.send(Described([definition.card() for definition in definitions]))
    runners: dict[str, Runner] = {}
    load_s: dict[str, float] = {}
    rng = random.Random()
    for definition in definitions:
        start_s = clock.monotonic_s()
        model = definition.make()
        model.load(work.device)
        model.warmup()
        load_s[definition.name] = clock.monotonic_s() - start_s
        runners[definition.name] = Runner(definition, model, pipe, clock, rng)
    pipe.send(Ready(load_s, _peak_bytes()))
    return runners


def serve(sock: socket.socket, clock: Clock) -> int:
    """Do what the worker says until it is gone; return the exit code."""
    pipe = Pipe(sock, clock)
    try:
        load = pipe.next()
        assert isinstance(load, Load), "the first frame names the models"
        try:
            runners = _load(load, pipe, clock)
        except SwellError as error:
            pipe.send(Refused(error.code, error.detail))
            return 1
        except Exception as error:
            traceback.print_exc()
            pipe.send(
                Refused(
                    "model_load_failed",
                    f"loading failed: {type(error).__name__}: {describe_error(error)}",
                )
            )
            return 1
        while True:
            work = pipe.next()
            if isinstance(work, Run):
                runners[work.model].run(work.batch, work.orders)
    except WorkerGone:
        return 0


def _follow_parent(parent_pid: int) -> None:
    """Die with the worker, also where it is killed and this process is busy in native code."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        # It died before the line above.
        os._exit(0)


def main() -> None:
    """Entry point: `python -m swell.worker.child FD PARENT_PID`."""
    fd, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    _follow_parent(parent_pid)
    # The worker decides when this process ends; a Ctrl-C in the terminal is for the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # What a model prints is talk, and stdout is for data.
    os.dup2(2, 1)
    code = serve(socket.socket(fileno=fd), SystemClock())
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip the destructors of native libraries: nothing is left to save.
    os._exit(code)


if __name__ == "__main__":
    main()
