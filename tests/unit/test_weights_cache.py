"""The cache of weights: whole or absent, shared, bounded."""

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weights_harness import write

from swell.weights.cache import CacheFull, DigestMismatch, NotCached, WeightCache
from swell.weights.known_urls import recall, remember
from swell.weights.weight_errors import BrokenWeights, RefusedFormat
from swell.weights.weight_index import Entry, InvalidListing, Listing

NAME = "unet/model.safetensors"


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


def add(cache: WeightCache, folder: Path, seed: int = 0, **more: Any) -> Entry:
    return cache.add(write(folder / f"source-{seed}.safetensors", seed), NAME, **more)


def listing(*entries: Entry, version: str = "v1") -> Listing:
    files = {f"part-{number}.safetensors": entry for number, entry in enumerate(entries)}
    return Listing("acme/poster", version, files)


def used_at(cache: WeightCache, entry: Entry, at_s: int) -> None:
    os.utime(cache.path(entry.sha256), (at_s, at_s))


# --- what is in it -------------------------------------------------------------------------------


def test_a_file_lies_under_its_digest(cache: WeightCache, tmp_path: Path) -> None:
    entry = add(cache, tmp_path)
    content = cache.path(entry.sha256).read_bytes()
    assert content == (tmp_path / "source-0.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry.sha256
    assert cache.has(entry)


def test_the_same_content_is_kept_once(cache: WeightCache, tmp_path: Path) -> None:
    first, second = add(cache, tmp_path), add(cache, tmp_path)
    assert first == second
    assert cache.size_bytes() == first.size_bytes


def test_what_is_not_what_its_digest_says_does_not_enter(
    cache: WeightCache, tmp_path: Path
) -> None:
    with pytest.raises(DigestMismatch, match="do not just copy"):
        add(cache, tmp_path, sha256="0" * 64)
    assert cache.size_bytes() == 0
    assert list((cache.folder / "partial").iterdir()) == []


def test_a_broken_file_does_not_enter(cache: WeightCache, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(write(tmp_path / "whole.safetensors").read_bytes()[:-1])
    with pytest.raises(BrokenWeights, match="cut off"):
        cache.add(path, NAME)
    assert cache.size_bytes() == 0


def test_a_file_that_was_cut_off_on_the_disk_counts_as_missing(
    cache: WeightCache, tmp_path: Path
) -> None:
    entry = add(cache, tmp_path)
    os.chmod(cache.path(entry.sha256), 0o644)
    os.truncate(cache.path(entry.sha256), 10)
    assert cache.missing(listing(entry)) == ["part-0.safetensors"]
    with pytest.raises(NotCached, match="not whole"):
        cache.use(listing(entry))


def test_a_changed_file_is_found_by_verifying_and_removed(
    cache: WeightCache, tmp_path: Path
) -> None:
    entry = add(cache, tmp_path)
    path = cache.path(entry.sha256)
    cache.verify(listing(entry))
    os.chmod(path, 0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    assert cache.has(entry)
    with pytest.raises(DigestMismatch, match="changed on the disk"):
        cache.verify(listing(entry))
    assert not cache.has(entry)


def test_contents_cannot_be_written_to_by_accident(cache: WeightCache, tmp_path: Path) -> None:
    assert cache.path(add(cache, tmp_path).sha256).stat().st_mode & 0o222 == 0


# --- listings ------------------------------------------------------------------------------------


def test_a_listing_is_noted_and_found(cache: WeightCache, tmp_path: Path) -> None:
    noted = listing(add(cache, tmp_path))
    cache.listings.write(noted)
    assert cache.listings.get("acme/poster", "v1") == noted
    assert cache.listings.all() == [noted]


def test_a_listing_that_was_never_pulled_says_what_to_do(cache: WeightCache) -> None:
    with pytest.raises(NotCached, match="swell models pull"):
        cache.listings.get("acme/poster", "v1")


def test_a_damaged_listing_is_told(cache: WeightCache, tmp_path: Path) -> None:
    cache.listings.write(listing(add(cache, tmp_path)))
    (cache.folder / "listings" / "acme" / "poster" / "v1.json").write_text("{")
    with pytest.raises(NotCached, match="damaged"):
        cache.listings.get("acme/poster", "v1")


@pytest.mark.parametrize(
    ("model", "version", "name", "digest"),
    [
        ("../poster", "v1", "a.json", "0" * 64),
        ("acme/poster", "../v1", "a.json", "0" * 64),
        ("acme/poster", "v1", "../a.json", "0" * 64),
        ("acme/poster", "v1", "a.pt", "0" * 64),
        ("acme/poster", "v1", "a.json", "../../etc/passwd"),
    ],
)
def test_a_listing_that_leads_elsewhere_is_refused(
    cache: WeightCache, model: str, version: str, name: str, digest: str
) -> None:
    with pytest.raises((InvalidListing, RefusedFormat)):
        cache.listings.write(Listing(model, version, {name: Entry(digest, 1)}))


def test_a_folder_of_links_has_the_files_under_their_names(
    cache: WeightCache, tmp_path: Path
) -> None:
    first, second = add(cache, tmp_path, 1), add(cache, tmp_path, 2)
    folder = cache.link(Listing("acme/poster", "v1", {NAME: first}))
    assert (folder / NAME).read_bytes() == cache.path(first.sha256).read_bytes()
    assert cache.link(Listing("acme/poster", "v1", {NAME: second})) == folder
    assert (folder / NAME).read_bytes() == cache.path(second.sha256).read_bytes()


def test_links_lead_to_the_files_also_where_the_cache_is_a_link(tmp_path: Path) -> None:
    baked = WeightCache(tmp_path / "image" / "weights")
    first = add(baked, tmp_path, 1)
    (disk := tmp_path / "disk" / "of" / "much" / "room").mkdir(parents=True)
    (tmp_path / "cache").symlink_to(disk)
    cache = WeightCache(tmp_path / "cache", below=baked.folder)
    second = add(cache, tmp_path, 2)
    folder = cache.link(Listing("acme/poster", "v1", {NAME: first, "b.txt": second}))
    for name, entry in ((NAME, first), ("b.txt", second)):
        assert (folder / name).read_bytes() == cache.path(entry.sha256).read_bytes()


# --- room ----------------------------------------------------------------------------------------


def test_the_longest_unused_goes_first(cache: WeightCache, tmp_path: Path) -> None:
    a, b, c = (add(cache, tmp_path, seed) for seed in range(3))
    for at_s, entry in enumerate([b, c, a], 1_000):
        used_at(cache, entry, at_s)
    evicted = cache.evict(a.size_bytes)
    assert evicted.digests == (b.sha256, c.sha256)
    assert (evicted.left_bytes, evicted.freed_bytes) == (a.size_bytes, 2 * a.size_bytes)
    assert cache.has(a)


def test_using_a_file_makes_it_the_last_to_go(cache: WeightCache, tmp_path: Path) -> None:
    a, b = (add(cache, tmp_path, seed) for seed in range(2))
    used_at(cache, a, 1_000)
    used_at(cache, b, 2_000)
    cache.use(listing(a)).close()
    assert cache.evict(a.size_bytes).digests == (b.sha256,)


def test_what_is_in_use_is_never_removed(cache: WeightCache, tmp_path: Path) -> None:
    a, b = (add(cache, tmp_path, seed) for seed in range(2))
    with cache.use(listing(a)) as held:
        used_at(cache, a, 1_000)
        evicted = cache.evict(0)
        assert (evicted.digests, evicted.in_use) == ((b.sha256,), 1)
        assert held.paths["part-0.safetensors"].exists()
    assert cache.evict(0).digests == (a.sha256,)


def test_what_is_in_use_stays_where_the_same_content_comes_again(
    cache: WeightCache, tmp_path: Path
) -> None:
    entry, other = (add(cache, tmp_path, seed) for seed in range(2))
    with cache.use(listing(entry)) as held:
        used_at(cache, entry, 1_000)
        used_at(cache, other, 2_000)
        assert add(cache, tmp_path) == entry
        evicted = cache.evict(entry.size_bytes)
        # It was used last, too.
        assert (evicted.digests, evicted.in_use) == ((other.sha256,), 0)
        assert cache.evict(0).in_use == 1
        assert held.paths["part-0.safetensors"].exists()
    assert cache.evict(0).digests == (entry.sha256,)
    assert not list((cache.folder / "partial").glob("*"))


def test_a_file_that_was_cut_off_is_replaced_where_its_content_comes_again(
    cache: WeightCache, tmp_path: Path
) -> None:
    entry = add(cache, tmp_path)
    path = cache.path(entry.sha256)
    path.chmod(0o644)
    path.write_bytes(b"cut off")
    add(cache, tmp_path)
    assert cache.has(entry)
    cache.verify(listing(entry))


def test_a_file_in_use_by_another_process_stays_until_that_process_ends(
    cache: WeightCache, tmp_path: Path
) -> None:
    entry = add(cache, tmp_path)
    cache.listings.write(listing(entry))
    program = (
        "import sys; from pathlib import Path; from swell.weights.cache import WeightCache\n"
        "cache = WeightCache(Path(sys.argv[1]))\n"
        "held = cache.use(cache.listings.get('acme/poster', 'v1'))\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(cache.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert cache.evict(0).in_use == 1
        other.kill()
    assert cache.evict(0).digests == (entry.sha256,)


def test_a_new_file_makes_room_within_the_budget(cache: WeightCache, tmp_path: Path) -> None:
    a = add(cache, tmp_path, 0)
    cache.budget_bytes = 2 * a.size_bytes
    b = add(cache, tmp_path, 1)
    used_at(cache, a, 1_000)
    c = add(cache, tmp_path, 2)
    assert [cache.has(entry) for entry in (a, b, c)] == [False, True, True]


def test_a_budget_that_is_in_use_is_told(cache: WeightCache, tmp_path: Path) -> None:
    a = add(cache, tmp_path, 0)
    cache.budget_bytes = a.size_bytes
    with cache.use(listing(a)), pytest.raises(CacheFull, match="in use"):
        add(cache, tmp_path, 1)


def test_a_full_disk_is_told_before_anything_is_written(cache: WeightCache, tmp_path: Path) -> None:
    with pytest.raises(CacheFull, match="lacks"):
        cache.make_room(1 << 60)


def test_a_disk_that_fills_meanwhile_is_told_and_the_beginning_kept(
    cache: WeightCache,
) -> None:
    """/dev/full answers every write as a full disk does."""
    key = "1" * 64
    partial = cache.partials.open(key)
    partial.write(b"begin")
    partial._file.close()
    partial._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with contextlib.closing(partial), pytest.raises(CacheFull, match="is full") as told:
        partial.write(b"more")
    assert isinstance(told.value.__cause__, OSError)
    assert told.value.__cause__.errno == errno.ENOSPC
    with contextlib.closing(cache.partials.open(key)) as again:
        assert again.size_bytes == 5


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=8),
    st.integers(0, 200),
    st.sets(st.integers(0, 7)),
)
def test_eviction_keeps_the_budget_unless_what_is_left_is_in_use(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[int, int]],
    budget: int,
    used: set[int],
) -> None:
    cache = WeightCache(tmp_path_factory.mktemp("cache"))
    entries = []
    for number, (size, at_s) in enumerate(files):
        content = f"{number:03}".encode() + bytes(size)
        entry = Entry(hashlib.sha256(content).hexdigest(), len(content))
        path = cache.path(entry.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        entries.append(entry)
        used_at(cache, entry, at_s)
    held = [cache.use(listing(entries[n])) for n in sorted(used) if n < len(entries)]
    evicted = cache.evict(budget)
    assert cache.size_bytes() == evicted.left_bytes
    assert evicted.left_bytes <= budget or all(
        n in used for n, entry in enumerate(entries) if cache.has(entry)
    )
    assert all(cache.has(entry) for n, entry in enumerate(entries) if n in used)
    for each in held:
        each.close()


# --- several at once -----------------------------------------------------------------------------


def test_processes_that_add_the_same_files_at_once_agree(
    cache: WeightCache, tmp_path: Path
) -> None:
    for seed in range(4):
        write(tmp_path / f"{seed}.safetensors", seed, size=100_000)
    program = (
        "import sys, hashlib; from pathlib import Path\n"
        "from swell.weights.cache import WeightCache\n"
        "cache = WeightCache(Path(sys.argv[1]))\n"
        "for path in sorted(Path(sys.argv[2]).glob('*.safetensors')) * 3:\n"
        "    digest = hashlib.sha256(path.read_bytes()).hexdigest()\n"
        "    assert cache.add(path, path.name, digest).sha256 == digest\n"
    )
    command = [sys.executable, "-c", program, str(cache.folder), str(tmp_path)]
    others = [subprocess.Popen(command) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    for seed in range(4):
        content = (tmp_path / f"{seed}.safetensors").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        assert cache.path(digest).read_bytes() == content
    assert list((cache.folder / "partial").iterdir()) == []


def test_who_does_not_want_to_wait_for_a_lock_is_told(cache: WeightCache) -> None:
    key = "2" * 64
    with (
        cache.partials.lock(key),
        pytest.raises(BlockingIOError),
        cache.partials.lock(key, wait=False),
    ):
        pass
    with cache.partials.lock(key, wait=False):
        pass


# --- addresses -----------------------------------------------------------------------------------


def test_what_an_address_led_to_is_remembered_while_it_is_here(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path / "cache")
    path = write(tmp_path / "a.safetensors")
    entry, at = cache.add(path, path.name), datetime(2026, 1, 1, tzinfo=UTC)
    assert recall(cache, "0" * 64) is None
    remember(cache, "0" * 64, entry, at)
    assert recall(WeightCache(cache.folder), "0" * 64) == (entry, at)
    assert cache.entry(entry.sha256) == entry
    assert cache.entry("0" * 64) is None
    (cache.folder / "addresses" / ("1" * 64)).write_bytes(b"{")
    assert recall(cache, "1" * 64) is None
    cache.evict(0)
    assert recall(cache, "0" * 64) is None


def test_of_many_addresses_the_oldest_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swell.weights.known_urls._MOST_URLS", 8)
    cache = WeightCache(tmp_path / "cache")
    path = write(tmp_path / "a.safetensors")
    entry, at = cache.add(path, path.name), datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(20):
        key = f"{number:064x}"
        remember(cache, key, entry, at)
        os.utime(cache.folder / "addresses" / key, (number, number))
        assert recall(cache, key) is not None
        assert len(list((cache.folder / "addresses").iterdir())) <= 8


def test_versions_that_were_pulled_are_told_in_order(tmp_path: Path) -> None:
    cache = WeightCache(tmp_path / "cache")
    path = write(tmp_path / "a.safetensors")
    entry = cache.add(path, path.name)
    for version in ("v2", "v1"):
        cache.listings.write(Listing("acme/ink", version, {"a.safetensors": entry}))
    assert cache.listings.versions("acme/ink") == ["v1", "v2"]
    assert cache.listings.versions("acme/none") == []
