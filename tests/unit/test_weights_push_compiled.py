"""What was compiled for a version goes up under a signature, and nothing else of the folder."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("cryptography")

from manual_clock import ManualClock
from swell.core.errors import InvalidRequest
from swell.objects.folder import TemporaryObjects
from swell.objects.object_store import check_key
from swell.weights import CompiledCache, CompiledKey, NotPrivate
from swell.weights.cache import DigestMismatch
from swell.weights.chunks import ChunkedFile, Manifest, chunk_key
from swell.weights.push_compiled import PushedPrograms, Signer, push_compiled
from swell.weights.signed import believed, cpu_key, note_key
from swell.weights.signing import SigningKey, Trusted, make_key
from swell.weights.store import WeightStore

CHUNK = 4096
CPU = "a cpu 0123"
CONTENT = b"".join(b"program %06d" % number for number in range(1000))
MANIFEST = Manifest(
    "acme/poster",
    "v1",
    CHUNK,
    {
        "a.safetensors": ChunkedFile("ab" * 32, 10, ("00" * 32,)),
        "b.safetensors": ChunkedFile("cd" * 32, 10, ("00" * 32,)),
    },
)
KEY = CompiledKey(("ab" * 32,), "1", {"torch": "2.13.0"}, "cpu", CPU)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(start=datetime(2026, 11, 1, tzinfo=UTC))


@pytest.fixture
def store(clock: ManualClock) -> WeightStore:
    return WeightStore(TemporaryObjects(clock, b"0" * 32), "weights")


@pytest.fixture
def cache(tmp_path: Path) -> CompiledCache:
    made = CompiledCache(tmp_path / "compiled")
    made.put(KEY, CONTENT)
    return made


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path / "key")


async def pushed(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> PushedPrograms:
    return await push_compiled(MANIFEST, cache, store, Signer(key), clock)


async def test_it_lies_beside_the_weights_and_says_for_what(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    done = await pushed(cache, store, key, clock)
    [note] = await store.notes("acme/poster", "v1", cpu_key(CPU))
    program = believed(note, Trusted([key.public]))
    assert done.programs == (program,)
    assert (program.key, program.manifest) == (KEY, MANIFEST.digest)
    assert program.signed_at == clock.now()
    read = b""
    for digest in program.content.chunks:
        async for piece in store.objects.read(f"weights/{chunk_key(digest)}"):
            read += piece
    assert read == CONTENT
    assert done.pushed.sent_chunks == len(program.content.chunks) > 1


async def test_what_was_fetched_is_signed_only_where_a_key_is_trusted_that_has_signed_it(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock, tmp_path: Path
) -> None:
    friend, stranger = make_key(tmp_path / "friend"), make_key(tmp_path / "stranger")
    origins = {"f": friend.id, "s": stranger.id, "k": key.id, "u": ""}
    for name, origin in origins.items():
        fetched = msgspec.structs.replace(KEY, model=name)
        assert cache.put(fetched, name.encode(), origin)
    done = await pushed(cache, store, key, clock)
    assert {each.key.model for each in done.programs} == {"1", "k"}
    assert {each.key.model for each in done.left} == {"f", "s", "u"}
    assert len(await store.notes("acme/poster", "v1", cpu_key(CPU))) == 2
    signer = Signer(key, Trusted([friend.public]))
    done = await push_compiled(MANIFEST, cache, store, signer, clock)
    assert {each.key.model for each in done.programs} == {"1", "k", "f"}
    assert {each.origin for each in done.left} == {stranger.id, ""}


async def test_where_all_was_fetched_from_strangers_it_is_said_what_to_do(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    cache.put(KEY, CONTENT, "0123456789abcdef")
    with pytest.raises(InvalidRequest, match=r"signed by 0123456789abcdef.*compiled_keys"):
        await pushed(cache, store, key, clock)
    assert await store.notes("acme/poster", "v1", cpu_key(CPU)) == []


async def test_what_an_earlier_version_has_kept_is_not_signed(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    [record] = (cache.folder / "records").glob("*.json")
    told = msgspec.json.decode(record.read_bytes())
    assert told.pop("origin") == "here"
    record.unlink()
    record.write_bytes(msgspec.json.encode(told))
    assert cache.get(KEY) == CONTENT, "it is used as before"
    with pytest.raises(InvalidRequest, match="compiled by nobody knows"):
        await pushed(cache, store, key, clock)


async def test_what_has_failed_here_is_not_signed(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    cache.refuse(hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(InvalidRequest, match="nothing that was compiled"):
        await pushed(cache, store, key, clock)


async def test_a_second_push_sends_no_chunk_and_a_new_key_signs_anew(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock, tmp_path: Path
) -> None:
    await pushed(cache, store, key, clock)
    fresh = make_key(tmp_path / "fresh")
    done = await pushed(cache, store, fresh, clock)
    assert done.pushed.sent_chunks == 0
    [note] = await store.notes("acme/poster", "v1", cpu_key(CPU))
    assert believed(note, Trusted([fresh.public])).key == KEY


async def test_only_what_is_for_weights_of_the_version_is_signed(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    both = msgspec.structs.replace(KEY, weights=("ab" * 32, "cd" * 32))
    for other in (("ef" * 32,), ("ab" * 32, "ef" * 32), ()):
        cache.put(msgspec.structs.replace(KEY, weights=other), b"other")
    cache.put(both, b"both")
    done = await pushed(cache, store, key, clock)
    assert {each.key.digest for each in done.programs} == {KEY.digest, both.digest}


async def test_what_has_changed_since_it_was_written_down_is_not_signed(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    path = cache.contents.path(hashlib.sha256(CONTENT).hexdigest())
    path.chmod(0o600)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DigestMismatch, match="is not signed"):
        await pushed(cache, store, key, clock)
    assert await store.notes("acme/poster", "v1", cpu_key(CPU)) == []


async def test_a_folder_that_others_can_write_is_not_signed(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    cache.folder.chmod(0o770)
    with pytest.raises(NotPrivate, match="chmod 700"):
        await pushed(cache, store, key, clock)


async def test_nothing_to_sign_is_said_with_what_to_do(
    tmp_path: Path, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    with pytest.raises(InvalidRequest, match=r"worker\.compiled_dir"):
        await pushed(CompiledCache(tmp_path / "empty"), store, key, clock)


async def test_a_note_without_end_is_left_out(
    cache: CompiledCache, store: WeightStore, key: SigningKey, clock: ManualClock
) -> None:
    done = await pushed(cache, store, key, clock)
    long = note_key(done.programs[0]).replace(".json", "0.json")
    await store.objects.put(f"weights/{long}", b"0" * 100_000, "application/json")
    assert len(await store.notes("acme/poster", "v1", cpu_key(CPU))) == 1


async def test_a_file_whose_name_is_no_key_hides_no_note(
    cache: CompiledCache,
    store: WeightStore,
    key: SigningKey,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bucket lists whatever somebody has put there."""
    await pushed(cache, store, key, clock)
    under, read = store.objects.under, store.objects.read

    async def listed(folder: str, *, limit: int) -> list[str]:
        return [f"{folder}/.DS_Store", *await under(folder, limit=limit)]

    monkeypatch.setattr(store.objects, "under", listed)
    monkeypatch.setattr(store.objects, "read", lambda name: read(check_key(name)))
    assert len(await store.notes("acme/poster", "v1", cpu_key(CPU))) == 1
