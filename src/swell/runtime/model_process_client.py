"""The worker's end of its model process."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
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
from swell.settings.environment import process_environment

#: What a process that ends has said is read within this time, in seconds.
LAST_WORDS_S: Final = 0.5

#: A killed process is gone within this time, in seconds, unless a driver holds it in the kernel.
KILL_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Home:
    """Which Python runs models."""

    python: str = sys.executable
    #: Its process environment; None for that of this process.
    variables: Mapping[str, str] | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is another one than Swell's."""
        return self.variables is not None


class ModelRefused(SwellError):
    """The model process cannot import or load its models."""

    code, title = "model_refused", "The models cannot be loaded"


class ProcessDied(SwellError):
    """The model process ended while somebody waited for it."""

    code, title, retryable = "model_process_died", "The model process died", True


class ModelProcess:
    """A process that holds models, and dies alone.

    It is started from scratch and not forked from this process, which has threads and sockets.

    Args:
        python: The interpreter that runs it.
        on_frame: Called with every result, progress and preview, in order.
        on_exit: Called once with the exit code, after the last frame.
        variables: Its process environment; None for that of this process.
    """

    def __init__(
        self,
        python: str,
        on_frame: Callable[["ModelProcess", Frame], None] | None = None,
        on_exit: Callable[["ModelProcess", int], None] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._python = python
        self._variables = variables
        self._on_frame = on_frame
        self._on_exit = on_exit
        self._begun: asyncio.Task[list[ModelCard]] | None = None
        #: Set once there is nothing to do but to wait for it.
        self.is_asked = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.Transport | None = None
        self._cards: asyncio.Future[list[ModelCard]] = _future()
        self._ready: asyncio.Future[Ready] = _future()
        self._closed: asyncio.Future[None] = _future()
        self._watch: asyncio.Task[None] | None = None
        #: Whether it is alive with its models loaded.
        self.is_ready = False
        #: What it has told of its phases, in monotonic seconds, and of its models.
        self.spans: Sequence[Span] = ()
        self.models: Sequence[str] = ()
        self.has_news = asyncio.Event()
        #: Where it leaves checkpoints.
        self._slate = new_slate()

    @property
    def pid(self) -> int:
        """The process id; 0 before it is started."""
        return 0 if self._process is None else self._process.pid

    def report_to(
        self,
        on_frame: Callable[["ModelProcess", Frame], None],
        on_exit: Callable[["ModelProcess", int], None],
    ) -> None:
        """Tell what it says, and its end, to somebody who was not there when it was begun."""
        self._on_frame, self._on_exit = on_frame, on_exit

    def begin(self, load: Load) -> None:
        """Start the process; returns at once, and `start` tells how it went."""
        self._begun = asyncio.get_running_loop().create_task(self._start(load))
        self._begun.add_done_callback(self._on_begun)

    def _on_begun(self, begun: "asyncio.Task[list[ModelCard]]") -> None:
        self.is_asked.set()
        if not begun.cancelled():
            # It may be that nobody waits for it.
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
            refs: As `load_models` takes them.
            device: What they are loaded on.
            device_memory_bytes: What they may take of it together; None for no limit.
            host_memory_bytes: What those that had to leave it may take of the host's memory.
            optional: Those of `refs` that are left out where they cannot be loaded.
            shelf: Where weights are.

        Raises:
            ModelRefused: The models cannot be imported; the text says why.
            ProcessDied: It died on the way.
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
            ProcessDied: It died on the way.
        """
        return await asyncio.shield(self._ready)

    def kept(self, handles: Collection[int]) -> list[Kept]:
        """Return the checkpoints that it has left of these tasks, alive or dead; before `kill`."""
        return read_slate(self._slate.fileno(), handles)

    def send(self, work: Work) -> None:
        """Send a message."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(work))

    async def kill(self) -> None:
        """End the process at once and wait until it is gone; what it has left goes with it."""
        if self._begun is not None and not self._begun.done():
            self._begun.cancel()
            await asyncio.gather(self._begun, return_exceptions=True)
        self.end()
        if self._watch is not None:
            # Whoever stops waiting for this does not stop the watch.
            await asyncio.shield(self._watch)
        self._slate.close()

    def end(self) -> None:
        """End the process, and all that it has started, at once; `on_exit` follows."""
        self.is_ready = False
        if self._process is not None:
            _kill(self._process)

    def heard(self, frame: Frame) -> None:
        """Take what the process said."""
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
                if self._on_frame is not None:
                    self._on_frame(self, frame)

    def lost(self) -> None:
        """Note that the process has closed its end."""
        self.is_ready = False
        _resolve(self._closed, None)

    async def _see_end(self, process: asyncio.subprocess.Process) -> None:
        exited = asyncio.ensure_future(process.wait())
        ends: set[asyncio.Future[Any]] = {exited, self._closed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        self.is_ready = False
        # Whoever closes the socket is done for: do not wait for what it may still do. Whoever is
        # gone may have left frames behind, but also children that keep the socket open.
        await asyncio.wait(ends, timeout=LAST_WORDS_S)
        _kill(process)
        await asyncio.wait({exited}, timeout=KILL_WITHIN_S)
        if self._transport is not None:
            self._transport.abort()
        code = -signal.SIGKILL if process.returncode is None else process.returncode
        self._give_up(ProcessDied(f"the model process {describe_exit(code)}"))
        if self._on_exit is not None:
            self._on_exit(self, code)

    def _give_up(self, error: SwellError) -> None:
        for future in (self._cards, self._ready):
            if not future.done():
                future.set_exception(error)
                # It may be that nobody waits for it.
                future.exception()


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a worker's model processes are from."""

    #: The first of them if it was begun before the worker, with the worker's models and device.
    process: ModelProcess | None = None
    home: Home = Home()
    #: The clock of its phases, if that was begun before the worker.
    startups: Startups | None = None
    #: Brings weights meanwhile; the worker ends where it fails.
    provision: asyncio.Task[None] | None = None
    #: Where its models' weights are.
    shelf: WeightLocations | None = None


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process and what is left of its group, of which it is the leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def _refusal(code: str) -> type[SwellError]:
    return {kind.code: kind for kind in (InvalidModel, NotFound)}.get(code, ModelRefused)


def describe_exit(code: int) -> str:
    """Return how a process ended, for people."""
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
        """Take what came; a frame may come in many parts, or many frames in one."""
        self._buffer += data
        for body in cut_frames(self._buffer):
            self._process.heard(decode_frame(body))

    def connection_lost(self, error: Exception | None) -> None:
        """The process closed its end, by will or by death."""
        self._process.lost()
