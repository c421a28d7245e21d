"""The worker: leases tasks, runs them in its model process, uploads and reports the results.

    lease → input files → batch → run (model process) → encode (processes) → upload → report

Tasks of a model that draws in steps are not batched: they go to the model process one by one, as
soon as it has room for them, and join the running steps.

The event loop only moves bytes. `batching.py` forms batches, `inflight.py` holds tasks and
unreported outcomes, `model_process_state.py` the tasks in the model process; `task_inputs.py` loads
inputs, `task_results.py` uploads outputs, and `backend_session.py` talks to the backend.
"""

import asyncio
import base64
import contextlib
import os
import random
import signal
import socket
from collections import deque
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.records import ModelCard
from swell.core.retry import RetryPolicy
from swell.core.task import Released, Timings
from swell.protocol.worker_messages import Dispatch, LeasedTask, Registration, Switches
from swell.runtime.ipc_messages import (
    DEVICE_BROKEN,
    DRAWN,
    MAX_INPUT_FILES_BYTES,
    Done,
    Fault,
    Frame,
    HandedOver,
    HandOver,
    Moved,
    Moving,
    Order,
    Paid,
    Part,
    Preview,
    Ready,
    Results,
    Run,
    Step,
    StepEngineConfig,
    Stop,
    StopAcknowledged,
    Swapped,
    Turn,
    Watch,
)
from swell.runtime.model_process_client import (
    ModelProcess,
    ModelRefused,
    Origin,
    ProcessDied,
    describe_exit,
)
from swell.runtime.startup_timing import Startups
from swell.settings.worker_settings import WorkerSettings
from swell.weights.cache import WeightCache
from swell.worker.backend_session import BackendSession, BackendWatchdog
from swell.worker.batching import Batching, BatchQueue, StepAdmission, batching_of, room_of
from swell.worker.encoder_pool import Encoders
from swell.worker.heartbeat import keep_beating
from swell.worker.inflight import Brought, InflightTask, InflightTasks, Parts
from swell.worker.lora_files import Loras
from swell.worker.model_process_state import ModelProcessState
from swell.worker.task_inputs import FileFields, TaskInputs, file_fields
from swell.worker.task_results import Delivery, Uploader, failed, faulty, stopped, success
from swell.worker.task_spans import TaskTraces

_log = structlog.get_logger("swell.worker")

#: If models take turns on the device, the worker holds tasks of at most so many models.
MOST_CHOICES: Final = 4

#: A batch whose model must be loaded lets others pass until it has waited for so many loads.
PATIENCE: Final = 4.0

#: After this many model processes in a row without a result, the last with a broken device, the
#: worker ends: its tasks do better on another machine.
_BROKEN_DEVICES: Final = 3

#: Waits between deaths of the model process.
_RESTART: Final = RetryPolicy(base_s=0.1, cap_s=10.0, floor_s=0.0)

#: Interval of checking whether a model is still loading, without a grace period.
MOVING_LOOK_S: Final = 0.1

#: The worker remembers this many tasks that ran alone when their model process died.
MOST_BLAMED: Final = 1024

#: Most tasks in a line of the log.
MOST_TOLD: Final = 20

#: Time for returning the leases after the checkpoints were stored, in seconds.
RELEASE_WITHIN_S: Final = 0.9

#: How long the goodbye of a worker that holds nothing may take: a backend that is away or silent
#: must not keep it.
GOODBYE_WITHIN_S: Final = 1.5

#: Exit code of a worker whose backend was away for `give_up_s`.
NO_BACKEND: Final = 5

#: The worker gives up after this many failed starts of the model process in a row.
MAX_BOOT_DEATHS: Final = 5

#: Time for the goodbye after `handover_s`, before the supervisor kills the worker, in seconds.
LAST_WORDS_S: Final = 2.0


class _Why(Enum):
    """Why a model process has ended, in words for the log."""

    DIED = "the model process died"
    BROKEN = "worker: the device is broken, so its model process ended"
    #: It did not come back from a task that was to stop.
    DEAF = "worker: the model kept running a stopped task, so its process was killed"
    #: A call of the model took longer than it may.
    SLOW = "a run of the model took too long: its process was killed"


@dataclass(frozen=True, slots=True)
class _Served:
    """What the worker needs to know of a model."""

    batching: Batching
    files: FileFields
    #: Whether it draws in steps.
    draws: bool


def default_slots(
    cards: Sequence[ModelCard], *, in_turn: bool = False, pinned: Collection[str] = ()
) -> int:
    """Return how many tasks to hold: one batch that runs and one that waits.

    Of models that draw in steps, as many as the model process takes, and those of one step more,
    which are being delivered.

    Args:
        cards: Of the models.
        in_turn: Whether models take turns on the device. Then the limit holds for each of several
            models, so that there are tasks to choose from.
        pinned: Models whose steps all have the same number of rows.
    """
    wanted = sorted(
        room_of(card, is_pinned=card.name in pinned) + card.step_bucket
        if card.step_bucket
        else 2 * card.max_batch
        for card in cards
    )
    return sum(wanted[-MOST_CHOICES:]) if in_turn else wanted[-1]


