"""A process that has imported the heavy libraries, and forks model processes on request.

Importing torch and what goes with it takes seconds, and every model process needs it. This process
imports once, does nothing else, and then forks: a child is ready within milliseconds and shares the
libraries' memory with all others.

    server   `python -m swell.worker.forkserver --fd 3 torch diffusers`, or `--socket PATH`, or
             `--listen 3`, as workers start it (`warm.py`)
    client   `ForkServer`: start or connect, `fork("module:function", arguments, fds)`, hear exits

One datagram is one message, in JSON, with file descriptors beside it. Children belong to the
connection that asked for them: when it ends, in whatever way, they are killed with their groups. A
server without a socket path ends with it, and one that workers started when the last has left. So
nothing outlives its worker, unless it is asked to wait for the next one.

Forking is safe only while there is one thread and no device is open. The server therefore refuses
modules that start a thread when imported (numpy's and torch's own threads know of forks), or that
open a GPU: CUDA cannot be used in a fork of a process that has used it.

Linux only: `SOCK_SEQPACKET`, and the death signal of children.
"""

import argparse
import asyncio
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from swell.core.clock import Clock, SystemClock
from swell.core.errors import SwellError
from swell.settings.environment import replace_environment

#: Longest message; an entry point, its arguments and its environment.
MESSAGE_BYTES: Final = 1 << 17

#: File descriptors that one request may carry.
MAX_FDS: Final = 16

#: Linux: the signal to get when the parent dies (prctl.h).
PR_SET_PDEATHSIG: Final = 1

#: Linux: the name of a process, as `ps -o comm` shows it (prctl.h).
PR_SET_NAME: Final = 15

#: Libraries whose own threads know of forks: they stop before and come back after.
_FORKABLE: Final = frozenset({"numpy", "scipy", "torch"})

#: What only a process that uses a GPU has open; no fork of it can use one.
_DEVICES: Final = ("/dev/nvidia-uvm", "/dev/kfd")

#: How soon a server asks again that somebody kept from ending.
_AGAIN_S: Final = 0.05


class ForkFailed(SwellError):
    """The fork server cannot give a process; start one afresh instead."""

    code, title, retryable = "fork_failed", "No process could be forked", True


class Unforkable(ForkFailed):
    """What was imported does not let a process be forked safely, and never will."""

    code, title, retryable = "unforkable", "The libraries cannot be forked", False


class _Fork(msgspec.Struct, tag="fork"):
    """Asks for a process: an entry point, and what it finds as its arguments."""

    request: int
    entry: str
    arguments: list[str]
    #: What the process finds in its environment; None for what the server has.
    environment: dict[str, str] | None = None
    #: Its working folder; empty for the server's.
    folder: str = ""
    #: Whether the first file descriptor becomes its stderr.
    has_stderr: bool = False


class Setup(msgspec.Struct, frozen=True):
    """What a server that a worker starts finds on its stdin."""

    #: Must be imported.
    named: list[str]
    #: Are imported where they can be.
    remembered: list[str]
    #: Where it listens, and the file that is locked while somebody comes or it goes.
    socket: str
    lock: str
    linger_s: float


class _Ready(msgspec.Struct, tag="ready"):
    """Says that all is imported: the server's process, and its threads, native ones included."""

    pid: int
    threads: int


class _Started(msgspec.Struct, tag="started"):
    """Answers a request with the process."""

    request: int
    pid: int


class _Refused(msgspec.Struct, tag="refused"):
    """Answers a request, or the start (request 0), with why not."""

    request: int
    detail: str
    is_final: bool = False


class _Exited(msgspec.Struct, tag="exited"):
    """Says that a process has ended; the code is negative for a signal."""

    pid: int
    code: int


_Answer = _Ready | _Started | _Refused | _Exited
#: What every model process runs.
_CHILD: Final = "swell.worker.child"

_answers: Final = msgspec.json.Decoder(_Answer)
_requests: Final = msgspec.json.Decoder(_Fork)


