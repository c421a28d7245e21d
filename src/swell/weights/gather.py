"""Chunks of weights from a server into the cache: many at once, each compared with its digest.

A chunk goes from the socket into a buffer of its thread, is hashed there, and only then written
where it belongs: nothing that is wrong ever lies in the cache. Threads do it, since sockets, hashes
and files all let go of Python's lock.

What may go wrong on the way, and what is done:

    cut off, 5xx, 408, 429     tried again, after a while that grows
    nothing or a drip          given up after `Terms.stall_s`, and tried again
    slower than the others     asked for once more beside it, when nothing else is left (a hedge)
    400, 401, 403, 410         the address has run out: a new one is asked for
    wrong bytes or length      asked for once more at a new address, then refused for good
    404                        refused: it was never pushed, or has been removed

Only requests are timed: whoever waits for an address waits as long as it takes.
"""

import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import statistics
import threading
import urllib.parse
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from swell.core.clock import Clock
from swell.weights.cache import DigestMismatch, PullFailed
from swell.weights.chunks import Manifest
from swell.weights.growing import GivenUp, Growing
from swell.weights.reading import host_memory

#: Chunks asked for at once. Buffers of so many chunks are held.
FETCHES: Final = 12

#: Of a request; one of these at least within `Terms.stall_s`.
SLICE_BYTES: Final = 256 << 10

#: A chunk that has taken so many times as long as the others did is hedged.
HEDGE_TIMES: Final = 3.0

_LOOK_S: Final = 0.25

#: Threads that are over have so long to go, in seconds; one may hang in the resolver of names, and
#: is left behind: it can write nothing any more.
_LEAVE_S: Final = 0.5

_REDIRECTS: Final = 3
_RUN_OUT: Final = (400, 401, 403, 410)
_PASSING: Final = (408, 425, 429)


