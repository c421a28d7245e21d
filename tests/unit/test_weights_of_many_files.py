"""However many files a model has: few are open at once, and all come right."""

import subprocess
import sys
from pathlib import Path

import pytest
from weights_harness import NAME, pushed

from swell.core.clock import SystemClock
from swell.weights.cache import WeightCache
from swell.weights.manifest import write_manifest
from swell.weights.store_download import fetch
from swell.weights.weight_errors import BrokenWeights
from swell.weights.weight_index import Listing
from weight_server import WeightServer

FILES = 600

#: Fetches, and uses the files as a model does, where so few files may be open.
FETCHER = """
import asyncio, resource, sys
from pathlib import Path
from swell.core.clock import SystemClock
from swell.weights.cache import WeightCache
from swell.weights.store_download import fetch
from swell.weights.weight_index import Wanted
from swell.weights.manifest import manifest_digest, note_manifest, read_manifest
from swell.weights.declared_weights import Provided
from swell.weights.store_reader import BackendSource, Place

url, manifest, folder, most = sys.argv[1:]

class Source(BackendSource):
    async def places(self, listing, digests):
        return [Place(digest, f"{url}/{digest}") for digest in digests]

soft, hard = int(most), resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
listing = read_manifest(Path(manifest).read_bytes())
cache = WeightCache(Path(folder))
note_manifest(cache, listing)
asyncio.run(fetch(listing, cache, Source(url, "key"), SystemClock()))
assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft
assert not list((cache.folder / "partial").iterdir())
wanted = Wanted("acme/poster", "v1", {}, manifest_digest(listing))
weights = Provided(wanted, cache, SystemClock(), 0.0)
folder = weights.folder()
with cache.use(cache.listings.get("acme/poster", "v1")) as held:
    print(len(held.paths), sum(path.stat().st_size for path in folder.iterdir()))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)  # Where others keep the disk busy.
def test_six_hundred_files_come_where_a_process_may_open_256(
    server: WeightServer, tmp_path: Path
) -> None:
    paths = []
    for number in range(FILES):
        paths.append(tmp_path / "source" / f"{number:03}.json")
        paths[-1].parent.mkdir(exist_ok=True)
        paths[-1].write_text(f'{{"number": {number}}}')
    (manifest := tmp_path / "manifest.json").write_bytes(write_manifest(pushed(server, *paths)))
    words = [server.url, str(manifest), str(tmp_path / "cache"), "256"]
    done = subprocess.run(
        [sys.executable, "-c", FETCHER, *words], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    size = sum(path.stat().st_size for path in paths)
    assert done.stdout.split() == [str(FILES), str(size)]
    assert set(server.asked.values()) == {1}


async def test_weights_of_no_bytes_are_refused(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    (empty := tmp_path / NAME).write_bytes(b"")
    with pytest.raises(BrokenWeights):
        await fetch(pushed(server, empty), cache, server, SystemClock())
    assert not cache.entries()
    assert not list((cache.folder / "partial").iterdir())


async def test_nothing_is_asked_for_a_model_of_no_files(
    server: WeightServer, cache: WeightCache
) -> None:
    await fetch(Listing("acme/nothing", "v1", {}), cache, server, SystemClock())
    assert not server.asked
