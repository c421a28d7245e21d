"""Where a worker's model processes come from: the fork server that its machine's workers share.

A worker that needs a model process looks for a server under a name that says all that must be
equal between them: the interpreter, what is installed, what is to be imported, the environment. It
joins that one, or starts it. Two that start at once take turns at a lock. The first listens for the
server before that exists, so that everybody can join at once and waits only for the imports.

What is imported is what a model process had imported when its models were loaded, written down for
the next one, and what the setting `worker.preload` names. A first worker knows of nothing: its
model process starts afresh, and a server for the next ones is started a little later.

Whatever goes wrong here, the answer is None, and the model process starts afresh.
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import importlib
import os
import re
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

import swell
from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.worker.forkserver import (
    Forked,
    ForkFailed,
    ForkServer,
    Setup,
    Unforkable,
    is_possible,
)
from swell.worker.large_pages import with_large_pages

#: Whoever starts a server has its lock for a few milliseconds. Ask so often, in seconds, so often.
LOCK_EVERY_S: Final = 0.01
LOCK_TIMES: Final = 300

#: After a first start a server for the next ones is started so much later, in seconds: until then
#: there is more to do.
SETTLE_S: Final = 5.0

#: After so many failures a worker asks no fork server any more.
MAX_FAILURES: Final = 2

#: Variables that differ between two starts of the same worker, and that no import looks at.
_FLEETING: Final = re.compile(
    r"SWELL_.*|_|PWD|OLDPWD|SHLVL|COLUMNS|LINES|TERM.*|WINDOWID|SSH_.*|TMUX.*|XDG_SESSION_ID"
    r"|INVOCATION_ID|JOURNAL_STREAM|SYSTEMD_EXEC_PID|NOTIFY_SOCKET|LISTEN_.*|MAINPID|WATCHDOG_.*"
    r"|MEMORY_PRESSURE_.*|PYTEST_CURRENT_TEST"
)


@dataclass(frozen=True, slots=True)
class ForksSettings:
    """Where the fork server keeps its files, what it imports, and how long it waits."""

    #: Only this user may look into it. Holds sockets, locks, and what was imported last time.
    folder: Path
    #: `auto`, `none`, or names of modules.
    preload: tuple[str, ...] = ("auto",)
    #: How long the server outlives its last worker.
    warm_s: float = 0.0


class Known(msgspec.Struct, frozen=True):
    """What is remembered of the model processes of some models."""

    #: Versions by model; with others, the rest is worth nothing.
    versions: dict[str, str] = {}
    #: In the order in which they were imported.
    modules: list[str] = []
    #: Why no server can import them; empty if it can, as far as is known.
    unfit: str = ""


# --- pure ----------------------------------------------------------------------------------------


def identity(told: Mapping[str, object]) -> str:
    """Return a name for a server, that another one has only if all these facts are equal."""
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()[:24]


# --- what must be equal between a worker and its server ------------------------------------------


def facts(
    settings: ForksSettings, modules: Collection[str], environment: Mapping[str, str]
) -> dict[str, object]:
    """Return all that must be equal between a worker and the server that it forks from."""
    return {
        "python": [sys.executable, sys.version, sys.path, list(sys.flags)],
        "swell": _state_of_swell(),
        "installed": _installed(sys.path),
        "modules": list(modules),
        "warm_s": settings.warm_s,
        "environment": {
            name: value for name, value in environment.items() if not _FLEETING.fullmatch(name)
        },
        "place": [os.getcwd(), _own("cgroup"), _umask(), _limits()],
    }


def _installed(path: Iterable[str]) -> list[tuple[str, str, int]]:
    """Return what is installed where: the folders that note each package's version."""
    found = []
    for each in path:
        with contextlib.suppress(OSError), os.scandir(each or ".") as entries:
            found += [
                (each, entry.name, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.endswith((".dist-info", ".egg-info", ".pth"))
            ]
    return sorted(found)


def _state_of_swell() -> list[tuple[str, int, int]]:
    """Return name, time and size of Swell's files: these may be edited where they are."""
    root = Path(str(swell.__file__)).parent
    files = [*root.glob("*.py"), *root.glob("*/*.py")]
    return sorted(
        (str(each.relative_to(root)), each.stat().st_mtime_ns, each.stat().st_size)
        for each in files
    )


def _own(what: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/{what}").read_text()
    return ""


def _umask() -> str:
    return next((line for line in _own("status").splitlines() if line.startswith("Umask")), "")


def _limits() -> list[tuple[int, int]]:
    names = sorted(name for name in dir(resource) if name.startswith("RLIMIT_"))
    return [resource.getrlimit(getattr(resource, name)) for name in names]


# --- the client ----------------------------------------------------------------------------------


class Forks:
    """Gives model processes that are forked, where that is possible and wanted.

    Args:
        settings: What to import, and where to meet.
        refs: The models that the processes hold, as `load_models` takes them.
        environment: What model processes find in theirs.
        clock: The time.
    """

    def __init__(
        self,
        settings: ForksSettings,
        refs: Sequence[str],
        environment: Mapping[str, str],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._refs = list(refs)
        self._environment = dict(environment)
        self._clock = clock
        self._known = Known()
        self._server: ForkServer | None = None
        self._starting: asyncio.Task[ForkServer | None] | None = None
        self._later: asyncio.Task[None] | None = None
        self._is_begun = False
        self._failures = 0
        self._pidfds: dict[int, int] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether model processes are to be forked at all."""
        return is_possible() and self._settings.preload != ("none",)

    @property
    def server_pid(self) -> int:
        """The server's process id; 0 while there is none, or while it imports."""
        return self._server.pid if self._server is not None and self._server.is_alive else 0

    def begin(self) -> None:
        """Look for the server, or start it, if it is known what to import; returns at once."""
        if not self.is_wanted or self._is_begun:
            return
        self._is_begun = True
        self._known = _read(self._path)
        if self._is_worth_it:
            self._connect()

    @property
    def _named(self) -> list[str]:
        return [each for each in self._settings.preload if each not in ("auto", "none")]

    @property
    def _remembered(self) -> list[str]:
        is_used = "auto" in self._settings.preload and not self._known.unfit
        return self._known.modules if is_used else []

    @property
    def _is_worth_it(self) -> bool:
        return bool(self._named or self._remembered) and self._failures < MAX_FAILURES

    def _connect(self) -> "asyncio.Task[ForkServer | None]":
        if self._starting is None:
            self._starting = asyncio.get_running_loop().create_task(self._find_or_start())
        return self._starting

    async def spawn(self, entry: str, fds: Sequence[int], is_asked: asyncio.Event) -> Forked | None:
        """Return a model process that is forked; None if it must be started afresh.

        Args:
            entry: `module:function`; finds as arguments the number of the first file, its parent,
                and the numbers of the other files.
            fds: Files that it shall have open.
            is_asked: Set once the server is asked for it, which may still be importing.
        """
        while self.is_wanted and self._is_worth_it:
            server = await asyncio.shield(self._connect())
            if server is None:
                continue
            try:
                answer = self._ask(server, entry, fds)
                is_asked.set()
                forked = await answer
            except ForkFailed as error:
                self._note_failure(error)
                continue
            self._failures = 0
            return forked
        return None

    def _ask(self, server: ForkServer, entry: str, fds: Sequence[int]) -> "asyncio.Future[Forked]":
        first, *others = [f"{{{number}}}" for number in range(len(fds))]
        return server.ask(
            entry,
            [first, "{server}", *others],
            fds,
            stderr=_stderr(),
            environment=self._environment,
            folder=os.getcwd(),
        )

    def _note_failure(self, error: SwellError | OSError) -> None:
        self._starting = None
        self._failures += 1
        if isinstance(error, Unforkable):
            # Every worker would find the same, after all the imports.
            self._failures = MAX_FAILURES
            self._remember(msgspec.structs.replace(self._known, unfit=error.detail))
        _log().warning("no fork server: model processes start afresh", why=str(error))

    def learn(
        self, modules: Sequence[str], versions: Mapping[str, str], *, is_forked: bool
    ) -> None:
        """Take note of what a model process has imported.

        Args:
            modules: As `imports.outside_modules` returns them.
            versions: Of its models.
            is_forked: Whether the process has also what its server imported.
        """
        if not self.is_wanted or "auto" not in self._settings.preload:
            return
        if not is_forked:
            found = Known(dict(versions), list(modules))
            if found != msgspec.structs.replace(self._known, unfit=""):
                self._remember(found)
            if self._starting is None and self._is_worth_it:
                self._later = asyncio.get_running_loop().create_task(self._connect_later())
        elif self._known.versions != versions:
            # A fork has all that the server has: what its models need now, the next one will tell.
            self._remember(Known())

    def _remember(self, known: Known) -> None:
        self._known = known
        _write(self._path, known)

    async def _connect_later(self) -> None:
        await self._clock.sleep(SETTLE_S)
        self._connect()

    async def close(self) -> None:
        """Leave the server; it kills what it forked for us, and ends if nobody else needs it."""
        for task in (self._later, self._starting):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._server is not None:
            await self._server.close()
        for fd in self._pidfds.values():
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        self._pidfds.clear()

    @property
    def _path(self) -> Path:
        refs = "-".join(self._refs)
        digest = hashlib.sha256(msgspec.json.encode(self._refs)).hexdigest()[:8]
        return self._settings.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '-', refs)[:60]}-{digest}.json"

    # --- finding and starting --------------------------------------------------------------------

    async def _find_or_start(self) -> ForkServer | None:
        try:
            with _private(self._settings.folder) as folder:
                self._server = await self._join(folder)
        except (OSError, ForkFailed) as error:
            self._note_failure(error)
            return None
        return self._server

    async def _join(self, folder: int) -> ForkServer:
        told = facts(self._settings, [*self._named, *self._remembered], self._environment)
        name = identity(told)
        # Addresses of sockets are short, and paths of folders may be long.
        short = Path(f"/proc/self/fd/{folder}")
        async with _locked(short / f"{name}.lock", self._clock):
            connection = _connected(short / f"{name}.sock")
            if connection is None:
                connection = self._start(short, name)
        return ForkServer.on(connection, self._on_lost)

    def _on_lost(self) -> None:
        # The next process looks again.
        self._starting = None

    def _start(self, short: Path, name: str) -> socket.socket:
        """Start a server that listens at a name, and return a connection to it; with its lock."""
        with contextlib.suppress(FileNotFoundError):
            # Of one that was killed.
            (short / f"{name}.sock").unlink()
        folder = self._settings.folder.resolve()
        setup = Setup(
            self._named,
            self._remembered,
            str(folder / f"{name}.sock"),
            str(folder / f"{name}.lock"),
            self._settings.warm_s,
        )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener, tempfile.TemporaryFile() as stdin:
            listener.bind(str(short / f"{name}.sock"))
            listener.listen()
            connection = _connected(short / f"{name}.sock")
            if connection is None:
                raise ForkFailed("the path of the data folder is too long for a socket")
            stdin.write(msgspec.json.encode(setup))
            stdin.seek(0)
            try:
                pid = self._spawn_server(listener, stdin.fileno())
            except BaseException:
                connection.close()
                raise
        self._reap_when_it_ends(pid)
        _log().debug("a fork server was started", pid=pid, modules=len(self._remembered))
        return connection

    def _spawn_server(self, listener: socket.socket, stdin: int) -> int:
        """Start the process; neither this one's end nor a Ctrl-C in its terminal reach it."""
        environment = {
            name: value
            for name, value in self._environment.items()
            if not name.startswith("SWELL_")
        }
        # Asks the driver which GPUs there are in a way that does not open them.
        environment.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "swell.worker.forkserver", "--listen", "3"],
            with_large_pages(environment),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, listener.fileno(), 3),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE],
        )

    def _reap_when_it_ends(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
            self._pidfds[pid] = fd
            asyncio.get_running_loop().add_reader(fd, self._reap, pid)

    def _reap(self, pid: int) -> None:
        fd = self._pidfds.pop(pid)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _log() -> Any:
    # Imported when there is something to tell: this module is, before a worker's other imports.
    return importlib.import_module("structlog").get_logger("swell.worker")


def _stderr() -> int | None:
    """Return the number of this process's stderr; None if it has none."""
    with contextlib.suppress(OSError):
        os.fstat(2)
        return 2
    return None


@contextlib.contextmanager
def _private(folder: Path) -> Iterator[int]:
    """Open a folder that is nobody else's, made if it is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != os.getuid():
            raise ForkFailed(f"{folder} belongs to another user")
        if os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o700)
        yield fd
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def _locked(path: Path, clock: Clock) -> AsyncIterator[None]:
    for _ in range(LOCK_TIMES):
        with path.open("ab") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A server that ends takes its lock away.
            if os.fstat(file.fileno()).st_nlink:
                yield
                return
        await clock.sleep(LOCK_EVERY_S)
    raise ForkFailed("another process has been starting one for too long")


def _connected(path: Path) -> socket.socket | None:
    """Return a connection to whoever listens; None if nobody does.

    Raises:
        OSError: Somebody does, and does not answer.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise
    return connection


def _read(path: Path) -> Known:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Known)
    except (OSError, msgspec.DecodeError):
        return Known()


def _write(path: Path, known: Known) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(msgspec.json.encode(known))
        draft.replace(path)
    except OSError as error:
        _log().warning("what models import cannot be kept", path=str(path), why=error.strerror)