@dataclass(frozen=True, slots=True)
class Terms:
    """How servers are treated.

    Args:
        trust: Certificates for `https`; None for those of the system.
        stall_s: Next to nothing within so long counts as broken off.
        hedge_s: Nothing is hedged earlier.
        wait_s: Before the second try; doubled for each further one.
        most_wait_s: Longest wait between two tries.
        tries: Of one chunk that fail in passing.
    """

    trust: ssl.SSLContext | None = None
    stall_s: float = 15.0
    hedge_s: float = 1.0
    wait_s: float = 0.25
    most_wait_s: float = 8.0
    tries: int = 8


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk can be had.

    Args:
        url: `https:`, `http:` or `file:`. Digests are compared, so that it need not be trusted.
        headers: That must go along.
    """

    url: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)


class Places(Protocol):
    """Who knows where chunks are."""

    def place(self, digest: str) -> Place:
        """Return where a chunk is now; called by any thread, and may block it.

        Raises:
            PullFailed: Nobody tells.
            GivenUp: Nobody wants it any more.
        """
        ...

    def forget(self, digest: str) -> None:
        """Have another place told the next time; called by any thread."""
        ...


class _Passing(Exception):
    """It may go well at another try."""


class _RunOut(Exception):
    """The address is not accepted (any more)."""


class _Wrong(Exception):
    """What came is something else; the text says what."""


_TRIED_AGAIN: Final = (
    _Passing,
    _RunOut,
    _Wrong,
    OSError,
    http.client.HTTPException,
)


@dataclass(slots=True)
class _Attempt:
    """One request, from when its chunk was taken."""

    digest: str
    #: When it was sent, in monotonic seconds; None while its address is asked for.
    begun_s: float | None = None
    #: The connection that it uses now.
    sock: socket.socket | None = None
    slices: int = 0
    #: What was seen when somebody looked last, and when.
    seen: tuple[int, float] = (0, 0.0)
    #: Why it was given up by somebody else.
    cut: str = ""
    #: Held where its connection is shut down, and where it is its no more.
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def use(self, sock: socket.socket | None) -> None:
        """Have this connection shut down where it is given up; None for none."""
        with self._changing:
            self.sock = sock

    def give_up(self, why: str) -> None:
        """Have its thread go on with something else; called by any other thread."""
        with self._changing:
            self.cut = self.cut or why
            if self.sock is not None:
                with contextlib.suppress(OSError):
                    # That of a TLS connection would have its thread read on as if nothing was
                    # encrypted. This one ends what both stand on, which is an end to TLS too.
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)


@dataclass(slots=True)
class _Chunk:
    """What is to be had, and everywhere that it belongs."""

    digest: str
    size: int
    told: str
    homes: list[tuple[Growing, int]] = field(default_factory=list)
    is_done: bool = False
    failures: int = 0
    wrongs: int = 0


class Gathering:
    """Brings the chunks that some files of one manifest lack.

    Args:
        files: Of the manifest.
        manifest: Of which chunks they are.
        places: Who knows where they are.
        clock: For time-outs.
        stopping: Set where nobody wants them any more.
        terms: How servers are treated.
        moved: Told of the bytes of each chunk that has come, by any thread.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, Growing]],
        manifest: Manifest,
        places: Places,
        clock: Clock,
        *,
        stopping: threading.Event | None = None,
        terms: Terms | None = None,
        moved: Callable[[int], None] | None = None,
    ) -> None:
        self._terms = terms or Terms()
        self._stopping = stopping or threading.Event()
        self._places = places
        self._clock = clock
        self._moved = moved
        self._chunks = _lacking(files, manifest)
        self._waiting = deque(self._chunks.values())
        self._left = len(self._chunks)
        self._changed = threading.Condition()
        self._attempts: list[_Attempt] = []
        #: Threads that write what has come.
        self._writing = 0
        self._took_s: list[float] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Bring them all; blocks.

        Raises:
            PullFailed: They cannot be had.
            DigestMismatch: One is not what it should be, and was not at a second try.
            CacheFull, CacheUnusable: The disk does not take them.
            GivenUp: `stopping` was set; what has come is kept.
        """
        threads = [
            threading.Thread(target=self._work, name=f"chunks {number}", daemon=True)
            for number in range(min(FETCHES, self._left))
        ]
        for thread in threads:
            thread.start()
        with self._changed:
            # Whoever writes uses files that are closed afterwards.
            while not self._is_over or self._writing:
                if self._stopping.is_set():
                    self._fail(GivenUp("nobody wants these weights any more"))
                self._changed.wait(_LOOK_S)
                self._look()
            for attempt in self._attempts:
                attempt.give_up("it is over")
        until_s = self._clock.monotonic_s() + _LEAVE_S
        for thread in threads:
            thread.join(max(0.0, until_s - self._clock.monotonic_s()))
        if self._error is not None:
            raise self._error

    @property
    def _is_over(self) -> bool:
        return self._error is not None or not self._left

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def _look(self) -> None:
        """Give up what does not move."""
        now_s = self._clock.monotonic_s()
        for attempt in self._attempts:
            slices, at_s = attempt.seen
            if attempt.begun_s is None:
                continue
            if attempt.slices > slices or not at_s:
                attempt.seen = (attempt.slices, now_s)
            elif now_s - at_s > self._terms.stall_s:
                attempt.give_up(f"next to nothing was heard for {self._terms.stall_s:.0f} s")

    # --- one thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        line = _Line(self._terms)
        try:
            buffer = memoryview(host_memory(max(each.size for each in self._chunks.values())))
            while (taken := self._take()) is not None:
                chunk, attempt = taken
                self._bring(chunk, attempt, line, buffer)
        except BaseException as error:
            self._fail(error)
        finally:
            line.close()

    def _take(self) -> tuple[_Chunk, _Attempt] | None:
        """Return what to ask for next; None once all is there."""
        with self._changed:
            while not self._is_over:
                chunk = self._waiting.popleft() if self._waiting else self._slow()
                if chunk is not None and not chunk.is_done:
                    attempt = _Attempt(chunk.digest)
                    self._attempts.append(attempt)
                    return chunk, attempt
                if chunk is None:
                    self._changed.wait(_LOOK_S)
            return None

    def _slow(self) -> _Chunk | None:
        """Return a chunk that takes longer than others did, and is asked for once only."""
        least_s = self._terms.hedge_s
        usual_s = statistics.median(self._took_s) if self._took_s else least_s
        limit_s = max(HEDGE_TIMES * usual_s, least_s)
        now_s = self._clock.monotonic_s()
        for attempt in self._attempts:
            if self._chunks[attempt.digest].is_done or attempt.begun_s is None:
                continue
            twins = sum(each.digest == attempt.digest for each in self._attempts)
            if twins == 1 and now_s - attempt.begun_s > limit_s:
                return self._chunks[attempt.digest]
        return None

    def _bring(self, chunk: _Chunk, attempt: _Attempt, line: "_Line", buffer: memoryview) -> None:
        view, wait_s = buffer[: chunk.size], 0.0
        try:
            place = self._places.place(chunk.digest)
            attempt.begun_s = self._clock.monotonic_s()
            line.get(place, view, attempt)
            found = hashlib.sha256(view).hexdigest()
            if found != chunk.digest:
                raise _Wrong(f"its SHA-256 is {found}, and {chunk.digest} was asked for")
        except _TRIED_AGAIN as error:
            line.close()
            wait_s = self._excuse(chunk, attempt, error)
        else:
            self._have(chunk, attempt, view)
        finally:
            with self._changed:
                self._attempts.remove(attempt)
        if wait_s:
            self._again(chunk, wait_s)

    def _have(self, chunk: _Chunk, attempt: _Attempt, view: memoryview) -> None:
        with self._changed:
            if chunk.is_done or self._is_over:
                return
            # From here on nobody else writes it.
            chunk.is_done = True
            self._left -= 1
            self._writing += 1
            self._took_s.append(self._clock.monotonic_s() - (attempt.begun_s or 0.0))
            for twin in self._attempts:
                if twin is not attempt and twin.digest == chunk.digest:
                    twin.give_up("another request was faster")
        try:
            for growing, number in chunk.homes:
                growing.write(number, view)
            if self._moved is not None:
                self._moved(chunk.size)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()

    def _excuse(self, chunk: _Chunk, attempt: _Attempt, error: Exception) -> float:
        """Return after how long to try again; 0 where nobody needs to.

        Raises:
            PullFailed, DigestMismatch: It is of no use.
        """
        with self._changed:
            if chunk.is_done or self._is_over:
                return 0.0
            chunk.failures += 1
            chunk.wrongs += isinstance(error, _Wrong)
        self._places.forget(chunk.digest)
        why = attempt.cut or str(error) or type(error).__name__
        if chunk.wrongs > 1:
            raise DigestMismatch(
                f"{chunk.told}: {why}. It came wrong twice: it was changed where it lies or on the "
                "way, so nothing of this file is used. Push the model again with "
                "`swell models push --verify`, which replaces what is wrong where it lies"
            )
        if chunk.failures >= self._terms.tries:
            raise PullFailed(
                f"{chunk.told}: {why} ({chunk.failures} tries). What has come so far is kept: try "
                "again"
            )
        return min(self._terms.wait_s * 2.0 ** (chunk.failures - 1), self._terms.most_wait_s)

    def _again(self, chunk: _Chunk, wait_s: float) -> None:
        until_s = self._clock.monotonic_s() + wait_s
        with self._changed:
            while not self._is_over and (left_s := until_s - self._clock.monotonic_s()) > 0:
                self._changed.wait(left_s)
            self._waiting.append(chunk)
            self._changed.notify_all()


def _lacking(files: Sequence[tuple[str, Growing]], manifest: Manifest) -> dict[str, _Chunk]:
    found: dict[str, _Chunk] = {}
    for name, growing in files:
        count = len(growing.file.chunks)
        for number, digest in enumerate(growing.file.chunks):
            if growing.has[number]:
                continue
            chunk_bytes = manifest.chunk_bytes
            size = min(chunk_bytes, growing.file.bytes - number * chunk_bytes)
            told = f"{name} of {manifest.model}, chunk {number + 1} of {count}"
            found.setdefault(digest, _Chunk(digest, size, told)).homes.append((growing, number))
    return found


class _Line:
    """A connection that is used again as long as it leads to the same host."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._to: tuple[str, str] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None

    def close(self) -> None:
        """Let it go."""
        if self._response is not None:
            self._response.close()
        if self._connection is not None:
            self._connection.close()
        self._response = self._connection = self._to = None

    def get(self, place: Place, view: memoryview, attempt: _Attempt) -> None:
        """Fill `view` with what lies at a place.

        Raises:
            _Passing, _RunOut, _Wrong, OSError, HTTPException: It did not come.
            PullFailed: There is nothing.
        """
        try:
            self._get(place, view, attempt)
        finally:
            # It may be closed, or be used for another, from here on.
            attempt.use(None)
        if attempt.cut:
            # Perhaps after its last byte.
            self.close()

    def _get(self, place: Place, view: memoryview, attempt: _Attempt) -> None:
        parts = urllib.parse.urlsplit(place.url)
        if parts.scheme == "file":
            _read_file(Path(urllib.parse.unquote(parts.path)), view)
            return
        for _ in range(_REDIRECTS + 1):
            response = self._ask(parts, place.headers, attempt)
            if response.status not in (301, 302, 303, 307, 308):
                break
            response.close()
            url = urllib.parse.urljoin(parts.geturl(), response.headers.get("Location", ""))
            parts = urllib.parse.urlsplit(url)
            attempt.use(None)
            self.close()
        _check(response, parts.hostname or "", len(view))
        _fill(response, view, attempt)
        if response.will_close:
            attempt.use(None)
            self.close()

    def _ask(
        self, parts: urllib.parse.SplitResult, headers: dict[str, str], attempt: _Attempt
    ) -> http.client.HTTPResponse:
        if self._to != (parts.scheme, parts.netloc) or self._connection is None:
            self.close()
            self._connection = self._open(parts)
            self._to = (parts.scheme, parts.netloc)
        connection = self._connection
        if connection.sock is None:
            connection.connect()
        attempt.use(connection.sock)
        if attempt.cut:
            raise _Passing(attempt.cut)
        target = parts.path or "/"
        target += f"?{parts.query}" if parts.query else ""
        connection.request("GET", target, headers={"Accept-Encoding": "identity", **headers})
        self._response = connection.getresponse()
        return self._response

    def _open(self, parts: urllib.parse.SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                host, parts.port, timeout=self._terms.stall_s, context=self._terms.trust
            )
        if parts.scheme != "http":
            raise PullFailed(f"chunks are fetched by http or https, not {parts.scheme[:20]!r}")
        return http.client.HTTPConnection(host, parts.port, timeout=self._terms.stall_s)


