"""Processes that encode pictures, so that neither the worker's loop nor its model waits for it.

They are started afresh rather than forked, since the worker has threads and sockets, and only when
there is something to encode. Pixels and files go through memory that both sides share: for a
megapixel that takes 0.35 ms there and back, through the socket 0.49 ms. A process ends when its
socket closes, so none outlives its worker, however that ends.

The first file comes 100 ms after its process was asked for, of which Python and Pillow need most;
a process has 17 MiB of its own. Measured by `benchmarks/encoders.py`: `handover`, `start`, `small`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

from swell.runtime.ipc_messages import Blob, Pixels
from swell.runtime.model_process_client import describe_exit
from swell.runtime.unicode_repair import describe_error
from swell.worker import encode_image_main as compress
from swell.worker.encode_image_main import ANSWER, KINDS, MODES, ORDER
from swell.worker.encode_outputs import (
    Encoded,
    FileNote,
    encode,
    file_names,
    kind_of,
    note_text,
    picture_file,
)

ArgumentTs = TypeVarTuple("ArgumentTs")
ResultT = TypeVar("ResultT")

_KIND_AT: Final = list(KINDS)

#: More processes than this are used only where somebody says so.
MOST_BY_DEFAULT: Final = 4

#: Pictures with fewer pixels are encoded in a thread: they take 0.4 ms or less, and no process has
#: to be started for them. Handing over costs 0.04 ms.
TINY_PX: Final = 64 * 64

#: At most so many pictures, and so many bytes of pixels, are taken at once; others wait outside.
MAX_JOBS: Final = 64
MAX_BYTES: Final = 256 * 1024 * 1024

#: A picture is given up after so many processes that died of it.
MAX_DEATHS: Final = 2

#: A process that takes longer for one picture is killed.
PICTURE_LIMIT_S: Final = 60.0

#: What a process that closes its socket needs to end, in seconds.
LAST_BREATH_S: Final = 0.5

#: Between two copies of so much, a millisecond or so, the loop goes on.
COPIED_AT_ONCE_BYTES: Final = 4 * 1024 * 1024

#: So much of the shared memory stays with a process between two pictures.
KEPT_BYTES: Final = 32 * 1024 * 1024


class EncodingFailed(Exception):
    """A picture cannot be encoded; the text says why."""


class _Died(Exception):
    """The process ended, or had to be ended, before it answered; the text says how."""


class _WasDead(_Died):
    """The process had ended before it heard of a picture, which has no part in it."""


def default_processes() -> int:
    """Return how many processes encode if nobody says: one core is left to the model."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(MOST_BY_DEFAULT, cores - 1))


@dataclass(slots=True, eq=False)
class _Job:
    """A picture on its way, and how the processes ended that have died of it."""

    pixels: Pixels
    kind: str
    note: bytes
    done: asyncio.Future[bytes]
    deaths: list[str] = field(default_factory=list)


