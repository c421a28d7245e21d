"""The model process's end of the socket to its worker."""

import collections
import contextlib
import os
import queue
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple, NoReturn

from swell.clock import Clock
from swell.worker.frames import (
    HEAD_BYTES,
    Frame,
    HandOver,
    Heeded,
    Load,
    Part,
    Results,
    Run,
    Stop,
    Studio,
    Watch,
    Work,
    decode_work,
    encode_frame,
)

__all__ = ["Pipe", "Sent", "WorkerGone"]

#: The worker's words are looked for at most this often while a model runs.
LISTEN_EVERY_S: Final = 0.002

#: Results whose files have so many bytes are sent by a thread.
LARGE_BYTES: Final = 64 * 1024

#: What is yet to be made counts as so many bytes.
UNMADE_BYTES: Final = 4 * 1024 * 1024

#: Whoever has more to say waits while files of so many bytes are on their way.
MAX_OUTGOING_BYTES: Final = 256 * 1024 * 1024


#: So much may wait for spare processors; what is more is made as other things are.
MOST_SPARE: Final = 8

#: What was left to spare processors is waited for so many seconds, where two steps have left too
#: little. If that is not enough, others want the processors: nothing is left to spare ones for so
#: long.
CATCH_UP_S: Final = 0.25
NONE_SPARE_S: Final = 60.0

