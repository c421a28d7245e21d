"""The model process: imports and loads models, then runs tasks until its worker exits.

The process has one thread. It reads messages from the worker between batches, between steps, and
whenever a model reads `cancelled`: so a cancellation arrives within one step.

Step models share one loop (`step_runner.py`), which tasks join at any time. Batches of other models
run between two steps. If both have work, they alternate: after a batch, steps run for as long as
the batch took, at most `TURN_S`. If the models do not all fit on the device, each model switch must
pay off: the steps or batches that caused it run for at least `PAYS_BACK` times its duration, while
they have work. The loop waits briefly for the next batch.
"""

import collections
import ctypes
import gc
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
import PIL.Image

from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidModel, SwellError
from swell.core.startup_phases import Phase, PhaseLog, logging_to
from swell.diffusion.row_limit import RowLimit, ran_out, went_well
from swell.diffusion.solvers import Noise
from swell.diffusion.step_runner import StepRunner
from swell.runtime.checkpoint_shm import CheckpointMemory
from swell.runtime.ipc import Pipe, WorkerGone
from swell.runtime.ipc_messages import (
    DEVICE_BROKEN,
    Described,
    Fault,
    HandOver,
    Load,
    Order,
    Phased,
    Ready,
    Refused,
    Run,
    StepEngineConfig,
    Turn,
)
from swell.runtime.model_residency import (
    CannotLoad,
    Device,
    check_device,
    clear_traceback_frames,
    is_out_of_memory,
    means_broken,
)
from swell.runtime.task_run import (
    EARLY_AFTER_S,
    Job,
    Outbox,
    Reader,
    thumbnail,
)
from swell.runtime.task_run import SEED_BITS as SEED_BITS
from swell.runtime.unicode_repair import describe_error
from swell.sdk.context import Cancelled, Item
from swell.sdk.define import Definition, is_function_model
from swell.sdk.model import DeviceBroken
from swell.sdk.model_loader import load_models
from swell.sdk.step_model import StepModel
from swell.weights.compile_cache import keep_compiled_in
from swell.weights.declared_weights import await_contents, look_for_weights_in

__all__ = ["SEED_BITS", "Runner", "main", "serve"]

#: After a batch, waiting steps run for as long as the batch took, but at most this long.
TURN_S: Final = 2.0

#: After a model switch, the steps or batches that caused it run for this multiple of its duration.
PAYS_BACK: Final = 4.0

#: Longest wait for an announced batch. It may never arrive: its tasks may be cancelled, or the
#: worker may send a task of another model first.
NEXT_BATCH_S: Final = 0.25

#: Consecutive full-size calls without running out of memory before the row limit grows. Doubles
#: with each call that runs out of memory.
PATIENCE: Final = 32

#: Number of combinations of `by` values with a stored row limit.
MOST_ROW_LIMITS: Final = 256

#: Linux: the signal to get when the parent dies (prctl.h).
PR_SET_PDEATHSIG: Final = 1

#: Samples, each with its task.
_Samples: TypeAlias = list[tuple[Item[Any], Job]]

#: Placeholder for the result of a sample that will run again.
_ANEW: Final = object()

#: Error of a sample that cannot run again, although it may not be at fault.
_CUT_SHORT: Final = RuntimeError(
    "the batch ended early, after this task had already delivered a file or a charge"
)


@dataclass(slots=True)
class _Tried:
    """Outcome of the calls for one chunk."""

    #: Largest number of samples in a successful call.
    fits: int = 0
    #: Whether a call ran out of memory, and whether a call with a single sample did.
    lacks: bool = False
    lacks_alone: bool = False