class Encoders:
    """Encodes the files of results, several at once.

    Args:
        processes: At most so many; None for `default_processes`.
        program: What they run; see `compress.py`.
        tiny_px: Pictures with fewer pixels are encoded in a thread.
        max_jobs: So many pictures are taken at once.
        max_bytes: So many bytes of pixels are taken at once; a larger picture goes alone.
        picture_limit_s: A process that takes longer for one picture is killed.
    """

    def __init__(
        self,
        processes: int | None = None,
        *,
        program: Path | None = None,
        tiny_px: int = TINY_PX,
        max_jobs: int = MAX_JOBS,
        max_bytes: int = MAX_BYTES,
        picture_limit_s: float = PICTURE_LIMIT_S,
    ) -> None:
        self._most = processes or default_processes()
        self._program = program or Path(compress.__file__)
        self._tiny_px = tiny_px
        self._picture_limit_s = picture_limit_s
        self._room = _Room(max_jobs, max_bytes)
        self._waiting: deque[_Job] = deque()
        #: Who serves a process that has nothing to do waits here for a job.
        self._idle: list[asyncio.Future[_Job]] = []
        self._servers: set[asyncio.Task[None]] = set()
        #: How many of them have no process yet.
        self._starting = 0
        self._processes: set[_Process] = set()
        self._thread = ThreadPoolExecutor(1, "encode")
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that live."""
        return [process.pid for process in self._processes]

    @property
    def is_full(self) -> bool:
        """Whether pictures wait outside: whoever makes more of them should wait as well."""
        return self._room.is_full

    async def names(
        self, files: Sequence[Pixels | Blob], default_format: str, first: int = 0
    ) -> list[str]:
        """Return the names that files will have, before they are encoded; see `file_names`."""
        if all(isinstance(file, Pixels) for file in files):
            return file_names(files, default_format, first)
        # Of some, the type has to be looked up in their bytes.
        return await self._in_thread(file_names, files, default_format, first)

    async def encode(
        self, file: Pixels | Blob, index: int, default_format: str, note: FileNote
    ) -> Encoded:
        """Return file number `index` of a task as bytes; waits while there is too much to do.

        Raises:
            EncodingFailed: It cannot be encoded.
        """
        if isinstance(file, Blob) or file.width * file.height < self._tiny_px:
            try:
                return await self._in_thread(encode, file, index, default_format, note)
            except Exception as error:
                raise EncodingFailed(describe_error(error)) from error
        kind = kind_of(file, default_format)
        _check_size(file)
        async with self._room.taken(len(file.data)):
            if self._is_closed:
                raise EncodingFailed("the worker ends")
            done = asyncio.get_running_loop().create_future()
            self._give(_Job(file, kind, note_text(file, note).encode(), done))
            data = await done
        return picture_file(file, index, kind, data)

    def warm(self) -> None:
        """Start a process before there is something to encode."""
        if not self._servers and not self._is_closed:
            self._add_server()

    async def close(self) -> None:
        """End all processes at once; whoever waits hears `EncodingFailed`."""
        self._is_closed = True
        servers = list(self._servers)
        for server in servers:
            server.cancel()
        await asyncio.gather(*servers, return_exceptions=True)
        for process in list(self._processes):
            await process.end()
        self._processes.clear()
        self._fail_waiting("the worker ends")
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(
        self, function: Callable[[*ArgumentTs], ResultT], *arguments: *ArgumentTs
    ) -> ResultT:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)

    # --- who does what ---------------------------------------------------------------------------

    def _give(self, job: _Job, *, again: bool = False) -> None:
        """Give a job to whoever was idle last, so that few processes do what few can do."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(job)
                return
        if again:
            self._waiting.appendleft(job)
        else:
            self._waiting.append(job)
        if self._starting < len(self._waiting) and len(self._servers) < self._most:
            self._add_server()

    def _add_server(self) -> None:
        self._starting += 1
        server = asyncio.get_running_loop().create_task(self._serve())
        self._servers.add(server)
        server.add_done_callback(self._servers.discard)

    async def _serve(self) -> None:
        """Keep one process busy, and replace it whenever it dies."""
        while True:
            try:
                process = await _Process.start(self._program)
            except OSError as error:
                # Those that run already do what there is; a later picture tries it again.
                if not self._processes:
                    self._fail_waiting(f"no process could be started for it: {error}")
                return
            finally:
                self._starting -= 1
            self._processes.add(process)
            try:
                await self._work_with(process)
            finally:
                # Stays in the books if this is interrupted: `close` sees to it.
                await process.end()
                self._processes.discard(process)
            self._starting += 1

    async def _work_with(self, process: "_Process") -> None:
        """Have a process do one job after another until it dies."""
        while True:
            job = await self._next()
            try:
                data = await process.encode(job, self._picture_limit_s)
            except _WasDead:
                self._give(job, again=True)
                return
            except _Died as death:
                self._bury(job, str(death))
                return
            except EncodingFailed as error:
                _give_up(job, str(error))
            except BaseException:
                _give_up(job, "the worker ends")
                raise
            else:
                if not job.done.done():
                    job.done.set_result(data)
            # Pixels are large, and the next picture may be long in coming.
            del job

    async def _next(self) -> _Job:
        while self._waiting:
            job = self._waiting.popleft()
            if not job.done.done():
                return job
        idle: asyncio.Future[_Job] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        try:
            return await idle
        except asyncio.CancelledError:
            if idle.done() and not idle.cancelled():
                _give_up(idle.result(), "the worker ends")
            raise

    def _bury(self, job: _Job, how: str) -> None:
        job.deaths.append(how)
        if len(job.deaths) < MAX_DEATHS:
            self._give(job, again=True)
            return
        deaths = " and ".join(job.deaths)
        _give_up(job, f"{len(job.deaths)} processes ended while they encoded it: one {deaths}")

    def _fail_waiting(self, why: str) -> None:
        while self._waiting:
            _give_up(self._waiting.popleft(), why)


def _give_up(job: _Job, why: str) -> None:
    if not job.done.done():
        job.done.set_exception(EncodingFailed(why))


def _check_size(file: Pixels) -> None:
    if file.mode not in MODES:
        raise EncodingFailed(f"pixels of mode {file.mode} cannot be encoded: use {MODES}")
    expected = file.width * file.height * len(file.mode)
    if len(file.data) != expected:
        raise EncodingFailed(f"the picture has {len(file.data):,} bytes and needs {expected:,}")