def _read_file(path: Path, view: memoryview) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise PullFailed(f"there is no chunk {path}: push the model again") from None
    try:
        if os.fstat(fd).st_size != len(view):
            raise _Wrong(f"{path} has {os.fstat(fd).st_size} bytes instead of {len(view)}")
        at = 0
        while at < len(view) and (got := os.preadv(fd, [view[at:]], at)):
            at += got
    finally:
        os.close(fd)


def _check(response: http.client.HTTPResponse, host: str, size: int) -> None:
    status = response.status
    if status == 404:
        raise PullFailed(
            f"{host} has no such chunk: the model was not pushed whole, or was removed there; push "
            "it again"
        )
    if status in _RUN_OUT:
        raise _RunOut(f"{host} answered {status}")
    if status >= 500 or status in _PASSING:
        raise _Passing(f"{host} answered {status}")
    if status != 200:
        raise PullFailed(f"{host} answered {status}, which is not expected")
    packed = response.headers.get("Content-Encoding", "identity").lower()
    if packed not in ("", "identity"):
        raise _Wrong(f"{host} sends it packed as {packed[:20]}")
    if response.length not in (None, size):
        raise _Wrong(f"{host} would send {response.length} bytes instead of {size}")


def _fill(response: http.client.HTTPResponse, view: memoryview, attempt: _Attempt) -> None:
    at = 0
    while at < len(view):
        got = response.readinto(view[at : at + SLICE_BYTES])
        if attempt.cut:
            raise _Passing(attempt.cut)
        if not got:
            raise _Passing(f"it ended after {at} of {len(view)} bytes")
        at += got
        attempt.slices += 1
    # Of a body without a length this reads its end as well, and tells if there is more.
    if response.length is None and response.read(1):
        raise _Wrong(f"more than {len(view)} bytes were sent")