class Runner:
    """Runs the batches of one model.

    If a call fails, its samples run again in halves, to find the sample at fault. If memory runs
    out, later calls have fewer samples.

    Args:
        definition: The model.
        device: The device with the model.
        reader: Reads its orders.
        pipe: To the worker.
        clock: The clock.
    """

    def __init__(
        self, definition: Definition, device: Device, reader: Reader, pipe: Pipe, clock: Clock
    ) -> None:
        self._name = definition.name
        self._device = device
        self._by = definition.facts.batch_by
        is_function = is_function_model(device.model(self._name))
        # A function runs its inputs one after another, so each result is sent when it is ready.
        self._max = 1 if is_function else definition.facts.max_batch
        self._reader = reader
        self._pipe = pipe
        self._clock = clock
        #: Row limits by the values of the `by` fields, for samples that do not fit in memory as a
        #: full batch.
        self._row_limits: dict[str, RowLimit] = {}

    def run(
        self, batch: int, orders: Sequence[Order], bring: Callable[[], float] = lambda: 0.0
    ) -> None:
        """Run a batch and send its results.

        Args:
            batch: Number of the batch.
            orders: Tasks of the batch.
            bring: Loads the model on the device and returns the seconds that took; may raise
                `CannotLoad`.
        """
        results = Outbox(batch, self._pipe, self._clock)
        items: _Samples = []
        for order in orders:
            self._prepare(order, items, results)
        failed = self._bring(bring, items)
        for key, group in self._groups(items).items():
            at = 0
            while at < len(group):
                most = self._most(key)
                self._run_chunk(key, group[at : at + most], results, failed)
                at += most
        results.flush(is_last=True)
        if self._pipe.stopped or self._pipe.watched:
            for order in orders:
                self._pipe.forget(order.handle)

    def _prepare(self, order: Order, items: _Samples, results: Outbox) -> None:
        job = self._reader.job(order, self._pipe, self._clock)
        if isinstance(job, Fault):
            results.faults.append(job)
        else:
            items += [(job.item(index, job), job) for index in range(job.count)]

    def _bring(self, bring: Callable[[], float], items: _Samples) -> CannotLoad | None:
        if not items:
            return None
        try:
            load_s = bring()
        except CannotLoad as error:
            return error
        for _, job in items:
            job.load_s = load_s
        return None

    def _groups(self, items: _Samples) -> dict[str, _Samples]:
        """Group samples that may share a call: those with equal validated `by` fields."""
        if not self._by:
            return {"": items}
        groups: dict[str, _Samples] = {}
        for item, job in items:
            key = repr([getattr(item.input, field) for field in self._by])
            groups.setdefault(key, []).append((item, job))
        return groups

    def _run_chunk(
        self, key: str, chunk: _Samples, results: Outbox, failed: CannotLoad | None
    ) -> None:
        """Run a chunk. If a call fails, its samples run again in halves, down to single samples."""
        tried = _Tried()
        waiting = [chunk]
        while waiting:
            waiting += reversed(self._run_part(waiting.pop(), tried, results, failed))
        self._learn(key, tried)

    def _run_part(
        self, part: _Samples, tried: _Tried, results: Outbox, failed: CannotLoad | None
    ) -> list[_Samples]:
        """Run samples in one call; return the groups that must run again."""
        # A cancelled task does not start, even if the model never checks for cancellation.
        self._pipe.listen()
        stopped = self._pipe.stopped
        live = [(item, job) for item, job in part if job.error is None]
        if stopped:
            live = [(item, job) for item, job in live if job.handle not in stopped]
        start_s = self._clock.monotonic_s()
        answers: list[Any] = [failed] * len(live)
        anew: list[_Samples] = []
        if failed is None and live:
            answers, anew = self._call(live, tried)
        run_s = self._clock.monotonic_s() - start_s
        share_s = run_s / max(1, len(live))
        for (item, job), answer in zip(live, answers, strict=True):
            job.run_s += run_s
            job.device_s += share_s
            if isinstance(answer, Exception):
                job.error = job.error or answer
            elif answer is not _ANEW:
                job.results[item.index] = answer
        if anew:
            again = {id(item) for each in anew for item, _ in each}
            part = [(item, job) for item, job in part if id(item) not in again]
        self._count_off(part, live, results)
        return anew

    def _count_off(self, part: _Samples, live: _Samples, results: Outbox) -> None:
        is_any_left = False
        for _, job in part:
            job.left -= 1
            if job.left == 0:
                results.add(job)
            else:
                is_any_left = True
        if is_any_left:
            self._tell_early(live)
        results.tick()

    def _tell_early(self, live: _Samples) -> None:
        """Send the files of complete samples of unfinished tasks."""
        for _, job in live:
            if job.left and job.error is None and job.run_s >= EARLY_AFTER_S:
                for part in job.parts():
                    self._pipe.send(part)

    def _call(self, live: _Samples, tried: _Tried) -> tuple[list[Any], list[_Samples]]:
        """Call the model; return its results, and the groups that must run again.

        Samples of these groups have the result `_ANEW`.

        Raises:
            WorkerGone: The worker exited.
        """
        items = [item for item, _ in live]
        for _, job in live:
            job.has_told = False
        try:
            answers = self._device.model(self._name).run(items)
        except WorkerGone:
            raise
        except Cancelled as error:
            return self._others(live, error)
        except Exception as error:
            return self._halves(live, error, tried)
        if isinstance(answers, list | tuple) and len(answers) == len(items):
            tried.fits = max(tried.fits, len(items))
            return list(answers), []
        wrong = TypeError(
            f"run() must return a list with one result for each of its {len(items)} items, "
            f"and returned {_shape(answers)}"
        )
        return [wrong] * len(items), []

    def _others(self, live: _Samples, error: Cancelled) -> tuple[list[Any], list[_Samples]]:
        """Run the other samples again after a cancelled sample ended the call."""
        if not any(item.cancelled for item, _ in live):
            return [error] * len(live), []
        others = [(item, job) for item, job in live if not (item.cancelled or job.early)]
        answers = _answers(live, others, _CUT_SHORT)
        for place, (item, _) in enumerate(live):
            if item.cancelled:
                answers[place] = error
        return answers, [others] if others else []

    def _halves(
        self, live: _Samples, error: Exception, tried: _Tried
    ) -> tuple[list[Any], list[_Samples]]:
        """Run the samples of a failed call again, in halves.

        A task that has already sent a file or a payment would send it twice, so it fails. Only a
        sample that failed alone gets the error of the model.
        """
        check_device(error)
        is_alone = len(live) == 1
        if is_out_of_memory(self._device.model(self._name), error):
            # Free the memory of the failed call for the next one.
            clear_traceback_frames(error)
            gc.collect()
            tried.lacks, tried.lacks_alone = True, tried.lacks_alone or is_alone
        if is_alone:
            return [error], []
        others = [(item, job) for item, job in live if not job.has_told]
        if others:
            why = f"{type(error).__name__}: {describe_error(error)}"
            sys.stderr.write(f"{len(live)} samples of {self._name} run again in halves: {why}\n")
        half = (len(others) + 1) // 2
        parts = [part for part in (others[:half], others[half:]) if part]
        return _answers(live, others, _CUT_SHORT), parts

    # --- row limits ------------------------------------------------------------------------------

    def _most(self, key: str) -> int:
        """Return the largest number of samples per call with these `by` fields."""
        limit = self._row_limits.get(key)
        return self._max if limit is None else limit.rows

    def _learn(self, key: str, tried: _Tried) -> None:
        """Lower the row limit if memory ran out; raise it after many successful calls.

        If a single sample ran out of memory, the limit stays: other samples may need less.
        """
        limit = self._row_limits.get(key)
        if not tried.lacks:
            if limit is not None:
                self._row_limits[key] = went_well(limit, tried.fits)
        elif tried.fits and not tried.lacks_alone:
            limit = limit or RowLimit(self._max, self._max, patience=PATIENCE)
            limit = ran_out(limit, limit.rows)
            # The entry moves to the end: the oldest entries are dropped first.
            self._row_limits.pop(key, None)
            self._row_limits[key] = msgspec.structs.replace(limit, rows=tried.fits)
            while len(self._row_limits) > MOST_ROW_LIMITS:
                del self._row_limits[next(iter(self._row_limits))]


