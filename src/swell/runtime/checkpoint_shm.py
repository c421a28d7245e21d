"""Memory in which a model process leaves checkpoints for its worker, who looks when it is dead.

Nothing is sent: after a step the latents are copied into memory that both processes have, and who
kills the process leaves that memory as it is.

It is a file without a name, cut into pages, one for each sample. A page has two places, which are
written in turns, and a word that says which of them is whole. That word is written last: so what is
found is what was told last, or what was told before it, and never half of both. Who reads while the
other one writes looks at the word once more afterwards.

    page    head, about (MessagePack), place 0, place 1
    head    words of eight bytes: magic, turn (0 for nothing), bytes of the page, of about, of x, of
            h, steps in place 0, steps in place 1
    turn    twice a number that grows with each writing, plus the place
    steps   twice how many are over, plus 1 for a sample that was narrowed
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

#: Its number, of this layout.
FORMAT: Final = 1


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Latents after so many steps, as little-endian float32, row-major."""

    format: int
    #: What must be the same where it goes on.
    identity: str
    #: Steps that are over.
    step: int
    x: bytes
    #: What the solver keeps of the steps before, if it looks back.
    h: bytes | None
    #: See `SampleState.is_narrowed`.
    is_narrowed: bool = False


_encode_sample = msgspec.msgpack.Encoder().encode
_decode_sample = msgspec.msgpack.Decoder(Checkpoint).decode


def encode_checkpoint(
    identity: str, step: int, x: bytes, h: bytes | None, *, is_narrowed: bool = False
) -> bytes:
    """Return the bytes of a checkpoint. `x` and `h` are as `Checkpoint` has them."""
    return _encode_sample(Checkpoint(FORMAT, identity, step, x, h, is_narrowed))


def decode_checkpoint(raw: bytes) -> Checkpoint:
    """Return what the bytes say; its format may be another.

    Raises:
        msgspec.MsgspecError: They are none of a checkpoint.
    """
    return _decode_sample(raw)


_MAGIC: Final = int.from_bytes(b"slate  2", "little")
_HEAD: Final = struct.Struct("=8Q")
_TURN, _STEPS = 1, 6

#: Places begin at multiples of so many bytes.
_ALIGNED: Final = 64

#: A free page is taken if it is at most so many times as large as what is to be kept.
_WASTE: Final = 2

#: Who reads while the other one writes tries so often.
_TRIES: Final = 8

#: Largest text about a sample, and largest place.
_MAX_ABOUT_BYTES: Final = 1 << 20
_MAX_PLACE_BYTES: Final = 1 << 28

#: Memory is taken in pieces of so many bytes, or as large as a page: each takes an open file.
_PIECE_BYTES: Final = 4 << 20


class Kept(msgspec.Struct, frozen=True):
    """Checkpoint of a sample, from which it can go on if this process dies, or elsewhere."""

    #: Of its task.
    handle: int
    index: int
    checkpoint: bytes
    #: Of the task's first sample: another seed could not go on from it.
    seed: int


class _About(msgspec.Struct, frozen=True, array_like=True):
    """What does not change from step to step."""

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
        """Whether all that it tells of lies within the page."""
        inside = self.places_at + 2 * self.place_bytes <= self.page_bytes
        is_small = self.about_bytes <= _MAX_ABOUT_BYTES and self.place_bytes <= _MAX_PLACE_BYTES
        return inside and is_small


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_About).decode


def new_slate() -> BinaryIO:
    """Return an empty file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("swell-slate"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


class _Leaf:
    """Memory of a page."""

    __slots__ = ("memory", "size", "words")

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.size = len(memory)
        self.words = memory.cast("Q")
        # Whoever reads finds the next one by it.
        _HEAD.pack_into(memory, 0, *_Head(_MAGIC, 0, self.size, 0, 0, 0, 0, 0))


class Page:
    """Where one sample's checkpoints lie. Made by `CheckpointMemory.page`."""

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
        """Keep what a sample is after so many steps; nothing if the page was given back meanwhile.

        Args:
            step: So many are over.
            x: Bytes of as many numbers as the page was made for, as `Checkpoint` has them.
            h: The same, of what the solver keeps.
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
            # Last, and as one word: see above.
            self._slate.turn = turn = self._slate.turn + 1
            words[_TURN] = 2 * turn + place

    def clear(self) -> None:
        """Have nothing found here, and nothing written any more."""
        with self._slate.lock:
            self.leaf.words[_TURN] = 0
            self._is_given_back = True


class CheckpointMemory:
    """A model process's end: makes pages and takes them back.

    Pages are made and given back by one thread; any thread may write.

    Args:
        fd: Of the file; the slate is not its owner.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._end = 0
        #: What is left of the latest piece.
        self._rest = memoryview(b"")
        self._free: list[_Leaf] = []
        #: Grows with each writing; whoever holds the lock may write.
        self.turn = 0
        self.lock = threading.Lock()

    def page(
        self, handle: int, index: int, seed: int, identity: str, x_bytes: int, h_bytes: int
    ) -> Page:
        """Return a page for a sample, which is found once it was written.

        Args:
            handle: Of its task.
            index: Which of the task's samples.
            seed: Of the task's first sample.
            identity: See `Checkpoint`.
            x_bytes: Of its latents.
            h_bytes: Of what its solver keeps; 0 for nothing.

        Raises:
            OSError: There is no memory for it, or it is larger than any.
        """
        if x_bytes + h_bytes > _MAX_PLACE_BYTES:
            raise OSError(errno.EFBIG, f"a sample of {x_bytes + h_bytes} bytes has no place")
        about = _encode(_About(handle, index, seed, identity))
        needed = _aligned(_HEAD.size + len(about)) + 2 * _aligned(x_bytes + h_bytes)
        size = -(-needed // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        leaf = self._found(size) or self._made(size)
        return Page(self, leaf, about, x_bytes, h_bytes)

    def give_back(self, page: Page) -> None:
        """Take a page back: nobody needs its sample any more."""
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
            # Now, rather than with a signal when it is written to.
            os.posix_fallocate(self._fd, self._end, piece_bytes)
            piece = mmap.mmap(self._fd, piece_bytes, offset=self._end)
            self._end += piece_bytes
            if self._rest:
                self._free.append(_Leaf(self._rest))
            self._rest = memoryview(piece)
        leaf, self._rest = _Leaf(self._rest[:size]), self._rest[size:]
        return leaf


def read_slate(fd: int, handles: Collection[int]) -> list[Kept]:
    """Return the checkpoints of these tasks' samples.

    Believes nothing: what makes no sense ends the reading, or is left out.
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
