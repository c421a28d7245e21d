"""Connections to a socket that several processes share: each goes to the one that has the fewest.

Left to the kernel, whoever wakes first takes all that wait, so that of two processes one may have
three times as many as the other for as long as clients keep them. So each process writes how many
it has where the others see it, and one that has more leaves what waits to those that have fewer. It
leaves it for a moment only: what nobody takes meanwhile it takes itself, since the others may hang.
"""

import asyncio
import errno
import mmap
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from typing import IO, Final

import structlog

from swell.clock import Clock

_log = structlog.get_logger("swell.accepting")

#: Stands for how many connections a process has that takes none.
AWAY: Final = -1

#: How long what waits is left to others before it is looked at again, in seconds.
_LEFT_S: Final = 0.002
#: What others have left where it is for so long is taken, in seconds: first one, then two, and so
#: on, since they may have long turns of their event loop and come right after.
_PATIENCE_S: Final = 0.05
#: A process that gave no sign of life for so long is left nothing, in seconds; it gives one with
#: each tick of uvicorn, every 0.1 s.
_HANGS_S: Final = 0.5
#: How long nothing is taken when the system has no room for another connection, in seconds.
_NO_ROOM_S: Final = 1.0

#: How long connections may take to be set up when the process stops, in seconds.
_LAST_S: Final = 1.0

#: The most that is taken in one turn of the event loop.
_AT_ONCE: Final = 64

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

#: Of each place: how many connections, and how many signs of life.
_BYTES: Final = 2 * 4


class Counts:
    """How many connections each process has, in memory that they share.

    Args:
        file: What it lies in, `8 * places` bytes long; processes inherit its descriptor.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._memory = mmap.mmap(file.fileno(), 0)
        self._numbers = memoryview(self._memory).cast("i")

    @classmethod
    def of(cls, places: int) -> "Counts":
        """Return new ones, with as many places, each of a process that takes none."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it stays open.
        file.write(bytes(_BYTES * places))
        file.flush()
        counts = cls(file)
        for place in range(places):
            counts.put(place, AWAY)
        return counts

    @classmethod
    def inherited(cls, descriptor: int) -> "Counts":
        """Return those of the process that has started this one."""
        return cls(os.fdopen(descriptor, "r+b"))

    @property
    def descriptor(self) -> int:
        """By which a process inherits them."""
        return self._file.fileno()

    def put(self, place: int, n: int) -> None:
        """Say how many connections the process at a place has, or `AWAY`."""
        self._numbers[2 * place] = n

    def live(self, place: int) -> None:
        """Give a sign of life of the process at a place."""
        self._numbers[2 * place + 1] = (self._numbers[2 * place + 1] + 1) % 2**31

    def all(self) -> tuple[list[int], list[int]]:
        """Return how many each has, and how many signs of life each gave, by place."""
        numbers = self._numbers.tolist()
        return numbers[::2], numbers[1::2]

    def close(self) -> None:
        """Let go of the memory; other processes keep theirs."""
        self._numbers.release()
        self._memory.close()
        self._file.close()


class Turns:
    """Whose turn it is to take what waits, as one process sees it. It reads no clock.

    Args:
        place: This process's.
        now_s: The time, monotonic, in seconds.
    """

    def __init__(self, place: int, now_s: float) -> None:
        self._place = place
        self._seen_s = now_s
        #: By place: the signs of life that were seen last, and when the last one was new.
        self._beats: list[tuple[int, float]] = []
        #: Since when something has been left to others, and how much was taken all the same.
        self._left_s: float | None = None
        self._taken = 0

    def look(self, beats: Sequence[int], now_s: float) -> None:
        """See which processes live; to be called with each tick."""
        before = self._beats or [(beat, now_s) for beat in beats]
        self._beats = [
            (beat, now_s if beat != last else since_s)
            for beat, (last, since_s) in zip(beats, before, strict=True)
        ]

    def may_take(self, counts: Sequence[int], now_s: float) -> int:
        """Return how many this process may take now, of what waits.

        Args:
            counts: How many connections each has.
            now_s: The time.
        """
        least = min(
            (
                n
                for place, n in enumerate(counts)
                if n != AWAY and place != self._place and self._lives(place, now_s)
            ),
            default=None,
        )
        own = counts[self._place]
        if least is None or own <= least:
            self.nothing_waits()
            return _AT_ONCE if least is None else least - own + 1
        if self._left_s is None:
            self._left_s = now_s
        if now_s < self._left_s + _PATIENCE_S:
            return 0
        self._taken = 2 * self._taken + 1
        return self._taken

    @property
    def is_left(self) -> bool:
        """Whether something is left to others."""
        return self._left_s is not None

    def nothing_waits(self) -> None:
        """All that waited was taken."""
        self._left_s = None
        self._taken = 0

    def _lives(self, place: int, now_s: float) -> bool:
        since_s = self._beats[place][1] if self._beats else self._seen_s
        return now_s < since_s + _HANGS_S


