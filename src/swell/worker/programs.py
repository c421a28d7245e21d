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

from swell.core.clock import Clock
from swell.core.errors import NotFound, SwellError, Unavailable
from swell.weights.addresses import AGAIN
from swell.weights.aside import to_the_end
from swell.weights.cache import WeightCache
from swell.weights.compiled import ANY, CompiledCache, processor
from swell.weights.compiled_fetch import ProgramSource, bring
from swell.weights.fetch import Wisher
from swell.weights.gather import Terms
from swell.weights.growing import GivenUp
from swell.weights.signed import (
    Distrusted,
    Signed,
    Wanted,
    believed,
    cpu_key,
    signer,
    why_not,
)
from swell.weights.wishing import Wishing
from swell.worker.provision import Wish

if TYPE_CHECKING:
    from swell.weights.signing import Trusted

T = TypeVar("T")

#: All of it is given up after so long, in seconds: compiling takes about as long.
LIMIT_S: Final = 120.0

#: While nobody answers, or nothing comes, it is given up far sooner, in seconds.
PATIENCE_S: Final = 5.0

#: How often it is looked whether something comes, as a part of that patience.
_LOOK_SHARE: Final = 0.1

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
        patience_s: It compiles itself where nobody answers, or nothing comes, for so long, in
            seconds.
    """

    weights: WeightCache
    programs: CompiledCache
    machine: Machine
    trusted: "Trusted"
    patience_s: float = PATIENCE_S


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
        self._patience_s = here.patience_s
        self._tell = tell
        self._rng = random.Random()
        #: Bytes that have come over the network.
        self.bytes = 0

    async def bring(self) -> None:
        """Have in the cache what can be had; fails at nothing."""
        begun_s = self._clock.monotonic_s()
        try:
            with self._wishing or self._cache.wishing() as wishing:
                wishing.tell([ANY])
                async with asyncio.timeout(LIMIT_S):
                    await self._bring(wishing)
        except TimeoutError:
            # The models have begun to compile: nobody is promised anything any more.
            took_s = round(self._clock.monotonic_s() - begun_s, 3)
            self._tell("compiled programs given up", took_s=took_s)
        except Exception as error:
            self._tell("compiled programs cannot be had", why=_why(error))

    async def _bring(self, wishing: Wishing) -> None:
        wanted: list[Signed] = []
        for wish in self._wishes:
            try:
                wanted += await self._wanted(wish)
            except TimeoutError:
                raise
            except Exception as error:
                self._refuse(wish.model, wish.version, _why(error))
        sparing = {each.program.content.sha256 for each in wanted}
        for at, each in enumerate(wanted):
            wishing.tell([other.program.key.digest for other in wanted[at:]])
            await self._fetch(each, sparing, wishing)

    async def _wanted(self, wish: Wish) -> list[Signed]:
        """Return the programs of a version that are of use, and are not here."""
        cpu = cpu_key(self._machine.processor)
        notes = await self._asked(lambda: self._source.notes(wish.model, wish.version, cpu))
        if not notes:
            return []
        told = await self._told(wish)
        found: dict[str, Signed] = {}
        for note in notes:
            try:
                program = believed(note, self._trusted)
            except Distrusted as distrusted:
                self._refuse(wish.model, wish.version, str(distrusted))
                continue
            if why := why_not(program, told):
                self._refuse(wish.model, wish.version, why)
            elif self._cache.is_refused(program.content.sha256):
                self._refuse(wish.model, wish.version, "it has failed on this machine before")
            elif not self._cache.has(program.key):
                found[program.key.digest] = Signed(program, signer(note))
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

    async def _fetch(self, signed: Signed, sparing: Collection[str], wishing: Wishing) -> None:
        program = signed.program
        begun_s, before_bytes = self._clock.monotonic_s(), self.bytes
        stopping = threading.Event()

        def work() -> None:
            with contextlib.suppress(GivenUp):
                bring(
                    signed,
                    self._cache,
                    self._source,
                    self._clock,
                    stopping,
                    self._terms,
                    Wisher(self._moved, self._tell, sparing),
                )

        watching = asyncio.create_task(self._watch(wishing, stopping))
        try:
            await to_the_end(work, stopping.set)
        except Exception as error:
            self._refuse(program.model, program.version, _why(error))
            return
        finally:
            watching.cancel()
        if stopping.is_set():
            raise TimeoutError
        self._tell(
            "compiled program fetched",
            model=program.model,
            version=program.version,
            bytes=self.bytes - before_bytes,
            took_s=round(self._clock.monotonic_s() - begun_s, 3),
        )

    async def _watch(self, wishing: Wishing, stopping: threading.Event) -> None:
        """Give up a fetch of which nothing comes, and have nobody wait for it from then on."""
        seen_bytes, since_s = self.bytes, self._clock.monotonic_s()
        while True:
            await self._clock.sleep(_LOOK_SHARE * self._patience_s)
            now_s = self._clock.monotonic_s()
            if self.bytes != seen_bytes:
                seen_bytes, since_s = self.bytes, now_s
            elif now_s - since_s >= self._patience_s:
                stopping.set()
                # The thread may take a while to see it; models need not.
                wishing.close()
                return

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until somebody answers: a backend may start a little after its workers.

        Raises:
            TimeoutError: Nobody did.
        """
        failed = 0
        async with asyncio.timeout(self._patience_s):
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
