"""Processes that encode images, so that neither the worker's event loop nor its model waits.

Each thread of a small pool drives one process through its standard input and output. Processes are
started when there is something to encode, and one that dies is replaced. They end when their input
closes, so none outlives the worker.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from swell.runtime.ipc_messages import Blob, Pixels
from swell.runtime.model_process_client import describe_exit
from swell.runtime.unicode_repair import describe_error
from swell.worker import encode_image_main
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

_KIND_AT: Final = list(KINDS)

#: Most processes by default.
MOST_BY_DEFAULT: Final = 4

#: Images with fewer pixels are encoded in a thread of the worker, in 0.4 ms or less.
TINY_PX: Final = 64 * 64

#: Most images, and most bytes of pixels, that are accepted at once.
MAX_JOBS: Final = 64
MAX_BYTES: Final = 256 * 1024 * 1024

#: An image fails after this many processes died of it.
MAX_DEATHS: Final = 2

#: A process that takes longer for one image is killed.
PICTURE_LIMIT_S: Final = 60.0

#: How long a process that closed its output may take to exit.
_EXIT_S: Final = 0.5

#: Size of the pipes to and from a process, where the system allows it.
_PIPE_BYTES: Final = 1 << 20


class EncodingFailed(Exception):
    """An image cannot be encoded; the text says why."""


class _Died(Exception):
    """The process ended before it answered; the text says how."""


def default_processes() -> int:
    """Return the default number of processes: one core is left to the model."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(MOST_BY_DEFAULT, cores - 1))