class Connection(asyncio.Protocol):
    """What a connection is served by."""

    def shutdown(self) -> None:
        """Close after what is on its way: the process stops."""
        raise NotImplementedError


class Acceptor:
    """Takes connections from a socket that other processes take from as well.

    As far as uvicorn is concerned, a server of asyncio.

    Args:
        listener: What all of them listen on. It is not closed here.
        counts: How many each has.
        place: This process's.
        make: Makes the protocol of a connection.
        held: Tells how many connections there are.
        clock: The time.
        tls: What they speak TLS with; None where they do not.
    """

    def __init__(
        self,
        listener: socket.socket,
        counts: Counts,
        place: int,
        make: Callable[[], Connection],
        held: Callable[[], int],
        clock: Clock,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listener = listener
        self._counts = counts
        self._place = place
        self._make = make
        self._held = held
        self._clock = clock
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        #: Connections that are being set up.
        self._arriving: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None
        self._turns = Turns(place, clock.monotonic_s())
        self._is_closed = False
        self._look_when_one_comes()

    @property
    def count(self) -> int:
        """How many connections this process has."""
        return self._held() + len(self._arriving)

    def tell(self) -> None:
        """Tell the others how many there are; to be called whenever one is closed."""
        if not self._is_closed:
            self._counts.put(self._place, self.count)

    def tick(self) -> None:
        """Give a sign of life, and see which others do."""
        if not self._is_closed:
            self._counts.live(self._place)
            self._turns.look(self._counts.all()[1], self._clock.monotonic_s())

    def close(self) -> None:
        """Take none any more."""
        if not self._is_closed:
            self._is_closed = True
            self._counts.put(self._place, AWAY)
            self._loop.remove_reader(self._listener)
            if self._later is not None:
                self._later.cancel()

    async def wait_closed(self) -> None:
        """Wait for those that are being set up, a little."""
        if self._arriving:
            await asyncio.wait(self._arriving, timeout=_LAST_S)
        for task in self._arriving:
            task.cancel()

    def _look_when_one_comes(self) -> None:
        self._later = None
        self.tell()
        self._loop.add_reader(self._listener, self._look)

    def _look_later(self, after_s: float) -> None:
        """Look at nothing meanwhile: what waits would wake this process again and again."""
        self._loop.remove_reader(self._listener)
        self._later = self._loop.call_later(after_s, self._look_when_one_comes)

    def _look(self) -> None:
        """Take what waits, or leave it to others for a moment."""
        self.tell()
        for _ in range(self._turns.may_take(self._counts.all()[0], self._clock.monotonic_s())):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                self._turns.nothing_waits()
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                _log.error("no room for another connection", reason=str(error))
                self._look_later(_NO_ROOM_S)
                return
            self._take(connection)
        if self._turns.is_left:
            self._look_later(_LEFT_S)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._set_up(connection))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)
        self.tell()

    async def _set_up(self, connection: socket.socket) -> None:
        try:
            _, protocol = await self._loop.connect_accepted_socket(
                self._make, connection, ssl=self._tls
            )
            if self._is_closed:
                # It came while this process began to stop.
                protocol.shutdown()
        except (OSError, TimeoutError) as error:
            # It has hung up, or speaks no TLS.
            connection.close()
            _log.debug("a connection was not set up", reason=str(error))
