"""Shared-memory checkpoints.

The model process copies the latents into shared memory after each step; the worker reads them if
the process crashes. No message is sent, and killing the process does not change the memory.

The memory is an unnamed file, divided into pages, one per sample. A page has two places, written
alternately, and a word that says which place is valid. The writer sets that word last, so a reader
finds the newest checkpoint or the one before it, never a mixture. A reader checks the word again
after reading, in case the model process wrote at the same time.

    page    head, about (MessagePack), place 0, place 1
    head    eight-byte words: magic, turn (0: no checkpoint), sizes in bytes of page, about, x and
            h, steps in place 0, steps in place 1
    turn    twice a number that grows with each write, plus the index of the valid place
    steps   twice the number of completed steps, plus 1 if the sample was narrowed
    place   x, then h, as in `Checkpoint`
"""

import errno
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Collection, Iterator
from typing import BinaryIO, Final, NamedTuple

import msgspec

#: Version of the checkpoint format.
FORMAT: Final = 1


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Latents of a sample after a step, as little-endian float32, row-major."""

    format: int
    #: Must match in the process that resumes the sample.
    identity: str
    #: Number of completed steps.
    step: int
    x: bytes
    #: State of a multistep solver; None for other solvers.
    h: bytes | None
    #: See `SampleState.is_narrowed`.
    is_narrowed: bool = False


_encode_sample = msgspec.msgpack.Encoder().encode
_decode_sample = msgspec.msgpack.Decoder(Checkpoint).decode


def encode_checkpoint(
    identity: str, step: int, x: bytes, h: bytes | None, *, is_narrowed: bool = False
) -> bytes:
    """Encode a checkpoint. `x` and `h` are as in `Checkpoint`."""
    return _encode_sample(Checkpoint(FORMAT, identity, step, x, h, is_narrowed))


def decode_checkpoint(raw: bytes) -> Checkpoint:
    """Decode a checkpoint, which may have another format version.

    Raises:
        msgspec.MsgspecError: The bytes are not a checkpoint.
    """
    return _decode_sample(raw)


_MAGIC: Final = int.from_bytes(b"slate  2", "little")
_HEAD: Final = struct.Struct("=8Q")
_TURN, _STEPS = 1, 6

#: Alignment of places, in bytes.
_ALIGNED: Final = 64

#: A free page is reused if its size is at most this multiple of the size needed.
_WASTE: Final = 2

#: Attempts to read a page while the model process writes to it.
_TRIES: Final = 8

#: Largest `about` of a page, and largest place.
_MAX_ABOUT_BYTES: Final = 1 << 20
_MAX_PLACE_BYTES: Final = 1 << 28

#: Least size of one memory mapping: each mapping uses an open file.
_PIECE_BYTES: Final = 4 << 20


class Kept(msgspec.Struct, frozen=True):
    """Checkpoint of a sample, with which another process can resume it."""

    #: Handle of the task.
    handle: int
    index: int
    checkpoint: bytes
    #: Seed of the task's first sample; the sample can only resume with the same seed.
    seed: int


class _About(msgspec.Struct, frozen=True, array_like=True):
    """The constant part of a page: the sample that it belongs to."""

    handle: int
    index: int
    seed: int
    identity: str


class _Head(NamedTuple):
    magic: int
    turn: int
    page_bytes: int
    about_bytes: int
    x_bytes: int
    h_bytes: int
    steps_0: int
    steps_1: int

    @property
    def places_at(self) -> int:
        return _aligned(_HEAD.size + self.about_bytes)

    @property
    def place_bytes(self) -> int:
        return _aligned(self.x_bytes + self.h_bytes)

    @property
    def is_sound(self) -> bool:
        """Whether all sizes in the head fit within the page."""
        inside = self.places_at + 2 * self.place_bytes <= self.page_bytes
        is_small = self.about_bytes <= _MAX_ABOUT_BYTES and self.place_bytes <= _MAX_PLACE_BYTES
        return inside and is_small


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_About).decode


def new_slate() -> BinaryIO:
    """Return an empty unnamed file, in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("swell-slate"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


class _Leaf:
    """Memory of one page."""

    __slots__ = ("memory", "size", "words")

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.size = len(memory)
        self.words = memory.cast("Q")
        # A reader finds the next page by this size.
        _HEAD.pack_into(memory, 0, *_Head(_MAGIC, 0, self.size, 0, 0, 0, 0, 0))


class Page:
    """Holds the checkpoints of one sample. Created by `CheckpointMemory.page`."""

    __slots__ = ("_is_given_back", "_places", "_slate", "leaf")

    def __init__(
        self, slate: "CheckpointMemory", leaf: _Leaf, about: bytes, x_bytes: int, h_bytes: int
    ) -> None:
        self._slate = slate
        self.leaf = leaf
        head = _Head(_MAGIC, 0, leaf.size, len(about), x_bytes, h_bytes, 0, 0)
        _HEAD.pack_into(leaf.memory, 0, *head)
        leaf.memory[_HEAD.size : _HEAD.size + len(about)] = about
        whole, size = leaf.memory, x_bytes + h_bytes
        first = head.places_at
        second = first + head.place_bytes
        self._places = whole[first : first + size], whole[second : second + size]
        self._is_given_back = False

    def write(
        self, step: int, x: memoryview, h: memoryview | None = None, *, is_narrowed: bool = False
    ) -> None:
        """Write the checkpoint of a sample; do nothing if the page was already given back.

        Args:
            step: Number of completed steps.
            x: The latents, as in `Checkpoint`, of the size that the page was made for.
            h: State of the solver, likewise.
            is_narrowed: See `SampleState`.
        """
        words = self.leaf.words
        with self._slate.lock:
            if self._is_given_back:
                return
            place = 1 - words[_TURN] % 2
            where = self._places[place]
            where[: len(x)] = x
            if h is not None:
                where[len(x) :] = h
            words[_STEPS + place] = 2 * step + is_narrowed
            # Written last, and as one word: see the module docstring.
            self._slate.turn = turn = self._slate.turn + 1
            words[_TURN] = 2 * turn + place

    def clear(self) -> None:
        """Remove the checkpoint, and ignore later writes."""
        with self._slate.lock:
            self.leaf.words[_TURN] = 0
            self._is_given_back = True


class CheckpointMemory:
    """The model process's side: creates pages and reuses those that are given back.

    One thread creates pages and gives them back; any thread may write.

    Args:
        fd: The shared file; the caller closes it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = 0
        #: Unused rest of the latest mapping.
        self._rest = memoryview(b"")
        self._free: list[_Leaf] = []
        #: Grows with each write; `lock` protects it and all pages.
        self.turn = 0
        self.lock = threading.Lock()

    def page(
        self, handle: int, index: int, seed: int, identity: str, x_bytes: int, h_bytes: int
    ) -> Page:
        """Return a page for a sample; readers find it after the first write.

        Args:
            handle: Handle of the task.
            index: Index of the sample in its task.
            seed: Seed of the task's first sample.
            identity: See `Checkpoint`.
            x_bytes: Size of its latents.
            h_bytes: Size of the solver's state; 0 for none.

        Raises:
            OSError: Memory is exhausted, or the sample is too large for a page.
        """
        if x_bytes + h_bytes > _MAX_PLACE_BYTES:
            raise OSError(errno.EFBIG, f"a sample of {x_bytes + h_bytes} bytes has no place")
        about = _encode(_About(handle, index, seed, identity))
        needed = _aligned(_HEAD.size + len(about)) + 2 * _aligned(x_bytes + h_bytes)
        size = -(-needed // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        leaf = self._found(size) or self._made(size)
        return Page(self, leaf, about, x_bytes, h_bytes)

    def give_back(self, page: Page) -> None:
        """Free a page for another sample."""
        page.clear()
        self._free.append(page.leaf)

    def _found(self, size: int) -> _Leaf | None:
        fitting = [leaf for leaf in self._free if size <= leaf.size <= _WASTE * size]
        if not fitting:
            return None
        best = min(fitting, key=lambda leaf: leaf.size)
        self._free.remove(best)
        return best

    def _made(self, size: int) -> _Leaf:
        if len(self._rest) < size:
            piece_bytes = max(size, _PIECE_BYTES)
            # Lack of memory raises an error here instead of SIGBUS on a later write.
            os.posix_fallocate(self._fd, self._end, piece_bytes)
            piece = mmap.mmap(self._fd, piece_bytes, offset=self._end)
            self._end += piece_bytes
            if self._rest:
                self._free.append(_Leaf(self._rest))
            self._rest = memoryview(piece)
        leaf, self._rest = _Leaf(self._rest[:size]), self._rest[size:]
        return leaf


def read_slate(fd: int, handles: Collection[int]) -> list[Kept]:
    """Read the checkpoints of these tasks' samples.

    Data is not trusted: an invalid page ends the reading or is skipped.
    """
    return [kept for at, head in _pages(fd) if (kept := _read(fd, at, head, handles)) is not None]


def _pages(fd: int) -> Iterator[tuple[int, _Head]]:
    at, end = 0, os.fstat(fd).st_size
    while at < end:
        head = _head(fd, at)
        if head is None or head.magic != _MAGIC or not _HEAD.size < head.page_bytes <= end - at:
            return
        yield at, head
        at += head.page_bytes


def _head(fd: int, at: int) -> _Head | None:
    raw = os.pread(fd, _HEAD.size, at)
    return _Head(*_HEAD.unpack(raw)) if len(raw) == _HEAD.size else None


def _read(fd: int, at: int, head: _Head | None, handles: Collection[int]) -> Kept | None:
    for _ in range(_TRIES):
        if head is None or not head.turn or not head.is_sound:
            return None
        place = head.turn % 2
        where = at + head.places_at + place * head.place_bytes
        about_raw = os.pread(fd, head.about_bytes, at + _HEAD.size)
        x = os.pread(fd, head.x_bytes, where)
        h = os.pread(fd, head.h_bytes, where + head.x_bytes)
        seen, head = head, _head(fd, at)
        if head is None or head.turn != seen.turn:
            continue
        if len(x) != seen.x_bytes or len(h) != seen.h_bytes:
            return None
        try:
            about = _decode(about_raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if about.handle not in handles:
            return None
        step, is_narrowed = divmod(seen.steps_1 if place else seen.steps_0, 2)
        checkpoint = encode_checkpoint(
            about.identity, step, x, h or None, is_narrowed=bool(is_narrowed)
        )
        return Kept(about.handle, about.index, checkpoint, about.seed)
    return None


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