def _answers(live: _Samples, others: _Samples, error: Exception) -> list[Any]:
    """Return `_ANEW` for `others`, and the error for the rest."""
    again = {id(item) for item, _ in others}
    return [_ANEW if id(item) in again else error for item, _ in live]


def _shape(answers: Any) -> str:
    if isinstance(answers, list | tuple):
        return f"{len(answers)}"
    return f"a {type(answers).__name__}"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The models of this process: those that run batches, and step models."""

    device: Device
    runners: dict[str, Runner]
    easels: dict[str, Reader]


def _import(refs: Sequence[str]) -> dict[str, list[Definition]]:
    """Return the models of each reference."""
    # Imported modules stay in memory. Garbage collection would take a fifth of the import time of
    # torch and diffusers, and as much again while the models are created.
    gc.disable()
    try:
        return {ref: load_models(ref) for ref in refs}
    finally:
        gc.freeze()
        gc.enable()


def _imported(work: Load, log: PhaseLog, clock: Clock) -> list[tuple[str, Definition]]:
    """Import the models, and return them with their references.

    Code is imported during the download of contents. An added model (`.toml`) is read after the
    download: the files in its folder are links to contents.
    """
    added = [ref for ref in work.refs if ref.endswith(".toml")]
    code = [ref for ref in work.refs if ref not in added]
    found: dict[str, list[Definition]] = {}
    for refs in (code, added):
        if refs:
            with log.phase(Phase.IMPORT, ""):
                found |= _import(refs)
        if refs is code and added:
            _await_contents(work, clock)
    return [(ref, definition) for ref in work.refs for definition in found[ref]]


def _await_contents(work: Load, clock: Clock) -> None:
    if work.weights is not None and work.weights.contents:
        await_contents(work.weights.contents, clock)


def _load(work: Load, pipe: Pipe, clock: Clock) -> _Loaded:
    """Import and describe the models; load and warm up those that fit on the device."""
    log = PhaseLog(clock.monotonic_s, lambda: pipe.send(Phased(list(log.spans))))
    logging_to(log)
    if work.weights is not None:
        look_for_weights_in(work.weights.cache_dir, work.weights.baked_dir)
        if work.weights.compiled_dir is not None:
            keep_compiled_in(work.weights.compiled_dir, work.weights.compiled_bytes)
    found = _imported(work, log, clock)
    definitions = [definition for _, definition in found]
    may_fail = {definition.name for ref, definition in found if ref in work.optional}
    names = [definition.name for definition in definitions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InvalidModel(f"{twice} is named twice: give each model a different name")
    cards = [definition.card() for definition in definitions]
    pipe.send(Described(cards))
    _await_contents(work, clock)
    device = Device(definitions, work, pipe, clock, may_fail, log)
    load_s = device.start()
    loaded = _Loaded(device, {}, {})
    rng = random.Random()
    for definition in definitions:
        if definition.name in device.left_out:
            continue
        reader = Reader(definition, rng)
        if isinstance(device.model(definition.name), StepModel):
            loaded.easels[definition.name] = reader
        else:
            loaded.runners[definition.name] = Runner(definition, device, reader, pipe, clock)
    if loaded.easels:
        # Initialize numpy's random numbers and Pillow now, so that the first image is not delayed.
        Noise(0).draw((1,))
        thumbnail(lambda: PIL.Image.new("RGB", (8, 8)))
    drawing = [device.model(name) for name in loaded.easels]
    pipe.send(
        Ready(
            load_s,
            device.residents,
            device.expected_s(),
            invariant=[m.name for m in drawing if isinstance(m, StepModel) and m.batch_invariant],
            memory_bytes=device.memory_bytes(),
            left_out=device.left_out,
        )
    )
    return loaded


class _Loop:
    """Alternates between batches and steps."""

    def __init__(self, loaded: _Loaded, pipe: Pipe, slate: CheckpointMemory, clock: Clock) -> None:
        self._loaded = loaded
        self._slate = slate
        self._device = loaded.device
        self._pipe = pipe
        self._clock = clock
        self._drawer = self._new_drawer(exact=True)
        self._batches: collections.deque[Run] = collections.deque()
        #: Steps run until this time.
        self._turn_until_s = 0.0
        #: If more batches of the loaded model are announced: batches run until the first time, and
        #: the loop waits for the next batch until the second.
        self._batches_until_s = 0.0
        self._next_batch_until_s = 0.0
        self._has_more = False

    def _new_drawer(self, *, exact: bool) -> StepRunner:
        return StepRunner(
            self._loaded.easels,
            self._pipe,
            self._slate,
            self._clock,
            device=self._device,
            exact=exact,
            moved=self._pay_back,
        )

    def run(self) -> None:
        """Run tasks until the worker exits.

        Raises:
            WorkerGone: The worker exited.
        """
        while True:
            if not (self._batches or self._drawer.is_busy):
                self._take(self._pipe.next())
            self._hear()
            if self._batches and not self._is_turn_of_steps():
                self._run_batch(self._batches.popleft())
            if self._drawer.is_busy and not self._is_turn_of_batches():
                self._drawer.step()

    def _hear(self) -> None:
        """Read messages from the worker until the next step is due."""
        while True:
            while (work := self._pipe.take()) is not None:
                self._take(work)
            if self._batches or not self._drawer.is_busy:
                return
            due_s = self._batch_due_s if self._is_turn_of_batches() else self._drawer.engine.due_s
            if not due_s:
                return  # at once
            left_s = due_s - self._clock.monotonic_s()
            if left_s <= 0 or not self._pipe.wait(left_s):
                return

    def _take(self, work: Load | StepEngineConfig | Run | HandOver) -> None:
        match work:
            case StepEngineConfig(exact):
                self._drawer = self._new_drawer(exact=exact)
            case HandOver():
                self._drawer.hand_over()
            case Run() if work.model in self._loaded.easels:
                self._drawer.add(work.model, work.orders)
            case Run():
                self._batches.append(work)

    @property
    def _batch_due_s(self) -> float:
        return min(self._batches_until_s, self._next_batch_until_s)

    def _is_turn_of_steps(self) -> bool:
        return self._drawer.is_busy and self._clock.monotonic_s() < self._turn_until_s

    def _is_turn_of_batches(self) -> bool:
        """Say whether steps wait: they need a model switch, and more batches of the loaded model
        are announced.
        """
        if not (self._has_more and self._clock.monotonic_s() < self._batch_due_s):
            return False
        return not any(self._device.has(model) for model in self._drawer.wanted)

    def _run_batch(self, work: Run) -> None:
        self._has_more = work.model in work.wanted
        if self._loaded.easels:
            self._pipe.send(Turn(work.batch))
        # If the process crashes now, the worker must blame this batch. So send the results of the
        # batch before it first.
        self._pipe.flush()
        start_s = self._clock.monotonic_s()
        bring = partial(self._bring, work)
        self._loaded.runners[work.model].run(work.batch, work.orders, bring)
        self._device.use(work.model)
        now_s = self._clock.monotonic_s()
        self._next_batch_until_s = now_s + NEXT_BATCH_S
        turn_until_s = now_s + min(now_s - start_s, TURN_S)
        self._turn_until_s = max(self._turn_until_s, turn_until_s)

    def _bring(self, work: Run) -> float:
        """Load the model of a batch on the device; return the seconds that took.

        Raises:
            CannotLoad: Loading failed.
        """
        if self._device.has(work.model):
            return 0.0
        self._drawer.clear()
        wanted = {*self._drawer.wanted, *work.wanted, *(each.model for each in self._batches)}
        try:
            load_s = self._device.bring(work.model, wanted)
        finally:
            self._drawer.look()
        if any(self._device.has(model) for model in self._drawer.wanted):
            self._pay_back(load_s)
        else:
            self._batches_until_s = self._clock.monotonic_s() + PAYS_BACK * load_s
        return load_s

    def _pay_back(self, load_s: float) -> None:
        """Run steps until the model switch has paid off."""
        self._turn_until_s = self._clock.monotonic_s() + PAYS_BACK * load_s


def serve(sock: socket.socket, slate: CheckpointMemory, clock: Clock) -> int:
    """Serve the worker until it exits; return the exit code."""
    pipe = Pipe(sock, clock)
    try:
        load = pipe.next()
        assert isinstance(load, Load), "the first frame names the models"
        try:
            loaded = _load(load, pipe, clock)
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
        _collect_rarely()
        _work(_Loop(loaded, pipe, slate, clock))
    except WorkerGone:
        return DEVICE_BROKEN if means_broken(pipe.error) else 0
    except DeviceBroken as error:
        sys.stderr.write(f"the GPU is unusable, so the model process ends: {error}\n")
        return DEVICE_BROKEN
    return 0


def _work(loop: _Loop) -> None:
    """Run tasks until the worker exits.

    Raises:
        WorkerGone: The worker exited.
        DeviceBroken: The device failed, in a model call or between two.
    """
    try:
        loop.run()
    except RuntimeError as error:
        check_device(error)
        raise


def _collect_rarely() -> None:
    """Exclude objects that live as long as the process from garbage collection.

    Scanning all objects that a framework imports takes longer than a step.
    """
    gc.collect()
    gc.freeze()


def _follow_parent(parent_pid: int) -> None:
    """Exit with the worker, even if it is killed while this process runs native code."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        # The worker died before `prctl` took effect.
        os._exit(0)


def main() -> None:
    """Entry point: `python -m swell.runtime.model_process_main FD PARENT_PID SLATE_FD`."""
    fd, parent_pid, slate_fd = map(int, sys.argv[1:4])
    _follow_parent(parent_pid)
    # The worker decides when this process ends; a Ctrl-C in the terminal is for the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Output that a model prints goes to stderr; stdout is for data.
    os.dup2(2, 1)
    code = serve(socket.socket(fileno=fd), CheckpointMemory(slate_fd), SystemClock())
    sys.stdout.flush()
    sys.stderr.flush()
    # Skip the destructors of native libraries: there is no data left to save.
    os._exit(code)


if __name__ == "__main__":
    main()
