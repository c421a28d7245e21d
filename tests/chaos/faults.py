"""Everything that is done to a running Swell, each with a begin and an end.

`begin` and `heal` of one fault alternate; those of several overlap. Whoever begins takes what it
hurts for itself, so that nobody starts a process again that another holds dead.
"""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import ClassVar, Final, Protocol

import psutil

from chaos.engines import Engine, SqliteEngine, SqsEngine
from chaos.proxy import Rule
from chaos.system import PATIENCE_S, WORKERS, System
from servers import Server

__all__ = ["FAULTS", "Fault", "Scene", "faults_of"]


class Scene:
    """The system, and who has which part of it in hand."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._locks: dict[str, asyncio.Lock] = {}

    def lock(self, what: str) -> asyncio.Lock:
        """Return the lock of `worker-N`, `backend-N`, `server` and so on."""
        return self._locks.setdefault(what, asyncio.Lock())

    def worker(self, chance: float) -> int:
        """Return the worker that chance hits."""
        return int(chance * len(self.system.workers))

    def backend(self, chance: float) -> int:
        """Return the backend that chance hits."""
        return int(chance * len(self.system.backends))


class Fault(Protocol):
    """One kind of trouble. An instance is one strike of it."""

    #: For people, and for the table.
    name: ClassVar[str]
    #: For how long it lasts, in seconds: at least, at most.
    lasts_s: ClassVar[tuple[float, float]]

    def __init__(self, scene: Scene, chance: float) -> None: ...

    @classmethod
    def is_of(cls, engine: type[Engine]) -> bool:
        """Whether it can befall what stands on this engine."""
        ...

    async def begin(self) -> None:
        """Bring it about."""
        ...

    async def heal(self) -> None:
        """End it; what was killed is started again."""
        ...


class _Strike:
    """What most faults share: they can befall anybody."""

    def __init__(self, scene: Scene, chance: float) -> None:
        self._scene = scene
        self._system = scene.system
        self._chance = chance

    @classmethod
    def is_of(cls, engine: type[Engine]) -> bool:
        """See `Fault.is_of`."""
        return True


class WorkerKilled(_Strike):
    """SIGKILL of a worker; its model process is left alone and notices."""

    name = "worker killed"
    lasts_s = (0.0, 1.0)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        self._index = self._scene.worker(self._chance)
        await self._scene.lock(f"worker-{self._index}").acquire()
        await asyncio.to_thread(self._system.kill_worker, self._index)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._system.start_worker(self._index)
        self._scene.lock(f"worker-{self._index}").release()


class WorkerFrozen(_Strike):
    """SIGSTOP for longer than a lease, and then it goes on as if it still held everything."""

    name = "worker frozen"
    lasts_s = (2.5, 5.0)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        self._index = self._scene.worker(self._chance)
        await self._scene.lock(f"worker-{self._index}").acquire()
        self._system.workers[self._index].send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._system.workers[self._index].send_signal(signal.SIGCONT)
        self._scene.lock(f"worker-{self._index}").release()


class ModelKilled(_Strike):
    """SIGKILL of a model process, as soon as there is one; its worker starts another."""

    name = "model process killed"
    lasts_s = (0.0, 0.0)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        index = self._scene.worker(self._chance)
        async with self._scene.lock(f"worker-{index}"):
            ends_s = time.monotonic() + PATIENCE_S
            while not await asyncio.to_thread(self._system.kill_model, index):
                if self._system.workers[index].poll() is not None:
                    self._system.start_worker(index)
                if time.monotonic() > ends_s:
                    raise RuntimeError(f"no model process:\n{self._system.log(f'worker-{index}')}")
                await asyncio.sleep(0.05)

    async def heal(self) -> None:
        """See `Fault.heal`."""


class BackendKilled(_Strike):
    """SIGKILL of a backend."""

    name = "backend killed"
    lasts_s = (0.0, 1.0)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        self._index = self._scene.backend(self._chance)
        await self._scene.lock(f"backend-{self._index}").acquire()
        await asyncio.to_thread(self._system.kill_backend, self._index)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._system.backends[self._index] = self._system.spawn_backend(self._index)
        self._scene.lock(f"backend-{self._index}").release()


class BackendFrozen(_Strike):
    """SIGSTOP of a backend, in the middle of whatever it did."""

    name = "backend frozen"
    lasts_s = (1.0, 5.0)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        self._index = self._scene.backend(self._chance)
        await self._scene.lock(f"backend-{self._index}").acquire()
        self._system.backends[self._index].send_signal(signal.SIGSTOP)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._system.backends[self._index].send_signal(signal.SIGCONT)
        self._scene.lock(f"backend-{self._index}").release()


class ServerKilled(_Strike):
    """SIGKILL of the server with all its processes, and a start on what it had written."""

    name = "server killed"
    lasts_s = (0.0, 3.0)

    @classmethod
    def is_of(cls, engine: type[Engine]) -> bool:
        """See `Fault.is_of`."""
        return engine.has_server

    async def begin(self) -> None:
        """See `Fault.begin`."""
        await self._scene.lock("server").acquire()
        await asyncio.to_thread(self._server.kill)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        await asyncio.to_thread(self._server.start)
        self._scene.lock("server").release()

    @property
    def _server(self) -> Server:
        server = self._system.engine.server
        assert server is not None
        return server


class ServerFrozen(ServerKilled):
    """SIGSTOP of the server: it takes connections, and says nothing."""

    name = "server frozen"
    lasts_s = (1.0, 5.0)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        await self._scene.lock("server").acquire()
        self._send(signal.SIGSTOP)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._send(signal.SIGCONT)
        self._scene.lock("server").release()

    def _send(self, number: signal.Signals) -> None:
        assert self._server.process is not None
        parent = psutil.Process(self._server.process.pid)
        for each in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(number)


class _Treated(_Strike):
    """A fault that is a rule of the proxy."""

    name: ClassVar[str]

    async def begin(self) -> None:
        """See `Fault.begin`."""
        self._system.treat(self._link, self._why, self._rule)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._system.treat(self._link, self._why, None)

    @property
    def _why(self) -> str:
        return f"{self.name} {id(self)}"

    @property
    def _link(self) -> str:
        return WORKERS

    @property
    def _rule(self) -> Rule:
        raise NotImplementedError


class NetworkCut(_Treated):
    """Between workers and backends: reset, silent, or losing what goes one way."""

    name = "network cut"
    lasts_s = (0.5, 4.0)

    _WAYS: Final = (
        Rule(cut=True),
        Rule(stall=True),
        Rule(lose_requests=True),
        Rule(lose_answers=True),
    )

    @property
    def _rule(self) -> Rule:
        return self._WAYS[int(self._chance * len(self._WAYS))]


class SaidTwice(_Treated):
    """What workers say comes twice, the second time late; answers get lost, so it is repeated."""

    name = "delivered twice"
    lasts_s = (3.0, 6.0)

    @property
    def _rule(self) -> Rule:
        return Rule(twice=0.5, late_s=4.0, drop_answer=0.2)


class SaidLate(_Treated):
    """What workers say and are told takes up to longer than a lease."""

    name = "delivered late"
    lasts_s = (3.0, 6.0)

    @property
    def _rule(self) -> Rule:
        return Rule(delay_s=3.0)


class ObjectsFail(_Treated):
    """Files cannot be stored: every PUT is answered with 503, and of S3 whatever is asked."""

    name = "objects answer 503"
    lasts_s = (30.0, 30.0)

    @property
    def _link(self) -> str:
        return SqsEngine.LINK if isinstance(self._system.engine, SqsEngine) else WORKERS

    @property
    def _rule(self) -> Rule:
        if self._link == WORKERS:
            return Rule(refuse=("PUT",))
        return Rule(refuse=("PUT", "GET", "HEAD", "POST", "DELETE"))


class _ClockWrong(_Strike):
    """Somebody's wall clock jumps, and jumps back."""

    name: ClassVar[str]

    async def begin(self) -> None:
        """See `Fault.begin`."""
        await self._scene.lock(f"clock-{self._whose}").acquire()
        self._system.set_clock(self._whose, self._by_s)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._system.set_clock(self._whose, 0.0)
        self._scene.lock(f"clock-{self._whose}").release()

    @property
    def _whose(self) -> str:
        raise NotImplementedError

    @property
    def _by_s(self) -> float:
        raise NotImplementedError


