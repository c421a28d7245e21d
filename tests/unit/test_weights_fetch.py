"""Pushed weights come whole and right, whatever their server does."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from weights_harness import NAME, RANGE, pushed, write

import swell.weights.cache as caching
from swell.core.clock import SystemClock
from swell.core.errors import SwellError
from swell.weights.cache import CacheFull, DigestMismatch, NotCached, PullFailed, WeightCache
from swell.weights.declared_weights import Provided
from swell.weights.manifest import manifest_digest, note_manifest, write_manifest
from swell.weights.safetensors_loader import load
from swell.weights.store_download import REQUESTS, fetch
from swell.weights.weight_index import Listing, Wanted, WantedFile
from weight_server import Trick, WeightServer, answer, cut_off, hold, weight_server

pytestmark = pytest.mark.usefixtures("small_ranges")


async def get(listing: Listing, cache: WeightCache, server: WeightServer) -> None:
    await fetch(listing, cache, server, SystemClock())


def ranges(path: Path) -> int:
    """Return in how many ranges a file comes."""
    return -(-path.stat().st_size // RANGE)


async def test_what_was_pushed_comes_whole_and_each_range_once(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    await get(listing, cache, server)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()
    assert cache.listings.get("acme/poster", "v1") == listing
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == ranges(source)
    assert not list((cache.folder / "partial").iterdir())
    assert not list((cache.folder / "unsynced").iterdir())
    await get(listing, cache, server)
    assert set(server.asked.values()) == {1}


async def test_many_files_come_with_one_question_where_they_are(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    paths = []
    for number in range(40):
        paths.append(tmp_path / "source" / f"{number}.json")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_text(f'{{"number": {number}}}')
    (empty := tmp_path / "source" / "empty.txt").write_bytes(b"")
    (twice := tmp_path / "source" / "twice.json").write_bytes(paths[0].read_bytes())
    listing = pushed(server, *paths, empty, twice)
    await get(listing, cache, server)
    for path in (*paths, empty, twice):
        assert cache.path(listing.files[path.name].sha256).read_bytes() == path.read_bytes()
    assert server.asked.total() == len(paths)
    assert set(server.told.values()) == {1}


def on_first(trick: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Trick:
    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number == 1:
            trick(asked, data)
        return number == 1

    return play


def always(trick: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Trick:
    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        trick(asked, data)
        return True

    return play


def cut_in_the_middle(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, data[: len(data) // 2], length=len(data))
    cut_off(asked)


def wrong_bytes(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, bytes(len(data)))


def too_short(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    answer(asked, data[:-1])


def status(code: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    return lambda asked, data: answer(asked, b"no", status=code)


def hung_up(asked: BaseHTTPRequestHandler, data: bytes) -> None:
    cut_off(asked)


PASSING = [
    cut_in_the_middle,
    hung_up,
    too_short,
    status(503),
    status(500),
    status(429),
    status(403),
    status(416),
]


@pytest.mark.parametrize("trick", PASSING, ids=range(len(PASSING)))
async def test_a_range_that_fails_once_is_read_again_at_a_new_url(
    trick: Callable[[BaseHTTPRequestHandler, bytes], None],
    server: WeightServer,
    cache: WeightCache,
    tmp_path: Path,
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    server.tricks[3 * RANGE] = on_first(trick)
    await get(listing, cache, server)
    digest = listing.files[NAME].sha256
    assert cache.path(digest).read_bytes() == source.read_bytes()
    assert server.asked.pop((digest, 3 * RANGE)) == 2
    assert set(server.asked.values()) == {1}
    assert server.told[digest] == 2


async def test_wrong_bytes_that_came_once_are_read_again(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    server.tricks[3 * RANGE] = on_first(wrong_bytes)
    await get(listing, cache, server)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()


async def test_a_file_that_stays_wrong_is_refused_with_the_reason(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    server.tricks[3 * RANGE] = always(wrong_bytes)
    digest = listing.files[NAME].sha256
    with pytest.raises(DigestMismatch, match=rf"{NAME} of acme/poster: its SHA-256 is") as refused:
        await get(listing, cache, server)
    assert f"{digest} was asked for" in refused.value.detail
    assert "swell models push --verify" in refused.value.detail
    assert server.asked[digest, 3 * RANGE] == 2
    assert cache.missing(listing) == [NAME]
    server.tricks.clear()
    await get(listing, cache, server)
    assert not cache.missing(listing)


@pytest.mark.parametrize(
    ("trick", "told"),
    [
        (status(503), "answered 503"),
        (status(404), "push it again"),
        (status(200), "answered 200 to a request for a range"),
        (too_short, "came instead of"),
        (hung_up, r"\(8 tries\). The partial file is kept"),
    ],
)
async def test_a_server_that_never_sends_it_ends_the_fetch(
    trick: Callable[[BaseHTTPRequestHandler, bytes], None],
    told: str,
    server: WeightServer,
    cache: WeightCache,
    tmp_path: Path,
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    server.tricks[None] = always(trick)
    with pytest.raises(PullFailed, match=rf"{NAME} of acme/poster.*{told}"):
        await get(listing, cache, server)


async def test_a_server_that_is_gone_ends_the_fetch(cache: WeightCache, tmp_path: Path) -> None:
    with weight_server() as server:
        listing = pushed(server, write(tmp_path / NAME))
    with pytest.raises(PullFailed, match="refused"):
        await get(listing, cache, server)


async def test_idle_connections_that_the_server_closed_cost_one_try(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    first = pushed(server, write(tmp_path / NAME, size=20_000))

    def close(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        answer(asked, data)
        # Unannounced.
        asked.close_connection = True
        return True

    server.tricks[None] = close
    await get(first, cache, server)
    server.tricks.clear()
    server.asked.clear()
    second = pushed(server, write(tmp_path / "2" / NAME, 2, 500), version="v2")
    await get(second, cache, server)
    assert server.told[second.files[NAME].sha256] <= 2


async def test_redirects_are_followed(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if "moved" in asked.path:
            return False
        asked.send_response(307)
        asked.send_header("Location", f"{asked.path}&moved=1")
        asked.send_header("Content-Length", "0")
        asked.end_headers()
        return True

    server.tricks[None] = play
    await get(listing, cache, server)
    assert not cache.missing(listing)


@pytest.mark.slow
async def test_a_connection_that_keeps_still_is_given_up(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.weights.store_reader.STALL_S", 0.4)
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    server.tricks[2 * RANGE] = hold(server)
    await get(listing, cache, server)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()


@pytest.mark.slow
async def test_a_drip_is_given_up(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.weights.store_reader.RANGE_S", 0.5)
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)

    def play(asked: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if number > 1:
            return False
        asked.send_response(206)
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        for at in range(len(data)):
            asked.wfile.write(data[at : at + 1])
            if server.over.wait(0.05):
                break
        return True

    server.tricks[2 * RANGE] = play
    await get(listing, cache, server)
    assert cache.path(listing.files[NAME].sha256).read_bytes() == source.read_bytes()


FETCHER = """
import asyncio, sys
from pathlib import Path
import swell.weights.store_download as fetching
from swell.core.clock import SystemClock
from swell.weights.cache import WeightCache
from swell.weights.manifest import read_manifest
from swell.weights.store_reader import BackendSource, Place