class Worker:
    """One worker with one model process.

    Args:
        settings: Name, pool, device, slots.
        dispatch: The backend.
        models: References as `load_models` takes them.
        clock: The time.
        step_costs: Folder for the step costs of models that draw in steps; None to keep none.
        weights: Where LoRAs go that tasks name; None to take none.
        origin: Where the model processes are from; None for Swell's own Python.
    """

    #: Whether not all models fit on the device together.
    _takes_turns = False

    def __init__(
        self,
        settings: WorkerSettings,
        dispatch: Dispatch,
        models: Sequence[str],
        clock: Clock,
        *,
        step_costs: Path | None = None,
        weights: WeightCache | None = None,
        origin: Origin | None = None,
    ) -> None:
        self._settings = settings
        self._is_exact = settings.is_exact
        self._origin: Origin = origin or Origin()
        #: Give it a tracer before `run` where traces are wanted.
        self.traces = TaskTraces(clock, settings.name)
        self._begun = self._origin.process
        self._startups = self._origin.startups or Startups(clock, settings.pool, settings.device)
        #: When the model process began to bring a model, in monotonic seconds.
        self._moving_since_s = 0.0
        self._dispatch = dispatch
        self._refs = list(models)
        self._clock = clock
        self._step_costs = step_costs
        self._rng = random.Random()
        self._served: dict[str, _Served] = {}
        self._versions: dict[str, str] = {}
        #: Models with the same number of rows in all steps.
        self._pinned: set[str] = set()
        self._backlog: BatchQueue[InflightTask] = BatchQueue()
        #: Tasks of step models: waiting, and in the model process.
        self._line: StepAdmission[InflightTask] = StepAdmission()
        #: What the model process has.
        self._at: ModelProcessState[InflightTask] = ModelProcessState()
        #: Tasks that killed a model process; a later attempt is drawn alone.
        self._blamed: deque[str] = deque(maxlen=MOST_BLAMED)
        self._deaths = 0
        #: Why the model process is being killed, and the batch that it had then.
        self._verdict: tuple[_Why, int | None] | None = None
        #: Models on the device, and what bringing each would take, as the model process said last.
        self._residents: list[str] = []
        self._expected_s: dict[str, float] = {}
        self._switches: dict[str, Switches] = {}
        self._encoders = Encoders(settings.encode_processes)
        self._courier = Uploader(
            dispatch,
            clock,
            lambda: self._link.worker_id,
            enclose_bytes=lambda: self._link.welcome.enclose_bytes,
        )
        self._delivery = Delivery(
            self._encoders, self._courier, settings.picture_format, self._feed, self.traces
        )
        self._loras = Loras(dispatch, weights, clock, settings.max_lora_bytes)
        self._supply = TaskInputs(settings, dispatch, self._loras, self._courier)
        #: How often the LoRAs of each model were changed by its process, since that began.
        self.lora_swaps: dict[str, int] = {}
        #: Background work, uploads of tasks that have not ended included.
        self._errands: set[asyncio.Task[Any]] = set()
        #: Results on their way to the object store, by handle.
        self._deliveries: dict[int, asyncio.Task[None]] = {}
        self._loops: set[asyncio.Task[None]] = set()
        self._is_draining = self._was_signalled = self._is_releasing = False
        self._watchdog = BackendWatchdog(
            clock, settings.give_up_s or None, self._end_without_backend
        )
        #: Set when the model process has sent all results, or is gone.
        self._handed_over = asyncio.Event()
        #: Whether a coroutine is starting the model process, and handles its death.
        self._is_starting = True
        self._holds_more_of_quick = False
        self.peak_bytes = 0
        #: Set once the worker is registered and takes work.
        self.is_up = asyncio.Event()

    @property
    def can_run(self) -> bool:
        """Return whether a model process is alive with its models loaded."""
        return self._process.is_ready and not self._is_starting

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new any more, and goes."""
        return self._is_draining

    @property
    def model_pid(self) -> int:
        """Process id of the model process that is in use now."""
        return self._process.pid

    # --- life ------------------------------------------------------------------------------------

    async def run(self, *, handle_signals: bool = True) -> int:
        """Work until drained; return the exit code.

        The first SIGTERM or SIGINT drains, the second hands over: see `release`.

        Raises:
            ModelRefused, InvalidModel, NotFound: The models cannot be loaded at the start.
            Unauthenticated: The backend does not know the token.
        """
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if handle_signals:
            self._handle_signals()
        if self._begun is not None:
            self._begun.report_to(self._on_frame, self._on_exit)
        self._process = self._begun or self._new_process()
        self._start = asyncio.get_running_loop().create_task(self._boot_and_join())
        if self._origin.provision is not None:
            self._origin.provision.add_done_callback(self._on_provision)
        try:
            ends: set[asyncio.Future[Any]] = {self._start, self._ended}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self._ended.done():
                self._start.result()
            return await self._ended
        finally:
            await self._close()

    def _on_provision(self, brought: "asyncio.Task[None]") -> None:
        """End the worker if weights are missing: without them it must not produce results."""
        if brought.cancelled() or self._ended.done():
            return
        error = brought.exception()
        if error is not None:
            self._ended.set_exception(error)

    def _end(self, exit_code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(exit_code)

    async def _boot_and_join(self) -> None:
        self._startups.follow(self._process)
        self._start_loop(self._startups.tell(self._dispatch, self._watchdog.note))
        cards = await self._boot()
        in_turn = self._takes_turns
        slots = self._settings.slots or default_slots(cards, in_turn=in_turn, pinned=self._pinned)
        draws = any(card.step_bucket for card in cards)
        self._holds_more_of_quick = not (self._settings.slots or draws)
        registration = Registration(
            name=self._settings.name,
            pool=self._settings.pool,
            models=cards,
            slots=slots,
            device=self._settings.device,
            host=socket.gethostname(),
            pid=os.getpid(),
            instance=self._settings.instance,
            release=version_of("swell"),
        )
        self._desk = InflightTasks(slots, self.traces)
        self._tell_of_models()
        self._desk.on_first_outcome = lambda: self._desk.startups.append(
            self._startups.first_outcome()
        )
        self._link = BackendSession(
            *(self._dispatch, self._clock, self._desk, registration, self),
            *(self._startups.registering, self._watchdog),
        )
        # The model process may die from now on at any time; registering may take long.
        self._is_starting = False
        await self._join()

    async def _boot(self) -> list[ModelCard]:
        cards, ready = await self._start_process()
        self._versions = {card.name: card.version for card in cards}
        for card in cards:
            self._served[card.name] = _Served(
                batching_of(card), file_fields(card.input_schema), card.step_bucket > 0
            )
        if self._is_exact:
            # One that was never loaded may turn out to be free of it.
            self._pinned = set(ready.residents) - set(ready.invariant)
        self._line.rooms = {
            card.name: room_of(card, is_pinned=card.name in self._pinned)
            for card in cards
            if card.step_bucket
        }
        self.peak_bytes = ready.peak_bytes
        # On a GPU the model process plans its memory itself.
        has_budget = self._settings.device_memory_bytes is not None
        self._takes_turns = len(cards) > 1 and (has_budget or len(ready.residents) < len(cards))
        cards = [
            msgspec.structs.replace(
                card,
                memory_bytes=card.memory_bytes or ready.memory_bytes.get(card.name, 0),
                stage=self._settings.stage or card.stage,
            )
            for card in cards
        ]
        for name, load_s in ready.load_s.items():
            _log.info("model loaded", model=name, load_s=round(load_s, 3))
        return cards

    async def _start_process(self) -> tuple[list[ModelCard], Ready]:
        """Have the process load its models.

        Raises:
            ProcessDied: It died on the way, or at once after it.
            SwellError: The models cannot be loaded.
        """
        settings = self._settings
        cards = await self._process.start(
            self._refs,
            settings.device,
            device_memory_bytes=settings.device_memory_bytes,
            host_memory_bytes=settings.host_memory_bytes,
            optional=settings.optional,
            shelf=self._origin.shelf,
        )
        if any(card.step_bucket for card in cards):
            step_costs = None if self._step_costs is None else str(self._step_costs)
            self._process.send(StepEngineConfig(self._is_exact, step_costs))
        ready = await self._process.ready()
        if not self._process.is_ready:
            raise ProcessDied("the model process died as soon as its models were loaded")
        self._residents, self._expected_s = ready.residents, ready.expected_s
        for name, reason in ready.left_out.items():
            _log.error("left out: the model cannot be loaded", model=name, reason=reason)
        return [card for card in cards if card.name not in ready.left_out], ready

    async def _join(self) -> None:
        """Register, and start the loops."""
        welcome = await self._link.register()
        self._startups.ready()
        _log.info(
            "registered",
            worker_id=welcome.worker_id,
            models=list(self._served),
            slots=self._desk.slots,
        )
        for loop in (
            self._link.take_work(),
            self._link.listen(),
            self._link.report(),
            self._link.report_small_news(),
            keep_beating(self._desk, self._clock, welcome.heartbeat_s),
        ):
            self._start_loop(loop)
        if self._settings.run_limit_s is not None:
            self._start_loop(self._limit_runs(self._settings.run_limit_s))
        self.is_up.set()

    def _start_loop(self, loop: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(loop)
        task.add_done_callback(self._on_loop_end)
        self._loops.add(task)

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        self._loops.discard(task)
        if task.cancelled() or self._ended.done():
            return
        error = task.exception()
        if error is not None:
            self._ended.set_exception(error)

    async def _close(self) -> None:
        # Nothing is started any more.
        self._end(0)
        if not self._startups.is_ready:
            await self._startups.tell_end(self._dispatch)
        tasks: list[asyncio.Task[Any]] = [self._start, *self._loops, *self._errands]
        tasks += [] if self._origin.provision is None else [self._origin.provision]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loras.close()
        await self._process.kill()
        await self._encoders.close()
        await self._dispatch.close()
        await self.traces.close()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        # Draining alone says nothing: a provider often asks for it before it ends the machine.
        was_signalled, self._was_signalled = self._was_signalled, True
        if was_signalled:
            self.release()
            return
        self.drain()
        killed_after_s = self._settings.killed_after_s
        if killed_after_s is not None and self.is_up.is_set():
            left_s = killed_after_s - self._settings.handover_s - LAST_WORDS_S
            self._start_loop(self._release_after(max(0.0, left_s)))

    def drain(self) -> None:
        """Finish the held tasks, take no new ones, and end."""
        if self._is_draining:
            return
        self._is_draining = True
        _log.info("worker: draining, finishing its tasks")
        if not self.is_up.is_set():
            # No task is held yet.
            self._end(0)
            return
        self._link.takes_work = False
        self._start_loop(self._leave())
        if self._settings.drain_s is not None:
            self._start_loop(self._release_after(self._settings.drain_s))

    async def _leave(self) -> None:
        while True:
            await self._desk.is_clear.wait()
            try:
                async with asyncio.timeout(GOODBYE_WITHIN_S):
                    # The open long poll may bring tasks until the backend knows that we go.
                    await self._link.say_goodbye()
            except TimeoutError:
                _log.warning("the backend does not answer: going without a goodbye")
            if self._desk.is_clear.is_set():
                break
        _log.info("drained")
        self._end(0)

    async def _release_after(self, drain_s: float) -> None:
        await self._clock.sleep(drain_s)
        _log.info("worker: the drain time has ended")
        self.release()

    def release(self, exit_code: int = 0) -> None:
        """Hand every lease back and go at once.

        Tasks of step models stop at the next step, and their checkpoints are stored for the next
        worker; finished results are delivered. Both take `handover_s` at most.
        """
        self._is_draining = True
        if not self.is_up.is_set():
            self._end(exit_code)
            return
        if self._is_releasing:
            return
        self._is_releasing = True
        self._link.takes_work = False
        self._start_loop(self._release(exit_code))

    async def _release(self, exit_code: int) -> None:
        left = await self._hand_over()
        for held in self._desk.all_held():
            spent = Timings(device_s=held.device_s)
            outcome = Released(reason="stopped", checkpoint=left.get(held.handle), timings=spent)
            self._desk.settle(held, outcome)
        _log.info("handing leases back")
        try:
            async with asyncio.timeout(RELEASE_WITHIN_S):
                await self._link.say_goodbye_at_once()
        except (SwellError, TimeoutError) as error:
            _log.warning("the leases could not be handed back", detail=str(error))
        self._end(exit_code)

    async def _hand_over(self) -> dict[int, str]:
        """Store checkpoints and deliver finished results, as far as time allows.

        Returns:
            Where it lies, by handle.
        """
        left: dict[int, str] = {}
        if self._settings.handover_s <= 0:
            return left
        try:
            async with asyncio.timeout(self._settings.handover_s):
                await self._stop_drawing()

                async def leave(held: InflightTask) -> None:
                    if key := await self._supply.leave(held):
                        left[held.handle] = key

                drawn = [
                    leave(held)
                    for held in self._desk.all_held()
                    if held.has_news and not held.is_stopped and held.handle not in self._deliveries
                ]
                await asyncio.gather(*drawn, *self._deliveries.values(), return_exceptions=True)
        except TimeoutError:
            _log.warning("not all that was drawn could be stored in time")
        return left

    async def _stop_drawing(self) -> None:
        if not self._at.drawn:
            return
        if self.can_run:
            self._process.send(HandOver())
            try:
                async with asyncio.timeout(self._settings.handover_s / 2):
                    await self._handed_over.wait()
            except TimeoutError:
                _log.warning("worker: a step takes too long, handing over the last checkpoint")
        self._take_checkpoints()

    # --- what the backend says -------------------------------------------------------------------

    def admit(self, tasks: Sequence[LeasedTask]) -> None:
        """Take in leased tasks."""
        if not self._startups.has_task:
            self._startups.task_came()
        now_s = self._clock.monotonic_s()
        for task in tasks:
            if self._desk.is_duplicate_lease(task):
                continue
            if task.task_id in self._desk.held:
                # The lease of an earlier attempt was lost; that attempt no longer counts.
                self.cancel([task.task_id])
            served = self._served.get(task.model)
            if self._is_draining or served is None:
                held = self._desk.hold(task, task.model, now_s)
                self._desk.settle(held, Released(reason="draining" if served else "wrong model"))
                continue
            held = self._desk.hold(task, served.batching.key(task.input), now_s)
            urls = served.files.urls(task.input)
            loras = served.files.lora_files(task.input)
            if urls or loras or (served.draws and task.checkpoint is not None):
                self._run_errand(self._fetch(held, urls, loras))
            else:
                self._enqueue(held)
        self._feed()

    def watch(self, task_ids: Sequence[str]) -> None:
        """Make previews of these tasks."""
        followed = {
            self._desk.held[task_id].handle for task_id in self._desk.held.keys() & task_ids
        }
        new = self._at.watch(followed)
        if new:
            self._process.send(Watch(new))

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Stop tasks."""
        running, sent = set(self._at.running), self._at.sent
        told: list[int] = []
        for task_id in task_ids:
            held = self._desk.held.get(task_id)
            if held is None or held.is_stopped:
                continue
            held.is_stopped = True
            if held.handle in sent:
                told.append(held.handle)
            if held.handle not in running:
                # It waits, or is being delivered: later messages are ignored.
                self._desk.settle(held, stopped(held))
        if told:
            self._process.send(Stop(told))
            self._run_errand(self._insist(self._process, told))

    async def _insist(self, process: ModelProcess, handles: list[int]) -> None:
        """Kill a model process that does not stop a cancelled task in time."""
        await self._clock.sleep(self._settings.cancel_grace_s)
        while self._at.busy_for and process is self._process:
            # Nothing looks at a cancellation while a model is loaded or compiled, and that has its
            # own time.
            await self._clock.sleep(self._settings.cancel_grace_s or MOVING_LOOK_S)
        if process is not self._process or not self.can_run:
            return
        running, drawn, in_run = self._at.running, self._at.drawn, self._at.in_run
        if any(handle in running for handle in handles) and not self._runs_for_others(handles):
            self._kill(_Why.DEAF)
            return
        for handle in handles:
            # Other tasks have the process now: a batch of another model, so that no step could end,
            # or tasks of the same run.
            held = drawn.get(handle) or in_run.get(handle)
            if held is not None:
                self._desk.settle(held, stopped(held))

    def _runs_for_others(self, handles: Collection[int]) -> bool:
        """Whether the model can stop some tasks of a run and go on with the others."""
        in_run = self._at.in_run
        knows = all(in_run[handle].is_heeded for handle in handles if handle in in_run)
        return knows and any(not held.is_stopped for held in in_run.values())

    async def _limit_runs(self, limit_s: float) -> None:
        """Kill a model whenever one of its runs takes longer than `limit_s`, for ever."""
        while True:
            left_s = limit_s
            since_s = self._at.since_s
            if since_s is not None and self.can_run:
                left_s += since_s - self._clock.monotonic_s()
            if left_s <= 0:
                self._kill(_Why.SLOW)
                left_s = limit_s
            await self._clock.sleep(left_s)

    def _kill(self, why: _Why) -> None:
        self._verdict = why, self._at.current
        self._process.end()

    # --- on the way to the model -----------------------------------------------------------------

    async def _fetch(self, held: InflightTask, urls: list[str], loras: list[str]) -> None:
        since_s = self._clock.monotonic_s()
        failure = await self._supply.bring(held, urls, loras)
        error = "" if failure is None else failure.error.code
        self.traces.fetched(held.task, since_s, error=error)
        if failure is not None:
            self._desk.settle(held, failure)
            return
        if held.task.checkpoint is not None and self._served[held.task.model].draws:
            await self._supply.recall(held, held.task.checkpoint)
        if self._desk.find(held.handle) is None:
            # It was stopped in the meantime.
            held.let_go()
            return
        self._enqueue(held)
        self._feed()

    def _enqueue(self, held: InflightTask, *, back: bool = False) -> None:
        """Put a task at the end of its queue, or back at its head."""
        task, served = held.task, self._served[held.task.model]
        if served.draws:
            if not back:
                held.alone = task.task_id in self._blamed
            put = self._line.put_back if back else self._line.add
            put(held, task.model, task.count, alone=held.alone)
        else:
            place = self._backlog.put_back if back else self._backlog.add
            place(held, served.batching, held.key, samples=task.count, alone=held.alone)

    def _feed(self) -> None:
        """Give the model process as many tasks as it can take, unless its pictures pile up."""
        if not self.can_run or self._encoders.is_full or self._is_releasing:
            return
        now_s = self._clock.monotonic_s()
        while (held := self._line.take()) is not None:
            if self._is_worth_running(held, now_s):
                self._draw(held, now_s)
            else:
                self._line.leave(held)
        while self._backlog and self._at.wants_batch:
            batch = self._backlog.take(partial(self._lets_pass, now_s))
            live = [held for held in batch if self._is_worth_running(held, now_s)]
            count = _that_fit(live)
            for held in reversed(live[count:]):
                self._enqueue(held, back=True)
            if live:
                self._send(live[:count], now_s)

    def _lets_pass(self, now_s: float, model: str, held: InflightTask) -> bool:
        """Whether a task whose model must be loaded first still lets others pass."""
        if model in self._residents:
            return False
        return now_s - held.admitted_s < PATIENCE * self._expected_s.get(model, 0.0)

    def _is_worth_running(self, held: InflightTask, now_s: float) -> bool:
        if held.is_stopped:
            return False
        if held.deadline_s is not None and now_s >= held.deadline_s:
            # The backend knows the deadline as well, and lets the task expire.
            self._desk.settle(held, Released(reason="deadline passed"))
            return False
        return True

    def _send(self, batch: list[InflightTask], now_s: float) -> None:
        number = self._at.begin_batch({held.handle: held for held in batch}, now_s)
        wanted = self._backlog.models if len(self._served) > 1 else ()
        orders = [_order(held, now_s) for held in batch]
        self._process.send(Run(number, batch[0].task.model, orders, sorted(wanted)))

    def _draw(self, held: InflightTask, now_s: float) -> None:
        self._at.begin_drawing(held.handle, held, now_s)
        self._process.send(Run(DRAWN, held.task.model, [_order(held, now_s)]))

    # --- what the model process says -------------------------------------------------------------

    def _new_process(self) -> ModelProcess:
        origin = self._origin
        return ModelProcess(
            origin.home.python,
            self._on_frame,
            self._on_exit,
            origin.home.variables,
        )

    def _on_frame(self, process: ModelProcess, frame: Frame) -> None:
        if process is not self._process:
            return
        match frame:
            case Results():
                self._on_results(frame)
            case Step():
                self._on_step(frame)
            case Preview():
                if held := self._desk.find(frame.handle):
                    image = f"data:image/jpeg;base64,{base64.b64encode(frame.jpeg).decode()}"
                    self._desk.tell(held, "preview", {"image": image, "index": frame.index})
            case Part():
                self._on_part(frame)
            case _:
                self._on_rare_frame(frame)

    def _on_rare_frame(self, frame: Frame) -> None:
        match frame:
            case Paid():
                self._desk.pay(frame.handle, frame.micros)
            case StopAcknowledged():
                for held in filter(None, map(self._desk.find, frame.handles)):
                    held.is_heeded = True
            case HandedOver():
                for handle, held in self._at.drawn.items():
                    held.device_s = frame.device_s.get(handle, 0.0)
                self._handed_over.set()
            case Turn():
                self._at.turn_to(frame.batch, self._clock.monotonic_s())
            case Swapped():
                new = frame.count - self.lora_swaps.get(frame.model, 0)
                self.lora_swaps[frame.model] = frame.count
                self._count_switches(frame.model, "loras", new)
                self._tell_of_models()
                _log.debug("LoRAs changed", model=frame.model, swaps=frame.count)
            case Moving():
                self._at.busy_for = frame.model
                self._moving_since_s = self._clock.monotonic_s()
            case Moved():
                self._on_moved(frame)

    def _on_moved(self, moved: Moved) -> None:
        """Note which models are on the device now; running tasks begin to count again."""
        self._desk.startups.append(
            self._startups.switched(
                moved.model, self._moving_since_s, self._process, is_there=bool(moved.kind)
            )
        )
        self._at.free(self._clock.monotonic_s())
        self._residents, self._expected_s = moved.residents, moved.expected_s
        load_s = round(moved.load_s, 3)
        if moved.kind:
            self._count_switches(moved.model, moved.kind, 1)
            _log.info("model brought", model=moved.model, source=moved.kind, load_s=load_s)
        else:
            _log.warning("a model could not be brought", model=moved.model, load_s=load_s)
        self._tell_of_models()

    def _count_switches(self, model: str, kind: str, new: int) -> None:
        known = self._switches.get(model, Switches(model=model))
        counted = {kind: getattr(known, kind) + new}
        self._switches[model] = msgspec.structs.replace(known, **counted)

    def _tell_of_models(self) -> None:
        """Have the next report tell of the models, where they take turns or change."""
        if self._takes_turns:
            self._desk.residents = list(self._residents)
        self._desk.switches = list(self._switches.values())

    def _on_results(self, results: Results) -> None:
        for done in results.done:
            held = self._come_back(results.batch, done.handle)
            self.traces.ran(held.task, done.run_s, held.load_s + done.load_s)
            if done.files or done.sent:
                self._deliveries[held.handle] = self._run_errand(self._deliver(held, done))
            else:
                self._desk.settle(held, success(held, done))
        for fault in results.faults:
            held = self._come_back(results.batch, fault.handle)
            self._on_fault(held, fault)
            self._desk.settle(held, faulty(held, fault))
        spent_s = dict(zip(results.stopped, results.stopped_s, strict=False))
        for handle in results.stopped:
            held = self._come_back(results.batch, handle)
            self._desk.settle(held, stopped(held, spent_s.get(handle, 0.0)))
        self.peak_bytes = results.peak_bytes
        if results.done or results.is_last:
            self._deaths = 0
        now_s = self._clock.monotonic_s()
        if results.batch == DRAWN:
            self._at.told(now_s)
        else:
            self._at.end_call(now_s, is_last=results.is_last)
            if self._holds_more_of_quick:
                self._desk.fit(self._at.task_s)
        if results.batch == DRAWN or results.is_last:
            self._feed()

    def _on_fault(self, held: InflightTask, fault: Fault) -> None:
        load_s = held.load_s + fault.load_s
        self.traces.ran(held.task, fault.run_s, load_s, error=fault.code)
        if fault.traceback:
            _log.warning(
                "the model failed", **held.about, code=fault.code, exception=fault.traceback
            )
        else:
            _log.debug("refused by the model", **held.about, code=fault.code)

    def _come_back(self, batch: int, handle: int) -> InflightTask:
        held = self._at.come_back(batch, handle)
        self._line.leave(held)
        return held

    def _take_checkpoints(self) -> None:
        """Take those that the model process has left."""
        drawn = self._at.drawn
        try:
            found = self._process.kept(drawn.keys()) if drawn else []
        except (OSError, MemoryError) as error:
            _log.warning("worker: checkpoints cannot be read, drawing again", detail=str(error))
            return
        for kept in found:
            held = drawn[kept.handle]
            held.checkpoints[kept.index] = kept.checkpoint
            held.seed, held.has_news = kept.seed, True

    def _on_step(self, step: Step) -> None:
        if step.handle in self._at.drawn:
            self._at.told(self._clock.monotonic_s())
        held = self._desk.find(step.handle)
        if held is not None:
            fraction = step.done / step.total if step.total > 0 else 0.0
            data = {"step": step.done, "steps": step.total, "fraction": round(fraction, 4)}
            self._desk.tell(held, "progress", data, soon=self._at.is_watched(step.handle))

    def _on_part(self, part: Part) -> None:
        """Bring a file of a task that has not ended, unless it is on its way already."""
        held = self._desk.find(part.handle)
        if held is None:
            return
        if held.parts is None:
            held.parts = Parts()
            # Another process that draws the rest must draw it for the same first seed.
            held.seed = part.first_seed
        if part.index not in held.parts:
            bring = self._delivery.bring(held, part)
            errand = held.parts.add(part.index, bring, partial(self._tell_part, held))
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)

    def _tell_part(self, held: InflightTask, brought: Brought) -> None:
        if held.task.is_stage:
            # What a stage of a pipeline gives is not what its task gives.
            return
        told = {"index": brought.index, "seed": brought.seed}
        told |= msgspec.to_builtins(brought.artifact)
        soon = self._at.is_watched(held.handle)
        self._desk.tell_file(held, brought.index, told, brought.enclosure, soon=soon)

    # --- death of the model process --------------------------------------------------------------

    def _on_exit(self, process: ModelProcess, code: int) -> None:
        if process is not self._process or self._is_starting or self._ended.done():
            return
        if self._is_releasing:
            # All its tasks are returned, and none is a suspect.
            self._handed_over.set()
            return
        self._take_checkpoints()
        verdict, self._verdict = self._verdict, None
        why, batch = verdict or (_Why.BROKEN if code == DEVICE_BROKEN else _Why.DIED, None)
        how = {} if verdict else {"how": describe_exit(code)}
        found = filter(None, map(self._desk.find, {*self._at.running, *self._at.drawn}))
        task_ids = [held.task.task_id for held in found][:MOST_TOLD]
        _log.warning(why.value, **how, task_ids=task_ids)
        # The stopped task has ended, or the run that was too long has.
        blameless = why is _Why.DEAF or (verdict is not None and batch != self._at.current)
        # Before its batch, other tasks had the device; while a model loads, none has.
        since_s = self._at.since_s
        now_s = self._clock.monotonic_s()
        ran_s = 0.0 if since_s is None else now_s - since_s
        lost = self._at.lose(blameless=blameless)
        self._line.leave_all()
        self._return(lost.others)
        # The device itself may be the cause, unless a task breaks it again while it runs alone.
        is_blamed = why is not _Why.BROKEN or all(held.alone for held in lost.suspects)
        if len(lost.suspects) == 1 and is_blamed and not lost.suspects[0].is_stopped:
            self._blame(lost.suspects[0], why, code, ran_s)
        else:
            # They run one at a time, so that the next death has one cause. Drawn tasks resume from
            # their checkpoints.
            for held in lost.suspects:
                held.alone = True
            self._return(lost.suspects)
        if why is not _Why.DEAF:
            self._deaths += 1
        if why is _Why.BROKEN and self._deaths >= _BROKEN_DEVICES:
            _log.error("worker: the device stays broken, so the worker ends", deaths=self._deaths)
            self.release(DEVICE_BROKEN)
            return
        self._is_starting = True
        self._start_loop(self._revive())

    def _blame(self, held: InflightTask, why: _Why, code: int, ran_s: float) -> None:
        """Fail the attempt of a task that was alone when its process died."""
        if self._served[held.task.model].draws:
            # Batches between its steps are included.
            ran_s = self._clock.monotonic_s() - held.sent_s
        held.device_s = ran_s
        self._blamed.append(held.task.task_id)
        if why is _Why.SLOW:
            limit_s = self._settings.run_limit_s
            detail = f"its run took longer than {limit_s:g} s (worker.run_limit_s) and was ended"
            title = "The model took too long"
            failure = failed("model_timeout", title, detail, retryable=True, device_s=held.device_s)
            self._desk.settle(held, failure)
            return
        detail = f"while it ran this task, the model process {describe_exit(code)}"
        _log.warning("a task is to blame", **held.about, how=describe_exit(code))
        self._run_errand(self._fail_alone(held, detail))

    async def _fail_alone(self, held: InflightTask, detail: str) -> None:
        """Fail a task during which the model process died, and leave what this attempt has drawn.

        A task that came no further than in the attempt before starts again: its checkpoint may be
        the cause.
        """
        key = None
        if held.has_news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.handover_s):
                    key = await self._supply.leave(held)
        title = "The model process died"
        failure = failed(
            "model_process_died",
            title,
            detail,
            retryable=True,
            checkpoint=key,
            device_s=held.device_s,
        )
        self._desk.settle(held, failure)

    def _return(self, tasks: Collection[InflightTask]) -> None:
        """Put tasks back that the model process had, in their order; stopped ones have ended."""
        for held in reversed(list(tasks)):
            if held.is_stopped:
                self._desk.settle(held, stopped(held))
            else:
                self._enqueue(held, back=True)

    async def _revive(self) -> None:
        """Start a new model process, after a wait that grows with each death without a result."""
        since_s = self._clock.monotonic_s()
        if self._deaths > 1:
            await self._clock.sleep(_RESTART.delay_s(self._deaths - 1, self._rng))
        failures = 0
        while True:
            await self._process.kill()
            self._process = self._new_process()
            try:
                versions = self._known(*await self._start_process())
                break
            except (SwellError, OSError) as error:
                failures += 1
                if failures >= MAX_BOOT_DEATHS:
                    self._give_up(f"the model process does not start any more: {error}")
                    return
                _log.warning("the model process does not start", detail=str(error))
                await self._clock.sleep(_RESTART.delay_s(failures, self._rng))
        if versions != self._versions:
            self._give_up("the models' files have changed: start the worker again")
            return
        self._is_starting = False
        self._desk.startups.append(self._startups.restarted(since_s, self._process))
        self.lora_swaps.clear()
        self._tell_of_models()
        waited_s = self._clock.monotonic_s() - since_s
        for held in self._desk.all_held():
            held.load_s = waited_s
        self._feed()
        self._link.nudge()

    def _known(self, cards: list[ModelCard], ready: Ready) -> dict[str, str]:
        """Return the versions of the models that it serves, as the process has them now.

        Tasks that began to load in the meantime are left to the next worker.

        Raises:
            ModelRefused: One is missing, as where the device's memory is not free yet.
        """
        versions = {card.name: card.version for card in cards}
        for name in self._versions.keys() - versions.keys():
            reason = ready.left_out.get(name, "it is not there any more")
            raise ModelRefused(f"{name} cannot be loaded: {reason}")
        return {name: versions[name] for name in self._versions}

    def _end_without_backend(self) -> None:
        if not (self._is_releasing or self._ended.done()):
            limit_s = self._settings.give_up_s
            reason = f"the backend has not answered for {limit_s:g} s (worker.give_up_s)"
            self._give_up(reason, NO_BACKEND)

    def _give_up(self, reason: str, exit_code: int = 1) -> None:
        """End a worker that can run nothing; other workers get its tasks."""
        _log.error("giving up", reason=reason)
        self.release(exit_code)

    # --- on the way out --------------------------------------------------------------------------

    def _run_errand(self, errand: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._on_errand_end)
        return task

    def _on_errand_end(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an errand failed", exc_info=error)

    async def _deliver(self, held: InflightTask, done: Done) -> None:
        try:
            self._desk.settle(held, *await self._delivery.outcome(held, done))
        finally:
            del self._deliveries[held.handle]


def _that_fit(batch: Sequence[InflightTask]) -> int:
    """Return how many of a batch, at least one, have files that go out in one frame."""
    total = 0
    for count, held in enumerate(batch):
        total += held.files_bytes
        if count and total > MAX_INPUT_FILES_BYTES:
            return count
    return len(batch)


def _order(held: InflightTask, now_s: float) -> Order:
    held.sent_s = now_s
    return Order(
        held.handle,
        bytes(held.task.input),
        held.seed,
        held.task.count,
        held.files,
        None if held.deadline_s is None else held.deadline_s - now_s,
        held.checkpoints,
        {name: (lora.path, lora.digest) for name, lora in held.loras.items()},
    )