class WorkerClock(_ClockWrong):
    """A worker's clock jumps by up to an hour."""

    name = "worker's clock jumps"
    lasts_s = (1.0, 5.0)

    @property
    def _whose(self) -> str:
        return f"worker-{self._scene.worker(self._chance)}"

    @property
    def _by_s(self) -> float:
        return 7200.0 * (self._chance * 97 % 1 - 0.5)


class BackendClock(_ClockWrong):
    """A backend's clock jumps by up to ten seconds, which is five leases."""

    name = "backend's clock jumps"
    lasts_s = (1.0, 5.0)

    @property
    def _whose(self) -> str:
        return f"backend-{self._scene.backend(self._chance)}"

    @property
    def _by_s(self) -> float:
        return 20.0 * (self._chance * 97 % 1 - 0.5)


class DiskFull(_Strike):
    """Not a byte is left on the disk of the embedded store."""

    name = "disk full"
    lasts_s = (1.0, 4.0)

    @classmethod
    def is_of(cls, engine: type[Engine]) -> bool:
        """See `Fault.is_of`."""
        return issubclass(engine, SqliteEngine)

    async def begin(self) -> None:
        """See `Fault.begin`."""
        engine = self._system.engine
        assert isinstance(engine, SqliteEngine)
        if not engine.may_be_full:
            raise RuntimeError("a disk of its own needs the right to mount one: run as root")
        await self._scene.lock("disk").acquire()
        self._filler = engine.disk / "filler"
        await asyncio.to_thread(_fill, self._filler)

    async def heal(self) -> None:
        """See `Fault.heal`."""
        self._filler.unlink()
        self._scene.lock("disk").release()


def _fill(path: Path) -> None:
    """Take all that is left, in ever smaller pieces."""
    place = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        at = 0
        for piece in (2**24, 2**20, 2**16, 2**12):
            with contextlib.suppress(OSError):
                while True:
                    os.posix_fallocate(place, at, piece)
                    at += piece
    finally:
        os.close(place)


FAULTS: Final[tuple[type[Fault], ...]] = (
    WorkerKilled,
    WorkerFrozen,
    ModelKilled,
    BackendKilled,
    BackendFrozen,
    ServerKilled,
    ServerFrozen,
    NetworkCut,
    SaidTwice,
    SaidLate,
    WorkerClock,
    BackendClock,
    ObjectsFail,
    DiskFull,
)


def faults_of(engine: type[Engine]) -> dict[str, type[Fault]]:
    """Return what can befall an engine, by name."""
    return {each.name: each for each in FAULTS if each.is_of(engine)}
