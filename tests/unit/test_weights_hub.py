"""Repositories of a hub that redirects, signs, packs, gates and moves, as the real one does."""

import asyncio
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from weights_harness import write

from hub_server import HubServer, Repository
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest
from swell.weights.cache import DigestMismatch, InUse, WeightCache
from swell.weights.download import Hub, Progress, PullFailed, pull
from swell.weights.weight_errors import BrokenWeights
from swell.weights.weight_index import InvalidListing, Listing

pytest.importorskip("huggingface_hub")

from huggingface_hub import constants

from swell.weights.hf_download import HubClient

OLD, NEW = "0a1b" * 10, "5f3c" * 10


class NoWait(SystemClock):
    """Waits between tries pass at once."""

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)


def pipeline(folder: Path, seed: int) -> Path:
    """Write what diffusers would: settings, a vocabulary, two networks and a pickle."""
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", seed, 20_000)
    write(folder / "vae" / "diffusion_pytorch_model.safetensors", seed + 1)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "A", "seed": seed}))
    (folder / "tokenizer").mkdir()
    words = {f"word{number}": number for number in range(3000)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(words))
    (folder / "tokenizer" / "merges with space.txt").write_text("#version: 0.2\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    commits = {
        OLD: pipeline(tmp_path / "old", 1),
        NEW: pipeline(tmp_path / "new", 5),
    }
    branches = {"main": NEW, "v1": OLD, "refs/pr/3": OLD, "fp16": NEW}
    server = HubServer(
        {
            "acme/poster": Repository(commits, branches),
            "acme/hidden": Repository(commits, branches, token="hf_mine", is_private=True),
        }
    )
    with server.serve():
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "cache")


async def fetch(reference: str, cache: WeightCache, hub: HubServer, **more: Any) -> Any:
    token = more.pop("token", None)
    return await pull(reference, cache, hub=Hub(hub.url, token), clock=NoWait(), **more)


