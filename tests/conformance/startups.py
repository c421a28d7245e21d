"""What every registry must do with startups and the ledger. Subclass and give `registry`."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from swell.core.billing.ledger import EntryKind, LedgerEntry
from swell.core.errors import InvalidInput
from swell.core.records import KeptStartup
from swell.core.startup_phases import (
    STARTUPS_KEPT,
    STARTUPS_TTL,
    Phase,
    Span,
    Startup,
    StartupKind,
    StartupState,
)
from swell.db.registry import Registry

#: Microseconds, so that an adapter which rounds them is found out.
NOW = datetime(2030, 1, 1, 12, 30, 0, 123_457, tzinfo=UTC)


def a_startup(startup_id: str = "start-1", **fields: Any) -> Startup:
    """Return a cold start that is under way."""
    values: dict[str, Any] = {
        "id": startup_id,
        "models": ["demo/upper"],
        "age_s": 2.5,
        "begun_at": NOW,
        "seen_at": NOW + timedelta(seconds=2.5),
    }
    return Startup(**(values | fields))


def an_entry(entry_id: str = "entry-1", **fields: Any) -> LedgerEntry:
    """Return an entry of the ledger."""
    values: dict[str, Any] = {
        "id": entry_id,
        "at": NOW,
        "kind": EntryKind.COLD_START,
        "pool": "default",
        "seconds": 2.5,
    }
    return LedgerEntry(**(values | fields))


class StartupsConformance:
    """The guarantees of `swell.core.records` about startups and the ledger."""

    async def test_a_startup_is_read_back_whole(self, registry: Registry) -> None:
        startup = a_startup(
            kind=StartupKind.SWITCH,
            state=StartupState.DONE,
            pool="spot\nodd",
            models=["demo/b", "demo/a"],
            device="cuda:0",
            host="machine",
            pid=7,
            worker_id="w",
            spans=[
                Span(phase=Phase.LOAD, model="demo/a", start_s=0.25, end_s=1.0, source="disk"),
                Span(phase=Phase.WARM, model="demo/a", start_s=1.0),
            ],
            ready_s=2.0,
            whole_s=2.25,
        )
        assert await registry.put_startup(startup) == KeptStartup(None)
        assert await registry.startups() == [startup]

    async def test_a_startup_that_comes_further_is_replaced_and_returned(
        self, registry: Registry
    ) -> None:
        first = a_startup()
        await registry.put_startup(first)
        ready = msgspec.structs.replace(first, state=StartupState.READY, ready_s=2.0)
        assert await registry.put_startup(ready) == KeptStartup(first)
        assert await registry.put_startup(ready) == KeptStartup(ready)
        assert await registry.startups() == [ready]

    async def test_a_late_report_changes_nothing(self, registry: Registry) -> None:
        done = a_startup(state=StartupState.DONE)
        await registry.put_startup(done)
        for state in (StartupState.STARTING, StartupState.DIED, StartupState.READY):
            assert await registry.put_startup(a_startup(state=state)) == KeptStartup(done)
        assert await registry.startups() == [done]

    async def test_a_startup_thought_dead_may_become_ready(self, registry: Registry) -> None:
        died = a_startup(state=StartupState.DIED)
        await registry.put_startup(died)
        assert await registry.put_startup(a_startup()) == KeptStartup(died)
        assert await registry.startups() == [died]
        ready = a_startup(state=StartupState.READY)
        assert await registry.put_startup(ready) == KeptStartup(died)
        assert await registry.startups() == [ready]

    async def test_startups_are_listed_oldest_first_and_those_under_way_alone(
        self, registry: Registry
    ) -> None:
        for place, state in enumerate(StartupState):
            begun_at = NOW - timedelta(seconds=place)
            await registry.put_startup(a_startup(f"s{place}", state=state, begun_at=begun_at))
        await registry.put_startup(a_startup("s9", begun_at=NOW))
        assert [each.id for each in await registry.startups()] == ["s3", "s2", "s1", "s0", "s9"]
        under_way = await registry.startups(under_way=True)
        assert [each.id for each in under_way] == ["s0", "s9"]

    async def test_only_the_newest_of_each_family_are_kept(self, registry: Registry) -> None:
        for n in range(STARTUPS_KEPT + 3):
            begun_at = NOW + timedelta(seconds=n)
            ended = a_startup(f"a{n:04}", state=StartupState.READY, begun_at=begun_at)
            await registry.put_startup(ended)
        for other in (
            a_startup("other pool", pool="spot"),
            a_startup("other models", models=["demo/upper", "demo/a"]),
            a_startup("other kind", kind=StartupKind.SWITCH),
        ):
            await registry.put_startup(other)
        ids = {each.id for each in await registry.startups()}
        assert len(ids) == STARTUPS_KEPT + 3
        assert "a0002" not in ids
        assert {"a0003", "other pool", "other models", "other kind"} <= ids

    async def test_old_startups_are_forgotten(self, registry: Registry) -> None:
        oldest, died = NOW - STARTUPS_TTL, StartupState.DIED
        await registry.put_startup(a_startup("old", pool="spot", begun_at=oldest, state=died))
        await registry.put_startup(a_startup("goes on", pool="spot", begun_at=oldest))
        moment = timedelta(microseconds=1)
        await registry.put_startup(a_startup("kept", begun_at=oldest + moment, state=died))
        await registry.put_startup(a_startup("new"))
        assert [each.id for each in await registry.startups()] == ["goes on", "kept", "new"]

    async def test_startups_under_way_are_never_forgotten(self, registry: Registry) -> None:
        ids = [f"s{n:04}" for n in range(STARTUPS_KEPT + 3)]
        for n, each in enumerate(ids):
            await registry.put_startup(a_startup(each, begun_at=NOW + timedelta(seconds=n)))
        assert [each.id for each in await registry.startups(under_way=True)] == ids
        for n, each in enumerate(ids):
            begun_at = NOW + timedelta(seconds=n)
            await registry.put_startup(a_startup(each, begun_at=begun_at, state=StartupState.READY))
        assert [each.id for each in await registry.startups()] == ids[3:]

    async def test_many_models_with_long_names_make_a_family(self, registry: Registry) -> None:
        shuffled = random.Random(1)
        models = ["own/" + "".join(shuffled.choices("abcdefgh", k=196)) for _ in range(64)]
        startup = a_startup(models=models, pool="p" * 200)
        await registry.put_startup(startup)
        assert await registry.startups() == [startup]

    async def test_the_cold_starts_of_workers_are_found_by_them(self, registry: Registry) -> None:
        first = a_startup("s1", worker_id="w1", state=StartupState.READY)
        second = a_startup("s2", worker_id="w2", begun_at=NOW - timedelta(seconds=1))
        switch = a_startup("s3", worker_id="w1", kind=StartupKind.SWITCH)
        for each in (first, second, switch, a_startup("s4")):
            await registry.put_startup(each)
        assert await registry.startups_of(["w1", "", "w2", "w3"]) == [second, first]
        again = msgspec.structs.replace(first, worker_id="w4")
        await registry.put_startup(again)
        assert await registry.startups_of(["w1"]) == []
        assert await registry.startups_of(["w4"]) == [again]

    async def test_a_startup_is_stored_and_charged_together(self, registry: Registry) -> None:
        died = a_startup(state=StartupState.DIED)
        kept = await registry.put_startup(died, lambda before: an_entry(ref=repr(before)))
        assert kept == KeptStartup(None, an_entry(ref="None"))
        kept = await registry.put_startup(died, lambda _: an_entry(seconds=9.0))
        assert kept == KeptStartup(died)
        ready = a_startup(state=StartupState.READY)
        seen: list[Startup | None] = []
        kept = await registry.put_startup(ready, lambda before: seen.append(before))
        assert (kept, seen) == (KeptStartup(died), [died])
        late = await registry.put_startup(a_startup(), lambda _: an_entry("entry-2"))
        assert late == KeptStartup(ready)
        assert (await registry.ledger()).entries == [an_entry(ref="None")]

    async def test_what_cannot_be_charged_is_not_kept(self, registry: Registry) -> None:
        def broken(before: Startup | None) -> LedgerEntry | None:
            raise InvalidInput("it cannot be charged")

        with pytest.raises(InvalidInput):
            await registry.put_startup(a_startup(), broken)
        assert await registry.startups() == []
        kept = await registry.put_startup(a_startup(), lambda _: an_entry())
        assert kept == KeptStartup(None, an_entry())

    async def test_concurrent_reports_of_an_end_are_charged_once(self, registry: Registry) -> None:
        ready = a_startup(state=StartupState.READY)
        kept = await asyncio.gather(
            *(registry.put_startup(ready, lambda _: an_entry()) for _ in range(10))
        )
        assert sum(each.charged is not None for each in kept) == 1
        assert (await registry.ledger()).entries == [an_entry()]

    async def test_one_of_concurrent_reports_of_a_startup_is_the_first(
        self, registry: Registry
    ) -> None:
        states = [StartupState.STARTING, StartupState.READY] * 5
        kept = await asyncio.gather(
            *(registry.put_startup(a_startup(state=state)) for state in states)
        )
        assert sum(each.before is None for each in kept) == 1
        assert [each.state for each in await registry.startups()] == [StartupState.READY]

    async def test_an_entry_of_the_ledger_is_read_back_whole(self, registry: Registry) -> None:
        entry = an_entry(
            pool="spot",
            models="demo/a,demo/b",
            worker_id="w",
            ref="s",
            outcome="died",
            seconds=-0.1,
            micros=10**12,
        )
        await registry.charge([entry, an_entry("entry-2")])
        page = await registry.ledger()
        assert page.entries == [an_entry("entry-2"), entry]
        assert page.cursor is None

    async def test_the_same_is_charged_once(self, registry: Registry) -> None:
        await registry.charge([an_entry(), an_entry(seconds=9.0)])
        await registry.charge([an_entry(seconds=9.0), an_entry("entry-2")])
        assert (await registry.ledger()).entries == [an_entry("entry-2"), an_entry()]

    async def test_the_ledger_comes_in_pages_newest_first(self, registry: Registry) -> None:
        await registry.charge([])
        entries = [an_entry(f"entry-{n}") for n in range(5)]
        for each in entries:
            await registry.charge([each])
        found: list[LedgerEntry] = []
        cursor = None
        for _ in range(4):
            page = await registry.ledger(limit=2, before=cursor)
            found += page.entries
            cursor = page.cursor
            if cursor is None:
                break
        assert cursor is None
        assert found == entries[::-1]
