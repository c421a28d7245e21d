"""Encodes images in threads beside the event loop of the worker.

Pillow releases the lock of the interpreter while it encodes. The threads have a lower priority than
worker and model, and the process does not wait for them when it ends.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from swell.runtime.ipc_messages import Blob, Pixels
from swell.runtime.unicode_repair import describe_error
from swell.weights.detached_threads import aside
from swell.worker.encode_outputs import Encoded, FileNote, encode, file_names

#: Most threads by default.
MOST_BY_DEFAULT: Final = 4

#: Most images, and most bytes of pixels, that are accepted at once.
MAX_JOBS: Final = 64
MAX_BYTES: Final = 256 * 1024 * 1024

#: Added to the niceness of the threads.
LOWERED_BY: Final = 5


class EncodingFailed(Exception):
    """An image cannot be encoded; the text says why."""


def default_threads() -> int:
    """Return the default number of threads: one core is left to the model."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(MOST_BY_DEFAULT, cores - 1))


class Encoders:
    """Encodes the files of results, several at once.

    Args:
        threads: Most threads; None for `default_threads`.
        encode: Encodes one file.
        max_jobs: Most images accepted at once.
        max_bytes: Most bytes of pixels accepted at once; a larger image is accepted alone.
    """

    def __init__(
        self,
        threads: int | None = None,
        *,
        encode: Callable[[Pixels | Blob, int, str, FileNote], Encoded] = encode,
        max_jobs: int = MAX_JOBS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._encode = encode
        self._free_jobs = max_jobs
        self._free_bytes = self._max_bytes = max_bytes
        #: Images that wait to be accepted: the first holds the lock.
        self._outside = 0
        self._first = asyncio.Lock()
        self._left = asyncio.Event()
        self._threads = asyncio.Semaphore(threads or default_threads())
        self._is_closed = False

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
        return await asyncio.to_thread(file_names, files, default_format, first)

    async def encode(
        self, file: Pixels | Blob, index: int, default_format: str, note: FileNote
    ) -> Encoded:
        """Return file number `index` of a task as bytes; waits while there is too much to do.

        Raises:
            EncodingFailed: It cannot be encoded.
        """
        if isinstance(file, Blob):
            return await asyncio.to_thread(encode, file, index, default_format, note)
        # Pixels are released as soon as the file exists.
        files = [file]
        async with self._accepted(len(file.data)), self._threads:
            del file
            if self._is_closed:
                raise EncodingFailed("the worker ends")

            def work() -> Encoded:
                _lower_priority()
                return self._encode(files.pop(), index, default_format, note)

            try:
                return await aside(work)
            except Exception as error:
                raise EncodingFailed(describe_error(error)) from error

    def close(self) -> None:
        """Begin nothing more."""
        self._is_closed = True

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


def _lower_priority() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            # Linux lowers that of the calling thread only.
            os.nice(LOWERED_BY)
