"""Starts the model process of a worker, restarts it, and kills it when it hangs."""

import itertools
import random
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, NamedTuple

import msgspec
import structlog

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.records import ModelCard
from swell.core.retry import RetryPolicy
from swell.protocol.worker_messages import Switches
from swell.runtime.ipc_messages import (
    DEVICE_BROKEN,
    Frame,
    Moved,
    Moving,
    Ready,
    StepEngineConfig,
    Swapped,
    Turn,
)
from swell.runtime.model_process_client import ModelProcess, ModelRefused, Origin, ProcessDied
from swell.runtime.startup_timing import Startups
from swell.settings.worker_settings import WorkerSettings
from swell.worker.inflight import InflightTask, InflightTasks
from swell.worker.model_process_state import ModelProcessState

_log = structlog.get_logger("swell.worker")

#: After this many model processes in a row without a result, the last with a broken device, the
#: worker ends: its tasks do better on another machine.
_BROKEN_DEVICES: Final = 3

#: Waits between deaths of the model process.
_RESTART: Final = RetryPolicy(base_s=0.1, cap_s=10.0, floor_s=0.0)

#: The worker gives up after this many failed starts of the model process in a row.
MAX_BOOT_DEATHS: Final = 5


class Cause(Enum):
    """Why a model process has ended, in words for the log."""

    DIED = "the model process died"
    BROKEN_DEVICE = "the model process ended because its device is broken"
    STUCK = "the model process was killed because it kept running a stopped task"
    SLOW = "the model process was killed because a run took too long"


class ProcessEnd(NamedTuple):
    """How a model process ended."""

    cause: Cause
    exit_code: int
    #: How long its present work had taken, in seconds.
    ran_s: float
    #: Whether no task that it was running caused the end.
    is_blameless: bool
    #: Whether another process would not do better.
    is_final: bool


