"""Tasks in flight, and results that are not reported to the backend yet.

A task is held from its lease until the report with its outcome is answered; only then is its slot
free. Plain dictionaries and lists, changed by one thread.
"""

import asyncio
import collections
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from swell.core.startup_phases import Startup
from swell.core.store_types import Hold
from swell.core.task import Artifact, Failed, Outcome, Settlement, Succeeded
from swell.core.telemetry import about
from swell.protocol.worker_messages import Enclosure, LeasedTask, Progress, Switches
from swell.runtime.ipc_messages import MAX_OUTPUT_BYTES
from swell.worker.lora_files import HeldLora
from swell.worker.task_spans import TaskTraces

#: About the largest report, as JSON; what does not fit goes into the next. The largest output fits
#: with what belongs to it.
PAGE_BYTES: Final = MAX_OUTPUT_BYTES + 64 * 1024

#: Largest entry of a report without its output, error text or preview.
_ENTRY_BYTES: Final = 1024

#: A worker holds as many quick tasks as run in this time, in seconds, up to `MOST_QUICK`.
HOLD_S: Final = 0.05
MOST_QUICK: Final = 64

#: Most startups in a report; older ones are dropped.
MOST_STARTUPS: Final = 32

#: Most remembered leases of later stages.
MOST_LATER_STAGES: Final = 256

#: An error's text of 2,000 characters, each of them escaped.
_ERROR_BYTES: Final = 12_000

EntryT = TypeVar("EntryT")


@dataclass(frozen=True, slots=True)
class Brought:
    """A file that is there. Its pixels are not: they are large, and tasks may have many."""

    #: Which of the task's files it is, from 0, and the seed of its sample.
    index: int
    seed: int
    artifact: Artifact
    #: Its bytes, where they travel with the reports that tell of it: of the file, and of the end.
    enclosure: Enclosure | None


class Parts:
    """Files of one attempt that are stored before it ends, by number.

    They are encoded and stored concurrently, and reported in the order of their numbers, each once:
    a model process that died makes some of them again, and those are dropped. A file that could not
    be stored fails the attempt at its end, like any other file.
    """

    def __init__(self) -> None:
        self._on_way: dict[int, asyncio.Task[Brought]] = {}
        #: How many were reported.
        self._told = 0
        #: The names that they have in the object store.
        self.names: list[str] = []
        #: How much of them travels inside reports.
        self.enclosed_bytes = 0

    def __contains__(self, index: int) -> bool:
        return index in self._on_way

    def add(
        self, index: int, task: "asyncio.Task[Brought]", tell: Callable[[Brought], None]
    ) -> None:
        """Add a file on its way; tell it once it and all before it are there."""
        self._on_way[index] = task
        task.add_done_callback(lambda _: self._tell(tell))
        # An attempt that has ended awaits none of its files.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def _tell(self, tell: Callable[[Brought], None]) -> None:
        while (task := self._on_way.get(self._told)) is not None and task.done():
            if task.cancelled() or task.exception() is not None:
                # Later files cannot be reported in order.
                return
            self._told += 1
            tell(task.result())

    async def first(self, n: int) -> list[Brought]:
        """Return the first `n`, once they are there.

        Raises:
            Exception: The error of the first that failed.
        """
        return [await self._on_way[index] for index in range(n)]


class InflightTask:
    """A leased task on its way through the worker."""

    def __init__(self, task: LeasedTask, handle: int, key: Hashable, now_s: float) -> None:
        self.task = task
        #: Names the task between the worker and its model process.
        self.handle = handle
        self.key = key
        self.admitted_s = now_s
        #: Deadline in monotonic seconds.
        self.deadline_s = None if task.finish_within_s is None else now_s + task.finish_within_s
        #: A task that was tried before may be what broke that attempt: it shares no batch.
        self.alone = task.attempt > 1 + task.earlier
        self.is_stopped = False
        #: Whether its model has seen that.
        self.is_stop_known = False
        self.load_s = 0.0
        #: When the model process got it, and its device time so far.
        self.sent_s = now_s
        self.device_s = 0.0
        #: Payments to remote services, in millionths of a dollar.
        self.paid_micros = 0
        #: Number of the last reported progress.
        self.place = 0
        #: Sample → the checkpoint to resume from, and its seed.
        self.checkpoints: dict[int, bytes] = {}
        self.seed = task.seed
        #: Whether this attempt has drawn more than the one before had left.
        self.has_news = False
        #: URL → (bytes, media type) of its input files.
        self.files: dict[str, tuple[bytes, str]] = {}
        #: What names a LoRA in its input → the file, held in the weights cache.
        self.loras: dict[str, HeldLora] = {}
        #: Files that are sent before it ends, and their reports.
        self.parts: Parts | None = None
        self.early: list[Progress] = []

    @property
    def model(self) -> str:
        """The name of its model."""
        return self.task.model

    @property
    def samples(self) -> int:
        """How many it has."""
        return self.task.count

    @property
    def about(self) -> dict[str, str | int]:
        """The fields of a line of the log that is about this attempt."""
        task = self.task
        return about(task.task_id, task.attempt, task.traceparent)

    @property
    def files_bytes(self) -> int:
        """How many bytes its input files have together."""
        return sum(len(data) for data, _ in self.files.values())

    def let_go(self) -> None:
        """Release its files and the checkpoints of an earlier attempt.

        It may itself stay in line for long, where the model is busy.
        """
        for lora in self.loras.values():
            lora.close()
        self.files, self.checkpoints = {}, {}


