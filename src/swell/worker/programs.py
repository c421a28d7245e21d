"""What was compiled for a worker's models elsewhere, brought while its model process imports.

Only what somebody has signed whom this worker trusts; and nothing that goes wrong here ends a
worker: what is not brought is compiled, as it was before.
"""

import asyncio
import contextlib
import importlib.metadata
import random
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from swell.clock import Clock
from swell.errors import NotFound, SwellError, Unavailable
from swell.weights.addresses import AGAIN
from swell.weights.aside import to_the_end
from swell.weights.cache import WeightCache
from swell.weights.compiled import ANY, CompiledCache, processor
from swell.weights.compiled_fetch import ProgramSource, bring
from swell.weights.fetch import Wisher
from swell.weights.gather import Terms
from swell.weights.growing import GivenUp
from swell.weights.signed import Distrusted, Program, Wanted, believed, cpu_key, why_not
from swell.weights.wishing import Wishing
from swell.worker.provision import Wish

if TYPE_CHECKING:
    from swell.weights.signing import Trusted

__all__ = ["Here", "Machine", "Programs", "this_machine"]

T = TypeVar("T")

#: All of it is given up after so long, in seconds: compiling takes about as long.
LIMIT_S: Final = 120.0

#: Where the driver of NVIDIA says which GPUs there are, without its libraries.
_GPUS: Final = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True, slots=True)
class Machine:
    """What is known of where models will run, before their process has imported anything.

    Args:
        device: What they are loaded on.
        processor: The kind of its CPU.
        gpus: Names of its GPUs; None where nobody tells.
        torch: The version that they will import; None where that is not known.
    """

    device: str
    processor: str = field(default_factory=processor)
    gpus: Collection[str] | None = None
    torch: str | None = None


def this_machine(device: str, *, is_own_python: bool) -> Machine:
    """Return what is known of this machine.

    Args:
        device: What models are loaded on.
        is_own_python: Whether models run in the Python of this process.
    """
    torch = None
    if is_own_python:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            torch = importlib.metadata.version("torch")
    return Machine(device, gpus=_gpus(), torch=torch)


def _gpus() -> list[str] | None:
    found = []
    for path in _GPUS.glob("*/information"):
        with contextlib.suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                name, _, value = line.partition(":")
                found += [value.strip()] if name == "Model" else []
    return found or None


@dataclass(frozen=True, slots=True)
class Here:
    """What a worker has, and whom it believes.

    Args:
        weights: Its weights.
        programs: What was compiled.
        machine: Where its models will run.
        trusted: Whose signatures count.
    """

    weights: WeightCache
    programs: CompiledCache
    machine: Machine
    trusted: "Trusted"


class Programs:
    """What a worker that starts brings beside weights.

    Args:
        wishes: The weights of its models.
        here: Where programs go, and which are of use.
        source: Who has them.
        clock: For waiting.
        wishing: Tells model processes what will come; taken back when it is over.
        terms: How servers are treated.
        tell: Called with an event and what is to say of it, for the log.
    """

    def __init__(
        self,
        wishes: Sequence[Wish],
        here: Here,
        source: ProgramSource,
        clock: Clock,
        *,
        wishing: Wishing | None = None,
        terms: Terms | None = None,
        tell: Callable[..., None] = lambda event, **facts: None,
    ) -> None:
        self._wishes = wishes
        self._weights = here.weights
        self._cache = here.programs
        self._machine = here.machine
        self._trusted = here.trusted
        self._source = source
        self._clock = clock
        self._wishing = wishing
        self._terms = terms
        self._tell = tell
        self._rng = random.Random()
        #: Bytes that have come over the network.
        self.bytes = 0

    async def bring(self) -> None:
        """Have in the cache what can be had; fails at nothing."""
        try:
            with self._wishing or self._cache.wishing() as wishing:
                wishing.tell([ANY])
                async with asyncio.timeout(LIMIT_S):
                    await self._bring(wishing)
        except TimeoutError:
            self._tell("compiled programs given up", took_s=LIMIT_S)
        except Exception as error:
            self._tell("compiled programs cannot be had", why=_why(error))

    async def _bring(self, wishing: Wishing) -> None:
        wanted: list[Program] = []
        for wish in self._wishes:
            try:
                wanted += await self._wanted(wish)
            except Exception as error:
                self._refuse(wish.model, wish.version, _why(error))
        sparing = {program.content.sha256 for program in wanted}
        for at, program in enumerate(wanted):
            wishing.tell([each.key.digest for each in wanted[at:]])
            await self._fetch(program, sparing)

    async def _wanted(self, wish: Wish) -> list[Program]:
        """Return the programs of a version that are of use, and are not here."""
        cpu = cpu_key(self._machine.processor)
        notes = await self._asked(lambda: self._source.notes(wish.model, wish.version, cpu))
        if not notes:
            return []
        told = await self._told(wish)
        found: dict[str, Program] = {}
        for note in notes:
            try:
                program = believed(note, self._trusted)
            except Distrusted as distrusted:
                self._refuse(wish.model, wish.version, str(distrusted))
                continue
            if why := why_not(program, told):
                self._refuse(wish.model, wish.version, why)
            elif not self._cache.has(program.key):
                found[program.key.digest] = program
        return list(found.values())

    async def _told(self, wish: Wish) -> Wanted:
        digests = wish.digests(self._weights)
        if not digests:
            # It names a version, or a manifest that is not here yet.
            asked = self._asked(
                lambda: self._source.manifest(wish.model, wish.version, wish.manifest)
            )
            with contextlib.suppress(NotFound):
                digests = {file.sha256 for file in (await asked).files.values()}
        return Wanted(
            wish.model,
            wish.version,
            wish.manifest,
            digests,
            self._machine.processor,
            self._machine.gpus,
            self._machine.device,
            self._machine.torch,
        )

    async def _fetch(self, program: Program, sparing: Collection[str]) -> None:
        begun_s, before_bytes = self._clock.monotonic_s(), self.bytes
        stopping = threading.Event()

        def work() -> None:
            with contextlib.suppress(GivenUp):
                bring(
                    program,
                    self._cache,
                    self._source,
                    self._clock,
                    stopping,
                    self._terms,
                    Wisher(self._moved, self._tell, sparing),
                )

        try:
            await to_the_end(work, stopping.set)
        except Exception as error:
            self._refuse(program.model, program.version, _why(error))
            return
        self._tell(
            "compiled program fetched",
            model=program.model,
            version=program.version,
            bytes=self.bytes - before_bytes,
            took_s=round(self._clock.monotonic_s() - begun_s, 3),
        )

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until somebody answers: a backend may start after its workers."""
        failed = 0
        while True:
            try:
                return await ask()
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    self._tell("compiled programs cannot be asked for now", why=error.detail)
            await self._clock.sleep(AGAIN.delay_s(failed, self._rng))

    def _refuse(self, model: str, version: str, why: str) -> None:
        self._tell("compiled program not used", model=model, version=version, why=why)

    def _moved(self, size_bytes: int) -> None:
        self.bytes += size_bytes


def _why(error: Exception) -> str:
    """Return what to say of a failure, of whatever kind: of a disk, or of what nobody foresaw."""
    told = error.detail if isinstance(error, SwellError) else str(error)
    return told or type(error).__name__