class ModelSupervisor:
    """Starts, watches and restarts the model process, and tracks the models on the device.

    Args:
        settings: Device, memory, batching.
        refs: References as `load_models` takes them.
        clock: The time.
        origin: How model processes are started.
        startups: Times their start.
        tasks: Reports startups and switches.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        refs: Sequence[str],
        clock: Clock,
        origin: Origin,
        startups: Startups,
        tasks: InflightTasks,
    ) -> None:
        self._settings = settings
        self._refs = refs
        self._clock = clock
        self._origin = origin
        self._startups = startups
        self._tasks = tasks
        #: Called with each frame that is about tasks.
        self.on_task_frame: Callable[[Frame], None]
        self._rng = random.Random()
        #: What the process has.
        self.state: ModelProcessState[InflightTask] = ModelProcessState()
        self._versions: dict[str, str] = {}
        #: Models with the same number of rows in all steps.
        self.pinned: set[str] = set()
        #: Whether not all models fit on the device together.
        self.takes_turns = False
        #: Models on the device, and the seconds that bringing each would take.
        self.residents: list[str] = []
        self.expected_s: dict[str, float] = {}
        self._switches: dict[str, Switches] = {}
        #: How often the LoRAs of each model were changed since the process began.
        self.lora_swaps: dict[str, int] = {}
        #: When the process began to bring a model, in monotonic seconds.
        self._moving_since_s = 0.0
        #: Whether the process is starting, or has ended.
        self._is_down = True
        #: Processes that ended without a result, in a row.
        self._deaths = 0
        #: Why the process is being killed, and the batch that it had then.
        self._verdict: tuple[Cause, int | None] | None = None

    @property
    def can_run(self) -> bool:
        """Whether the process is alive with its models loaded."""
        return self.process.is_ready and not self._is_down

    def begin(self) -> None:
        """Take the first process, which may have begun to start before the worker."""
        self.process = self._origin.process or self._new_process()
        self.process.on_frame = self._on_frame

    def _new_process(self) -> ModelProcess:
        home = self._origin.home
        return ModelProcess(home.python, self._on_frame, home.variables)

    async def load(self) -> list[ModelCard]:
        """Wait until the first process has loaded its models; return their cards.

        Raises:
            ProcessDied: It died on the way, or at once after it.
            SwellError: The models cannot be loaded.
        """
        cards, ready = await self._start()
        self._versions = {card.name: card.version for card in cards}
        if self._settings.is_exact:
            # One that was never loaded may turn out to be free of it.
            self.pinned = set(ready.residents) - set(ready.invariant)
        # On a GPU the model process plans its memory itself.
        has_budget = self._settings.device_memory_bytes is not None
        self.takes_turns = len(cards) > 1 and (has_budget or len(ready.residents) < len(cards))
        for name, load_s in ready.load_s.items():
            _log.info("model loaded", model=name, load_s=round(load_s, 3))
        self._is_down = False
        self._report_models()
        return [
            msgspec.structs.replace(
                card,
                memory_bytes=card.memory_bytes or ready.memory_bytes.get(card.name, 0),
                stage=self._settings.stage or card.stage,
            )
            for card in cards
        ]

    async def _start(self) -> tuple[list[ModelCard], Ready]:
        settings, process = self._settings, self.process
        cards = await process.start(
            self._refs,
            settings.device,
            device_memory_bytes=settings.device_memory_bytes,
            host_memory_bytes=settings.host_memory_bytes,
            optional=settings.optional,
            shelf=self._origin.shelf,
        )
        if any(card.step_bucket for card in cards):
            process.send(StepEngineConfig(settings.is_exact))
        ready = await process.ready()
        if not process.is_ready:
            raise ProcessDied("the model process died as soon as its models were loaded")
        self.residents, self.expected_s = ready.residents, ready.expected_s
        for name, reason in ready.left_out.items():
            _log.error("left out: the model cannot be loaded", model=name, reason=reason)
        return [card for card in cards if card.name not in ready.left_out], ready

    async def wait_for_end(self) -> ProcessEnd:
        """Wait until the process ends, and count its death; return how it ended."""
        exit_code = await self.process.wait()
        self._is_down = True
        verdict, self._verdict = self._verdict, None
        died = Cause.BROKEN_DEVICE if exit_code == DEVICE_BROKEN else Cause.DIED
        cause, batch = verdict or (died, None)
        # Before its batch, other tasks had the device; while a model loads, none has.
        since_s = self.state.since_s
        self._deaths += cause is not Cause.STUCK
        return ProcessEnd(
            cause,
            exit_code,
            ran_s=0.0 if since_s is None else self._clock.monotonic_s() - since_s,
            # The stopped task has ended, or the run that was too long has.
            is_blameless=verdict is not None
            and (cause is Cause.STUCK or batch != self.state.current),
            is_final=cause is Cause.BROKEN_DEVICE and self._deaths >= _BROKEN_DEVICES,
        )

    async def restart(self) -> float:
        """Start a new process, after a wait that grows with each death; return the seconds it took.

        Raises:
            ModelRefused: It does not start any more, or the models have changed.
        """
        since_s = self._clock.monotonic_s()
        if self._deaths > 1:
            await self._clock.sleep(_RESTART.delay_s(self._deaths - 1, self._rng))
        for failures in itertools.count(1):
            await self.process.kill()
            self.process = self._new_process()
            try:
                versions = self._served_versions(*await self._start())
                break
            except (SwellError, OSError) as error:
                if failures >= MAX_BOOT_DEATHS:
                    reason = f"the model process does not start any more: {error}"
                    raise ModelRefused(reason) from error
                _log.warning("the model process does not start", detail=str(error))
                await self._clock.sleep(_RESTART.delay_s(failures, self._rng))
        if versions != self._versions:
            raise ModelRefused("the models' files have changed: start the worker again")
        self._is_down = False
        self._tasks.startups.append(self._startups.restarted(since_s, self.process))
        self.lora_swaps.clear()
        self._report_models()
        return self._clock.monotonic_s() - since_s

    def _served_versions(self, cards: list[ModelCard], ready: Ready) -> dict[str, str]:
        """Return the versions of the models that the worker serves, as a new process has them.

        Models that could not be loaded before are left to the next worker.

        Raises:
            ModelRefused: One is missing, as where the device's memory is not free yet.
        """
        versions = {card.name: card.version for card in cards}
        for name in self._versions.keys() - versions.keys():
            reason = ready.left_out.get(name, "it is not there any more")
            raise ModelRefused(f"{name} cannot be loaded: {reason}")
        return {name: versions[name] for name in self._versions}

    async def limit_runs(self, limit_s: float) -> None:
        """Kill a process whenever one of its runs takes longer than `limit_s`, for ever."""
        while True:
            left_s = limit_s
            since_s = self.state.since_s
            if since_s is not None and self.can_run:
                left_s += since_s - self._clock.monotonic_s()
            if left_s <= 0:
                self.kill(Cause.SLOW)
                left_s = limit_s
            await self._clock.sleep(left_s)

    def note_result(self) -> None:
        """Note that the process works: the next death is the first in a row."""
        self._deaths = 0

    def kill(self, cause: Cause) -> None:
        """Kill the process; `wait_for_end` returns the cause."""
        self._verdict = cause, self.state.current
        self.process.end()

    # --- what the process says of its models -----------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        now_s = self._clock.monotonic_s()
        match frame:
            case Turn():
                self.state.turn_to(frame.batch, now_s)
            case Swapped():
                new = frame.count - self.lora_swaps.get(frame.model, 0)
                self.lora_swaps[frame.model] = frame.count
                self._count_switches(frame.model, "loras", new)
                _log.debug("LoRAs changed", model=frame.model, swaps=frame.count)
            case Moving():
                self.state.busy_for = frame.model
                self._moving_since_s = now_s
            case Moved():
                self._on_moved(frame)
            case _:
                self.on_task_frame(frame)

    def _on_moved(self, moved: Moved) -> None:
        """Note which models are on the device now; running tasks begin to count again."""
        self._tasks.startups.append(
            self._startups.switched(
                moved.model, self._moving_since_s, self.process, is_there=bool(moved.kind)
            )
        )
        self.state.free(self._clock.monotonic_s())
        self.residents, self.expected_s = moved.residents, moved.expected_s
        load_s = round(moved.load_s, 3)
        if moved.kind:
            self._count_switches(moved.model, moved.kind, 1)
            _log.info("model brought", model=moved.model, source=moved.kind, load_s=load_s)
        else:
            self._report_models()
            _log.warning("a model could not be brought", model=moved.model, load_s=load_s)

    def _count_switches(self, model: str, kind: str, new: int) -> None:
        known = self._switches.get(model, Switches(model=model))
        counted = {kind: getattr(known, kind) + new}
        self._switches[model] = msgspec.structs.replace(known, **counted)
        self._report_models()

    def _report_models(self) -> None:
        """Have the next report name the models on the device, if they take turns, and switches."""
        if self.takes_turns:
            self._tasks.residents = list(self.residents)
        self._tasks.switches = list(self._switches.values())
