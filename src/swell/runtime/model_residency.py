"""The models of a model process, and which of them are on its device.

As many as fit into the memory budget are loaded at the start. Another is brought when it is its
turn, and others leave for it (`residency.py`). On a GPU the default budget is most of the memory
that other processes leave; elsewhere all models are loaded and stay. Who can wait in the host's
memory does so, and comes back from there; who cannot is dropped, and made and loaded anew.
"""

import gc
import importlib
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
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
from swell.weights.compile_cache import all_tried_out

#: Share of a GPU's free memory that is the default budget; the rest is for what steps need.
_BUDGET: Final = 0.9

#: Weight of the newest of a model's load times in their moving average.
_NEWEST: Final = 0.3


class CannotLoad(Exception):
    """A model could not be brought to the device when it was its turn; the text says why."""


class _Where(StrEnum):
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


class _Place:
    """A model, and what is known of it."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.model: Model = definition.make()
        self.where = _Where.DISK
        #: On the device, as far as is known, and in the host's memory while it waits there.
        self.size_bytes = self.model.memory_bytes
        self.host_bytes = 0
        self.used = 0
        #: From where it came → what that took on average, in seconds.
        self.load_s: dict[_Where, float] = {}

    def learn(self, load_s: float) -> None:
        """Note what it took to come from where it is."""
        known = self.load_s.get(self.where, load_s)
        self.load_s[self.where] = known + _NEWEST * (load_s - known)

    def renew(self) -> None:
        """Drop it: a fresh one stands in its place."""
        self.where, self.host_bytes = _Where.DISK, 0
        self.model = self.definition.make()


def _nothing() -> None:
    pass


class Device:
    """Models by name; all of them made, some of them loaded.

    Args:
        definitions: Of the models, in the order in which they are loaded.
        work: What the worker said of the device: its name, and the budgets.
        pipe: To the worker, which is told of every move.
        clock: What tells the time.
        may_fail: Names of those that are left out where they cannot be made or loaded.
        log: Told of the phases of each model.
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
            self._make(definition)
        self._uses = 0
        #: Called when a model has left, before anything takes its room: whoever knows it looks what
        #: stands in its place.
        self.left: Callable[[], None] = _nothing

    def _make(self, definition: Definition) -> None:
        try:
            self._places[definition.name] = _Place(definition)
        except Exception as error:
            self._leave_out(definition.name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        """Go on without a model, if that is allowed and others are there.

        Raises:
            Exception: The error, if not.
        """
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
        """The models that are on the device, the one used last first."""
        found = [p for p in self._places.values() if p.where is _Where.DEVICE]
        found.sort(key=lambda place: -place.used)
        return [place.definition.name for place in found]

    def has(self, name: str) -> bool:
        """Whether a model is on the device."""
        return self._places[name].where is _Where.DEVICE

    def model(self, name: str) -> Model:
        """Return a model as it is now; another object after it was dropped."""
        return self._places[name].model

    def use(self, name: str) -> None:
        """Note that a model was used."""
        self._uses += 1
        self._places[name].used = self._uses

    def expected_s(self) -> dict[str, float]:
        """Return what bringing each model would take, as far as is known."""
        return {name: self._expected_s(place) for name, place in self._places.items()}

    def _expected_s(self, place: _Place) -> float:
        source = _Where.HOST if place.where is _Where.HOST else _Where.DISK
        if place.where is _Where.DEVICE and can_offload(place.model):
            source = _Where.HOST
        known = place.load_s.get(source, place.load_s.get(_Where.DISK))
        if known is not None:
            return known
        # One that was never loaded is like the others.
        others = [p.load_s[_Where.DISK] for p in self._places.values() if _Where.DISK in p.load_s]
        return sum(others) / len(others) if others else 0.0

    def memory_bytes(self) -> dict[str, int]:
        """Return what models that are on the device take of it, as far as is known.

        What a process grows by says nothing of a GPU's memory.
        """
        is_host = self.name.partition(":")[0] == "cpu"
        return {
            name: place.size_bytes
            for name, place in self._places.items()
            if place.where is _Where.DEVICE and (is_host or place.model.memory_bytes)
        }

    # At the start

    def start(self) -> dict[str, float]:
        """Load what fits, and warm it up; return seconds by model.

        Raises:
            Exception: Whatever a model raised while it was loaded.
        """
        is_full = False
        for name in list(self._places):
            if is_full or not self._fits(self._places[name]):
                continue
            try:
                self._load(self._places[name])
            except Exception as error:
                check_device(error)
                is_full = self._is_budget_to_blame(self._places[name], error)
                if not is_full:
                    self._leave_out(name, error)
                    continue
            if is_full:
                self._renew(self._places[name])
                self._log.drop(name)
            elif len(self.residents) > 1 and self._missing() > 0:
                # Its size was not known before.
                self._remove(self._places[name])
                is_full = True
        return {
            name: place.load_s[_Where.DISK]
            for name, place in self._places.items()
            if _Where.DISK in place.load_s
        }

    def _fits(self, place: _Place) -> bool:
        if self._budget_bytes is None or not self.residents:
            return True
        return self._missing() + place.size_bytes <= 0

    def _missing(self) -> int:
        """Return by how much the models on the device are over the budget; negative for room."""
        if self._budget_bytes is None:
            return 0
        taken = sum(p.size_bytes for p in self._places.values() if p.where is _Where.DEVICE)
        return taken - self._budget_bytes

    def _is_budget_to_blame(self, place: _Place, error: Exception) -> bool:
        is_shared = self._budget_bytes is not None and bool(self.residents)
        return is_shared and is_out_of_memory(place.model, error)

    # When it is its turn

    def bring(self, name: str, wanted: Collection[str]) -> float:
        """Have a model on the device; return how long that took, in seconds.

        Args:
            name: Which one.
            wanted: Models that somebody waits for: they leave last.

        Raises:
            CannotLoad: It is not there; others may have left for it.
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
        """Bring a model; whenever the device has no memory left, one more leaves."""
        while True:
            source, failure = place.where, None
            # What failed before another left has not lasted so long for itself.
            self._log.drop(place.definition.name)
            try:
                if source is _Where.HOST:
                    self._bring_back(place)
                else:
                    self._load(place, source)
                return source
            except Exception as error:
                check_device(error)
                lacks_memory = is_out_of_memory(place.model, error)
                other = next_to_leave(self._residents(wanted)) if lacks_memory else None
                if other is None and (source is _Where.DISK or lacks_memory):
                    failure = CannotLoad(_why(place, error))
                    failure.__cause__ = error
                elif other is None:
                    traceback.print_exc()
                clear_traceback_frames(error)
            if source is _Where.DISK or other is None:
                # Half-loaded, or not to be trusted with what it has in the host's memory.
                self._renew(place)
            if failure is not None:
                raise failure
            if other is not None:
                self._remove(self._places[other])

    def _load(self, place: _Place, source: str = "") -> None:
        """Load and warm up a model that is new.

        Args:
            place: The model.
            source: From where it comes, for the log of phases.

        Raises:
            Exception: Whatever it raised.
        """
        start_s = self._clock.monotonic_s()
        before_bytes = _used_bytes(self.name)
        name = place.definition.name
        with self._log.phase(Phase.LOAD, name, source):
            place.model.load(self.name)
        with self._log.phase(Phase.WARM, name):
            place.model.warmup()
        # Programs that were compiled before have run by now.
        all_tried_out()
        place.size_bytes = place.model.memory_bytes or max(
            place.size_bytes, _used_bytes(self.name) - before_bytes
        )
        if self._budget_bytes is None:
            self._budget_bytes = _default_budget(self.name)
        place.learn(self._clock.monotonic_s() - start_s)
        place.where = _Where.DEVICE

    def _bring_back(self, place: _Place) -> None:
        start_s = self._clock.monotonic_s()
        with self._log.phase(Phase.LOAD, place.definition.name, _Where.HOST):
            place.model.onload()
        place.learn(self._clock.monotonic_s() - start_s)
        place.where, place.host_bytes = _Where.DEVICE, 0

    # Who leaves

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
        """Have a model leave the device."""
        if not _can_wait(place):
            self._renew(place)
            return
        self.left()
        self._keep_host_budget()

    def _renew(self, place: _Place) -> None:
        """Drop a model: whatever it holds is gone."""
        place.renew()
        self.left()
        # Models are full of cycles, and what they hold is large. The collector was told to leave
        # alone what was there when the process began to work.
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _keep_host_budget(self) -> None:
        copies = [
            Resident(name=name, size_bytes=place.host_bytes, used=place.used)
            for name, place in self._places.items()
            if place.where is _Where.HOST
        ]
        for name in forgotten(copies, self._host_budget_bytes):
            self._renew(self._places[name])


def _can_wait(place: _Place) -> bool:
    """Have a model wait in the host's memory, if it can."""
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


def clear_traceback_frames(error: BaseException) -> None:
    """Let go of all that the calls held which an error came through: a model, half loaded."""
    left: list[BaseException | None] = [error]
    told: set[int] = set()
    while left:
        each = left.pop()
        if each is not None and id(each) not in told:
            told.add(id(each))
            traceback.clear_frames(each.__traceback__)
            left += [each.__cause__, each.__context__]


def check_device(error: BaseException) -> None:
    """Raise `DeviceBroken` if an error, or one that caused it, leaves the device unusable."""
    if means_broken(error):
        raise DeviceBroken(describe_error(error)) from error


def means_broken(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, leaves the device unusable."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DeviceBroken):
            return True
        if isinstance(error, RuntimeError) and "torch" in sys.modules:
            arrays = importlib.import_module("swell.diffusion.torch_arrays")
            if isinstance(arrays.device_error(error), DeviceBroken):
                return True
        error = error.__cause__ or error.__context__
    return False


def is_out_of_memory(model: Model, error: Exception) -> bool:
    """Whether a model says with this that the device has no memory left."""
    return isinstance(error, (MemoryError, *model.out_of_memory))


def _why(place: _Place, error: Exception) -> str:
    told = error.detail if isinstance(error, SwellError) else describe_error(error)
    return f"loading {place.definition.name} failed: {type(error).__name__}: {told}"


def _reason(error: Exception) -> str:
    if isinstance(error, SwellError):
        return error.detail
    return f"{type(error).__name__}: {describe_error(error)}"


def _uses_torch(device: str) -> bool:
    """Whether models of this process compute on a GPU with torch."""
    return device.startswith("cuda") and "torch" in sys.modules


def _default_budget(device: str) -> int | None:
    if not _uses_torch(device):
        return None
    torch, arrays = sys.modules["torch"], importlib.import_module("swell.diffusion.torch_arrays")
    return int(_BUDGET * arrays.free_memory(torch.device(device)))


def _used_bytes(device: str) -> int:
    """Return the memory that this process uses, in bytes: of the GPU, or of the host."""
    if _uses_torch(device):
        return int(sys.modules["torch"].cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
