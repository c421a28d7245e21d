"""The hub of the other tests is one to the hub's own client too, and both bring the same bytes.

huggingface_hub comes with diffusers, in the environment that has torch.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_weights_hub import NEW, OLD, fetch, pipeline
from weights_harness import write

from hub_server import HubServer, Repository
from swell.weights import WeightCache
from swell.weights.pull import PullFailed

huggingface_hub = pytest.importorskip("huggingface_hub")

from huggingface_hub import constants, errors  # noqa: E402


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    commits = {OLD: pipeline(tmp_path / "old", 1), NEW: pipeline(tmp_path / "new", 5)}
    branches = {"main": NEW, "v1": OLD, "refs/pr/3": OLD}
    server = HubServer({"acme/poster": Repository(commits, branches)})
    with server.serve():
        yield server


@pytest.fixture(autouse=True)
def no_newer_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the client take what the newer store has by plain HTTP, as Swell does."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def downloaded(hub: HubServer, folder: Path, name: str = "acme/poster", **more: Any) -> Path:
    """Return the folder that the hub's own client makes of a repository."""
    made = huggingface_hub.snapshot_download(
        name, endpoint=hub.url, local_dir=folder, max_workers=1, **{"token": False, **more}
    )
    return Path(made)


async def alike(hub: HubServer, tmp_path: Path, reference: str, **more: Any) -> dict[str, str]:
    """Pull by both clients, compare, and return Swell's digests by name."""
    token = more.get("token")
    listing = await fetch(reference, WeightCache(tmp_path / "cache"), hub, token=token)
    folder = downloaded(hub, tmp_path / "theirs", **more)
    theirs = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(folder).parts
    }
    ours = {name: entry.sha256 for name, entry in listing.files.items()}
    assert ours == {name: digest for name, digest in theirs.items() if not name.endswith(".bin")}
    return ours


@pytest.mark.parametrize("revision", ["main", "v1", "refs/pr/3", NEW])
async def test_both_clients_bring_the_same_bytes(
    hub: HubServer, tmp_path: Path, revision: str
) -> None:
    quoted = revision.replace("/", "%2F")
    ours = await alike(hub, tmp_path, f"hf:acme/poster@{quoted}", revision=revision)
    assert len(ours) == 5


async def test_both_clients_read_a_gated_repository_with_its_token(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.repositories["acme/poster"].token = "hf_mine"
    assert await alike(hub, tmp_path, "hf:acme/poster", token="hf_mine")
    assert {token for _, _, token in hub.stored} == {None}
    cache = WeightCache(tmp_path / "other")
    with pytest.raises(PullFailed, match="accept its licence"):
        await fetch("hf:acme/poster", cache, hub)
    with pytest.raises(errors.GatedRepoError):
        huggingface_hub.hf_hub_download(
            "acme/poster",
            "model_index.json",
            endpoint=hub.url,
            token=False,
            cache_dir=tmp_path / "none",
        )


async def test_both_clients_follow_a_repository_that_was_moved(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.moved["someone/poster"] = "acme/poster"
    assert await alike(hub, tmp_path, "hf:someone/poster", name="someone/poster")


async def test_both_clients_take_files_of_the_newer_store_by_plain_http(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.repositories["acme/poster"].is_xet = True
    assert await alike(hub, tmp_path, "hf:acme/poster")


def test_the_client_goes_on_where_the_store_broke_off(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 65_536)
    folder = hub.repositories["acme/poster"].commits[NEW]
    name = "unet/diffusion_pytorch_model.safetensors"
    write(folder / name, 7, 3_000_000)
    hub.breaks = [4_000_000]
    made = huggingface_hub.hf_hub_download(
        "acme/poster", name, endpoint=hub.url, local_dir=tmp_path / "theirs", token=False
    )
    assert Path(made).read_bytes() == (folder / name).read_bytes()
    starts = [int((wanted or "bytes=0-")[6:].partition("-")[0]) for _, wanted, _ in hub.stored]
    assert starts[0] == 0 < starts[1]


def test_the_client_knows_the_errors_of_the_server(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["acme/hidden"] = Repository({}, {}, token="hf_mine", is_private=True)

    def download(name: str, file: str, **more: Any) -> None:
        huggingface_hub.hf_hub_download(
            name, file, endpoint=hub.url, cache_dir=tmp_path / "none", token=False, **more
        )

    with pytest.raises(errors.RevisionNotFoundError):
        download("acme/poster", "model_index.json", revision="v9")
    with pytest.raises(errors.RemoteEntryNotFoundError):
        download("acme/poster", "none.json")
    for name in ("acme/none", "acme/hidden"):
        with pytest.raises(errors.RepositoryNotFoundError):
            download(name, "model_index.json")


def test_the_client_reads_the_pages_of_the_tree(hub: HubServer) -> None:
    api = huggingface_hub.HfApi(endpoint=hub.url, token=False)
    tree = {each.path: each for each in api.list_repo_tree("acme/poster", recursive=True)}
    folder = hub.repositories["acme/poster"].commits[NEW]
    name = "unet/diffusion_pytorch_model.safetensors"
    assert tree[name].lfs.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert tree["unet"].path == "unet"
    assert len(tree) == sum(1 for _ in folder.rglob("*"))
    assert api.model_info("acme/poster", revision="v1").sha == OLD
