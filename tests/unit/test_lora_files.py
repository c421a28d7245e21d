"""LoRAs on their way from what an input names to a file in the weights cache."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

import swell
from conformance.dispatch import MemoryDispatch
from lora_painter import layers, lora_file, packed
from manual_clock import ManualClock
from swell.core.errors import InvalidInput, NotFound, TooLarge, Unavailable
from swell.core.task import Canceled
from swell.protocol.worker_messages import Incoming, LeasedTask
from swell.sdk.define import define
from swell.weights.cache import CacheFull, NotCached, WeightCache
from swell.weights.known_urls import remember
from swell.weights.lora import WrongLora
from swell.weights.partial_files import LOCK_EVERY_S
from swell.weights.weight_index import Listing
from swell.worker import lora_files as module
from swell.worker.inflight import InflightTasks
from swell.worker.lora_files import HeldLora, Loras
from swell.worker.task_inputs import FileFields, file_fields

INK, CHALK = lora_file(layers(1)), lora_file(layers(2))
INK_URL, CHALK_URL = "https://example.com/ink.safetensors", "https://example.com/chalk?key=opens"
OWN = "https://swell.example/v1/artifacts/uploads/1.safetensors?signature="


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Source(MemoryDispatch):
    """Holds its files back while told to, and may not know their sizes."""

    def __init__(self) -> None:
        super().__init__(ManualClock())
        self.inputs = {
            INK_URL: (INK, "application/octet-stream"),
            CHALK_URL: (CHALK, "application/octet-stream"),
        }
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.asked = asyncio.Event()
        self.knows_size = True

    @contextlib.asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Incoming]:
        async with super().open(url) as incoming:
            self.asked.set()
            await self.may_go.wait()
            size_bytes = incoming.size_bytes if self.knows_size else None
            yield Incoming(size_bytes, incoming.parts)


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
def cache(tmp_path: Path) -> WeightCache:
    return WeightCache(tmp_path / "weights")


#: What tests hold, to be closed after them.
HELD: list[HeldLora] = []


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    yield
    while HELD:
        HELD.pop().close()


class Bringing(Loras):
    """Remembers what was held."""

    async def bring(
        self, names: Sequence[str], own_files: Mapping[str, str]
    ) -> dict[str, HeldLora]:
        found = await super().bring(names, own_files)
        HELD.extend(found.values())
        return found


def bringing(source: Source, cache: WeightCache | None, limit_bytes: int = 1 << 20) -> Loras:
    return Bringing(source, cache, source.clock, limit_bytes)


async def brought(loras: Loras, name: str) -> HeldLora:
    return (await loras.bring([name], {}))[name]


# --- fetching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("knows_size", [True, False])
async def test_a_file_lies_in_the_cache_by_its_content(
    source: Source, cache: WeightCache, knows_size: bool
) -> None:
    source.knows_size = knows_size
    found = await bringing(source, cache).bring([INK_URL, CHALK_URL], {})
    assert {name: held.digest for name, held in found.items()} == {
        INK_URL: digest(INK),
        CHALK_URL: digest(CHALK),
    }
    for name, data in ((INK_URL, INK), (CHALK_URL, CHALK)):
        assert Path(found[name].path).read_bytes() == data
    assert list((cache.folder / "partial").iterdir()) == []


async def test_a_file_is_fetched_once_for_all_who_want_it_at_a_time(
    source: Source, cache: WeightCache
) -> None:
    source.may_go.clear()
    loras = bringing(source, cache)
    waiting = [asyncio.create_task(brought(loras, INK_URL)) for _ in range(5)]
    await source.asked.wait()
    waiting.append(asyncio.create_task(brought(loras, INK_URL)))
    waiting.pop(0).cancel()
    source.may_go.set()
    found = await asyncio.gather(*waiting)
    assert {held.digest for held in found} == {digest(INK)}
    assert source.opened == [INK_URL]


async def test_two_workers_with_one_cache_fetch_a_file_once(
    source: Source, cache: WeightCache
) -> None:
    source.may_go.clear()
    first, second = bringing(source, cache), bringing(source, WeightCache(cache.folder))
    one = asyncio.create_task(brought(first, INK_URL))
    await source.asked.wait()
    other = asyncio.create_task(brought(second, INK_URL))
    source.may_go.set()
    await one
    clock = source.clock
    assert isinstance(clock, ManualClock)
    async with asyncio.timeout(20):
        while not other.done():
            clock.advance(LOCK_EVERY_S)
            await asyncio.sleep(0)
    assert (await other).digest == digest(INK)
    assert source.opened == [INK_URL]


async def test_a_file_of_somebody_else_is_asked_for_again_after_a_while(
    source: Source, cache: WeightCache
) -> None:
    clock = source.clock
    assert isinstance(clock, ManualClock)
    await brought(bringing(source, cache), INK_URL)
    clock.advance(module.FRESH_S - 1)
    await brought(bringing(source, cache), INK_URL)
    assert source.opened == [INK_URL]
    source.inputs[INK_URL] = (CHALK, "")
    clock.advance(2)
    assert (await brought(bringing(source, cache), INK_URL)).digest == digest(CHALK)
    assert source.opened == [INK_URL] * 2


async def test_what_was_noted_while_the_clock_was_ahead_is_not_known_for_long(
    source: Source, cache: WeightCache
) -> None:
    entry = cache.entry((await brought(bringing(source, cache), INK_URL)).digest)
    assert entry is not None
    [note] = (cache.folder / "addresses").iterdir()
    ahead = source.clock.now() + timedelta(days=400)
    remember(cache, note.stem, entry, ahead)
    source.inputs[INK_URL] = (CHALK, "")
    assert (await brought(bringing(source, cache), INK_URL)).digest == digest(CHALK)


async def test_a_file_of_the_backend_never_changes_whatever_its_signature(
    source: Source, cache: WeightCache
) -> None:
    clock = source.clock
    assert isinstance(clock, ManualClock)
    for signature in "abc":
        fresh = f"/v1/artifacts/uploads/1.safetensors?signature=fresh-{signature}"
        source.inputs[fresh] = (INK, "")
        loras = bringing(source, cache)
        held = await loras.bring([OWN + signature], {OWN + signature: fresh})
        assert held[OWN + signature].digest == digest(INK)
        clock.advance(10 * module.FRESH_S)
    assert source.opened == ["/v1/artifacts/uploads/1.safetensors?signature=fresh-a"]


async def test_a_digest_behind_a_url_says_what_must_come(
    source: Source, cache: WeightCache
) -> None:
    loras = bringing(source, cache)
    pinned = f"{INK_URL}#sha256={digest(INK)}"
    assert (await brought(loras, pinned)).digest == digest(INK)
    source.inputs.clear()
    assert (await brought(loras, pinned)).digest == digest(INK), "it is here"
    source.inputs[CHALK_URL] = (INK, "")
    for wrong, told in (
        (f"{CHALK_URL}#sha256={digest(CHALK)}", "was asked for"),
        (f"{INK_URL}#sha256=12", "64 hexadecimal digits"),
        (f"{INK_URL}#md5=12", "#sha256="),
    ):
        with pytest.raises(InvalidInput, match=told):
            await brought(loras, wrong)


# --- what the cache has --------------------------------------------------------------------------


async def test_what_was_pulled_is_taken_by_its_digest_or_its_name(
    source: Source, cache: WeightCache, tmp_path: Path
) -> None:
    path = tmp_path / "ink.safetensors"
    path.write_bytes(INK)
    ink = cache.add(path, "ink.safetensors")
    path.write_bytes(CHALK)
    chalk = cache.add(path, "chalk.safetensors")
    cache.listings.write(Listing("acme/ink", "v1", {"ink.safetensors": ink}))
    both = {"ink.safetensors": ink, "b/chalk.safetensors": chalk}
    cache.listings.write(Listing("acme/both", "v1", both))
    cache.listings.write(Listing("acme/both", "v2", {"chalk.safetensors": chalk}))
    loras = bringing(source, cache)
    for name, data in (
        (f"sha256:{digest(INK)}", INK),
        ("acme/ink", INK),
        ("acme/ink@v1", INK),
        ("acme/both@v2", CHALK),
        ("acme/both@v1/b/chalk.safetensors", CHALK),
    ):
        assert (await brought(loras, name)).digest == digest(data), name
    for name, told in (
        ("acme/both", "several versions: give one of acme/both@v1, acme/both@v2"),
        ("acme/both@v1", "several files: add one, such as /ink.safetensors"),
        ("ink", "names no LoRA"),
        ("../listings/acme/ink", "names no LoRA"),
        ("sha256:12", "64 hexadecimal digits"),
    ):
        with pytest.raises(InvalidInput, match=told):
            await brought(loras, name)
    for name in (f"sha256:{'0' * 64}", "acme/none", "acme/ink@v2", "acme/ink@v1/no.safetensors"):
        with pytest.raises(NotCached, match="not in this worker's weights cache") as caught:
            await brought(loras, name)
        assert str(tmp_path) not in caught.value.detail


async def test_weights_of_the_cache_that_are_no_lora_are_refused(
    source: Source, cache: WeightCache, tmp_path: Path
) -> None:
    path = tmp_path / "base.safetensors"
    path.write_bytes(packed({"conv_in.weight": [[1.0]]}))
    entry = cache.add(path, "base.safetensors")
    with pytest.raises(WrongLora, match="is no LoRA"):
        await brought(bringing(source, cache), f"sha256:{entry.sha256}")


# --- what is refused -----------------------------------------------------------------------------


async def test_what_is_no_lora_is_refused_and_not_kept(source: Source, cache: WeightCache) -> None:
    for data, told in (
        (b"\x80\x04 a pickle", r"must be a \.safetensors file"),
        (packed({"conv_in.weight": [[1.0]]}), "holds 'conv_in.weight'"),
        (INK[:-4], "cut off"),
        (b"", "ends before its header"),
    ):
        source.inputs["https://example.com/a?key=opens"] = (data, "")
        with pytest.raises(WrongLora, match=told) as caught:
            await brought(bringing(source, cache), "https://example.com/a?key=opens")
        assert "opens" not in caught.value.detail
        assert "https://example.com/a" in caught.value.detail
    assert cache.size_bytes() == 0


async def test_a_pickle_is_not_even_fetched(source: Source, cache: WeightCache) -> None:
    for name in ("https://example.com/a.pt", "https://example.com/a.ckpt?x=1"):
        with pytest.raises(WrongLora, match=r"may be a pickle.*save_file"):
            await brought(bringing(source, cache), name)
    assert source.opened == []


@pytest.mark.parametrize("knows_size", [True, False])
async def test_a_file_beyond_the_limit_is_refused(
    source: Source, cache: WeightCache, knows_size: bool
) -> None:
    source.knows_size = knows_size
    with pytest.raises(TooLarge, match=r"worker\.max_lora_bytes"):
        await brought(bringing(source, cache, len(INK) - 1), INK_URL)
    await brought(bringing(source, cache, len(INK)), INK_URL)


async def test_too_many_at_once_are_refused(source: Source, cache: WeightCache) -> None:
    names = [f"https://example.com/{n}" for n in range(module.MOST_LORAS + 1)]
    with pytest.raises(InvalidInput, match="at most 16"):
        await bringing(source, cache).bring(names, {})
    assert source.opened == []


async def test_one_that_is_missing_lets_go_of_the_others(
    source: Source, cache: WeightCache
) -> None:
    loras = bringing(source, cache)
    with pytest.raises(NotFound):
        await loras.bring([INK_URL, "https://example.com/none"], {})
    assert cache.evict(0).in_use == 0


async def test_a_failed_fetch_is_tried_again_by_the_next_task(
    source: Source, cache: WeightCache
) -> None:
    loras = bringing(source, cache)
    source.is_away = True
    with pytest.raises(Unavailable):
        await brought(loras, INK_URL)
    source.is_away = False
    assert (await brought(loras, INK_URL)).digest == digest(INK)


async def test_a_worker_without_a_cache_says_so(source: Source) -> None:
    with pytest.raises(NotCached, match="takes no LoRAs"):
        await brought(bringing(source, None), INK_URL)


# --- room ----------------------------------------------------------------------------------------


async def test_the_cache_keeps_its_budget_and_what_tasks_hold(
    source: Source, tmp_path: Path
) -> None:
    cache = WeightCache(tmp_path / "weights", len(INK) + len(CHALK) // 2)
    loras = bringing(source, cache)
    held = await brought(loras, INK_URL)
    with pytest.raises(CacheFull):
        await brought(loras, CHALK_URL)
    assert Path(held.path).exists()
    held.close()
    await brought(loras, CHALK_URL)
    assert not Path(held.path).exists()
    source.inputs.clear()
    assert (await brought(loras, CHALK_URL)).digest == digest(CHALK), "it is here"


async def test_a_file_is_held_until_its_task_has_ended(source: Source, cache: WeightCache) -> None:
    desk = InflightTasks(1)
    task = LeasedTask(
        task_id="t", attempt=1, token="k", model="m", version="v", input=msgspec.Raw(b"{}")
    )
    held = desk.hold(task, "m", 0.0)
    held.loras = await bringing(source, cache).bring([INK_URL], {})
    assert cache.evict(0).in_use == 1
    desk.settle(held, Canceled())
    assert cache.evict(0).in_use == 0


async def test_closing_ends_what_is_on_its_way(source: Source, cache: WeightCache) -> None:
    source.may_go.clear()
    loras = bringing(source, cache)
    waiting = asyncio.create_task(brought(loras, INK_URL))
    await source.asked.wait()
    await loras.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# --- which properties ----------------------------------------------------------------------------


def test_the_schema_says_which_properties_are_loras() -> None:
    @swell.model("test/styled")
    def styled(
        image: swell.Image,
        style: swell.LoRA | None = None,
        more: list[swell.LoRA] = [],  # noqa: B006
    ) -> str:
        return ""

    fields = file_fields(define(styled).input_schema)
    assert fields == FileFields(("image",), ("style", "more"))
    raw = msgspec.Raw(
        b'{"image": "u1", "style": {"file": "u2", "scale": 0.5}, '
        b'"more": ["u3", {"file": "u2"}, "data:a;base64,AA", {"scale": 1}, 7]}'
    )
    assert fields.urls(raw) == ["u1"]
    assert fields.lora_files(raw) == ["u2", "u3"]
