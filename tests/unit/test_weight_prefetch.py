"""A worker that starts brings what its models need, and says why where it cannot."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from weights_harness import NAME, pushed, write

from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest, NotFound, Unavailable
from swell.weights.cache import WeightCache
from swell.weights.manifest import manifest_digest
from swell.weights.store_reader import Place
from swell.weights.weight_index import InvalidListing, Listing
from swell.worker.weight_prefetch import Provision, Wish, wishes_of
from weight_server import WeightServer


class Shelf:
    """A source that answers as it is told to."""

    def __init__(self, server: WeightServer, *manifests: Listing, away: int = 0) -> None:
        self._server = server
        self._known = {(each.model, each.version): each for each in manifests}
        self.away = away
        self.asked = 0

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise Unavailable("it starts")
        if (model, version) not in self._known:
            raise NotFound(f"{model}@{version} was not pushed here")
        return self._known[model, version]

    async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
        return await self._server.places(listing, digests)

    async def read(self, place: Place, start: int, end: int) -> bytearray:
        return await self._server.read(place, start, end)

    def close(self) -> None:
        self._server.close()


def provision(wish: Wish, cache: WeightCache, source: Shelf) -> Provision:
    return Provision([wish], cache, source, SystemClock())


async def test_what_a_listing_beside_a_model_names_is_brought(
    server: WeightServer, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME, size=20_000))
    (tmp_path / "poster.py").write_text("")
    (tmp_path / "weights.toml").write_text(
        f'model = "acme/poster"\nversion = "v1"\nmanifest = "sha256:{manifest_digest(manifest)}"\n'
    )
    [wish] = wishes_of([str(tmp_path / "poster.py"), "swell/icons"], [], None)
    assert wish == Wish("acme/poster", "v1", manifest_digest(manifest), {}, is_optional=True)
    cache = WeightCache(tmp_path / "cache")
    assert not wish.is_in(cache)
    bringing = provision(wish, cache, Shelf(server, manifest))
    await bringing.bring()
    assert bringing.bytes == manifest.size_bytes
    assert wish.is_in(cache)
    source = Shelf(server, manifest)
    await provision(wish, cache, source).bring()
    assert source.asked == 0


def test_a_listing_is_found_beside_a_module_and_by_its_path_and_is_one_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "package_of_wishes" / "inner"
    inner.mkdir(parents=True)
    (inner / "poster.py").write_text("raise SystemExit('models are not imported by workers')\n")
    (inner / "__init__.py").write_text("")
    digest = "9f" * 32
    (inner / "weights.toml").write_text(
        f'model = "acme/poster"\nversion = "v1"\n[weights]\n"a.safetensors" = "{digest}"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = str(inner / "weights.toml")
    wish = Wish("acme/poster", "v1", files={"a.safetensors": digest}, is_optional=True)
    for models, references in (
        (["package_of_wishes.inner.poster:poster"], []),
        (["package_of_wishes.inner"], []),
        ([], [named]),
        ([str(inner / "poster.py"), "package_of_wishes.inner.poster"], [named]),
    ):
        assert wishes_of(models, references, None) == [wish]
    assert wishes_of(["no_such_package_of_wishes.inner", "added/acme--x.toml"], [], None) == []


async def test_files_of_an_image_are_found_by_their_content_whatever_they_are_called(
    server: WeightServer, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME), write(tmp_path / "vae.safetensors", 2))
    file = manifest.files[NAME]
    listing = Listing("acme/poster", "v1", {"1/a.safetensors": file})
    path = tmp_path / "list.json"
    path.write_bytes(msgspec.json.encode([listing]))
    [wish] = wishes_of([], [], path)
    cache = WeightCache(tmp_path / "cache")
    await provision(wish, cache, Shelf(server, manifest)).bring()
    assert [entry.sha256 for entry in cache.entries()] == [file.sha256]
    other = Wish("acme/poster", "v1", files={"b.safetensors": "0" * 64})
    with pytest.raises(InvalidListing, match=r"without the b\.safetensors"):
        await provision(other, cache, Shelf(server, manifest)).bring()


@pytest.mark.slow
async def test_a_backend_that_starts_later_is_waited_for(
    server: WeightServer, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    cache = WeightCache(tmp_path / "cache")
    source = Shelf(server, manifest, away=1)
    await provision(Wish("acme/poster", "v1"), cache, source).bring()
    assert source.asked == 2


async def test_what_was_not_pushed_may_be_brought_otherwise_or_ends_the_worker(
    server: WeightServer, tmp_path: Path
) -> None:
    cache = WeightCache(tmp_path / "cache")
    await provision(Wish("a/b", "v1", is_optional=True), cache, Shelf(server)).bring()
    with pytest.raises(NotFound):
        await provision(Wish("a/b", "v1"), cache, Shelf(server)).bring()


def test_references_name_a_version_and_perhaps_its_manifest(tmp_path: Path) -> None:
    digest = "9f" * 32
    assert wishes_of([], ["acme/poster@v1"], None) == [Wish("acme/poster", "v1")]
    [wish] = wishes_of([], [f"acme/poster@v1#sha256={digest}"], None)
    assert wish == Wish("acme/poster", "v1", digest)
    for text in ("acme/poster", "poster@v1", "acme/poster@", ""):
        with pytest.raises(InvalidRequest):
            wishes_of([], [text], None)
    (path := tmp_path / "list.json").write_text("{}")
    with pytest.raises(InvalidRequest, match=r"worker\.weights_file"):
        wishes_of([], [], path)
