"""Takes leased tasks from their inputs through the model process to their outcomes.

    admit → fetch inputs → queue → model process → encode and upload → settle

The event loop only moves bytes. Tasks of a model that draws in steps are not batched: they go to
the model process one by one, as soon as it has room, and join the running steps.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from typing import Final

import structlog

from swell.core.background_tasks import BackgroundTasks
from swell.core.clock import Clock
from swell.core.records import ModelCard
from swell.core.task import Released
from swell.protocol.worker_messages import LeasedTask
from swell.runtime.ipc_messages import (
    DRAWN,
    MAX_INPUT_FILES_BYTES,
    HandOver,
    Order,
    Run,
    Stop,
    Watch,
)
from swell.runtime.model_process_client import ModelProcess, describe_exit
from swell.settings.worker_settings import WorkerSettings
from swell.worker.batching import batch_key, next_batch, next_to_draw, room_of
from swell.worker.inflight import InflightTask, InflightTasks
from swell.worker.model_process_state import LostTasks
from swell.worker.model_supervisor import Cause, ModelSupervisor, ProcessEnd
from swell.worker.result_handler import ResultHandler
from swell.worker.task_inputs import FileFields, TaskInputs, file_fields
from swell.worker.task_results import failed, stopped
from swell.worker.task_spans import TaskTraces

_log = structlog.get_logger("swell.worker")

#: A batch whose model must be loaded lets others pass until it has waited for so many loads.
PATIENCE: Final = 4.0

#: Interval of checking whether a model is still loading, without a grace period.
MOVING_LOOK_S: Final = 0.1

#: The worker remembers this many tasks that ran alone when their model process died.
MOST_BLAMED: Final = 1024

#: Most tasks in a line of the log.
MOST_LOGGED: Final = 20


class TaskRunner:
    """Runs leased tasks: fetches inputs, feeds the model process, and requeues after its end.

    Args:
        settings: Limits and times.
        clock: The time.
        tasks: The tasks in flight.
        models: The model process.
        inputs: Fetches inputs, stores checkpoints.
        results: Handles what the model process says.
        traces: Record spans.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        clock: Clock,
        tasks: InflightTasks,
        models: ModelSupervisor,
        inputs: TaskInputs,
        results: ResultHandler,
        traces: TaskTraces,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._models = models
        self._inputs = inputs
        self._results = results
        self._traces = traces
        self._cards: dict[str, ModelCard] = {}
        self._files: dict[str, FileFields] = {}
        self._max_batch: dict[str, int] = {}
        #: Model that draws in steps → samples that the process holds.
        self._rooms: dict[str, int] = {}
        #: Tasks that wait for a batch, and tasks of models that draw in steps.
        self._queue: deque[InflightTask] = deque()
        self._draw_queue: deque[InflightTask] = deque()
        #: Tasks that killed a model process; a later attempt is drawn alone.
        self._blamed: deque[str] = deque(maxlen=MOST_BLAMED)
        self._jobs = BackgroundTasks()
        #: Whether it only finishes the tasks that it has.
        self.is_draining = False
        #: Whether the model process gets nothing more.
        self.is_releasing = False

    def set_models(self, cards: Sequence[ModelCard]) -> None:
        """Set the models."""
        self._cards = {card.name: card for card in cards}
        self._files = {card.name: file_fields(card.input_schema) for card in cards}
        self._max_batch = {card.name: card.max_batch for card in cards}
        self._rooms = {
            card.name: room_of(card, is_pinned=card.name in self._models.pinned)
            for card in cards
            if card.step_bucket
        }

    async def close(self) -> None:
        """Cancel downloads."""
        await self._jobs.cancel()

    # --- what the backend says -------------------------------------------------------------------

    @property
    def can_run(self) -> bool:
        """Whether it could run a task now."""
        return self._models.can_run

    def admit(self, tasks: Sequence[LeasedTask]) -> None:
        """Take in leased tasks."""
        now_s = self._clock.monotonic_s()
        for task in tasks:
            if self._tasks.is_duplicate_lease(task):
                continue
            if task.task_id in self._tasks.held:
                # The lease of an earlier attempt was lost; that attempt no longer counts.
                self.cancel([task.task_id])
            card = self._cards.get(task.model)
            if self.is_draining or card is None:
                held = self._tasks.hold(task, task.model, now_s)
                self._tasks.settle(held, Released(reason="draining" if card else "wrong model"))
                continue
            held = self._tasks.hold(task, batch_key(card, task.input), now_s)
            draws = card.name in self._rooms
            if draws:
                held.alone = task.task_id in self._blamed
            urls = self._files[card.name].urls(task.input)
            loras = self._files[card.name].lora_files(task.input)
            checkpoint = task.checkpoint if draws else None
            if urls or loras or checkpoint is not None:
                self._jobs.start(self._fetch(held, urls, loras, checkpoint))
            else:
                self._queue_of(held).append(held)
        self.feed()

    def watch(self, task_ids: Sequence[str]) -> None:
        """Make previews of these tasks."""
        held = self._tasks.held
        new = self._models.state.watch({held[id_].handle for id_ in held.keys() & task_ids})
        if new:
            self._models.process.send(Watch(new))

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Stop tasks."""
        state, process = self._models.state, self._models.process
        running, sent = set(state.running), state.sent
        handles: list[int] = []
        for task_id in task_ids:
            held = self._tasks.held.get(task_id)
            if held is None or held.is_stopped:
                continue
            held.is_stopped = True
            if held.handle in sent:
                handles.append(held.handle)
            if held.handle not in running:
                # It waits, or is being delivered: later messages are ignored.
                self._tasks.settle(held, stopped(held))
        if handles:
            process.send(Stop(handles))
            self._jobs.start(self._enforce_stop(process, handles))

    async def _enforce_stop(self, process: ModelProcess, handles: list[int]) -> None:
        """Kill a model process that does not stop a cancelled task in time."""
        models, grace_s = self._models, self._settings.cancel_grace_s
        await self._clock.sleep(grace_s)
        while models.state.busy_for and process is models.process:
            # Nothing looks at a cancellation while a model is loaded or compiled, and that has its
            # own time.
            await self._clock.sleep(grace_s or MOVING_LOOK_S)
        if process is not models.process or not self.can_run:
            return
        running, drawn, in_run = models.state.running, models.state.drawn, models.state.in_run
        if any(handle in running for handle in handles) and not self._runs_for_others(handles):
            models.kill(Cause.STUCK)
            return
        for handle in handles:
            # Other tasks have the process now: a batch of another model, so that no step could end,
            # or tasks of the same run.
            held = drawn.get(handle) or in_run.get(handle)
            if held is not None:
                self._tasks.settle(held, stopped(held))

    def _runs_for_others(self, handles: Collection[int]) -> bool:
        """Whether the model can stop some tasks of a run and go on with the others."""
        in_run = self._models.state.in_run
        knows = all(in_run[handle].is_stop_known for handle in handles if handle in in_run)
        return knows and any(not held.is_stopped for held in in_run.values())

    # --- on the way to the model -----------------------------------------------------------------

    async def _fetch(
        self, held: InflightTask, urls: list[str], loras: list[str], checkpoint: str | None
    ) -> None:
        since_s = self._clock.monotonic_s()
        failure = await self._inputs.fetch(held, urls, loras)
        error = "" if failure is None else failure.error.code
        self._traces.fetched(held.task, since_s, error=error)
        if failure is not None:
            self._tasks.settle(held, failure)
            return
        if checkpoint is not None:
            await self._inputs.fetch_checkpoint(held, checkpoint)
        if self._tasks.find(held.handle) is None:
            # It was stopped in the meantime.
            held.let_go()
            return
        self._queue_of(held).append(held)
        self.feed()

    def _queue_of(self, held: InflightTask) -> deque[InflightTask]:
        return self._draw_queue if held.model in self._rooms else self._queue

    def feed(self) -> None:
        """Give the model process as many tasks as it can take, unless its pictures pile up."""
        if not self.can_run or self._results.is_full or self.is_releasing:
            return
        now_s, state = self._clock.monotonic_s(), self._models.state
        drawn = state.drawn.values()
        while (held := next_to_draw(self._draw_queue, drawn, self._rooms)) is not None:
            if self._is_worth_running(held, now_s):
                state.begin_drawing(held.handle, held, now_s)
                self._send(DRAWN, [held], now_s)
        while self._queue and state.wants_batch:
            batch = next_batch(self._queue, self._max_batch, partial(self._lets_pass, now_s))
            live = [held for held in batch if self._is_worth_running(held, now_s)]
            count = _that_fit(live)
            self._queue.extendleft(reversed(live[count:]))
            if live:
                number = state.begin_batch({held.handle: held for held in live[:count]}, now_s)
                self._send(number, live[:count], now_s)

    def _lets_pass(self, now_s: float, held: InflightTask) -> bool:
        """Whether a task whose model must be loaded first still lets others pass."""
        if held.model in self._models.residents:
            return False
        return now_s - held.admitted_s < PATIENCE * self._models.expected_s.get(held.model, 0.0)

    def _is_worth_running(self, held: InflightTask, now_s: float) -> bool:
        if held.is_stopped:
            return False
        if held.deadline_s is not None and now_s >= held.deadline_s:
            # The backend knows the deadline as well, and lets the task expire.
            self._tasks.settle(held, Released(reason="deadline passed"))
            return False
        return True

    def _send(self, batch: int, tasks: Sequence[InflightTask], now_s: float) -> None:
        # The model process keeps models on the device that others wait for.
        is_drawn = batch == DRAWN or len(self._cards) == 1
        wanted = set() if is_drawn else {held.model for held in self._queue}
        for held in tasks:
            held.sent_s = now_s
        orders = [
            Order(
                held.handle,
                bytes(held.task.input),
                held.seed,
                held.task.count,
                held.files,
                None if held.deadline_s is None else held.deadline_s - now_s,
                held.checkpoints,
                {name: (lora.path, lora.digest) for name, lora in held.loras.items()},
            )
            for held in tasks
        ]
        self._models.process.send(Run(batch, tasks[0].model, orders, sorted(wanted)))

    # --- the end of the model process ------------------------------------------------------------

    def requeue_after(self, end: ProcessEnd) -> None:
        """Take back the tasks of a process that has ended, and fail the one that ended it."""
        self._take_checkpoints()
        state, cause = self._models.state, end.cause
        found = filter(None, map(self._tasks.find, {*state.running, *state.drawn}))
        task_ids = [held.task.task_id for held in found][:MOST_LOGGED]
        how = {"how": describe_exit(end.exit_code)}
        was_killed = cause in (Cause.STUCK, Cause.SLOW)
        _log.warning(cause.value, **({} if was_killed else how), task_ids=task_ids)
        lost: LostTasks[InflightTask] = state.lose(blameless=end.is_blameless)
        self._return(lost.others)
        # The device itself may be the cause, unless a task breaks it again while it runs alone.
        is_blamed = cause is not Cause.BROKEN_DEVICE or all(held.alone for held in lost.suspects)
        if len(lost.suspects) == 1 and is_blamed and not lost.suspects[0].is_stopped:
            self._blame(lost.suspects[0], end)
        else:
            # They run one at a time, so that the next death has one cause. Drawn tasks resume from
            # their checkpoints.
            for held in lost.suspects:
                held.alone = True
            self._return(lost.suspects)

    def resume(self, waited_s: float) -> None:
        """Go on with a new model process, `waited_s` after the end of the last one."""
        for held in self._tasks.all_held():
            held.load_s = waited_s
        self.feed()

    def _take_checkpoints(self) -> None:
        """Take those that the model process has left."""
        drawn = self._models.state.drawn
        try:
            found = self._models.process.kept(drawn.keys()) if drawn else []
        except (OSError, MemoryError) as error:
            _log.warning("worker: checkpoints cannot be read, drawing again", detail=str(error))
            return
        for kept in found:
            held = drawn[kept.handle]
            held.checkpoints[kept.index] = kept.checkpoint
            held.seed, held.has_news = kept.seed, True

    def _return(self, tasks: Collection[InflightTask]) -> None:
        """Put tasks of the model process back in their order; stopped ones have ended."""
        for held in reversed(list(tasks)):
            if held.is_stopped:
                self._tasks.settle(held, stopped(held))
            else:
                self._queue_of(held).appendleft(held)

    def _blame(self, held: InflightTask, end: ProcessEnd) -> None:
        """Fail the attempt of a task that was alone when its process died."""
        # Batches between the steps of a drawn task are included.
        draws = held.model in self._rooms
        held.device_s = self._clock.monotonic_s() - held.sent_s if draws else end.ran_s
        self._blamed.append(held.task.task_id)
        if end.cause is Cause.SLOW:
            limit_s = self._settings.run_limit_s
            detail = f"its run took longer than {limit_s:g} s (worker.run_limit_s) and was ended"
            title = "The model took too long"
            failure = failed("model_timeout", title, detail, retryable=True, device_s=held.device_s)
            self._tasks.settle(held, failure)
            return
        how = describe_exit(end.exit_code)
        _log.warning("a task is to blame", **held.about, how=how)
        self._jobs.start(self._fail_alone(held, f"while it ran this task, the model process {how}"))

    async def _fail_alone(self, held: InflightTask, detail: str) -> None:
        """Fail a task during which the model process died, and leave what this attempt has drawn.

        A task that came no further than in the attempt before starts again: its checkpoint may be
        the cause.
        """
        key = None
        if held.has_news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.handover_s):
                    key = await self._inputs.store_checkpoint(held)
        failure = failed(
            "model_process_died",
            "The model process died",
            detail,
            retryable=True,
            checkpoint=key,
            device_s=held.device_s,
        )
        self._tasks.settle(held, failure)

    # --- the end of the worker -------------------------------------------------------------------

    async def hand_over(self) -> dict[int, str]:
        """Store checkpoints and deliver finished results, as far as `handover_s` allows.

        Returns:
            The key of each checkpoint, by handle.
        """
        keys: dict[int, str] = {}

        async def store(held: InflightTask) -> None:
            if key := await self._inputs.store_checkpoint(held):
                keys[held.handle] = key

        try:
            async with asyncio.timeout(self._settings.handover_s):
                await self._stop_drawing()
                drawn = [
                    store(held)
                    for held in self._tasks.all_held()
                    if held.has_news
                    and not held.is_stopped
                    and held.handle not in self._results.deliveries
                ]
                await asyncio.gather(
                    *drawn, *self._results.deliveries.values(), return_exceptions=True
                )
        except TimeoutError:
            _log.warning("not all that was drawn could be stored in time")
        return keys

    async def _stop_drawing(self) -> None:
        if not self._models.state.drawn:
            return
        if self.can_run:
            self._models.process.send(HandOver())
            try:
                async with asyncio.timeout(self._settings.handover_s / 2):
                    await self._results.handed_over.wait()
            except TimeoutError:
                _log.warning("worker: a step takes too long, handing over the last checkpoint")
        self._take_checkpoints()


def _that_fit(batch: Sequence[InflightTask]) -> int:
    """Return how many of a batch, at least one, have files that go out in one frame."""
    total = 0
    for count, held in enumerate(batch):
        total += held.files_bytes
        if count and total > MAX_INPUT_FILES_BYTES:
            return count
    return len(batch)