def same(listing: Any, folder: Path) -> None:
    """Check that a listing is the folder's content, without its pickles."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    assert sorted(listing.files) == sorted(name for name in names if not name.endswith(".bin"))
    for name, entry in listing.files.items():
        content = (folder / name).read_bytes()
        assert entry.sha256 == hashlib.sha256(content).hexdigest(), name
        assert entry.size_bytes == len(content)


@pytest.mark.parametrize(
    ("reference", "commit"),
    [
        ("hf://acme/poster", NEW),
        ("hf:acme/poster", NEW),
        ("hf:acme/poster@v1", OLD),
        ("hf://acme/poster@fp16", NEW),
        ("hf:acme/poster@refs%2Fpr%2F3", OLD),
        (f"hf:acme/poster@{OLD}", OLD),
    ],
)
async def test_a_folder_of_diffusers_comes_whole_at_any_revision(
    cache: WeightCache, hub: HubServer, reference: str, commit: str
) -> None:
    listing = await fetch(reference, cache, hub)
    assert (listing.model, listing.version) == ("acme/poster", commit)
    same(listing, hub.repositories["acme/poster"].commits[commit])


async def test_one_file_of_a_folder_below_comes_alone(cache: WeightCache, hub: HubServer) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    listing = await fetch(f"hf:acme/poster@v1/{name}", cache, hub)
    assert list(listing.files) == [name]


async def test_a_token_goes_to_the_hub_and_never_to_the_store(
    cache: WeightCache, hub: HubServer
) -> None:
    hub.repositories["acme/poster"].token = "hf_mine"
    listing = await fetch("hf://acme/poster", cache, hub, token="hf_mine")
    same(listing, hub.repositories["acme/poster"].commits[NEW])
    assert {token for _, _, token in hub.asked} == {"Bearer hf_mine"}
    assert [token for _, _, token in hub.stored] == [None, None]


async def test_a_private_repository_is_pulled_by_whoever_may(
    cache: WeightCache, hub: HubServer
) -> None:
    listing = await fetch("hf:acme/hidden@v1", cache, hub, token="hf_mine")
    same(listing, hub.repositories["acme/hidden"].commits[OLD])


async def test_a_store_whose_address_has_run_out_is_asked_by_another(
    cache: WeightCache, hub: HubServer
) -> None:
    hub.expired = 2
    listing = await fetch("hf://acme/poster", cache, hub)
    same(listing, hub.repositories["acme/poster"].commits[NEW])


async def test_a_hub_by_plain_http_on_another_machine_is_refused(cache: WeightCache) -> None:
    with pytest.raises(InvalidListing, match="https"):
        await pull("hf:acme/poster", cache, hub=Hub("http://hub.example", "hf_mine"))


@pytest.mark.slow
async def test_a_large_file_goes_on_where_it_broke_off_at_a_newly_signed_address(
    cache: WeightCache, hub: HubServer
) -> None:
    folder = hub.repositories["acme/poster"].commits[NEW]
    name = "unet/diffusion_pytorch_model.safetensors"
    write(folder / name, 7, 3_000_000)
    hub.breaks = [4_000_000, 4_000_000]
    listing = await fetch(f"hf:acme/poster@main/{name}", cache, hub)
    assert listing.files[name].sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    starts = [int((wanted or "bytes=0-")[6:-1]) for _, wanted, _ in hub.stored]
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2]


async def test_a_text_that_comes_packed_is_unpacked(cache: WeightCache, hub: HubServer) -> None:
    hub.always_packs = True
    same(
        await fetch("hf://acme/poster", cache, hub),
        hub.repositories["acme/poster"].commits[NEW],
    )


async def test_a_repository_that_was_moved_is_found(cache: WeightCache, hub: HubServer) -> None:
    hub.moved["someone/poster"] = "acme/poster"
    listing = await fetch("hf:someone/poster", cache, hub)
    assert listing.model == "someone/poster"
    same(listing, hub.repositories["acme/poster"].commits[NEW])


async def test_files_in_xet_storage_come_from_there(
    cache: WeightCache, hub: HubServer, tmp_path: Path
) -> None:
    repository = hub.repositories["acme/poster"]
    repository.xet, repository.token = tmp_path / "xet", "hf_mine"
    seen: list[Progress] = []
    listing = await fetch("hf:acme/poster", cache, hub, token="hf_mine", progress=seen.append)
    same(listing, repository.commits[NEW])
    assert set(hub.xet_tokens) == {"Bearer hf_mine"}
    assert not hub.stored
    assert seen[-1].done_bytes == seen[-1].total_bytes == listing.size_bytes


async def test_a_file_in_xet_storage_goes_on_where_it_broke_off(
    cache: WeightCache, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["acme/poster"].xet = tmp_path / "xet"
    name = "unet/diffusion_pytorch_model.safetensors"
    content = (hub.repositories["acme/poster"].commits[NEW] / name).read_bytes()
    growing = cache.partials.open(hashlib.sha256(content).hexdigest())
    growing.write(content[:30_000])
    growing.close()
    starts: list[int] = []
    read = HubClient.read_xet

    def noted(client: HubClient, connection: Any, location: Any, start: int, write: Any) -> None:
        starts.append(start)
        read(client, connection, location, start, write)

    monkeypatch.setattr(HubClient, "read_xet", noted)
    listing = await fetch(f"hf:acme/poster@main/{name}", cache, hub)
    assert listing.files[name].size_bytes == len(content)
    assert starts == [30_000]


async def test_xet_storage_that_fails_is_asked_again_and_told(
    cache: WeightCache, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.repositories["acme/poster"]
    repository.xet = tmp_path / "xet"
    shown = f"hf:acme/poster@main/{'vae/diffusion_pytorch_model.safetensors'}"

    def cut(client: HubClient, connection: Any, location: Any, start: int, write: Any) -> None:
        tries.append(start)

    tries: list[int] = []
    monkeypatch.setattr(HubClient, "read_xet", cut)
    with pytest.raises(
        PullFailed, match=r"ended before its time .5 tries.*received bytes are kept"
    ):
        await fetch(shown, cache, hub)
    assert len(tries) == 5


async def test_a_pull_from_xet_storage_that_is_cancelled_ends_and_keeps_what_came(
    cache: WeightCache, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.repositories["acme/poster"]
    repository.xet = tmp_path / "xet"
    name = "vae/diffusion_pytorch_model.safetensors"
    content = (repository.commits[NEW] / name).read_bytes()
    is_reading, is_aborted = threading.Event(), threading.Event()

    class Silent:
        def abort(self) -> None:
            is_aborted.set()

    def read(client: HubClient, connection: Any, location: Any, start: int, write: Any) -> None:
        write(content[:100])
        is_reading.set()
        is_aborted.wait(20)

    monkeypatch.setattr(HubClient, "open_xet", lambda *_: Silent())
    monkeypatch.setattr(HubClient, "read_xet", read)
    pulling = asyncio.ensure_future(fetch(f"hf:acme/poster@main/{name}", cache, hub))
    await asyncio.to_thread(is_reading.wait, 20)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert is_aborted.is_set()
    key = hashlib.sha256(content).hexdigest()
    assert cache.partials.path(key).read_bytes() == content[:100]
    assert not cache.partials.is_locked(key)


@pytest.mark.parametrize(
    ("told", "is_mirror"), [("https://huggingface.co", True), ("https://elsewhere.example", False)]
)
def test_a_token_goes_for_xet_tokens_to_the_hub_that_was_named_alone(
    hub: HubServer, tmp_path: Path, told: str, is_mirror: bool
) -> None:
    hub.repositories["acme/poster"].xet, hub.told_url = tmp_path / "xet", told
    name = "vae/diffusion_pytorch_model.safetensors"
    location = HubClient(hub.url, "hf_mine").locate(f"hf:acme/poster@main/{name}")
    assert location.xet_token_url.startswith(f"{hub.url}/") == is_mirror
    assert location.headers == ({"Authorization": "Bearer hf_mine"} if is_mirror else {})


async def test_files_in_xet_storage_come_by_plain_http_where_that_is_wished(
    cache: WeightCache, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.repositories["acme/poster"].xet = tmp_path / "xet"
    same(
        await fetch("hf://acme/poster", cache, hub),
        hub.repositories["acme/poster"].commits[NEW],
    )
    assert len(hub.stored) == 2
    assert not hub.xet_tokens


async def test_a_client_that_is_offline_says_so(
    cache: WeightCache, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PullFailed, match="HF_HUB_OFFLINE is set"):
        await fetch("hf:acme/poster", cache, hub)
    assert not hub.asked


async def test_a_server_that_is_no_hub_is_told(cache: WeightCache, hub: HubServer) -> None:
    with pytest.raises(PullFailed, match=r"acme/poster: .*no such file"):
        await pull("hf:acme/poster", cache, hub=Hub(f"{hub.url}/elsewhere"), clock=NoWait())


async def test_a_missing_client_names_the_command(
    cache: WeightCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "swell.weights.hf_download")
    with pytest.raises(InvalidRequest, match=re.escape("pip install 'swell[hub]'")):
        await pull("hf:acme/poster", cache)


async def test_a_hub_that_is_busy_is_asked_again(cache: WeightCache, hub: HubServer) -> None:
    hub.statuses = [503, 429]
    same(
        await fetch("hf://acme/poster", cache, hub),
        hub.repositories["acme/poster"].commits[NEW],
    )
    hub.statuses = [502] * 99
    with pytest.raises(PullFailed, match="answered 502"):
        await fetch("hf://acme/poster", cache, hub)


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (None, r"answered 401 \(Access to model acme/poster is restricted\): .*HF_TOKEN"),
        ("hf_wrong", r"answered 401 .*restricted"),
        ("hf_new", r"answered 403 .*restricted.*accept its licence"),
    ],
)
async def test_a_gated_repository_says_what_it_wants(
    cache: WeightCache, hub: HubServer, token: str | None, told: str
) -> None:
    repository = hub.repositories["acme/poster"]
    repository.token, repository.unaccepted = "hf_mine", frozenset({"hf_new"})
    with pytest.raises(PullFailed, match=told) as raised:
        await fetch("hf://acme/poster", cache, hub, token=token)
    assert "hf_wrong" not in str(raised.value)


@pytest.mark.parametrize(
    ("reference", "token", "told"),
    [
        ("hf:acme/none", None, "no such repository, or it is private"),
        ("hf:acme/hidden", "hf_other", "no such repository, or it is private"),
        ("hf:acme/none", "hf_mine", "no such repository"),
        ("hf:acme/poster@v9", None, "no such branch, tag or commit"),
        ("hf:acme/poster@main/none.safetensors", None, "has no file none.safetensors"),
    ],
)
async def test_what_is_not_there_is_told_apart(
    cache: WeightCache, hub: HubServer, reference: str, token: str | None, told: str
) -> None:
    with pytest.raises(PullFailed, match=told):
        await fetch(reference, cache, hub, token=token)


async def test_a_small_file_that_is_not_what_the_commit_says_is_refused(
    cache: WeightCache, hub: HubServer, tmp_path: Path
) -> None:
    """A text has no SHA-256 in the listing; its name in git is compared instead."""
    listing = await fetch("hf:acme/poster", cache, hub)
    assert "tokenizer/vocab.json" in listing.files
    folder = hub.repositories["acme/poster"].commits[NEW]

    hub.on_listed = lambda: (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "B", "seed": 5})
    )
    with pytest.raises(DigestMismatch, match=r"model_index\.json"):
        await fetch("hf:acme/poster", WeightCache(tmp_path / "other"), hub)


async def test_a_clone_without_its_large_files_says_how_to_get_them(
    cache: WeightCache, hub: HubServer, tmp_path: Path
) -> None:
    folder = pipeline(tmp_path / "clone", 3)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    pointer = f"oid sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\nsize 80252\n"
    path.write_text("version https://git-lfs.github.com/spec/v1\n" + pointer)
    with pytest.raises(BrokenWeights, match="git lfs pull"):
        await fetch(str(folder), cache, hub)


@pytest.mark.slow
async def test_what_is_held_when_another_file_fails_is_held_before_all_is_let_go(
    cache: WeightCache, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that holds a file continues after its task is cancelled: it must not be late."""
    other = WeightCache(tmp_path / "other")
    under_way, is_canceled, use = threading.Event(), threading.Event(), other.use
    given: list[InUse] = []

    def slow(listing: Listing) -> InUse:
        under_way.set()
        is_canceled.wait(60)
        held = use(listing)
        given.append(held)
        return held

    monkeypatch.setattr(other, "use", slow)
    pulling = asyncio.ensure_future(fetch("hf:acme/poster", other, hub))
    assert await asyncio.to_thread(under_way.wait, 60)
    pulling.cancel()
    await asyncio.wait({pulling}, timeout=0.1)
    is_canceled.set()
    await asyncio.gather(pulling, return_exceptions=True)
    n = len(given)
    assert n > 0
    assert not any(held._locks for held in given)
    # Those that ask the hub are abandoned: their connections end before the hub does.
    for thread in threading.enumerate():
        if thread.name == "aside":
            await asyncio.to_thread(thread.join, 60)
    assert len(given) == n