class ReportPage(NamedTuple):
    """The contents of one report."""

    settlements: list[Settlement]
    progress: list[Progress]
    holds: list[Hold]
    #: Files that travel with them, by key.
    files: Mapping[str, Enclosure] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to report."""
        return not (self.settlements or self.progress or self.holds)

    def enclosures(self) -> list[Enclosure]:
        """Return the files that its outcomes and its progress name, each once."""
        keys = [key for each in self.settlements for key in _file_keys(each)]
        keys += [each.data["key"] for each in self.progress if "key" in each.data]
        return [self.files[key] for key in dict.fromkeys(keys) if key in self.files]

    def halves(self) -> "list[ReportPage]":
        """Return pages that make the same report in parts: by kind, or one kind in two.

        A single entry cannot be divided, and comes back alone.
        """
        settlements, progress, holds, files = self
        kinds = [
            ReportPage(settlements, [], [], files),
            ReportPage([], progress, [], files),
            ReportPage([], [], holds),
        ]
        kinds = [page for page in kinds if not page.is_empty]
        if len(kinds) != 1:
            return kinds
        half = (max(len(settlements), len(progress), len(holds)) + 1) // 2
        parts = [
            ReportPage(settlements[:half], progress[:half], holds[:half], files),
            ReportPage(settlements[half:], progress[half:], holds[half:], files),
        ]
        return [page for page in parts if not page.is_empty]


def _file_keys(settlement: Settlement) -> list[str]:
    outcome = settlement.outcome
    return [each.key for each in outcome.artifacts] if isinstance(outcome, Succeeded) else []


class InflightTasks:
    """Held tasks and unreported outcomes of one worker."""

    def __init__(self, slots: int, traces: TaskTraces | None = None) -> None:
        self.allow(slots)
        self._traces = traces
        self.held: dict[str, InflightTask] = {}
        self._by_handle: dict[int, InflightTask] = {}
        self._handles = itertools.count(1)
        #: Outcomes that wait for a report, and those in reports that have not been answered.
        self.outcomes: list[Settlement] = []
        self._taken: list[Settlement] = []
        #: Files that travel with outcomes and with progress that wait, by key.
        self._enclosures: dict[str, Enclosure] = {}
        self._early: dict[str, Enclosure] = {}
        #: Tokens of the last leases of stages that were not their pipelines' first.
        self._later_stages: collections.deque[str] = collections.deque(maxlen=MOST_LATER_STAGES)
        #: Pipelines among the settlements whose next stage may run here.
        self._may_go_on: set[str] = set()
        #: Progress that waits for a report, by task and kind.
        self.progress: dict[tuple[str, str], Progress] = {}
        self._is_heartbeat_due = False
        #: What reports and calls for work tell of the models, where they take turns on the device.
        self.residents: list[str] | None = None
        self.switches: list[Switches] = []
        #: Startups, in each report until one is answered; and how many the last report had.
        self.startups: collections.deque[Startup] = collections.deque(maxlen=MOST_STARTUPS)
        self._startups_in_flight = 0
        #: Called once, with the first outcome of an attempt that was made.
        self.on_first_outcome: Callable[[], None] | None = None
        #: Set when there is something to report.
        self.news = asyncio.Event()
        #: Set when there is progress that has time.
        self.small_news = asyncio.Event()
        #: Set when a task is held.
        self.busy = asyncio.Event()
        #: Set when nothing is held and everything is reported.
        self.is_clear = asyncio.Event()
        self.is_clear.set()

    def allow(self, slots: int, *, fits: bool = False) -> None:
        """Set how many tasks may be held, and whether `fit` may raise that."""
        self.slots = self._least_slots = slots
        self._most_slots = max(slots, MOST_QUICK) if fits else slots

    def fit(self, task_s: float) -> None:
        """Hold as many tasks as run within `HOLD_S`, if that is allowed.

        Args:
            task_s: Seconds per task, as measured.
        """
        quick = int(HOLD_S / max(task_s, 1e-6))
        self.slots = max(self._least_slots, min(self._most_slots, quick))

    @property
    def free(self) -> int:
        """How many more tasks fit."""
        return self.slots - len(self.held) - len(self.outcomes) - len(self._taken)

    def known(self, in_flight: Iterable[Settlement] = ()) -> list[Hold]:
        """Return the leases of all known tasks that may not be settled yet.

        Args:
            in_flight: Outcomes in a report that has not been answered.
        """
        untold = itertools.chain(self.outcomes, in_flight)
        return [held.task.hold for held in self.held.values()] + [
            Hold(task_id=each.task_id, attempt=each.attempt, token=each.token) for each in untold
        ]

    def is_duplicate_lease(self, task: LeasedTask) -> bool:
        """Whether a lease is known: it is held, or a pipeline went on with it.

        The answer to a report starts a later stage, and may be repeated after the stage has ended.
        """
        held = self.held.get(task.task_id)
        if held is not None and held.task.token == task.token:
            return True
        if not task.earlier:
            return False
        if task.token in self._later_stages:
            return True
        self._later_stages.append(task.token)
        return False

    def hold(self, task: LeasedTask, key: Hashable, now_s: float) -> InflightTask:
        """Hold a leased task."""
        held = InflightTask(task, next(self._handles), key, now_s)
        self.held[task.task_id] = held
        self._by_handle[held.handle] = held
        self.is_clear.clear()
        self.busy.set()
        return held

    def find(self, handle: int) -> InflightTask | None:
        """Return a task that is still held, by its number."""
        return self._by_handle.get(handle)

    def pay(self, handle: int, micros: int) -> None:
        """Add a payment to a remote service for a task, in millionths of a dollar."""
        held = self._by_handle.get(handle)
        if held is not None:
            held.paid_micros += micros

    def settle(
        self, held: InflightTask, outcome: Outcome, enclosures: Iterable[Enclosure] = ()
    ) -> None:
        """Note how a task ended. Of two outcomes the first counts.

        Args:
            held: The task.
            outcome: How it ended.
            enclosures: Its files that travel in the report.
        """
        task = held.task
        if self._by_handle.pop(held.handle, None) is None:
            return
        held.let_go()
        if self.on_first_outcome is not None and isinstance(outcome, Succeeded | Failed):
            tell, self.on_first_outcome = self.on_first_outcome, None
            tell()
        if self.held.get(task.task_id) is held:
            del self.held[task.task_id]
        if self._traces is not None:
            self._traces.settled(task)
        self._enclosures |= {file.key: file for file in enclosures}
        if held.paid_micros:
            timings = msgspec.structs.replace(outcome.timings, paid_micros=held.paid_micros)
            outcome = msgspec.structs.replace(outcome, timings=timings)
        if task.may_go_on and isinstance(outcome, Succeeded):
            self._may_go_on.add(task.task_id)
        self.outcomes.append(
            Settlement(
                task_id=task.task_id, attempt=task.attempt, token=task.token, outcome=outcome
            )
        )
        self.news.set()

    def tell(
        self,
        held: InflightTask,
        kind: str,
        data: dict[str, Any],
        *,
        soon: bool = True,
        slot: str = "",
    ) -> bool:
        """Note progress. It replaces unreported progress of the same slot.

        Args:
            held: The task.
            kind: `progress`, `preview` or `artifact`.
            data: The data of the event.
            soon: Whether a client follows the task.
            slot: By default the kind.

        Returns:
            Whether the task is still held.
        """
        if held.handle not in self._by_handle:
            return False
        held.place += 1
        task, slot = held.task, slot or kind
        # Put last again, so that places only grow within a report.
        self.progress.pop((task.task_id, slot), None)
        self.progress[task.task_id, slot] = Progress(
            task_id=task.task_id,
            attempt=task.attempt,
            token=task.token,
            place=held.place,
            kind=kind,
            data=data,
            files=len(held.early),
        )
        (self.news if soon else self.small_news).set()
        return True

    def tell_file(
        self,
        held: InflightTask,
        index: int,
        data: dict[str, Any],
        file: Enclosure | None,
        *,
        soon: bool,
    ) -> None:
        """Note that a file of a running task is stored.

        Args:
            held: The task.
            index: The number of the file.
            data: The data of the event.
            file: Its bytes, if they travel with the event.
            soon: Whether a client follows the task.
        """
        slot = f"artifact {index}"
        if self.tell(held, "artifact", data, soon=soon, slot=slot):
            held.early.append(self.progress[held.task.task_id, slot])
            if file is not None:
                self._early[file.key] = file

    def resend_files(self) -> None:
        """Report the files of held tasks again, before unreported progress."""
        again: dict[tuple[str, str], Progress] = {}
        for held in self.held.values():
            for told in held.early:
                slot = (told.task_id, f"artifact {told.data['index']}")
                if slot not in self.progress:
                    again[slot] = msgspec.structs.replace(told, again=True)
        if again:
            self.progress = again | self.progress
            self.news.set()

    def beat(self) -> None:
        """Have the next report extend the leases, and make it soon."""
        if self.held:
            self._is_heartbeat_due = True
            self.news.set()

    def take(self) -> ReportPage:
        """Take the content of the next report; call `told` once it was answered."""
        holds: list[Hold] = []
        if self._is_heartbeat_due:
            holds = [held.task.hold for held in self.held.values()]
            self._is_heartbeat_due = False
        n, size_bytes = _fitting(self.outcomes, self._outcome_bytes, 0)
        settlements, self.outcomes = self.outcomes[:n], self.outcomes[n:]
        n, _ = _fitting(self.progress.values(), self._progress_bytes, size_bytes)
        progress = [self.progress.pop(key) for key in list(self.progress)[:n]]
        if self.outcomes or self.progress:
            self.news.set()
        files: dict[str, Enclosure] = {}
        for each in progress:
            if (key := each.data.get("key")) in self._early:
                files[key] = self._early.pop(key)
        for key in [key for each in settlements for key in _file_keys(each)]:
            if key in self._enclosures:
                files[key] = self._enclosures.pop(key)
        self._taken += settlements
        self._startups_in_flight = len(self.startups)
        return ReportPage(settlements, progress, holds, files)

    def told(self) -> None:
        """Note that the pages that were taken are durable at the backend."""
        for _ in range(self._startups_in_flight):
            self.startups.popleft()
        self._startups_in_flight = 0
        if self._traces is not None:
            self._traces.reported(self._taken)
        self._taken = []
        if self._may_go_on:
            self._may_go_on.intersection_update(each.task_id for each in self.outcomes)
        if not self.held and not self.outcomes:
            self.is_clear.set()

    def onward(self, settlements: Iterable[Settlement]) -> int:
        """Return how many of these are pipeline stages whose next stage may run here."""
        if not self._may_go_on:
            return 0
        return sum(each.task_id in self._may_go_on for each in settlements)

    # Three bytes of a file are four characters of base64.

    def _progress_bytes(self, progress: Progress) -> int:
        file = self._early.get(progress.data.get("key", ""))
        enclosed = 0 if file is None else len(file.data) * 4 // 3
        return _ENTRY_BYTES + len(progress.data.get("image", "")) + enclosed

    def _outcome_bytes(self, settlement: Settlement) -> int:
        keys = [key for key in _file_keys(settlement) if key in self._enclosures]
        files = sum(len(self._enclosures[key].data) for key in keys) * 4 // 3
        match settlement.outcome:
            case Succeeded(output=output, artifacts=artifacts, warnings=warnings):
                # An enclosure names its artifact once more.
                entries = 1 + len(artifacts) + 4 * len(warnings)
                return memoryview(output).nbytes + _ENTRY_BYTES * entries + files
            case Failed():
                return _ERROR_BYTES + _ENTRY_BYTES
            case _:
                return _ENTRY_BYTES

    def all_held(self) -> Sequence[InflightTask]:
        """Return every held task, oldest first."""
        return list(self.held.values())


def _fitting(
    entries: Iterable[EntryT], size_of: Callable[[EntryT], int], taken_bytes: int
) -> tuple[int, int]:
    """Return how many entries still fit on a page, and how full it is then; one always fits."""
    n = 0
    for entry in entries:
        size_bytes = size_of(entry)
        if taken_bytes and taken_bytes + size_bytes > PAGE_BYTES:
            break
        n, taken_bytes = n + 1, taken_bytes + size_bytes
    return n, taken_bytes