#: Whoever hands over, or brings a batch, waits so long for what spare processors have begun.
LAST_SPARE_S: Final = 1.0


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

    Two threads beside its owner's may work for it, from when they are needed. One sends what would
    hold up the model, and makes it before. The other makes what is left to spare processors, which
    the first one then sends.
    """

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket = sock
        self._clock = clock
        self._looks = select.poll()
        self._looks.register(sock, select.POLLIN)
        self._buffer = bytearray()
        self._inbox: collections.deque[Load | Studio | Run | HandOver] = collections.deque()
        self._listened_s = 0.0
        self._outgoing: queue.SimpleQueue[_Given] = queue.SimpleQueue()
        #: How much was given to the thread, and how much it is done with: each is counted by one
        #: thread alone.
        self._given = self._given_bytes = 0
        self._sent = self._sent_bytes = 0
        #: What threads are yet to be given.
        self._unbegun: list[tuple[Callable[[], Sequence[Frame]], Sent]] = []
        self._unbegun_spare: list[tuple[Callable[[], Sequence[Frame]], Sent]] = []
        self._moved = threading.Event()
        self._sender: threading.Thread | None = None
        #: The same of what is left to spare processors, and how much that was at the latest call of
        #: `catch_up`.
        self._spare: queue.SimpleQueue[_Given] = queue.SimpleQueue()
        self._spare_given = self._spare_made = self._spare_before = 0
        self._made_spare = threading.Event()
        self._maker: threading.Thread | None = None
        self._maker_clock: int | None = None
        #: Whether the system knows of spare processors, and from when there are any, as it seems.
        self._knows_spare = True
        self._spare_from_s = 0.0
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

    def send_made(self, make: Callable[[], Sequence[Frame]], *, is_spare: bool = False) -> Sent:
        """Say what `make` returns, after all that was said before; soon. It is called in a thread.

        That thread begins when something else is said or waited for, or with `begin`: two threads
        of Python in turns are slower than one after the other.

        Args:
            make: Returns it.
            is_spare: Whether it is made when the model leaves a processor unused, and said then,
                whatever else has been said meanwhile.
        """
        sent = Sent()
        if is_spare and self._has_spare():
            self._unbegun_spare.append((make, sent))
        else:
            self._unbegun.append((make, sent))
        return sent

    def _has_spare(self) -> bool:
        waiting = self._spare_given - self._spare_made + len(self._unbegun_spare)
        return (
            self._knows_spare
            and waiting < MOST_SPARE
            and self._clock.monotonic_s() >= self._spare_from_s
        )

    def catch_up(self) -> None:
        """Wait for what was left to spare processors, if two steps have left too little of them.

        To be called before each step. Where waiting is not enough, what is not begun is made as
        other things are, and for a while nothing is left to them.
        """
        due, self._spare_before = self._spare_before, self._spare_given
        if self._spare_made >= due or self._clock.monotonic_s() < self._spare_from_s:
            return
        if not self._wait_for_spare(due, CATCH_UP_S):
            self._spare_from_s = self._clock.monotonic_s() + NONE_SPARE_S
            self._take_back()

    def wait_for_spare(self) -> None:
        """Have what is said from now on come after what was left to spare processors.

        At most one of them does not, if that takes too long.
        """
        self.begin()
        self._take_back()
        self._wait_for_spare(self._spare_given, LAST_SPARE_S)

    def _take_back(self) -> None:
        """Have what spare processors have not begun be made as other things are."""
        with contextlib.suppress(queue.Empty):
            while True:
                given = self._spare.get_nowait()
                self._spare_given -= 1
                self._outgoing.put(given)
        self._spare_before = min(self._spare_before, self._spare_given)

    def _wait_for_spare(self, count: int, seconds: float) -> bool:
        """Return whether so much is made within this time."""
        end_s = self._clock.monotonic_s() + seconds
        while self._spare_made < count and not self._is_gone:
            self._made_spare.clear()
            if self._spare_made >= count or self._is_gone:
                break
            left_s = end_s - self._clock.monotonic_s()
            if left_s <= 0 or not self._made_spare.wait(left_s):
                return False
        return True

    @property
    def spare_cpu_s(self) -> float:
        """What processors have spent on what was left to spare ones, in seconds."""
        if self._maker is None or self._maker_clock is None:
            return 0.0
        return time.clock_gettime(self._maker_clock)

    def begin(self) -> None:
        """Let threads begin with what `send_made` was told: this one has time for it.

        Raises:
            WorkerGone: Nobody listens any more.
        """
        if self._unbegun:
            # As one: waking the thread takes as long as all else that is done here.
            unbegun, self._unbegun = self._unbegun, []
            makes, told = zip(*unbegun, strict=True)
            self._send_aside(partial(_made, makes), UNMADE_BYTES, told)
        if self._unbegun_spare:
            unbegun, self._unbegun_spare = self._unbegun_spare, []
            for make, sent in unbegun:
                self._make_spare(make, sent)

    def _rest(self) -> None:
        """As `begin`, where no step comes: all processors are there then."""
        self._unbegun += self._unbegun_spare
        self._unbegun_spare.clear()
        self._take_back()
        self.begin()

    def _make_spare(self, make: Callable[[], Sequence[Frame]], sent: Sent) -> None:
        self._count_out(UNMADE_BYTES)
        if self._maker is None:
            self._maker = threading.Thread(target=self._make_on, name="spare", daemon=True)
            self._maker.start()
        self._spare_given += 1
        self._spare.put(_Given(partial(_made, [make]), UNMADE_BYTES, (sent,)))

    def _send_aside(
        self,
        make: Callable[[], bytes | bytearray],
        size_bytes: int,
        told: tuple[Sent, ...] = (),
    ) -> None:
        self._count_out(size_bytes)
        self._outgoing.put(_Given(make, size_bytes, told))

    def _count_out(self, size_bytes: int) -> None:
        """Wait until there is room for so much more on its way."""
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

    def flush(self) -> None:
        """Return when all that was said has left this process, which may die any time.

        What spare processors have begun is left out if it takes too long.
        """
        self._rest()
        self._wait_for_spare(self._spare_given, LAST_SPARE_S)
        while self._has_more_to_send():
            self._moved.clear()
            if self._has_more_to_send():
                self._moved.wait()

    def _has_more_to_send(self) -> bool:
        """Say whether anything is on its way that is not just being made by spare processors."""
        made_now = self._spare_given - self._spare_made
        return self._given - made_now > self._sent and not self._is_gone

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
            except Exception:
                traceback.print_exc()
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
            if is_gone:
                self._made_spare.set()

    def _make_on(self) -> None:
        """Make what is left to spare processors, in a thread of its own, and have it sent."""
        self._maker_clock = _own_clock()
        self._knows_spare = _takes_spare_only()
        while not self._is_gone:
            make, size_bytes, told = self._spare.get()
            try:
                made = make()
            except BaseException as error:
                # Where it is sent it is told.
                self._outgoing.put(_Given(partial(_raise, error), size_bytes, told))
            else:
                self._outgoing.put(_Given(partial(_same, made), size_bytes, told))
            self._spare_made += 1
            self._made_spare.set()

    def heed(self) -> None:
        """Tell the worker that the model knows of all that are to stop, once of each."""
        new = self.stopped - self._heeded
        if new:
            self._heeded |= new
            self.send(Heeded(sorted(new)))

    def forget(self, handle: int) -> None:
        """Forget what was said of a task that has ended."""
        self.stopped.discard(handle)
        self._heeded.discard(handle)
        self.watched.discard(handle)

    def next(self) -> Load | Studio | Run | HandOver:
        """Wait for something to do, where nothing is left of what there was."""
        self._rest()
        if not self._inbox:
            # What was said of a task while its result was on its way came too late to be forgotten.
            self.stopped.clear()
            self._heeded.clear()
            self.watched.clear()
        while not self._inbox:
            self._receive(0)
        return self._inbox.popleft()

    def take(self) -> Load | Studio | Run | HandOver | None:
        """Return something to do if the worker has said it by now."""
        if not self._inbox:
            self.listen()
        return self._inbox.popleft() if self._inbox else None

    def wait(self, seconds: float) -> bool:
        """Return whether there is something to do within this time, or news; as soon as it is."""
        self._rest()
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


def _takes_spare_only() -> bool:
    """Have this thread run when no other wants its processor; return whether it can say so."""
    try:
        # What it starts is like any other.
        policy = os.SCHED_IDLE | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except (OSError, AttributeError):
        return False
    return True


def _own_clock() -> int | None:
    """Return which clock counts what processors spend on this thread."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.pthread_getcpuclockid(threading.get_ident())


def _same(made: bytes | bytearray) -> bytes | bytearray:
    return made


def _raise(error: BaseException) -> NoReturn:
    raise RuntimeError("it cannot be made") from error


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
