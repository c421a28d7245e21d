"""The process that imports once and forks."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swell.worker.forkserver import ForkFailed, ForkServer, is_possible
from swell.worker.frames import (
    HEAD_BYTES,
    Described,
    Load,
    Phased,
    Ready,
    decode_frame,
    encode_frame,
)
from swell.worker.slate import new_slate

pytestmark = pytest.mark.skipif(not is_possible(), reason="forking needs Linux")

MODULE = '''
import os, random, socket, sys, time

BORN = os.getpid()

def tell():
    """Say whatever a test wants to know, through the socket that was handed over."""
    import numpy
    with socket.socket(fileno=int(sys.argv[1])) as out:
        facts = [BORN, os.getpid(), os.getppid(), sys.argv[2:], os.getsid(0),
                 random.random(), numpy.random.random()]
        out.sendall(repr(facts).encode())

def leave():
    sys.exit(int(sys.argv[1]))

def fail():
    raise RuntimeError("on purpose")

def stay():
    with socket.socket(fileno=int(sys.argv[1])) as out:
        out.sendall(b"here")
        time.sleep(600)
'''


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ForkServer]:
    (tmp_path / "heavy.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    made = await ForkServer.start(sys.executable, ["heavy", "numpy"])
    await made.ready()
    yield made
    await made.close()


async def heard(sock: socket.socket) -> bytes:
    """Return all that comes until the other end closes."""
    sock.setblocking(False)
    loop, found = asyncio.get_running_loop(), b""
    while data := await loop.sock_recv(sock, 4096):
        found += data
    return found


async def told(server: ForkServer, *arguments: str) -> list[object]:
    ours, theirs = socket.socketpair()
    with ours:
        forked = await server.fork("heavy:tell", ["{0}", *arguments], [theirs.fileno()])
        theirs.close()
        facts: list[object] = eval((await heard(ours)).decode())
    assert await forked.wait() == 0
    assert facts[1] == forked.pid
    return facts


@pytest.mark.slow
async def test_a_fork_has_what_the_server_imported(server: ForkServer) -> None:
    born, _, parent, *_ = await told(server)
    assert born == parent == server.pid


@pytest.mark.slow
async def test_a_fork_finds_its_arguments_and_leads_a_session(server: ForkServer) -> None:
    _, pid, parent, arguments, session, *_ = await told(server, "a b", "{server}")
    assert arguments == ["a b", str(parent)]
    assert session == pid


@pytest.mark.slow
async def test_forks_draw_different_random_numbers(server: ForkServer) -> None:
    first, second = await told(server), await told(server)
    assert first[5] != second[5]
    assert first[6] != second[6]


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 7])
async def test_the_exit_code_is_told(server: ForkServer, code: int) -> None:
    forked = await server.fork("heavy:leave", [str(code)])
    assert await forked.wait() == code
    assert forked.returncode == code


@pytest.mark.slow
async def test_an_exception_ends_the_fork_and_not_the_server(server: ForkServer) -> None:
    for entry in ("heavy:fail", "heavy:nothing", "no_such_module:main"):
        assert await (await server.fork(entry)).wait() == 1
    await told(server)


@pytest.mark.slow
async def test_a_signal_is_told_as_a_negative_code(server: ForkServer) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        forked = await server.fork("heavy:stay", ["{0}"], [theirs.fileno()])
        forked.kill()
        assert await forked.wait() == -signal.SIGKILL


@pytest.mark.slow
async def test_forks_die_with_the_connection_that_asked_for_them(server: ForkServer) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        await server.fork("heavy:stay", ["{0}"], [theirs.fileno()])
        theirs.close()
        await server.close()
        # The fork's end of the socket closes when the fork is gone.
        assert await heard(ours) in (b"here", b"")


@pytest.mark.slow
async def test_forks_die_with_the_server(server: ForkServer) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        forked = await server.fork("heavy:stay", ["{0}"], [theirs.fileno()])
        theirs.close()
        os.kill(server.pid, signal.SIGKILL)
        assert await heard(ours) in (b"here", b"")
        assert await forked.wait() == -signal.SIGKILL
    with pytest.raises(ForkFailed, match=r"died|gone"):
        await server.fork("heavy:leave", ["0"])


@pytest.mark.slow
async def test_many_forks_at_once_are_told_apart(server: ForkServer) -> None:
    codes = list(range(20))
    forks = await asyncio.gather(*(server.fork("heavy:leave", [str(code)]) for code in codes))
    assert await asyncio.gather(*(forked.wait() for forked in forks)) == codes


@pytest.mark.slow
async def test_a_module_that_cannot_be_imported_is_told() -> None:
    server = await ForkServer.start(sys.executable, ["no_such_module"])
    with pytest.raises(ForkFailed, match="no_such_module"):
        await server.ready()
    await server.close()


@pytest.mark.slow
async def test_a_module_that_starts_threads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    server = await ForkServer.start(sys.executable, ["threaded"])
    with pytest.raises(ForkFailed, match="starts threads"):
        await server.ready()
    await server.close()


@pytest.mark.slow
async def test_a_server_that_listens_serves_one_client_after_another(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text(MODULE)
    path = tmp_path / "fork.sock"
    command = [sys.executable, "-m", "swell.worker.forkserver", "--socket", str(path), "heavy"]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path)
    try:
        first = await connected(path)
        forked = await first.fork("heavy:leave", ["3"])
        assert await forked.wait() == 3
        await first.close()
        second = await connected(path)
        assert await second.ready() == process.pid
        await second.close()
        assert path.stat().st_mode & 0o077 == 0
    finally:
        process.kill()
        await process.wait()
    with pytest.raises(ForkFailed, match="no fork server"):
        await ForkServer.connect(path)


async def connected(path: Path) -> ForkServer:
    """Connect as soon as the server listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await ForkServer.connect(path)
            except ForkFailed:
                await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_model_process_is_forked_and_answers_as_one_that_was_started(
    server: ForkServer,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, new_slate() as slate:
        process = await server.fork(
            "swell.worker.child:main",
            ["{0}", "{server}", "{1}"],
            [theirs.fileno(), slate.fileno()],
        )
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(encode_frame(Load(["demo/upper"], "cpu")))
        described, ready = [await frame(reader) for _ in range(2)]
        assert isinstance(described, Described)
        assert [card.name for card in described.cards] == ["demo/upper"]
        assert isinstance(ready, Ready)
        writer.close()
        await writer.wait_closed()
    assert await process.wait() == 0


async def frame(reader: asyncio.StreamReader) -> object:
    """Return what the model process says next, apart from its phases."""
    while True:
        size = int.from_bytes(await reader.readexactly(HEAD_BYTES), "big")
        told = decode_frame(await reader.readexactly(size))
        if not isinstance(told, Phased):
            return told
