"""Chunks over TLS: trusted by a file, and connections that are given up from another thread."""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from test_weights_fetch import CHUNK, NAME, QUICK, get, keep_still, pushed
from weights_harness import write

from chunk_server import ChunkServer, Trick, chunk_server
from swell.cli.tls import _ensure, open_cert
from swell.core.clock import SystemClock
from swell.weights.cache import PullFailed, WeightCache
from swell.weights.gather import Terms, _Attempt


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A certificate for trials, and who trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    _ensure(cert, key, ["127.0.0.1"], SystemClock().now())
    return open_cert(cert, key), ssl.create_default_context(cafile=str(cert))


@pytest.fixture
def server(trial: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[ChunkServer]:
    with chunk_server(trial[0]) as made:
        yield made


@pytest.fixture
def trust(trial: tuple[ssl.SSLContext, ssl.SSLContext]) -> ssl.SSLContext:
    return trial[1]


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


async def test_chunks_come_over_tls_from_who_is_trusted(
    server: ChunkServer, trust: ssl.SSLContext, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    await get(manifest, cache, server, Terms(trust=trust, hedge_s=60.0))
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert set(server.asked.values()) == {1}


@pytest.mark.slow
async def test_nothing_is_asked_of_who_is_not_trusted(
    server: ChunkServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    with pytest.raises(PullFailed, match="CERTIFICATE_VERIFY_FAILED"):
        await get(manifest, cache, server, QUICK)
    assert not server.asked


@pytest.mark.slow
async def test_a_tls_connection_that_keeps_still_is_given_up(
    server: ChunkServer, trust: ssl.SSLContext, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    server.tricks[manifest.files[NAME].chunks[2]] = keep_still(server)
    # Its own time-out would come much later than that of whoever looks.
    terms = Terms(trust=trust, stall_s=0.4, hedge_s=60.0, wait_s=0.01)
    await get(manifest, cache, server, terms)
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.mark.slow
async def test_a_slow_chunk_over_tls_is_asked_for_once_more_and_the_first_is_shut_down(
    server: ChunkServer, trust: ssl.SSLContext, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    slow = manifest.files[NAME].chunks[2]
    server.tricks[slow] = keep_still(server)
    await get(manifest, cache, server, Terms(trust=trust, stall_s=60.0, hedge_s=0.1))
    assert server.asked[slow] == 2
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.fixture
def wire(server: ChunkServer, trust: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A connection on which the beginning of an answer waits to be read, and no more comes."""
    server.chunks["a"] = bytes(CHUNK)
    server.tricks["a"] = keep_still(server, only_first=False)
    port = int(server.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        trust.wrap_socket(plain, server_hostname="127.0.0.1") as made,
    ):
        made.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert server.stuck.wait(20)
        assert select.select([made], [], [], 20)[0]
        yield made


def test_who_reads_on_after_a_shutdown_gets_what_was_sent_and_never_the_cipher(
    wire: ssl.SSLSocket,
) -> None:
    _Attempt("a", 0.0, wire).give_up("it is over")
    got = bytearray()
    buffer = bytearray(65_536)
    # As `http.client` reads; an error of the connection does as well.
    with contextlib.suppress(OSError):
        while size := wire.recv_into(buffer):
            got += buffer[:size]
    assert not got or got.startswith(b"HTTP/1.1 200")


def test_who_reads_on_after_a_shutdown_meets_an_end_and_no_error_of_another_kind(
    wire: ssl.SSLSocket,
) -> None:
    _Attempt("a", 0.0, wire).give_up("it is over")
    with contextlib.suppress(OSError):
        while wire.read(65_536):
            pass


def test_a_read_that_is_under_way_ends_with_the_shutdown(wire: ssl.SSLSocket) -> None:
    buffer, got = bytearray(65_536), b""
    while len(got.partition(b"\r\n\r\n")[2]) < 100:
        got += buffer[: wire.recv_into(buffer)]
    ended: list[object] = []
    begun = threading.Event()

    def read() -> None:
        begun.set()
        try:
            ended.append(wire.recv_into(buffer))
        except OSError as error:
            ended.append(error)
        except BaseException as error:
            ended.append(f"not one of a connection: {error!r}")

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(20)
    _Attempt("a", 0.0, wire).give_up("it is over")
    reading.join(10)
    assert not reading.is_alive()
    assert ended[0] == 0 or isinstance(ended[0], OSError), ended


def late(server: ChunkServer, after_s: float) -> Trick:
    """Answer the first request for each chunk so late that a second one is made."""

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number == 1:
            server.over.wait(after_s)
        return False

    return play


@pytest.mark.slow
async def test_many_that_are_shut_down_leave_all_of_it_right(
    server: ChunkServer, trust: ssl.SSLContext, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    manifest = pushed(server, source)
    server.tricks[""] = late(server, 0.2)
    await get(manifest, cache, server, Terms(trust=trust, stall_s=60.0, hedge_s=0.05))
    assert cache.path(manifest.files[NAME].sha256).read_bytes() == source.read_bytes()
