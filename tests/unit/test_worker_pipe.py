"""The model process's end of the socket, while its worker is slow to read."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from swell.clock import ManualClock, SystemClock
from swell.worker import pipe as module_pipe
from swell.worker.frames import (
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
from swell.worker.pipe import (
    CATCH_UP_S,
    LARGE_BYTES,
    MOST_SPARE,
    NONE_SPARE_S,
    Pipe,
    WorkerGone,
    _takes_spare_only,
)


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
    return Results(number, [Done(1, b"null", 1, 0.1, [pixels])], [], [], False, 0)


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
    pipe.begin()
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


@pytest.mark.parametrize(
    "goes_on",
    [Pipe.begin, Pipe.flush, lambda pipe: pipe.wait(0), lambda pipe: pipe.send(Step(1, 2, 3))],
)
def test_what_is_made_aside_is_begun_when_the_model_leaves_time_for_it(
    ends: tuple[Pipe, socket.socket], goes_on: Callable[[Pipe], Any]
) -> None:
    pipe, theirs = ends
    made: list[int] = []
    pipe.send_made(lambda: made.append(1) or [Step(1, 1, 3)])  # type: ignore[func-returns-value]
    pipe.listen()
    assert pipe.take() is None
    assert not made
    goes_on(pipe)
    assert read(theirs) == Step(1, 1, 3)


def test_where_something_cannot_be_made_both_ends_see_that_it_is_over(
    ends: tuple[Pipe, socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    pipe, theirs = ends

    def broken() -> list[Frame]:
        raise RuntimeError("no such frame")

    pipe.send_made(broken)
    pipe.begin()
    assert theirs.recv(1) == b""
    with pytest.raises(WorkerGone):
        pipe.next()
    assert "no such frame" in capfd.readouterr().err


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


@pytest.mark.parametrize("is_spare", [False, True])
def test_it_is_told_what_has_left_the_process(
    ends: tuple[Pipe, socket.socket], is_spare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_pipe, "LAST_SPARE_S", 20.0)
    pipe, theirs = ends
    may_make = threading.Event()
    before = pipe.send_made(lambda: [Step(1, 0, 3)], is_spare=is_spare)
    assert not before.is_over
    pipe.flush()
    assert before.is_over
    assert read(theirs) == Step(1, 0, 3)
    both = [
        pipe.send_made(late(may_make, Step(1, 1, 3)), is_spare=is_spare),
        pipe.send_made(lambda: [Step(1, 2, 3)], is_spare=is_spare),
    ]
    pipe.begin()
    assert not any(sent.is_over for sent in both)
    may_make.set()
    pipe.flush()
    assert all(sent.is_over for sent in both)
    # What waits for spare processors may be overtaken.
    assert {read(theirs).done, read(theirs).done} == {1, 2}  # type: ignore[union-attr]


def test_what_is_lost_is_not_told_to_have_left(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    theirs.close()
    sent = pipe.send_made(lambda: [results(1, 8 << 20)])
    with pytest.raises(WorkerGone):
        say_more(pipe)
    assert not sent.is_over


def test_what_is_left_to_spare_processors_holds_up_nothing_else(
    ends: tuple[Pipe, socket.socket],
) -> None:
    pipe, theirs = ends
    may_make = threading.Event()
    pipe.send_made(late(may_make, Step(1, 3, 3)), is_spare=True)
    pipe.send_made(lambda: [Step(2, 1, 3)])
    pipe.send(Step(2, 2, 3))
    assert [read(theirs), read(theirs)] == [Step(2, 1, 3), Step(2, 2, 3)]
    may_make.set()
    assert read(theirs) == Step(1, 3, 3)
    pipe.wait_for_spare()


def test_whatever_is_said_after_waiting_for_it_comes_after_it(
    ends: tuple[Pipe, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_pipe, "LAST_SPARE_S", 20.0)
    pipe, theirs = ends
    may_make = threading.Event()
    pipe.send_made(late(may_make, Step(1, 3, 3)), is_spare=True)
    pipe.begin()
    threading.Timer(0.05, may_make.set).start()
    pipe.wait_for_spare()
    pipe.send(Step(2, 2, 3))
    assert [read(theirs), read(theirs)] == [Step(1, 3, 3), Step(2, 2, 3)]


def test_what_spare_processors_do_not_finish_keeps_nobody_from_the_next_batch(
    ends: tuple[Pipe, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_pipe, "LAST_SPARE_S", 0.05)
    pipe, theirs = ends
    may_make, began = threading.Event(), threading.Event()

    def stuck() -> list[Frame]:
        began.set()
        return late(may_make, Step(1, 3, 3))()

    stays = pipe.send_made(stuck, is_spare=True)
    pipe.begin()
    assert began.wait(20)
    left = pipe.send_made(lambda: [Step(2, 1, 3)])
    pipe.flush()
    assert left.is_over
    assert not stays.is_over
    may_make.set()
    assert [read(theirs), read(theirs)] == [Step(2, 1, 3), Step(1, 3, 3)]


def made_by(pipe: Pipe, theirs: socket.socket, *, is_spare: bool) -> tuple[str, int]:
    """The name and the policy of the thread that makes something."""
    seen: list[tuple[str, int]] = []

    def make() -> list[Frame]:
        policy = os.sched_getscheduler(0) if sys.platform == "linux" else 0
        seen.append((threading.current_thread().name, policy))
        return [Step(1, 1, 1)]

    pipe.send_made(make, is_spare=is_spare)
    pipe.begin()
    assert read(theirs) == Step(1, 1, 1)
    [found] = seen
    return found


def may_be_idle() -> bool:
    """Whether the system lets a thread have the policy."""
    found: list[bool] = []
    asks = threading.Thread(target=lambda: found.append(_takes_spare_only()))
    asks.start()
    asks.join()
    return found == [True]


def test_spare_processors_are_those_that_nobody_else_wants(
    ends: tuple[Pipe, socket.socket],
) -> None:
    if not may_be_idle():
        pytest.skip("no thread may have a policy of its own here")
    pipe, theirs = ends
    own = os.sched_getscheduler(0)
    name, policy = made_by(pipe, theirs, is_spare=True)
    assert (name, policy & ~os.SCHED_RESET_ON_FORK) == ("spare", os.SCHED_IDLE)
    assert made_by(pipe, theirs, is_spare=False) == ("send", own)
    assert os.sched_getscheduler(0) == own


def test_what_they_spend_is_told_apart(ends: tuple[Pipe, socket.socket]) -> None:
    if not hasattr(time, "pthread_getcpuclockid"):
        pytest.skip("threads have no clock here")
    pipe, theirs = ends
    assert pipe.spare_cpu_s == 0.0

    def busy() -> list[Frame]:
        end_s = time.thread_time() + 0.02
        while time.thread_time() < end_s:
            pass
        return [Step(1, 1, 1)]

    pipe.send_made(busy, is_spare=True)
    pipe.begin()
    read(theirs)
    assert 0.02 <= pipe.spare_cpu_s < 0.2


def test_where_the_system_knows_of_none_nothing_is_left_to_them(
    ends: tuple[Pipe, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    pipe, theirs = ends
    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    names = [made_by(pipe, theirs, is_spare=True)[0] for _ in range(2)]
    assert names == ["spare", "send"]


def test_no_more_than_a_few_wait_for_spare_processors(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, theirs = ends
    may_make = threading.Event()
    for number in range(MOST_SPARE):
        pipe.send_made(late(may_make, Step(1, number, 99)), is_spare=True)
    assert made_by(pipe, theirs, is_spare=True)[0] == "send"
    may_make.set()
    assert [read(theirs) for _ in range(MOST_SPARE)] == [
        Step(1, number, 99) for number in range(MOST_SPARE)
    ]
    assert made_by(pipe, theirs, is_spare=True)[0] == "spare"


@pytest.mark.parametrize("rests", [Pipe.flush, lambda pipe: pipe.wait(0), Pipe.next])
def test_where_no_step_comes_all_processors_are_there(
    ends: tuple[Pipe, socket.socket], rests: Callable[[Pipe], Any]
) -> None:
    pipe, theirs = ends
    names: list[str] = []

    def make() -> list[Frame]:
        names.append(threading.current_thread().name)
        return [Step(1, 1, 1)]

    pipe.send_made(make, is_spare=True)
    theirs.sendall(encode_frame(Run(1, "m", [])))
    rests(pipe)
    assert read(theirs) == Step(1, 1, 1)
    assert names == ["send"]


def test_what_two_steps_did_not_leave_enough_for_is_waited_for(
    ends: tuple[Pipe, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take long.
    monkeypatch.setattr(module_pipe, "CATCH_UP_S", 20.0)
    pipe, theirs = ends
    may_make = threading.Event()
    pipe.catch_up()
    pipe.send_made(late(may_make, Step(1, 1, 3)), is_spare=True)
    pipe.begin()
    # One step is over, and nothing waits.
    pipe.catch_up()
    threading.Timer(CATCH_UP_S / 5, may_make.set).start()
    pipe.catch_up()
    assert may_make.is_set()
    assert read(theirs) == Step(1, 1, 3)


def test_where_others_want_the_processors_nothing_is_left_to_spare_ones(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    clock = ManualClock()
    pipe, may_make = Pipe(ours, clock), threading.Event()
    began = threading.Event()

    def stuck() -> list[Frame]:
        began.set()
        return late(may_make, Step(1, 1, 3))()

    pipe.send_made(stuck, is_spare=True)
    pipe.begin()
    assert began.wait(20)
    # It has not begun with this one, which others make then.
    pipe.send_made(lambda: [Step(2, 1, 3)], is_spare=True)
    pipe.begin()
    pipe.catch_up()
    begun_s = time.monotonic()
    pipe.catch_up()
    assert time.monotonic() - begun_s >= CATCH_UP_S
    assert read(theirs) == Step(2, 1, 3)
    begun_s = time.monotonic()
    for _ in range(99):
        pipe.catch_up()
    assert time.monotonic() - begun_s < CATCH_UP_S
    assert made_by(pipe, theirs, is_spare=True)[0] == "send"
    may_make.set()
    assert read(theirs) == Step(1, 1, 3)
    clock.advance(NONE_SPARE_S)
    assert made_by(pipe, theirs, is_spare=True)[0] == "spare"


def test_what_cannot_be_made_ends_the_process_wherever_it_is_made(
    ends: tuple[Pipe, socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    pipe, theirs = ends

    def broken() -> list[Frame]:
        raise RuntimeError("cannot be made")

    pipe.send_made(broken, is_spare=True)
    pipe.begin()
    assert theirs.recv(1) == b""
    with pytest.raises(WorkerGone):
        say_more(pipe)
    assert "cannot be made" in capfd.readouterr().err
