"""However many files a model has, or none at all: few are open at once, and all come right."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from weights_harness import CHUNK, NAME, pushed, write

from chunk_server import ChunkServer, chunk_server
from swell.core.clock import SystemClock
from swell.core.errors import SwellError
from swell.weights.cache import WeightCache
from swell.weights.chunks import ChunkedFile, Manifest, read_manifest, write_manifest
from swell.weights.fetch import fetch
from swell.weights.listing import InvalidListing
from swell.weights.noted import note_manifest
from swell.weights.refusals import BrokenWeights, RefusedFormat

FILES = 600

#: Fetches, and uses the files as a model does, where so few files may be open.
FETCHER = """
import asyncio, os, resource, sys
from pathlib import Path
from swell.core.clock import SystemClock
from swell.weights.cache import WeightCache
from swell.weights.chunks import read_manifest
from swell.weights.fetch import fetch
from swell.weights.gather import Place, Terms
from swell.weights.listing import Wanted
from swell.weights.provided import Provided

class Source:
    def places(self, manifest, digests):
        return [Place(f"{sys.argv[1]}/{digest}") for digest in digests]

soft = int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
manifest = read_manifest(Path(sys.argv[2]).read_bytes())
cache = WeightCache(Path(sys.argv[3]))
terms = Terms(hedge_s=60)
asyncio.run(fetch(manifest, cache, Source(), SystemClock(), terms=terms))
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
assert not list((cache.folder / "partial").iterdir())
weights = Provided(Wanted("acme/poster", "v1", {}, manifest.digest), cache, SystemClock(), 0.0)
folder = weights.folder()
with cache.use(cache.listing("acme/poster", "v1")) as held:
    print(len(held.paths), sum(path.stat().st_size for path in folder.iterdir()))
"""


@pytest.fixture
def server() -> Iterator[ChunkServer]:
    with chunk_server() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)  # Where others keep the disk busy.
def test_six_hundred_files_come_where_a_process_may_open_256(
    server: ChunkServer, tmp_path: Path
) -> None:
    paths = []
    for number in range(FILES):
        paths.append(tmp_path / "source" / f"{number:03}.json")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_text(f'{{"number": {number}}}')
    manifest = pushed(server, *paths)
    cache = WeightCache(tmp_path / "cache")
    note_manifest(cache, manifest)
    words = [server.url, str(cache.manifest_paths(manifest.digest)[0]), str(cache.folder), "256"]
    done = subprocess.run(
        [sys.executable, "-c", FETCHER, *words], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for path in paths)
    assert done.stdout.split() == [str(FILES), str(size)]
    assert set(server.asked.values()) == {1}


async def test_a_file_of_no_bytes_comes_among_others(server: ChunkServer, tmp_path: Path) -> None:
    (empty := tmp_path / "empty.txt").write_bytes(b"")
    manifest = pushed(server, empty, write(tmp_path / NAME))
    cache = WeightCache(tmp_path / "cache")
    await fetch(manifest, cache, server, SystemClock())
    assert not cache.missing(manifest.listing)
    assert cache.path(manifest.files["empty.txt"].sha256).read_bytes() == b""


async def test_weights_of_no_bytes_are_refused(server: ChunkServer, tmp_path: Path) -> None:
    (empty := tmp_path / NAME).write_bytes(b"")
    cache = WeightCache(tmp_path / "cache")
    with pytest.raises(BrokenWeights):
        await fetch(pushed(server, empty), cache, server, SystemClock())
    assert not cache.entries()
    assert not list((cache.folder / "partial").iterdir())


async def test_a_model_of_no_files_is_refused_where_it_is_read(
    server: ChunkServer, tmp_path: Path
) -> None:
    nothing = Manifest("acme/nothing", "v1", CHUNK, {})
    with pytest.raises(InvalidListing, match="1 to"):
        read_manifest(write_manifest(nothing))
    cache = WeightCache(tmp_path / "cache")
    await fetch(nothing, cache, server, SystemClock())
    assert not server.asked


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/../x.json", "a//x.json", "./x.json", "a\\..\\x.json", ""]
)
def test_a_manifest_that_leads_elsewhere_is_refused(server: ChunkServer, name: str) -> None:
    file = ChunkedFile("9f" * 32, 1, ("6e" * 32,))
    lie = Manifest("acme/poster", "v1", CHUNK, {name: file})
    with pytest.raises((InvalidListing, RefusedFormat)):
        read_manifest(write_manifest(lie))


def test_a_manifest_that_names_a_file_twice_is_refused(server: ChunkServer) -> None:
    file = ChunkedFile("9f" * 32, 1, ("6e" * 32,))
    text = write_manifest(Manifest("acme/poster", "v1", CHUNK, {"a.json": file}))
    inner = text[text.index(b'"a.json"') : text.rindex(b"},")]
    twice = text.replace(inner, inner + b"," + inner)
    assert twice.count(b'"a.json"') == 2
    with pytest.raises(SwellError, match="plain form"):
        read_manifest(twice)
