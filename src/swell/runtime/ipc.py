"""The model process's end of the socket to its worker."""

import collections
import queue
import select
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from swell.core.clock import Clock
from swell.runtime.ipc_messages import (
    Frame,
    HandOver,
    Load,
    Part,
    Results,
    Run,
    StepEngineConfig,
    Stop,
    StopAcknowledged,
    Watch,
    cut_frames,
    decode_work,
    encode_frame,
)

#: While a model runs, messages of the worker are read at most this often.
LISTEN_EVERY_S: Final = 0.002

#: Results with this many bytes of files are sent by a thread.
LARGE_BYTES: Final = 64 * 1024

#: Frames that the thread makes count as this many bytes.
UNMADE_BYTES: Final = 4 * 1024 * 1024

#: `send` waits while more bytes than this are queued.
MAX_OUTGOING_BYTES: Final = 256 * 1024 * 1024


class WorkerGone(Exception):
    """The other end of the socket is closed."""


class Pipe:
    """The socket to the worker, and the messages that it has sent.

    A second thread, started when it is needed, makes and sends large frames while the model runs.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket = sock
        self._clock = clock
        self._buffer = bytearray()
        self._inbox: collections.deque[Load | StepEngineConfig | Run | HandOver] = (
            collections.deque()
        )
        self._listened_s = 0.0
        self._outgoing: queue.SimpleQueue[
            tuple[Callable[[], Sequence[Frame]], int, threading.Event]
        ] = queue.SimpleQueue()
        #: Frames and bytes that the thread has not sent yet; notified when they change.
        self._queued = self._queued_bytes = 0
        self._changed = threading.Condition()
        self._sender: threading.Thread | None = None
        #: The error that ended the thread.
        self.error: BaseException | None = None
        self._is_gone = False
        #: Handles of cancelled tasks, and of those that a model has noticed.
        self.stopped: set[int] = set()
        self._heeded: set[int] = set()
        #: Handles of tasks that a client follows.
        self.watched: set[int] = set()

    def send(self, frame: Frame) -> None:
        """Send a frame after all frames before it.

        Large results are sent by a thread, so that the model continues. Waits only while too many
        bytes are queued.

        Raises:
            WorkerGone: The worker has closed the socket.
        """
        size_bytes = _file_bytes(frame)
        if not self._queued and size_bytes < LARGE_BYTES:
            # The thread is idle, so the socket is free.
            self._send_now([frame])
        else:
            self._give(lambda: [frame], size_bytes)

    def send_made(self, make: Callable[[], Sequence[Frame]]) -> threading.Event:
        """Send the frames that `make` returns, called in a thread; the event is set once sent.

        Raises:
            WorkerGone: The worker has closed the socket.
        """
        return self._give(make, UNMADE_BYTES)

    def _give(self, make: Callable[[], Sequence[Frame]], size_bytes: int) -> threading.Event:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_on, name="send", daemon=True)
            self._sender.start()
        sent = threading.Event()
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_gone or self._queued_bytes <= MAX_OUTGOING_BYTES
            )
            if self._is_gone:
                raise WorkerGone
            self._queued += 1
            self._queued_bytes += size_bytes
        self._outgoing.put((make, size_bytes, sent))
        return sent

    def flush(self) -> None:
        """Return when all frames have left this process."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_gone or not self._queued)

    def _send_now(self, frames: Sequence[Frame]) -> None:
        encoded = [encode_frame(frame) for frame in frames]
        try:
            # A single frame, such as a large picture, is not copied.
            self._socket.sendall(encoded[0] if len(encoded) == 1 else b"".join(encoded))
        except OSError as error:
            raise WorkerGone from error

    def _send_on(self) -> None:
        """Send queued frames in a thread until the worker is gone."""
        is_gone = False
        while not is_gone:
            make, size_bytes, sent = self._outgoing.get()
            try:
                self._send_now(make())
                sent.set()
            except WorkerGone:
                is_gone = True
            except BaseException as error:
                # `serve` reads the error once the thread has ended.
                traceback.print_exc()
                self.error, is_gone = error, True
                # So that both ends notice.
                self._socket.shutdown(socket.SHUT_RDWR)
            with self._changed:
                self._is_gone = is_gone
                self._queued -= 1
                self._queued_bytes -= size_bytes
                self._changed.notify_all()

    def heed(self) -> None:
        """Tell the worker that the model knows of all that are to stop, once of each."""
        new = self.stopped - self._heeded
        if new:
            self._heeded |= new
            self.send(StopAcknowledged(sorted(new)))

    def forget(self, handle: int) -> None:
        """Drop the stop and watch state of a finished task."""
        self.stopped.discard(handle)
        self._heeded.discard(handle)
        self.watched.discard(handle)

    def next(self) -> Load | StepEngineConfig | Run | HandOver:
        """Wait for work, when none is left."""
        if not self._inbox:
            # Drop stops and watches that arrived after the results of their tasks.
            self.stopped.clear()
            self._heeded.clear()
            self.watched.clear()
        while not self._inbox:
            self._receive(0)
        return self._inbox.popleft()

    def take(self) -> Load | StepEngineConfig | Run | HandOver | None:
        """Return the next work that has arrived, or None."""
        if not self._inbox:
            self.listen()
        return self._inbox.popleft() if self._inbox else None

    def wait(self, seconds: float) -> bool:
        """Wait at most this long for a message; return whether there is one."""
        if self._inbox:
            return True
        said, _, _ = select.select([self._socket], [], [], seconds)
        if said:
            self._listened_s = 0.0
        return bool(said)

    def listen(self) -> None:
        """Read the messages that have arrived, without waiting."""
        now_s = self._clock.monotonic_s()
        if now_s - self._listened_s >= LISTEN_EVERY_S:
            self._listened_s = now_s
            while self._receive(socket.MSG_DONTWAIT):
                pass

    def _receive(self, flags: int) -> bool:
        """Read once; return whether there may be more."""
        try:
            chunk = self._socket.recv(1 << 18, flags)
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise WorkerGone from error
        if not chunk:
            raise WorkerGone
        self._buffer += chunk
        for work in map(decode_work, cut_frames(self._buffer)):
            if isinstance(work, Stop):
                self.stopped.update(work.handles)
            elif isinstance(work, Watch):
                self.watched.update(work.handles)
            else:
                self._inbox.append(work)
        return len(chunk) == 1 << 18


def _file_bytes(frame: Frame) -> int:
    if isinstance(frame, Part):
        return len(frame.file.data)
    if not isinstance(frame, Results):
        return 0
    return sum(len(file.data) for done in frame.done for file in done.files)
