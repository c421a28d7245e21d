"""The model process's end of the socket to its worker."""

import collections
import queue
import select
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from swell.core.clock import Clock
from swell.runtime.ipc_messages import (
    HEAD_BYTES,
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
    Work,
    decode_work,
    encode_frame,
)

#: The worker's words are looked for at most this often while a model runs.
LISTEN_EVERY_S: Final = 0.002

#: Results whose files have so many bytes are sent by a thread.
LARGE_BYTES: Final = 64 * 1024

#: What is yet to be made counts as so many bytes.
UNMADE_BYTES: Final = 4 * 1024 * 1024

#: Whoever has more to say waits while files of so many bytes are on their way.
MAX_OUTGOING_BYTES: Final = 256 * 1024 * 1024


class WorkerGone(Exception):
    """The other end of the socket is closed."""


class Sent:
    """What a thread was given to make and send."""

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        #: Whether it has left this process.
        self.is_over = False


class _Given(NamedTuple):
    """What a thread has to make, how many bytes that counts for, and who wants to know."""

    make: Callable[[], bytes | bytearray]
    size_bytes: int
    told: tuple[Sent, ...] = ()


class Pipe:
    """The socket to the worker, and what it has said so far.

    A thread beside its owner's may work for it, from when it is needed: it sends what would hold up
    the model, and makes it before.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket = sock
        self._clock = clock
        self._looks = select.poll()
        self._looks.register(sock, select.POLLIN)
        self._buffer = bytearray()
        self._inbox: collections.deque[Load | StepEngineConfig | Run | HandOver] = (
            collections.deque()
        )
        self._listened_s = 0.0
        self._outgoing: queue.SimpleQueue[_Given] = queue.SimpleQueue()
        #: How much was given to the thread, and how much it is done with: each is counted by one
        #: thread alone.
        self._given = self._given_bytes = 0
        self._sent = self._sent_bytes = 0
        #: What the thread is yet to be given.
        self._unbegun: list[tuple[Callable[[], Sequence[Frame]], Sent]] = []
        self._moved = threading.Event()
        self._sender: threading.Thread | None = None
        #: Ended the thread that sends.
        self.error: BaseException | None = None
        self._is_gone = False
        #: Handles of cancelled tasks, and of which of them a model is known to know.
        self.stopped: set[int] = set()
        self._heeded: set[int] = set()
        #: Handles of tasks that somebody follows.
        self.watched: set[int] = set()

    def send(self, frame: Frame) -> None:
        """Say something, after all that was said before.

        Large results are sent by a thread, so that the model goes on while the worker reads them;
        this waits only where there is too much on its way already.

        Raises:
            WorkerGone: Nobody listens any more.
        """
        self.begin()
        size_bytes = _file_bytes(frame)
        if self._given == self._sent and size_bytes < LARGE_BYTES:
            # Nothing is on its way, so the other thread waits and the socket is free.
            self._send_now(encode_frame(frame))
            return
        self._send_aside(partial(encode_frame, frame), size_bytes)

    def send_made(self, make: Callable[[], Sequence[Frame]]) -> Sent:
        """Say what `make` returns, after all that was said before; soon. It is called in a thread.

        That thread begins when something else is said or waited for, or with `begin`: two threads
        of Python in turns are slower than one after the other.
        """
        sent = Sent()
        self._unbegun.append((make, sent))
        return sent

    def begin(self) -> None:
        """Let the thread begin with what `send_made` was told: this one has time for it.

        Raises:
            WorkerGone: Nobody listens any more.
        """
        if self._unbegun:
            # As one: waking the thread takes as long as all else that is done here.
            unbegun, self._unbegun = self._unbegun, []
            makes, told = zip(*unbegun, strict=True)
            self._send_aside(partial(_made, makes), UNMADE_BYTES, told)

    def _send_aside(
        self,
        make: Callable[[], bytes | bytearray],
        size_bytes: int,
        told: tuple[Sent, ...] = (),
    ) -> None:
        if self._sender is None:
            self._sender = threading.Thread(target=self._send_on, name="send", daemon=True)
            self._sender.start()
        while self._is_full():
            self._moved.clear()
            if self._is_full():
                self._moved.wait()
        if self._is_gone:
            raise WorkerGone
        self._given += 1
        self._given_bytes += size_bytes
        self._outgoing.put(_Given(make, size_bytes, told))

    def flush(self) -> None:
        """Return when all that was said has left this process, which may die any time."""
        self.begin()
        while self._has_more_to_send():
            self._moved.clear()
            if self._has_more_to_send():
                self._moved.wait()

    def _has_more_to_send(self) -> bool:
        return self._given > self._sent and not self._is_gone

    def _is_full(self) -> bool:
        return self._given_bytes - self._sent_bytes > MAX_OUTGOING_BYTES and not self._is_gone

    def _send_now(self, data: bytes | bytearray) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise WorkerGone from error

    def _send_on(self) -> None:
        """Send what is to be sent, in a thread of its own, until nobody listens any more."""
        while not self._is_gone:
            make, size_bytes, told = self._outgoing.get()
            is_gone = False
            try:
                self._send_now(make())
            except WorkerGone:
                is_gone = True
            except BaseException as error:
                # `serve` reads the error once the thread has ended.
                traceback.print_exc()
                self.error = error
                is_gone = True
                # Whoever waits for it would wait for ever: let both ends see that it is over.
                self._socket.shutdown(socket.SHUT_RDWR)
            self._is_gone = is_gone
            if not is_gone:
                for sent in told:
                    sent.is_over = True
            self._sent_bytes += size_bytes
            self._sent += 1
            self._moved.set()

    def heed(self) -> None:
        """Tell the worker that the model knows of all that are to stop, once of each."""
        new = self.stopped - self._heeded
        if new:
            self._heeded |= new
            self.send(StopAcknowledged(sorted(new)))

    def forget(self, handle: int) -> None:
        """Forget what was said of a task that has ended."""
        self.stopped.discard(handle)
        self._heeded.discard(handle)
        self.watched.discard(handle)

    def next(self) -> Load | StepEngineConfig | Run | HandOver:
        """Wait for something to do, where nothing is left of what there was."""
        self.begin()
        if not self._inbox:
            # What was said of a task while its result was on its way came too late to be forgotten.
            self.stopped.clear()
            self._heeded.clear()
            self.watched.clear()
        while not self._inbox:
            self._receive(0)
        return self._inbox.popleft()

    def take(self) -> Load | StepEngineConfig | Run | HandOver | None:
        """Return something to do if the worker has said it by now."""
        if not self._inbox:
            self.listen()
        return self._inbox.popleft() if self._inbox else None

    def wait(self, seconds: float) -> bool:
        """Return whether there is something to do within this time, or news; as soon as it is."""
        self.begin()
        if self._inbox:
            return True
        said, _, _ = select.select([self._socket], [], [], seconds)
        if said:
            self._listened_s = 0.0
        return bool(said)

    def listen(self) -> None:
        """Hear what has been said meanwhile, without waiting."""
        now_s = self._clock.monotonic_s()
        if now_s - self._listened_s < LISTEN_EVERY_S:
            return
        self._listened_s = now_s
        # To look first takes half as long as to be told by an error, at every step.
        while self._looks.poll(0):
            if not self._receive(socket.MSG_DONTWAIT):
                return

    def _receive(self, flags: int) -> bool:
        """Read once; return whether there may be more at once."""
        try:
            chunk = self._socket.recv(1 << 18, flags)
        except ConnectionError as error:
            raise WorkerGone from error
        if not chunk:
            raise WorkerGone
        self._buffer += chunk
        for work in self._take_frames():
            if isinstance(work, Stop):
                self.stopped.update(work.handles)
            elif isinstance(work, Watch):
                self.watched.update(work.handles)
            else:
                self._inbox.append(work)
        return len(chunk) == 1 << 18

    def _take_frames(self) -> list[Work]:
        works: list[Work] = []
        buffer, at = self._buffer, 0
        while len(buffer) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + int.from_bytes(buffer[at : at + HEAD_BYTES], "big")
            if len(buffer) < end:
                break
            works.append(decode_work(bytes(buffer[at + HEAD_BYTES : end])))
            at = end
        del buffer[:at]
        return works


def _made(makes: Sequence[Callable[[], Sequence[Frame]]]) -> bytes | bytearray:
    return _joined([frame for make in makes for frame in make()])


def _joined(frames: Sequence[Frame]) -> bytes | bytearray:
    # A picture is large: alone it is not copied once more.
    encoded = [encode_frame(frame) for frame in frames]
    return encoded[0] if len(encoded) == 1 else b"".join(encoded)


def _file_bytes(frame: Frame) -> int:
    if isinstance(frame, Part):
        return len(frame.file.data)
    if not isinstance(frame, Results):
        return 0
    return sum(len(file.data) for done in frame.done for file in done.files)