class Encoders:
    """Encodes the files of results, several at once.

    Args:
        processes: Most processes; None for `default_processes`.
        program: Their program; None for `encode_image_main.py`.
        tiny_px: Images with fewer pixels are encoded in a thread.
        max_jobs: Most images accepted at once.
        max_bytes: Most bytes of pixels accepted at once; a larger image is accepted alone.
        picture_limit_s: A process that takes longer for one image is killed.
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
        self._program = program or Path(encode_image_main.__file__)
        self._tiny_px = tiny_px
        self._picture_limit_s = picture_limit_s
        self._free_jobs = max_jobs
        self._free_bytes = self._max_bytes = max_bytes
        #: Images that wait to be accepted: the first holds the lock.
        self._outside = 0
        self._first = asyncio.Lock()
        self._left = asyncio.Event()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._drivers = ThreadPoolExecutor(processes or default_processes(), "encode")
        self._tiny = ThreadPoolExecutor(1, "encode-tiny")
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """Ids of the living processes."""
        return [process.pid for process in self._processes]

    @property
    def is_full(self) -> bool:
        """Whether images wait to be accepted; models should not create more."""
        return self._outside > 0

    async def names(
        self, files: Sequence[Pixels | Blob], default_format: str, first: int = 0
    ) -> list[str]:
        """Return the names that files will have, before they are encoded; see `file_names`."""
        if all(isinstance(file, Pixels) for file in files):
            return file_names(files, default_format, first)
        # The types of other files are read from their bytes.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._tiny, file_names, files, default_format, first)

    async def encode(
        self, file: Pixels | Blob, index: int, default_format: str, note: FileNote
    ) -> Encoded:
        """Return file number `index` of a task as bytes; waits while there is too much to do.

        Raises:
            EncodingFailed: It cannot be encoded.
        """
        loop = asyncio.get_running_loop()
        if isinstance(file, Blob) or file.width * file.height < self._tiny_px:
            try:
                return await loop.run_in_executor(
                    self._tiny, encode, file, index, default_format, note
                )
            except Exception as error:
                raise EncodingFailed(describe_error(error)) from error
        kind = kind_of(file, default_format)
        _check_size(file)
        async with self._accepted(len(file.data)):
            if self._is_closed:
                raise EncodingFailed("the worker ends")
            text = note_text(file, note).encode()
            # The executor keeps arguments longer than the call lasts, and pixels are large.
            data = await loop.run_in_executor(self._drivers, self._drive, [file], kind, text)
        return picture_file(file, index, kind, data)

    def warm(self) -> None:
        """Start a process before there is something to encode."""
        if not self._processes and not self._is_closed:
            with contextlib.suppress(OSError):
                self._idle.append(self._start())

    async def close(self) -> None:
        """End all processes now; waiting calls of `encode` raise `EncodingFailed`."""
        self._is_closed = True
        for process in list(self._processes):
            process.kill()
        await asyncio.to_thread(self._drivers.shutdown)
        for process in list(self._processes):
            self._end(process)
        self._tiny.shutdown(wait=False, cancel_futures=True)

    @contextlib.asynccontextmanager
    async def _accepted(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold a place among a bounded number of images and bytes, first come, first served."""
        size_bytes = min(size_bytes, self._max_bytes)
        self._outside += 1
        try:
            async with self._first:
                while not self._free_jobs or size_bytes > self._free_bytes:
                    self._left.clear()
                    await self._left.wait()
                self._free_jobs -= 1
                self._free_bytes -= size_bytes
        finally:
            self._outside -= 1
        try:
            yield
        finally:
            self._free_jobs += 1
            self._free_bytes += size_bytes
            self._left.set()

    # In threads

    def _drive(self, files: list[Pixels], kind: str, note: bytes) -> bytes:
        """Take the image out of the list, and return its file, encoded by a process.

        Raises:
            EncodingFailed: It cannot be encoded, or several processes died of it.
        """
        pixels, deaths = files.pop(), list[str]()
        while not self._is_closed:
            if len(deaths) == MAX_DEATHS:
                told = " and ".join(deaths)
                raise EncodingFailed(
                    f"{MAX_DEATHS} processes ended while they encoded it: one {told}"
                )
            try:
                process = self._take()
                is_error, data = _ask(process, pixels, kind, note, self._picture_limit_s)
            except OSError as error:
                raise EncodingFailed(f"no process could be started for it: {error}") from error
            except _Died as death:
                deaths.append(str(death))
                self._end(process)
                continue
            self._idle.append(process)
            if is_error:
                raise EncodingFailed(data.decode(errors="replace"))
            return data
        raise EncodingFailed("the worker ends")

    def _take(self) -> subprocess.Popen[bytes]:
        """Return the process that was used last, or a new one."""
        while True:
            try:
                process = self._idle.pop()
            except IndexError:
                return self._start()
            if process.poll() is None:
                return process
            self._end(process)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            # With -P the program's folder is no place to import from.
            [sys.executable, "-P", str(self._program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=_PIPE_BYTES,
            # Ctrl-C in the terminal is for the worker, which ends this one.
            start_new_session=True,
        )
        self._processes.add(process)
        if self._is_closed:
            process.kill()
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()
        self._processes.discard(process)


def _ask(
    process: subprocess.Popen[bytes], pixels: Pixels, kind: str, note: bytes, limit_s: float
) -> tuple[bool, bytes]:
    """Return the answer of a process: whether it is an error, and its bytes.

    Raises:
        _Died: The process ended, or took too long and was killed.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    mode_at, kind_at = MODES.index(pixels.mode), _KIND_AT.index(kind)
    order = ORDER.pack(pixels.width, pixels.height, len(note), mode_at, kind_at)
    timer = threading.Timer(limit_s, process.kill)
    timer.start()
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.writelines((order, pixels.data, note))
            process.stdin.flush()
        head = process.stdout.read(ANSWER.size)
        if len(head) == ANSWER.size:
            is_error, size_bytes = ANSWER.unpack(head)
            data = process.stdout.read(size_bytes)
            if len(data) == size_bytes:
                return is_error, data
        is_late = timer.finished.is_set()
    finally:
        timer.cancel()
    if is_late:
        raise _Died(f"took longer than {limit_s:g} s")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EXIT_S)
    process.kill()
    raise _Died(describe_exit(process.wait()))


def _check_size(file: Pixels) -> None:
    if file.mode not in MODES:
        raise EncodingFailed(f"pixels of mode {file.mode} cannot be encoded: use {MODES}")
    expected = file.width * file.height * len(file.mode)
    if len(file.data) != expected:
        raise EncodingFailed(f"the picture has {len(file.data):,} bytes and needs {expected:,}")
