"""What every registry must do. Subclass in a test and give a `registry` fixture."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from manual_clock import ManualClock
from swell.core.records import (
    ApiKey,
    AuditEntry,
    KeyLimits,
    ModelCard,
    Sample,
    Scope,
    Speed,
    WorkerInfo,
)
from swell.db.registry import Registry

#: Microseconds, so that an adapter which rounds them is found out.
NOW = datetime(2030, 1, 1, 12, 30, 0, 123_457, tzinfo=UTC)


def a_worker(worker_id: str = "worker-1", **fields: Any) -> WorkerInfo:
    """Return a worker that registers now."""
    values: dict[str, Any] = {
        "id": worker_id,
        "name": f"name of {worker_id}",
        "pool": "default",
        "models": {"demo/upper": "v1"},
        "registered_at": NOW,
        "seen_at": NOW,
    }
    return WorkerInfo(**(values | fields))


def a_key(key_id: str = "key-1", **fields: Any) -> ApiKey:
    """Return a key that belongs to a client."""
    values: dict[str, Any] = {
        "id": key_id,
        "name": f"name of {key_id}",
        "digest": key_id.encode().ljust(32, b"\0"),
        "scopes": frozenset({Scope.CLIENT}),
        "created_at": NOW,
    }
    return ApiKey(**(values | fields))


class RegistryConformance:
    """The guarantees of `swell.core.records`, as tests over a `registry` fixture.

    Its time is that of the `clock` fixture.
    """

    # ---- models

    async def test_a_model_is_read_back_whole(self, registry: Registry) -> None:
        card = ModelCard(
            name="demo/poster",
            version="v1",
            description="Draws *posters*.",
            input_schema={"type": "object", "properties": {"text": {"type": "string"}}},
            output_schema={"type": "string"},
            examples=[{"text": "hällo"}],
            stage="trial",
            batch_by=("width", "height"),
            max_batch=8,
            licence="MIT",
            credits="By **us**.",
            memory_bytes=10**11,
            price_micros=40_000,
            speed=[Speed("one core", "8 x 8", 0.5, "2026-11-25")],
            samples=[Sample(caption="é", content_type="image/webp", digest="ab", width=8)],
            registered_at=NOW,
        )
        await registry.put_models([card])
        assert await registry.models() == [card]

    async def test_models_are_listed_by_name_and_newest_first(self, registry: Registry) -> None:
        await registry.put_models([_card("demo/b", "v1"), _card("demo/a", "v1")])
        await registry.put_models([_card("demo/b", "v2"), _card("demo/b", "v3")])
        assert await _versions(registry) == [
            ("demo/a", "v1"),
            ("demo/b", "v3"),
            ("demo/b", "v2"),
            ("demo/b", "v1"),
        ]

    async def test_a_version_never_changes_once_registered(self, registry: Registry) -> None:
        first = _card("demo/a", "v1", description="first")
        await registry.put_models([first])
        await registry.put_models([_card("demo/a", "v1", description="second")])
        assert await registry.models() == [first]

    async def test_a_version_registered_again_becomes_the_newest_and_stays_as_it_is(
        self, registry: Registry
    ) -> None:
        first = _card("demo/a", "v1", description="first")
        await registry.put_models([first, _card("demo/a", "v2")])
        await registry.put_models([_card("demo/a", "v1", description="second")])
        newest, older = await registry.models()
        assert newest == first
        assert older.version == "v2"

    async def test_what_others_ask_for_a_version_is_what_was_told_last(
        self, registry: Registry
    ) -> None:
        schema = {"type": "object", "properties": {"text": {}, "at": {}, "a": {"default": 1.5}}}
        first = _card("demo/a", "v1", input_schema=schema)
        await registry.put_models([first])
        for price in (40, 50, 0):
            await registry.put_models([_card("demo/a", "v1", price_micros=price)])
            [known] = await registry.models()
            assert known == msgspec.structs.replace(first, price_micros=price)
            assert list(known.input_schema["properties"]) == ["text", "at", "a"]

    async def test_registering_no_models_changes_nothing(self, registry: Registry) -> None:
        await registry.put_models([])
        assert await registry.models() == []

    async def test_models_registered_at_the_same_time_are_all_known(
        self, registry: Registry
    ) -> None:
        cards = [_card(f"demo/{number:02}", "v1") for number in range(20)]
        await asyncio.gather(*(registry.put_models([card, cards[0]]) for card in cards))
        assert await registry.models() == cards

    # ---- workers

    async def test_a_worker_is_read_back_whole(self, registry: Registry) -> None:
        worker = a_worker(
            pool="spot",
            models={"demo/a": "v1", "demo/b": "v2"},
            slots=4,
            device="cuda",
            host="machine",
            pid=7,
            dearest_micros=40_000,
        )
        await registry.put_worker(worker)
        assert await registry.workers() == [worker]

    async def test_workers_are_listed_oldest_first(self, registry: Registry) -> None:
        for place, worker_id in enumerate(["c", "a", "b"]):
            later = NOW + timedelta(seconds=place)
            await registry.put_worker(a_worker(worker_id, registered_at=later))
        assert [worker.id for worker in await registry.workers()] == ["c", "a", "b"]

    async def test_a_worker_heard_of_is_seen_and_strangers_are_ignored(
        self, registry: Registry
    ) -> None:
        await registry.put_worker(a_worker("one"))
        await registry.put_worker(a_worker("two"))
        later = NOW + timedelta(seconds=9, microseconds=1)
        await registry.touch_workers(["one", "stranger"], later)
        seen = {worker.id: worker.seen_at for worker in await registry.workers()}
        assert seen == {"one": later, "two": NOW}

    async def test_a_drained_worker_stays_marked_when_it_is_heard_of(
        self, registry: Registry
    ) -> None:
        await registry.put_worker(a_worker())
        later = NOW + timedelta(seconds=5)
        await registry.touch_workers(["worker-1"], later)
        drained = await registry.drain_worker("worker-1")
        assert drained == a_worker(draining=True, seen_at=later)
        await registry.touch_workers(["worker-1"], later + timedelta(seconds=5))
        (worker,) = await registry.workers()
        assert worker.draining

    async def test_a_stranger_cannot_be_drained(self, registry: Registry) -> None:
        assert await registry.drain_worker("stranger") is None

    async def test_a_worker_that_has_gone_stays_listed_with_the_time(
        self, registry: Registry
    ) -> None:
        await registry.put_worker(a_worker())
        gone_at = NOW + timedelta(seconds=5)
        await registry.remove_worker("worker-1", gone_at)
        await registry.remove_worker("worker-1", gone_at + timedelta(seconds=5))
        await registry.remove_worker("stranger", gone_at)
        await registry.touch_workers(["worker-1"], gone_at + timedelta(seconds=5))
        assert await registry.workers() == [a_worker(gone_at=gone_at)]

    async def test_a_worker_that_comes_back_is_alive_again(self, registry: Registry) -> None:
        await registry.put_worker(a_worker(draining=True))
        await registry.remove_worker("worker-1", NOW)
        back = a_worker(registered_at=NOW + timedelta(hours=1))
        await registry.put_worker(back)
        assert await registry.workers() == [back]

    async def test_workers_gone_for_more_than_a_day_are_forgotten(self, registry: Registry) -> None:
        for worker_id in ("old", "recent", "alive", "now"):
            await registry.put_worker(a_worker(worker_id))
        await registry.remove_worker("old", NOW)
        await registry.remove_worker("recent", NOW + timedelta(hours=2))
        await registry.remove_worker("now", NOW + timedelta(hours=25))
        listed = {worker.id for worker in await registry.workers()}
        assert listed == {"recent", "alive", "now"}

    # ---- keys

    async def test_a_key_is_read_back_whole_by_its_digest(self, registry: Registry) -> None:
        key = a_key(scopes=frozenset({Scope.ADMIN, Scope.WORKER}))
        await registry.put_key(key)
        assert await registry.key_by_digest(key.digest) == key
        assert await registry.key(key.id) == key
        assert await registry.key("none") is None
        assert await registry.keys() == [key]

    async def test_a_digest_that_is_not_known_finds_nothing(self, registry: Registry) -> None:
        await registry.put_key(a_key())
        assert await registry.key_by_digest(b"x" * 32) is None

    async def test_keys_are_listed_oldest_first(self, registry: Registry) -> None:
        for place, key_id in enumerate(["c", "a", "b"]):
            await registry.put_key(a_key(key_id, created_at=NOW + timedelta(seconds=place)))
        assert [key.id for key in await registry.keys()] == ["c", "a", "b"]

    async def test_a_revoked_key_is_still_found_and_says_so(self, registry: Registry) -> None:
        key = a_key()
        await registry.put_key(key)
        revoked = msgspec.structs.replace(key, revoked_at=NOW + timedelta(days=1))
        await registry.put_key(revoked)
        assert await registry.key_by_digest(key.digest) == revoked
        assert await registry.keys() == [revoked]

    async def test_a_key_replaced_is_no_longer_found_by_its_old_digest(
        self, registry: Registry
    ) -> None:
        await registry.put_key(a_key())
        await registry.put_key(a_key(digest=b"y" * 32))
        assert await registry.key_by_digest(a_key().digest) is None
        assert len(await registry.keys()) == 1

    async def test_what_a_key_may_is_kept(self, registry: Registry) -> None:
        key = a_key(
            expires_at=NOW + timedelta(days=30),
            pools=("gpu", "cpu"),
            models=("demo/*",),
            limits=KeyLimits(
                rate_per_s=0.5, burst=3, tasks_in_flight=0, tasks_per_day=10, streams=2
            ),
        )
        await registry.put_key(key)
        assert await registry.keys() == [key]

    async def test_a_rotated_key_is_found_by_both_secrets(self, registry: Registry) -> None:
        key, new = a_key(), b"n" * 32
        await registry.put_key(key)
        rotated = msgspec.structs.replace(
            key, digest=new, old_digest=key.digest, old_until=NOW + timedelta(hours=1)
        )
        await registry.put_key(rotated)
        assert await registry.key_by_digest(new) == rotated
        assert await registry.key_by_digest(key.digest) == rotated
        again = msgspec.structs.replace(rotated, digest=b"m" * 32, old_digest=new)
        await registry.put_key(again)
        assert await registry.key_by_digest(new) == again
        assert await registry.key_by_digest(key.digest) is None
        assert await registry.keys() == [again]

    async def test_of_those_who_change_a_secret_at_once_one_does(self, registry: Registry) -> None:
        key = a_key()
        assert await registry.put_key(key)
        assert not await registry.put_key(a_key("none"), instead_of=key.digest)
        changed = [
            msgspec.structs.replace(key, digest=bytes([number]) * 32, old_digest=key.digest)
            for number in range(8)
        ]
        done = await asyncio.gather(
            *(registry.put_key(each, instead_of=key.digest) for each in changed)
        )
        assert sum(done) == 1
        kept = changed[done.index(True)]
        assert await registry.keys() == [kept]
        for each in changed:
            assert await registry.key_by_digest(each.digest) == (kept if each is kept else None)
        assert not await registry.put_key(changed[0], instead_of=key.digest)
        assert await registry.put_key(key, instead_of=kept.digest)

    async def test_a_key_that_was_revoked_stays_revoked(self, registry: Registry) -> None:
        key = a_key()
        revoked = msgspec.structs.replace(key, revoked_at=NOW)
        await registry.put_key(revoked)
        await registry.put_key(msgspec.structs.replace(key, name="other"))
        await registry.put_key(msgspec.structs.replace(key, revoked_at=NOW + timedelta(days=1)))
        assert await registry.keys() == [revoked]

    async def test_when_a_key_was_used_is_kept_beside_it(self, registry: Registry) -> None:
        await registry.put_key(a_key(used_at=NOW))
        assert (await registry.keys())[0].used_at is None
        later = NOW + timedelta(seconds=5)
        await registry.touch_keys({"key-1": later, "stranger": later})
        await registry.touch_keys({"key-1": NOW})
        assert await registry.keys() == [a_key(used_at=later)]
        assert await registry.key_by_digest(a_key().digest) == a_key(used_at=later)
        await registry.put_key(a_key(name="other"))
        assert await registry.keys() == [a_key(name="other", used_at=later)]

    # ---- what operators did

    async def test_what_operators_did_is_read_page_by_page(self, registry: Registry) -> None:
        entries = [_an_entry(f"a{number}") for number in range(5)]
        await registry.record(entries[:2])
        await registry.record([])
        await registry.record(entries[2:])
        assert await registry.audit() == entries[::-1]
        assert await registry.audit(limit=2) == [entries[4], entries[3]]
        assert await registry.audit(limit=2, before="a3") == [entries[2], entries[1]]
        assert await registry.audit(before="a0") == []

    # ---- allowances

    async def test_what_is_spent_adds_up_from_now_on(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        begin = clock.now()
        assert await registry.spend({"a": 2.5, "b": 0}) == {
            "a": begin + timedelta(seconds=2.5),
            "b": begin,
        }
        assert await registry.spend({"a": 2.5}) == {"a": begin + timedelta(seconds=5)}
        clock.advance(60)
        assert await registry.spend({"a": 2.5}) == {"a": clock.now() + timedelta(seconds=2.5)}

    async def test_all_spend_from_one_allowance(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        begin = clock.now()
        await asyncio.gather(*(registry.spend({"a": 1}) for _ in range(20)))
        assert await registry.spend({"a": 0}) == {"a": begin + timedelta(seconds=20)}

    # ---- notes

    async def test_a_note_is_replaced_by_the_next_of_its_name(self, registry: Registry) -> None:
        assert await registry.note("times") is None
        await registry.put_note("times", b"\x00one")
        await registry.put_note("other", b"")
        assert await registry.note("times") == b"\x00one"
        await registry.put_note("times", b"two")
        assert await registry.note("times") == b"two"
        assert await registry.note("other") == b""

    async def test_notes_are_found_by_how_their_names_begin_and_can_be_dropped(
        self, registry: Registry
    ) -> None:
        for name in ("told:b", "told:a", "tol", "told", "other:told:", "told_:x", "TOLD:c"):
            await registry.put_note(name, name.encode())
        found = await registry.notes("told:")
        assert list(found.items()) == [("told:a", b"told:a"), ("told:b", b"told:b")]
        await registry.drop_notes(["told:a", "nobody's"])
        assert list(await registry.notes("told:")) == ["told:b"]
        assert await registry.notes("%") == {}
        assert await registry.note("told") == b"told"
        await registry.drop_notes([])

    async def test_a_note_is_swapped_only_for_the_one_that_was_read(
        self, registry: Registry
    ) -> None:
        assert not await registry.swap_note("signing", b"one", b"two")
        assert await registry.note("signing") is None
        assert await registry.swap_note("signing", None, b"one")
        assert not await registry.swap_note("signing", None, b"two")
        assert not await registry.swap_note("signing", b"", b"two")
        assert await registry.note("signing") == b"one"
        assert await registry.swap_note("signing", b"one", b"two")
        assert await registry.note("signing") == b"two"

    async def test_of_all_who_swap_the_same_note_at_the_same_time_one_does(
        self, registry: Registry
    ) -> None:
        values = [b"%d" % number for number in range(20)]
        for before in (None, b"start"):
            if before is not None:
                await registry.put_note("signing", before)
            done = await asyncio.gather(
                *(registry.swap_note("signing", before, value) for value in values)
            )
            assert done.count(True) == 1
            assert await registry.note("signing") == values[done.index(True)]

    # ---- secrets

    async def test_a_secret_is_made_once_and_stays(self, registry: Registry) -> None:
        secret = await registry.secret("urls")
        assert len(secret) == 32
        assert await registry.secret("urls") == secret

    async def test_secrets_of_other_names_are_others(self, registry: Registry) -> None:
        assert await registry.secret("urls") != await registry.secret("webhooks")

    async def test_whoever_asks_first_at_the_same_time_gets_the_same_secret(
        self, registry: Registry
    ) -> None:
        secrets = await asyncio.gather(*(registry.secret("urls") for _ in range(20)))
        assert len(set(secrets)) == 1

    # ---- duties

    async def test_a_duty_is_had_by_one_process_at_a_time(self, registry: Registry) -> None:
        assert await registry.take_duty("sweep", "one", lease_s=10)
        assert not await registry.take_duty("sweep", "two", lease_s=10)
        assert await registry.take_duty("other", "two", lease_s=10)

    async def test_of_all_who_ask_at_the_same_time_one_has_the_duty(
        self, registry: Registry
    ) -> None:
        names = [f"process-{number}" for number in range(20)]
        answers = await asyncio.gather(
            *(registry.take_duty("sweep", name, lease_s=10) for name in names)
        )
        assert answers.count(True) == 1

    async def test_who_has_a_duty_keeps_it_by_asking_again(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        for _ in range(3):
            assert await registry.take_duty("sweep", "one", lease_s=10)
            clock.advance(9)
            assert not await registry.take_duty("sweep", "two", lease_s=10)

    async def test_a_duty_of_a_process_that_does_not_ask_again_is_free(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        await registry.take_duty("sweep", "one", lease_s=10)
        clock.advance(10)
        assert await registry.take_duty("sweep", "two", lease_s=10)
        assert not await registry.take_duty("sweep", "one", lease_s=10)

    async def test_a_clock_set_back_frees_the_duty_of_a_process_that_is_gone(
        self, registry: Registry, clock: ManualClock
    ) -> None:
        await registry.take_duty("sweep", "one", lease_s=10)
        # As clocks may differ.
        clock.set_back(5)
        assert not await registry.take_duty("sweep", "two", lease_s=10)
        clock.set_back(3600)
        assert await registry.take_duty("sweep", "two", lease_s=10)
        assert not await registry.take_duty("sweep", "one", lease_s=10)

    async def test_a_duty_that_was_left_is_free_at_once(self, registry: Registry) -> None:
        await registry.take_duty("sweep", "one", lease_s=10)
        await registry.leave_duty("sweep", "one")
        await registry.leave_duty("sweep", "one")
        assert await registry.take_duty("sweep", "two", lease_s=10)

    async def test_nobody_leaves_the_duty_of_another(self, registry: Registry) -> None:
        await registry.take_duty("sweep", "one", lease_s=10)
        await registry.leave_duty("sweep", "two")
        await registry.leave_duty("unknown", "two")
        assert not await registry.take_duty("sweep", "two", lease_s=10)


def _an_entry(entry_id: str) -> AuditEntry:
    return AuditEntry(
        id=entry_id,
        at=NOW,
        key_id="key-1",
        key_name="ops",
        address="192.0.2.1",
        action="keys.create",
        target="key-2",
        status=201,
        detail="shop",
        request_id="req_1",
    )


def _card(name: str, version: str, **fields: Any) -> ModelCard:
    return ModelCard(name=name, version=version, **fields)


async def _versions(registry: Registry) -> list[tuple[str, str]]:
    return [(card.name, card.version) for card in await registry.models()]
