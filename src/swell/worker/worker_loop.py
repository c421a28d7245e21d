"""The worker: joins a backend, and runs its tasks until it is drained or released.

`backend_session.py` talks to the backend, `task_runner.py` runs tasks, `model_supervisor.py` keeps
the model process alive, and `inflight.py` holds tasks and unreported outcomes.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Collection, Coroutine, Sequence
from importlib.metadata import version as version_of
from typing import Any, Final

import structlog

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.records import ModelCard
from swell.core.task import Released, Timings
from swell.protocol.worker_messages import Dispatch, Registration
from swell.runtime.ipc_messages import DEVICE_BROKEN
from swell.runtime.model_process_client import ModelRefused, Origin
from swell.runtime.startup_timing import Startups
from swell.settings.worker_settings import WorkerSettings
from swell.weights.cache import WeightCache
from swell.worker.backend_session import BackendSession, BackendWatchdog
from swell.worker.batching import room_of
from swell.worker.encoder_pool import Encoders
from swell.worker.heartbeat import keep_beating
from swell.worker.inflight import InflightTasks
from swell.worker.lora_files import Loras
from swell.worker.model_supervisor import ModelSupervisor
from swell.worker.result_handler import ResultHandler
from swell.worker.task_inputs import TaskInputs
from swell.worker.task_results import Delivery, Uploader
from swell.worker.task_runner import TaskRunner
from swell.worker.task_spans import TaskTraces

_log = structlog.get_logger("swell.worker")

#: If models take turns on the device, the worker holds tasks of at most so many models.
MOST_CHOICES: Final = 4

#: Time for returning the leases after the checkpoints were stored, in seconds.
RELEASE_WITHIN_S: Final = 0.9

#: How long the goodbye of a worker that holds nothing may take: a backend that is away or silent
#: must not keep it.
GOODBYE_WITHIN_S: Final = 1.5

#: Exit code of a worker whose backend was away for `give_up_s`.
NO_BACKEND: Final = 5

#: Time for the goodbye after `handover_s`, before the supervisor kills the worker, in seconds.
LAST_WORDS_S: Final = 2.0


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
        weights: Where LoRAs go that tasks name; None to take none.
        origin: Where the model processes are from; None for Swell's own Python.
        encoders: Encode pictures; None for as many threads as the settings say.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        dispatch: Dispatch,
        models: Sequence[str],
        clock: Clock,
        *,
        weights: WeightCache | None = None,
        origin: Origin | None = None,
        encoders: Encoders | None = None,
    ) -> None:
        self._settings = settings
        self._dispatch = dispatch
        self._clock = clock
        origin = origin or Origin()
        self._provision = origin.provision
        #: Give it a tracer before `run` where traces are wanted.
        self.traces = TaskTraces(clock, settings.name)
        self._startups = origin.startups or Startups(clock, settings.pool, settings.device)
        self.tasks = InflightTasks(0, self.traces)
        self.tasks.on_first_outcome = self._on_first_outcome
        self.models = ModelSupervisor(
            settings,
            models,
            clock,
            origin,
            self._startups,
            self.tasks,
        )
        self._encoders = encoders or Encoders(settings.encode_threads)
        uploader = Uploader(
            dispatch,
            clock,
            lambda: self._session.worker_id,
            enclose_bytes=lambda: self._session.welcome.enclose_bytes,
        )
        self._loras = Loras(dispatch, weights, clock, settings.max_lora_bytes)
        delivery = Delivery(self._encoders, uploader, settings.picture_format, self.traces)
        self._results = ResultHandler(clock, self.tasks, self.models, delivery, self.traces)
        self.runner = TaskRunner(
            settings,
            clock,
            self.tasks,
            self.models,
            TaskInputs(settings, dispatch, self._loras, uploader),
            self._results,
            self.traces,
        )
        self.models.on_task_frame = self._results.handle
        delivery.on_room = self._results.on_room = self.runner.feed
        self._watchdog = BackendWatchdog(
            clock, settings.give_up_s or None, self._end_without_backend
        )
        self._session = BackendSession(
            dispatch, clock, self.tasks, self.runner, self.drain, self._startups, self._watchdog
        )
        self._loops: set[asyncio.Task[None]] = set()
        self._was_signalled = False
        #: Set once the worker is registered and takes work.
        self.is_up = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new any more, and goes."""
        return self.runner.is_draining

    async def run(self, *, handle_signals: bool = True) -> int:
        """Work until drained; return the exit code.

        The first SIGTERM or SIGINT drains, the second hands over: see `release`.

        Raises:
            ModelRefused, InvalidModel, NotFound: The models cannot be loaded at the start.
            Unauthenticated: The backend does not know the token.
        """
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.models.begin()
        if handle_signals:
            self._handle_signals()
        if self._provision is not None:
            self._provision.add_done_callback(self._on_provision)
        self._start_loop(self._join())
        try:
            return await self._ended
        finally:
            await self._close()

    def _on_provision(self, provision: "asyncio.Task[None]") -> None:
        """End the worker if weights are missing: without them it must not produce results."""
        error = None if provision.cancelled() else provision.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _on_first_outcome(self) -> None:
        self.tasks.startups.append(self._startups.first_outcome())

    async def _join(self) -> None:
        """Load the models, register, and start the loops."""
        settings = self._settings
        self._startups.follow(self.models.process)
        self._start_loop(self._startups.tell(self._dispatch, self._watchdog.note))
        cards = await self.models.load()
        in_turn, pinned = self.models.takes_turns, self.models.pinned
        slots = settings.slots or default_slots(cards, in_turn=in_turn, pinned=pinned)
        draws = any(card.step_bucket for card in cards)
        self.tasks.allow(slots, fits=not (settings.slots or draws))
        self.runner.set_models(cards)
        registration = Registration(
            name=settings.name,
            pool=settings.pool,
            models=cards,
            slots=self.tasks.slots,
            device=settings.device,
            host=socket.gethostname(),
            pid=os.getpid(),
            instance=settings.instance,
            release=version_of("swell"),
        )
        # The model process may die from now on at any time; registering may take long.
        self._start_loop(self._supervise())
        welcome = await self._session.register(registration)
        self._startups.ready()
        _log.info(
            "registered",
            worker_id=welcome.worker_id,
            models=[card.name for card in cards],
            slots=self.tasks.slots,
        )
        for loop in (
            self._session.take_work(),
            self._session.listen(),
            self._session.report(),
            self._session.report_small_news(),
            keep_beating(self.tasks, self._clock, welcome.heartbeat_s),
        ):
            self._start_loop(loop)
        if settings.run_limit_s is not None:
            self._start_loop(self.models.limit_runs(settings.run_limit_s))
        self.is_up.set()

    async def _supervise(self) -> None:
        """Restart the model process whenever it ends, until the worker ends."""
        while True:
            end = await self.models.wait_for_end()
            if self.runner.is_releasing:
                # All its tasks are returned, and none is a suspect.
                self._results.handed_over.set()
                return
            self.runner.requeue_after(end)
            if end.is_final:
                self._give_up("the device stays broken", DEVICE_BROKEN)
                return
            try:
                waited_s = await self.models.restart()
            except ModelRefused as error:
                self._give_up(error.detail)
                return
            self.runner.resume(waited_s)
            self._session.nudge()

    def _start_loop(self, loop: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(loop)
        task.add_done_callback(self._on_loop_end)
        self._loops.add(task)

    def _on_loop_end(self, task: asyncio.Task[None]) -> None:
        self._loops.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    async def _close(self) -> None:
        # Nothing is started any more.
        self._end(0)
        tasks = [*self._loops, *([] if self._provision is None else [self._provision])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._startups.is_ready:
            await self._startups.tell_end(self._dispatch)
        await self.runner.close()
        await self._results.close()
        await self._loras.close()
        await self.models.process.kill()
        self._encoders.close()
        await self._dispatch.close()
        await self.traces.close()

    # --- drain and release -----------------------------------------------------------------------

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
        if self.runner.is_draining:
            return
        self.runner.is_draining = True
        _log.info("worker: draining, finishing its tasks")
        if not self.is_up.is_set():
            # No task is held yet.
            self._end(0)
            return
        self._session.takes_work = False
        self._start_loop(self._leave())
        if self._settings.drain_s is not None:
            self._start_loop(self._release_after(self._settings.drain_s))

    async def _leave(self) -> None:
        while True:
            await self.tasks.is_clear.wait()
            try:
                async with asyncio.timeout(GOODBYE_WITHIN_S):
                    # The open long poll may bring tasks until the backend knows that we go.
                    await self._session.say_goodbye()
            except TimeoutError:
                _log.warning("the backend does not answer: going without a goodbye")
            if self.tasks.is_clear.is_set():
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
        self.runner.is_draining = True
        if not self.is_up.is_set():
            self._end(exit_code)
            return
        if self.runner.is_releasing:
            return
        self.runner.is_releasing = True
        self._session.takes_work = False
        self._start_loop(self._release(exit_code))

    async def _release(self, exit_code: int) -> None:
        keys = await self.runner.hand_over() if self._settings.handover_s > 0 else {}
        for held in self.tasks.all_held():
            spent = Timings(device_s=held.device_s)
            outcome = Released(reason="stopped", checkpoint=keys.get(held.handle), timings=spent)
            self.tasks.settle(held, outcome)
        _log.info("handing leases back")
        try:
            async with asyncio.timeout(RELEASE_WITHIN_S):
                await self._session.say_goodbye_at_once()
        except (SwellError, TimeoutError) as error:
            _log.warning("the leases could not be handed back", detail=str(error))
        self._end(exit_code)

    def _end(self, exit_code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(exit_code)

    def _end_without_backend(self) -> None:
        if not (self.runner.is_releasing or self._ended.done()):
            limit_s = self._settings.give_up_s
            reason = f"the backend has not answered for {limit_s:g} s (worker.give_up_s)"
            self._give_up(reason, NO_BACKEND)

    def _give_up(self, reason: str, exit_code: int = 1) -> None:
        """End a worker that can run nothing; other workers get its tasks."""
        _log.error("giving up", reason=reason)
        self.release(exit_code)
