"""The model process's end of the socket, while its worker is slow to read."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from swell.core.clock import SystemClock
from swell.runtime.ipc import LARGE_BYTES, Pipe, WorkerGone
from swell.runtime.ipc_messages import (
    HEAD_BYTES,
    Done,
    Frame,
    Pixels,
    Results,
    Run,
    Step,
    Stop,
    Watch,
    decode_frame,
    encode_frame,
)
from swell.runtime.model_residency import means_broken
from swell.sdk.model import DeviceBroken


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def ends(pair: tuple[socket.socket, socket.socket]) -> tuple[Pipe, socket.socket]:
    ours, theirs = pair
    return Pipe(ours, SystemClock()), theirs


def results(number: int, size_bytes: int) -> Results:
    pixels = Pixels("L", size_bytes, 1, bytes(size_bytes), "", b"{}", number)
    return Results(number, [Done(1, b"null", 1, 0.1, [pixels])], [], [], False)


def read(theirs: socket.socket) -> Frame:
    size = int.from_bytes(take(theirs, HEAD_BYTES), "big")
    return decode_frame(take(theirs, size))


def take(theirs: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = theirs.recv(count - len(data))
        assert part
        data += part
    return bytes(data)


def test_a_model_goes_on_while_nobody_reads_its_pictures(
    ends: tuple[Pipe, socket.socket],
) -> None:
    pipe, theirs = ends
    # Far more than any socket holds: this would wait for ever.
    said: list[Frame] = [results(1, 8 << 20), Step(1, 1, 2), results(2, LARGE_BYTES), Step(1, 2, 2)]
    for frame in said:
        pipe.send(frame)
    assert [read(theirs) for _ in said] == said
    pipe.send(Step(2, 1, 1))
    assert read(theirs) == Step(2, 1, 1)


@pytest.mark.parametrize("before", [0, 8 << 20])
def test_what_is_said_together_comes_in_order_after_all_before(
    ends: tuple[Pipe, socket.socket], before: int
) -> None:
    pipe, theirs = ends
    said: list[Frame] = [results(1, before), Step(1, 1, 2), Step(1, 2, 2), Step(2, 1, 1)]
    pipe.send(said[0])
    pipe.send_made(lambda: said[1:])
    pipe.send_made(lambda: [])
    assert [read(theirs) for _ in said] == said


def test_a_model_hears_that_its_worker_has_gone_while_pictures_were_on_their_way(
    ends: tuple[Pipe, socket.socket],
) -> None:
    pipe, theirs = ends
    pipe.send(results(1, 8 << 20))
    theirs.close()
    with pytest.raises(WorkerGone):
        say_more(pipe)


def say_more(pipe: Pipe) -> None:
    while True:
        pipe.send(results(2, 8 << 20))


def test_what_is_made_aside_comes_in_its_turn(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    may_make = threading.Event()

    def made() -> list[Frame]:
        may_make.wait(20)
        return [Step(1, 1, 3)]

    pipe.send_made(made)
    pipe.send(Step(1, 2, 3))
    may_make.set()
    assert [read(theirs), read(theirs)] == [Step(1, 1, 3), Step(1, 2, 3)]


def test_where_something_cannot_be_made_both_ends_see_that_it_is_over(
    ends: tuple[Pipe, socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    pipe, theirs = ends

    def broken() -> list[Frame]:
        raise RuntimeError("no such frame")

    pipe.send_made(broken)
    assert theirs.recv(1) == b""
    with pytest.raises(WorkerGone):
        pipe.next()
    assert "no such frame" in capfd.readouterr().err


def test_a_device_that_breaks_under_a_result_ends_the_process_and_says_so(
    ends: tuple[Pipe, socket.socket],
) -> None:
    pipe, theirs = ends

    def broken() -> list[Frame]:
        raise DeviceBroken("an illegal memory access was encountered")

    pipe.send_made(broken)
    pipe.flush()
    assert theirs.recv(1) == b""
    with pytest.raises(WorkerGone):
        pipe.next()
    assert means_broken(pipe.error)


def test_what_comes_too_late_for_a_task_is_forgotten_when_nothing_is_left_to_do(
    ends: tuple[Pipe, socket.socket],
) -> None:
    pipe, theirs = ends
    theirs.sendall(b"".join(map(encode_frame, (Stop([1]), Watch([1])))))
    assert pipe.wait(20)
    pipe.listen()
    assert (pipe.stopped, pipe.watched) == ({1}, {1})
    late = (Run(2, "test/model", []), Stop([2]), Watch([3]))
    theirs.sendall(b"".join(map(encode_frame, late)))
    assert pipe.next() == late[0]
    assert (pipe.stopped, pipe.watched) == ({2}, {3})


def test_what_was_said_has_left_once_it_is_flushed(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    pipe.flush()
    for number in range(50):
        pipe.send_made(lambda number=number: [Step(1, number, 50)])
        pipe.send(Step(2, number, 50))
        pipe.flush()
        theirs.setblocking(False)
        assert [read(theirs), read(theirs)] == [Step(1, number, 50), Step(2, number, 50)]


def late(may_make: threading.Event, frame: Frame) -> Callable[[], list[Frame]]:
    """What is made once it may be."""

    def make() -> list[Frame]:
        assert may_make.wait(20)
        return [frame]

    return make


def test_it_is_told_what_has_left_the_process(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    may_make = threading.Event()
    before = pipe.send_made(lambda: [Step(1, 0, 3)])
    pipe.flush()
    assert before.is_set()
    assert read(theirs) == Step(1, 0, 3)
    both = [
        pipe.send_made(late(may_make, Step(1, 1, 3))),
        pipe.send_made(lambda: [Step(1, 2, 3)]),
    ]
    assert not any(sent.is_set() for sent in both)
    may_make.set()
    pipe.flush()
    assert all(sent.is_set() for sent in both)
    assert [read(theirs), read(theirs)] == [Step(1, 1, 3), Step(1, 2, 3)]


def test_what_is_lost_is_not_told_to_have_left(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    theirs.close()
    sent = pipe.send_made(lambda: [results(1, 8 << 20)])
    with pytest.raises(WorkerGone):
        say_more(pipe)
    assert not sent.is_set()
