"""Nobody gives up what a worker that lives is about to fetch."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from weights_harness import NAME, RANGE, pushed, write

from manual_clock import ManualClock
from swell.core.clock import SystemClock
from swell.core.errors import Unavailable
from swell.weights.cache import CacheUnusable, NotCached, WeightCache
from swell.weights.declared_weights import PATIENCE_S, Provided
from swell.weights.manifest import manifest_digest
from swell.weights.store_reader import Place
from swell.weights.weight_index import Listing, Wanted, WantedFile
from swell.worker.weight_prefetch import Provision, Wish
from weight_server import WeightServer, hold

#: A worker that announces downloads until it is killed.
WORKER = """
import sys, time
from pathlib import Path
from swell.weights.cache import WeightCache
with WeightCache(Path(sys.argv[1])).partials.announce():
    print("announced", flush=True)
    time.sleep(600)
"""


def waiting(
    manifest: Listing, cache: WeightCache, clock: ManualClock, *, pinned: bool = True
) -> Provided:
    files = {name: WantedFile("", entry.sha256) for name, entry in manifest.files.items()}
    wanted = Wanted(
        manifest.model, manifest.version, files, manifest_digest(manifest) if pinned else None
    )
    return Provided(wanted, cache, clock)


async def wait_long(clock: ManualClock, until: Callable[[], bool] = lambda: False) -> None:
    """Have much more time pass than anybody's patience, in steps that are seen."""
    for _ in range(8):
        if until():
            return
        clock.advance(PATIENCE_S / 2)
        await asyncio.sleep(0.05)


async def give_up(clock: ManualClock, path: "asyncio.Task[Path]") -> None:
    """Have time pass until whoever waits for a path has given up."""
    async with asyncio.timeout(20):
        while not path.done():
            clock.advance(PATIENCE_S / 2)
            await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [True, False])
async def test_who_waits_does_so_while_the_worker_that_will_fetch_it_lives(
    server: WeightServer, cache: WeightCache, tmp_path: Path, pinned: bool
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    clock = ManualClock()
    weights = waiting(manifest, cache, clock, pinned=pinned)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(cache.folder)], stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"announced\n"
        path = asyncio.create_task(asyncio.to_thread(weights.path, NAME))
        await wait_long(clock, path.done)
        assert not path.done()
        worker.kill()
    await give_up(clock, path)
    with pytest.raises(NotCached, match="nobody fetches it"):
        await path


async def test_a_cache_that_cannot_be_announced_in_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    cache = WeightCache(tmp_path / "cache")
    with pytest.raises(CacheUnusable, match="something else"), cache.partials.announce():
        pass
    assert not cache.partials.is_announced()


@pytest.mark.slow
@pytest.mark.usefixtures("small_ranges")
async def test_the_second_model_is_waited_for_while_the_first_is_fetched(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    first = pushed(server, write(tmp_path / "1" / NAME, 1, 20_000), model="acme/first")
    second = pushed(server, write(tmp_path / "2" / NAME, 2, 1_000), model="acme/second")
    server.tricks[2 * RANGE] = hold(server)
    wishes = [Wish(each.model, "v1", manifest_digest(each)) for each in (first, second)]
    provision = Provision(wishes, cache, server, SystemClock())
    bringing = asyncio.create_task(provision.bring())
    clock = ManualClock()
    weights = waiting(second, cache, clock)
    path = asyncio.create_task(asyncio.to_thread(weights.path, NAME))
    await asyncio.to_thread(server.stuck.wait, 20)
    await wait_long(clock, path.done)
    assert not path.done()
    server.over.set()
    await bringing
    assert (await path).exists()
    assert not cache.partials.is_announced()


class Late:
    """A source that is away, for so many questions."""

    def __init__(self, server: WeightServer, away: int) -> None:
        self._server = server
        self.away = away

    async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
        self._answer()
        return await self._server.manifest(model, version, digest)

    async def places(self, listing: Listing, digests: Sequence[str]) -> list[Place]:
        self._answer()
        return await self._server.places(listing, digests)

    async def read(self, place: Place, start: int, end: int) -> bytearray:
        return await self._server.read(place, start, end)

    def close(self) -> None:
        self._server.close()

    def _answer(self) -> None:
        self.away -= 1
        if self.away >= 0:
            raise Unavailable("it starts")


@pytest.mark.slow
async def test_a_backend_that_starts_later_is_asked_until_it_answers_and_that_is_said_once(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    source, told = Late(server, away=5), list[tuple[str, dict[str, Any]]]()
    clock = ManualClock()
    wishes = [Wish("acme/poster", "v1", manifest_digest(manifest))]
    bringing = asyncio.create_task(
        Provision(wishes, cache, source, clock, tell=lambda e, **f: told.append((e, f))).bring()
    )
    patience = ManualClock()
    weights = waiting(manifest, cache, patience)
    path = asyncio.create_task(asyncio.to_thread(weights.path, NAME))
    while source.away > 0:
        assert not bringing.done()
        clock.advance(10.0)
        await wait_long(patience, path.done)
    assert not path.done()
    clock.advance(10.0)
    await bringing
    assert (await path).exists()
    assert [event for event, _ in told] == ["weights cannot be asked for now", "weights fetched"]
    assert told[0][1] == {"detail": "it starts"}


@pytest.mark.slow
async def test_a_backend_that_goes_away_meanwhile_is_asked_again_too(
    server: WeightServer, cache: WeightCache, tmp_path: Path
) -> None:
    manifest = pushed(server, write(tmp_path / NAME))
    told: list[str] = []
    wishes = [Wish("acme/poster", "v1", manifest_digest(manifest))]

    class GoesAway(Late):
        async def manifest(self, model: str, version: str, digest: str | None = None) -> Listing:
            found = await super().manifest(model, version, digest)
            self.away = 2
            return found

    source = GoesAway(server, away=0)
    clock = SystemClock()
    await Provision(wishes, cache, source, clock, tell=lambda e, **_: told.append(e)).bring()
    assert told == ["weights cannot be asked for now", "weights fetched"]
    assert cache.path(manifest.files[NAME].sha256).exists()
