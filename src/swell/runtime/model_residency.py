"""The models of a model process, and which of them are on its device.

At the start, models are loaded as far as the memory budget allows. A model that is needed later
evicts others (`eviction_policy.py`). On a GPU the default budget is most of the free memory; on a
CPU all models are loaded and stay. Evicted models that support it stay in the host's memory; others
are dropped, and loaded again.
"""

import gc
import importlib
import math
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import StrEnum
from typing import Final

import psutil

from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.startup_phases import Phase, PhaseLog
from swell.runtime.eviction_policy import Resident, forgotten, leaving, next_to_leave
from swell.runtime.ipc import Pipe
from swell.runtime.ipc_messages import Load, Moved, Moving
from swell.runtime.unicode_repair import describe_error
from swell.sdk.define import Definition
from swell.sdk.model import DeviceBroken, Model, can_offload

#: Default budget, as a share of a GPU's free memory; the rest is for steps.
_BUDGET: Final = 0.9

#: Weight of the newest of a model's load times in their moving average.
_NEWEST: Final = 0.3


class CannotLoad(Exception):
    """A model that a task needs could not be loaded; the text says why."""


class _Where(StrEnum):
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


class _Place:
    """A model: where it is, its size, and how long loading it takes."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.model: Model = definition.make()
        self.where = _Where.DISK
        #: Known size on the device, and in the host's memory while it is there.
        self.size_bytes = self.model.memory_bytes
        self.host_bytes = 0
        self.used = 0
        #: Average seconds to load it, by the place it came from.
        self.load_s: dict[_Where, float] = {}

    def arrive(self, load_s: float) -> None:
        """Note that it is on the device, and how long that took."""
        known = self.load_s.get(self.where, load_s)
        self.load_s[self.where] = known + _NEWEST * (load_s - known)
        self.where, self.host_bytes = _Where.DEVICE, 0


class Device:
    """The models of the process: all are created, some are loaded.

    Args:
        definitions: The models, in load order.
        work: Name of the device, and the budgets.
        pipe: To the worker; every move is sent.
        clock: The time.
        may_fail: Names of models that are left out if they cannot be made or loaded.
        log: Records the phases of each model.
    """

    def __init__(
        self,
        definitions: Sequence[Definition],
        work: Load,
        pipe: Pipe,
        clock: Clock,
        may_fail: Collection[str] = (),
        log: PhaseLog | None = None,
    ) -> None:
        self.name = work.device
        self._budget_bytes = work.device_memory_bytes
        self._host_budget_bytes = work.host_memory_bytes
        self._pipe = pipe
        self._clock = clock
        self._log = log or PhaseLog(clock.monotonic_s)
        self._may_fail = may_fail
        self._count = len(definitions)
        #: Models that were left out → why.
        self.left_out: dict[str, str] = {}
        self._places: dict[str, _Place] = {}
        for definition in definitions:
            try:
                self._places[definition.name] = _Place(definition)
            except Exception as error:
                self._leave_out(definition.name, error)
        self._uses = 0
        #: Called after a model left, before its memory is used again; `model` may return another.
        self.left: Callable[[], None] = lambda: None

    def _leave_out(self, name: str, error: Exception) -> None:
        """Drop a model that failed; raise its error if it may not fail, or is the last one."""
        is_last = len(self.left_out) + 1 == self._count
        if name not in self._may_fail or is_last:
            raise error
        traceback.print_exception(error)
        clear_traceback_frames(error)
        self._places.pop(name, None)
        self._log.drop(name)
        self.left_out[name] = _reason(error)
        gc.collect()

    @property
    def residents(self) -> list[str]:
        """The models on the device, most recently used first."""
        found = [p for p in self._places.values() if p.where is _Where.DEVICE]
        found.sort(key=lambda place: -place.used)
        return [place.definition.name for place in found]

    def has(self, name: str) -> bool:
        """Whether a model is on the device."""
        return self._places[name].where is _Where.DEVICE

    def model(self, name: str) -> Model:
        """Return a model. Dropping a model replaces the object."""
        return self._places[name].model

    def use(self, name: str) -> None:
        """Note that a model was used."""
        self._uses += 1
        self._places[name].used = self._uses

    def expected_s(self) -> dict[str, float]:
        """Return the expected seconds to load each model."""
        return {name: self._expected_s(place) for name, place in self._places.items()}

    def _expected_s(self, place: _Place) -> float:
        source = _Where.HOST if place.where is _Where.HOST else _Where.DISK
        if place.where is _Where.DEVICE and can_offload(place.model):
            source = _Where.HOST
        known = place.load_s.get(source, place.load_s.get(_Where.DISK))
        if known is not None:
            return known
        # A model that was never loaded is expected to take as long as others.
        others = [p.load_s[_Where.DISK] for p in self._places.values() if _Where.DISK in p.load_s]
        return sum(others) / len(others) if others else 0.0

    def memory_bytes(self) -> dict[str, int]:
        """Return the known sizes of the models on the device.

        On a GPU, only models that report their size are included: the growth of the process says
        nothing about GPU memory.
        """
        is_host = self.name.partition(":")[0] == "cpu"
        return {
            name: place.size_bytes
            for name, place in self._places.items()
            if place.where is _Where.DEVICE and (is_host or place.model.memory_bytes)
        }

    # At the start

    def start(self) -> dict[str, float]:
        """Load and warm up what fits; return seconds by model.

        Raises:
            Exception: A model could not be loaded.
        """
        is_full = False
        for name in list(self._places):
            place = self._places[name]
            if is_full or (self.residents and self._missing() + place.size_bytes > 0):
                continue
            try:
                self._load(place)
            except Exception as error:
                check_device(error)
                is_shared = self._budget_bytes is not None and bool(self.residents)
                is_full = is_shared and is_out_of_memory(place.model, error)
                if not is_full:
                    del place  # the half-loaded model, which another reference would keep
                    self._leave_out(name, error)
                    continue
            if is_full:
                self._renew(place)
                self._log.drop(name)
            elif len(self.residents) > 1 and self._missing() > 0:
                # Its size was not known before.
                self._remove(place)
                is_full = True
        return {
            name: place.load_s[_Where.DISK]
            for name, place in self._places.items()
            if _Where.DISK in place.load_s
        }

    def _missing(self) -> float:
        """Return by how much the models on the device exceed the budget; negative for room."""
        if self._budget_bytes is None:
            return -math.inf
        taken = sum(p.size_bytes for p in self._places.values() if p.where is _Where.DEVICE)
        return taken - self._budget_bytes

    # On demand

    def bring(self, name: str, wanted: Collection[str]) -> float:
        """Load a model if it is not on the device; return how long that took, in seconds.

        Args:
            name: The model.
            wanted: Models with waiting tasks: they are evicted last.

        Raises:
            CannotLoad: It could not be loaded; others may have been evicted for it.
        """
        place = self._places[name]
        if place.where is _Where.DEVICE:
            return 0.0
        self._log.clear()
        self._pipe.send(Moving(name))
        start_s = self._clock.monotonic_s()
        kind = ""
        try:
            self._make_room(place.size_bytes, wanted)
            kind = self._fetch(place, wanted)
            self.use(name)
            # Its size may not have been known before.
            self._make_room(0, wanted, besides=name)
        finally:
            load_s = self._clock.monotonic_s() - start_s
            self._pipe.send(Moved(name, kind, load_s, self.residents, self.expected_s()))
        return load_s

    def _fetch(self, place: _Place, wanted: Collection[str]) -> str:
        """Load a model; evict one more whenever the device is out of memory."""
        while True:
            source, failure = place.where, None
            # Phases of a failed attempt do not count.
            self._log.drop(place.definition.name)
            try:
                if source is _Where.HOST:
                    start_s = self._clock.monotonic_s()
                    with self._log.phase(Phase.LOAD, place.definition.name, source):
                        place.model.onload()
                    place.arrive(self._clock.monotonic_s() - start_s)
                else:
                    self._load(place, source)
                return source
            except Exception as error:
                check_device(error)
                lacks_memory = is_out_of_memory(place.model, error)
                other = next_to_leave(self._residents(wanted)) if lacks_memory else None
                if other is None and (source is _Where.DISK or lacks_memory):
                    failure = CannotLoad(
                        f"loading {place.definition.name} failed: {_reason(error, named=True)}"
                    )
                    failure.__cause__ = error
                elif other is None:
                    traceback.print_exc()
                clear_traceback_frames(error)
            if source is _Where.DISK or other is None:
                # Half-loaded, or its copy in the host's memory may be broken.
                self._renew(place)
            if failure is not None:
                raise failure
            if other is not None:
                self._remove(self._places[other])

    def _load(self, place: _Place, source: str = "") -> None:
        """Load and warm up a model from disk; `source` is for the log of phases."""
        start_s = self._clock.monotonic_s()
        before_bytes = _used_bytes(self.name)
        name = place.definition.name
        with self._log.phase(Phase.LOAD, name, source):
            place.model.load(self.name)
        with self._log.phase(Phase.WARM, name):
            place.model.warmup()
        place.size_bytes = place.model.memory_bytes or max(
            place.size_bytes, _used_bytes(self.name) - before_bytes
        )
        if self._budget_bytes is None:
            self._budget_bytes = _default_budget(self.name)
        place.arrive(self._clock.monotonic_s() - start_s)

    # Eviction

    def _residents(self, wanted: Collection[str], besides: str = "") -> list[Resident]:
        return [
            Resident(
                name=name,
                size_bytes=place.size_bytes,
                used=place.used,
                is_wanted=name in wanted,
                is_at_work=name == besides,
            )
            for name, place in self._places.items()
            if place.where is _Where.DEVICE
        ]

    def _make_room(self, size_bytes: int, wanted: Collection[str], besides: str = "") -> None:
        if self._budget_bytes is None:
            return
        for name in leaving(size_bytes, self._residents(wanted, besides), self._budget_bytes):
            self._remove(self._places[name])

    def _remove(self, place: _Place) -> None:
        """Evict a model: to the host's memory if possible, within the budget for that."""
        if not _offloaded(place):
            self._renew(place)
            return
        self.left()
        copies = [
            Resident(name=name, size_bytes=each.host_bytes, used=each.used)
            for name, each in self._places.items()
            if each.where is _Where.HOST
        ]
        for name in forgotten(copies, self._host_budget_bytes):
            self._renew(self._places[name])

    def _renew(self, place: _Place) -> None:
        """Drop a model with all its memory; a new one takes its place."""
        place.where, place.host_bytes = _Where.DISK, 0
        place.model = place.definition.make()
        self.left()
        # Models contain cycles. Objects from the start of the process are frozen for the collector.
        gc.unfreeze()
        gc.collect()
        gc.freeze()