class _Room:
    """A bounded number of pictures with a bounded number of bytes, first come, first served."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._free = most
        self._free_bytes = self._most_bytes = most_bytes
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    @property
    def is_full(self) -> bool:
        return any(not turn.done() for turn, _ in self._queue)

    @contextlib.asynccontextmanager
    async def taken(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait for a place, and hold it meanwhile."""
        # What is larger than the whole room gets all of it.
        size_bytes = min(size_bytes, self._most_bytes)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, size_bytes))
        self._let_in()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._leave(size_bytes)
            raise
        try:
            yield
        finally:
            self._leave(size_bytes)

    def _leave(self, size_bytes: int) -> None:
        self._free += 1
        self._free_bytes += size_bytes
        self._let_in()

    def _let_in(self) -> None:
        while self._queue:
            turn, size_bytes = self._queue[0]
            if not turn.done():
                if not self._free or size_bytes > self._free_bytes:
                    return
                self._free -= 1
                self._free_bytes -= size_bytes
                turn.set_result(None)
            self._queue.popleft()


class _Process:
    """One encoding process, its socket, and the memory that it shares with this one."""

    def __init__(
        self, process: asyncio.subprocess.Process, sock: socket.socket, memory: int
    ) -> None:
        self._process = process
        self._socket = sock
        self._memory = memory
        self._has_worked = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, program: Path) -> "_Process":
        """Start one; it may be given a picture at once.

        Raises:
            OSError: The system does not allow it.
        """
        ours, theirs = socket.socketpair()
        memory = _new_memory()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    # The program's own folder holds no modules for it.
                    "-P",
                    str(program),
                    str(theirs.fileno()),
                    str(memory),
                    pass_fds=[theirs.fileno(), memory],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    # A Ctrl-C in the terminal is for the worker, which decides about this one.
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            os.close(memory)
            raise
        ours.setblocking(False)
        return cls(process, ours, memory)

    async def encode(self, job: _Job, limit_s: float) -> bytes:
        """Return the bytes of a picture's file.

        Raises:
            EncodingFailed: The process says that it cannot be encoded.
            _Died: It ended, or took too long and was ended.
        """
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._ask(job)
        except TimeoutError:
            raise _Died(f"took longer than {limit_s:g} s") from None
        if len(answer) < ANSWER.size:
            raise _Died(describe_exit(await self._see_end()))
        self._has_worked = True
        is_error, size_bytes = ANSWER.unpack(answer)
        data = await _read(self._memory, size_bytes)
        if max(size_bytes, len(job.pixels.data) + len(job.note)) > KEPT_BYTES:
            os.ftruncate(self._memory, 0)
        if is_error:
            raise EncodingFailed(data.decode(errors="replace"))
        return data

    async def _ask(self, job: _Job) -> bytes:
        """Return the answer, or less of it if the process has ended."""
        pixels, note = job.pixels, job.note
        try:
            await _write(self._memory, (pixels.data, note))
        except OSError as error:
            raise EncodingFailed(f"no memory for its pixels: {error.strerror}") from error
        loop, answer = asyncio.get_running_loop(), b""
        order = ORDER.pack(
            pixels.width,
            pixels.height,
            len(note),
            MODES.index(pixels.mode),
            _KIND_AT.index(job.kind),
        )
        try:
            await loop.sock_sendall(self._socket, order)
        except ConnectionError:
            if self._has_worked:
                raise _WasDead from None
            return b""
        with contextlib.suppress(ConnectionError):
            while len(answer) < ANSWER.size:
                more = await loop.sock_recv(self._socket, ANSWER.size - len(answer))
                if not more:
                    break
                answer += more
        return answer

    async def _see_end(self) -> int:
        """Return the exit code of a process that has closed its socket."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_BREATH_S):
                return await self._process.wait()
        return -signal.SIGKILL

    async def end(self) -> None:
        """End it at once, and wait until it is gone. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._socket.close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1
        await self._process.wait()


def _new_memory() -> int:
    """Return the number of an open file that lies in memory, or at least nowhere else."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("swell-pixels", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


async def _write(memory: int, parts: Sequence[bytes]) -> None:
    start = 0
    for part in parts:
        at, view = 0, memoryview(part)
        while at < len(view):
            at += os.pwrite(memory, view[at : at + COPIED_AT_ONCE_BYTES], start + at)
            if at < len(view):
                await asyncio.sleep(0)
        start += len(view)


async def _read(memory: int, size_bytes: int) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at < size_bytes:
        part = os.pread(memory, min(size_bytes - at, COPIED_AT_ONCE_BYTES), at)
        parts.append(part)
        at += len(part)
        if at < size_bytes:
            await asyncio.sleep(0)
    return parts[0] if len(parts) == 1 else b"".join(parts)
