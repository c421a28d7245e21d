"""What the worker holds, and what it still has to tell the backend.

A task is on the desk from its lease until the report with its outcome is answered: only then is its
slot free. Plain dictionaries and lists, changed by one thread; nothing here waits but `news`.
"""

import asyncio
import collections
import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from swell.core.startup_phases import Startup
from swell.core.store_types import Hold
from swell.core.task import Failed, Outcome, Settlement, Succeeded
from swell.core.telemetry import about
from swell.protocol.worker_messages import Enclosure, LeasedTask, Progress, Switches
from swell.runtime.ipc_messages import MAX_OUTPUT_BYTES
from swell.worker.early_outputs import Parts
from swell.worker.lora_files import HeldLora
from swell.worker.task_spans import TaskTraces

#: About the largest report, as JSON; what does not fit goes into the next. The largest output fits
#: with what belongs to it.
PAGE_BYTES: Final = MAX_OUTPUT_BYTES + 64 * 1024

#: What an entry of a report has at most beside an output, an error's text or a preview.
_ENTRY_BYTES: Final = 1024

#: A worker holds as many quick tasks as run in this time, in seconds, up to `MOST_QUICK`.
HOLD_S: Final = 0.05
MOST_QUICK: Final = 64

#: So many startups are told at most; older ones that were not told are forgotten.
MOST_STARTUPS: Final = 32

#: So many leases of later stages are remembered.
MOST_LATER_STAGES: Final = 256

#: An error's text of 2,000 characters, each of them escaped.
_ERROR_BYTES: Final = 12_000

EntryT = TypeVar("EntryT")


class InflightTask:
    """A leased task on its way through the worker."""

    __slots__ = (
        "admitted_s",
        "alone",
        "checkpoints",
        "deadline_s",
        "device_s",
        "early",
        "files",
        "handle",
        "has_news",
        "is_heeded",
        "is_stopped",
        "key",
        "load_s",
        "loras",
        "paid_micros",
        "parts",
        "place",
        "seed",
        "sent_s",
        "task",
    )

    def __init__(self, task: LeasedTask, handle: int, key: Hashable, now_s: float) -> None:
        self.task = task
        #: Names the task between the worker and its model process.
        self.handle = handle
        self.key = key
        self.admitted_s = now_s
        #: Monotonic seconds after which the task is worthless.
        self.deadline_s = None if task.finish_within_s is None else now_s + task.finish_within_s
        #: A task that was tried before may be what broke that attempt: it shares no batch.
        self.alone = task.attempt > 1 + task.earlier
        self.is_stopped = False
        #: Whether its model has looked since, and knows.
        self.is_heeded = False
        self.load_s = 0.0
        #: When the model process got it, and what it had of the device where that is not over.
        self.sent_s = now_s
        self.device_s = 0.0
        #: What was paid to others for it, in millionths of a dollar.
        self.paid_micros = 0
        #: Number of the last progress told.
        self.place = 0
        #: Sample → from where it can go on, and the seed that this takes.
        self.checkpoints: dict[int, bytes] = {}
        self.seed = task.seed
        #: Whether this attempt has drawn more than the one before had left.
        self.has_news = False
        #: URL → (bytes, media type) of its input files.
        self.files: dict[str, tuple[bytes, str]] = {}
        #: What names a LoRA in its input → the file, held in the weights cache.
        self.loras: dict[str, HeldLora] = {}
        #: Files of it that go out before it ends, and what was told of them.
        self.parts: Parts | None = None
        self.early: list[Progress] = []

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
        """Let go of what is held for it: files, and what an earlier attempt has left.

        It may itself stay in line for long, where the model is busy.
        """
        for lora in self.loras.values():
            lora.close()
        self.files, self.checkpoints = {}, {}


class ReportPage:
    """What goes into one report."""

    __slots__ = ("holds", "progress", "settlements")

    def __init__(
        self, settlements: list[Settlement], progress: list[Progress], holds: list[Hold]
    ) -> None:
        self.settlements = settlements
        self.progress = progress
        self.holds = holds

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.settlements or self.progress or self.holds)

    def halves(self) -> "list[ReportPage]":
        """Return what makes the same report in parts: by kind, and one kind in two.

        A single entry cannot be parted, and comes back alone.
        """
        settlements, progress, holds = self.settlements, self.progress, self.holds
        kinds = [
            ReportPage(settlements, [], []),
            ReportPage([], progress, []),
            ReportPage([], [], holds),
        ]
        kinds = [page for page in kinds if not page.is_empty]
        if len(kinds) != 1:
            return kinds
        half = (max(len(settlements), len(progress), len(holds)) + 1) // 2
        parts = [
            ReportPage(settlements[:half], progress[:half], holds[:half]),
            ReportPage(settlements[half:], progress[half:], holds[half:]),
        ]
        return [page for page in parts if not page.is_empty]