def _offloaded(place: _Place) -> bool:
    """Move a model to the host's memory; return False if it cannot be moved."""
    if not can_offload(place.model):
        return False
    try:
        place.host_bytes = place.model.offload()
    except Exception as error:
        check_device(error)
        traceback.print_exc()
        return False
    place.where = _Where.HOST
    return True


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that caused it."""
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [each.__context__, each.__cause__]


def clear_traceback_frames(error: BaseException) -> None:
    """Release the local variables of the calls that raised an error: a model, half loaded."""
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)


def check_device(error: BaseException) -> None:
    """Raise `DeviceBroken` if an error, or one that caused it, leaves the device unusable."""
    if means_broken(error):
        raise DeviceBroken(describe_error(error)) from error


def means_broken(error: BaseException | None) -> bool:
    """Say whether an error, or one that caused it, leaves the device unusable."""
    for each in _chain(error):
        if isinstance(each, DeviceBroken):
            return True
        if isinstance(each, RuntimeError) and "torch" in sys.modules:
            arrays = importlib.import_module("swell.diffusion.torch_arrays")
            if isinstance(arrays.device_error(each), DeviceBroken):
                return True
    return False


def is_out_of_memory(model: Model, error: Exception) -> bool:
    """Say whether an error means that the device is out of memory."""
    return isinstance(error, (MemoryError, *model.out_of_memory))


def _reason(error: Exception, *, named: bool = False) -> str:
    is_own = isinstance(error, SwellError)
    detail = error.detail if isinstance(error, SwellError) else describe_error(error)
    return detail if is_own and not named else f"{type(error).__name__}: {detail}"


def _uses_torch(device: str) -> bool:
    """Say whether models of this process run on a GPU with torch."""
    return device.startswith("cuda") and "torch" in sys.modules


def _default_budget(device: str) -> int | None:
    if not _uses_torch(device):
        return None
    torch, arrays = sys.modules["torch"], importlib.import_module("swell.diffusion.torch_arrays")
    return int(_BUDGET * arrays.free_memory(torch.device(device)))


def _used_bytes(device: str) -> int:
    """Return the memory that this process uses, in bytes: on the GPU, or of the host."""
    if _uses_torch(device):
        return int(sys.modules["torch"].cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
