"""The model process's end of the socket to its worker."""

import collections
import socket
from typing import Final

from swell.clock import Clock
from swell.worker.frames import (
    HEAD_BYTES,
    Frame,
    Keep,
    Load,
    Run,
    Stop,
    Work,
    decode_work,
    encode_frame,
)

__all__ = ["Pipe", "WorkerGone"]

#: The worker's words are looked for at most this often while a model runs.
LISTEN_EVERY_S: Final = 0.002


class WorkerGone(Exception):
    """The other end of the socket is closed."""


class Pipe:
    """The socket to the worker, and what it has said so far."""

    def __init__(self, sock: socket.socket, clock: Clock) -> None:
        self._socket = sock
        self._clock = clock
        self._buffer = bytearray()
        self._inbox: collections.deque[Load | Keep | Run] = collections.deque()
        self._listened_s = 0.0
        #: Handles of cancelled tasks.
        self.stopped: set[int] = set()

    def send(self, frame: Frame) -> None:
        """Say something; waits while the worker is slow to listen.

        Raises:
            WorkerGone: Nobody listens any more.
        """
        try:
            self._socket.sendall(encode_frame(frame))
        except OSError as error:
            raise WorkerGone from error

    def next(self) -> Load | Keep | Run:
        """Wait for something to do."""
        while not self._inbox:
            self._receive(0)
        return self._inbox.popleft()

    def take(self) -> Load | Keep | Run | None:
        """Return something to do if the worker has said it by now."""
        if not self._inbox:
            self.listen()
        return self._inbox.popleft() if self._inbox else None

    def listen(self) -> None:
        """Hear what has been said meanwhile, without waiting."""
        now_s = self._clock.monotonic_s()
        if now_s - self._listened_s < LISTEN_EVERY_S:
            return
        self._listened_s = now_s
        try:
            while self._receive(socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            pass

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