class InflightTasks:
    """Held tasks and unreported outcomes of one worker."""

    def __init__(self, slots: int, traces: TaskTraces | None = None) -> None:
        self.slots = slots
        self._least_slots = slots
        self._traces = traces
        #: Settlements that were taken, and not told yet, where traces are wanted.
        self._untold: list[Settlement] = []
        self.held: dict[str, InflightTask] = {}
        self._by_handle: dict[int, InflightTask] = {}
        self._handles = itertools.count(1)
        self._settlements: list[Settlement] = []
        #: Files of these and of what is in flight that travel inside the report, by their keys.
        self._enclosures: dict[str, Enclosure] = {}
        #: Files that progress tells of, for as long as it is not told.
        self._early: dict[str, Enclosure] = {}
        #: Of what was taken, and not told yet.
        self._keys_in_flight: list[str] = []
        self._early_in_flight: list[str] = []
        #: Tokens of the last leases of stages that were not their pipelines' first.
        self._later_stages: collections.deque[str] = collections.deque(maxlen=MOST_LATER_STAGES)
        #: Pipelines among the settlements that may go on here.
        self._may_go_on: set[str] = set()
        self._progress: dict[tuple[str, str], Progress] = {}
        #: Outcomes in a report that has not been answered yet.
        self._in_flight = 0
        self._is_heartbeat_due = False
        #: What reports and calls for work tell of the models, where they take turns on the device.
        self.residents: list[str] | None = None
        self.switches: list[Switches] = []
        #: What was started, told by each report until one is answered; and how many were in it.
        self.startups: collections.deque[Startup] = collections.deque(maxlen=MOST_STARTUPS)
        self._startups_in_flight = 0
        #: Called once, with the first outcome of an attempt that was made.
        self.on_first_outcome: Callable[[], None] | None = None
        #: Set when there is something to report.
        self.news = asyncio.Event()
        #: Set when there is progress that has time.
        self.small_news = asyncio.Event()
        #: Set when a task was put on the desk.
        self.busy = asyncio.Event()
        #: Set when nothing is held and everything is reported.
        self.is_clear = asyncio.Event()
        self.is_clear.set()

    def fit(self, task_s: float) -> None:
        """Hold as many tasks as run within `HOLD_S`, but at most `MOST_QUICK`.

        Args:
            task_s: Seconds per task, as measured.
        """
        self.slots = max(self._least_slots, min(MOST_QUICK, int(HOLD_S / max(task_s, 1e-6))))

    @property
    def free(self) -> int:
        """How many more tasks fit."""
        return self.slots - len(self.held) - len(self._settlements) - self._in_flight

    @property
    def has_outcomes(self) -> bool:
        """Whether outcomes wait for a report."""
        return bool(self._settlements)

    def known(self, in_flight: Iterable[Settlement] = ()) -> list[Hold]:
        """Return the leases of all that was heard of and may not have been settled yet.

        Args:
            in_flight: Outcomes in a report that has not been answered.
        """
        untold = itertools.chain(self._settlements, in_flight)
        return [held.task.hold for held in self.held.values()] + [
            Hold(task_id=each.task_id, attempt=each.attempt, token=each.token) for each in untold
        ]

    def is_duplicate_lease(self, task: LeasedTask) -> bool:
        """Whether a lease was told before: it is held, or a pipeline went on with it.

        With a later stage a worker goes on by the answer to a report, which may come again when the
        stage is over already.
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
        """Put a leased task on the desk."""
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
        """Note that so many millionths of a dollar more were paid to others for a task."""
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
            enclosures: Those of its files that are told with it.
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
        self._settlements.append(
            Settlement(
                task_id=task.task_id, attempt=task.attempt, token=task.token, outcome=outcome
            )
        )
        self.news.set()

    @property
    def has_progress(self) -> bool:
        """Whether progress waits for a report."""
        return bool(self._progress)

    def tell(
        self, held: InflightTask, kind: str, data: dict[str, Any], *, soon: bool = True
    ) -> None:
        """Note progress. What was not told yet of the same kind is replaced.

        Args:
            held: Of which task.
            kind: `progress` or `preview`.
            data: What is told.
            soon: Whether somebody waits for it.
        """
        self._note(held, kind, kind, data, soon=soon)

    def tell_file(
        self,
        held: InflightTask,
        index: int,
        data: dict[str, Any],
        file: Enclosure | None,
        *,
        soon: bool,
    ) -> None:
        """Note that a file is there before its task has ended.

        Args:
            held: Of which task.
            index: Which file.
            data: What is told.
            file: Its bytes, where they travel with that.
            soon: Whether somebody waits for it.
        """
        slot = f"artifact {index}"
        if not self._note(held, "artifact", slot, data, soon=soon):
            return
        held.early.append(self._progress[held.task.task_id, slot])
        if file is not None:
            self._early[file.key] = file

    def resend_files(self) -> None:
        """Tell once more which files of held tasks are there, before what is not told yet."""
        again: dict[tuple[str, str], Progress] = {}
        for held in self.held.values():
            for told in held.early:
                slot = (told.task_id, f"artifact {told.data['index']}")
                if slot not in self._progress:
                    again[slot] = msgspec.structs.replace(told, again=True)
        if again:
            self._progress = again | self._progress
            self.news.set()

    def _note(
        self, held: InflightTask, kind: str, slot: str, data: dict[str, Any], *, soon: bool
    ) -> bool:
        """Note progress in the place of what has the same slot; return whether it is still held."""
        if held.handle not in self._by_handle:
            return False
        held.place += 1
        task = held.task
        # Put last again, so that places only grow within a report.
        self._progress.pop((task.task_id, slot), None)
        self._progress[task.task_id, slot] = Progress(
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

    def beat(self) -> None:
        """Have the next report extend the leases, and make it soon."""
        if self.held:
            self._is_heartbeat_due = True
            self.news.set()

    def take(self) -> ReportPage:
        """Take what is to be told; `told` must follow once it was."""
        holds: list[Hold] = []
        if self._is_heartbeat_due:
            holds = [held.task.hold for held in self.held.values()]
            self._is_heartbeat_due = False
        n, size_bytes = _fitting(self._settlements, self._settlement_bytes, 0)
        settlements, self._settlements = self._settlements[:n], self._settlements[n:]
        n, _ = _fitting(self._progress.values(), self._progress_bytes, size_bytes)
        progress = [self._progress.pop(key) for key in list(self._progress)[:n]]
        if self._settlements or self._progress:
            self.news.set()
        self._in_flight = len(settlements)
        self._startups_in_flight = len(self.startups)
        if self._traces is not None:
            self._untold += settlements
        self._keys_in_flight += [file.key for file in self.enclosed(settlements)]
        if self._early:
            self._early_in_flight += [file.key for file in self.enclosed_early(progress)]
        return ReportPage(settlements, progress, holds)

    def told(self) -> None:
        """Note that the page that was taken is durable at the backend."""
        self._in_flight = 0
        for _ in range(self._startups_in_flight):
            self.startups.popleft()
        self._startups_in_flight = 0
        if self._traces is not None:
            self._traces.reported(self._untold)
            self._untold.clear()
        for key in self._keys_in_flight:
            self._enclosures.pop(key, None)
        self._keys_in_flight.clear()
        for key in self._early_in_flight:
            self._early.pop(key, None)
        self._early_in_flight.clear()
        if self._may_go_on:
            self._may_go_on.intersection_update(each.task_id for each in self._settlements)
        if not self.held and not self._settlements:
            self.is_clear.set()

    def onward(self, settlements: Iterable[Settlement]) -> int:
        """Return how many of these are stages of pipelines that may go on here."""
        if not self._may_go_on:
            return 0
        return sum(each.task_id in self._may_go_on for each in settlements)

    def enclosed(self, settlements: Iterable[Settlement]) -> list[Enclosure]:
        """Return the files that travel with outcomes."""
        if not self._enclosures:
            return []
        return [
            self._enclosures[artifact.key]
            for settlement in settlements
            if isinstance(settlement.outcome, Succeeded)
            for artifact in settlement.outcome.artifacts
            if artifact.key in self._enclosures
        ]

    def enclosed_early(self, progress: Iterable[Progress]) -> list[Enclosure]:
        """Return the files that travel with progress."""
        if not self._early:
            return []
        keys = [each.data.get("key") for each in progress if each.kind == "artifact"]
        return [self._early[key] for key in keys if key in self._early]

    def _progress_bytes(self, progress: Progress) -> int:
        enclosed = sum(len(file.data) for file in self.enclosed_early([progress])) * 4 // 3
        return _ENTRY_BYTES + len(progress.data.get("image", "")) + enclosed

    def _settlement_bytes(self, settlement: Settlement) -> int:
        # Three bytes are four characters of base64.
        enclosed = sum(len(file.data) for file in self.enclosed([settlement])) * 4 // 3
        return _outcome_bytes(settlement.outcome) + enclosed

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


def _outcome_bytes(outcome: Outcome) -> int:
    match outcome:
        case Succeeded(output=output, artifacts=artifacts, warnings=warnings):
            # An enclosure names its artifact once more.
            entries = 1 + len(artifacts) + 4 * len(warnings)
            return memoryview(output).nbytes + _ENTRY_BYTES * entries
        case Failed():
            return _ERROR_BYTES + _ENTRY_BYTES
        case _:
            return _ENTRY_BYTES
