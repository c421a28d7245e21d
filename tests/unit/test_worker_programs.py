"""A worker that starts brings what was compiled elsewhere and signed by whom it trusts."""

import asyncio
import errno
import hashlib
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("cryptography")

from chunk_server import ChunkServer, answer, chunk_server, cut_off, keep_still
from manual_clock import ManualClock
from swell.bootstrap.worker import _announce_programs
from swell.core.clock import Clock, SystemClock
from swell.core.errors import NotFound, Unavailable
from swell.settings.load import load
from swell.weights import CompiledCache, CompiledKey, gather
from swell.weights.cache import PullFailed, WeightCache
from swell.weights.chunks import ChunkedFile, Manifest
from swell.weights.compiled import ANY
from swell.weights.gather import Place, Terms
from swell.weights.signed import Program, sign
from swell.weights.signing import SigningKey, Trusted, make_key
from swell.weights.wishing import is_wished
from swell.worker import programs
from swell.worker.programs import Here, Machine, Programs
from swell.worker.provision import Wish

CHUNK = 4096
CONTENT = b"".join(b"program %06d" % number for number in range(2000))
WEIGHTS = ("ab" * 32,)
CPU = "a cpu 0123456789abcdef"
KEY = CompiledKey(WEIGHTS, "1", {}, "cpu", CPU)
WISH = Wish("acme/poster", "v1", files={"w.safetensors": WEIGHTS[0]})
#: Nothing is given up by itself while a test lasts.
TERMS = Terms(stall_s=60.0, hedge_s=60.0, wait_s=0.01, most_wait_s=0.02, tries=3)


class Shelf:
    """A source of notes that answers as it is told to."""

    def __init__(self, server: ChunkServer, *notes: bytes) -> None:
        self._server = server
        self.told = list(notes)
        self.away = 0
        self.refuses = False
        self.manifests: dict[tuple[str, str], Manifest] = {}

    async def notes(self, model: str, version: str, cpu: str) -> list[bytes]:
        if self.away:
            self.away -= 1
            raise Unavailable("it starts")
        if self.refuses:
            raise PullFailed("this key may not")
        return self.told

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Manifest:
        if (model, version) not in self.manifests:
            raise NotFound("was not pushed here")
        return self.manifests[model, version]

    def places(self, manifest: Manifest, digests: Sequence[str]) -> list[Place]:
        raise AssertionError("no weights are wanted")

    def program_places(self, program: Program, digests: Sequence[str]) -> list[Place]:
        return self._server.places(program.as_manifest, digests)


