"""Starts a model process, and exchanges messages with it for the worker."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from swell.core.errors import InvalidModel, NotFound, SwellError
from swell.core.records import ModelCard
from swell.core.startup_phases import Span
from swell.runtime.checkpoint_shm import Kept, new_slate, read_slate
from swell.runtime.hugepages import with_large_pages
from swell.runtime.ipc_messages import (
    Described,
    Frame,
    Load,
    Phased,
    Ready,
    Refused,
    WeightLocations,
    Work,
    cut_frames,
    decode_frame,
    encode_frame,
)
from swell.runtime.startup_timing import Startups
from swell.runtime.venvs import Home
from swell.settings.environment import process_environment

#: Time limit for reading the last frames of a process that exits, in seconds.
LAST_WORDS_S: Final = 0.5

#: Time limit for a killed process to exit, in seconds; a driver can hold it in the kernel longer.
KILL_WITHIN_S: Final = 10.0


class ModelRefused(SwellError):
    """The model process cannot import or load its models."""

    code, title = "model_refused", "The models cannot be loaded"


class ProcessDied(SwellError):
    """The model process ended during startup."""

    code, title, retryable = "model_process_died", "The model process died", True


class ModelProcess:
    """A process that holds models; a crash does not affect the worker.

    It is spawned, not forked: the worker has threads and sockets.

    Args:
        python: The interpreter that runs it.
        on_frame: Called with every result, progress and preview, in order.
        variables: Its process environment; None for that of this process.
    """

    def __init__(
        self,
        python: str,
        on_frame: Callable[[Frame], None] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._python = python
        self._variables = variables
        self.on_frame = on_frame
        self._begun: asyncio.Task[list[ModelCard]] | None = None
        #: Set once the process has its `Load` message, or failed to start.
        self.is_asked = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.Transport | None = None
        self._cards: asyncio.Future[list[ModelCard]] = _future()
        self._ready: asyncio.Future[Ready] = _future()
        self._closed: asyncio.Future[None] = _future()
        self._watch: asyncio.Task[int] | None = None
        #: Whether it is alive with its models loaded.
        self.is_ready = False
        #: Phases, in monotonic seconds, and models that the process has reported.
        self.spans: Sequence[Span] = ()
        self.models: Sequence[str] = ()
        self.has_news = asyncio.Event()
        #: Shared memory for its checkpoints.
        self._slate = new_slate()

    @property
    def pid(self) -> int:
        """The process id; 0 before it is started."""
        return 0 if self._process is None else self._process.pid

    def begin(self, load: Load) -> None:
        """Begin to start the process and return at once; `start` waits for the outcome."""
        self._begun = asyncio.get_running_loop().create_task(self._start(load))
        self._begun.add_done_callback(self._on_begun)

    def _on_begun(self, begun: "asyncio.Task[list[ModelCard]]") -> None:
        self.is_asked.set()
        if not begun.cancelled():
            # Mark the exception as retrieved: the task may have no waiter.
            begun.exception()

    async def start(
        self,
        refs: Sequence[str],
        device: str,
        *,
        device_memory_bytes: int | None = None,
        host_memory_bytes: int | None = None,
        optional: Sequence[str] = (),
        shelf: WeightLocations | None = None,
    ) -> list[ModelCard]:
        """Start the process and return the cards of its models; they are not loaded yet.

        Args:
            refs: Models to load, as in `load_models`.
            device: Device to load them on.
            device_memory_bytes: Limit on their device memory together; None for no limit.
            host_memory_bytes: Limit on the host memory of offloaded models.
            optional: Those of `refs` that are skipped if they cannot be loaded.
            shelf: Where weights are.

        Raises:
            ModelRefused: The models cannot be imported; the text says why.
            ProcessDied: The process ended before that.
        """
        if self._begun is None:
            limits = device_memory_bytes, host_memory_bytes
            self.begin(Load(list(refs), device, *limits, list(optional), shelf))
        assert self._begun is not None
        return await asyncio.shield(self._begun)

    async def _start(self, load: Load) -> list[ModelCard]:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await self._spawn([theirs.fileno(), self._slate.fileno()])
            loop = asyncio.get_running_loop()
            self._watch = loop.create_task(self._see_end(self._process))
            ours.setblocking(False)
            self._transport, _ = await loop.create_connection(lambda: _Frames(self), sock=ours)
        except BaseException:
            ours.close()
            raise
        self.is_asked.set()
        self.send(load)
        return await asyncio.shield(self._cards)

    async def _spawn(self, fds: list[int]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            "swell.runtime.model_process_main",
            str(fds[0]),
            str(os.getpid()),
            str(fds[1]),
            pass_fds=fds,
            stdin=asyncio.subprocess.DEVNULL,
            env=with_large_pages(
                process_environment() if self._variables is None else self._variables
            ),
            # A Ctrl-C in the terminal is for the worker, which decides about its child.
            start_new_session=True,
        )

    async def ready(self) -> Ready:
        """Wait until the models are loaded and warm.

        Raises:
            ModelRefused: Loading failed; the text says why.
            ProcessDied: The process ended before that.
        """
        return await asyncio.shield(self._ready)

    def kept(self, handles: Collection[int]) -> list[Kept]:
        """Return the checkpoints of these tasks, also after a crash, but not after `kill`."""
        return read_slate(self._slate.fileno(), handles)

    def send(self, work: Work) -> None:
        """Send a message."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(work))

    async def wait(self) -> int:
        """Wait until the started process has ended, after its last frame; return the exit code."""
        assert self._watch is not None, "start it first"
        return await asyncio.shield(self._watch)

    async def kill(self) -> None:
        """Kill the process, wait until it exits, and discard its checkpoints."""
        if self._begun is not None and not self._begun.done():
            self._begun.cancel()
            await asyncio.gather(self._begun, return_exceptions=True)
        self.end()
        if self._watch is not None:
            # Cancelling `kill` must not cancel the watch.
            await asyncio.shield(self._watch)
        self._slate.close()

    def end(self) -> None:
        """Kill the process and its children; `wait` returns later."""
        self.is_ready = False
        if self._process is not None:
            _kill(self._process)

    def heard(self, frame: Frame) -> None:
        """Handle a frame from the process."""
        match frame:
            case Phased():
                self.spans = frame.spans
                self.has_news.set()
            case Described():
                self.models = [card.name for card in frame.cards]
                _resolve(self._cards, frame.cards)
            case Ready():
                self.is_ready = True
                _resolve(self._ready, frame)
            case Refused():
                self._give_up(_refusal(frame.code)(frame.detail))
            case _:
                if self.on_frame is not None:
                    self.on_frame(frame)

    def lost(self) -> None:
        """Note that the process has closed the socket."""
        self.is_ready = False
        _resolve(self._closed, None)

    async def _see_end(self, process: asyncio.subprocess.Process) -> int:
        exited = asyncio.ensure_future(process.wait())
        ends: set[asyncio.Future[Any]] = {exited, self._closed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self.is_ready = False
        # A process that closes the socket cannot work any more, so it is killed after a short wait.
        # A process that exited may have left unread frames, or children that hold the socket open.
        await asyncio.wait(ends, timeout=LAST_WORDS_S)
        _kill(process)
        await asyncio.wait({exited}, timeout=KILL_WITHIN_S)
        if self._transport is not None:
            self._transport.abort()
        code = -signal.SIGKILL if process.returncode is None else process.returncode
        self._give_up(ProcessDied(f"the model process {describe_exit(code)}"))
        return code

    def _give_up(self, error: SwellError) -> None:
        for future in (self._cards, self._ready):
            if not future.done():
                future.set_exception(error)
                # Mark the exception as retrieved: the future may have no waiter.
                future.exception()


@dataclass(frozen=True, slots=True)
class Origin:
    """How a worker starts its model processes."""

    #: First model process, if it began before the worker, with the same models and device.
    process: ModelProcess | None = None
    home: Home = field(default_factory=Home)
    #: Startup timing, if it began before the worker.
    startups: Startups | None = None
    #: Downloads weights in the background; the worker exits if it fails.
    provision: asyncio.Task[None] | None = None
    #: Location of the models' weights.
    shelf: WeightLocations | None = None


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process and its process group, which it leads."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _refusal(code: str) -> type[SwellError]:
    return {kind.code: kind for kind in (InvalidModel, NotFound)}.get(code, ModelRefused)


def describe_exit(code: int) -> str:
    """Return a readable description of how a process ended."""
    if code == -9:
        return "was killed with SIGKILL (often: it used more memory than there is)"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


class _Frames(asyncio.Protocol):
    """Cuts the stream into frames."""

    def __init__(self, process: ModelProcess) -> None:
        self._process = process
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes: part of a frame, or several frames."""
        self._buffer += data
        for body in cut_frames(self._buffer):
            self._process.heard(decode_frame(body))

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the process closed the socket or exited."""
        self._process.lost()
