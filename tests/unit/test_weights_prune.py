"""Pruning the cache of weights: what nothing names goes, and nothing that anybody needs."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from weights_harness import write

from added_harness import NEW, add, dreams, hub_of_dreams, models, remove
from hub_server import HubServer
from swell.diffusion.families.model_config import path_of, read
from swell.weights.cache import NotCached, WeightCache
from swell.weights.download import pull
from swell.weights.prune import Fate, Pruned, prune
from swell.weights.weight_index import Entry, Listing

NETWORK = "unet/diffusion_pytorch_model.safetensors"

#: Everything was used before this.
BEFORE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_of_dreams(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def kept(cache: WeightCache, folder: Path, seed: int, used_at_s: int = 1_000) -> Entry:
    """Put a file into the cache that was last used then."""
    entry = cache.add(write(folder / f"source-{seed}.safetensors", seed), "a.safetensors")
    os.utime(cache.path(entry.sha256), (used_at_s, used_at_s))
    return entry


def note(cache: WeightCache, model: str, *entries: Entry) -> Listing:
    listing = Listing(model, "v1", {f"part-{n}.safetensors": e for n, e in enumerate(entries)})
    cache.listings.write(listing)
    return listing


def pruned(cache: WeightCache, *named: Entry, **more: Any) -> Pruned:
    return prune(cache, {entry.sha256 for entry in named}, BEFORE, **more)


# --- what is named -------------------------------------------------------------------------------


def test_what_nothing_names_goes_the_longest_unused_first(
    cache: WeightCache, tmp_path: Path
) -> None:
    pulled, told = kept(cache, tmp_path, 0), kept(cache, tmp_path, 1)
    late, early = kept(cache, tmp_path, 2, 2_000), kept(cache, tmp_path, 3, 1_000)
    note(cache, "acme/poster", pulled)
    found = pruned(cache, told)
    assert found.contents == (early, late)
    assert found.freed_bytes == early.size_bytes + late.size_bytes
    assert found.left_bytes == cache.size_bytes() == pulled.size_bytes + told.size_bytes
    assert cache.has(pulled)
    assert cache.has(told)


def test_a_listing_that_is_not_whole_names_nothing_and_goes(
    cache: WeightCache, tmp_path: Path
) -> None:
    gone, left, shared = (kept(cache, tmp_path, seed) for seed in range(3))
    broken = note(cache, "acme/broken", gone, left, shared)
    note(cache, "acme/whole", shared)
    cache.link(broken)
    cache.drop(gone.sha256)
    found = pruned(cache)
    assert found.contents == (left,)
    assert found.names[left.sha256] == "acme/broken/part-1.safetensors"
    assert found.listings == (broken,)
    assert [each.model for each in cache.listings.all()] == ["acme/whole"]
    assert cache.has(shared)
    assert not list((cache.folder / "folders").glob("acme/broken/*"))


def test_a_dry_run_tells_the_same_and_removes_nothing(cache: WeightCache, tmp_path: Path) -> None:
    gone, left = kept(cache, tmp_path, 0), kept(cache, tmp_path, 1)
    broken = note(cache, "acme/broken", gone, left)
    cache.drop(gone.sha256)
    with cache.partials.lock("3" * 64):
        cache.partials.open("3" * 64).close()
    would = pruned(cache, is_dry_run=True)
    assert cache.has(left)
    assert cache.listings.all() == [broken]
    assert len(list((cache.folder / "partial").iterdir())) == 1
    assert pruned(cache) == would


def test_a_damaged_listing_stops_it_before_anything_goes(
    cache: WeightCache, tmp_path: Path
) -> None:
    left = kept(cache, tmp_path, 0)
    note(cache, "acme/poster", left)
    (cache.folder / "listings" / "acme" / "poster" / "v1.json").write_text("{")
    with pytest.raises(NotCached, match="damaged"):
        pruned(cache)
    assert cache.has(left)


def test_a_cache_that_is_not_there_has_nothing_to_prune(cache: WeightCache) -> None:
    found = pruned(cache)
    assert (found.contents, found.freed_bytes, found.left_bytes) == ((), 0, 0)
    assert not cache.folder.exists()


# --- beside workers and pulls --------------------------------------------------------------------


def test_what_is_in_use_linked_or_used_lately_stays(cache: WeightCache, tmp_path: Path) -> None:
    used, linked, idle = (kept(cache, tmp_path, seed) for seed in range(3))
    recent = kept(cache, tmp_path, 3, int(BEFORE.timestamp()))
    os.link(cache.path(linked.sha256), tmp_path / "model.safetensors")
    with cache.use(Listing("loras/file", "now", {"a.safetensors": used})):
        os.utime(cache.path(used.sha256), (1_000, 1_000))
        found = pruned(cache)
    assert found.contents == (idle,)
    assert found.kept == {Fate.IN_USE: 1, Fate.LINKED: 1, Fate.RECENT: 1}
    assert all(cache.has(entry) for entry in (used, linked, recent))


def test_what_came_in_part_goes_unless_somebody_fetches_it(cache: WeightCache) -> None:
    for key in ("1" * 64, "2" * 64, "3" * 64):
        partial = cache.partials.open(key)
        partial.write(b"begin")
        partial.path.with_suffix(".etag").write_text('"1"')
        partial.close()
        os.utime(partial.path, (1_000, 1_000))
    os.utime(partial.path, (BEFORE.timestamp(),) * 2)
    with cache.partials.lock("2" * 64):
        found = pruned(cache)
    assert (found.partials, found.partial_bytes, found.freed_bytes) == (1, 5, 5)
    names = {path.name[0] for path in (cache.folder / "partial").iterdir()}
    assert names == {"2", "3"}, "one is fetched, and of one something came lately"


def test_a_pull_that_took_long_has_fresh_files_when_it_is_noted(
    cache: WeightCache, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    write(source / "a.safetensors", 1)
    write(source / "b.safetensors", 2)

    def age(_: Any) -> None:
        for entry in cache.entries():
            os.utime(cache.path(entry.sha256), (1_000, 1_000))

    began_s = datetime.now(UTC).timestamp()
    listing = asyncio.run(pull(str(source), cache, progress=age))
    for entry in listing.files.values():
        assert cache.path(entry.sha256).stat().st_mtime >= began_s - 1


@pytest.mark.slow
def test_a_process_that_waits_for_a_removed_lock_gets_a_new_one(cache: WeightCache) -> None:
    key = "4" * 64
    held, got = threading.Event(), list[bool]()

    def wait() -> None:
        held.wait(20)
        with cache.partials.lock(key):
            got.append(cache.partials.is_locked(key))

    waiting = threading.Thread(target=wait)
    waiting.start()
    with cache.partials.lock(key):
        held.set()
        # As pruning does, by the one who holds it.
        time.sleep(0.2)
        (cache.folder / "locks" / key).unlink()
    waiting.join(20)
    assert got == [True]
    assert not cache.partials.is_locked(key)
    assert not cache.partials.is_locked("5" * 64)
    assert [path.name for path in (cache.folder / "locks").iterdir()] == [key]


# --- the command ---------------------------------------------------------------------------------


def contents(data: Path) -> set[str]:
    return {path.name for path in (data / "weights" / "files").glob("??/*")}


def prune_json(data: Path, *more: str) -> Any:
    result = models("remove", "--unused", "--data", str(data), "--json", *more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_what_removed_models_left_goes_and_what_others_need_stays(
    hub: HubServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for source, name in (("hf:acme/dreams", "x/one"), ("hf:acme/dreams@v2", "x/two")):
        assert add(data, source, "--name", name).exit_code == 0
    assert prune_json(data, "--idle-s", "0")["removed"] == []
    one = read(path_of(data, "x/one"))
    needed = {content.sha256 for content in one.weights.values()}
    remove(data, "x/two")
    assert prune_json(data, "--idle-s", "0")["freed_bytes"] == 0
    assert contents(data) >= needed
    pulled = models("pull", "hf:acme/dreams", "--include", "vae/*", "--data", str(data))
    assert pulled.exit_code == 0, pulled.output
    for path in Path(one.folder).rglob("*.json"):
        # As where the folder lies on another disk.
        copied = path.read_bytes()
        path.unlink()
        path.write_bytes(copied)
    remove(data, "x/one")
    before = contents(data)
    would = prune_json(data, "--idle-s", "0", "--dry-run")
    assert contents(data) == before
    done = prune_json(data, "--idle-s", "0")
    assert done == would | {"dry_run": False}
    gone = {each["sha256"] for each in done["removed"]}
    assert gone == before - contents(data)
    assert gone, "texts of which the folder had a copy of its own"
    [listing] = WeightCache(data / "weights").listings.all()
    assert contents(data) == {entry.sha256 for entry in listing.files.values()}
    assert done["freed_bytes"] == sum(each["bytes"] for each in done["removed"])


@pytest.mark.slow
def test_what_a_branch_had_before_it_moved_goes(hub: HubServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    add(data, "hf:acme/dreams", "--name", "x/one")
    old = read(path_of(data, "x/one")).weights[NETWORK].sha256
    hub.repositories["acme/dreams"].branches["main"] = NEW
    assert add(data, "hf:acme/dreams", "--name", "x/one").exit_code == 0
    assert old in contents(data)
    assert old in {each["sha256"] for each in prune_json(data, "--idle-s", "0")["removed"]}
    assert old not in contents(data)
    assert (Path(read(path_of(data, "x/one")).folder) / NETWORK).is_file()


def test_what_was_used_lately_stays_and_is_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    entry = WeightCache(data / "weights").add(write(tmp_path / "a.safetensors"), "a.safetensors")
    result = models("remove", "--unused", "--data", str(data))
    assert result.exit_code == 0, result.output
    assert "1 file used in the last 60.0 min: kept" in " ".join(result.stderr.split())
    assert contents(data) == {entry.sha256}
    result = models("remove", "--unused", "--data", str(data), "--idle-s", "0")
    assert entry.sha256[:12] in result.stdout
    assert f"1 file removed, {entry.size_bytes:,} bytes" in " ".join(result.stderr.split())
    assert contents(data) == set()


def test_files_of_the_cache_that_an_added_model_takes_from_there_stay(tmp_path: Path) -> None:
    data = tmp_path / "data"
    cache = WeightCache(data / "weights")
    source = dreams(tmp_path / "dreams", 3)
    files = {
        path.relative_to(source).as_posix(): cache.add(path, path.name)
        for path in source.rglob("*.*")
    }
    folder = cache.link(Listing("acme/dreams", "v1", files))
    assert add(data, folder, "--name", "x/one").exit_code == 0
    assert prune_json(data, "--idle-s", "0")["removed"] == []
    remove(data, "x/one")
    assert len(prune_json(data, "--idle-s", "0")["removed"]) == len(set(files.values()))


def test_an_entry_that_nobody_can_read_stops_it_with_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "data"
    entry = WeightCache(data / "weights").add(write(tmp_path / "a.safetensors"), "a.safetensors")
    (data / "models").mkdir()
    (data / "models" / "x--one.toml").write_text("name = 1")
    result = models("remove", "--unused", "--data", str(data), "--idle-s", "0")
    assert result.exit_code != 0
    assert "swell models remove x/one" in " ".join(result.output.split())
    assert contents(data) == {entry.sha256}


@pytest.mark.parametrize("idle_s", ["inf", "nan", "1e300", "-1"])
def test_a_time_that_leads_to_no_date_is_refused(tmp_path: Path, idle_s: str) -> None:
    result = models("remove", "--unused", "--data", str(tmp_path), "--idle-s", idle_s)
    assert result.exit_code == 2
    assert "--idle-s" in result.output
    assert prune_json(tmp_path, "--idle-s", "3e9")["removed"] == []