def is_possible() -> bool:
    """Return whether this system can fork model processes."""
    return sys.platform == "linux"


# --- the server ----------------------------------------------------------------------------------


class Lifetime(msgspec.Struct, frozen=True):
    """How long a server that listens lives once nobody is connected."""

    linger_s: float
    socket: Path
    lock: Path


class Server:
    """Forks for whoever is connected. It has one thread, and so do its children at first.

    Args:
        listener: Takes further connections; None to serve the first ones only.
        lifetime: When a server with a listener ends; None for not before a signal.
        clock: The time.
    """

    def __init__(
        self,
        listener: socket.socket | None = None,
        lifetime: Lifetime | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._listener = listener
        self._lifetime = lifetime
        self._clock = clock or SystemClock()
        self._inode = _inode(lifetime.socket) if lifetime else 0
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, socket.socket] = {}
        self._connections: set[socket.socket] = set()
        #: When nobody was connected any more.
        self._idle_at_s = self._clock.monotonic_s()

    def add(self, connection: socket.socket) -> None:
        """Serve a connection; says at once that all is ready."""
        connection.setblocking(True)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self._tell(connection, _Ready(os.getpid(), _count_threads()))

    def serve(self) -> None:
        """Serve until nobody is connected any more; with a listener, as long as it is to live."""
        awake, wake = socket.socketpair()
        awake.setblocking(False)
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(awake, selectors.EVENT_READ)
        if self._listener is not None:
            self._selector.register(self._listener, selectors.EVENT_READ)
            # Who came while all was imported.
            self._accept_all(self._listener)
        while (left_s := self._left_s()) > 0:
            for key, _ in self._selector.select(None if left_s == inf else left_s):
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready is awake:
                    awake.recv(4096)
                    self._reap()
                elif ready is self._listener:
                    self._accept(self._listener)
                else:
                    self._hear(ready)

    def _left_s(self) -> float:
        """Return for how long to wait for something to happen; 0 to end."""
        if self._connections:
            return inf
        if self._listener is None:
            return 0.0
        if self._lifetime is None:
            return inf
        left_s = self._idle_at_s + self._lifetime.linger_s - self._clock.monotonic_s()
        return left_s if left_s > 0 else self._retire(self._listener, self._lifetime)

    def _retire(self, listener: socket.socket, lifetime: Lifetime) -> float:
        """Give the socket's name up, so that nobody else comes; return how long to go on."""
        # Where the folder is gone there is nothing to give up.
        with contextlib.suppress(OSError), lifetime.lock.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Somebody is about to come.
                return _AGAIN_S
            if _inode(lifetime.socket) == self._inode:
                lifetime.socket.unlink()
                lifetime.lock.unlink()
        self._accept_all(listener)
        self._selector.unregister(listener)
        listener.close()
        self._listener = None
        return inf if self._connections else 0.0

    def _accept_all(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if _peer_uid(connection) != os.getuid():
            connection.close()
            return
        self.add(connection)

    def _hear(self, connection: socket.socket) -> None:
        if connection not in self._connections:
            return
        fds: list[int] = []
        try:
            data, fds, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, MAX_FDS)
        except OSError:
            data = b""
        if not data:
            self._lose(connection)
            return
        try:
            self._fork(connection, _requests.decode(data), fds)
        except msgspec.DecodeError as error:
            self._tell(connection, _Refused(0, f"a request cannot be read: {error}"))
        finally:
            for fd in fds:
                os.close(fd)

    def _fork(self, connection: socket.socket, request: _Fork, fds: list[int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(connection, _Refused(request.request, f"fork: {error}"))
            return
        if pid == 0:
            self._become(request, fds, server)
        self._children[pid] = connection
        self._tell(connection, _Started(request.request, pid))

    def _become(self, request: _Fork, fds: list[int], server: int) -> NoReturn:
        """Turn this fork into what was asked for; never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            _rename("swell-model")
            _die_with_parent()
            if os.getppid() != server:
                # It died before the line above.
                os._exit(1)
            for connection in self._connections:
                connection.close()
            if self._listener is not None:
                self._listener.close()
            self._selector.close()
            os.setsid()
            _new_randomness()
            _move_in(request, fds)
            kept = [str(os.dup(fd)) for fd in fds]
            for fd in fds:
                os.close(fd)
            told = {"{server}": str(server), **{f"{{{n}}}": fd for n, fd in enumerate(kept)}}
            sys.argv = [request.entry, *(told.get(each, each) for each in request.arguments)]
            module, _, function = request.entry.partition(":")
            getattr(importlib.import_module(module), function)()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                connection = self._children.pop(pid)
                self._tell(connection, _Exited(pid, os.waitstatus_to_exitcode(status)))

    def _lose(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._connections.discard(connection)
        connection.close()
        for pid in [pid for pid, owner in self._children.items() if owner is connection]:
            # It is ours until it is reaped, so the number means nobody else. It may not lead a
            # group yet.
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        self._idle_at_s = self._clock.monotonic_s()

    def _tell(self, connection: socket.socket, answer: _Answer) -> None:
        if connection in self._connections:
            # A client that is gone is noticed when it is read from.
            with contextlib.suppress(OSError):
                connection.send(msgspec.json.encode(answer))


def _move_in(request: _Fork, fds: list[int]) -> None:
    """Take on what belongs to who asked; takes its stderr out of `fds`."""
    if request.environment is not None:
        replace_environment(request.environment)
    if request.folder:
        os.chdir(request.folder)
    if request.has_stderr:
        stderr = fds.pop(0)
        os.dup2(stderr, 1)
        os.dup2(stderr, 2)
        os.close(stderr)


def _rename(name: str) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return -1


def _count_threads() -> int:
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1


def _open_files() -> list[str]:
    """Return where this process's file descriptors lead."""
    found = []
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{each}"))
    return found


def _peer_uid(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(uid)


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _new_randomness() -> None:
    """Forks start from one state: have each library that is loaded draw from its own again.

    Python's own generator does so by itself.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None:
        numpy.random.seed()
    if torch is not None:
        torch.seed()


def main() -> None:
    """Entry point: `python -m swell.worker.forkserver (--fd N | --socket PATH) [MODULE…]`."""
    parser = argparse.ArgumentParser(prog="swell.worker.forkserver")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int, help="a socket that is connected already")
    where.add_argument("--socket", type=Path, help="where to listen")
    where.add_argument("--listen", type=int, help="a socket that listens; the rest is on stdin")
    parser.add_argument("modules", nargs="*")
    asked = parser.parse_args()
    if asked.listen is not None:
        _serve_workers(socket.socket(fileno=asked.listen))
        return
    first = listener = None
    if asked.fd is not None:
        _die_with_parent()
        first = socket.socket(fileno=asked.fd)
        # A Ctrl-C in the terminal is for the worker, which decides about its children.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        listener = _listen(asked.socket)
    try:
        _import_all(asked.modules)
    except ForkFailed as error:
        if first is not None:
            first.send(_refusal(error))
        sys.exit(error.detail)
    _settle()
    server = Server(listener)
    if first is not None:
        server.add(first)
    server.serve()


def _serve_workers(listener: socket.socket) -> None:
    """Serve the workers of a machine that come to `listener`, until they have left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    setup = msgspec.json.decode(sys.stdin.buffer.read(), type=Setup)
    lifetime = Lifetime(setup.linger_s, Path(setup.socket), Path(setup.lock))
    try:
        _import_all([_CHILD, *setup.named], setup.remembered)
    except ForkFailed as error:
        _refuse_all(listener, lifetime, error)
        sys.exit(1)
    _settle()
    with open(os.devnull, "r+b") as nothing:
        # Whoever waits for the end of what a worker says does not wait for this process as well.
        for each in (0, 1, 2):
            os.dup2(nothing.fileno(), each)
    Server(listener, lifetime).serve()


def _refusal(error: ForkFailed) -> bytes:
    return msgspec.json.encode(_Refused(0, error.detail, isinstance(error, Unforkable)))


def _refuse_all(listener: socket.socket, lifetime: Lifetime, error: ForkFailed) -> None:
    """Tell all who wait why there is no server."""
    with contextlib.suppress(OSError):
        lifetime.socket.unlink()
    listener.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError):
                connection.send(_refusal(error))


def _settle() -> None:
    """What is here now is never garbage; left alone, it stays shared with every child."""
    gc.collect()
    gc.freeze()
    gc.enable()


def _import_all(named: Sequence[str], remembered: Sequence[str] = ()) -> None:
    """Import; what was remembered may be gone meanwhile.

    Raises:
        ForkFailed: A module cannot be imported.
        Unforkable: It does what a server must not.
    """
    # What is imported stays: looking for garbage in it is lost time.
    gc.disable()
    threads, known = _count_threads(), set(sys.modules)
    # Those with threads of their own first, so that what starts others is not taken for them.
    for name in sorted((*named, *remembered), key=lambda each: each not in _FORKABLE):
        try:
            importlib.import_module(name)
        except Exception as error:
            if name in named:
                traceback.print_exc()
                raise ForkFailed(
                    f"importing {name} failed: {type(error).__name__}: {error}"
                ) from error
        if len(sys.modules) == len(known):
            continue
        now, own = _count_threads(), threading.active_count() - 1
        if own or (now > threads and not (set(sys.modules) - known) & _FORKABLE):
            raise Unforkable(
                f"{name} starts threads when it is imported: it cannot be forked safely"
            )
        threads, known = now, set(sys.modules)
    refuse_devices(_open_files())


def refuse_devices(files: Iterable[str]) -> None:
    """Look through what a process has open.

    Raises:
        Unforkable: There is a GPU among it.
    """
    found = next((each for each in files if each.startswith(_DEVICES)), None)
    if found:
        raise Unforkable(f"a module opens {found} when it is imported: no fork could use the GPU")


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or _is_alive(path):
                raise
            path.unlink()
            listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen()
    return listener


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(str(path)) == 0


# --- the client ----------------------------------------------------------------------------------


class Forked:
    """A process that a fork server made; used like one of asyncio's.

    Args:
        pid: Its process id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._exit.result() if self._exit.done() else None

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def ended(self, code: int) -> None:
        """Note its exit code."""
        if not self._exit.done():
            self._exit.set_result(code)


class ForkServer:
    """A connection to a fork server.

    Args:
        connection: Connected, `SOCK_SEQPACKET`.
        process: The server where it is ours to end.
        on_lost: Called once when the server is gone, or was left.
    """

    def __init__(
        self,
        connection: socket.socket,
        process: asyncio.subprocess.Process | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._process = process
        self._on_lost = on_lost
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._alive: dict[int, Forked] = {}
        self._ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(_hear_error)
        #: Whether the server is there, as far as is known.
        self.is_alive = True
        #: The server's process id; 0 before it is ready.
        self.pid = 0

    @classmethod
    async def start(cls, python: str, modules: Sequence[str]) -> "ForkServer":
        """Start a server that imports `modules`; returns at once, and `ready` waits for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                python,
                "-m",
                "swell.worker.forkserver",
                "--fd",
                str(theirs.fileno()),
                *modules,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        return cls(ours, process)._listen()

    @classmethod
    async def connect(cls, path: Path) -> "ForkServer":
        """Connect to a server that listens at `path`.

        Raises:
            ForkFailed: Nobody listens there.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise ForkFailed(f"no fork server listens at {path}: {error.strerror}") from error
        return cls(connection)._listen()

    @classmethod
    def on(cls, connection: socket.socket, on_lost: Callable[[], None]) -> "ForkServer":
        """Return a client on a connection that was made by others."""
        return cls(connection, None, on_lost)._listen()

    def _listen(self) -> "ForkServer":
        self._connection.setblocking(False)
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._hear)
        return self

    async def ready(self) -> int:
        """Wait until all is imported; return the server's process id.

        Raises:
            ForkFailed: A module cannot be imported, or the server has died.
        """
        pid: int = await asyncio.shield(self._ready)
        return pid

    async def fork(
        self, entry: str, arguments: Sequence[str] = (), fds: Sequence[int] = ()
    ) -> Forked:
        """Have a process forked, and wait for it; see `ask`.

        Raises:
            ForkFailed: The server is gone, or has no memory for another process.
        """
        return await self.ask(entry, arguments, fds)

    def ask(
        self,
        entry: str,
        arguments: Sequence[str] = (),
        fds: Sequence[int] = (),
        *,
        stderr: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: str = "",
    ) -> "asyncio.Future[Forked]":
        """Ask for a process to be forked, at once or as soon as all is imported.

        Args:
            entry: `module:function`, called without arguments; its module may be one that was not
                imported before.
            arguments: What it finds in `sys.argv[1:]`. There `{0}`, `{1}`, … become the numbers
                that `fds` have in the child, and `{server}` the process id of its parent.
            fds: File descriptors to hand over; they stay open here as well.
            stderr: A file descriptor for all that it prints; None for the server's.
            environment: Its environment; None for the server's.
            folder: Its working folder; empty for the server's.

        Raises:
            ForkFailed: The server is gone; from the future also if it has no memory for another
                process, or cannot import.
        """
        self._count += 1
        answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_hear_error)
        request = _Fork(
            self._count,
            entry,
            list(arguments),
            None if environment is None else dict(environment),
            folder,
            stderr is not None,
        )
        message = msgspec.json.encode(request)
        if len(message) > MESSAGE_BYTES:
            raise ForkFailed(f"the environment is too large to be handed over: {len(message)}")
        try:
            given = [*fds] if stderr is None else [stderr, *fds]
            socket.send_fds(self._connection, [message], given)
        except OSError as error:
            raise ForkFailed(f"the fork server is gone: {error.strerror}") from error
        self._asked[self._count] = answer
        return answer

    async def close(self) -> None:
        """Leave; the server kills what it forked here, and ends if it is ours."""
        self._lose("the fork server was left")
        if self._process is not None:
            await self._process.wait()

    def _hear(self) -> None:
        try:
            while data := self._connection.recv(MESSAGE_BYTES):
                self._take(_answers.decode(data))
        except BlockingIOError:
            return
        except (OSError, msgspec.DecodeError):
            pass
        self._lose("the fork server has died")

    def _take(self, answer: _Answer) -> None:
        match answer:
            case _Ready():
                self.pid = answer.pid
                _resolve(self._ready, answer.pid)
            case _Started():
                forked = Forked(answer.pid)
                self._alive[answer.pid] = forked
                _resolve(self._asked.pop(answer.request), forked)
            case _Refused():
                kind = Unforkable if answer.is_final else ForkFailed
                asked = self._asked.pop(answer.request, None)
                # Request 0 is the start: nobody gets anything.
                for future in (asked,) if asked else (self._ready, *self._asked.values()):
                    _fail(future, answer.detail, kind)
            case _Exited():
                forked_or_none = self._alive.pop(answer.pid, None)
                if forked_or_none is not None:
                    forked_or_none.ended(answer.code)

    def _lose(self, why: str) -> None:
        if self._connection.fileno() < 0:
            return
        self.is_alive = False
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
        for future in (self._ready, *self._asked.values()):
            _fail(future, why)
        self._asked.clear()
        # The server kills them when it loses us, and they die with it by the kernel's hand.
        for forked in self._alive.values():
            forked.ended(-signal.SIGKILL)
        self._alive.clear()
        if self._on_lost is not None:
            self._on_lost()


def _resolve(future: "asyncio.Future[Any]", value: object) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[Any]", detail: str, kind: type[ForkFailed] = ForkFailed) -> None:
    if not future.done():
        future.set_exception(kind(detail))


def _hear_error(future: "asyncio.Future[Any]") -> None:
    """Take note of an error that perhaps nobody waits for."""
    if not future.cancelled():
        future.exception()


if __name__ == "__main__":
    main()