class Log:
    """What was said."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    @property
    def refused(self) -> list[str]:
        return [facts["why"] for event, facts in self.lines if event == "compiled program not used"]


@pytest.fixture
def server() -> Iterator[ChunkServer]:
    with chunk_server() as made:
        yield made


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path / "key")


@pytest.fixture
def cache(tmp_path: Path) -> CompiledCache:
    return CompiledCache(tmp_path / "compiled")


@pytest.fixture
def log() -> Log:
    return Log()


def program(server: ChunkServer, content: bytes = CONTENT, **fields: Any) -> Program:
    pieces = [content[at : at + CHUNK] for at in range(0, len(content), CHUNK)]
    chunks = {hashlib.sha256(piece).hexdigest(): piece for piece in pieces}
    server.chunks |= chunks
    made = Program(
        model="acme/poster",
        version="v1",
        manifest="12" * 32,
        key=KEY,
        content=ChunkedFile(
            hashlib.sha256(content).hexdigest(),
            len(content),
            tuple(hashlib.sha256(piece).hexdigest() for piece in pieces),
        ),
        chunk_bytes=CHUNK,
        signed_at=datetime(2026, 11, 1, tzinfo=UTC),
    )
    return msgspec.structs.replace(made, **fields)


def bringing(
    shelf: Shelf,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    *wishes: Wish,
    device: str = "cpu",
    patience_s: float = 30.0,
    clock: Clock | None = None,
) -> Programs:
    weights, machine = WeightCache(cache.folder / "no weights"), Machine(device, CPU)
    here = Here(weights, cache, machine, Trusted([key.public]), patience_s)
    clock = clock or SystemClock()
    return Programs(wishes or [WISH], here, shelf, clock, terms=TERMS, tell=log)


async def test_a_signed_program_is_there_for_the_model(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf = Shelf(server, sign(program(server), key))
    brought = bringing(shelf, cache, key, log)
    await brought.bring()
    assert cache.get(KEY) == CONTENT
    assert brought.bytes == len(CONTENT)
    assert [event for event, _ in log.lines] == ["compiled program fetched"]
    assert cache.folder.stat().st_mode & 0o077 == 0
    # Another start asks for no chunk.
    server.asked.clear()
    await bringing(shelf, cache, key, log).bring()
    assert not server.asked


async def test_nothing_of_a_program_that_nobody_trusted_has_signed_is_fetched(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log, tmp_path: Path
) -> None:
    stranger = make_key(tmp_path / "stranger")
    good = sign(program(server), key)
    forged = msgspec.json.encode(msgspec.json.decode(good) | {"signature": "AAAA"})
    shelf = Shelf(server, sign(program(server), stranger), forged, b"", b"\x80\x04pickle")
    await bringing(shelf, cache, key, log).bring()
    assert cache.get(KEY) is None
    assert not server.asked
    assert len(log.refused) == 4
    assert "is not trusted" in log.refused[0]
    assert "does not hold" in log.refused[1]


async def test_a_good_note_counts_whatever_lies_beside_it(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    deep = b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    shelf = Shelf(server, b"rubbish", deep, sign(program(server), key))
    await bringing(shelf, cache, key, log).bring()
    assert cache.get(KEY) == CONTENT


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"version": "v2"}, "signed for acme/poster@v2"),
        ({"model": "acme/other"}, "signed for acme/other@v1"),
        ({"key": msgspec.structs.replace(KEY, weights=("cd" * 32,))}, "does not have"),
        ({"key": msgspec.structs.replace(KEY, processor="b cpu 0")}, "kind of processor"),
        ({"key": msgspec.structs.replace(KEY, device="cuda:0")}, "for the device"),
    ],
)
async def test_a_program_of_another_version_or_kind_is_not_used(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    fields: dict[str, Any],
    why: str,
) -> None:
    made = program(server, **fields)
    await bringing(Shelf(server, sign(made, key)), cache, key, log).bring()
    assert cache.get(made.key) is None
    assert not server.asked
    [told] = log.refused
    assert why in told


async def test_a_pinned_manifest_is_compared(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf = Shelf(server, sign(program(server), key))
    other = Wish("acme/poster", "v1", "34" * 32, WISH.files)
    await bringing(shelf, cache, key, log, other).bring()
    assert cache.get(KEY) is None
    right = Wish("acme/poster", "v1", "12" * 32, WISH.files)
    await bringing(shelf, cache, key, log, right).bring()
    assert cache.get(KEY) == CONTENT


async def test_a_version_that_is_only_named_is_looked_up(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf, wish = Shelf(server, sign(program(server), key)), Wish("acme/poster", "v1")
    await bringing(shelf, cache, key, log, wish).bring()
    assert cache.get(KEY) is None, "nobody knows its weights"
    file = ChunkedFile(WEIGHTS[0], 10, ("00" * 32,))
    shelf.manifests["acme/poster", "v1"] = Manifest("acme/poster", "v1", CHUNK, {"w.onnx": file})
    await bringing(shelf, cache, key, log, wish).bring()
    assert cache.get(KEY) == CONTENT


async def test_a_damaged_chunk_is_never_in_the_cache(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    made = program(server)
    bad = made.content.chunks[-1]
    server.chunks[bad] = server.chunks[bad][:-1] + b"!"
    await bringing(Shelf(server, sign(made, key)), cache, key, log).bring()
    assert cache.get(KEY) is None
    assert not list((cache.folder / "files").glob("??/*"))
    assert "came wrong twice" in log.refused[0]
    # Repaired where it lies, only what is lacking is fetched.
    server.chunks |= {bad: CONTENT[-len(server.chunks[bad]) :]}
    server.asked.clear()
    await bringing(Shelf(server, sign(made, key)), cache, key, log).bring()
    assert cache.get(KEY) == CONTENT
    assert bad in server.asked


async def test_chunks_that_are_signed_but_make_another_whole_are_not_used(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    made = program(server)
    lying = msgspec.structs.replace(
        made, content=msgspec.structs.replace(made.content, sha256="77" * 32)
    )
    await bringing(Shelf(server, sign(lying, key)), cache, key, log).bring()
    assert cache.get(KEY) is None
    assert not list((cache.folder / "files").glob("??/*"))
    assert len(log.refused) == 1


async def test_a_missing_chunk_leaves_the_model_to_compile(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    made = program(server)
    del server.chunks[made.content.chunks[0]]
    await bringing(Shelf(server, sign(made, key)), cache, key, log).bring()
    assert cache.get(KEY) is None
    assert len(log.refused) == 1
    assert not is_wished(cache.folder, {ANY, KEY.digest})


async def test_a_cut_connection_is_taken_up_again(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    def once(asked: Any, data: bytes, number: int) -> bool:
        if number > 1:
            return False
        asked.send_response(200)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        asked.wfile.write(data[:10])
        cut_off(asked)
        return True

    server.tricks[""] = once
    await bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    assert cache.get(KEY) == CONTENT


async def test_what_does_not_fit_the_budget_is_not_fetched(
    server: ChunkServer, tmp_path: Path, key: SigningKey, log: Log
) -> None:
    small = CompiledCache(tmp_path / "small", budget_bytes=len(CONTENT) - 1)
    await bringing(Shelf(server, sign(program(server), key)), small, key, log).bring()
    assert small.get(KEY) is None
    assert "do not fit the budget" in log.refused[0]
    assert not server.asked


async def test_a_disk_that_takes_no_note_of_a_program_ends_nothing(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "note", full)
    await bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    assert cache.get(KEY) is None
    assert "No space left" in log.refused[0]


def test_a_folder_that_cannot_be_made_ends_no_worker(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / "file").write_text("no folder")
    told = {
        "SWELL_WORKER__COMPILED_KEYS": key.public,
        "SWELL_WORKER__COMPILED_DIR": str(tmp_path / "file" / "compiled"),
    }
    assert _announce_programs(load(environment=told, folder=tmp_path).settings) is None


async def test_what_nobody_foresaw_ends_nothing(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf, named = Shelf(server, sign(program(server), key)), Wish("acme/poster", "v1")
    monkeypatch.setattr(shelf, "program_places", broken)
    await bringing(shelf, cache, key, log).bring()
    assert log.refused == ["KeyError"]
    monkeypatch.setattr(shelf, "manifest", broken)
    await bringing(shelf, cache, key, log, named).bring()
    assert log.refused == ["KeyError"] * 2
    assert not is_wished(cache.folder, {ANY, KEY.digest})


def broken(*_: object) -> Any:
    raise KeyError


async def test_a_folder_that_others_can_use_gets_nothing(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    cache.folder.mkdir()
    cache.folder.chmod(0o777)
    await bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    assert not list(cache.folder.iterdir())
    [(event, facts)] = log.lines
    assert event == "compiled programs cannot be had"
    assert "chmod 700" in facts["why"]


@pytest.mark.slow
async def test_a_backend_that_starts_later_is_asked_again_and_one_that_refuses_is_not(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf = Shelf(server, sign(program(server), key))
    shelf.refuses = True
    await bringing(shelf, cache, key, log).bring()
    assert "this key may not" in log.refused[0]
    shelf.refuses, shelf.away = False, 1
    await bringing(shelf, cache, key, log).bring()
    assert cache.get(KEY) == CONTENT


async def test_a_model_waits_for_what_is_coming_and_not_for_anything_else(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    going = threading.Event()

    def wait(asked: Any, data: bytes, number: int) -> bool:
        server.stuck.set()
        going.wait(30)
        answer(asked, data)
        return True

    server.tricks[""] = wait
    fetching = asyncio.create_task(
        bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    )
    await asyncio.to_thread(server.stuck.wait, 30)
    looking = asyncio.create_task(asyncio.to_thread(CompiledCache(cache.folder).find, KEY))
    other = msgspec.structs.replace(KEY, model="2")
    assert await asyncio.to_thread(CompiledCache(cache.folder).find, other) is None
    assert not looking.done()
    going.set()
    assert await looking == CONTENT
    await fetching


async def test_what_was_compiled_here_meanwhile_is_not_replaced(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    def compiles(asked: Any, data: bytes, number: int) -> bool:
        cache.put(KEY, b"of this machine")
        answer(asked, data)
        return True

    server.tricks[""] = compiles
    await bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    assert server.asked
    assert cache.get(KEY) == b"of this machine"


@pytest.mark.slow
async def test_a_worker_that_goes_leaves_what_has_come_and_nobody_waits(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    server.tricks[""] = keep_still(server, only_first=False)
    fetching = asyncio.create_task(
        bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    )
    await asyncio.to_thread(server.stuck.wait, 30)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert not is_wished(cache.folder, {ANY, KEY.digest})
    assert cache.find(KEY) is None


@pytest.mark.slow
async def test_a_fetch_without_end_is_given_up(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(programs, "LIMIT_S", 0.3)
    shelf = Shelf(server, sign(program(server), key))
    shelf.away = 1000
    await bringing(shelf, cache, key, log).bring()
    assert log.lines[-1][0] == "compiled programs given up"
    assert not is_wished(cache.folder, {ANY})


async def test_two_workers_of_a_machine_fetch_it_once(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf = Shelf(server, sign(program(server), key))
    both = [bringing(shelf, CompiledCache(cache.folder), key, log) for _ in range(2)]
    await asyncio.gather(*(each.bring() for each in both))
    assert cache.get(KEY) == CONTENT
    assert max(server.asked.values()) == 1


def test_gpus_are_told_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_GPUS", tmp_path)
    assert programs.this_machine("cuda:0", is_own_python=True).gpus is None
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text(
        "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 39\n"
    )
    assert programs.this_machine("cuda:0", is_own_python=False).gpus == ["NVIDIA H100 80GB HBM3"]


async def test_a_program_that_was_fetched_says_who_has_signed_it(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    await bringing(Shelf(server, sign(program(server), key)), cache, key, log).bring()
    assert cache.origin(KEY, CONTENT) == key.id


async def test_what_has_failed_on_this_machine_is_not_fetched_again(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf = Shelf(server, sign(program(server), key))
    await bringing(shelf, cache, key, log).bring()
    cache.refuse(hashlib.sha256(CONTENT).hexdigest())
    server.asked.clear()
    await bringing(shelf, cache, key, log).bring()
    assert not server.asked
    assert log.refused == ["it has failed on this machine before"]
    # What is signed later is another, and is tried.
    better = program(server, CONTENT + b"!")
    await bringing(Shelf(server, sign(better, key)), cache, key, log).bring()
    assert cache.get(KEY) == CONTENT + b"!"


@pytest.mark.parametrize(
    ("device", "is_of_use"), [("cuda:1", True), ("cuda:0", False), ("cuda", False), ("cpu", False)]
)
async def test_of_gpus_that_are_alike_each_has_programs_of_its_own(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    device: str,
    is_of_use: bool,
) -> None:
    made = program(server, key=msgspec.structs.replace(KEY, device="cuda:1"))
    shelf = Shelf(server, sign(made, key))
    await bringing(shelf, cache, key, log, device=device).bring()
    assert cache.has(made.key) == is_of_use
    assert bool(server.asked) == is_of_use


@pytest.mark.slow
async def test_while_nobody_answers_a_model_waits_for_some_seconds_and_compiles(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    shelf = Shelf(server, sign(program(server), key))
    shelf.away = 1000
    bringer = bringing(shelf, cache, key, log, WISH, Wish("acme/other", "v1"), patience_s=0.3)
    fetching = asyncio.create_task(bringer.bring())
    while not is_wished(cache.folder, {ANY}):
        await asyncio.sleep(0.01)
    assert await asyncio.to_thread(CompiledCache(cache.folder).find, KEY) is None
    await asyncio.wait_for(fetching, 20)
    [*_, (event, facts)] = log.lines
    assert event == "compiled programs given up"
    assert 0.3 <= facts["took_s"] < programs.LIMIT_S / 4


@pytest.mark.slow
async def test_a_server_that_hangs_is_waited_for_no_longer(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = Shelf(server)

    async def hang(model: str, version: str, cpu: str) -> list[bytes]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(shelf, "notes", hang)
    await asyncio.wait_for(bringing(shelf, cache, key, log, patience_s=0.2).bring(), 5)
    assert log.lines[-1][0] == "compiled programs given up"


@pytest.mark.slow
async def test_a_fetch_of_which_nothing_comes_holds_no_model_up(
    server: ChunkServer, cache: CompiledCache, key: SigningKey, log: Log
) -> None:
    server.tricks[""] = keep_still(server, only_first=False)
    shelf, clock = Shelf(server, sign(program(server), key)), ManualClock()
    brought = bringing(shelf, cache, key, log, patience_s=5.0, clock=clock)
    fetching = asyncio.create_task(brought.bring())
    await asyncio.to_thread(server.stuck.wait, 30)
    # Time stands still.
    assert is_wished(cache.folder, {KEY.digest})
    looking = asyncio.create_task(asyncio.to_thread(CompiledCache(cache.folder).find, KEY))
    async with asyncio.timeout(20):
        while not fetching.done():
            clock.advance(1.0)
            await asyncio.sleep(0.01)
        assert await looking is None
    assert log.lines[-1][0] == "compiled programs given up"


@pytest.mark.slow
async def test_a_slow_fetch_of_which_something_comes_is_waited_for(
    server: ChunkServer,
    cache: CompiledCache,
    key: SigningKey,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, loop, patience_s = ManualClock(), asyncio.get_running_loop(), 5.0

    async def wait() -> None:
        clock.advance(0.3 * patience_s)

    def slowly(asked: Any, data: bytes, number: int) -> bool:
        # Nothing more comes before whoever waits has seen the time.
        asyncio.run_coroutine_threadsafe(wait(), loop).result(20)
        answer(asked, data)
        return True

    server.tricks[""] = slowly
    shelf = Shelf(server, sign(program(server, CONTENT * 2), key))
    # One is asked for when the one before has been counted.
    monkeypatch.setattr(gather, "FETCHES", 1)
    await bringing(shelf, cache, key, log, patience_s=patience_s, clock=clock).bring()
    assert cache.get(KEY) == CONTENT * 2
    assert clock.monotonic_s() > 2 * patience_s