fetching.RANGE_BYTES = 4096
url, manifest, folder = sys.argv[1:]

class Source(BackendSource):
    async def places(self, listing, digests):
        return [Place(digest, f"{url}/{digest}") for digest in digests]

listing = read_manifest(bytes.fromhex(manifest))
cache = WeightCache(Path(folder))
asyncio.run(fetching.fetch(listing, cache, Source(url, "key"), SystemClock()))
print("whole")
"""


def fetcher(server: WeightServer, listing: Listing, cache: WeightCache) -> "subprocess.Popen[str]":
    words = [server.url, write_manifest(listing).hex(), str(cache.folder)]
    command = [sys.executable, "-c", textwrap.dedent(FETCHER), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
async def test_a_worker_that_was_killed_leaves_what_came_to_the_next(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=50_000)
    listing = pushed(server, source)
    digest = listing.files[NAME].sha256
    held = 20 * RANGE
    server.tricks[held] = hold(server)
    process = fetcher(server, listing, cache)
    async with asyncio.timeout(30):
        while not server.stuck.is_set() or cache.partials.size_bytes(digest) < held:
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    await get(listing, cache, server)
    assert cache.path(digest).read_bytes() == source.read_bytes()
    again = [start for (_, start), count in server.asked.items() if count > 1]
    assert held in again
    assert min(again) == held, "what came before is not read again"
    assert len(again) <= REQUESTS


@pytest.mark.slow
async def test_workers_of_one_machine_fetch_once(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(
        server, write(tmp_path / NAME, size=50_000), write(tmp_path / "b.safetensors", 1)
    )
    processes = [fetcher(server, listing, cache) for _ in range(3)]
    said = await asyncio.gather(*(asyncio.to_thread(each.communicate) for each in processes))
    assert [out for out, _ in said] == ["whole\n"] * 3
    assert set(server.asked.values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("asked", [1, 25])
async def test_of_two_workers_one_is_killed_at_any_moment_and_the_other_ends_with_all(
    server: WeightServer, cache: WeightCache, tmp_path: Path, asked: int
) -> None:
    paths = [write(tmp_path / f"{seed}.safetensors", seed, 15_000) for seed in range(3)]
    listing = pushed(server, *paths)
    reached = threading.Event()

    def play(_: BaseHTTPRequestHandler, data: bytes, number: int) -> bool:
        if server.asked.total() >= asked:
            reached.set()
        # The other one is there, and waits.
        server.over.wait(0.02)
        return False

    server.tricks[None] = play
    one, other = (fetcher(server, listing, cache) for _ in range(2))
    assert await asyncio.to_thread(reached.wait, 30)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    out, _ = await asyncio.to_thread(other.communicate)
    assert out == "whole\n"
    for path in paths:
        assert cache.path(listing.files[path.name].sha256).read_bytes() == path.read_bytes()
    assert not list((cache.folder / "partial").iterdir())


async def test_what_came_before_is_not_read_again_unless_it_is_damaged(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    digest = listing.files[NAME].sha256
    begun = source.read_bytes()[: 5 * RANGE + 100]
    for damaged in (False, True):
        cache.partials.path(digest).parent.mkdir(parents=True, exist_ok=True)
        cache.partials.path(digest).write_bytes(b"x" + begun[1:] if damaged else begun)
        await get(listing, cache, server)
        assert cache.path(digest).read_bytes() == source.read_bytes()
        assert min(start for _, start in server.asked) == (0 if damaged else len(begun))
        server.asked.clear()
        assert cache.drop(digest)
    # Longer than the file.
    cache.partials.path(digest).write_bytes(source.read_bytes() + b"x")
    await get(listing, cache, server)
    assert not cache.missing(listing)


async def test_a_content_that_had_not_reached_the_disk_is_fetched_again_after_a_crash(
    server: WeightServer, cache: WeightCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / NAME, size=20_000)
    listing = pushed(server, source)
    entry = listing.files[NAME]
    partial = cache.partials.open(entry.sha256)
    partial.write(source.read_bytes())
    cache.keep(partial, NAME, entry.sha256, is_synced=False)
    partial.close()
    # Whoever is here now may use it: it is in the memory of the machine.
    with cache.use(listing) as held:
        assert held.paths[NAME].read_bytes() == source.read_bytes()
    # The machine goes down, and its disk has other bytes.
    monkeypatch.setattr(caching, "_boot_id", lambda: b"another start")
    os.chmod(cache.path(entry.sha256), 0o644)
    cache.path(entry.sha256).write_bytes(bytes(entry.size_bytes))
    assert not cache.has(entry)
    assert cache.missing(listing) == [NAME]
    with pytest.raises(NotCached):
        cache.use(listing)
    await get(listing, cache, server)
    assert cache.path(entry.sha256).read_bytes() == source.read_bytes()
    monkeypatch.undo()
    assert cache.has(entry), "it has reached the disk, so that any start of the machine has it"


async def test_a_pickle_under_another_name_gets_nothing_into_the_cache(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    (path := tmp_path / NAME).write_bytes(b"\x80\x04" + bytes(100))
    with pytest.raises(SwellError, match="pickle"):
        await get(pushed(server, path), cache, server)
    assert not cache.entries()


async def test_a_fetch_makes_room_within_the_budget(server: WeightServer, tmp_path: Path) -> None:
    old = pushed(server, write(tmp_path / "old" / NAME, 1, 20_000), version="old")
    new = pushed(server, write(tmp_path / "new" / NAME, 2, 20_000), version="new")
    cache = WeightCache(tmp_path / "cache", budget_bytes=new.size_bytes + 1000)
    await get(old, cache, server)
    await get(new, cache, server)
    assert [entry.sha256 for entry in cache.entries()] == [new.files[NAME].sha256]
    with pytest.raises(CacheFull):
        await get(old, WeightCache(tmp_path / "small", budget_bytes=old.size_bytes - 1), server)


# --- the model's side ----------------------------------------------------------------------------


def provided(listing: Listing, cache: WeightCache, *, pinned: bool = True) -> Provided:
    files = {name: WantedFile("", entry.sha256) for name, entry in listing.files.items()}
    pin = manifest_digest(listing) if pinned else None
    wanted = Wanted(listing.model, listing.version, files, pin)
    return Provided(wanted, cache, SystemClock(), patience_s=1.5)


@pytest.mark.parametrize("pinned", [True, False])
async def test_a_file_is_used_as_soon_as_it_is_whole_while_others_come(
    server: WeightServer, cache: WeightCache, tmp_path: Path, pinned: bool
) -> None:
    source, other = (
        write(tmp_path / NAME, size=20_000),
        write(tmp_path / "b.safetensors", 1, 90_000),
    )
    listing = pushed(server, source, other)
    note_manifest(cache, listing)
    server.tricks[60 * RANGE] = hold(server)
    weights = provided(listing, cache, pinned=pinned)
    fetching = asyncio.create_task(get(listing, cache, server))
    path = await asyncio.to_thread(weights.path, NAME)
    assert path.read_bytes() == source.read_bytes()
    assert not fetching.done()
    server.over.set()
    await fetching
    folder = weights.folder()
    assert (folder / "b.safetensors").read_bytes() == other.read_bytes()
    # It is kept as long as it is used.
    assert not cache.drop(listing.files[NAME].sha256)
    del weights
    assert cache.drop(listing.files[NAME].sha256)


@pytest.mark.slow
async def test_a_file_that_nobody_fetches_is_given_up(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    weights = provided(pushed(server, write(tmp_path / NAME)), cache, pinned=False)
    with pytest.raises(NotCached, match="nobody fetches it"):
        await asyncio.to_thread(weights.path, NAME)


async def test_what_a_model_uses_is_evicted_last(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    first = pushed(server, write(tmp_path / NAME, 1), version="first")
    second = pushed(server, write(tmp_path / "other" / NAME, 2), version="second")
    await get(first, cache, server)
    await get(second, cache, server)
    note_manifest(cache, first)
    for listing, at in ((first, 1_000), (second, 2_000)):
        os.utime(cache.path(listing.files[NAME].sha256), (at, at))
    weights = provided(first, cache)
    assert weights.path(NAME).exists()
    del weights
    assert cache.evict(first.size_bytes).digests == (second.files[NAME].sha256,)


async def test_what_a_model_writes_into_its_tensors_is_its_own(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    listing = pushed(server, write(tmp_path / NAME, size=20_000))
    await get(listing, cache, server)
    note_manifest(cache, listing)
    weights = provided(listing, cache)
    loaded = load(weights.path(NAME))
    loaded["a"][:] = 0
    cache.verify(listing)
